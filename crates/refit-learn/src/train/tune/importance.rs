//! How much each parameter mattered: PED-ANOVA (Watanabe et al. 2023,
//! <https://arxiv.org/abs/2304.10255>).

use refit_data::Stream;
use serde::{Deserialize, Serialize};

use super::space::{Axis, Parameter, Setup, Space};

/// Trials below which nothing is said.
const FEWEST: usize = 8;

/// The share of the trials that counts as good.
const GOOD: f64 = 0.25;

/// Cells that a range is divided into.
const CELLS: usize = 32;

/// Random choices of trials that the good ones are compared with.
const CHOICES: usize = 999;

/// How much one parameter mattered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Importance {
    /// Which.
    pub parameter: Parameter,
    /// Its share of what all parameters mattered, each by itself, `[0, 1]`.
    pub share: f64,
    /// How likely so much would be by chance, were the good trials any of the trials (a permutation
    /// test), `(0, 1]`.
    pub p_value: f64,
}

/// How far the values of the good trials, a quarter of all, are from those of all: the Pearson
/// divergence of the two densities, which is what a parameter by itself adds to the variance of being
/// among the good. The most important first; empty for fewer than [`FEWEST`] trials.
///
/// Densities are sums of kernels, of the same width for the good as for all, with one even kernel
/// more.
pub(super) fn importance(space: &Space, told: &[(&Setup, f64)], seed: u64) -> Vec<Importance> {
    if told.len() < FEWEST {
        return Vec::new();
    }
    let mut order: Vec<&(&Setup, f64)> = told.iter().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let good = (GOOD * told.len() as f64).ceil() as usize;
    let of = |(index, &parameter): (usize, &Parameter)| {
        let places: Option<Vec<f64>> =
            order.iter().map(|(setup, _)| space.place(parameter, setup)).collect();
        let kernels = kernels(space.axis(parameter), &places?, good);
        let all: Vec<&Vec<f64>> = kernels.iter().collect();
        let all = density(&all);
        let divergence = |chosen: &[&Vec<f64>]| pearson(&density(chosen), &all);
        let found = divergence(&kernels.iter().take(good).collect::<Vec<_>>());
        let by_chance = (0..CHOICES).filter(|choice| {
            let mut stream = Stream::new(seed, "importance", &[index as u64, *choice as u64]);
            let chosen = stream.permutation(kernels.len());
            let chosen: Vec<&Vec<f64>> = chosen[..good].iter().map(|i| &kernels[*i]).collect();
            divergence(&chosen) >= found - 1e-12
        });
        Some((parameter, found, (by_chance.count() + 1) as f64 / (CHOICES + 1) as f64))
    };
    let found: Vec<_> = space.searched.iter().enumerate().filter_map(of).collect();
    let sum: f64 = found.iter().map(|(_, divergence, _)| divergence).sum();
    let mut found: Vec<Importance> = found
        .into_iter()
        .map(|(parameter, divergence, p_value)| {
            let share = if sum > 0.0 { divergence / sum } else { 0.0 };
            Importance { parameter, share, p_value }
        })
        .collect();
    found.sort_by(|a, b| b.share.total_cmp(&a.share));
    found
}

/// For each place how likely each cell is near it.
fn kernels(axis: Axis, places: &[f64], good: usize) -> Vec<Vec<f64>> {
    match axis {
        Axis::Choices(count) => {
            let at = |place: usize| (0..count).map(move |c| f64::from(u8::from(c == place)));
            places.iter().map(|place| at(*place as usize).collect()).collect()
        }
        Axis::Range(low, high) => {
            let width = width(places, good).max((high - low) / CELLS as f64);
            let cell = |i: usize| low + (high - low) * (i as f64 + 0.5) / CELLS as f64;
            let kernel = |place: &f64| {
                let near = |i| (-0.5 * ((cell(i) - place) / width).powi(2)).exp();
                let values: Vec<f64> = (0..CELLS).map(near).collect();
                let sum: f64 = values.iter().sum();
                values.into_iter().map(|v| v / sum).collect()
            };
            places.iter().map(kernel).collect()
        }
    }
}

/// Scott's rule (1992) for as many places as are good.
fn width(places: &[f64], good: usize) -> f64 {
    let n = places.len() as f64;
    let mean = places.iter().sum::<f64>() / n;
    let variance = places.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / (n - 1.0);
    variance.sqrt() * (good as f64).powf(-0.2)
}

/// The mean of kernels and of an even one.
fn density(kernels: &[&Vec<f64>]) -> Vec<f64> {
    let cells = kernels.first().map_or(0, |k| k.len());
    let at = |cell: usize| kernels.iter().map(|k| k[cell]).sum::<f64>();
    (0..cells).map(|c| (at(c) + 1.0 / cells as f64) / (kernels.len() as f64 + 1.0)).collect()
}

fn pearson(good: &[f64], all: &[f64]) -> f64 {
    good.iter().zip(all).map(|(g, a)| a * (g / a - 1.0).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::TuneOptions;
    use super::super::sampler::suggest;
    use super::super::space::ALL;
    use super::*;

    fn space() -> Space {
        Space::new(&TuneOptions::default(), &[ALL, "low", "middle", "top"].map(str::to_owned))
    }

    /// Setups drawn evenly.
    fn setups(space: &Space, count: usize) -> Vec<Setup> {
        (3..count + 3).map(|number| suggest(space, 1, number, &[])).collect()
    }

    #[test]
    fn what_decides_the_loss_is_found() {
        let space = space();
        let setups = setups(&space, 200);
        let loss = |s: &Setup| {
            let place = |parameter| space.place(parameter, s).unwrap();
            // The optimizer counts as half of the rate's range.
            (place(Parameter::LearningRate) + 6.0).abs() + 3.0 * place(Parameter::Optimizer)
        };
        let told: Vec<(&Setup, f64)> = setups.iter().map(|s| (s, loss(s))).collect();
        let found = importance(&space, &told, 0);
        assert_eq!(found.len(), 8);
        assert!((found.iter().map(|i| i.share).sum::<f64>() - 1.0).abs() < 1e-9);
        let first: Vec<Parameter> = found[..2].iter().map(|i| i.parameter).collect();
        assert!(first.contains(&Parameter::LearningRate), "{found:?}");
        assert!(first.contains(&Parameter::Optimizer), "{found:?}");
        assert!(found[..2].iter().all(|i| i.p_value < 0.01), "{found:?}");
        assert!(found[0].share + found[1].share > 0.6, "{found:?}");
    }

    #[test]
    fn chance_is_told_from_importance() {
        let space = space();
        let setups = setups(&space, 40);
        let told: Vec<(&Setup, f64)> = setups
            .iter()
            .enumerate()
            .map(|(i, s)| (s, Stream::new(9, "loss", &[i as u64]).uniform()))
            .collect();
        let found = importance(&space, &told, 0);
        let real = found.iter().filter(|i| i.p_value < 0.01).count();
        assert_eq!(real, 0, "{found:?}");
        assert_eq!(found, importance(&space, &told, 0));
    }

    #[test]
    fn few_trials_say_nothing_and_equal_ones_hold() {
        let space = space();
        let setups = setups(&space, FEWEST);
        let told: Vec<(&Setup, f64)> = setups.iter().map(|s| (s, f64::INFINITY)).collect();
        assert!(importance(&space, &told[1..], 0).is_empty());
        let same: Vec<(&Setup, f64)> = (0..9).map(|_| (&setups[0], 1.0)).collect();
        for found in importance(&space, &same, 0) {
            assert!(found.share.is_finite() && found.p_value == 1.0, "{found:?}");
        }
    }
}
