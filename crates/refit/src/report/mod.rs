//! Reports of runs: one HTML file that needs nothing beside it. A section a file; numbers come from
//! what the run wrote and are not computed anew.
//!
//! Charts are drawn here ([`chart`]) because a chart that follows the reader's colours needs classes
//! and `currentColor` in its SVG: `plotters` writes each colour into each element, `charming` and
//! `plotly` draw by scripts.

mod advice;
mod calibration;
mod chart;
mod classes;
mod compare;
mod confusion;
mod curves;
mod data;
mod distilled;
mod folds;
mod headline;
mod mistakes;
mod page;
mod picture;
mod provenance;
mod rates;
mod reproduce;
mod search;
mod settings;
mod time;

use maud::{Markup, html};
use refit::Model;
use refit::learn::metrics::Metrics;
use refit::learn::{Record, Split};

pub use compare::{of_comparison, of_runs};
pub use page::page;
pub use picture::{encode_jpeg, encode_png, over, thumbnail};

/// A run, and what its sections share.
pub struct Run<'a> {
    pub record: &'a Record,
    /// The model, if it is still there.
    pub model: Option<&'a Model>,
}

impl Run<'_> {
    /// What it is judged by: the test images where there are any, else those held out in folds, or the
    /// validation images.
    fn judged(&self) -> Option<(Split, &Metrics)> {
        let report = &self.record.report;
        let test = report.test.as_ref().map(|m| (Split::Test, m));
        let folds = report.folds.as_ref().map(|folds| (Split::HeldOut, &folds.metrics));
        test.or(folds).or(report.val.as_ref().map(|m| (Split::Val, m)))
    }

    /// The data's name, for people.
    fn data_name(&self) -> String {
        let data = &self.record.settings.data;
        data.file_stem().unwrap_or(data.as_os_str()).to_string_lossy().into_owned()
    }

    /// `partial from blocks.5`.
    fn strategy(&self) -> String {
        let settings = &self.record.settings;
        match &settings.unfreeze_from {
            Some(layer) => format!("{} from {layer}", settings.strategy),
            None => settings.strategy.to_string(),
        }
    }
}

/// The report of one run.
pub fn of_run(run: &Run) -> String {
    let title =
        format!("{}: {} on {}", run.data_name(), run.strategy(), run.record.report.backbone);
    let sections = [
        data::section(run),
        advice::section(run),
        distilled::section(run),
        folds::section(run),
        rates::section(run),
        search::section(run),
        curves::section(run),
        confusion::section(run),
        classes::section(run),
        mistakes::section(run),
        calibration::section(run),
        settings::section(run),
        time::section(run),
        provenance::section(run),
        reproduce::section(run),
    ];
    page::page(
        &title,
        &html! { (headline::section(run)) @for s in sections.iter().flatten() { (s) } },
    )
}

/// A part of the page: its title and what it means at the side, and what it shows.
fn part(id: &str, title: &str, meaning: &Markup, shows: &Markup) -> Markup {
    html! {
        section #(id) aria-labelledby={ (id) "-title" } {
            header {
                h2 #{ (id) "-title" } { (title) }
                div.meaning { (meaning) }
            }
            div.shows { (shows) }
        }
    }
}

/// `153 validation images`.
fn images_of(split: Split, count: u64) -> String {
    crate::output::count(count as usize, &format!("{split} image"))
}

#[cfg(test)]
mod tests;
