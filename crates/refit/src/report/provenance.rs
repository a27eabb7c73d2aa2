//! What it was made from.

use maud::{Markup, html};

use super::{Run, part};
use crate::output::short;

pub fn section(run: &Run) -> Option<Markup> {
    let record = run.record;
    let card = run.model.map(|model| &model.card);
    let shows = html! {
        dl.pairs {
            dt { "images" } dd { code { (record.settings.data.display()) } }
            dt { "their fingerprint" } dd { code { (record.fingerprint) } }
            dt { "network" } dd { (record.report.backbone) ", " (short(record.report.parameters[1] as u64)) " parameters" }
            @match card {
                Some(card) => {
                    dt { "its weights" } dd { (card.weights.source) }
                    dt { "their licence" } dd { (card.weights.licence.as_deref().unwrap_or("not known")) }
                    @if let Some(on) = &card.weights.trained_on { dt { "trained on" } dd { (on) } }
                    @if let Some(sum) = &card.weights.sha256 { dt { "SHA-256" } dd { code { (sum) } } }
                    dt { "trained by" } dd { "refit " (card.refit) }
                },
                None => {
                    dt { "its weights" } dd.soft { "not known: model.safetensors is gone" }
                },
            }
            @if let Some(bytes) = record.model_bytes {
                dt { "model file" } dd { (format!("{:.1} MB", bytes as f64 / 1e6)) }
            }
        }
    };
    let meaning = html! {
        p { "The fingerprint covers the images' contents, classes and splits, wherever they lie." }
    };
    Some(part("provenance", "Provenance", &meaning, &shows))
}
