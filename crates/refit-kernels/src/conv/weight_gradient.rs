//! The gradient of a convolution with respect to its weights.

use super::{ConvShape, Entry, reference};

/// `dw`, `[o, c / groups, kh, kw]`, from the input (before its entry) and the output's gradient.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn weight_gradient(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    dy: &[f32],
    dw: &mut [f32],
) {
    if shape.is_depthwise() {
        return crate::depthwise::weight_gradient(shape, x, entry, dy, dw);
    }
    dw.copy_from_slice(&reference::weight_gradient(shape, x, entry, dy));
}
