//! Pooling and conversion of `bf16` maps.

use super::way::{Into, Way};
use crate::pool::PoolShape;
use crate::threads::{Shared, parallel, with_scratch};

/// Values that a task converts.
const TASK: usize = 1 << 16;

/// Rounds `x` into `y`.
///
/// # Panics
/// If lengths differ.
pub fn round(x: &[f32], y: &mut [u16]) {
    assert_eq!(x.len(), y.len(), "bf16::round: lengths of `x` and `y`");
    let (way, to) = (Way::fastest(), Shared::new(y));
    parallel(x.len().div_ceil(TASK), |task| {
        let from = &x[task * TASK..x.len().min((task + 1) * TASK)];
        // SAFETY: a task's own values.
        let to = unsafe { std::slice::from_raw_parts_mut(to.ptr().add(task * TASK), from.len()) };
        way.narrow(from, to);
    });
}

/// Widens `x` into `y`.
///
/// # Panics
/// If lengths differ.
pub fn widen(x: &[u16], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "bf16::widen: lengths of `x` and `y`");
    let (way, to) = (Way::fastest(), Shared::new(y));
    parallel(x.len().div_ceil(TASK), |task| {
        let from = &x[task * TASK..x.len().min((task + 1) * TASK)];
        // SAFETY: a task's own values.
        let to = unsafe { std::slice::from_raw_parts_mut(to.ptr().add(task * TASK), from.len()) };
        way.widen(from, to, Into::Set);
    });
}

/// The mean of each channel over an image, `[n, h * w, c]` to `[n, c]`.
///
/// # Panics
/// If `x` is not whole images of as many channels as `y`.
pub fn mean_pool(batch: usize, channels: usize, x: &[u16], y: &mut [f32]) {
    mean_pool_by(Way::fastest(), batch, channels, x, y);
}

pub(super) fn mean_pool_by(way: Way, batch: usize, channels: usize, x: &[u16], y: &mut [f32]) {
    assert_eq!(y.len(), batch * channels, "bf16::mean_pool: length of `y`");
    assert!(x.len().is_multiple_of(y.len().max(1)), "bf16::mean_pool: length of `x`");
    let len = x.len().checked_div(batch).unwrap_or(0);
    let to = Shared::new(y);
    parallel(batch, |image| {
        // SAFETY: an image's own means.
        let y = unsafe { std::slice::from_raw_parts_mut(to.ptr().add(image * channels), channels) };
        y.fill(0.0);
        let pixels = x[image * len..][..len].chunks_exact(channels);
        let share = 1.0 / pixels.len() as f32;
        pixels.for_each(|pixel| way.widen(pixel, y, Into::Add));
        y.iter_mut().for_each(|v| *v *= share);
    });
}

/// The greatest of each window; a NaN is greater than all.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn max_pool(shape: &PoolShape, x: &[u16], y: &mut [u16]) {
    max_pool_by(Way::fastest(), shape, x, y);
}

pub(super) fn max_pool_by(way: Way, shape: &PoolShape, x: &[u16], y: &mut [u16]) {
    assert_eq!(x.len(), shape.input_len(), "bf16::max_pool: length of `x`");
    assert_eq!(y.len(), shape.output_len(), "bf16::max_pool: length of `y`");
    let ([oh, ow], c) = (shape.out_size, shape.channels);
    let row_len = shape.width * c;
    let to = Shared::new(y);
    parallel(shape.batch * oh, |task| {
        let (image, oy) = (task / oh, task % oh);
        let image = &x[image * shape.height * row_len..][..shape.height * row_len];
        // SAFETY: a task's own row.
        let y = unsafe { std::slice::from_raw_parts_mut(to.ptr().add(task * ow * c), ow * c) };
        with_scratch(c, |greatest| {
            for (ox, y) in y.chunks_exact_mut(c).enumerate() {
                greatest.fill(f32::NEG_INFINITY);
                for row in covered(shape, 0, oy) {
                    for column in covered(shape, 1, ox) {
                        let pixel = &image[row * row_len + column * c..][..c];
                        way.widen(pixel, greatest, Into::Max);
                    }
                }
                way.narrow(greatest, y);
            }
        });
    });
}

/// Rows (or columns) of the image that a window covers.
fn covered(shape: &PoolShape, axis: usize, out: usize) -> std::ops::Range<usize> {
    let (first, before) = (out * shape.stride[axis], shape.padding[axis].0);
    let end = (first + shape.window[axis]).saturating_sub(before);
    first.saturating_sub(before)..end.min([shape.height, shape.width][axis])
}
