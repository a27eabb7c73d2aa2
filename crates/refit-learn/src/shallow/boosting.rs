//! Gradient boosting (Friedman 2001, <https://doi.org/10.1214/aos/1013203451>) of the softmax's
//! cross-entropy: one tree a round for all classes, grown on what is left of the targets, whose leaves
//! take a Newton step.

use rayon::prelude::*;
use refit_data::Stream;
use refit_net::TreeOutput;

use super::bins::Binned;
use super::held_out::{folds, least, loss, summed};
use super::tree::{Limits, Soil, Tree, ensemble};
use super::{Examples, Fitted};

/// The share of a Newton step that a round takes.
const RATE: f64 = 0.15;
/// Added to a leaf's curvature, in rows.
const DAMPING: f64 = 1.0;
/// Rounds at most, and rounds without a lower loss after which there are no more.
const ROUNDS: usize = 200;
const PATIENCE: usize = 15;
/// Depths that are tried.
const DEPTHS: [usize; 2] = [2, 4];
/// The share of the features that a tree may ask, and the fewest.
const SHARE: usize = 10;
const FEWEST: usize = 64;
/// The weight of a leaf's rows.
const LEAF: f64 = 4.0;

/// Fits trees; depth and rounds are those of the least loss on images held out.
pub(super) fn fit(examples: &Examples, seed: u64) -> Fitted {
    let binned = Binned::new(examples.features, examples.len());
    let folds = folds(examples, seed);
    let jobs: Vec<(usize, usize)> =
        DEPTHS.iter().flat_map(|&depth| (0..folds.len()).map(move |fold| (depth, fold))).collect();
    let tried = jobs.par_iter().map(|&(depth, fold)| {
        let [own, held] = &folds[fold];
        let mut boosting = Boosting::new(examples, &binned, own.clone(), depth, seed);
        boosting.losses(held)
    });
    let tried: Vec<Vec<[f64; 2]>> = tried.collect();
    let mut curve: Vec<[f64; 2]> = Vec::new();
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (depth, of_folds) in DEPTHS.iter().zip(tried.chunks(folds.len().max(1))) {
        let losses = summed(of_folds.to_vec());
        places.extend((1..=losses.len()).map(|rounds| (*depth, rounds)));
        curve.extend(losses);
    }
    let (depth, rounds) = places.get(least(&curve)).copied().unwrap_or((DEPTHS[0], PATIENCE));
    let all = (0..examples.len()).collect();
    let mut boosting = Boosting::new(examples, &binned, all, depth, seed);
    (0..rounds).for_each(|_| boosting.round());
    let chosen = format!("{rounds} trees of depth {depth}");
    ensemble(&boosting.trees, boosting.base, TreeOutput::Logits, chosen)
}

struct Boosting<'a> {
    examples: &'a Examples<'a>,
    binned: &'a Binned,
    /// What it learns from, rising.
    rows: Vec<usize>,
    depth: usize,
    seed: u64,
    base: Vec<f32>,
    /// Of all rows.
    logits: Vec<f32>,
    trees: Vec<Tree>,
}

impl<'a> Boosting<'a> {
    fn new(
        examples: &'a Examples<'a>,
        binned: &'a Binned,
        rows: Vec<usize>,
        depth: usize,
        seed: u64,
    ) -> Self {
        let prior = examples.prior(&rows).into_iter();
        let base: Vec<f32> = prior.map(|p| p.max(1e-6).ln() as f32).collect();
        let logits = base.repeat(examples.len());
        Self { examples, binned, rows, depth, seed, base, logits, trees: Vec::new() }
    }

    fn probabilities(&self, row: usize) -> Vec<f64> {
        let classes = self.examples.classes;
        softmax(&self.logits[row * classes..][..classes])
    }

    /// Grows one tree more.
    fn round(&mut self) {
        let Self { examples, binned, .. } = *self;
        let (classes, weights) = (examples.classes, examples.weights);
        let mut residuals = vec![0.0; examples.len() * classes];
        let mut curvatures = vec![0.0; examples.len() * classes];
        for &row in &self.rows {
            let p = self.probabilities(row);
            for (class, (p, t)) in p.iter().zip(examples.target(row)).enumerate() {
                residuals[row * classes + class] = t - *p as f32;
                curvatures[row * classes + class] = (p * (1.0 - p)) as f32;
            }
        }
        let soil = Soil { binned, targets: &residuals, weights, classes };
        let asked = self.asked();
        let step = |rows: &[usize]| -> Vec<f32> {
            let sum = |of: &[f32], class: usize| -> f64 {
                let value =
                    |&row: &usize| f64::from(weights[row]) * f64::from(of[row * classes + class]);
                rows.iter().map(value).sum()
            };
            // The softmax does not change where all logits rise alike: of `k` steps, one is idle.
            let share = RATE * (classes - 1) as f64 / classes as f64;
            let newton = |c| share * sum(&residuals, c) / (sum(&curvatures, c) + DAMPING);
            (0..classes).map(|class| newton(class) as f32).collect()
        };
        let limits = Limits { depth: self.depth, leaf: LEAF.min(self.rows.len() as f64 / 8.0) };
        let tree = Tree::grow(&soil, self.rows.clone(), limits, &mut || asked.clone(), &step);
        for (row, logits) in self.logits.chunks_exact_mut(classes).enumerate() {
            let told = tree.tell(binned, row);
            logits.iter_mut().zip(told).for_each(|(logit, v)| *logit += v);
        }
        self.trees.push(tree);
    }

    /// The features that the next tree may ask.
    fn asked(&self) -> Vec<usize> {
        let mut features: Vec<usize> = (0..self.binned.dim()).collect();
        let count = (features.len() / SHARE).max(FEWEST);
        if count < features.len() {
            Stream::new(self.seed, "boosting", &[self.trees.len() as u64]).shuffle(&mut features);
            features.truncate(count);
            features.sort_unstable();
        }
        features
    }

    /// Losses on rows held out, round by round, until they no longer fall.
    fn losses(&mut self, held: &[usize]) -> Vec<[f64; 2]> {
        let mut losses: Vec<[f64; 2]> = Vec::new();
        while losses.len() < ROUNDS && losses.len() <= least(&losses) + PATIENCE {
            self.round();
            losses.push(loss(self.examples, held, |row| self.probabilities(row)));
        }
        losses
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let exp: Vec<f64> = logits.iter().map(|v| f64::from(v - most).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|v| v / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shallow::tests::Blobs;

    #[test]
    fn every_round_lowers_the_training_loss() {
        let blobs = Blobs::new(60, 5, 4, 2.5);
        let examples = blobs.examples();
        let binned = Binned::new(examples.features, examples.len());
        let all: Vec<usize> = (0..examples.len()).collect();
        let mut boosting = Boosting::new(&examples, &binned, all.clone(), 3, 0);
        let mut before = f64::INFINITY;
        for round in 0..60 {
            let [sum, weight] = loss(&examples, &all, |row| boosting.probabilities(row));
            assert!(sum / weight < before, "round {round}: {} after {before}", sum / weight);
            before = sum / weight;
            boosting.round();
        }
        // It began with the logarithm of four.
        assert!(before < 0.4, "{before} in the end");
    }

    #[test]
    fn it_begins_with_the_shares_of_the_classes() {
        let blobs = Blobs::new(9, 2, 3, 1.0);
        let examples = Examples { weights: &[1.0; 18], ..blobs.examples() };
        let binned = Binned::new(examples.features, 18);
        // Two images of class 0, one of class 1.
        let boosting = Boosting::new(&examples, &binned, vec![0, 1, 2, 3, 6, 7], 2, 0);
        let p = boosting.probabilities(0);
        assert!((p[0] - 2.0 / 3.0).abs() < 1e-5 && (p[1] - 1.0 / 3.0).abs() < 1e-5, "{p:?}");
    }
}
