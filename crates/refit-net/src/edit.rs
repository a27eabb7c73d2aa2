//! Edits of a network as values: described, checked, then applied whole.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use globset::Glob;
use serde::{Deserialize, Serialize};

use crate::error::Hint;
use crate::graph::{Auxiliary, Builder, Graph, GraphError, NodeId, Wire, is_under};
use crate::layer::{Activation, Layer};
use crate::network::Network;
use crate::shape::Shape;

/// What classifies the features of a new task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// One linear layer.
    Linear,
    /// A hidden layer of so many units with ReLU, then a linear one.
    Mlp {
        /// Units of the hidden layer.
        hidden: usize,
    },
}

impl fmt::Display for HeadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear => write!(f, "linear"),
            Self::Mlp { hidden } => write!(f, "mlp:{hidden}"),
        }
    }
}

/// A change of a network. Layers are named exactly, by a block's name (`layer4`), or by a glob
/// (`blocks.*.bn1`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Puts a new head of `classes` outputs, freshly initialized and not frozen, in the head's
    /// place.
    ReplaceHead {
        /// Number of classes.
        classes: usize,
        /// What it is made of.
        kind: HeadKind,
    },
    /// Makes the value of a layer the network's output and drops what it does not need.
    CutAt {
        /// The layer or block.
        layer: String,
    },
    /// Freezes layers: no gradient, stored batch statistics, no dropout.
    Freeze {
        /// Which layers.
        layers: String,
    },
    /// Lets layers be trained.
    Unfreeze {
        /// Which layers.
        layers: String,
    },
    /// Freezes everything that the features (what the head takes) depend on.
    FreezeBody,
    /// Freezes everything before a layer and lets it and all after it be trained.
    UnfreezeFrom {
        /// The first layer or block that is trained.
        layer: String,
    },
    /// Takes images of another number of channels: the first convolution's weights are summed for
    /// one channel, for others repeated and scaled by old / new.
    AdaptInput {
        /// Channels of the images.
        channels: usize,
    },
}

/// Why an edit is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The edited graph cannot be.
    #[error(transparent)]
    Graph(#[from] GraphError),
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
    /// A pattern that is not a glob.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What takes the images is no convolution that could be adapted.
    #[error("`{layer}`, which takes the images of `{net}`, is no convolution over all channels")]
    Stem {
        /// The network.
        net: String,
        /// The layer.
        layer: String,
    },
    /// A network without a head.
    #[error("`{net}` has no head to replace")]
    NoHead {
        /// The network.
        net: String,
    },
}

impl Hint for EditError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Graph(error) => return error.hint(),
            Self::NoSuchLayers { net, nearest, .. } => {
                format!("try `{nearest}`; `refit layers {net}` lists all")
            }
            Self::Pattern { .. } => {
                "use a name, a block's name, or a glob such as `layer[34].*`".into()
            }
            Self::Stem { .. } => {
                "give images of as many channels as the network was made for".into()
            }
            Self::NoHead { .. } => "start from a network that classifies".into(),
        })
    }
}

impl Network {
    /// Applies edits in their order, all or none; `seed` initializes what is new.
    ///
    /// # Errors
    /// The first refusal; `self` is as it was.
    pub fn edit(&self, edits: &[Edit], seed: u64) -> Result<Self, EditError> {
        let mut net = self.clone();
        for edit in edits {
            net = net.apply(edit, seed)?;
        }
        Ok(net)
    }

    fn apply(mut self, edit: &Edit, seed: u64) -> Result<Self, EditError> {
        match edit {
            Edit::ReplaceHead { classes, kind } => self.replace_head(*classes, *kind, seed),
            Edit::CutAt { layer } => self.cut_at(layer),
            Edit::Freeze { layers } => {
                let nodes = self.matching(layers)?;
                self.frozen.extend(nodes);
                Ok(self)
            }
            Edit::Unfreeze { layers } => {
                let nodes = self.matching(layers)?;
                self.frozen.retain(|id| !nodes.contains(id));
                Ok(self)
            }
            Edit::FreezeBody => {
                self.frozen = self.graph.ancestors(&[self.graph.features()]);
                Ok(self)
            }
            Edit::UnfreezeFrom { layer } => {
                let first = self.graph.find_first(layer)?;
                self.frozen = (0..first).collect();
                Ok(self)
            }
            Edit::AdaptInput { channels } => self.adapt_input(*channels),
        }
    }

    /// The nodes whose names fit a name, a block's name or a glob.
    fn matching(&self, pattern: &str) -> Result<BTreeSet<NodeId>, EditError> {
        let glob = Glob::new(pattern)
            .map_err(|e| EditError::Pattern {
                pattern: pattern.to_owned(),
                reason: e.kind().to_string(),
            })?
            .compile_matcher();
        let fits = |name: &str| is_under(name, pattern) || glob.is_match(name);
        let nodes = self.graph.nodes().iter().enumerate();
        let found: BTreeSet<NodeId> =
            nodes.filter(|(_, n)| fits(&n.name)).map(|(id, _)| id).collect();
        if found.is_empty() {
            let GraphError::UnknownLayer { net, nearest, .. } = self.graph.unknown(pattern) else {
                unreachable!("unknown() names an unknown layer")
            };
            return Err(EditError::NoSuchLayers { net, pattern: pattern.to_owned(), nearest });
        }
        Ok(found)
    }

    fn replace_head(self, classes: usize, kind: HeadKind, seed: u64) -> Result<Self, EditError> {
        let graph = &self.graph;
        let head = graph.head().to_owned();
        let first = (0..graph.nodes().len()).find(|&id| graph.is_head(id));
        let Some(first) = first.filter(|_| !head.is_empty()) else {
            return Err(EditError::NoHead { net: graph.name().to_owned() });
        };
        let input = graph.nodes()[first].inputs[0];
        // Classifiers half-way learn the new task too, as far as they don't depend on the head.
        let halfway: Vec<Auxiliary> = graph
            .auxiliary()
            .iter()
            .filter(|a| matches!(graph.nodes()[a.output].layer, Layer::Linear(_)))
            .filter(|a| !graph.ancestors(&[a.output]).iter().any(|&id| graph.is_head(id)))
            .copied()
            .collect();
        let takes = |a: &Auxiliary| graph.nodes()[a.output].inputs[0];
        let mut needed: Vec<NodeId> = halfway.iter().map(takes).collect();
        needed.push(input);
        let (mut builder, wires) = rebuild(graph, &graph.ancestors(&needed));
        let mut fresh = Vec::new();
        for auxiliary in &halfway {
            let name = &graph.nodes()[auxiliary.output].name;
            let y = builder.linear(name, wires[&takes(auxiliary)], classes);
            builder.auxiliary(y, auxiliary.share);
            fresh.push(name.clone());
        }
        let mut x = wires[&input];
        if let Shape::Map { .. } = builder.shape(x) {
            x = builder.global_avg_pool("head_pool", x);
        }
        let y = match kind {
            HeadKind::Linear => builder.linear(&head, x, classes),
            HeadKind::Mlp { hidden } => builder.scope(&head, |g| {
                let y = g.linear("fc1", x, hidden);
                let y = g.activation("act", y, Activation::Relu);
                g.linear("fc2", y, classes)
            }),
        };
        let mut net = self.with_graph(builder.finish(y, &head)?);
        let graph = Arc::clone(&net.graph);
        net.reinitialize(seed, |id| graph.is_head(id) || fresh.contains(&graph.nodes()[id].name));
        Ok(net)
    }

    fn cut_at(self, layer: &str) -> Result<Self, EditError> {
        let output = self.graph.find(layer)?;
        let kept = self.graph.ancestors(&[output]);
        let head =
            if kept.iter().any(|&id| self.graph.is_head(id)) { self.graph.head() } else { "" };
        let (builder, wires) = rebuild(&self.graph, &kept);
        let graph = builder.finish(wires[&output], head)?;
        Ok(self.with_graph(graph))
    }

    /// The same parameters and frozen layers, as far as they are in `graph`, under a new graph.
    pub(crate) fn with_graph(mut self, graph: Graph) -> Self {
        let frozen: BTreeSet<&str> =
            self.frozen.iter().map(|&id| self.graph.nodes()[id].name.as_str()).collect();
        let ids = graph.nodes().iter().enumerate();
        let frozen = ids.filter(|(_, n)| frozen.contains(n.name.as_str())).map(|(id, _)| id);
        let frozen = frozen.collect();
        let names: BTreeSet<String> = (0..graph.nodes().len())
            .flat_map(|id| graph.parameters(id).into_iter().map(move |p| (id, p.suffix)))
            .map(|(id, suffix)| graph.parameter_name(id, suffix))
            .collect();
        self.parameters.retain(|name, _| names.contains(name));
        self.frozen = frozen;
        self.graph = Arc::new(graph);
        self
    }
}

/// A builder that holds the `kept` nodes of a graph, and where each went.
fn rebuild(
    graph: &Graph,
    kept: &BTreeSet<NodeId>,
) -> (Builder, std::collections::BTreeMap<NodeId, Wire>) {
    let (mut builder, input) = Builder::new(graph.name(), graph.input_shape());
    let mut wires = std::collections::BTreeMap::from([(0, input)]);
    for &id in kept.iter().filter(|&&id| id != 0) {
        let node = &graph.nodes()[id];
        let inputs: Vec<Wire> = node.inputs.iter().map(|i| wires[i]).collect();
        wires.insert(id, builder.layer(&node.name, node.layer, &inputs));
    }
    (builder, wires)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    fn lite0() -> Network {
        zoo::find("efficientnet_lite0").unwrap().random(1, &Default::default())
    }

    #[test]
    fn a_new_head_keeps_the_body() {
        let net = lite0();
        let edits = [
            Edit::ReplaceHead { classes: 7, kind: HeadKind::Mlp { hidden: 32 } },
            Edit::FreezeBody,
        ];
        let new = net.edit(&edits, 2).unwrap();
        assert_eq!(new.graph().nodes()[new.graph().output()].shape, Shape::vector(7));
        let trained: Vec<&str> = new.trainable().map(|(name, _)| name).collect();
        assert_eq!(
            trained,
            [
                "classifier.fc1.weight",
                "classifier.fc1.bias",
                "classifier.fc2.weight",
                "classifier.fc2.bias"
            ]
        );
        let body = "blocks.3.1.conv_dw.weight";
        assert_eq!(new.parameters()[body].to_vec(), net.parameters()[body].to_vec());
        // The head is found again and can be replaced once more.
        let again =
            new.edit(&[Edit::ReplaceHead { classes: 3, kind: HeadKind::Linear }], 2).unwrap();
        assert_eq!(again.parameters()["classifier.weight"].shape, [3, 1280]);
    }

    #[test]
    fn a_cut_drops_what_is_above() {
        let net = lite0().edit(&[Edit::CutAt { layer: "blocks.2".into() }], 0).unwrap();
        assert_eq!(net.graph().nodes()[net.graph().output()].shape, Shape::map(40, 28, 28));
        assert!(
            net.parameters()
                .keys()
                .all(|k| !k.starts_with("blocks.3") && !k.starts_with("classifier"))
        );
        let error =
            net.edit(&[Edit::ReplaceHead { classes: 2, kind: HeadKind::Linear }], 0).unwrap_err();
        assert_eq!(error.to_string(), "`efficientnet_lite0` has no head to replace");
        assert!(error.hint().unwrap().contains("classifies"));
    }

    #[test]
    fn layers_freeze_by_name_block_and_glob() {
        let count = |edits: &[Edit]| lite0().edit(edits, 0).unwrap().trainable().count();
        let freeze = |layers: &str| Edit::Freeze { layers: layers.into() };
        let all = count(&[]);
        assert_eq!(count(&[freeze("classifier")]), all - 2);
        assert_eq!(count(&[freeze("*"), Edit::Unfreeze { layers: "conv_head".into() }]), 1);
        assert_eq!(count(&[freeze("*"), Edit::Unfreeze { layers: "blocks.6".into() }]), 9);
        assert_eq!(count(&[freeze("*"), Edit::Unfreeze { layers: "blocks.6.*.bn1".into() }]), 2);
        assert_eq!(count(&[Edit::UnfreezeFrom { layer: "conv_head".into() }]), 5);
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let net = lite0();
        let edits =
            [Edit::Freeze { layers: "*".into() }, Edit::Unfreeze { layers: "blocks.9".into() }];
        let error = net.edit(&edits, 0).unwrap_err();
        assert_eq!(error.to_string(), "no layer of `efficientnet_lite0` fits `blocks.9`");
        assert!(error.hint().unwrap().contains("try `blocks."));
        assert_eq!(net.trainable().count(), lite0().trainable().count());
        let error = net.edit(&[Edit::Freeze { layers: "a[".into() }], 0).unwrap_err();
        assert!(error.to_string().starts_with("`a[` is not a pattern"));
        assert!(error.hint().unwrap().contains("glob"));
        let error = net.edit(&[Edit::CutAt { layer: "blocks.99".into() }], 0).unwrap_err();
        assert!(error.to_string().contains("no layer `blocks.99`"));
        let none = Edit::ReplaceHead { classes: 0, kind: HeadKind::Linear };
        assert!(net.edit(&[none], 0).unwrap_err().to_string().contains("no outputs"));
    }
}
