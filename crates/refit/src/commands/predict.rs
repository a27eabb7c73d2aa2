//! `refit predict`: which classes images belong to.

mod anomaly;

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::data::{DataError, Sample, Skipped, list_images};
use refit::{LearnError, Model, Prediction, RunOptions};
use serde::Serialize;

use crate::arguments::{self, Format, PrecisionArg, UnknownArg, ViewsArg};
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::ModelArg;
use crate::output::{colours_on_stdout, percent};
use crate::progress::Progress;

/// Classify images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    after_help = "Examples:
  refit predict model.safetensors new.jpg
  refit predict efficientnet_lite0 holiday/ --top 5
  refit predict model.safetensors new/ --format csv > classes.csv
  refit predict model.safetensors new/ --precision bf16
  refit predict model.safetensors new/ --unknown 0.01
  refit predict model.safetensors new/ --tta 2
  refit predict --anomaly autoencoder.safetensors new/
  find . -name '*.jpg' | refit predict model.safetensors - --format jsonl

Formats:
  table   a line an image, the likeliest class first
  csv     path,rank,class,index,probability,unknown,score: a line for each
          image and class
  jsonl   a line an image: {\"path\": ..., \"unknown\": ..., \"score\": ...,
          \"predictions\": [...]}, each of these
          {\"class\": ..., \"index\": ..., \"probability\": ...}

An image is unknown if it is farther from the images of training than nearly all of their kind; \
score is how far, about 1 for an image like those. What it would be taken for is printed all the \
same. Where a model does not tell, csv leaves both empty and jsonl leaves them out.

With --anomaly, a model that `refit autoencode` made says how badly it makes each image again: \
score is the error, and an image is anomalous if that is above the threshold, which of images like \
those of training 1 in 20 exceeds, or the share that --unknown gives. csv then has the columns \
path,score,threshold,anomalous, and so have the lines of jsonl.

An unreadable image is named on stderr and left out."
)]
pub struct Predict {
    #[command(flatten)]
    model: ModelArg,

    /// Images, folders of them, or - for a list on stdin, a path a line
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Classes to print for each image
    #[arg(long, value_name = "K", default_value_t = 3,
          value_parser = arguments::at_least_one)]
    top: usize,

    /// Tell images unlike those that an autoencoder learned from, by the error of their reconstruction
    #[arg(long, conflicts_with_all = ["top", "tta"])]
    anomaly: bool,

    /// How to print [default: table on a terminal, jsonl elsewhere]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    #[command(flatten)]
    unknown: UnknownArg,

    #[command(flatten)]
    precision: PrecisionArg,

    #[command(flatten)]
    views: ViewsArg,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    predictions: Vec<Likely<'a>>,
}

#[derive(Serialize)]
struct Likely<'a> {
    class: &'a str,
    index: usize,
    probability: f32,
}

impl Predict {
    /// Classifies, printing as it goes.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let model = self.model.open(&machine.device())?;
        let options = machine.run_options(self.strict, self.precision.precision);
        if self.anomaly {
            let share = self.unknown.asked();
            return anomaly::tell(&model, &samples(&self.paths)?, self.format, share, &options);
        }
        model.check_classes()?;
        model.views(self.views.tta)?;
        let samples = samples(&self.paths)?;
        let progress = Progress::beside_output();
        let share = self.unknown.share(&model, &progress)?;
        let printer = Printer::new(&model, &samples, self.top, self.format, share.is_some());
        printer.header()?;
        let options = RunOptions { views: self.views.tta, ..options };
        let mut broken = None;
        let done = progress.stage("predict", samples.len(), || {
            model.predict_all(&samples, share, &options, &progress, &mut |index, prediction| {
                if let Err(error) = printer.print(&samples[index].path, &prediction) {
                    broken.get_or_insert(error);
                    progress.end();
                }
            })
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        name_skipped(&done?, samples.len(), &progress)
    }
}

/// The images that paths mean, `-` being a list of paths on stdin.
pub fn samples(paths: &[PathBuf]) -> Result<Vec<Sample>, Failure> {
    let mut images = Vec::new();
    for path in paths {
        match path.as_os_str() == "-" {
            true => images.extend(listed_on_stdin()?),
            false => images.extend(list_images(std::slice::from_ref(path))?),
        }
    }
    if images.is_empty() {
        return Err(Failure::mistake(
            "there are no images to work on: the list on stdin is empty",
            "write a path a line, as `find photos -name '*.jpg'` does",
        ));
    }
    Ok(images.into_iter().map(|path| Sample { path, label: 0 }).collect())
}

/// One missing file in a long list is left out later like any unreadable image.
fn listed_on_stdin() -> Result<Vec<PathBuf>, Failure> {
    let mut images = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| {
            Failure::mistake(
                format!("cannot read the list on stdin: {error}"),
                "write a path a line, in UTF-8",
            )
        })?;
        let path = PathBuf::from(line.trim_end_matches('\r'));
        match path {
            path if path.as_os_str().is_empty() => {}
            path if path.is_dir() => images.extend(list_images(&[path])?),
            path => images.push(path),
        }
    }
    Ok(images)
}

/// Names what was left out; fails if that is all there was.
pub fn name_skipped(
    skipped: &[Skipped],
    images: usize,
    progress: &Progress,
) -> Result<(), Failure> {
    if let ([only], 1) = (skipped, images) {
        let message = format!("`{}` cannot be used: {}", only.path.display(), only.reason);
        return Err(Failure::mistake(message, only.hint.clone().unwrap_or_default()));
    }
    for skip in skipped {
        progress.say(&format!("warning: {} is left out: {}", skip.path.display(), skip.reason));
    }
    match skipped.first() {
        Some(first) if skipped.len() == images => {
            let (path, reason) = (first.path.clone(), first.reason.clone());
            let error = DataError::NothingReadable { count: images, path, reason };
            Err(LearnError::from(error).into())
        }
        _ => Ok(()),
    }
}

/// Prints predictions in one format.
struct Printer<'a> {
    classes: &'a [String],
    format: Format,
    top: usize,
    /// Columns of a path and of a class in a table.
    widths: [usize; 2],
    /// Whether it is told which images are unknown.
    tells_unknown: bool,
}

impl<'a> Printer<'a> {
    fn new(
        model: &'a Model,
        samples: &[Sample],
        top: usize,
        format: Option<Format>,
        tells_unknown: bool,
    ) -> Self {
        const WIDEST_PATH: usize = 100;
        const WIDEST_CLASS: usize = 24;
        let classes = &model.card.classes;
        let width = |text: &str| text.chars().count();
        let paths = samples.iter().map(|s| width(&s.path.to_string_lossy()).min(WIDEST_PATH));
        let names = classes.iter().map(|c| width(c).min(WIDEST_CLASS));
        Self {
            classes,
            format: Format::of(format),
            top: top.min(classes.len()),
            widths: [paths.max().unwrap_or(0), names.max().unwrap_or(0)],
            tells_unknown,
        }
    }

    fn header(&self) -> io::Result<()> {
        match self.format {
            Format::Csv => {
                writeln!(io::stdout(), "path,rank,class,index,probability,unknown,score")
            }
            _ => Ok(()),
        }
    }

    fn print(&self, path: &Path, prediction: &Prediction) -> io::Result<()> {
        let predictions = self.likeliest(&prediction.probabilities);
        let score = prediction.score.filter(|_| self.tells_unknown);
        let unknown = score.map(|_| prediction.unknown);
        let path = path.to_string_lossy().into_owned();
        let mut stdout = io::stdout().lock();
        match self.format {
            Format::Table => writeln!(
                stdout,
                "{}",
                self.row(&path, score.filter(|_| prediction.unknown), &predictions)
            ),
            Format::Jsonl => {
                let line = Line { path, unknown, score, predictions };
                writeln!(stdout, "{}", serde_json::to_string(&line)?)
            }
            Format::Csv => {
                let mut rows = csv::Writer::from_writer(stdout);
                let unknown = unknown.map_or_else(String::new, |unknown| unknown.to_string());
                let score = score.map_or_else(String::new, |score| score.to_string());
                for (rank, p) in predictions.iter().enumerate() {
                    let rank = (rank + 1).to_string();
                    let (index, probability) = (p.index.to_string(), p.probability.to_string());
                    let fields = [&path, &rank, p.class, &index, &probability, &unknown, &score];
                    rows.write_record(fields)?;
                }
                rows.flush()
            }
        }
    }

    /// What is said of an image that is unknown, with its score, stands dimmed in brackets.
    fn row(&self, path: &str, unknown: Option<f32>, predictions: &[Likely]) -> String {
        let [w, class] = self.widths;
        let cell =
            |p: &Likely| format!("{:<class$} {:>6}", p.class, percent(f64::from(p.probability)));
        let cells = predictions.iter().map(cell).collect::<Vec<_>>().join("  ");
        let (dim, plain) = if colours_on_stdout() { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
        match (unknown, self.tells_unknown) {
            (Some(score), _) => format!("{path:<w$}  unknown {score:>4.1}  {dim}({cells}){plain}"),
            (None, true) => format!("{path:<w$}                {cells}"),
            (None, false) => format!("{path:<w$}  {cells}"),
        }
    }

    /// The likeliest classes; of equal ones the first.
    fn likeliest(&self, probabilities: &[f32]) -> Vec<Likely<'a>> {
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let likely = |&index: &usize| Likely {
            class: &self.classes[index],
            index,
            probability: probabilities[index],
        };
        order.iter().take(self.top).map(likely).collect()
    }
}
