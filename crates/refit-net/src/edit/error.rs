//! Why an edit is refused.

use crate::error::Hint;
use crate::graph::GraphError;

/// Why an edit is refused; the network is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The edited graph cannot be.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A change of layers that leaves no valid network.
    #[error("{doing} in `{net}`: {reason}")]
    Breaks {
        /// The network.
        net: String,
        /// The change: "removing `layer1.0.add`".
        doing: String,
        /// What would be wrong.
        reason: String,
        /// The closest name at which the same change is possible.
        nearest: Option<String>,
    },
    /// What takes the images is no convolution that could be adapted.
    #[error("`{layer}`, which takes the images of `{net}`, is no convolution over all channels")]
    Stem {
        /// The network.
        net: String,
        /// The layer.
        layer: String,
    },
    /// Rows that a new head cannot take from the old one.
    #[error("no rows of the head of `{net}` can be kept: {reason}")]
    Rows {
        /// The network.
        net: String,
        /// Why not.
        reason: String,
    },
    /// A pattern that no layer's name fits.
    #[error("no layer of `{net}` fits `{pattern}`")]
    NoSuchLayers {
        /// The network.
        net: String,
        /// The pattern.
        pattern: String,
        /// The closest name there is.
        nearest: String,
    },
    /// A pattern that no layer fits of the kind that the edit is about.
    #[error("no {kind} of `{net}` fits `{pattern}`")]
    NoneOfKind {
        /// The network.
        net: String,
        /// What was looked for: "activation", "pooling".
        kind: &'static str,
        /// The pattern.
        pattern: String,
        /// The closest layer of that kind.
        nearest: Option<String>,
    },
    /// A pattern that is not a glob.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that no layer can have.
    #[error("`{name}` is no name for a layer")]
    Name {
        /// The name.
        name: String,
    },
    /// A number in a new layer that is out of its range.
    #[error("{what} is {value}, but must be {range}")]
    Value {
        /// Which number.
        what: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: &'static str,
    },
}

impl Hint for EditError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Graph(error) => return error.hint(),
            Self::Breaks { net, nearest: None, .. } => {
                format!("`refit layers {net}` lists layers and shapes")
            }
            Self::Breaks { nearest: Some(nearest), .. } => {
                format!("the closest layer where this fits is `{nearest}`")
            }
            Self::Stem { .. } => {
                "give images of as many channels as the network was made for".into()
            }
            Self::Rows { .. } => {
                "let the whole head start anew: leave out --keep-classes, or `keep` in a recipe"
                    .into()
            }
            Self::NoSuchLayers { net, nearest, .. }
            | Self::NoneOfKind { net, nearest: Some(nearest), .. } => {
                format!("try `{nearest}`; `refit layers {net}` lists all")
            }
            Self::NoneOfKind { net, kind, nearest: None, .. } => {
                format!("`{net}` has no {kind} at all; leave the edit out")
            }
            Self::Pattern { .. } => "use a name, a block's name, a glob such as `layer[34].*`, \
                 `upto:NAME` or `from:NAME`"
                .into(),
            Self::Name { .. } => {
                "use letters, digits, `_` and `-`, with single dots between parts".into()
            }
            Self::Value { what, .. } => format!("give {what} a value in that range"),
        })
    }
}
