//! Edits of a network's end: a new head, a cut.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::EditError;
use super::draft::Draft;
use crate::graph::{GraphRecord, LayerRecord, NodeId};
use crate::layer::{Activation, Layer, Linear};
use crate::shape::Shape;

/// What classifies the features of a new task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// One linear layer.
    #[default]
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

impl Draft {
    pub(super) fn replace_head(
        &self,
        classes: usize,
        kind: HeadKind,
        keep: &[[usize; 2]],
    ) -> Result<Self, EditError> {
        let graph = &self.graph;
        let first = (0..graph.nodes().len()).find(|&id| graph.is_head(id));
        // A network that was cut gets one on top.
        let (head, input) = match first {
            Some(first) => (graph.head().to_owned(), graph.nodes()[first].inputs[0]),
            None => (self.free_name("head"), graph.output()),
        };
        let halfway = self.halfway();
        let mut record = GraphRecord::from(graph);
        let kept = graph.ancestors(&Vec::from_iter(halfway.iter().copied().chain([input])));
        let names: BTreeSet<String> = self.names(&kept).collect();
        record.layers.retain(|l| names.contains(&l.name));
        record.auxiliary.retain(|(name, _)| names.contains(name));
        // Classes are not what images are made again of.
        record.reconstruction = None;
        let outputs: BTreeSet<String> = self.names(&halfway).collect();
        for layer in record.layers.iter_mut().filter(|l| outputs.contains(&l.name)) {
            layer.layer = Layer::Linear(Linear::new(classes));
        }
        let added = self.head_layers(&head, input, classes, kind);
        let fresh: BTreeSet<String> = added.iter().map(|l| l.name.clone()).chain(outputs).collect();
        record.output = added.last().map_or_else(|| head.clone(), |l| l.name.clone());
        record.layers.extend(added);
        record.head = head;
        let mut next = self.with_same_names(&record)?;
        let nodes = next.graph.nodes().iter().enumerate();
        let fresh = nodes.filter(|(_, n)| fresh.contains(&n.name)).map(|(id, _)| id);
        next.reinitialize(Vec::from_iter(fresh));
        if !keep.is_empty() {
            next.keep_rows(self, kind, keep)?;
        }
        Ok(next)
    }

    /// The ends of classifiers half-way that learn the new task too: all that are linear and don't
    /// depend on the head.
    fn halfway(&self) -> BTreeSet<NodeId> {
        let graph = &self.graph;
        let outputs = graph.auxiliary().iter().map(|a| a.output);
        let linear = outputs.filter(|&id| matches!(graph.nodes()[id].layer, Layer::Linear(_)));
        linear.filter(|&id| !graph.ancestors(&[id]).iter().any(|&id| graph.is_head(id))).collect()
    }

    fn head_layers(
        &self,
        head: &str,
        input: NodeId,
        classes: usize,
        kind: HeadKind,
    ) -> Vec<LayerRecord> {
        let node = &self.graph.nodes()[input];
        let mut layers: Vec<LayerRecord> = Vec::new();
        let mut add = |name: String, layer| {
            let input = layers.last().map_or_else(|| node.name.clone(), |l| l.name.clone());
            layers.push(LayerRecord { name, inputs: vec![input], layer });
        };
        if let Shape::Map { .. } = node.shape {
            add(self.free_name("head_pool"), Layer::GlobalAvgPool);
        }
        let linear = |features| Layer::Linear(Linear::new(features));
        match kind {
            HeadKind::Linear => add(head.to_owned(), linear(classes)),
            HeadKind::Mlp { hidden } => {
                add(format!("{head}.fc1"), linear(hidden));
                add(format!("{head}.act"), Layer::Activation { function: Activation::Relu });
                add(format!("{head}.fc2"), linear(classes));
            }
        }
        layers
    }

    pub(super) fn cut_at(&self, layer: &str) -> Result<Self, EditError> {
        let output = self.graph.find(layer)?;
        let kept = self.graph.ancestors(&[output]);
        let mut record = GraphRecord::from(&self.graph);
        record.output = self.graph.nodes()[output].name.clone();
        record.auxiliary.clear();
        record.reconstruction = None;
        if !kept.iter().any(|&id| self.graph.is_head(id)) {
            record.head.clear();
        }
        Ok(self.with_same_names(&record)?)
    }
}
