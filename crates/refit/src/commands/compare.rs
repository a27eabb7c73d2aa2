//! `refit compare`: every strategy, and every network, on the same images.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::learn::{Comparison, Contestant, Record, Way};
use refit::{Device, Model, RunContext, Settings, Strategy};

use crate::arguments;
use crate::backbones::{Backbone, BackbonesArg};
use crate::cli::TEMPLATE;
use crate::commands::report;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, count, duration, megabytes, percent, short, table};
use crate::progress::Progress;
use crate::report::of_comparison;

/// Train by several strategies, from several networks, on the same images and compare them
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is what `refit train` takes. All learn from the same images and are judged on the same others: \
the test images where there are any, else the validation images.

The last column is a paired test (McNemar): how likely as many differences from the first one would \
be by chance. Below 0.05 they are taken to be real. Memory is the most that refit as a whole held \
while the strategy ran. What frozen layers give is computed once and serves all: the first that \
needs it is charged for it.

With --out, every run is kept in a folder of its own in DIR, with model and report, beside \
compare.json and report.html. The same command again goes on where one was stopped.",
    after_help = "Examples:
  refit compare photos/
  refit compare photos/ --strategies features,fine-tune,scratch --epochs 10
  refit compare photos/ --strategies all --time-budget 10m --out comparison
  refit compare photos/ --backbones efficientnet_lite0,resnet18 --strategies features
  refit compare photos/ --weights a.pth --weights b.pth --strategies features --json"
)]
pub struct Compare {
    /// Folder of class folders, or CSV
    data: PathBuf,

    /// Strategies, `auto` among them, or `all`
    #[arg(long, value_name = "S,S", default_value = "features,partial,fine-tune",
          value_parser = ways)]
    strategies: Ways,

    #[command(flatten)]
    backbones: BackbonesArg,

    /// Validation images, a folder of class folders or a CSV
    #[arg(long, value_name = "DIR", conflicts_with = "val_fraction")]
    val: Option<PathBuf>,

    /// Share of the images kept apart as validation images [default: 0.2]
    #[arg(long, value_name = "F")]
    val_fraction: Option<f64>,

    /// First layer that `partial` trains [default: the upper two sevenths]
    #[arg(long, value_name = "LAYER")]
    unfreeze_from: Option<String>,

    /// Times that strategies with steps see every image [default: each strategy's own]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,

    /// Begin no further epoch of a strategy after this long: 90s, 30m, 2h
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    time_budget: Option<f64>,

    /// Decides every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Folder to keep all runs in [default: none is kept]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// What is compared.
#[derive(Debug, Clone)]
struct Ways(Vec<Way>);

fn ways(text: &str) -> Result<Ways, String> {
    if text == "all" {
        return Ok(Ways(Way::all().collect()));
    }
    let named: Vec<Way> = text.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>()?;
    match (1..named.len()).find(|&i| named[..i].contains(&named[i])) {
        Some(twice) => Err(format!("{} is named twice", named[twice])),
        None => Ok(Ways(named)),
    }
}

impl Compare {
    /// Trains and compares.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let backbones = self.backbones.open()?;
        for Backbone { graph, .. } in &backbones {
            self.unfreeze_from.as_ref().map_or(Ok(0), |layer| graph.find_first(layer))?;
        }
        let names: Vec<&str> = backbones.iter().map(|b| b.graph.name()).collect();
        let settings = |name: &str, strategy, from: Option<&str>| {
            let weights = backbones.iter().find(|b| b.graph.name() == name);
            self.settings(name, weights.and_then(|b| b.weights.as_deref()), strategy, from)
        };
        let context = RunContext {
            workers: machine.threads(),
            folder: self.out.clone(),
            ..RunContext::default()
        };
        let progress = Progress::new();
        let found = refit::compare(&settings, &names, &self.strategies.0, &context, &progress)?;
        if let Some(folder) = self.out.as_ref().filter(|_| !found.contestants.is_empty()) {
            write_reports(folder, &found, &machine.device(), &progress)?;
        }
        if !found.contestants.is_empty() || found.unfinished.is_empty() {
            let text = match self.json {
                true => serde_json::to_string(&found).expect("numbers serialize"),
                false => in_words(&found),
            };
            writeln!(io::stdout(), "{text}")?;
        }
        match found.unfinished.is_empty() {
            true => Ok(()),
            false => Err(self.interrupted(&found)),
        }
    }

    fn settings(
        &self,
        backbone: &str,
        weights: Option<&Path>,
        strategy: Strategy,
        from: Option<&str>,
    ) -> Settings {
        // What is kept may be gone on with from elsewhere.
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut settings = Settings {
            backbone: backbone.to_owned(),
            weights: weights.filter(|_| strategy != Strategy::Scratch).map(whole),
            val: self.val.as_deref().map(whole),
            val_fraction: self.val_fraction,
            unfreeze_from: from.map(str::to_owned).or_else(|| self.unfreeze_from.clone()),
            time_budget: self.time_budget,
            seed: self.seed,
            ..Settings::new(whole(&self.data), strategy)
        };
        if let (Some(epochs), true) = (self.epochs, strategy.trains_body()) {
            settings.training.epochs = epochs;
        }
        settings
    }

    fn interrupted(&self, found: &Comparison) -> Failure {
        let (ended, all) =
            (found.contestants.len(), found.contestants.len() + found.unfinished.len());
        let next = match (&self.out, ended) {
            (Some(folder), _) => format!(
                "{ended} of {all} have ended and are kept in {}; the same command goes on",
                folder.display()
            ),
            (None, 0) => "nothing has ended; --out DIR keeps what has, and goes on".into(),
            (None, _) => format!(
                "{ended} of {all} have ended and are compared above; none is kept without --out DIR"
            ),
        };
        Failure::Interrupted(Some(next))
    }
}

/// The report of each run, where it is not there yet, and the one that compares them.
fn write_reports(
    folder: &Path,
    found: &Comparison,
    device: &Device,
    progress: &Progress,
) -> Result<(), Failure> {
    let folders: Vec<&PathBuf> =
        found.contestants.iter().filter_map(|c| c.folder.as_ref()).collect();
    let records = progress.stage("reports", 0, || -> Result<Vec<Record>, Failure> {
        let read = |run: &&PathBuf| {
            let record = Record::read(run)?;
            if !run.join(report::FILE).exists() {
                report::of_outcome(run, &Model::load(&record.model_file(), device)?)?;
            }
            Ok(record)
        };
        folders.iter().map(read).collect()
    })?;
    let page = folder.join(report::FILE);
    report::save(&page, &of_comparison(found, &records))?;
    progress.say(&format!("report: {}", page.display()));
    Ok(())
}

fn in_words(found: &Comparison) -> String {
    let mut sides = vec![Side::Left];
    sides.extend([Side::Right; 10]);
    let head = [
        "strategy",
        "accuracy",
        "95% interval",
        "balanced",
        "F1",
        "trained",
        "model",
        "memory",
        "time",
        "an image",
        "p",
    ];
    let several = found.backbones.len() > 1;
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(found.contestants.iter().map(row));
    if several {
        sides.insert(0, Side::Left);
        let names = found.contestants.iter().map(|c| c.backbone.clone());
        let names = std::iter::once("network".to_owned()).chain(names);
        rows.iter_mut().zip(names).for_each(|(row, name)| row.insert(0, name));
    }
    let judged = found.contestants.first().map_or(0, |c| c.metrics.samples);
    let images = count(judged as usize, &format!("{} image", found.judged_on));
    let mut text = table(&sides, &rows);
    text += &format!("judged on {images}; {}", found.backbones.join(", "));
    for (which, what) in [(&found.left_out, "left out"), (&found.unfinished, "not compared")] {
        for one in which {
            let on = if several { format!(" on {}", one.backbone) } else { String::new() };
            text += &format!("\n{}{on} is {what}: {}", one.strategy, one.reason);
        }
    }
    text
}

/// `partial from blocks.5`, `auto: features`.
pub fn strategy(c: &Contestant) -> String {
    let chosen = c.chosen.map_or_else(String::new, |chosen| format!(": {chosen}"));
    let from = c.unfreeze_from.as_ref();
    let from = from.map_or_else(String::new, |layer| format!(" from {layer}"));
    format!("{}{chosen}{from}", c.strategy)
}

fn row(c: &Contestant) -> Vec<String> {
    let [low, high] = c.metrics.interval95.map(percent);
    vec![
        strategy(c),
        percent(c.metrics.top1),
        format!("{low} to {high}"),
        percent(c.metrics.balanced_accuracy),
        percent(c.metrics.macro_f1),
        short(c.parameters[0] as u64),
        megabytes(c.model_bytes),
        c.peak_memory.map_or_else(|| "-".to_owned(), megabytes),
        duration(c.seconds),
        format!("{:.1} ms", c.latency),
        c.p_value.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}")),
    ]
}
