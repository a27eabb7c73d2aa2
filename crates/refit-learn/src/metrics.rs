//! How good a classifier's predictions are.
//!
//! Scores come as rows, `[n, classes]` row-major: logits, or probabilities in `[0, 1]`. Nothing
//! here yields NaN: what is undefined, such as the precision of a class never predicted, is `None`
//! (`null` in JSON), and counts as 0 in an average over classes that occur.

use serde::{Deserialize, Serialize};

use crate::auc::macro_auc;
use crate::calibrate::{Reliability, brier, reliability, scaled_loss, temperature};

/// The probability taken for one of 0, so that its logarithm is finite.
const LEAST: f64 = 1e-15;

/// Everything reported of a classifier on a labelled set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// How many samples.
    pub samples: u64,
    /// Mean of `-ln p` of the true class, in nats.
    pub loss: f64,
    /// Part of the samples whose likeliest class is the true one, `[0, 1]`.
    pub top1: f64,
    /// Part of the samples whose true class is among the five likeliest, `[0, 1]`.
    pub top5: f64,
    /// 95% interval of `top1` ([`wilson95`]).
    pub interval95: [f64; 2],
    /// Mean recall of the classes that have samples.
    pub balanced_accuracy: f64,
    /// Mean precision of the classes that occur, as truth or as prediction.
    pub macro_precision: f64,
    /// Mean F1 of the classes that occur, as truth or as prediction.
    pub macro_f1: f64,
    /// Mean area under the classes' ROC curves, each against the rest ([`macro_auc`]).
    #[serde(default)]
    pub macro_auc: Option<f64>,
    /// The loss at the temperature that makes it least ([`temperature`]): what is left when
    /// over- and underconfidence are mended.
    #[serde(default)]
    pub calibrated_loss: f64,
    /// How far confidence stands from accuracy, `[0, 1]`: the `ece` of `reliability`.
    pub calibration_error: f64,
    /// Mean squared distance of the probabilities from the truth, `[0, 2]` ([`brier`]).
    #[serde(default)]
    pub brier: f64,
    /// How confidence and accuracy go together ([`reliability`], 15 bins).
    #[serde(default)]
    pub reliability: Reliability,
    /// What the probabilities were before the temperature, where one was fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncalibrated: Option<Uncalibrated>,
    /// One entry a class, in class order.
    pub per_class: Vec<ClassMetrics>,
    /// What was taken for what.
    pub confusion: ConfusionMatrix,
}

impl Metrics {
    /// Of `logits` (`[n, classes]`) for the true `labels` (`[n]`); `None` when there are none.
    ///
    /// # Panics
    /// If `logits` has not `labels.len()` rows of `classes.len()`, or a label is past the last
    /// class.
    pub fn from_logits(logits: &[f32], labels: &[usize], classes: &[String]) -> Option<Self> {
        Self::from_probabilities(&softmax(logits, classes.len()), labels, classes)
    }

    /// Of `probabilities` (`[n, classes]`) for the true `labels` (`[n]`); `None` when there are
    /// none.
    ///
    /// # Panics
    /// If `probabilities` has not `labels.len()` rows of `classes.len()`, or a label is past the
    /// last class.
    pub fn from_probabilities(
        probabilities: &[f32],
        labels: &[usize],
        classes: &[String],
    ) -> Option<Self> {
        let k = classes.len();
        let top1 = top_k(probabilities, labels, k, 1)?;
        let confusion = ConfusionMatrix::from_scores(probabilities, labels, k);
        let reliability = reliability(probabilities, labels, k)?;
        Some(Self {
            samples: confusion.total(),
            loss: log_loss(probabilities, labels, k)?,
            top1,
            top5: top_k(probabilities, labels, k, 5)?,
            interval95: wilson95(confusion.correct(), confusion.total()),
            balanced_accuracy: confusion.balanced_accuracy()?,
            macro_precision: confusion.macro_average(|class| class.precision)?,
            macro_f1: confusion.macro_average(|class| class.f1)?,
            macro_auc: macro_auc(probabilities, labels, k),
            calibrated_loss: calibrated_loss(probabilities, labels, k),
            calibration_error: reliability.ece,
            brier: brier(probabilities, labels, k)?,
            reliability,
            uncalibrated: None,
            per_class: confusion.per_class(classes),
            confusion,
        })
    }
}

/// How good probabilities are apart from which class is likeliest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Uncalibrated {
    /// As [`Metrics::loss`].
    pub loss: f64,
    /// As [`Metrics::brier`].
    pub brier: f64,
    /// As [`Metrics::reliability`].
    pub reliability: Reliability,
}

impl Metrics {
    /// Of `calibrated` logits, with what the probabilities were before, from `raw` ones; both are
    /// `[n, classes]`. `None` when there are none.
    ///
    /// # Panics
    /// As [`Metrics::from_logits`].
    pub fn calibrated(
        calibrated: &[f32],
        raw: &[f32],
        labels: &[usize],
        classes: &[String],
    ) -> Option<Self> {
        let before = Self::from_logits(raw, labels, classes)?;
        let after = Self::from_logits(calibrated, labels, classes)?;
        let Self { loss, brier, reliability, calibrated_loss, .. } = before;
        let uncalibrated = Some(Uncalibrated { loss, brier, reliability });
        Some(Self { uncalibrated, calibrated_loss, ..after })
    }
}

/// The loss of probabilities at their best temperature.
fn calibrated_loss(probabilities: &[f32], labels: &[usize], classes: usize) -> f64 {
    // Logarithms of probabilities are logits of theirs.
    let logits: Vec<f32> = probabilities.iter().map(|p| p.max(1e-30).ln()).collect();
    scaled_loss(&logits, labels, classes, temperature(&logits, labels, classes))
}

/// How one class fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Its name.
    pub class: String,
    /// Of the samples taken for it, the part that are; `None` when none were.
    pub precision: Option<f64>,
    /// Of its samples, the part recognized; `None` when it has none.
    pub recall: Option<f64>,
    /// `2 tp / (2 tp + fp + fn)`; `None` when it has no samples and was never predicted.
    pub f1: Option<f64>,
    /// How many samples it has.
    pub support: u64,
}

/// Counts of samples by true class (row) and predicted class (column).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfusionMatrix {
    rows: Vec<Vec<u64>>,
}

impl ConfusionMatrix {
    /// All zero, `classes` by `classes`.
    pub fn new(classes: usize) -> Self {
        Self { rows: vec![vec![0; classes]; classes] }
    }

    /// Of the highest `scores` (`[n, classes]`) for the true `labels` (`[n]`).
    ///
    /// # Panics
    /// If `scores` has not `labels.len()` rows of `classes`, or a label is past the last class.
    pub fn from_scores(scores: &[f32], labels: &[usize], classes: usize) -> Self {
        check_rows(scores, labels, classes);
        let mut matrix = Self::new(classes);
        for (row, &label) in scores.chunks(classes).zip(labels) {
            matrix.add(label, arg_max(row));
        }
        matrix
    }

    /// Counts one sample of class `truth` taken for `predicted`.
    ///
    /// # Panics
    /// If either is past the last class.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        self.rows[truth][predicted] += 1;
    }

    /// The counts: a row for each true class.
    pub fn rows(&self) -> &[Vec<u64>] {
        &self.rows
    }

    /// How many samples there are.
    pub fn total(&self) -> u64 {
        self.rows.iter().flatten().sum()
    }

    /// How many were taken for what they are.
    pub fn correct(&self) -> u64 {
        (0..self.rows.len()).map(|c| self.rows[c][c]).sum()
    }

    /// Mean recall of the classes that have samples; `None` when there are none.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let recalls = (0..self.rows.len()).filter_map(|c| self.class(c, "").recall);
        mean(recalls)
    }

    /// The mean of `value` over the classes that occur, as truth or as prediction; one undefined
    /// counts as 0. `None` when no class occurs.
    pub fn macro_average(&self, value: impl Fn(&ClassMetrics) -> Option<f64>) -> Option<f64> {
        let classes = (0..self.rows.len()).map(|c| self.class(c, ""));
        mean(classes.filter(|class| class.f1.is_some()).map(|class| value(&class).unwrap_or(0.0)))
    }

    /// How each class fared.
    ///
    /// # Panics
    /// If there are not as many `names` as classes.
    pub fn per_class(&self, names: &[String]) -> Vec<ClassMetrics> {
        assert_eq!(names.len(), self.rows.len(), "per_class: a name for each class");
        names.iter().enumerate().map(|(c, name)| self.class(c, name)).collect()
    }

    fn class(&self, c: usize, name: &str) -> ClassMetrics {
        let hits = self.rows[c][c];
        let support = self.rows[c].iter().sum();
        let predicted = self.rows.iter().map(|row| row[c]).sum();
        ClassMetrics {
            class: name.to_owned(),
            precision: ratio(hits, predicted),
            recall: ratio(hits, support),
            f1: ratio(2 * hits, support + predicted),
            support,
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

pub(crate) fn check_rows(scores: &[f32], labels: &[usize], classes: usize) {
    assert_eq!(scores.len(), labels.len() * classes, "a row of {classes} scores for each label");
    assert!(labels.iter().all(|&label| label < classes), "labels below {classes}");
}

/// NaN below everything, so that it never wins.
fn rank(score: f32) -> f32 {
    if score.is_nan() { f32::NEG_INFINITY } else { score }
}

/// The place of the highest score; of equals, the first.
///
/// # Panics
/// If `row` is empty.
pub fn arg_max(row: &[f32]) -> usize {
    assert!(!row.is_empty(), "arg_max: `row` is empty");
    (1..row.len()).fold(0, |best, i| if rank(row[i]) > rank(row[best]) { i } else { best })
}

/// Part of the samples whose true class is among the `k` highest `scores` (`[n, classes]`); of
/// equals, the first go first. `None` when there are no samples.
///
/// # Panics
/// If `scores` has not `labels.len()` rows of `classes`, or a label is past the last class.
pub fn top_k(scores: &[f32], labels: &[usize], classes: usize, k: usize) -> Option<f64> {
    check_rows(scores, labels, classes);
    let ahead = |row: &[f32], label: usize| {
        let own = rank(row[label]);
        let before = |&(i, &v): &(usize, &f32)| rank(v) > own || (rank(v) == own && i < label);
        row.iter().enumerate().filter(before).count()
    };
    let rows = scores.chunks(classes.max(1)).zip(labels);
    mean(rows.map(|(row, &label)| f64::from(u8::from(ahead(row, label) < k))))
}

/// Mean of `-ln p` of the true class, in nats, `p` at least 1e-15; `None` when there are no
/// samples.
///
/// # Panics
/// If `probabilities` has not `labels.len()` rows of `classes`, or a label is past the last class.
pub fn log_loss(probabilities: &[f32], labels: &[usize], classes: usize) -> Option<f64> {
    check_rows(probabilities, labels, classes);
    let rows = probabilities.chunks(classes.max(1)).zip(labels);
    // `max` takes the number when the other is NaN.
    mean(rows.map(|(row, &label)| -f64::from(row[label]).max(LEAST).ln()))
}

/// Probabilities of `logits`, both `[n, classes]`: each row sums to 1, whatever its size.
///
/// Infinities and NaN are taken as far-off numbers; a row of equals gives equal probabilities.
pub fn softmax(logits: &[f32], classes: usize) -> Vec<f32> {
    logits.chunks(classes.max(1)).flat_map(softmax_row).collect()
}

fn softmax_row(row: &[f32]) -> Vec<f32> {
    let value = |v: &f32| f64::from(rank(*v).clamp(f32::MIN, f32::MAX));
    let highest = row.iter().map(value).fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = row.iter().map(|v| (value(v) - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| (p / sum) as f32).collect()
}

/// 95% score interval of a proportion, within `[0, 1]`; all of it when `total` is 0.
///
/// Wilson 1927, <https://doi.org/10.1080/01621459.1927.10502953>: with `p = hits / total`,
/// `(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`. Unlike the usual one, it stays sound
/// for few samples and for proportions near 0 or 1.
pub fn wilson95(hits: u64, total: u64) -> [f64; 2] {
    match total {
        0 => [0.0, 1.0],
        _ => wilson95_of(hits as f64 / total as f64, total as f64),
    }
}

/// The same for a share `p` of `n` above 0.
pub(crate) fn wilson95_of(p: f64, n: f64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("class {i}")).collect()
    }

    /// Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I,
    /// method 3.
    #[test]
    fn wilson_matches_published_intervals() {
        let table = [
            (81, 263, [0.2553, 0.3662]),
            (15, 148, [0.0624, 0.1605]),
            (0, 20, [0.0, 0.1611]),
            (1, 29, [0.0061, 0.1718]),
        ];
        for (hits, total, expected) in table {
            let interval = wilson95(hits, total);
            for (ours, theirs) in interval.iter().zip(expected) {
                assert!((ours - theirs).abs() < 6e-5, "{hits}/{total}: {interval:?}");
            }
        }
        assert_eq!(wilson95(0, 0), [0.0, 1.0]);
        assert_eq!(wilson95(7, 7)[1], 1.0);
    }

    #[test]
    fn top_k_breaks_ties_by_index() {
        let scores = [0.5, 0.5, 0.0, 0.2, 0.2, 0.2];
        assert_eq!(top_k(&scores, &[0, 2], 3, 1), Some(0.5));
        assert_eq!(top_k(&scores, &[1, 2], 3, 1), Some(0.0));
        assert_eq!(top_k(&scores, &[1, 2], 3, 2), Some(0.5));
        assert_eq!(top_k(&scores, &[1, 2], 3, 9), Some(1.0));
        assert_eq!(top_k(&[], &[], 3, 1), None);
    }

    #[test]
    fn not_a_number_never_wins() {
        let scores = [f32::NAN, 0.1, f32::NAN, f32::NAN];
        assert_eq!(top_k(&scores, &[0, 0], 2, 1), Some(0.5));
        assert_eq!(softmax(&scores, 2), [0.0, 1.0, 0.5, 0.5]);
        let metrics = Metrics::from_probabilities(&scores, &[0, 1], &names(2)).unwrap();
        assert!(metrics.loss.is_finite() && metrics.calibration_error.is_finite());
    }

    #[test]
    fn softmax_is_stable() {
        let p = softmax(&[1000.0, 1001.0, -1000.0, f32::INFINITY, 0.0, 0.0], 3);
        assert!((p[1] - 0.731_058_6).abs() < 1e-6 && p[2] == 0.0);
        assert_eq!(&p[3..], [1.0, 0.0, 0.0]);
    }

    #[test]
    fn loss_is_the_mean_negative_logarithm() {
        let loss = log_loss(&[0.25, 0.75, 0.5, 0.5], &[1, 0], 2).unwrap();
        assert!(close(loss, -(0.75f64.ln() + 0.5f64.ln()) / 2.0));
        assert!(close(log_loss(&[1.0, 0.0], &[1], 2).unwrap(), -(1e-15f64.ln())));
    }

    #[test]
    fn classes_without_samples_or_predictions_are_undefined_not_nan() {
        let mut matrix = ConfusionMatrix::new(4);
        for (truth, predicted) in [(0, 0), (0, 1), (1, 1), (1, 1), (2, 1)] {
            matrix.add(truth, predicted);
        }
        let classes = matrix.per_class(&names(4));
        assert_eq!((classes[0].precision, classes[0].recall), (Some(1.0), Some(0.5)));
        assert_eq!((classes[1].precision, classes[1].recall), (Some(0.5), Some(1.0)));
        assert_eq!((classes[2].precision, classes[2].recall), (None, Some(0.0)));
        assert_eq!((classes[2].f1, classes[3].f1), (Some(0.0), None));
        assert_eq!((matrix.correct(), matrix.total()), (3, 5));
        assert!(close(matrix.balanced_accuracy().unwrap(), 0.5));
        assert!(close(matrix.macro_average(|class| class.precision).unwrap(), 0.5));
        assert_eq!(ConfusionMatrix::new(2).balanced_accuracy(), None);
    }

    #[test]
    fn metrics_survive_json() {
        let logits = [2.0, 0.0, 0.0, 1.0, 3.0, -1.0];
        let metrics = Metrics::from_logits(&logits, &[0, 1, 1], &names(2)).unwrap();
        assert!(close(metrics.top1, 2.0 / 3.0) && metrics.top5 == 1.0);
        assert_eq!(metrics.confusion.rows(), [vec![1, 0], vec![1, 1]]);
        let json = serde_json::to_string(&metrics).unwrap();
        assert!(json.contains(r#""confusion":[[1,0],[1,1]]"#), "{json}");
        let back: Metrics = serde_json::from_str(&json).unwrap();
        assert_eq!((back.per_class, back.confusion), (metrics.per_class, metrics.confusion));
        assert_eq!(Metrics::from_logits(&[], &[], &names(2)), None);
    }
}
