//! A search for the settings that suit the images best: depth of training, rates, decay, smoothing,
//! augmentation and optimizer.
//!
//! Trials are judged as those of [`auto`](super::auto()) are, on training images held out, so that the
//! validation images know nothing of the search. Setups come from tree-structured Parzen estimators
//! ([`sampler`]), a third of the epochs is tried first ([`halving`]), and trials with the same cut and
//! augmentation share the activations below it. The state of a search is its journal alone.

mod halving;
mod importance;
mod journal;
mod sampler;
mod space;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use refit_data::{Dataset, Level};
use serde::{Deserialize, Serialize};

pub use halving::Rung;
pub use importance::Importance;
pub use space::{ALL, Parameter, Setup, Values};

use self::halving::Job;
use self::journal::Journal;
use self::space::Space;
use super::auto::{HeldOut, hold_out, infinite, inner_split, is_lower};
use super::folder::{RunFolder, SEARCH, SETTINGS, TRIALS, read_settings};
use super::start::{open_dataset, starting_point};
use super::{Beginning, Outcome, Run, RunContext, train_on};
use crate::advice::similarity::Depths;
use crate::error::LearnError;
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch};

/// The share of a time budget that the search may take; the rest is the run's.
const SEARCHING: f64 = 0.6;

/// What a search is asked to do, beside what its settings say of images and network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TuneOptions {
    /// Setups that are tried, beside `features`.
    pub trials: usize,
    /// What is varied; what has a given value is not.
    pub search: Vec<Parameter>,
    /// The first layer that is trained, or [`ALL`], where that is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<String>,
    /// Epochs of a run; each strategy's own if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Images a step; each strategy's own if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Values that are given.
    #[serde(default)]
    pub given: Values,
}

impl Default for TuneOptions {
    /// 24 trials over everything.
    fn default() -> Self {
        Self {
            trials: 24,
            search: Parameter::ALL.to_vec(),
            depth: None,
            epochs: None,
            batch: None,
            given: Values::default(),
        }
    }
}

impl TuneOptions {
    /// Checks the ranges of what is given.
    fn validate(&self, base: &Settings) -> Result<(), LearnError> {
        if !(1..=1000).contains(&self.trials) {
            let value = self.trials.to_string();
            return Err(LearnError::Setting { name: "--trials", value, range: "1 to 1000" });
        }
        let values = self.given;
        let setup = Setup { strategy: Strategy::FineTune, unfreeze_from: None, values };
        setup.settings(base, self).validate()
    }

    /// What a trial begins with: nothing can be divided where there is one epoch.
    fn first_rung(&self) -> Rung {
        match self.epochs {
            Some(1) => Rung::Whole,
            _ => Rung::Third,
        }
    }
}

/// The content of `search.toml`: everything that decides a search but for the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// Where training may begin.
    depths: Vec<String>,
    search: TuneOptions,
    /// Those of `features`, with what mirroring does to the classes settled.
    settings: Settings,
}

/// A trial that has ended: a line of `trials.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which setup; 0 is `features`.
    pub number: usize,
    /// How long it trained.
    pub rung: Rung,
    /// Epochs; 0 where a head was solved for.
    pub epochs: usize,
    /// What was tried.
    pub setup: Setup,
    /// The mean log loss on the images held out, at the best temperature; infinite (`null` in JSON)
    /// where the loss diverged.
    #[serde(deserialize_with = "infinite")]
    pub loss: f64,
    /// The accuracy on them, `[0, 1]`.
    pub top1: f64,
    /// Its 95% interval.
    pub interval95: [f64; 2],
    /// Seconds that it took.
    pub seconds: f64,
    /// The loss of each image held out; empty where it diverged.
    pub losses: Vec<f64>,
}

impl Attempt {
    fn new(job: Job, setup: Setup, held: &HeldOut, seconds: f64) -> Self {
        let rounded = |x: f64, digits: f64| (x * digits).round() / digits;
        let losses: Vec<f64> = held.losses.iter().map(|loss| rounded(*loss, 1e5)).collect();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        Self {
            number: job.number,
            rung: job.rung,
            epochs: held.epochs,
            setup,
            loss: if losses.is_empty() { f64::INFINITY } else { rounded(mean, 1e6) },
            top1: held.metrics.as_ref().map_or(0.0, |m| rounded(m.top1, 1e6)),
            interval95: held
                .metrics
                .as_ref()
                .map_or([0.0, 1.0], |m| m.interval95.map(|end| rounded(end, 1e6))),
            seconds: rounded(seconds, 1e2),
            losses,
        }
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Search {
    /// What was asked for.
    pub options: TuneOptions,
    /// What the trials began with.
    pub settings: Settings,
    /// The trials, in their order.
    pub trials: Vec<Attempt>,
    /// The trial whose settings are the best; `features` (0) unless another's loss is lower by more
    /// than one standard error of the difference, image by image.
    pub best: usize,
    /// How much each parameter mattered, the most important first; empty for few trials.
    pub importance: Vec<Importance>,
}

impl Search {
    fn new(plan: &Plan, trials: Vec<Attempt>) -> Self {
        let space = Space::new(&plan.search, &plan.depths);
        let told = told(&trials, plan.search.first_rung());
        let importance = importance::importance(&space, &told, plan.settings.seed);
        let best = best(&trials).map_or(0, |trial| trial.number);
        let (options, settings) = (plan.search.clone(), plan.settings.clone());
        Self { options, settings, trials, best, importance }
    }

    /// What the best trial did.
    pub fn setup(&self) -> Setup {
        let best = self.trials.iter().find(|trial| trial.number == self.best);
        best.map_or_else(Setup::features, |trial| trial.setup.clone())
    }

    /// The settings of the run that the search speaks for: the head that it begins with competes, so
    /// that the result is never below `features` on the validation images.
    pub fn best_settings(&self) -> Settings {
        let settings = self.setup().settings(&self.settings, &self.options);
        let floor = settings.strategy.trains_body();
        Settings { floor, ..settings }
    }

    /// Each setup's trial with the most epochs, the lowest loss first.
    pub fn ranked(&self) -> Vec<&Attempt> {
        let mut trials = longest(&self.trials);
        trials.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.number.cmp(&b.number)));
        trials
    }

    /// Reads what a folder holds; none if it holds no search.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, LearnError> {
        if !folder.join(SEARCH).exists() {
            return Ok(None);
        }
        let plan = Plan::read(folder)?;
        let journal = Journal::open(RunFolder(Some(folder.to_owned())))?;
        Ok(Some(Self::new(&plan, journal.trials)))
    }
}

/// Each setup's trial with the most epochs.
fn longest(trials: &[Attempt]) -> Vec<&Attempt> {
    let whole = |number| trials.iter().any(|t| t.number == number && t.rung == Rung::Whole);
    trials.iter().filter(|t| t.rung == Rung::Whole || !whole(t.number)).collect()
}

/// Setups and their losses, all after as many of their epochs: what the sampler and the importance of
/// parameters go by.
fn told(trials: &[Attempt], rung: Rung) -> Vec<(&Setup, f64)> {
    let told = trials.iter().filter(|t| t.number > 0 && t.rung == rung);
    told.map(|t| (&t.setup, t.loss)).collect()
}

/// The trial with the lowest loss, or the first.
fn best(trials: &[Attempt]) -> Option<&Attempt> {
    let (features, others) = trials.split_first()?;
    let best = longest(others).into_iter().min_by(|a, b| a.loss.total_cmp(&b.loss));
    Some(best.filter(|best| is_lower(&best.losses, &features.losses)).unwrap_or(features))
}

impl Plan {
    fn read(folder: &Path) -> Result<Self, LearnError> {
        let no_search = |reason: String| LearnError::NoSearch { path: folder.to_owned(), reason };
        let text = fs::read_to_string(folder.join(SEARCH))
            .map_err(|error| no_search(format!("{SEARCH}: {error}")))?;
        toml::from_str(&text).map_err(|error| no_search(format!("{SEARCH}: {error}")))
    }
}

/// The settings and options that a search began with.
///
/// # Errors
/// If `folder` holds no search, or its `search.toml` is damaged.
pub fn read_search(folder: &Path) -> Result<(Settings, TuneOptions), LearnError> {
    let Plan { search, settings, .. } = Plan::read(folder)?;
    Ok((settings, search))
}

/// A search, and the run that it speaks for.
#[derive(Debug, Clone)]
pub struct Tuned {
    /// What was tried.
    pub search: Search,
    /// What came of the best settings on all training images.
    pub outcome: Outcome,
}

/// Searches, and trains with the best settings on all training images.
///
/// `settings` says which images and which network; its strategy and training do not matter. With a
/// time budget, the search takes up to three fifths of it, and what is tried depends on the machine;
/// without one, a seed gives one search.
///
/// With [`RunContext::resume`] the folder's search goes on after the last trial that had ended, with
/// the settings that [`read_search`] gives, to the result that it would have had.
///
/// # Errors
/// See [`LearnError`]; trials that ended stay in the folder. A trial that diverges is no error.
pub fn tune(
    settings: &Settings,
    options: &TuneOptions,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Tuned, LearnError> {
    let mut searching = Searching::begin(settings, options, context, watch)?;
    searching.carry_out()?;
    let Searching { plan, journal, dataset, started, .. } = searching;
    let search = Search::new(&plan, journal.trials);
    watch.event(Event::Note(format!("the best settings: {}", search.setup())));
    let settings = match begun(context) {
        Some(folder) => read_settings(folder)?,
        None => search.best_settings(),
    };
    // The folder is the search's already.
    let context = RunContext { resume: context.folder.is_some(), ..context.clone() };
    let beginning = Beginning { started, ..Beginning::now() };
    let outcome = train_on(dataset, &settings, &context, watch, &beginning)?;
    Ok(Tuned { search, outcome })
}

/// Searches as [`tune`] does, and trains nothing with what it found.
///
/// # Errors
/// See [`tune`].
pub fn search(
    settings: &Settings,
    options: &TuneOptions,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Search, LearnError> {
    let mut searching = Searching::begin(settings, options, context, watch)?;
    searching.carry_out()?;
    Ok(Search::new(&searching.plan, searching.journal.trials))
}

/// The folder, if the run behind the search has begun in it.
fn begun(context: &RunContext) -> Option<&Path> {
    context.folder.as_deref().filter(|folder| context.resume && folder.join(SETTINGS).exists())
}

/// A search that goes on.
struct Searching<'a> {
    plan: Plan,
    context: &'a RunContext,
    watch: &'a dyn Watch,
    dataset: Dataset,
    /// The readable training images, some of them held out.
    inner: Dataset,
    journal: Journal,
    /// When it began, as far as the time that it took is concerned.
    started: Instant,
}

impl<'a> Searching<'a> {
    /// Reads the images and the journal, and settles what trials have in common.
    fn begin(
        settings: &Settings,
        options: &TuneOptions,
        context: &'a RunContext,
        watch: &'a dyn Watch,
    ) -> Result<Self, LearnError> {
        let started = Instant::now();
        let settings = &Settings { strategy: Strategy::Features, ..settings.clone() };
        settings.validate()?;
        options.validate(settings)?;
        let journal = Journal::open(RunFolder::open(context)?)?;
        let dataset = open_dataset(settings, watch)?;
        let start = starting_point(settings, &Device::flex(), watch)?;
        let graph = start.network.graph();
        if let Some(layer) = options.depth.as_deref().filter(|depth| *depth != ALL) {
            graph.find_first(layer)?;
        }
        let depths = space::depths_of(graph, &Depths::of(&start.network).starts);
        let folder = RunFolder(context.folder.clone());
        let plain = Run::to_measure(settings, context, watch, dataset.clone());
        let images = plain.images_with(&plain.features(&start)?)?;
        // What mirroring does to the classes holds for trials, on fewer images, and the run.
        let mirrored = Setup::at(ALL, Values { augment: Some(Level::Light), ..Values::default() });
        let mirrored = mirrored.settings(settings, options);
        let mirror = Run::to_measure(&mirrored, context, watch, dataset.clone())
            .settle_changes(&start, &images)?
            .mirror;
        let settings = &Settings { mirror, ..settings.clone() };
        let plan = Plan { depths, search: options.clone(), settings: settings.clone() };
        folder.begin_search(&plan.text(), settings, &images, context.resume)?;
        let inner = inner_split(&dataset, images.train, settings.seed);
        let before: f64 = journal.trials.iter().map(|trial| trial.seconds).sum();
        let started = started.checked_sub(Duration::from_secs_f64(before)).unwrap_or(started);
        let searching = Self { plan, context, watch, dataset, inner, journal, started };
        searching.check_journal()?;
        Ok(searching)
    }

    /// The journal must be what this search would have written.
    fn check_journal(&self) -> Result<(), LearnError> {
        let trials = &self.journal.trials;
        let path = self.context.folder.as_deref().unwrap_or(Path::new("")).join(TRIALS);
        for (index, trial) in trials.iter().enumerate() {
            let due = self.next(&trials[..index]);
            if due != Some(Job { number: trial.number, rung: trial.rung }) {
                let due = due.map_or("the end".into(), |job| format!("trial {}", job.number));
                let reason = format!("it is trial {}, where {due} is due", trial.number);
                return Err(journal::damaged(&path, index + 1, reason));
            }
            let held = self.inner.val.len();
            if ![0, held].contains(&trial.losses.len()) {
                let reason = format!("{} losses of {held} images held out", trial.losses.len());
                return Err(journal::damaged(&path, index + 1, reason));
            }
        }
        Ok(())
    }

    fn next(&self, tried: &[Attempt]) -> Option<Job> {
        halving::next(tried, self.plan.search.trials, self.plan.search.first_rung())
    }

    /// Tries what is due until nothing is, or the time is up.
    fn carry_out(&mut self) -> Result<(), LearnError> {
        if begun(self.context).is_some() {
            return Ok(());
        }
        if self.inner.val.is_empty() {
            let text = "no trials: no class has an image to spare for them";
            self.watch.event(Event::Note(text.into()));
            return Ok(());
        }
        let done = self.journal.trials.len();
        if done > 0 {
            self.watch.event(Event::Note(format!("the search goes on after {done} trials")));
        }
        while let Some(job) = self.next(&self.journal.trials) {
            if self.watch.stops() {
                return Err(LearnError::Stopped);
            }
            if !self.has_time_for(job) {
                self.note_the_end();
                break;
            }
            let Some(trial) = self.attempt(job)? else {
                self.note_the_end();
                break;
            };
            let trial = self.journal.add(&trial)?;
            self.watch.event(Event::Note(in_words(trial)));
        }
        Ok(())
    }

    fn note_the_end(&self) {
        let done = longest(&self.journal.trials).len().saturating_sub(1);
        let all = self.plan.search.trials;
        self.watch.event(Event::Note(format!(
            "the time budget ends the search after {done} of {all} setups"
        )));
    }

    /// Seconds that the search may take, if they are counted.
    fn budget(&self) -> Option<f64> {
        self.plan.settings.time_budget.map(|budget| SEARCHING * budget)
    }

    /// Whether a trial would probably end in time; the first one, `features`, always does.
    fn has_time_for(&self, job: Job) -> bool {
        let Some(budget) = self.budget() else { return true };
        let trials = &self.journal.trials;
        let before = trials.iter().find(|t| t.number == job.number);
        let takes = match before {
            Some(third) => third.seconds * halving::ETA as f64,
            // As long as one of its kind on average.
            None => {
                let like = trials.iter().filter(|t| t.number > 0 && t.rung == job.rung);
                let (count, sum) = like.fold((0.0, 0.0), |(n, sum), t| (n + 1.0, sum + t.seconds));
                if count > 0.0 { sum / count } else { 0.0 }
            }
        };
        job.number == 0 || self.started.elapsed().as_secs_f64() + takes <= budget
    }

    fn setup(&self, job: Job) -> Setup {
        let trials = &self.journal.trials;
        if job.number == 0 {
            return Setup::features();
        }
        if let Some(before) = trials.iter().find(|t| t.number == job.number) {
            return before.setup.clone();
        }
        let space = Space::new(&self.plan.search, &self.plan.depths);
        let told = told(trials, self.plan.search.first_rung());
        sampler::suggest(&space, self.plan.settings.seed, job.number, &told)
    }

    /// Carries out a trial; none if the time was up before it ended.
    fn attempt(&self, job: Job) -> Result<Option<Attempt>, LearnError> {
        let (began, setup) = (Instant::now(), self.setup(job));
        let mut settings = setup.settings(&self.plan.settings, &self.plan.search);
        if settings.strategy.trains_body() {
            settings.training.epochs = job.rung.epochs(settings.training.epochs);
        }
        settings.time_budget = self.budget();
        let all = match job.number {
            0 => "trial 0".to_owned(),
            n => format!("trial {n} of {}", self.plan.search.trials),
        };
        let context = RunContext {
            // Every cut keeps activations of its own.
            activation_budget: self.context.activation_budget / self.plan.depths.len() as u64,
            ..self.context.clone()
        };
        let held = hold_out(&all, &settings, &self.inner, &context, (self.watch, self.started))?;
        let diverged = held.losses.is_empty();
        let is_short = settings.strategy.trains_body() && held.epochs < settings.training.epochs;
        if self.budget().is_some() && is_short && !diverged {
            return Ok(None);
        }
        Ok(Some(Attempt::new(job, setup, &held, began.elapsed().as_secs_f64())))
    }
}

impl Plan {
    fn text(&self) -> String {
        toml::to_string_pretty(self).expect("settings serialize")
    }
}

fn in_words(trial: &Attempt) -> String {
    let what = format!("trial {}: {}", trial.number, trial.setup);
    match trial.loss.is_finite() {
        true => format!("{what}: {:.1}% right, log loss {:.3}", 100.0 * trial.top1, trial.loss),
        false => format!("{what}: diverged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial of a third of the epochs.
    pub fn attempt(number: usize, loss: f64) -> Attempt {
        Attempt {
            number,
            rung: Rung::Third,
            epochs: 4,
            setup: Setup::features(),
            loss,
            top1: 0.5,
            interval95: [0.4, 0.6],
            seconds: 1.0,
            losses: if loss.is_finite() { vec![loss, loss + 0.1, loss] } else { vec![] },
        }
    }

    fn plan() -> Plan {
        Plan {
            depths: vec![ALL.into(), "layer4".into()],
            search: TuneOptions::default(),
            settings: Settings::new("photos", Strategy::Features),
        }
    }

    #[test]
    fn a_plan_is_read_as_it_was_written() {
        let mut plan = plan();
        plan.search.given.learning_rate = Some(1e-3);
        plan.search.depth = Some("layer4".into());
        assert_eq!(toml::from_str::<Plan>(&plan.text()).unwrap(), plan, "{}", plan.text());
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for trial in [attempt(3, 0.123_457), attempt(4, f64::INFINITY)] {
            let line = serde_json::to_string(&trial).unwrap();
            let [read] = &journal::read(&line, Path::new("t")).unwrap()[..] else { panic!() };
            // A trial is kept as it will be read: JSON may lose a number's last bit.
            let mut journal = Journal::open(RunFolder(None)).unwrap();
            assert_eq!(journal.add(&trial).unwrap(), read, "{line}");
            assert_eq!(
                (&read.setup, read.loss.is_finite()),
                (&trial.setup, trial.loss.is_finite())
            );
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
            assert!(read.losses.iter().zip(&trial.losses).all(near), "{line}");
        }
    }

    #[test]
    fn features_win_unless_something_is_clearly_better() {
        let features = Attempt { rung: Rung::Whole, ..attempt(0, 1.0) };
        let better = attempt(1, 0.5);
        let mut erratic = attempt(2, 0.9);
        erratic.losses = vec![-3.0, 2.9, 2.8];
        let chosen = |trials: &[&Attempt]| {
            let trials: Vec<Attempt> = trials.iter().map(|t| (*t).clone()).collect();
            Search::new(&plan(), trials).best
        };
        assert_eq!(chosen(&[]), 0);
        assert_eq!(chosen(&[&features, &attempt(1, f64::INFINITY)]), 0);
        assert_eq!(chosen(&[&features, &erratic]), 0);
        assert_eq!(chosen(&[&features, &erratic, &better]), 1);
        // More epochs made it worse: that is what counts.
        let worse = Attempt { rung: Rung::Whole, ..attempt(1, 2.0) };
        assert_eq!(chosen(&[&features, &better, &worse]), 0);
        let search = Search::new(&plan(), vec![features, better, worse]);
        assert_eq!(search.ranked().iter().map(|t| t.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(search.best_settings().strategy, Strategy::Features);
    }
}
