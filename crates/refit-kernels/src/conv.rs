//! Two-dimensional convolution over NHWC maps, forward and backward.
//!
//! Maps are `[n, h, w, c]`, weights as PyTorch keeps them, `[o, c / groups, kh, kw]`. Before it
//! convolves, a kernel may pass its input through a batch norm and an activation ([`Entry`]), so
//! that the activated map is never stored; behind it, it may add a shift and a residual and apply
//! an activation ([`Exit`]), or gather the statistics of what it wrote ([`Moments`]).

#[cfg(test)]
pub(crate) mod cases;
mod forward;
mod input_gradient;
mod pack;
mod product;
#[cfg(test)]
pub(crate) mod reference;
mod weight_gradient;
mod window;

pub use forward::{Filter, convolve, convolve_once, convolve_with_moments};
pub use input_gradient::{input_gradient, input_gradient_through};
pub(crate) use weight_gradient::tile as sum_tile;
pub use weight_gradient::weight_gradient;

use crate::activation::Activation;
use crate::curve::Curve;

/// A convolution over a batch of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros before and after, vertically and horizontally.
    pub padding: [(usize, usize); 2],
    /// Distance between the pixels that the kernel reads.
    pub dilation: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

impl ConvShape {
    /// Rows and columns of the output.
    ///
    /// # Panics
    /// If the kernel is larger than the padded input.
    pub fn out_size(&self) -> [usize; 2] {
        let size = |axis: usize, len: usize| {
            let (before, after) = self.padding[axis];
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let padded = len + before + after;
            assert!(padded >= reach, "a kernel that reaches over {reach} pixels, of {padded}");
            (padded - reach) / self.stride[axis] + 1
        };
        [size(0, self.height), size(1, self.width)]
    }

    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        let [height, width] = self.out_size();
        self.batch * height * width * self.out_channels
    }

    /// Weights.
    pub fn weight_len(&self) -> usize {
        self.out_channels * (self.channels / self.groups) * self.kernel[0] * self.kernel[1]
    }

    /// Multiply-adds of a whole batch.
    pub fn multiply_adds(&self) -> u64 {
        let [height, width] = self.out_size();
        (self.batch * height * width * self.weight_len()) as u64
    }

    /// Whether each channel is convolved on its own, one output from each.
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.channels && self.groups == self.out_channels && self.groups > 1
    }

    /// Whether each output pixel is made of the one input pixel at its place.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1]
            && self.stride == [1, 1]
            && self.padding == [(0, 0); 2]
            && self.groups == 1
    }
}

/// What happens to the input as it is read: `activation(scale[c] * x + shift[c])`, in other words a
/// batch norm and its activation. Padding is zero after it, not before.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// One factor a channel.
    pub scale: &'a [f32],
    /// One summand a channel.
    pub shift: &'a [f32],
    /// What is applied last.
    pub activation: Activation,
}

/// What happens to the output before it is written: `curve(activation(y + shift[o] + residual))`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Exit<'a> {
    /// One summand an output channel.
    pub shift: Option<&'a [f32]>,
    /// A map of the output's shape.
    pub residual: Option<&'a [f32]>,
    /// What clamps.
    pub activation: Activation,
    /// What does more than clamp, applied last while the values are in the cache.
    pub curve: Option<Curve>,
}

/// Mean and biased variance of each channel of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Means, `[c]`.
    pub mean: Vec<f32>,
    /// Biased variances, `[c]`.
    pub variance: Vec<f32>,
}
