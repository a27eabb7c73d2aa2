//! refit's model file: a `.safetensors` whose metadata holds the graph and a card.
//!
//! Tensors stand under their published names; the metadata key `refit` holds JSON: a format
//! version, the graph, which layers are frozen, and the card, in which the layers above keep what
//! prediction needs (preprocessing, class names, ...). Any safetensors reader opens it.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::Hint;
use crate::graph::{Graph, GraphError, GraphRecord};
use crate::load::{HeadWeights, LoadError};
use crate::network::Network;
use crate::state_dict::{self, Dtype, StateDict, StateDictError};

/// The version written; files of a later one are refused.
pub const FORMAT: u32 = 1;
/// The metadata key.
pub const KEY: &str = "refit";

/// Why a model file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFileError {
    /// The file itself.
    #[error(transparent)]
    StateDict(#[from] StateDictError),
    /// A safetensors file that refit did not write.
    #[error("{path} holds tensors, but is not a model that refit wrote")]
    NotAModel {
        /// The file.
        path: String,
    },
    /// Metadata that is damaged.
    #[error("the description in {path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A later refit's file.
    #[error("{path} is of format {found}; this refit reads up to {FORMAT}")]
    TooNew {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
    },
    /// The graph cannot be built.
    #[error("the network in {path} cannot be: {source}")]
    Graph {
        /// The file.
        path: String,
        /// Why not.
        source: GraphError,
    },
    /// The weights do not fit the graph.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Hint for ModelFileError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::StateDict(error) => error.hint(),
            Self::NotAModel { .. } => {
                Some("a bare checkpoint goes with `--backbone NAME --weights FILE`".into())
            }
            Self::TooNew { .. } => Some("use a newer refit".into()),
            Self::Damaged { .. } | Self::Graph { .. } => {
                Some("copy the file again, or train the model anew".into())
            }
            Self::Load(error) => error.hint(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    graph: GraphRecord,
    frozen: Vec<String>,
    card: serde_json::Value,
}

/// Writes a network and its card; the file is whole or not there.
///
/// # Errors
/// If it cannot be written: no room, no permission.
pub fn save(
    path: &Path,
    network: &Network,
    card: &serde_json::Value,
) -> Result<(), StateDictError> {
    state_dict::write_safetensors(path, tensors(network), &metadata(network, card))
}

/// The length in bytes of the file that [`save`] would write.
///
/// # Errors
/// If there can be no such file: a layer has a reserved name.
pub fn length(network: &Network, card: &serde_json::Value) -> Result<u64, StateDictError> {
    state_dict::safetensors_length(tensors(network), &metadata(network, card))
}

fn metadata(network: &Network, card: &serde_json::Value) -> BTreeMap<String, String> {
    let nodes = network.graph().nodes().iter().enumerate();
    let description = Description {
        format: FORMAT,
        graph: GraphRecord::from(network.graph()),
        frozen: nodes
            .filter(|(id, _)| network.is_frozen(*id))
            .map(|(_, n)| n.name.clone())
            .collect(),
        card: card.clone(),
    };
    let json = serde_json::to_string(&description).expect("names and numbers serialize");
    [(KEY.to_owned(), json)].into()
}

fn tensors(network: &Network) -> impl Iterator<Item = (String, Vec<usize>, Dtype, Vec<u8>)> + '_ {
    network.parameters().iter().map(|(name, parameter)| {
        (name.clone(), parameter.shape.clone(), Dtype::F32, parameter.to_le_bytes())
    })
}

/// Reads a network and its card.
///
/// # Errors
/// If the file is not there, not a model of refit's, damaged, or of a later version.
pub fn load(path: &Path, device: &Device) -> Result<(Network, serde_json::Value), ModelFileError> {
    from_state_dict(&StateDict::read(path)?, &path.display().to_string(), device)
}

/// The layers of a model, without its weights.
///
/// # Errors
/// As [`load`], but for weights that do not fit.
pub fn read_graph(path: &Path) -> Result<Graph, ModelFileError> {
    Ok(describe(&StateDict::read(path)?, &path.display().to_string())?.0)
}

/// A model's layers, and all that is said of it.
fn describe(state: &StateDict, path: &str) -> Result<(Graph, Description), ModelFileError> {
    let path = path.to_owned();
    let Some(json) = state.metadata().get(KEY) else {
        return Err(ModelFileError::NotAModel { path });
    };
    let damaged = |e: serde_json::Error| ModelFileError::Damaged {
        path: path.clone(),
        reason: e.to_string(),
    };
    let value: serde_json::Value = serde_json::from_str(json).map_err(damaged)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FORMAT) => {
            return Err(ModelFileError::TooNew { path, found: found as u32 });
        }
        _ => {}
    }
    let description: Description = serde_json::from_value(value).map_err(damaged)?;
    let graph = Graph::try_from(&description.graph)
        .map_err(|source| ModelFileError::Graph { path: path.clone(), source })?;
    Ok((graph, description))
}

fn from_state_dict(
    state: &StateDict,
    path: &str,
    device: &Device,
) -> Result<(Network, serde_json::Value), ModelFileError> {
    let (graph, description) = describe(state, path)?;
    let path = path.to_owned();
    let mut network = Network::with_weights(graph, state, HeadWeights::Required, 0, device)?;
    for name in &description.frozen {
        let id = network.graph().find(name);
        let id = id.map_err(|source| ModelFileError::Graph { path: path.clone(), source })?;
        network.frozen.insert(id);
    }
    Ok((network, description.card))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::{Edit, HeadKind};
    use crate::zoo;

    #[test]
    fn what_is_saved_comes_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let net = zoo::find("resnet18").unwrap().random(3, &Device::default());
        let edits = [
            Edit::ReplaceHead { classes: 4, kind: HeadKind::Linear, keep: vec![] },
            Edit::FreezeBody,
        ];
        let net = net.edit(&edits, 1).unwrap();
        let card = serde_json::json!({"classes": ["a", "b", "c", "d"]});
        save(&path, &net, &card).unwrap();
        let (back, read) = load(&path, &Device::default()).unwrap();
        assert_eq!(read, card);
        assert_eq!(back.graph(), net.graph());
        assert_eq!(back.frozen, net.frozen);
        for (name, parameter) in net.parameters() {
            assert_eq!(back.parameters()[name].to_vec(), parameter.to_vec(), "{name}");
        }
        let bytes = std::fs::read(&path).unwrap();
        save(&path, &back, &read).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same model gives the same bytes");
    }

    #[test]
    fn files_that_are_no_models_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let write = |metadata: &str| {
            let path = dir.path().join("x.safetensors");
            let tensors = [("a".to_owned(), vec![1], Dtype::F32, vec![0_u8; 4])];
            let metadata = match metadata {
                "" => Default::default(),
                json => [(KEY.to_owned(), json.to_owned())].into(),
            };
            state_dict::write_safetensors(&path, tensors, &metadata).unwrap();
            load(&path, &Device::default()).unwrap_err()
        };
        let error = write("");
        assert!(error.to_string().ends_with("is not a model that refit wrote"));
        assert!(error.hint().unwrap().contains("--backbone"));
        let error = write(r#"{"format": 99}"#);
        assert!(error.to_string().contains("format 99"));
        assert!(error.hint().unwrap().contains("newer"));
        let error = write("{");
        assert!(error.to_string().contains("damaged"));
        assert!(error.hint().unwrap().contains("copy the file again"));
        let net = zoo::find("resnet18").unwrap().graph();
        let record = serde_json::to_value(GraphRecord::from(&net)).unwrap();
        let mut broken = record.clone();
        broken["layers"][1]["kernel"] = serde_json::json!([0, 0]);
        let description =
            |graph| serde_json::json!({"format": 1, "graph": graph, "frozen": [], "card": {}});
        let error = write(&description(broken).to_string());
        assert!(error.to_string().contains("kernel"), "{error}");
        assert!(error.hint().unwrap().contains("anew"));
        let error = write(&description(record).to_string());
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
