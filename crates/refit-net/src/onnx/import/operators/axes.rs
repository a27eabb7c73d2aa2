//! Operators that join, cut and turn axes.

use super::{Mapper, NOT_A_MAP, Result1};
use crate::layer::Layer;
use crate::onnx::OnnxError;
use crate::onnx::import::Value;
use crate::onnx::import::constant::{Constant, Int};
use crate::onnx::import::draft::Draft;
use crate::onnx::import::view::{self, View, is_images, size_of};
use crate::shape::Shape;

impl Mapper<'_, '_> {
    pub(super) fn pad(&mut self) -> Result1 {
        let view = self.layer(0)?;
        let pads = self.setting(1, "pads")?.unwrap_or_default();
        let value = match self.optional(2)? {
            Some(c) => c.scalar().unwrap_or(f32::NAN),
            None => self.site.float("value", 0.0),
        };
        let mode = self.site.word("mode", "constant");
        let axes = self.list(3, "axes")?;
        let rank = view.dims.len();
        if pads.iter().all(|&p| p == 0) {
            return Ok(Value::Layer(view));
        }
        if pads.len() != 2 * rank || value != 0.0 || mode != "constant" || axes.is_some() {
            let problem = format!("it pads by {pads:?} with {value} ({mode})");
            return Err(self.site.unsupported(problem, "zeros around rows and columns"));
        }
        let mut ends = [[0_isize; 2]; 2];
        for axis in 0..rank {
            let pair = [pads[axis], pads[axis + rank]];
            if pair == [0, 0] {
                continue;
            }
            let Some(side) = self.side(&view, axis) else {
                let problem = format!("it pads axis {axis}");
                return Err(self.site.unsupported(problem, "zeros around rows and columns"));
            };
            ends[side] = pair.map(|v| isize::try_from(v).unwrap_or(isize::MAX));
        }
        self.resized(&view, ends)
    }

    /// Which of rows (0) and columns (1) an axis holds, all of them.
    fn side(&self, view: &View, axis: usize) -> Option<usize> {
        let whole = View::new(0, self.importer.draft.shape(view.node)).dims;
        let sides = whole.get(2..)?;
        sides.iter().position(|side| !side.is_empty() && *side == view.dims[axis])
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

    pub(super) fn concat(&mut self) -> Result1 {
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
                Value::Constant(c) if c.shape.len() == 1 => Some(c),
                _ => None,
            });
            let joined: Option<Vec<Constant>> = lists.collect();
            return self.folded(joined.and_then(|lists| Constant::joined(&lists)));
        }
        if layers.len() != inputs.len() {
            return Err(self.site.unsupported("it joins constants to a value", "values alone"));
        }
        let axis = self.site.axis(self.site.int("axis", 1), layers[0].dims.len())?;
        let mut parts = Vec::with_capacity(layers.len());
        for view in layers {
            let view = self.features_at(view, axis)?;
            self.in_order(&view, axis)?;
            parts.push(view);
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
                    *id = self.flattened(*id)?;
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
        if view.dims[axis] != View::new(0, shape).dims[1..].concat() {
            return Err(self.site.unsupported("it joins features of another order", NOT_A_MAP));
        }
        let id = self.flattened(view.node)?;
        let mut flat = view.of(id);
        flat.dims[axis] = View::new(id, Shape::vector(shape.elements())).dims.swap_remove(1);
        Ok(flat)
    }

    /// A map as a vector; the layer that wants it so gives it no name.
    pub(super) fn flattened(&mut self, map: usize) -> Result<usize, OnnxError> {
        let id = self.push_layer(Layer::Flatten, Vec::new(), &[map])?;
        self.importer.draft.nodes[id].origin.layer = "flatten".into();
        Ok(id)
    }

    /// Refuses a value that does not have its channels in order on `axis`.
    pub(super) fn in_order(&self, view: &View, axis: usize) -> Result<(), OnnxError> {
        let channels = self.importer.draft.shape(view.node).channels();
        let Some(dim) = view.dims.get(axis) else {
            return Err(self.site.unsupported("it has no axis of channels", NOT_A_MAP));
        };
        if *dim == View::new(0, Shape::vector(channels)).dims[1] {
            return Ok(());
        }
        Err(self.site.unsupported(
            format!("axis {axis} of what it takes does not hold the channels"),
            "an operator along the channels",
        ))
    }

    /// The same value with channels in order: a shuffle where an axis holds them dealt out.
    fn undealt(&mut self, view: View) -> Result<View, OnnxError> {
        let channels = self.importer.draft.shape(view.node).channels();
        let dealt = view.dims.iter().enumerate().find_map(|(axis, dim)| match dim[..] {
            [outer, inner]
                if [outer, inner].iter().all(|part| part.axis == view::Axis::Channels)
                    && (outer.stride, inner.stride) == (1, outer.size)
                    && outer.size * inner.size == channels =>
            {
                Some((axis, inner.size))
            }
            _ => None,
        });
        let Some((axis, groups)) = dealt else { return Ok(view) };
        let id = self.push_layer(Layer::Shuffle { groups }, Vec::new(), &[view.node])?;
        let mut view = view.of(id);
        view.dims[axis] = View::new(id, Shape::vector(channels)).dims.swap_remove(1);
        Ok(view)
    }

    pub(super) fn slice(&mut self) -> Result1 {
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
        if let Some(side) = self.side(&view, axis) {
            let behind = size_of(&view.dims[axis]) - first - size;
            let mut ends = [[0; 2]; 2];
            ends[side] = [-(first as isize), -(behind as isize)];
            let Value::Layer(view) = self.resized(&view, ends)? else { unreachable!("a value") };
            return Ok(view);
        }
        self.in_order(&view, axis)?;
        let layer = Layer::Slice { first, channels: size };
        let id = self.push_layer(layer, Vec::new(), &[view.node])?;
        let mut sliced = view.of(id);
        sliced.dims[axis] = View::new(id, Shape::vector(size)).dims.swap_remove(1);
        Ok(sliced)
    }

    pub(super) fn split(&mut self) -> Result<Vec<Value>, OnnxError> {
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

    pub(super) fn squeeze(&mut self, adds: bool) -> Result1 {
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
                self.reshaped(&c, Some(shape))
            }
            Value::Layer(x) => {
                let dims = change(x.dims, &axes, adds.then(Vec::new));
                Ok(Value::Layer(View { node: x.node, dims }))
            }
        }
    }

    pub(super) fn flatten(&mut self) -> Result1 {
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

    pub(super) fn transpose(&mut self) -> Result1 {
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

    pub(super) fn reshape(&mut self) -> Result1 {
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
                self.reshaped(&c, shape)
            }
            Value::Layer(x) => {
                let sizes = sizes(&x, &target, allow_zero, self.importer.batch);
                let reshaped = sizes.and_then(|sizes| x.reshaped(&sizes));
                let reshaped = reshaped.ok_or_else(|| {
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
                })?;
                self.undealt(reshaped).map(Value::Layer)
            }
        }
    }
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
