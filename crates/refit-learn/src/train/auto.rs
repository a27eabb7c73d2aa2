//! `auto`: advice, trials of the two best strategies and of `features`, and the run that they speak
//! for.

use std::time::Instant;

use burn::tensor::Device;
use refit_data::{Dataset, Sample, stratified_split};
use refit_net::{Network, Precision};
use serde::{Deserialize, Serialize};

use super::advise::share_above;
use super::folder::RunFolder;
use super::start::{open_dataset, starting_point};
use super::{Beginning, Outcome, Run, RunContext, run_options, train_on};
use crate::advice::{Advice, Candidate, in_words, mirroring};
use crate::calibrate::{scaled_loss, temperature};
use crate::error::LearnError;
use crate::metrics::Metrics;
use crate::settings::{Mirror, Settings, Strategy, TrainingSettings};
use crate::watch::{Event, Watch, stage};

/// The share of the training images that trials are judged by.
const HELD_OUT: f64 = 0.25;

/// Training images that trials use at most.
const MOST: usize = 2000;

/// Multiply-adds of a candidate's passes forward, over all its epochs (with fixed views, those of the
/// frozen part once a view), up to which it is tried where no
/// time budget is given: about half an hour on two cores. Nothing is timed for it, so that one seed
/// gives the same run on any machine.
const WORK: f64 = 2e13;

/// How a strategy did in a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What was tried.
    pub candidate: Candidate,
    /// The mean log loss on the images held out, at the best temperature: what trials are compared
    /// by, since on few images it tells more than the accuracy; infinite (`null` in JSON) where the
    /// loss diverged.
    #[serde(deserialize_with = "infinite")]
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

/// JSON knows no infinity: it is written as `null`.
pub(super) fn infinite<'de, D: serde::Deserializer<'de>>(loss: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(loss)?.unwrap_or(f64::INFINITY))
}

/// Why a run does what it does: the content of `advice.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// What was measured before.
    pub advice: Advice,
    /// What was tried, the lowest loss first.
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
    let start = starting_point(&plain, &Device::flex(), watch)?;
    let training = |strategy| settings(strategy, None).training;
    let (advice, images) = {
        let run = Run::to_measure(&plain, context, watch, dataset.clone());
        run.advise(&start, &training)?
    };
    watch.event(Event::Note(format!("advice: {}", advice.conclusion.rule)));
    let confused = !advice.mirroring.is_empty();
    if confused {
        let found = mirroring::in_words(&advice.mirroring, &dataset.classes, "mirroring");
        watch.event(Event::Warning(format!(
            "{found}: training leaves it out; --mirror always does it nevertheless"
        )));
    }
    // What the advice has found out holds for trials, on fewer images, and the run.
    let settings = &|strategy: Strategy, from: Option<&str>| {
        let settings = settings(strategy, from);
        match settings.mirror {
            Mirror::Auto if confused => settings.unmirrored(),
            _ => settings,
        }
    };
    let means = Means {
        network: &start.network,
        work: images.train.len() as f64 * start.network.multiply_adds() as f64,
        training: &training,
        left: plain.time_budget.map(|budget| budget - started.elapsed().as_secs_f64()),
    };
    let inner = inner_split(&dataset, images.train, plain.seed);
    let candidates = match inner.val.is_empty() {
        true => {
            watch.event(Event::Note("no trials: no class has an image to spare for them".into()));
            vec![]
        }
        false => means.affordable(&advice, watch),
    };
    let mut trials = Vec::new();
    if candidates.len() > 1 {
        let trying = Trying { settings, inner: &inner, context, watch, started };
        for candidate in candidates {
            trials.push(trying.out(candidate)?);
        }
    }
    let chosen =
        choose(&trials).map_or_else(|| features(&advice), |best| best.trial.candidate.clone());
    watch.event(Event::Note(format!("strategy: {}", named(&chosen))));
    let mut trials: Vec<Trial> = trials.into_iter().map(|tried| tried.trial).collect();
    trials.sort_by(|a, b| a.loss.total_cmp(&b.loss));
    let choice = Choice { advice, trials, chosen };
    let settings = of(&choice.chosen, settings);
    let json = serde_json::to_string_pretty(&choice).expect("numbers serialize");
    let beginning = Beginning { started, advice: Some(json + "\n"), ..Beginning::now() };
    let outcome = train_on(dataset, &settings, context, watch, &beginning)?;
    Ok((choice, outcome))
}

/// What may be tried.
struct Means<'a> {
    network: &'a Network,
    /// Multiply-adds of a pass over the training images.
    work: f64,
    /// The training settings of a strategy.
    training: &'a dyn Fn(Strategy) -> TrainingSettings,
    /// Seconds that are left, if there is a budget.
    left: Option<f64>,
}

impl Means<'_> {
    /// What is tried: `features` and the advised strategies, as far as there is time for them.
    fn affordable(&self, advice: &Advice, watch: &dyn Watch) -> Vec<Candidate> {
        let mut candidates = vec![features(advice)];
        let advised = advice.conclusion.candidates.iter();
        for candidate in advised.filter(|c| c.strategy != Strategy::Features) {
            let trials: f64 = candidates.iter().map(|c| c.seconds).sum();
            // Its own trial, and perhaps the run.
            let fits = match self.left {
                Some(left) => trials + 2.0 * candidate.seconds <= left,
                None => self.passes(candidate) * self.work <= WORK,
            };
            if fits {
                candidates.push(candidate.clone());
                continue;
            }
            watch.event(Event::Note(format!(
                "{} is not tried: it would take about {}; --time-budget allows more",
                named(candidate),
                in_words(candidate.seconds)
            )));
        }
        candidates
    }

    /// Passes forward through the whole network that a candidate's epochs amount to, for each image.
    fn passes(&self, Candidate { strategy, unfreeze_from, .. }: &Candidate) -> f64 {
        let TrainingSettings { epochs, fixed_views, .. } = (self.training)(*strategy);
        let trained = unfreeze_from.as_deref().map_or(1.0, |from| share_above(self.network, from));
        match fixed_views {
            0 => epochs as f64,
            views => epochs as f64 * trained + views as f64 * (1.0 - trained),
        }
    }
}

fn features(advice: &Advice) -> Candidate {
    let known = advice.conclusion.candidates.iter().find(|c| c.strategy == Strategy::Features);
    let seconds = known.map_or(0.0, |c| c.seconds);
    Candidate { strategy: Strategy::Features, unfreeze_from: None, seconds }
}

/// The settings of a candidate: the head that it begins with competes, and where nothing is frozen,
/// everything computes in f32.
fn of(candidate: &Candidate, settings: &dyn Fn(Strategy, Option<&str>) -> Settings) -> Settings {
    let settings = settings(candidate.strategy, candidate.unfreeze_from.as_deref());
    let floor = candidate.strategy.trains_body();
    match candidate.strategy.runs_frozen() {
        true => Settings { floor, ..settings },
        false => Settings { floor, precision: Precision::F32, ..settings },
    }
}

/// A strategy as people name it.
fn named(candidate: &Candidate) -> String {
    match &candidate.unfreeze_from {
        Some(layer) => format!("{} from `{layer}` on", candidate.strategy),
        None => candidate.strategy.to_string(),
    }
}

/// The readable training images alone, some of them held out.
pub(super) fn inner_split(dataset: &Dataset, readable: Vec<Sample>, seed: u64) -> Dataset {
    let used = match readable.len() {
        n if n > MOST => stratified_split(&readable, MOST as f64 / n as f64, seed).1,
        _ => readable,
    };
    let (train, val) = stratified_split(&used, HELD_OUT, seed);
    Dataset { train, val, test: Vec::new(), has_given_val: true, ..dataset.clone() }
}

/// A trial, and the loss of each image held out.
struct Tried {
    trial: Trial,
    losses: Vec<f64>,
}

/// The trial with the lowest loss; but `features`, the first, unless another is better by more than
/// one standard error of the difference, image by image (after Breiman et al. 1984): what trains
/// longer has also chosen its epoch by these images.
fn choose(trials: &[Tried]) -> Option<&Tried> {
    let (first, others) = trials.split_first()?;
    let best = others.iter().min_by(|a, b| a.trial.loss.total_cmp(&b.trial.loss));
    Some(best.filter(|best| is_lower(&best.losses, &first.losses)).unwrap_or(first))
}

/// Whether the mean of `a` is lower than that of `b` by more than the standard error of their paired
/// differences.
pub(super) fn is_lower(a: &[f64], b: &[f64]) -> bool {
    let n = a.len() as f64;
    if a.len() != b.len() || a.len() < 2 {
        return false;
    }
    let differences: Vec<f64> = b.iter().zip(a).map(|(b, a)| b - a).collect();
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    mean > (variance / n).sqrt()
}

/// What trials are carried out with.
struct Trying<'a> {
    settings: &'a dyn Fn(Strategy, Option<&str>) -> Settings,
    inner: &'a Dataset,
    context: &'a RunContext,
    watch: &'a dyn Watch,
    started: Instant,
}

impl Trying<'_> {
    fn out(&self, candidate: Candidate) -> Result<Tried, LearnError> {
        let began = Instant::now();
        let mut settings = of(&candidate, self.settings);
        // Trials leave the run half of the time.
        settings.time_budget = settings.time_budget.map(|budget| 0.5 * budget);
        let name = format!("trial of {}", named(&candidate));
        let told = (self.watch, self.started);
        let held = hold_out(&name, &settings, self.inner, self.context, told)?;
        let metrics = held.metrics.as_ref();
        let trial = Trial {
            loss: held.loss(),
            top1: metrics.map_or(0.0, |m| m.top1),
            interval95: metrics.map_or([0.0, 1.0], |m| m.interval95),
            images: metrics.map_or(0, |m| m.samples),
            seconds: began.elapsed().as_secs_f64(),
            candidate,
        };
        if metrics.is_some() {
            self.watch.event(Event::Note(format!(
                "{name}: {:.1}% right of {} held out, log loss {:.3}",
                100.0 * trial.top1,
                trial.images,
                trial.loss
            )));
        }
        Ok(Tried { trial, losses: held.losses })
    }
}

/// How a run did on the images held out.
pub(super) struct HeldOut {
    /// The log loss of each, at the best temperature; empty where training diverged.
    pub losses: Vec<f64>,
    /// None where training diverged.
    pub metrics: Option<Metrics>,
    /// Epochs that it trained.
    pub epochs: usize,
}

impl HeldOut {
    /// The mean loss; infinite where training diverged.
    fn loss(&self) -> f64 {
        match self.losses.len() {
            0 => f64::INFINITY,
            count => self.losses.iter().sum::<f64>() / count as f64,
        }
    }
}

/// Carries out a run without a folder, which is told `watch` as one stage and began at `started`, and
/// judges it by the images held out.
pub(super) fn hold_out(
    name: &str,
    settings: &Settings,
    inner: &Dataset,
    context: &RunContext,
    (watch, started): (&dyn Watch, Instant),
) -> Result<HeldOut, LearnError> {
    let context = RunContext { folder: None, resume: false, ..context.clone() };
    let options = run_options(settings, &context);
    let (mut logits, mut labels) = (Vec::new(), Vec::new());
    let epochs = stage(watch, name, 0, || {
        let beginning = Beginning { started, is_trial: true, ..Beginning::now() };
        let outcome = train_on(inner.clone(), settings, &context, &Behind(watch), &beginning)?;
        outcome.model.run(&inner.val, &[], &options, &(), &mut |output| {
            logits.extend(output.values);
            labels.push(inner.val[output.index].label);
        })?;
        Ok(outcome.history.len())
    });
    let epochs = match epochs {
        Err(error @ LearnError::Diverged { epoch, .. }) => {
            watch.event(Event::Warning(format!("{name}: {error}")));
            (logits, labels) = (Vec::new(), Vec::new());
            epoch
        }
        epochs => epochs?,
    };
    let classes = inner.classes.len();
    let heat = temperature(&logits, &labels, classes);
    let rows = logits.chunks_exact(classes).zip(&labels);
    let losses = rows.map(|(row, label)| scaled_loss(row, &[*label], classes, heat)).collect();
    let metrics = Metrics::from_logits(&logits, &labels, &inner.classes);
    Ok(HeldOut { losses, metrics, epochs })
}

/// Counts what goes on in a trial, whose stages and notes are not the run's.
pub(super) struct Behind<'a>(pub &'a dyn Watch);

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

#[cfg(test)]
mod tests {
    use super::is_lower;

    #[test]
    fn a_difference_must_exceed_its_standard_error() {
        let base = [1.0, 2.0, 0.5, 0.1, 3.0, 0.2];
        let lower = base.map(|x| x - 0.05);
        assert!(is_lower(&lower, &base) && !is_lower(&base, &lower));
        // Lower in the mean, but by one image alone.
        let mut once = base;
        once[4] = 2.0;
        assert!(!is_lower(&once, &base));
        assert!(!is_lower(&[], &[]) && !is_lower(&[1.0], &[2.0]));
        assert!(!is_lower(&[], &base));
    }
}
