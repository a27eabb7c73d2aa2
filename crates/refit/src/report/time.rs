//! Where the time went.

use maud::{Markup, html};

use super::{Run, part};
use crate::output::duration;

pub fn section(run: &Run) -> Option<Markup> {
    let seconds = &run.record.report.seconds;
    let known = seconds.features + seconds.training + seconds.evaluation;
    let parts = [
        ("features", seconds.features, 100),
        ("training", seconds.training, 70),
        ("evaluation", seconds.evaluation, 45),
        ("the rest", (seconds.total - known).max(0.0), 20),
    ];
    let total = seconds.total.max(1e-9);
    let shows = html! {
        div.bar aria-hidden="true" { @for (_, time, mix) in parts {
            span style={ "--share:" (format!("{:.1}", 100.0 * time / total)) "%;--mix:" (mix) "%" } {}
        } }
        dl.pairs {
            @for (name, time, _) in parts { dt { (name) } dd { (duration(time)) } }
            dt { "total" } dd { b { (duration(seconds.total)) } }
        }
    };
    let rest = match run.record.choice {
        Some(_) => "The rest is advice and trials, and reading the network.",
        None => "The rest is reading the network and listing the images.",
    };
    let meaning =
        html! { p { "Seconds on the clock, earlier sessions of a resumed run included. " (rest) } };
    Some(part("time", "Time", &meaning, &shows))
}
