//! The pixels that a task goes through, in units that stay in the second-level cache, each copied to
//! a window: padded, entered, and in blocks of few channels, so that a tile reads its channels of
//! neighbouring pixels side by side. Where they lie in the map, pixels are often a power of two
//! apart, and then few of them fit the cache at once.

use super::tile::PixelRun;
use crate::conv::{ConvShape, Entry};
use crate::simd::{Isa, on_isa};
use crate::tile::cut;

/// Bytes of input and gradient in a unit, about half of a second-level cache.
const UNIT_BYTES: usize = 1 << 20;

/// Pixels of a unit at most: a panel of the gradient and a block of the input should stay in the
/// first-level cache.
const UNIT_PIXELS: usize = 192;

/// Up to so many channels make one block, in which a row of the kernel is one run.
const ONE_BLOCK: usize = 64;

/// How pixels are cut into units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Units {
    /// A 1x1 kernel meets each pixel once, wherever it lies: so many, of all.
    Flat { pixels: usize, total: usize },
    /// Some output rows of some images.
    Rows { images: usize, rows: usize },
}

/// The units of a convolution, and how their windows are laid out: `[blocks][pixels, channels of the
/// block]`.
#[derive(Debug)]
pub(super) struct Windows<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    x: &'a [f32],
    entry: Option<Entry<'a>>,
    out_size: [usize; 2],
    units: Units,
    /// Rows and columns of the input that the window leaves out: those between the pixels that a
    /// kernel of one row or column reads.
    steps: [usize; 2],
    /// First channel and channels of each block of a group.
    pub blocks: Vec<(usize, usize)>,
}

impl<'a> Windows<'a> {
    /// For tasks that read `out_channels` of the gradient in tiles of `most` input channels.
    pub(super) fn new(
        isa: Isa,
        shape: &'a ConvShape,
        x: &'a [f32],
        entry: Option<Entry<'a>>,
        out_channels: usize,
        most: usize,
    ) -> Self {
        let channels = shape.channels / shape.groups;
        let out_size = shape.out_size();
        let steps = [0, 1].map(|axis| match shape.kernel[axis] {
            1 => shape.stride[axis],
            _ => 1,
        });
        let blocks = match channels <= ONE_BLOCK {
            true => vec![(0, channels)],
            false => cut(channels, most).collect(),
        };
        let units = Units::new(shape, out_size, channels + out_channels);
        Self { isa, shape, x, entry, out_size, units, steps, blocks }
    }

    /// Units of the whole batch.
    pub(super) fn count(&self) -> usize {
        match self.units {
            Units::Flat { pixels, total } => total.div_ceil(pixels),
            Units::Rows { images, rows } => {
                self.shape.batch.div_ceil(images) * self.out_size[0].div_ceil(rows)
            }
        }
    }

    /// Output pixels of a unit at most.
    pub(super) fn unit_pixels(&self) -> usize {
        match self.units {
            Units::Flat { pixels, .. } => pixels,
            Units::Rows { images, rows } => images * rows * self.out_size[1],
        }
    }

    /// Columns of a window.
    pub(super) fn width(&self) -> usize {
        self.reach(1, self.out_size[1])
    }

    /// Window pixels between neighbouring ones of a run.
    pub(super) fn step(&self) -> usize {
        self.shape.stride[1] / self.steps[1]
    }

    /// Rows or columns of a window that `len` outputs meet.
    fn reach(&self, axis: usize, len: usize) -> usize {
        let ConvShape { kernel, stride, dilation, .. } = *self.shape;
        (len - 1) * stride[axis] / self.steps[axis] + (kernel[axis] - 1) * dilation[axis] + 1
    }

    /// Pixels of a window.
    pub(super) fn pixels(&self) -> usize {
        match self.units {
            Units::Flat { pixels, .. } => pixels,
            Units::Rows { images, rows } => images * self.reach(0, rows) * self.width(),
        }
    }

    /// Values of a window.
    pub(super) fn len(&self) -> usize {
        self.pixels() * (self.shape.channels / self.shape.groups)
    }

    /// Copies a group's channels of a unit to `window`, whose margins are zero, and fills in the
    /// runs.
    pub(super) fn load(
        &self,
        unit: usize,
        group: usize,
        window: &mut [f32],
        runs: &mut Vec<PixelRun>,
    ) {
        runs.clear();
        match self.units {
            Units::Flat { pixels, total } => {
                let len = pixels.min(total - unit * pixels);
                self.copy(group, unit * pixels, 1, len, window, 0);
                runs.push(PixelRun { x: 0, dy: unit * pixels, len });
            }
            Units::Rows { images, rows } => {
                let strips = self.out_size[0].div_ceil(rows);
                let (begin, y) = (unit / strips * images, unit % strips * rows);
                let count = rows.min(self.out_size[0] - y);
                for image in begin..(begin + images).min(self.shape.batch) {
                    let first = (image - begin) * self.reach(0, rows);
                    self.load_rows(image, group, y, first, count, window);
                    let [height, width] = self.out_size;
                    let row = self.shape.stride[0] / self.steps[0];
                    runs.extend((0..count).map(|i| PixelRun {
                        x: (first + i * row) * self.width(),
                        dy: (image * height + y + i) * width,
                        len: width,
                    }));
                }
            }
        }
    }

    /// Copies the input rows that `count` output rows from `y` on meet to the window's rows from
    /// `first` on.
    fn load_rows(
        &self,
        image: usize,
        group: usize,
        y: usize,
        first: usize,
        count: usize,
        window: &mut [f32],
    ) {
        let ConvShape { height, width, stride, padding, .. } = *self.shape;
        let step = self.steps[1];
        // The first column of the window that lies in the image, and how many do.
        let start = padding[1].0.div_ceil(step).min(self.width());
        let skipped = start * step - padding[1].0.min(start * step);
        let columns = width.saturating_sub(skipped).div_ceil(step).min(self.width() - start);
        for i in 0..self.reach(0, count) {
            let to = (first + i) * self.width() + start;
            match (y * stride[0] + i * self.steps[0]).checked_sub(padding[0].0) {
                Some(row) if row < height => {
                    let from = (image * height + row) * width + skipped;
                    self.copy(group, from, step, columns, window, to);
                }
                _ => self.clear(columns, window, to),
            }
        }
    }

    /// Copies `count` pixels of the input, `from`, `from + step`..., to the window's from `to` on.
    fn copy(
        &self,
        group: usize,
        from: usize,
        step: usize,
        count: usize,
        window: &mut [f32],
        to: usize,
    ) {
        if count == 0 {
            return;
        }
        let c = self.shape.channels;
        let first_channel = group * (c / self.shape.groups);
        assert!((from + (count - 1) * step + 1) * c <= self.x.len());
        assert!(to + count <= self.pixels() && window.len() == self.len());
        let (bounds, affine) = match &self.entry {
            None => (None, [std::ptr::null(); 2]),
            Some(entry) => (
                Some(entry.activation.bounds()),
                [entry.scale, entry.shift].map(|values| values[first_channel..].as_ptr()),
            ),
        };
        let x = self.x[from * c + first_channel..].as_ptr();
        for &(first, channels) in &self.blocks {
            let block = &mut window[first * self.pixels() + to * channels..];
            let [scale, shift] = affine.map(|p| p.wrapping_add(first));
            // SAFETY: the pixels lie in `x` and in the block, by the assertions; an entry has as
            // many values as channels.
            unsafe {
                let x = x.add(first);
                copy_block(
                    self.isa,
                    x,
                    step * c,
                    block.as_mut_ptr(),
                    [count, channels],
                    scale,
                    shift,
                    bounds,
                );
            }
        }
    }

    /// Zeroes `count` pixels from `to` on.
    fn clear(&self, count: usize, window: &mut [f32], to: usize) {
        for &(first, channels) in &self.blocks {
            let start = first * self.pixels() + to * channels;
            window[start..start + count * channels].fill(0.0);
        }
    }
}

on_isa! {
    /// Copies `size` (pixels, channels) values, whose pixels lie `stride` apart, to dense ones; with
    /// bounds, through the entry.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for these extents.
    fn copy_block<S>(
        from: *const f32, stride: usize, to: *mut f32, size: [usize; 2],
        scale: *const f32, shift: *const f32, bounds: Option<(f32, f32)>,
    ) {
        let [pixels, channels] = size;
        let mut at = 0;
        while at < channels {
            let n = S::LANES.min(channels - at);
            let (mut from, mut to) = (from.add(at), to.add(at));
            match bounds {
                None => for _ in 0..pixels {
                    S::store_first(to, S::load_first(from, n), n);
                    from = from.wrapping_add(stride);
                    to = to.wrapping_add(channels);
                },
                Some((low, high)) => {
                    let (low, high) = (S::splat(low), S::splat(high));
                    let scale = S::load_first(scale.add(at), n);
                    let shift = S::load_first(shift.add(at), n);
                    for _ in 0..pixels {
                        let v = S::fma(S::load_first(from, n), scale, shift);
                        S::store_first(to, S::clamp(v, low, high), n);
                        from = from.wrapping_add(stride);
                        to = to.wrapping_add(channels);
                    }
                }
            }
            at += n;
        }
    }
}

impl Units {
    /// For tasks that read so many channels a pixel.
    fn new(shape: &ConvShape, out_size: [usize; 2], channels: usize) -> Self {
        let most = (UNIT_BYTES / (channels * size_of::<f32>())).clamp(48, UNIT_PIXELS);
        let [height, width] = out_size;
        let single = shape.kernel == [1, 1] && shape.stride == [1, 1];
        if single && shape.padding == [(0, 0); 2] {
            let total = shape.batch * height * width;
            let units = total.div_ceil(most).max(1);
            return Self::Flat { pixels: total.div_ceil(units).max(1), total };
        }
        let strips = (height * width).div_ceil(most).min(height);
        let rows = height.div_ceil(strips);
        let images = if strips > 1 { 1 } else { (most / (height * width)).max(1) };
        Self::Rows { images: images.min(shape.batch.max(1)), rows }
    }
}
