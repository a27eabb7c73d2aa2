//! The part of a network that is trained, and one pass through it.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::cpu::tape::{Recorded, Tape, record};
use crate::cpu::{self, Precision};
use crate::frozen::{Compiled, Value, Values, linear, norm_as_affine, stored_norm};
use crate::graph::{Auxiliary, GraphError, NodeId};
use crate::layer::{Activation, BatchNorm, Conv, Dropout, Layer, ParameterSpec};
use crate::network::Network;
use crate::ops::{self, Geometry};
use crate::plan::{Plan, Purpose, Step};

/// Which statistics batch norms of trained layers use; frozen layers always use the stored ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormStatistics {
    /// The batch's own, which the running statistics follow.
    #[default]
    Batch,
    /// The stored ones, which stay as they are.
    Stored,
}

/// How one pass is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrainingOptions {
    /// What batch norms of trained layers use.
    pub norms: NormStatistics,
    /// The key of this pass's dropout masks: another one for every step.
    pub dropout_key: u64,
}

/// The trained part of a network: everything that depends on a layer that is not frozen.
#[derive(Debug)]
pub struct Training {
    boundary: Vec<NodeId>,
    frozen: Compiled,
    plan: Plan,
    auxiliary: Vec<Auxiliary>,
    taps: Vec<NodeId>,
}

/// What is trained, before anything is compiled.
struct Parts {
    boundary: Vec<NodeId>,
    plan: Plan,
    auxiliary: Vec<Auxiliary>,
}

impl Parts {
    fn of(net: &Network, taps: &[NodeId]) -> Self {
        let trained = trained_nodes(net);
        let output = net.graph.output();
        let asked: Vec<NodeId> = std::iter::once(output).chain(taps.iter().copied()).collect();
        let boundary = boundary(net, &trained, &asked);
        // A classifier half-way is of use as far as it is trained.
        let halfway = net.graph.auxiliary().iter().filter(|a| trained.contains(&a.output));
        let auxiliary: Vec<Auxiliary> = halfway.copied().collect();
        let outputs: Vec<NodeId> =
            asked.into_iter().chain(auxiliary.iter().map(|a| a.output)).collect();
        let plan = Plan::new(&net.graph, &boundary, &outputs, Purpose::Training);
        let boundary: Vec<NodeId> = boundary.into_iter().collect();
        Self { boundary, plan, auxiliary }
    }
}

/// The result of one pass: what a loss is computed from, and what can be differentiated.
#[derive(Debug)]
pub struct Pass {
    /// The network's output `[n, classes]`, tracked.
    pub logits: Tensor<2>,
    /// The same of its [classifiers half-way](crate::Auxiliary), where these are trained, with the
    /// share of each one's loss that is to be added.
    pub auxiliary: Vec<(Tensor<2>, f32)>,
    /// The values of the layers that [`Training::tapped`] was asked for, tracked; maps are
    /// `[n, c, h, w]`.
    pub taps: Vec<Value>,
    way_back: WayBack,
    statistics: Vec<(NodeId, Tensor<1>, Tensor<1>)>,
}

/// How gradients come from the loss to the parameters.
#[derive(Debug)]
enum WayBack {
    /// The tape of a pass on the CPU, until it is used; everything a loss is computed from is a leaf.
    Tape(Option<Tape>, Device),
    /// Burn's, down to these leaves.
    Leaves(BTreeMap<String, Tensor<1>>),
}

impl Training {
    /// Splits a network into its frozen and its trained part. The frozen one is compiled with the
    /// parameters as they are now.
    pub fn new(net: &Network) -> Self {
        Self::new_in(net, Precision::F32)
    }

    /// The same with a frozen part that computes in `precision`; what is trained computes in f32.
    ///
    /// # Panics
    /// If the precision is not supported here ([`Precision::is_supported`]).
    pub fn new_in(net: &Network, precision: Precision) -> Self {
        Self::tapped(net, precision, &[])
    }

    /// The same where a loss also hears of the values of other layers, `taps`: nodes of this graph,
    /// of which each [`Pass`] gives the values.
    ///
    /// # Panics
    /// As [`new_in`](Self::new_in), and if there is no such node.
    pub fn tapped(net: &Network, precision: Precision, taps: &[NodeId]) -> Self {
        let Parts { boundary, plan, auxiliary } = Parts::of(net, taps);
        let frozen = Compiled::with_precision(net, vec![0], boundary.clone(), precision);
        Self { boundary, frozen, plan, auxiliary, taps: taps.to_vec() }
    }

    /// About how many bytes a step of training keeps of one image of `side` pixels a side: what enters
    /// the trained part of `net`, one map for each step of it, and two gradients on the way back.
    /// Weights and the work space of threads come on top.
    ///
    /// # Errors
    /// If the network takes no such images.
    pub fn bytes_an_image(net: &Network, side: usize) -> Result<u64, GraphError> {
        let shapes = net.graph.shapes_at(side, side)?;
        let Parts { boundary, plan, .. } = Parts::of(net, &[]);
        let steps: Vec<usize> = plan.steps.iter().map(|s| shapes[s.output].elements()).collect();
        let kept: usize =
            boundary.iter().map(|&id| shapes[id].elements()).chain(steps.iter().copied()).sum();
        let gradients = 2 * steps.iter().max().copied().unwrap_or(0);
        Ok((kept + gradients) as u64 * size_of::<f32>() as u64)
    }

    /// The names of the layers whose values enter the trained part.
    pub fn boundary<'a>(&self, net: &'a Network) -> Vec<&'a str> {
        self.boundary.iter().map(|&id| net.graph.nodes()[id].name.as_str()).collect()
    }

    /// Runs the frozen part: from images `[n, 3, h, w]` to the boundary.
    pub fn run_frozen(&self, images: Tensor<4>) -> Vec<Value> {
        self.frozen.run(images)
    }

    /// The trained part of `net` as it is now, to be judged: from the boundary's values to the output.
    pub fn compile_trained(&self, net: &Network) -> Compiled {
        Compiled::new(net, self.boundary.clone(), vec![net.graph.output()])
    }

    /// Runs the trained part from the boundary's values, recording what gradients need.
    ///
    /// # Panics
    /// If the number of values differs, or the network's output is not a vector.
    pub fn pass(&self, net: &Network, boundary: Vec<Value>, options: TrainingOptions) -> Pass {
        if !cpu::runs_on(net.device()) {
            return self.pass_on_tensors(net, boundary, options);
        }
        assert_eq!(boundary.len(), self.boundary.len(), "one value for each boundary layer");
        let boundary = self.boundary.iter().copied().zip(boundary);
        let halfway = self.auxiliary.iter().map(|a| a.output);
        let others: Vec<NodeId> = halfway.chain(self.taps.iter().copied()).collect();
        let Recorded { tape, outputs, statistics } =
            record(net, &self.plan, boundary, &others, options);
        let mut leaves = outputs.into_iter().map(leaf);
        let mut vector = || leaves.next().expect("a value for each output").vector();
        Pass {
            logits: vector(),
            auxiliary: self.auxiliary.iter().map(|a| (vector(), a.share)).collect(),
            taps: leaves.collect(),
            way_back: WayBack::Tape(Some(tape), net.device().clone()),
            statistics,
        }
    }

    /// The same by operations on tensors, which every device has.
    pub(crate) fn pass_on_tensors(
        &self,
        net: &Network,
        boundary: Vec<Value>,
        options: TrainingOptions,
    ) -> Pass {
        let lifted = boundary.into_iter().map(|value| match value {
            Value::Map(x) => Value::Map(x.autodiff()),
            Value::Vector(x) => Value::Vector(x.autodiff()),
        });
        let mut values = Values::new(self.boundary.iter().copied().zip(lifted));
        let mut recorder = Recorder::new(net, options);
        for step in &self.plan.steps {
            let value = recorder.run(step, &values);
            values.finish(step, value);
        }
        let halfway = |a: &Auxiliary| (values.get(a.output).vector(), a.share);
        Pass {
            logits: values.get(net.graph.output()).vector(),
            auxiliary: self.auxiliary.iter().map(halfway).collect(),
            taps: self.taps.iter().map(|&id| values.get(id)).collect(),
            way_back: WayBack::Leaves(recorder.leaves),
            statistics: recorder.statistics,
        }
    }
}

impl Network {
    /// Compiles the whole network to be judged as [`Training::new_in`] trains it: what is frozen
    /// computes in `precision`, the rest in f32.
    ///
    /// # Panics
    /// If the precision is not supported here ([`Precision::is_supported`]).
    pub fn compile_mixed(&self, precision: Precision) -> Compiled {
        self.compile_mixed_to(vec![self.graph.output()], precision)
    }

    /// The same, to the values of `outputs`, nodes of this graph: those that no trained layer reaches
    /// come out of the frozen part.
    ///
    /// # Panics
    /// As [`compile_mixed`](Self::compile_mixed).
    pub fn compile_mixed_to(&self, outputs: Vec<NodeId>, precision: Precision) -> Compiled {
        match precision {
            Precision::F32 => Compiled::new(self, vec![0], outputs),
            Precision::Bf16 => self.compile_split_to(outputs, precision),
        }
    }

    /// The same in two parts in any precision.
    fn compile_split_to(&self, outputs: Vec<NodeId>, precision: Precision) -> Compiled {
        let boundary = boundary(self, &trained_nodes(self), &outputs);
        let boundary: Vec<NodeId> = boundary.into_iter().collect();
        let frozen = Compiled::with_precision(self, vec![0], boundary.clone(), precision);
        frozen.then(Compiled::new(self, boundary, outputs))
    }
}

/// A value of which gradients are asked for.
fn leaf(value: Value) -> Value {
    match value {
        Value::Map(x) => Value::Map(x.autodiff().require_grad()),
        Value::Vector(x) => Value::Vector(x.autodiff().require_grad()),
    }
}

/// The nodes whose values enter the trained part, and the `outputs` that it has no part in.
fn boundary(net: &Network, trained: &BTreeSet<NodeId>, outputs: &[NodeId]) -> BTreeSet<NodeId> {
    let nodes = net.graph.nodes();
    let entering = trained.iter().flat_map(|&id| nodes[id].inputs.iter().copied());
    entering.chain(outputs.iter().copied()).filter(|id| !trained.contains(id)).collect()
}

/// The nodes that cannot be computed once and for all: trained or random ones, and what follows.
fn trained_nodes(net: &Network) -> BTreeSet<NodeId> {
    let mut trained = BTreeSet::new();
    for (id, node) in net.graph.nodes().iter().enumerate() {
        let changes = !net.is_frozen(id)
            && (matches!(node.layer, Layer::Dropout(_))
                || net.node_parameters(id).next().is_some());
        if changes || node.inputs.iter().any(|i| trained.contains(i)) {
            trained.insert(id);
        }
    }
    trained
}

impl Pass {
    /// The gradients of `loss`, a scalar computed from the logits, by parameter name.
    ///
    /// # Panics
    /// If they were taken before: what they need is gone then.
    pub fn gradients(&mut self, loss: &Tensor<1>) -> BTreeMap<String, Tensor<1>> {
        let mut gradients = loss.backward();
        match &mut self.way_back {
            WayBack::Tape(tape, device) => {
                let tape = tape.take().expect("gradients are taken once a pass");
                let vectors =
                    std::iter::once(&self.logits).chain(self.auxiliary.iter().map(|(y, _)| y));
                let mut given: Vec<Option<Value>> =
                    vectors.map(|y| Some(Value::Vector(y.grad_remove(&mut gradients)?))).collect();
                given.extend(self.taps.iter().map(|tap| match tap {
                    Value::Map(y) => Some(Value::Map(y.grad_remove(&mut gradients)?)),
                    Value::Vector(y) => Some(Value::Vector(y.grad_remove(&mut gradients)?)),
                }));
                tape.gradients(given, device)
            }
            WayBack::Leaves(leaves) => {
                let of = |(name, leaf): (&String, &Tensor<1>)| {
                    Some((name.clone(), leaf.grad_remove(&mut gradients)?))
                };
                leaves.iter().filter_map(of).collect()
            }
        }
    }

    /// Moves the running statistics of `net` towards this pass's batch.
    pub fn update_statistics(&self, net: &mut Network) {
        for (id, mean, variance) in &self.statistics {
            let Layer::BatchNorm(BatchNorm { momentum, .. }) = net.graph.nodes()[*id].layer else {
                unreachable!("a batch norm")
            };
            for (suffix, new) in [("running_mean", mean), ("running_var", variance)] {
                let name = net.graph.parameter_name(*id, suffix);
                let old = net.parameters[&name].value.clone();
                net.set(&name, old * (1.0 - momentum) + new.clone() * momentum);
            }
        }
    }
}

/// Runs steps while collecting the leaves of the gradient and the batch's statistics.
pub(crate) struct Recorder<'a> {
    net: &'a Network,
    options: TrainingOptions,
    leaves: BTreeMap<String, Tensor<1>>,
    statistics: Vec<(NodeId, Tensor<1>, Tensor<1>)>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(net: &'a Network, options: TrainingOptions) -> Self {
        Self { net, options, leaves: BTreeMap::new(), statistics: Vec::new() }
    }
}

impl Recorder<'_> {
    pub(crate) fn run(&mut self, step: &Step, values: &Values) -> Value {
        let node = &self.net.graph.nodes()[step.main];
        let x = values.get(node.inputs[0]);
        let activation = step.activation;
        match node.layer {
            Layer::Conv(conv) => {
                let residual = step.residual.map(|id| values.get(id).map());
                Value::Map(self.conv(step, conv, x.map(), residual))
            }
            Layer::BatchNorm(norm) => Value::Map(self.norm(step.main, norm, x.map(), activation)),
            Layer::Activation { .. } => x.activate(activation),
            Layer::Add => x.add(values.get(node.inputs[1]), activation),
            Layer::MaxPool(pool) => Value::Map(ops::max_pool(x.map(), pool)),
            Layer::GlobalAvgPool => Value::Vector(ops::mean_pool(x.map())),
            Layer::Dropout(dropout) if !self.net.is_frozen(step.main) => {
                self.dropout(&node.name, x, dropout)
            }
            Layer::Linear(_) => {
                let weight = self.parameter::<2>(step.main, "weight");
                let bias = self.bias(step.main);
                linear(x, weight, bias)
            }
            Layer::Dropout(_) | Layer::Input { .. } => x,
            layer => {
                let inputs = node.inputs.iter().map(|&id| values.get(id)).collect();
                let specs = self.net.graph.parameters(step.main);
                let mut of = |p: &ParameterSpec| self.flat_parameter(step.main, p.suffix);
                let parameters: Vec<Tensor<1>> = specs.iter().map(&mut of).collect();
                ops::single::run(&layer, inputs, &parameters)
            }
        }
    }

    fn conv(
        &mut self,
        step: &Step,
        conv: Conv,
        x: Tensor<4>,
        residual: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let mut y =
            ops::convolve(x, self.parameter(step.main, "weight"), Geometry::new(&conv, h, w));
        if let Some(bias) = self.bias(step.main) {
            y = y + bias.reshape([1, conv.channels, 1, 1]);
        }
        // With a residual between them, the norm runs without the activation.
        let inner = if residual.is_some() { Activation::Identity } else { step.activation };
        y = match step.norm {
            Some(id) => match self.net.graph.nodes()[id].layer {
                Layer::BatchNorm(norm) => self.norm(id, norm, y, inner),
                _ => unreachable!("a plan puts only batch norms there"),
            },
            None => ops::activate(y, inner),
        };
        match residual {
            Some(skip) => ops::add_activate(y, skip, step.activation),
            None => y,
        }
    }

    fn norm(
        &mut self,
        id: NodeId,
        norm: BatchNorm,
        x: Tensor<4>,
        activation: Activation,
    ) -> Tensor<4> {
        let [n, _, h, w] = x.dims();
        let count = n * h * w;
        if self.net.is_frozen(id) {
            let (scale, shift) = stored_norm(self.net, id);
            return ops::scale_shift(x, scale.autodiff(), shift.autodiff(), activation);
        }
        let (scale, shift) = (self.parameter(id, "weight"), self.parameter(id, "bias"));
        // One value has no variance: it is normalized by what is stored.
        if self.options.norms == NormStatistics::Stored || count == 1 {
            let (scale, shift) = norm_as_affine(self.net, id, scale, shift);
            return ops::scale_shift(x, scale, shift, activation);
        }
        let (y, mean, variance) = ops::normalize(x, scale, shift, norm.epsilon, activation);
        let unbiased = variance.inner() * (count as f64 / (count - 1) as f64);
        self.statistics.push((id, mean.inner(), unbiased));
        y
    }

    fn dropout(&self, name: &str, x: Value, dropout: Dropout) -> Value {
        let dims = x.dims();
        let values = dims[1..].iter().product();
        let mask = dropout_mask(self.options.dropout_key, name, dropout, [dims[0], values]);
        match x {
            Value::Map(x) => {
                let mask = TensorData::new(mask, x.dims());
                let mask = Tensor::from_data(mask, self.net.device());
                Value::Map(x * mask.autodiff())
            }
            Value::Vector(x) => {
                let mask = TensorData::new(mask, x.dims());
                let mask = Tensor::from_data(mask, self.net.device());
                Value::Vector(x * mask.autodiff())
            }
        }
    }

    fn bias(&mut self, id: NodeId) -> Option<Tensor<1>> {
        self.net.has_bias(id).then(|| self.parameter(id, "bias"))
    }

    /// A parameter in its shape: a leaf of the gradient, or a constant where its layer is frozen.
    fn parameter<const D: usize>(&mut self, id: NodeId, suffix: &str) -> Tensor<D> {
        let parameter = self.net.parameter(id, suffix);
        let shape: [usize; D] = parameter.shape.as_slice().try_into().expect("a checked rank");
        self.flat_parameter(id, suffix).reshape(shape)
    }

    /// The same as one row of values.
    fn flat_parameter(&mut self, id: NodeId, suffix: &str) -> Tensor<1> {
        let value = self.net.parameter(id, suffix).value.clone().autodiff();
        if self.net.is_frozen(id) {
            return value;
        }
        let name = self.net.graph.parameter_name(id, suffix);
        self.leaves.entry(name).or_insert_with(|| value.require_grad()).clone()
    }
}

/// 0 for a dropped value, `1 / (1 - share)` for a kept one, for each of `[images, values]`; depends
/// on `key` and `name` alone.
pub(crate) fn dropout_mask(
    key: u64,
    name: &str,
    Dropout { share, whole }: Dropout,
    [images, values]: [usize; 2],
) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"refit dropout").update(&key.to_le_bytes()).update(name.as_bytes());
    let mut rng = StdRng::from_seed(*hasher.finalize().as_bytes());
    let kept = 1.0 / (1.0 - share);
    let mut draw = || if rng.random::<f32>() < share { 0.0 } else { kept };
    match whole {
        false => (0..images * values).map(|_| draw()).collect(),
        true => (0..images).flat_map(|_| std::iter::repeat_n(draw(), values)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tape::tests::{everything, everything_else, images, shake};
    use crate::graph::Builder;
    use crate::shape::Shape;
    use crate::{Edit, Graph};

    /// Wherever training begins and whatever is asked for, above or below: in two parts as in one.
    #[test]
    fn outputs_come_from_either_side_of_the_boundary() {
        split_anywhere(everything(), &["input", "a_relu6", "d_relu", "pool", "mean", "fc"]);
        split_anywhere(everything_else(), &["a_silu", "gated", "cat", "v_gelu"]);
    }

    fn split_anywhere(graph: Graph, outputs: &[&str]) {
        let device = Device::flex();
        let mut net = Network::initialize(graph, 3, &device);
        shake(&mut net);
        let head = net.graph.head().to_owned();
        let outputs: Vec<NodeId> =
            outputs.iter().map(|name| net.graph.find(name).unwrap()).collect();
        let run = |compiled: Compiled| -> Vec<Vec<f32>> {
            let values = compiled.run(images(3, &device).map());
            values.iter().map(Value::to_vec).collect()
        };
        let whole = run(Compiled::new(&net, vec![0], outputs.clone()));
        for edit in [
            Edit::UnfreezeFrom { layer: head },
            Edit::FreezeBody,
            Edit::Freeze { layers: "*".into() },
            Edit::Unfreeze { layers: "*".into() },
        ] {
            let edited = net.edit(std::slice::from_ref(&edit), 0).unwrap();
            let split = run(edited.compile_split_to(outputs.clone(), Precision::F32));
            for (whole, split) in whole.iter().zip(&split) {
                assert_eq!(whole.len(), split.len());
                let top = whole.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
                for (a, b) in whole.iter().zip(split) {
                    assert!((a - b).abs() <= 1e-5 * top, "{edit:?}: {b}, not {a}, of {top}");
                }
            }
        }
    }

    #[test]
    fn memory_is_a_map_a_step() {
        let (mut g, x) = Builder::new("small", Shape::map(3, 8, 8));
        let y = g.conv("a", x, Conv::k3(4));
        let y = g.batch_norm("norm", y, BatchNorm::default());
        let y = g.relu("relu", y);
        let y = g.conv("b", y, Conv::k3(2).stride(2));
        let y = g.global_avg_pool("pool", y);
        let y = g.linear("fc", y, 5);
        let net = Network::initialize(g.finish(y, "fc").unwrap(), 0, &Device::flex());
        let bytes = |edits: &[Edit], side| {
            Training::bytes_an_image(&net.edit(edits, 0).unwrap(), side).unwrap()
        };
        // The image, both convolutions (norm and activation go with the first), pool and head.
        let kept = 3 * 64 + 4 * 64 + 2 * 16 + 2 + 5;
        assert_eq!(bytes(&[], 8), 4 * (kept + 2 * 4 * 64));
        // What is frozen leaves nothing but what it gives.
        let from = Edit::UnfreezeFrom { layer: "b".into() };
        assert_eq!(bytes(&[from], 8), 4 * (4 * 64 + 2 * 16 + 2 + 5 + 2 * 2 * 16));
        assert!(bytes(&[], 16) > 3 * bytes(&[], 8));
        let head = Edit::FreezeBody;
        assert_eq!(bytes(&[head], 8), 4 * (2 + 5 + 2 * 5));
    }
}
