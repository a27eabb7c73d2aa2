//! Where the settings come from, when a search found them: its trials, and what mattered.

use maud::{Markup, html};
use refit::learn::{Attempt, Importance, Parameter, Search};

use super::chart::{Mark, Plot, Scale, share_bar};
use super::{Run, part};
use crate::output::{count, duration, percent};

/// Trials that a table shows before it is folded away.
const SHOWN: usize = 8;

pub fn section(run: &Run) -> Option<Markup> {
    let search = run.record.search.as_ref()?;
    let ranked = search.ranked();
    if ranked.is_empty() {
        return None;
    }
    let (first, rest) = ranked.split_at(SHOWN.min(ranked.len()));
    let chosen = match search.best {
        0 => "No setup was clearly better than features.".to_owned(),
        n => format!("Chosen: trial {n}, {}.", search.setup()),
    };
    let shows = html! {
        div.charts { (course(search)) (importance(&search.importance)) }
        p { (chosen) }
        div.scroll { (table(search, first)) }
        @if !rest.is_empty() {
            details {
                summary { (count(rest.len(), "more setup")) }
                div.scroll { (table(search, rest)) }
            }
        }
    };
    let images = search.trials.first().map_or(0, |trial| trial.losses.len());
    let meaning = html! {
        p { "Setups tried on training images alone, and judged on " (count(images, "of them"))
            " held out; the validation images know nothing of the search." }
        p { "A setup other than features is chosen if its log loss is lower by more than a standard \
             error. Its loss here flatters it, as the best of many does." }
    };
    Some(part("search", "Search", &meaning, &shows))
}

/// Losses in the order of the trials; one that is far off must not press all others flat.
fn course(search: &Search) -> Markup {
    let features = search.trials.first().map_or(f64::NAN, |trial| trial.loss);
    let top = 3.0 * features.max(1e-3);
    let dots = |whole: bool| -> Vec<(f64, f64, f64)> {
        let trials = search.trials.iter().enumerate().filter(|(_, t)| t.number > 0);
        let wanted = trials.filter(|(_, t)| t.loss.is_finite() && is_whole(t) == whole);
        wanted.map(|(i, t)| (i as f64, t.loss.min(top), 4.0)).collect()
    };
    let (thirds, wholes) = (dots(false), dots(true));
    let losses: Vec<f64> =
        thirds.iter().chain(&wholes).map(|dot| dot.1).chain([features]).collect();
    let title = match losses.contains(&top) {
        true => "Loss by trial, up to three times that of features",
        false => "Loss by trial",
    };
    let last = search.trials.len().saturating_sub(1).max(1);
    let each = search.ranked().into_iter().take(SHOWN);
    let each: Vec<String> = each.map(|t| format!("trial {} {:.3}", t.number, t.loss)).collect();
    Plot {
        title,
        keys: &[("soft", "a third of the epochs"), ("one", "all epochs"), ("two", "features")],
        says: format!("log loss, the lowest first: {}; features {features:.3}", each.join(", ")),
        x: Scale::whole(0, last, "trial, in the order made"),
        y: Scale::around(losses, "log loss"),
        marks: vec![
            Mark::Dashed("two", vec![(0.0, features), (last as f64, features)]),
            Mark::Dots("dim", thirds),
            Mark::Dots("one", wholes),
        ],
    }
    .draw()
}

fn is_whole(trial: &Attempt) -> bool {
    trial.rung == refit::learn::Rung::Whole
}

fn importance(found: &[Importance]) -> Markup {
    html! {
        @if !found.is_empty() {
            div {
                h3 { "What mattered" }
                div.scroll { table {
                    thead { tr {
                        th scope="col" { "parameter" }
                        th scope="col" colspan="2" { "importance" }
                        th scope="col" { "p" }
                    } }
                    tbody { @for i in found { tr {
                        th.name scope="row" { (i.parameter) }
                        td { (share_bar(i.share, i.p_value <= 0.05)) }
                        td { (percent(i.share)) }
                        td { (format!("{:.3}", i.p_value)) }
                    } } }
                } }
                p.soft.small {
                    "Shares by PED-ANOVA: how far a parameter's values in the best quarter of the \
                     setups are from those in all, each parameter by itself. p: how likely as much \
                     would be by chance; above 0.05 the bar is grey."
                }
            }
        }
    }
}

fn table(search: &Search, trials: &[&Attempt]) -> Markup {
    let row = |trial: &Attempt| {
        let chosen = trial.number == search.best;
        let loss = match trial.loss.is_finite() {
            true => format!("{:.3}", trial.loss),
            false => "diverged".into(),
        };
        html! {
            tr.chosen[chosen] {
                th scope="row" { (trial.number) @if chosen { " (chosen)" } }
                td.words {
                    @if trial.number == 0 { "features" } @else { (trial.setup.value(Parameter::Depth)) }
                }
                @for parameter in &Parameter::ALL[1..] { td { (trial.setup.value(*parameter)) } }
                td { @if trial.epochs > 0 { (trial.epochs) } @else { "-" } }
                td { (loss) }
                td { (percent(trial.top1)) }
                td { (duration(trial.seconds)) }
            }
        }
    };
    html! {
        table {
            thead { tr {
                th scope="col" { "trial" }
                th.words scope="col" { "trained from" }
                @for parameter in &Parameter::ALL[1..] { th scope="col" { (parameter) } }
                @for head in ["epochs", "log loss", "accuracy", "time"] { th scope="col" { (head) } }
            } }
            tbody { @for trial in trials { (row(trial)) } }
        }
    }
}
