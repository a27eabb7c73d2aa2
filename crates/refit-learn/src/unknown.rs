//! Images of another kind than those that a model learned from.
//!
//! A classifier spreads its certainty over the classes that it has, also for an image that belongs to
//! none. What tells such an image is how far its features stand from those of the training images.
//! The distance is Mahalanobis' from the nearest class mean under one covariance for all classes (Lee
//! et al. 2018, <https://arxiv.org/abs/1807.03888>) of features scaled to length 1, which matters more
//! than anything else here (as for neighbours: Sun et al. 2022, <https://arxiv.org/abs/2204.06507>).
//! With some hundred images of a thousand features a covariance is mostly noise: its first
//! [`DIRECTIONS`] principal directions are kept, the rest is one variance (probabilistic principal
//! components: Tipping and Bishop 1999). docs/trust.md has the measurements.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ndarray::{Array2, ArrayView2, Axis};
use refit_data::Stream;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::advice::transfer::eigen;

/// Principal directions of the covariance that are kept, at most.
pub const DIRECTIONS: usize = 32;

/// The share of images of the model's own kind that may be called unknown, where nobody says another.
pub const SHARE: f64 = 0.05;

/// The place, from 1, among `n` ascending scores of the one that at most `share` of others like them
/// exceed: `ceil((n + 1) (1 - share))`; beyond `n` where they are too few to tell, 0 where all may.
pub(crate) fn rank(n: usize, share: f64) -> usize {
    // What a share leaves of a number, 0.95 * 20, may round to either side.
    ((n + 1) as f64 * (1.0 - share) - 1e-9).ceil() as usize
}

/// Images kept to tell distances by, at most.
pub(crate) const MOST_HELD_OUT: usize = 2000;

/// How far the features of images stand from those of a model's training images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Distance {
    /// Features an image.
    pub dim: usize,
    /// Mean of each class's features, scaled to length 1: `[classes, dim]`; of classes without
    /// training images there is none.
    #[serde(with = "packed")]
    means: Vec<f32>,
    /// The directions in which the images of a class differ, each as long as `sqrt(1 - rest / variance
    /// along it)`: `[directions, dim]`.
    #[serde(with = "packed")]
    directions: Vec<f32>,
    /// Variance of a feature in all other directions.
    rest: f32,
}

impl Distance {
    /// Learns what the features of the training images are like: `features` are `[n, dim]`, row-major,
    /// and `labels` `[n]`. `None` where they don't tell: too few images, or all alike.
    ///
    /// # Panics
    /// If `features` are not `labels.len()` rows.
    pub fn fit(features: &[f32], labels: &[usize]) -> Option<Self> {
        let n = labels.len();
        let dim = features.len().checked_div(n)?;
        assert_eq!(features.len(), n * dim, "a row of features for each label");
        let mut x = Array2::from_shape_fn((n, dim), |(i, j)| f64::from(features[i * dim + j]));
        x.rows_mut().into_iter().for_each(|mut row| {
            let length = row.dot(&row).sqrt();
            row /= length.max(f64::MIN_POSITIVE);
        });
        let classes = labels.iter().max()? + 1;
        let mut means = Vec::new();
        let mut there = 0;
        for class in 0..classes {
            let own: Vec<usize> = (0..n).filter(|&i| labels[i] == class).collect();
            let Some(mean) = x.select(Axis(0), &own).mean_axis(Axis(0)) else { continue };
            own.iter().for_each(|&i| x.row_mut(i).zip_mut_with(&mean, |x, m| *x -= m));
            means.extend(mean.iter().map(|m| *m as f32));
            there += 1;
        }
        let freedom = n.checked_sub(there).filter(|f| *f > 0)?;
        let total = x.iter().map(|v| v * v).sum::<f64>() / freedom as f64;
        // A quarter of what there is to tell them by.
        let kept = DIRECTIONS.min(freedom / 4).min(dim / 2);
        let (variances, axes) = principal(x.view(), kept);
        let variances: Vec<f64> = variances.iter().map(|v| v / freedom as f64).collect();
        let rest = (total - variances.iter().sum::<f64>()) / (dim - kept) as f64;
        if !(rest > 1e-14 && rest.is_finite()) {
            return None;
        }
        let scaled = variances.iter().zip(axes.rows()).flat_map(|(variance, axis)| {
            let length = (1.0 - rest / variance).max(0.0).sqrt();
            axis.iter().map(|v| (v * length) as f32).collect::<Vec<f32>>()
        });
        Some(Self { dim, means, directions: scaled.collect(), rest: rest as f32 })
    }

    /// How far one image's features (`[dim]`) are from the nearest class's mean, in standard deviations,
    /// the mean over all features: about 1 for an image like those of training.
    ///
    /// # Panics
    /// If there are not `dim` of them.
    pub fn of(&self, features: &[f32]) -> f32 {
        assert_eq!(features.len(), self.dim, "of: features of an image");
        let length = dot(features, features).sqrt().max(f64::MIN_POSITIVE);
        let x: Vec<f32> = features.iter().map(|v| (f64::from(*v) / length) as f32).collect();
        let from = |mean: &[f32]| {
            let apart: Vec<f32> = x.iter().zip(mean).map(|(x, m)| x - m).collect();
            let along = self.directions.chunks_exact(self.dim).map(|d| dot(d, &apart).powi(2));
            dot(&apart, &apart) - along.sum::<f64>()
        };
        let nearest = self.means.chunks_exact(self.dim).map(from).fold(f64::INFINITY, f64::min);
        (nearest.max(0.0) / (f64::from(self.rest) * self.dim as f64)).sqrt() as f32
    }

    /// Of rows `[n, dim]`.
    pub fn of_rows(&self, features: &[f32]) -> Vec<f32> {
        features.chunks_exact(self.dim).map(|row| self.of(row)).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// The largest eigenvalues of `xᵀx`, largest first, and their eigenvectors as rows: by iterating a
/// subspace (Halko et al. 2011, <https://arxiv.org/abs/0909.4061>).
pub(crate) fn principal(x: ArrayView2<'_, f64>, count: usize) -> (Vec<f64>, Array2<f64>) {
    const MORE: usize = 8;
    const ROUNDS: usize = 12;
    let dim = x.ncols();
    if count == 0 {
        return (Vec::new(), Array2::zeros((0, dim)));
    }
    let width = (count + MORE).min(dim);
    let mut random = Stream::new(0, "principal directions", &[]);
    let mut basis = Array2::from_shape_fn((width, dim), |_| random.normal());
    orthonormalize(&mut basis);
    for _ in 0..ROUNDS {
        basis = basis.dot(&x.t()).dot(&x);
        orthonormalize(&mut basis);
    }
    let seen = basis.dot(&x.t());
    let (values, vectors) = eigen(seen.dot(&seen.t()).into_raw_vec_and_offset().0, width);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(count);
    let turn = Array2::from_shape_fn((count, width), |(i, j)| vectors[j * width + order[i]]);
    (order.iter().map(|&i| values[i]).collect(), turn.dot(&basis))
}

/// Makes rows orthogonal and of length 1, twice, as rounding needs it; a row that depends on those
/// before becomes zeros.
fn orthonormalize(rows: &mut Array2<f64>) {
    for _ in 0..2 {
        for i in 0..rows.nrows() {
            let (before, mut rest) = rows.view_mut().split_at(Axis(0), i);
            let mut row = rest.row_mut(0);
            let was = row.dot(&row).sqrt();
            for other in before.rows() {
                let along = other.dot(&row);
                row.scaled_add(-along, &other);
            }
            let length = row.dot(&row).sqrt();
            row *= if length > 1e-12 * was { 1.0 / length } else { 0.0 };
        }
    }
}

/// Which images are of the model's kind: a distance, and the distances of images of its kind that it was
/// not fitted to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unknown {
    /// How far an image is.
    pub distance: Distance,
    /// The distances of the images held out, ascending.
    #[serde(with = "packed")]
    held_out: Vec<f32>,
}

impl Unknown {
    /// From a distance and those of images of the model's kind that it was not fitted to, in any order.
    pub fn new(distance: Distance, mut held_out: Vec<f32>) -> Self {
        held_out.sort_by(f32::total_cmp);
        Self { distance, held_out }
    }

    /// How many images the threshold rests on.
    pub fn held_out(&self) -> usize {
        self.held_out.len()
    }

    /// The distance above which an image is unknown, when at most `share` of the images of the model's
    /// kind may be: the `ceil((n + 1) (1 - share))`th of the distances of `n` images held out, which
    /// holds for any `n` on average (Vovk et al. 2005, conformal prediction); infinite where they are
    /// too few to tell.
    pub fn threshold(&self, share: f64) -> f32 {
        let n = self.held_out.len();
        let rank = rank(n, share);
        if rank > n { f32::INFINITY } else { self.held_out[rank.max(1) - 1] }
    }

    /// Checks what was read against a network of `dim` features.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check(&self, dim: usize) -> Result<(), String> {
        let Distance { means, directions, rest, .. } = &self.distance;
        let rows = |values: &[f32]| dim > 0 && values.len().is_multiple_of(dim);
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        if self.distance.dim != dim {
            return Err(format!("means of {} features for {dim}", self.distance.dim));
        }
        if means.is_empty() || !rows(means) || !rows(directions) {
            return Err("means and directions that are not whole rows".into());
        }
        let numbers = [means, directions, &self.held_out].into_iter().all(|v| finite(v));
        if !(numbers && *rest > 0.0 && rest.is_finite()) {
            return Err("values that are not finite".into());
        }
        match self.held_out.is_sorted() {
            true => Ok(()),
            false => Err("distances that do not ascend".into()),
        }
    }
}

/// What comes of not answering for images that are too far away.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Abstention {
    /// Part of the images that are called unknown, `[0, 1]`.
    pub unknown: f64,
    /// Part of the others whose likeliest class is the true one, `[0, 1]`; none if there are no others.
    pub accuracy: Option<f64>,
}

/// What comes of not answering for images farther than `threshold`, of which `distances` and whether
/// they are `right` are known.
///
/// # Panics
/// If there are not as many of both.
pub fn abstention(distances: &[f32], right: &[bool], threshold: f32) -> Option<Abstention> {
    assert_eq!(distances.len(), right.len(), "abstention: a distance for each image");
    let known: Vec<bool> =
        distances.iter().zip(right).filter(|(d, _)| **d <= threshold).map(|(_, r)| *r).collect();
    let (all, known_right) = (distances.len(), known.iter().filter(|r| **r).count());
    (all > 0).then(|| Abstention {
        unknown: (all - known.len()) as f64 / all as f64,
        accuracy: (!known.is_empty()).then(|| known_right as f64 / known.len() as f64),
    })
}

/// Numbers in JSON as Base64 of little-endian f32: a third of what digits take.
pub(crate) mod packed {
    use super::*;

    pub fn serialize<S: Serializer>(values: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f32>, D::Error> {
        let wrong = |what: String| serde::de::Error::custom(format!("numbers in Base64: {what}"));
        let bytes = STANDARD.decode(String::deserialize(deserializer)?);
        let bytes = bytes.map_err(|error| wrong(error.to_string()))?;
        let (numbers, []) = bytes.as_chunks::<4>() else {
            return Err(wrong(format!("{} bytes", bytes.len())));
        };
        Ok(numbers.iter().map(|four| f32::from_le_bytes(*four)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images of two classes about two directions, `dim` features that are mostly small noise.
    fn images(n: usize, dim: usize, seed: u64) -> (Vec<f32>, Vec<usize>) {
        let mut random = Stream::new(seed, "images", &[]);
        let labels: Vec<usize> = (0..n).map(|i| i % 2).collect();
        let mut rows = Vec::new();
        for &label in &labels {
            let wide = 0.3 * random.normal();
            rows.extend((0..dim).map(|j| {
                let base = if j % 2 == label { 1.0 } else { 0.4 };
                let along = if j % 5 == 0 { wide } else { 0.0 };
                (base + along + 0.1 * random.normal()) as f32
            }));
        }
        (rows, labels)
    }

    #[test]
    fn strange_features_are_farther_and_brightness_does_not_matter() {
        let dim = 40;
        let (rows, labels) = images(300, dim, 1);
        let distance = Distance::fit(&rows, &labels).unwrap();
        let (fresh, _) = images(100, dim, 2);
        let own = distance.of_rows(&fresh);
        let mean = own.iter().sum::<f32>() / 100.0;
        assert!((0.8..1.3).contains(&mean), "{mean}");
        let unknown = Unknown::new(distance.clone(), own);
        let (other, _) = images(200, dim, 3);
        let kept = distance.of_rows(&other);
        let kept = kept.iter().filter(|d| **d <= unknown.threshold(SHARE)).count();
        assert!(kept >= 180, "{kept} of 200");
        let mut random = Stream::new(4, "noise", &[]);
        let strange: Vec<f32> = (0..50 * dim).map(|_| random.uniform_f32()).collect();
        assert!(distance.of_rows(&strange).iter().all(|d| *d > unknown.threshold(SHARE)));
        let louder: Vec<f32> = fresh[..dim].iter().map(|v| 7.0 * v).collect();
        assert!((distance.of(&louder) - distance.of(&fresh[..dim])).abs() < 1e-4);
        assert_eq!(Distance::fit(&rows, &labels).unwrap(), distance, "the same bits");
    }

    #[test]
    fn the_distance_is_mahalanobis_under_the_covariance_that_is_kept() {
        let (rows, labels) = images(60, 6, 5);
        let distance = Distance::fit(&rows, &labels).unwrap();
        assert_eq!(distance.directions.len(), 3 * 6);
        // Inverse of `rest` everywhere, and more variance along the directions.
        let x: Vec<f64> = rows[..6].iter().map(|v| f64::from(*v)).collect();
        let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let from = |mean: &[f32]| {
            let d: Vec<f64> = x.iter().zip(mean).map(|(x, m)| x / length - f64::from(*m)).collect();
            let mut sum = d.iter().map(|v| v * v).sum::<f64>() / f64::from(distance.rest);
            for row in distance.directions.chunks(6) {
                let square: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
                let along: f64 = row.iter().zip(&d).map(|(v, d)| f64::from(*v) * d).sum::<f64>();
                let along = along / square.sqrt();
                let rest = f64::from(distance.rest);
                let variance = rest / (1.0 - square);
                sum += along * along * (1.0 / variance - 1.0 / rest);
            }
            (sum / 6.0).sqrt()
        };
        let expected = distance.means.chunks(6).map(from).fold(f64::INFINITY, f64::min);
        assert!((f64::from(distance.of(&rows[..6])) - expected).abs() < 1e-4);
    }

    #[test]
    fn principal_directions_are_eigenvectors() {
        let mut random = Stream::new(6, "matrix", &[]);
        let x = Array2::from_shape_fn((30, 12), |(_, j)| random.normal() / (1.0 + j as f64));
        let (values, axes) = principal(x.view(), 3);
        let square = x.t().dot(&x);
        for (value, axis) in values.iter().zip(axes.rows()) {
            let turned = square.dot(&axis);
            let off = turned.iter().zip(axis).map(|(t, a)| (t - value * a).abs());
            assert!(off.fold(0.0, f64::max) < 1e-4 * values[0]);
        }
        assert!(values.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn the_threshold_keeps_the_share_of_a_finite_sample() {
        let (rows, labels) = images(60, 6, 7);
        let distance = Distance::fit(&rows, &labels).unwrap();
        let with =
            |n: usize| Unknown::new(distance.clone(), (1..=n).rev().map(|i| i as f32).collect());
        assert_eq!(with(19).threshold(0.05), 19.0);
        assert_eq!(with(18).threshold(0.05), f32::INFINITY);
        assert_eq!(with(59).threshold(0.05), 57.0);
        assert_eq!(with(100).threshold(0.05), 96.0);
        assert_eq!(with(100).threshold(0.5), 51.0);
        assert_eq!(with(0).threshold(0.5), f32::INFINITY);
    }

    #[test]
    fn nothing_is_told_by_nothing() {
        assert_eq!(Distance::fit(&[], &[]), None);
        assert_eq!(Distance::fit(&[1.0, 2.0], &[0]), None);
        assert_eq!(Distance::fit(&[1.0, 2.0, 1.0, 2.0, 1.0, 2.0], &[0, 0, 0]), None);
        assert_eq!(abstention(&[], &[], 1.0), None);
        let some = abstention(&[0.5, 2.0, 0.7, 0.1], &[true, false, false, true], 1.0).unwrap();
        assert_eq!((some.unknown, some.accuracy), (0.25, Some(2.0 / 3.0)));
    }

    #[test]
    fn it_is_read_as_it_was_written_and_damage_is_seen() {
        let (rows, labels) = images(60, 6, 8);
        let distance = Distance::fit(&rows, &labels).unwrap();
        let unknown = Unknown::new(distance.clone(), distance.of_rows(&rows));
        let json = serde_json::to_value(&unknown).unwrap();
        let back: Unknown = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(back, unknown);
        assert_eq!(back.check(6), Ok(()));
        assert!(back.check(7).unwrap_err().contains("6 features for 7"));
        let read = |damage: &dyn Fn(&mut serde_json::Value)| {
            let mut json = json.clone();
            damage(&mut json);
            serde_json::from_value::<Unknown>(json)
                .map_err(|e| e.to_string())
                .and_then(|u| u.check(6))
        };
        let pack =
            |v: &[f32]| STANDARD.encode(v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        let error = read(&|j| j["held-out"] = "AAA=".into()).unwrap_err();
        assert!(error.contains("2 bytes"), "{error}");
        let error = read(&|j| j["held-out"] = "?".into()).unwrap_err();
        assert!(error.contains("Base64"), "{error}");
        let error = read(&|j| j["held-out"] = pack(&[2.0, 1.0]).into()).unwrap_err();
        assert!(error.contains("ascend"), "{error}");
        let error = read(&|j| j["distance"]["means"] = pack(&[f32::NAN; 6]).into()).unwrap_err();
        assert!(error.contains("finite"), "{error}");
        let error = read(&|j| j["distance"]["means"] = pack(&[1.0; 5]).into()).unwrap_err();
        assert!(error.contains("whole rows"), "{error}");
        assert!(read(&|j| j["distance"]["rest"] = (-1.0).into()).is_err());
    }
}
