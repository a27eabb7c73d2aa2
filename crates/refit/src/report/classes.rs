//! How each class fared.

use maud::{Markup, html};
use refit::learn::metrics::{ClassMetrics, Metrics, wilson95};

use super::{Run, chart, images_of, part};
use crate::output::{percent, percent_or_dash};

/// Classes that are shown without asking.
const SHOWN: usize = 30;

pub fn section(run: &Run) -> Option<Markup> {
    let (split, metrics) = run.judged()?;
    let mut classes: Vec<usize> =
        (0..metrics.per_class.len()).filter(|&c| metrics.per_class[c].f1.is_some()).collect();
    let many = classes.len() > SHOWN;
    if many {
        let f1 = |c: &usize| metrics.per_class[*c].f1.unwrap_or(0.0);
        classes.sort_by(|a, b| f1(a).total_cmp(&f1(b)));
    }
    let (first, rest) = classes.split_at(SHOWN.min(classes.len()));
    let shows = html! {
        @if many { h3 { "The " (SHOWN) " classes recognized worst" } }
        (table(metrics, first))
        @if !rest.is_empty() {
            details { summary { (rest.len()) " more classes" } (table(metrics, rest)) }
        }
    };
    let meaning = html! {
        p { "Of " (images_of(split, metrics.samples)) ". Recall: the share of a class's images that \
             are recognized, with its 95% interval. Precision: of the images taken for the class, \
             the share that are. F1: both in one number." }
    };
    Some(part("classes", "Classes", &meaning, &shows))
}

fn table(metrics: &Metrics, classes: &[usize]) -> Markup {
    html! {
        div.scroll { table.wide {
            thead { tr {
                th scope="col" { "class" }
                th scope="col" { "images" }
                th scope="col" { "recall" }
                th scope="col" { "0 to 100%" }
                th scope="col" { "95% interval" }
                th scope="col" { "precision" }
                th scope="col" { "F1" }
            } }
            tbody { @for &c in classes { (row(metrics, c, &metrics.per_class[c])) } }
        } }
    }
}

fn row(metrics: &Metrics, number: usize, class: &ClassMetrics) -> Markup {
    let right = metrics.confusion.rows()[number][number];
    let interval = wilson95(right, class.support);
    let [low, high] = interval.map(percent);
    html! {
        tr {
            th.name scope="row" { (class.class) }
            td { (class.support) }
            td { (percent_or_dash(class.recall)) }
            td { @if let Some(recall) = class.recall { (chart::small_interval(recall, interval)) } }
            td { @if class.recall.is_some() { (low) " to " (high) } }
            td { (percent_or_dash(class.precision)) }
            td { (percent_or_dash(class.f1)) }
        }
    }
}
