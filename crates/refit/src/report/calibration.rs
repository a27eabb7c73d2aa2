//! Whether probabilities mean what they say.

use maud::{Markup, html};
use refit::learn::Prediction;
use refit::learn::metrics::wilson95;

use super::chart::{Mark, Plot, Scale};
use super::{Run, images_of, part};
use crate::output::percent;

/// As many as the calibration error of the metrics is taken over.
const BINS: usize = 15;

/// Predictions whose probability lies within the same bounds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// From here.
    pub low: f64,
    /// To there.
    pub high: f64,
    /// How many predictions.
    pub count: u64,
    /// How many of them are right.
    pub right: u64,
    /// The mean probability of the predicted classes.
    pub confidence: f64,
}

impl Bin {
    fn accuracy(&self) -> f64 {
        self.right as f64 / self.count.max(1) as f64
    }
}

pub fn section(run: &Run) -> Option<Markup> {
    let all = run.record.predictions.as_ref()?;
    let (split, metrics) = run.judged()?;
    let judged: Vec<&Prediction> = all.iter().filter(|p| p.split == split).collect();
    let bins: Vec<Bin> = bins(&judged).into_iter().filter(|bin| bin.count > 0).collect();
    let confidence =
        judged.iter().map(|p| f64::from(p.probability)).sum::<f64>() / judged.len().max(1) as f64;
    let verdict = match confidence - metrics.top1 {
        gap if gap > 0.02 => "more sure than right",
        gap if gap < -0.02 => "less sure than right",
        _ => "as sure as right",
    };
    let shows = html! {
        div.charts {
            (diagram(&bins))
            dl.pairs {
                dt { "expected calibration error" } dd { (percent(metrics.calibration_error)) }
                dt { "mean probability" } dd { (percent(confidence)) }
                dt { "accuracy" } dd { (percent(metrics.top1)) }
                dt { "on the whole" } dd { (verdict) }
                dt { "log loss" } dd { (format!("{:.3}", metrics.loss)) }
                dt { "at its best temperature" } dd { (format!("{:.3}", metrics.calibrated_loss)) }
            }
        }
    };
    let meaning = html! {
        p { "Of " (images_of(split, metrics.samples)) " by the probability of the predicted class: \
             where dots lie on the diagonal, eight of ten predictions at 80% are right." }
        p { "The calibration error is the mean distance from it." }
    };
    Some(part("calibration", "Calibration", &meaning, &shows))
}

/// Predictions by probability, in bins of equal width.
fn bins(judged: &[&Prediction]) -> Vec<Bin> {
    let share = |i: usize| i as f64 / BINS as f64;
    let bin = |i: usize| Bin { low: share(i), high: share(i + 1), ..Bin::default() };
    let mut bins: Vec<Bin> = (0..BINS).map(bin).collect();
    for p in judged {
        let probability = f64::from(p.probability);
        let bin = &mut bins[((probability * BINS as f64) as usize).min(BINS - 1)];
        bin.count += 1;
        bin.right += u64::from(p.is_right());
        bin.confidence += probability;
    }
    bins.iter_mut().for_each(|bin| bin.confidence /= bin.count.max(1) as f64);
    bins
}

fn diagram(bins: &[Bin]) -> Markup {
    let most = bins.iter().map(|b| b.count).max().unwrap_or(1) as f64;
    let dots = bins.iter().map(|b| (b.confidence, b.accuracy(), 4.0)).collect();
    let intervals = bins.iter().map(|b| (b.confidence, wilson95(b.right, b.count))).collect();
    let counts = bins.iter().map(|b| (b.low, b.high, b.count as f64 / most)).collect();
    let each = bins
        .iter()
        .map(|b| format!("at {}, {} of {} right", percent(b.confidence), b.right, b.count));
    Plot {
        title: "Reliability",
        keys: &[("one", "share that is right, with 95% intervals"), ("soft", "number of images")],
        says: format!("reliability by probability: {}", each.collect::<Vec<_>>().join("; ")),
        x: Scale::unit("probability of the predicted class"),
        y: Scale::unit("right"),
        marks: vec![
            Mark::Bars("dim", counts),
            Mark::Dashed("dim", vec![(0.0, 0.0), (1.0, 1.0)]),
            Mark::Whiskers("one", intervals),
            Mark::Dots("one", dots),
        ],
    }
    .draw()
}

#[cfg(test)]
mod tests {
    use refit::learn::Split;
    use refit::learn::metrics::expected_calibration_error;

    use super::*;

    /// The metrics' calibration error is the mean distance of these bins from the diagonal.
    #[test]
    fn bins_are_those_of_the_calibration_error() {
        let sure = [0.99_f32, 0.51, 0.62, 0.93, 0.97, 1.0, 0.74];
        let labels = [0, 1, 0, 0, 1, 0, 0];
        let case = |(&probability, &label): (&f32, &usize)| Prediction {
            path: "x".into(),
            split: Split::Val,
            label,
            predicted: 0,
            probability,
            label_probability: if label == 0 { probability } else { 1.0 - probability },
        };
        let cases: Vec<Prediction> = sure.iter().zip(&labels).map(case).collect();
        let bins = bins(&cases.iter().collect::<Vec<_>>());
        let gap = |b: &Bin| b.count as f64 * (b.confidence - b.accuracy()).abs();
        let error = bins.iter().map(gap).sum::<f64>() / 7.0;
        let rows: Vec<f32> = sure.iter().flat_map(|p| [*p, 1.0 - p]).collect();
        let wanted = expected_calibration_error(&rows, &labels, 2, BINS).unwrap();
        assert!((error - wanted).abs() < 1e-9, "{error}, not {wanted}");
        assert_eq!(bins.iter().map(|b| b.count).sum::<u64>(), 7);
    }
}
