//! The k nearest neighbours (Cover and Hart 1967, <https://doi.org/10.1109/TIT.1967.1053964>), each
//! voting with the distribution that it has.

use rayon::prelude::*;
use refit_net::{Layer, Neighbours, direction, dot};

use super::held_out::{folds, least, loss, summed};
use super::{Examples, Fitted};
use crate::subsets::evenly;

/// Numbers of neighbours that are tried.
const K: [usize; 7] = [1, 3, 5, 9, 15, 25, 49];
/// Rows of a fold that a number is chosen by, at most.
const JUDGED: usize = 400;

/// Keeps the rows; how many of them vote is what gives the least loss on images held out.
pub(super) fn fit(examples: &Examples, seed: u64) -> Fitted {
    let (mean, scale) = standard(examples);
    let rows: Vec<Vec<f32>> = (0..examples.len())
        .into_par_iter()
        .map(|row| direction(examples.row(row), &mean, &scale))
        .collect();
    let folds = folds(examples, seed);
    let of_fold = |[own, held]: &[Vec<usize>; 2]| {
        let held: Vec<usize> = evenly(held.len(), JUDGED).into_iter().map(|at| held[at]).collect();
        let prior = examples.prior(own);
        let nearest: Vec<Vec<usize>> =
            held.par_iter().map(|&row| nearest(&rows, own, &rows[row])).collect();
        let place = |row: usize| held.partition_point(|h| *h < row);
        let judged = K.iter().filter(|k| **k <= own.len());
        let vote = |k: usize, row| votes(examples, &nearest[place(row)][..k], &prior);
        judged.map(|&k| loss(examples, &held, |row| vote(k, row))).collect()
    };
    let losses = summed(folds.iter().map(of_fold).collect::<Vec<_>>());
    let k = K[least(&losses)].min(examples.len());
    let all: Vec<usize> = (0..examples.len()).collect();
    let prior = examples.prior(&all).iter().map(|p| *p as f32).collect();
    let labels = all
        .iter()
        .flat_map(|&row| examples.target(row).iter().map(move |t| t * examples.weights[row]));
    let layer = Neighbours { rows: rows.len(), k, classes: examples.classes };
    Fitted {
        layer: Layer::Neighbours(layer),
        values: vec![mean, scale, rows.concat(), labels.collect(), prior],
        chosen: format!("{k} neighbours of {} rows", rows.len()),
    }
}

/// The mean of each feature, and what makes its deviation 1; 0 where it has none.
fn standard(examples: &Examples) -> (Vec<f32>, Vec<f32>) {
    let (n, dim) = (examples.len() as f64, examples.dim());
    let mut mean = vec![0.0; dim];
    let mut square = vec![0.0; dim];
    for row in 0..examples.len() {
        mean.iter_mut().zip(examples.row(row)).for_each(|(m, v)| *m += f64::from(*v) / n);
    }
    for row in 0..examples.len() {
        let pairs = square.iter_mut().zip(examples.row(row)).zip(&mean);
        pairs.for_each(|((s, v), m)| *s += (f64::from(*v) - m).powi(2) / n);
    }
    let scale =
        |variance: &f64| if *variance > 1e-12 { (1.0 / variance.sqrt()) as f32 } else { 0.0 };
    (mean.iter().map(|m| *m as f32).collect(), square.iter().map(scale).collect())
}

/// Some rows by how near they are, the nearest first, as many as any number asks for.
fn nearest(rows: &[Vec<f32>], some: &[usize], to: &[f32]) -> Vec<usize> {
    let mut near: Vec<(f32, usize)> = some.iter().map(|&row| (dot(&rows[row], to), row)).collect();
    near.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    near.into_iter().take(K[K.len() - 1]).map(|(_, row)| row).collect()
}

/// The distribution that some rows vote for, as the layer counts.
fn votes(examples: &Examples, voters: &[usize], prior: &[f64]) -> Vec<f64> {
    let mut sums = prior.to_vec();
    for &row in voters {
        let weight = f64::from(examples.weights[row]);
        sums.iter_mut().zip(examples.target(row)).for_each(|(s, t)| *s += weight * f64::from(*t));
    }
    let total: f64 = sums.iter().sum();
    sums.iter().map(|s| s / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shallow::tests::Blobs;

    #[test]
    fn features_are_standardized_and_constant_ones_do_not_count() {
        let mut blobs = Blobs::new(12, 3, 2, 1.0);
        blobs.features.iter_mut().skip(1).step_by(3).for_each(|v| *v = 7.0);
        let (mean, scale) = standard(&blobs.examples());
        assert_eq!((mean[1], scale[1]), (7.0, 0.0));
        let spread = |d: usize| {
            let column = blobs.features.iter().skip(d).step_by(3);
            column.map(|v| ((v - mean[d]) * scale[d]).powi(2)).sum::<f32>() / 24.0
        };
        assert!((spread(0) - 1.0).abs() < 1e-4 && (spread(2) - 1.0).abs() < 1e-4);
    }

    #[test]
    fn few_rows_have_few_voters() {
        let blobs = Blobs::new(4, 3, 2, 0.1);
        let Layer::Neighbours(layer) = fit(&blobs.examples(), 0).layer else {
            panic!("neighbours")
        };
        assert!(layer.k <= 5 && layer.rows == 8, "{layer:?}");
    }
}
