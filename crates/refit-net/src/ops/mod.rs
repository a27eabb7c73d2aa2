//! The fused operations that networks run on, as an extension of Burn's backends.
//!
//! [`CnnOps`] declares each operation with a body composed of Burn's own, so that every backend
//! works, and `Autodiff` differentiates once for all backends (`autodiff`). The free functions here
//! take tensors. On a CPU networks don't come this way but run on `refit-kernels` as a whole
//! (`cpu`); tests compare the two.

mod autodiff;
pub(crate) mod single;

use burn::backend::ops::ConvOptions;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{IntDType, Shape, Tensor};

use crate::layer::{Activation, Conv, Padding, Windows};

/// How a convolution slides over an image of known size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros before and after, vertically and horizontally.
    pub padding: [(usize, usize); 2],
    /// Distance between the pixels that a kernel reads.
    pub dilation: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

impl Geometry {
    /// The geometry of `conv` over images of `height` by `width`.
    pub fn new(conv: &Conv, height: usize, width: usize) -> Self {
        let window = conv.window();
        let pad =
            |axis: usize, size| conv.padding.resolve(axis, size, window[axis], conv.stride[axis]);
        Self {
            stride: conv.stride,
            padding: [pad(0, height), pad(1, width)],
            dilation: conv.dilation,
            groups: conv.groups,
        }
    }

    fn options(&self) -> ConvOptions<2> {
        ConvOptions::new_with_padding(self.stride, self.padding, self.dilation, self.groups)
    }
}

/// What is added to a fused convolution before its activation.
#[derive(Debug, Clone, ExtensionType)]
pub enum Residual<B: Backend> {
    /// Nothing.
    None,
    /// A tensor of the output's shape.
    Add(FloatTensor<B>),
}

/// What [`CnnOps::normalize`] gives.
#[derive(Debug, Clone, ExtensionType)]
pub struct Normalized<B: Backend> {
    /// The normalized, scaled, shifted and activated input.
    pub output: FloatTensor<B>,
    /// The batch's mean, `[c]`.
    pub mean: FloatTensor<B>,
    /// The batch's biased variance, `[c]`.
    pub variance: FloatTensor<B>,
}

/// Gradients of [`CnnOps::normalize`].
#[derive(Debug, Clone, ExtensionType)]
pub struct NormGradients<B: Backend> {
    /// With respect to the input.
    pub x: FloatTensor<B>,
    /// With respect to the scale, `[c]`.
    pub scale: FloatTensor<B>,
    /// With respect to the shift, `[c]`.
    pub shift: FloatTensor<B>,
}

/// Windows of [`CnnOps::max_pool`], padded alike on all sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symmetric {
    /// Height and width of a window.
    pub window: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Pixels on each side.
    pub padding: usize,
}

/// What [`CnnOps::max_pool`] gives.
#[derive(Debug, Clone, ExtensionType)]
pub struct Pooled<B: Backend> {
    /// The maxima.
    pub output: FloatTensor<B>,
    /// Where each came from, as Burn's `max_pool2d_with_indices` counts.
    pub indices: IntTensor<B>,
}

/// The operations of convolutional networks. Logical shapes are `[n, c, h, w]`; how a backend lays
/// them out in memory is its own affair. Bodies given here are the reference in tests.
#[backend_extension(Flex, Autodiff)]
pub trait CnnOps: Backend {
    /// Convolution: `[n, c, h, w]` with `[o, c / groups, kh, kw]`.
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, None, geometry.options())
    }

    /// The gradient of [`CnnOps::convolve`] with respect to `x`, which is read for its shape only.
    fn convolve_x_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        Self::conv2d_x_backward(x, weight, gradient, geometry.options())
    }

    /// The gradient of [`CnnOps::convolve`] with respect to `weight`, read for its shape only.
    fn convolve_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self> {
        Self::conv2d_weight_backward(x, weight, gradient, geometry.options())
    }

    /// Convolution with everything that follows it in a frozen network:
    /// `activation(convolve(x, weight) + shift + residual)`, `shift` being `[o]`.
    fn convolve_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        #[extension_type] residual: Residual<Self>,
        geometry: Geometry,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let y = Self::conv2d(x, weight, Some(shift), geometry.options());
        let y = match residual {
            Residual::None => y,
            Residual::Add(skip) => Self::float_add(y, skip),
        };
        Self::activate(y, activation)
    }

    /// Batch normalization by the batch's own statistics, then the activation.
    fn normalize(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> Normalized<Self> {
        let normed = Self::batch_norm_train(x, scale, shift, epsilon);
        Normalized {
            output: Self::activate(normed.output, activation),
            mean: normed.mean,
            variance: normed.variance,
        }
    }

    /// Gradients of [`CnnOps::normalize`]; `statistics` are its results, `gradient` its output's.
    fn normalize_gradients(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        #[extension_type] statistics: Normalized<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
        activation: Activation,
    ) -> NormGradients<Self> {
        let gradient = Self::activate_gradient(statistics.output, gradient, activation);
        let (mean, variance) = (statistics.mean, statistics.variance);
        let grads = Self::batch_norm_train_backward(x, scale, mean, variance, epsilon, gradient);
        NormGradients { x: grads.x_grad, scale: grads.gamma_grad, shift: grads.beta_grad }
    }

    /// `activation(scale * x + shift)` by channel: a batch norm with stored statistics. `scale` and
    /// `shift` are `[c]`.
    fn scale_shift(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let per_channel = Shape::new([1, x.shape()[1], 1, 1]);
        let scaled = Self::float_mul(x, Self::float_reshape(scale, per_channel.clone()));
        let shifted = Self::float_add(scaled, Self::float_reshape(shift, per_channel));
        Self::activate(shifted, activation)
    }

    /// `activation(a + b)`.
    fn add_activate(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        Self::activate(Self::float_add(a, b), activation)
    }

    /// `activation(x)`, of an activation that [clamps](Activation::clamps).
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match activation {
            Activation::Relu => Self::relu(x),
            Activation::Relu6 => Self::float_clamp(x, 0.0.into(), 6.0.into()),
            _ => x,
        }
    }

    /// The gradient of [`CnnOps::activate`] with respect to its input, from its `output`.
    fn activate_gradient(
        output: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        match activation {
            Activation::Relu => Self::relu_backward(output, gradient),
            Activation::Relu6 => {
                let bools = burn::tensor::BoolDType::Native;
                let high = Self::float_greater_equal_elem(output.clone(), 6.0.into(), bools);
                let gradient = Self::float_mask_fill(gradient, high, 0.0.into());
                Self::relu_backward(output, gradient)
            }
            _ => gradient,
        }
    }

    /// The maximum over windows.
    fn max_pool(x: FloatTensor<Self>, pool: Symmetric) -> Pooled<Self> {
        let Symmetric { window, stride, padding } = pool;
        let pooled = Self::max_pool2d_with_indices(
            x,
            [window; 2],
            [stride; 2],
            [padding; 2],
            [1; 2],
            false,
            IntDType::I64,
        );
        Pooled { output: pooled.output, indices: pooled.indices }
    }

    /// The gradient of [`CnnOps::max_pool`] with respect to `x`, which is read for its shape only.
    fn max_pool_gradient(
        x: FloatTensor<Self>,
        indices: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        pool: Symmetric,
    ) -> FloatTensor<Self> {
        let Symmetric { window, stride, padding } = pool;
        let (window, stride, padding) = ([window; 2], [stride; 2], [padding; 2]);
        Self::max_pool2d_with_indices_backward(
            x, window, stride, padding, [1; 2], false, gradient, indices,
        )
        .x_grad
    }

    /// The mean of each channel: `[n, c, h, w] -> [n, c]`.
    fn mean_pool(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let [n, c, h, w] = x.shape().dims();
        let flat = Self::float_reshape(x, Shape::new([n, c, h * w]));
        Self::float_reshape(Self::float_mean_dim(flat, 2), Shape::new([n, c]))
    }
}

/// Operation by operation, [`Flex`](burn::backend::Flex) is the reference.
impl CnnOps for burn::backend::Flex {}

/// Convolution; see [`CnnOps::convolve`].
pub fn convolve(x: Tensor<4>, weight: Tensor<4>, geometry: Geometry) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as CnnOps>::convolve(
        x.into_dispatch(),
        weight.into_dispatch(),
        geometry,
    ))
}

/// Convolution with what follows it; see [`CnnOps::convolve_fused`].
pub fn convolve_fused(
    x: Tensor<4>,
    weight: Tensor<4>,
    shift: Tensor<1>,
    residual: Option<Tensor<4>>,
    geometry: Geometry,
    activation: Activation,
) -> Tensor<4> {
    let residual = residual.map_or(Residual::None, |r| Residual::Add(r.into_dispatch()));
    let (within, behind) = parted(activation);
    let y = Tensor::from_dispatch(<Dispatch as CnnOps>::convolve_fused(
        x.into_dispatch(),
        weight.into_dispatch(),
        shift.into_dispatch(),
        residual,
        geometry,
        within,
    ));
    activate(y, behind)
}

/// What an operation applies itself, and what is left to be applied behind it.
fn parted(activation: Activation) -> (Activation, Activation) {
    if activation.clamps() {
        (activation, Activation::Identity)
    } else {
        (Activation::Identity, activation)
    }
}

/// Batch normalization by the batch's statistics, with an activation that
/// [clamps](Activation::clamps): output, mean `[c]`, biased variance `[c]`; see
/// [`CnnOps::normalize`].
pub fn normalize(
    x: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    epsilon: f64,
    activation: Activation,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    let normed = <Dispatch as CnnOps>::normalize(
        x.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
        epsilon,
        activation,
    );
    (
        Tensor::from_dispatch(normed.output),
        Tensor::from_dispatch(normed.mean),
        Tensor::from_dispatch(normed.variance),
    )
}

/// `activation(scale * x + shift)` by channel; see [`CnnOps::scale_shift`].
pub fn scale_shift(
    x: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    activation: Activation,
) -> Tensor<4> {
    let (within, behind) = parted(activation);
    let y = Tensor::from_dispatch(<Dispatch as CnnOps>::scale_shift(
        x.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
        within,
    ));
    activate(y, behind)
}

/// `activation(a + b)`, for any shape; see [`CnnOps::add_activate`].
pub fn add_activate<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    let (a, b) = (a.into_dispatch(), b.into_dispatch());
    let (within, behind) = parted(activation);
    activate(Tensor::from_dispatch(<Dispatch as CnnOps>::add_activate(a, b, within)), behind)
}

/// `activation(x)`, for any shape.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Identity => x,
        _ if !activation.clamps() => single::bend(x, activation),
        _ => Tensor::from_dispatch(<Dispatch as CnnOps>::activate(x.into_dispatch(), activation)),
    }
}

/// The maximum over windows.
pub fn max_pool(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    let Windows { window, stride, padding, ceil } = windows;
    let (x, padding) = match padding {
        Padding::Symmetric([rows, columns]) if rows == columns && !ceil => (x, rows),
        _ => (single::pad_for(x, windows, f32::NEG_INFINITY), 0),
    };
    let pool = Symmetric { window, stride, padding };
    Tensor::from_dispatch(<Dispatch as CnnOps>::max_pool(x.into_dispatch(), pool).output)
}

/// The mean of each channel: `[n, c, h, w] -> [n, c]`.
pub fn mean_pool(x: Tensor<4>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as CnnOps>::mean_pool(x.into_dispatch()))
}
