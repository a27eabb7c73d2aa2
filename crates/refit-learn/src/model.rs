//! A network together with all that prediction needs.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{
    DataError, DecodeOptions, Interpolation, Loader, LoaderOptions, Preprocess, Resize, Sample,
    Skipped, Strictness, decode_file_in,
};
use refit_net::zoo::{self, Architecture, InputSpec};
use refit_net::{Classes, Compiled, HeadWeights, Network, Precision, model_file};
use serde::{Deserialize, Serialize};

use crate::error::LearnError;
use crate::metrics::{Metrics, softmax};
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch};
use crate::weights::{self, Weighted};

/// Where the weights that a model started from come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Provenance {
    /// The source, or the name of the file.
    pub source: String,
    /// The licence, as far as it is known.
    pub licence: Option<String>,
    /// What they were trained on, as far as it is known.
    pub trained_on: Option<String>,
    /// The SHA-256 of the file, in hexadecimal, where it was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What the model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataSummary {
    /// BLAKE3 over contents, classes and splits, in hexadecimal.
    pub fingerprint: String,
    /// Training images by class.
    pub train: Vec<usize>,
    /// Validation images.
    pub val: usize,
    /// Test images.
    pub test: usize,
}

/// What the model file says beside the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Card {
    /// The refit that wrote it.
    pub refit: String,
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// Class names in the order of the outputs; none where those are features.
    pub classes: Vec<String>,
    /// How it was made; none for a network as it came.
    pub settings: Option<Settings>,
    /// What it was trained on.
    pub data: Option<DataSummary>,
    /// How it did on the validation images.
    pub metrics: Option<Metrics>,
    /// Logits are divided by this before the softmax; 1 means not calibrated.
    pub temperature: f32,
    /// Where the starting weights come from.
    pub weights: Provenance,
}

/// A network together with all that prediction needs.
#[derive(Debug, Clone)]
pub struct Model {
    /// The network.
    pub network: Network,
    /// Everything else.
    pub card: Card,
}

/// What becomes of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its position in what was asked.
    pub index: usize,
    /// The values, such as probabilities by class.
    pub values: Vec<f32>,
}

/// How images run through a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Images at a time.
    pub batch: usize,
    /// Threads that decode.
    pub workers: usize,
    /// What an unreadable image does.
    pub strictness: Strictness,
    /// What the network computes with.
    pub precision: Precision,
}

impl Default for RunOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { batch: 32, workers, strictness: Strictness::Skip, precision: Precision::F32 }
    }
}

/// The preprocessing that goes with an architecture.
pub fn preprocess_for(input: &InputSpec) -> Preprocess {
    Preprocess {
        size: input.size,
        resize: Resize::ShorterSide { to: input.resize },
        interpolation: match input.interpolation {
            zoo::Interpolation::Bilinear => Interpolation::Bilinear,
            zoo::Interpolation::Bicubic => Interpolation::Bicubic,
        },
        mean: input.mean,
        std: input.std,
    }
}

impl Model {
    /// A model by file or by zoo name: `efficientnet_lite0` means the embedded weights.
    ///
    /// # Errors
    /// If the file is no model, or there is no such network, or it comes without weights.
    pub fn open(name: &str, device: &Device) -> Result<Self, LearnError> {
        if zoo::find(name).is_ok() && !Path::new(name).is_file() {
            return Self::pretrained(zoo::find(name)?, None, device);
        }
        if name.contains(['/', '.']) || Path::new(name).exists() {
            return Self::load(Path::new(name), device);
        }
        Err(zoo::find(name)
            .err()
            .map_or_else(|| unreachable!("known names were handled above"), LearnError::Zoo))
    }

    /// A zoo network with its own weights (embedded or pulled) or those of a file, whose head
    /// decides the classes.
    ///
    /// # Errors
    /// If the weights are not there or do not fit.
    pub fn pretrained(
        architecture: &Architecture,
        weights: Option<&Path>,
        device: &Device,
    ) -> Result<Self, LearnError> {
        let Weighted { network, weights, .. } = match weights {
            None => weights::published(architecture, device)?,
            Some(path) => {
                let (stored, required) = (Classes::AsStored, HeadWeights::Required);
                weights::from_file(architecture, path, stored, required, 0, device)?
            }
        };
        Ok(Self::from_zoo(architecture, network, weights))
    }

    /// The network whose weights a bare checkpoint holds, recognized by their names and shapes.
    ///
    /// # Errors
    /// If the file cannot be read, or fits no architecture of the zoo, or several.
    pub fn from_checkpoint(path: &Path, device: &Device) -> Result<Self, LearnError> {
        Self::pretrained(weights::architecture_of(path)?, Some(path), device)
    }

    /// The model for images in colour: its first convolution is adapted if it takes other channels.
    ///
    /// # Errors
    /// If what takes the images cannot be adapted.
    pub fn for_rgb(self) -> Result<Self, LearnError> {
        let (network, _) = weights::for_rgb(self.network)?;
        Ok(Self { network, ..self })
    }

    /// A zoo network with parameters that depend on `seed` alone.
    pub fn random(architecture: &Architecture, seed: u64, device: &Device) -> Self {
        let source = format!("random, seed {seed}");
        let weights = Provenance { source, ..Provenance::default() };
        Self::from_zoo(architecture, architecture.random(seed, device), weights)
    }

    fn from_zoo(architecture: &Architecture, network: Network, weights: Provenance) -> Self {
        let card = Card {
            refit: env!("CARGO_PKG_VERSION").into(),
            preprocess: preprocess_for(&architecture.input),
            classes: class_names(&network),
            settings: None,
            data: None,
            metrics: None,
            temperature: 1.0,
            weights,
        };
        Self { network, card }
    }

    /// Reads a model file.
    ///
    /// # Errors
    /// If it is not there or no model that refit wrote.
    pub fn load(path: &Path, device: &Device) -> Result<Self, LearnError> {
        let (network, card) = model_file::load(path, device)?;
        let damaged = |reason: String| {
            let path = path.display().to_string();
            LearnError::ModelFile(model_file::ModelFileError::Damaged { path, reason })
        };
        let card: Card = serde_json::from_value(card).map_err(|e| damaged(e.to_string()))?;
        card.preprocess.validate()?;
        if !(card.temperature > 0.0 && card.temperature.is_finite()) {
            return Err(damaged(format!("a temperature of {}", card.temperature)));
        }
        let (graph, size) = (network.graph(), card.preprocess.size);
        if graph.input_shape().channels() != 3 {
            return Err(damaged(format!("images of {}", graph.input_shape())));
        }
        graph.shapes_at(size, size)?;
        let outputs = network.graph().nodes()[network.graph().output()].shape.elements();
        if !card.classes.is_empty() && outputs != card.classes.len() {
            let classes = card.classes.len();
            return Err(damaged(format!("{outputs} outputs for {classes} classes")));
        }
        Ok(Self { network, card })
    }

    /// Writes a model file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), LearnError> {
        let card = serde_json::to_value(&self.card).expect("names and numbers serialize");
        Ok(model_file::save(path, &self.network, &card)?)
    }

    /// The strategy that made it.
    pub fn strategy(&self) -> Option<Strategy> {
        self.card.settings.as_ref().map(|s| s.strategy)
    }

    /// Class probabilities of one image file, in the order of [`Card::classes`]; computed in f32.
    ///
    /// # Errors
    /// If the image cannot be read, or the model knows no classes.
    pub fn predict_file(&self, path: &Path) -> Result<Vec<f32>, LearnError> {
        self.check_classes()?;
        let image = decode_file_in(path, &DecodeOptions::default(), self.card.preprocess.detail())?;
        let images = self.card.preprocess.apply(&image);
        let logits =
            run_batch(&self.network.compile_all(), images, 1, &self.card.preprocess, &self.network);
        Ok(self.probabilities(&logits))
    }

    /// Whether its outputs are classes.
    ///
    /// # Errors
    /// If they are features: a network that was cut, or a new head without names.
    pub fn check_classes(&self) -> Result<(), LearnError> {
        match self.card.classes.is_empty() {
            true => Err(LearnError::NoClasses { net: self.network.graph().name().to_owned() }),
            false => Ok(()),
        }
    }

    /// The number of a class by its name.
    ///
    /// # Errors
    /// If the model does not know it.
    pub fn class(&self, name: &str) -> Result<usize, LearnError> {
        let classes = &self.card.classes;
        classes.iter().position(|class| class == name).ok_or_else(|| LearnError::NoSuchClass {
            class: name.to_owned(),
            known: classes.clone(),
        })
    }

    /// Probabilities from logits, `[n, classes]`.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        let scaled: Vec<f32> = logits.iter().map(|z| z / self.card.temperature).collect();
        softmax(&scaled, self.card.classes.len())
    }

    /// Runs images up to `layers` (to the output if none), pooling feature maps, and hands out each
    /// one's values, layer by layer; gives the unreadable ones.
    ///
    /// # Errors
    /// If there is no such layer, this machine does not have the precision, or an image cannot be
    /// read under [`Strictness::Strict`].
    pub fn run(
        &self,
        samples: &[Sample],
        layers: &[&str],
        options: &RunOptions,
        watch: &dyn Watch,
        each: &mut dyn FnMut(Output),
    ) -> Result<Vec<Skipped>, LearnError> {
        let graph = self.network.graph();
        let output = [graph.nodes()[graph.output()].name.as_str()];
        let layers = if layers.is_empty() { &output } else { layers };
        options.precision.check()?;
        let compiled = self.network.compile_in(layers, options.precision)?;
        run_compiled(&compiled, &self.network, &self.card.preprocess, samples, options, watch, each)
    }
}

/// ImageNet's names where there are as many classes; their numbers elsewhere.
pub(crate) fn class_names(network: &Network) -> Vec<String> {
    let graph = network.graph();
    let outputs = graph.nodes()[graph.output()].shape.elements();
    let known: Vec<String> = zoo::imagenet_classes().map(|(_, name)| name.to_owned()).collect();
    if known.len() == outputs { known } else { (0..outputs).map(|i| i.to_string()).collect() }
}

/// Compiles the way from images to a layer, in a precision that this machine must have.
pub(crate) fn compile(
    network: &Network,
    layer: &str,
    precision: Precision,
) -> Result<Compiled, LearnError> {
    precision.check()?;
    Ok(network.compile_in(&[layer], precision)?)
}

/// Runs images through something compiled.
pub(crate) fn run_compiled(
    compiled: &Compiled,
    network: &Network,
    preprocess: &Preprocess,
    samples: &[Sample],
    options: &RunOptions,
    watch: &dyn Watch,
    each: &mut dyn FnMut(Output),
) -> Result<Vec<Skipped>, LearnError> {
    let loader_options = LoaderOptions {
        batch_size: options.batch,
        size: preprocess.size,
        workers: options.workers,
        ahead: 2,
        strictness: options.strictness,
    };
    let pipeline = *preprocess;
    let make = move |sample: &Sample, _: usize, out: &mut [f32]| -> Result<(), DataError> {
        let image = decode_file_in(&sample.path, &DecodeOptions::default(), pipeline.detail())?;
        pipeline.apply_into(&image, out);
        Ok(())
    };
    let mut loader =
        Loader::new(samples.to_vec(), (0..samples.len()).collect(), loader_options, make);
    for batch in loader.by_ref() {
        let batch = batch?;
        let values = run_batch(compiled, batch.images, batch.n, preprocess, network);
        let width = values.len() / batch.n;
        for (row, &index) in values.chunks_exact(width).zip(&batch.indices) {
            each(Output { index, values: row.to_vec() });
        }
        watch.event(Event::Advance { items: batch.n });
        if watch.stops() {
            return Err(LearnError::Stopped);
        }
    }
    Ok(loader.skipped().to_vec())
}

/// One batch `[n, 3, size, size]` through something compiled, its outputs pooled and one behind the
/// other: `[n, width]`.
fn run_batch(
    compiled: &Compiled,
    images: Vec<f32>,
    n: usize,
    preprocess: &Preprocess,
    network: &Network,
) -> Vec<f32> {
    let shape = [n, 3, preprocess.size, preprocess.size];
    let images = Tensor::<4>::from_data(TensorData::new(images, shape), network.device());
    let pooled = compiled.run(images).into_iter().map(|v| v.pooled().to_data());
    let outputs: Vec<Vec<f32>> = pooled.map(|v| v.iter::<f32>().collect()).collect();
    let rows = |i| outputs.iter().map(move |v| &v[i * (v.len() / n)..][..v.len() / n]);
    (0..n).flat_map(rows).flatten().copied().collect()
}
