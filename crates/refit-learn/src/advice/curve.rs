//! Would more images help? The accuracy of a head on frozen features, against the share of the images
//! that it learns from.

use rayon::prelude::*;
use refit_data::Stream;
use serde::{Deserialize, Serialize};

use crate::logistic::{LogisticError, LogisticOptions, LogisticRegression};
use crate::metrics::{arg_max, wilson95};
use crate::subsets;

/// The shares of the images to learn from.
const SHARES: [f64; 5] = [0.15, 0.25, 0.4, 0.65, 1.0];

/// Times that images held out are drawn anew, for intervals of what the law says.
const DRAWS: u64 = 1000;

/// Times that a fifth of the images is held out, another one each time.
pub(crate) const FOLDS: usize = 5;

/// A share of the images, and how a head that learns from it does on others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Images learned from, all classes together.
    pub images: usize,
    /// Accuracy on images held out, `[0, 1]`.
    pub accuracy: f64,
    /// Its 95% interval.
    pub interval95: [f64; 2],
}

/// How a class gains by more images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassGain {
    /// The class's number.
    pub class: usize,
    /// The share of its images held out that are recognized, `[0, 1]`, when all others are learned
    /// from; none for a class of one image.
    pub recall: Option<f64>,
    /// By how much that is more than with two thirds of them.
    pub gain: Option<f64>,
}

/// What twice as many images would give, by the fitted law.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Doubling {
    /// Images learned from.
    pub images: usize,
    /// Accuracy to be expected with them, `[0, 1]`.
    pub accuracy: f64,
    /// Its 95% interval.
    pub interval95: [f64; 2],
    /// How much more that is than with the images there are.
    pub gain: f64,
    /// The gain's 95% interval, from 0 up: no law falls.
    pub gain95: [f64; 2],
}

/// Accuracy against the number of images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningCurve {
    /// Images that it is drawn from.
    pub images: usize,
    /// From few images to all of those that are not held out.
    pub points: Vec<CurvePoint>,
    /// `1 - accuracy = floor + factor * images^-exponent`, where the points allow it.
    pub fit: Option<PowerLaw>,
    /// What as many images again would give, where there is a fit.
    #[serde(default)]
    pub doubled: Option<Doubling>,
    /// Every class.
    pub classes: Vec<ClassGain>,
}

/// A power law of errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PowerLaw {
    /// The share of errors that no number of images would mend.
    pub floor: f64,
    /// Errors beyond it, for one image.
    pub factor: f64,
    /// How fast they fall.
    pub exponent: f64,
}

impl PowerLaw {
    /// The accuracy with so many images, `[0, 1]`.
    pub fn accuracy(&self, images: f64) -> f64 {
        (1.0 - self.floor - self.factor * images.powf(-self.exponent)).clamp(0.0, 1.0)
    }

    /// The law nearest to the points, of those whose floor is below all of them.
    fn through(points: &[CurvePoint]) -> Option<Self> {
        let errors: Vec<(f64, f64)> =
            points.iter().map(|p| (p.images as f64, 1.0 - p.accuracy)).collect();
        let least = errors.iter().map(|(_, e)| *e).fold(f64::INFINITY, f64::min);
        if points.len() < 3 || least <= 0.0 {
            return None;
        }
        let laws =
            (0..20).filter_map(|step| Self::with_floor(&errors, least * f64::from(step) / 20.0));
        laws.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(law, _)| law)
    }

    /// The law with this floor, a line in logarithms, and how far it misses.
    fn with_floor(errors: &[(f64, f64)], floor: f64) -> Option<(Self, f64)> {
        let n = errors.len() as f64;
        let logs: Vec<(f64, f64)> =
            errors.iter().map(|(x, e)| (x.ln(), (e - floor).ln())).collect();
        let mean = |f: fn(&(f64, f64)) -> f64| logs.iter().map(f).sum::<f64>() / n;
        let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
        let across: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
        let along: f64 = logs.iter().map(|(x, _)| (x - mx).powi(2)).sum();
        let exponent = -across / along;
        let law = Self { floor, factor: (my + exponent * mx).exp(), exponent };
        let miss = |(x, e): &(f64, f64)| (1.0 - law.accuracy(*x) - e).powi(2);
        (exponent.is_finite() && exponent > 0.0)
            .then(|| (law, errors.iter().map(miss).sum::<f64>()))
    }
}

impl LearningCurve {
    /// The curve of a linear head over `features`, `[n, dim]` row-major, with the penalty that suits
    /// all of them. For each share every image is held out once, but the only one of its class.
    ///
    /// # Errors
    /// If features are not finite.
    ///
    /// # Panics
    /// If lengths don't fit.
    pub fn of(
        features: &[f32],
        labels: &[usize],
        classes: usize,
        strength: f64,
        seed: u64,
    ) -> Result<Self, LogisticError> {
        let n = labels.len();
        assert!(n > 0 && features.len().is_multiple_of(n), "LearningCurve: {n} rows");
        let dim = features.len() / n;
        let folds = folds_of(labels, classes, seed);
        let row = |i: &usize| &features[i * dim..][..dim];
        let options = LogisticOptions { strengths: vec![strength], seed, ..Default::default() };
        let (mut points, mut right, mut each) = (Vec::new(), Vec::new(), Vec::new());
        for share in SHARES {
            let (mut hits, mut learned, mut used) = (vec![[0_u64; 2]; classes], 0, 0);
            let mut hit_of = vec![None; n];
            for fold in 0..FOLDS {
                if !folds.contains(&Some(fold)) {
                    continue;
                }
                let part = part(labels, classes, &folds, fold, share);
                let rows: Vec<f32> = part.iter().flat_map(row).copied().collect();
                let own: Vec<usize> = part.iter().map(|i| labels[*i]).collect();
                let head = LogisticRegression::fit(&rows, &own, classes, &options)?.model;
                (learned, used) = (learned + part.len(), used + 1);
                for i in (0..n).filter(|i| folds[*i] == Some(fold)) {
                    let hit = arg_max(&head.logits(row(&i))) == labels[i];
                    hits[labels[i]][usize::from(hit)] += 1;
                    hit_of[i] = Some(hit);
                }
            }
            let total: u64 = hits.iter().flatten().sum();
            if total == 0 {
                continue;
            }
            let sum: u64 = hits.iter().map(|h| h[1]).sum();
            points.push(CurvePoint {
                images: learned / used.max(1),
                accuracy: sum as f64 / total as f64,
                interval95: wilson95(sum, total),
            });
            right.push(hits);
            each.push(hit_of.into_iter().flatten().collect());
        }
        let recall = |hits: &[[u64; 2]], class: usize| {
            let [wrong, right] = hits[class];
            (wrong + right > 0).then(|| right as f64 / (wrong + right) as f64)
        };
        let gain = |class: usize| {
            let all = recall(right.last()?, class);
            let before = right.len().checked_sub(2).and_then(|i| recall(&right[i], class));
            let gain = all.zip(before).map(|(all, before)| all - before);
            Some(ClassGain { class, recall: all, gain })
        };
        let classes = (0..classes).filter_map(gain).collect();
        let fit = PowerLaw::through(&points);
        let doubled = fit.map(|law| doubled(law, n, &points, &each, seed));
        Ok(Self { images: n, points, fit, doubled, classes })
    }

    /// The accuracy of a head that learns from four fifths of the images, with its interval; none where
    /// there are too few to hold any out.
    pub fn expected(&self) -> Option<&CurvePoint> {
        self.points.last()
    }

    /// The classes, the least recognized first; those of a single image last.
    pub fn weakest(&self) -> Vec<&ClassGain> {
        let mut classes: Vec<&ClassGain> = self.classes.iter().collect();
        let recall = |class: &ClassGain| class.recall.unwrap_or(f64::INFINITY);
        classes.sort_by(|a, b| recall(a).total_cmp(&recall(b)));
        classes
    }
}

/// What a law says of twice `images`, with the intervals between the 2.5% and 97.5% quantiles of the
/// laws through other draws of as many images held out (the bootstrap: Efron 1979,
/// <https://doi.org/10.1214/aos/1176344552>). `hits` tells of each share which of these were right, in
/// one order, so that a draw takes the same images of all shares. That another set of images to learn
/// from would have given another curve is not in it.
fn doubled(
    law: PowerLaw,
    images: usize,
    points: &[CurvePoint],
    hits: &[Vec<bool>],
    seed: u64,
) -> Doubling {
    let twice = 2.0 * images as f64;
    let held_out = hits[0].len();
    let draw = |k: u64| -> [f64; 2] {
        let mut stream = Stream::new(seed, "curve interval", &[k]);
        let drawn: Vec<usize> = (0..held_out).map(|_| stream.below(held_out)).collect();
        let share =
            |hits: &Vec<bool>| drawn.iter().filter(|i| hits[**i]).count() as f64 / held_out as f64;
        let drawn: Vec<CurvePoint> = points
            .iter()
            .zip(hits)
            .map(|(point, hits)| CurvePoint { accuracy: share(hits), ..*point })
            .collect();
        match PowerLaw::through(&drawn) {
            Some(law) => {
                let then = law.accuracy(twice);
                [then, then - law.accuracy(images as f64)]
            }
            // Errors that do not fall, or none at all: more images change nothing.
            None => [drawn.last().map_or(0.0, |last| last.accuracy), 0.0],
        }
    };
    let draws: Vec<[f64; 2]> = (0..DRAWS).into_par_iter().map(draw).collect();
    let (accuracy, gain) = (law.accuracy(twice), law.accuracy(twice) - law.accuracy(images as f64));
    let interval = |which: usize, of: f64| {
        let mut values: Vec<f64> = draws.iter().map(|draw| draw[which]).collect();
        values.sort_by(f64::total_cmp);
        let tail = values.len() / 40;
        [values[tail].min(of), values[values.len() - 1 - tail].max(of)]
    };
    let (interval95, gain95) = (interval(0, accuracy), interval(1, gain));
    Doubling { images: 2 * images, accuracy, interval95, gain, gain95 }
}

/// The fold that holds each sample out, none for the only one of a class.
pub(crate) fn folds_of(labels: &[usize], classes: usize, seed: u64) -> Vec<Option<usize>> {
    subsets::folds(labels, classes, FOLDS, |class| Stream::new(seed, "curve", &[class]))
}

/// A share of each class's samples outside a fold, at least one. Two of a class never share a fold
/// alone: folds follow each other.
fn part(
    labels: &[usize],
    classes: usize,
    folds: &[Option<usize>],
    fold: usize,
    share: f64,
) -> Vec<usize> {
    let mut part = Vec::new();
    for class in 0..classes {
        let outside = |i: &usize| labels[*i] == class && folds[*i] != Some(fold);
        let own: Vec<usize> = (0..labels.len()).filter(outside).collect();
        let count = ((own.len() as f64 * share).round() as usize).max(1).min(own.len());
        // Spread over the others' folds, which were shuffled.
        part.extend((0..count).map(|k| own[k * own.len() / count]));
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(n: usize) -> (Vec<f32>, Vec<usize>) {
        let mut random = Stream::new(3, "data", &[]);
        let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
        let place = |l: usize, d: usize| if l == d { 1.2 } else { 0.0 };
        let values = labels.iter().flat_map(|&l| (0..12).map(move |d| place(l, d)));
        (values.map(|v| v + random.normal() as f32).collect(), labels)
    }

    #[test]
    fn more_images_do_better_and_every_one_is_held_out_once() {
        let (x, labels) = data(240);
        let curve = LearningCurve::of(&x, &labels, 3, 0.1, 0).unwrap();
        assert_eq!(curve.points.len(), SHARES.len());
        let (first, last) = (&curve.points[0], curve.expected().unwrap());
        assert!(first.images < 40 && last.images == 192, "{curve:?}");
        assert!(first.accuracy < last.accuracy, "{curve:?}");
        assert!(last.interval95[0] < last.accuracy && last.accuracy < last.interval95[1]);
        assert_eq!(curve.classes.len(), 3);
        let doubled = curve.doubled.unwrap();
        assert_eq!(doubled.images, 480);
        assert!((0.0..0.2).contains(&doubled.gain), "{doubled:?}");
        for (value, [low, high]) in
            [(doubled.accuracy, doubled.interval95), (doubled.gain, doubled.gain95)]
        {
            assert!(low <= value && value <= high && low < high, "{doubled:?}");
        }
        assert_eq!(curve, LearningCurve::of(&x, &labels, 3, 0.1, 0).unwrap());
    }

    #[test]
    fn the_interval_narrows_with_the_images_held_out() {
        let width = |n: usize| {
            let (x, labels) = data(n);
            let curve = LearningCurve::of(&x, &labels, 3, 0.1, 0).unwrap();
            let [low, high] = curve.doubled.unwrap().interval95;
            high - low
        };
        assert!(width(900) < 0.7 * width(150));
    }

    #[test]
    fn a_power_law_is_found_again() {
        let law = PowerLaw { floor: 0.04, factor: 1.5, exponent: 0.6 };
        let point = |images: usize| {
            let accuracy = law.accuracy(images as f64);
            CurvePoint { images, accuracy, interval95: [accuracy; 2] }
        };
        let points = [20, 40, 80, 160, 320].map(point);
        let found = PowerLaw::through(&points).unwrap();
        for images in [30.0, 320.0, 1000.0] {
            assert!((found.accuracy(images) - law.accuracy(images)).abs() < 5e-3, "{found:?}");
        }
        assert!(PowerLaw::through(&points[..2]).is_none());
        let perfect =
            [10, 20, 40].map(|images| CurvePoint { images, accuracy: 1.0, interval95: [0.9, 1.0] });
        assert!(PowerLaw::through(&perfect).is_none());
    }

    #[test]
    fn the_only_image_of_a_class_is_learned_from_alone() {
        let (x, mut labels) = data(30);
        labels.iter_mut().for_each(|l| *l %= 2);
        labels[29] = 2;
        let curve = LearningCurve::of(&x, &labels, 3, 0.1, 0).unwrap();
        assert!(curve.points.iter().all(|p| p.accuracy.is_finite()), "{curve:?}");
        assert!(curve.points.len() == SHARES.len() && curve.classes[2].recall.is_none());
        let lone = LearningCurve::of(&x[..24], &[0, 1], 2, 0.1, 0).unwrap();
        assert!(lone.points.is_empty() && lone.expected().is_none());
    }
}
