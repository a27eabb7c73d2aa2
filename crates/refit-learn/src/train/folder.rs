//! The folder of a run.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use refit_data::Dataset;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::images::Images;
use super::start::list;
use super::{Choice, Distilled, Report, RunContext, Search};
use crate::autoencode::AutoencodeSettings;
use crate::error::LearnError;
use crate::fit::{Epoch, RateSearch, checkpoint_file};
use crate::predictions::{Judgement, from_csv};
use crate::settings::Settings;

pub(crate) const SETTINGS: &str = "settings.toml";
const DATA: &str = "data.txt";
const LOG: &str = "log.jsonl";
pub(crate) const METRICS: &str = "metrics.json";
const ADVICE: &str = "advice.json";
pub(super) const RATES: &str = "lr.json";
pub(crate) const MODEL: &str = "model.safetensors";
pub(crate) const SHEET: &str = "sheet.png";
/// The folder of finished folds.
pub(super) const FOLDS: &str = "folds";
pub(super) const PREDICTIONS: &str = "predictions.csv";
pub(super) const SEARCH: &str = "search.toml";
pub(super) const TRIALS: &str = "trials.jsonl";

/// The folder of a run and its files.
pub(crate) struct RunFolder(pub Option<PathBuf>);

impl RunFolder {
    /// A folder that does not hold another run; nothing is written yet.
    pub fn open(context: &RunContext) -> Result<Self, LearnError> {
        let marks = [SETTINGS, SEARCH, TRIALS];
        let holds_one = |path: &PathBuf| marks.iter().any(|name| path.join(name).exists());
        let taken = |path: &&PathBuf| !context.resume && holds_one(path);
        match context.folder.as_ref().filter(taken) {
            Some(path) => Err(LearnError::RunExists { path: path.clone() }),
            None => Ok(Self(context.folder.clone())),
        }
    }

    /// Makes the folder and its first files, once it is known that the run can begin; a resumed run
    /// must see the images that it began with.
    pub(super) fn begin(
        &self,
        settings: &Settings,
        images: &Images,
        resume: bool,
    ) -> Result<(), LearnError> {
        self.begin_with(&in_toml(settings), (&settings.data, &images.fingerprint), resume)
    }

    /// The same for a run with other settings, told as TOML, on images of `data` with a fingerprint.
    pub fn begin_with(
        &self,
        settings: &str,
        (data, images): (&Path, &str),
        resume: bool,
    ) -> Result<(), LearnError> {
        let (Some(folder), Some(checkpoints)) = (&self.0, self.checkpoints()) else {
            return Ok(());
        };
        self.check_data(data, images, resume)?;
        make(&checkpoints)?;
        if resume {
            let files = [SETTINGS, DATA, LOG, METRICS, MODEL, PREDICTIONS, RATES, SHEET];
            let files = files.map(|name| folder.join(name)).into_iter();
            remove_leftovers(files.chain([checkpoint_file(&checkpoints)]));
        }
        self.write(DATA, line_of(images).as_bytes())?;
        // A search has a folder before its run has settings.
        if !resume || !folder.join(SETTINGS).exists() {
            self.write(SETTINGS, settings.as_bytes())?;
        }
        Ok(())
    }

    pub fn write_settings(&self, settings: &Settings) -> Result<(), LearnError> {
        self.write(SETTINGS, in_toml(settings).as_bytes())
    }

    pub fn write_log(&self, history: &[Epoch]) -> Result<(), LearnError> {
        let line = |e| serde_json::to_string(e).expect("numbers serialize") + "\n";
        let text: String = history.iter().map(line).collect();
        self.write(LOG, text.as_bytes())
    }

    /// Makes the folder of a search, once it is known that it can begin.
    pub(super) fn begin_search(
        &self,
        plan: &str,
        settings: &Settings,
        images: &Images,
        resume: bool,
    ) -> Result<(), LearnError> {
        let Some(folder) = &self.0 else { return Ok(()) };
        self.check_data(&settings.data, &images.fingerprint, resume)?;
        make(folder)?;
        self.write(DATA, line_of(&images.fingerprint).as_bytes())?;
        match resume {
            true => remove_leftovers([SEARCH, TRIALS].map(|name| folder.join(name))),
            false => self.write(SEARCH, plan.as_bytes())?,
        }
        Ok(())
    }

    /// What is resumed must see the images that it began with.
    fn check_data(&self, data: &Path, images: &str, resume: bool) -> Result<(), LearnError> {
        let Some(folder) = self.0.as_ref().filter(|_| resume) else { return Ok(()) };
        let before = fs::read_to_string(folder.join(DATA));
        match before.is_ok_and(|before| before != line_of(images)) {
            true => Err(LearnError::DataChanged { path: data.to_owned() }),
            false => Ok(()),
        }
    }

    pub fn checkpoints(&self) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join("checkpoints"))
    }

    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), LearnError> {
        match &self.0 {
            Some(folder) => write(&folder.join(name), content),
            None => Ok(()),
        }
    }
}

/// What a killed writer left is of no use, but does no harm either.
fn remove_leftovers(files: impl IntoIterator<Item = PathBuf>) {
    for file in files {
        let _ = refit_net::atomic_file::remove_leftovers(&file);
    }
}

fn line_of(fingerprint: &str) -> String {
    format!("{fingerprint}\n")
}

fn make(folder: &Path) -> Result<(), LearnError> {
    fs::create_dir_all(folder).map_err(|source| LearnError::Io {
        what: "make",
        path: folder.to_owned(),
        source,
    })
}

pub(crate) fn in_toml(settings: &impl Serialize) -> String {
    toml::to_string_pretty(settings).expect("settings serialize")
}

pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), LearnError> {
    refit_net::atomic_file::write(path, |file| file.write_all(content))
        .map_err(|e| LearnError::StateDict(e.into()))
}

/// The fingerprint of the images that a folder's run began with; empty if it does not tell.
pub(super) fn fingerprint(folder: &Path) -> String {
    fs::read_to_string(folder.join(DATA)).unwrap_or_default().trim().to_owned()
}

/// The settings of a run that a folder holds.
///
/// # Errors
/// If there is no such file, or it is damaged.
pub fn read_settings(folder: &Path) -> Result<Settings, LearnError> {
    if !folder.join(SETTINGS).exists() && folder.join(SEARCH).exists() {
        return Err(LearnError::SearchGoesOn { path: folder.to_owned() });
    }
    read_settings_of(folder, |text| {
        toml::from_str::<AutoencodeSettings>(text).is_ok().then_some("autoencode")
    })
}

/// The settings of a run of any kind that a folder holds; `other` names the command whose settings a
/// text holds instead, if it is one.
pub(crate) fn read_settings_of<T: DeserializeOwned>(
    folder: &Path,
    other: impl Fn(&str) -> Option<&'static str>,
) -> Result<T, LearnError> {
    let text = fs::read_to_string(folder.join(SETTINGS)).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            LearnError::NoRun { path: folder.to_owned(), reason: format!("{SETTINGS}: {error}") }
        }
        _ => damaged(folder, SETTINGS, error),
    })?;
    toml::from_str(&text).map_err(|error| {
        if let Some(command) = other(&text) {
            return LearnError::OtherRun { path: folder.to_owned(), command };
        }
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or(&text).matches('\n').count() + 1;
        damaged(folder, SETTINGS, format!("line {line}: {}", error.message()))
    })
}

/// A file of a folder, if it is there.
pub(crate) fn read_file(folder: &Path, name: &str) -> Result<Option<String>, LearnError> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(damaged(folder, name, e)),
    }
}

/// The epochs that a folder tells, where there were any.
pub(crate) fn read_history(folder: &Path) -> Result<Vec<Epoch>, LearnError> {
    let log = read_file(folder, LOG)?.unwrap_or_default();
    let history = log.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    history.map_err(|e| damaged(folder, LOG, e))
}

pub(crate) fn damaged(folder: &Path, file: impl Into<String>, reason: impl ToString) -> LearnError {
    let (path, file, reason) = (folder.to_owned(), file.into(), reason.to_string());
    LearnError::DamagedRun { path, file, reason }
}

/// A finished run as its folder tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The folder.
    pub folder: PathBuf,
    /// What was asked for.
    pub settings: Settings,
    /// What was found.
    pub report: Report,
    /// BLAKE3 over the images' contents, classes and splits, in hexadecimal.
    pub fingerprint: String,
    /// The epochs, where there were any.
    pub history: Vec<Epoch>,
    /// Why it did what it did, where advice was asked for.
    pub choice: Option<Choice>,
    /// How the learning rate was found, where it was looked for.
    pub rates: Option<RateSearch>,
    /// The search that found its settings, where there was one.
    pub search: Option<Search>,
    /// The student beside its teachers, where it had any.
    pub distilled: Option<Distilled>,
    /// What the model made of each validation and test image; none where the run was made by a refit
    /// that did not keep it.
    pub predictions: Option<Vec<Judgement>>,
    /// Bytes of the model file; none where it is gone.
    pub model_bytes: Option<u64>,
}

impl Record {
    /// Reads the folder of a finished run; images and model are not needed.
    ///
    /// # Errors
    /// If it holds no run, or one that has not ended, or a file of it is damaged
    /// ([`LearnError::DamagedRun`]).
    pub fn read(folder: &Path) -> Result<Self, LearnError> {
        let settings = read_settings(folder)?;
        let damaged = |name: &str, reason: String| damaged(folder, name, reason);
        let text = |name: &str| read_file(folder, name);
        let Some(metrics) = text(METRICS)? else {
            return Err(LearnError::Unfinished { path: folder.to_owned(), command: "train" });
        };
        let report: Report =
            serde_json::from_str(&metrics).map_err(|e| damaged(METRICS, e.to_string()))?;
        let history = read_history(folder)?;
        let choice = text(ADVICE)?.map(|advice| serde_json::from_str(&advice)).transpose();
        let rates = text(RATES)?.map(|rates| serde_json::from_str(&rates)).transpose();
        let predictions =
            text(PREDICTIONS)?.map(|lines| from_csv(lines.as_bytes(), &report.classes)).transpose();
        Ok(Self {
            folder: folder.to_owned(),
            settings,
            fingerprint: fingerprint(folder),
            history,
            choice: choice.map_err(|e| damaged(ADVICE, e.to_string()))?,
            rates: rates.map_err(|e| damaged(RATES, e.to_string()))?,
            search: Search::read(folder)?,
            distilled: Distilled::read(folder)?,
            predictions: predictions.map_err(|e| damaged(PREDICTIONS, e))?,
            model_bytes: fs::metadata(folder.join(MODEL)).ok().map(|m| m.len()),
            report,
        })
    }

    /// Where the model is, if it is still there.
    pub fn model_file(&self) -> PathBuf {
        self.folder.join(MODEL)
    }

    /// The images as the run listed them, if they still lie where they lay. Nothing is decoded, and
    /// what the run could not read is among them.
    ///
    /// # Errors
    /// If they do not.
    pub fn dataset(&self) -> Result<Dataset, LearnError> {
        list(&self.settings)
    }
}
