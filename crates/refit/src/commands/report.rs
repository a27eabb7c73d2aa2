//! `refit report`: what a run did, or several, as a page to read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::learn::Record;
use refit::learn::autoencode::{AutoencodeRecord, is_autoencoder};
use refit::net::atomic_file;
use refit::{Device, Model};

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::report::{Run, of_autoencoding, of_run, of_runs};

/// The file that `refit train` writes into its folder.
pub const FILE: &str = "report.html";

/// Write a report of a run, or compare several
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
RUN is a folder that `refit train` wrote. The report is one HTML file that needs nothing beside \
it: data, advice, training, confusion, classes, mistakes with heat maps, calibration, settings, \
provenance. Of several runs, it compares them.

Images are shown as far as they still lie where the run found them.",
    after_help = "Examples:
  refit report refit-runs/photos-auto
  refit report refit-runs/photos-auto --out photos.html
  refit report runs/features runs/fine-tune --out both.html"
)]
pub struct Report {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// The file to write [default: RUN/report.html, and comparison.html here for several]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Report {
    /// Reads the runs and writes the report.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        if let [run] = &self.runs[..]
            && is_autoencoder(run)
        {
            let out = self.out.unwrap_or_else(|| run.join(FILE));
            save(&out, &of_autoencoding(&AutoencodeRecord::read(run)?))?;
            return Ok(writeln!(io::stdout(), "{}", out.display())?);
        }
        let records: Result<Vec<Record>, _> =
            self.runs.iter().map(|run| Record::read(run)).collect();
        let records = records?;
        let progress = Progress::new();
        let (out, page) = match &records[..] {
            [record] => {
                let model = open_model(record, &machine.device(), &progress)?;
                let run = Run { record, model: model.as_ref() };
                let page = progress.stage("report", 0, || of_run(&run));
                (self.out.unwrap_or_else(|| record.folder.join(FILE)), page)
            }
            several => (self.out.unwrap_or_else(|| "comparison.html".into()), of_runs(several)),
        };
        save(&out, &page)?;
        Ok(writeln!(io::stdout(), "{}", out.display())?)
    }
}

/// The model of a run, unless it is gone.
fn open_model(
    record: &Record,
    device: &Device,
    progress: &Progress,
) -> Result<Option<Model>, Failure> {
    let path = record.model_file();
    match path.is_file() {
        true => Ok(Some(Model::load(&path, device)?)),
        false => {
            progress.say(&format!(
                "note: `{}` is gone, so there are no heat maps and no provenance of weights",
                path.display()
            ));
            Ok(None)
        }
    }
}

/// Writes the report of a run that has just ended into its folder.
pub fn of_outcome(folder: &Path, model: &Model) -> Result<PathBuf, Failure> {
    let record = Record::read(folder)?;
    let out = folder.join(FILE);
    save(&out, &of_run(&Run { record: &record, model: Some(model) }))?;
    Ok(out)
}

/// Writes the report of an autoencoder's run into its folder.
pub fn of_autoencoder(folder: &Path) -> Result<PathBuf, Failure> {
    let out = folder.join(FILE);
    save(&out, &of_autoencoding(&AutoencodeRecord::read(folder)?))?;
    Ok(out)
}

/// Writes a page.
pub fn save(out: &Path, page: &str) -> Result<(), Failure> {
    Ok(atomic_file::write(out, |file| file.write_all(page.as_bytes()))?)
}
