//! How well features carry over to new classes, told before anything is trained.

use serde::{Deserialize, Serialize};

/// Scores of the features at one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transferability {
    /// The layer.
    pub layer: String,
    /// [`log_me`]; only differences between layers and networks on the same images mean something.
    pub log_me: f64,
    /// [`neighbour_accuracy`] of five neighbours, `[0, 1]`.
    pub neighbours: f64,
}

/// Neighbours that vote.
pub const NEIGHBOURS: usize = 5;

/// The logarithm of the labels' evidence given the features, a sample and class that occurs (LogME: You
/// et al. 2021, <https://arxiv.org/abs/2102.11005>): the larger, the better a linear head will do.
///
/// `features` are `[n, dim]`, row-major, and `labels` `[n]`, below `classes`. Work and memory grow as
/// `n^3` and `n^2`: some hundred samples are enough.
///
/// # Panics
/// If there are no samples, or lengths don't fit.
pub fn log_me(features: &[f32], labels: &[usize], classes: usize) -> f64 {
    let n = labels.len();
    assert!(n > 0 && features.len().is_multiple_of(n), "log_me: {n} rows");
    let dim = features.len() / n;
    let gram = |i: usize, j: usize| -> f64 {
        let (a, b) = (&features[i * dim..][..dim], &features[j * dim..][..dim]);
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let mut matrix = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let value = gram(i, j);
            (matrix[i * n + j], matrix[j * n + i]) = (value, value);
        }
    }
    let (squares, vectors) = eigen(matrix, n);
    let class = |class: usize| {
        let turned = |k: usize| -> f64 {
            let own = (0..n).filter(|&i| labels[i] == class);
            own.map(|i| vectors[i * n + k]).sum()
        };
        let z: Vec<f64> = (0..n).map(turned).collect();
        evidence(&squares, &z, dim) / n as f64
    };
    let there: Vec<usize> = (0..classes).filter(|class| labels.contains(class)).collect();
    there.iter().map(|c| class(*c)).sum::<f64>() / there.len().max(1) as f64
}

/// The evidence of a target whose parts along the features' singular directions are `z`, by the
/// fixed point of the two precisions.
fn evidence(squares: &[f64], z: &[f64], dim: usize) -> f64 {
    let n = z.len() as f64;
    let ranks: Vec<(f64, f64)> = squares.iter().copied().zip(z.iter().map(|z| z * z)).collect();
    let (mut alpha, mut beta) = (1.0_f64, 1.0_f64);
    let (mut weight, mut rest) = (0.0, 0.0);
    for _ in 0..11 {
        let t = alpha / beta;
        let gamma: f64 = ranks.iter().map(|(s, _)| s / (t + s).max(1e-300)).sum();
        weight = ranks.iter().map(|(s, z2)| s * z2 / (t + s).powi(2)).sum::<f64>();
        rest = ranks.iter().map(|(s, z2)| z2 * (t / (t + s)).powi(2)).sum::<f64>();
        // Features that say nothing leave the first precision without a bound.
        alpha = (gamma / weight.max(1e-12)).clamp(1e-12, 1e12);
        beta = ((n - gamma) / rest.max(1e-12)).clamp(1e-12, 1e12);
    }
    // Of `alpha + beta F'F`, whose other eigenvalues, as many as `dim` exceeds `n`, are `alpha`.
    let values = ranks.iter().map(|(s, _)| (alpha + beta * s).ln());
    let determinant = values.sum::<f64>() + (dim as f64 - n) * alpha.ln();
    0.5 * (dim as f64 * alpha.ln() + n * beta.ln()
        - determinant
        - beta * rest
        - alpha * weight
        - n * std::f64::consts::TAU.ln())
}

/// Eigenvalues, none negative, and eigenvectors (columns) of a symmetric matrix `[n, n]` without
/// negative ones, by Jacobi's rotations.
pub(crate) fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    let total: f64 = a.iter().map(|x| x * x).sum();
    for _sweep in 0..30 {
        let off = |a: &[f64]| -> f64 {
            (0..n)
                .flat_map(|i| (0..i).map(move |j| (i, j)))
                .map(|(i, j)| a[i * n + j].powi(2))
                .sum()
        };
        if off(&a) <= 1e-22 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                // Rows, then columns, which symmetry gives.
                rotate(&mut a, n, [p, q], [c, s]);
                for i in 0..n {
                    let (x, y) = (a[i * n + p], a[i * n + q]);
                    (a[i * n + p], a[i * n + q]) = (c * x - s * y, s * x + c * y);
                }
                rotate(&mut v, n, [p, q], [c, s]);
            }
        }
    }
    let values = (0..n).map(|i| a[i * n + i].max(0.0)).collect();
    // Rotated by rows, `v` holds an eigenvector a row.
    let columns = (0..n * n).map(|at| v[at % n * n + at / n]).collect();
    (values, columns)
}

fn rotate(a: &mut [f64], n: usize, [p, q]: [usize; 2], [c, s]: [f64; 2]) {
    let (above, below) = a.split_at_mut(q * n);
    for (x, y) in above[p * n..][..n].iter_mut().zip(&mut below[..n]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

/// The mean logarithm of the probability of each label under the classifier that the old classes
/// make (LEEP: Nguyen et al. 2020, <https://arxiv.org/abs/2002.12462>), at most 0.
///
/// `probabilities` of the old classes are `[n, old]`, row-major.
///
/// # Panics
/// If there are no samples, or lengths don't fit.
pub fn leep(probabilities: &[f32], labels: &[usize], classes: usize) -> f64 {
    let n = labels.len();
    assert!(n > 0 && probabilities.len().is_multiple_of(n), "leep: {n} rows");
    let old = probabilities.len() / n;
    let mut joint = vec![0.0; classes * old];
    for (row, label) in probabilities.chunks_exact(old).zip(labels) {
        let to = &mut joint[label * old..][..old];
        to.iter_mut().zip(row).for_each(|(to, p)| *to += f64::from(*p) / n as f64);
    }
    let marginal = |z: usize| -> f64 { (0..classes).map(|y| joint[y * old + z]).sum() };
    let marginal: Vec<f64> = (0..old).map(marginal).collect();
    let log = |(row, label): (&[f32], &usize)| -> f64 {
        let given = joint[label * old..][..old].iter().zip(&marginal);
        let given = given.map(|(j, m)| if *m > 0.0 { j / m } else { 0.0 });
        row.iter().zip(given).map(|(p, given)| f64::from(*p) * given).sum::<f64>().max(1e-300).ln()
    };
    probabilities.chunks_exact(old).zip(labels).map(log).sum::<f64>() / n as f64
}

/// The share of samples whose `k` nearest others, by the cosine, vote for their class; of classes
/// with as many votes, the one of the nearest counts.
///
/// # Panics
/// If there are no samples, or lengths don't fit.
pub fn neighbour_accuracy(features: &[f32], labels: &[usize], classes: usize, k: usize) -> f64 {
    let n = labels.len();
    assert!(n > 0 && features.len().is_multiple_of(n), "neighbour_accuracy: {n} rows");
    let dim = features.len() / n;
    let unit = |row: &[f32]| -> Vec<f32> {
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|v| (f64::from(*v) / norm) as f32).collect()
    };
    let rows: Vec<Vec<f32>> = features.chunks_exact(dim.max(1)).map(unit).collect();
    let right = |&i: &usize| {
        let cosine = |j: usize| rows[i].iter().zip(&rows[j]).map(|(a, b)| a * b).sum::<f32>();
        let mut near: Vec<(f32, usize)> =
            (0..n).filter(|j| *j != i).map(|j| (cosine(j), j)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut votes = vec![0; classes];
        near.iter().take(k).for_each(|(_, j)| votes[labels[*j]] += 1);
        let most = votes.iter().max().copied().unwrap_or(0);
        let winner = near.iter().take(k).map(|(_, j)| labels[*j]).find(|c| votes[*c] == most);
        winner == Some(labels[i])
    };
    (0..n).filter(right).count() as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use refit_data::Stream;

    use super::*;

    /// Classes `apart` from each other in the first dimensions, the rest noise.
    fn clouds(n: usize, dim: usize, classes: usize, apart: f32) -> (Vec<f32>, Vec<usize>) {
        let mut random = Stream::new(7, "clouds", &[]);
        let labels: Vec<usize> = (0..n).map(|i| i % classes).collect();
        let mut value =
            |label: usize, d: usize| random.normal() as f32 + if label == d { apart } else { 0.0 };
        let rows = labels.iter().flat_map(|&l| (0..dim).map(move |d| (l, d)));
        (rows.map(|(l, d)| value(l, d)).collect(), labels)
    }

    #[test]
    fn eigenvectors_make_the_matrix_again() {
        let n = 24;
        let (x, _) = clouds(n, 10, 2, 1.0);
        let at = |i: usize, j: usize| -> f64 {
            (0..10).map(|d| f64::from(x[i * 10 + d]) * f64::from(x[j * 10 + d])).sum()
        };
        let matrix: Vec<f64> = (0..n * n).map(|p| at(p / n, p % n)).collect();
        let (values, vectors) = eigen(matrix.clone(), n);
        for (p, wanted) in matrix.iter().enumerate() {
            let (i, j) = (p / n, p % n);
            let found: f64 =
                (0..n).map(|k| values[k] * vectors[i * n + k] * vectors[j * n + k]).sum();
            assert!((found - wanted).abs() < 1e-8, "{i} {j}: {found}, not {wanted}");
        }
        assert_eq!(values.iter().filter(|v| **v > 1e-8).count(), 10);
    }

    /// By the formula itself, with a dense posterior: `A = alpha + beta F'F`, `m = beta A^-1 F'y`.
    #[test]
    fn the_evidence_is_that_of_a_ridge_regression() {
        let (n, dim) = (30, 3);
        let (x, labels) = clouds(n, dim, 2, 1.5);
        let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let best = |class: usize| {
            let y: Vec<f64> = labels.iter().map(|l| f64::from(u8::from(*l == class))).collect();
            let (mut best, mut log) = (f64::NEG_INFINITY, -6.0);
            // The fixed point is the maximum over both precisions.
            while log < 6.0 {
                let mut inner = -6.0;
                while inner < 6.0 {
                    best = best.max(dense_evidence(&wide, &y, f64::exp(log), f64::exp(inner)));
                    inner += 0.05;
                }
                log += 0.05;
            }
            best / n as f64
        };
        let wanted = (best(0) + best(1)) / 2.0;
        let found = log_me(&x, &labels, 2);
        assert!((found - wanted).abs() < 2e-3, "{found}, not {wanted}");
    }

    fn dense_evidence(x: &[f64], y: &[f64], alpha: f64, beta: f64) -> f64 {
        let (n, d) = (y.len(), x.len() / y.len());
        let mut a = vec![0.0; d * d];
        let mut b = vec![0.0; d];
        for (row, y) in x.chunks_exact(d).zip(y) {
            for i in 0..d {
                b[i] += beta * row[i] * y;
                (0..d).for_each(|j| a[i * d + j] += beta * row[i] * row[j]);
            }
        }
        (0..d).for_each(|i| a[i * d + i] += alpha);
        // Gauss, without pivots: the matrix is positive definite.
        let (mut m, mut determinant) = (b, 0.0);
        for k in 0..d {
            let pivot = a[k * d + k];
            determinant += pivot.ln();
            for i in k + 1..d {
                let factor = a[i * d + k] / pivot;
                (k..d).for_each(|j| a[i * d + j] -= factor * a[k * d + j]);
                m[i] -= factor * m[k];
            }
        }
        for k in (0..d).rev() {
            let known: f64 = (k + 1..d).map(|j| a[k * d + j] * m[j]).sum();
            m[k] = (m[k] - known) / a[k * d + k];
        }
        let miss = |(row, y): (&[f64], &f64)| {
            (y - row.iter().zip(&m).map(|(x, m)| x * m).sum::<f64>()).powi(2)
        };
        let rest: f64 = x.chunks_exact(d).zip(y).map(miss).sum();
        let weight: f64 = m.iter().map(|m| m * m).sum();
        0.5 * (d as f64 * alpha.ln() + n as f64 * beta.ln()
            - determinant
            - beta * rest
            - alpha * weight
            - n as f64 * std::f64::consts::TAU.ln())
    }

    #[test]
    fn absent_classes_and_empty_features_leave_a_number() {
        let (x, labels) = clouds(40, 6, 3, 2.0);
        assert_eq!(log_me(&x, &labels, 3), log_me(&x, &labels, 9));
        assert!(log_me(&[0.0; 80], &labels, 3).is_finite());
    }

    #[test]
    fn classes_that_stand_apart_score_higher() {
        for (n, dim) in [(60, 8), (40, 90)] {
            let score = |apart: f32| {
                let (x, labels) = clouds(n, dim, 4, apart);
                (log_me(&x, &labels, 4), neighbour_accuracy(&x, &labels, 4, NEIGHBOURS))
            };
            let (near, far) = (score(0.5), score(6.0));
            assert!(near.0 < far.0 && near.1 < far.1, "{near:?} {far:?}");
        }
    }

    #[test]
    fn neighbours_vote_and_the_nearest_decides() {
        let x = [1.0, 0.0, 0.9, 0.1, 0.8, 0.3, 0.0, 1.0, 0.1, 0.9];
        assert_eq!(neighbour_accuracy(&x, &[0, 0, 0, 1, 1], 2, 1), 1.0);
        // Each of class 0 has two votes for either class, and a nearest of its own; the two of class 1
        // are outvoted.
        assert_eq!(neighbour_accuracy(&x, &[0, 0, 0, 1, 1], 2, 4), 0.6);
        assert_eq!(neighbour_accuracy(&x, &[0, 1, 0, 1, 0], 2, 1), 0.0);
        assert_eq!(neighbour_accuracy(&[1.0], &[0], 1, 5), 0.0);
    }

    #[test]
    fn old_classes_that_tell_the_new_ones_apart_give_nothing_away() {
        let sure = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        assert!(leep(&sure, &[0, 0, 1], 2).abs() < 1e-12);
        // They know nothing: each label has its own share.
        let blind = [0.5; 8];
        let expected = 0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln();
        assert!((leep(&blind, &[0, 0, 0, 1], 2) - expected).abs() < 1e-12);
    }
}
