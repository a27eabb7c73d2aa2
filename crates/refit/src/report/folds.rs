//! Cross-validation: how each fold did, and what all of them come to.

use maud::{Markup, html};
use refit::learn::FoldReport;
use refit::learn::metrics::wilson95;

use super::{Run, chart, part};
use crate::output::{duration, percent};

pub fn section(run: &Run) -> Option<Markup> {
    let report = run.record.report.folds.as_ref()?;
    let stepped = report.epochs.is_some();
    let shows = html! {
        div.scroll { table.wide {
            thead { tr {
                @if report.repeats > 1 { th scope="col" { "repeat" } }
                th scope="col" { "fold" }
                th scope="col" { "others" }
                th scope="col" { "held out" }
                th scope="col" { "accuracy" }
                th scope="col" { "0 to 100%" }
                th scope="col" { "95% interval" }
                th scope="col" { "log loss" }
                @if stepped { th scope="col" { "best epoch" } }
                th scope="col" { "time" }
            } }
            tbody { @for fold in &report.each { (row(fold, report.repeats > 1, stepped)) } }
        } }
        dl.pairs {
            dt { "accuracy of all held out" } dd { b { (percent(report.top1)) } }
            dt { "95% interval" } dd {
                (percent(report.interval95[0])) " to " (percent(report.interval95[1]))
            }
            dt { "mean of the folds" } dd {
                (percent(report.mean)) " ± " (format!("{:.1}", 100.0 * report.deviation))
            }
            @if let Some(epochs) = report.epochs { dt { "epochs of the model" } dd { (epochs) } }
        }
    };
    let meaning = html! {
        p { "Every image is held out once" @if report.repeats > 1 { " a repeat" } " and judged by a \
             model that learned from the other folds; the run's own model learned from all of them. \
             ± is the standard deviation of the folds: how much one split would have depended on \
             the split. The interval is Wilson's for as many images as there are." }
        @if report.repeats > 1 {
            p { "Classes, confusion and predictions.csv are those of the first repeat." }
        }
    };
    Some(part("folds", "Cross-validation", &meaning, &shows))
}

fn row(fold: &FoldReport, repeated: bool, stepped: bool) -> Markup {
    let right = (fold.top1 * fold.images as f64).round() as u64;
    let interval = wilson95(right, fold.images as u64);
    html! {
        tr {
            @if repeated { td { (fold.repeat) } }
            td { (fold.fold) }
            td { (fold.others) }
            td { (fold.images) }
            td { (percent(fold.top1)) }
            td { (chart::small_interval(fold.top1, interval)) }
            td { (percent(interval[0])) " to " (percent(interval[1])) }
            td { (format!("{:.3}", fold.loss)) }
            @if stepped { td { (fold.best_epoch.map_or("-".into(), |epoch| epoch.to_string())) } }
            td { (duration(fold.seconds)) }
        }
    }
}
