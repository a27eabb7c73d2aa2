//! Depthwise convolution of `bf16` maps: rows are widened into a ring, summed in `f32` there, and
//! rounded as they leave.

use super::way::{Into, Way};
use super::{Exit, from_f32, to_f32};
use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::conv::ConvShape;
use crate::depthwise::{Correlation, Row, RowKernel};
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::TileExit;

/// `[o, 1, kh, kw]` as `[kh * kw, o]`, rounded like all weights.
pub(super) fn lay_out(shape: &ConvShape, weight: &[f32]) -> Buffer {
    let (c, taps) = (shape.channels, shape.kernel[0] * shape.kernel[1]);
    let mut laid = Buffer::stale(weight.len());
    for (i, weight) in weight.iter().enumerate() {
        laid[i % taps * c + i / taps] = to_f32(from_f32(*weight));
    }
    laid
}

/// Bytes of widened rows that a task keeps.
const RING_BYTES: usize = 256 << 10;

/// Tasks that there should be at least.
const TASKS: usize = 16;

/// How an image is cut: rows and channels of a task.
#[derive(Debug, Clone, Copy)]
struct Cut {
    rows: usize,
    channels: usize,
}

impl Cut {
    fn new(shape: &ConvShape, kernel: &Correlation) -> Self {
        let (c, [oh, _], ring) = (shape.channels, shape.out_size(), kernel.ring());
        let most = (RING_BYTES / (4 * ring.slots * ring.width) / 32 * 32).max(32);
        let mut blocks = c.div_ceil(most);
        while shape.batch * blocks < TASKS && c > 64 * blocks {
            blocks += 1;
        }
        let mut strips = 1;
        while shape.batch * blocks * strips < TASKS && oh > 8 * strips {
            strips += 1;
        }
        let channels = c.div_ceil(blocks).next_multiple_of(32).min(c);
        Self { rows: oh.div_ceil(strips), channels }
    }
}

/// A convolution under way.
pub(super) struct Job<'a> {
    pub way: Way,
    pub shape: &'a ConvShape,
    pub x: &'a [u16],
    /// Weights, `[kh * kw, c]`.
    pub taps: &'a [f32],
    pub shift: &'a [f32],
    pub exit: Exit<'a>,
    pub y: Shared<u16>,
}

impl Job<'_> {
    pub(super) fn run(&self) {
        let shape = self.shape;
        let [oh, ow] = shape.out_size();
        let lead = shape.padding.map(|(before, _)| before as isize);
        let kernel = Correlation::new(ow, shape.kernel, shape.stride, shape.dilation, lead);
        let cut = Cut::new(shape, &kernel);
        let (blocks, strips) = (shape.channels.div_ceil(cut.channels), oh.div_ceil(cut.rows));
        parallel(shape.batch * strips * blocks, |task| {
            let (image, strip, block) =
                (task / blocks / strips, task / blocks % strips, task % blocks);
            let first = block * cut.channels;
            let channels = first..shape.channels.min(first + cut.channels);
            let rows = strip * cut.rows..oh.min((strip + 1) * cut.rows);
            self.task(&kernel, image, rows, channels);
        });
    }

    /// Some output rows of some channels of an image.
    fn task(
        &self,
        kernel: &Correlation,
        image: usize,
        rows: std::ops::Range<usize>,
        channels: std::ops::Range<usize>,
    ) {
        let (shape, ring, n) = (self.shape, kernel.ring(), channels.len());
        let [oh, ow] = shape.out_size();
        let row_len = ring.width * n;
        with_scratch(ring.slots * row_len + ow * n, |scratch| {
            let (ring_rows, out) = scratch.split_at_mut(ring.slots * row_len);
            ring_rows.fill(0.0);
            let mut next = 0;
            let mut inputs = Vec::with_capacity(shape.kernel[0]);
            for y in rows {
                let (first, end) = kernel.needs(y);
                next = first.max(next);
                while next < end.min(shape.height as isize) {
                    let slot = next as usize % ring.slots;
                    let to = &mut ring_rows[slot * row_len..][..row_len];
                    self.widen(image, next as usize, channels.clone(), to);
                    next += 1;
                }
                let place = |ky: usize| {
                    let y = first + (ky * shape.dilation[0]) as isize;
                    let inside = y >= 0 && y < shape.height as isize;
                    let row = || ring_rows[y as usize % ring.slots * row_len..].as_ptr();
                    if inside { row() } else { std::ptr::null() }
                };
                inputs.clear();
                inputs.extend((0..shape.kernel[0]).map(place));
                // SAFETY: the ring holds the rows, as wide as the taps reach; `out` is a row.
                unsafe { self.sum(kernel, y, &inputs, channels.clone(), out) };
                self.leave((image * oh + y) * ow, channels.clone(), out);
            }
        });
    }

    /// Widens a row of the input; its padding is zero already.
    fn widen(&self, image: usize, y: usize, channels: std::ops::Range<usize>, to: &mut [f32]) {
        let (shape, n) = (self.shape, channels.len());
        let from = &self.x[(image * shape.height + y) * shape.width * shape.channels..]
            [..shape.width * shape.channels];
        let to = &mut to[shape.padding[1].0 * n..];
        let inside = shape.width.min(to.len() / n);
        if n == shape.channels {
            return self.way.widen(&from[..inside * n], &mut to[..inside * n], Into::Set);
        }
        let pixels = from.chunks_exact(shape.channels).zip(to.chunks_exact_mut(n));
        for (from, to) in pixels.take(inside) {
            self.way.widen(&from[channels.clone()], to, Into::Set);
        }
    }

    /// Sums an output row; its end is clamped here unless a residual comes after.
    ///
    /// # Safety
    /// `inputs` are as wide as the taps reach.
    unsafe fn sum(
        &self,
        kernel: &Correlation,
        y: usize,
        inputs: &[*const f32],
        channels: std::ops::Range<usize>,
        out: &mut [f32],
    ) {
        let activation = match self.exit.residual {
            Some(_) => Activation::Identity,
            None => self.exit.activation,
        };
        let row = Row {
            inputs,
            in_stride: channels.len(),
            taps: self.taps[channels.start..].as_ptr(),
            tap_stride: self.shape.channels,
            out: out.as_mut_ptr(),
            out_stride: channels.len(),
            channels: channels.len(),
            exit: TileExit {
                shift: self.shift[channels.start..].as_ptr(),
                activation,
                ..TileExit::NONE
            },
        };
        // SAFETY: by the caller's word.
        unsafe { kernel.run(Isa::widest(), y, &row) };
    }

    /// Rounds an output row that begins at output pixel `pixel`, its residual added.
    fn leave(&self, pixel: usize, channels: std::ops::Range<usize>, out: &mut [f32]) {
        let (c, n) = (self.shape.channels, channels.len());
        // Whole pixels are one run.
        let (run, step) = if n == c { (out.len(), out.len()) } else { (n, c) };
        for (i, out) in out.chunks_exact_mut(run).enumerate() {
            let at = pixel * c + channels.start + i * step;
            if let Some(residual) = self.exit.residual {
                self.way.widen(&residual[at..][..run], out, Into::Add);
                out.iter_mut().for_each(|v| *v = self.exit.activation.of(*v));
            }
            // SAFETY: a task's own rows and channels.
            let y = unsafe { std::slice::from_raw_parts_mut(self.y.ptr().add(at), run) };
            self.way.narrow(out, y);
        }
    }
}
