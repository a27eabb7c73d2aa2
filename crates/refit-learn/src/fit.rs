//! The training loop: epochs of steps, a checkpoint after each, the best weights kept.

mod rates;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{Mixture, Stream};
use refit_net::state_dict::{Dtype, StateDict, write_safetensors};
use refit_net::{Network, NodeId, Pass, Precision, Training, TrainingOptions, Value};
use serde::{Deserialize, Serialize};

use crate::error::LearnError;
use crate::loss::Targets;
use crate::metrics::Metrics;
use crate::optimizer::{Optimizer, OptimizerState, clip_norm};
use crate::sampling;
use crate::schedule::{Pace, Schedule};
use crate::select::Score;
use crate::settings::{ClassBalance, TrainingSettings};
use crate::thaw::Thaw;
use crate::watch::{Event, Watch, stage};
use crate::weight_average;

pub use rates::{RatePoint, RateSearch, find_rate};

/// What one step learns from.
#[derive(Clone)]
pub struct Step {
    /// The values that enter the trained part, in [`Training`]'s order.
    pub boundary: Vec<Value>,
    /// Classes, `[n]`.
    pub labels: Vec<usize>,
    /// What each image took from another of the step, `[n]`; empty where none is mixed.
    pub mixtures: Vec<Option<Mixture>>,
    /// What the network is to learn from them.
    pub aim: Aim,
}

/// What a loss is made of.
#[derive(Clone)]
pub struct Aim {
    /// The weight of the classes' loss; with 0 it is not computed.
    pub classes: f64,
    /// What each image counts for in the classes' loss, `[n]`; empty where all count alike.
    pub shares: Vec<f32>,
    /// A scalar that is added, of a pass.
    pub other: Option<OtherLoss>,
}

/// A loss of a pass: a scalar.
pub type OtherLoss = Rc<dyn Fn(&Pass) -> Tensor<1>>;

impl Default for Aim {
    /// The classes alone.
    fn default() -> Self {
        Self { classes: 1.0, shares: Vec::new(), other: None }
    }
}

/// How good a network is on images that it does not learn from.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// At telling classes.
    Classes(Box<Metrics>),
    /// At something else: an error, of which less is better.
    Error(f64),
}

impl From<Metrics> for Verdict {
    fn from(metrics: Metrics) -> Self {
        Self::Classes(Box::new(metrics))
    }
}

impl Verdict {
    fn loss(&self) -> f64 {
        match self {
            Self::Classes(metrics) => metrics.loss,
            Self::Error(error) => *error,
        }
    }

    fn top1(&self) -> Option<f64> {
        match self {
            Self::Classes(metrics) => Some(metrics.top1),
            Self::Error(_) => None,
        }
    }
}

/// Where steps come from, and what the result is judged by.
pub trait Feed {
    /// The training images' classes.
    fn labels(&self) -> &[usize];

    /// Hands out the steps of an epoch; `order` lists positions of training images, for one that comes
    /// again plus as many times the number of images as it came before.
    ///
    /// # Errors
    /// If images cannot be read, or what `each` returns.
    fn epoch(
        &self,
        training: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError>;

    /// The classes of the images whose labels are learned from, by which classes are weighed.
    fn weighed(&self) -> Vec<usize> {
        self.labels().to_vec()
    }

    /// Gets ready for epochs; called once, before anything else.
    ///
    /// # Errors
    /// If images cannot be read.
    fn prepare(&self, _: &Training) -> Result<(), LearnError> {
        Ok(())
    }

    /// Whether more than a head is trained.
    fn is_body(&self) -> bool {
        false
    }

    /// The layers of `net` whose values [`Aim::other`] finds in [`Pass::taps`], in that order.
    fn taps(&self, _net: &Network) -> Vec<NodeId> {
        Vec::new()
    }

    /// Judges a network on the validation images; none where there are no such images.
    ///
    /// # Errors
    /// If images cannot be read.
    fn validate(&self, training: &Training, net: &Network) -> Result<Option<Verdict>, LearnError>;
}

/// One epoch's account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// From 1.
    pub epoch: usize,
    /// Mean training loss over the epoch's images.
    pub train_loss: f32,
    /// The validation loss.
    pub val_loss: Option<f64>,
    /// The validation accuracy.
    pub val_top1: Option<f64>,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// The mean norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Seconds since training began, interruptions left out.
    pub seconds: f64,
}

/// What a fit ended with.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The network with the best weights.
    pub network: Network,
    /// All epochs.
    pub history: Vec<Epoch>,
    /// The epoch whose weights these are, from 1; 0 for those that it began with. Where they are the
    /// mean of several, the best of these.
    pub best: usize,
    /// The epochs that they are the mean of, the best first; empty where they are of one.
    pub averaged: Vec<usize>,
    /// Seconds that earlier sessions of a resumed run took.
    pub seconds_before: f64,
}

/// Everything beside the network that a fit is told.
pub struct FitOptions<'a> {
    /// How gradient descent is done.
    pub training: &'a TrainingSettings,
    /// What frozen layers compute with, which this machine must have.
    pub precision: Precision,
    /// How classes count.
    pub balance: ClassBalance,
    /// Weights by class in the loss, `[classes]`.
    pub class_weights: &'a [f32],
    /// What logits are raised by in the loss ([`Targets::adjusted`]): `[classes]`, or none.
    pub logit_offsets: &'a [f32],
    /// Decides orders, views and dropout.
    pub seed: u64,
    /// When no further epoch may begin, counted as seconds of `started`.
    pub time_budget: Option<f64>,
    /// Whether the network that training begins with competes as epoch 0, and epochs that are less
    /// accurate do not.
    pub floor: bool,
    /// The epoch after which training ends, where that is known; rates go as if it did not.
    pub last_epoch: Option<usize>,
    /// When the run began.
    pub started: Instant,
    /// Where checkpoints go; none keeps them in memory only.
    pub checkpoints: Option<&'a Path>,
    /// Whether to go on from the checkpoint that is there.
    pub resume: bool,
    /// Called with the account of each epoch so far, after its checkpoint is safe.
    pub log: &'a dyn Fn(&[Epoch]) -> Result<(), LearnError>,
}

/// Trains what is not frozen in `net`; continues from the last checkpoint where there is one.
///
/// # Errors
/// If images cannot be read, a checkpoint cannot be written, the loss diverges, `watch` stops, or
/// this machine does not have the precision.
pub fn fit(
    net: Network,
    feed: &dyn Feed,
    options: &FitOptions,
    watch: &dyn Watch,
) -> Result<Fitted, LearnError> {
    options.precision.check()?;
    let mut state = State::begin(net, options)?;
    // A head alone has nothing to wait for.
    let every = if feed.is_body() { options.training.thaw_every } else { 0 };
    let thaw = Thaw::new(&state.net, every);
    if every > 0 {
        state.net = thaw.apply(&state.net, state.history.len())?;
        if thaw.epochs() >= options.training.epochs {
            watch.event(Event::Warning(format!(
                "the lowest layers are never trained: that would take more than {} epochs",
                thaw.epochs()
            )));
        }
    }
    let mut training = training_of(&state.net, feed, options);
    if !state.is_over(options, watch) {
        feed.prepare(&training)?;
        state.began = Instant::now();
    }
    if options.floor && state.history.is_empty() {
        let verdict = feed.validate(&training, &state.net)?;
        state.floor = verdict.as_ref().and_then(Verdict::top1);
        state.judge(verdict.as_ref(), options, &thaw)?;
    }
    let epochs = options.training.epochs;
    while !state.is_over(options, watch) {
        let epoch = state.history.len() + 1;
        if thaw.changes(epoch - 1) {
            state.net = thaw.apply(&state.net, epoch - 1)?;
            training = training_of(&state.net, feed, options);
        }
        let images = feed.labels().len();
        let trained = stage(watch, format!("epoch {epoch} of {epochs}"), images, || {
            state.train_epoch(feed, &training, options, watch)
        });
        match trained {
            Err(error @ LearnError::Diverged { .. }) if options.floor && !state.best.is_empty() => {
                watch.event(Event::Warning(format!("{error}: the best weights before are kept")));
                break;
            }
            trained => trained?,
        }
        let verdict = feed.validate(&training, state.judged())?;
        state.judge(verdict.as_ref(), options, &thaw)?;
        state.keep(options)?;
        (options.log)(&state.history)?;
        watch.event(Event::Note(describe(&state.history[epoch - 1], epochs)));
    }
    state.average_best(feed, &training, options, watch)?;
    Ok(state.finish())
}

/// The trained part of `net`, with what the feed's loss hears of besides its output.
fn training_of(net: &Network, feed: &dyn Feed, options: &FitOptions) -> Training {
    Training::tapped(net, options.precision, &feed.taps(net))
}

fn describe(epoch: &Epoch, epochs: usize) -> String {
    let val = epoch.val_loss.map_or_else(String::new, |loss| told(loss, epoch.val_top1));
    format!("epoch {}/{epochs}: loss {:.4}{val}", epoch.epoch, epoch.train_loss)
}

fn told(loss: f64, top1: Option<f64>) -> String {
    let accuracy = top1.map_or_else(String::new, |top1| format!(", accuracy {:.1}%", 100.0 * top1));
    format!(", validation loss {loss:.4}{accuracy}")
}

struct State {
    net: Network,
    /// The parameters that may differ from those that training began with, which a run that goes on
    /// makes again.
    moving: Vec<String>,
    /// The mean of the weights of late, if that is what is judged.
    average: Option<Network>,
    optimizer: Optimizer,
    history: Vec<Epoch>,
    /// The best epochs, the best first; as many as are to be averaged.
    best: Vec<Best>,
    /// The epochs of which the mean won, the best first.
    averaged: Vec<usize>,
    /// The accuracy that an epoch must have to be the best.
    floor: Option<f64>,
    /// Seconds of earlier sessions that this one continues, and those of them that went into epochs.
    before: f64,
    trained_before: f64,
    began: Instant,
}

struct Best {
    epoch: usize,
    score: Score,
    net: Network,
}

/// What a checkpoint says beside its tensors.
#[derive(Serialize, Deserialize)]
struct CheckpointRecord {
    history: Vec<Epoch>,
    /// The best epochs and their scores.
    best: Vec<(usize, Score)>,
    floor: Option<f64>,
    counters: BTreeMap<String, u64>,
    /// Seconds since the run began, all sessions together.
    spent: f64,
}

const RECORD: &str = "refit-checkpoint";
const OPTIMIZER: &str = "optimizer/";
const AVERAGE: &str = "average/";

/// What the parameters of a best epoch begin with.
fn best_prefix(epoch: usize) -> String {
    format!("best/{epoch}/")
}

impl State {
    fn begin(net: Network, options: &FitOptions) -> Result<Self, LearnError> {
        let optimizer = Optimizer::new(&net, options.training);
        let average = (options.training.average > 0.0).then(|| net.clone());
        let moving = weight_average::moving(&net).map(str::to_owned).collect();
        let mut state = Self {
            net,
            moving,
            average,
            optimizer,
            history: Vec::new(),
            best: Vec::new(),
            averaged: Vec::new(),
            floor: None,
            before: 0.0,
            trained_before: 0.0,
            began: Instant::now(),
        };
        let checkpoint = options.checkpoints.map(checkpoint_file);
        if let Some(path) = checkpoint.filter(|p| options.resume && p.exists()) {
            state.restore(&path)?;
        }
        Ok(state)
    }

    fn is_over(&self, options: &FitOptions, watch: &dyn Watch) -> bool {
        let done = self.history.len();
        let settings = options.training;
        if done >= options.last_epoch.unwrap_or(usize::MAX).min(settings.epochs) {
            return true;
        }
        let best = self.best.first().map_or(0, |b| b.epoch);
        if settings.patience > 0 && done >= best + settings.patience {
            let text = format!("nothing better since epoch {best}: training ends early");
            watch.event(Event::Note(text));
            return true;
        }
        let Some(budget) = options.time_budget else { return false };
        let each = self.history.last().map_or(0.0, |e| e.seconds / done as f64);
        let spent = options.started.elapsed().as_secs_f64() + self.before;
        let over = done > 0 && spent + each > budget;
        if over {
            watch.event(Event::Note(format!("the time budget ends training after epoch {done}")));
        }
        over
    }

    fn train_epoch(
        &mut self,
        feed: &dyn Feed,
        training: &Training,
        options: &FitOptions,
        watch: &dyn Watch,
    ) -> Result<(), LearnError> {
        let settings = options.training;
        let epoch = self.history.len();
        let images = feed.labels().len();
        let steps = images.div_ceil(settings.batch);
        let schedule = Schedule::new(settings, steps * settings.epochs);
        let mut stream = Stream::new(options.seed, "order", &[epoch as u64]);
        let order = sampling::order(feed.labels(), options.balance, &mut stream);
        let (mut losses, mut seen, mut norms, mut done, mut rate) = (0.0, 0, 0.0, 0, 0.0);
        feed.epoch(training, epoch, order, &mut |step| {
            let pace = schedule.at(steps * epoch + done as usize);
            rate = settings.learning_rate * pace.rate;
            let key = Stream::new(options.seed, "dropout", &[epoch as u64, done]).next_u64();
            let n = step.labels.len();
            let (loss, norm) = self.train_step(training, step, options, key, pace)?;
            self.follow(settings.average, (steps * epoch) as u64 + done);
            if !loss.is_finite() || !norm.is_finite() {
                return Err(LearnError::Diverged { epoch: epoch + 1, loss });
            }
            (losses, seen) = (losses + f64::from(loss) * n as f64, seen + n);
            (norms, done) = (norms + norm, done + 1);
            watch.event(Event::Advance { items: n });
            if watch.stops() { Err(LearnError::Stopped) } else { Ok(()) }
        })?;
        let finite = |p: &refit_net::Parameter| p.to_vec().iter().all(|v| v.is_finite());
        if !self.net.parameters().values().all(finite) {
            return Err(LearnError::Diverged { epoch: epoch + 1, loss: f32::NAN });
        }
        self.history.push(Epoch {
            epoch: epoch + 1,
            train_loss: (losses / seen.max(1) as f64) as f32,
            val_loss: None,
            val_top1: None,
            learning_rate: rate,
            gradient_norm: norms / done.max(1) as f64,
            seconds: self.trained_before + self.began.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    /// One step; gives the loss and the gradient's norm.
    fn train_step(
        &mut self,
        training: &Training,
        step: Step,
        options: &FitOptions,
        dropout_key: u64,
        pace: Pace,
    ) -> Result<(f32, f64), LearnError> {
        let (mut pass, loss) = forward(&self.net, training, step, options, dropout_key);
        let mut gradients = pass.gradients(&loss);
        // Gradients are complete here and not yet applied.
        let norm = clip_norm(&mut gradients, options.training.clip);
        if norm.is_finite() {
            self.optimizer.step(&mut self.net, gradients, pace);
            pass.update_statistics(&mut self.net);
        }
        Ok((loss.into_scalar(), norm))
    }

    /// The network that is judged, and kept if it is good.
    fn judged(&self) -> &Network {
        self.average.as_ref().unwrap_or(&self.net)
    }

    /// Moves the average towards the weights after step `step`, the first one being 0.
    fn follow(&mut self, keeps: f64, step: u64) {
        if let Some(average) = &mut self.average {
            weight_average::follow(average, &self.net, keeps, step);
        }
    }

    /// Takes note of how the epoch did; without validation images the last weights are the best.
    fn judge(
        &mut self,
        verdict: Option<&Verdict>,
        options: &FitOptions,
        thaw: &Thaw,
    ) -> Result<(), LearnError> {
        let epoch = self.history.len();
        if let (Some(last), Some(verdict)) = (self.history.last_mut(), verdict) {
            (last.val_loss, last.val_top1) = (Some(verdict.loss()), verdict.top1());
        }
        let Some(verdict) = verdict else {
            let net = thaw.open(self.judged())?;
            self.best = vec![Best { epoch, score: Score::default(), net }];
            return Ok(());
        };
        if self.is_below(verdict) {
            return Ok(());
        }
        let score = self.score(verdict, options);
        let rank = self.best.iter().take_while(|best| !score.is_better(&best.score)).count();
        let most = options.training.average_best.max(1);
        if rank < most {
            let net = thaw.open(self.judged())?;
            self.best.insert(rank, Best { epoch, score, net });
            self.best.truncate(most);
        }
        Ok(())
    }

    /// Whether it is less accurate than what training began with, where that competes.
    fn is_below(&self, verdict: &Verdict) -> bool {
        self.floor.zip(verdict.top1()).is_some_and(|(floor, top1)| top1 < floor)
    }

    fn score(&self, verdict: &Verdict, options: &FitOptions) -> Score {
        match verdict {
            Verdict::Classes(metrics) => {
                options.training.select.score(metrics, self.floor.is_some())
            }
            Verdict::Error(error) => Score::of_error(*error),
        }
    }

    /// Lets the mean of the best epochs' weights compete with the best.
    fn average_best(
        &mut self,
        feed: &dyn Feed,
        training: &Training,
        options: &FitOptions,
        watch: &dyn Watch,
    ) -> Result<(), LearnError> {
        let [first, _, ..] = self.best.as_slice() else { return Ok(()) };
        let nets: Vec<&Network> = self.best.iter().map(|best| &best.net).collect();
        let (epoch, net) = (first.epoch, weight_average::mean(&nets));
        let Some(verdict) = feed.validate(training, &net)? else { return Ok(()) };
        let score = self.score(&verdict, options);
        let wins = !self.is_below(&verdict) && score.is_better(&first.score);
        let count = nets.len();
        let told = told(verdict.loss(), verdict.top1());
        watch.event(Event::Note(format!(
            "the mean of the {count} best epochs{told}: {}",
            if wins { "kept" } else { "not better than the best" }
        )));
        if wins {
            self.averaged = self.best.iter().map(|best| best.epoch).collect();
            self.best.insert(0, Best { epoch, score, net });
        }
        Ok(())
    }

    /// Writes the checkpoint: one file, whole or not there.
    fn keep(&self, options: &FitOptions) -> Result<(), LearnError> {
        let Some(folder) = options.checkpoints else { return Ok(()) };
        let OptimizerState { tensors, counters } = self.optimizer.state();
        let parameters = |net: &Network, prefix: &str| -> Vec<(String, Vec<usize>, Vec<f32>)> {
            let row = |name: &String| {
                let parameter = &net.parameters()[name];
                (format!("{prefix}{name}"), parameter.shape.clone(), parameter.to_vec())
            };
            self.moving.iter().map(row).collect()
        };
        let mut rows = parameters(&self.net, "");
        rows.extend(self.average.iter().flat_map(|net| parameters(net, AVERAGE)));
        // What was judged last is there already.
        let older = self.best.iter().filter(|b| b.epoch < self.history.len());
        rows.extend(older.flat_map(|b| parameters(&b.net, &best_prefix(b.epoch))));
        rows.extend(
            tensors.into_iter().map(|(n, v)| (format!("{OPTIMIZER}{n}"), vec![v.len()], v)),
        );
        let record = CheckpointRecord {
            history: self.history.clone(),
            best: self.best.iter().map(|b| (b.epoch, b.score)).collect(),
            floor: self.floor,
            counters,
            spent: self.before + options.started.elapsed().as_secs_f64(),
        };
        let json = serde_json::to_string(&record).expect("names and numbers serialize");
        let tensors =
            rows.into_iter().map(|(n, shape, v)| (n, shape, Dtype::F32, little_endian(&v)));
        let metadata = [(RECORD.to_owned(), json)].into();
        Ok(write_safetensors(checkpoint_file(folder), tensors, &metadata)?)
    }

    fn restore(&mut self, path: &Path) -> Result<(), LearnError> {
        let damaged = |reason: String| damaged_checkpoint(path, reason);
        let state = StateDict::read(path)?;
        let json = state.metadata().get(RECORD);
        let json = json.ok_or_else(|| damaged("it is not refit's".into()))?;
        let record: CheckpointRecord =
            serde_json::from_str(json).map_err(|e| damaged(e.to_string()))?;
        let device = self.net.device().clone();
        let moving = &self.moving;
        read_network(&mut self.net, moving, &state, "", &device)?;
        if let Some(average) = &mut self.average {
            read_network(average, moving, &state, AVERAGE, &device)?;
        }
        for (epoch, score) in record.best {
            let mut net = self.judged().clone();
            if epoch < record.history.len() {
                read_network(&mut net, &self.moving, &state, &best_prefix(epoch), &device)?;
            }
            self.best.push(Best { epoch, score, net });
        }
        let mut tensors = BTreeMap::new();
        for name in state.names() {
            if let Some(bare) = name.strip_prefix(OPTIMIZER) {
                tensors.insert(bare.to_owned(), state.get_f32(name)?);
            }
        }
        self.optimizer.restore(OptimizerState { tensors, counters: record.counters });
        self.trained_before = record.history.last().map_or(0.0, |epoch| epoch.seconds);
        self.history = record.history;
        self.floor = record.floor;
        self.before = record.spent;
        Ok(())
    }

    fn finish(self) -> Fitted {
        let Self { net, average, history, averaged, before, .. } = self;
        let best = self.best.into_iter().next();
        let (network, best) =
            best.map_or((average.unwrap_or(net), history.len()), |best| (best.net, best.epoch));
        Fitted { network, history, best, averaged, seconds_before: before }
    }
}

/// `path` is `RUN/checkpoints/last.safetensors`.
fn damaged_checkpoint(path: &Path, reason: String) -> LearnError {
    let run = path.ancestors().nth(2).unwrap_or(path);
    let file = path.strip_prefix(run).unwrap_or(path).display().to_string();
    LearnError::DamagedRun { path: run.to_owned(), file, reason }
}

/// A pass through the trained part of `net`, and its loss.
fn forward(
    net: &Network,
    training: &Training,
    step: Step,
    options: &FitOptions,
    dropout_key: u64,
) -> (Pass, Tensor<1>) {
    let norms = options.training.norms.into();
    let pass = training.pass(net, step.boundary.clone(), TrainingOptions { norms, dropout_key });
    let classes = (step.aim.classes > 0.0)
        .then(|| loss_by_classes(&pass, &step, options, net.device()) * step.aim.classes);
    let other = step.aim.other.as_ref().map(|other| other(&pass));
    let loss = classes.into_iter().chain(other).reduce(|a, b| a + b);
    (pass, loss.expect("a step aims at something"))
}

/// The cross-entropy of the network's output, and of the classifiers half-way.
fn loss_by_classes(pass: &Pass, step: &Step, options: &FitOptions, device: &Device) -> Tensor<1> {
    let Step { labels, mixtures, aim, .. } = step;
    let (weights, smoothing) = (options.class_weights, options.training.smoothing);
    let targets = Targets::of_shares(labels, mixtures, &aim.shares, weights, smoothing, device)
        .focused(options.training.focal)
        .adjusted(options.logit_offsets);
    let mut loss = targets.cross_entropy(pass.logits.clone());
    for (logits, share) in &pass.auxiliary {
        loss = loss + targets.cross_entropy(logits.clone()) * *share;
    }
    loss
}

/// The one checkpoint of a run.
pub fn checkpoint_file(folder: &Path) -> PathBuf {
    folder.join("last.safetensors")
}

/// Fills some parameters of a network from a checkpoint's tensors under `prefix`.
fn read_network(
    net: &mut Network,
    names: &[String],
    state: &StateDict,
    prefix: &str,
    device: &Device,
) -> Result<(), LearnError> {
    for name in names {
        let shape = state.get(&format!("{prefix}{name}")).map(|entry| entry.shape());
        if shape != Some(net.parameters()[name].shape.as_slice()) {
            let reason = format!("`{name}` is not as the settings make it");
            return Err(damaged_checkpoint(state.source().as_ref(), reason));
        }
    }
    for name in names {
        let values = state.get_f32(&format!("{prefix}{name}"))?;
        let len = values.len();
        net.set(name, Tensor::from_data(TensorData::new(values, [len]), device));
    }
    Ok(())
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
    bytes
}
