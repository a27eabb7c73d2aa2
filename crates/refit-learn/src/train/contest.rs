//! Contestants that are kept: the folder of a run, and beside its files what was asked for and what was
//! measured, so that a comparison that was stopped goes on.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::compare::Contestant;
use super::folder::{SETTINGS, fingerprint, write};
use crate::error::LearnError;
use crate::settings::Settings;

const ASKED: &str = "asked.json";
const FOUND: &str = "contestant.json";

/// What a contestant ended with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Finished {
    pub contestant: Contestant,
    /// Which of the readable images that all are judged by it got right.
    pub right: Vec<bool>,
}

impl Finished {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers serialize")
    }

    /// The same as it is read back, kept or not: JSON may lose a number's last bit, and a comparison
    /// that goes on must tell what one that never stopped told.
    pub fn as_read(&self) -> Self {
        serde_json::from_str(&self.json()).expect("what was just written")
    }
}

/// The folder of a contestant.
pub(super) struct Kept {
    pub folder: PathBuf,
    /// All settings that it may run with, as JSON.
    asked: String,
}

impl Kept {
    /// A folder in which nothing else is kept.
    pub fn open(folder: PathBuf, settings: &[Settings]) -> Result<Self, LearnError> {
        let asked = serde_json::to_string(settings).expect("settings serialize");
        let kept = Self { folder, asked };
        match fs::read_to_string(kept.folder.join(ASKED)) {
            Ok(before) if before.trim_end() != kept.asked => Err(kept.of_another()),
            Err(_) if kept.has_begun() => Err(kept.of_another()),
            _ => Ok(kept),
        }
    }

    fn of_another(&self) -> LearnError {
        LearnError::OtherContest { path: self.folder.clone() }
    }

    /// Whether a run has left anything here.
    pub fn has_begun(&self) -> bool {
        self.folder.join(SETTINGS).exists()
    }

    /// What it ended with, if it has ended; `images` gives the fingerprint of the images in `data` as
    /// they are.
    pub fn finished(
        &self,
        data: &Path,
        images: impl FnOnce() -> Result<String, LearnError>,
    ) -> Result<Option<Finished>, LearnError> {
        let path = self.folder.join(FOUND);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let finished: Finished =
            serde_json::from_str(&text).map_err(|e| LearnError::DamagedRun {
                path: self.folder.clone(),
                file: FOUND.to_owned(),
                reason: e.to_string(),
            })?;
        match fingerprint(&self.folder) == images()? {
            true => Ok(Some(finished)),
            false => Err(LearnError::DataChanged { path: data.to_owned() }),
        }
    }

    /// Makes the folder.
    pub fn begin(&self) -> Result<(), LearnError> {
        fs::create_dir_all(&self.folder).map_err(|source| LearnError::Io {
            what: "make",
            path: self.folder.clone(),
            source,
        })?;
        write(&self.folder.join(ASKED), format!("{}\n", self.asked).as_bytes())
    }

    pub fn finish(&self, finished: &Finished) -> Result<(), LearnError> {
        write(&self.folder.join(FOUND), format!("{}\n", finished.json()).as_bytes())
    }
}
