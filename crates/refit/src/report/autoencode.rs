//! The page of an autoencoder: what it makes of images, and how it learned to.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use refit::data::Level;
use refit::learn::autoencode::{AutoencodeRecord, AutoencodeSettings, ReconstructionLoss};

use super::chart::{Mark, Plot, Scale};
use super::{page, part};
use crate::commands::autoencode::told;
use crate::commands::train::shell;
use crate::output::{count, duration};

/// The report of the run of an autoencoder.
pub fn of_autoencoding(record: &AutoencodeRecord) -> String {
    let images = &record.settings.images;
    let name = images.file_stem().unwrap_or(images.as_os_str()).to_string_lossy();
    let title = format!("{name}: autoencoder on {}", record.report.encoder);
    let sections = [pictures(record), training(record), Some(reproduce(record))];
    let content = html! {
        (headline(record, &name))
        @for section in sections.iter().flatten() { (section) }
    };
    page::page(&title, &content)
}

fn headline(record: &AutoencodeRecord, name: &str) -> Markup {
    let report = &record.report;
    let after = &report.after;
    html! {
        div.head {
            p.over { "Autoencoder " (record.folder.display()) }
            h1 { "Autoencoder on " (report.encoder) ", for " (name) }
            div.result {
                div.big { (format!("{:.1} dB", after.psnr)) }
                div.range {
                    p { "signal to noise of " (count(report.held_out, "image")) " held out, made again" }
                    p.soft { "at first: " (told(&report.before)) }
                    p.soft { "now: " (told(after)) }
                    @if let Some(spoiled) = &report.spoiled {
                        p.soft { "where it sees them spoiled: " (told(spoiled)) }
                    }
                }
            }
            dl.figures {
                @for (name, value) in figures(record) { div { dt { (name) } dd { (value) } } }
            }
        }
    }
}

fn figures(record: &AutoencodeRecord) -> Vec<(&'static str, String)> {
    let report = &record.report;
    let mut figures = vec![
        ("images learned from", report.train.to_string()),
        ("size", format!("{0}x{0} pixels", report.size)),
        ("code", count(report.bottleneck, "value")),
        ("parameters", count(report.parameters, "value")),
        ("best epoch", report.best_epoch.to_string()),
        ("time", duration(report.seconds)),
    ];
    if let Some(threshold) = report.threshold {
        figures.push(("an anomaly's error is above", format!("{threshold:.4}")));
    }
    if !report.skipped.is_empty() {
        figures.push(("left out", count(report.skipped.len(), "image")));
    }
    figures
}

fn pictures(record: &AutoencodeRecord) -> Option<Markup> {
    let sheet = STANDARD.encode(record.sheet.as_ref()?);
    let rows = match record.settings.corruption.is_nothing() {
        true => "Above, images held out; below, what is made of their codes.",
        false => {
            "Above, images held out; in the middle, as they were spoiled; below, what is made of the \
             codes of these."
        }
    };
    let meaning = html! {
        p { (rows) " What a code of " (record.report.bottleneck) " values does not hold is blurred." }
    };
    let shows = html! {
        img.sheet src={ "data:image/png;base64," (sheet) } style="max-width:100%;height:auto" alt=(rows);
    };
    Some(part("pictures", "Pictures", &meaning, &shows))
}

fn training(record: &AutoencodeRecord) -> Option<Markup> {
    let history = &record.history;
    let last = history.last()?.epoch;
    let train: Vec<(f64, f64)> =
        history.iter().map(|e| (e.epoch as f64, f64::from(e.train_loss))).collect();
    let held_out: Vec<(f64, f64)> =
        history.iter().filter_map(|e| Some((e.epoch as f64, e.val_loss?))).collect();
    let [first, now] = [held_out.first(), held_out.last()].map(|p| p.map_or(0.0, |p| p.1));
    let best = record.report.best_epoch;
    let plot = Plot {
        title: "Error",
        keys: &[("one", "training"), ("two", "held out")],
        says: format!("error on images held out: {first:.4} at first, {now:.4} at the end"),
        x: Scale::whole(1, last, "epoch"),
        y: Scale::logarithmic(train.iter().chain(&held_out).map(|p| p.1), "error"),
        marks: vec![
            Mark::Line("one", train),
            Mark::Line("two", held_out),
            Mark::At(best as f64, format!("kept: {best}")),
        ],
    };
    let by = match record.settings.loss {
        ReconstructionLoss::Mse => "the mean squared difference of pixels from 0 to 1",
        ReconstructionLoss::L1Ssim => {
            "the mean absolute difference of pixels from 0 to 1, plus one minus the structural similarity"
        }
    };
    let meaning = html! {
        p { "The error that training lowers, " (by) ", and that of images held out. The weights of the \
             marked epoch are the model's." }
    };
    Some(part("training", "Training", &meaning, &html! { div.charts { (plot.draw()) } }))
}

fn reproduce(record: &AutoencodeRecord) -> Markup {
    let model = shell(&record.folder.join("model.safetensors"));
    let (command, missing) = command(&record.settings);
    let shows = html! {
        pre { (command) }
        @if missing { p.soft.small { "with the augmentation of settings.toml in a file of its own: --augment FILE" } }
        pre {
            "refit train LABELLED --weights " (model) " --strategy features\n"
            "refit predict --anomaly " (model) " IMAGE...\n"
            "refit embed " (model) " IMAGE... --out codes.npy"
        }
    };
    let meaning = html! {
        p { "The same images and the same refit give the same model, bit by bit, on the same kind of \
             CPU." }
    };
    part("reproduce", "Do it again", &meaning, &shows)
}

/// The command that begins a run with such settings, and whether it lacks the augmentation.
fn command(settings: &AutoencodeSettings) -> (String, bool) {
    let usual = AutoencodeSettings::new("");
    let mut words = vec![format!("refit autoencode {}", shell(&settings.images))];
    let mut flag = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name} {value}")));
    };
    let unless = |usual: bool, value: String| (!usual).then_some(value);
    flag("encoder", unless(settings.encoder == usual.encoder, settings.encoder.clone()));
    flag("weights", settings.weights.as_ref().map(|path| shell(path)));
    flag("bottleneck", settings.bottleneck.map(|n| n.to_string()));
    flag("size", settings.size.map(|n| n.to_string()));
    flag("loss", unless(settings.loss == usual.loss, settings.loss.to_string()));
    let what = settings.corruption;
    flag("noise", unless(what.noise == 0.0, what.noise.to_string()));
    flag("mask", unless(what.mask == 0.0, what.mask.to_string()));
    flag("patch", unless(what.patch == 0, what.patch.to_string()));
    flag("count", settings.masked_only.then(|| "masked".to_owned()));
    flag("held-out", unless(settings.held_out == usual.held_out, settings.held_out.to_string()));
    flag("epochs", unless(settings.epochs == usual.epochs, settings.epochs.to_string()));
    flag("batch", unless(settings.batch == usual.batch, settings.batch.to_string()));
    let rate = settings.learning_rate;
    flag("lr", unless(rate == usual.learning_rate, rate.to_string()));
    let decay = settings.weight_decay;
    flag("weight-decay", unless(decay == usual.weight_decay, decay.to_string()));
    flag("patience", unless(settings.patience == 0, settings.patience.to_string()));
    flag("time-budget", settings.time_budget.map(|seconds| format!("{seconds}s")));
    flag("seed", unless(settings.seed == 0, settings.seed.to_string()));
    let level = Level::ALL.into_iter().find(|level| level.augment() == settings.augment);
    flag("augment", level.filter(|level| *level != Level::Light).map(|level| level.to_string()));
    if settings.pretrained {
        words.push("--pretrained".into());
    }
    if settings.strict {
        words.push("--strict".into());
    }
    (words.join(" "), level.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_says_what_is_not_usual() {
        let mut settings = AutoencodeSettings::new("my photos");
        assert_eq!(command(&settings), ("refit autoencode 'my photos'".into(), false));
        settings.loss = ReconstructionLoss::L1Ssim;
        (settings.corruption.mask, settings.masked_only) = (0.5, true);
        (settings.augment, settings.seed) = (Level::None.augment(), 3);
        let (said, _) = command(&settings);
        let want = "refit autoencode 'my photos' --loss l1-ssim --mask 0.5 --count masked --seed 3 \
                    --augment none";
        assert_eq!(said, want);
        settings.augment.rotation = 5.0;
        assert!(command(&settings).1);
    }
}
