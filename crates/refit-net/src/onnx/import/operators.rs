//! What each operator becomes. `docs/onnx.md` lists them.

use std::sync::Arc;

use super::constant::{Constant, Int, Values};
use super::draft::{Draft, Op, Origin, Weights};
use super::names::layer_name;
use super::view::{self, View, feature_order, is_images, is_spatial, size_of};
use super::{Importer, Value, printable};
use crate::layer::{
    Activation, BatchNorm, Conv, Divisor, Dropout, Layer, LayerNorm, Linear, LocalResponseNorm,
    Padding, Windows,
};
use crate::onnx::OnnxError;
use crate::onnx::export::adaptive_shares;
use crate::onnx::proto::{Attribute, Node, data_type};
use crate::shape::Shape;

/// Adds what a node computes to the draft; gives what its outputs stand for.
pub(super) fn apply<'a>(
    importer: &mut Importer<'a>,
    node: &'a Node,
) -> Result<Vec<Value>, OnnxError> {
    let weight = node.input.get(1).map(String::as_str);
    let weight = weight.filter(|w| importer.initializers.contains_key(w));
    let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
    let origin = Origin {
        node: printable(name.map_or("", String::as_str)).into_owned(),
        op: printable(&node.op_type).into_owned(),
        layer: layer_name(node, weight, &importer.prefix),
    };
    let mut inputs = Vec::with_capacity(node.input.len().min(64));
    for name in &node.input {
        if name.is_empty() {
            inputs.push(None);
            continue;
        }
        match importer.value(name)? {
            None => {
                let problem = format!("it takes `{}`, which nothing gives before", printable(name));
                return Err(Site { node, origin }.damaged(problem));
            }
            value => inputs.push(value),
        }
    }
    let site = Site { node, origin };
    if !matches!(&*node.domain, "" | "ai.onnx") {
        let domain = printable(&node.domain);
        let needs = "export the network with operators of the domain ai.onnx alone";
        return Err(site.unsupported(format!("it is of the domain `{domain}`"), needs));
    }
    Mapper { importer, site, inputs }.outputs()
}

/// Where something is wrong.
struct Site<'a> {
    node: &'a Node,
    origin: Origin,
}

impl Site<'_> {
    fn damaged(&self, problem: impl Into<String>) -> OnnxError {
        let Origin { node, op, .. } = self.origin.clone();
        OnnxError::Damaged { node, op, problem: problem.into() }
    }

    fn unsupported(&self, problem: impl Into<String>, needs: impl Into<String>) -> OnnxError {
        let Origin { node, op, .. } = self.origin.clone();
        OnnxError::Unsupported { node, op, problem: problem.into(), needs: needs.into() }
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.node.attribute.iter().find(|a| a.name == name)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).and_then(|a| a.f).unwrap_or(default)
    }

    fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| &a.ints[..])
    }

    fn word(&self, name: &str, default: &'static str) -> &str {
        let word = self.attribute(name).and_then(|a| std::str::from_utf8(&a.s).ok());
        word.filter(|w| !w.is_empty()).unwrap_or(default)
    }

    /// Two sizes, one for each side.
    fn pair(&self, name: &str, default: usize) -> Result<[usize; 2], OnnxError> {
        let Some(ints) = self.ints(name) else { return Ok([default; 2]) };
        match ints.iter().map(|&v| usize::try_from(v)).collect::<Result<Vec<_>, _>>().as_deref() {
            Ok(&[rows, columns]) => Ok([rows, columns]),
            _ => Err(self.unsupported(
                format!("its {name} is {ints:?}"),
                "a layer of two dimensions, with sizes that are not negative",
            )),
        }
    }

    /// An axis counted from the front.
    fn axis(&self, axis: i64, rank: usize) -> Result<usize, OnnxError> {
        let counted = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        let counted = counted.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
        counted.ok_or_else(|| self.damaged(format!("it has axis {axis} of {rank}")))
    }
}

/// What no layer expresses, and what would.
const NOT_A_MAP: &str = "maps of the usual order of axes";

struct Mapper<'m, 'a> {
    importer: &'m mut Importer<'a>,
    site: Site<'a>,
    inputs: Vec<Option<Value>>,
}

type Result1 = Result<Value, OnnxError>;

impl Mapper<'_, '_> {
    fn outputs(mut self) -> Result<Vec<Value>, OnnxError> {
        if self.site.node.op_type == "Split" {
            return self.split();
        }
        self.output().map(|value| vec![value])
    }

    fn output(&mut self) -> Result1 {
        let op = self.site.node.op_type.as_str();
        match op {
            "Constant" => self.constant(),
            "Identity" => self.input(0),
            "Cast" => self.cast(),
            "Shape" => self.shape_of(),
            "ConstantOfShape" => self.constant_of_shape(),
            "Gather" => self.gather(),
            "Concat" => self.concat(),
            "Slice" => self.slice(),
            "Unsqueeze" | "Squeeze" => self.squeeze(op == "Unsqueeze"),
            "Reshape" => self.reshape(),
            "Flatten" => self.flatten(),
            "Transpose" => self.transpose(),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" => self.binary(op),
            "Sum" => self.sum(),
            "Neg" | "Sqrt" | "Reciprocal" | "Exp" | "Abs" => self.unary(op),
            "Max" | "Min" | "Clip" => self.clip(op),
            "Relu" => self.activation(Activation::Relu),
            "Sigmoid" => self.activation(Activation::Sigmoid),
            "Tanh" => self.activation(Activation::Tanh),
            "HardSwish" => self.activation(Activation::HardSwish),
            "Swish" if self.site.float("alpha", 1.0) == 1.0 => self.activation(Activation::Silu),
            "HardSigmoid" => self.hard_sigmoid(),
            "Gelu" => self.activation(match self.site.word("approximate", "none") {
                "tanh" => Activation::GeluTanh,
                _ => Activation::Gelu,
            }),
            "Erf" => self.simple(Op::Erf),
            "Softmax" | "LogSoftmax" => self.simple(Op::Softmax),
            "Dropout" => self.dropout(),
            "Conv" => self.conv(),
            "BatchNormalization" => self.batch_norm(),
            "LayerNormalization" => self.layer_norm(),
            "LRN" => self.response_norm(),
            "MaxPool" => self.max_pool(),
            "AveragePool" => self.average_pool(),
            "GlobalAveragePool" => self.reduce_mean(&[2, 3], true),
            "GlobalMaxPool" => self.global_max_pool(),
            "ReduceMean" => {
                let axes = self.axes()?.unwrap_or_default();
                self.reduce_mean(&axes, self.site.int("keepdims", 1) != 0)
            }
            "Pad" => self.pad(),
            "Gemm" => self.gemm(),
            "MatMul" => self.matmul(),
            _ => Err(self.site.unsupported("no layer of refit's computes it", needs(op))),
        }
    }

    // What a node is given.

    fn input(&self, index: usize) -> Result1 {
        let input = self.inputs.get(index).cloned().flatten();
        input.ok_or_else(|| self.site.damaged(format!("its input {index} is missing")))
    }

    /// An optional input that is a constant.
    fn optional(&self, index: usize) -> Result<Option<Constant>, OnnxError> {
        match self.inputs.get(index).cloned().flatten() {
            None => Ok(None),
            Some(Value::Constant(constant)) => Ok(Some(constant)),
            Some(Value::Layer(_)) => Err(self.site.unsupported(
                format!("its input {index} is not constant"),
                "weights and settings that do not depend on the images",
            )),
        }
    }

    fn fixed(&self, index: usize) -> Result<Constant, OnnxError> {
        let constant = self.optional(index)?;
        constant.ok_or_else(|| self.site.damaged(format!("its input {index} is missing")))
    }

    /// Integers from an input, or from an attribute as older versions have them.
    fn setting(&self, index: usize, attribute: &str) -> Result<Option<Vec<i64>>, OnnxError> {
        if let Some(ints) = self.site.ints(attribute) {
            return Ok(Some(ints.to_vec()));
        }
        let Some(constant) = self.optional(index)? else { return Ok(None) };
        let ints = constant.to_ints().and_then(|v| v.into_iter().map(Int::value).collect());
        let wrong = || {
            self.site.unsupported(
                format!("its {attribute} depend on the number of images"),
                "settings that are the same for every batch",
            )
        };
        Ok(Some(ints.ok_or_else(wrong)?))
    }

    fn axes(&self) -> Result<Option<Vec<i64>>, OnnxError> {
        self.setting(1, "axes")
    }

    /// The input that is a layer's value.
    fn layer(&self, index: usize) -> Result<View, OnnxError> {
        match self.input(index)? {
            Value::Layer(view) => Ok(view),
            Value::Constant(_) => Err(self.site.unsupported(
                "it computes with constants alone",
                "a graph whose constants are folded: simplify it with onnxsim or the exporter's \
                 own optimizer",
            )),
        }
    }

    /// A map in the usual order of axes.
    fn map(&mut self, index: usize) -> Result<(usize, Shape), OnnxError> {
        let view = self.layer(index)?;
        if view.dims.len() == 4 {
            let view = self.ordered(view, 1)?;
            let shape = self.importer.draft.shape(view.node);
            if matches!(shape, Shape::Map { .. }) && View::new(view.node, shape) == view {
                return Ok((view.node, shape));
            }
        }
        Err(self.site.unsupported("what it takes is no map [n, c, h, w]", NOT_A_MAP))
    }

    // Layers.

    fn push(&mut self, op: Op, inputs: &[usize], shape: Shape) -> usize {
        self.importer.draft.push(op, inputs, shape, &self.site.origin)
    }

    /// Adds a layer, whose shape follows from its inputs.
    fn push_layer(
        &mut self,
        layer: Layer,
        parameters: Vec<Weights>,
        inputs: &[usize],
    ) -> Result<usize, OnnxError> {
        let shapes: Vec<Shape> = inputs.iter().map(|&i| self.importer.draft.shape(i)).collect();
        let shape = layer.output_shape(&shapes).map_err(|misfit| {
            self.site.unsupported(format!("the layer {misfit}"), "a layer that refit has")
        })?;
        for (spec, values) in layer.parameters(shapes[0]).iter().zip(&parameters) {
            let wanted: usize = spec.shape.iter().product();
            if wanted != values.len() {
                let given = values.len();
                let problem = format!("it has {given} {}s, not {wanted}", spec.suffix);
                return Err(self.site.damaged(problem));
            }
            if !values.iter().all(|v| v.is_finite()) {
                return Err(self.site.damaged(format!("its {} is not finite", spec.suffix)));
            }
        }
        Ok(self.push(Op::Layer(layer, parameters), inputs, shape))
    }

    fn new_map(&self, id: usize) -> Value {
        Value::Layer(View::new(id, self.importer.draft.shape(id)))
    }

    /// A function of each value, which changes no axis.
    fn simple(&mut self, op: Op) -> Result1 {
        let view = self.layer(0)?;
        let id = self.importer.draft.same(op, &[view.node], &self.site.origin);
        Ok(Value::Layer(view.of(id)))
    }

    fn activation(&mut self, function: Activation) -> Result1 {
        self.simple(Op::Layer(Layer::Activation { function }, Vec::new()))
    }

    fn hard_sigmoid(&mut self) -> Result1 {
        let (alpha, beta) = (self.site.float("alpha", 0.2), self.site.float("beta", 0.5));
        if (alpha - 1.0 / 6.0).abs() < 1e-4 && beta == 0.5 {
            return self.activation(Activation::HardSigmoid);
        }
        let problem = format!("it is clamp({alpha} x + {beta}, 0, 1)");
        Err(self.site.unsupported(problem, "alpha 1/6 and beta 0.5, as PyTorch has them"))
    }

    fn dropout(&mut self) -> Result1 {
        let Value::Layer(view) = self.input(0)? else { return self.input(0) };
        let share = match self.optional(1)?.and_then(|c| c.scalar()) {
            Some(ratio) => ratio,
            None => self.site.float("ratio", 0.5),
        };
        if !(share > 0.0 && share < 1.0) {
            return Ok(Value::Layer(view));
        }
        self.simple(Op::Layer(Layer::Dropout(Dropout::new(share)), Vec::new()))
    }

    fn weights(&self, index: usize) -> Result<(Vec<usize>, Weights), OnnxError> {
        let constant = self.fixed(index)?;
        let values = constant.to_floats();
        let values = values.ok_or_else(|| self.site.damaged("its weights are no numbers"))?;
        Ok((constant.shape, values))
    }

    fn conv(&mut self) -> Result1 {
        let (mut x, mut shape) = self.map(0)?;
        let (dims, weight) = self.weights(1)?;
        let &[channels, _, kh, kw] = &dims[..] else {
            let problem = format!("its weights are of shape {dims:?}");
            return Err(self.site.unsupported(problem, "a convolution of two dimensions"));
        };
        let groups = usize::try_from(self.site.int("group", 1)).unwrap_or(0);
        let stride = self.site.pair("strides", 1)?;
        let dilation = self.site.pair("dilations", 1)?;
        let window = [(kh, dilation[0]), (kw, dilation[1])]
            .map(|(k, d)| k.saturating_sub(1).saturating_mul(d).saturating_add(1));
        let pads = self.pads(shape, window, stride)?;
        let padding = match pads {
            Pads::Padding(padding) => padding,
            Pads::Uneven(rows, columns) => {
                let pad = Layer::Pad { rows, columns };
                x = self.push_layer(pad, Vec::new(), &[x])?;
                shape = self.importer.draft.shape(x);
                Padding::Symmetric([0; 2])
            }
        };
        let mut parameters = vec![weight];
        if let Some(bias) = self.optional(2)? {
            let bias = bias.to_floats();
            parameters.push(bias.ok_or_else(|| self.site.damaged("its bias is no numbers"))?);
        }
        let bias = parameters.len() > 1;
        let conv = Conv { channels, kernel: [kh, kw], stride, padding, dilation, groups, bias };
        if groups == 0 || dims[1].saturating_mul(groups) != shape.channels() {
            let problem = format!("weights of shape {dims:?} in {groups} groups meet {shape}");
            return Err(self.site.damaged(problem));
        }
        let id = self.push_layer(Layer::Conv(conv), parameters, &[x])?;
        Ok(self.new_map(id))
    }

    /// The padding that a node's pads mean, for a map of its nominal size.
    fn pads(
        &self,
        shape: Shape,
        window: [usize; 2],
        stride: [usize; 2],
    ) -> Result<Pads, OnnxError> {
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
        let auto = self.site.word("auto_pad", "NOTSET");
        if auto == "SAME_UPPER" {
            return Ok(Pads::Padding(Padding::Same));
        }
        let ends = if auto == "SAME_LOWER" {
            let same = |axis: usize, size| {
                let stride = stride[axis].max(1);
                let (before, behind) = Padding::Same.resolve(axis, size, window[axis], stride);
                (behind, before)
            };
            [same(0, height), same(1, width)]
        } else {
            let pads = self.site.ints("pads").filter(|_| auto != "VALID").unwrap_or(&[0; 4]);
            let sizes: Vec<usize> = pads
                .iter()
                .filter_map(|&v| usize::try_from(v).ok().filter(|&v| v < 4096))
                .collect();
            let &[top, left, bottom, right] = &sizes[..] else {
                let problem = format!("its pads are {pads:?}");
                return Err(self.site.unsupported(problem, "four pads, none of them negative"));
            };
            [(top, bottom), (left, right)]
        };
        let befores = ends.map(|(before, _)| before);
        if ends.iter().all(|(before, behind)| before == behind) {
            return Ok(Pads::Padding(Padding::Symmetric(befores)));
        }
        // The zeros before, and the number of windows, are all that counts.
        let count = |axis: usize, size: usize, (before, behind): (usize, usize)| {
            let slack = (size + before + behind).checked_sub(window[axis])?;
            Some((before, slack / stride[axis].max(1)))
        };
        let alike = |padding: Padding| {
            [height, width].into_iter().enumerate().all(|(axis, size)| {
                let resolved = padding.resolve(axis, size, window[axis], stride[axis].max(1));
                count(axis, size, ends[axis]) == count(axis, size, resolved)
            })
        };
        for padding in [Padding::Same, Padding::Symmetric(befores)] {
            if alike(padding) {
                return Ok(Pads::Padding(padding));
            }
        }
        let [rows, columns] = ends.map(|(before, behind)| [before as isize, behind as isize]);
        Ok(Pads::Uneven(rows, columns))
    }

    /// A pooling's windows on a map; pads that no window has are a layer before it.
    fn windows(&mut self, zeros: bool) -> Result<(usize, Windows), OnnxError> {
        let (x, shape) = self.map(0)?;
        let kernel = self.site.pair("kernel_shape", 1)?;
        let stride = self.site.pair("strides", 1)?;
        if kernel[0] != kernel[1]
            || stride[0] != stride[1]
            || self.site.pair("dilations", 1)? != [1; 2]
        {
            return Err(self.site.unsupported(
                format!("its windows are {kernel:?}, its strides {stride:?}"),
                "square windows without dilation, with one stride",
            ));
        }
        let ceil = self.site.int("ceil_mode", 0) != 0;
        let windows = Windows { window: kernel[0], stride: stride[0], ceil, ..Windows::new(1, 1) };
        match self.pads(shape, kernel, stride)? {
            Pads::Padding(padding) => Ok((x, Windows { padding, ..windows })),
            Pads::Uneven(rows, columns) => {
                let padding =
                    Padding::Symmetric([rows[0].unsigned_abs(), columns[0].unsigned_abs()]);
                let ceiled = Windows { padding, ceil: true, ..windows };
                if self.counts_alike(shape, &ceiled, [rows, columns]) {
                    return Ok((x, ceiled));
                }
                if !zeros {
                    return Err(self.site.unsupported(
                        format!("it pads rows by {rows:?} and columns by {columns:?}"),
                        "the same padding at both ends",
                    ));
                }
                let x = self.push_layer(Layer::Pad { rows, columns }, Vec::new(), &[x])?;
                Ok((x, windows))
            }
        }
    }

    /// Whether windows that reach beyond the padding are as many as explicit pads give.
    fn counts_alike(&self, shape: Shape, windows: &Windows, ends: [[isize; 2]; 2]) -> bool {
        let Shape::Map { height, width, .. } = shape else { return false };
        [height, width].into_iter().enumerate().all(|(axis, size)| {
            let total = size + ends[axis].iter().map(|v| v.unsigned_abs()).sum::<usize>();
            let slack = total.checked_sub(windows.window);
            let count = slack.map(|slack| slack / windows.stride.max(1) + 1);
            windows.stride > 0 && windows.window > 0 && windows.count(axis, size) == count
        })
    }

    fn max_pool(&mut self) -> Result1 {
        let (x, windows) = self.windows(false)?;
        let id = self.push_layer(Layer::MaxPool(windows), Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    fn average_pool(&mut self) -> Result1 {
        let (x, shape) = self.map(0)?;
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
        let kernel = self.site.pair("kernel_shape", 1)?;
        let padded = self.site.ints("pads").is_some_and(|p| p.iter().any(|&v| v != 0));
        if kernel == [height, width] && !padded {
            let id = self.push_layer(Layer::AdaptiveAvgPool { size: [1; 2] }, Vec::new(), &[x])?;
            return Ok(self.new_map(id));
        }
        let all = self.site.int("count_include_pad", 0) != 0;
        let (x, windows) = self.windows(all)?;
        let divisor = if all { Divisor::Padded } else { Divisor::Inside };
        let id = self.push_layer(Layer::AvgPool { windows, divisor }, Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    fn global_max_pool(&mut self) -> Result1 {
        let (x, shape) = self.map(0)?;
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
        if height != width {
            let problem = format!("it takes the maximum of {height}x{width} pixels");
            return Err(self.site.unsupported(problem, "a square map"));
        }
        let windows = Windows::new(height, height);
        let id = self.push_layer(Layer::MaxPool(windows), Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    fn reduce_mean(&mut self, axes: &[i64], keep: bool) -> Result1 {
        let view = self.layer(0)?;
        let rank = view.dims.len();
        let axes: Result<Vec<usize>, _> = axes.iter().map(|&a| self.site.axis(a, rank)).collect();
        let axes = axes?;
        let reduced = |axis: usize| axes.contains(&axis);
        let dims = |all: bool| {
            let picked = view.dims.iter().enumerate().filter(move |(i, _)| reduced(*i) == all);
            picked.map(|(_, dim)| dim)
        };
        let shape = self.importer.draft.shape(view.node);
        let nothing = dims(true).all(Vec::is_empty) && !axes.is_empty();
        let pools = dims(true).all(is_spatial)
            && dims(false).flatten().all(|part| !part.axis.is_spatial())
            && matches!(shape, Shape::Map { .. });
        let over_channels = axes.len() == 1 && view.channel_axis(shape.channels()) == Some(axes[0]);
        let id = if nothing {
            view.node
        } else if pools && !axes.is_empty() {
            let layer = Layer::AdaptiveAvgPool { size: [1; 2] };
            self.push_layer(layer, Vec::new(), &[view.node])?
        } else if over_channels {
            self.push(Op::ChannelMean, &[view.node], shape.with_channels(1))
        } else {
            return Err(self.site.unsupported(
                format!("it takes the mean over axes {axes:?} of {rank}"),
                "a mean over the rows and columns, or over the channels",
            ));
        };
        let kept = view.dims.iter().enumerate().filter(|(i, _)| keep || !reduced(*i));
        let dims = kept.map(|(i, dim)| if reduced(i) { Vec::new() } else { dim.clone() });
        Ok(Value::Layer(View { node: id, dims: dims.collect() }))
    }

    fn batch_norm(&mut self) -> Result1 {
        let view = self.layer(0)?;
        let view = self.ordered(view, 1)?;
        let (channels, epsilon) =
            (self.importer.draft.shape(view.node).channels(), self.site.float("epsilon", 1e-5));
        let mut parameters = Vec::with_capacity(4);
        for index in 1..=4 {
            parameters.push(self.weights(index)?.1);
        }
        if parameters.iter().any(|p| p.len() != channels) {
            return Err(self.site.damaged(format!("its parameters are not {channels} each")));
        }
        let momentum = 1.0 - f64::from(self.site.float("momentum", 0.9));
        if let Shape::Map { .. } = self.importer.draft.shape(view.node) {
            let norm = BatchNorm { epsilon: epsilon.into(), momentum };
            let id = self.push_layer(Layer::BatchNorm(norm), parameters, &[view.node])?;
            return Ok(Value::Layer(view.of(id)));
        }
        let [scale, shift, mean, variance] = &parameters[..] else { unreachable!("four") };
        let scale: Vec<f32> =
            scale.iter().zip(&**variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();
        let shift: Vec<f32> = shift
            .iter()
            .zip(mean.iter().zip(&scale))
            .map(|(shift, (mean, scale))| shift - mean * scale)
            .collect();
        self.check_finite(&scale, &shift)?;
        let id = self.importer.draft.affine(view.node, &scale, &shift, &self.site.origin);
        Ok(Value::Layer(view.of(id)))
    }

    fn check_finite(&self, scale: &[f32], shift: &[f32]) -> Result<(), OnnxError> {
        match scale.iter().chain(shift).all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(self.site.damaged("its numbers are not finite")),
        }
    }

    fn layer_norm(&mut self) -> Result1 {
        let view = self.layer(0)?;
        let rank = view.dims.len();
        let axis = self.site.axis(self.site.int("axis", -1), rank)?;
        let channels = self.importer.draft.shape(view.node).channels();
        if axis + 1 != rank || view.channel_axis(channels) != Some(axis) {
            let problem = format!("it normalizes from axis {axis} of {rank} on");
            return Err(self.site.unsupported(problem, "a norm over the channels of each pixel"));
        }
        let (_, scale) = self.weights(1)?;
        let shift = match self.optional(2)? {
            Some(_) => self.weights(2)?.1,
            None => Arc::new(vec![0.0; channels]),
        };
        let epsilon = self.site.float("epsilon", 1e-5).into();
        let layer = Layer::LayerNorm(LayerNorm { epsilon });
        let id = self.push_layer(layer, vec![scale, shift], &[view.node])?;
        Ok(Value::Layer(view.of(id)))
    }

    fn response_norm(&mut self) -> Result1 {
        let (x, _) = self.map(0)?;
        let size = usize::try_from(self.site.int("size", 0)).unwrap_or(0);
        if size.is_multiple_of(2) || size > 1 << 12 {
            let problem = format!("it sums over {size} channels");
            return Err(self.site.unsupported(problem, "an odd number of channels"));
        }
        let norm = LocalResponseNorm {
            size,
            alpha: self.site.float("alpha", 1e-4),
            beta: self.site.float("beta", 0.75),
            k: self.site.float("bias", 1.0),
        };
        let id = self.push_layer(Layer::LocalResponseNorm(norm), Vec::new(), &[x])?;
        Ok(self.new_map(id))
    }

    fn gemm(&mut self) -> Result1 {
        let (alpha, beta) = (self.site.float("alpha", 1.0), self.site.float("beta", 1.0));
        if self.site.int("transA", 0) != 0 {
            return Err(self.site.unsupported("it transposes what it takes", "transA = 0"));
        }
        let (dims, weight) = self.weights(1)?;
        let &[a, b] = &dims[..] else {
            return Err(self.site.damaged(format!("its weights are of shape {dims:?}")));
        };
        let (inputs, features) = if self.site.int("transB", 0) != 0 { (b, a) } else { (a, b) };
        let at: Box<dyn Fn(usize, usize) -> usize> = match self.site.int("transB", 0) {
            0 => Box::new(move |out, into| into * features + out),
            _ => Box::new(move |out, into| out * inputs + into),
        };
        let bias = match self.optional(2)? {
            None => None,
            Some(c) => {
                let values = c.to_floats().filter(|v| v.len() == features || v.len() == 1);
                let values = values.ok_or_else(|| {
                    self.site.unsupported("it adds a matrix", "one number a feature")
                })?;
                Some((0..features).map(|i| beta * values[i % values.len()]).collect())
            }
        };
        self.linear(features, inputs, bias, |out, into| alpha * weight[at(out, into)])
    }

    fn matmul(&mut self) -> Result1 {
        if matches!(self.input(0)?, Value::Constant(_)) {
            return self.adaptive_pool();
        }
        let view = self.layer(0)?;
        let (dims, weight) = self.weights(1)?;
        if let (4, [from, to]) = (view.dims.len(), &dims[..])
            && view.dims[3].iter().any(|p| p.axis == view::Axis::Columns)
            && size_of(&view.dims[3]) == *from
        {
            let shape = self.importer.draft.shape(view.node);
            let Shape::Map { channels, height, .. } = shape else { unreachable!("columns") };
            let to = Shape::map(channels, height, *to);
            let id = self.push(Op::Columns(weight), &[view.node], to);
            return Ok(self.new_map(id));
        }
        let &[inputs, features] = &dims[..] else {
            let problem = format!("it multiplies by constants of shape {dims:?}");
            return Err(self.site.unsupported(problem, "a matrix of weights"));
        };
        self.linear(features, inputs, None, |out, into| weight[into * features + out])
    }

    /// Rows and columns mixed by the shares of [`Layer::AdaptiveAvgPool`], as refit exports it.
    fn adaptive_pool(&mut self) -> Result1 {
        let (dims, rows) = self.weights(0)?;
        let view = self.layer(1)?;
        let mixed = self.importer.draft.nodes[view.node].clone();
        if let (Op::Columns(columns), &[to_rows, from_rows]) = (&mixed.op, &dims[..])
            && let Shape::Map { height, width: to_columns, .. } = mixed.shape
            && let x = mixed.inputs[0]
            && let Shape::Map { width, .. } = self.importer.draft.shape(x)
            && height == from_rows
            && (1..=height).contains(&to_rows)
            && (1..=width).contains(&to_columns)
        {
            let shares = adaptive_shares(width, to_columns);
            let turned = (0..width * to_columns)
                .all(|i| columns[i] == shares[i % to_columns * width + i / to_columns]);
            if turned && *rows == adaptive_shares(height, to_rows) {
                let layer = Layer::AdaptiveAvgPool { size: [to_rows, to_columns] };
                let id = self.push_layer(layer, Vec::new(), &[x])?;
                return Ok(self.new_map(id));
            }
        }
        Err(self.site.unsupported(
            "it multiplies constants by what depends on the images",
            "a matrix of weights as its second input",
        ))
    }

    /// A fully connected layer over the last axis; `weight` gives the weight of an output and an
    /// input, in the tensor's order.
    fn linear(
        &mut self,
        features: usize,
        inputs: usize,
        bias: Option<Vec<f32>>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Result1 {
        let view = self.layer(0)?;
        let (last, dims) = view.dims.split_last().ok_or_else(|| self.site.damaged("no axes"))?;
        if size_of(last) != inputs {
            let problem = format!("{inputs} rows of weights meet {} features", size_of(last));
            return Err(self.site.damaged(problem));
        }
        let shape = self.importer.draft.shape(view.node);
        let of_channels = last.iter().all(|p| p.axis == view::Axis::Channels)
            && inputs == shape.channels()
            && dims.iter().all(|d| is_images(d) || is_spatial(d));
        let whole = dims.iter().all(|d| is_images(d) || d.is_empty());
        let (x, order) = if of_channels {
            (view.node, feature_order(last, Shape::vector(inputs)))
        } else if whole && inputs == shape.elements() {
            let flat = self.push_layer(Layer::Flatten, Vec::new(), &[view.node])?;
            (flat, feature_order(last, shape))
        } else {
            return Err(self.site.unsupported(
                "it mixes along an axis that is not the channels'",
                "a matrix product over channels or over all of an image's features",
            ));
        };
        let room = features.checked_mul(inputs).filter(|_| order.len() == inputs);
        let room =
            room.ok_or_else(|| self.site.damaged("its weights are of an impossible size"))?;
        let mut turned = vec![0.0; room];
        for (row, out) in turned.chunks_exact_mut(inputs).zip(0..) {
            for (into, &at) in order.iter().enumerate() {
                row[at] = weight(out, into);
            }
        }
        let linear = Linear { features, bias: bias.is_some() };
        let parameters = std::iter::once(turned).chain(bias).map(Arc::new).collect();
        let id = self.push_layer(Layer::Linear(linear), parameters, &[x])?;
        let made = View::new(id, Shape::vector(features)).dims.swap_remove(1);
        let dims = dims.iter().cloned().chain([made]).collect();
        Ok(Value::Layer(View { node: id, dims }))
    }

    fn pad(&mut self) -> Result1 {
        let view = self.layer(0)?;
        let pads = self.setting(1, "pads")?.unwrap_or_default();
        let value = match self.optional(2)? {
            Some(c) => c.scalar().unwrap_or(f32::NAN),
            None => self.site.float("value", 0.0),
        };
        let mode = self.site.word("mode", "constant");
        let axes = self.setting(3, "")?;
        let rank = view.dims.len();
        if pads.iter().all(|&p| p == 0) {
            return Ok(Value::Layer(view));
        }
        if pads.len() != 2 * rank || value != 0.0 || mode != "constant" || axes.is_some() {
            let problem = format!("it pads by {pads:?} with {value} ({mode})");
            return Err(self.site.unsupported(problem, "zeros around rows and columns"));
        }
        let mut ends = [[0_isize; 2]; 2];
        for (axis, dim) in view.dims.iter().enumerate() {
            let pair = [pads[axis], pads[axis + rank]];
            if pair == [0, 0] {
                continue;
            }
            let side = match &dim[..] {
                [part] if part.axis == view::Axis::Rows => 0,
                [part] if part.axis == view::Axis::Columns => 1,
                _ => {
                    let problem = format!("it pads axis {axis}");
                    return Err(self.site.unsupported(problem, "zeros around rows and columns"));
                }
            };
            ends[side] = pair.map(|v| isize::try_from(v).unwrap_or(isize::MAX));
        }
        self.resized(&view, ends)
    }

    /// With rows and columns added, or taken away.
    fn resized(&mut self, view: &View, [rows, columns]: [[isize; 2]; 2]) -> Result1 {
        let id = self.push_layer(Layer::Pad { rows, columns }, Vec::new(), &[view.node])?;
        let (old, new) = (self.importer.draft.shape(view.node), self.importer.draft.shape(id));
        Ok(Value::Layer(self.replaced(view, id, old, new)))
    }

    /// A view of `id` whose axes stand where those of the old value stood.
    fn replaced(&self, view: &View, id: usize, old: Shape, new: Shape) -> View {
        let (from, to) = (View::new(0, old).dims, View::new(0, new).dims);
        let dims = view.dims.iter().map(|dim| {
            let at = from.iter().position(|d| d == dim && !d.is_empty());
            at.map_or_else(|| dim.clone(), |at| to[at].clone())
        });
        View { node: id, dims: dims.collect() }
    }

    // Arithmetic.

    fn binary(&mut self, op: &str) -> Result1 {
        match (self.input(0)?, self.input(1)?) {
            (Value::Constant(a), Value::Constant(b)) => {
                self.folded(a.combine(&b, op, self.importer.room))
            }
            (Value::Layer(a), Value::Layer(b)) => self.of_two(op, a, b),
            (Value::Layer(x), Value::Constant(c)) => self.with_constant(op, &x, &c),
            (Value::Constant(c), Value::Layer(x)) => match op {
                "Add" | "Mul" => self.with_constant(op, &x, &c),
                "Sub" => {
                    let minus = Constant::floats(Vec::new(), vec![-1.0]);
                    let Value::Layer(x) = self.with_constant("Mul", &x, &minus)? else {
                        unreachable!("a layer's value")
                    };
                    self.with_constant("Add", &x, &c)
                }
                "Div" if c.scalar() == Some(1.0) => {
                    let origin = &self.site.origin;
                    let id = self.importer.draft.power(x.node, -1.0, origin);
                    Ok(Value::Layer(x.of(id)))
                }
                _ => {
                    Err(self.site.unsupported("it takes a constant first", "a layer's value first"))
                }
            },
        }
    }

    fn sum(&mut self) -> Result1 {
        let mut total = self.input(0)?;
        for index in 1..self.inputs.len() {
            let next = self.input(index)?;
            self.inputs[0] = Some(total);
            self.inputs[1] = Some(next);
            total = self.binary("Add")?;
        }
        Ok(total)
    }

    fn folded(&mut self, constant: Option<Constant>) -> Result1 {
        let constant = constant.ok_or_else(|| {
            self.site.unsupported(
                "its constants cannot be computed beforehand",
                "a graph whose constants are folded: simplify it with onnxsim or the exporter's \
                 own optimizer",
            )
        })?;
        self.importer.room = self.importer.room.saturating_sub(constant.len());
        Ok(Value::Constant(constant))
    }

    /// Two values of which one may be spread over the other's axes.
    fn of_two(&mut self, op: &str, a: View, b: View) -> Result1 {
        let rank = a.dims.len().max(b.dims.len());
        let spread = |mut view: View| {
            let missing = rank - view.dims.len();
            view.dims.splice(0..0, std::iter::repeat_n(Vec::new(), missing));
            view
        };
        let (a, b) = (spread(a), spread(b));
        let pairs = || a.dims.iter().zip(&b.dims);
        let same = a.dims == b.dims;
        let a_over_b = pairs().all(|(a, b)| a == b || b.is_empty());
        let b_over_a = pairs().all(|(a, b)| a == b || a.is_empty());
        if !a_over_b && !b_over_a {
            // Shuffled channels may be what keeps the two apart.
            let (x, y) = (self.all_ordered(a.clone())?, self.all_ordered(b.clone())?);
            if (x.node, y.node) != (a.node, b.node) {
                return self.of_two(op, x, y);
            }
            return Err(self.site.unsupported(
                "its two inputs have their axes in different orders or sizes",
                "values of one shape",
            ));
        }
        let shapes = [a.node, b.node].map(|id| self.importer.draft.shape(id));
        let equal = same && shapes[0] == shapes[1];
        let (draft, origin) = (&mut self.importer.draft, &self.site.origin);
        let id = match op {
            "Add" if equal => draft.add(a.node, b.node, origin),
            "Sub" if equal || a_over_b => {
                let id = draft.subtract(a.node, b.node, origin);
                let whole = equal || matches!(draft.nodes[id].op, Op::Centred);
                if whole { id } else { return Err(self.uneven(shapes)) }
            }
            "Mul" if equal || a_over_b => draft.multiply(a.node, b.node, origin),
            "Mul" => draft.multiply(b.node, a.node, origin),
            "Div" if a_over_b => match draft.divide(a.node, b.node, origin) {
                Some(id) => id,
                None => {
                    let needs = "a division by a constant, or a layer norm";
                    return Err(self.site.unsupported("it divides two values", needs));
                }
            },
            _ => return Err(self.uneven(shapes)),
        };
        Ok(Value::Layer(if a_over_b { a.of(id) } else { b.of(id) }))
    }

    fn uneven(&self, [a, b]: [Shape; 2]) -> OnnxError {
        self.site.unsupported(format!("it joins {a} and {b}"), "values of one shape")
    }

    fn with_constant(&mut self, op: &str, x: &View, c: &Constant) -> Result1 {
        let constant = c.to_floats().filter(|v| v.iter().all(|v| v.is_finite()));
        let Some(values) = constant else {
            return Err(self.site.damaged("its constant is not finite"));
        };
        let Some(&first) = values.first() else {
            return Err(self.site.damaged("its constant is empty"));
        };
        let (draft, origin) = (&mut self.importer.draft, &self.site.origin);
        let uniform = values.iter().all(|v| *v == first);
        if uniform && (values.len() == 1 || matches!(op, "Pow" | "Div")) || op == "Pow" {
            let id = match op {
                "Add" => draft.shift(x.node, first, origin),
                "Sub" => draft.shift(x.node, -first, origin),
                "Mul" => draft.scale(x.node, first, origin),
                "Div" if first != 0.0 => draft.scale(x.node, 1.0 / first, origin),
                "Pow" if uniform => draft.power(x.node, first, origin),
                _ => {
                    return Err(self
                        .site
                        .unsupported("it has no finite result", "other constants"));
                }
            };
            return Ok(Value::Layer(x.of(id)));
        }
        let by_channel = self.by_channel(x, c, &values)?;
        let channels = by_channel.len();
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let (scale, shift) = match op {
            "Add" => (ones, by_channel),
            "Sub" => (ones, by_channel.iter().map(|v| -v).collect()),
            "Mul" => (by_channel, zeros),
            _ => (by_channel.iter().map(|v| 1.0 / v).collect(), zeros),
        };
        self.check_finite(&scale, &shift)?;
        let id = self.importer.draft.affine(x.node, &scale, &shift, &self.site.origin);
        Ok(Value::Layer(x.of(id)))
    }

    /// A constant's values by channel of `x`'s layer.
    fn by_channel(&self, x: &View, c: &Constant, values: &[f32]) -> Result<Vec<f32>, OnnxError> {
        let wrong = || {
            self.site.unsupported(
                format!("its constant of shape {:?} is not one number a channel", c.shape),
                "one number, or one number a channel",
            )
        };
        let channels = self.importer.draft.shape(x.node).channels();
        let mut leading = c.shape.len().saturating_sub(x.dims.len());
        if c.shape[..leading].iter().any(|&d| d != 1) {
            return Err(wrong());
        }
        leading = x.dims.len().saturating_sub(c.shape.len() - leading);
        let own = &c.shape[c.shape.len() + leading - x.dims.len()..];
        let mut wide = own.iter().zip(&x.dims[leading..]).filter(|(d, _)| **d != 1);
        let (Some((&size, dim)), None) = (wide.next(), wide.next()) else { return Err(wrong()) };
        let of_channels = dim.iter().all(|p| p.axis == view::Axis::Channels);
        if !of_channels || size != channels || size_of(dim) != channels {
            return Err(wrong());
        }
        let mut ordered = vec![0.0; channels];
        for (value, at) in values.iter().zip(feature_order(dim, Shape::vector(channels))) {
            ordered[at] = *value;
        }
        Ok(ordered)
    }

    fn unary(&mut self, op: &str) -> Result1 {
        let x = match self.input(0)? {
            Value::Constant(c) => return self.folded(c.map(op)),
            Value::Layer(x) => x,
        };
        let (draft, origin) = (&mut self.importer.draft, &self.site.origin);
        let id = match op {
            "Neg" => draft.scale(x.node, -1.0, origin),
            "Sqrt" => draft.power(x.node, 0.5, origin),
            "Reciprocal" => draft.power(x.node, -1.0, origin),
            _ => return Err(self.site.unsupported("no layer of refit's computes it", needs(op))),
        };
        Ok(Value::Layer(x.of(id)))
    }

    fn clip(&mut self, op: &str) -> Result1 {
        if matches!(self.input(0)?, Value::Constant(_)) && self.inputs.len() == 2 {
            self.inputs.swap(0, 1);
        }
        let bound = |index: usize, name: &str, default: f32| match self.optional(index)? {
            Some(c) => Ok(c.scalar().unwrap_or(f32::NAN)),
            None => Ok(self.site.float(name, default)),
        };
        let (least, most) = match op {
            "Max" => (bound(1, "", f32::NEG_INFINITY)?, f32::INFINITY),
            "Min" => (f32::NEG_INFINITY, bound(1, "", f32::INFINITY)?),
            _ => (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?),
        };
        let x = self.layer(0)?;
        let inner = &self.importer.draft.nodes[x.node];
        let after_relu =
            matches!(inner.op, Op::Layer(Layer::Activation { function: Activation::Relu }, _));
        let (least, unbounded) =
            if after_relu { (least.max(0.0), inner.inputs[0]) } else { (least, x.node) };
        let function = match (least, most) {
            (0.0, 6.0) => Activation::Relu6,
            (0.0, most) if most >= f32::MAX => Activation::Relu,
            (least, most) if least <= f32::MIN && most >= f32::MAX => Activation::Identity,
            _ => {
                let problem = format!("it clamps to {least} to {most}");
                return Err(self.site.unsupported(problem, "clamps to 0 and above, or to 0 to 6"));
            }
        };
        if function == Activation::Identity {
            return Ok(Value::Layer(x));
        }
        let id = self.importer.draft.activation(unbounded, function, &self.site.origin);
        Ok(Value::Layer(x.of(id)))
    }

    // Shapes.

    fn constant(&mut self) -> Result1 {
        let site = &self.site;
        let number = |ints: &[i64]| ints.iter().map(|&v| Int::known(v)).collect::<Vec<_>>();
        let constant = if let Some(tensor) = site.attribute("value").and_then(|a| a.t.as_ref()) {
            self.importer.source.read(tensor)?
        } else if let Some(value) = site.attribute("value_float") {
            Constant::floats(Vec::new(), vec![value.f.unwrap_or_default()])
        } else if let Some(value) = site.attribute("value_int") {
            let values = number(&[value.i.unwrap_or_default()]);
            Constant { shape: Vec::new(), values: Values::Ints(values) }
        } else if let Some(ints) = site.ints("value_ints") {
            Constant::ints(number(ints))
        } else if let Some(value) = site.attribute("value_floats") {
            Constant::floats(vec![value.floats.len()], value.floats.clone())
        } else {
            return Err(site.unsupported("it is of words or sparse", "a dense tensor of numbers"));
        };
        Ok(Value::Constant(constant))
    }

    fn constant_of_shape(&mut self) -> Result1 {
        let shape = self.setting(0, "")?.unwrap_or_default();
        let shape: Option<Vec<usize>> = shape.iter().map(|&d| usize::try_from(d).ok()).collect();
        let len = shape.as_ref().and_then(|s| s.iter().try_fold(1_usize, |n, &d| n.checked_mul(d)));
        let value = self.site.attribute("value").and_then(|a| a.t.as_ref());
        let value = value.map(|t| self.importer.source.read(t)).transpose()?;
        let value = value.unwrap_or(Constant::floats(vec![1], vec![0.0]));
        let made = match (shape, len.filter(|&len| len <= 1 << 12), value.values) {
            (Some(shape), Some(len), Values::Ints(v)) if v.len() == 1 => {
                Some(Constant { shape, values: Values::Ints(vec![v[0]; len]) })
            }
            (Some(shape), Some(len), Values::Floats(v)) if v.len() == 1 => {
                Some(Constant::floats(shape, vec![v[0]; len]))
            }
            _ => None,
        };
        self.folded(made)
    }

    fn cast(&mut self) -> Result1 {
        let to = self.site.int("to", 0) as i32;
        let value = self.input(0)?;
        let floating =
            [data_type::FLOAT, data_type::FLOAT16, data_type::DOUBLE, data_type::BFLOAT16]
                .contains(&to);
        match value {
            Value::Layer(view) if floating => Ok(Value::Layer(view)),
            Value::Layer(_) => {
                Err(self.site.unsupported("it rounds a layer's value", "a network of floats"))
            }
            Value::Constant(c) if floating => {
                // A shape that counts images stays one.
                let floats =
                    c.to_floats().map(|v| Constant { values: Values::Floats(v), ..c.clone() });
                Ok(Value::Constant(floats.unwrap_or(c)))
            }
            Value::Constant(c) => {
                let ints = c.to_ints().map(|v| Constant { values: Values::Ints(v), ..c.clone() });
                self.folded(ints)
            }
        }
    }

    fn shape_of(&mut self) -> Result1 {
        let sizes: Vec<Int> = match self.input(0)? {
            Value::Constant(c) => c.shape.iter().map(|&d| Int::known(d as i64)).collect(),
            Value::Layer(x) => {
                let size = |dim: &view::Dim| match is_images(dim) {
                    true => Int { images: size_of(dim) as i64, ..Int::BATCH },
                    false => Int::known(size_of(dim) as i64),
                };
                x.dims.iter().map(size).collect()
            }
        };
        let rank = sizes.len() as i64;
        let place =
            |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
        let (start, end) = (place(self.site.int("start", 0)), place(self.site.int("end", rank)));
        Ok(Value::Constant(Constant::ints(sizes.get(start..end).unwrap_or_default().to_vec())))
    }

    fn gather(&mut self) -> Result1 {
        let Value::Constant(data) = self.input(0)? else {
            return Err(self.site.unsupported("it picks from a layer's value", "Slice or Split"));
        };
        let index = self.fixed(1)?;
        let rank = data.shape.len();
        let axis = self.site.axis(self.site.int("axis", 0), rank.max(1))?;
        let rows = data.shape.first().copied().unwrap_or(0) as i64;
        let places: Option<Vec<usize>> = index.to_ints().and_then(|v| {
            let place = |v: Int| {
                let v = v.value()?;
                usize::try_from(if v < 0 { v.checked_add(rows)? } else { v }).ok()
            };
            v.into_iter().map(place).collect()
        });
        let picked = places.filter(|_| axis == 0).and_then(|places| {
            let shape = index.shape.iter().chain(data.shape.get(1..)?).copied().collect();
            Some(Constant { shape, values: data.pick(&places)? })
        });
        self.folded(picked)
    }

    fn concat(&mut self) -> Result1 {
        let inputs: Result<Vec<Value>, _> = (0..self.inputs.len()).map(|i| self.input(i)).collect();
        let inputs = inputs?;
        let layers: Vec<View> = inputs
            .iter()
            .filter_map(|v| match v {
                Value::Layer(x) => Some(x.clone()),
                Value::Constant(_) => None,
            })
            .collect();
        if layers.is_empty() {
            let lists = inputs.into_iter().map(|v| match v {
                Value::Constant(c) if c.shape.len() == 1 => c.to_ints(),
                _ => None,
            });
            let joined: Option<Vec<Vec<Int>>> = lists.collect();
            let joined = joined.map(|lists| lists.concat()).filter(|v| v.len() <= 1 << 12);
            return self.folded(joined.map(Constant::ints));
        }
        if layers.len() != inputs.len() {
            return Err(self.site.unsupported("it joins constants to a value", "values alone"));
        }
        let axis = self.site.axis(self.site.int("axis", 1), layers[0].dims.len())?;
        let mut parts = Vec::with_capacity(layers.len());
        for view in layers {
            let view = self.features_at(view, axis)?;
            parts.push(self.ordered(view, axis)?);
        }
        let other = |view: &View| {
            let mut dims = view.dims.clone();
            dims.get_mut(axis).map(std::mem::take);
            dims
        };
        if parts.iter().any(|p| other(p) != other(&parts[0])) {
            return Err(self
                .site
                .unsupported("it joins values of different axes", "maps of one size"));
        }
        let mut nodes: Vec<usize> = parts.iter().map(|p| p.node).collect();
        let is_vector =
            |&id: &usize, draft: &Draft| matches!(draft.shape(id), Shape::Vector { .. });
        if nodes.iter().any(|id| is_vector(id, &self.importer.draft)) {
            for id in &mut nodes {
                if !is_vector(id, &self.importer.draft) {
                    *id = self.push_layer(Layer::Flatten, Vec::new(), &[*id])?;
                }
            }
        }
        let id = self.push_layer(Layer::Concat, Vec::new(), &nodes)?;
        let channels = self.importer.draft.shape(id).channels();
        let mut view = parts.swap_remove(0).of(id);
        view.dims[axis] = View::new(id, Shape::vector(channels)).dims.swap_remove(1);
        Ok(Value::Layer(view))
    }

    /// A view whose axis holds all features of a flattened map, as one of a vector.
    fn features_at(&mut self, view: View, axis: usize) -> Result<View, OnnxError> {
        let shape = self.importer.draft.shape(view.node);
        let rest = view.dims.iter().enumerate().filter(|(i, _)| *i != axis);
        let flat = view.dims.get(axis).is_some_and(|dim| size_of(dim) == shape.elements())
            && rest.clone().all(|(_, d)| is_images(d) || d.is_empty())
            && shape.elements() > shape.channels();
        if !flat {
            return Ok(view);
        }
        let dim = &view.dims[axis];
        if !feature_order(dim, shape).iter().copied().eq(0..shape.elements()) {
            return Err(self.site.unsupported("it joins features of another order", NOT_A_MAP));
        }
        let id = self.push_layer(Layer::Flatten, Vec::new(), &[view.node])?;
        let mut flat = view.of(id);
        flat.dims[axis] = View::new(id, Shape::vector(shape.elements())).dims.swap_remove(1);
        Ok(flat)
    }

    /// The same value with channels in order on `axis`: a shuffle where they are dealt out.
    fn ordered(&mut self, view: View, axis: usize) -> Result<View, OnnxError> {
        let shape = self.importer.draft.shape(view.node);
        let channels = shape.channels();
        let Some(dim) = view.dims.get(axis) else {
            return Err(self.site.unsupported("it has no axis of channels", NOT_A_MAP));
        };
        let whole = View::new(0, Shape::vector(channels)).dims.swap_remove(1);
        if *dim == whole {
            return Ok(view);
        }
        if let [outer, inner] = dim[..]
            && outer.axis == view::Axis::Channels
            && inner.axis == view::Axis::Channels
            && outer.stride == 1
            && inner.stride == outer.size
            && outer.size * inner.size == channels
        {
            let shuffle = Layer::Shuffle { groups: inner.size };
            let id = self.push_layer(shuffle, Vec::new(), &[view.node])?;
            let mut view = view.of(id);
            view.dims[axis] = whole;
            return Ok(view);
        }
        Err(self.site.unsupported(
            format!("axis {axis} of what it takes does not hold the channels"),
            "an operator along the channels",
        ))
    }

    /// Channels in order wherever they are dealt out.
    fn all_ordered(&mut self, view: View) -> Result<View, OnnxError> {
        let dealt = view
            .dims
            .iter()
            .position(|d| d.len() == 2 && d.iter().all(|p| p.axis == view::Axis::Channels));
        dealt.map_or_else(|| Ok(view.clone()), |axis| self.ordered(view.clone(), axis))
    }

    fn slice(&mut self) -> Result1 {
        let starts = self.setting(1, "starts")?.unwrap_or_default();
        let ends = self.setting(2, "ends")?.unwrap_or_default();
        let axes = self.setting(3, "axes")?.unwrap_or((0..starts.len() as i64).collect());
        let steps = self.setting(4, "steps")?.unwrap_or(vec![1; starts.len()]);
        if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) {
            return Err(self.site.damaged("its starts, ends, axes and steps differ in number"));
        }
        if steps.iter().any(|&step| step != 1) {
            let problem = format!("it steps by {steps:?}");
            return Err(self.site.unsupported(problem, "neighbouring places, step 1"));
        }
        let place = |v: i64, size: usize| {
            let size = size as i64;
            (if v < 0 { v.saturating_add(size) } else { v }).clamp(0, size) as usize
        };
        let mut view = match self.input(0)? {
            Value::Layer(view) => view,
            Value::Constant(c) => {
                let range = match (&starts[..], &c.shape[..]) {
                    (&[start], &[size]) => {
                        place(start, size)..place(ends[0], size).max(place(start, size))
                    }
                    _ => return self.folded(None),
                };
                let index: Vec<usize> = range.collect();
                let values = c.pick(&index);
                return self
                    .folded(values.map(|values| Constant { shape: vec![index.len()], values }));
            }
        };
        for ((&start, &end), &axis) in starts.iter().zip(&ends).zip(&axes) {
            let axis = self.site.axis(axis, view.dims.len())?;
            let dim = &view.dims[axis];
            let size = size_of(dim);
            if is_images(dim) {
                if start == 0 && end > 1 << 30 {
                    continue;
                }
                return Err(self.site.unsupported("it picks images", "all images of a batch"));
            }
            let (from, to) = (place(start, size), place(end, size));
            if (from, to) == (0, size) {
                continue;
            }
            if from >= to {
                return Err(self.site.damaged("it leaves nothing"));
            }
            view = self.sliced(view, axis, from, to - from)?;
        }
        Ok(Value::Layer(view))
    }

    /// `size` places from `first` on along an axis.
    fn sliced(
        &mut self,
        view: View,
        axis: usize,
        first: usize,
        size: usize,
    ) -> Result<View, OnnxError> {
        if let [part] = view.dims[axis][..]
            && part.stride == 1
            && is_spatial(&view.dims[axis])
        {
            let taken = [-(first as isize), -((part.size - first - size) as isize)];
            let ends = match part.axis {
                view::Axis::Rows => [taken, [0; 2]],
                _ => [[0; 2], taken],
            };
            let Value::Layer(view) = self.resized(&view, ends)? else { unreachable!("a value") };
            return Ok(view);
        }
        let view = self.ordered(view, axis)?;
        let layer = Layer::Slice { first, channels: size };
        let id = self.push_layer(layer, Vec::new(), &[view.node])?;
        let mut sliced = view.of(id);
        sliced.dims[axis] = View::new(id, Shape::vector(size)).dims.swap_remove(1);
        Ok(sliced)
    }

    fn split(&mut self) -> Result<Vec<Value>, OnnxError> {
        let view = self.layer(0)?;
        let axis = self.site.axis(self.site.int("axis", 0), view.dims.len())?;
        let (size, parts) = (size_of(&view.dims[axis]), self.site.node.output.len());
        let sizes: Vec<usize> = match self.setting(1, "split")? {
            Some(sizes) => {
                sizes.into_iter().map(|v| usize::try_from(v).unwrap_or(usize::MAX)).collect()
            }
            None if parts > 0 => {
                let each = size.div_ceil(parts);
                (0..parts).map(|i| each.min(size.saturating_sub(i * each))).collect()
            }
            None => Vec::new(),
        };
        let total = sizes.iter().try_fold(0_usize, |n, &s| n.checked_add(s));
        if sizes.len() != parts || total != Some(size) || sizes.contains(&0) {
            return Err(self.site.damaged(format!("it splits {size} into {sizes:?}")));
        }
        let mut outputs = Vec::with_capacity(parts);
        let mut first = 0;
        for size in sizes {
            outputs.push(Value::Layer(self.sliced(view.clone(), axis, first, size)?));
            first += size;
        }
        Ok(outputs)
    }

    fn squeeze(&mut self, adds: bool) -> Result1 {
        let axes = self.axes()?;
        let value = self.input(0)?;
        let rank = match &value {
            Value::Constant(c) => c.shape.len(),
            Value::Layer(x) => x.dims.len(),
        };
        let ones: Vec<usize> = match &value {
            Value::Constant(c) => (0..rank).filter(|&i| c.shape[i] == 1).collect(),
            Value::Layer(x) => (0..rank).filter(|&i| x.dims[i].is_empty()).collect(),
        };
        let reach = if adds { rank + axes.as_ref().map_or(0, Vec::len) } else { rank };
        if reach > 8 {
            return Err(self.site.damaged("it makes more than 8 axes"));
        }
        let mut axes = match axes {
            None => ones.clone(),
            Some(axes) => {
                let axes: Result<Vec<usize>, _> =
                    axes.into_iter().map(|a| self.site.axis(a, reach)).collect();
                axes?
            }
        };
        axes.sort_unstable();
        axes.dedup();
        if !adds && axes.iter().any(|axis| !ones.contains(axis)) {
            return Err(self.site.unsupported("it drops an axis that is not of size 1", NOT_A_MAP));
        }
        if adds && axes.iter().enumerate().any(|(i, &axis)| axis > rank + i) {
            return Err(self.site.damaged("it names an axis twice"));
        }
        fn change<T>(mut sizes: Vec<T>, axes: &[usize], one: Option<T>) -> Vec<T>
        where
            T: Clone,
        {
            match one {
                Some(one) => axes.iter().for_each(|&axis| sizes.insert(axis, one.clone())),
                None => axes.iter().rev().for_each(|&axis| drop(sizes.remove(axis))),
            }
            sizes
        }
        match value {
            Value::Constant(c) => {
                let shape = change(c.shape.clone(), &axes, adds.then_some(1));
                self.folded(c.with_shape(shape))
            }
            Value::Layer(x) => {
                let dims = change(x.dims, &axes, adds.then(Vec::new));
                Ok(Value::Layer(View { node: x.node, dims }))
            }
        }
    }

    fn flatten(&mut self) -> Result1 {
        let x = self.layer(0)?;
        let axis = self.site.axis(self.site.int("axis", 1), x.dims.len())?;
        let before: usize = x.dims[..axis].iter().map(size_of).product();
        let behind = x.elements() / before;
        let sizes = if before == 1 { vec![0, behind] } else { vec![0, before, behind] };
        let flat = x.reshaped(&sizes).filter(|_| before == 1 && axis > 0);
        flat.map(Value::Layer).ok_or_else(|| {
            let problem = format!("it flattens from axis {axis} on");
            self.site.unsupported(problem, "one row of features an image: axis 1")
        })
    }

    fn transpose(&mut self) -> Result1 {
        let value = self.input(0)?;
        let rank = match &value {
            Value::Constant(c) => c.shape.len(),
            Value::Layer(x) => x.dims.len(),
        };
        let order: Vec<usize> = match self.site.ints("perm") {
            None => (0..rank).rev().collect(),
            Some(perm) => perm.iter().map(|&a| usize::try_from(a).unwrap_or(usize::MAX)).collect(),
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return Err(self.site.damaged(format!("it orders {rank} axes as {order:?}")));
        }
        match value {
            Value::Constant(c) => self.folded(c.transposed(&order)),
            Value::Layer(x) => Ok(Value::Layer(x.transposed(&order))),
        }
    }

    fn reshape(&mut self) -> Result1 {
        let target = match self.site.ints("shape") {
            Some(ints) => ints.iter().map(|&v| Int::known(v)).collect(),
            None => self.fixed(1)?.to_ints().unwrap_or_default(),
        };
        if target.len() > 8 {
            return Err(self.site.damaged("it makes more than 8 axes"));
        }
        let allow_zero = self.site.int("allowzero", 0) != 0;
        match self.input(0)? {
            Value::Constant(c) => {
                let known = |(i, v): (usize, &Int)| match v.value()? {
                    0 if !allow_zero => c.shape.get(i).copied(),
                    -1 => Some(usize::MAX),
                    v => usize::try_from(v).ok(),
                };
                let shape: Option<Vec<usize>> = target.iter().enumerate().map(known).collect();
                let shape = shape.and_then(|s| filled(s, c.len()));
                self.folded(shape.and_then(|shape| c.with_shape(shape)))
            }
            Value::Layer(x) => {
                let sizes = sizes(&x, &target, allow_zero, self.importer.batch);
                let reshaped = sizes.and_then(|sizes| x.reshaped(&sizes));
                reshaped.map(Value::Layer).ok_or_else(|| {
                    let number = |v: &Int| match v.images {
                        0 => v.known.to_string(),
                        1 => "n".to_owned(),
                        k => format!("{k} n"),
                    };
                    let target: Vec<String> = target.iter().map(number).collect();
                    self.site.unsupported(
                        format!(
                            "it makes [{}] of {} values an image",
                            target.join(", "),
                            x.elements()
                        ),
                        "a reshape that keeps images apart, flattens a map, or splits its channels",
                    )
                })
            }
        }
    }
}

/// Padding that a layer has, or rows and columns that a layer of its own adds.
enum Pads {
    Padding(Padding),
    Uneven([isize; 2], [isize; 2]),
}

/// Sizes of which one may be left open (the largest number), for so many values.
fn filled(mut sizes: Vec<usize>, len: usize) -> Option<Vec<usize>> {
    let mut known = sizes.iter().filter(|&&s| s != usize::MAX);
    let known = known.try_fold(1_usize, |n, &s| n.checked_mul(s))?;
    if let Some(open) = sizes.iter().position(|&s| s == usize::MAX) {
        sizes[open] = len.checked_div(known)?;
    }
    Some(sizes)
}

/// The sizes that a reshape makes, that of the images' axis being 0.
fn sizes(x: &View, target: &[Int], allow_zero: bool, batch: Option<i64>) -> Option<Vec<usize>> {
    let elements = x.elements();
    let size = |(i, v): (usize, &Int)| match (v.images, v.known) {
        (1, 0) => Some(0),
        (0, 0) if !allow_zero => {
            let dim = x.dims.get(i)?;
            Some(if is_images(dim) { 0 } else { size_of(dim) })
        }
        (0, -1) => Some(usize::MAX),
        (0, v @ 1..) => usize::try_from(v).ok(),
        _ => None,
    };
    let mut sizes: Vec<usize> = target.iter().enumerate().map(size).collect::<Option<_>>()?;
    if !sizes.contains(&0) {
        let mut known = sizes.iter().filter(|&&s| s != usize::MAX);
        let known = known.try_fold(1_usize, |n, &s| n.checked_mul(s))?;
        let open = sizes.iter().position(|&s| s == usize::MAX);
        let images = match open {
            Some(open) if known == elements => open,
            _ => 0,
        };
        let counts = |size: usize| size == 1 || batch == i64::try_from(size).ok();
        if open != Some(images) && !counts(*sizes.first()?) {
            return None;
        }
        *sizes.get_mut(images)? = 0;
    }
    let known: Vec<usize> = sizes.iter().map(|&s| s.max(1)).collect();
    let filled = filled(known, elements)?;
    Some(sizes.iter().zip(filled).map(|(&s, f)| if s == 0 { 0 } else { f }).collect())
}

/// What would be needed for an operator that has no layer.
fn needs(op: &str) -> String {
    match op {
        "If" | "Loop" | "Scan" => {
            "a graph without branches: export with fixed shapes, or simplify it with onnxsim".into()
        }
        "QuantizeLinear" | "DequantizeLinear" | "QLinearConv" | "ConvInteger" | "MatMulInteger" => {
            "the network before it was quantized".into()
        }
        "LeakyRelu" | "PRelu" | "Elu" | "Selu" | "Mish" | "Softplus" | "Celu" => format!(
            "a network with relu, relu6, sigmoid, tanh, silu, hard_sigmoid, hard_swish or gelu in \
             place of {op}"
        ),
        "ArgMax" | "TopK" => "export the network up to its logits".into(),
        _ => format!("a layer for {op}; refit imports convolutional classifiers"),
    }
}
