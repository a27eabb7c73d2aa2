//! What is tried next: tree-structured Parzen estimators (Bergstra et al. 2011,
//! <https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization>).

use std::convert::Infallible;

use rand_core::TryRng;
use refit_data::Stream;
use tpe::density_estimation::DefaultEstimatorBuilder;
use tpe::{TpeOptimizer, TpeOptimizerBuilder};

use super::space::{Axis, Parameter, Setup, Space};
use crate::settings::Strategy;

/// Trials that are drawn evenly before their losses guide what follows.
const FIRST: usize = 8;

/// The share of the trials that counts as good. Of few trials, a tenth would be one or two.
const GOOD: f64 = 0.25;

/// Places that are drawn among the good, of which the one that speaks most for itself is taken.
const CANDIDATES: usize = 24;

/// What a trial does, given those before and their losses: first what the strategies do by default,
/// then points drawn evenly, then points that are likelier among the good trials than among the others.
///
/// The same seed, number and losses give the same setup.
pub(super) fn suggest(space: &Space, seed: u64, number: usize, told: &[(&Setup, f64)]) -> Setup {
    let depth_is_searched = space.searched.contains(&Parameter::Depth);
    match number {
        1 => return space.usual(Strategy::Partial),
        2 if depth_is_searched => return space.usual(Strategy::FineTune),
        _ => {}
    }
    let place = |(index, &parameter): (usize, &Parameter)| {
        let stream = Stream::new(seed, "tune", &[number as u64, index as u64]);
        match told.len() < FIRST {
            true => evenly(space.axis(parameter), stream),
            false => guided(space, parameter, stream, told),
        }
    };
    let places: Vec<f64> = space.searched.iter().enumerate().map(place).collect();
    space.setup(&places)
}

fn evenly(axis: Axis, mut stream: Stream) -> f64 {
    match axis {
        Axis::Choices(count) => stream.below(count) as f64,
        Axis::Range(low, high) => stream.range(low, high),
    }
}

fn guided(space: &Space, parameter: Parameter, stream: Stream, told: &[(&Setup, f64)]) -> f64 {
    let mut optimizer = optimizer(space.axis(parameter));
    for (setup, loss) in told {
        let place = space.place(parameter, setup).unwrap_or(f64::NAN);
        optimizer.tell(place, *loss).expect("a place on its axis, and a loss that is a number");
    }
    let Ok(place) = optimizer.ask(&mut Bits(stream));
    place
}

fn optimizer(axis: Axis) -> TpeOptimizer<DefaultEstimatorBuilder> {
    let (estimator, range) = match axis {
        Axis::Choices(count) => (tpe::histogram_estimator(), tpe::categorical_range(count)),
        Axis::Range(low, high) => (tpe::parzen_estimator(), tpe::range(low, high)),
    };
    let mut builder = TpeOptimizerBuilder::new();
    builder.gamma(GOOD).candidates(CANDIDATES);
    builder.build(estimator, range.expect("an axis has places")).expect("settings of this file")
}

/// A stream as `tpe` draws from it.
struct Bits(Stream);

impl TryRng for Bits {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::TuneOptions;
    use super::super::space::ALL;
    use super::*;

    /// The best lies at a rate of 1e-3, in the middle of the network, without SGD.
    fn loss(space: &Space, setup: &Setup) -> f64 {
        let place = |parameter| space.place(parameter, setup).unwrap();
        (place(Parameter::LearningRate) - 1e-3_f64.ln()).powi(2)
            + (place(Parameter::Depth) - 2.0).abs()
            + place(Parameter::Optimizer)
    }

    fn searched(seed: u64, trials: usize) -> Vec<(Setup, f64)> {
        let depths = [ALL, "low", "middle", "top"].map(str::to_owned);
        let space = Space::new(&TuneOptions::default(), &depths);
        let mut tried: Vec<(Setup, f64)> = Vec::new();
        for number in 1..=trials {
            let told: Vec<(&Setup, f64)> = tried.iter().map(|(s, loss)| (s, *loss)).collect();
            let setup = suggest(&space, seed, number, &told);
            let loss = if number == 5 { f64::INFINITY } else { loss(&space, &setup) };
            tried.push((setup, loss));
        }
        tried
    }

    #[test]
    fn losses_guide_the_search() {
        let mean = |trials: &[(Setup, f64)]| {
            let finite = trials.iter().map(|t| t.1).filter(|loss| loss.is_finite());
            finite.clone().sum::<f64>() / finite.count() as f64
        };
        for seed in 0..4 {
            let trials = searched(seed, 40);
            let (early, late) = (mean(&trials[2..FIRST]), mean(&trials[30..]));
            assert!(late < 0.6 * early, "seed {seed}: {early} {late}");
        }
    }

    #[test]
    fn a_seed_gives_one_search() {
        assert_eq!(searched(3, 14), searched(3, 14));
        assert_ne!(searched(3, 14), searched(4, 14));
        let trials = searched(3, 2);
        assert_eq!(trials[0].0.strategy, Strategy::Partial);
        assert_eq!(trials[1].0.strategy, Strategy::FineTune);
        assert_eq!(trials[1].0.values.learning_rate, Some(1e-4));
    }
}
