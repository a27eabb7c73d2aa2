//! What can be wrong with an ONNX file, or with writing one, and how to mend it.

use std::io;

use crate::error::Hint;
use crate::graph::GraphError;

/// Why a network was not exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// A layer that ONNX says otherwise.
    #[error("layer `{layer}` normalizes over {size} channels, and ONNX centres odd numbers only")]
    EvenResponseNorm {
        /// The layer.
        layer: String,
        /// Channels of a sum.
        size: usize,
    },
    /// A layer for which the standard operators have no words.
    #[error("layer `{layer}` is a {kind}, which no operator of ONNX computes")]
    NoOperator {
        /// The layer.
        layer: String,
        /// What it is.
        kind: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read `{file}`: {error}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
    /// The file is longer than the format allows.
    #[error("`{file}` is of {length} bytes, and an ONNX file has at most {most}")]
    TooLong {
        /// The file.
        file: String,
        /// Its length in bytes.
        length: u64,
        /// The most that are read.
        most: u64,
    },
    /// The file is no ONNX model.
    #[error("`{file}` is no ONNX model: {problem}")]
    NotOnnx {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Operators of a version that is not known.
    #[error("`{file}` is of opset {version}; refit reads {first} to {last}")]
    Opset {
        /// The file.
        file: String,
        /// Its version.
        version: i64,
        /// The oldest that is read.
        first: i64,
        /// The newest that is read.
        last: i64,
    },
    /// Not one input of images, or not one output.
    #[error("`{file}` {problem}")]
    Signature {
        /// The file.
        file: String,
        /// What was found.
        problem: String,
    },
    /// Images of any size.
    #[error("`{file}` takes images of any size, and a network has a nominal one")]
    NoSize {
        /// The file.
        file: String,
    },
    /// Images of one size, and another was asked for.
    #[error("`{file}` takes images of {height}x{width} pixels alone, not of {asked}")]
    FixedSize {
        /// The file.
        file: String,
        /// Rows of the images.
        height: usize,
        /// Columns of the images.
        width: usize,
        /// What was asked for.
        asked: usize,
    },
    /// A constant that cannot be read.
    #[error("constant `{tensor}` of `{file}` {problem}")]
    Tensor {
        /// The file.
        file: String,
        /// The constant.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A node that contradicts the format.
    #[error("node `{node}` ({op}) is damaged: {problem}")]
    Damaged {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// What is wrong.
        problem: String,
    },
    /// A node that refit's layers cannot express.
    #[error("node `{node}` ({op}) cannot be imported: {problem}")]
    Unsupported {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// What it does that no layer does.
        problem: String,
        /// What would be needed.
        needs: String,
    },
    /// The graph cannot be built.
    #[error("the network in `{file}` cannot be: {source}")]
    Graph {
        /// The file.
        file: String,
        /// Why not.
        source: GraphError,
    },
}

impl Hint for OnnxError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::EvenResponseNorm { .. } => {
                "export it as safetensors, or build the network with an odd number".into()
            }
            Self::NoOperator { .. } => {
                "use the model with refit, or export one with a linear head (train with `--learner \
                 linear`) on a network"
                    .into()
            }
            Self::Unreadable { error, .. } => match error.kind() {
                io::ErrorKind::NotFound => "check the path".into(),
                io::ErrorKind::PermissionDenied => "make the file readable for your user".into(),
                _ => return None,
            },
            Self::TooLong { .. } => "keep the weights in a file beside it (external data)".into(),
            Self::NotOnnx { .. } => {
                "give the .onnx file that the exporter wrote; if it is that, copy it again".into()
            }
            Self::Opset { version, first, .. } if version < first => {
                "export the network again with opset_version=17".into()
            }
            Self::Opset { .. } => "export the network again with an older opset_version".into(),
            Self::Signature { .. } => {
                "export the classifier alone: images [n, 3, h, w] or [n, h, w, 3] in, one row of \
                 logits an image out"
                    .into()
            }
            Self::NoSize { .. } => "say the size it was trained on: --size 224".into(),
            Self::FixedSize { .. } => {
                "leave --size out, or export the network again with open height and width".into()
            }
            Self::Tensor { .. } | Self::Damaged { .. } => {
                "export the network again, or copy the file and those beside it again".into()
            }
            Self::Unsupported { needs, .. } => needs.clone(),
            Self::Graph { source, .. } => return source.hint(),
        })
    }
}
