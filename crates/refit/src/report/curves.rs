//! What training did, epoch by epoch.

use maud::{Markup, html};
use refit::learn::{Epoch, Record};

use super::chart::{Mark, Plot, Scale};
use super::{Run, part};
use crate::output::percent;

pub fn section(run: &Run) -> Option<Markup> {
    let charts = charts(run.record)?;
    let averaged = run.record.report.averaged_epochs.iter().map(usize::to_string);
    let averaged = averaged.collect::<Vec<_>>().join(", ");
    let meaning = html! {
        p { "The loss that training lowers, and how the network does on validation images after \
             each epoch. The weights of the marked epoch are the model's; 0 stands for those that \
             training began with." }
        @if !averaged.is_empty() {
            p { "They are the mean of those of the epochs " (averaged) ", of which the best is marked." }
        }
    };
    Some(part("training", "Training", &meaning, &html! { div.charts { (charts) } }))
}

/// The curves of a run's epochs; nothing where it has none.
pub fn charts(record: &Record) -> Option<Markup> {
    let history = &record.history;
    let last = history.last()?.epoch;
    let kept = record.report.best_epoch;
    let first = if kept == Some(0) { 0 } else { 1 };
    let axis = || Scale::whole(first, last, "epoch");
    let of = |value: &dyn Fn(&Epoch) -> Option<f64>| -> Vec<(f64, f64)> {
        history.iter().filter_map(|e| Some((e.epoch as f64, value(e)?))).collect()
    };
    let train = of(&|e| Some(f64::from(e.train_loss)));
    let val = of(&|e| e.val_loss);
    let mut accuracy = of(&|e| e.val_top1);
    // What training began with is known where it was kept.
    if let (Some(0), Some(metrics)) = (kept, &record.report.val) {
        accuracy.insert(0, (0.0, metrics.top1));
    }
    let mark = || kept.map(|epoch| Mark::At(epoch as f64, format!("kept: {epoch}")));
    let losses = train.iter().chain(&val).map(|p| p.1);
    let says = |what: &str, points: &[(f64, f64)], text: &dyn Fn(f64) -> String| {
        let [first, last] = [points.first(), points.last()].map(|p| text(p.map_or(0.0, |p| p.1)));
        format!("{what}: {first} at first, {last} at the end")
    };
    let number = |v: f64| format!("{v:.3}");
    let both: &[(&str, &str)] = &[("one", "training"), ("two", "validation")];
    let loss = Plot {
        title: "Loss",
        keys: if val.is_empty() { &both[..1] } else { both },
        says: says("training loss", &train, &number),
        x: axis(),
        y: Scale::around(losses, "loss"),
        marks: [Mark::Line("one", train), Mark::Line("two", val)]
            .into_iter()
            .chain(mark())
            .collect(),
    };
    let right = (!accuracy.is_empty()).then(|| Plot {
        title: "Accuracy",
        keys: &both[1..],
        says: says("validation accuracy", &accuracy, &percent),
        x: axis(),
        y: Scale::shares(accuracy.iter().map(|p| p.1), "accuracy"),
        marks: [Mark::Line("two", accuracy)].into_iter().chain(mark()).collect(),
    });
    Some(html! { (loss.draw()) @if let Some(right) = right { (right.draw()) } })
}
