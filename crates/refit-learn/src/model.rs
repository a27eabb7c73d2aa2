//! A network together with all that prediction needs.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{
    Batch, DataError, DecodeOptions, Interpolation, Loader, LoaderOptions, Preprocess, Resize,
    Sample, Skipped, Strictness, decode_file_in,
};
use refit_net::zoo::{self, Architecture, InputSpec};
use refit_net::{Classes, Compiled, HeadWeights, Network, Precision, model_file};
use serde::{Deserialize, Serialize};

use crate::autoencode::Autoencoder;
use crate::calibrate::scaled;
use crate::error::LearnError;
use crate::metrics::{Metrics, softmax};
use crate::settings::{Settings, Strategy};
use crate::unknown::{SHARE, Unknown};
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
    /// How it did on the validation images, or how models of the same kind did on the images of the folds
    /// that they did not learn from.
    pub metrics: Option<Metrics>,
    /// Logits are divided by this before the softmax; 1 means not calibrated.
    pub temperature: f32,
    /// Which images are of another kind than those it learned from; none where nothing tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// How it makes images again, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoencoder: Option<Autoencoder>,
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

/// What a model says of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Class probabilities in the order of [`Card::classes`], calibrated where the model is.
    pub probabilities: Vec<f32>,
    /// How far the image is from those the model learned from ([`crate::unknown::Distance::of`]: about 1
    /// for one like them); none where the model does not tell.
    pub score: Option<f32>,
    /// Whether that is farther than the threshold, so that the image probably belongs to no class.
    pub unknown: bool,
}

/// What becomes of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its position in what was asked.
    pub index: usize,
    /// The values, such as probabilities by class.
    pub values: Vec<f32>,
}

/// What a model makes of one image.
pub(crate) struct Seen {
    pub logits: Vec<f32>,
    pub score: Option<f32>,
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
    /// Views of each image whose class probabilities are averaged, where classes are asked for; 1 for
    /// the plain one alone.
    pub views: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            batch: 32,
            workers,
            strictness: Strictness::Skip,
            precision: Precision::F32,
            views: 1,
        }
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
            classes: classes_of(architecture, &network),
            settings: None,
            data: None,
            metrics: None,
            temperature: 1.0,
            unknown: None,
            autoencoder: None,
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
        let dim = graph.nodes()[graph.features()].shape.channels();
        if let Some(Err(reason)) = card.unknown.as_ref().map(|unknown| unknown.check(dim)) {
            return Err(damaged(format!("of what is unknown, {reason}")));
        }
        if let Some(Err(reason)) = card.autoencoder.as_ref().map(Autoencoder::check) {
            return Err(damaged(reason));
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

    /// The length in bytes of the file that [`Model::save`] would write.
    ///
    /// # Errors
    /// If there can be no such file: a layer has a reserved name.
    pub fn saved_bytes(&self) -> Result<u64, LearnError> {
        let card = serde_json::to_value(&self.card).expect("names and numbers serialize");
        Ok(model_file::length(&self.network, &card)?)
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
        Ok(self.predict(path)?.probabilities)
    }

    /// What the model says of one image file: calibrated class probabilities, and whether the image is of
    /// another kind than those it learned from, of which at most 1 in 20 would be called so; computed
    /// in f32. For many images use [`Model::predict_all`].
    ///
    /// # Errors
    /// If the image cannot be read, or the model knows no classes.
    pub fn predict(&self, path: &Path) -> Result<Prediction, LearnError> {
        self.check_classes()?;
        let image = decode_file_in(path, &DecodeOptions::default(), self.card.preprocess.detail())?;
        let images = self.card.preprocess.apply(&image);
        let compiled = self.network.compile_in(&self.seen_at(), Precision::F32)?;
        let values = run_batch(&compiled, images, 1, &self.card.preprocess, &self.network);
        Ok(self.prediction(&self.seen(values), self.threshold(SHARE)))
    }

    /// What the model says of each readable image; gives the unreadable ones. Of the images like those it
    /// learned from, at most `share` are called unknown; none at all where it is `None`.
    ///
    /// # Errors
    /// As [`Model::run`], and if the model knows no classes.
    pub fn predict_all(
        &self,
        samples: &[Sample],
        share: Option<f64>,
        options: &RunOptions,
        watch: &dyn Watch,
        each: &mut dyn FnMut(usize, Prediction),
    ) -> Result<Vec<Skipped>, LearnError> {
        let threshold = share.and_then(|share| self.threshold(share));
        self.see(samples, options, watch, &mut |index, seen| {
            each(index, self.prediction(&seen, threshold));
        })
    }

    /// The distance above which an image is unknown, if the model tells.
    pub(crate) fn threshold(&self, share: f64) -> Option<f32> {
        self.card.unknown.as_ref().map(|unknown| unknown.threshold(share))
    }

    /// Logits of each readable image, and its distance where the model tells.
    pub(crate) fn see(
        &self,
        samples: &[Sample],
        options: &RunOptions,
        watch: &dyn Watch,
        each: &mut dyn FnMut(usize, Seen),
    ) -> Result<Vec<Skipped>, LearnError> {
        self.check_classes()?;
        if options.views != 1 {
            return self.see_views(samples, options, watch, each);
        }
        self.run(samples, &self.seen_at(), options, watch, &mut |output| {
            each(output.index, self.seen(output.values));
        })
    }

    /// The layers whose values [`Seen`] is made of: the features, where they are asked for, and the output.
    pub(crate) fn seen_at(&self) -> Vec<&str> {
        let graph = self.network.graph();
        let name = |id: usize| graph.nodes()[id].name.as_str();
        let features = self.card.unknown.is_some().then(|| name(graph.features()));
        features.into_iter().chain([name(graph.output())]).collect()
    }

    pub(crate) fn seen(&self, mut values: Vec<f32>) -> Seen {
        let Some(unknown) = &self.card.unknown else { return Seen { logits: values, score: None } };
        let logits = values.split_off(unknown.distance.dim);
        Seen { logits, score: Some(unknown.distance.of(&values)) }
    }

    fn prediction(&self, seen: &Seen, threshold: Option<f32>) -> Prediction {
        let beyond = seen.score.zip(threshold).is_some_and(|(score, threshold)| score > threshold);
        let probabilities = self.probabilities(&seen.logits);
        Prediction { probabilities, score: seen.score, unknown: beyond }
    }

    /// Whether its outputs are classes.
    ///
    /// # Errors
    /// If they are features: a network that was cut, or a new head without names.
    pub fn check_classes(&self) -> Result<(), LearnError> {
        let (graph, classes) = (self.network.graph(), &self.card.classes);
        let net = graph.name().to_owned();
        match (classes.is_empty(), graph.reconstruction()) {
            (true, Some(_)) => Err(LearnError::CodeNotClasses { net }),
            (true, None) => Err(LearnError::NoClasses { net }),
            (false, _) => Ok(()),
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

    /// Calibrated probabilities from logits, `[n, classes]`.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        let scaled = scaled(logits, f64::from(self.card.temperature));
        softmax(&scaled, self.card.classes.len())
    }

    /// Runs images up to `layers` (to the output if none), pooling feature maps, and hands out each
    /// one's values, layer by layer; gives the unreadable ones. Of several views, where no layers are
    /// asked for, the values are logits of the mean probabilities.
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
        if layers.is_empty() && options.views != 1 {
            self.check_classes()?;
            return self.see_views(samples, options, watch, &mut |index, seen| {
                each(Output { index, values: seen.logits });
            });
        }
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

/// The names of what a zoo network's outputs stand for; none where they are features.
pub(crate) fn classes_of(architecture: &Architecture, network: &Network) -> Vec<String> {
    if architecture.has_parameters() { class_names(network) } else { Vec::new() }
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
    each_batch(preprocess, samples, options, watch, &mut |batch| {
        let values = run_batch(compiled, batch.images, batch.n, preprocess, network);
        let width = values.len() / batch.n;
        for (row, &index) in values.chunks_exact(width).zip(&batch.indices) {
            each(Output { index, values: row.to_vec() });
        }
    })
}

/// Reads images in their order and hands them out in batches; gives the unreadable ones.
pub(crate) fn each_batch(
    preprocess: &Preprocess,
    samples: &[Sample],
    options: &RunOptions,
    watch: &dyn Watch,
    each: &mut dyn FnMut(Batch),
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
        let items = batch.n;
        each(batch);
        watch.event(Event::Advance { items });
        if watch.stops() {
            return Err(LearnError::Stopped);
        }
    }
    Ok(loader.skipped().to_vec())
}

/// One batch `[n, 3, size, size]` through something compiled, its outputs pooled and one behind the
/// other: `[n, width]`.
pub(crate) fn run_batch(
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
