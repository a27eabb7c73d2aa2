//! Matrix products: fully connected layers, and the pools that refit exports as products.

use std::sync::Arc;

use super::{Mapper, Result1, is_sane};
use crate::layer::{Layer, Linear};
use crate::onnx::export::adaptive_shares;
use crate::onnx::import::Value;
use crate::onnx::import::draft::Op;
use crate::onnx::import::view::{self, View, feature_order, is_images, is_spatial, size_of};
use crate::shape::Shape;

impl Mapper<'_, '_> {
    pub(super) fn gemm(&mut self) -> Result1 {
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
                // A column of as many values would be added by image.
                let row = c.shape.split_last().is_none_or(|(_, rows)| rows.iter().all(|&d| d == 1));
                let values = c.to_floats().filter(|v| v.len() == features || v.len() == 1);
                let values = values.filter(|_| row).ok_or_else(|| {
                    self.site.unsupported("it adds a matrix", "one number a feature")
                })?;
                Some((0..features).map(|i| beta * values[i % values.len()]).collect())
            }
        };
        self.linear(features, inputs, bias, |out, into| alpha * weight[at(out, into)])
    }

    pub(super) fn matmul(&mut self) -> Result1 {
        if matches!(self.input(0)?, Value::Constant(_)) {
            return self.adaptive_pool();
        }
        let view = self.layer(0)?;
        let (dims, weight) = self.weights(1)?;
        let shape = self.importer.draft.shape(view.node);
        if let (Shape::Map { channels, height, width }, [from, to]) = (shape, &dims[..])
            && view == View::new(view.node, shape)
            && width == *from
        {
            let to = Shape::map(channels, height, *to);
            if !is_sane(to) {
                return Err(self.site.damaged(format!("it makes {to} of an image")));
            }
            self.spend(weight.len())?;
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
            && to_rows > 0
            && to_columns > 0
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
            (self.flattened(view.node)?, feature_order(last, shape))
        } else {
            return Err(self.site.unsupported(
                "it mixes along an axis that is not the channels'",
                "a matrix product over channels or over all of an image's features",
            ));
        };
        let len = features.checked_mul(inputs).filter(|_| order.len() == inputs);
        let len = len.ok_or_else(|| self.site.damaged("its weights are of an impossible size"))?;
        self.spend(len)?;
        let mut turned = vec![0.0; len];
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
}
