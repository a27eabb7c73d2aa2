//! Which layers run together, and in which order.

use std::collections::BTreeSet;

use crate::graph::{Graph, NodeId};
use crate::layer::{Activation, Layer};

/// Layers that run as one: a main layer and what is fused behind it. A step runs when the last of
/// its layers would, so that everything it takes is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The first layer.
    pub main: NodeId,
    /// A batch norm behind a convolution, or where parameters do not change, a layer scale.
    pub norm: Option<NodeId>,
    /// What is added then.
    pub residual: Option<NodeId>,
    /// What is applied last.
    pub activation: Activation,
    /// The node whose value this gives.
    pub output: NodeId,
    /// All layers that run in it, in order.
    pub layers: Vec<NodeId>,
    /// Values that no later step takes: dropped after this one.
    pub last_uses: Vec<NodeId>,
}

impl Step {
    /// Every value it takes.
    pub fn inputs(&self, graph: &Graph) -> Vec<NodeId> {
        graph.nodes()[self.main].inputs.iter().copied().chain(self.residual).collect()
    }
}

/// Steps from given values to wanted ones.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
}

/// What steps are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Parameters do not change: dropout does nothing.
    Frozen,
    /// A way back: an activation that does more than clamp stands alone, since what goes into it has
    /// to be known.
    Training,
}

impl Plan {
    /// The steps that compute `wanted` from `given`; values in `wanted` are never fused away.
    pub fn new(
        graph: &Graph,
        given: &BTreeSet<NodeId>,
        wanted: &[NodeId],
        purpose: Purpose,
    ) -> Self {
        let needed = needed(graph, given, wanted);
        let mut fuser = Fuser {
            graph,
            purpose,
            needed: &needed,
            uses: vec![0; graph.nodes().len()],
            taken: BTreeSet::new(),
        };
        for &id in &needed {
            graph.nodes()[id].inputs.iter().for_each(|&i| fuser.uses[i] += 1);
        }
        // A wanted value counts as used twice, so that nothing absorbs it.
        wanted.iter().for_each(|&id| fuser.uses[id] += 2);

        let mut steps = Vec::new();
        for &id in &needed {
            if !fuser.taken.contains(&id) {
                steps.push(fuser.step(id));
            }
        }
        steps.sort_by_key(|s| s.output);
        mark_last_uses(graph, &mut steps, wanted);
        Self { steps }
    }
}

/// The nodes to compute, in order: those that `wanted` need, up to `given`.
fn needed(graph: &Graph, given: &BTreeSet<NodeId>, wanted: &[NodeId]) -> BTreeSet<NodeId> {
    let mut needed = BTreeSet::new();
    let mut open = wanted.to_vec();
    while let Some(id) = open.pop() {
        if !given.contains(&id) && needed.insert(id) {
            open.extend(&graph.nodes()[id].inputs);
        }
    }
    needed
}

fn mark_last_uses(graph: &Graph, steps: &mut [Step], wanted: &[NodeId]) {
    let mut seen: BTreeSet<NodeId> = wanted.iter().copied().collect();
    for step in steps.iter_mut().rev() {
        for input in step.inputs(graph) {
            if seen.insert(input) {
                step.last_uses.push(input);
            }
        }
    }
}

struct Fuser<'a> {
    graph: &'a Graph,
    purpose: Purpose,
    needed: &'a BTreeSet<NodeId>,
    uses: Vec<usize>,
    taken: BTreeSet<NodeId>,
}

impl Fuser<'_> {
    /// The step that starts at `main`, with as much behind it as may be fused.
    fn step(&mut self, main: NodeId) -> Step {
        let mut step = Step {
            main,
            norm: None,
            residual: None,
            activation: Activation::Identity,
            output: main,
            layers: vec![main],
            last_uses: Vec::new(),
        };
        let layer = self.graph.nodes()[main].layer;
        let purpose = self.purpose;
        let convolves = match purpose {
            Purpose::Frozen => self.graph.nodes()[main].convolution().is_some(),
            Purpose::Training => matches!(layer, Layer::Conv(_)),
        };
        if let Layer::Activation { function } = layer {
            step.activation = function;
            return step;
        }
        if convolves {
            let scales = |l: &Layer| match l {
                Layer::BatchNorm(_) => true,
                Layer::LayerScale(_) => purpose == Purpose::Frozen,
                _ => false,
            };
            if let Some(norm) = self.next(step.output, scales) {
                (step.norm, step.output) = (Some(norm), norm);
                step.layers.push(norm);
            }
            self.skip_dropout(&mut step);
            if let Some(add) = self.next(step.output, |l| matches!(l, Layer::Add)) {
                let other = self.graph.nodes()[add].inputs.iter().find(|&&i| i != step.output);
                (step.residual, step.output) = (other.copied(), add);
                step.layers.push(add);
            }
        }
        if (convolves || matches!(layer, Layer::BatchNorm(_) | Layer::Add))
            && let Some(next) = self.next(step.output, fuses(purpose))
            && let Layer::Activation { function } = self.graph.nodes()[next].layer
        {
            (step.activation, step.output) = (function, next);
            step.layers.push(next);
        }
        step
    }

    /// Takes the dropout behind a step where it does nothing.
    fn skip_dropout(&mut self, step: &mut Step) {
        while self.purpose == Purpose::Frozen
            && let Some(dropout) = self.next(step.output, |l| matches!(l, Layer::Dropout(_)))
        {
            step.output = dropout;
            step.layers.push(dropout);
        }
    }

    /// The only taker of `node`'s value, if it is of the kind wanted; it is taken then.
    fn next(&mut self, node: NodeId, kind: impl Fn(&Layer) -> bool) -> Option<NodeId> {
        if self.uses[node] != 1 {
            return None;
        }
        let taker = self
            .needed
            .iter()
            .copied()
            .find(|&id| self.graph.nodes()[id].inputs.contains(&node))?;
        let fits = kind(&self.graph.nodes()[taker].layer) && self.taken.insert(taker);
        fits.then_some(taker)
    }
}

/// Whether a layer is an activation that may stand behind another layer.
fn fuses(purpose: Purpose) -> impl Fn(&Layer) -> bool {
    move |layer| match layer {
        Layer::Activation { function } => purpose == Purpose::Frozen || function.clamps(),
        _ => false,
    }
}
