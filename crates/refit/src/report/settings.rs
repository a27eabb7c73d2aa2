//! What was asked for.

use maud::{Markup, html};

use super::{Run, part};
use crate::output::{count, short};

pub fn section(run: &Run) -> Option<Markup> {
    let settings = &run.record.settings;
    let text = toml::to_string_pretty(settings).unwrap_or_default();
    let [trained, all] = run.record.report.parameters.map(|n| short(n as u64));
    let steps = !run.record.history.is_empty();
    let shows = html! {
        dl.pairs {
            dt { "strategy" } dd { (run.strategy()) }
            dt { "network" } dd { (settings.backbone) }
            dt { "head" } dd { (settings.head.to_string()) }
            @if !settings.learner.is_linear() {
                dt { "learner" } dd { (settings.learner.to_string()) }
            }
            dt { "trained" } dd { (trained) " of " (all) " parameters" }
            @if let Some(strength) = run.record.report.strength {
                dt { "penalty of the head" } dd { (format!("{strength:.2e}")) }
            }
            @if steps {
                @let training = &settings.training;
                dt { "epochs" } dd { (training.epochs) " of batches of " (training.batch) }
                dt { "learning rate" } dd { (training.learning_rate) }
            }
            dt { "frozen layers in" } dd { (settings.precision) }
            dt { "seed" } dd { (settings.seed) }
            @if !settings.edits.is_empty() {
                dt { "edits" } dd { (count(settings.edits.len(), "edit")) " of the network before" }
            }
        }
        details { summary { "settings.toml" } pre { (text) } }
    };
    let meaning = html! { p { "Everything that decides the result, but for the images." } };
    Some(part("settings", "Settings", &meaning, &shows))
}
