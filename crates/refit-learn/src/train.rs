//! A whole run: from settings and a folder of images to a model, its numbers and its folder.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::check::{CheckOptions, Fingerprint, check_readable};
use refit_data::{
    Augment, ContentHash, DataError, Dataset, DecodeOptions, ImageCache, Loader, LoaderOptions, Preprocess,
    Sample, Skipped, SourceOptions, Stream, Strictness, cache,
};
use refit_net::state_dict::StateDict;
use refit_net::zoo::{self, Architecture};
use refit_net::{Edit, HeadKind, HeadWeights, Network, Training, Value};
use serde::{Deserialize, Serialize};

use crate::error::LearnError;
use crate::extract::{ExtractOptions, Features, extract};
use crate::fit::{Epoch, Feed, FitOptions, Step, fit};
use crate::logistic::{ClassWeights, Fit, LogisticOptions, LogisticRegression};
use crate::loss::balanced_weights;
use crate::metrics::Metrics;
use crate::model::{Card, DataSummary, Model, Provenance, RunOptions, preprocess_for, run_compiled};
use crate::settings::{ClassBalance, Settings, Strategy, TrainingSettings};
use crate::watch::{Event, Watch, stage};

/// How a run is carried out; nothing here changes its result.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// Where its files go; nowhere if none.
    pub folder: Option<PathBuf>,
    /// Whether the folder's run is continued.
    pub resume: bool,
    /// Threads that decode images.
    pub workers: usize,
    /// Where features are kept between runs; nowhere if none.
    pub cache: Option<PathBuf>,
}

impl Default for RunContext {
    /// No folder, all processors, the user's cache.
    fn default() -> Self {
        Self {
            folder: None,
            resume: false,
            workers: RunOptions::default().workers,
            cache: cache::default_dir().map(|dir| dir.join("features")),
        }
    }
}

/// Where the time went, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Seconds {
    /// All of it.
    pub total: f64,
    /// Decoding images and running them through the frozen network.
    pub features: f64,
    /// Fitting the head or training.
    pub training: f64,
    /// Judging the result.
    pub evaluation: f64,
}

/// What a run found: the content of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How the network was used.
    pub strategy: Strategy,
    /// Which network.
    pub backbone: String,
    /// Class names in the model's order.
    pub classes: Vec<String>,
    /// On the validation images.
    pub val: Option<Metrics>,
    /// On the test images, where there are any.
    pub test: Option<Metrics>,
    /// Readable images, all splits together.
    pub images: usize,
    /// Unreadable ones.
    pub skipped: Vec<Skipped>,
    /// Where the time went.
    pub seconds: Seconds,
    /// Parameters that were trained, and all.
    pub parameters: [usize; 2],
    /// The penalty that cross-validation chose for a linear head.
    pub strength: Option<f64>,
    /// The epoch whose weights were kept, from 1.
    pub best_epoch: Option<usize>,
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
    let started = Instant::now();
    let architecture = zoo::find(&settings.backbone)?;
    let device = Device::flex();
    let dataset = open_dataset(settings, watch)?;
    let start = starting_point(architecture, settings, dataset.classes.len(), &device)?;
    let folder = RunFolder::open(settings, context)?;
    let run = Run { settings, context, watch, dataset, folder, started };
    let outcome = match settings.strategy {
        Strategy::AsIs => run.as_is(start),
        _ => run.learn(start),
    }?;
    run.finish(&outcome)?;
    Ok(outcome)
}

fn open_dataset(settings: &Settings, watch: &dyn Watch) -> Result<Dataset, LearnError> {
    let options = SourceOptions {
        val: settings.val.clone(),
        val_fraction: settings.val_fraction,
        seed: settings.seed,
    };
    let dataset = Dataset::open(&settings.data, &options)?;
    dataset.notes.iter().for_each(|note| watch.event(Event::Note(note.clone())));
    let (train, val, test) = (dataset.train.len(), dataset.val.len(), dataset.test.len());
    let classes = dataset.classes.len();
    watch.event(Event::Note(format!(
        "{classes} classes; {train} training, {val} validation, {test} test images"
    )));
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
struct Start {
    network: Network,
    preprocess: Preprocess,
    weights: Provenance,
}

fn starting_point(
    architecture: &Architecture,
    settings: &Settings,
    classes: usize,
    device: &Device,
) -> Result<Start, LearnError> {
    let preprocess = preprocess_for(&architecture.input);
    let scratch = settings.strategy == Strategy::Scratch;
    if scratch {
        let head = Edit::ReplaceHead { classes, kind: settings.head };
        let network = architecture.random(settings.seed, device).edit(&[head], settings.seed)?;
        let source = format!("none: He initialization, seed {}", settings.seed);
        let weights = Provenance { source, ..Provenance::default() };
        return Ok(Start { network, preprocess, weights });
    }
    let Some(path) = &settings.weights else {
        let model = Model::pretrained(architecture, None, device)?;
        return Ok(Start { network: model.network, preprocess, weights: model.card.weights });
    };
    let head = match settings.strategy {
        Strategy::AsIs => HeadWeights::Required,
        _ => HeadWeights::Optional,
    };
    let mut network = architecture.random(settings.seed, device);
    network.load(&StateDict::read(path)?, head)?;
    let source = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Start { network, preprocess, weights: Provenance { source, ..Provenance::default() } })
}

/// The folder of a run and its files.
struct RunFolder(Option<PathBuf>);

impl RunFolder {
    fn open(settings: &Settings, context: &RunContext) -> Result<Self, LearnError> {
        let Some(path) = &context.folder else { return Ok(Self(None)) };
        let settings_file = path.join("settings.toml");
        if settings_file.exists() && !context.resume {
            return Err(LearnError::RunExists { path: path.clone() });
        }
        let checkpoints = path.join("checkpoints");
        fs::create_dir_all(&checkpoints)
            .map_err(|source| LearnError::Io { what: "make", path: checkpoints, source })?;
        if !context.resume {
            let text = toml::to_string_pretty(settings).expect("settings serialize");
            write(&settings_file, text.as_bytes())?;
        }
        Ok(Self(Some(path.clone())))
    }

    fn checkpoints(&self) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join("checkpoints"))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), LearnError> {
        match &self.0 {
            Some(folder) => write(&folder.join(name), content),
            None => Ok(()),
        }
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), LearnError> {
    refit_net::atomic_file::write(path, |file| file.write_all(content))
        .map_err(|e| LearnError::StateDict(e.into()))
}

/// The settings of a run that a folder holds.
///
/// # Errors
/// If there is no such file, or it is damaged.
pub fn read_settings(folder: &Path) -> Result<Settings, LearnError> {
    let path = folder.join("settings.toml");
    let no_run = |reason: String| LearnError::NoRun { path: folder.to_owned(), reason };
    let text = fs::read_to_string(&path).map_err(|e| no_run(format!("settings.toml: {e}")))?;
    toml::from_str(&text).map_err(|e| no_run(format!("settings.toml: {e}")))
}

/// The images of a run after the unreadable ones are left out.
struct Images {
    train: Vec<Sample>,
    val: Vec<Sample>,
    test: Vec<Sample>,
    skipped: Vec<Skipped>,
    fingerprint: String,
}

impl Images {
    fn count(&self) -> usize {
        self.train.len() + self.val.len() + self.test.len()
    }
}

struct Run<'a> {
    settings: &'a Settings,
    context: &'a RunContext,
    watch: &'a dyn Watch,
    dataset: Dataset,
    folder: RunFolder,
    started: Instant,
}

/// Features of the images to learn from, and of those to judge by: validation, then test.
struct SplitFeatures {
    learned: Features,
    judged: Features,
}

/// What a strategy ends with.
struct Learned {
    network: Network,
    history: Vec<Epoch>,
    best_epoch: Option<usize>,
    strength: Option<f64>,
}

impl Run<'_> {
    fn run_options(&self) -> RunOptions {
        RunOptions {
            batch: 32,
            workers: self.context.workers,
            strictness: if self.settings.strict { Strictness::Strict } else { Strictness::Skip },
        }
    }

    fn samples(&self) -> Vec<Sample> {
        self.dataset.samples().cloned().collect()
    }

    /// Every strategy that trains something.
    fn learn(&self, start: Start) -> Result<Outcome, LearnError> {
        let classes = self.dataset.classes.len();
        let strategy = self.settings.strategy;
        let transfers = !matches!(strategy, Strategy::Scratch | Strategy::PretrainedInit);
        let mut seconds = Seconds::default();
        let (images, features) = if transfers {
            let features = self.features(&start)?;
            seconds.features = features.learned.seconds + features.judged.seconds;
            (self.images_with(&features)?, Some(features))
        } else {
            (self.checked_images()?, None)
        };
        self.check_unchanged(&images)?;
        let training_began = Instant::now();
        let head = Edit::ReplaceHead { classes, kind: self.settings.head };
        let network = start.network.edit(&[head], self.settings.seed)?;
        let learned = match (strategy, &features) {
            (Strategy::Features, Some(features)) => self.head(network, features, &images, true)?,
            (_, Some(features)) => {
                let learned = self.head(network, features, &images, false)?;
                self.body(learned, &start.preprocess, &images)?
            }
            (_, None) => {
                let fresh =
                    Learned { network, history: vec![], best_epoch: None, strength: None };
                self.body(fresh, &start.preprocess, &images)?
            }
        };
        seconds.training = training_began.elapsed().as_secs_f64();
        let evaluation_began = Instant::now();
        let trained: usize = learned.network.trainable().map(|(_, p)| p.len()).sum();
        let parameters = [trained, learned.network.parameter_count()];
        let (val, test) = match (strategy, &features) {
            (Strategy::Features, Some(features)) => {
                self.judge_on_features(&learned.network, features, &images)
            }
            _ => (
                self.judge(&learned.network, &start.preprocess, &images.val, "validation")?,
                self.judge(&learned.network, &start.preprocess, &images.test, "test")?,
            ),
        };
        seconds.evaluation = evaluation_began.elapsed().as_secs_f64();
        seconds.total = self.started.elapsed().as_secs_f64();
        let card = self.card(start.preprocess, start.weights, &images, val.clone());
        let report = Report {
            strategy,
            backbone: self.settings.backbone.clone(),
            classes: self.dataset.classes.clone(),
            val,
            test,
            images: images.count(),
            skipped: images.skipped,
            seconds,
            parameters,
            strength: learned.strength,
            best_epoch: learned.best_epoch,
        };
        let model = Model { network: learned.network, card };
        Ok(Outcome { model, report, history: learned.history })
    }

    /// The pretrained network judged on classes that it knows.
    fn as_is(&self, start: Start) -> Result<Outcome, LearnError> {
        let known: Vec<(&str, &str)> = zoo::imagenet_classes().collect();
        let find = |class: &String| known.iter().position(|&(id, name)| same_class(class, id, name));
        let mapped: Vec<Option<usize>> = self.dataset.classes.iter().map(find).collect();
        let foreign: Vec<String> = self
            .dataset
            .classes
            .iter()
            .zip(&mapped)
            .filter(|(_, m)| m.is_none())
            .map(|(c, _)| c.clone())
            .collect();
        let labels: Option<Vec<usize>> = mapped.into_iter().collect();
        let Some(labels) = labels else {
            let backbone = self.settings.backbone.clone();
            return Err(LearnError::ForeignClasses { backbone, classes: foreign });
        };
        let mut images = self.checked_images()?;
        for sample in images.train.iter_mut().chain(&mut images.val).chain(&mut images.test) {
            sample.label = labels[sample.label];
        }
        let classes: Vec<String> = known.iter().map(|&(_, name)| name.to_owned()).collect();
        let began = Instant::now();
        let judge = |samples: &[Sample], what| {
            self.judge_as(&start.network, &start.preprocess, samples, what, &classes)
        };
        let (val, test) = (judge(&images.val, "validation")?, judge(&images.test, "test")?);
        let mut card = self.card(start.preprocess, start.weights, &images, val.clone());
        card.classes.clone_from(&classes);
        let report = Report {
            strategy: Strategy::AsIs,
            backbone: self.settings.backbone.clone(),
            classes,
            val,
            test,
            images: images.count(),
            skipped: images.skipped,
            seconds: Seconds {
                total: self.started.elapsed().as_secs_f64(),
                evaluation: began.elapsed().as_secs_f64(),
                ..Seconds::default()
            },
            parameters: [0, start.network.parameter_count()],
            strength: None,
            best_epoch: None,
        };
        let model = Model { network: start.network, card };
        Ok(Outcome { model, report, history: vec![] })
    }

    /// Features of all images; the training ones with their other views.
    fn features(&self, start: &Start) -> Result<SplitFeatures, LearnError> {
        let samples = self.samples();
        let (train, rest) = samples.split_at(self.dataset.train.len());
        let views =
            if self.settings.strategy == Strategy::Features { self.settings.views } else { 1 };
        let take = |samples: &[Sample], views: usize| {
            let options = ExtractOptions {
                run: self.run_options(),
                views,
                augment: Augment::standard(),
                seed: self.settings.seed,
                cache: self.context.cache.clone(),
            };
            extract(&start.network, &start.preprocess, samples, &options, self.watch)
        };
        let features = SplitFeatures { learned: take(train, views)?, judged: take(rest, 1)? };
        let SplitFeatures { learned, judged } = &features;
        self.watch.event(Event::Note(format!(
            "features of {} images in {:.1} s, {} rows computed and {} from the cache",
            learned.readable.len() + judged.readable.len(),
            learned.seconds + judged.seconds,
            learned.computed + judged.computed,
            learned.rows.len() / learned.dim + judged.rows.len() / judged.dim
                - learned.computed
                - judged.computed
        )));
        Ok(features)
    }

    fn images_with(&self, features: &SplitFeatures) -> Result<Images, LearnError> {
        let SplitFeatures { learned, judged } = features;
        let offset = self.dataset.train.len();
        let readable: Vec<usize> = learned
            .readable
            .iter()
            .copied()
            .chain(judged.readable.iter().map(|i| i + offset))
            .collect();
        let hashes: Vec<ContentHash> =
            learned.hashes.iter().chain(&judged.hashes).copied().collect();
        let skipped = learned.skipped.iter().chain(&judged.skipped).cloned().collect();
        self.images(&readable, &hashes, skipped)
    }

    fn checked_images(&self) -> Result<Images, LearnError> {
        let options = CheckOptions {
            workers: self.context.workers,
            strictness: self.run_options().strictness,
            decode: DecodeOptions::default(),
        };
        let samples = self.samples();
        let checked = stage(self.watch, "check", samples.len(), || {
            let advance = |_: usize, _: usize| self.watch.event(Event::Advance { items: 1 });
            check_readable(&samples, &options, &|_| false, Some(&advance))
        })?;
        let hashes: Vec<ContentHash> =
            checked.readable.iter().filter_map(|&i| checked.hashes[i]).collect();
        self.images(&checked.readable, &hashes, checked.skipped)
    }

    fn images(
        &self,
        readable: &[usize],
        hashes: &[ContentHash],
        skipped: Vec<Skipped>,
    ) -> Result<Images, LearnError> {
        for skip in &skipped {
            let text = format!("{} is left out: {}", skip.path.display(), skip.reason);
            self.watch.event(Event::Warning(text));
        }
        let samples = self.samples();
        let (trains, vals) = (self.dataset.train.len(), self.dataset.val.len());
        let mut images = Images {
            train: vec![],
            val: vec![],
            test: vec![],
            skipped,
            fingerprint: String::new(),
        };
        let mut fingerprint = Fingerprint::new();
        for (&index, hash) in readable.iter().zip(hashes) {
            let sample = samples[index].clone();
            let (part, split) = match index {
                i if i < trains => ("train", &mut images.train),
                i if i < trains + vals => ("val", &mut images.val),
                _ => ("test", &mut images.test),
            };
            fingerprint.add(part, &self.dataset.classes[sample.label], hash);
            split.push(sample);
        }
        images.fingerprint = blake3::Hash::from_bytes(fingerprint.finish()).to_hex().to_string();
        self.check_classes(&images)?;
        Ok(images)
    }

    /// Every class must have kept a readable training image.
    fn check_classes(&self, images: &Images) -> Result<(), LearnError> {
        let lost = (0..self.dataset.classes.len())
            .find(|&class| images.train.iter().all(|s| s.label != class));
        match lost {
            None => Ok(()),
            Some(class) => Err(LearnError::NoTrainingImages {
                class: self.dataset.classes[class].clone(),
                path: self.settings.data.clone(),
            }),
        }
    }

    /// A resumed run must see the images that it began with.
    fn check_unchanged(&self, images: &Images) -> Result<(), LearnError> {
        let Some(folder) = &self.folder.0 else { return Ok(()) };
        let path = folder.join("data.txt");
        let content = format!("{}\n", images.fingerprint);
        if self.context.resume
            && let Ok(before) = fs::read_to_string(&path)
            && before != content
        {
            return Err(LearnError::DataChanged { path: self.settings.data.clone() });
        }
        write(&path, content.as_bytes())
    }

    fn labels(samples: &[Sample]) -> Vec<usize> {
        samples.iter().map(|s| s.label).collect()
    }

    fn class_weights(&self, labels: &[usize]) -> Vec<f32> {
        let classes = self.dataset.classes.len();
        match self.settings.balance {
            ClassBalance::Images => vec![1.0; classes],
            ClassBalance::Classes => balanced_weights(labels, classes),
        }
    }

    /// Freezes the body and fits the head on features.
    fn head(
        &self,
        network: Network,
        features: &SplitFeatures,
        images: &Images,
        is_whole_run: bool,
    ) -> Result<Learned, LearnError> {
        let network = network.edit(&[Edit::FreezeBody], self.settings.seed)?;
        match self.settings.head {
            HeadKind::Linear => self.linear_head(network, features, images),
            HeadKind::Mlp { .. } => self.mlp_head(network, features, images, is_whole_run),
        }
    }

    /// Solves a linear head by logistic regression.
    fn linear_head(
        &self,
        mut network: Network,
        features: &SplitFeatures,
        images: &Images,
    ) -> Result<Learned, LearnError> {
        let classes = self.dataset.classes.len();
        let features = &features.learned;
        let (count, views) = (images.train.len(), features.views);
        let labels: Vec<usize> =
            images.train.iter().flat_map(|s| vec![s.label; views]).collect();
        let groups: Vec<usize> = (0..count).flat_map(|i| vec![i; views]).collect();
        let options = LogisticOptions {
            seed: self.settings.seed,
            groups: (views > 1).then_some(&groups),
            class_weights: match self.settings.balance {
                ClassBalance::Images => ClassWeights::None,
                ClassBalance::Classes => ClassWeights::Balanced,
            },
            ..LogisticOptions::default()
        };
        let Fit { model, strength, .. } = stage(self.watch, "head", 0, || {
            LogisticRegression::fit(&features.rows, &labels, classes, &options)
        })?;
        let head = network.graph().head().to_owned();
        let device = network.device().clone();
        let tensor = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len]), &device)
        };
        network.set(&format!("{head}.weight"), tensor(model.weights));
        network.set(&format!("{head}.bias"), tensor(model.bias));
        self.watch.event(Event::Note(format!("linear head solved, penalty {strength:.2e}")));
        Ok(Learned { network, history: vec![], best_epoch: None, strength: Some(strength) })
    }

    fn mlp_head(
        &self,
        network: Network,
        features: &SplitFeatures,
        images: &Images,
        is_whole_run: bool,
    ) -> Result<Learned, LearnError> {
        let training = match is_whole_run {
            true => self.settings.training.clone(),
            false => TrainingSettings::for_strategy(Strategy::Features),
        };
        let feed = FeatureFeed {
            features,
            labels: Self::labels(&images.train),
            val: 0..images.val.len(),
            val_labels: Self::labels(&images.val),
            classes: &self.dataset.classes,
            batch: training.batch,
            device: network.device().clone(),
        };
        // As a first stage it is quick, and done again when a run is resumed.
        let checkpoints = self.folder.checkpoints().filter(|_| is_whole_run);
        self.fit(network, &feed, &training, checkpoints.as_deref())
    }

    /// Trains the layers that the strategy does not freeze.
    fn body(
        &self,
        learned: Learned,
        preprocess: &Preprocess,
        images: &Images,
    ) -> Result<Learned, LearnError> {
        let edit = match (&self.settings.strategy, &self.settings.unfreeze_from) {
            (Strategy::Partial, Some(layer)) => Edit::UnfreezeFrom { layer: layer.clone() },
            _ => Edit::Unfreeze { layers: "*".into() },
        };
        let network = learned.network.edit(&[edit], self.settings.seed)?;
        // Twice the input's side leaves random crops their detail.
        let side = 2 * preprocess.size as u32;
        let cache = ImageCache::new(DecodeOptions::default(), Some(side), 1 << 30);
        let feed = ImageFeed {
            run: self,
            preprocess,
            images,
            labels: Self::labels(&images.train),
            cache: std::sync::Arc::new(cache),
        };
        let checkpoints = self.folder.checkpoints();
        let fitted =
            self.fit(network, &feed, &self.settings.training, checkpoints.as_deref())?;
        Ok(Learned { strength: learned.strength, ..fitted })
    }

    fn fit(
        &self,
        network: Network,
        feed: &dyn Feed,
        training: &TrainingSettings,
        checkpoints: Option<&Path>,
    ) -> Result<Learned, LearnError> {
        let options = FitOptions {
            training,
            class_weights: &self.class_weights(feed.labels()),
            seed: self.settings.seed,
            time_budget: self.settings.time_budget,
            started: self.started,
            checkpoints,
            log: &|history| self.write_log(history),
        };
        let fitted = fit(network, feed, &options, self.watch)?;
        let best_epoch = Some(fitted.best);
        Ok(Learned { network: fitted.network, history: fitted.history, best_epoch, strength: None })
    }

    fn write_log(&self, history: &[Epoch]) -> Result<(), LearnError> {
        let line = |e| serde_json::to_string(e).expect("numbers serialize") + "\n";
        let text: String = history.iter().map(line).collect();
        self.folder.write("log.jsonl", text.as_bytes())
    }

    /// Metrics of a network whose head takes features that are there.
    fn judge_on_features(
        &self,
        network: &Network,
        features: &SplitFeatures,
        images: &Images,
    ) -> (Option<Metrics>, Option<Metrics>) {
        let judge = |from: usize, samples: &[Sample]| {
            let rows = from..from + samples.len();
            let labels = Self::labels(samples);
            judge_rows(network, &features.judged, rows, &labels, &self.dataset.classes)
        };
        (judge(0, &images.val), judge(images.val.len(), &images.test))
    }

    fn judge(
        &self,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        what: &str,
    ) -> Result<Option<Metrics>, LearnError> {
        self.judge_as(network, preprocess, samples, what, &self.dataset.classes)
    }

    fn judge_as(
        &self,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        what: &str,
        classes: &[String],
    ) -> Result<Option<Metrics>, LearnError> {
        if samples.is_empty() {
            return Ok(None);
        }
        let compiled = network.compile_all();
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        stage(self.watch, what, samples.len(), || {
            run_compiled(
                &compiled,
                network,
                preprocess,
                samples,
                &self.run_options(),
                self.watch,
                &mut |output| {
                    logits.extend(output.values);
                    labels.push(samples[output.index].label);
                },
            )
        })?;
        Ok(Metrics::from_logits(&logits, &labels, classes))
    }

    fn card(
        &self,
        preprocess: Preprocess,
        weights: Provenance,
        images: &Images,
        metrics: Option<Metrics>,
    ) -> Card {
        let mut train = vec![0; self.dataset.classes.len()];
        images.train.iter().for_each(|s| if let Some(n) = train.get_mut(s.label) { *n += 1 });
        Card {
            refit: env!("CARGO_PKG_VERSION").into(),
            preprocess,
            classes: self.dataset.classes.clone(),
            settings: Some(self.settings.clone()),
            data: Some(DataSummary {
                fingerprint: images.fingerprint.clone(),
                train,
                val: images.val.len(),
                test: images.test.len(),
            }),
            metrics,
            temperature: 1.0,
            weights,
        }
    }

    fn finish(&self, outcome: &Outcome) -> Result<(), LearnError> {
        let Some(folder) = &self.folder.0 else { return Ok(()) };
        self.write_log(&outcome.history)?;
        outcome.model.save(&folder.join("model.safetensors"))?;
        let json = serde_json::to_string_pretty(&outcome.report).expect("numbers serialize");
        self.folder.write("metrics.json", format!("{json}\n").as_bytes())
    }
}

/// Whether a folder's name means a class of the network: its WordNet id, alone or before its name,
/// or its name, in any case and with `_` for spaces.
fn same_class(folder: &str, id: &str, name: &str) -> bool {
    let plain = |s: &str| s.to_lowercase().replace(['_', '-'], " ");
    folder == id || folder.starts_with(&format!("{id}_")) || plain(folder) == plain(name)
}

fn judge_rows(
    network: &Network,
    features: &Features,
    images: std::ops::Range<usize>,
    labels: &[usize],
    classes: &[String],
) -> Option<Metrics> {
    if images.is_empty() {
        return None;
    }
    let rows: Vec<f32> = images.clone().flat_map(|i| features.row(i, 0).to_vec()).collect();
    let data = TensorData::new(rows, [images.len(), features.dim]);
    let rows = Value::Vector(Tensor::from_data(data, network.device()));
    let graph = network.graph();
    let name = |id: usize| graph.nodes()[id].name.as_str();
    let compiled = network
        .compile_between(&[name(graph.features())], &[name(graph.output())])
        .expect("names of this graph");
    let logits = compiled.run_from(vec![rows]).remove(0).to_vec();
    Metrics::from_logits(&logits, labels, classes)
}

/// Steps from features, for a head that is trained by gradient descent.
struct FeatureFeed<'a> {
    features: &'a SplitFeatures,
    labels: Vec<usize>,
    val: std::ops::Range<usize>,
    val_labels: Vec<usize>,
    classes: &'a [String],
    batch: usize,
    device: Device,
}

impl Feed for FeatureFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn epoch(
        &self,
        _: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let Features { dim, views, .. } = self.features.learned;
        for images in order.chunks(self.batch) {
            // Every epoch sees another view of an image.
            let row = |&i: &usize| self.features.learned.row(i, (epoch + i) % views).to_vec();
            let rows: Vec<f32> = images.iter().flat_map(row).collect();
            let data = TensorData::new(rows, [images.len(), dim]);
            let boundary = vec![Value::Vector(Tensor::from_data(data, &self.device))];
            let labels = images.iter().map(|&i| self.labels[i]).collect();
            each(Step { boundary, labels })?;
        }
        Ok(())
    }

    fn validate(&self, net: &Network) -> Result<Option<Metrics>, LearnError> {
        Ok(judge_rows(net, &self.features.judged, self.val.clone(), &self.val_labels, self.classes))
    }
}

/// Steps from augmented images.
struct ImageFeed<'a> {
    run: &'a Run<'a>,
    preprocess: &'a Preprocess,
    images: &'a Images,
    labels: Vec<usize>,
    cache: std::sync::Arc<ImageCache>,
}

impl Feed for ImageFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn epoch(
        &self,
        training: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let settings = self.run.settings;
        let (cache, pipeline) = (std::sync::Arc::clone(&self.cache), *self.preprocess);
        let (augment, seed) = (settings.training.augment.clone(), settings.seed);
        let options = LoaderOptions {
            batch_size: settings.training.batch,
            size: pipeline.size,
            workers: self.run.context.workers,
            ahead: 2,
            strictness: Strictness::Strict,
        };
        let make = move |sample: &Sample, index: usize, out: &mut [f32]| -> Result<(), DataError> {
            let image = cache.get(&sample.path)?;
            let mut stream = Stream::new(seed, "augment", &[epoch as u64, index as u64]);
            augment.apply_into(&image, &pipeline, &mut stream, out);
            Ok(())
        };
        for batch in Loader::new(self.images.train.clone(), order, options, make) {
            let batch = batch?;
            let shape = [batch.n, 3, batch.size, batch.size];
            let data = TensorData::new(batch.images, shape);
            let images = Tensor::from_data(data, &Device::flex());
            each(Step { boundary: training.run_frozen(images), labels: batch.labels })?;
        }
        Ok(())
    }

    fn validate(&self, net: &Network) -> Result<Option<Metrics>, LearnError> {
        self.run.judge(net, self.preprocess, &self.images.val, "validation")
    }
}
