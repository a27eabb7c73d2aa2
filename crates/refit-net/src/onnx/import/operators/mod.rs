//! What each operator becomes. `docs/onnx.md` lists them.

mod arithmetic;
mod axes;
mod constants;
mod layers;
mod pools;
mod product;

use super::constant::{Constant, Int};
use super::draft::{Op, Origin, Weights};
use super::names::layer_name;
use super::view::View;
use super::{Importer, Value, printable};
use crate::layer::{Activation, Layer};
use crate::onnx::OnnxError;
use crate::onnx::proto::{Attribute, Node};
use crate::shape::Shape;

/// The most inputs of a node: more than any network joins.
const MOST_INPUTS: usize = 1 << 10;
/// The most values of a layer's output for one image.
const MOST_ELEMENTS: usize = 1 << 26;

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
    if node.input.len() > MOST_INPUTS {
        let problem = format!("it takes {} inputs", node.input.len());
        return Err(Site { node, origin }.damaged(problem));
    }
    let mut inputs = Vec::with_capacity(node.input.len());
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

/// What is needed where constants are left over.
const SIMPLIFY: &str = "a graph whose constants are folded: simplify it with onnxsim or the \
                        exporter's own optimizer";

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
            "Neg" | "Sqrt" | "Reciprocal" | "Exp" | "Abs" | "Ceil" | "Floor" => self.unary(op),
            "Max" | "Min" => self.extreme(op),
            "Clip" => self.clip(),
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
            "Softmax" | "LogSoftmax" => self.softmax(),
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
        match self.site.ints(attribute) {
            Some(ints) => Ok(Some(ints.to_vec())),
            None => self.list(index, attribute),
        }
    }

    /// Integers from an input; `name` is what they are.
    fn list(&self, index: usize, name: &str) -> Result<Option<Vec<i64>>, OnnxError> {
        let Some(constant) = self.optional(index)? else { return Ok(None) };
        let ints = constant.to_ints().and_then(|v| v.into_iter().map(Int::value).collect());
        let wrong = || {
            self.site.unsupported(
                format!("its {name} is not the same for every number of images"),
                "settings that do not depend on the batch",
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
            Value::Constant(_) => {
                Err(self.site.unsupported("it computes with constants alone", SIMPLIFY))
            }
        }
    }

    /// A map in the usual order of axes.
    fn map(&mut self, index: usize) -> Result<(usize, Shape), OnnxError> {
        let view = self.layer(index)?;
        if view.dims.len() == 4 {
            self.in_order(&view, 1)?;
            let shape = self.importer.draft.shape(view.node);
            if matches!(shape, Shape::Map { .. }) && View::new(view.node, shape) == view {
                return Ok((view.node, shape));
            }
        }
        Err(self.site.unsupported("what it takes is no map [n, c, h, w]", NOT_A_MAP))
    }

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
        if !is_sane(shape) {
            let problem = format!("it makes {shape} of an image");
            return Err(self.site.unsupported(problem, "a network for smaller images"));
        }
        self.spend(parameters.iter().map(|p| p.len()).sum())?;
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

    /// Takes values from what may still be computed, or copied: a file of few bytes must not fill
    /// the memory.
    fn spend(&mut self, values: usize) -> Result<(), OnnxError> {
        self.importer.room = self.importer.room.checked_sub(values).ok_or_else(|| {
            self.site.unsupported("it computes far more constants than the file holds", SIMPLIFY)
        })?;
        Ok(())
    }

    /// `scale * x + shift` by channel.
    fn affine(&mut self, x: &View, scale: &[f32], shift: &[f32]) -> Result1 {
        let copied = match &self.importer.draft.nodes[x.node].op {
            Op::Layer(_, parameters) => parameters.iter().map(|p| p.len()).sum(),
            _ => 0,
        };
        self.spend(copied + scale.len())?;
        let id = self.importer.draft.affine(x.node, scale, shift, &self.site.origin);
        Ok(Value::Layer(x.of(id)))
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

    fn weights(&self, index: usize) -> Result<(Vec<usize>, Weights), OnnxError> {
        let constant = self.fixed(index)?;
        let values = constant.to_floats();
        let values = values.ok_or_else(|| self.site.damaged("its weights are no numbers"))?;
        if values.is_empty() {
            return Err(self
                .site
                .damaged(format!("its weights are of shape {:?}", constant.shape)));
        }
        Ok((constant.shape, values))
    }

    fn check_finite(&self, scale: &[f32], shift: &[f32]) -> Result<(), OnnxError> {
        match scale.iter().chain(shift).all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(self.site.damaged("its numbers are not finite")),
        }
    }
}

/// Whether an image's values in a map or vector of this shape are not beyond reason.
pub(super) fn is_sane(shape: Shape) -> bool {
    let sizes = match shape {
        Shape::Map { channels, height, width } => [channels, height, width],
        Shape::Vector { features } => [features, 1, 1],
    };
    let elements = sizes.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
    elements.is_some_and(|n| n <= MOST_ELEMENTS)
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
