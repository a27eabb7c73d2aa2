//! Where a run starts: its images and its network.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use burn::tensor::Device;
use refit_data::{Dataset, Preprocess, SourceOptions};
use refit_net::zoo::{self, Architecture};
use refit_net::{Classes, Edit, HeadWeights, Network, Weights};

use super::taught::without_classes;
use crate::error::LearnError;
use crate::model::{Card, Model, Provenance, classes_of, preprocess_for};
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch};
use crate::weights::{self, Weighted};

/// The images of a run. With folds, validation images are to learn from as well.
pub(super) fn list(settings: &Settings) -> Result<Dataset, LearnError> {
    let options = SourceOptions {
        val: settings.val.clone(),
        val_fraction: settings.val_fraction,
        seed: settings.seed,
        one_class: false,
    };
    let mut dataset = match Dataset::open(&settings.data, &options) {
        Err(error) if settings.distillation.is_some() && settings.folds.is_none() => {
            without_classes(&error, &settings.data).ok_or(error)?
        }
        dataset => dataset?,
    };
    if settings.folds.is_some() {
        dataset.train.append(&mut dataset.val);
    }
    Ok(dataset)
}

/// Whether the images to learn from lie in no class folders.
pub(super) fn has_no_classes(settings: &Settings) -> bool {
    list(settings).is_ok_and(|dataset| dataset.classes.is_empty())
}

pub(super) fn open_dataset(settings: &Settings, watch: &dyn Watch) -> Result<Dataset, LearnError> {
    let dataset = list(settings)?;
    dataset.notes.iter().for_each(|note| watch.event(Event::Note(note.clone())));
    let (train, val, test) = (dataset.train.len(), dataset.val.len(), dataset.test.len());
    let classes = dataset.classes.len();
    let tests = if test > 0 { format!(", {test} test") } else { String::new() };
    let parts = match (settings.folds, settings.repeats) {
        (None, _) => format!("{train} training, {val} validation{tests} images"),
        (Some(folds), 1) => format!("{train} images in {folds} folds{tests}"),
        (Some(folds), times) => format!("{train} images, {times} times in {folds} folds{tests}"),
    };
    watch.event(Event::Note(match classes {
        0 => format!("{train} images without labels"),
        _ => format!("{classes} classes; {parts}"),
    }));
    note_gifs(&dataset, watch);
    Ok(dataset)
}

/// A GIF may be an animation, or a placeholder among photographs: it is used, and said so.
fn note_gifs(dataset: &Dataset, watch: &dyn Watch) {
    let is_gif = |path: &Path| {
        let mut magic = [0; 4];
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        read.is_ok() && &magic == b"GIF8"
    };
    let gifs: Vec<String> = dataset
        .samples()
        .filter(|s| is_gif(&s.path))
        .map(|s| s.path.display().to_string())
        .collect();
    if let Some(first) = gifs.first() {
        let others = match gifs.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let text = format!("{first}{others}: a GIF is used like any image, by its first frame");
        watch.event(Event::Note(text));
    }
}

/// The network that a run starts from.
pub(super) struct Start {
    pub network: Network,
    pub preprocess: Preprocess,
    pub weights: Provenance,
    /// What its outputs stood for before any edits; none where they were features.
    pub classes: Vec<String>,
    /// Whether its head was trained to tell these.
    pub knows_classes: bool,
    /// Layers that edits made, or start anew.
    pub fresh: Vec<String>,
}

impl Start {
    /// What edits froze, of the layers that a network still has.
    pub fn freezes(&self, network: &Network) -> Vec<Edit> {
        let nodes = self.network.graph().nodes().iter().enumerate();
        let frozen = nodes.filter(|(id, _)| self.network.is_frozen(*id)).map(|(_, n)| &n.name);
        let stays = |name: &&String| {
            network
                .graph()
                .nodes()
                .iter()
                .enumerate()
                .any(|(id, n)| n.name == **name && !network.graph().is_head(id))
        };
        frozen.filter(stays).map(|name| Edit::Freeze { layers: name.clone() }).collect()
    }
}

/// The network that a run starts from, edited.
pub(super) fn starting_point(
    settings: &Settings,
    device: &Device,
    watch: &dyn Watch,
) -> Result<Start, LearnError> {
    let start = match weights::saved_model(settings, device)? {
        Some(model) => from_model(model)?,
        None => unedited(zoo::find(&settings.backbone)?, settings, device, watch)?,
    };
    let changes = start.network.changes(&settings.edits)?;
    let fresh =
        changes.into_iter().filter(|c| matches!(c.weights, Weights::Fresh | Weights::Rows(_)));
    let fresh = fresh.filter_map(|c| Some(c.after?.name)).collect();
    let network = start.network.edit(&settings.edits, settings.seed)?;
    Ok(Start { network, fresh, ..start })
}

/// A model as it was saved, nothing of it frozen.
fn from_model(model: Model) -> Result<Start, LearnError> {
    let Model { network, card } = model;
    let network = network.edit(&[Edit::Unfreeze { layers: "*".into() }], 0)?;
    let Card { preprocess, weights, classes, .. } = card;
    let knows_classes = !classes.is_empty();
    Ok(Start { network, preprocess, weights, classes, knows_classes, fresh: vec![] })
}

fn unedited(
    architecture: &Architecture,
    settings: &Settings,
    device: &Device,
    watch: &dyn Watch,
) -> Result<Start, LearnError> {
    let Weighted { network, weights, knows_classes, notes } =
        match (&settings.weights, settings.strategy) {
            (_, Strategy::Scratch) => scratch(architecture, settings.seed, device),
            (None, _) => weights::published(architecture, device)?,
            (Some(path), strategy) => {
                let (classes, head) = match strategy {
                    Strategy::AsIs => (Classes::AsPublished, HeadWeights::Required),
                    _ if settings.keep_classes => (Classes::AsStored, HeadWeights::Required),
                    _ => (Classes::AsPublished, HeadWeights::Optional),
                };
                weights::from_file(architecture, path, classes, head, settings.seed, device)?
            }
        };
    let (network, adapted) = weights::for_rgb(network)?;
    notes.into_iter().chain(adapted).for_each(|note| watch.event(Event::Note(note)));
    let preprocess = preprocess_for(&architecture.input);
    let classes = classes_of(architecture, &network);
    Ok(Start { network, preprocess, weights, classes, knows_classes, fresh: vec![] })
}

fn scratch(architecture: &Architecture, seed: u64, device: &Device) -> Weighted {
    let source = format!("none: He initialization, seed {seed}");
    let weights = Provenance { source, ..Provenance::default() };
    let network = architecture.random(seed, device);
    Weighted { network, weights, knows_classes: false, notes: Vec::new() }
}
