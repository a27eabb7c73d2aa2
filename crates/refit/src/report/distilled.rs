//! A student beside its teachers, and itself without them.

use maud::{Markup, html};
use refit::learn::{Distilled, Party};

use super::{Run, chart, part};
use crate::output::{megabytes, percent, percent_or_dash, short};

pub fn section(run: &Run) -> Option<Markup> {
    let distilled = run.record.distilled.as_ref()?;
    let parties: Vec<(&str, &Party)> = distilled
        .teachers
        .iter()
        .map(|teacher| ("teacher", teacher))
        .chain([("student", &distilled.student)])
        .chain(distilled.alone.iter().map(|alone| ("student without a teacher", alone)))
        .collect();
    let shows = html! {
        div.scroll { table.wide {
            thead { tr {
                th scope="col" { "model" }
                th scope="col" { "accuracy" }
                th scope="col" { "0 to 100%" }
                th scope="col" { "95% interval" }
                th scope="col" { "agrees" }
                th scope="col" { "p" }
            } }
            tbody { @for (what, party) in &parties { (judged(what, party)) } }
        } }
        div.scroll { table.wide {
            thead { tr {
                th scope="col" { "model" }
                th scope="col" { "network" }
                th scope="col" { "size" }
                th scope="col" { "multiply-adds" }
                th scope="col" { "an image" }
            } }
            tbody { @for (what, party) in &parties { (cost(what, party)) } }
        } }
        dl.pairs {
            @for (name, weight) in losses(run) { dt { (name) } dd { (weight) } }
        }
    };
    let (images, split) = (distilled.images, distilled.split);
    let meaning = html! {
        p { "All were judged on the same " (images) " " (split) " images. " (agreement(distilled)) }
        p { "“agrees” is the share of images for which a model says what the student says; p is how \
             likely so uneven a difference from the student would be by chance (McNemar)." }
        @if distilled.without_labels { p { "The student learned without any labels." } }
        @if let Some(gain) = gain(distilled) { p { (gain) } }
    };
    Some(part("distillation", "Teacher and student", &meaning, &shows))
}

fn judged(what: &str, party: &Party) -> Markup {
    let metrics = party.metrics.as_ref();
    html! {
        tr {
            td { (what) }
            td { (percent_or_dash(metrics.map(|m| m.top1))) }
            td { @if let Some(m) = metrics { (chart::small_interval(m.top1, m.interval95)) } }
            td { @if let Some(m) = metrics {
                (percent(m.interval95[0])) " to " (percent(m.interval95[1]))
            } }
            td { (percent_or_dash(party.agreement)) }
            td { (party.p_value.map_or("-".into(), |p| format!("{p:.3}"))) }
        }
    }
}

fn cost(what: &str, party: &Party) -> Markup {
    html! {
        tr {
            td { (what) }
            td { (party.network) }
            td { (megabytes(party.model_bytes)) }
            td { (short(party.multiply_adds)) }
            td { (format!("{:.1} ms", party.latency)) }
        }
    }
}

/// The parts of the loss that count.
fn losses(run: &Run) -> Vec<(&'static str, String)> {
    let Some(asked) = &run.record.settings.distillation else { return Vec::new() };
    let parts = [
        ("weight of softened outputs", asked.soft),
        ("weight of labels", if asked.ignore_labels { 0.0 } else { asked.hard }),
        ("weight of the decoupled loss", asked.decoupled),
        ("weight of hints", asked.hints),
        ("weight of attention", asked.attention),
        ("weight of relations", asked.relational),
    ];
    let shown = |(name, weight): (&'static str, f64)| (name, weight.to_string());
    let counted = parts.into_iter().filter(|(_, weight)| *weight > 0.0).map(shown);
    counted.chain([("temperature", asked.temperature.to_string())]).collect()
}

fn agreement(distilled: &Distilled) -> String {
    let teacher = distilled.teachers.last().and_then(|teacher| teacher.agreement);
    teacher.map_or_else(String::new, |share| {
        format!("Student and teacher say the same of {} of them.", percent(share))
    })
}

/// What the teacher was worth, where that is known.
fn gain(distilled: &Distilled) -> Option<String> {
    let top1 = |party: &Party| party.metrics.as_ref().map(|m| m.top1);
    let alone = distilled.alone.as_ref()?;
    let points = 100.0 * (top1(&distilled.student)? - top1(alone)?);
    let below = alone.metrics.as_ref().zip(distilled.student.metrics.as_ref());
    let apart = below.is_some_and(|(alone, student)| student.interval95[0] > alone.interval95[1]);
    let apart = if apart { "; the intervals do not touch" } else { "" };
    Some(format!("The teacher was worth {points:+.1} points{apart}."))
}
