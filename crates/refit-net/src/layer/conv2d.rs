//! Two-dimensional convolution.

use serde::{Deserialize, Serialize};

use super::{Misfit, ParameterSpec, Role};
use crate::shape::Shape;

/// The largest kernel, stride, dilation, padding or window: a file that asks for more is broken.
pub(super) const MOST_PIXELS: usize = 1 << 10;
/// The most channels or features.
pub(super) const MOST_CHANNELS: usize = 1 << 20;

/// Zeros around an image before windows slide over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// TensorFlow's "same": as many zeros as make the output `ceil(size / stride)`, the odd one at
    /// the bottom and right; depends on the size.
    Same,
    /// The same number at both ends: `[vertical, horizontal]`.
    Symmetric([usize; 2]),
}

impl Padding {
    /// Zeros before and after, along one axis (0: vertical, 1: horizontal) of `size` pixels, for
    /// windows of `window` pixels (dilation included) and `stride`.
    pub fn resolve(self, axis: usize, size: usize, window: usize, stride: usize) -> (usize, usize) {
        match self {
            Self::Symmetric(p) => (p[axis], p[axis]),
            Self::Same => {
                let reach = (size.div_ceil(stride).max(1) - 1) * stride + window;
                let total = reach.saturating_sub(size);
                (total / 2, total - total / 2)
            }
        }
    }
}

/// The pixels that windows give along one axis, or `None` where not even one fits.
pub(super) fn windows(
    padding: Padding,
    axis: usize,
    size: usize,
    window: usize,
    stride: usize,
) -> Option<usize> {
    let (before, after) = padding.resolve(axis, size, window, stride);
    Some((size + before + after).checked_sub(window)? / stride + 1)
}

/// A convolution: `[n, c, h, w] -> [n, channels, h', w']`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Output channels.
    pub channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros around the input.
    pub padding: Padding,
    /// Distance between the pixels that a kernel reads.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other; as many as channels is depthwise.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Conv {
    /// A square kernel of `size`, stride 1, no bias, padded so that stride 1 keeps the image's size
    /// (an odd `size`).
    pub const fn square(channels: usize, size: usize) -> Self {
        Self {
            channels,
            kernel: [size; 2],
            stride: [1; 2],
            padding: Padding::Symmetric([size / 2; 2]),
            dilation: [1; 2],
            groups: 1,
            bias: false,
        }
    }

    /// A 1x1 convolution.
    pub const fn k1(channels: usize) -> Self {
        Self::square(channels, 1)
    }

    /// A 3x3 convolution, padded by 1.
    pub const fn k3(channels: usize) -> Self {
        Self::square(channels, 3)
    }

    /// With another stride in both directions.
    #[must_use]
    pub const fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// With other padding.
    #[must_use]
    pub const fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }

    /// With other groups.
    #[must_use]
    pub const fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// With a bias.
    #[must_use]
    pub const fn biased(mut self) -> Self {
        self.bias = true;
        self
    }

    /// Height and width that one kernel covers, dilation included.
    pub const fn window(&self) -> [usize; 2] {
        [(self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1]
    }

    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let Shape::Map { channels, height, width } = input else {
            return Err(Misfit(format!("convolves a feature map, not {input}")));
        };
        let small = self.kernel.iter().chain(&self.stride).chain(&self.dilation);
        let padding = match self.padding {
            Padding::Same => [0; 2],
            Padding::Symmetric(padding) => padding,
        };
        let sane = small.copied().all(|v| (1..=MOST_PIXELS).contains(&v))
            && padding.iter().all(|&v| v <= MOST_PIXELS)
            && (1..=MOST_CHANNELS).contains(&self.channels);
        if !sane || self.groups == 0 {
            return Err(Misfit(
                "has a kernel, stride, dilation, padding, group or width of zero or beyond reason"
                    .into(),
            ));
        }
        if ![channels, self.channels].iter().all(|c| c.is_multiple_of(self.groups)) {
            return Err(Misfit(format!(
                "splits {channels} input and {} output channels into {} groups",
                self.channels, self.groups
            )));
        }
        let [kh, kw] = self.window();
        let fit = |axis, size, window| {
            windows(self.padding, axis, size, window, self.stride[axis])
                .ok_or_else(|| Misfit(format!("needs {kh}x{kw} pixels, but is given {input}")))
        };
        Ok(Shape::map(self.channels, fit(0, height, kh)?, fit(1, width, kw)?))
    }

    pub(super) fn parameters(&self, channels: usize) -> Vec<ParameterSpec> {
        let [kh, kw] = self.kernel;
        let weight = vec![self.channels, channels / self.groups, kh, kw];
        let mut specs = vec![ParameterSpec::new("weight", weight, Role::Weight)];
        if self.bias {
            specs.push(ParameterSpec::new("bias", vec![self.channels], Role::Bias));
        }
        specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_is_uneven_when_it_must_be() {
        assert_eq!(Padding::Same.resolve(0, 224, 3, 2), (0, 1));
        assert_eq!(Padding::Same.resolve(0, 225, 3, 2), (1, 1));
        assert_eq!(Padding::Same.resolve(0, 7, 5, 1), (2, 2));
        assert_eq!(Padding::Same.resolve(0, 14, 1, 2), (0, 0));
    }

    #[test]
    fn shapes_follow_stride_padding_and_dilation() {
        let shape = |conv: Conv, h, w| conv.output_shape(Shape::map(8, h, w));
        assert_eq!(shape(Conv::k3(16), 7, 9), Ok(Shape::map(16, 7, 9)));
        assert_eq!(shape(Conv::k3(16).stride(2), 7, 9), Ok(Shape::map(16, 4, 5)));
        let dilated = Conv { dilation: [2, 1], ..Conv::k3(16) };
        assert_eq!(shape(dilated, 7, 9), Ok(Shape::map(16, 5, 9)));
        let same = Conv::k3(16).stride(2).padding(Padding::Same);
        assert_eq!(shape(same, 7, 10), Ok(Shape::map(16, 4, 5)));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let input = Shape::map(8, 2, 2);
        let refused = |conv: Conv| conv.output_shape(input).unwrap_err().0;
        assert!(refused(Conv::square(4, 7).padding(Padding::Symmetric([0; 2]))).contains("7x7"));
        assert!(refused(Conv::k3(4).groups(3)).contains("3 groups"));
        assert!(refused(Conv::k3(4).stride(0)).contains("zero"));
        let vector = Conv::k1(4).output_shape(Shape::vector(8));
        assert!(vector.unwrap_err().0.contains("feature map"));
    }
}
