//! Arithmetic on values and constants, of which exporters make activations, norms and gates.

use super::{Mapper, Result1, needs};
use crate::layer::{Activation, Layer};
use crate::onnx::OnnxError;
use crate::onnx::import::Value;
use crate::onnx::import::constant::Constant;
use crate::onnx::import::draft::Op;
use crate::onnx::import::view::{self, View, feature_order, size_of};
use crate::shape::Shape;

/// From here on a bound is none: the largest number of 16 bits.
const UNBOUNDED: f32 = 65504.0;

impl Mapper<'_, '_> {
    pub(super) fn binary(&mut self, op: &str) -> Result1 {
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

    pub(super) fn sum(&mut self) -> Result1 {
        let mut total = self.input(0)?;
        for index in 1..self.inputs.len() {
            let next = self.input(index)?;
            self.inputs[0] = Some(total);
            self.inputs[1] = Some(next);
            total = self.binary("Add")?;
        }
        Ok(total)
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
            // A gate is of a map; which channel a vector's one number is for, no layer says.
            "Mul" if !equal && matches!(shapes[usize::from(!a_over_b)], Shape::Vector { .. }) => {
                return Err(self.uneven(shapes));
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
        self.check_spread(x, c)?;
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
        self.affine(x, &scale, &shift)
    }

    /// Refuses a constant over which `x` would be spread, so that it had other axes than before.
    fn check_spread(&self, x: &View, c: &Constant) -> Result<(), OnnxError> {
        let sizes = x.dims.iter().rev().map(size_of);
        let fits = c.shape.len() <= x.dims.len()
            && c.shape.iter().rev().zip(sizes).all(|(&c, x)| c == 1 || c == x);
        match fits {
            true => Ok(()),
            false => Err(self.site.unsupported(
                format!("its constant of shape {:?} is larger than the value", c.shape),
                "one number, or one number a channel",
            )),
        }
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
        let leading = x.dims.len() - c.shape.len();
        let mut wide = c.shape.iter().zip(&x.dims[leading..]).filter(|(d, _)| **d != 1);
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

    pub(super) fn unary(&mut self, op: &str) -> Result1 {
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

    /// `Max` or `Min` of one value and any bounds.
    pub(super) fn extreme(&mut self, op: &str) -> Result1 {
        let (mut value, mut bound) = (None, None::<Constant>);
        for index in 0..self.inputs.len() {
            match self.input(index)? {
                Value::Layer(x) if value.is_none() => value = Some(x),
                Value::Layer(_) => {
                    let needs = "one value, and bounds that are constants";
                    return Err(self.site.unsupported("it compares two values", needs));
                }
                Value::Constant(c) => {
                    bound = Some(match bound {
                        None => c,
                        Some(other) => {
                            let most = other.combine(&c, op, self.importer.room);
                            self.computed(most)?
                        }
                    });
                }
            }
        }
        match (value, bound) {
            (Some(x), None) => Ok(Value::Layer(x)),
            (None, bound) => self.folded(bound),
            (Some(x), Some(c)) => {
                self.check_spread(&x, &c)?;
                let c = c.scalar().unwrap_or(f32::NAN);
                match op {
                    "Max" => self.clamp(&x, c, f32::INFINITY),
                    _ => self.clamp(&x, f32::NEG_INFINITY, c),
                }
            }
        }
    }

    pub(super) fn clip(&mut self) -> Result1 {
        if let Value::Constant(mut c) = self.input(0)? {
            for (index, op) in [(1, "Max"), (2, "Min")] {
                let Some(bound) = self.optional(index)? else { continue };
                let bounded = c.combine(&bound, op, self.importer.room);
                c = self.computed(bounded)?;
            }
            return Ok(Value::Constant(c));
        }
        let bound = |index: usize, name: &str, default: f32| match self.optional(index)? {
            Some(c) => Ok(c.scalar().unwrap_or(f32::NAN)),
            None => Ok(self.site.float(name, default)),
        };
        let (least, most) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
        let x = self.layer(0)?;
        self.clamp(&x, least, most)
    }

    fn clamp(&mut self, x: &View, least: f32, most: f32) -> Result1 {
        let inner = &self.importer.draft.nodes[x.node];
        let after_relu =
            matches!(inner.op, Op::Layer(Layer::Activation { function: Activation::Relu }, _));
        let (least, unbounded) =
            if after_relu { (least.max(0.0), inner.inputs[0]) } else { (least, x.node) };
        let function = match (least, most) {
            (0.0, 6.0) => Activation::Relu6,
            (0.0, most) if most >= UNBOUNDED => Activation::Relu,
            (least, most) if least <= -UNBOUNDED && most >= UNBOUNDED => Activation::Identity,
            _ => {
                let problem = format!("it clamps to {least} to {most}");
                return Err(self.site.unsupported(problem, "clamps to 0 and above, or to 0 to 6"));
            }
        };
        if function == Activation::Identity {
            return Ok(Value::Layer(x.clone()));
        }
        let id = self.importer.draft.activation(unbounded, function, &self.site.origin);
        Ok(Value::Layer(x.of(id)))
    }
}
