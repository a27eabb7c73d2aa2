//! `refit distill`: a student of any architecture from the models that teach it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::learn::shallow::Learner;
use refit::learn::{Distillation, Distilled, Party, distill_into, has_weights};
use refit::net::zoo;
use refit::{RunContext, Settings, Strategy, learn::Way};

use crate::arguments;
use crate::cli::TEMPLATE;
use crate::commands::train::{
    self, TrainOptions, free_folder, network_to_start_from, settings_to_resume, shell,
    stopped_or_failed, whole, write_report,
};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, megabytes, percent, short, table};
use crate::progress::Progress;

/// Teach a network of another architecture what a model knows
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    override_usage = "refit distill --teacher <MODEL> --student <NAME> [OPTIONS] <DATA>\n       \
                      refit distill --resume <DIR>",
    before_help = "\
Weights do not fit another architecture; knowledge does. The student learns from what the teacher \
says of each image, softened, beside the labels. The teacher is asked once about each view of an \
image, and what it said is kept.

DATA is like that of `refit train`; or a folder of images without class folders, of which the \
teacher tells the classes (give labelled ones with --val DIR, to see how good the student is).

The student is trained a second time without the teacher, to show what the teacher was worth.",
    after_help = "Examples:
  refit distill --teacher big.safetensors --student resnet18 photos/
  refit distill --teacher big.safetensors --student resnet18 photos/ --attention 1
  refit distill --teacher big.safetensors --student googlenet photos/ --unlabelled more/
  refit distill --teacher big.safetensors --student resnet18 unsorted/ --val photos/
  refit distill --teacher a.safetensors --teacher b.safetensors --student alexnet photos/
  refit distill --teacher big.safetensors --student trees photos/
  refit distill --resume refit-runs/photos-distill

Losses, each with a weight, which may be combined:
  --soft        softened outputs (Hinton et al. 2015); 0.9 unless told
  --hard        the labels' cross-entropy, where images have labels; 0.1 unless told
  --decoupled   target and other classes apart (DKD, Zhao et al. 2022); with --soft 0
  --hints       values of layers, by learned adapters (FitNets, Romero et al. 2015)
  --attention   where maps are strong (Zagoruyko and Komodakis 2017)
  --relational  how images lie to each other (Park et al. 2019)

A student with weights at hand is fine-tuned, one without is trained from scratch, unless --strategy \
says otherwise."
)]
#[command(mut_arg("backbone", |arg| arg.help("What gives a student its features that is no network: pixels, colours, hog, handmade, or a network [default: handmade]")))]
#[command(mut_arg("learner", |arg| arg.hide(true)))]
#[command(mut_arg("strategy", |arg| arg.help("How the student is trained [default: fine-tune with weights, else scratch]").hide_default_value(true)))]
pub struct Distill {
    /// Folder of class folders, CSV, or folder of images without labels
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    data: Option<PathBuf>,

    /// Model to learn from: a file that refit wrote, or a network with weights of its own; several times
    /// for several, whose softened outputs are averaged
    #[arg(long, value_name = "MODEL", required_unless_present = "resume")]
    teacher: Vec<PathBuf>,

    /// Network that learns (`refit models` lists them); or `trees`, `forest`, `knn` or `linear`, a
    /// learner over the features of --backbone
    #[arg(long, value_name = "NAME", required_unless_present = "resume")]
    student: Option<String>,

    #[command(flatten)]
    losses: Losses,

    /// Do not train the student a second time without the teacher
    #[arg(long)]
    no_baseline: bool,

    #[command(flatten)]
    options: TrainOptions,

    /// Folder for the result [default: refit-runs/<data>-distill]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,

    /// Go on with a distillation that was stopped
    #[arg(long, value_name = "DIR", conflicts_with_all = ["TrainOptions", "Losses", "teacher", "student"])]
    resume: Option<PathBuf>,

    /// Room on the disk for what teachers say of views, such as 500MB; what does not fit is computed
    /// again in every epoch
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = arguments::bytes)]
    activation_budget: u64,

    /// Write no report.html
    #[arg(long)]
    no_report: bool,

    /// Print the comparison as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What the student's loss is made of.
#[derive(Debug, Args)]
struct Losses {
    /// Images without labels to learn from as well: a folder, or files; several times for several
    #[arg(long, value_name = "PATH", help_heading = LOSSES)]
    unlabelled: Vec<PathBuf>,

    /// Do not use the labels of the training images
    #[arg(long, help_heading = LOSSES)]
    ignore_labels: bool,

    /// What logits are divided by before the softmax [default: 4; 1 for a student that is no network]
    #[arg(long, value_name = "T", help_heading = LOSSES)]
    temperature: Option<f64>,

    /// Weight of softened outputs [default: 0.9]
    #[arg(long, value_name = "W", help_heading = LOSSES)]
    soft: Option<f64>,

    /// Weight of the labels [default: 0.1]
    #[arg(long, value_name = "W", help_heading = LOSSES)]
    hard: Option<f64>,

    /// Weight of the decoupled loss [default: 0]
    #[arg(long, value_name = "W", help_heading = LOSSES)]
    decoupled: Option<f64>,

    /// Weight of hints [default: 0]
    #[arg(long, value_name = "W", help_heading = LOSSES)]
    hints: Option<f64>,

    /// Layers that hints compare, as STUDENT=TEACHER; several times for several [default: the last maps
    /// of a common size, and the features]
    #[arg(long, value_name = "S=T", help_heading = LOSSES, value_parser = layers, requires = "hints")]
    hint_layers: Vec<[String; 2]>,

    /// Weight of attention transfer [default: 0]
    #[arg(long, value_name = "W", help_heading = LOSSES)]
    attention: Option<f64>,

    /// Weight of the relational loss [default: 0]
    #[arg(long, value_name = "W", help_heading = LOSSES)]
    relational: Option<f64>,
}

const LOSSES: &str = "What is learned from the teacher";

fn layers(text: &str) -> Result<[String; 2], String> {
    match text.split_once('=') {
        Some((student, teacher)) if !student.is_empty() && !teacher.is_empty() => {
            Ok([student.to_owned(), teacher.to_owned()])
        }
        _ => Err("two layers are needed, as in layer3=blocks.4".into()),
    }
}

impl Losses {
    fn distillation(&self, teachers: &[PathBuf]) -> Distillation {
        // A network's name is no path.
        let teacher = |path: &PathBuf| match zoo::find(&path.to_string_lossy()) {
            Ok(_) if !path.is_file() => path.clone(),
            _ => whole(path),
        };
        let usual = Distillation::of(teachers.iter().map(teacher).collect());
        Distillation {
            unlabelled: self.unlabelled.iter().map(|path| whole(path)).collect(),
            ignore_labels: self.ignore_labels,
            temperature: self.temperature.unwrap_or(usual.temperature),
            soft: self.soft.unwrap_or(usual.soft),
            hard: self.hard.unwrap_or(usual.hard),
            decoupled: self.decoupled.unwrap_or(usual.decoupled),
            hints: self.hints.unwrap_or(usual.hints),
            attention: self.attention.unwrap_or(usual.attention),
            relational: self.relational.unwrap_or(usual.relational),
            hint_layers: self.hint_layers.clone(),
            ..usual
        }
    }
}

impl Distill {
    /// Trains the student, and says what it is worth.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let progress = Progress::new();
        let data = self.data.clone().unwrap_or_default();
        let free = || self.out.clone().unwrap_or_else(|| free_folder(&data, "distill"));
        let folder = self.resume.clone().unwrap_or_else(free);
        let context = RunContext {
            folder: Some(folder.clone()),
            resume: self.resume.is_some(),
            workers: machine.threads(),
            activation_budget: self.activation_budget,
            ..RunContext::default()
        };
        let settings = match self.resume {
            Some(_) => settings_to_resume(&folder)?,
            None => self.settings(&data)?,
        };
        let done = distill_into(&settings, &context, !self.no_baseline, &progress);
        let (outcome, distilled) = done.map_err(|error| {
            let flag = if self.no_baseline { " --no-baseline" } else { "" };
            let resume = format!("refit distill --resume {}{flag}", shell(&folder));
            let mark = folder.join("settings.toml");
            stopped_or_failed(error, &mark, &resume, "what teachers said is")
        })?;
        train::summarize(&outcome, &folder, &progress);
        progress.say(&comparison(&distilled));
        if !self.no_report {
            write_report(&outcome, &folder, &progress);
        }
        if self.json {
            let json = serde_json::to_string(&distilled).expect("numbers serialize");
            writeln!(io::stdout(), "{json}")?;
        }
        Ok(())
    }

    fn settings(&self, data: &Path) -> Result<Settings, Failure> {
        let learner = self.student.as_deref().and_then(|name| name.parse::<Learner>().ok());
        if let Some(learner) = learner {
            return self.settings_of_learner(data, learner);
        }
        let (options, student) = (&self.options, self.student.as_deref());
        if let Some(backbone) = &options.backbone {
            return Err(Failure::mistake(
                format!("--backbone {backbone} does nothing with a student that is a network"),
                "name the network with --student; or use --student trees, forest, knn or linear",
            ));
        }
        let network = network_to_start_from(student, options.weights.as_deref())?;
        let has_weights =
            || options.weights.is_some() || zoo::find(network.name()).is_ok_and(has_weights);
        let strategy = match options.strategy {
            Way::Named(strategy) => strategy,
            Way::Auto if has_weights() => Strategy::FineTune,
            Way::Auto => Strategy::Scratch,
        };
        let edits = options.check(&network)?;
        let from = options.unfreeze_from.as_deref();
        let mut settings = options.settings(data, (network.name(), &edits), strategy, from);
        settings.distillation = Some(self.losses.distillation(&self.teacher));
        if options.fixed_views.is_none() {
            settings.training.fixed_views = Distillation::views_for(strategy);
        }
        Ok(settings)
    }
}

impl Distill {
    /// The settings of a student that is no network.
    fn settings_of_learner(&self, data: &Path, learner: Learner) -> Result<Settings, Failure> {
        let mut options = self.options.clone();
        (options.strategy, options.learner) = (Way::Named(Strategy::Features), learner);
        let named = options.backbone.as_deref();
        let usual = options.weights.is_none().then_some("handmade");
        let network = network_to_start_from(named.or(usual), options.weights.as_deref())?;
        let edits = options.check(&network)?;
        let mut settings =
            options.settings(data, (network.name(), &edits), Strategy::Features, None);
        // Targets are what the student is to say, not what it is to say softened.
        let mut asked = self.losses.distillation(&self.teacher);
        asked.temperature = self.losses.temperature.unwrap_or(1.0);
        settings.distillation = Some(asked);
        Ok(settings)
    }
}

/// Teachers, student, and the student alone, a line each.
fn comparison(distilled: &Distilled) -> String {
    let header = [
        "",
        "network",
        "accuracy",
        "95% interval",
        "agrees",
        "p",
        "model",
        "multiply-adds",
        "an image",
    ];
    let sides = [Side::Left, Side::Left].into_iter().chain([Side::Right; 7]);
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(distilled.teachers.iter().map(|party| row("teacher", party)));
    rows.push(row("student", &distilled.student));
    rows.extend(distilled.alone.iter().map(|party| row("without a teacher", party)));
    table(&sides.collect::<Vec<_>>(), &rows)
}

fn row(what: &str, party: &Party) -> Vec<String> {
    let dash = || "-".to_owned();
    let metrics = party.metrics.as_ref();
    let interval = |[low, high]: [f64; 2]| format!("{} to {}", percent(low), percent(high));
    vec![
        what.to_owned(),
        party.network.clone(),
        metrics.map_or_else(dash, |m| percent(m.top1)),
        metrics.map_or_else(dash, |m| interval(m.interval95)),
        party.agreement.map_or_else(dash, percent),
        party.p_value.map_or_else(dash, |p| format!("{p:.3}")),
        megabytes(party.model_bytes),
        short(party.multiply_adds),
        format!("{:.1} ms", party.latency),
    ]
}
