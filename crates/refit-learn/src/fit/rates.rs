//! A search for the highest learning rate before a run.

use refit_data::Stream;
use refit_net::{Network, Training};
use serde::{Deserialize, Serialize};

use super::{Feed, FitOptions, State, Step, forward, training_of};
use crate::error::LearnError;
use crate::sampling;
use crate::schedule::{MOMENTUM, Pace};
use crate::settings::TrainingSettings;
use crate::thaw::Thaw;
use crate::watch::{Event, Watch, stage};

/// Rates that are tried, each the same factor above the one before.
const STEPS: usize = 60;
const LOWEST: f64 = 1e-6;
const HIGHEST: f64 = 1.0;

/// The share of itself that the smoothed change keeps at a step.
const SMOOTH: f64 = 0.8;

/// The rate found is the one of the lowest loss divided by this.
const SAFETY: f64 = 10.0;

/// What an exponential range test of the learning rate found (Smith 2017,
/// <https://arxiv.org/abs/1506.01186>).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RateSearch {
    /// The rate found: a tenth of that at which the smoothed loss had fallen most, the usual reading
    /// of such a test (Howard and Gugger 2020, <https://arxiv.org/abs/2002.04688>). None where the loss
    /// never fell.
    pub rate: Option<f64>,
    /// The steps, from the lowest rate up to where the loss had doubled, or to 1.
    pub points: Vec<RatePoint>,
}

/// One step of a range test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RatePoint {
    /// The learning rate of the step.
    pub rate: f64,
    /// The loss of the step's images before it, after all the steps at lower rates.
    pub loss: f64,
    /// The loss of the same images by the network as the test began with it: the difference says what
    /// the steps did, however hard the images are.
    pub before: f64,
    /// The exponential mean of `loss - before`.
    pub change: f64,
}

impl RateSearch {
    fn of(points: Vec<RatePoint>) -> Self {
        let lowest = points.iter().min_by(|a, b| a.change.total_cmp(&b.change));
        let rate = lowest.filter(|p| p.change < 0.0).map(|p| round((p.rate / SAFETY).max(LOWEST)));
        Self { rate, points }
    }
}

/// A number with three digits, as people write it.
fn round(value: f64) -> f64 {
    format!("{value:.2e}").parse().expect("a number that was just written")
}

/// Looks for a learning rate on a copy of `net`, over the steps that `feed` gives first; nothing of
/// the copy remains.
///
/// # Errors
/// If images cannot be read, `watch` stops, or this machine does not have the precision.
pub fn find_rate(
    net: &Network,
    feed: &dyn Feed,
    options: &FitOptions,
    watch: &dyn Watch,
) -> Result<RateSearch, LearnError> {
    options.precision.check()?;
    let every = if feed.is_body() { options.training.thaw_every } else { 0 };
    let net = match every {
        0 => net.clone(),
        _ => Thaw::new(net, every).apply(net, 0)?,
    };
    // Each step's pace gives the rate itself.
    let settings =
        TrainingSettings { learning_rate: 1.0, average: 0.0, ..options.training.clone() };
    let options = FitOptions { training: &settings, resume: false, checkpoints: None, ..*options };
    let training = training_of(&net, feed, &options);
    feed.prepare(&training)?;
    let state = State::begin(net.clone(), &options)?;
    let mut search = Search { training: &training, options: &options, net, state, points: vec![] };
    let images = STEPS * options.training.batch.min(feed.labels().len());
    stage(watch, "learning rate", images, || search.run(feed, watch))?;
    Ok(RateSearch::of(search.points))
}

struct Search<'a> {
    training: &'a Training,
    options: &'a FitOptions<'a>,
    /// The network as the test begins with it.
    net: Network,
    /// The copy that is trained.
    state: State,
    points: Vec<RatePoint>,
}

impl Search<'_> {
    fn run(&mut self, feed: &dyn Feed, watch: &dyn Watch) -> Result<(), LearnError> {
        let (training, options) = (self.training, self.options);
        let mut ended = false;
        for epoch in 0.. {
            let left = STEPS - self.points.len();
            if ended || left == 0 {
                break;
            }
            let mut stream = Stream::new(options.seed, "rate search order", &[epoch]);
            let mut order = sampling::order(feed.labels(), options.balance, &mut stream);
            order.truncate(left * options.training.batch);
            let fed = feed.epoch(training, epoch as usize, order, &mut |step| {
                let items = step.labels.len();
                ended = !self.step(step)?;
                watch.event(Event::Advance { items });
                if ended || watch.stops() { Err(LearnError::Stopped) } else { Ok(()) }
            });
            match fed {
                Err(LearnError::Stopped) if ended => {}
                fed => fed?,
            }
        }
        Ok(())
    }

    /// Tries the next rate; tells whether a higher one is worth a try.
    fn step(&mut self, step: Step) -> Result<bool, LearnError> {
        let (training, options, done) = (self.training, self.options, self.points.len());
        let share = done as f64 / (STEPS - 1) as f64;
        let rate = LOWEST * libm::pow(HIGHEST / LOWEST, share);
        let key = Stream::new(options.seed, "rate search dropout", &[done as u64]).next_u64();
        let (_, before) = forward(&self.net, training, step.clone(), options, key);
        let before = f64::from(before.into_scalar::<f32>());
        let pace = Pace { rate, momentum: MOMENTUM };
        let (loss, norm) = self.state.train_step(training, step, options, key, pace)?;
        let loss = f64::from(loss);
        if !(before.is_finite() && loss.is_finite() && norm.is_finite()) {
            return Ok(false);
        }
        let last = self.points.last().map_or(0.0, |p| p.change);
        let change = SMOOTH * last + (1.0 - SMOOTH) * (loss - before);
        self.points.push(RatePoint { rate, loss, before, change });
        let usual = self.points.iter().map(|p| p.before).sum::<f64>() / (done + 1) as f64;
        Ok(change < usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(changes: &[f64]) -> Vec<RatePoint> {
        let point = |(i, &change): (usize, &f64)| RatePoint {
            rate: 1e-4 * 10_f64.powi(i as i32),
            loss: 1.0 + change,
            before: 1.0,
            change,
        };
        changes.iter().enumerate().map(point).collect()
    }

    #[test]
    fn the_rate_is_a_tenth_of_the_best() {
        let rate = |changes: &[f64]| RateSearch::of(points(changes)).rate;
        assert_eq!(rate(&[0.0, -0.1, -0.4, 0.3]), Some(1e-3));
        assert_eq!(round(3.16227766e-4), 3.16e-4);
        assert_eq!(rate(&[0.0, 0.1, 0.4]), None);
        assert_eq!(rate(&[]), None);
        // No lower than what was tried.
        let mut low = points(&[-0.1]);
        low[0].rate = LOWEST;
        assert_eq!(RateSearch::of(low).rate, Some(LOWEST));
    }
}
