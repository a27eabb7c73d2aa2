//! Weights that `refit pull` fetched: where they are kept, and what is kept of where they are from.

use std::fs;
use std::path::{Path, PathBuf};

use refit_data::cache;
use refit_net::zoo::{Architecture, PUBLISHED_FILE};
use serde::{Deserialize, Serialize};

use crate::model::Provenance;

/// Where pulled weights are from; kept beside them as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledFrom {
    /// The repository: `timm/resnet18.tv_in1k`.
    pub repository: String,
    /// The repository's commit.
    pub revision: String,
    /// The file in it.
    pub file: String,
    /// The file's length in bytes.
    pub size: u64,
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// The licence that the repository states.
    pub licence: Option<String>,
}

/// The folder in which an architecture's pulled weights are kept; none where no cache can be.
#[derive(Debug, Clone)]
pub struct PulledFolder(PathBuf);

impl PulledFolder {
    /// The folder in the user's cache.
    pub fn of(architecture: &Architecture) -> Option<Self> {
        Some(Self(cache::default_dir()?.join("weights").join(architecture.name)))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the weights are, or will be.
    pub fn weights(&self) -> PathBuf {
        self.0.join(PUBLISHED_FILE)
    }

    /// Where what is known of them is written.
    pub fn description(&self) -> PathBuf {
        self.0.join("source.json")
    }

    /// What is known of the weights; nothing of a file that somebody put there.
    pub fn source(&self) -> Option<PulledFrom> {
        serde_json::from_str(&fs::read_to_string(self.description()).ok()?).ok()
    }
}

/// What a model file says of the weights in a folder.
pub(crate) fn provenance(folder: &PulledFolder) -> Provenance {
    match folder.source() {
        Some(from) => Provenance {
            source: format!("{} on the Hugging Face hub, {}", from.repository, from.revision),
            licence: from.licence,
            trained_on: Some("ImageNet-1k".to_owned()),
            sha256: Some(from.sha256),
        },
        None => Provenance { source: PUBLISHED_FILE.into(), ..Provenance::default() },
    }
}
