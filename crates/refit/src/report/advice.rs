//! Why the run did what it did: what was measured, and what was tried.

use maud::{Markup, html};
use refit::learn::advice::curve::LearningCurve;
use refit::learn::advice::similarity::Similarity;
use refit::learn::advice::{Advice, Candidate};
use refit::learn::{Choice, Trial};

use super::chart::{Mark, Plot, Row, Scale, rows};
use super::{Run, part};
use crate::output::{duration, percent};

pub fn section(run: &Run) -> Option<Markup> {
    let choice = run.record.choice.as_ref()?;
    let advice = &choice.advice;
    let shows = html! {
        div {
            h3 { "Advice: " (advice.conclusion.rule) }
            ul.small.evidence { @for line in &advice.conclusion.evidence { li { (line) } } }
        }
        (trials(choice))
        div.charts {
            @if let Some(similarity) = &advice.similarity { (profile(similarity)) }
            @if advice.curve.points.len() > 1 { (learning_curve(&advice.curve)) }
        }
        (features(advice))
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
    let ends = [points[0].0, 2.0 * last];
    let fit: Vec<(f64, f64)> = curve.fit.map_or_else(Vec::new, |law| {
        let at = |i: i32| ends[0] * (ends[1] / ends[0]).powf(f64::from(i) / 40.0);
        (0..=40).map(|i| (at(i), law.accuracy(at(i)))).collect()
    });
    let intervals: Vec<(f64, [f64; 2])> =
        curve.points.iter().map(|p| (p.images as f64, p.interval95)).collect();
    let to = if curve.fit.is_some() { ends[1] } else { last };
    let heights = intervals.iter().flat_map(|i| i.1).chain(fit.iter().map(|p| p.1));
    let mut says = "accuracy of a head on frozen features by number of images: ".to_owned();
    let each = curve.points.iter().map(|p| format!("{} {}", p.images, percent(p.accuracy)));
    says += &each.collect::<Vec<_>>().join(", ");
    if let Some(law) = curve.fit {
        says +=
            &format!("; with {:.0}, {} is to be expected", ends[1], percent(law.accuracy(ends[1])));
    }
    let keys: &[(&str, &str)] = match curve.fit {
        Some(_) => {
            &[("one", "held out, with 95% intervals"), ("two", "fitted, up to twice as many")]
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
