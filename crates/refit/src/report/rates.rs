//! How the learning rate was found.

use maud::{Markup, html};

use super::chart::{Mark, Plot, Scale};
use super::{Run, part};

pub fn section(run: &Run) -> Option<Markup> {
    let search = run.record.rates.as_ref()?;
    let meaning = html! {
        p { "Before training, a copy of the network was trained with rates from very low to high. The \
             curve says how that changed the loss of the images of each step. The rate taken is a \
             tenth of the one at which the loss had fallen most." }
    };
    let found = match search.rate {
        Some(rate) => format!("found: {rate:.2e}"),
        None => "no rate lowered the loss, so the strategy's own was taken".into(),
    };
    let rates = || search.points.iter().map(|p| p.rate);
    let plot = (!search.points.is_empty()).then(|| Plot {
        title: "Change of the loss",
        keys: &[("one", "smoothed")],
        says: format!("the change of the loss by learning rate; {found}"),
        x: Scale::logarithmic(rates(), "learning rate"),
        y: Scale::around(search.points.iter().map(|p| p.change), "change"),
        marks: [Mark::Line("one", search.points.iter().map(|p| (p.rate, p.change)).collect())]
            .into_iter()
            .chain(search.rate.map(|rate| Mark::At(rate, found.clone())))
            .collect(),
    });
    let shows = html! {
        @if let Some(plot) = plot { div.charts { (plot.draw()) } }
        @if search.rate.is_none() { p.soft.small { (found) "." } }
    };
    Some(part("rate", "Learning rate", &meaning, &shows))
}
