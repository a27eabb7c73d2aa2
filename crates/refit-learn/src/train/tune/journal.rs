//! The trials of a search as its folder keeps them: a line each.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::super::folder::{RunFolder, TRIALS};
use super::Attempt;
use crate::error::LearnError;

/// Trials that have ended.
pub(super) struct Journal {
    folder: RunFolder,
    text: String,
    pub trials: Vec<Attempt>,
}

impl Journal {
    /// The one that a folder holds; an empty one if it holds none.
    pub fn open(folder: RunFolder) -> Result<Self, LearnError> {
        let Some(path) = folder.0.as_ref().map(|folder| folder.join(TRIALS)) else {
            return Ok(Self { folder, text: String::new(), trials: Vec::new() });
        };
        let text = text_of(&path)?.unwrap_or_default();
        let trials = read(&text, &path)?;
        Ok(Self { folder, text, trials })
    }

    /// Adds a trial, and keeps it as it will be read: JSON may lose a number's last bit, and a search
    /// that goes on must see what one that never stopped saw.
    pub fn add(&mut self, trial: &Attempt) -> Result<&Attempt, LearnError> {
        let line = serde_json::to_string(trial).expect("numbers serialize");
        self.text.push_str(&line);
        self.text.push('\n');
        self.folder.write(TRIALS, self.text.as_bytes())?;
        self.trials.push(serde_json::from_str(&line).expect("a line that was just written"));
        Ok(self.trials.last().expect("one was pushed"))
    }
}

fn text_of(path: &Path) -> Result<Option<String>, LearnError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LearnError::Io { what: "read", path: path.to_owned(), source }),
    }
}

/// The trials of a text, a line each.
pub(super) fn read(text: &str, path: &Path) -> Result<Vec<Attempt>, LearnError> {
    let trial = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| damaged(path, index + 1, error.to_string()))
    };
    text.lines().enumerate().map(trial).collect()
}

/// A line that is not what it should be.
pub(super) fn damaged(path: &Path, line: usize, reason: String) -> LearnError {
    LearnError::Journal { path: path.to_owned(), line, reason }
}
