//! The frozen part of a network, compiled: batch norm folded, activation and residual fused.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Tensor;

use crate::cpu::{self, Precision, program::Program};
use crate::graph::{GraphError, NodeId};
use crate::layer::{Activation, BatchNorm, Conv, Layer, Misfit, Windows};
use crate::network::Network;
use crate::ops::{self, Geometry};
use crate::plan::{Plan, Purpose, Step};

/// A batch of activations.
#[derive(Debug, Clone)]
pub enum Value {
    /// `[n, c, h, w]`.
    Map(Tensor<4>),
    /// `[n, features]`.
    Vector(Tensor<2>),
}

impl Value {
    /// As a feature map.
    ///
    /// # Panics
    /// If it is a vector: shapes were checked when the graph was built.
    pub fn map(self) -> Tensor<4> {
        match self {
            Self::Map(x) => x,
            Self::Vector(x) => panic!("a feature map, not a vector of {:?}", x.dims()),
        }
    }

    /// As a vector.
    ///
    /// # Panics
    /// If it is a feature map: shapes were checked when the graph was built.
    pub fn vector(self) -> Tensor<2> {
        match self {
            Self::Vector(x) => x,
            Self::Map(x) => panic!("a vector, not a feature map of {:?}", x.dims()),
        }
    }

    /// As a vector, a feature map's channels averaged over the image.
    pub fn pooled(self) -> Tensor<2> {
        match self {
            Self::Vector(x) => x,
            Self::Map(x) => ops::mean_pool(x),
        }
    }

    /// Its shape, the batch first.
    pub fn dims(&self) -> Vec<usize> {
        match self {
            Self::Map(x) => x.dims().to_vec(),
            Self::Vector(x) => x.dims().to_vec(),
        }
    }

    /// Its values in row-major order.
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Self::Map(x) => x.to_data().iter::<f32>().collect(),
            Self::Vector(x) => x.to_data().iter::<f32>().collect(),
        }
    }

    pub(crate) fn activate(self, activation: Activation) -> Self {
        match self {
            Self::Map(x) => Self::Map(ops::activate(x, activation)),
            Self::Vector(x) => Self::Vector(ops::activate(x, activation)),
        }
    }

    pub(crate) fn add(self, other: Self, activation: Activation) -> Self {
        match (self, other) {
            (Self::Map(a), Self::Map(b)) => Self::Map(ops::add_activate(a, b, activation)),
            (a, b) => Self::Vector(ops::add_activate(a.vector(), b.vector(), activation)),
        }
    }
}

/// Values by node, each dropped after its last use.
#[derive(Debug, Default)]
pub(crate) struct Values(BTreeMap<NodeId, Value>);

impl Values {
    pub fn new(given: impl IntoIterator<Item = (NodeId, Value)>) -> Self {
        Self(given.into_iter().collect())
    }

    pub fn get(&self, id: NodeId) -> Value {
        self.0[&id].clone()
    }

    pub fn finish(&mut self, step: &Step, value: Value) {
        self.0.insert(step.output, value);
        for id in &step.last_uses {
            self.0.remove(id);
        }
    }
}

/// One step with its parameters ready.
#[derive(Debug)]
enum Kernel {
    Conv {
        conv: Conv,
        weight: Tensor<4>,
        shift: Tensor<1>,
    },
    ScaleShift {
        scale: Tensor<1>,
        shift: Tensor<1>,
    },
    Activate,
    Add,
    MaxPool(Windows),
    MeanPool,
    Linear {
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    },
    Pass,
    /// Any other layer, and its parameters.
    Single(Layer, Vec<Tensor<1>>),
}

/// A network, or a part of it, ready to run without gradients: batch norms are folded into the
/// convolutions before them, activations and residuals fused, dropout left out.
#[derive(Debug)]
pub struct Compiled(Engine);

/// What runs it.
#[derive(Debug)]
enum Engine {
    /// `refit-kernels`, on the CPU.
    Kernels(Program),
    /// Operations on Burn's tensors, on any device.
    Tensors { given: Vec<NodeId>, steps: Vec<(Step, Vec<NodeId>, Kernel)>, outputs: Vec<NodeId> },
    /// One after the other.
    Chain(Box<[Compiled; 2]>),
}

impl Network {
    /// Compiles the way from images to the named layers (or blocks: what their last layer gives).
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn compile(&self, outputs: &[&str]) -> Result<Compiled, GraphError> {
        self.compile_between(&[&self.graph.nodes()[0].name], outputs)
    }

    /// The same, computing in `precision`.
    ///
    /// # Errors
    /// If there is no such layer.
    ///
    /// # Panics
    /// If the precision is not supported here ([`Precision::is_supported`]).
    pub fn compile_in(
        &self,
        outputs: &[&str],
        precision: Precision,
    ) -> Result<Compiled, GraphError> {
        let outputs: Result<Vec<NodeId>, GraphError> =
            outputs.iter().map(|name| self.graph.find(name)).collect();
        Ok(Compiled::with_precision(self, vec![0], outputs?, precision))
    }

    /// Compiles the way from the values of `given` layers to the named ones.
    ///
    /// # Errors
    /// If there is no such layer, or `outputs` need more than `given`.
    pub fn compile_between(
        &self,
        given: &[&str],
        outputs: &[&str],
    ) -> Result<Compiled, GraphError> {
        let find = |names: &[&str]| -> Result<Vec<NodeId>, GraphError> {
            names.iter().map(|name| self.graph.find(name)).collect()
        };
        let (given, outputs) = (find(given)?, find(outputs)?);
        let compiled = Compiled::new(self, given, outputs);
        match compiled.takes_input() {
            false => Ok(compiled),
            true => Err(GraphError::Misfit {
                net: self.graph.name().to_owned(),
                layer: self.graph.nodes()[0].name.clone(),
                misfit: Misfit("is needed too, but not given".into()),
            }),
        }
    }

    /// Compiles the whole network, from images to its output.
    pub fn compile_all(&self) -> Compiled {
        Compiled::new(self, vec![0], vec![self.graph.output()])
    }
}

impl Compiled {
    pub(crate) fn new(net: &Network, given: Vec<NodeId>, outputs: Vec<NodeId>) -> Self {
        Self::with_precision(net, given, outputs, Precision::F32)
    }

    pub(crate) fn with_precision(
        net: &Network,
        given: Vec<NodeId>,
        outputs: Vec<NodeId>,
        precision: Precision,
    ) -> Self {
        if !cpu::runs_on(net.device()) {
            return Self::on_tensors(net, given, outputs);
        }
        let known: BTreeSet<NodeId> = given.iter().copied().collect();
        let plan = Plan::new(&net.graph, &known, &outputs, Purpose::Frozen);
        Self(Engine::Kernels(Program::new(net, plan, given, &outputs, precision)))
    }

    /// Both, the second from the values of the first.
    pub(crate) fn then(self, second: Self) -> Self {
        Self(Engine::Chain(Box::new([self, second])))
    }

    /// Compiled to operations on tensors, which every device has.
    pub(crate) fn on_tensors(net: &Network, given: Vec<NodeId>, outputs: Vec<NodeId>) -> Self {
        let known: BTreeSet<NodeId> = given.iter().copied().collect();
        let plan = Plan::new(&net.graph, &known, &outputs, Purpose::Frozen);
        let prepare = |step: Step| {
            let inputs = net.graph.nodes()[step.main].inputs.clone();
            let kernel = prepare(net, &step);
            (step, inputs, kernel)
        };
        let steps = plan.steps.into_iter().map(prepare).collect();
        Self(Engine::Tensors { given, steps, outputs })
    }

    /// Whether it needs the images themselves, which were not given.
    fn takes_input(&self) -> bool {
        match &self.0 {
            Engine::Kernels(program) => program.takes_input(),
            Engine::Tensors { steps, .. } => steps.iter().any(|(step, ..)| step.main == 0),
            Engine::Chain(parts) => parts[0].takes_input(),
        }
    }

    /// Number of layers whose values it runs from.
    fn takes(&self) -> usize {
        match &self.0 {
            Engine::Kernels(program) => program.given().len(),
            Engine::Tensors { given, .. } => given.len(),
            Engine::Chain(parts) => parts[0].takes(),
        }
    }

    /// Runs over a batch of images `[n, 3, h, w]`; values in the order of the compiled outputs.
    pub fn run(&self, images: Tensor<4>) -> Vec<Value> {
        self.run_from(vec![Value::Map(images)])
    }

    /// Runs from the values of the layers it was compiled from, in their order.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn run_from(&self, given: Vec<Value>) -> Vec<Value> {
        assert_eq!(given.len(), self.takes(), "one value for each given layer");
        match &self.0 {
            Engine::Chain(parts) => parts[1].run_from(parts[0].run_from(given)),
            Engine::Kernels(program) => program.run(given),
            Engine::Tensors { given: nodes, steps, outputs } => {
                let mut values = Values::new(nodes.iter().copied().zip(given));
                for (step, inputs, kernel) in steps {
                    let value = kernel.run(step, inputs, &values);
                    values.finish(step, value);
                }
                outputs.iter().map(|&id| values.get(id)).collect()
            }
        }
    }
}

impl Kernel {
    fn run(&self, step: &Step, inputs: &[NodeId], values: &Values) -> Value {
        let x = values.get(inputs[0]);
        let activation = step.activation;
        match self {
            Self::Conv { conv, weight, shift } => {
                let x = x.map();
                let [_, _, h, w] = x.dims();
                let residual = step.residual.map(|id| values.get(id).map());
                Value::Map(ops::convolve_fused(
                    x,
                    weight.clone(),
                    shift.clone(),
                    residual,
                    Geometry::new(conv, h, w),
                    activation,
                ))
            }
            Self::ScaleShift { scale, shift } => {
                Value::Map(ops::scale_shift(x.map(), scale.clone(), shift.clone(), activation))
            }
            Self::Activate => x.activate(activation),
            Self::Add => x.add(values.get(inputs[1]), activation),
            Self::MaxPool(pool) => Value::Map(ops::max_pool(x.map(), *pool)),
            Self::MeanPool => Value::Vector(ops::mean_pool(x.map())),
            Self::Linear { weight, bias } => linear(x, weight.clone(), bias.clone()),
            Self::Pass => x,
            Self::Single(layer, parameters) => {
                let inputs = inputs.iter().map(|&id| values.get(id)).collect();
                ops::single::run(layer, inputs, parameters)
            }
        }
    }
}

/// `x W' + b` for `W` of shape `[out, in]`; of a map, for the channels of each pixel.
pub(crate) fn linear(x: Value, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Value {
    let biased = |y: Tensor<2>| match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    };
    match x {
        Value::Vector(x) => Value::Vector(biased(x.matmul(weight.transpose()))),
        Value::Map(x) => {
            let [n, c, h, w] = x.dims();
            let pixels = x.permute([0, 2, 3, 1]).reshape([n * h * w, c]);
            let y = biased(pixels.matmul(weight.transpose()));
            let features = y.dims()[1];
            Value::Map(y.reshape([n, h, w, features]).permute([0, 3, 1, 2]))
        }
    }
}

fn prepare(net: &Network, step: &Step) -> Kernel {
    let bias = |id| net.has_bias(id).then(|| net.parameter(id, "bias").value.clone());
    let node = &net.graph.nodes()[step.main];
    if let Some(conv) = node.convolution() {
        let (weight, shift) = folded_conv(net, step.main, step.norm);
        let [kh, kw] = conv.kernel;
        let [rows, columns] = weight.dims();
        let weight = weight.reshape([rows, columns / (kh * kw), kh, kw]);
        return Kernel::Conv { conv, weight, shift };
    }
    match node.layer {
        Layer::BatchNorm(_) => {
            let (scale, shift) = stored_norm(net, step.main);
            Kernel::ScaleShift { scale, shift }
        }
        Layer::Activation { .. } => Kernel::Activate,
        Layer::Add => Kernel::Add,
        Layer::MaxPool(pool) => Kernel::MaxPool(pool),
        Layer::GlobalAvgPool => Kernel::MeanPool,
        Layer::Linear(_) => {
            Kernel::Linear { weight: matrix(net, step.main), bias: bias(step.main) }
        }
        Layer::Dropout(_) | Layer::Input { .. } => Kernel::Pass,
        layer => {
            let specs = net.graph.parameters(step.main).into_iter();
            let values = specs.map(|p| net.parameter(step.main, p.suffix).value.clone());
            Kernel::Single(layer, values.collect())
        }
    }
}

/// A convolution's weights `[out, everything else]` and shift `[out]`, the norm behind it folded in.
pub(crate) fn folded_conv(
    net: &Network,
    conv: NodeId,
    norm: Option<NodeId>,
) -> (Tensor<2>, Tensor<1>) {
    let weight = matrix(net, conv);
    let bias = net.has_bias(conv).then(|| net.parameter(conv, "bias").value.clone());
    let Some(norm) = norm else {
        let zeros = || Tensor::zeros([weight.dims()[0]], net.device());
        return (weight.clone(), bias.unwrap_or_else(zeros));
    };
    let (scale, offset) = stored_norm(net, norm);
    let shift = bias.map_or(offset.clone(), |b| b * scale.clone() + offset);
    (weight * scale.reshape([-1, 1]), shift)
}

/// The weights of a node as `[out, everything else]`.
fn matrix(net: &Network, node: NodeId) -> Tensor<2> {
    let parameter = net.parameter(node, "weight");
    let rows = parameter.shape[0];
    parameter.value.clone().reshape([rows, parameter.len() / rows.max(1)])
}

/// A batch norm's stored statistics as a scale and a shift, each `[c]`; a layer scale likewise.
pub(crate) fn stored_norm(net: &Network, node: NodeId) -> (Tensor<1>, Tensor<1>) {
    let value = |suffix| net.parameter(node, suffix).value.clone();
    if let Layer::LayerScale(_) = net.graph.nodes()[node].layer {
        let scale = value("");
        return (scale.clone(), scale.zeros_like());
    }
    norm_as_affine(net, node, value("weight"), value("bias"))
}

/// The same for a scale and shift given apart.
pub(crate) fn norm_as_affine(
    net: &Network,
    node: NodeId,
    scale: Tensor<1>,
    shift: Tensor<1>,
) -> (Tensor<1>, Tensor<1>) {
    let Layer::BatchNorm(BatchNorm { epsilon, .. }) = net.graph.nodes()[node].layer else {
        unreachable!("a batch norm")
    };
    let stored = |suffix| net.parameter(node, suffix).value.clone();
    let scale = scale / (stored("running_var") + epsilon).sqrt();
    (scale.clone(), shift - stored("running_mean") * scale)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Graph;
    use crate::cpu::tape::tests::{decoder, everything, everything_else, images, shake};

    /// What other devices run: the two differ by the order of sums only.
    #[test]
    fn kernels_equal_the_operations_on_tensors() {
        compare(everything(), &["fc", "d_relu", "pool", "a"]);
        compare(everything_else(), &["v_gelu", "gated", "cat", "e_scale", "a_silu"]);
        compare(decoder(), &["fc", "d", "triple", "map"]);
    }

    fn compare(graph: Graph, wanted: &[&str]) {
        let device = Device::flex();
        let mut net = Network::initialize(graph, 3, &device);
        shake(&mut net);
        let wanted: Vec<NodeId> = wanted.iter().map(|name| net.graph.find(name).unwrap()).collect();
        let kernels = Compiled::new(&net, vec![0], wanted.clone());
        let tensors = Compiled::on_tensors(&net, vec![0], wanted);
        let run = |compiled: &Compiled| compiled.run(images(3, &device).map());
        for (kernels, tensors) in run(&kernels).into_iter().zip(run(&tensors)) {
            assert_eq!(kernels.dims(), tensors.dims());
            let (kernels, tensors) = (kernels.to_vec(), tensors.to_vec());
            let top = tensors.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
            for (a, b) in kernels.iter().zip(&tensors) {
                assert!((a - b).abs() <= 1e-5 * top, "{a}, not {b}, of {top}");
            }
        }
    }
}
