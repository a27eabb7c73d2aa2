//! What was done, and how good it is.

use maud::{Markup, html};
use refit::learn::metrics::Metrics;
use refit::learn::{FoldsReport, Split};

use super::{Run, chart, images_of};
use crate::output::{count, duration, percent};

pub fn section(run: &Run) -> Markup {
    let report = &run.record.report;
    html! {
        div.head {
            p.over { "Training run " (run.record.folder.display()) }
            h1 { (run.strategy()) " on " (report.backbone) ", for " (run.data_name()) }
            @match run.judged() {
                Some((split, metrics)) => (result(split, metrics, report.folds.as_ref())),
                None => p.result {
                    "No validation images, so nothing says how good it is: give some with --val DIR, \
                     or let some be kept apart with --val-fraction F."
                },
            }
            dl.figures {
                @for (name, value) in figures(run) { div { dt { (name) } dd { (value) } } }
            }
        }
    }
}

/// With folds divided anew several times, the accuracy is the mean over these.
fn result(split: Split, metrics: &Metrics, folds: Option<&FoldsReport>) -> Markup {
    let repeated = folds.filter(|folds| split == Split::HeldOut && folds.repeats > 1);
    let (top1, [low, high]) = match repeated {
        Some(folds) => (folds.top1, folds.interval95),
        None => (metrics.top1, metrics.interval95),
    };
    let right = metrics.confusion.correct();
    let judged = images_of(split, metrics.samples);
    html! {
        div.result {
            div.big { (percent(top1)) }
            div.range {
                @match repeated {
                    Some(folds) => p {
                        "accuracy on " (judged) ", the mean over " (folds.repeats) " repeats"
                    },
                    None => p { "accuracy: " (right) " of " (judged) " right" },
                }
                p.soft { "95% interval: " (percent(low)) " to " (percent(high)) }
                (chart::interval(top1, [low, high]))
            }
        }
    }
}

fn figures(run: &Run) -> Vec<(&'static str, String)> {
    let report = &run.record.report;
    let mut figures = Vec::new();
    if let Some((_, m)) = run.judged() {
        figures.push(("balanced accuracy", percent(m.balanced_accuracy)));
        figures.push(("mean F1", percent(m.macro_f1)));
        figures.push(("log loss", format!("{:.3}", m.loss)));
        if m.per_class.len() > 5 {
            figures.push(("among the first five", percent(m.top5)));
        }
        let most = m.per_class.iter().map(|c| c.support).max().unwrap_or(0);
        let share = most as f64 / m.samples.max(1) as f64;
        figures.push(("commonest class only", percent(share)));
    }
    if let (Some(folds), Some(_)) = (&report.folds, &report.test) {
        figures.push(("accuracy, held out in folds", percent(folds.top1)));
    }
    if let (Some(val), Some(_)) = (&report.val, &report.test) {
        figures.push(("accuracy, validation", percent(val.top1)));
    }
    figures.push(("readable images", report.images.to_string()));
    figures.push(("time", duration(report.seconds.total)));
    if !report.skipped.is_empty() {
        figures.push(("left out", count(report.skipped.len(), "image")));
    }
    figures
}
