//! Where the vectors of an index come from.

use std::path::{Path, PathBuf};

use refit_data::{Augment, DecodeOptions, Sample};
use refit_net::{NodeId, Precision};
use serde::{Deserialize, Serialize};

use super::error::RetrievalError;
use crate::error::LearnError;
use crate::extract::{Change, ExtractOptions, Features, extract_at};
use crate::model::{Model, RunOptions};
use crate::watch::Watch;

/// The model, layer and preprocessing that vectors come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Source {
    /// The model as it was named.
    pub model: String,
    /// The layer whose values the vectors are.
    pub layer: String,
    /// Numbers that it gives.
    pub dim: usize,
    /// BLAKE3 of the network up to there, in hexadecimal.
    pub fingerprint: String,
    /// BLAKE3 of how images are prepared for it, in hexadecimal.
    pub preprocess: String,
    /// What it computed with.
    pub precision: Precision,
}

fn hex(hash: [u8; 32]) -> String {
    blake3::Hash::from_bytes(hash).to_hex().to_string()
}

impl Source {
    /// A model's features at a layer: what the head takes, if none is named.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn of(
        model: &Model,
        name: &str,
        layer: Option<&str>,
        precision: Precision,
    ) -> Result<Self, LearnError> {
        let graph = model.network.graph();
        let node = Self::node(model, layer)?;
        let layer = &graph.nodes()[node];
        Ok(Self {
            model: name.into(),
            layer: layer.name.clone(),
            dim: layer.shape.channels(),
            fingerprint: hex(model.network.fingerprint(&layer.name)?),
            preprocess: hex(model.card.preprocess.digest(&DecodeOptions::default())),
            precision,
        })
    }

    fn node(model: &Model, layer: Option<&str>) -> Result<NodeId, LearnError> {
        let graph = model.network.graph();
        match layer {
            Some(layer) => Ok(graph.find(layer)?),
            None => Ok(graph.features()),
        }
    }

    /// Whether another source gives the same vectors for the same images.
    ///
    /// # Errors
    /// If it does not, naming what differs; `path` is the index, for the message.
    pub fn check(&self, path: &Path, other: &Self) -> Result<(), RetrievalError> {
        let asked = if self.fingerprint != other.fingerprint {
            format!("`{}` has other weights or layers", other.model)
        } else if self.preprocess != other.preprocess {
            format!("`{}` prepares images in another way", other.model)
        } else {
            return Ok(());
        };
        Err(RetrievalError::OtherModel {
            path: path.into(),
            made_with: format!("`{}` at `{}`", self.model, self.layer),
            asked,
            model: self.model.clone(),
        })
    }

    /// The features of images, `[n, dim]`, kept in `cache` if one is given.
    ///
    /// # Errors
    /// As [`crate::extract`].
    ///
    /// # Panics
    /// If `model` has no such layer: not the one that this is the source of.
    pub fn features(
        &self,
        model: &Model,
        samples: &[Sample],
        run: &RunOptions,
        cache: Option<PathBuf>,
        watch: &dyn Watch,
    ) -> Result<Features, LearnError> {
        let options = ExtractOptions {
            run: RunOptions { precision: self.precision, ..*run },
            views: 1,
            mirrored: true,
            change: Change::Nothing,
            augment: Augment::light(),
            seed: 0,
            cache,
        };
        let node = Self::node(model, Some(&self.layer)).expect("the model of this source");
        extract_at(&model.network, node, &model.card.preprocess, samples, &options, watch)
    }
}
