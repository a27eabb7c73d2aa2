//! `refit tune`: a search for the settings that suit the images best.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use refit::data::Level;
use refit::learn::{
    ALL_LAYERS, Attempt, Importance, OptimizerKind, Parameter, Search, TuneOptions, Tuned, Values,
    read_search, search, tune,
};
use refit::net::Precision;
use refit::{Outcome, RunContext, Settings, Strategy};
use serde_json::json;

use crate::arguments;
use crate::cli::TEMPLATE;
use crate::commands::train::{
    check_precision, free_folder, network_to_start_from, shell, stopped_or_failed, summarize,
    whole, write_report,
};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, duration, percent, table};
use crate::progress::Progress;

/// Search for the settings that suit your images best, and train with them
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    override_usage = "refit tune [OPTIONS] <DATA>\n       refit tune --resume <DIR>",
    before_help = "\
DATA is what `refit train` takes. Trials learn from three quarters of the training images and are \
judged on the rest; the validation images know nothing of the search. Each setup is tried with a \
third of the epochs first, and a third of the setups with all. The best is then trained on all \
training images, unless nothing is clearly better than `features`.

The result is a folder as `refit train` writes it, with the trials (trials.jsonl) beside, and in \
the report how much each parameter mattered.",
    after_help = "Examples:
  refit tune photos/
  refit tune photos/ --trials 40 --time-budget 2h
  refit tune photos/ --search lr,depth,augment --optimizer sgd
  refit tune photos/ --unfreeze-from all --epochs 6 --no-train
  refit tune --resume refit-runs/photos-tune

What can be searched:
  depth            the first layer that is trained, or all
  optimizer        adamw or sgd
  lr               learning rate, 0.00002 to 0.003 (30 times that with sgd)
  lowest-rate      the rate at the first trained layer, as a share of the last one's
  weight-decay     0.0001 to 0.5 (a 30th of that with sgd)
  label-smoothing  0 to 0.3
  augment          none, light, medium or strong
  ema              whether an average of the weights is judged and kept

A search that was stopped goes on with `refit tune --resume DIR` and ends as if it had not been."
)]
pub struct Tune {
    /// Folder of class folders, or CSV
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    data: Option<PathBuf>,

    #[command(flatten)]
    options: Options,

    /// Folder for the result [default: refit-runs/<data>-tune]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,

    /// Go on with a search that was stopped, with the settings that it began with
    #[arg(long, value_name = "DIR", conflicts_with = "Options")]
    resume: Option<PathBuf>,

    /// Search only: train nothing with the settings that were found
    #[arg(long)]
    no_train: bool,

    /// Write no report.html
    #[arg(long)]
    no_report: bool,

    /// Print trials, importance and the run's report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What decides the result; `--resume` takes it from the folder.
#[derive(Debug, Args)]
struct Options {
    /// Setups that are tried
    #[arg(long, value_name = "N", default_value_t = 24)]
    trials: usize,

    /// End the search after three fifths of this, and begin no epoch that would end later: 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    time_budget: Option<f64>,

    /// What is searched, see below [default: all that is not given]
    #[arg(long, value_name = "P,P", value_delimiter = ',')]
    search: Option<Vec<Parameter>>,

    /// Validation images: a folder or CSV like DATA
    #[arg(long, value_name = "DIR", conflicts_with = "val_fraction")]
    val: Option<PathBuf>,

    /// Share of the images kept apart for validation [default: 0.2]
    #[arg(long, value_name = "F")]
    val_fraction: Option<f64>,

    /// Network to start from; `refit models` lists them [default: the one whose weights are given,
    /// else efficientnet_lite0]
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,

    /// Its weights, as `refit train` takes them [default: the embedded ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,

    /// Type of the numbers in frozen layers: f32, or bf16 on a CPU with AMX or AVX512-BF16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = arguments::precision)]
    precision: Precision,

    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Stop at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,

    /// Times that every image is seen [default: the strategy's]
    #[arg(long, value_name = "N", help_heading = GIVEN)]
    epochs: Option<usize>,

    /// Images a step [default: the strategy's]
    #[arg(long, value_name = "N", help_heading = GIVEN)]
    batch: Option<usize>,

    /// First layer or block that is trained, or `all`
    #[arg(long, value_name = "LAYER", help_heading = GIVEN)]
    unfreeze_from: Option<String>,

    /// Update rule
    #[arg(long, value_name = "RULE", help_heading = GIVEN)]
    optimizer: Option<Rule>,

    /// Highest learning rate
    #[arg(long, value_name = "X", help_heading = GIVEN)]
    lr: Option<f64>,

    /// Rate at the first trained layer, as a share of the last one's
    #[arg(long, value_name = "SHARE", help_heading = GIVEN)]
    lowest_rate: Option<f64>,

    /// Decay of weights
    #[arg(long, value_name = "X", help_heading = GIVEN)]
    weight_decay: Option<f64>,

    /// Label smoothing, from 0 to below 1
    #[arg(long, value_name = "X", help_heading = GIVEN)]
    label_smoothing: Option<f64>,

    /// How training images are varied: none, light, medium or strong
    #[arg(long, value_name = "LEVEL", help_heading = GIVEN)]
    augment: Option<Level>,

    /// Share of itself that an average of the weights keeps at a step; 0 for none
    #[arg(long, value_name = "SHARE", help_heading = GIVEN)]
    ema: Option<f64>,
}

const GIVEN: &str = "Given values, which are not searched";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    Adamw,
    Sgd,
}

impl Options {
    fn values(&self) -> Values {
        Values {
            optimizer: self.optimizer.map(|rule| match rule {
                Rule::Adamw => OptimizerKind::AdamW,
                Rule::Sgd => OptimizerKind::Sgd,
            }),
            learning_rate: self.lr,
            lowest_rate: self.lowest_rate,
            weight_decay: self.weight_decay,
            smoothing: self.label_smoothing,
            augment: self.augment,
            average: self.ema,
        }
    }

    /// What is searched: all that has no given value, or what is asked for.
    fn tuning(&self) -> Result<TuneOptions, Failure> {
        let given = self.values();
        let is_given = |p: &Parameter| match p {
            Parameter::Depth => self.unfreeze_from.is_some(),
            p => given.has(*p),
        };
        let search = match &self.search {
            Some(asked) => match asked.iter().find(|p| is_given(p)) {
                Some(both) => {
                    return Err(Failure::mistake(
                        format!("{both} is both given and to be searched"),
                        format!("leave out its value, or `{both}` in --search"),
                    ));
                }
                None => asked.clone(),
            },
            None => Parameter::ALL.into_iter().filter(|p| !is_given(p)).collect(),
        };
        if search.is_empty() {
            return Err(Failure::mistake(
                "nothing is left to search: every parameter has a given value",
                "leave one out, or train with these values: `refit train`",
            ));
        }
        let depth = self.unfreeze_from.clone();
        let (trials, epochs, batch) = (self.trials, self.epochs, self.batch);
        Ok(TuneOptions { trials, search, depth, epochs, batch, given })
    }

    fn settings(&self, data: &Path) -> Result<Settings, Failure> {
        let network = network_to_start_from(self.backbone.as_deref(), self.weights.as_deref())?;
        if let Some(layer) = self.unfreeze_from.as_deref().filter(|layer| *layer != ALL_LAYERS) {
            network.find_first(layer)?;
        }
        Ok(Settings {
            val: self.val.as_deref().map(whole),
            val_fraction: self.val_fraction,
            backbone: network.name().to_owned(),
            weights: self.weights.as_deref().map(whole),
            precision: self.precision,
            seed: self.seed,
            strict: self.strict,
            time_budget: self.time_budget,
            ..Settings::new(whole(data), Strategy::Features)
        })
    }
}

impl Tune {
    /// Searches and trains, or goes on with it.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let progress = Progress::new();
        let (settings, options) = match &self.resume {
            Some(folder) => read_search(folder)?,
            None => {
                let data = self.data.as_deref().unwrap_or(Path::new(""));
                (self.options.settings(data)?, self.options.tuning()?)
            }
        };
        let folder = match (&self.resume, &self.out) {
            (Some(folder), _) | (None, Some(folder)) => folder.clone(),
            (None, None) => free_folder(&settings.data, "tune"),
        };
        if self.resume.is_some() {
            check_precision(&settings, &folder)?;
        }
        let context = RunContext {
            folder: Some(folder.clone()),
            resume: self.resume.is_some(),
            workers: machine.threads(),
            ..RunContext::default()
        };
        let stopped = |error| {
            let resume = format!("refit tune --resume {}", shell(&folder));
            stopped_or_failed(error, &folder.join("search.toml"), &resume, "features are")
        };
        if self.no_train {
            let found = search(&settings, &options, &context, &progress).map_err(stopped)?;
            progress.say(&in_words(&found));
            let command = format!("refit tune --resume {}", shell(&folder));
            progress.say(&format!("train with the best settings: {command}"));
            return self.print(&found, None);
        }
        let tuned = tune(&settings, &options, &context, &progress).map_err(stopped)?;
        let Tuned { search, outcome } = &tuned;
        progress.say(&in_words(search));
        summarize(outcome, &folder, &progress);
        if !self.no_report {
            write_report(outcome, &folder, &progress);
        }
        self.print(search, Some(outcome))
    }

    fn print(&self, search: &Search, outcome: Option<&Outcome>) -> Result<(), Failure> {
        if self.json {
            let report = outcome.map(|outcome| &outcome.report);
            let best = search.setup();
            let json = json!({ "search": search, "best": best, "report": report });
            writeln!(io::stdout(), "{json}")?;
        }
        Ok(())
    }
}

/// The best trials, what was chosen, and what mattered.
fn in_words(search: &Search) -> String {
    const SHOWN: usize = 8;
    let ranked = search.ranked();
    if ranked.is_empty() {
        return String::new();
    }
    let mut shown: Vec<&Attempt> = ranked.iter().take(SHOWN).copied().collect();
    shown.extend(ranked.iter().skip(SHOWN).find(|trial| trial.number == 0));
    let mut rows = vec![columns().map(str::to_owned).to_vec()];
    rows.extend(shown.into_iter().map(|trial| row(search, trial)));
    let mut sides = vec![Side::Right; rows[0].len()];
    sides[1] = Side::Left;
    let mut text = format!("\nthe best of {} setups:\n{}", ranked.len(), table(&sides, &rows));
    text += &format!("chosen: trial {}, {}", search.best, search.setup());
    if !search.importance.is_empty() {
        text += &format!("\n\nwhat mattered:\n{}", importance(&search.importance));
        text.truncate(text.trim_end().len());
    }
    text
}

fn columns() -> [&'static str; 13] {
    let [_, optimizer, rate, lowest, decay, smoothing, augment, average] =
        Parameter::ALL.map(Parameter::name);
    let values = [optimizer, rate, lowest, decay, smoothing, augment, average];
    let [a, b, c, d, e, f, g] = values;
    ["trial", "trained from", a, b, c, d, e, f, g, "epochs", "log loss", "accuracy", "time"]
}

fn row(search: &Search, trial: &Attempt) -> Vec<String> {
    let loss = match trial.loss.is_finite() {
        true => format!("{:.3}", trial.loss),
        false => "diverged".into(),
    };
    let chosen = if trial.number == search.best { "* " } else { "" };
    let mut cells = vec![format!("{chosen}{}", trial.number)];
    cells.push(match trial.number {
        0 => "(features)".into(),
        _ => trial.setup.value(Parameter::Depth),
    });
    cells.extend(Parameter::ALL.into_iter().skip(1).map(|p| trial.setup.value(p)));
    cells.push(if trial.epochs > 0 { trial.epochs.to_string() } else { "-".into() });
    cells.extend([loss, percent(trial.top1), duration(trial.seconds)]);
    cells
}

fn importance(found: &[Importance]) -> String {
    let row = |i: &Importance| {
        let by_chance = match i.p_value {
            p if p > 0.05 => format!("p {p:.2}: perhaps chance"),
            p => format!("p {p:.3}"),
        };
        vec![format!("  {}", i.parameter), percent(i.share), by_chance]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    table(&[Side::Left, Side::Right, Side::Left], &rows)
}
