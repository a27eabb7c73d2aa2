//! Edits that change what layers compute and keep what they give: activations, pooling.

use serde::{Deserialize, Serialize};

use super::EditError;
use super::draft::Draft;
use super::select::select_kind;
use crate::graph::{GraphRecord, LayerRecord, NodeId};
use crate::layer::{Activation, Divisor, Dropout, Layer, Windows};
use crate::shape::Shape;

/// What a pooling takes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The largest value.
    Max,
    /// The mean.
    Avg,
}

impl Draft {
    pub(super) fn change_activation(
        &self,
        to: Activation,
        pattern: &str,
    ) -> Result<Self, EditError> {
        let is_activation = |layer: &Layer| matches!(layer, Layer::Activation { .. });
        let mut nodes = select_kind(&self.graph, pattern, "activation", is_activation)?;
        nodes.retain(|&id| self.graph.nodes()[id].name == pattern || !self.is_gate(id));
        let mut record = GraphRecord::from(&self.graph);
        for id in nodes {
            record.layers[id].layer = Layer::Activation { function: to };
        }
        self.changed("changing activations", &record)
    }

    /// Whether a node's value is what a gate multiplies by.
    fn is_gate(&self, node: NodeId) -> bool {
        let gates = self.graph.nodes().iter().filter(|n| n.layer == Layer::Gate);
        gates.into_iter().any(|n| n.inputs[1] == node)
    }

    pub(super) fn change_pooling(&self, to: Pooling, pattern: &str) -> Result<Self, EditError> {
        let is_pooling = |layer: &Layer| {
            matches!(layer, Layer::MaxPool(_) | Layer::AvgPool { .. } | Layer::GlobalAvgPool)
        };
        let nodes = select_kind(&self.graph, pattern, "pooling", is_pooling)?;
        let mut record = GraphRecord::from(&self.graph);
        // From behind, so that what is inserted moves nothing that is still to come.
        for &id in nodes.iter().rev() {
            let layer = &mut record.layers[id].layer;
            match (to, *layer) {
                (Pooling::Max, Layer::AvgPool { windows, .. }) => {
                    *layer = Layer::MaxPool(windows);
                }
                (Pooling::Avg, Layer::MaxPool(windows)) => {
                    *layer = Layer::AvgPool { windows, divisor: Divisor::Inside };
                }
                (Pooling::Max, Layer::GlobalAvgPool) => self.global_maximum(&mut record, id)?,
                _ => {}
            }
        }
        self.changed("changing poolings", &record)
    }

    pub(super) fn change_dropout(&self, to: f32, pattern: &str) -> Result<Self, EditError> {
        self.left_out("dropout", to, pattern, |_| to)
    }

    pub(super) fn change_stochastic_depth(
        &self,
        to: f32,
        pattern: &str,
    ) -> Result<Self, EditError> {
        self.left_out("stochastic depth", to, pattern, |depth| to * depth)
    }

    /// Sets what layers of a kind leave out, by how far each comes among them, from above 0 to 1.
    fn left_out(
        &self,
        kind: &'static str,
        to: f32,
        pattern: &str,
        share: impl Fn(f32) -> f32,
    ) -> Result<Self, EditError> {
        if !(0.0..1.0).contains(&to) {
            let (value, range) = (to.to_string(), "in [0, 1)");
            let what = match kind {
                "dropout" => "a dropout's share",
                _ => "the share of stochastic depth",
            };
            return Err(EditError::Value { what, value, range });
        }
        let whole = kind != "dropout";
        let is_kind = |layer: &Layer| matches!(layer, Layer::Dropout(d) if d.whole == whole);
        let nodes = select_kind(&self.graph, pattern, kind, is_kind)?;
        let mut record = GraphRecord::from(&self.graph);
        for (i, &id) in nodes.iter().enumerate() {
            let share = share((i + 1) as f32 / nodes.len() as f32);
            record.layers[id].layer = Layer::Dropout(Dropout { share, whole });
        }
        self.changed("changing what is left out", &record)
    }

    /// Puts the maximum over the whole nominal map before a global mean; of larger maps, the mean
    /// of several maxima is left.
    fn global_maximum(&self, record: &mut GraphRecord, mean: NodeId) -> Result<(), EditError> {
        let node = &self.graph.nodes()[mean];
        let shape = self.graph.nodes()[node.inputs[0]].shape;
        let side = match shape {
            Shape::Map { height, width, .. } if height == width => height,
            _ => {
                let doing = format!("changing `{}`", node.name);
                return Err(self.breaks(&doing, format!("{shape} is not square")));
            }
        };
        let name = self.free_name(&format!("{}_max", node.name));
        let input = self.graph.nodes()[node.inputs[0]].name.clone();
        record.layers[mean].inputs = vec![name.clone()];
        let layer = Layer::MaxPool(Windows::new(side, side));
        record.layers.insert(mean, LayerRecord { name, inputs: vec![input], layer });
        Ok(())
    }
}
