//! The inverted residual block (Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>) in one
//! pass: a convolution expands the channels, a depthwise one filters them, a 1x1 one projects them
//! back, and the expanded map, six times the size of the others, is never stored.
//!
//! A task takes some output rows of an image. Round by round, it expands the input rows that the
//! next output rows need, a panel of channels at a time, into rows that hold their own padding;
//! filters them while they are in the cache; and when all panels are there, projects ([`plan`]).
//! Every value is summed in the order of the separate kernels, so that the result is theirs bit for
//! bit.
//!
//! The expansion is 1x1 in most blocks; a network's first convolution, which expands colours, may
//! take its place. The projection may be missing: where a squeeze-and-excitation (Hu et al. 2018)
//! stands before it, which needs the whole filtered map.

pub(crate) mod plan;

use std::ops::Range;

use self::plan::{KEPT, Maps, Plan, Stages};
use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::conv::ConvShape;
use crate::curve::{Curve, bend_pixels};
use crate::depthwise::{Row, RowKernel};
use crate::partials::Pixels;
use crate::simd::Isa;
use crate::tile::{Ahead, Packed, Panel, Run, Tile, TileExit, cut, panels, run_tile};

/// An inverted residual block over a batch of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvertedShape {
    /// The convolution that expands, without groups; without one, the input is filtered as it is.
    pub expand: Option<ConvShape>,
    /// The depthwise convolution, over the expanded map.
    pub depthwise: ConvShape,
    /// Channels of the block's output.
    pub out_channels: usize,
}

impl InvertedShape {
    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.expand.unwrap_or(self.depthwise).input_len()
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        let [height, width] = self.depthwise.out_size();
        self.depthwise.batch * height * width * self.out_channels
    }

    /// Whether a block is faster in one than layer by layer: if the rows that an output row needs
    /// stay in the second-level cache, and the map is large. It gains most at 112x112 and 56x56 (2
    /// to 3 times), a tenth at 14x14; at 7x7, weights are what counts, and layers are as fast. The
    /// batch doesn't matter.
    pub fn pays(&self) -> bool {
        let d = &self.depthwise;
        let rows = (d.kernel[0] - 1) * d.dilation[0] + 2;
        let kept = rows * d.width * d.channels * size_of::<f32>() <= 2 * KEPT;
        kept && d.height * d.width >= 100
    }

    /// # Panics
    /// If the convolutions don't fit each other.
    pub(crate) fn check(&self, name: &str) {
        let d = &self.depthwise;
        assert!(
            [d.groups, d.out_channels] == [d.channels; 2],
            "{name}: a convolution that is not depthwise"
        );
        if let Some(e) = &self.expand {
            let out = (e.batch, e.out_size(), e.out_channels, e.groups);
            let fits = out == (d.batch, [d.height, d.width], d.channels, 1);
            assert!(fits, "{name}: an expansion that does not fit");
        }
    }
}

/// One of a block's convolutions: `curve(activation(convolution + shift))`.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// Weights, `[o, c / groups, kh, kw]`, with the scale of a batch norm folded in.
    pub weight: &'a [f32],
    /// One summand an output channel.
    pub shift: Option<&'a [f32]>,
    /// What clamps.
    pub activation: Activation,
    /// What does more than clamp, applied last.
    pub curve: Option<Curve>,
}

/// The weights of a block, `expand` if its shape has an expansion.
#[derive(Debug, Clone, Copy)]
pub struct BlockStages<'a> {
    /// Expands the channels.
    pub expand: Option<Stage<'a>>,
    /// Filters each of them.
    pub depthwise: Stage<'a>,
    /// Projects them; without it, the filtered map is the output.
    pub project: Option<Stage<'a>>,
}

impl BlockStages<'_> {
    /// # Panics
    /// If a slice is not as long as the shape says.
    pub(crate) fn check(&self, name: &str, shape: &InvertedShape) {
        shape.check(name);
        assert!(self.expand.is_some() == shape.expand.is_some(), "{name}: the expansion's weights");
        let d = &shape.depthwise;
        let check = |stage: &Stage, weights: usize, channels: usize| {
            assert_eq!(stage.weight.len(), weights, "{name}: length of a weight");
            let fits = stage.shift.is_none_or(|s| s.len() == channels);
            assert!(fits, "{name}: length of a shift");
        };
        if let (Some(stage), Some(expand)) = (&self.expand, &shape.expand) {
            check(stage, expand.weight_len(), d.channels);
        }
        check(&self.depthwise, d.weight_len(), d.channels);
        match &self.project {
            Some(stage) => check(stage, d.channels * shape.out_channels, shape.out_channels),
            None => assert_eq!(shape.out_channels, d.channels, "{name}: channels of the output"),
        }
    }
}

/// What happens behind a stage.
#[derive(Debug)]
struct Finish {
    shift: Option<Buffer>,
    activation: Activation,
    curve: Option<Curve>,
}

impl Finish {
    fn new(stage: &Stage) -> Self {
        let Stage { activation, curve, .. } = *stage;
        Self { shift: stage.shift.map(Buffer::from_slice), activation, curve }
    }

    /// From channel `first` on.
    fn exit(&self, first: usize, residual: *const f32) -> TileExit<'static> {
        let shift = self.shift.as_ref().map_or(std::ptr::null(), |s| s[first..].as_ptr());
        let Self { activation, curve, .. } = *self;
        TileExit { shift, residual, activation, curve, ..TileExit::NONE }
    }
}

/// A block's weights, packed once and used for every batch.
#[derive(Debug)]
pub struct InvertedResidual {
    isa: Isa,
    /// Kernel and channels of the expansion, of the depthwise convolution, and of the projection.
    sizes: Sizes,
    /// Weights of the expansion; without one, the input is filtered as it is.
    expand: Option<(Packed, Finish)>,
    /// Panels of the expanded channels.
    panels: Vec<Panel>,
    /// Weights of the depthwise convolution, `[taps, width]` a panel.
    taps: Buffer,
    filter: Finish,
    project: Option<(Packed, Finish)>,
}

/// What a shape must have in common with the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    expand: Option<(usize, [usize; 2])>,
    depthwise: (usize, [usize; 2]),
    project: usize,
}

impl Sizes {
    pub(crate) fn of(shape: &InvertedShape) -> Self {
        let of = |c: &ConvShape| (c.channels, c.kernel);
        Self {
            expand: shape.expand.as_ref().map(of),
            depthwise: of(&shape.depthwise),
            project: shape.out_channels,
        }
    }
}

impl InvertedResidual {
    /// Packs the weights of a block; the batch and the size of the maps don't matter.
    ///
    /// # Panics
    /// If a slice is not as long as the shape says, the convolution in the middle is not depthwise,
    /// or the expansion has groups or does not fit it.
    pub fn new(shape: &InvertedShape, stages: BlockStages) -> Self {
        Self::on(Isa::widest(), shape, stages)
    }

    fn on(isa: Isa, shape: &InvertedShape, stages: BlockStages) -> Self {
        stages.check("InvertedResidual", shape);
        let expanded = shape.depthwise.channels;
        let dense = |stage: &Stage, [channels, taps, out_channels]: [usize; 3]| {
            let weight = |k: usize, n: usize| {
                stage.weight[(n * channels + k % channels) * taps + k / channels]
            };
            (Packed::new(isa, channels * taps, out_channels, weight), Finish::new(stage))
        };
        let expand = stages
            .expand
            .zip(shape.expand)
            .map(|(stage, e)| dense(&stage, [e.channels, e.kernel[0] * e.kernel[1], expanded]));
        let panels = match &expand {
            Some((packed, _)) => packed.panels.clone(),
            None => panels(isa, expanded, 0).0,
        };
        Self {
            isa,
            sizes: Sizes::of(shape),
            expand,
            taps: lay_out(stages.depthwise.weight, &panels, expanded),
            panels,
            filter: Finish::new(&stages.depthwise),
            project: stages.project.map(|stage| dense(&stage, [expanded, 1, shape.out_channels])),
        }
    }

    /// `y = project(filter(expand(x))) + residual`.
    ///
    /// # Panics
    /// If a slice's length does not fit `shape`, `shape` has other channels or another kernel than the
    /// weights, or there is a residual but no projection.
    pub fn run(&self, shape: &InvertedShape, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        shape.check("InvertedResidual");
        assert_eq!(self.sizes, Sizes::of(shape), "InvertedResidual: channels or kernel");
        let added = residual.is_none() || self.project.is_some();
        assert!(added, "InvertedResidual: a residual without a projection");
        let stride = self.panels.iter().map(|p| p.width).max().unwrap_or(0);
        let plan = Plan::new(shape, self.panels.len(), stride);
        let filtered = plan.rows * plan.out_size[1] * stride;
        let run = |(i, p): (usize, &Panel)| Run { offset: i * filtered, len: p.width };
        let runs = self.panels.iter().enumerate().map(run).collect();
        let window = shape.expand.as_ref().filter(|e| !e.is_pointwise()).map(Window::new);
        plan.run(&Full { block: self, filtered, runs, window }, x, residual, y);
    }
}

/// `[c, taps]` to `[taps, width]` for each panel.
pub(crate) fn lay_out(weight: &[f32], panels: &[Panel], channels: usize) -> Buffer {
    let count = weight.len() / channels;
    let mut taps = Buffer::stale(weight.len());
    for panel in panels {
        for c in 0..panel.width {
            for tap in 0..count {
                taps[count * panel.start + tap * panel.width + c] =
                    weight[(panel.start + c) * count + tap];
            }
        }
    }
    taps
}

/// Padded copies of the input rows that an expansion with a kernel reads.
#[derive(Debug)]
struct Window<'a> {
    shape: &'a ConvShape,
    /// Values of a row.
    row: usize,
    /// Where a pixel's values lie, from its first on.
    runs: Vec<Run>,
}

impl<'a> Window<'a> {
    fn new(shape: &'a ConvShape) -> Self {
        let (c, [kh, kw], [dy, dx]) = (shape.channels, shape.kernel, shape.dilation);
        let reach = (shape.out_size()[1] - 1) * shape.stride[1] + (kw - 1) * dx + 1;
        let row = reach.max(shape.padding[1].0 + shape.width) * c;
        let runs = (0..kh)
            .flat_map(|ky| (0..kw).map(move |kx| ky * dy * row + kx * dx * c))
            .map(|offset| Run { offset, len: c })
            .collect();
        let merged = (0..kh).map(|ky| Run { offset: ky * dy * row, len: kw * c }).collect();
        Self { shape, row, runs: if dx == 1 { merged } else { runs } }
    }

    /// Input rows for so many expanded ones.
    fn rows(&self, expanded: usize) -> usize {
        let reach = (self.shape.kernel[0] - 1) * self.shape.dilation[0] + 1;
        expanded.saturating_sub(1) * self.shape.stride[0] + reach
    }

    /// Copies what the expanded rows `rows` of an image need.
    fn fill(&self, x: &[f32], rows: Range<usize>, to: &mut [f32]) {
        let shape = self.shape;
        let len = shape.width * shape.channels;
        let before = shape.padding[1].0 * shape.channels;
        let first = rows.start * shape.stride[0];
        let lines = to.chunks_exact_mut(self.row).take(self.rows(rows.len()));
        for (line, to) in lines.enumerate() {
            let y = (first + line).checked_sub(shape.padding[0].0);
            match y.filter(|y| *y < shape.height) {
                Some(y) => {
                    to[..before].fill(0.0);
                    to[before..][..len].copy_from_slice(&x[y * len..][..len]);
                    to[before + len..].fill(0.0);
                }
                None => to.fill(0.0),
            }
        }
    }
}

/// A block in `f32`. Filtered pixels lie panel by panel, each `[pixels, stride]`.
struct Full<'a> {
    block: &'a InvertedResidual,
    /// Values of a panel's filtered pixels.
    filtered: usize,
    /// Where a filtered pixel's channels lie.
    runs: Vec<Run>,
    /// For an expansion that is not 1x1.
    window: Option<Window<'a>>,
}

impl Stages for Full<'_> {
    type Value = f32;

    fn panels(&self) -> &[Panel] {
        &self.block.panels
    }

    fn out_panels(&self) -> usize {
        self.block.project.as_ref().map_or(0, |(packed, _)| packed.panels.len())
    }

    fn filtered_len(&self, _: &Plan) -> usize {
        self.block.project.as_ref().map_or(0, |_| self.block.panels.len() * self.filtered)
    }

    fn spare_len(&self, _: &Plan, rows: usize) -> usize {
        self.window.as_ref().map_or(0, |w| w.rows(rows) * w.row)
    }

    fn gather(&self, _: &Plan, x: &[f32], rows: Range<usize>, spare: &mut [f32]) {
        if let Some(window) = &self.window {
            window.fill(x, rows, spare);
        }
    }

    unsafe fn expand(
        &self,
        plan: &Plan,
        panel: &Panel,
        x: &[f32],
        rows: Range<usize>,
        ring: &mut [f32],
        spare: &mut [f32],
    ) {
        let Some(((packed, finish), shape)) = self.block.expand.as_ref().zip(plan.shape.expand)
        else {
            return plan.copy(panel, x, rows, ring, |from, to| to.copy_from_slice(from));
        };
        let isa = self.block.isa;
        let pointwise = [Run { offset: 0, len: shape.channels }];
        let exit = finish.exit(panel.start, std::ptr::null());
        // The values of a pixel, of a row of pixels, and of a row of the expanded map.
        let (runs, pixel, from, line) = match &self.window {
            Some(w) => {
                (&w.runs[..], shape.stride[1] * shape.channels, &*spare, shape.stride[0] * w.row)
            }
            None => {
                let row = shape.width * shape.channels;
                (&pointwise[..], shape.channels, &x[rows.start * row..], row)
            }
        };
        for (i, y) in rows.enumerate() {
            let (from, to) = (&from[i * line..], &mut ring[plan.slot(y)..]);
            for (column, pixels) in cut(plan.shape.depthwise.width, isa.tile_rows(panel.vectors)) {
                let tile = Tile {
                    a: from[column * pixel..].as_ptr(),
                    a_stride: pixel,
                    runs,
                    b: packed.weights[panel.offset..].as_ptr(),
                    c: to[column * plan.stride..].as_mut_ptr(),
                    c_stride: plan.stride,
                    n: panel.width,
                    goes_on: false,
                    exit,
                    ahead: Ahead::NOTHING,
                };
                // SAFETY: `isa` is this CPU's; the pixels lie in a row of `x` or of the window, and
                // in row `y` of the ring.
                unsafe { run_tile(isa, pixels, panel.vectors, &tile) };
            }
        }
    }

    unsafe fn filter(
        &self,
        plan: &Plan,
        i: usize,
        [y, line]: [usize; 2],
        inputs: &[*const f32],
        (filtered, map): (*mut f32, *mut f32),
        _: &mut [f32],
    ) {
        let (panel, d) = (&self.block.panels[i], &plan.shape.depthwise);
        let (width, channels) = (plan.out_size[1], plan.shape.out_channels);
        let (out, out_stride) = match self.block.project {
            Some(_) => {
                let at = i * self.filtered + line * width * plan.stride;
                (filtered.wrapping_add(at), plan.stride)
            }
            None => (map.wrapping_add(y * width * channels + panel.start), channels),
        };
        let row = Row {
            inputs,
            in_stride: plan.stride,
            taps: self.block.taps[d.kernel[0] * d.kernel[1] * panel.start..].as_ptr(),
            tap_stride: panel.width,
            out,
            out_stride,
            channels: panel.width,
            exit: self.block.filter.exit(panel.start, std::ptr::null()),
        };
        // SAFETY: the inputs are as wide as taps reach by the caller's word; `out` is a line.
        unsafe { plan.kernel.run(self.block.isa, y, &row) };
        if let Some(curve) = self.block.filter.curve {
            let pixels = Pixels { count: width, stride: out_stride, channels: panel.width };
            // SAFETY: what was just written.
            unsafe { bend_pixels(self.block.isa, row.out, pixels, curve) };
        }
    }

    unsafe fn project(
        &self,
        plan: &Plan,
        i: usize,
        filtered: *const f32,
        pixels: Range<usize>,
        begin: usize,
        maps: &Maps<f32>,
    ) {
        let (isa, channels) = (self.block.isa, plan.shape.out_channels);
        let Some((packed, finish)) = &self.block.project else { return };
        let panel = &packed.panels[i];
        for (pixel, count) in cut(pixels.len(), isa.tile_rows(panel.vectors)) {
            let pixel = pixels.start + pixel;
            let at = (begin + pixel) * channels + panel.start;
            let tile = Tile {
                a: filtered.wrapping_add(pixel * plan.stride),
                a_stride: plan.stride,
                runs: &self.runs,
                b: packed.weights[panel.offset..].as_ptr(),
                c: maps.y.wrapping_add(at),
                c_stride: channels,
                n: panel.width,
                goes_on: false,
                exit: finish.exit(panel.start, maps.residual_at(at)),
                ahead: Ahead::NOTHING,
            };
            // SAFETY: `isa` is this CPU's; the pixels are filtered; the rest by the caller's word.
            unsafe { run_tile(isa, count, panel.vectors, &tile) };
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::plan::{By, TASKS, division};
    use super::*;
    use crate::curve::bend_on;
    use crate::testing::{on_threads, values};

    /// Height, width, channels, expanded, output channels, kernel, stride, padding, dilation.
    pub(crate) type Dimensions =
        ([usize; 5], [usize; 2], [usize; 2], [(usize, usize); 2], [usize; 2]);

    pub(crate) const SIZES: [Dimensions; 11] = [
        ([8, 9, 5, 30, 7], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ([14, 14, 16, 96, 24], [5, 5], [1, 1], [(2, 2), (2, 2)], [1, 1]),
        ([15, 13, 3, 17, 33], [3, 3], [2, 2], [(0, 1), (1, 0)], [1, 1]),
        ([9, 20, 17, 48, 31], [5, 5], [2, 2], [(2, 2), (1, 2)], [1, 1]),
        ([11, 8, 33, 100, 48], [3, 5], [1, 2], [(1, 0), (2, 2)], [1, 1]),
        ([16, 12, 16, 31, 16], [3, 3], [1, 1], [(2, 2), (2, 2)], [2, 2]),
        ([5, 7, 9, 16, 3], [1, 1], [2, 3], [(0, 0), (0, 0)], [1, 1]),
        ([40, 64, 4, 144, 8], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ([57, 50, 8, 240, 4], [5, 5], [2, 2], [(2, 2), (2, 2)], [1, 1]),
        // Rounds of a row with fewer pixels than bf16 takes at once.
        ([24, 24, 16, 960, 8], [5, 5], [1, 1], [(2, 2), (2, 2)], [1, 1]),
        // Rows that are left out, in several rounds.
        ([60, 100, 3, 240, 4], [1, 1], [2, 2], [(0, 0), (0, 0)], [1, 1]),
    ];

    /// How a block expands.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Expand {
        Not,
        Pointwise,
        /// With a kernel, stride 2, padding, and dilation in every other case.
        Kernel,
    }

    pub(crate) fn shape(sizes: Dimensions, expand: Expand, batch: usize) -> InvertedShape {
        let ([height, width, channels, c, out_channels], kernel, stride, padding, dilation) = sizes;
        let depthwise = ConvShape {
            batch,
            height,
            width,
            channels: c,
            out_channels: c,
            kernel,
            stride,
            padding,
            dilation,
            groups: c,
        };
        let pointwise = ConvShape {
            channels,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [(0, 0); 2],
            dilation: [1, 1],
            groups: 1,
            ..depthwise
        };
        let dilated = 1 + channels % 2;
        let kernel = ConvShape {
            height: 2 * height - 1,
            width: 2 * width,
            kernel: [3, 4],
            stride: [2, 2],
            padding: [(1, 1), (0, 3 * dilated - 1 + dilated % 2)],
            dilation: [1, dilated],
            ..pointwise
        };
        let expand = match expand {
            Expand::Not => None,
            Expand::Pointwise => Some(pointwise),
            Expand::Kernel => Some(kernel),
        };
        InvertedShape { expand, depthwise, out_channels }
    }

    /// The sizes by number, and every way to expand; the large ones only the usual way.
    pub(crate) fn cases() -> impl Iterator<Item = (usize, Dimensions, Expand)> {
        let kinds = [Expand::Pointwise, Expand::Not, Expand::Kernel];
        let all = move |(i, sizes)| kinds.into_iter().map(move |kind| (i, sizes, kind));
        let cases = SIZES.into_iter().enumerate().flat_map(all);
        cases.filter(|(i, _, kind)| *kind == Expand::Pointwise || *i < 7 || *i == 10)
    }

    /// A convolution whose products are summed one after the other in `f32`.
    fn convolve(
        isa: Isa,
        shape: &ConvShape,
        x: &[f32],
        stage: &Stage,
        r: Option<&[f32]>,
    ) -> Vec<f32> {
        let [oh, ow] = shape.out_size();
        let (o, depth) = (shape.out_channels, shape.channels / shape.groups);
        let taps = shape.kernel[0] * shape.kernel[1];
        let value = |at: usize| {
            let (pixel, n) = (at / o, at % o);
            let (image, y, x0) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let first = if shape.groups == 1 { 0 } else { n };
            // A product begins with the shift, a filter ends with it.
            let shift = stage.shift.map_or(0.0, |s| s[n]);
            let mut sum = if shape.groups == 1 { shift } else { 0.0 };
            for tap in 0..taps {
                let place = |axis: usize, out: usize, k: usize, len: usize| {
                    let at = out * shape.stride[axis] + k * shape.dilation[axis];
                    at.checked_sub(shape.padding[axis].0).filter(|at| *at < len)
                };
                let row = place(0, y, tap / shape.kernel[1], shape.height);
                let column = place(1, x0, tap % shape.kernel[1], shape.width);
                let (Some(row), Some(column)) = (row, column) else { continue };
                let from = ((image * shape.height + row) * shape.width + column) * shape.channels;
                for k in 0..depth {
                    let (a, b) = (x[from + first + k], stage.weight[(n * depth + k) * taps + tap]);
                    sum = if isa == Isa::Scalar { a * b + sum } else { a.mul_add(b, sum) };
                }
            }
            let shifted = if shape.groups == 1 { sum } else { sum + shift };
            stage.activation.of(shifted + r.map_or(0.0, |r| r[at]))
        };
        let mut y: Vec<f32> = (0..shape.output_len()).map(value).collect();
        if let Some(curve) = stage.curve {
            bend_on(isa, &mut y, curve);
        }
        y
    }

    /// Weights and shifts of the stages.
    pub(crate) struct Weights {
        pub(crate) weight: [Vec<f32>; 3],
        pub(crate) shift: [Vec<f32>; 3],
    }

    impl Weights {
        pub(crate) fn new(shape: &InvertedShape) -> Self {
            let (d, o) = (&shape.depthwise, shape.out_channels);
            let expand = shape.expand.map_or(0, |e| e.weight_len());
            let sizes = [expand, d.weight_len(), d.channels * o];
            Self {
                weight: std::array::from_fn(|i| values(sizes[i], i as u32)),
                shift: [d.channels, d.channels, o].map(|n| values(n, 9)),
            }
        }

        pub(crate) fn stages(&self, shape: &InvertedShape) -> BlockStages<'_> {
            let stage = |i: usize, activation| Stage {
                weight: &self.weight[i],
                shift: Some(&self.shift[i]),
                activation,
                curve: None,
            };
            BlockStages {
                expand: shape.expand.map(|_| stage(0, Activation::Relu6)),
                depthwise: stage(1, Activation::Relu),
                project: Some(stage(2, Activation::Identity)),
            }
        }
    }

    /// The block, one convolution after the other.
    fn by_layers(
        isa: Isa,
        shape: &InvertedShape,
        x: &[f32],
        stages: &BlockStages,
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        let d = shape.depthwise;
        let [height, width] = d.out_size();
        let down = ConvShape {
            height,
            width,
            out_channels: shape.out_channels,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [(0, 0); 2],
            dilation: [1, 1],
            groups: 1,
            ..d
        };
        let expand = stages.expand.zip(shape.expand);
        let x = expand.map_or(x.to_vec(), |(stage, e)| convolve(isa, &e, x, &stage, None));
        let x = convolve(isa, &d, &x, &stages.depthwise, None);
        match &stages.project {
            Some(stage) => convolve(isa, &down, &x, stage, residual),
            None => x,
        }
    }

    /// What stands before a squeeze-and-excitation.
    #[test]
    fn bent_blocks_without_a_projection_equal_their_layers_too() {
        for (_, mut sizes, kind) in cases() {
            sizes.0[4] = sizes.0[3];
            let shape = shape(sizes, kind, 2);
            let weights = Weights::new(&shape);
            let mut stages = BlockStages { project: None, ..weights.stages(&shape) };
            for stage in stages.expand.iter_mut().chain([&mut stages.depthwise]) {
                (stage.activation, stage.curve) = (Activation::Identity, Some(Curve::Silu));
            }
            let x = values(shape.input_len(), 4);
            for isa in Isa::available() {
                let exact = by_layers(isa, &shape, &x, &stages, None);
                let mut y = vec![f32::NAN; shape.output_len()];
                let block = InvertedResidual::on(isa, &shape, stages);
                block.run(&shape, &x, None, &mut y);
                assert!(y == exact, "{isa:?} {sizes:?} {kind:?}");
                let mut again = vec![f32::NAN; y.len()];
                on_threads(3, || block.run(&shape, &x, None, &mut again));
                assert!(again == y);
                let one = self::shape(sizes, kind, 1);
                let mut alone = vec![f32::NAN; one.output_len()];
                block.run(&one, &x[one.input_len()..], None, &mut alone);
                assert!(alone == y[one.output_len()..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "InvertedResidual: a residual without a projection")]
    fn only_a_projection_takes_a_residual() {
        let mut sizes = SIZES[0];
        sizes.0[4] = sizes.0[3];
        let shape = shape(sizes, Expand::Not, 1);
        let weights = Weights::new(&shape);
        let stages = BlockStages { project: None, ..weights.stages(&shape) };
        let (x, mut y) = (values(shape.input_len(), 4), vec![0.0; shape.output_len()]);
        InvertedResidual::new(&shape, stages).run(&shape, &x, Some(&x), &mut y);
    }

    #[test]
    fn blocks_equal_their_layers_bit_for_bit() {
        for (i, sizes, kind) in cases() {
            // Whole images, strips of rows, panels of channels; a round and several.
            let batch = if i < 2 { TASKS } else { 2 };
            let shape = shape(sizes, kind, batch);
            let weights = Weights::new(&shape);
            let stages = weights.stages(&shape);
            let x = values(shape.input_len(), 4);
            let residual = values(shape.output_len(), 5);
            for (isa, residual) in Isa::available().flat_map(|i| [(i, None), (i, Some(&*residual))])
            {
                let block = InvertedResidual::on(isa, &shape, stages);
                let exact = by_layers(isa, &shape, &x, &stages, residual);
                let mut y = vec![f32::NAN; shape.output_len()];
                block.run(&shape, &x, residual, &mut y);
                assert!(y == exact, "{isa:?} {sizes:?} {kind:?}");
                for threads in [1, 3] {
                    let mut again = vec![f32::NAN; y.len()];
                    on_threads(threads, || block.run(&shape, &x, residual, &mut again));
                    assert!(again == y);
                }
                // An image alone gives the same.
                let one = self::shape(sizes, kind, 1);
                let mut alone = vec![f32::NAN; one.output_len()];
                let residual = residual.map(|r| &r[(batch - 1) * one.output_len()..]);
                block.run(&one, &x[(batch - 1) * one.input_len()..], residual, &mut alone);
                assert!(alone == y[(batch - 1) * one.output_len()..]);
            }
        }
    }

    #[test]
    fn tasks_divide_rows_or_channels() {
        let division = |sizes, batch| division(&shape(sizes, Expand::Pointwise, batch));
        let none = [(0, 0), (0, 0)];
        let large = ([112, 112, 16, 96, 24], [3, 3], [2, 2], [(1, 1), (1, 1)], [1, 1]);
        assert_eq!(division(large, 32), (By::Rows, 56));
        assert_eq!(division(large, 1), (By::Rows, 7));
        let small = ([7, 7, 192, 1152, 192], [5, 5], [1, 1], [(2, 2), (2, 2)], [1, 1]);
        assert_eq!(division(small, 8), (By::Rows, 7));
        assert_eq!(division(small, 1), (By::Channels, 7));
        let pixel = ([1, 1, 8, 16, 8], [1, 1], [1, 1], none, [1, 1]);
        assert_eq!(division(pixel, 1).1, 1);
        assert!(shape(large, Expand::Pointwise, 1).pays());
        assert!(!shape(small, Expand::Pointwise, 1).pays());
        let huge = ([1000, 1000, 64, 1024, 64], [3, 3], [1, 1], none, [1, 1]);
        assert!(!shape(huge, Expand::Pointwise, 1).pays());
    }

    #[test]
    #[should_panic(expected = "InvertedResidual: length of `x`")]
    fn lengths_must_fit() {
        let shape = shape(SIZES[0], Expand::Pointwise, 1);
        let weights = Weights::new(&shape);
        let block = InvertedResidual::new(&shape, weights.stages(&shape));
        block.run(&shape, &[0.0], None, &mut [0.0]);
    }

    #[test]
    #[should_panic(expected = "InvertedResidual: channels or kernel")]
    fn weights_must_fit() {
        let shape = |kind| shape(SIZES[0], kind, 1);
        let weights = Weights::new(&shape(Expand::Pointwise));
        let stages = weights.stages(&shape(Expand::Pointwise));
        let block = InvertedResidual::new(&shape(Expand::Pointwise), stages);
        block.run(&shape(Expand::Not), &[], None, &mut []);
    }
}
