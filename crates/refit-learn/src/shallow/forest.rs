//! Random forests (Breiman 2001, <https://doi.org/10.1023/A:1010933404324>): trees on images drawn
//! with replacement, each split asking a few features; what they tell is averaged.

use rayon::prelude::*;
use refit_data::Stream;
use refit_net::TreeOutput;

use super::bins::Binned;
use super::held_out::{folds, least, loss, summed};
use super::tree::{Limits, Soil, Tree, ensemble};
use super::{Examples, Fitted};

/// Trees of a forest, and of those that a size is chosen by.
const TREES: usize = 200;
const TRIED: usize = 50;
/// Splits above each other.
const DEPTH: usize = 24;
/// Weights of a leaf's rows that are tried.
const LEAVES: [f64; 3] = [8.0, 4.0, 1.0];
/// Nodes that a layer of trees may have.
const MOST_NODES: f64 = (1 << 24) as f64;
/// The share of what is known of all classes in every answer, so that none is impossible.
const PRIOR: f64 = 0.01;

/// Fits a forest; the size of its leaves is that of the least loss on images held out.
pub(super) fn fit(examples: &Examples, seed: u64) -> Fitted {
    let binned = Binned::new(examples.features, examples.len());
    let folds = folds(examples, seed);
    let mut losses = Vec::new();
    let leaves = leaves(examples.len());
    for &leaf in &leaves {
        let of_fold = |[own, held]: &[Vec<usize>; 2]| {
            let trees = grow(examples, &binned, own, leaf, TRIED, seed);
            let prior = examples.prior(own);
            vec![loss(examples, held, |row| answer(&trees, &binned, &prior, row))]
        };
        losses.extend(summed(folds.iter().map(of_fold).collect::<Vec<_>>()));
    }
    let leaf = leaves.get(least(&losses)).copied().unwrap_or(leaves[0]);
    let all: Vec<usize> = (0..examples.len()).collect();
    let trees = grow(examples, &binned, &all, leaf, TREES, seed);
    let base = examples.prior(&all).iter().map(|p| (PRIOR * p) as f32).collect();
    let chosen = format!("{TREES} trees with leaves of {leaf} rows or more");
    ensemble(&trees, base, TreeOutput::Probabilities, chosen)
}

/// The sizes of leaves with which trees on so many rows have no more nodes than a layer may have.
fn leaves(rows: usize) -> Vec<f64> {
    let least = (2 * TREES * rows) as f64 / MOST_NODES;
    let fit: Vec<f64> = LEAVES.into_iter().filter(|leaf| *leaf >= least).collect();
    if fit.is_empty() { vec![least.ceil()] } else { fit }
}

/// Grows trees whose leaves tell their share of the whole forest's answer.
fn grow(
    examples: &Examples,
    binned: &Binned,
    rows: &[usize],
    leaf: f64,
    count: usize,
    seed: u64,
) -> Vec<Tree> {
    let classes = examples.classes;
    let mut images: Vec<usize> = rows.iter().map(|&row| examples.groups[row]).collect();
    images.sort_unstable();
    images.dedup();
    let most = examples.groups.iter().max().map_or(0, |most| most + 1);
    let asked = (binned.dim() as f64).sqrt().ceil() as usize;
    let tree = |number: usize| {
        let mut random = Stream::new(seed, "forest", &[number as u64]);
        let mut times = vec![0.0; most];
        images.iter().for_each(|_| times[images[random.below(images.len())]] += 1.0);
        let weight = |(w, group): (&f32, &usize)| w * times[*group];
        let weights: Vec<f32> = examples.weights.iter().zip(examples.groups).map(weight).collect();
        let drawn = rows.iter().copied().filter(|&row| weights[row] > 0.0).collect();
        let soil = Soil { binned, targets: examples.targets, weights: &weights, classes };
        let scale = (1.0 - PRIOR) / count as f64;
        let mean = |rows: &[usize]| -> Vec<f32> {
            let total: f64 = rows.iter().map(|&row| f64::from(weights[row])).sum();
            let of = |class: usize| -> f64 {
                let value =
                    |&row: &usize| f64::from(weights[row]) * f64::from(examples.target(row)[class]);
                rows.iter().map(value).sum()
            };
            (0..classes).map(|class| (scale * of(class) / total) as f32).collect()
        };
        let mut draw = || {
            let mut features: Vec<usize> = (0..asked).map(|_| random.below(binned.dim())).collect();
            features.sort_unstable();
            features.dedup();
            features
        };
        Tree::grow(&soil, drawn, Limits { depth: DEPTH, leaf }, &mut draw, &mean)
    };
    (0..count).into_par_iter().map(tree).collect()
}

/// What a forest says of a row.
fn answer(trees: &[Tree], binned: &Binned, prior: &[f64], row: usize) -> Vec<f64> {
    let mut sum: Vec<f64> = prior.iter().map(|p| PRIOR * p).collect();
    for tree in trees {
        let told = tree.tell(binned, row);
        sum.iter_mut().zip(told).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shallow::tests::Blobs;

    #[test]
    fn more_rows_take_larger_leaves() {
        assert_eq!(leaves(10_000), LEAVES);
        assert_eq!(leaves(66_000), [8.0, 4.0]);
        assert_eq!(leaves(1_000_000), [24.0]);
    }

    #[test]
    fn answers_are_distributions_and_trees_differ() {
        let blobs = Blobs::new(20, 9, 3, 1.5);
        let examples = blobs.examples();
        let binned = Binned::new(examples.features, examples.len());
        let rows: Vec<usize> = (0..40).collect();
        let trees = grow(&examples, &binned, &rows, 2.0, 7, 1);
        assert!(trees.windows(2).all(|pair| pair[0] != pair[1]));
        let prior = examples.prior(&rows);
        for row in 0..40 {
            let sum: f64 = answer(&trees, &binned, &prior, row).iter().sum();
            assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }
    }
}
