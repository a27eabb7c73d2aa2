//! Several runs beside each other.

use std::collections::BTreeMap;
use std::path::Path;

use maud::{Markup, html};
use refit::learn::metrics::Metrics;
use refit::learn::{Comparison, Contestant, Judgement, LeftOut, Record, Split, mcnemar};

use super::{Run, chart, curves, images_of, page, part};
use crate::commands::compare::strategy;
use crate::output::{duration, megabytes, percent, short};

/// A report that compares runs.
pub fn of_runs(records: &[Record]) -> String {
    let runs: Vec<Run> = records.iter().map(|record| Run { record, model: None }).collect();
    let title = format!("{} runs compared", runs.len());
    let names = names(records);
    // All by the same part of the images, if there is one that all were judged by.
    let tested = records.iter().all(|r| r.report.test.is_some());
    let folded = records.iter().all(|record| record.report.folds.is_some());
    let split = match (tested, folded) {
        (true, _) => Split::Test,
        (false, true) => Split::HeldOut,
        (false, false) => Split::Val,
    };
    let mut rows: Vec<Entry> = runs
        .iter()
        .zip(&names)
        .map(|(run, name)| Entry {
            record: run.record,
            name,
            strategy: run.strategy(),
            metrics: metrics(run.record, split),
            p: None,
            measured: None,
        })
        .collect();
    let top1 = |e: &Entry| e.metrics.map_or(-1.0, |m| m.top1);
    rows.sort_by(|a, b| top1(b).total_cmp(&top1(a)));
    if let Some((first, others)) = rows.split_first_mut() {
        for other in others {
            let pair = paired(first.record, other.record, split);
            other.p = pair.map(|(a, b)| mcnemar(&a, &b));
        }
    }
    beside(&title, &rows, split, &[])
}

/// A report of contestants, whose runs are `records`, in the same order.
pub fn of_comparison(found: &Comparison, records: &[Record]) -> String {
    let several = found.backbones.len() > 1;
    let name = |c: &Contestant| match several {
        true => format!("{} {}", c.backbone, c.strategy),
        false => c.strategy.to_string(),
    };
    let names: Vec<String> = found.contestants.iter().map(name).collect();
    let contestants = found.contestants.iter().zip(records).zip(&names);
    let rows: Vec<Entry> = contestants
        .map(|((contestant, record), name)| Entry {
            record,
            name,
            strategy: strategy(contestant),
            metrics: Some(&contestant.metrics),
            p: contestant.p_value,
            measured: Some(contestant),
        })
        .collect();
    let split = if found.judged_on == Split::Test.to_string() { Split::Test } else { Split::Val };
    let title = match several {
        true => "Strategies and networks compared",
        false => "Strategies compared",
    };
    beside(title, &rows, split, &found.left_out)
}

/// Runs beside each other, the most accurate first.
fn beside(title: &str, rows: &[Entry], split: Split, left_out: &[LeftOut]) -> String {
    page::page(
        title,
        &html! {
            div.head { p.over { "Training runs" } h1 { (title) } (best(rows, split)) }
            (table(rows, split, left_out))
            @if let Some(curves) = training(rows) { (curves) }
        },
    )
}

/// A run in the comparison.
struct Entry<'a> {
    record: &'a Record,
    name: &'a str,
    strategy: String,
    metrics: Option<&'a Metrics>,
    /// Of the paired test against the first.
    p: Option<f64>,
    /// What `refit compare` measured beside.
    measured: Option<&'a Contestant>,
}

fn metrics(record: &Record, split: Split) -> Option<&Metrics> {
    match split {
        Split::Val => record.report.val.as_ref(),
        Split::Test => record.report.test.as_ref(),
        Split::HeldOut => record.report.folds.as_ref().map(|folds| &folds.metrics),
    }
}

/// The folders' last names, or the whole paths where these are the same.
fn names(records: &[Record]) -> Vec<String> {
    let last = |path: &Path| {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        whole.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
    };
    let lasts: Vec<String> = records.iter().map(|r| last(&r.folder)).collect();
    let name = |(record, name): (&Record, &String)| {
        let alone = !name.is_empty() && lasts.iter().filter(|l| *l == name).count() == 1;
        if alone { name.clone() } else { record.folder.display().to_string() }
    };
    records.iter().zip(&lasts).map(name).collect()
}

fn best(rows: &[Entry], split: Split) -> Markup {
    match rows.first().and_then(|e| Some((e, e.metrics?))) {
        None => html! {},
        Some((entry, metrics)) => html! {
            p.result { span.big { (percent(metrics.top1)) } }
            p { "the most accurate: " b { (entry.name) } ", " (entry.strategy) " on "
                (entry.record.report.backbone) ", of " (images_of(split, metrics.samples)) }
        },
    }
}

fn table(rows: &[Entry], split: Split, left_out: &[LeftOut]) -> Markup {
    let measured = rows.iter().any(|entry| entry.measured.is_some());
    let found = ["accuracy", "0 to 100%", "95% interval", "balanced", "mean F1", "p"];
    let cost = ["time", "trained", "parameters", "model"];
    let beside: &[&str] = if measured { &["memory", "an image"] } else { &[] };
    let shows = html! {
        div.scroll { table.wide {
            thead { tr {
                th scope="col" { "run" }
                @for head in found { th scope="col" { (head) } }
            } }
            tbody { @for entry in rows { (result(entry)) } }
        } }
        div.scroll { table.wide {
            thead { tr {
                th scope="col" { "run" }
                @for head in ["strategy", "network"] { th.words scope="col" { (head) } }
                @for head in cost.iter().chain(beside) { th scope="col" { (head) } }
            } }
            tbody { @for entry in rows { (made(entry, measured)) } }
        } }
        @if !left_out.is_empty() {
            ul.small { @for one in left_out { li {
                b { (one.strategy) } " on " (one.backbone) " is left out: " (one.reason)
            } } }
        }
    };
    let meaning = html! {
        p { "By " (split) " images, the most accurate first. p is McNemar's exact test against the \
             first, image by image: how likely as uneven a division of the images that only one of \
             the two gets right would be by chance. A dash where runs were not judged by the same \
             images." }
        p { "Trained parameters are of all that the network has." }
        @if measured {
            p { "Memory is the most that refit as a whole held in RAM while the run went on. What \
                 frozen layers give is computed once and serves all runs: the first that needs it is \
                 charged for its time." }
        }
    };
    part("runs", "Runs", &meaning, &shows)
}

/// How good a run's model is, and how likely it is as good as the first.
fn result(entry: &Entry) -> Markup {
    html! {
        tr {
            th.name scope="row" { (entry.name) }
            @match entry.metrics {
                Some(m) => {
                    @let [low, high] = m.interval95.map(percent);
                    td { (percent(m.top1)) }
                    td { (chart::small_interval(m.top1, m.interval95)) }
                    td { (low) " to " (high) }
                    td { (percent(m.balanced_accuracy)) }
                    td { (percent(m.macro_f1)) }
                },
                None => { @for _ in 0..5 { td { "-" } } },
            }
            td { (entry.p.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"))) }
        }
    }
}

/// How a run's model was made, and what it costs.
fn made(entry: &Entry, measured: bool) -> Markup {
    let report = &entry.record.report;
    let [trained, all] = report.parameters.map(|n| short(n as u64));
    let bytes = entry.record.model_bytes;
    let memory = entry.measured.and_then(|c| c.peak_memory);
    let image = entry.measured.map(|c| format!("{:.1} ms", c.latency));
    let dash = || "-".to_owned();
    html! {
        tr {
            th.name scope="row" { (entry.name) }
            td.words { (entry.strategy) }
            td.words { (report.backbone) }
            td { (duration(report.seconds.total)) }
            td { (trained) }
            td { (all) }
            td { (bytes.map_or_else(dash, megabytes)) }
            @if measured {
                td { (memory.map_or_else(dash, megabytes)) }
                td { (image.unwrap_or_else(dash)) }
            }
        }
    }
}

/// Which images each of two runs got right, where both were judged by the same.
fn paired(a: &Record, b: &Record, split: Split) -> Option<(Vec<bool>, Vec<bool>)> {
    let by_image = |record: &Record| -> Option<BTreeMap<(String, String), bool>> {
        let own = record.predictions.as_ref()?.iter().filter(|p| p.split == split);
        let image = |p: &Judgement| {
            (p.path.to_string_lossy().into_owned(), record.report.classes[p.label].clone())
        };
        Some(own.map(|p| (image(p), p.is_right())).collect())
    };
    let (a, b) = (by_image(a)?, by_image(b)?);
    let same = !a.is_empty() && a.keys().eq(b.keys());
    same.then(|| (a.into_values().collect(), b.into_values().collect()))
}

fn training(rows: &[Entry]) -> Option<Markup> {
    let drawn: Vec<(&str, Markup)> =
        rows.iter().filter_map(|e| Some((e.name, curves::charts(e.record)?))).collect();
    if drawn.is_empty() {
        return None;
    }
    let shows = html! {
        @for (name, charts) in &drawn { div { h3 { (name) } div.charts { (charts) } } }
    };
    let meaning = html! { p { "Runs that were trained by steps. The weights of the marked epoch were kept." } };
    Some(part("training", "Training", &meaning, &shows))
}
