//! The inverted residual block (Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>) in one
//! pass: a 1x1 convolution expands the channels, a depthwise one filters them, a 1x1 one projects
//! them back, and the expanded map, six times the size of the others, is never stored.
//!
//! A task takes some output rows of an image. Round by round, it expands the input rows that the
//! next output rows need, a panel of channels at a time, into rows that hold their own padding;
//! filters them while they are in the cache; and when all panels are there, projects. Every value is
//! summed in the order of the separate kernels, so that the result is theirs bit for bit.

use std::ops::Range;

use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::conv::ConvShape;
use crate::depthwise::{Correlation, Row, RowKernel};
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Ahead, Packed, Panel, Run, Tile, TileExit, cut, panels, run_tile};

/// An inverted residual block over a batch of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvertedShape {
    /// Channels of the block's input.
    pub channels: usize,
    /// The depthwise convolution, over the expanded map; its batch and size are the block's.
    pub depthwise: ConvShape,
    /// Channels of the block's output.
    pub out_channels: usize,
}

impl InvertedShape {
    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.depthwise.batch * self.depthwise.height * self.depthwise.width * self.channels
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        let [height, width] = self.depthwise.out_size();
        self.depthwise.batch * height * width * self.out_channels
    }
}

/// One of a block's convolutions: `activation(convolution + shift)`.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// Weights, `[o, c / groups, kh, kw]`, with the scale of a batch norm folded in.
    pub weight: &'a [f32],
    /// One summand an output channel.
    pub shift: Option<&'a [f32]>,
    /// What is applied last.
    pub activation: Activation,
}

/// What happens behind a stage.
#[derive(Debug)]
struct Finish {
    shift: Option<Buffer>,
    activation: Activation,
}

impl Finish {
    fn new(name: &str, stage: &Stage, channels: usize) -> Self {
        assert!(stage.shift.is_none_or(|s| s.len() == channels), "{name}: length of a shift");
        Self { shift: stage.shift.map(Buffer::from_slice), activation: stage.activation }
    }

    /// From channel `first` on.
    fn exit(&self, first: usize, residual: *const f32) -> TileExit<'static> {
        let shift = self.shift.as_ref().map_or(std::ptr::null(), |s| s[first..].as_ptr());
        TileExit { shift, residual, activation: self.activation, ..TileExit::NONE }
    }
}

/// A block's weights, packed once and used for every batch.
#[derive(Debug)]
pub struct InvertedResidual {
    isa: Isa,
    /// Weights of the expansion; without one, the input is filtered as it is.
    expand: Option<(Packed, Finish)>,
    /// Panels of the expanded channels.
    panels: Vec<Panel>,
    /// Weights of the depthwise convolution, `[taps, width]` a panel.
    taps: Buffer,
    filter: Finish,
    project: (Packed, Finish),
}

impl InvertedResidual {
    /// Packs the weights of a block; the batch and the size of the maps don't matter.
    ///
    /// # Panics
    /// If a slice is not as long as the shape says, the convolution in the middle is not depthwise,
    /// or channels are expanded without an expansion.
    pub fn new(
        shape: &InvertedShape,
        expand: Option<Stage>,
        depthwise: Stage,
        project: Stage,
    ) -> Self {
        Self::on(Isa::widest(), shape, expand, depthwise, project)
    }

    fn on(
        isa: Isa,
        shape: &InvertedShape,
        expand: Option<Stage>,
        depthwise: Stage,
        project: Stage,
    ) -> Self {
        const NAME: &str = "InvertedResidual";
        let expanded = shape.depthwise.channels;
        let middle = [shape.depthwise.groups, shape.depthwise.out_channels];
        assert_eq!(middle, [expanded; 2], "{NAME}: a convolution that is not depthwise");
        assert!(expand.is_some() || shape.channels == expanded, "{NAME}: no expansion");
        assert_eq!(depthwise.weight.len(), shape.depthwise.weight_len(), "{NAME}: filter");
        let dense = |stage: Stage, depth: usize, channels: usize| {
            assert_eq!(stage.weight.len(), depth * channels, "{NAME}: length of a weight");
            let weight = |k, n| stage.weight[n * depth + k];
            (Packed::new(isa, depth, channels, weight), Finish::new(NAME, &stage, channels))
        };
        let expand = expand.map(|stage| dense(stage, shape.channels, expanded));
        let panels = match &expand {
            Some((packed, _)) => packed.panels.clone(),
            None => panels(isa, expanded, 0).0,
        };
        Self {
            isa,
            expand,
            taps: lay_out(depthwise.weight, &panels, expanded),
            panels,
            filter: Finish::new(NAME, &depthwise, expanded),
            project: dense(project, expanded, shape.out_channels),
        }
    }

    /// Whether a block is faster in one than layer by layer: if the rows that an output row needs
    /// stay in the second-level cache. Then it gains most where maps are large (2 to 4 times at
    /// 112x112 and 56x56), and loses nothing where they are small. The batch doesn't matter.
    pub fn pays(shape: &InvertedShape) -> bool {
        let d = &shape.depthwise;
        let rows = (d.kernel[0] - 1) * d.dilation[0] + 2;
        rows * d.width * d.channels * size_of::<f32>() <= 2 * KEPT
    }

    /// `y = project(filter(expand(x))) + residual`.
    ///
    /// # Panics
    /// If a slice's length does not fit `shape`, or `shape` has other channels or another kernel
    /// than the weights.
    pub fn run(&self, shape: &InvertedShape, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let plan = Plan::new(self, shape);
        self.run_plan(&plan, x, residual, y);
    }

    fn run_plan(&self, plan: &Plan, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let shape = plan.shape;
        assert_eq!(x.len(), shape.input_len(), "InvertedResidual: length of `x`");
        assert_eq!(y.len(), shape.output_len(), "InvertedResidual: length of `y`");
        let fits = residual.is_none_or(|r| r.len() == y.len());
        assert!(fits, "InvertedResidual: length of `residual`");
        let (image_len, out_len) = match shape.depthwise.batch {
            0 => return,
            batch => (x.len() / batch, y.len() / batch),
        };
        let y = Shared::new(y);
        let maps = |image: usize| Maps {
            x: &x[image * image_len..][..image_len],
            residual: residual.map_or(std::ptr::null(), |r| r[image * out_len..].as_ptr()),
            // SAFETY: an image of `y`.
            y: unsafe { y.ptr().add(image * out_len) },
        };
        match plan.by {
            By::Rows => plan.run_by_rows(maps),
            By::Channels => plan.run_by_channels(maps),
        }
    }
}

/// `[c, taps]` to `[taps, width]` for each panel.
fn lay_out(weight: &[f32], panels: &[Panel], channels: usize) -> Buffer {
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

/// An image of each map.
#[derive(Clone, Copy)]
struct Maps<'a> {
    x: &'a [f32],
    /// Null if there is none.
    residual: *const f32,
    y: *mut f32,
}

/// Bytes of expanded rows and filtered ones that a task keeps; they share the second-level cache
/// with the weights.
const KEPT: usize = 512 << 10;

/// What a block's tasks divide among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Output rows: all of a task stays in its own cache, but rows at the seams are expanded twice.
    Rows,
    /// Expanded channels, and then, when all are filtered, output channels: for few images of few
    /// pixels, whose many weights are then read once.
    Channels,
}

/// How a block runs over maps of one size.
///
/// Expanded rows lie in a ring of `slots` rows for each panel, or, when a task is done in a single
/// round, in one ring for all of them.
#[derive(Debug)]
struct Plan<'a> {
    by: By,
    block: &'a InvertedResidual,
    shape: &'a InvertedShape,
    kernel: Correlation,
    out_size: [usize; 2],
    /// Output rows of a task, and of a round.
    strip: usize,
    rows: usize,
    /// Distance between the pixels of a panel.
    stride: usize,
    /// Values of an expanded row of a panel, padding included.
    row: usize,
    slots: usize,
    /// Values between the rings of two panels, and between their filtered rows.
    ring: usize,
    filtered: usize,
    /// Where a filtered pixel's channels lie.
    runs: Vec<Run>,
}

impl<'a> Plan<'a> {
    fn new(block: &'a InvertedResidual, shape: &'a InvertedShape) -> Self {
        let d = &shape.depthwise;
        let out_size = d.out_size();
        assert_eq!(block.taps.len(), d.weight_len(), "InvertedResidual: channels or kernel");
        let in_channels = block.expand.as_ref().map_or(d.channels, |(packed, _)| packed.depth);
        assert_eq!(in_channels, shape.channels, "InvertedResidual: channels");
        let lead = d.padding.map(|(before, _)| before as isize);
        let kernel = Correlation::new(out_size[1], d.kernel, d.stride, d.dilation, lead);
        let stride = block.panels.iter().map(|p| p.width).max().unwrap_or(0);
        let width = kernel.ring().width.max(d.padding[1].0 + d.width);
        let (by, strip) = division(shape);
        let row = width * stride;
        let slots = |rows: usize| (rows - 1) * d.stride[0] + kernel.ring().slots;
        let rows = match by {
            By::Rows => round_rows(strip, block.panels.len(), row, out_size[1] * stride, slots),
            By::Channels => strip,
        };
        let slots = slots(rows);
        let ring = if rows == strip { 0 } else { slots * row };
        let filtered = rows * out_size[1] * stride;
        let run = |(i, p): (usize, &Panel)| Run { offset: i * filtered, len: p.width };
        let runs = block.panels.iter().enumerate().map(run).collect();
        Self {
            by,
            block,
            shape,
            kernel,
            out_size,
            strip,
            rows,
            stride,
            row,
            slots,
            ring,
            filtered,
            runs,
        }
    }

    /// Strips of rows of all images, from input to output.
    fn run_by_rows<'m>(&self, maps: impl Fn(usize) -> Maps<'m> + Sync) {
        let height = self.out_size[0];
        let strips = height.div_ceil(self.strip);
        parallel(self.shape.depthwise.batch * strips, |task| {
            let first = task % strips * self.strip;
            let rows = first..(first + self.strip).min(height);
            // SAFETY: no other task writes these rows of this image.
            unsafe { self.task(maps(task / strips), rows) };
        });
    }

    /// Panels of expanded channels of all images, then pixels and panels of the output.
    fn run_by_channels<'m>(&self, maps: impl Fn(usize) -> Maps<'m> + Sync) {
        let (batch, panels) = (self.shape.depthwise.batch, &self.block.panels);
        let out_panels = &self.block.project.0.panels;
        let rows = 0..self.out_size[0];
        let pixels = rows.len() * self.out_size[1];
        with_scratch(batch * panels.len() * self.filtered, |memory| {
            let filtered = Shared::new(memory);
            parallel(batch * panels.len(), |task| {
                // Panel by panel, so that its weights serve all images while they are in the cache.
                let (i, image) = (task / batch, task % batch);
                let at = (image * panels.len() + i) * self.filtered;
                // SAFETY: each task has its own panel of filtered pixels; `maps` are whole images.
                unsafe {
                    let filtered = filtered.part(at, self.filtered);
                    self.task_of_panel(&panels[i], maps(image).x, filtered);
                }
            });
            let blocks = pixels.div_ceil(PIXELS);
            parallel(batch * out_panels.len() * blocks, |task| {
                let (image, task) =
                    (task / (out_panels.len() * blocks), task % (out_panels.len() * blocks));
                let (panel, first) = (&out_panels[task / blocks], task % blocks * PIXELS);
                let filtered = &memory[image * panels.len() * self.filtered..];
                let pixels = first..(first + PIXELS).min(pixels);
                // SAFETY: no other task writes these channels of these pixels.
                unsafe { self.project(panel, filtered, pixels, 0, maps(image)) };
            });
        });
    }

    /// Expands and filters a panel's channels of a whole image.
    ///
    /// # Safety
    /// `x` is an image.
    unsafe fn task_of_panel(&self, panel: &Panel, x: &[f32], filtered: &mut [f32]) {
        let rows = 0..self.out_size[0];
        let needed = self.needs(0).start..self.needs(rows.end - 1).end;
        with_scratch(self.slots * self.row, |ring| {
            self.clear_padding(ring);
            let mut inputs = Vec::with_capacity(self.shape.depthwise.kernel[0]);
            // SAFETY: by the caller's word; the ring has room for all rows.
            unsafe {
                self.expand(panel, x, needed, ring);
                self.filter(panel, ring, rows, filtered, &mut inputs);
            }
        });
    }

    /// Makes output rows `rows` of an image.
    ///
    /// # Safety
    /// `maps` are whole images, and no one else touches these rows of `y`.
    unsafe fn task(&self, maps: Maps, rows: Range<usize>) {
        let panels = self.block.panels.len();
        let rings = if self.ring == 0 { self.slots * self.row } else { panels * self.ring };
        with_scratch(rings + panels * self.filtered, |memory| {
            let (rings, filtered) = memory.split_at_mut(rings);
            self.clear_padding(rings);
            let mut inputs = Vec::with_capacity(self.shape.depthwise.kernel[0]);
            let mut next = self.needs(rows.start).start;
            for first in rows.clone().step_by(self.rows) {
                let round = first..(first + self.rows).min(rows.end);
                let fresh = next..self.needs(round.end - 1).end.max(next);
                next = fresh.end;
                for (i, panel) in self.block.panels.iter().enumerate() {
                    let ring = &mut rings[i * self.ring..];
                    let filtered = &mut filtered[i * self.filtered..];
                    // SAFETY: `maps.x` is a whole image; a panel's ring and filtered rows have
                    // room for a round.
                    unsafe {
                        self.expand(panel, maps.x, fresh.clone(), ring);
                        self.filter(panel, ring, round.clone(), filtered, &mut inputs);
                    }
                }
                let pixels = 0..round.len() * self.out_size[1];
                for panel in &self.block.project.0.panels {
                    let begin = round.start * self.out_size[1];
                    // SAFETY: the rows are this task's.
                    unsafe { self.project(panel, filtered, pixels.clone(), begin, maps) };
                }
            }
        });
    }

    /// The input rows that output row `y` needs.
    fn needs(&self, y: usize) -> Range<usize> {
        let (first, end) = self.kernel.needs(y);
        let height = self.shape.depthwise.height as isize;
        let first = first.clamp(0, height);
        first as usize..end.clamp(first, height) as usize
    }

    fn clear_padding(&self, rings: &mut [f32]) {
        let d = &self.shape.depthwise;
        let (left, right) = (d.padding[1].0, d.padding[1].0 + d.width);
        for row in rings.chunks_exact_mut(self.row) {
            row[..left * self.stride].fill(0.0);
            row[right * self.stride..].fill(0.0);
        }
    }

    /// Where row `y`'s first pixel lies in a ring, behind its padding.
    fn slot(&self, y: usize) -> usize {
        y % self.slots * self.row + self.shape.depthwise.padding[1].0 * self.stride
    }

    /// Expands rows of `x` for a panel of channels.
    ///
    /// # Safety
    /// `x` is an image, and has these rows.
    unsafe fn expand(&self, panel: &Panel, x: &[f32], rows: Range<usize>, ring: &mut [f32]) {
        let (width, channels) = (self.shape.depthwise.width, self.shape.channels);
        let Some((packed, finish)) = &self.block.expand else {
            return self.copy(panel, x, rows, ring);
        };
        let isa = self.block.isa;
        let runs = [Run { offset: 0, len: channels }];
        let exit = finish.exit(panel.start, std::ptr::null());
        for y in rows {
            let (from, to) = (&x[y * width * channels..], &mut ring[self.slot(y)..]);
            for (column, pixels) in cut(width, isa.tile_rows(panel.vectors)) {
                let tile = Tile {
                    a: from[column * channels..].as_ptr(),
                    a_stride: channels,
                    runs: &runs,
                    b: packed.weights[panel.offset..].as_ptr(),
                    c: to[column * self.stride..].as_mut_ptr(),
                    c_stride: self.stride,
                    n: panel.width,
                    goes_on: false,
                    exit,
                    ahead: Ahead::NOTHING,
                };
                // SAFETY: `isa` is this CPU's; the pixels lie in row `y` of `x` and of the ring.
                unsafe { run_tile(isa, pixels, panel.vectors, &tile) };
            }
        }
    }

    /// Copies rows of `x`: a block without an expansion.
    fn copy(&self, panel: &Panel, x: &[f32], rows: Range<usize>, ring: &mut [f32]) {
        let (width, channels) = (self.shape.depthwise.width, self.shape.channels);
        for y in rows {
            let from = x[y * width * channels..].chunks_exact(channels);
            let to = ring[self.slot(y)..].chunks_exact_mut(self.stride);
            for (from, to) in from.zip(to).take(width) {
                to[..panel.width].copy_from_slice(&from[panel.start..][..panel.width]);
            }
        }
    }

    /// Filters a panel's channels: output rows from a ring.
    ///
    /// # Safety
    /// The ring has the rows that these need.
    unsafe fn filter(
        &self,
        panel: &Panel,
        ring: &[f32],
        rows: Range<usize>,
        filtered: &mut [f32],
        inputs: &mut Vec<*const f32>,
    ) {
        let d = &self.shape.depthwise;
        let taps = d.kernel[0] * d.kernel[1] * panel.start;
        let out_row = self.out_size[1] * self.stride;
        for (y, out) in rows.zip(filtered.chunks_exact_mut(out_row)) {
            let (first, _) = self.kernel.needs(y);
            let at = |ky: usize| {
                let y = first + (ky * d.dilation[0]) as isize;
                let inside = y >= 0 && y < d.height as isize;
                let row = || ring[y as usize % self.slots * self.row..].as_ptr();
                if inside { row() } else { std::ptr::null() }
            };
            inputs.clear();
            inputs.extend((0..d.kernel[0]).map(at));
            let row = Row {
                inputs,
                in_stride: self.stride,
                taps: self.block.taps[taps..].as_ptr(),
                tap_stride: panel.width,
                out: out.as_mut_ptr(),
                out_stride: self.stride,
                channels: panel.width,
                exit: self.block.filter.exit(panel.start, std::ptr::null()),
            };
            // SAFETY: the ring holds the rows by the caller's word, as wide as taps reach; `out` is
            // a row.
            unsafe { self.kernel.run(self.block.isa, y, &row) };
        }
    }

    /// Projects filtered pixels onto a panel of the output's channels; the first of all filtered
    /// ones is the output's pixel `begin`.
    ///
    /// # Safety
    /// No one else touches these channels of these pixels of `maps.y`.
    unsafe fn project(
        &self,
        panel: &Panel,
        filtered: &[f32],
        pixels: Range<usize>,
        begin: usize,
        maps: Maps,
    ) {
        let (isa, (packed, finish)) = (self.block.isa, &self.block.project);
        let channels = self.shape.out_channels;
        for (pixel, count) in cut(pixels.len(), isa.tile_rows(panel.vectors)) {
            let pixel = pixels.start + pixel;
            let at = (begin + pixel) * channels + panel.start;
            let residual = match maps.residual.is_null() {
                true => maps.residual,
                false => maps.residual.wrapping_add(at),
            };
            let tile = Tile {
                a: filtered[pixel * self.stride..].as_ptr(),
                a_stride: self.stride,
                runs: &self.runs,
                b: packed.weights[panel.offset..].as_ptr(),
                c: maps.y.wrapping_add(at),
                c_stride: channels,
                n: panel.width,
                goes_on: false,
                exit: finish.exit(panel.start, residual),
                ahead: Ahead::NOTHING,
            };
            // SAFETY: `isa` is this CPU's; the pixels are filtered; the rest by the caller's word.
            unsafe { run_tile(isa, count, panel.vectors, &tile) };
        }
    }
}

/// Pixels that a task projects.
const PIXELS: usize = 112;

/// Tasks that a batch is to make at least: for even shares of a few threads.
const TASKS: usize = 8;

/// What tasks divide among them, and how many output rows a task makes.
fn division(shape: &InvertedShape) -> (By, usize) {
    let d = &shape.depthwise;
    let height = d.out_size()[0];
    let wanted = TASKS.div_ceil(d.batch.max(1)).min(height);
    // Rows that two tasks expand are to be few: a sixth of all.
    let reach = (d.kernel[0] - 1) * d.dilation[0] + 1;
    let most = 1 + d.height / (6 * reach.saturating_sub(d.stride[0])).max(1);
    let strips = 1 << wanted.min(most).max(1).ilog2();
    let small = d.height * d.width <= 256;
    match wanted > 1 && (small || strips == 1) {
        true => (By::Channels, height),
        false => (By::Rows, height.div_ceil(strips)),
    }
}

/// Output rows of a round: as many as the cache holds.
fn round_rows(
    strip: usize,
    panels: usize,
    row: usize,
    out_row: usize,
    slots: impl Fn(usize) -> usize,
) -> usize {
    let most = KEPT / size_of::<f32>();
    if slots(strip) * row + panels * strip * out_row <= most {
        return strip;
    }
    let fits = |rows: &usize| panels * (slots(*rows) * row + rows * out_row) <= most;
    (1..strip).rev().find(fits).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_threads, values};

    /// Height, width, channels, expanded, output channels, kernel, stride, padding, dilation.
    type Sizes = ([usize; 5], [usize; 2], [usize; 2], [(usize, usize); 2], [usize; 2]);

    const SIZES: [Sizes; 9] = [
        ([8, 9, 5, 30, 7], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ([14, 14, 16, 96, 24], [5, 5], [1, 1], [(2, 2), (2, 2)], [1, 1]),
        ([15, 13, 3, 17, 33], [3, 3], [2, 2], [(0, 1), (1, 0)], [1, 1]),
        ([9, 20, 17, 48, 31], [5, 5], [2, 2], [(2, 2), (1, 2)], [1, 1]),
        ([11, 8, 33, 100, 48], [3, 5], [1, 2], [(1, 0), (2, 2)], [1, 1]),
        ([16, 12, 16, 31, 16], [3, 3], [1, 1], [(2, 2), (2, 2)], [2, 2]),
        ([5, 7, 9, 16, 3], [1, 1], [2, 3], [(0, 0), (0, 0)], [1, 1]),
        ([40, 64, 4, 144, 8], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ([57, 50, 8, 240, 4], [5, 5], [2, 2], [(2, 2), (2, 2)], [1, 1]),
    ];

    fn shape(sizes: Sizes, batch: usize) -> InvertedShape {
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
        InvertedShape { channels, depthwise, out_channels }
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
        (0..shape.output_len()).map(value).collect()
    }

    /// Weights and shifts of the stages.
    struct Weights {
        weight: [Vec<f32>; 3],
        shift: [Vec<f32>; 3],
    }

    impl Weights {
        fn new(shape: &InvertedShape) -> Self {
            let (c, d, o) = (shape.channels, &shape.depthwise, shape.out_channels);
            let sizes = [c * d.channels, d.weight_len(), d.channels * o];
            Self {
                weight: std::array::from_fn(|i| values(sizes[i], i as u32)),
                shift: [d.channels, d.channels, o].map(|n| values(n, 9)),
            }
        }

        fn stages(&self) -> [Stage<'_>; 3] {
            let functions = [Activation::Relu6, Activation::Relu, Activation::Identity];
            std::array::from_fn(|i| Stage {
                weight: &self.weight[i],
                shift: Some(&self.shift[i]),
                activation: functions[i],
            })
        }
    }

    /// The block, one convolution after the other.
    fn by_layers(
        isa: Isa,
        shape: &InvertedShape,
        x: &[f32],
        stages: [Option<Stage>; 3],
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        let d = shape.depthwise;
        let dense = |size: [usize; 2], channels: usize, out_channels: usize| ConvShape {
            height: size[0],
            width: size[1],
            channels,
            out_channels,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [(0, 0); 2],
            dilation: [1, 1],
            groups: 1,
            ..d
        };
        let [expand, filter, project] = stages;
        let up = dense([d.height, d.width], shape.channels, d.channels);
        let x = expand.map_or(x.to_vec(), |stage| convolve(isa, &up, x, &stage, None));
        let x = filter.map(|stage| convolve(isa, &d, &x, &stage, None)).unwrap_or_default();
        let down = dense(d.out_size(), d.channels, shape.out_channels);
        project.map(|stage| convolve(isa, &down, &x, &stage, residual)).unwrap_or_default()
    }

    #[test]
    fn blocks_equal_their_layers_bit_for_bit() {
        for (i, sizes) in SIZES.into_iter().enumerate() {
            // Whole images, strips of rows, panels of channels; a round and several.
            let batch = if i < 2 { TASKS } else { 2 };
            let shape = shape(sizes, batch);
            let weights = Weights::new(&shape);
            let [expand, filter, project] = weights.stages();
            let x = values(shape.input_len(), 4);
            let residual = values(shape.output_len(), 5);
            for (isa, residual) in Isa::available().flat_map(|i| [(i, None), (i, Some(&*residual))])
            {
                let block = InvertedResidual::on(isa, &shape, Some(expand), filter, project);
                let exact = by_layers(
                    isa,
                    &shape,
                    &x,
                    [Some(expand), Some(filter), Some(project)],
                    residual,
                );
                let mut y = vec![f32::NAN; shape.output_len()];
                block.run(&shape, &x, residual, &mut y);
                assert!(y == exact, "{isa:?} {sizes:?}");
                for threads in [1, 3] {
                    let mut again = vec![f32::NAN; y.len()];
                    on_threads(threads, || block.run(&shape, &x, residual, &mut again));
                    assert!(again == y);
                }
                // An image alone gives the same.
                let one = self::shape(sizes, 1);
                let mut alone = vec![f32::NAN; one.output_len()];
                let residual = residual.map(|r| &r[(batch - 1) * one.output_len()..]);
                block.run(&one, &x[(batch - 1) * one.input_len()..], residual, &mut alone);
                assert!(alone == y[(batch - 1) * one.output_len()..]);
            }
        }
    }

    #[test]
    fn a_block_may_filter_its_input_as_it_is() {
        for sizes in SIZES {
            let mut shape = shape(sizes, 1);
            shape.channels = shape.depthwise.channels;
            let weights = Weights::new(&shape);
            let [_, filter, project] = weights.stages();
            let x = values(shape.input_len(), 4);
            for isa in Isa::available() {
                let block = InvertedResidual::on(isa, &shape, None, filter, project);
                let exact = by_layers(isa, &shape, &x, [None, Some(filter), Some(project)], None);
                let mut y = vec![f32::NAN; shape.output_len()];
                block.run(&shape, &x, None, &mut y);
                assert!(y == exact, "{isa:?} {sizes:?}");
            }
        }
    }

    #[test]
    fn tasks_divide_rows_or_channels() {
        let division = |sizes, batch| division(&shape(sizes, batch));
        let none = [(0, 0), (0, 0)];
        let large = ([112, 112, 16, 96, 24], [3, 3], [2, 2], [(1, 1), (1, 1)], [1, 1]);
        assert_eq!(division(large, 32), (By::Rows, 56));
        assert_eq!(division(large, 1), (By::Rows, 7));
        let small = ([7, 7, 192, 1152, 192], [5, 5], [1, 1], [(2, 2), (2, 2)], [1, 1]);
        assert_eq!(division(small, 8), (By::Rows, 7));
        assert_eq!(division(small, 1), (By::Channels, 7));
        let pixel = ([1, 1, 8, 16, 8], [1, 1], [1, 1], none, [1, 1]);
        assert_eq!(division(pixel, 1).1, 1);
        assert!(InvertedResidual::pays(&shape(large, 1)));
        let huge = ([1000, 1000, 64, 1024, 64], [3, 3], [1, 1], none, [1, 1]);
        assert!(!InvertedResidual::pays(&shape(huge, 1)));
    }

    #[test]
    #[should_panic(expected = "InvertedResidual: length of `x`")]
    fn lengths_must_fit() {
        let shape = shape(SIZES[0], 1);
        let weights = Weights::new(&shape);
        let [expand, filter, project] = weights.stages();
        let block = InvertedResidual::new(&shape, Some(expand), filter, project);
        block.run(&shape, &[0.0], None, &mut [0.0]);
    }
}
