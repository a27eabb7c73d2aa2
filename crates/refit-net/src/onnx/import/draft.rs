//! Layers as they are found, and parts of layers: exporters spell many a layer out in elementwise
//! operators, which are put together again as soon as the last of them is met.

use std::sync::Arc;

use crate::layer::{Activation, Conv, Layer, LayerNorm, LayerScale, Padding};
use crate::shape::Shape;

/// A layer's weights, which several drafts of it may share.
pub(super) type Weights = Arc<Vec<f32>>;

/// What a node of the draft does.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A layer and its parameters in the layer's order.
    Layer(Layer, Vec<Weights>),
    /// `x + c`.
    Shift(f32),
    /// `scale * x + shift`, by channel.
    Affine(Weights, Weights),
    /// `x^p`.
    Power(f32),
    /// The Gauss error function.
    Erf,
    /// `x * y`, which is a layer only where `y` is a function of `x`.
    Product,
    /// The mean over the channels of each pixel.
    ChannelMean,
    /// `x - mean(x)` over channels.
    Centred,
    /// `sqrt(var(x) + epsilon)` over channels.
    Deviation(f32),
    /// `1 / sqrt(var(x) + epsilon)` over channels.
    InverseDeviation(f32),
    /// `x + 0.044715 x^3`.
    GeluArgument,
    /// `2 Phi(x)`, exactly or by the hyperbolic tangent.
    TwicePhi(Activation),
    /// Each row times a matrix of the columns': `[width, width']`.
    Columns(Weights),
    /// Probabilities of logits.
    Softmax,
}

/// Where a node comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The node in the file.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// The layer's name, if it becomes one.
    pub layer: String,
}

/// A node of the draft.
#[derive(Debug, Clone)]
pub(super) struct Drafted {
    pub op: Op,
    pub inputs: Vec<usize>,
    pub shape: Shape,
    pub origin: Origin,
}

/// What was found so far; inputs stand before what takes them.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub nodes: Vec<Drafted>,
}

const SIXTH: f32 = 1.0 / 6.0;

fn close(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

fn all(values: &[f32], value: f32) -> bool {
    values.iter().all(|v| *v == value)
}

impl Draft {
    pub fn push(&mut self, op: Op, inputs: &[usize], shape: Shape, origin: &Origin) -> usize {
        let (inputs, origin) = (inputs.to_vec(), origin.clone());
        self.nodes.push(Drafted { op, inputs, shape, origin });
        self.nodes.len() - 1
    }

    /// Adds a layer that leaves its first input's shape as it is.
    pub fn same(&mut self, op: Op, inputs: &[usize], origin: &Origin) -> usize {
        self.push(op, inputs, self.nodes[inputs[0]].shape, origin)
    }

    pub fn shape(&self, id: usize) -> Shape {
        self.nodes[id].shape
    }

    fn op(&self, id: usize) -> &Op {
        &self.nodes[id].op
    }

    fn input(&self, id: usize) -> usize {
        self.nodes[id].inputs[0]
    }

    /// What an activation function is applied to.
    fn activated(&self, id: usize, wanted: Activation) -> Option<usize> {
        match self.op(id) {
            Op::Layer(Layer::Activation { function }, _) if *function == wanted => {
                Some(self.input(id))
            }
            _ => None,
        }
    }

    /// `x` of `x + c`.
    fn shifted(&self, id: usize, c: f32) -> Option<usize> {
        matches!(self.op(id), Op::Shift(by) if close(*by, c)).then(|| self.input(id))
    }

    /// `x` of `x^p`.
    fn raised(&self, id: usize, p: f32) -> Option<usize> {
        matches!(self.op(id), Op::Power(by) if *by == p).then(|| self.input(id))
    }

    /// The factor and `x` of `factor * x`.
    fn scaled(&self, id: usize) -> (f32, usize) {
        match self.op(id) {
            Op::Layer(Layer::Scale { factor }, _) => (*factor, self.input(id)),
            _ => (1.0, id),
        }
    }

    /// `x` of `mean((x - mean(x))^2)`.
    fn variance(&self, id: usize) -> Option<usize> {
        let square = matches!(self.op(id), Op::ChannelMean).then(|| self.input(id))?;
        let centred = self.raised(square, 2.0)?;
        matches!(self.op(centred), Op::Centred).then(|| self.input(centred))
    }

    pub fn activation(&mut self, x: usize, function: Activation, origin: &Origin) -> usize {
        self.same(Op::Layer(Layer::Activation { function }, Vec::new()), &[x], origin)
    }

    /// `factor * x`.
    pub fn scale(&mut self, x: usize, factor: f32, origin: &Origin) -> usize {
        let (inner, base) = self.scaled(x);
        let factor = factor * inner;
        if factor == 1.0 {
            return base;
        }
        if close(factor, SIXTH)
            && let Some(shifted) = self.activated(base, Activation::Relu6)
            && let Some(x) = self.shifted(shifted, 3.0)
        {
            return self.activation(x, Activation::HardSigmoid, origin);
        }
        self.same(Op::Layer(Layer::Scale { factor }, Vec::new()), &[base], origin)
    }

    /// `x + c`.
    pub fn shift(&mut self, x: usize, c: f32, origin: &Origin) -> usize {
        if let Op::Shift(before) = *self.op(x) {
            return self.shift(self.input(x), before + c, origin);
        }
        if c == 0.0 {
            return x;
        }
        if c == 1.0 {
            if matches!(self.op(x), Op::Erf)
                && let (factor, x) = self.scaled(self.input(x))
                && close(factor, std::f32::consts::FRAC_1_SQRT_2)
            {
                return self.same(Op::TwicePhi(Activation::Gelu), &[x], origin);
            }
            if let Some(inner) = self.activated(x, Activation::Tanh)
                && let (factor, argument) = self.scaled(inner)
                && close(factor, (2.0 / std::f32::consts::PI).sqrt())
                && matches!(self.op(argument), Op::GeluArgument)
            {
                let x = self.input(argument);
                return self.same(Op::TwicePhi(Activation::GeluTanh), &[x], origin);
            }
        }
        self.same(Op::Shift(c), &[x], origin)
    }

    /// `x^p`.
    pub fn power(&mut self, x: usize, p: f32, origin: &Origin) -> usize {
        if p == 0.5
            && let Op::Shift(epsilon) = *self.op(x)
            && let Some(of) = self.variance(self.input(x))
        {
            return self.push(Op::Deviation(epsilon), &[of], self.shape(x), origin);
        }
        if p == -1.0
            && let Op::Deviation(epsilon) = *self.op(x)
        {
            let of = self.input(x);
            return self.push(Op::InverseDeviation(epsilon), &[of], self.shape(x), origin);
        }
        if p == 1.0 { x } else { self.same(Op::Power(p), &[x], origin) }
    }

    /// `a + b`.
    pub fn add(&mut self, a: usize, b: usize, origin: &Origin) -> usize {
        for (x, cubic) in [(a, b), (b, a)] {
            let (factor, cube) = self.scaled(cubic);
            if close(factor, 0.044_715) && self.raised(cube, 3.0) == Some(x) {
                return self.same(Op::GeluArgument, &[x], origin);
            }
        }
        self.same(Op::Layer(Layer::Add, Vec::new()), &[a, b], origin)
    }

    /// `a - b`.
    pub fn subtract(&mut self, a: usize, b: usize, origin: &Origin) -> usize {
        if matches!(self.op(b), Op::ChannelMean) && self.input(b) == a {
            return self.same(Op::Centred, &[a], origin);
        }
        let negative = self.scale(b, -1.0, origin);
        self.add(a, negative, origin)
    }

    /// `a * b` for two values of one shape, or of a value and what is one a pixel.
    pub fn multiply(&mut self, a: usize, b: usize, origin: &Origin) -> usize {
        if let Some((factor, product)) = self.either_product(a, b, origin) {
            return self.scale(product, factor, origin);
        }
        let ((first, a), (second, b)) = (self.scaled(a), self.scaled(b));
        let found = self.either_product(a, b, origin);
        let (factor, product) = found.unwrap_or_else(|| {
            let small =
                |id: usize| matches!(self.shape(id), Shape::Map { height: 1, width: 1, .. });
            let op = if small(b) { Op::Layer(Layer::Gate, Vec::new()) } else { Op::Product };
            (1.0, self.same(op, &[a, b], origin))
        });
        self.scale(product, first * second * factor, origin)
    }

    fn either_product(&mut self, a: usize, b: usize, origin: &Origin) -> Option<(f32, usize)> {
        self.product(a, b, origin).or_else(|| self.product(b, a, origin))
    }

    /// `x * y` where `y` is a known function of `x`: a factor, and what it is of.
    fn product(&mut self, x: usize, y: usize, origin: &Origin) -> Option<(f32, usize)> {
        if x == y {
            return Some((1.0, self.power(x, 2.0, origin)));
        }
        if self.raised(y, 2.0) == Some(x) {
            return Some((1.0, self.power(x, 3.0, origin)));
        }
        if let Op::InverseDeviation(epsilon) = *self.op(y) {
            return Some((1.0, self.layer_norm(x, y, epsilon, origin)?));
        }
        if let Op::TwicePhi(function) = *self.op(y)
            && self.input(y) == x
        {
            return Some((2.0, self.activation(x, function, origin)));
        }
        let hard = |draft: &Self| draft.shifted(draft.activated(y, Activation::Relu6)?, 3.0);
        let (factor, function) = if self.activated(y, Activation::Sigmoid) == Some(x) {
            (1.0, Activation::Silu)
        } else if self.activated(y, Activation::HardSigmoid) == Some(x) {
            (1.0, Activation::HardSwish)
        } else if hard(self) == Some(x) {
            (6.0, Activation::HardSwish)
        } else {
            return None;
        };
        Some((factor, self.activation(x, function, origin)))
    }

    /// `a / b`, where that is a layer.
    pub fn divide(&mut self, a: usize, b: usize, origin: &Origin) -> Option<usize> {
        match *self.op(b) {
            Op::Deviation(epsilon) => self.layer_norm(a, b, epsilon, origin),
            _ => None,
        }
    }

    /// A layer norm of the value whose centre and deviation are given.
    fn layer_norm(
        &mut self,
        centred: usize,
        deviation: usize,
        epsilon: f32,
        origin: &Origin,
    ) -> Option<usize> {
        let x = self.input(deviation);
        if !matches!(self.op(centred), Op::Centred) || self.input(centred) != x {
            return None;
        }
        let channels = self.shape(x).channels();
        let layer = Layer::LayerNorm(LayerNorm { epsilon: epsilon.into() });
        let parameters = [1.0, 0.0].map(|v| Arc::new(vec![v; channels])).to_vec();
        Some(self.same(Op::Layer(layer, parameters), &[x], origin))
    }

    /// `scale * x + shift` by channel, in the layer before it where that is the same.
    pub fn affine(&mut self, x: usize, scale: &[f32], shift: &[f32], origin: &Origin) -> usize {
        let node = self.nodes[x].clone();
        if let Op::Affine(s, t) = &node.op {
            let merged: Vec<f32> = s.iter().zip(scale).map(|(a, b)| a * b).collect();
            let moved = t.iter().zip(scale).zip(shift).map(|((t, a), b)| t * a + b);
            let moved: Vec<f32> = moved.collect();
            return self.affine(node.inputs[0], &merged, &moved, origin);
        }
        let scales = !all(scale, 1.0);
        // A factor alone may be a layer's own: a later shift tells.
        let fuses = match &node.op {
            Op::Layer(Layer::LayerNorm(_), _) => true,
            Op::Layer(Layer::Conv(_) | Layer::Linear(_), _) => !scales || !all(shift, 0.0),
            _ => false,
        };
        if let (Op::Layer(layer, parameters), true) = (&node.op, fuses) {
            let (layer, parameters) = absorbed(*layer, parameters, scale, shift);
            let op = Op::Layer(layer, parameters);
            return self.push(op, &node.inputs, node.shape, &node.origin);
        }
        let op = Op::Affine(Arc::new(scale.to_vec()), Arc::new(shift.to_vec()));
        self.same(op, &[x], origin)
    }

    /// Makes layers of the parts that were left over and are layers by themselves.
    pub fn settle(&mut self) {
        for id in 0..self.nodes.len() {
            let channels = self.nodes[id].shape.channels();
            let (scale, shift) = match self.op(id) {
                Op::Affine(scale, shift) => (Arc::clone(scale), Arc::clone(shift)),
                Op::Shift(c) => (Arc::new(vec![1.0; channels]), Arc::new(vec![*c; channels])),
                _ => continue,
            };
            let is_map = matches!(self.shape(id), Shape::Map { .. });
            let alone = is_map && all(&shift, 0.0);
            let before = &self.nodes[self.input(id)];
            if let (Op::Layer(layer, parameters), false) = (&before.op, alone)
                && let Layer::Conv(_) | Layer::Linear(_) | Layer::LayerNorm(_) = layer
            {
                let (layer, parameters) = absorbed(*layer, parameters, &scale, &shift);
                let op = Op::Layer(layer, parameters);
                self.nodes[id] = Drafted { op, ..before.clone() };
                continue;
            }
            if !is_map {
                continue;
            }
            self.nodes[id].op = if alone {
                Op::Layer(Layer::LayerScale(LayerScale { initial: 1.0 }), vec![scale])
            } else {
                let conv = Conv::k1(channels).groups(channels).biased();
                let conv = conv.padding(Padding::Symmetric([0; 2]));
                Op::Layer(Layer::Conv(conv), vec![scale, shift])
            };
        }
    }
}

/// A layer with `scale * y + shift` behind it in its parameters.
fn absorbed(
    layer: Layer,
    parameters: &[Weights],
    scale: &[f32],
    shift: &[f32],
) -> (Layer, Vec<Weights>) {
    let layer = match layer {
        Layer::Conv(conv) => Layer::Conv(conv.biased()),
        Layer::Linear(linear) => Layer::Linear(crate::layer::Linear { bias: true, ..linear }),
        other => other,
    };
    let weight = if all(scale, 1.0) {
        Arc::clone(&parameters[0])
    } else {
        let mut weight = parameters[0].to_vec();
        let row = (weight.len() / scale.len()).max(1);
        for (row, factor) in weight.chunks_exact_mut(row).zip(scale) {
            row.iter_mut().for_each(|w| *w *= factor);
        }
        Arc::new(weight)
    };
    let zeros = Arc::new(vec![0.0; shift.len()]);
    let bias = parameters.get(1).unwrap_or(&zeros);
    let bias = bias.iter().zip(scale).zip(shift).map(|((b, s), t)| b * s + t).collect();
    (layer, vec![weight, Arc::new(bias)])
}
