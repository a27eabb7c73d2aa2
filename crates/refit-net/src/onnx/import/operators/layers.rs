//! Operators that are layers: convolutions, pools, norms, activations.

use std::sync::Arc;

use super::{Mapper, Result1};
use crate::layer::{
    Activation, BatchNorm, Conv, Dropout, Layer, LayerNorm, LocalResponseNorm, Padding,
};
use crate::onnx::OnnxError;
use crate::onnx::import::Value;
use crate::onnx::import::draft::Op;
use crate::onnx::import::view::{View, is_images, is_spatial, size_of};
use crate::shape::Shape;

impl Mapper<'_, '_> {
    pub(super) fn activation(&mut self, function: Activation) -> Result1 {
        self.simple(Op::Layer(Layer::Activation { function }, Vec::new()))
    }

    pub(super) fn hard_sigmoid(&mut self) -> Result1 {
        let (alpha, beta) = (self.site.float("alpha", 0.2), self.site.float("beta", 0.5));
        if (alpha - 1.0 / 6.0).abs() < 1e-4 && beta == 0.5 {
            return self.activation(Activation::HardSigmoid);
        }
        let problem = format!("it is clamp({alpha} x + {beta}, 0, 1)");
        Err(self.site.unsupported(problem, "alpha 1/6 and beta 0.5, as PyTorch has them"))
    }

    pub(super) fn dropout(&mut self) -> Result1 {
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

    pub(super) fn conv(&mut self) -> Result1 {
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

    /// Pixels that a node adds before and behind the rows and the columns of a map of this shape.
    pub(super) fn ends(
        &self,
        shape: Shape,
        window: [usize; 2],
        stride: [usize; 2],
    ) -> Result<Ends, OnnxError> {
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
        let auto = self.site.word("auto_pad", "NOTSET");
        if auto.starts_with("SAME") {
            let same = |axis: usize, size| {
                Padding::Same.resolve(axis, size, window[axis], stride[axis].max(1))
            };
            let ends = [same(0, height), same(1, width)];
            return Ok(match auto {
                "SAME_LOWER" => ends.map(|(before, behind)| (behind, before)),
                _ => ends,
            });
        }
        let pads = self.site.ints("pads").filter(|_| auto != "VALID").unwrap_or(&[0; 4]);
        let sizes: Vec<usize> =
            pads.iter().filter_map(|&v| usize::try_from(v).ok().filter(|&v| v < 4096)).collect();
        match sizes[..] {
            [top, left, bottom, right] => Ok([(top, bottom), (left, right)]),
            _ => Err(self
                .site
                .unsupported(format!("its pads are {pads:?}"), "four pads, none of them negative")),
        }
    }

    /// The padding that a convolution's pads mean, for a map of its nominal size.
    fn pads(
        &self,
        shape: Shape,
        window: [usize; 2],
        stride: [usize; 2],
    ) -> Result<Pads, OnnxError> {
        let ends = self.ends(shape, window, stride)?;
        if self.site.word("auto_pad", "NOTSET") == "SAME_UPPER" {
            return Ok(Pads::Padding(Padding::Same));
        }
        let befores = ends.map(|(before, _)| before);
        if ends.iter().all(|(before, behind)| before == behind) {
            return Ok(Pads::Padding(Padding::Symmetric(befores)));
        }
        // The zeros before, and the number of windows, are all that counts.
        let Shape::Map { height, width, .. } = shape else { unreachable!("a map") };
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

    pub(super) fn softmax(&mut self) -> Result1 {
        let view = self.layer(0)?;
        let version = self.importer.version;
        let axis = self.site.int("axis", if version < 13 { 1 } else { -1 });
        let axis = self.site.axis(axis, view.dims.len())?;
        // Before opset 13 all axes from this one on were one.
        let end = if version < 13 { view.dims.len() } else { axis + 1 };
        let over: usize = view.dims[axis..end].iter().map(size_of).product();
        let images = view.dims[axis..end].iter().any(is_images);
        if images || over != view.elements() {
            let problem = format!("it normalizes over axis {axis} of {}", view.dims.len());
            return Err(self.site.unsupported(problem, "a softmax over an image's logits"));
        }
        self.simple(Op::Softmax)
    }

    pub(super) fn reduce_mean(&mut self, axes: &[i64], keep: bool) -> Result1 {
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

    pub(super) fn batch_norm(&mut self) -> Result1 {
        let view = self.layer(0)?;
        self.in_order(&view, 1)?;
        let (channels, epsilon) =
            (self.importer.draft.shape(view.node).channels(), self.site.float("epsilon", 1e-5));
        let mut parameters = Vec::with_capacity(4);
        for index in 1..=4 {
            parameters.push(self.weights(index)?.1);
        }
        if parameters.iter().any(|p| p.len() != channels) {
            return Err(self.site.damaged(format!("its parameters are not {channels} each")));
        }
        if self.site.int("training_mode", 0) != 0 {
            let node = &self.site.origin.node;
            let note = format!("`{node}` normalizes by the batch; its stored statistics are used");
            self.importer.notes.push(note);
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
        self.affine(&view, &scale, &shift)
    }

    pub(super) fn layer_norm(&mut self) -> Result1 {
        let view = self.layer(0)?;
        let rank = view.dims.len();
        let axis = self.site.axis(self.site.int("axis", -1), rank)?;
        let channels = self.importer.draft.shape(view.node).channels();
        if axis + 1 != rank || view.channel_axis(channels) != Some(axis) {
            let problem = format!("it normalizes from axis {axis} of {rank} on");
            return Err(self.site.unsupported(problem, "a norm over the channels of each pixel"));
        }
        let (dims, scale) = self.weights(1)?;
        if scale.len() != channels {
            let problem = format!("its scale of shape {dims:?} is spread over {channels} channels");
            return Err(self.site.unsupported(problem, "one number a channel"));
        }
        let shift = match self.optional(2)? {
            Some(_) => self.weights(2)?.1,
            None => Arc::new(vec![0.0; channels]),
        };
        let epsilon = self.site.float("epsilon", 1e-5).into();
        let layer = Layer::LayerNorm(LayerNorm { epsilon });
        let id = self.push_layer(layer, vec![scale, shift], &[view.node])?;
        Ok(Value::Layer(view.of(id)))
    }

    pub(super) fn response_norm(&mut self) -> Result1 {
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
}

/// Pixels before and behind rows, and before and behind columns.
pub(super) type Ends = [(usize, usize); 2];

/// Padding that a layer has, or rows and columns that a layer of its own adds.
enum Pads {
    Padding(Padding),
    Uneven([isize; 2], [isize; 2]),
}
