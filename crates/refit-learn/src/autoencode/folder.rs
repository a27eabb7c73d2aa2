//! The folder of an autoencoder's run.

use std::fs;
use std::path::{Path, PathBuf};

use refit_data::to_png;

use super::{AutoencodeReport, AutoencodeSettings, Autoencoded, sheet};
use crate::error::LearnError;
use crate::fit::Epoch;
use crate::settings::Settings;
use crate::train::folder::{
    METRICS, MODEL, RunFolder, SETTINGS, SHEET, damaged, read_file, read_history, read_settings_of,
};

/// Writes what a run ended with.
pub(super) fn finish(folder: &RunFolder, outcome: &Autoencoded) -> Result<(), LearnError> {
    let Some(path) = &folder.0 else { return Ok(()) };
    folder.write_log(&outcome.history)?;
    outcome.model.save(&path.join(MODEL))?;
    if let Some(sheet) = sheet(&outcome.pictures) {
        folder.write(SHEET, &to_png(&sheet))?;
    }
    let json = serde_json::to_string_pretty(&outcome.report).expect("numbers serialize");
    folder.write(METRICS, format!("{json}\n").as_bytes())
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
    read_settings_of(folder, |text| toml::from_str::<Settings>(text).is_ok().then_some("train"))
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
        let Some(metrics) = read_file(folder, METRICS)? else {
            return Err(LearnError::Unfinished { path: folder.to_owned(), command: "autoencode" });
        };
        Ok(Self {
            folder: folder.to_owned(),
            settings,
            report: serde_json::from_str(&metrics).map_err(|e| damaged(folder, METRICS, e))?,
            history: read_history(folder)?,
            sheet: fs::read(folder.join(SHEET)).ok(),
        })
    }
}
