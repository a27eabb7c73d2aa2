//! What was done, and how good it is.

use maud::{Markup, html};
use refit::learn::metrics::Metrics;

use super::{Run, chart, images_of};
use crate::output::{count, duration, percent};

pub fn section(run: &Run) -> Markup {
    let report = &run.record.report;
    html! {
        div.head {
            p.over { "Training run " (run.record.folder.display()) }
            h1 { (run.strategy()) " on " (report.backbone) ", for " (run.data_name()) }
            @match run.judged() {
                Some((split, metrics)) => (result(&images_of(split, metrics.samples), metrics)),
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

fn result(judged: &str, metrics: &Metrics) -> Markup {
    let [low, high] = metrics.interval95;
    let right = metrics.confusion.correct();
    html! {
        div.result {
            div.big { (percent(metrics.top1)) }
            div.range {
                p { "accuracy: " (right) " of " (judged) " right" }
                p.soft { "95% interval: " (percent(low)) " to " (percent(high)) }
                (chart::interval(metrics.top1, [low, high]))
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
