//! The images: how many of each class, some of each, and what was left out.

use std::path::PathBuf;

use maud::{Markup, html};
use rayon::prelude::*;
use refit::Strategy;
use refit::data::{Dataset, Sample};
use refit::learn::metrics::Metrics;

use super::picture::thumbnail;
use super::{Run, part};
use crate::output::count;

/// Thumbnails of a class; fewer where there are more classes than that.
const EACH: usize = 8;
const EACH_OF_MANY: usize = 4;
const FEW_CLASSES: usize = 10;
/// Classes of which some are shown, at most.
const CLASSES: usize = 60;
/// Left-out images that are named.
const NAMED: usize = 50;

pub fn section(run: &Run) -> Option<Markup> {
    let report = &run.record.report;
    let listed = run.record.dataset().ok();
    let shows = html! {
        (counts(run))
        @match listed.as_ref().map(sheet) {
            Some(Some(sheet)) => (sheet),
            _ => p.soft.small {
                "No thumbnails: the images are no longer in "
                code { (run.record.settings.data.display()) } "."
            },
        }
        @if let Some([leaked, original]) = &report.leaks.example {
            p {
                strong { (count(report.leaks.val + report.leaks.test, "image")) }
                " to judge by, of validation and test, can be found among the training images, byte by \
                 byte, which makes results look better than they are: "
                code { (leaked.display()) } " is " code { (original.display()) } "."
            }
        }
        @if !report.skipped.is_empty() { (skipped(run)) }
    };
    let meaning = html! {
        p { "Readable images by class, and what each part is for. Thumbnails are training images, \
             spread over each class." }
    };
    Some(part("data", "Data", &meaning, &shows))
}

/// A row a class, where the classes are the images' own.
fn counts(run: &Run) -> Markup {
    let report = &run.record.report;
    let data = run.model.and_then(|m| m.card.data.as_ref());
    let train = data.map(|d| d.train.as_slice());
    let train = train.filter(|_| report.strategy != Strategy::AsIs);
    let support = |metrics: &Option<Metrics>| -> Option<Vec<u64>> {
        metrics.as_ref().map(|m| m.per_class.iter().map(|c| c.support).collect())
    };
    let (val, test) = (support(&report.val), support(&report.test));
    let row = |i: usize| {
        let train = train.and_then(|t| t.get(i)).map(|n| *n as u64);
        [train, val.as_ref().map(|v| v[i]), test.as_ref().map(|t| t[i])]
    };
    let rows: Vec<(&str, [Option<u64>; 3])> =
        report.classes.iter().enumerate().map(|(i, class)| (class.as_str(), row(i))).collect();
    let rows: Vec<_> =
        rows.into_iter().filter(|(_, n)| n.iter().flatten().any(|n| *n > 0)).collect();
    let sum = |i: usize| rows.iter().filter_map(|(_, n)| n[i]).sum::<u64>();
    let shown: Vec<usize> = (0..3).filter(|&i| rows.iter().any(|(_, n)| n[i].is_some())).collect();
    let head = ["training", "validation", "test"];
    let table = html! {
        div.scroll { table {
            thead { tr {
                th scope="col" { "class" }
                @for &i in &shown { th scope="col" { (head[i]) } }
            } }
            tbody {
                @for (class, n) in &rows { tr {
                    th.name scope="row" { (class) }
                    @for &i in &shown { td { (n[i].map_or("-".into(), |n| n.to_string())) } }
                } }
                @if rows.len() > 1 { tr.chosen {
                    th scope="row" { "all" }
                    @for &i in &shown { td { (sum(i)) } }
                } }
            }
        } }
    };
    match rows.len() {
        0 => html! {},
        1..=30 => table,
        n => html! { details { summary { (n) " classes" } (table) } },
    }
}

/// Some training images of each class; nothing where none can be read.
fn sheet(dataset: &Dataset) -> Option<Markup> {
    let classes = dataset.classes.len().min(CLASSES);
    let many = classes > FEW_CLASSES;
    let each = if many { EACH_OF_MANY } else { EACH };
    let chosen: Vec<Vec<&Sample>> = (0..classes).map(|c| spread(&dataset.train, c, each)).collect();
    let rows: Vec<Vec<(PathBuf, Option<String>)>> = chosen
        .par_iter()
        .map(|row| row.par_iter().map(|s| (s.path.clone(), thumbnail(&s.path))).collect())
        .collect();
    if rows.iter().flatten().all(|(_, picture)| picture.is_none()) {
        return None;
    }
    Some(html! {
        div.sheet.many[many] {
            @for (class, row) in dataset.classes.iter().zip(&rows) { div {
                h3 { (class) }
                div.row {
                    @for (i, (path, picture)) in row.iter().enumerate() {
                        @if let Some(uri) = picture {
                            img src=(uri) alt={ (class) ", training image " (i + 1) }
                                title=(path.display()) width="72" height="72" loading="lazy";
                        }
                    }
                }
            } }
            @if dataset.classes.len() > classes {
                p.soft.small { "Of " (dataset.classes.len()) " classes the first " (classes) "." }
            }
        }
    })
}

/// Samples of a class, evenly over its list.
fn spread(samples: &[Sample], class: usize, each: usize) -> Vec<&Sample> {
    let own: Vec<&Sample> = samples.iter().filter(|s| s.label == class).collect();
    let n = each.min(own.len());
    (0..n).map(|k| own[k * own.len() / n]).collect()
}

fn skipped(run: &Run) -> Markup {
    let skipped = &run.record.report.skipped;
    let rest = skipped.len().saturating_sub(NAMED);
    html! {
        div {
            h3 { (count(skipped.len(), "image")) " left out" }
            div.scroll { table.wide {
                thead { tr { th scope="col" { "file" } th scope="col" { "why" } } }
                tbody { @for skip in skipped.iter().take(NAMED) { tr {
                    td.words { (skip.path.display()) }
                    td.words { (skip.reason) }
                } } }
            } }
            @if rest > 0 { p.soft.small { "and " (rest) " more, in metrics.json" } }
        }
    }
}
