//! The gradient of a convolution with respect to its input.

use super::{ConvShape, reference};
use crate::norm::{GradientSums, Through, gradient_through};

/// `dx`: the gradient with respect to the entered input, `[n, h, w, c]`, from the output's, `dy`;
/// `weight` is `[o, c / groups, kh, kw]`.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn input_gradient(shape: &ConvShape, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    dx.copy_from_slice(&reference::input_gradient(shape, weight, dy));
}

/// [`input_gradient`] and then [`gradient_through`] the entry, in one pass.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn input_gradient_through(
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    through: Through,
    dx: &mut [f32],
) -> GradientSums {
    input_gradient(shape, weight, dy, dx);
    gradient_through(dx, through)
}
