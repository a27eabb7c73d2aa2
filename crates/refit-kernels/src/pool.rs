//! Pooling over NHWC maps: the greatest or the mean of a window, or the mean of a whole map, and
//! their gradients.
//!
//! Gradients are gathered: each input pixel asks the windows that it lies in, so that tasks write
//! rows of their own and sums have one order.

use std::ops::Range;

use crate::activation::Activation;
use crate::conv::Entry;
use crate::simd::{Isa, Simd, on_isa};
use crate::threads::{Shared, parallel, with_scratch};
use crate::walk::{Cut, Pass, load, store, walk};

/// Windows over a batch of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Rows and columns of a window.
    pub window: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Pixels that are not there, before and after, vertically and horizontally.
    pub padding: [(usize, usize); 2],
    /// Rows and columns of the output: rounded down or up, as the network has it
    /// ([`rounded_down`](Self::rounded_down), [`rounded_up`](Self::rounded_up)).
    pub out_size: [usize; 2],
}

impl PoolShape {
    /// The same with as many windows as fit.
    pub fn rounded_down(self) -> Self {
        let size = |axis| self.slack(axis) / self.stride[axis] + 1;
        Self { out_size: [size(0), size(1)], ..self }
    }

    /// The same with windows until the map is covered, of which the last may reach beyond the
    /// padding but must begin within the map or the padding before it.
    pub fn rounded_up(self) -> Self {
        let size = |axis: usize| {
            let all = self.slack(axis).div_ceil(self.stride[axis]) + 1;
            let begins = [self.height, self.width][axis] + self.padding[axis].0;
            if (all - 1) * self.stride[axis] >= begins { all - 1 } else { all }
        };
        Self { out_size: [size(0), size(1)], ..self }
    }

    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_size[0] * self.out_size[1] * self.channels
    }

    /// How far the window can move.
    fn slack(&self, axis: usize) -> usize {
        let (padded, window) = (self.padded(axis), self.window[axis]);
        assert!(padded >= window, "a window of {window} pixels, of {padded}");
        padded - window
    }

    fn padded(&self, axis: usize) -> usize {
        let (before, after) = self.padding[axis];
        [self.height, self.width][axis] + before + after
    }

    /// The rows (or columns) of the window that lie in the map, and where the first one lies.
    fn inside(&self, axis: usize, out: usize) -> (Range<usize>, usize) {
        let (begin, before) = (out * self.stride[axis], self.padding[axis].0);
        let len = [self.height, self.width][axis];
        let first = before.saturating_sub(begin);
        let end = (len + before).saturating_sub(begin).min(self.window[axis]);
        (first..end, begin + first - before.min(begin + first))
    }

    /// The outputs whose windows hold row (or column) `at`.
    fn holders(&self, axis: usize, at: usize) -> Range<usize> {
        let at = at + self.padding[axis].0;
        let first = (at + 1).saturating_sub(self.window[axis]).div_ceil(self.stride[axis]);
        first..(at / self.stride[axis] + 1).min(self.out_size[axis])
    }

    /// How many rows (or columns) of a window are counted.
    fn counted(&self, axis: usize, out: usize, divisor: Divisor) -> usize {
        match divisor {
            Divisor::Inside => self.inside(axis, out).0.len(),
            Divisor::Padded => (self.padded(axis) - out * self.stride[axis]).min(self.window[axis]),
        }
    }

    fn check(&self, name: &str, input: usize, output: usize) {
        assert_eq!(input, self.input_len(), "{name}: length of the input");
        assert_eq!(output, self.output_len(), "{name}: length of the output");
        for axis in 0..2 {
            let windows = 0..self.out_size[axis];
            let empty = |out| self.inside(axis, out).0.is_empty();
            assert!(!windows.into_iter().any(empty), "{name}: a window outside of the map");
        }
    }

    /// Cuts the rows of all images, of `values` each, into tasks, and runs `row(image, row)`.
    fn for_each_row(&self, rows: usize, values: usize, row: impl Fn(usize, usize) + Sync) {
        let strip = (ROWS / values.max(1)).clamp(1, rows.max(1));
        let strips = rows.div_ceil(strip);
        parallel(self.batch * strips, |task| {
            let (image, first) = (task / strips, task % strips * strip);
            (first..(first + strip).min(rows)).for_each(|y| row(image, y));
        });
    }
}

/// Values of a task's rows.
const ROWS: usize = 1 << 14;

/// What the sum over a window is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divisor {
    /// The window's pixels within the map.
    Inside,
    /// The window's pixels within the map and its padding.
    Padded,
}

/// The entry as the loops want it; nulls if there is none.
#[derive(Clone, Copy)]
struct Entrance {
    scale: *const f32,
    shift: *const f32,
    activation: Activation,
}

// SAFETY: the pointers are read only, while the entry is borrowed.
unsafe impl Sync for Entrance {}

impl Entrance {
    fn new(name: &str, entry: Option<Entry>, channels: usize) -> Self {
        let none = std::ptr::null();
        let Some(Entry { scale, shift, activation }) = entry else {
            return Self { scale: none, shift: none, activation: Activation::Identity };
        };
        assert_eq!((scale.len(), shift.len()), (channels, channels), "{name}: length of the entry");
        Self { scale: scale.as_ptr(), shift: shift.as_ptr(), activation }
    }

    /// Scale and shift of some channels.
    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, channel: usize, lanes: usize) -> (S::V, S::V) {
        // SAFETY: by the caller's word, the entry has these channels.
        unsafe {
            if self.scale.is_null() {
                return (S::zero(), S::zero());
            }
            let scale = load::<S>(self.scale.add(channel), lanes);
            (scale, load::<S>(self.shift.add(channel), lanes))
        }
    }

    #[inline(always)]
    unsafe fn enter<S: Simd>(&self, x: S::V, (scale, shift): (S::V, S::V)) -> S::V {
        if self.scale.is_null() {
            return x;
        }
        // SAFETY: by the caller's word.
        unsafe { self.activation.of_vector::<S>(S::fma(x, scale, shift)) }
    }
}

/// The greatest value of each window of `entry(x)`, and its place in the window, row by row, the
/// first of equals; a NaN counts as the greatest. Padding is never the greatest.
///
/// # Panics
/// If a slice's length does not fit `shape`, a window lies outside of the map, or `indices` are
/// asked for windows of more than 256 pixels.
pub fn max_pool(
    shape: &PoolShape,
    x: &[f32],
    entry: Option<Entry>,
    y: &mut [f32],
    indices: Option<&mut [u8]>,
) {
    max_pool_on(Isa::widest(), shape, x, entry, y, indices);
}

fn max_pool_on(
    isa: Isa,
    shape: &PoolShape,
    x: &[f32],
    entry: Option<Entry>,
    y: &mut [f32],
    indices: Option<&mut [u8]>,
) {
    shape.check("max_pool", x.len(), y.len());
    if let Some(indices) = &indices {
        assert_eq!(indices.len(), y.len(), "max_pool: length of `indices`");
        assert!(shape.window[0] * shape.window[1] <= 256, "max_pool: windows of over 256 pixels");
    }
    let entrance = Entrance::new("max_pool", entry, shape.channels);
    let (y, indices) = (Shared::new(y), indices.map(Shared::new));
    let [rows, columns] = shape.out_size;
    shape.for_each_row(rows, columns * shape.channels, |image, row| {
        let at = (image * rows + row) * columns * shape.channels;
        // SAFETY: each row is written by one task; `check` saw that windows and lengths fit; `isa`
        // is this CPU's.
        unsafe {
            let indices = indices.map_or(std::ptr::null_mut(), |i| i.ptr().add(at));
            max_row(
                isa,
                shape,
                &x[image_values(shape, image)],
                row,
                &entrance,
                y.ptr().add(at),
                indices,
            );
        }
    });
}

/// The values of an image of the input.
fn image_values(shape: &PoolShape, image: usize) -> Range<usize> {
    let len = shape.height * shape.width * shape.channels;
    image * len..(image + 1) * len
}

on_isa! {
    /// A row of [`max_pool`] from an image.
    ///
    /// # Safety
    /// The CPU has `isa`; `y` and `indices` (or null) have room for the row.
    fn max_row<S>(
        shape: &PoolShape,
        image: &[f32],
        row: usize,
        entrance: &Entrance,
        y: *mut f32,
        indices: *mut u8,
    ) {
        let channels = shape.channels;
        let (kys, top) = shape.inside(0, row);
        for column in 0..shape.out_size[1] {
            let (kxs, left) = shape.inside(1, column);
            let corner = image.as_ptr().add((top * shape.width + left) * channels);
            let first = (kys.start * shape.window[1] + kxs.start) as f32;
            let mut c = 0;
            while c < channels {
                let lanes = S::LANES.min(channels - c);
                let affine = entrance.begin::<S>(c, lanes);
                let mut best = S::splat(f32::NEG_INFINITY);
                let mut place = S::splat(first);
                for ky in 0..kys.len() {
                    let pixels = corner.add(ky * shape.width * channels + c);
                    let first = first + (ky * shape.window[1]) as f32;
                    for kx in 0..kxs.len() {
                        let x = load::<S>(pixels.add(kx * channels), lanes);
                        let x = entrance.enter::<S>(x, affine);
                        place = S::select_above(x, best, S::splat(first + kx as f32), place);
                        best = S::select_above(x, best, x, best);
                    }
                }
                let at = column * channels + c;
                store::<S>(y.add(at), best, lanes);
                if !indices.is_null() {
                    S::store_bytes(indices.add(at), place, lanes);
                }
                c += S::LANES;
            }
        }
    }
}

/// The gradient of [`max_pool`] with respect to the entered input: each output's goes to the pixel
/// that was the greatest.
///
/// # Panics
/// If a slice's length does not fit `shape`, or a window lies outside of the map.
pub fn max_pool_gradient(shape: &PoolShape, indices: &[u8], dy: &[f32], dx: &mut [f32]) {
    max_pool_gradient_on(Isa::widest(), shape, indices, dy, dx);
}

fn max_pool_gradient_on(isa: Isa, shape: &PoolShape, indices: &[u8], dy: &[f32], dx: &mut [f32]) {
    shape.check("max_pool_gradient", dx.len(), dy.len());
    assert_eq!(indices.len(), dy.len(), "max_pool_gradient: length of `indices`");
    let dx = Shared::new(dx);
    let row_len = shape.width * shape.channels;
    let out_len = shape.output_len() / shape.batch.max(1);
    shape.for_each_row(shape.height, row_len, |image, row| {
        let out = image * out_len..(image + 1) * out_len;
        // SAFETY: each row of `dx` is written by one task; lengths were checked; `isa` is this
        // CPU's.
        unsafe {
            let dx = dx.ptr().add((image * shape.height + row) * row_len);
            max_gradient_row(isa, shape, &indices[out.clone()], &dy[out], row, dx);
        }
    });
}

on_isa! {
    /// A row of [`max_pool_gradient`] from an image's `indices` and `dy`.
    ///
    /// # Safety
    /// The CPU has `isa`; `dx` has room for the row.
    fn max_gradient_row<S>(
        shape: &PoolShape,
        indices: &[u8],
        dy: &[f32],
        row: usize,
        dx: *mut f32,
    ) {
        let (channels, out_width) = (shape.channels, shape.out_size[1]);
        let oys = shape.holders(0, row);
        for column in 0..shape.width {
            let oxs = shape.holders(1, column);
            let mut c = 0;
            while c < channels {
                let lanes = S::LANES.min(channels - c);
                let mut sum = S::zero();
                let mut oy = oys.start;
                while oy < oys.end {
                    let ky = row + shape.padding[0].0 - oy * shape.stride[0];
                    let mut ox = oxs.start;
                    while ox < oxs.end {
                        let kx = column + shape.padding[1].0 - ox * shape.stride[1];
                        let place = (ky * shape.window[1] + kx) as f32;
                        let at = (oy * out_width + ox) * channels + c;
                        let chosen = S::load_bytes(indices.as_ptr().add(at), lanes);
                        let g = load::<S>(dy.as_ptr().add(at), lanes);
                        let (low, high) = (S::splat(place - 0.5), S::splat(place + 0.5));
                        sum = S::add(sum, S::keep_between(g, chosen, low, high));
                        ox += 1;
                    }
                    oy += 1;
                }
                store::<S>(dx.add(column * channels + c), sum, lanes);
                c += S::LANES;
            }
        }
    }
}

/// The mean of each window of `entry(x)`.
///
/// # Panics
/// If a slice's length does not fit `shape`, or a window lies outside of the map.
pub fn average_pool(
    shape: &PoolShape,
    divisor: Divisor,
    x: &[f32],
    entry: Option<Entry>,
    y: &mut [f32],
) {
    average_pool_on(Isa::widest(), shape, divisor, x, entry, y);
}

fn average_pool_on(
    isa: Isa,
    shape: &PoolShape,
    divisor: Divisor,
    x: &[f32],
    entry: Option<Entry>,
    y: &mut [f32],
) {
    shape.check("average_pool", x.len(), y.len());
    let entrance = Entrance::new("average_pool", entry, shape.channels);
    let y = Shared::new(y);
    let [rows, columns] = shape.out_size;
    shape.for_each_row(rows, columns * shape.channels, |image, row| {
        let at = (image * rows + row) * columns * shape.channels;
        let x = &x[image_values(shape, image)];
        // SAFETY: each row is written by one task; `check` saw that windows and lengths fit; `isa`
        // is this CPU's.
        unsafe { average_row(isa, shape, divisor, x, row, &entrance, y.ptr().add(at)) };
    });
}

on_isa! {
    /// A row of [`average_pool`] from an image.
    ///
    /// # Safety
    /// The CPU has `isa`; `y` has room for the row.
    fn average_row<S>(
        shape: &PoolShape,
        divisor: Divisor,
        image: &[f32],
        row: usize,
        entrance: &Entrance,
        y: *mut f32,
    ) {
        let channels = shape.channels;
        let (kys, top) = shape.inside(0, row);
        for column in 0..shape.out_size[1] {
            let (kxs, left) = shape.inside(1, column);
            let count = shape.counted(0, row, divisor) * shape.counted(1, column, divisor);
            let corner = image.as_ptr().add((top * shape.width + left) * channels);
            let mut c = 0;
            while c < channels {
                let lanes = S::LANES.min(channels - c);
                let affine = entrance.begin::<S>(c, lanes);
                let mut sum = S::zero();
                for ky in 0..kys.len() {
                    let pixels = corner.add(ky * shape.width * channels + c);
                    for kx in 0..kxs.len() {
                        let x = load::<S>(pixels.add(kx * channels), lanes);
                        sum = S::add(sum, entrance.enter::<S>(x, affine));
                    }
                }
                let mean = S::div(sum, S::splat(count as f32));
                store::<S>(y.add(column * channels + c), mean, lanes);
                c += S::LANES;
            }
        }
    }
}

/// The gradient of [`average_pool`] with respect to the entered input.
///
/// # Panics
/// If a slice's length does not fit `shape`, or a window lies outside of the map.
pub fn average_pool_gradient(shape: &PoolShape, divisor: Divisor, dy: &[f32], dx: &mut [f32]) {
    average_pool_gradient_on(Isa::widest(), shape, divisor, dy, dx);
}

fn average_pool_gradient_on(
    isa: Isa,
    shape: &PoolShape,
    divisor: Divisor,
    dy: &[f32],
    dx: &mut [f32],
) {
    shape.check("average_pool_gradient", dx.len(), dy.len());
    let dx = Shared::new(dx);
    let row_len = shape.width * shape.channels;
    let out_len = shape.output_len() / shape.batch.max(1);
    shape.for_each_row(shape.height, row_len, |image, row| {
        let dy = &dy[image * out_len..(image + 1) * out_len];
        // SAFETY: each row of `dx` is written by one task; lengths were checked; `isa` is this
        // CPU's.
        unsafe {
            let dx = dx.ptr().add((image * shape.height + row) * row_len);
            average_gradient_row(isa, shape, divisor, dy, row, dx);
        }
    });
}

on_isa! {
    /// A row of [`average_pool_gradient`] from an image's `dy`.
    ///
    /// # Safety
    /// The CPU has `isa`; `dx` has room for the row.
    fn average_gradient_row<S>(
        shape: &PoolShape,
        divisor: Divisor,
        dy: &[f32],
        row: usize,
        dx: *mut f32,
    ) {
        let (channels, out_width) = (shape.channels, shape.out_size[1]);
        let oys = shape.holders(0, row);
        for column in 0..shape.width {
            let oxs = shape.holders(1, column);
            let mut c = 0;
            while c < channels {
                let lanes = S::LANES.min(channels - c);
                let mut sum = S::zero();
                let mut oy = oys.start;
                while oy < oys.end {
                    let rows = shape.counted(0, oy, divisor);
                    let mut ox = oxs.start;
                    while ox < oxs.end {
                        let count = rows * shape.counted(1, ox, divisor);
                        let share = S::splat(1.0 / count as f32);
                        let at = (oy * out_width + ox) * channels + c;
                        sum = S::fma(load::<S>(dy.as_ptr().add(at), lanes), share, sum);
                        ox += 1;
                    }
                    oy += 1;
                }
                store::<S>(dx.add(column * channels + c), sum, lanes);
                c += S::LANES;
            }
        }
    }
}

/// The mean of each channel over each map: `entry(x)`, `[batch, pixels, channels]`, to `y`,
/// `[batch, channels]`.
///
/// # Panics
/// If `y` is not `batch * channels` long, or `x` no multiple of it.
pub fn mean_pool(batch: usize, channels: usize, x: &[f32], entry: Option<Entry>, y: &mut [f32]) {
    mean_pool_on(Isa::widest(), [batch, channels], x, entry, y);
}

fn mean_pool_on(
    isa: Isa,
    [batch, channels]: [usize; 2],
    x: &[f32],
    entry: Option<Entry>,
    y: &mut [f32],
) {
    let len = check_mean("mean_pool", batch, channels, x.len(), y.len());
    let entrance = Entrance::new("mean_pool", entry, channels);
    let cut = Cut::new(len, channels);
    with_scratch(2 * cut.wide, |wide| {
        let wide = &*match entry {
            None => wide,
            Some(entry) => {
                let (scale, shift) = wide.split_at_mut(cut.wide);
                cut.spread(entry.scale, scale);
                cut.spread(entry.shift, shift);
                wide
            }
        };
        let spread = |p: *const f32, at: usize| if p.is_null() { p } else { wide[at..].as_ptr() };
        let entrance = Entrance {
            scale: spread(entrance.scale, 0),
            shift: spread(entrance.shift, cut.wide),
            ..entrance
        };
        let y = Shared::new(y);
        parallel(batch, |image| {
            // SAFETY: each task has its own image of `y`.
            let y = unsafe { y.part(image * channels, channels) };
            image_mean(isa, &cut, entrance, &x[image * len..(image + 1) * len], y);
        });
    });
}

/// Values of an image.
fn check_mean(name: &str, batch: usize, channels: usize, x: usize, y: usize) -> usize {
    assert_eq!(y, batch * channels, "{name}: length of `[batch, channels]`");
    assert!(y == 0 || x.is_multiple_of(y), "{name}: length of `[batch, pixels, channels]`");
    x.checked_div(batch).unwrap_or(0)
}

/// [`mean_pool`] of an image.
fn image_mean(isa: Isa, cut: &Cut, entrance: Entrance, x: &[f32], y: &mut [f32]) {
    with_scratch(cut.wide, |sums| {
        sums.fill(0.0);
        let pass = EnteredSum { x: x.as_ptr(), entrance, sums: sums.as_mut_ptr() };
        // SAFETY: `isa` is this CPU's; `x` is walked whole; `sums` and the entrance hold `wide`
        // channels.
        unsafe { walk_entered_sum(isa, &pass, x.len(), cut.wide) };
        cut.gather(sums, y);
        let pixels = (x.len() / cut.channels) as f32;
        y.iter_mut().for_each(|y| *y /= pixels);
    });
}

/// `sums += entry(x)`.
struct EnteredSum {
    x: *const f32,
    entrance: Entrance,
    sums: *mut f32,
}

// SAFETY of the passes below: the contract of `Pass`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for EnteredSum {
    type State = ((S::V, S::V), S::V);
    #[inline(always)]
    unsafe fn begin(&self, channel: usize, lanes: usize) -> Self::State {
        unsafe { (self.entrance.begin::<S>(channel, lanes), S::zero()) }
    }
    #[inline(always)]
    unsafe fn step(&self, (affine, sum): &mut Self::State, at: usize, lanes: usize) {
        unsafe {
            let x = load::<S>(self.x.add(at), lanes);
            *sum = S::add(*sum, self.entrance.enter::<S>(x, *affine));
        }
    }
    #[inline(always)]
    unsafe fn end(&self, (_, sum): Self::State, channel: usize, lanes: usize) {
        unsafe {
            let sums = self.sums.add(channel);
            store::<S>(sums, S::add(load::<S>(sums, lanes), sum), lanes);
        }
    }
}

/// `y = values`, pixel after pixel.
struct Broadcast {
    values: *const f32,
    y: *mut f32,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Broadcast {
    type State = S::V;
    #[inline(always)]
    unsafe fn begin(&self, channel: usize, lanes: usize) -> S::V {
        unsafe { load::<S>(self.values.add(channel), lanes) }
    }
    #[inline(always)]
    unsafe fn step(&self, value: &mut S::V, at: usize, lanes: usize) {
        unsafe { store::<S>(self.y.add(at), *value, lanes) }
    }
}

on_isa! {
    /// # Safety
    /// As [`Pass`] says; the same below.
    fn walk_entered_sum<S>(pass: &EnteredSum, len: usize, wide: usize) {
        walk::<S, _>(pass, len, wide)
    }
}
on_isa! {
    fn walk_broadcast<S>(pass: &Broadcast, len: usize, wide: usize) {
        walk::<S, _>(pass, len, wide)
    }
}

/// The gradient of [`mean_pool`] with respect to the entered input: from `dy`, `[batch, channels]`,
/// to `dx`, `[batch, pixels, channels]`.
///
/// # Panics
/// If `dy` is not `batch * channels` long, or `dx` no multiple of it.
pub fn mean_pool_gradient(batch: usize, channels: usize, dy: &[f32], dx: &mut [f32]) {
    mean_pool_gradient_on(Isa::widest(), [batch, channels], dy, dx);
}

fn mean_pool_gradient_on(isa: Isa, [batch, channels]: [usize; 2], dy: &[f32], dx: &mut [f32]) {
    let len = check_mean("mean_pool_gradient", batch, channels, dx.len(), dy.len());
    let cut = Cut::new(len, channels);
    let share = channels as f32 / len as f32;
    let dx = Shared::new(dx);
    parallel(batch, |image| {
        with_scratch(cut.wide, |values| {
            cut.spread(&dy[image * channels..][..channels], values);
            values.iter_mut().for_each(|v| *v *= share);
            // SAFETY: each task has its own image of `dx`.
            let y = unsafe { dx.ptr().add(image * len) };
            let pass = Broadcast { values: values.as_ptr(), y };
            // SAFETY: `isa` is this CPU's; `y` has room for the image, `values` holds `wide`.
            unsafe { walk_broadcast(isa, &pass, len, cut.wide) };
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, on_threads, values};

    fn shape(
        [height, width, channels]: [usize; 3],
        window: [usize; 2],
        stride: [usize; 2],
        padding: [(usize, usize); 2],
    ) -> PoolShape {
        PoolShape { batch: 3, height, width, channels, window, stride, padding, out_size: [0, 0] }
    }

    fn shapes() -> Vec<PoolShape> {
        let none = [(0, 0), (0, 0)];
        let one = [(1, 1), (1, 1)];
        let all = [
            shape([8, 8, 16], [2, 2], [2, 2], none),
            shape([9, 7, 3], [3, 3], [2, 2], one),
            shape([13, 10, 17], [3, 2], [1, 2], [(1, 0), (0, 1)]),
            shape([7, 7, 33], [3, 3], [1, 1], one),
            shape([5, 11, 1], [1, 1], [3, 2], none),
            shape([10, 9, 48], [5, 3], [3, 4], [(2, 1), (0, 1)]),
            shape([20, 31, 100], [3, 3], [2, 2], [(0, 1), (0, 1)]),
            shape([16, 16, 5], [16, 16], [1, 1], none),
        ];
        all.into_iter().flat_map(|s| [s.rounded_down(), s.rounded_up()]).collect()
    }

    /// Calls `each` with output value, input value and place in the window.
    fn for_each_pair(s: &PoolShape, mut each: impl FnMut(usize, usize, usize)) {
        let at = |axis: usize, out: usize, k: usize, len: usize| {
            (out * s.stride[axis] + k).checked_sub(s.padding[axis].0).filter(|at| *at < len)
        };
        let [oh, ow] = s.out_size;
        for out in 0..s.output_len() {
            let (pixel, c) = (out / s.channels, out % s.channels);
            let (n, oy, ox) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            for k in 0..s.window[0] * s.window[1] {
                let (ky, kx) = (k / s.window[1], k % s.window[1]);
                if let (Some(y), Some(x)) = (at(0, oy, ky, s.height), at(1, ox, kx, s.width)) {
                    each(out, ((n * s.height + y) * s.width + x) * s.channels + c, k);
                }
            }
        }
    }

    #[test]
    fn sizes_are_as_in_torch() {
        let none = [(0, 0), (0, 0)];
        let s = shape([8, 7, 1], [3, 3], [2, 2], none);
        assert_eq!((s.rounded_down().out_size, s.rounded_up().out_size), ([3, 3], [4, 3]));
        // The last window would begin in the padding behind the map.
        let s = shape([4, 4, 1], [2, 2], [3, 3], [(1, 1), (1, 1)]);
        assert_eq!((s.rounded_down().out_size, s.rounded_up().out_size), ([2, 2], [2, 2]));
    }

    #[test]
    fn the_greatest_and_its_place() {
        for s in shapes() {
            let mut x = values(s.input_len(), 1);
            // Equals, infinities and NaNs.
            x.iter_mut().step_by(3).for_each(|x| *x = (*x * 2.0).round());
            x.iter_mut().skip(5).step_by(11).for_each(|x| *x = f32::NEG_INFINITY);
            x.iter_mut().skip(7).step_by(97).for_each(|x| *x = f32::NAN);
            let mut best = vec![f32::NEG_INFINITY; s.output_len()];
            let mut place = vec![usize::MAX; s.output_len()];
            for_each_pair(&s, |o, i, k| {
                if x[i] > best[o] || x[i].is_nan() || place[o] == usize::MAX {
                    (best[o], place[o]) = (x[i], k);
                }
            });
            for isa in Isa::available() {
                let mut y = vec![0.0; s.output_len()];
                let mut indices = vec![0; s.output_len()];
                let mut run = || max_pool_on(isa, &s, &x, None, &mut y, Some(&mut indices));
                on_threads(3, &mut run);
                assert!(y.iter().zip(&best).all(|(y, b)| y == b || (y.is_nan() && b.is_nan())));
                assert!(indices.iter().zip(&place).all(|(i, p)| usize::from(*i) == *p), "{s:?}");
            }
        }
    }

    #[test]
    fn gradients_go_to_the_greatest() {
        for s in shapes() {
            let (x, dy) = (values(s.input_len(), 1), values(s.output_len(), 2));
            for isa in Isa::available() {
                let mut y = vec![0.0; s.output_len()];
                let mut indices = vec![0; s.output_len()];
                max_pool_on(isa, &s, &x, None, &mut y, Some(&mut indices));
                let mut exact = vec![0.0; s.input_len()];
                for_each_pair(&s, |o, i, k| {
                    if k == usize::from(indices[o]) {
                        exact[i] += f64::from(dy[o]);
                    }
                });
                let mut dx = vec![f32::NAN; s.input_len()];
                max_pool_gradient_on(isa, &s, &indices, &dy, &mut dx);
                assert_close(&dx, &exact, 1e-6);
                for threads in [1, 2, 3] {
                    let mut again = vec![f32::NAN; s.input_len()];
                    on_threads(threads, || {
                        max_pool_gradient_on(isa, &s, &indices, &dy, &mut again);
                    });
                    assert!(again == dx);
                }
            }
        }
    }

    #[test]
    fn averages_and_their_gradients() {
        for (s, divisor) in
            shapes().into_iter().flat_map(|s| [(s, Divisor::Inside), (s, Divisor::Padded)])
        {
            let (x, dy) = (values(s.input_len(), 1), values(s.output_len(), 2));
            let (scale, shift) = (values(s.channels, 3), values(s.channels, 4));
            let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu };
            let entered = crate::conv::reference::enter(&x, Some(entry));
            let [oh, ow] = s.out_size;
            let count = |o: usize| {
                let pixel = o / s.channels;
                let rows = s.counted(0, pixel / ow % oh, divisor);
                (rows * s.counted(1, pixel % ow, divisor)) as f64
            };
            let mut exact = vec![0.0; s.output_len()];
            let mut exact_dx = vec![0.0; s.input_len()];
            let mut inside = vec![0.0; s.output_len()];
            for_each_pair(&s, |o, i, _| {
                exact[o] += f64::from(entered[i]) / count(o);
                exact_dx[i] += f64::from(dy[o]) / count(o);
                inside[o] += 1.0;
            });
            let counts_inside = (0..inside.len()).all(|o| inside[o] == count(o));
            assert!(divisor == Divisor::Padded || counts_inside);
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; s.output_len()];
                average_pool_on(isa, &s, divisor, &x, Some(entry), &mut y);
                // Up to 256 summands: an error of some units in the last place of the largest.
                assert_close(&y, &exact, 2e-6);
                let mut dx = vec![f32::NAN; s.input_len()];
                average_pool_gradient_on(isa, &s, divisor, &dy, &mut dx);
                assert_close(&dx, &exact_dx, 1e-6);
            }
        }
    }

    #[test]
    fn means_of_whole_maps() {
        for (channels, pixels) in [(1, 1), (3, 49), (17, 100), (48, 7), (130, 49), (5, 40_000)] {
            let (x, dy) = (values(3 * pixels * channels, 1), values(3 * channels, 2));
            let (scale, shift) = (values(channels, 3), values(channels, 4));
            let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu6 };
            for entry in [None, Some(entry)] {
                let entered = crate::conv::reference::enter(&x, entry);
                let mut exact = vec![0.0; 3 * channels];
                for (i, v) in entered.iter().enumerate() {
                    let o = i / (pixels * channels) * channels + i % channels;
                    exact[o] += f64::from(*v) / pixels as f64;
                }
                for isa in Isa::available() {
                    let mut y = vec![f32::NAN; 3 * channels];
                    on_threads(2, || mean_pool_on(isa, [3, channels], &x, entry, &mut y));
                    assert_close(&y, &exact, 4e-6);
                    // An image alone gives the same.
                    let mut one = vec![f32::NAN; channels];
                    let last = &x[2 * pixels * channels..];
                    mean_pool_on(isa, [1, channels], last, entry, &mut one);
                    assert_eq!(one, y[2 * channels..]);
                    let mut dx = vec![f32::NAN; x.len()];
                    mean_pool_gradient_on(isa, [3, channels], &dy, &mut dx);
                    let share = |i: usize| {
                        let o = i / (pixels * channels) * channels + i % channels;
                        f64::from(dy[o]) / pixels as f64
                    };
                    let exact: Vec<f64> = (0..x.len()).map(share).collect();
                    assert_close(&dx, &exact, 2e-7);
                }
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_the_others() {
        for s in shapes() {
            let x = values(s.input_len(), 1);
            let (mut y, mut one) = (vec![0.0; s.output_len()], vec![0.0; s.output_len() / 3]);
            average_pool(&s, Divisor::Inside, &x, None, &mut y);
            let last = &x[s.input_len() / 3 * 2..];
            average_pool(&PoolShape { batch: 1, ..s }, Divisor::Inside, last, None, &mut one);
            assert_eq!(one, y[s.output_len() / 3 * 2..]);
        }
    }

    #[test]
    #[should_panic(expected = "max_pool: a window outside of the map")]
    fn windows_touch_the_map() {
        let s = shape([2, 2, 1], [1, 1], [2, 2], [(1, 0), (0, 0)]);
        let s = PoolShape { out_size: [2, 1], ..s };
        max_pool(&s, &[0.0; 12], None, &mut [0.0; 6], None);
    }

    #[test]
    #[should_panic(expected = "average_pool: length of the input")]
    fn lengths_must_fit() {
        let s = shape([2, 2, 1], [1, 1], [1, 1], [(0, 0), (0, 0)]).rounded_down();
        average_pool(&s, Divisor::Inside, &[0.0; 4], None, &mut [0.0; 12]);
    }
}
