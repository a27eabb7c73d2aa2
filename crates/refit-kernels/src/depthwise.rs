//! Convolution of each channel on its own, over NHWC maps, forward and backward.
//!
//! Such a layer does few operations for each value it moves, so what counts is to read and write
//! every map once: entries, exits, batch statistics and sums of gradients are all done on rows that
//! are in the cache anyway.

mod forward;
mod gradients;
mod pixels;
mod plan;
mod sums;
#[cfg(test)]
pub(crate) mod tests;

pub use forward::{convolve, convolve_with_moments};
pub use gradients::{gradients, input_gradient, input_gradient_through, weight_gradient};
pub(crate) use pixels::Row;
pub(crate) use plan::{Correlation, RowKernel};

use crate::buffer::Buffer;
use crate::conv::{ConvShape, Entry};

/// Weights laid out for the forward kernel.
#[derive(Debug)]
pub struct Filter {
    /// `[kh * kw, c]`.
    taps: Buffer,
    channels: usize,
}

impl Filter {
    /// Lays out `weight`, `[c, 1, kh, kw]`.
    ///
    /// # Panics
    /// If `weight` is not as long as the shape says.
    pub fn new(shape: &ConvShape, weight: &[f32]) -> Self {
        assert_eq!(weight.len(), shape.weight_len(), "Filter: length of `weight`");
        let mut taps = Buffer::stale(weight.len());
        lay_out(weight, shape.channels, &mut taps, |tap| tap);
        Self { taps, channels: shape.channels }
    }
}

/// `[c, taps]` to `[taps, c]`; weight `i` of a channel goes to `place(i)`.
fn lay_out(weight: &[f32], channels: usize, taps: &mut [f32], place: impl Fn(usize) -> usize) {
    let count = weight.len() / channels;
    for (channel, weights) in weight.chunks_exact(count).enumerate() {
        for (i, weight) in weights.iter().enumerate() {
            taps[place(i) * channels + channel] = *weight;
        }
    }
}

/// Checks what every function here is given: the map `x` and its entry, and the output's `y`.
fn check(shape: &ConvShape, x: &[f32], entry: Option<Entry>, y: &[f32]) {
    let c = shape.channels;
    assert!(c == shape.groups && c == shape.out_channels, "depthwise: {c} groups and outputs");
    assert_eq!(x.len(), shape.input_len(), "depthwise: length of the input's map");
    assert_eq!(y.len(), shape.output_len(), "depthwise: length of the output's map");
    if let Some(entry) = entry {
        assert_eq!(entry.scale.len(), c, "depthwise: length of the entry's scale");
        assert_eq!(entry.shift.len(), c, "depthwise: length of the entry's shift");
    }
}
