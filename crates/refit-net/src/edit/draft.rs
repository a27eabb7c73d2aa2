//! What edits work on: a graph and what is known about its parameters, without their values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::EditError;
use super::input::adapt;
use super::rows::Rows;
use crate::graph::{Graph, GraphError, GraphRecord, NodeId};
use crate::layer::{Layer, ParameterSpec};
use crate::network::{Network, Parameter, initial_values};

/// Where the values of a parameter come from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// The network's parameter of this name.
    Kept(String),
    /// The same, for filters that now take another number of input channels.
    Adapted(String),
    /// The seed; the name and the layer that the parameter had when it was made.
    Fresh(String, Layer),
    /// The seed, but for some rows.
    Rows(Box<Rows>),
}

impl Origin {
    /// The parameter, its values being of `net`.
    pub fn parameter(&self, spec: &ParameterSpec, net: &Network, seed: u64) -> Parameter {
        let values = match self {
            Self::Kept(old) => return net.parameters()[old].clone(),
            Self::Adapted(old) => {
                let old = &net.parameters()[old];
                let taps = old.shape[2..].iter().product();
                adapt(&old.to_vec(), old.shape[1], spec.shape[1], taps)
            }
            Self::Fresh(first, layer) => initial_values(layer, spec, first, seed),
            Self::Rows(rows) => rows.values(spec, net, seed),
        };
        Parameter::new(spec, values, net.device())
    }
}

/// A network under edits.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub graph: Graph,
    /// Frozen layers by name.
    pub frozen: BTreeSet<String>,
    /// By parameter.
    pub origins: BTreeMap<String, Origin>,
    /// The name that a layer had before all edits; new ones have none.
    pub was: BTreeMap<String, String>,
}

impl Draft {
    /// A draft of a graph in which the layers that `is_frozen` picks are frozen.
    pub fn new(graph: &Graph, is_frozen: impl Fn(NodeId) -> bool) -> Self {
        let nodes = graph.nodes().iter().enumerate();
        let frozen = nodes.filter(|(id, _)| is_frozen(*id)).map(|(_, n)| n.name.clone());
        let parameters = parameter_names(graph);
        Self {
            frozen: frozen.collect(),
            origins: parameters.map(|name| (name.clone(), Origin::Kept(name))).collect(),
            was: graph.nodes().iter().map(|n| (n.name.clone(), n.name.clone())).collect(),
            graph: graph.clone(),
        }
    }

    /// The same under another graph. `was` gives the name that a layer has in this one, if it is
    /// there. Parameters stay where their shapes do; layers that get fresh ones are not frozen.
    pub fn with_graph(
        &self,
        record: &GraphRecord,
        was: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GraphError> {
        let graph = Graph::try_from(&record.pruned())?;
        let ids: BTreeMap<&str, NodeId> =
            self.graph.nodes().iter().enumerate().map(|(id, n)| (n.name.as_str(), id)).collect();
        let mut next =
            Self { graph, frozen: BTreeSet::new(), origins: BTreeMap::new(), was: BTreeMap::new() };
        for (id, node) in next.graph.nodes().iter().enumerate() {
            let old = was(&node.name).and_then(|name| ids.get(name.as_str()).copied());
            let before = old.map_or_else(Vec::new, |old| self.graph.parameters(old));
            let specs = next.graph.parameters(id);
            for spec in &specs {
                let name = next.graph.parameter_name(id, spec.suffix);
                let origin = match old.filter(|_| before.contains(spec)) {
                    Some(old) => self.origins[&self.graph.parameter_name(old, spec.suffix)].clone(),
                    None => Origin::Fresh(name.clone(), node.layer),
                };
                if next.origins.insert(name.clone(), origin).is_some() {
                    let net = next.graph.name().to_owned();
                    return Err(GraphError::Duplicate { net, layer: name });
                }
            }
            let Some(old) = old.map(|old| &self.graph.nodes()[old].name) else { continue };
            if self.frozen.contains(old) && specs.iter().all(|spec| before.contains(spec)) {
                next.frozen.insert(node.name.clone());
            }
            if let Some(first) = self.was.get(old) {
                next.was.insert(node.name.clone(), first.clone());
            }
        }
        Ok(next)
    }

    /// The same under another graph, in which layers have the names that they have here.
    pub fn with_same_names(&self, record: &GraphRecord) -> Result<Self, GraphError> {
        self.with_graph(record, |name| Some(name.to_owned()))
    }

    /// Gives the parameters of some layers new values, and thaws them.
    pub fn reinitialize(&mut self, nodes: impl IntoIterator<Item = NodeId>) {
        for id in nodes {
            let node = &self.graph.nodes()[id];
            self.frozen.remove(&node.name);
            for spec in self.graph.parameters(id) {
                let name = self.graph.parameter_name(id, spec.suffix);
                self.origins.insert(name.clone(), Origin::Fresh(name, node.layer));
            }
        }
    }

    /// The names of some layers.
    pub fn names(&self, nodes: &BTreeSet<NodeId>) -> impl Iterator<Item = String> {
        nodes.iter().map(|&id| self.graph.nodes()[id].name.clone())
    }

    /// The edited network, with the values of the one that it was drawn from.
    pub fn finish(self, net: &Network, seed: u64) -> Network {
        let mut parameters = BTreeMap::new();
        for id in 0..self.graph.nodes().len() {
            for spec in self.graph.parameters(id) {
                let name = self.graph.parameter_name(id, spec.suffix);
                let parameter = self.origins[&name].parameter(&spec, net, seed);
                parameters.insert(name, parameter);
            }
        }
        let nodes = self.graph.nodes().iter().enumerate();
        let mut edited = net.clone();
        edited.frozen =
            nodes.filter(|(_, n)| self.frozen.contains(&n.name)).map(|(id, _)| id).collect();
        edited.parameters = parameters;
        edited.graph = Arc::new(self.graph);
        edited
    }

    /// Refuses a change.
    pub fn breaks(&self, doing: &str, reason: impl ToString) -> EditError {
        EditError::Breaks {
            net: self.graph.name().to_owned(),
            doing: doing.to_owned(),
            reason: reason.to_string(),
            nearest: None,
        }
    }
}

fn parameter_names(graph: &Graph) -> impl Iterator<Item = String> {
    (0..graph.nodes().len()).flat_map(move |id| {
        graph.parameters(id).into_iter().map(move |p| graph.parameter_name(id, p.suffix))
    })
}
