//! What edits change, layer by layer.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, Origin};
use crate::graph::NodeId;
use crate::layer::Layer;
use crate::shape::Shape;

/// A layer that edits change, add or remove.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The layer before; none if it is new.
    pub before: Option<LayerState>,
    /// The layer after; none if it is removed.
    pub after: Option<LayerState>,
    /// Where its values come from.
    pub weights: Weights,
}

/// A layer on one side of an edit.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerState {
    /// Its name.
    pub name: String,
    /// What it does.
    pub layer: Layer,
    /// What it gives at the nominal input size.
    pub shape: Shape,
    /// Number of its values, running statistics left out.
    pub parameters: usize,
    /// Whether it is frozen.
    pub frozen: bool,
}

/// Where the values of a layer's parameters come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// It has none.
    None,
    /// They stay.
    Kept,
    /// Some or all start anew.
    Fresh,
    /// So many rows of the old head are kept, others start anew.
    Rows(usize),
}

/// The differences, in the order of the new graph, what is removed where it was.
pub(super) fn between(before: &Draft, after: &Draft) -> Vec<Change> {
    let old_ids: BTreeMap<&str, NodeId> =
        before.graph.nodes().iter().enumerate().map(|(id, n)| (n.name.as_str(), id)).collect();
    let stays: BTreeSet<NodeId> = after.was.values().map(|name| old_ids[&**name]).collect();
    let mut gone = (0..before.graph.nodes().len()).filter(|id| !stays.contains(id)).peekable();
    let removed =
        |id| Change { before: Some(before.state(id)), after: None, weights: Weights::None };
    let mut changes = Vec::new();
    for (id, node) in after.graph.nodes().iter().enumerate() {
        let old = after.was.get(&node.name).map(|name| old_ids[&**name]);
        while let Some(id) = gone.next_if(|&id| old.is_some_and(|old| id < old)) {
            changes.push(removed(id));
        }
        changes.push(Change {
            before: old.map(|old| before.state(old)),
            after: Some(after.state(id)),
            weights: after.weights(id),
        });
    }
    changes.extend(gone.map(removed));
    changes
        .retain(|c| c.before != c.after || matches!(c.weights, Weights::Fresh | Weights::Rows(_)));
    changes
}

impl Draft {
    fn state(&self, id: NodeId) -> LayerState {
        let node = &self.graph.nodes()[id];
        let trained = self.graph.parameters(id).into_iter().filter(|p| p.role.is_trained());
        LayerState {
            name: node.name.clone(),
            layer: node.layer,
            shape: node.shape,
            parameters: trained.map(|p| p.shape.iter().product::<usize>()).sum(),
            frozen: self.frozen.contains(&node.name),
        }
    }

    fn weights(&self, id: NodeId) -> Weights {
        let specs = self.graph.parameters(id);
        let origins = specs.iter().map(|p| &self.origins[&self.graph.parameter_name(id, p.suffix)]);
        let rows = |origin: &Origin| match origin {
            Origin::Rows(rows) => Some(Weights::Rows(rows.pairs.len())),
            _ => None,
        };
        let is_fresh = |origin: &Origin| matches!(origin, Origin::Fresh(..));
        match origins.clone().find_map(rows) {
            Some(rows) => rows,
            None if specs.is_empty() => Weights::None,
            None if origins.clone().any(is_fresh) => Weights::Fresh,
            None => Weights::Kept,
        }
    }
}
