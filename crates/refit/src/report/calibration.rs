//! Whether probabilities mean what they say, and what is called unknown.

use maud::{Markup, html};
use refit::learn::calibrate::{Bin, Reliability};
use refit::learn::metrics::{Metrics, wilson95};
use refit::learn::unknown::Abstention;

use super::chart::{Mark, Plot, Scale};
use super::{Run, images_of, part};
use crate::output::percent;

pub fn section(run: &Run) -> Option<Markup> {
    let (split, metrics) = run.judged()?;
    let report = &run.record.report;
    let bins = filled(&metrics.reliability);
    let confidence = mean_confidence(&bins);
    let verdict = match confidence - metrics.top1 {
        gap if gap > 0.02 => "more sure than right",
        gap if gap < -0.02 => "less sure than right",
        _ => "as sure as right",
    };
    let before = metrics.uncalibrated.as_ref();
    let against = |before: Option<String>| before.map(|before| format!(" (before: {before})"));
    let temperature = Some(report.calibration).filter(|c| c.images > 0);
    let abstained = report.unknown.and_then(|u| if report.test.is_some() { u.test } else { u.val });
    let shows = html! {
        div.charts {
            (diagram(&bins))
            dl.pairs {
                dt { "expected calibration error" } dd {
                    (percent(metrics.calibration_error))
                    @if let Some(text) = against(before.map(|b| percent(b.reliability.ece))) { (text) }
                }
                dt { "log loss" } dd {
                    (format!("{:.3}", metrics.loss))
                    @if let Some(text) = against(before.map(|b| format!("{:.3}", b.loss))) { (text) }
                }
                dt { "mean probability" } dd { (percent(confidence)) }
                dt { "accuracy" } dd { (percent(metrics.top1)) }
                dt { "on the whole" } dd { (verdict) }
                @if let Some(c) = temperature {
                    dt { "temperature" } dd { (format!("{:.2}, from {} images", c.temperature, c.images)) }
                }
                @if let Some(found) = abstained { (unknown(&found)) }
            }
        }
    };
    let meaning = html! {
        p { "Of " (images_of(split, metrics.samples)) " by the probability of the predicted class: \
             where dots lie on the diagonal, eight of ten predictions at 80% are right." }
        p { "The calibration error is the mean distance from it." (fitted_here(run, metrics)) }
    };
    Some(part("calibration", "Calibration", &meaning, &shows))
}

/// Figures on the images that the temperature was fitted on are told by halves.
fn fitted_here(run: &Run, metrics: &Metrics) -> &'static str {
    let report = &run.record.report;
    match metrics.uncalibrated.is_some() && report.test.is_none() {
        true if report.folds.is_some() => " Each fold is seen at the temperature of the others.",
        true => " Each half of the images is seen at the temperature of the other.",
        false => "",
    }
}

fn unknown(found: &Abstention) -> Markup {
    html! {
        dt { "called unknown" } dd { (percent(found.unknown)) }
        @if let Some(accuracy) = found.accuracy { dt { "right, of the others" } dd { (percent(accuracy)) } }
    }
}

/// The bins that hold something, with where each begins and ends.
fn filled(reliability: &Reliability) -> Vec<(f64, f64, Bin)> {
    let count = reliability.bins.len() as f64;
    let place = |(i, bin): (usize, &Bin)| (i as f64 / count, (i + 1) as f64 / count, *bin);
    reliability.bins.iter().enumerate().map(place).filter(|(.., bin)| bin.0 > 0).collect()
}

fn mean_confidence(bins: &[(f64, f64, Bin)]) -> f64 {
    let count: u64 = bins.iter().map(|(.., bin)| bin.0).sum();
    bins.iter().map(|(.., bin)| bin.0 as f64 * bin.1).sum::<f64>() / count.max(1) as f64
}

fn diagram(bins: &[(f64, f64, Bin)]) -> Markup {
    let most = bins.iter().map(|(.., bin)| bin.0).max().unwrap_or(1) as f64;
    let right = |Bin(count, _, accuracy): Bin| (accuracy * count as f64).round() as u64;
    let dots = bins.iter().map(|(.., bin)| (bin.1, bin.2, 4.0)).collect();
    let intervals = bins.iter().map(|(.., bin)| (bin.1, wilson95(right(*bin), bin.0))).collect();
    let counts = bins.iter().map(|(low, high, bin)| (*low, *high, bin.0 as f64 / most)).collect();
    let each = bins
        .iter()
        .map(|(.., bin)| format!("at {}, {} of {} right", percent(bin.1), right(*bin), bin.0));
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
