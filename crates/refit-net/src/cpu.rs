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
pub(crate) mod tape;

use burn::backend::DispatchDevice;
use burn::tensor::Device;
use refit_kernels::ConvShape;

use crate::layer::{Activation, Conv};
use crate::ops::Geometry;

pub use precision::{Precision, UnsupportedPrecision};

/// Whether networks on `device` run here.
pub(crate) fn runs_on(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

impl From<Activation> for refit_kernels::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Identity => Self::Identity,
            Activation::Relu => Self::Relu,
            Activation::Relu6 => Self::Relu6,
        }
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

/// A linear layer as a convolution over images of one pixel.
pub(crate) fn linear_shape(batch: usize, features: usize, outputs: usize) -> ConvShape {
    ConvShape {
        batch,
        height: 1,
        width: 1,
        channels: features,
        out_channels: outputs,
        kernel: [1; 2],
        stride: [1; 2],
        padding: [(0, 0); 2],
        dilation: [1; 2],
        groups: 1,
    }
}
