//! What several families are made of.

use crate::graph::{Builder, Wire};
use crate::layer::{Activation, BatchNorm, Conv};

/// Convolution, norm and activation as torchvision's `Conv2dNormActivation` names them: `0`, `1`,
/// `2`.
pub(super) fn conv_norm(
    g: &mut Builder,
    x: Wire,
    conv: Conv,
    norm: BatchNorm,
    activation: Activation,
) -> Wire {
    let y = g.conv("0", x, conv);
    let y = g.batch_norm("1", y, norm);
    match activation {
        Activation::Identity => y,
        _ => g.activation("2", y, activation),
    }
}

/// Squeeze-and-excitation (Hu et al. 2017, <https://arxiv.org/abs/1709.01507>): each channel times a
/// gate that all channels' means decide; names are torchvision's.
pub(super) fn squeeze(
    g: &mut Builder,
    x: Wire,
    squeezed: usize,
    inner: Activation,
    outer: Activation,
) -> Wire {
    let channels = g.shape(x).channels();
    let y = g.adaptive_avg_pool("avgpool", x, 1);
    let y = g.conv("fc1", y, Conv::k1(squeezed).biased());
    let y = g.activation("activation", y, inner);
    let y = g.conv("fc2", y, Conv::k1(channels).biased());
    let y = g.activation("scale_activation", y, outer);
    g.gate("gate", x, y)
}

/// `x + y` where they have one shape, `y` where they have not.
pub(super) fn shortcut(g: &mut Builder, x: Wire, y: Wire) -> Wire {
    if g.shape(x) == g.shape(y) { g.add("add", y, x) } else { y }
}

/// The nearest multiple of `divisor` that is not more than a tenth too small.
pub(super) fn divisible(channels: f64, divisor: usize) -> usize {
    let step = divisor as f64;
    let rounded = (((channels + step / 2.0) / step).floor() * step).max(step);
    (if rounded < 0.9 * channels { rounded + step } else { rounded }) as usize
}
