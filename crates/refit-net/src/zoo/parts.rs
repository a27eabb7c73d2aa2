//! What several families are made of.

use crate::graph::{Builder, Wire};
use crate::layer::{Activation, BatchNorm, Conv, Padding};

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

/// Convolution, norm and ReLU as torchvision's `BasicConv2d` names them.
pub(super) fn basic_conv(g: &mut Builder, name: &str, x: Wire, conv: Conv) -> Wire {
    g.scope(name, |g| {
        let y = g.conv("conv", x, conv);
        let y = g.batch_norm("bn", y, BatchNorm::epsilon(1e-3));
        g.relu("relu", y)
    })
}

/// A convolution of `height` by `width` pixels that keeps the size.
pub(super) const fn flat(channels: usize, height: usize, width: usize) -> Conv {
    let conv = Conv::square(channels, 1).padding(Padding::Symmetric([height / 2, width / 2]));
    Conv { kernel: [height, width], ..conv }
}

/// A square convolution of `size` without padding.
pub(super) const fn valid(channels: usize, size: usize, stride: usize) -> Conv {
    Conv::square(channels, size).stride(stride).padding(Padding::Symmetric([0; 2]))
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
