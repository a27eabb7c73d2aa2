//! Images for an index: where they are, how they are labelled, what a model makes of them.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use refit::data::{Sample, cache, list_images};
use refit::learn::Features;
use refit::learn::retrieval::{Entry, Index, Source};
use refit::{LearnError, Model};

use crate::commands::predict::name_skipped;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::ModelArg;
use crate::progress::Progress;

/// The model of an index that is there.
#[derive(Debug, Clone, Args)]
pub struct SameModel {
    /// The model that made the index, if it is elsewhere now [default: where it was]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,

    /// Weights for a network given by name: .safetensors or PyTorch's .pth
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
}

impl SameModel {
    /// Opens it; refuses one that would make other vectors.
    pub fn open(&self, index: &Index, machine: &Machine) -> Result<Model, Failure> {
        let made_with = index.source();
        let name = self.model.as_ref().unwrap_or(&made_with.model);
        let arg = ModelArg { name: name.clone(), weights: self.weights.clone() };
        let model = arg.open(&machine.device())?;
        let layer = Some(made_with.layer.as_str());
        match Source::of(&model, name, layer, made_with.precision) {
            Ok(source) => made_with.check(index.path(), &source)?,
            // A model without that layer is another one.
            Err(LearnError::Graph(_)) => {
                let other =
                    Source { model: name.clone(), fingerprint: String::new(), ..made_with.clone() };
                made_with.check(index.path(), &other)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(model)
    }
}

/// An image, and the name of the class folder that it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    pub path: PathBuf,
    pub label: Option<String>,
}

/// The images below paths. One in `cat/` of a folder that is given is labelled so, and one in
/// `train/cat/` too.
pub fn labelled(paths: &[PathBuf]) -> Result<Vec<Labelled>, Failure> {
    let mut images = Vec::new();
    for path in paths {
        for image in list_images(std::slice::from_ref(path))? {
            let label = label(path, &image);
            images.push(Labelled { path: image, label });
        }
    }
    Ok(images)
}

/// The folders between a folder and an image below it.
pub fn folders(root: &Path, image: &Path) -> Vec<String> {
    let below = image.strip_prefix(root).unwrap_or(Path::new(""));
    let folders = below.parent().into_iter().flat_map(Path::components);
    let name = |part: Component| part.as_os_str().to_string_lossy().into_owned();
    folders.map(name).collect()
}

/// `train`, `val` or `test`, if a folder is named so.
pub fn part(folder: &str) -> Option<&'static str> {
    match folder.to_lowercase().as_str() {
        "train" | "training" => Some("train"),
        "val" | "valid" | "validation" => Some("val"),
        "test" | "testing" => Some("test"),
        _ => None,
    }
}

fn label(root: &Path, image: &Path) -> Option<String> {
    folders(root, image).into_iter().find(|folder| part(folder).is_none())
}

/// What a model makes of images; names those that cannot be read.
pub fn features(
    source: &Source,
    model: &Model,
    paths: &[PathBuf],
    machine: &Machine,
    strict: bool,
    progress: &Progress,
) -> Result<Features, Failure> {
    let samples: Vec<Sample> =
        paths.iter().map(|path| Sample { path: path.clone(), label: 0 }).collect();
    let cache = cache::default_dir().map(|folder| folder.join("features"));
    let run = machine.run_options(strict, source.precision);
    let features = source.features(model, &samples, &run, cache, progress)?;
    name_skipped(&features.skipped, samples.len(), progress)?;
    Ok(features)
}

/// The readable ones of `images`.
pub fn entries(images: &[Labelled], features: &Features) -> Vec<Entry> {
    let readable = features.readable.iter().zip(&features.hashes);
    let entry = |(&i, &content): (&usize, _)| {
        let Labelled { path, label } = images[i].clone();
        Entry { path, content, label }
    };
    readable.map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_class_folders() {
        let root = Path::new("photos");
        for (image, expected) in [
            ("photos/cat/1.jpg", Some("cat")),
            ("photos/train/cat/1.jpg", Some("cat")),
            ("photos/Validation/cat/more/1.jpg", Some("cat")),
            ("photos/1.jpg", None),
            ("photos/test/1.jpg", None),
            ("photos", None),
        ] {
            assert_eq!(label(root, Path::new(image)).as_deref(), expected, "{image}");
        }
    }
}
