//! `refit compare`: every strategy on the same images.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::{Comparison, Contestant};
use refit::{RunContext, Settings, Strategy};

use crate::arguments;
use crate::cli::TEMPLATE;
use crate::commands::train::network_to_start_from;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, duration, percent, short, table};
use crate::progress::Progress;

/// Train by several strategies on the same images and compare them
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is what `refit train` takes. All strategies learn from the same images and are judged on the \
same others: the test images where there are any, else the validation images. No model is kept.

The last column is a paired test (McNemar): how likely as many differences from the first one would \
be by chance. Below 0.05 they are taken to be real.",
    after_help = "Examples:
  refit compare photos/
  refit compare photos/ --strategies features,fine-tune,scratch --epochs 10
  refit compare photos/ --backbone resnet18 --json"
)]
pub struct Compare {
    /// Folder of class folders, or CSV
    data: PathBuf,

    /// Strategies, or `all` but as-is
    #[arg(long, value_name = "S,S", default_value = "features,partial,fine-tune",
          value_parser = strategies)]
    strategies: Strategies,

    /// Network to start from; `refit models` lists them [default: efficientnet_lite0]
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,

    /// Its weights: a model or checkpoint [default: the embedded or pulled ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,

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

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// What is compared.
#[derive(Debug, Clone)]
struct Strategies(Vec<Strategy>);

fn strategies(text: &str) -> Result<Strategies, String> {
    if text == "all" {
        let all = Strategy::ALL.into_iter().filter(|s| *s != Strategy::AsIs);
        return Ok(Strategies(all.collect()));
    }
    text.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>().map(Strategies)
}

impl Compare {
    /// Trains and compares.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let network = network_to_start_from(self.backbone.as_deref(), self.weights.as_deref())?;
        if let Some(layer) = &self.unfreeze_from {
            network.find_first(layer)?;
        }
        let settings = |strategy, from: Option<&str>| {
            let mut settings = Settings {
                backbone: network.name().to_owned(),
                weights: self.weights.clone().filter(|_| strategy != Strategy::Scratch),
                val: self.val.clone(),
                val_fraction: self.val_fraction,
                unfreeze_from: from.map(str::to_owned).or_else(|| self.unfreeze_from.clone()),
                time_budget: self.time_budget,
                seed: self.seed,
                ..Settings::new(&self.data, strategy)
            };
            if let (Some(epochs), true) = (self.epochs, strategy.trains_body()) {
                settings.training.epochs = epochs;
            }
            settings
        };
        let context = RunContext { workers: machine.threads(), ..RunContext::default() };
        let found = refit::compare(&settings, &self.strategies.0, &context, &Progress::new())?;
        let text = match self.json {
            true => serde_json::to_string(&found).expect("numbers serialize"),
            false => in_words(&found),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

fn in_words(found: &Comparison) -> String {
    let mut sides = vec![Side::Left];
    sides.extend([Side::Right; 8]);
    let head = [
        "strategy",
        "accuracy",
        "95% interval",
        "balanced",
        "F1",
        "trained",
        "time",
        "an image",
        "p",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(found.contestants.iter().map(row));
    let judged = found.contestants.first().map_or(0, |c| c.metrics.samples);
    let mut text = table(&sides, &rows);
    text += &format!("judged on {judged} {} images; {}", found.judged_on, found.backbone);
    for (strategy, why) in &found.left_out {
        text += &format!("\n{strategy} is left out: {why}");
    }
    text
}

fn row(c: &Contestant) -> Vec<String> {
    let from = c.unfreeze_from.as_ref();
    let from = from.map_or_else(String::new, |layer| format!(" from {layer}"));
    let [low, high] = c.metrics.interval95.map(percent);
    vec![
        format!("{}{from}", c.strategy),
        percent(c.metrics.top1),
        format!("{low} to {high}"),
        percent(c.metrics.balanced_accuracy),
        percent(c.metrics.macro_f1),
        short(c.parameters[0] as u64),
        duration(c.seconds),
        format!("{:.1} ms", c.latency),
        c.p_value.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}")),
    ]
}
