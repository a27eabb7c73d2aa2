//! Networks on the CPU: whole plans over `refit-kernels`, without tensors in between.
//!
//! What [`CnnOps`](crate::ops::CnnOps) gives operation by operation to any backend is run here by a
//! plan that sees the whole network, which is where a CPU's speed and memory are won: maps stay
//! `[n, h, w, c]` from the first layer to the last, weights are packed once while they are frozen,
//! inverted residuals run as one ([`inverted`]), and training keeps a convolution's raw output alone,
//! normalized again each time it is read ([`tape`]).

pub(crate) mod clock;
pub(crate) mod half;
mod inverted;
pub(crate) mod map;
mod precision;
pub(crate) mod program;
pub(crate) mod shallow;
mod single;
pub(crate) mod tape;

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use refit_kernels::{ConvShape, Curve};

use crate::layer::{Activation, Conv};
use crate::ops::Geometry;

pub use precision::{Precision, UnsupportedPrecision};

/// Whether networks on `device` run here.
pub(crate) fn runs_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// What kernels clamp, and what they bend then: in a convolution's exit, else in a pass of its own.
pub(crate) fn parted(activation: Activation) -> (refit_kernels::Activation, Option<Curve>) {
    use refit_kernels::Activation::{Identity, Relu, Relu6};
    match activation {
        Activation::Identity => (Identity, None),
        Activation::Relu => (Relu, None),
        Activation::Relu6 => (Relu6, None),
        Activation::Sigmoid => (Identity, Some(Curve::Sigmoid)),
        Activation::Tanh => (Identity, Some(Curve::Tanh)),
        Activation::Silu => (Identity, Some(Curve::Silu)),
        Activation::HardSigmoid => (Identity, Some(Curve::HardSigmoid)),
        Activation::HardSwish => (Identity, Some(Curve::HardSwish)),
        Activation::Gelu => (Identity, Some(Curve::Gelu)),
        Activation::GeluTanh => (Identity, Some(Curve::GeluTanh)),
    }
}

/// `conv` over maps `[n, h, w, c]`.
pub(crate) fn conv_shape(conv: &Conv, [batch, height, width, channels]: [usize; 4]) -> ConvShape {
    let Geometry { stride, padding, dilation, groups } = Geometry::new(conv, height, width);
    ConvShape {
        batch,
        height,
        width,
        channels,
        out_channels: conv.channels,
        kernel: conv.kernel,
        stride,
        padding,
        dilation,
        groups,
    }
}
