//! What hangs on shapes and constants alone.

use super::{Mapper, Result1, SIMPLIFY};
use crate::onnx::OnnxError;
use crate::onnx::import::Value;
use crate::onnx::import::constant::{Constant, Int, Values};
use crate::onnx::import::view::{self, is_images, size_of};
use crate::onnx::proto::data_type;

impl Mapper<'_, '_> {
    pub(super) fn folded(&mut self, constant: Option<Constant>) -> Result1 {
        self.computed(constant).map(Value::Constant)
    }

    /// What was computed of constants, within what may be.
    pub(super) fn computed(&mut self, constant: Option<Constant>) -> Result<Constant, OnnxError> {
        let constant = constant.ok_or_else(|| {
            self.site.unsupported("its constants cannot be computed beforehand", SIMPLIFY)
        })?;
        self.spend(constant.len())?;
        Ok(constant)
    }

    /// The same values in another shape.
    pub(super) fn reshaped(&self, constant: &Constant, shape: Option<Vec<usize>>) -> Result1 {
        let reshaped = shape.and_then(|shape| constant.with_shape(shape));
        let reshaped = reshaped.ok_or_else(|| self.site.damaged("its sizes do not fit"))?;
        Ok(Value::Constant(reshaped))
    }

    pub(super) fn constant(&mut self) -> Result1 {
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

    pub(super) fn constant_of_shape(&mut self) -> Result1 {
        let shape = self.list(0, "shape")?.unwrap_or_default();
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

    pub(super) fn cast(&mut self) -> Result1 {
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
                let ints = c.to_integers(to);
                self.folded(ints.map(|v| Constant { values: Values::Ints(v), ..c.clone() }))
            }
        }
    }

    pub(super) fn shape_of(&mut self) -> Result1 {
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

    pub(super) fn gather(&mut self) -> Result1 {
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
}
