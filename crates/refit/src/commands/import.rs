//! `refit import`: a network that another program exported, as a model to train.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::data::{Interpolation, Preprocess, Resize};
use refit::learn::{Card, Provenance};
use refit::net::onnx::{ImportOptions, Imported, import};
use refit::net::{Shape, zoo};
use refit::{LearnError, Model};

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;

/// Make a model of a network that another program exported
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Reads image classifiers in ONNX, as PyTorch, TensorFlow and Keras export them (opset 7 to 24), \
and makes a model to train, run and evaluate. An operator that no layer expresses is named, and \
what would be needed.",
    after_help = "Examples:
  refit import classifier.onnx --out classifier.safetensors
  refit import net.onnx --classes names.txt --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --out m.safetensors
  refit train photos/ --weights m.safetensors

A file says little about the images it takes: without options they are resized and normalized as \
torchvision's networks expect, unless refit exported the file."
)]
pub struct Import {
    /// The .onnx file; weights beside it are read from the same folder
    #[arg(value_name = "FILE.onnx")]
    file: PathBuf,

    /// Model file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Class names, a line each, in the order of the outputs
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,

    /// Height and width of the images, for a file that leaves them open
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,

    /// The shorter side before the centre is cut out [default: 8/7 of the size]
    #[arg(long, value_name = "PIXELS")]
    resize: Option<usize>,

    /// Mean by channel, of values in 0 to 1 [default: ImageNet's]
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    mean: Option<[f32; 3]>,

    /// Deviation by channel, of values in 0 to 1 [default: ImageNet's]
    #[arg(long, value_name = "R,G,B", value_parser = three)]
    std: Option<[f32; 3]>,

    /// Resize by bicubic interpolation instead of bilinear
    #[arg(long)]
    bicubic: bool,
}

/// `0.5,0.5,0.5`.
fn three(text: &str) -> Result<[f32; 3], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    let numbers = numbers.ok().and_then(|n| <[f32; 3]>::try_from(n).ok());
    numbers.ok_or_else(|| "write three numbers, such as 0.485,0.456,0.406".into())
}

impl Import {
    /// Imports.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let options = ImportOptions { size: self.size };
        let imported = import(&self.file, &options, &machine.device())?;
        for note in &imported.notes {
            let _ = writeln!(io::stderr(), "note: {note}");
        }
        let card = self.card(&imported)?;
        let model = Model { network: imported.network, card };
        model.save(&self.out)?;
        let graph = model.network.graph();
        let _ = writeln!(
            io::stderr(),
            "{}: {} layers, {} parameters; the head is `{}`",
            self.out.display(),
            graph.nodes().len(),
            model.network.parameter_count(),
            graph.head(),
        );
        Ok(())
    }

    /// What prediction needs, from the options, the file, or else what is usual.
    fn card(&self, imported: &Imported) -> Result<Card, Failure> {
        let graph = imported.network.graph();
        let outputs = graph.nodes()[graph.output()].shape.elements();
        let input = graph.input_shape();
        let (Shape::Map { channels: 3, height, width }, true) = (input, is_square(input)) else {
            return Err(Failure::mistake(
                format!("{} takes images {input}", self.file.display()),
                "refit prepares square images of three channels",
            ));
        };
        let said = |key: &str| imported.metadata.get(key).map(String::as_str);
        let preprocess = said("preprocess").and_then(|json| serde_json::from_str(json).ok());
        let preprocess = self.preprocess(preprocess, height.min(width));
        preprocess.validate().map_err(LearnError::from)?;
        let classes: Option<Vec<String>> = match &self.classes {
            Some(file) => Some(lines(file)?),
            None => said("classes").and_then(|json| serde_json::from_str(json).ok()),
        };
        let classes =
            classes.unwrap_or_else(|| (0..outputs).map(|class| format!("class {class}")).collect());
        if classes.len() != outputs {
            return Err(Failure::mistake(
                format!("{} names for {outputs} classes", classes.len()),
                "give a file of as many lines as the network has outputs, with --classes FILE",
            ));
        }
        let temperature = said("temperature").and_then(|t| t.parse().ok());
        let weights = said("weights").and_then(|json| serde_json::from_str(json).ok());
        let name = self.file.file_name().unwrap_or(self.file.as_os_str()).to_string_lossy();
        Ok(Card {
            refit: env!("CARGO_PKG_VERSION").into(),
            preprocess,
            classes,
            settings: None,
            data: None,
            metrics: None,
            unknown: None,
            autoencoder: None,
            temperature: temperature.filter(|t: &f32| *t > 0.0 && t.is_finite()).unwrap_or(1.0),
            weights: weights.unwrap_or(Provenance { source: name.into(), ..Provenance::default() }),
        })
    }

    fn preprocess(&self, said: Option<Preprocess>, size: usize) -> Preprocess {
        if said.is_none() && (self.mean.is_none() || self.std.is_none()) {
            let _ = writeln!(
                io::stderr(),
                "note: normalized by ImageNet's mean and deviation; if the network was trained \
                 on others, give them with --mean and --std"
            );
        }
        let mut preprocess = said.unwrap_or(Preprocess {
            size,
            resize: Resize::ShorterSide { to: size * 8 / 7 },
            interpolation: Interpolation::Bilinear,
            mean: zoo::IMAGENET_MEAN,
            std: zoo::IMAGENET_STD,
        });
        preprocess.size = size;
        if let Some(to) = self.resize {
            preprocess.resize = Resize::ShorterSide { to };
        }
        if self.bicubic {
            preprocess.interpolation = Interpolation::Bicubic;
        }
        preprocess.mean = self.mean.unwrap_or(preprocess.mean);
        preprocess.std = self.std.unwrap_or(preprocess.std);
        preprocess
    }
}

fn is_square(shape: Shape) -> bool {
    matches!(shape, Shape::Map { height, width, .. } if height == width)
}

fn lines(file: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::mistake(
            format!("cannot read {}: {error}", file.display()),
            "give a text file with a class name a line",
        )
    })?;
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers() {
        assert_eq!(three("0.5, 0.25,1"), Ok([0.5, 0.25, 1.0]));
        for wrong in ["", "1,2", "1,2,3,4", "a,b,c"] {
            assert!(three(wrong).unwrap_err().contains("three numbers"), "{wrong}");
        }
    }
}
