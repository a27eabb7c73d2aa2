//! `auto`: advice, trials of the two best strategies and of `features`, and the run that they speak
//! for.

use std::time::Instant;

use burn::tensor::Device;
use refit_data::{Dataset, Sample, Strictness, stratified_split};
use refit_net::Precision;
use serde::Serialize;

use super::folder::RunFolder;
use super::start::{open_dataset, starting_point};
use super::{Outcome, Run, RunContext, train_on};
use crate::advice::{Advice, Candidate};
use crate::calibrate::{scaled_loss, temperature};
use crate::error::LearnError;
use crate::model::RunOptions;
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch, stage};

/// The share of the training images that trials are judged by.
const HELD_OUT: f64 = 0.25;

/// Training images that trials use at most.
const MOST: usize = 2000;

/// Seconds that everything may take where no time budget is given, by the estimates made before.
const BUDGET: f64 = 1800.0;

/// How a strategy did in a trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// What was tried.
    pub candidate: Candidate,
    /// The mean log loss on the images held out, at the best temperature: what trials are compared
    /// by, since on few images it tells more than the accuracy.
    pub loss: f64,
    /// The accuracy on them, `[0, 1]`.
    pub top1: f64,
    /// Its 95% interval.
    pub interval95: [f64; 2],
    /// Images held out.
    pub images: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Why a run does what it does: the content of `advice.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// What was measured before.
    pub advice: Advice,
    /// What was tried, the best first.
    pub trials: Vec<Trial>,
    /// What the run does.
    pub chosen: Candidate,
}

/// A run whose strategy is chosen by advice and trials.
///
/// `settings` gives those of a strategy and the first layer that it trains; they differ in nothing
/// else that a run begins with. The result is never below `features` on the validation images: the
/// solved head, with which training begins, competes with what training makes of it.
///
/// # Errors
/// See [`LearnError`].
pub fn auto(
    settings: &dyn Fn(Strategy, Option<&str>) -> Settings,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<(Choice, Outcome), LearnError> {
    let started = Instant::now();
    let plain = settings(Strategy::Features, None);
    plain.validate()?;
    let dataset = open_dataset(&plain, watch)?;
    RunFolder::open(context)?;
    let advice = {
        let start = starting_point(&plain, &Device::flex(), watch)?;
        let (folder, dataset) = (RunFolder(None), dataset.clone());
        Run { settings: &plain, context, watch, dataset, folder, started }.advise(&start)?
    };
    watch.event(Event::Note(format!("advice: {}", advice.conclusion.rule)));
    let budget = plain.time_budget.unwrap_or(BUDGET);
    let candidates = affordable(&advice, budget, watch);
    let mut trials = Vec::new();
    if candidates.len() > 1 {
        let inner = inner_split(&dataset, plain.seed);
        for candidate in candidates {
            trials.push(try_out(candidate, settings, &inner, context, watch)?);
        }
        trials.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    }
    let chosen = trials.first().map_or_else(|| features(&advice), |best| best.candidate.clone());
    watch.event(Event::Note(format!("strategy: {}", named(&chosen))));
    let choice = Choice { advice, trials, chosen };
    let mut settings = of(&choice.chosen, settings);
    settings.floor = settings.strategy.trains_body();
    if let Some(budget) = settings.time_budget {
        settings.time_budget = Some((budget - started.elapsed().as_secs_f64()).max(1.0));
    }
    write(&choice, context)?;
    let outcome = train_on(dataset, &settings, context, watch)?;
    Ok((choice, outcome))
}

/// What is tried: `features` and the advised strategies, as far as there is time for them.
fn affordable(advice: &Advice, budget: f64, watch: &dyn Watch) -> Vec<Candidate> {
    let mut candidates = vec![features(advice)];
    for candidate in &advice.conclusion.candidates {
        // A trial and, perhaps, the run itself.
        let needed = candidates.iter().map(|c| c.seconds).sum::<f64>() + 2.0 * candidate.seconds;
        if candidate.strategy == Strategy::Features {
            continue;
        } else if needed > budget {
            watch.event(Event::Note(format!(
                "{} is not tried: it would take about {:.0} minutes; --time-budget allows more",
                named(candidate),
                needed / 60.0
            )));
        } else {
            candidates.push(candidate.clone());
        }
    }
    candidates
}

fn features(advice: &Advice) -> Candidate {
    let known = advice.conclusion.candidates.iter().find(|c| c.strategy == Strategy::Features);
    let seconds = known.map_or(0.0, |c| c.seconds);
    Candidate { strategy: Strategy::Features, unfreeze_from: None, seconds }
}

/// The settings of a candidate; where nothing is frozen, everything computes in f32.
fn of(candidate: &Candidate, settings: &dyn Fn(Strategy, Option<&str>) -> Settings) -> Settings {
    let settings = settings(candidate.strategy, candidate.unfreeze_from.as_deref());
    match candidate.strategy.runs_frozen() {
        true => settings,
        false => Settings { precision: Precision::F32, ..settings },
    }
}

/// A strategy as people name it.
fn named(candidate: &Candidate) -> String {
    match &candidate.unfreeze_from {
        Some(layer) => format!("{} from `{layer}` on", candidate.strategy),
        None => candidate.strategy.to_string(),
    }
}

/// The training images alone, some of them held out.
fn inner_split(dataset: &Dataset, seed: u64) -> Dataset {
    let all = &dataset.train;
    let used: Vec<Sample> = match all.len() {
        n if n > MOST => stratified_split(all, MOST as f64 / n as f64, seed).1,
        _ => all.clone(),
    };
    let (train, val) = stratified_split(&used, HELD_OUT, seed);
    Dataset { train, val, test: Vec::new(), has_given_val: true, ..dataset.clone() }
}

fn try_out(
    candidate: Candidate,
    settings: &dyn Fn(Strategy, Option<&str>) -> Settings,
    inner: &Dataset,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Trial, LearnError> {
    let began = Instant::now();
    let settings = of(&candidate, settings);
    let context = RunContext { folder: None, resume: false, ..context.clone() };
    let options = RunOptions {
        workers: context.workers,
        precision: settings.precision,
        strictness: Strictness::Skip,
        ..RunOptions::default()
    };
    let (mut logits, mut labels) = (Vec::new(), Vec::new());
    let outcome = stage(watch, format!("trial of {}", named(&candidate)), 0, || {
        let outcome = train_on(inner.clone(), &settings, &context, &Behind(watch))?;
        outcome.model.run(&inner.val, &[], &options, &(), &mut |output| {
            logits.extend(output.values);
            labels.push(inner.val[output.index].label);
        })?;
        Ok::<_, LearnError>(outcome)
    })?;
    let classes = inner.classes.len();
    let loss = scaled_loss(&logits, &labels, classes, temperature(&logits, &labels, classes));
    let metrics = outcome.report.val.as_ref();
    let trial = Trial {
        loss,
        top1: metrics.map_or(0.0, |m| m.top1),
        interval95: metrics.map_or([0.0, 1.0], |m| m.interval95),
        images: metrics.map_or(0, |m| m.samples),
        seconds: began.elapsed().as_secs_f64(),
        candidate,
    };
    watch.event(Event::Note(format!(
        "trial of {}: {:.1}% right of {} held out, log loss {:.3}",
        named(&trial.candidate),
        100.0 * trial.top1,
        trial.images,
        trial.loss
    )));
    Ok(trial)
}

/// Counts what goes on in a trial, whose stages and notes are not the run's.
struct Behind<'a>(&'a dyn Watch);

impl Watch for Behind<'_> {
    fn event(&self, event: Event) {
        if let Event::Advance { .. } = event {
            self.0.event(event);
        }
    }

    fn stops(&self) -> bool {
        self.0.stops()
    }
}

/// Writes `advice.json` into the run's folder.
fn write(choice: &Choice, context: &RunContext) -> Result<(), LearnError> {
    let Some(folder) = &context.folder else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|source| LearnError::Io {
        what: "make",
        path: folder.clone(),
        source,
    })?;
    let json = serde_json::to_string_pretty(choice).expect("numbers serialize");
    RunFolder(Some(folder.clone())).write("advice.json", format!("{json}\n").as_bytes())
}
