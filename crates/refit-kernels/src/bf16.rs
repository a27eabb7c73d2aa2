//! Inference in `bf16`: maps and weights are stored rounded to 8 bits of precision, sums are `f32`.
//!
//! Maps are `[n, h, w, c]` like those of `f32`, in half the memory; values are `u16`, the upper half
//! of an `f32`. On CPUs with AMX or AVX512-BF16 two products cost less than one in `f32`.

mod depthwise;
mod inverted;
mod pool;
#[cfg(test)]
mod tests;
mod way;
mod window;

pub use inverted::InvertedResidual;
pub use pool::{max_pool, mean_pool, round, widen};

use self::way::{Block, Leaving, TILE, Way};
use self::window::Window;
use crate::activation::Activation;
use crate::conv::ConvShape;
use crate::simd::fence;
use crate::threads::{Shared, parallel, with_scratch};

/// Rounds to the nearest, halves to even. A NaN stays one.
pub fn from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

/// The same value.
pub fn to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Whether this CPU computes faster in `bf16` than in `f32`.
pub fn is_supported() -> bool {
    Way::fastest() != Way::Scalar
}

/// `bf16` values on cache-line boundaries, in pooled memory.
#[derive(Debug)]
pub struct Buffer {
    memory: crate::Buffer,
    len: usize,
}

impl Buffer {
    /// Values left by whoever had the memory before: for results that are written whole.
    pub fn stale(len: usize) -> Self {
        Self { memory: crate::Buffer::stale(len.div_ceil(2)), len }
    }

    /// All zeros.
    pub fn zeros(len: usize) -> Self {
        Self { memory: crate::Buffer::zeros(len.div_ceil(2)), len }
    }

    /// A rounded copy.
    pub fn from_f32(values: &[f32]) -> Self {
        let mut buffer = Self::stale(values.len());
        round(values, &mut buffer);
        buffer
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u16];
    fn deref(&self) -> &[u16] {
        // SAFETY: the memory holds as many values, initialized; every `f32` is two `u16`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u16] {
        // SAFETY: as in `deref`, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

/// What happens to the output before it is rounded: `activation(y + shift[o] + residual)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exit<'a> {
    /// One summand an output channel.
    pub shift: Option<&'a [f32]>,
    /// A map of the output's shape.
    pub residual: Option<&'a [u16]>,
    /// What is applied last.
    pub activation: Activation,
}

/// How a kernel's products are laid out, whatever the size of the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Channels of a pixel, padded.
    channels: usize,
    /// Values that lie side by side: a kernel's row if it is not dilated, else a pixel.
    run: usize,
    /// Values of a step; divides the run.
    depth: usize,
    /// Whether pixels are read where they lie, without a window.
    in_place: bool,
}

impl Layout {
    fn new(shape: &ConvShape) -> Self {
        let c = shape.channels;
        let pixels = if shape.dilation[1] == 1 { shape.kernel[1] } else { 1 };
        let plain = shape.kernel == [1, 1]
            && shape.stride == [1, 1]
            && shape.padding == [(0, 0); 2]
            && c.is_multiple_of(2);
        let of = |channels: usize| {
            let run = pixels * channels;
            Self { channels, run, depth: step(run), in_place: false }
        };
        let steps = |l: &Self| l.run / l.depth;
        // The fewest steps; of these, the least padding.
        let even = c.next_multiple_of(2);
        let padded = (even..even + 32).step_by(2).map(of).min_by_key(steps);
        let padded = padded.unwrap_or(of(even));
        let own = of(even);
        // Padding means a copy, which is worth about half as much again.
        if plain && 2 * steps(&own) <= 3 * steps(&padded) {
            return Self { in_place: true, ..own };
        }
        padded
    }

    /// Runs of the kernel.
    fn runs(&self, shape: &ConvShape) -> usize {
        shape.kernel[0] * shape.kernel[1] * self.channels / self.run
    }
}

/// The greatest even divisor up to 32 of an even number.
fn step(run: usize) -> usize {
    (1..=TILE).rev().map(|pairs| 2 * pairs).find(|d| run.is_multiple_of(*d)).unwrap_or(2)
}

/// Weights rounded and packed for [`convolve`].
#[derive(Debug)]
pub struct Filter {
    kernel: [usize; 2],
    channels: usize,
    out_channels: usize,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Dense(Dense),
    /// `[kh * kw, c]`, in `f32`.
    Depthwise(crate::Buffer),
}

impl Filter {
    /// Rounds and packs `weight`, `[o, c / groups, kh, kw]`, for convolutions of this kernel, stride,
    /// padding, dilation, groups and channels; the batch and the size of the maps don't matter.
    ///
    /// # Panics
    /// If `weight` is not as long as the shape says, or if there are groups but not of one channel
    /// each ([`serves`]).
    pub fn new(shape: &ConvShape, weight: &[f32]) -> Self {
        assert!(serves(shape), "bf16::Filter: {} groups", shape.groups);
        assert_eq!(weight.len(), shape.weight_len(), "bf16::Filter: length of `weight`");
        let weights = if shape.is_depthwise() {
            Weights::Depthwise(depthwise::lay_out(shape, weight))
        } else {
            Weights::Dense(Dense::new(shape, Layout::new(shape), weight))
        };
        let (channels, out_channels) = (shape.channels, shape.out_channels);
        Self { kernel: shape.kernel, channels, out_channels, weights }
    }
}

/// Whether [`convolve`] serves such a convolution: one without groups, or a depthwise one.
pub fn serves(shape: &ConvShape) -> bool {
    shape.groups == 1 || shape.is_depthwise()
}

/// Weights of a convolution without groups.
#[derive(Debug)]
struct Dense {
    layout: Layout,
    /// Steps of a whole sum.
    steps: usize,
    out_channels: usize,
    /// Panels of 32 output channels (the last may have 16): `[step][tile][depth / 2][16][2]`.
    weights: Buffer,
}

impl Dense {
    fn new(shape: &ConvShape, layout: Layout, weight: &[f32]) -> Self {
        let (c, o, [kh, kw]) = (shape.channels, shape.out_channels, shape.kernel);
        let steps = layout.runs(shape) * layout.run / layout.depth;
        let tiles = o.div_ceil(TILE);
        let rows = steps * layout.depth;
        let mut weights = Buffer::zeros(tiles * rows * TILE);
        for k in 0..rows {
            let (tap, channel) = (k / layout.channels, k % layout.channels);
            if channel >= c {
                continue;
            }
            let inside = k % layout.depth / 2 * 2 * TILE + k % 2;
            for out in 0..o {
                let (panel, columns) = (out / TILE / 2, panel_columns(out / TILE / 2, tiles));
                let tile = (k / layout.depth) * columns + out / TILE % 2;
                let at = panel * 2 * rows * TILE + tile * layout.depth * TILE + out % TILE * 2;
                weights[at + inside] = from_f32(weight[(out * c + channel) * kh * kw + tap]);
            }
        }
        Self { layout, steps, out_channels: o, weights }
    }

    /// Panels of output channels.
    fn panels(&self) -> usize {
        self.out_channels.div_ceil(2 * TILE)
    }

    /// Where the values of each step lie in pixels that are read where they lie.
    fn steps_in_place(&self) -> Vec<usize> {
        (0..self.steps).map(|step| step * self.layout.depth).collect()
    }

    /// Computes a panel over a row of pixels, and hands the wanted ones among them to `leave`. If the
    /// row is `exact`, no pixel beyond it is read.
    ///
    /// # Safety
    /// Called within [`Way::with_tiles`] of the layout's depth; the row lies where it says, exact
    /// ones with at least 32 pixels, the others with room up to a multiple of 32.
    #[inline]
    unsafe fn sweep(
        &self,
        way: Way,
        panel: usize,
        steps: &[usize],
        row: &Row,
        exact: bool,
        mut leave: impl FnMut(Wanted),
    ) {
        let tiles = self.out_channels.div_ceil(TILE);
        let b = self.weights[panel * 2 * TILE * self.layout.depth * self.steps..].as_ptr();
        let mut sums = Sums([0.0; 32 * 32]);
        for first in (0..row.count).step_by(2 * TILE) {
            let left = row.count - first;
            // The last block of an exact row begins earlier and repeats some pixels.
            let start = if exact { first.min(row.count - 2 * TILE) } else { first };
            let block = Block {
                a: row.a.wrapping_add(start * row.stride),
                stride: row.stride,
                steps,
                depth: self.layout.depth,
                b,
                tiles: [if left > TILE || exact { 2 } else { 1 }, panel_columns(panel, tiles)],
                c: sums.0.as_mut_ptr(),
            };
            // SAFETY: by the caller's word.
            unsafe { block.compute(way) };
            let end = row.count.min(start + 2 * TILE);
            let (mut line, mut column) = (start / row.period, start % row.period);
            let mut q = start;
            while q < end {
                let count = row.wanted.saturating_sub(column).min(end - q);
                if count > 0 {
                    let pixel = row.y + line * row.wanted + column;
                    leave(Wanted { pixel, count, sums: sums.0[(q - start) * 2 * TILE..].as_ptr() });
                }
                q += row.period - column;
                (line, column) = (line + 1, 0);
            }
        }
    }
}

/// Neighbouring pixels of the output whose sums are there.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// The first, and how many.
    pixel: usize,
    count: usize,
    /// 32 a pixel.
    sums: *const f32,
}

/// Tiles of a panel, of so many in all.
fn panel_columns(panel: usize, tiles: usize) -> usize {
    (tiles - 2 * panel).min(2)
}

/// `y = exit(convolution(x, filter))`.
///
/// # Panics
/// If a slice's length does not fit `shape`, or `filter` was packed for another kernel.
pub fn convolve(shape: &ConvShape, x: &[u16], filter: &Filter, exit: Exit, y: &mut [u16]) {
    convolve_by(Way::fastest(), shape, x, filter, exit, y);
}

/// [`convolve`] by instructions that the CPU has.
pub(crate) fn convolve_by(
    way: Way,
    shape: &ConvShape,
    x: &[u16],
    filter: &Filter,
    exit: Exit,
    y: &mut [u16],
) {
    let o = shape.out_channels;
    assert_eq!(x.len(), shape.input_len(), "bf16::convolve: length of `x`");
    assert_eq!(y.len(), shape.output_len(), "bf16::convolve: length of `y`");
    assert_eq!(filter.kernel, shape.kernel, "bf16::convolve: the filter's kernel");
    assert_eq!(filter.channels, shape.channels, "bf16::convolve: the filter's channels");
    assert_eq!(filter.out_channels, o, "bf16::convolve: the filter's output channels");
    assert_eq!(exit.shift.map_or(o, <[f32]>::len), o, "bf16::convolve: length of `shift`");
    let residual = exit.residual.map_or(y.len(), <[u16]>::len);
    assert_eq!(residual, y.len(), "bf16::convolve: length of `residual`");
    let zeros;
    let shift = match exit.shift {
        Some(shift) => shift,
        None => {
            zeros = crate::Buffer::zeros(o);
            &zeros
        }
    };
    let streams = streams(y, o);
    let y = Shared::new(y);
    match &filter.weights {
        Weights::Depthwise(taps) => {
            depthwise::Job { way, shape, x, taps, shift, exit, y }.run();
        }
        Weights::Dense(filter) => {
            assert_eq!(filter.layout, Layout::new(shape), "bf16::convolve: the filter's layout");
            Job { way, shape, x, filter, shift, exit, y, streams }.run();
        }
    }
}

/// Outputs from this length on, 8 MB, are larger than what caches keep until the next layer.
const STREAMED: usize = 1 << 22;

/// Whether an output had better not pass the caches: if it is larger than they are, each line would
/// be fetched only to be overwritten. Needs panels on cache lines.
fn streams(y: &[u16], channels: usize) -> bool {
    let on_lines = y.as_ptr().addr().is_multiple_of(64) && channels.is_multiple_of(2 * TILE);
    on_lines && y.len() >= STREAMED
}

/// Output pixels of all images.
fn y_pixels(shape: &ConvShape) -> usize {
    shape.output_len() / shape.out_channels
}

/// A convolution under way.
struct Job<'a> {
    way: Way,
    shape: &'a ConvShape,
    x: &'a [u16],
    filter: &'a Dense,
    shift: &'a [f32],
    exit: Exit<'a>,
    y: Shared<u16>,
    streams: bool,
}

/// Pixels that lie evenly spaced, of which some are wanted: `wanted` of every `period`.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// The first.
    a: *const u16,
    stride: usize,
    count: usize,
    period: usize,
    wanted: usize,
    /// The output pixel of the first.
    y: usize,
}

/// Pixels of a task: whose inputs stay in the second cache while panel after panel goes by.
const TASK: usize = 512;

/// Values of the windows of several small images.
const WINDOW: usize = 400_000;

/// Tasks that there should be at least, if need be by giving each a part of the output channels.
const TASKS: usize = 16;

impl Job<'_> {
    fn run(&self) {
        let pixels = y_pixels(self.shape);
        if self.filter.layout.in_place && pixels >= 2 * TILE {
            self.in_place(pixels);
        } else {
            self.windowed();
        }
    }

    /// Cuts the panels so that `tasks` tasks of pixels become enough.
    fn panel_parts(&self, tasks: usize) -> usize {
        TASKS.div_ceil(tasks.max(1)).min(self.filter.panels())
    }

    /// All pixels lie evenly spaced already.
    fn in_place(&self, pixels: usize) {
        // Every task gets at least one whole block.
        let tasks = (pixels / TASK).max(1);
        let parts = self.panel_parts(tasks);
        let channels = self.filter.layout.channels;
        let steps = self.filter.steps_in_place();
        parallel(tasks * parts, |task| {
            let (part, task) = (task % parts, task / parts);
            let (first, end) = (task * pixels / tasks, (task + 1) * pixels / tasks);
            let count = end - first;
            let a = self.x[first * channels..].as_ptr();
            let row = Row { a, stride: channels, count, period: count, wanted: count, y: first };
            // SAFETY: at least 32 pixels lie at `a`; tasks own disjoint pixels or panels.
            unsafe { self.panels(part, parts, &steps, &[row], true) };
        });
    }

    /// Rows are copied to windows first.
    fn windowed(&self) {
        let window = Window::new(self.shape, &self.filter.layout);
        let [oh, ow] = self.shape.out_size();
        let rows = (TASK / window.period).clamp(1, oh);
        let strips = oh.div_ceil(rows);
        let rows = oh.div_ceil(strips);
        let len = window.len(self.shape, rows);
        let images =
            if strips == 1 { (WINDOW / len).clamp(1, self.shape.batch.div_ceil(4)) } else { 1 };
        let groups = self.shape.batch.div_ceil(images);
        let parts = self.panel_parts(groups * strips);
        let steps = window.steps(self.shape, &self.filter.layout, rows);
        parallel(groups * strips * parts, |task| {
            let (part, task) = (task % parts, task / parts);
            let (group, strip) = (task / strips, task % strips);
            let first = strip * rows;
            let count = rows.min(oh - first);
            let images = group * images..self.shape.batch.min((group + 1) * images);
            with_scratch((images.len() * len).div_ceil(2), |scratch| {
                let to: *mut u16 = scratch.as_mut_ptr().cast();
                let mut pieces =
                    [Row { a: to, stride: 0, count: 0, period: 1, wanted: 1, y: 0 }; 32];
                let number = images.len().min(pieces.len());
                for (i, (image, piece)) in images.clone().zip(&mut pieces).enumerate() {
                    let to = to.wrapping_add(i * len);
                    // SAFETY: the scratch has `len` values for each image.
                    unsafe { window.fill(self.shape, self.x, image, first, rows, to) };
                    *piece = Row {
                        a: to,
                        stride: window.stride,
                        count: (count - 1) * window.period + ow,
                        period: window.period,
                        wanted: ow,
                        y: (image * oh + first) * ow,
                    };
                }
                // SAFETY: windows have room for whole tiles; tasks own disjoint rows or panels.
                unsafe { self.panels(part, parts, &steps, &pieces[..number], false) };
            });
        });
    }

    /// Computes a part of the panels over some rows of pixels. If they are `exact`, no pixel beyond
    /// them may be read.
    ///
    /// # Safety
    /// Rows lie where they say, if not `exact` with room up to a multiple of 32 pixels.
    unsafe fn panels(&self, part: usize, parts: usize, steps: &[usize], rows: &[Row], exact: bool) {
        let (panels, o) = (self.filter.panels(), self.filter.out_channels);
        let (low, high) = self.exit.activation.bounds();
        self.way.with_tiles(self.filter.layout.depth, || {
            for panel in part * panels / parts..(part + 1) * panels / parts {
                let channel = panel * 2 * TILE;
                let leave = |wanted: Wanted| {
                    let at = wanted.pixel * o + channel;
                    let leaving = Leaving {
                        c: wanted.sums,
                        pixels: wanted.count,
                        n: (o - channel).min(2 * TILE),
                        shift: self.shift[channel..].as_ptr(),
                        residual: self.exit.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr()),
                        low,
                        high,
                        y: self.y.ptr().wrapping_add(at),
                        stride: o,
                        streams: self.streams,
                    };
                    // SAFETY: the row's output lies in `y` and belongs to this task.
                    unsafe { leaving.write(self.way) };
                };
                for row in rows {
                    // SAFETY: by the caller's word.
                    unsafe { self.filter.sweep(self.way, panel, steps, row, exact, leave) };
                }
            }
        });
        if self.streams {
            fence();
        }
    }
}

/// The sums of a block, `[32][32]`.
#[repr(C, align(64))]
struct Sums([f32; 32 * 32]);
