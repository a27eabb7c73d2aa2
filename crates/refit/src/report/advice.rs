//! Why the run did what it did: what was measured, and what was tried.

use maud::{Markup, html};
use refit::learn::advice::curve::LearningCurve;
use refit::learn::advice::ranking::Ranked;
use refit::learn::advice::similarity::Similarity;
use refit::learn::advice::{Advice, Candidate, Conclusion};
use refit::learn::{Choice, Trial};

use super::chart::{Mark, Plot, Row, Scale, rows};
use super::{Run, part};
use crate::output::{duration, percent, percent_or_dash, short};

pub fn section(run: &Run) -> Option<Markup> {
    let choice = run.record.choice.as_ref()?;
    let advice = &choice.advice;
    let shows = html! {
        div {
            h3 { "Advice: " (advice.conclusion.rule) }
            (conclusion(&advice.conclusion))
            ul.small.evidence { @for line in &advice.conclusion.evidence { li { (line) } } }
        }
        (trials(choice))
        div.charts {
            @if let Some(similarity) = &advice.similarity { (profile(similarity)) }
            @if advice.curve.points.len() > 1 { (learning_curve(&advice.curve)) }
        }
        (ranking(&advice.ranking))
        (features(advice))
        (classes(advice))
    };
    let meaning = html! {
        p { "What the images and the pretrained network say before anything is trained, and how \
             the advised strategies did on training images held out." }
    };
    Some(part("advice", "Advice and trials", &meaning, &shows))
}

fn named(candidate: &Candidate) -> String {
    match &candidate.unfreeze_from {
        Some(layer) => format!("{} from {layer}", candidate.strategy),
        None => candidate.strategy.to_string(),
    }
}

/// What was advised, a line for each part of it.
fn conclusion(conclusion: &Conclusion) -> Markup {
    html! {
        div.scroll { table { tbody {
            @for (candidate, what) in conclusion.candidates.iter().zip(["advised", "second"]) { tr {
                th.name scope="row" { (what) }
                td.words { (named(candidate)) ", about " (duration(candidate.seconds)) }
            } }
            tr {
                th.name scope="row" { "augmentation" }
                td.words { (conclusion.augment.map_or("none", |level| level.name())) }
            }
            @if let Some(expected) = &conclusion.expected {
                @let [low, high] = expected.interval95.map(percent);
                tr {
                    th.name scope="row" { "accuracy to expect" }
                    td.words { (percent(expected.accuracy)) " or more, 95% interval " (low) " to " (high) }
                }
            }
        } } }
    }
}

fn ranking(ranked: &[Ranked]) -> Markup {
    html! {
        @if !ranked.is_empty() {
            div.scroll { table {
                caption { "Networks, by the LogME of their features" }
                thead { tr {
                    @for head in ["network", "LogME", "LEEP", "five neighbours", "parameters", "an image"] {
                        th scope="col" { (head) }
                    }
                } }
                tbody { @for r in ranked { tr {
                    th.name scope="row" { (r.backbone) }
                    td { (format!("{:.3}", r.log_me)) }
                    td { (r.leep.map_or_else(|| "-".to_owned(), |leep| format!("{leep:.2}"))) }
                    td { (percent(r.neighbours)) }
                    td { (short(r.parameters as u64)) }
                    td { (format!("{:.1} ms", r.image_ms)) }
                } } }
            } }
        }
    }
}

fn trials(choice: &Choice) -> Markup {
    let row = |trial: &Trial| {
        let loss = match trial.loss.is_finite() {
            true => format!("{:.3}", trial.loss),
            false => "diverged".into(),
        };
        let [low, high] = trial.interval95.map(percent);
        let chosen = trial.candidate == choice.chosen;
        html! {
            tr.chosen[chosen] {
                th.name scope="row" { (named(&trial.candidate)) @if chosen { " (chosen)" } }
                td { (loss) }
                td { (percent(trial.top1)) }
                td { (low) " to " (high) }
                td { (trial.images) }
                td { (duration(trial.seconds)) }
            }
        }
    };
    html! {
        @if choice.trials.is_empty() {
            p { "Nothing was tried. Chosen: " b { (named(&choice.chosen)) } "." }
        } @else {
            div.scroll { table {
                caption { "Trials, the lowest log loss first" }
                thead { tr {
                    @for head in ["strategy", "log loss", "accuracy", "95% interval", "held out", "time"] {
                        th scope="col" { (head) }
                    }
                } }
                tbody { @for trial in &choice.trials { (row(trial)) } }
            } }
        }
    }
}

fn profile(similarity: &Similarity) -> Markup {
    let figures = similarity.divergence.iter().zip(&similarity.reference);
    let rows_: Vec<Row> = similarity
        .layers
        .iter()
        .zip(figures)
        .map(|(name, (&value, &usual))| {
            let text = format!("{:.1}×", value / usual.max(1e-12));
            Row { name, value, usual, text }
        })
        .collect();
    let says = format!(
        "divergence of layer statistics from the pretraining's by depth, as multiples of \
         photographs': {}",
        rows_.iter().map(|r| format!("{} {}", r.name, r.text)).collect::<Vec<_>>().join(", ")
    );
    let usual = match similarity.own_reference {
        true => "photographs like the pretraining's",
        false => "photographs, in the embedded network",
    };
    rows(
        "Distance from the pretraining, from the stem up",
        &[("one", "these images"), ("soft", usual)],
        &says,
        &rows_,
        "divergence, logarithmic",
    )
}

fn learning_curve(curve: &LearningCurve) -> Markup {
    let points: Vec<(f64, f64)> =
        curve.points.iter().map(|p| (p.images as f64, p.accuracy)).collect();
    let last = points.last().map_or(1.0, |p| p.0);
    let ends = [points[0].0, curve.doubled.map_or(2.0 * last, |d| d.images as f64)];
    let fit: Vec<(f64, f64)> = curve.fit.map_or_else(Vec::new, |law| {
        let at = |i: i32| ends[0] * (ends[1] / ends[0]).powf(f64::from(i) / 40.0);
        (0..=40).map(|i| (at(i), law.accuracy(at(i)))).collect()
    });
    let intervals: Vec<(f64, [f64; 2])> =
        curve.points.iter().map(|p| (p.images as f64, p.interval95)).collect();
    let to = if curve.fit.is_some() { ends[1] } else { last };
    let doubled: Vec<(f64, [f64; 2])> =
        curve.doubled.iter().map(|d| (d.images as f64, d.interval95)).collect();
    let spans = intervals.iter().chain(&doubled).flat_map(|i| i.1);
    let heights = spans.chain(fit.iter().map(|p| p.1)).collect::<Vec<f64>>();
    let mut says = "accuracy of a head on frozen features by number of images: ".to_owned();
    let each = curve.points.iter().map(|p| format!("{} {}", p.images, percent(p.accuracy)));
    says += &each.collect::<Vec<_>>().join(", ");
    if let Some(doubled) = &curve.doubled {
        let [low, high] = doubled.interval95.map(percent);
        says += &format!(
            "; with {}, {} is to be expected, 95% interval {low} to {high}",
            doubled.images,
            percent(doubled.accuracy)
        );
    }
    let keys: &[(&str, &str)] = match curve.fit {
        Some(_) => {
            &[("one", "held out, with 95% intervals"), ("two", "fitted, up to twice all images")]
        }
        None => &[("one", "held out, with 95% intervals")],
    };
    let dots = points.iter().map(|&(x, y)| (x, y, 4.0)).collect();
    Plot {
        title: "Would more images help?",
        keys,
        says,
        x: Scale::logarithmic([ends[0], to], "images to learn from, logarithmic"),
        y: Scale::shares(heights, "accuracy"),
        marks: vec![
            Mark::Dashed("two", fit),
            Mark::Whiskers("two", doubled),
            Mark::Whiskers("one", intervals),
            Mark::Dots("one", dots),
        ],
    }
    .draw()
}

fn features(advice: &Advice) -> Markup {
    html! {
        @if !advice.transfer.is_empty() {
            details {
                summary { "Features by depth" }
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "layer" }
                        th scope="col" { "LogME" }
                        th scope="col" { "five neighbours" }
                    } }
                    tbody { @for t in &advice.transfer { tr {
                        th.name scope="row" { (t.layer) }
                        td { (format!("{:.3}", t.log_me)) }
                        td { (percent(t.neighbours)) }
                    } } }
                } }
            }
        }
    }
}

fn classes(advice: &Advice) -> Markup {
    let known = advice.curve.weakest();
    html! {
        @if !known.is_empty() && !advice.curve.points.is_empty() {
            details {
                summary { "Classes, the worst first" }
                div.scroll { table {
                    caption { "A head on frozen features, on images held out" }
                    thead { tr {
                        @for head in ["class", "images", "recognized", "gained by the last third"] {
                            th scope="col" { (head) }
                        }
                    } }
                    tbody { @for gain in known { tr {
                        th.name scope="row" { (advice.classes[gain.class]) }
                        td { (advice.amount.by_class[gain.class]) }
                        td { (percent_or_dash(gain.recall)) }
                        td { (gain.gain.map_or_else(
                            || "-".into(), |gain| format!("{:+.1} points", 100.0 * gain)
                        )) }
                    } } }
                } }
            }
        }
    }
}
