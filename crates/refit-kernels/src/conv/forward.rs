//! Convolution, forward.

use super::reference;
use super::{ConvShape, Entry, Exit, Moments};
use crate::buffer::Buffer;

/// Weights packed for the forward kernels: made once, used for every batch.
#[derive(Debug)]
pub struct Filter {
    weight: Buffer,
}

impl Filter {
    /// Packs `weight`, `[o, c / groups, kh, kw]`, for convolutions of this kernel, stride, dilation,
    /// groups and channels; the batch and the size of the maps don't matter.
    ///
    /// # Panics
    /// If `weight` is not as long as the shape says.
    pub fn new(shape: &ConvShape, weight: &[f32]) -> Self {
        assert_eq!(weight.len(), shape.weight_len(), "Filter: length of `weight`");
        Self { weight: Buffer::from_slice(weight) }
    }
}

/// `y = exit(convolution(entry(x), filter))`.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn convolve(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    exit: Exit,
    y: &mut [f32],
) {
    y.copy_from_slice(&reference::convolve(shape, x, entry, &filter.weight, exit));
}

/// `y = convolution(entry(x), filter)`, and the mean and variance of each channel of `y`.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn convolve_with_moments(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    y: &mut [f32],
) -> Moments {
    convolve(shape, x, entry, filter, Exit::default(), y);
    crate::norm::moments(y, shape.out_channels)
}
