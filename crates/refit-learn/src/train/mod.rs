//! A whole run: from settings and a folder of images to a model, its numbers and its folder.

mod activations;
mod advise;
mod as_is;
mod auto;
mod batch;
mod body;
mod compare;
mod contest;
mod distilled;
pub(crate) mod folder;
mod folds;
mod head;
pub(crate) mod images;
mod judge;
mod keep;
mod leaks;
mod mirror;
mod peak;
mod shallow;
mod sheet;
mod start;
mod taught;
mod trust;
mod tune;

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use refit_data::{Dataset, Preprocess, Sample, Skipped, Strictness, cache};
use refit_net::{Edit, Network, Precision};
use serde::{Deserialize, Serialize};

pub use advise::{advise, advise_among};
pub use auto::{Choice, Trial, auto};
pub use compare::{Comparison, Contestant, LeftOut, compare, mcnemar};
pub use distilled::{ALONE, Distilled, Party, distill};
pub use folder::{Record, read_settings};
pub use folds::{FoldReport, FoldsReport};
pub use leaks::Leaks;
pub use sheet::{Preview, preview};
pub use trust::{Calibration, FittedOn, UnknownReport};
pub use tune::{
    ALL as ALL_LAYERS, Attempt, Importance, Parameter, Rung, Search, Setup, TuneOptions, Tuned,
    Values, read_search, search, tune,
};

use crate::error::LearnError;
use crate::fit::Epoch;
use crate::memory;
use crate::metrics::Metrics;
use crate::model::{Card, DataSummary, Model, Provenance, RunOptions};
use crate::predictions::{Judgement, to_csv};
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch};
use folder::{PREDICTIONS, RunFolder};
use folds::{OutOfFold, cross_validate};
use images::{Images, SplitFeatures};
use start::{Start, open_dataset, starting_point};
use taught::Teaching;
use trust::{Tested, Trust};

/// How a run is carried out; nothing here changes its result, but for a batch that is left to the run.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// Where its files go; nowhere if none.
    pub folder: Option<PathBuf>,
    /// Whether the folder's run is continued.
    pub resume: bool,
    /// Threads that decode images.
    pub workers: usize,
    /// Where features and activations are kept between runs; in memory only if none.
    pub cache: Option<PathBuf>,
    /// Bytes that the kept activations of frozen layers may take
    /// ([`fixed_views`](crate::TrainingSettings::fixed_views)); what does not fit is computed again
    /// in every epoch.
    pub activation_budget: u64,
    /// Bytes of memory that there are, as far as that is known: a batch that is left to the run
    /// ([`find_batch`](crate::TrainingSettings::find_batch)) takes up half of them at most.
    pub memory: Option<u64>,
}

impl Default for RunContext {
    /// No folder, all processors, the user's cache.
    fn default() -> Self {
        Self {
            folder: None,
            resume: false,
            workers: RunOptions::default().workers,
            cache: cache::default_dir(),
            activation_budget: 4 << 30,
            memory: memory::of_machine(),
        }
    }
}

impl RunContext {
    /// Where features are kept.
    pub(crate) fn features_folder(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(|cache| cache.join("features"))
    }
}

/// Where the time went, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Seconds {
    /// All of it, earlier sessions of a resumed run included.
    pub total: f64,
    /// Decoding images and running them through the frozen network.
    pub features: f64,
    /// Fitting the head or training.
    pub training: f64,
    /// Judging the result.
    pub evaluation: f64,
}

/// What a run found: the content of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How the network was used.
    pub strategy: Strategy,
    /// Which network.
    pub backbone: String,
    /// What frozen layers computed with.
    pub precision: Precision,
    /// Class names in the model's order.
    pub classes: Vec<String>,
    /// On the validation images; where they gave the temperature, each half at the other half's.
    pub val: Option<Metrics>,
    /// On the test images, where there are any, at the model's temperature.
    pub test: Option<Metrics>,
    /// What cross-validation found, where `folds` were asked for; there is no `val` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<FoldsReport>,
    /// Where the model's temperature comes from.
    #[serde(default)]
    pub calibration: Calibration,
    /// How the model tells images of another kind, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<UnknownReport>,
    /// Readable images, all splits together.
    pub images: usize,
    /// Unreadable ones.
    pub skipped: Vec<Skipped>,
    /// Validation and test images that are training images too.
    #[serde(default)]
    pub leaks: Leaks,
    /// Where the time went.
    pub seconds: Seconds,
    /// Parameters that were trained, and all.
    pub parameters: [usize; 2],
    /// The penalty that cross-validation chose for a linear head.
    pub strength: Option<f64>,
    /// The epoch whose weights were kept, from 1; 0 for those that training began with. Where the mean of
    /// several was kept, the best of these.
    pub best_epoch: Option<usize>,
    /// The epochs of which the mean was kept, the best first; empty where the weights are those of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub averaged_epochs: Vec<usize>,
}

/// A finished run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The model.
    pub model: Model,
    /// What it can do, and what it cost.
    pub report: Report,
    /// The epochs, where there were any.
    pub history: Vec<Epoch>,
    /// What the model makes of each validation and test image, and before them, what the models of
    /// `folds` made of each image that they did not learn from. Validation images that gave the
    /// temperature are seen, each half, at the other half's, as in the report.
    pub predictions: Vec<Judgement>,
    /// The same of test images before any temperature.
    pub(crate) tested: Tested,
}

/// Carries out a run.
///
/// # Errors
/// See [`LearnError`]; what was written before stays.
pub fn train(
    settings: &Settings,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Outcome, LearnError> {
    settings.validate()?;
    train_on(open_dataset(settings, watch)?, settings, context, watch, &Beginning::now())
}

/// What went before a run.
struct Beginning<'a> {
    /// When it all began.
    started: Instant,
    /// Why it does what it does, to be written into its folder.
    advice: Option<String>,
    /// Whether its model is only to be compared.
    is_trial: bool,
    /// Its part in a cross-validation.
    place: Place<'a>,
}

impl Beginning<'_> {
    /// Nothing.
    fn now() -> Self {
        Self { started: Instant::now(), advice: None, is_trial: false, place: Place::Alone }
    }
}

/// A run's part in a cross-validation.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// None.
    Alone,
    /// It holds a fold out: as its test images.
    Fold,
    /// It learns from all images, and what it is worth the folds have told.
    Last(&'a OutOfFold),
}

impl<'a> Place<'a> {
    fn folds(self) -> Option<&'a OutOfFold> {
        match self {
            Self::Last(folds) => Some(folds),
            Self::Alone | Self::Fold => None,
        }
    }

    /// The epoch after which training ends, where the folds have told.
    fn last_epoch(self) -> Option<usize> {
        self.folds().and_then(|folds| folds.report.epochs)
    }
}

/// Carries out a run on images that are listed already.
fn train_on(
    mut dataset: Dataset,
    settings: &Settings,
    context: &RunContext,
    watch: &dyn Watch,
    beginning: &Beginning,
) -> Result<Outcome, LearnError> {
    settings.validate()?;
    let Beginning { started, advice, is_trial, place } = beginning;
    if settings.folds.is_some() && !is_trial && matches!(place, Place::Alone) {
        return cross_validate(dataset, settings, context, watch, beginning);
    }
    let settings = &settings.settled();
    let device = Device::flex();
    let folder = RunFolder::open(context)?;
    let teaching = settings.distillation.as_ref();
    let teaching = teaching
        .map(|asked| Teaching::begin(asked, &mut dataset, settings, context, watch))
        .transpose()?;
    let teaching = teaching.as_ref();
    let start = starting_point(settings, &device, watch)?;
    check_body(settings, &start)?;
    let (started, advice, is_trial, place) = (*started, advice.as_deref(), *is_trial, *place);
    let run = Run {
        settings,
        context,
        watch,
        dataset,
        folder,
        started,
        advice,
        is_trial,
        place,
        teaching,
    };
    let outcome = match settings.strategy {
        Strategy::AsIs => run.as_is(start),
        _ => run.learn(start),
    }?;
    run.finish(&outcome)?;
    Ok(outcome)
}

/// Refuses to train a body through which no gradient goes.
fn check_body(settings: &Settings, start: &Start) -> Result<(), LearnError> {
    let graph = start.network.graph();
    match graph.opaque_body() {
        Some(layer) if settings.strategy.trains_body() => Err(LearnError::NothingToTrain {
            strategy: settings.strategy,
            net: graph.name().to_owned(),
            layer: layer.to_owned(),
        }),
        _ => Ok(()),
    }
}

struct Run<'a> {
    settings: &'a Settings,
    context: &'a RunContext,
    watch: &'a dyn Watch,
    dataset: Dataset,
    folder: RunFolder,
    started: Instant,
    /// The content of `advice.json`, if there is to be one.
    advice: Option<&'a str>,
    /// Whether its model is only to be compared.
    is_trial: bool,
    place: Place<'a>,
    /// Whom it learns from, if from anyone.
    teaching: Option<&'a Teaching>,
}

/// What a strategy ends with.
struct Learned {
    network: Network,
    history: Vec<Epoch>,
    best_epoch: Option<usize>,
    averaged: Vec<usize>,
    strength: Option<f64>,
    /// The learning rate, where it was looked for.
    learning_rate: Option<f64>,
    /// Seconds that earlier sessions of a resumed run took.
    seconds_before: f64,
}

impl Learned {
    /// A network as it is, without epochs.
    fn at_once(network: Network) -> Self {
        Self {
            network,
            history: vec![],
            best_epoch: None,
            averaged: vec![],
            strength: None,
            learning_rate: None,
            seconds_before: 0.0,
        }
    }
}

/// How a run's images go through a network.
fn run_options(settings: &Settings, context: &RunContext) -> RunOptions {
    RunOptions {
        batch: 32,
        workers: context.workers,
        strictness: if settings.strict { Strictness::Strict } else { Strictness::Skip },
        precision: settings.precision,
        views: 1,
    }
}

impl<'a> Run<'a> {
    /// A run without a folder that only looks at images.
    fn to_measure(
        settings: &'a Settings,
        context: &'a RunContext,
        watch: &'a dyn Watch,
        dataset: Dataset,
    ) -> Self {
        let (folder, started) = (RunFolder(None), Instant::now());
        Self {
            settings,
            context,
            watch,
            dataset,
            folder,
            started,
            advice: None,
            is_trial: true,
            place: Place::Alone,
            teaching: None,
        }
    }

    fn run_options(&self) -> RunOptions {
        run_options(self.settings, self.context)
    }

    fn samples(&self) -> Vec<Sample> {
        self.dataset.samples().cloned().collect()
    }

    /// Every strategy that trains something: with the changes of images that leave classes alone.
    fn learn(&self, start: Start) -> Result<Outcome, LearnError> {
        let (images, features) = self.readable(&start)?;
        let settings = self.settle_changes(&start, &images)?;
        let settings = &self.settle_batch(settings, &start, &images)?;
        let run = Run {
            settings,
            dataset: self.dataset.clone(),
            folder: RunFolder(self.folder.0.clone()),
            ..*self
        };
        let features = match features {
            Some(features) => Some(run.features_to_learn_from(features, &start)?),
            None => None,
        };
        run.learn_from(start, images, features)
    }

    /// The images that can be read, and the features that something will learn from.
    fn readable(&self, start: &Start) -> Result<(Images, Option<SplitFeatures>), LearnError> {
        let takes_features = self.settings.strategy.runs_frozen() || self.settings.floor;
        match takes_features {
            true => {
                let features = self.features(start)?;
                Ok((self.images_with(&features)?, Some(features)))
            }
            false => Ok((self.checked_images()?, None)),
        }
    }

    fn write_advice(&self) -> Result<(), LearnError> {
        match self.advice {
            Some(advice) => self.folder.write("advice.json", advice.as_bytes()),
            None => Ok(()),
        }
    }

    /// Learns from features, or from images where there are none.
    fn learn_from(
        &self,
        start: Start,
        images: Images,
        features: Option<SplitFeatures>,
    ) -> Result<Outcome, LearnError> {
        let strategy = self.settings.strategy;
        let mut seconds = Seconds::default();
        self.warn_of_random_features(&start);
        let network = self.with_new_head(&start)?;
        if let Some(features) = &features {
            seconds.features = features.learned.seconds + features.judged.seconds;
        }
        self.folder.begin(self.settings, &images, self.context.resume)?;
        self.write_advice()?;
        let training_began = Instant::now();
        let learned = match (strategy, &features) {
            (Strategy::Features, Some(features)) => self.head(network, features, &images, true)?,
            (_, Some(features)) => {
                let learned = self.head(network, features, &images, false)?;
                self.body(learned, &start, &images)?
            }
            (_, None) => self.body(Learned::at_once(network), &start, &images)?,
        };
        seconds.training = training_began.elapsed().as_secs_f64();
        let evaluation_began = Instant::now();
        let trained: usize = learned.network.trainable().map(|(_, p)| p.len()).sum();
        let parameters = [trained, learned.network.parameter_count()];
        let trust = match (strategy, &features) {
            (Strategy::Features, Some(features)) => self.trust_in_head(&learned, features, &images),
            _ => self.trust_in_body(&learned.network, &start.preprocess, &images)?,
        };
        trust.notes(self.watch);
        seconds.evaluation = evaluation_began.elapsed().as_secs_f64();
        let before = learned.seconds_before + self.place.folds().map_or(0.0, |f| f.seconds);
        seconds.total = before + self.started.elapsed().as_secs_f64();
        let settings = self.settings.with_rate(learned.learning_rate);
        let card = self.card(&settings, start.preprocess, start.weights, &images, &trust);
        let report = Report {
            strategy,
            backbone: self.settings.backbone.clone(),
            precision: self.settings.precision,
            classes: self.dataset.classes.clone(),
            val: trust.val,
            test: trust.test,
            folds: self.place.folds().map(|folds| folds.report.clone()),
            calibration: trust.calibration,
            unknown: trust.report,
            images: images.count(),
            skipped: self.place.folds().map_or(images.skipped, |folds| folds.skipped.clone()),
            leaks: images.leaks,
            seconds,
            parameters,
            strength: learned.strength,
            best_epoch: learned.best_epoch,
            averaged_epochs: learned.averaged,
        };
        let model = Model { network: learned.network, card };
        let (predictions, tested) = (trust.predictions, trust.tested);
        Ok(Outcome { model, report, history: learned.history, predictions, tested })
    }

    /// The network with a head for the images' classes.
    fn with_new_head(&self, start: &Start) -> Result<Network, LearnError> {
        let (classes, kind) = (self.dataset.classes.len(), self.settings.head);
        let head = Edit::ReplaceHead { classes, kind, keep: self.kept_classes(start)? };
        Ok(start.network.edit(&[head], self.settings.seed)?)
    }

    /// A body that nobody trains should not have random layers.
    fn warn_of_random_features(&self, start: &Start) {
        let graph = start.network.graph();
        let is_body = |name: &&String| graph.find(name).is_ok_and(|id| !graph.is_head(id));
        let fresh: Vec<&String> = start.fresh.iter().filter(is_body).collect();
        if let (Strategy::Features, Some(first)) = (self.settings.strategy, fresh.first()) {
            let others = match fresh.len() {
                1 => String::new(),
                n => format!(" and {} more layers", n - 1),
            };
            self.watch.event(Event::Warning(format!(
                "`{first}`{others} start anew, and --strategy features does not train them; \
                 use partial or fine-tune"
            )));
        }
    }

    fn card(
        &self,
        settings: &Settings,
        preprocess: Preprocess,
        weights: Provenance,
        images: &Images,
        trust: &Trust,
    ) -> Card {
        let mut train = vec![0; self.dataset.classes.len()];
        images.train.iter().for_each(|s| {
            if let Some(n) = train.get_mut(s.label) {
                *n += 1
            }
        });
        Card {
            refit: env!("CARGO_PKG_VERSION").into(),
            preprocess,
            classes: self.dataset.classes.clone(),
            settings: Some(settings.without_folders()),
            data: Some(DataSummary {
                fingerprint: images.fingerprint.clone(),
                train,
                val: images.val.len(),
                test: images.test.len(),
            }),
            metrics: match self.place.folds() {
                Some(folds) => Some(folds.report.metrics.clone()),
                None => trust.val.clone(),
            },
            temperature: trust.calibration.temperature as f32,
            unknown: trust.unknown.clone(),
            autoencoder: None,
            weights,
        }
    }

    fn finish(&self, outcome: &Outcome) -> Result<(), LearnError> {
        let Some(folder) = &self.folder.0 else { return Ok(()) };
        self.folder.write_log(&outcome.history)?;
        outcome.model.save(&folder.join("model.safetensors"))?;
        let lines = to_csv(&outcome.predictions, &outcome.report.classes);
        self.folder.write(PREDICTIONS, &lines)?;
        let json = serde_json::to_string_pretty(&outcome.report).expect("numbers serialize");
        self.folder.write("metrics.json", format!("{json}\n").as_bytes())
    }
}

/// The images' classes.
fn labels(samples: &[Sample]) -> Vec<usize> {
    samples.iter().map(|s| s.label).collect()
}
