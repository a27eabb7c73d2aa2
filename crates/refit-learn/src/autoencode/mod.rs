//! Autoencoders: what images without labels teach. A network's body encodes, a decoder makes the image
//! again of the code, and both learn to come close (Hinton and Salakhutdinov 2006,
//! <https://doi.org/10.1126/science.1127647>).

mod anomaly;
mod corrupt;
mod feed;
mod folder;
mod objective;
mod pictures;
mod settings;
mod ssim;

use std::time::Instant;

use burn::tensor::Device;
use refit_data::check::Fingerprint;
use refit_data::{Preprocess, Resize, Sample, Skipped, Strictness, list_images, stratified_split};
use refit_net::{Classes, HeadWeights, Network, Precision, zoo};
use serde::{Deserialize, Serialize};

pub use anomaly::{Anomaly, Autoencoder};
pub use corrupt::Corruption;
pub use folder::{AutoencodeRecord, is_autoencoder, read_autoencode_settings};
pub use objective::{Objective, ReconstructionLoss};
pub use pictures::{Picture, sheet};
pub use settings::AutoencodeSettings;
pub use ssim::Ssim;

use crate::error::LearnError;
use crate::fit::{Epoch, FitOptions, fit};
use crate::model::{Card, DataSummary, Model, Provenance, RunOptions, preprocess_for};
use crate::settings::ClassBalance;
use crate::train::RunContext;
use crate::train::folder::{RunFolder, in_toml};
use crate::train::images::{check, warn_of_skipped};
use crate::watch::{Event, Watch, stage};
use crate::weights::{self, Weighted};
use feed::PictureFeed;
use objective::Closeness;

/// Values of a code where nothing else is said.
const BOTTLENECK: usize = 64;
/// Pictures held out that are shown, before and after.
const SHOWN: usize = 10;

/// How close a network comes to some images.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Reconstruction {
    /// The mean of what training lowers.
    pub loss: f64,
    /// The mean squared difference of pixels from 0 to 1.
    pub mse: f64,
    /// The mean peak signal-to-noise ratio, in decibels; 100 for an image that is the same.
    pub psnr: f64,
    /// The mean structural similarity ([`Ssim`]).
    pub ssim: f64,
}

impl Reconstruction {
    fn of(close: &Closeness) -> Self {
        let mean = |values: &[f32], of: &dyn Fn(f64) -> f64| {
            values.iter().map(|v| of(f64::from(*v))).sum::<f64>() / values.len().max(1) as f64
        };
        let plain = |v: f64| v;
        Self {
            loss: mean(&close.loss, &plain),
            mse: mean(&close.mse, &plain),
            psnr: mean(&close.mse, &|mse| -10.0 * libm::log10(mse.max(1e-10))),
            ssim: mean(&close.ssim, &plain),
        }
    }
}

/// What training an autoencoder found: the content of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoencodeReport {
    /// The architecture whose body encodes.
    pub encoder: String,
    /// Height and width of the images.
    pub size: usize,
    /// Values of the code.
    pub bottleneck: usize,
    /// Images to learn from.
    pub train: usize,
    /// Images held out.
    pub held_out: usize,
    /// Unreadable ones.
    pub skipped: Vec<Skipped>,
    /// Parameters that were trained.
    pub parameters: usize,
    /// How close the network came to the images held out before it learned anything.
    pub before: Reconstruction,
    /// How close it comes.
    pub after: Reconstruction,
    /// The same where it sees them spoiled as in training; none where nothing is spoiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoiled: Option<Reconstruction>,
    /// The epoch whose weights were kept, from 1; 0 where there was none.
    pub best_epoch: usize,
    /// The error above which an image is an anomaly: 1 in 20 like those of training exceeds it. None
    /// where too few were held out to tell.
    pub threshold: Option<f32>,
    /// Seconds, earlier sessions of a resumed run included.
    pub seconds: f64,
}

/// A trained autoencoder.
#[derive(Debug, Clone)]
pub struct Autoencoded {
    /// The model: its output is the code.
    pub model: Model,
    /// How it does.
    pub report: AutoencodeReport,
    /// The epochs.
    pub history: Vec<Epoch>,
    /// Some images held out, and what it makes of them.
    pub pictures: Vec<Picture>,
}

/// The share of images like those of training that may be called anomalies, unless told otherwise.
pub const ANOMALOUS: f64 = 0.05;

/// Trains an autoencoder on a folder of images, whose labels, if there are any, are not used.
///
/// # Errors
/// See [`LearnError`]; what was written before stays.
pub fn autoencode(
    settings: &AutoencodeSettings,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Autoencoded, LearnError> {
    settings.validate()?;
    let started = Instant::now();
    let folder = RunFolder::open(context)?;
    let start = Start::of(settings, &Device::flex())?;
    let images = Images::open(settings, context, watch)?;
    let told = (settings.images.as_path(), images.fingerprint.as_str());
    folder.begin_with(&in_toml(settings), told, context.resume)?;
    let run = Run { settings, context, watch, folder, images: &images, started };
    let outcome = run.learn(start)?;
    folder::finish(&run.folder, &outcome)?;
    Ok(outcome)
}

/// The images of a run.
struct Images {
    train: Vec<Sample>,
    held_out: Vec<Sample>,
    skipped: Vec<Skipped>,
    fingerprint: String,
}

impl Images {
    fn open(
        settings: &AutoencodeSettings,
        context: &RunContext,
        watch: &dyn Watch,
    ) -> Result<Self, LearnError> {
        let paths = list_images(std::slice::from_ref(&settings.images))?;
        let samples: Vec<Sample> =
            paths.into_iter().map(|path| Sample { path, label: 0 }).collect();
        let checked = check(&samples, context.workers, strictness(settings), watch)?;
        warn_of_skipped(&checked.skipped, watch);
        let mut fingerprint = Fingerprint::new();
        let hashes = checked.readable.iter().filter_map(|&i| checked.hashes[i]);
        hashes.for_each(|hash| fingerprint.add("train", "", &hash));
        let readable: Vec<Sample> = checked.readable.iter().map(|&i| samples[i].clone()).collect();
        let (train, held_out) = stratified_split(&readable, settings.held_out, settings.seed);
        if held_out.is_empty() {
            let (path, images) = (settings.images.clone(), readable.len());
            return Err(LearnError::TooFewImages { path, images });
        }
        let (n, m) = (train.len(), held_out.len());
        watch.event(Event::Note(format!("{n} images to learn from, {m} held out")));
        let fingerprint = blake3::Hash::from_bytes(fingerprint.finish()).to_hex().to_string();
        Ok(Self { train, held_out, skipped: checked.skipped, fingerprint })
    }
}

const fn strictness(settings: &AutoencodeSettings) -> Strictness {
    if settings.strict { Strictness::Strict } else { Strictness::Skip }
}

/// The network that training begins with.
struct Start {
    network: Network,
    preprocess: Preprocess,
    weights: Provenance,
}

impl Start {
    fn of(settings: &AutoencodeSettings, device: &Device) -> Result<Self, LearnError> {
        let encoder = Self::encoder(settings, device)?;
        if encoder.network.graph().reconstruction().is_some() {
            return encoder.going_on(settings);
        }
        let Self { network, preprocess, weights } = encoder;
        let size = settings.size.unwrap_or(preprocess.size);
        let bottleneck = settings.bottleneck.unwrap_or(BOTTLENECK);
        let (network, _) = weights::for_rgb(network)?;
        let network = network.autoencoder(bottleneck, size, settings.seed)?;
        Ok(Self { network, preprocess: at_size(preprocess, size), weights })
    }

    fn encoder(settings: &AutoencodeSettings, device: &Device) -> Result<Self, LearnError> {
        if let Some(Model { network, card }) = match &settings.weights {
            Some(path) => weights::model_of(path, &settings.encoder, device)?,
            None => None,
        } {
            let network = network.edit(&[refit_net::Edit::Unfreeze { layers: "*".into() }], 0)?;
            return Ok(Self { network, preprocess: card.preprocess, weights: card.weights });
        }
        let architecture = zoo::find(&settings.encoder)?;
        let (preprocess, seed) = (preprocess_for(&architecture.input), settings.seed);
        let Weighted { network, weights, .. } = match &settings.weights {
            Some(path) => {
                let (classes, head) = (Classes::AsPublished, HeadWeights::Optional);
                weights::from_file(architecture, path, classes, head, seed, device)?
            }
            None if settings.pretrained => weights::published(architecture, device)?,
            None => {
                let Model { network, card } = Model::random(architecture, seed, device);
                return Ok(Self { network, preprocess, weights: card.weights });
            }
        };
        Ok(Self { network, preprocess, weights })
    }

    /// An autoencoder that learns more.
    fn going_on(self, settings: &AutoencodeSettings) -> Result<Self, LearnError> {
        let graph = self.network.graph();
        let code = graph.nodes()[graph.output()].shape.elements();
        let range = "left out where an autoencoder learns on, or what it was";
        for (name, asked, was) in [
            ("--bottleneck", settings.bottleneck, code),
            ("--size", settings.size, self.preprocess.size),
        ] {
            if let Some(value) = asked.filter(|asked| *asked != was) {
                return Err(LearnError::Setting { name, value: value.to_string(), range });
            }
        }
        Ok(self)
    }
}

/// The preprocessing for images of another size, with the same share of the image in the crop.
fn at_size(preprocess: Preprocess, size: usize) -> Preprocess {
    let resize = match preprocess.resize {
        Resize::ShorterSide { to } => {
            let to = (to * size).div_ceil(preprocess.size).max(size);
            Resize::ShorterSide { to }
        }
        other => other,
    };
    Preprocess { size, resize, ..preprocess }
}

struct Run<'a> {
    settings: &'a AutoencodeSettings,
    context: &'a RunContext,
    watch: &'a dyn Watch,
    folder: RunFolder,
    images: &'a Images,
    started: Instant,
}

impl Run<'_> {
    fn options(&self) -> RunOptions {
        RunOptions {
            workers: self.context.workers,
            strictness: strictness(self.settings),
            ..RunOptions::default()
        }
    }

    fn learn(&self, start: Start) -> Result<Autoencoded, LearnError> {
        let Start { network, preprocess, weights } = start;
        let Images { train, held_out, .. } = self.images;
        let objective = Objective::new(self.settings.loss, &preprocess, network.device());
        let parts = [train.as_slice(), held_out.as_slice()];
        let options = self.options();
        let feed =
            PictureFeed::new(self.settings, preprocess, parts, objective, options, self.watch);
        let before = feed.judge(&network, false)?;
        let training = self.settings.training();
        let checkpoints = self.folder.checkpoints();
        let fitted = fit(
            network,
            &feed,
            &FitOptions {
                training: &training,
                precision: Precision::F32,
                balance: ClassBalance::Images,
                class_weights: &[],
                logit_offsets: &[],
                seed: self.settings.seed,
                time_budget: self.settings.time_budget,
                floor: false,
                last_epoch: None,
                started: self.started,
                checkpoints: checkpoints.as_deref(),
                resume: self.context.resume,
                log: &|history| self.folder.write_log(history),
            },
            self.watch,
        )?;
        let spoils = !self.settings.corruption.is_nothing();
        let spoiled = spoils.then(|| feed.judge(&fitted.network, true)).transpose()?;
        let pictures = feed.pictures(&fitted.network, SHOWN)?;
        let model = Model { card: self.card(preprocess, weights), network: fitted.network };
        let (model, after) = self.judged(model, &feed.objective)?;
        let graph = model.network.graph();
        let threshold = model.card.autoencoder.as_ref().map(|a| a.threshold(ANOMALOUS));
        let report = AutoencodeReport {
            encoder: graph.name().to_owned(),
            size: preprocess.size,
            bottleneck: graph.nodes()[graph.output()].shape.elements(),
            train: train.len(),
            held_out: held_out.len(),
            skipped: self.images.skipped.clone(),
            parameters: model.network.parameter_count(),
            before,
            after,
            spoiled,
            best_epoch: fitted.best,
            threshold: threshold.filter(|threshold| threshold.is_finite()),
            seconds: fitted.seconds_before + self.started.elapsed().as_secs_f64(),
        };
        Ok(Autoencoded { model, report, history: fitted.history, pictures })
    }

    /// The model with the errors of images held out, read as `predict` reads any.
    fn judged(
        &self,
        mut model: Model,
        objective: &Objective,
    ) -> Result<(Model, Reconstruction), LearnError> {
        let (mut all, held_out) = (Closeness::default(), &self.images.held_out);
        stage(self.watch, "held out", held_out.len(), || {
            let each = &mut |_: usize, close: Closeness| all.extend(&close);
            model.closeness(held_out, objective, &self.options(), self.watch, each)
        })?;
        let after = Reconstruction::of(&all);
        let settings = self.settings.without_folders();
        model.card.autoencoder = Some(Autoencoder::new(settings, after, all.loss));
        Ok((model, after))
    }

    fn card(&self, preprocess: Preprocess, weights: Provenance) -> Card {
        Card {
            refit: env!("CARGO_PKG_VERSION").into(),
            preprocess,
            classes: Vec::new(),
            settings: None,
            data: Some(DataSummary {
                fingerprint: self.images.fingerprint.clone(),
                train: vec![self.images.train.len()],
                val: self.images.held_out.len(),
                test: 0,
            }),
            metrics: None,
            temperature: 1.0,
            unknown: None,
            autoencoder: None,
            weights,
        }
    }
}
