//! Which images are unlike those that an autoencoder learned from.

use std::io::{self, Write};
use std::path::Path;

use refit::data::Sample;
use refit::learn::Anomaly;
use refit::learn::autoencode::ANOMALOUS;
use refit::{LearnError, Model, RunOptions};
use serde::Serialize;

use super::name_skipped;
use crate::arguments::Format;
use crate::failure::Failure;
use crate::progress::Progress;

#[derive(Serialize)]
struct Line {
    path: String,
    score: f32,
    /// None where too few images were held out to tell.
    threshold: Option<f32>,
    anomalous: bool,
}

/// Prints the error of each image's reconstruction as it goes; of images like those of training, a
/// `share` exceeds the threshold.
pub fn tell(
    model: &Model,
    samples: &[Sample],
    format: Option<Format>,
    share: Option<f64>,
    options: &RunOptions,
) -> Result<(), Failure> {
    let Some(autoencoder) = &model.card.autoencoder else {
        let net = model.network.graph().name().to_owned();
        return Err(LearnError::NoDecoder { net }.into());
    };
    let progress = Progress::beside_output();
    let share = share.unwrap_or(ANOMALOUS);
    let threshold = Some(autoencoder.threshold(share)).filter(|t| t.is_finite());
    if threshold.is_none() && share > 0.0 {
        progress.say(&format!(
            "warning: nothing is called anomalous: the {} images held out cannot tell a share of {share}",
            autoencoder.scores.len()
        ));
    }
    let printer = Printer::new(samples, Format::of(format), threshold);
    printer.header()?;
    let mut broken = None;
    let done = progress.stage("predict", samples.len(), || {
        model.anomalies(samples, share, options, &progress, &mut |index, anomaly| {
            if let Err(error) = printer.print(&samples[index].path, anomaly) {
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

struct Printer {
    format: Format,
    threshold: Option<f32>,
    /// Columns of a path in a table.
    width: usize,
}

impl Printer {
    fn new(samples: &[Sample], format: Format, threshold: Option<f32>) -> Self {
        const WIDEST_PATH: usize = 100;
        let widths = samples.iter().map(|s| s.path.to_string_lossy().chars().count());
        Self { format, threshold, width: widths.max().unwrap_or(0).min(WIDEST_PATH) }
    }

    fn header(&self) -> io::Result<()> {
        match self.format {
            Format::Csv => writeln!(io::stdout(), "path,score,threshold,anomalous"),
            _ => Ok(()),
        }
    }

    fn print(&self, path: &Path, anomaly: Anomaly) -> io::Result<()> {
        let Anomaly { score, exceeds } = anomaly;
        let path = path.to_string_lossy().into_owned();
        let mut stdout = io::stdout().lock();
        match self.format {
            Format::Table => {
                let width = self.width;
                let said = match (self.threshold, exceeds) {
                    (Some(threshold), true) => format!("  anomalous, above {threshold:.4}"),
                    _ => String::new(),
                };
                writeln!(stdout, "{path:<width$}  {score:.4}{said}")
            }
            Format::Jsonl => {
                let line = Line { path, score, threshold: self.threshold, anomalous: exceeds };
                writeln!(stdout, "{}", serde_json::to_string(&line)?)
            }
            Format::Csv => {
                let threshold = self.threshold.map_or_else(String::new, |t| t.to_string());
                let mut rows = csv::Writer::from_writer(stdout);
                rows.write_record([path, score.to_string(), threshold, exceeds.to_string()])?;
                rows.flush()
            }
        }
    }
}
