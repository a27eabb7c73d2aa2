//! What makes a finished model's probabilities mean what they say, and what it does not know.

use refit_data::{Preprocess, Sample, Stream};
use refit_net::Network;
use serde::{Deserialize, Serialize};

use super::folds::OutOfFold;
use super::images::{Images, SplitFeatures};
use super::judge::{Judged, judged_rows};
use super::{Learned, Place, Run};
use crate::calibrate::{ENOUGH, careful_temperature, cross_fitted, scaled};
use crate::error::LearnError;
use crate::metrics::{Metrics, arg_max};
use crate::predictions::{Judgement, Split, judgements};
use crate::subsets::{self, evenly};
use crate::unknown::{Abstention, Distance, MOST_HELD_OUT, SHARE, Unknown, abstention};
use crate::watch::{Event, Watch};

/// Training images that a distance is fitted to, at most.
const MOST_FITTED: usize = 2000;

/// Parts of the training images, each held out once where validation images are too few.
const PARTS: usize = 5;

/// Images that a temperature or threshold was fitted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FittedOn {
    /// The validation images.
    Validation,
    /// Training images, each held out in turn from a head of its own.
    HeldOutTraining,
    /// Training images, each held out once from a model of its own: the folds.
    Folds,
    /// None: there were too few.
    #[default]
    Nothing,
}

/// Where a model's temperature comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What logits are divided by; 1 where nothing was fitted.
    pub temperature: f64,
    /// On which images it was fitted.
    pub fitted_on: FittedOn,
    /// How many.
    pub images: usize,
}

impl Default for Calibration {
    /// Logits as they are.
    fn default() -> Self {
        Self { temperature: 1.0, fitted_on: FittedOn::Nothing, images: 0 }
    }
}

/// How a model tells images of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UnknownReport {
    /// The share of images of its own kind that it may call unknown by default.
    pub share: f64,
    /// The distance above which it calls an image unknown.
    pub threshold: f32,
    /// On which images the threshold was fitted.
    pub fitted_on: FittedOn,
    /// How many.
    pub images: usize,
    /// What comes of it on the validation images, or on those of the folds; the threshold is theirs where
    /// it was fitted on them.
    pub val: Option<Abstention>,
    /// On the test images, where there are any.
    pub test: Option<Abstention>,
}

/// What is known of a network's judgement.
pub(super) struct Trust {
    pub val: Option<Metrics>,
    pub test: Option<Metrics>,
    pub calibration: Calibration,
    pub unknown: Option<Unknown>,
    pub predictions: Vec<Judgement>,
    pub report: Option<UnknownReport>,
    pub tested: Tested,
}

/// What a network made of the test images, for whoever holds images out.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tested {
    /// `[n, classes]`, as the network gives them.
    pub logits: Vec<f32>,
    /// How far each is from the training images, `[n]`, where that is known.
    pub distances: Option<Vec<f32>>,
}

/// Training images as a network sees them, where the head on them can be solved for anew.
struct HeldOut {
    /// Logits of each image from a head that learned from others.
    judged: Judged,
    /// Distances of each image from others.
    distances: Vec<f32>,
}

/// What a distance was fitted to, and what it says of training images held out.
pub(super) struct Familiar {
    distance: Distance,
    held_out: Option<HeldOut>,
}

impl Run<'_> {
    /// Of a head on features that are there.
    pub(super) fn trust_in_head(
        &self,
        learned: &Learned,
        features: &SplitFeatures,
        images: &Images,
    ) -> Trust {
        let judge = |from: usize, samples: &[Sample]| {
            let rows = from..from + samples.len();
            judged_rows(&learned.network, &features.judged, rows, samples)
        };
        let (val, test) = (judge(0, &images.val), judge(images.val.len(), &images.test));
        let some = fitted_to(&images.train, self.dataset.classes.len());
        let (rows, labels) = plain(features, images, &some);
        let held_out = || {
            let alone = matches!(self.place, Place::Alone);
            let strength = learned.strength.filter(|_| alone && val.labels.len() < ENOUGH)?;
            self.held_out(features, images, &some, strength)
        };
        let familiar = Distance::fit(&rows, &labels)
            .map(|distance| Familiar { distance, held_out: held_out() });
        self.trust(&self.dataset.classes, &val, &test, familiar)
    }

    /// Of a network whose body was trained too: what it makes of the images to judge by, and of some that
    /// it learned from.
    pub(super) fn trust_in_body(
        &self,
        network: &Network,
        preprocess: &Preprocess,
        images: &Images,
    ) -> Result<Trust, LearnError> {
        let graph = network.graph();
        let dim = graph.nodes()[graph.features()].shape.channels();
        let run = |samples: &[Sample], what: &str| {
            let outputs = vec![graph.features(), graph.output()];
            let compiled = || Ok(network.compile_mixed_to(outputs, self.settings.precision));
            self.run_judged(compiled, dim, network, preprocess, samples, what)
        };
        let (val, test) = (run(&images.val, "validation")?, run(&images.test, "test")?);
        let enough = match self.place {
            Place::Alone => val.labels.len() >= ENOUGH,
            Place::Fold => true,
            Place::Last(folds) => folds.judged.labels.len() >= ENOUGH,
        };
        // A trial is judged by its probabilities alone.
        let familiar = if !enough || self.is_trial {
            None
        } else {
            let some = fitted_to(&images.train, self.dataset.classes.len());
            let some: Vec<Sample> = some.into_iter().map(|i| images.train[i].clone()).collect();
            let seen = run(&some, "training images")?;
            let distance = Distance::fit(&seen.features, &seen.labels);
            distance.map(|distance| Familiar { distance, held_out: None })
        };
        Ok(self.trust(&self.dataset.classes, &val, &test, familiar))
    }

    /// The temperature and the threshold, and what they come to.
    ///
    /// Both are fitted on validation images, which the weights have not seen, or on the images of all
    /// folds, each as a model sees it that has not; where those are too few, on
    /// training images that were held out in turn, if the head is cheap to solve for anew. A body that
    /// was trained on them makes training images look better than others, so it is left as it is.
    pub(super) fn trust(
        &self,
        classes: &[String],
        val: &Judged,
        test: &Judged,
        familiar: Option<Familiar>,
    ) -> Trust {
        let k = classes.len();
        let held_out = familiar.as_ref().and_then(|f| f.held_out.as_ref());
        let folds = self.place.folds().filter(|folds| folds.judged.labels.len() >= ENOUGH);
        let (source, fitted_on) = match held_out {
            _ if let Some(folds) = folds => (Some(&folds.judged), FittedOn::Folds),
            _ if val.labels.len() >= ENOUGH => (Some(val), FittedOn::Validation),
            Some(held_out) => (Some(&held_out.judged), FittedOn::HeldOutTraining),
            None => (None, FittedOn::Nothing),
        };
        let calibration = Calibration {
            temperature: source.map_or(1.0, |s| careful_temperature(&s.logits, &s.labels, k)),
            fitted_on,
            images: source.map_or(0, |s| s.labels.len()),
        };
        let metrics = |judged: &Judged, logits: &[f32]| match fitted_on {
            FittedOn::Nothing => Metrics::from_logits(&judged.logits, &judged.labels, classes),
            _ => Metrics::calibrated(logits, &judged.logits, &judged.labels, classes),
        };
        let heated = |judged: &Judged| scaled(&judged.logits, calibration.temperature);
        let val_logits = match fitted_on {
            FittedOn::Validation => cross_fitted(&val.logits, &val.labels, k),
            _ => heated(val),
        };
        let (val_metrics, test_metrics) = (metrics(val, &val_logits), metrics(test, &heated(test)));
        let of_folds = self.place.folds().into_iter().flat_map(|folds| folds.predictions.clone());
        // As `metrics.json` has them: each half of the validation images by the other.
        let of_val = judgements(&val_logits, &val.samples, k, Split::Val);
        let of_test = judgements(&heated(test), &test.samples, k, Split::Test);
        let predictions = of_folds.chain(of_val).chain(of_test).collect();
        let tested = Tested {
            logits: test.logits.clone(),
            distances: familiar.as_ref().map(|f| f.distance.of_rows(&test.features)),
        };
        let known = familiar.and_then(|f| f.judge(val, test, fitted_on, self.place.folds()));
        let (unknown, report) = known.unzip();
        let (val, test) = (val_metrics, test_metrics);
        Trust { val, test, calibration, unknown, predictions, report, tested }
    }

    /// What heads that learned from the others say of `some` training images, and how far those are from
    /// the others; none where that is too few images.
    fn held_out(
        &self,
        features: &SplitFeatures,
        images: &Images,
        some: &[usize],
        strength: f64,
    ) -> Option<HeldOut> {
        let label = |&i: &usize| images.train[i].label;
        let labels: Vec<usize> = some.iter().map(label).collect();
        let seed = self.settings.seed;
        let stream = |class| Stream::new(seed, "held out", &[class]);
        let parts = subsets::folds(&labels, self.dataset.classes.len(), PARTS, stream);
        let mut found = HeldOut { judged: Judged::default(), distances: Vec::new() };
        for number in 0..PARTS {
            let part = |held: bool| -> Vec<usize> {
                let is_part = |at: &usize| (parts[*at] == Some(number)) == held;
                (0..some.len()).filter(is_part).map(|at| some[at]).collect()
            };
            let (others, own) = (part(false), part(true));
            if own.is_empty() {
                continue;
            }
            let (known, known_labels) = plain(features, images, &others);
            let (held, held_labels) = plain(features, images, &own);
            let head = self.solve(features, &others, images, Some(strength)).ok()?.model;
            found.distances.extend(Distance::fit(&known, &known_labels)?.of_rows(&held));
            found.judged.logits.extend(head.logits(&held));
            found.judged.labels.extend(held_labels);
        }
        (found.judged.labels.len() >= ENOUGH).then_some(found)
    }
}

/// Features of the plain view of some training images, and their classes.
fn plain(features: &SplitFeatures, images: &Images, some: &[usize]) -> (Vec<f32>, Vec<usize>) {
    let row = |&i: &usize| features.learned.row(i, 0).to_vec();
    (some.iter().flat_map(row).collect(), some.iter().map(|&i| images.train[i].label).collect())
}

impl Familiar {
    /// The threshold, and what it comes to on the images to judge by.
    fn judge(
        self,
        val: &Judged,
        test: &Judged,
        fitted_on: FittedOn,
        folds: Option<&OutOfFold>,
    ) -> Option<(Unknown, UnknownReport)> {
        let distances = |judged: &Judged| self.distance.of_rows(&judged.features);
        let (of_val, of_test) = (distances(val), distances(test));
        let of_folds = folds.and_then(|folds| Some((&folds.judged, folds.distances.as_ref()?)));
        let held_out = match (fitted_on, self.held_out) {
            (FittedOn::Folds, _) => of_folds?.1.clone(),
            (FittedOn::Validation, _) => of_val.clone(),
            (_, Some(held_out)) => held_out.distances,
            _ => return None,
        };
        let some = evenly(held_out.len(), MOST_HELD_OUT);
        let held_out = some.into_iter().map(|i| held_out[i]).collect();
        let unknown = Unknown::new(self.distance, held_out);
        let threshold = unknown.threshold(SHARE);
        let abstains = |judged: &Judged, distances: &[f32]| {
            let classes = judged.logits.len() / judged.labels.len().max(1);
            let rows = judged.logits.chunks_exact(classes.max(1)).zip(&judged.labels);
            let right: Vec<bool> = rows.map(|(row, label)| arg_max(row) == *label).collect();
            abstention(distances, &right, threshold)
        };
        let report = UnknownReport {
            share: SHARE,
            threshold,
            fitted_on,
            images: unknown.held_out(),
            val: match of_folds {
                Some((judged, distances)) => abstains(judged, distances),
                None => abstains(val, &of_val),
            },
            test: abstains(test, &of_test),
        };
        Some((unknown, report))
    }
}

impl Trust {
    /// Says where there was nothing to fit a temperature on.
    pub fn notes(&self, watch: &dyn Watch) {
        if self.calibration.fitted_on == FittedOn::Nothing {
            watch.event(Event::Note(format!(
                "not calibrated, and no image is called unknown: that takes {ENOUGH} validation images"
            )));
        }
    }
}

/// The training images that distances are fitted to: all, or as many of each class, evenly spread, so that
/// a rare one is not left without.
fn fitted_to(train: &[Sample], classes: usize) -> Vec<usize> {
    if train.len() <= MOST_FITTED {
        return (0..train.len()).collect();
    }
    let mut by_class = vec![Vec::new(); classes];
    train.iter().enumerate().for_each(|(i, sample)| by_class[sample.label].push(i));
    let each = (MOST_FITTED / classes).max(1);
    let some = |own: &Vec<usize>| -> Vec<usize> {
        evenly(own.len(), each).into_iter().map(|i| own[i]).collect()
    };
    by_class.iter().flat_map(some).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_classes_are_known_too() {
        let sample = |label: usize| Sample { path: "x".into(), label };
        let many: Vec<Sample> =
            (0..5000).map(|_| sample(0)).chain((0..3).map(|_| sample(1))).collect();
        let some = fitted_to(&many, 2);
        assert_eq!(some.len(), MOST_FITTED / 2 + 3);
        assert_eq!(some[1000..], [5000, 5001, 5002]);
        assert_eq!(fitted_to(&many[..7], 2), [0, 1, 2, 3, 4, 5, 6]);
    }
}
