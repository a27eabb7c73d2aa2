//! `refit advise`: what to do with these images, before anything is trained.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::advice::Advice;
use refit::learn::advice::ranking::Ranked;
use refit::learn::advice::similarity::Similarity;
use refit::net::Precision;
use refit::{RunContext, Settings, Strategy};

use crate::arguments;
use crate::backbones::{Backbone, BackbonesArg};
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, count, duration, percent, percent_or_dash, short, table};
use crate::progress::Progress;
use crate::recipe;

/// Say how to train on some images, and why
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is what `refit train` takes. Measured are the number of images, how much they look like what the \
network was trained on, layer by layer, how well its features carry over, and whether more images \
would help. Only linear heads are trained; `refit train` does the same first and then tries the \
advice out.

Several networks are ranked first, by what their features say of the images (LogME), and the advice \
is for the best.",
    after_help = "Examples:
  refit advise photos/
  refit advise photos/ --backbone efficientnet_lite0,resnet18,resnet50
  refit advise photos/ --backbone resnet50 --weights resnet50.pth
  refit advise photos/ --weights a.pth --weights b.pth
  refit advise photos/ --json"
)]
pub struct Advise {
    /// Folder of class folders, or CSV
    data: PathBuf,

    #[command(flatten)]
    backbones: BackbonesArg,

    /// Edits of the network before anything, as for `refit edit`
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Validation images, which advice leaves alone: a folder or CSV like DATA
    #[arg(long, value_name = "DIR", conflicts_with = "val_fraction")]
    val: Option<PathBuf>,

    /// Share of the images kept apart for validation [default: 0.2]
    #[arg(long, value_name = "F")]
    val_fraction: Option<f64>,

    /// Type of the numbers that features are computed with: f32, or bf16 on a CPU with AMX or
    /// AVX512-BF16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = arguments::precision)]
    precision: Precision,

    /// Decides every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Advise {
    /// Measures and says what it comes to.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let steps = self.recipe.as_deref().map_or(Ok(Vec::new()), recipe::read)?;
        let settings = |Backbone { graph, weights }: Backbone| {
            Ok(Settings {
                backbone: graph.name().to_owned(),
                weights,
                edits: recipe::check(&steps, &graph)?,
                val: self.val.clone(),
                val_fraction: self.val_fraction,
                precision: self.precision,
                seed: self.seed,
                ..Settings::new(&self.data, Strategy::Features)
            })
        };
        let networks = self.backbones.open()?.into_iter().map(settings);
        let networks = networks.collect::<Result<Vec<_>, Failure>>()?;
        let context = RunContext { workers: machine.threads(), ..RunContext::default() };
        let advice = refit::advise_among(&networks, &context, &Progress::new())?;
        let text = match self.json {
            true => serde_json::to_string(&advice).expect("numbers serialize"),
            false => in_words(&advice),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

fn in_words(advice: &Advice) -> String {
    let mut parts = Vec::new();
    if let [best, ..] = &advice.ranking[..] {
        let images = count(best.images, "training image");
        parts.push(format!(
            "Networks by the features of their heads, on {images}\n{}\nWhat follows is about `{}`.",
            ranking(&advice.ranking),
            best.backbone
        ));
    }
    if let Some(similarity) = &advice.similarity {
        parts.push(format!("Similarity, from the stem up\n{}", profile(similarity)));
    }
    parts.push(format!("Features\n{}", features(advice)));
    if let (Some(energy), Some(leep)) = (advice.energy, advice.leep) {
        parts.push(format!("Old classes\n  mean energy {energy:.1}, LEEP {leep:.2}"));
    }
    if !advice.curve.points.is_empty() {
        parts.push(format!("A head on frozen features\n{}", curve(advice)));
        parts.push(format!("Its classes, the worst first\n{}", classes(advice)));
    }
    let evidence = advice.conclusion.evidence.iter().map(|line| format!("  {line}"));
    parts.push(format!("What this says\n{}", evidence.collect::<Vec<_>>().join("\n")));
    let candidate = |c: &refit::learn::advice::Candidate| {
        let from = c.unfreeze_from.as_ref();
        let from = from.map_or_else(String::new, |layer| format!(" --unfreeze-from {layer}"));
        format!("  --strategy {}{from}  (about {})", c.strategy, duration(c.seconds))
    };
    let mut lines: Vec<String> = advice.conclusion.candidates.iter().map(candidate).collect();
    let augment = advice.conclusion.augment.map_or("none", |level| level.name());
    lines.push(format!("  augmentation: {augment}"));
    if let Some(expected) = &advice.conclusion.expected {
        let [low, high] = expected.interval95.map(percent);
        let accuracy = percent(expected.accuracy);
        lines.push(format!(
            "  accuracy to expect: {accuracy} or more (95% interval {low} to {high})"
        ));
    }
    parts.push(format!("Advice: {}\n{}", advice.conclusion.rule, lines.join("\n")));
    let parts: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
    parts.join("\n\n")
}

fn ranking(ranked: &[Ranked]) -> String {
    let head = ["  network", "LogME", "LEEP", "5 neighbours", "features", "parameters", "an image"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let row = |r: &Ranked| {
        vec![
            format!("  {}", r.backbone),
            format!("{:.3}", r.log_me),
            r.leep.map_or_else(|| "-".to_owned(), |leep| format!("{leep:.2}")),
            percent(r.neighbours),
            r.features.to_string(),
            short(r.parameters as u64),
            format!("{:.1} ms", r.image_ms),
        ]
    };
    rows.extend(ranked.iter().map(row));
    let mut sides = vec![Side::Left];
    sides.extend([Side::Right; 6]);
    table(&sides, &rows)
}

fn profile(s: &Similarity) -> String {
    let mut rows =
        vec![["  layers from", "divergence", "photographs", "times"].map(str::to_owned).to_vec()];
    for ((layer, own), usual) in s.layers.iter().zip(&s.divergence).zip(&s.reference) {
        let cells = [format!("{own:.3}"), format!("{usual:.3}"), format!("{:.1}", own / usual)];
        rows.push([vec![format!("  {layer}")], cells.to_vec()].concat());
    }
    let note = match s.own_reference {
        true => String::new(),
        false => "  (the photographs' figures are those of the embedded network)\n".to_owned(),
    };
    table(&[Side::Left, Side::Right, Side::Right, Side::Right], &rows) + &note
}

fn features(advice: &Advice) -> String {
    let mut rows = vec![["  layer", "LogME", "5 neighbours"].map(str::to_owned).to_vec()];
    let row = |t: &refit::learn::advice::transfer::Transferability| {
        vec![format!("  {}", t.layer), format!("{:.3}", t.log_me), percent(t.neighbours)]
    };
    rows.extend(advice.transfer.iter().map(row));
    table(&[Side::Left, Side::Right, Side::Right], &rows)
}

fn curve(advice: &Advice) -> String {
    let mut rows = vec![["  images", "accuracy", "95% interval"].map(str::to_owned).to_vec()];
    for point in &advice.curve.points {
        let [low, high] = point.interval95.map(percent);
        let images = format!("  {:>6}", point.images);
        rows.push(vec![images, percent(point.accuracy), format!("{low} to {high}")]);
    }
    if let Some(doubled) = &advice.curve.doubled {
        let [low, high] = doubled.interval95.map(percent);
        let images = format!("  {:>6} (by a power law)", doubled.images);
        rows.push(vec![images, percent(doubled.accuracy), format!("{low} to {high}")]);
    }
    table(&[Side::Left, Side::Right, Side::Right], &rows)
}

/// The classes that a head knows least, and what the last third of their images brought it.
fn classes(advice: &Advice) -> String {
    const SHOWN: usize = 5;
    let head = ["  class", "images", "recognized", "by the last third"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let row = |gain: &refit::learn::advice::curve::ClassGain| {
        vec![
            format!("  {}", advice.classes[gain.class]),
            advice.amount.by_class[gain.class].to_string(),
            percent_or_dash(gain.recall),
            gain.gain.map_or_else(|| "-".into(), |gain| format!("{:+.1} points", 100.0 * gain)),
        ]
    };
    rows.extend(advice.curve.weakest().into_iter().take(SHOWN).map(row));
    table(&[Side::Left, Side::Right, Side::Right, Side::Right], &rows)
}
