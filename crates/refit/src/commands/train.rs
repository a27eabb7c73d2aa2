//! `refit train`: from a folder of images to a model.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use refit::learn::metrics::Metrics;
use refit::learn::shallow::Learner;
use refit::learn::unknown::Abstention;
use refit::learn::{
    ClassBalance, FittedOn, FoldsReport, Mirror, Norms, OptimizerKind, ScheduleKind, Select, Way,
    network_of, read_settings,
};
use refit::net::{Graph, Precision, zoo};
use refit::{Edit, HeadKind, LearnError, Outcome, Report, RunContext, Settings, Strategy};

use crate::arguments;
use crate::augmentation::{self, Augmentation};
use crate::cli::TEMPLATE;
use crate::commands::report;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, count, duration, percent, percent_or_dash, table};
use crate::progress::Progress;
use crate::recipe::{self, Step};

/// Train a model on your own images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    override_usage = "refit train [OPTIONS] <DATA>\n       refit train --resume <DIR>",
    before_help = "\
DATA is a folder with a folder of images for each class (photos/cat/1.jpg), with or without \
train/, val/ and test/ above them; or a CSV with the columns path,label and perhaps split. \
Without a validation set, a fifth of the images is kept apart as one.

The result is a folder with the model, its numbers (metrics.json), a report to read \
(report.html), what it made of each image (predictions.csv), the settings, a log and checkpoints.",
    after_help = "Examples:
  refit train photos/
  refit train photos/ --strategy fine-tune --epochs 5 --time-budget 30m
  refit train photos/ --val more-photos/ --views 4 --out runs/first
  refit train photos/ --strategy partial --unfreeze-from blocks.5
  refit train photos/ --folds 5
  refit train photos/ --weights resnet18.pth
  refit train more-photos/ --weights runs/first/model.safetensors --keep-classes
  refit train photos/ --recipe edits.toml --strategy fine-tune
  refit train photos/ --precision bf16
  refit train photos/ --backbone handmade --learner trees
  refit train photos/ --learner forest
  refit train photos/ --strategy fine-tune --lr auto --balance logits
  refit train --resume runs/first

Strategies:
  auto             what advice and short trials speak for; never below features; `features` itself
                   where nothing else can be: with a --learner or a --backbone that is no network
  features         all frozen but a new head; quick, and hard to beat
  partial          the layers from --unfreeze-from up are trained as well
  fine-tune        the head first, then all layers at low rates
  pretrained-init  all layers trained at full rates, from the given weights on
  scratch          all layers trained from random weights, as the control
  as-is            nothing trained; classes must be named as the network's own

What --precision bf16 covers; what is trained computes in f32 in any case:
  features         the features, so all that takes long
  partial          layers below --unfreeze-from; features the head starts from
  fine-tune        features the head starts from, no more
  as-is            the whole network
  auto             what the strategy that it chooses says
  pretrained-init  nothing, so it is refused; scratch likewise

A run that was stopped goes on with `refit train --resume DIR` and ends as if it had not been; \
advice and trials are done again when they were stopped."
)]
pub struct Train {
    /// Folder of class folders, or CSV
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    data: Option<PathBuf>,

    #[command(flatten)]
    options: TrainOptions,

    /// Folder for the result [default: refit-runs/<data>-<strategy>]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,

    /// Go on with a run that was stopped, with the settings that it began with
    #[arg(long, value_name = "DIR", conflicts_with = "TrainOptions")]
    resume: Option<PathBuf>,

    /// Room on the disk for what frozen layers make of fixed views, such as 500MB; what does not fit is
    /// computed again in every epoch, with the same result
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = arguments::bytes)]
    activation_budget: u64,

    /// Write no report.html
    #[arg(long)]
    no_report: bool,

    /// Print the report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What decides the result; `--resume` takes it from the folder.
#[derive(Debug, Clone, Args)]
pub struct TrainOptions {
    /// Validation images: a folder or CSV like DATA
    #[arg(long, value_name = "DIR", conflicts_with = "val_fraction")]
    val: Option<PathBuf>,

    /// Share of the images kept apart for validation [default: 0.2]
    #[arg(long, value_name = "F")]
    val_fraction: Option<f64>,

    /// Judge by cross-validation: divide training and validation images into K parts, hold each out once
    /// from a model of its own, then train one on all
    #[arg(long, value_name = "K")]
    folds: Option<usize>,

    /// Times that the images are divided into folds, anew each time [default: 1]
    #[arg(long, value_name = "R", requires = "folds")]
    repeats: Option<usize>,

    /// Network to start from; `refit models` lists them [default: the one whose weights are given,
    /// else efficientnet_lite0]
    #[arg(long, value_name = "NAME")]
    pub backbone: Option<String>,

    /// Its weights: .safetensors (or the index of several), PyTorch's .pth, or a model that refit
    /// made, edited ones too [default: the embedded ones]
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,

    /// Edits of the network before training, as for `refit edit`; what they freeze stays frozen
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// How the network is used, see below
    #[arg(long, value_name = "S", default_value = "auto", value_parser = strategy(),
          hide_possible_values = true)]
    pub strategy: Way,

    /// First layer or block that `partial` trains; `refit layers` lists them
    #[arg(long, value_name = "LAYER")]
    pub unfreeze_from: Option<String>,

    /// Type of the numbers in frozen layers, see below: f32, or bf16 on a CPU with AMX or
    /// AVX512-BF16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = arguments::precision)]
    precision: Precision,

    /// What classifies: `linear`, or `mlp:H` with a hidden layer of H units
    #[arg(long, value_name = "KIND", default_value = "linear", value_parser = arguments::head)]
    head: HeadKind,

    /// What learns from features: linear (logistic regression), trees (gradient boosting), forest, or
    /// knn (the nearest neighbours); with strategy `features`, which is the default then
    #[arg(long, value_name = "WHAT", default_value = "linear", hide_possible_values = true,
          value_parser = by_name::<Learner>(&Learner::ALL.map(Learner::name)))]
    pub learner: Learner,

    /// Keep the rows of a linear head for classes that are named as before, and train the head from
    /// there by steps instead of solving for it
    #[arg(long)]
    keep_classes: bool,

    /// Views of each image that `features` learns from: plain, mirrored, then augmented ones
    /// [default: 2]
    #[arg(long, value_name = "N")]
    views: Option<usize>,

    /// Whether images are mirrored left and right in training: unless that turns one class into
    /// another (auto), always, or never
    #[arg(long, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    mirror: Mirroring,

    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Stop at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,

    /// What counts alike: every image, or every class: by weights in the loss (classes), by showing
    /// rare ones more often (sampling), or by taking the classes' shares out of what is learned (logits)
    #[arg(long, value_name = "WHAT", default_value = "images")]
    balance: Balance,

    /// Begin no epoch that would end later than this: 90s, 10m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    time_budget: Option<f64>,

    /// Times that every image is seen
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    epochs: Option<usize>,

    /// Images a step; `auto` goes by how many images and how much memory there are
    #[arg(long, value_name = "N|auto", help_heading = TRAINING)]
    batch: Option<OrAuto<usize>>,

    /// Highest learning rate; `auto` looks for it before training, on a copy of the network
    #[arg(long, value_name = "X|auto", help_heading = TRAINING)]
    lr: Option<OrAuto<f64>>,

    /// Rate at the first layer that is trained, as a share of the last one's; even factors between
    #[arg(long, value_name = "SHARE", help_heading = TRAINING)]
    lowest_rate: Option<f64>,

    /// Update rule
    #[arg(long, value_name = "RULE", help_heading = TRAINING)]
    optimizer: Option<Rule>,

    /// Decay of weights; norms and biases never decay
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    weight_decay: Option<f64>,

    /// Label smoothing, from 0 to below 1
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    label_smoothing: Option<f64>,

    /// Focal loss: how much less images count the surer the network is of them, such as 2; 0 for none
    #[arg(long, value_name = "GAMMA", help_heading = TRAINING)]
    focal: Option<f64>,

    /// Share of values that the network's dropouts zero
    #[arg(long, value_name = "SHARE", help_heading = TRAINING, value_parser = arguments::share)]
    dropout: Option<f32>,

    /// Share of images for which the last block is left out, where the network does so (stochastic
    /// depth); the blocks before it proportionally less
    #[arg(long, value_name = "SHARE", help_heading = TRAINING, value_parser = arguments::share)]
    drop_path: Option<f32>,

    /// Share of the steps in which the rate rises, from 0 to below 1
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    warmup: Option<f64>,

    /// Largest norm of a step's gradient
    #[arg(long, value_name = "X", help_heading = TRAINING)]
    clip: Option<f64>,

    /// Course of the learning rate: cosine, one-cycle (which moves momentum against it), constant
    #[arg(long, value_name = "KIND", help_heading = TRAINING)]
    schedule: Option<Course>,

    /// Train the uppermost quarter of the layers first, and one quarter more every N epochs
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    thaw_every: Option<usize>,

    /// What the best epoch is the best by, on the validation images: loss, top1, balanced (accuracy),
    /// f1 (mean of the classes), auc
    #[arg(long, value_name = "BY", help_heading = TRAINING, value_parser = by_name::<Select>(&Select::ALL.map(Select::name)))]
    select: Option<Select>,

    /// Judge and keep an average of the weights that keeps this share of itself at a step, such as
    /// 0.99; 0 for none
    #[arg(long, value_name = "SHARE", help_heading = TRAINING)]
    ema: Option<f64>,

    /// Let the mean of this many best epochs' weights compete with the best
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    average_best: Option<usize>,

    /// Epochs without a better one after which to end; 0 never ends early
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    patience: Option<usize>,

    /// How training images are varied: auto, none, light, medium, strong, or a TOML file of single
    /// settings; `refit augment` shows it
    #[arg(long, value_name = "LEVEL", help_heading = TRAINING, value_parser = augmentation::parse)]
    augment: Option<Augmentation>,

    /// Views of each image that epochs learn from in turn, so that frozen layers need to run once a
    /// view only; 0 draws a new view every time
    #[arg(long, value_name = "N", help_heading = TRAINING)]
    pub fixed_views: Option<usize>,

    /// Statistics in batch norms of trained layers: as stored, or the batch's own
    #[arg(long, value_name = "WHICH", help_heading = TRAINING)]
    norms: Option<NormsChoice>,
}

const TRAINING: &str = "Training by steps (defaults depend on the strategy)";

fn strategy() -> impl TypedValueParser<Value = Way> {
    let names = ["auto"].into_iter().chain(Strategy::ALL.map(Strategy::name));
    PossibleValuesParser::new(names)
        .map(|name| name.parse::<Strategy>().map_or(Way::Auto, Way::Named))
}

/// One of some names, which stand for values.
fn by_name<T: FromStr<Err = String> + Clone + Send + Sync + 'static>(
    names: &[&'static str],
) -> impl TypedValueParser<Value = T> + use<T> {
    PossibleValuesParser::new(names.to_vec()).try_map(|name| name.parse::<T>())
}

/// A number, or the one that the run finds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum OrAuto<T> {
    Auto,
    Given(T),
}

impl<T: FromStr> FromStr for OrAuto<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Given).map_err(|error| format!("{error}; or say `auto`")),
        }
    }
}

impl<T> OrAuto<T> {
    /// Puts a number in its place; tells whether it is to be found instead.
    fn put(this: Option<Self>, place: &mut T) -> bool {
        match this {
            Some(Self::Given(value)) => *place = value,
            Some(Self::Auto) => return true,
            None => {}
        }
        false
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Balance {
    Images,
    Classes,
    Sampling,
    Logits,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Course {
    Cosine,
    OneCycle,
    Constant,
}

impl From<Course> for ScheduleKind {
    fn from(course: Course) -> Self {
        match course {
            Course::Cosine => Self::Cosine,
            Course::OneCycle => Self::OneCycle,
            Course::Constant => Self::Constant,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    Adamw,
    Sgd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mirroring {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NormsChoice {
    Stored,
    Batch,
}

impl TrainOptions {
    /// The settings of a run by `strategy`, with the edits that [`check`](Self::check) gave.
    pub fn settings(
        &self,
        data: &Path,
        (backbone, edits): (&str, &[Edit]),
        strategy: Strategy,
        unfreeze_from: Option<&str>,
    ) -> Settings {
        let mut settings = Settings {
            val: self.val.as_deref().map(whole),
            val_fraction: self.val_fraction,
            folds: self.folds,
            repeats: self.repeats.unwrap_or(1),
            weights: self.weights.as_deref().map(whole),
            edits: edits.to_vec(),
            unfreeze_from: unfreeze_from.map(str::to_owned),
            backbone: backbone.to_owned(),
            precision: self.precision,
            head: self.head,
            learner: self.learner,
            keep_classes: self.keep_classes,
            views: self.views.unwrap_or(2),
            mirror: match self.mirror {
                Mirroring::Auto => Mirror::Auto,
                Mirroring::Always => Mirror::Always,
                Mirroring::Never => Mirror::Never,
            },
            seed: self.seed,
            strict: self.strict,
            balance: match self.balance {
                Balance::Images => ClassBalance::Images,
                Balance::Classes => ClassBalance::Classes,
                Balance::Sampling => ClassBalance::Sampling,
                Balance::Logits => ClassBalance::Logits,
            },
            time_budget: self.time_budget,
            ..Settings::new(whole(data), strategy)
        };
        let training = &mut settings.training;
        put(&mut training.epochs, self.epochs);
        // Of the strategies that `auto` tries, one has nothing to find.
        let steps = self.trains_by_steps(Way::Named(strategy));
        training.find_batch = OrAuto::put(self.batch, &mut training.batch) && steps;
        training.find_learning_rate = OrAuto::put(self.lr, &mut training.learning_rate) && steps;
        put(&mut training.lowest_rate, self.lowest_rate);
        put(&mut training.focal, self.focal);
        put(&mut training.weight_decay, self.weight_decay);
        put(&mut training.smoothing, self.label_smoothing);
        put(&mut training.warmup, self.warmup);
        put(&mut training.clip, self.clip);
        put(&mut training.patience, self.patience);
        put(&mut training.select, self.select);
        put(&mut training.thaw_every, self.thaw_every);
        if let Some(course) = self.schedule {
            training.schedule = course.into();
        }
        put(&mut training.average, self.ema);
        put(&mut training.average_best, self.average_best);
        put(&mut training.fixed_views, self.fixed_views);
        put(
            &mut training.optimizer,
            self.optimizer.map(|rule| match rule {
                Rule::Adamw => OptimizerKind::AdamW,
                Rule::Sgd => OptimizerKind::Sgd,
            }),
        );
        training.augment = self.augment.and_then(|Augmentation(augment)| augment);
        put(
            &mut training.norms,
            self.norms.map(|which| match which {
                NormsChoice::Stored => Norms::Stored,
                NormsChoice::Batch => Norms::Batch,
            }),
        );
        // What is new every time cannot be kept.
        let new = training.thaw_every > 0 || training.augment().mix.is_some();
        if new && self.fixed_views.is_none() {
            training.fixed_views = 0;
        }
        settings
    }

    /// The same with `features` for `auto` where there is nothing else to choose: no other strategy
    /// has such a learner, or trains below such features.
    fn with_only_way(&self, graph: &Graph) -> Self {
        let only = !self.learner.is_linear() || graph.opaque_body().is_some();
        let strategy = match self.strategy {
            Way::Auto if only => Way::Named(Strategy::Features),
            way => way,
        };
        Self { strategy, ..self.clone() }
    }

    /// Refuses what would do nothing, and edits that do not fit.
    pub fn check(&self, graph: &Graph) -> Result<Vec<Edit>, Failure> {
        let idle = |flag: &str, with: &str| {
            Err(Failure::mistake(
                format!("{flag} does nothing with --strategy {}", self.strategy),
                format!("leave it out, or use --strategy {with}"),
            ))
        };
        if self.unfreeze_from.is_some() && self.strategy != Way::Named(Strategy::Partial) {
            return idle("--unfreeze-from", "partial");
        }
        if self.recipe.is_some() && self.strategy == Way::Named(Strategy::AsIs) {
            return idle("--recipe", "features");
        }
        if self.lr == Some(OrAuto::Auto) && !self.trains_by_steps(self.strategy) {
            return idle("--lr auto", "partial or fine-tune, which train by steps");
        }
        let trains_body = match self.strategy {
            Way::Auto => true,
            Way::Named(strategy) => strategy.trains_body(),
        };
        for (flag, given) in [("--dropout", self.dropout), ("--drop-path", self.drop_path)] {
            if given.is_some() && !trains_body {
                return idle(flag, "partial or fine-tune");
            }
        }
        let mut steps = self.recipe.as_deref().map_or(Ok(Vec::new()), recipe::read)?;
        steps.extend(self.left_out());
        let edits = recipe::check(&steps, graph)?;
        let named = || format!("`refit layers {}` lists all", graph.name());
        match (self.strategy, &self.unfreeze_from) {
            (Way::Named(Strategy::Partial), Some(layer)) => {
                graph.edit(&edits)?.find_first(layer)?;
            }
            (Way::Named(Strategy::Partial), None) => {
                return Err(Failure::mistake(
                    "--strategy partial needs to be told the first layer that it trains",
                    format!("name one with --unfreeze-from LAYER; {}", named()),
                ));
            }
            _ => {}
        }
        let solves = matches!(self.strategy, Way::Auto | Way::Named(Strategy::Features));
        if self.views.is_some() && !solves {
            return idle("--views", "features");
        }
        if self.weights.is_some() && self.strategy == Way::Named(Strategy::Scratch) {
            return idle("--weights", "pretrained-init");
        }
        Ok(edits)
    }

    /// The edits that `--dropout` and `--drop-path` stand for.
    fn left_out(&self) -> impl Iterator<Item = Step> {
        let all = || "*".to_owned();
        let dropout = self.dropout.map(|to| Edit::ChangeDropout { to, layers: all() });
        let path = self.drop_path.map(|to| Edit::ChangeStochasticDepth { to, layers: all() });
        let step =
            |(edit, place): (Option<Edit>, &str)| Some(Step { edit: edit?, place: place.into() });
        [(dropout, "--dropout"), (path, "--drop-path")].into_iter().filter_map(step)
    }

    /// Whether a strategy trains something by steps of its own.
    fn trains_by_steps(&self, way: Way) -> bool {
        match way {
            Way::Named(Strategy::AsIs) => false,
            Way::Named(Strategy::Features) => self.head != HeadKind::Linear || self.keep_classes,
            _ => true,
        }
    }

    /// The flags about steps that were given, though no step will be made.
    fn idle_step_flags(&self) -> Vec<&'static str> {
        let of_bodies = [
            ("--augment", self.augment.is_some()),
            ("--fixed-views", self.fixed_views.is_some()),
            ("--thaw-every", self.thaw_every.is_some()),
            ("--norms", self.norms.is_some()),
        ];
        let given = |flags: &[(&'static str, bool)]| {
            flags.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect::<Vec<_>>()
        };
        match (self.trains_by_steps(self.strategy), self.strategy) {
            (true, Way::Named(Strategy::Features)) => return given(&of_bodies),
            (true, _) => return Vec::new(),
            (false, _) => {}
        }
        let others = [
            ("--epochs", self.epochs.is_some()),
            ("--batch", self.batch.is_some()),
            // A rate that is to be found is refused.
            ("--lr", matches!(self.lr, Some(OrAuto::Given(_)))),
            ("--lowest-rate", self.lowest_rate.is_some()),
            ("--focal", self.focal.is_some()),
            ("--optimizer", self.optimizer.is_some()),
            ("--weight-decay", self.weight_decay.is_some()),
            ("--label-smoothing", self.label_smoothing.is_some()),
            ("--warmup", self.warmup.is_some()),
            ("--clip", self.clip.is_some()),
            ("--patience", self.patience.is_some()),
            ("--schedule", self.schedule.is_some()),
            ("--select", self.select.is_some()),
            ("--ema", self.ema.is_some()),
            ("--average-best", self.average_best.is_some()),
            ("--time-budget", self.time_budget.is_some()),
        ];
        [given(&others), given(&of_bodies)].concat()
    }
}

/// A path that holds elsewhere too: a run may be resumed from there.
pub fn whole(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl Train {
    /// Trains, or goes on training.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let progress = Progress::new();
        let resume = self.resume.is_some();
        let data = self.data.unwrap_or_default();
        let free =
            || self.out.unwrap_or_else(|| free_folder(&data, &self.options.strategy.to_string()));
        let folder = self.resume.clone().unwrap_or_else(free);
        let context = RunContext {
            folder: Some(folder.clone()),
            resume,
            workers: machine.threads(),
            activation_budget: self.activation_budget,
            ..RunContext::default()
        };
        let outcome = match self.resume {
            Some(_) => refit::train(&settings_to_resume(&folder)?, &context, &progress),
            None => begin(&self.options, &data, &context, &progress)?,
        };
        let outcome = outcome.map_err(|error| {
            let resume = format!("refit train --resume {}", shell(&folder));
            stopped_or_failed(error, &folder.join("settings.toml"), &resume, "features are")
        })?;
        summarize(&outcome, &folder, &progress);
        if !self.no_report {
            write_report(&outcome, &folder, &progress);
        }
        if self.json {
            let json = serde_json::to_string(&outcome.report).expect("numbers serialize");
            writeln!(io::stdout(), "{json}")?;
        }
        Ok(())
    }
}

/// The run is done and safe: a report that cannot be made does not undo it.
pub fn write_report(outcome: &Outcome, folder: &Path, progress: &Progress) {
    match report::of_outcome(folder, &outcome.model) {
        Ok(file) => progress.say(&format!("report: {}", file.display())),
        Err(failure) => progress.say(&format!("warning: no report: {failure}")),
    }
}

/// A new run; the outer failure is one of the command line.
fn begin(
    options: &TrainOptions,
    data: &Path,
    context: &RunContext,
    progress: &Progress,
) -> Result<Result<Outcome, LearnError>, Failure> {
    let network = network_to_start_from(options.backbone.as_deref(), options.weights.as_deref())?;
    let options = &options.with_only_way(&network);
    warn_of_idle_flags(options, progress);
    let edits = options.check(&network)?;
    let settings = |strategy, unfreeze_from: Option<&str>| {
        options.settings(data, (network.name(), &edits), strategy, unfreeze_from)
    };
    Ok(match options.strategy {
        Way::Named(strategy) => {
            let settings = settings(strategy, options.unfreeze_from.as_deref());
            refit::train(&settings, context, progress)
        }
        Way::Auto => refit::auto(&settings, context, progress).map(|(_, outcome)| outcome),
    })
}

/// The settings that a run began with, if it can go on here.
pub fn settings_to_resume(folder: &Path) -> Result<Settings, Failure> {
    let settings = read_settings(folder)?;
    check_precision(&settings, folder)?;
    Ok(settings)
}

/// Refuses to go on where the precision that a folder's run began with is not to be had.
pub fn check_precision(settings: &Settings, folder: &Path) -> Result<(), Failure> {
    settings.precision.check().map_err(|error| {
        Failure::mistake(
            format!("`{}` began in {}: {error}", folder.display(), settings.precision),
            "go on with it on a CPU that has one, or begin a new run with --precision f32",
        )
    })
}

fn warn_of_idle_flags(options: &TrainOptions, progress: &Progress) {
    let flags = options.idle_step_flags();
    if flags.is_empty() {
        return;
    }
    let (flags, verb) = (flags.join(", "), if flags.len() == 1 { "does" } else { "do" });
    let why = match options.strategy {
        Way::Named(Strategy::AsIs) => "nothing is trained".to_owned(),
        _ if options.head != HeadKind::Linear || options.keep_classes => {
            "a head learns from features, by steps of its own".to_owned()
        }
        _ => "a linear head is solved for, not trained by steps".to_owned(),
    };
    progress.say(&format!("warning: {flags} {verb} nothing here: {why}"));
}

/// `refit-runs/<data>-<strategy>`, with a number where that is taken.
pub fn free_folder(data: &Path, strategy: &str) -> PathBuf {
    let whole = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let name = whole.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = if name.is_empty() { "data".to_owned() } else { name };
    let first = Path::new("refit-runs").join(format!("{name}-{strategy}"));
    let numbered = |n: usize| Path::new("refit-runs").join(format!("{name}-{strategy}-{n}"));
    let others = (2..).map(numbered);
    std::iter::once(first).chain(others).find(|path| !path.exists()).expect("numbers go on")
}

/// What failed, or how to go on with what was stopped: by the command `resume` once the file `mark` is
/// there, before that anew, with what is `kept`.
pub fn stopped_or_failed(error: LearnError, mark: &Path, resume: &str, kept: &str) -> Failure {
    match error {
        LearnError::Stopped if mark.exists() => {
            Failure::Interrupted(Some(format!("continue with `{resume}`")))
        }
        LearnError::Stopped => Failure::Interrupted(Some(format!(
            "nothing is written yet; run the same command again: {kept} kept"
        ))),
        error => error.into(),
    }
}

/// A path as a shell takes it.
pub fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

pub fn summarize(outcome: &Outcome, folder: &Path, progress: &Progress) {
    let report = &outcome.report;
    progress.say(&headline(report));
    if let Some(folds) = &report.folds {
        of_folds(folds).iter().for_each(|line| progress.say(line));
    }
    for (metrics, what) in [(&report.val, "validation"), (&report.test, "test")] {
        if let Some(metrics) = metrics {
            progress.say(&accuracy(metrics, what));
        }
    }
    for line in trust(report) {
        progress.say(&line);
    }
    let chosen_by = report.folds.as_ref().map(|folds| &folds.metrics).or(report.val.as_ref());
    match chosen_by {
        Some(metrics) => per_class(metrics).iter().for_each(|text| progress.say(text)),
        None => progress.say(
            "no validation images, so nothing says how good it is: give some with --val DIR, or \
             let some be kept apart with --val-fraction F",
        ),
    }
    if !report.skipped.is_empty() {
        let n = count(report.skipped.len(), "unreadable image");
        progress.say(&format!("{n} left out, named above and in metrics.json"));
    }
    let model = folder.join("model.safetensors");
    progress.say(&format!("model: {}", model.display()));
    progress.say(&format!("use it: refit predict {} IMAGE...", shell(&model)));
}

fn headline(report: &Report) -> String {
    let seconds = &report.seconds;
    let features = match seconds.features {
        0.0 => String::new(),
        s => format!(" (features {})", duration(s)),
    };
    format!(
        "\n{} on {}: {} images, {} classes, {}{features}",
        report.strategy,
        report.backbone,
        report.images,
        report.classes.len(),
        duration(seconds.total),
    )
}

/// `accuracy on 153 validation images: 95.4% (95% interval: 90.9% to 97.8%)`.
pub fn accuracy(metrics: &Metrics, what: &str) -> String {
    let [low, high] = metrics.interval95.map(percent);
    let what = if what.is_empty() { String::new() } else { format!("{what} ") };
    let images = count(metrics.samples as usize, &format!("{what}image"));
    format!("accuracy on {images}: {} (95% interval: {low} to {high})", percent(metrics.top1))
}

/// `accuracy on 153 images, each held out once in 5 folds: ...`, and how the folds differ.
fn of_folds(report: &FoldsReport) -> [String; 2] {
    let [low, high] = report.interval95.map(percent);
    let times = match report.repeats {
        1 => "once".to_owned(),
        repeats => format!("{repeats} times"),
    };
    let found = report.each.iter().map(|fold| fold.top1);
    let (least, most) = (found.clone().fold(1.0, f64::min), found.fold(0.0, f64::max));
    [
        format!(
            "accuracy on {} images, each held out {times} in {} folds: {} (95% interval: {low} to \
             {high})",
            report.metrics.samples,
            report.folds,
            percent(report.top1)
        ),
        format!(
            "by fold: {} to {}, mean {}, standard deviation {:.1} points",
            percent(least),
            percent(most),
            percent(report.mean),
            100.0 * report.deviation
        ),
    ]
}

/// What is known of the probabilities and of images of another kind: on test images where there are any.
fn trust(report: &Report) -> Vec<String> {
    let test = report.test.as_ref().map(|metrics| (metrics, "test"));
    let folds = report.folds.as_ref().map(|folds| (&folds.metrics, "held-out"));
    let val = report.val.as_ref().map(|metrics| (metrics, "validation"));
    let mut lines = Vec::new();
    let calibrated = report.calibration.fitted_on != FittedOn::Nothing;
    if let Some((metrics, what)) = test.or(folds).or(val).filter(|_| calibrated) {
        lines.push(calibration(metrics, what));
    }
    if let Some(unknown) = &report.unknown {
        let test = unknown.test.map(|found| (found, "test"));
        let what = if report.folds.is_some() { "held-out" } else { "validation" };
        let found = test.or(unknown.val.map(|found| (found, what)));
        lines.extend(found.map(|(found, what)| abstains(&found, what)));
    }
    lines
}

/// `calibration error on validation images: 3.3% (before 3.6%), Brier score 0.074 (0.078), log loss 0.124
/// (0.125)`.
pub fn calibration(metrics: &Metrics, what: &str) -> String {
    let on = if what.is_empty() { String::new() } else { format!(" on {what} images") };
    let (ece, brier, loss) = (percent(metrics.reliability.ece), metrics.brier, metrics.loss);
    match &metrics.uncalibrated {
        None => format!("calibration error{on}: {ece}, Brier score {brier:.3}, log loss {loss:.3}"),
        Some(before) => format!(
            "calibration error{on}: {ece} (before {}), Brier score {brier:.3} ({:.3}), log loss \
             {loss:.3} ({:.3})",
            percent(before.reliability.ece),
            before.brier,
            before.loss,
        ),
    }
}

/// `unknown: 4.6% of the validation images; of the others 95.9% right`.
pub fn abstains(found: &Abstention, what: &str) -> String {
    let what = if what.is_empty() { String::new() } else { format!("{what} ") };
    let others = found.accuracy.map_or_else(String::new, |accuracy| {
        format!("; of the others, {} are right", percent(accuracy))
    });
    format!("unknown: {} of the {what}images{others}", percent(found.unknown))
}

/// A table of the classes; of the worst only, where they are many.
pub fn per_class(metrics: &Metrics) -> Option<String> {
    const SHOWN: usize = 20;
    let mut classes: Vec<_> = metrics.per_class.iter().filter(|c| c.support > 0).collect();
    let all = classes.len() <= SHOWN;
    if !all {
        let recall = |c: &refit::learn::metrics::ClassMetrics| c.recall.unwrap_or(1.0);
        classes.sort_by(|a, b| recall(a).total_cmp(&recall(b)));
        classes.truncate(SHOWN);
    }
    if classes.is_empty() {
        return None;
    }
    let header = ["class", "images", "recall", "precision"].map(str::to_owned).to_vec();
    let row = |c: &&refit::learn::metrics::ClassMetrics| {
        vec![
            format!("  {}", c.class),
            c.support.to_string(),
            percent_or_dash(c.recall),
            percent_or_dash(c.precision),
        ]
    };
    let mut rows = vec![header];
    rows[0][0].insert_str(0, "  ");
    rows.extend(classes.iter().map(row));
    let text = table(&[Side::Left, Side::Right, Side::Right, Side::Right], &rows);
    let text = text.trim_end_matches('\n').to_owned();
    Some(if all { text } else { format!("the {SHOWN} classes recognized worst:\n{text}") })
}

/// The network to start from, by its name or its weights.
pub fn network_to_start_from(
    backbone: Option<&str>,
    weights: Option<&Path>,
) -> Result<Graph, Failure> {
    Ok(match (backbone, weights) {
        (Some(name), _) => zoo::find(name)?.graph(),
        (None, Some(weights)) => network_of(weights)?,
        (None, None) => zoo::find("efficientnet_lite0")?.graph(),
    })
}
