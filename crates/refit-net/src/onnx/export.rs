//! A network as an ONNX graph of opset 17.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost::bytes::Bytes;

use super::emit::{Emitter, float, int, ints, word};
use super::preprocess::Preprocessing;
use super::proto::{self, data_type};
use super::{INPUT, OUTPUT, OnnxError, PREPROCESSED, PRODUCER};
use crate::graph::NodeId;
use crate::layer::{Activation, Conv, Divisor, Layer, Windows};
use crate::network::Network;
use crate::shape::Shape;

/// The operators' version: those of the network, and where a resize has to be antialiased.
const OPSET: i64 = 17;
const OPSET_OF_ANTIALIAS: i64 = 18;
/// The file format's version that goes with them.
const IR_VERSION: i64 = 8;

/// What becomes of a batch norm behind a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BatchNorms {
    /// It goes into the convolution's weights.
    #[default]
    Folded,
    /// It is a node of its own, so that the exported network can be trained on.
    Kept,
}

/// How a network is exported.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// What becomes of batch norms.
    pub batch_norms: BatchNorms,
    /// What stands before the network, so that the graph takes images as they are decoded.
    pub preprocessing: Option<Preprocessing>,
    /// Text by key that is kept with the graph.
    pub metadata: BTreeMap<String, String>,
}

/// The bytes of an ONNX file that computes what `net` does, for batches of any length.
///
/// # Errors
/// If a layer's settings cannot be said in ONNX.
pub fn export(net: &Network, options: &ExportOptions) -> Result<Bytes, OnnxError> {
    let mut exporter = Exporter::new(net, options);
    let graph = net.graph();
    let taken = extents(graph.input_shape());
    let (images, preprocessed) = match &options.preprocessing {
        None => (tensor(INPUT, data_type::FLOAT, taken), Vec::new()),
        Some(preprocessing) => {
            preprocessing.emit(&mut exporter.emitter, INPUT);
            let dims = [named("height"), named("width"), known(3)];
            let preprocessed = tensor(PREPROCESSED, data_type::FLOAT, taken);
            (tensor(INPUT, data_type::UINT8, dims), vec![preprocessed])
        }
    };
    let taken = preprocessed.first().map_or(INPUT, |_| PREPROCESSED).to_owned();
    exporter.values[0] = [Some(taken), None];
    for id in graph.needed() {
        exporter.layer(id)?;
    }
    let output = exporter.first(graph.output());
    let output = exporter.emitter.push("Identity", OUTPUT.into(), vec![output], Vec::new());
    let logits = tensor(&output, data_type::FLOAT, extents(graph.nodes()[graph.output()].shape));
    let Emitter { nodes, constants, .. } = exporter.emitter;
    let version = match options.preprocessing {
        Some(_) => OPSET_OF_ANTIALIAS,
        None => OPSET,
    };
    let metadata = options.metadata.iter();
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(proto::Graph {
            node: nodes,
            name: graph.name().to_owned(),
            initializer: constants,
            input: vec![images],
            output: vec![logits],
            value_info: preprocessed,
        }),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version }],
        metadata_props: metadata
            .map(|(key, value)| proto::Entry { key: key.clone(), value: value.clone() })
            .collect(),
    };
    Ok(model.encode_to_vec().into())
}

fn extents(shape: Shape) -> Vec<proto::Dimension> {
    match shape {
        Shape::Map { channels, height, width } => [channels, height, width].map(known).to_vec(),
        Shape::Vector { features } => vec![known(features)],
    }
}

fn known(size: usize) -> proto::Dimension {
    proto::Dimension { dim_value: Some(size as i64), dim_param: None }
}

fn named(name: &str) -> proto::Dimension {
    proto::Dimension { dim_value: None, dim_param: Some(name.into()) }
}

/// A tensor of any number of images.
fn tensor(
    name: &str,
    elem_type: i32,
    dims: impl IntoIterator<Item = proto::Dimension>,
) -> proto::ValueInfo {
    let dim = std::iter::once(named("batch")).chain(dims).collect();
    let shape = Some(proto::TensorShape { dim });
    let tensor_type = Some(proto::TensorType { elem_type, shape });
    proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type }) }
}

struct Exporter<'a> {
    net: &'a Network,
    emitter: Emitter,
    /// The tensors that hold a layer's value, channels first and channels last; vectors stand
    /// first.
    values: Vec<[Option<String>; 2]>,
    /// Batch norms that go into the convolution before them.
    folded: BTreeMap<NodeId, NodeId>,
}

impl<'a> Exporter<'a> {
    fn new(net: &'a Network, options: &ExportOptions) -> Self {
        let mut emitter = Emitter::default();
        [INPUT, OUTPUT, PREPROCESSED].into_iter().for_each(|name| emitter.reserve(name));
        let graph = net.graph();
        let folded = match options.batch_norms {
            BatchNorms::Folded => foldable(net),
            BatchNorms::Kept => BTreeMap::new(),
        };
        Self { net, emitter, values: vec![[None, None]; graph.nodes().len()], folded }
    }

    /// The tensor of a layer's value, channels first.
    fn first(&mut self, id: NodeId) -> String {
        self.turned(id, 0, [0, 3, 1, 2])
    }

    /// The tensor of a layer's value, channels last.
    fn last(&mut self, id: NodeId) -> String {
        match self.shape(id) {
            Shape::Vector { .. } => self.first(id),
            Shape::Map { .. } => self.turned(id, 1, [0, 2, 3, 1]),
        }
    }

    fn turned(&mut self, id: NodeId, layout: usize, order: [usize; 4]) -> String {
        if let Some(value) = &self.values[id][layout] {
            return value.clone();
        }
        let value = self.values[id][1 - layout].clone().expect("inputs stand before");
        let name = format!("{}.{}", self.name(id), ["channels_first", "channels_last"][layout]);
        let turned = self.emitter.node("Transpose", &name, [&value], vec![ints("perm", order)]);
        self.values[id][layout] = Some(turned.clone());
        turned
    }

    /// Whether a value is at hand with channels last only.
    fn is_last(&self, id: NodeId) -> bool {
        self.values[id][0].is_none()
    }

    fn name(&self, id: NodeId) -> &'a str {
        &self.net.graph().nodes()[id].name
    }

    fn shape(&self, id: NodeId) -> Shape {
        self.net.graph().nodes()[id].shape
    }

    /// Adds a parameter under its own name.
    fn parameter(&mut self, id: NodeId, suffix: &str) -> String {
        let parameter = self.net.parameter(id, suffix);
        let name = self.net.graph().parameter_name(id, suffix);
        self.emitter.floats(&name, &parameter.shape, &parameter.to_vec())
    }

    /// Adds the nodes of one layer.
    fn layer(&mut self, id: NodeId) -> Result<(), OnnxError> {
        let node = &self.net.graph().nodes()[id];
        let Some(&x) = node.inputs.first() else { return Ok(()) };
        let name = node.name.as_str();
        let value = match node.layer {
            Layer::Input { .. } => return Ok(()),
            Layer::Dropout(_) | Layer::Activation { function: Activation::Identity } => {
                self.values[id] = self.values[x].clone();
                return Ok(());
            }
            Layer::BatchNorm(_) if self.folded.contains_key(&id) => {
                self.values[id] = self.values[x].clone();
                return Ok(());
            }
            Layer::Activation { function } => {
                self.elementwise(id, function);
                return Ok(());
            }
            Layer::Scale { factor } => {
                let factor = self.emitter.scalar(factor);
                self.following(id, x, |e, x| e.node("Mul", name, [x, &factor], vec![]));
                return Ok(());
            }
            Layer::Add => {
                let b = node.inputs[1];
                if self.is_last(x) && self.is_last(b) {
                    let (a, b) = (self.last(x), self.last(b));
                    self.values[id][1] = Some(self.emitter.node("Add", name, [&a, &b], vec![]));
                    return Ok(());
                }
                let (a, b) = (self.first(x), self.first(b));
                self.emitter.node("Add", name, [&a, &b], vec![])
            }
            Layer::LayerScale(_) => {
                self.layer_scale(id, x);
                return Ok(());
            }
            Layer::LayerNorm(norm) => {
                let value = self.last(x);
                let [scale, shift] = ["weight", "bias"].map(|s| self.parameter(id, s));
                let attributes = vec![int("axis", -1), float("epsilon", norm.epsilon as f32)];
                let inputs = [value.as_str(), &scale, &shift];
                let y = self.emitter.node("LayerNormalization", name, inputs, attributes);
                self.put_last(id, y);
                return Ok(());
            }
            Layer::Linear(linear) => {
                let y = self.linear(id, x, linear.bias);
                self.put_last(id, y);
                return Ok(());
            }
            Layer::Conv(conv) => self.conv(id, x, &conv),
            Layer::BatchNorm(norm) => {
                let value = self.first(x);
                let [scale, shift, mean, variance] =
                    ["weight", "bias", "running_mean", "running_var"]
                        .map(|s| self.parameter(id, s));
                let momentum = float("momentum", (1.0 - norm.momentum) as f32);
                let attributes = vec![float("epsilon", norm.epsilon as f32), momentum];
                let inputs = [value.as_str(), &scale, &shift, &mean, &variance];
                self.emitter.node("BatchNormalization", name, inputs, attributes)
            }
            Layer::Gate => {
                let (x, gate) = (self.first(x), self.first(node.inputs[1]));
                self.emitter.node("Mul", name, [&x, &gate], vec![])
            }
            Layer::Concat => {
                let parts = node.inputs.iter().map(|&i| self.first(i)).collect();
                self.emitter.node_of("Concat", name, parts, vec![int("axis", 1)])
            }
            Layer::Slice { first, channels } => {
                let value = self.first(x);
                let [start, end] = [first, first + channels].map(|v| self.emitter.int(v as i64));
                let axis = self.emitter.int(1);
                self.emitter.node("Slice", name, [&value, &start, &end, &axis], vec![])
            }
            Layer::Shuffle { groups } => self.shuffle(id, x, groups),
            Layer::Pad { rows, columns } => {
                let value = self.first(x);
                let ends = [0, 0, rows[0], columns[0], 0, 0, rows[1], columns[1]];
                let ends = ends.map(|v| v as i64);
                let ends = self.emitter.ints(&format!("{name}.pads"), &ends);
                self.emitter.node("Pad", name, [&value, &ends], vec![])
            }
            Layer::MaxPool(windows) => {
                let value = self.first(x);
                let attributes = pool_attributes(&windows, self.shape(x), Reach::Last);
                self.emitter.node("MaxPool", name, [&value], attributes)
            }
            Layer::AvgPool { windows, divisor } => {
                let value = self.first(x);
                // Pixels beyond the padding count in no divisor: said by `ceil_mode` alone.
                let reach = match divisor {
                    Divisor::Padded => Reach::Padding,
                    Divisor::Inside => Reach::Last,
                };
                let mut attributes = pool_attributes(&windows, self.shape(x), reach);
                if divisor == Divisor::Padded {
                    attributes.push(int("count_include_pad", 1));
                    attributes.push(int("ceil_mode", windows.ceil.into()));
                }
                self.emitter.node("AveragePool", name, [&value], attributes)
            }
            Layer::AdaptiveAvgPool { size } => self.adaptive(id, x, size),
            Layer::GlobalAvgPool => {
                let value = self.first(x);
                let pool = format!("{name}.pool");
                let mean = self.emitter.node("GlobalAveragePool", &pool, [&value], vec![]);
                self.emitter.node("Flatten", name, [&mean], vec![int("axis", 1)])
            }
            Layer::Flatten => {
                let value = self.first(x);
                self.emitter.node("Flatten", name, [&value], vec![int("axis", 1)])
            }
            Layer::Unflatten { size: [rows, columns] } => {
                let value = self.first(x);
                let extents = [0, -1, rows as i64, columns as i64];
                let extents = self.emitter.ints(&format!("{name}.size"), &extents);
                self.emitter.node("Reshape", name, [&value, &extents], vec![])
            }
            Layer::Upsample { factor } => {
                let value = self.first(x);
                let factors = [1.0, 1.0, factor as f32, factor as f32];
                let factors = self.emitter.floats(&format!("{name}.factors"), &[4], &factors);
                let attributes = vec![
                    word("mode", "nearest"),
                    word("coordinate_transformation_mode", "asymmetric"),
                    word("nearest_mode", "floor"),
                ];
                // Between them stands a region, which there is none of.
                self.emitter.node("Resize", name, [&value, "", &factors], attributes)
            }
            Layer::LocalResponseNorm(norm) => {
                // ONNX and PyTorch disagree on which neighbour an even size leaves out.
                if norm.size.is_multiple_of(2) {
                    let layer = name.to_owned();
                    return Err(OnnxError::EvenResponseNorm { layer, size: norm.size });
                }
                let value = self.first(x);
                let attributes = vec![
                    int("size", norm.size as i64),
                    float("alpha", norm.alpha),
                    float("beta", norm.beta),
                    float("bias", norm.k),
                ];
                self.emitter.node("LRN", name, [&value], attributes)
            }
            Layer::Hog(_)
            | Layer::ColourHistogram(_)
            | Layer::TreeEnsemble(_)
            | Layer::Neighbours(_) => {
                let (layer, kind) = (name.to_owned(), node.layer.kind());
                return Err(OnnxError::NoOperator { layer, kind });
            }
        };
        self.values[id][0] = Some(value);
        Ok(())
    }

    /// Keeps what was computed with channels last.
    fn put_last(&mut self, id: NodeId, value: String) {
        let layout = usize::from(matches!(self.shape(id), Shape::Map { .. }));
        self.values[id][layout] = Some(value);
    }

    /// Computes in the layout that the input is in.
    fn following(
        &mut self,
        id: NodeId,
        x: NodeId,
        emit: impl FnOnce(&mut Emitter, &str) -> String,
    ) {
        let layout = usize::from(self.is_last(x));
        let value = self.values[x][layout].clone().expect("inputs stand before");
        self.values[id][layout] = Some(emit(&mut self.emitter, &value));
    }

    fn elementwise(&mut self, id: NodeId, function: Activation) {
        let (name, x) = (self.name(id), self.net.graph().nodes()[id].inputs[0]);
        self.following(id, x, |e, x| activation(e, name, x, function));
    }

    fn layer_scale(&mut self, id: NodeId, x: NodeId) {
        let (name, net) = (self.name(id), self.net);
        let parameter = net.parameter(id, "");
        let channels = parameter.len();
        let dims: &[usize] = if self.is_last(x) { &[channels] } else { &[channels, 1, 1] };
        let factors = self.emitter.floats(name, dims, &parameter.to_vec());
        self.following(id, x, |e, x| e.node("Mul", name, [x, &factors], vec![]));
    }

    fn conv(&mut self, id: NodeId, x: NodeId, conv: &Conv) -> String {
        let (name, value) = (self.name(id), self.first(x));
        let (weight, bias) = match self.folded.iter().find(|(_, at)| **at == id) {
            Some((&norm, _)) => {
                let (weight, bias) = fold(self.net, id, norm);
                let shape = &self.net.parameter(id, "weight").shape;
                let weight = self.emitter.floats(&format!("{name}.weight"), shape, &weight);
                let bias = self.emitter.floats(&format!("{name}.bias"), &[bias.len()], &bias);
                (weight, Some(bias))
            }
            None => {
                let weight = self.parameter(id, "weight");
                (weight, conv.bias.then(|| self.parameter(id, "bias")))
            }
        };
        let Shape::Map { height, width, .. } = self.shape(x) else { unreachable!("a map") };
        let [kh, kw] = conv.window();
        let rows = conv.padding.resolve(0, height, kh, conv.stride[0]);
        let columns = conv.padding.resolve(1, width, kw, conv.stride[1]);
        let attributes = vec![
            ints("kernel_shape", conv.kernel),
            ints("strides", conv.stride),
            ints("dilations", conv.dilation),
            int("group", conv.groups as i64),
            ints("pads", [rows.0, columns.0, rows.1, columns.1]),
        ];
        let inputs = [value, weight].into_iter().chain(bias).collect();
        self.emitter.node_of("Conv", name, inputs, attributes)
    }

    fn linear(&mut self, id: NodeId, x: NodeId, bias: bool) -> String {
        let (name, value) = (self.name(id), self.last(x));
        if let Shape::Vector { .. } = self.shape(x) {
            let weight = self.parameter(id, "weight");
            let bias = bias.then(|| self.parameter(id, "bias"));
            let inputs = [value, weight].into_iter().chain(bias).collect();
            return self.emitter.node_of("Gemm", name, inputs, vec![int("transB", 1)]);
        }
        let weight = self.net.parameter(id, "weight");
        let [features, inputs] = weight.shape[..] else { unreachable!("a matrix") };
        let (rows, mut turned) = (weight.to_vec(), vec![0.0; weight.len()]);
        for (at, value) in rows.iter().enumerate() {
            turned[at % inputs * features + at / inputs] = *value;
        }
        let weight = self.emitter.floats(&format!("{name}.weight"), &[inputs, features], &turned);
        if !bias {
            return self.emitter.node("MatMul", name, [&value, &weight], vec![]);
        }
        let product = format!("{name}.product");
        let product = self.emitter.node("MatMul", &product, [&value, &weight], vec![]);
        let bias = self.parameter(id, "bias");
        self.emitter.node("Add", name, [&product, &bias], vec![])
    }

    fn shuffle(&mut self, id: NodeId, x: NodeId, groups: usize) -> String {
        let (name, value) = (self.name(id), self.first(x));
        let shape = self.shape(x);
        let channels = shape.channels();
        let rest: &[usize] = match shape {
            Shape::Map { height, width, .. } => &[height, width],
            Shape::Vector { .. } => &[],
        };
        let split: Vec<i64> =
            [&[0, groups, channels / groups], rest].concat().iter().map(|&d| d as i64).collect();
        let split = self.emitter.ints(&format!("{name}.split_shape"), &split);
        let grouped = format!("{name}.grouped");
        let grouped = self.emitter.node("Reshape", &grouped, [&value, &split], vec![]);
        let order = [0, 2, 1].into_iter().chain(3..3 + rest.len());
        let dealt = format!("{name}.dealt");
        let dealt = self.emitter.node("Transpose", &dealt, [&grouped], vec![ints("perm", order)]);
        let dims: Vec<i64> = [&[0, channels], rest].concat().iter().map(|&d| d as i64).collect();
        let dims = self.emitter.ints(&format!("{name}.joined_shape"), &dims);
        self.emitter.node("Reshape", name, [&dealt, &dims], vec![])
    }

    /// Windows of one size where the map's divides; otherwise each side is a product with the
    /// windows' shares.
    fn adaptive(&mut self, id: NodeId, x: NodeId, size: [usize; 2]) -> String {
        let (name, value) = (self.name(id), self.first(x));
        let Shape::Map { height, width, .. } = self.shape(x) else { unreachable!("a map") };
        if size == [1, 1] {
            return self.emitter.node("GlobalAveragePool", name, [&value], vec![]);
        }
        if size == [height, width] {
            return value;
        }
        if height.is_multiple_of(size[0]) && width.is_multiple_of(size[1]) {
            let window = [height / size[0], width / size[1]];
            let attributes = vec![ints("kernel_shape", window), ints("strides", window)];
            return self.emitter.node("AveragePool", name, [&value], attributes);
        }
        let rows = adaptive_shares(height, size[0]);
        let columns: Vec<f32> = {
            let shares = adaptive_shares(width, size[1]);
            (0..width).flat_map(|i| shares.iter().skip(i).step_by(width).copied()).collect()
        };
        let rows = self.emitter.floats(&format!("{name}.rows"), &[size[0], height], &rows);
        let columns = self.emitter.floats(&format!("{name}.columns"), &[width, size[1]], &columns);
        let narrow = format!("{name}.narrow");
        let narrow = self.emitter.node("MatMul", &narrow, [&value, &columns], vec![]);
        self.emitter.node("MatMul", name, [&rows, &narrow], vec![])
    }
}

/// What each of `to` windows over `from` pixels takes of each pixel: `[to, from]`.
pub(super) fn adaptive_shares(from: usize, to: usize) -> Vec<f32> {
    let mut shares = vec![0.0; from * to];
    for (i, row) in shares.chunks_exact_mut(from).enumerate() {
        let (start, end) = (i * from / to, ((i + 1) * from).div_ceil(to));
        row[start..end].fill(1.0 / (end - start) as f32);
    }
    shares
}

fn activation(e: &mut Emitter, name: &str, x: &str, function: Activation) -> String {
    let part = |part: &str| format!("{name}.{part}");
    match function {
        Activation::Identity => x.to_owned(),
        Activation::Relu => e.node("Relu", name, [x], vec![]),
        Activation::Relu6 => {
            let (least, most) = (e.scalar(0.0), e.scalar(6.0));
            e.node("Clip", name, [x, &least, &most], vec![])
        }
        Activation::Sigmoid => e.node("Sigmoid", name, [x], vec![]),
        Activation::Tanh => e.node("Tanh", name, [x], vec![]),
        Activation::Silu => {
            let gate = e.node("Sigmoid", &part("sigmoid"), [x], vec![]);
            e.node("Mul", name, [x, &gate], vec![])
        }
        Activation::HardSigmoid => {
            let attributes = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
            e.node("HardSigmoid", name, [x], attributes)
        }
        Activation::HardSwish => e.node("HardSwish", name, [x], vec![]),
        Activation::Gelu => {
            let factor = e.scalar(std::f32::consts::FRAC_1_SQRT_2);
            let scaled = e.node("Mul", &part("scaled"), [x, &factor], vec![]);
            let bent = e.node("Erf", &part("erf"), [&scaled], vec![]);
            gelu_end(e, name, x, &bent)
        }
        Activation::GeluTanh => {
            let [cubic, outer] = [0.044_715, (2.0 / std::f32::consts::PI).sqrt()];
            let [cubic, outer, three] = [cubic, outer, 3.0].map(|v| e.scalar(v));
            let cube = e.node("Pow", &part("cube"), [x, &three], vec![]);
            let term = e.node("Mul", &part("term"), [&cube, &cubic], vec![]);
            let sum = e.node("Add", &part("sum"), [x, &term], vec![]);
            let scaled = e.node("Mul", &part("scaled"), [&sum, &outer], vec![]);
            let bent = e.node("Tanh", &part("tanh"), [&scaled], vec![]);
            gelu_end(e, name, x, &bent)
        }
    }
}

/// `x * (1 + bent) / 2`.
fn gelu_end(e: &mut Emitter, name: &str, x: &str, bent: &str) -> String {
    let (one, half) = (e.scalar(1.0), e.scalar(0.5));
    let share = e.node("Add", &format!("{name}.share"), [bent, &one], vec![]);
    let twice = e.node("Mul", &format!("{name}.twice"), [x, &share], vec![]);
    e.node("Mul", name, [&twice, &half], vec![])
}

/// How far the padding behind a map goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// As the layer says.
    Padding,
    /// To the end of the last window, so that `ceil_mode`, which runtimes count differently, is not
    /// needed.
    Last,
}

fn pool_attributes(windows: &Windows, input: Shape, reach: Reach) -> Vec<proto::Attribute> {
    let Shape::Map { height, width, .. } = input else { unreachable!("a map") };
    let ends = |axis, size| {
        let (before, behind) = windows.pads(axis, size);
        let count = windows.count(axis, size).expect("a window that fits");
        let end = (count - 1) * windows.stride + windows.window;
        match reach {
            Reach::Padding => (before, behind),
            Reach::Last => (before, end.saturating_sub(size + before)),
        }
    };
    let (rows, columns) = (ends(0, height), ends(1, width));
    vec![
        ints("kernel_shape", [windows.window; 2]),
        ints("strides", [windows.stride; 2]),
        ints("pads", [rows.0, columns.0, rows.1, columns.1]),
    ]
}

/// Batch norms that nothing but a convolution feeds, whose value nobody else takes: by norm, the
/// convolution.
fn foldable(net: &Network) -> BTreeMap<NodeId, NodeId> {
    let graph = net.graph();
    let needed: BTreeSet<NodeId> = graph.needed();
    let takers = |id| needed.iter().filter(|&&n| graph.nodes()[n].inputs.contains(&id)).count();
    let pairs = needed.iter().filter_map(|&id| {
        let node = &graph.nodes()[id];
        let &before = node.inputs.first()?;
        let folds = matches!(node.layer, Layer::BatchNorm(_))
            && matches!(graph.nodes()[before].layer, Layer::Conv(_))
            && takers(before) == 1
            && graph.output() != before;
        folds.then_some((id, before))
    });
    pairs.collect()
}

/// Weights and bias of a convolution with the batch norm behind it in them.
fn fold(net: &Network, conv: NodeId, norm: NodeId) -> (Vec<f32>, Vec<f32>) {
    let Layer::BatchNorm(layer) = net.graph().nodes()[norm].layer else { unreachable!("a norm") };
    let values = |id, suffix: &str| net.parameter(id, suffix).to_vec();
    let [scale, shift, mean, variance] =
        ["weight", "bias", "running_mean", "running_var"].map(|s| values(norm, s));
    let mut weight = values(conv, "weight");
    let mut bias = if net.has_bias(conv) { values(conv, "bias") } else { vec![0.0; scale.len()] };
    let filter = weight.len() / scale.len();
    for (channel, row) in weight.chunks_exact_mut(filter).enumerate() {
        let factor =
            f64::from(scale[channel]) / (f64::from(variance[channel]) + layer.epsilon).sqrt();
        row.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
        let centred = f64::from(bias[channel]) - f64::from(mean[channel]);
        bias[channel] = (f64::from(shift[channel]) + centred * factor) as f32;
    }
    (weight, bias)
}
