//! `refit evaluate`: how well a model does on labelled images.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::{Evaluation, RunOptions};

use crate::arguments::{PrecisionArg, UnknownArg, ViewsArg};
use crate::cli::TEMPLATE;
use crate::commands::train::{abstains, accuracy, calibration, per_class};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::ModelArg;
use crate::output::{count, percent};
use crate::progress::Progress;

/// Judge a model on labelled images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is a folder with a folder of images for each class, or a CSV with the columns path,label. \
Classes are matched by name; all images count, whatever split they are in.

Told are the accuracy, how far the probabilities are from the truth (loss, Brier score, expected \
calibration error in 15 bins), and what comes of not answering for images that are unknown, which \
count as answered everywhere else.",
    after_help = "Examples:
  refit evaluate model.safetensors test-photos/
  refit evaluate model.safetensors test.csv --json
  refit evaluate model.safetensors test-photos/ --precision bf16
  refit evaluate model.safetensors test-photos/ --tta 2"
)]
pub struct Evaluate {
    #[command(flatten)]
    model: ModelArg,

    /// Folder of class folders, or CSV
    data: PathBuf,

    #[command(flatten)]
    unknown: UnknownArg,

    #[command(flatten)]
    precision: PrecisionArg,

    #[command(flatten)]
    views: ViewsArg,

    /// Stop at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,

    /// Print everything, the confusion matrix too, as JSON
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    /// Judges.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let model = self.model.open(&machine.device())?;
        let progress = Progress::new();
        let options = machine.run_options(self.strict, self.precision.precision);
        let options = RunOptions { views: self.views.tta, ..options };
        let share = self.unknown.share(&model, &progress)?;
        let evaluation = model.evaluate_at(&self.data, share, &options, &progress)?;
        for skip in &evaluation.skipped {
            progress.say(&format!("warning: {} is left out: {}", skip.path.display(), skip.reason));
        }
        let text = match self.json {
            true => serde_json::to_string(&evaluation).expect("numbers serialize"),
            false => in_words(&evaluation),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

fn in_words(evaluation: &Evaluation) -> String {
    let metrics = &evaluation.metrics;
    let mut lines = vec![accuracy(metrics, "")];
    if metrics.per_class.len() > 5 {
        lines.push(format!("among the five likeliest: {}", percent(metrics.top5)));
    }
    lines.push(format!("mean F1 {}", percent(metrics.macro_f1)));
    lines.push(calibration(metrics, ""));
    lines.extend(evaluation.unknown.map(|found| abstains(&found, "")));
    lines.extend(per_class(metrics));
    lines.extend(confusions(evaluation));
    lines.join("\n")
}

/// Which class was taken for which, most often first.
fn confusions(evaluation: &Evaluation) -> Option<String> {
    const SHOWN: usize = 5;
    let names: Vec<&str> = evaluation.metrics.per_class.iter().map(|c| c.class.as_str()).collect();
    let rows = evaluation.metrics.confusion.rows();
    let mut wrong: Vec<(u64, usize, usize)> = Vec::new();
    for (truth, row) in rows.iter().enumerate() {
        let others = row.iter().enumerate().filter(|&(taken, &n)| taken != truth && n > 0);
        wrong.extend(others.map(|(taken, &n)| (n, truth, taken)));
    }
    wrong.sort_by_key(|&(n, truth, taken)| (std::cmp::Reverse(n), truth, taken));
    if wrong.is_empty() {
        return None;
    }
    let line = |&(n, truth, taken): &(u64, usize, usize)| {
        format!("  {} taken for {}: {}", names[truth], names[taken], count(n as usize, "image"))
    };
    let lines: Vec<String> = wrong.iter().take(SHOWN).map(line).collect();
    Some(format!("mistaken most often:\n{}", lines.join("\n")))
}
