//! The folder of an autoencoder's run.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use refit_data::to_png;

use super::{AutoencodeReport, AutoencodeSettings, Autoencoded, sheet};
use crate::error::LearnError;
use crate::fit::{Epoch, checkpoint_file};
use crate::train::RunContext;

const SETTINGS: &str = "settings.toml";
const DATA: &str = "data.txt";
const LOG: &str = "log.jsonl";
const METRICS: &str = "metrics.json";
const MODEL: &str = "model.safetensors";
const SHEET: &str = "sheet.png";

/// The folder of a run and its files; none keeps nothing.
pub(super) struct AutoencodeFolder(Option<PathBuf>);

impl AutoencodeFolder {
    /// A folder that does not hold another run; nothing is written yet.
    pub fn open(context: &RunContext) -> Result<Self, LearnError> {
        let taken = |path: &&PathBuf| !context.resume && path.join(SETTINGS).exists();
        match context.folder.as_ref().filter(taken) {
            Some(path) => Err(LearnError::RunExists { path: path.clone() }),
            None => Ok(Self(context.folder.clone())),
        }
    }

    /// Makes the folder and its first files; a resumed run must see the images that it began with.
    pub fn begin(
        &self,
        settings: &AutoencodeSettings,
        fingerprint: &str,
        resume: bool,
    ) -> Result<(), LearnError> {
        let (Some(folder), Some(checkpoints)) = (&self.0, self.checkpoints()) else {
            return Ok(());
        };
        if resume {
            let before = fs::read_to_string(folder.join(DATA)).unwrap_or_default();
            if !before.is_empty() && before.trim() != fingerprint {
                return Err(LearnError::DataChanged { path: settings.images.clone() });
            }
        }
        fs::create_dir_all(&checkpoints).map_err(|source| LearnError::Io {
            what: "make",
            path: checkpoints.clone(),
            source,
        })?;
        if resume {
            let files = [SETTINGS, DATA, LOG, METRICS, MODEL, SHEET].map(|name| folder.join(name));
            for file in files.into_iter().chain([checkpoint_file(&checkpoints)]) {
                // What a killed writer left is of no use, but does no harm either.
                let _ = refit_net::atomic_file::remove_leftovers(&file);
            }
        }
        self.write(DATA, format!("{fingerprint}\n").as_bytes())?;
        if resume {
            return Ok(());
        }
        let text = toml::to_string_pretty(settings).expect("settings serialize");
        self.write(SETTINGS, text.as_bytes())
    }

    pub fn checkpoints(&self) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join("checkpoints"))
    }

    pub fn write_log(&self, history: &[Epoch]) -> Result<(), LearnError> {
        let line = |e| serde_json::to_string(e).expect("numbers serialize") + "\n";
        let text: String = history.iter().map(line).collect();
        self.write(LOG, text.as_bytes())
    }

    pub fn finish(&self, outcome: &Autoencoded) -> Result<(), LearnError> {
        let Some(folder) = &self.0 else { return Ok(()) };
        self.write_log(&outcome.history)?;
        outcome.model.save(&folder.join(MODEL))?;
        if let Some(sheet) = sheet(&outcome.pictures) {
            self.write(SHEET, &to_png(&sheet))?;
        }
        let json = serde_json::to_string_pretty(&outcome.report).expect("numbers serialize");
        self.write(METRICS, format!("{json}\n").as_bytes())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), LearnError> {
        let Some(folder) = &self.0 else { return Ok(()) };
        refit_net::atomic_file::write(folder.join(name), |file| file.write_all(content))
            .map_err(|e| LearnError::StateDict(e.into()))
    }
}

/// Whether a folder holds a run of an autoencoder.
pub fn is_autoencoder(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join(SETTINGS));
    text.is_ok_and(|text| toml::from_str::<AutoencodeSettings>(&text).is_ok())
}

/// The settings of the run of an autoencoder that a folder holds.
///
/// # Errors
/// If there is no such file, it is another command's, or it is damaged.
pub fn read_autoencode_settings(folder: &Path) -> Result<AutoencodeSettings, LearnError> {
    let text = fs::read_to_string(folder.join(SETTINGS)).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            LearnError::NoRun { path: folder.to_owned(), reason: format!("{SETTINGS}: {error}") }
        }
        _ => damaged(folder, SETTINGS, error),
    })?;
    toml::from_str(&text).map_err(|error| {
        if toml::from_str::<crate::settings::Settings>(&text).is_ok() {
            return LearnError::OtherRun { path: folder.to_owned(), command: "train" };
        }
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or(&text).matches('\n').count() + 1;
        damaged(folder, SETTINGS, format!("line {line}: {}", error.message()))
    })
}

fn damaged(folder: &Path, file: &str, reason: impl ToString) -> LearnError {
    let (path, file, reason) = (folder.to_owned(), file.to_owned(), reason.to_string());
    LearnError::DamagedRun { path, file, reason }
}

/// A finished run of an autoencoder as its folder tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencodeRecord {
    /// The folder.
    pub folder: PathBuf,
    /// What was asked for.
    pub settings: AutoencodeSettings,
    /// What was found.
    pub report: AutoencodeReport,
    /// The epochs.
    pub history: Vec<Epoch>,
    /// The bytes of the sheet, if it is there.
    pub sheet: Option<Vec<u8>>,
}

impl AutoencodeRecord {
    /// Reads the folder of a finished run.
    ///
    /// # Errors
    /// If it holds no run, or one that has not ended, or a file of it is damaged.
    pub fn read(folder: &Path) -> Result<Self, LearnError> {
        let settings = read_autoencode_settings(folder)?;
        let text = |name: &str| match fs::read_to_string(folder.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(damaged(folder, name, e)),
        };
        let Some(metrics) = text(METRICS)? else {
            return Err(LearnError::Unfinished { path: folder.to_owned(), command: "autoencode" });
        };
        let log = text(LOG)?.unwrap_or_default();
        let history = log.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self {
            folder: folder.to_owned(),
            settings,
            report: serde_json::from_str(&metrics).map_err(|e| damaged(folder, METRICS, e))?,
            history: history.map_err(|e| damaged(folder, LOG, e))?,
            sheet: fs::read(folder.join(SHEET)).ok(),
        })
    }
}
