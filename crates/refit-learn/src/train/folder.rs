//! The folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use super::RunContext;
use super::images::Images;
use crate::error::LearnError;
use crate::fit::checkpoint_file;
use crate::settings::Settings;

const SETTINGS: &str = "settings.toml";

/// The folder of a run and its files.
pub(super) struct RunFolder(pub Option<PathBuf>);

impl RunFolder {
    /// A folder that does not hold another run; nothing is written yet.
    pub fn open(context: &RunContext) -> Result<Self, LearnError> {
        let taken = |path: &&PathBuf| path.join(SETTINGS).exists() && !context.resume;
        match context.folder.as_ref().filter(taken) {
            Some(path) => Err(LearnError::RunExists { path: path.clone() }),
            None => Ok(Self(context.folder.clone())),
        }
    }

    /// Makes the folder and its first files, once it is known that the run can begin; a resumed run
    /// must see the images that it began with.
    pub fn begin(
        &self,
        settings: &Settings,
        images: &Images,
        resume: bool,
    ) -> Result<(), LearnError> {
        let (Some(folder), Some(checkpoints)) = (&self.0, self.checkpoints()) else {
            return Ok(());
        };
        let data = folder.join("data.txt");
        let fingerprint = format!("{}\n", images.fingerprint);
        if resume && fs::read_to_string(&data).is_ok_and(|before| before != fingerprint) {
            return Err(LearnError::DataChanged { path: settings.data.clone() });
        }
        fs::create_dir_all(&checkpoints).map_err(|source| LearnError::Io {
            what: "make",
            path: checkpoints.clone(),
            source,
        })?;
        if resume {
            let files = [SETTINGS, "data.txt", "log.jsonl", "metrics.json", "model.safetensors"];
            let files = files.map(|name| folder.join(name)).into_iter();
            for file in files.chain([checkpoint_file(&checkpoints)]) {
                // What a killed writer left is of no use, but does no harm either.
                let _ = refit_net::atomic_file::remove_leftovers(&file);
            }
        }
        write(&data, fingerprint.as_bytes())?;
        if !resume {
            let text = toml::to_string_pretty(settings).expect("settings serialize");
            self.write(SETTINGS, text.as_bytes())?;
        }
        Ok(())
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

fn write(path: &Path, content: &[u8]) -> Result<(), LearnError> {
    refit_net::atomic_file::write(path, |file| file.write_all(content))
        .map_err(|e| LearnError::StateDict(e.into()))
}

/// The settings of a run that a folder holds.
///
/// # Errors
/// If there is no such file, or it is damaged.
pub fn read_settings(folder: &Path) -> Result<Settings, LearnError> {
    let path = folder.join(SETTINGS);
    let no_run = |reason: String| LearnError::NoRun { path: folder.to_owned(), reason };
    let text = fs::read_to_string(&path).map_err(|e| no_run(format!("settings.toml: {e}")))?;
    toml::from_str(&text).map_err(|e| no_run(format!("settings.toml: {e}")))
}
