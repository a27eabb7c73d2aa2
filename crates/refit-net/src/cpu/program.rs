//! The frozen part of a network, ready to run: weights packed, everything fused.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Device;
use refit_kernels::{
    Buffer, Entering, Exit, Filter, PoolShape, bend, bf16, convolve, enter, max_pool, mean_pool,
    together,
};

use super::clock::{Phase, timed};
use super::half::{self, HalfConv, Held};
use super::inverted::{Inverted, Search};
use super::map::{Floats, Map};
use super::{Precision, conv_shape, parted, single};
use crate::frozen::{Value, folded_conv, stored_norm};
use crate::graph::NodeId;
use crate::layer::{Conv, Layer, Windows};
use crate::network::Network;
use crate::plan::{Plan, Step};
use crate::shape::Shape;

/// Steps over maps, with their parameters packed.
#[derive(Debug)]
pub(crate) struct Program {
    steps: Vec<Prepared>,
    given: Vec<NodeId>,
    /// The wanted nodes, and whether their values are vectors.
    outputs: Vec<(NodeId, bool)>,
    device: Device,
}

#[derive(Debug)]
struct Prepared {
    step: Step,
    inputs: Vec<NodeId>,
    kernel: Kernel,
}

#[derive(Debug)]
enum Kernel {
    Conv {
        conv: Conv,
        filter: Filter,
        shift: Vec<f32>,
    },
    HalfConv(HalfConv),
    Inverted(Box<Inverted>),
    ScaleShift {
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Activate,
    Add,
    MaxPool(Windows),
    MeanPool,
    Linear {
        filter: Filter,
        bias: Option<Vec<f32>>,
        outputs: usize,
    },
    Pass,
    /// Any other layer, and its parameters.
    Single(Layer, Vec<Vec<f32>>),
}

impl Program {
    /// # Panics
    /// If the precision is not supported.
    pub(crate) fn new(
        net: &Network,
        plan: Plan,
        given: Vec<NodeId>,
        wanted: &[NodeId],
        precision: Precision,
    ) -> Self {
        assert!(precision.is_supported(), "{precision} on a CPU without it");
        let nodes = net.graph.nodes();
        let is_vector = |&id: &NodeId| (id, matches!(nodes[id].shape, Shape::Vector { .. }));
        Self {
            steps: prepare(net, plan, wanted, precision),
            given,
            outputs: wanted.iter().map(is_vector).collect(),
            device: net.device().clone(),
        }
    }

    /// The nodes it runs from.
    pub(crate) fn given(&self) -> &[NodeId] {
        &self.given
    }

    /// Whether it needs the images themselves, which were not given.
    pub(crate) fn takes_input(&self) -> bool {
        self.steps.iter().any(|p| p.step.main == 0)
    }

    /// Runs from the given nodes' values to the wanted ones.
    pub(crate) fn run(&self, given: Vec<Value>) -> Vec<Value> {
        together(|| self.run_steps(given))
    }

    fn run_steps(&self, given: Vec<Value>) -> Vec<Value> {
        let given = given.into_iter().map(|value| Held::Full(Map::from(value)));
        let mut maps: BTreeMap<NodeId, Held> = self.given.iter().copied().zip(given).collect();
        for prepared in &self.steps {
            let layers = &prepared.step.layers;
            let map = timed(layers, Phase::Forward, || prepared.run(&maps));
            maps.insert(prepared.step.output, map);
            for id in &prepared.step.last_uses {
                maps.remove(id);
            }
        }
        self.outputs
            .iter()
            .map(|(id, is_vector)| maps[id].full().to_value(*is_vector, &self.device))
            .collect()
    }
}

impl Prepared {
    fn run(&self, maps: &BTreeMap<NodeId, Held>) -> Held {
        let residual = self.step.residual.map(|id| &maps[&id]);
        match (&self.kernel, &maps[&self.inputs[0]]) {
            (Kernel::HalfConv(conv), x) => conv.run(x, residual, self.step.activation),
            (Kernel::Inverted(block), x) => block.run(x, residual),
            (Kernel::MaxPool(pool), Held::Half(x)) => half::max_pool(pool, x),
            (Kernel::MeanPool, Held::Half(x)) => half::mean_pool(x),
            (Kernel::Pass, x) => x.clone(),
            _ => Held::Full(self.run_full(maps)),
        }
    }

    /// In f32.
    fn run_full(&self, maps: &BTreeMap<NodeId, Held>) -> Map {
        let (activation, curve) = parted(self.step.activation);
        if let Kernel::Conv { conv, filter, shift } = &self.kernel {
            let x = maps[&self.inputs[0]].full();
            let residual = self.step.residual.map(|id| maps[&id].full());
            let residual = residual.as_ref().map(|map| &map.values[..]);
            let exit = Exit { shift: Some(shift), residual, activation, curve };
            return run_conv(conv, filter, &x, exit);
        }
        let mut y = self.run_bounded(maps, activation);
        if let Some(curve) = curve {
            let values = Arc::get_mut(&mut y.values).expect("a map that was just made");
            bend(values, curve);
        }
        y
    }

    /// All but convolutions, and but an activation that does more than clamp.
    fn run_bounded(
        &self,
        maps: &BTreeMap<NodeId, Held>,
        activation: refit_kernels::Activation,
    ) -> Map {
        let x = maps[&self.inputs[0]].full();
        match &self.kernel {
            Kernel::Linear { filter, bias, outputs } => {
                let exit = Exit { shift: bias.as_deref(), ..Exit::default() };
                run_conv(&Conv::k1(*outputs), filter, &x, exit)
            }
            Kernel::ScaleShift { scale, shift } => {
                let entry = refit_kernels::Entry { scale, shift, activation };
                entered(&x, Some(entry), None, refit_kernels::Activation::Identity)
            }
            Kernel::Activate => entered(&x, None, None, activation),
            Kernel::Add => entered(&x, None, Some(&maps[&self.inputs[1]].full()), activation),
            Kernel::MaxPool(pool) => run_max_pool(pool, &x, None, None),
            Kernel::MeanPool => run_mean_pool(&x, None),
            Kernel::Single(layer, parameters) => {
                let inputs: Vec<Map> = self.inputs.iter().map(|id| maps[id].full()).collect();
                single::forward(layer, &inputs, parameters)
            }
            Kernel::Conv { .. } | Kernel::HalfConv(_) | Kernel::Inverted(_) | Kernel::Pass => {
                unreachable!("run before")
            }
        }
    }
}

fn run_conv(conv: &Conv, filter: &Filter, x: &Map, exit: Exit) -> Map {
    let shape = conv_shape(conv, x.shape);
    let [h, w] = shape.out_size();
    let mut y = Buffer::stale(shape.output_len());
    convolve(&shape, &x.values, None, filter, exit, &mut y);
    Map::new([shape.batch, h, w, shape.out_channels], y)
}

fn entered(
    x: &Map,
    entry: Option<refit_kernels::Entry>,
    other: Option<&Map>,
    activation: refit_kernels::Activation,
) -> Map {
    let mut y = Buffer::stale(x.values.len());
    let other = other.map(|o| Entering { x: &o.values, entry: None });
    enter(Entering { x: &x.values, entry }, other, activation, &mut y);
    Map::new(x.shape, y)
}

/// The maxima of windows; where they came from goes to `indices`.
pub(super) fn run_max_pool(
    pool: &Windows,
    x: &Map,
    entry: Option<refit_kernels::Entry>,
    indices: Option<&mut Vec<u8>>,
) -> Map {
    let shape = pool_shape(pool, x.shape);
    let [h, w] = shape.out_size;
    let mut y = Buffer::stale(shape.output_len());
    let indices = indices.map(|indices| {
        indices.resize(shape.output_len(), 0);
        &mut indices[..]
    });
    max_pool(&shape, &x.values, entry, &mut y, indices);
    Map::new([x.shape[0], h, w, x.channels()], y)
}

pub(super) fn pool_shape(
    windows: &Windows,
    [batch, height, width, channels]: [usize; 4],
) -> PoolShape {
    let shape = PoolShape {
        batch,
        height,
        width,
        channels,
        window: [windows.window; 2],
        stride: [windows.stride; 2],
        padding: [windows.pads(0, height), windows.pads(1, width)],
        out_size: [0; 2],
    };
    if windows.ceil { shape.rounded_up() } else { shape.rounded_down() }
}

/// The mean of each channel.
pub(super) fn run_mean_pool(x: &Map, entry: Option<refit_kernels::Entry>) -> Map {
    let [n, _, _, c] = x.shape;
    let mut y = Buffer::stale(n * c);
    mean_pool(n, c, &x.values, entry, &mut y);
    Map::new([n, 1, 1, c], y)
}

/// Packs every step's parameters; those that are an inverted residual become one.
fn prepare(net: &Network, plan: Plan, wanted: &[NodeId], precision: Precision) -> Vec<Prepared> {
    let search = Search { net, plan: &plan, wanted, precision };
    let mut prepared = Vec::new();
    let mut steps = &plan.steps[..];
    while let Some(first) = steps.first() {
        let taken = match search.at(steps) {
            Some(found) => {
                let kernel = Kernel::Inverted(Box::new(found.inverted));
                prepared.push(Prepared { step: found.step, inputs: vec![found.input], kernel });
                found.steps
            }
            None => {
                let inputs = net.graph.nodes()[first.main].inputs.clone();
                let kernel = Kernel::new(net, first, precision);
                prepared.push(Prepared { step: first.clone(), inputs, kernel });
                1
            }
        };
        steps = &steps[taken..];
    }
    prepared
}

impl Kernel {
    fn new(net: &Network, step: &Step, precision: Precision) -> Self {
        let nodes = net.graph.nodes();
        let node = &nodes[step.main];
        let input = node.inputs.first().map(|&id| nodes[id].shape);
        if let Some(conv) = node.convolution() {
            let (weight, shift) = folded_conv(net, step.main, step.norm);
            let (weight, shift) = (Floats::of(weight), Floats::of(shift));
            let shape = conv_shape(&conv, nominal(input));
            let shift = shift.to_vec();
            if precision == Precision::Bf16 && bf16::serves(&shape) {
                let filter = bf16::Filter::new(&shape, &weight);
                return Self::HalfConv(HalfConv { conv, filter, shift });
            }
            return Self::Conv { conv, filter: Filter::for_any_batch(&shape, &weight), shift };
        }
        match node.layer {
            Layer::BatchNorm(_) | Layer::LayerScale(_) => {
                let (scale, shift) = stored_norm(net, step.main);
                let values = |t: burn::tensor::Tensor<1>| Floats::of(t).to_vec();
                Self::ScaleShift { scale: values(scale), shift: values(shift) }
            }
            Layer::Activation { .. } => Self::Activate,
            Layer::Add => Self::Add,
            Layer::MaxPool(pool) => Self::MaxPool(pool),
            Layer::GlobalAvgPool => Self::MeanPool,
            Layer::Linear(_) => {
                let weight = net.parameter(step.main, "weight");
                let [outputs, features] = weight.shape[..] else { unreachable!("a matrix") };
                let shape = conv_shape(&Conv::k1(outputs), [1, 1, 1, features]);
                let bias = net.has_bias(step.main);
                Self::Linear {
                    filter: Filter::new(&shape, &Floats::of(weight.value.clone())),
                    bias: bias.then(|| net.parameter(step.main, "bias").to_vec()),
                    outputs,
                }
            }
            Layer::Scale { factor } => {
                let channels = node.shape.channels();
                Self::ScaleShift { scale: vec![factor; channels], shift: vec![0.0; channels] }
            }
            Layer::Dropout(_) | Layer::Input { .. } => Self::Pass,
            layer => {
                let specs = net.graph.parameters(step.main).into_iter();
                let values = specs.map(|p| net.parameter(step.main, p.suffix).to_vec());
                Self::Single(layer, values.collect())
            }
        }
    }
}

/// One image of a layer's nominal input.
pub(super) fn nominal(input: Option<Shape>) -> [usize; 4] {
    match input {
        Some(Shape::Map { channels, height, width }) => [1, height, width, channels],
        _ => unreachable!("a convolution takes a feature map"),
    }
}
