//! Probabilities that mean what they say.

use serde::{Deserialize, Serialize};

use crate::metrics::{arg_max, check_rows, log_loss, softmax};

/// Images below which no temperature is fitted: with fewer, it says more of them than of the model.
pub const ENOUGH: usize = 50;

/// How far from 0 the logarithm of a model's temperature is expected, as a standard deviation.
const EXPECTED: f64 = 0.2;

/// Bins of [`reliability`].
pub const BINS: usize = 15;

/// The temperature by which logits are divided so that the mean log loss on `labels` is least
/// (Guo et al. 2017, <https://arxiv.org/abs/1706.04599>), from 0.05 to 20; 1 where there is nothing
/// to learn it from. Which class is likeliest does not change.
///
/// `logits` are `[n, classes]`, row-major, and `labels` `[n]`. This is what a loss is compared at;
/// a model that is to be used gets [`careful_temperature`].
pub fn temperature(logits: &[f32], labels: &[usize], classes: usize) -> f64 {
    fitted(logits, labels, classes, 0.0)
}

/// As [`temperature`], but no farther from 1 than the images speak for: `ln T` is expected to be 0, give
/// or take 0.2. Some hundred images tell `T` to a tenth or two, and without this, halves of
/// validation sets gave temperatures that made the other half's loss worse (docs/trust.md).
pub fn careful_temperature(logits: &[f32], labels: &[usize], classes: usize) -> f64 {
    fitted(logits, labels, classes, 0.5 / (EXPECTED * EXPECTED))
}

/// `penalty` is that of `(ln T)²` beside the summed loss.
fn fitted(logits: &[f32], labels: &[usize], classes: usize, penalty: f64) -> f64 {
    if labels.is_empty() || classes < 2 {
        return 1.0;
    }
    // Some thousands of rows tell as much as all.
    const VALUES: usize = 2_000_000;
    let step = logits.len().div_ceil(VALUES).max(1);
    let rows: Vec<(&[f32], usize)> =
        logits.chunks_exact(classes).zip(labels.iter().copied()).step_by(step).collect();
    lowest(|log| {
        let loss: f64 = rows.iter().map(|(row, label)| row_loss(row, *label, log.exp())).sum();
        loss + penalty * log * log
    })
}

/// `-ln p` of one row's label at a temperature.
fn row_loss(row: &[f32], label: usize, temperature: f64) -> f64 {
    let z = |v: &f32| f64::from(*v) / temperature;
    let top = row.iter().map(z).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|v| (z(v) - top).exp()).sum();
    top + sum.ln() - z(&row[label])
}

/// Where between 0.05 and 20 a loss of `ln T` is least: it has one minimum in `1 / T`, on which golden
/// sections close in, one new point each.
fn lowest(loss: impl Fn(f64) -> f64) -> f64 {
    const RATIO: f64 = 0.618_033_988_749_894_9;
    let (mut low, mut high) = (0.05_f64.ln(), 20.0_f64.ln());
    let (mut a, mut b) = (high - RATIO * (high - low), low + RATIO * (high - low));
    let (mut at_a, mut at_b) = (loss(a), loss(b));
    while high - low > 1e-4 {
        if at_a <= at_b {
            (high, b, at_b) = (b, a, at_a);
            a = high - RATIO * (high - low);
            at_a = loss(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + RATIO * (high - low);
            at_b = loss(b);
        }
    }
    f64::midpoint(low, high).exp()
}

/// The mean log loss of logits divided by `temperature`, in nats.
pub fn scaled_loss(logits: &[f32], labels: &[usize], classes: usize, temperature: f64) -> f64 {
    log_loss(&softmax(&scaled(logits, temperature), classes), labels, classes).unwrap_or(0.0)
}

/// Logits divided by a temperature.
pub fn scaled(logits: &[f32], temperature: f64) -> Vec<f32> {
    logits.iter().map(|v| (f64::from(*v) / temperature) as f32).collect()
}

/// Logits `[n, classes]`, each half of the rows (every other one) divided by the temperature that the
/// other half gives: what is then measured on them is not flattered by a temperature that was fitted
/// to the same images.
pub fn cross_fitted(logits: &[f32], labels: &[usize], classes: usize) -> Vec<f32> {
    let halves: Vec<usize> = (0..labels.len()).map(|i| i % 2).collect();
    cross_fitted_by(logits, labels, classes, &halves)
}

/// The same by parts: `parts` are `[n]`, the number of each row's, and a part's rows are divided by the
/// temperature that all others give.
pub(crate) fn cross_fitted_by(
    logits: &[f32],
    labels: &[usize],
    classes: usize,
    parts: &[usize],
) -> Vec<f32> {
    let rows = || logits.chunks_exact(classes.max(1)).zip(parts);
    let heat = |part: usize| -> f64 {
        let others: Vec<f32> =
            rows().filter(|(_, own)| **own != part).flat_map(|(row, _)| row).copied().collect();
        let labels = labels.iter().zip(parts).filter(|(_, own)| **own != part);
        let labels: Vec<usize> = labels.map(|(label, _)| *label).collect();
        careful_temperature(&others, &labels, classes)
    };
    let heats: Vec<f64> = (0..parts.iter().max().map_or(0, |last| last + 1)).map(heat).collect();
    rows().flat_map(|(row, part)| scaled(row, heats[*part])).collect()
}

/// Some predictions of about the same confidence: how many, their mean confidence, and the part of
/// them that is right; `[count, confidence, accuracy]` in JSON. An empty bin is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Bin(pub u64, pub f64, pub f64);

/// How confidence and accuracy go together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reliability {
    /// Predictions by the probability of the predicted class, in bins of equal width from 0 to 1.
    pub bins: Vec<Bin>,
    /// The expected calibration error, `[0, 1]`: how far confidence stands from accuracy, the mean
    /// over all predictions of their bin's gap.
    pub ece: f64,
}

/// The reliability diagram of the predicted class in [`BINS`] bins, and its expected calibration error
/// (Naeini et al. 2015, <https://doi.org/10.1609/aaai.v29i1.9602>; for the predicted class of several,
/// Guo et al. 2017). `None` when there are no samples.
///
/// `probabilities` are `[n, classes]`, row-major, and `labels` `[n]`.
///
/// # Panics
/// If `probabilities` has not `labels.len()` rows of `classes`, or a label is past the last class.
pub fn reliability(probabilities: &[f32], labels: &[usize], classes: usize) -> Option<Reliability> {
    check_rows(probabilities, labels, classes);
    let mut sums = vec![Bin::default(); BINS];
    for (row, &label) in probabilities.chunks(classes.max(1)).zip(labels) {
        let predicted = arg_max(row);
        // `max` takes the number when the other is NaN.
        let confidence = f64::from(row[predicted].max(0.0));
        let bin = &mut sums[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += 1;
        bin.1 += confidence;
        bin.2 += f64::from(u8::from(predicted == label));
    }
    let gap: f64 = sums.iter().map(|bin| (bin.1 - bin.2).abs()).sum();
    let mean = |Bin(n, confidence, right): Bin| match n {
        0 => Bin::default(),
        n => Bin(n, rounded(confidence / n as f64), rounded(right / n as f64)),
    };
    let bins = sums.into_iter().map(mean).collect();
    (!labels.is_empty()).then(|| Reliability { bins, ece: rounded(gap / labels.len() as f64) })
}

/// The mean squared distance of probabilities from the truth, all classes of an image summed: from 0
/// to 2 (Brier 1950, <https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2>). `None` when
/// there are no samples.
///
/// # Panics
/// If `probabilities` has not `labels.len()` rows of `classes`, or a label is past the last class.
pub fn brier(probabilities: &[f32], labels: &[usize], classes: usize) -> Option<f64> {
    check_rows(probabilities, labels, classes);
    let of = |(row, &label): (&[f32], &usize)| -> f64 {
        let truth = |class: usize| f64::from(u8::from(class == label));
        row.iter().enumerate().map(|(class, p)| (f64::from(*p) - truth(class)).powi(2)).sum()
    };
    let sum: f64 = probabilities.chunks(classes.max(1)).zip(labels).map(of).sum();
    (!labels.is_empty()).then(|| rounded(sum / labels.len() as f64))
}

/// To a billionth: finer than it says anything, and JSON gives it back bit by bit.
fn rounded(x: f64) -> f64 {
    (x * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use refit_data::Stream;

    use super::*;

    #[test]
    fn the_temperature_that_logits_were_made_with_is_found() {
        // Labels drawn from the probabilities of logits that are then multiplied.
        let mut random = Stream::new(1, "temperature", &[]);
        let (n, classes, factor) = (4000, 4, 2.5_f32);
        let honest: Vec<f32> = (0..n * classes).map(|_| 2.0 * random.normal() as f32).collect();
        let p = softmax(&honest, classes);
        let mut draw = |row: &[f32]| {
            let mut left = random.uniform_f32();
            let under = |p: &f32| {
                left -= p;
                left < 0.0
            };
            row.iter().position(under).unwrap_or(classes - 1)
        };
        let labels: Vec<usize> = p.chunks_exact(classes).map(&mut draw).collect();
        let loud: Vec<f32> = honest.iter().map(|v| v * factor).collect();
        let found = temperature(&loud, &labels, classes);
        assert!((found / f64::from(factor) - 1.0).abs() < 0.1, "{found}");
        let before = scaled_loss(&loud, &labels, classes, 1.0);
        assert!(scaled_loss(&loud, &labels, classes, found) < before);
    }

    #[test]
    fn images_that_were_not_fitted_to_gain_too() {
        let mut random = Stream::new(2, "temperature", &[]);
        let (n, classes) = (400, 3);
        let honest: Vec<f32> = (0..n * classes).map(|_| 1.5 * random.normal() as f32).collect();
        let p = softmax(&honest, classes);
        let mut draw = |row: &[f32]| {
            let mut left = random.uniform_f32();
            row.iter()
                .position(|p| {
                    left -= p;
                    left < 0.0
                })
                .unwrap_or(classes - 1)
        };
        let labels: Vec<usize> = p.chunks_exact(classes).map(&mut draw).collect();
        let loud: Vec<f32> = honest.iter().map(|v| v * 4.0).collect();
        let (before, after) = (softmax(&loud, classes), cross_fitted(&loud, &labels, classes));
        let after = softmax(&after, classes);
        let loss = |p: &[f32]| log_loss(p, &labels, classes).unwrap();
        let ece = |p: &[f32]| reliability(p, &labels, classes).unwrap().ece;
        assert!(loss(&after) < 0.7 * loss(&before), "{} {}", loss(&after), loss(&before));
        assert!(ece(&after) < 0.5 * ece(&before), "{} {}", ece(&after), ece(&before));
        assert!(brier(&after, &labels, classes) < brier(&before, &labels, classes));
        // Not fitted to the same images, so no better than what is.
        let best = scaled_loss(&loud, &labels, classes, temperature(&loud, &labels, classes));
        assert!(loss(&after) >= best);
    }

    #[test]
    fn a_model_that_is_always_right_is_not_made_certain() {
        let n = 60;
        let logits: Vec<f32> = (0..n).flat_map(|_| [1.0, 0.0]).collect();
        let heat = careful_temperature(&logits, &vec![0; n], 2);
        assert!((0.4..0.8).contains(&heat), "{heat}");
        assert!(temperature(&logits, &vec![0; n], 2) < 0.06);
    }

    #[test]
    fn reliability_counts_by_confidence() {
        // Two at 0.9, one of them right; two at 0.6, both right; one sure and wrong.
        let p = [0.9, 0.1, 0.9, 0.1, 0.6, 0.4, 0.6, 0.4, 0.0, 1.0];
        let Reliability { bins, ece } = reliability(&p, &[0, 1, 0, 0, 0], 2).unwrap();
        let near = |bin: Bin, n, confidence: f64, accuracy: f64| {
            bin.0 == n && (bin.1 - confidence).abs() < 1e-6 && (bin.2 - accuracy).abs() < 1e-6
        };
        assert!(near(bins[13], 2, 0.9, 0.5) && near(bins[9], 2, 0.6, 1.0));
        assert!(near(bins[14], 1, 1.0, 0.0) && bins[0] == Bin::default() && bins.len() == BINS);
        assert!((ece - (2.0 * 0.4 + 2.0 * 0.4 + 1.0) / 5.0).abs() < 1e-6);
        assert_eq!(serde_json::to_string(&bins[14]).unwrap(), "[1,1.0,0.0]");
        assert_eq!((reliability(&[], &[], 2), brier(&[], &[], 2)), (None, None));
        // One right at 0.8, one wrong at 1.
        let score = brier(&[0.8, 0.2, 1.0, 0.0], &[0, 1], 2).unwrap();
        assert!((score - (0.08 + 2.0) / 2.0).abs() < 1e-6, "{score}");
    }

    #[test]
    fn nothing_to_learn_from_leaves_logits_as_they_are() {
        assert_eq!(temperature(&[], &[], 3), 1.0);
        assert_eq!(temperature(&[1.0, 2.0], &[0, 0], 1), 1.0);
        // All right: as sure as it may be.
        assert!(temperature(&[1.0, 0.0, 0.0, 1.0], &[0, 1], 2) < 0.06);
    }
}
