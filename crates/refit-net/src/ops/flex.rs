//! What the CPU does in its own way: passes over activations fused by `refit-kernels`, in place
//! where the tensor is not shared. Convolutions are Burn's.

use burn::backend::Flex;
use burn::backend::ops::ModuleOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use refit_kernels::{Bounds, add_clamp, clamp, clamp_gradient, scale_shift_clamp};

use super::{CnnOps, Geometry, Residual};
use crate::layer::Activation;

impl CnnOps for Flex {
    fn convolve_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: Residual<Self>,
        geometry: Geometry,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let y = Self::conv2d(x, weight, Some(shift), geometry.options());
        match residual {
            Residual::None => Self::activate(y, activation),
            Residual::Add(skip) => Self::add_activate(y, skip, activation),
        }
    }

    fn scale_shift(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let plane = x.layout().shape()[2] * x.layout().shape()[3];
        let (scale, shift) = (contiguous(scale), contiguous(shift));
        in_place(x, |y| {
            scale_shift_clamp(y, plane, values(&scale), values(&shift), activation.bounds())
        })
    }

    fn add_activate(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let b = contiguous(b);
        in_place(a, |y| add_clamp(y, values(&b), activation.bounds()))
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        match activation {
            Activation::Identity => x,
            _ => in_place(x, |y| clamp(y, activation.bounds())),
        }
    }

    fn activate_gradient(
        output: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        if activation == Activation::Identity {
            return gradient;
        }
        let output = contiguous(output);
        in_place(gradient, |g| clamp_gradient(g, values(&output), activation.bounds()))
    }
}

impl Activation {
    fn bounds(self) -> Bounds {
        match self {
            Self::Identity => Bounds::NONE,
            Self::Relu => Bounds::RELU,
            Self::Relu6 => Bounds::RELU6,
        }
    }
}

/// The tensor in row-major order, over the whole of its storage.
fn contiguous(x: FloatTensor<Flex>) -> FloatTensor<Flex> {
    let whole = x.layout().num_elements() * size_of::<f32>() == x.bytes().len();
    if whole && x.is_contiguous() { x } else { x.to_contiguous() }
}

fn values(x: &FloatTensor<Flex>) -> &[f32] {
    x.storage()
}

/// Changes the values, copying them first where the tensor shares them.
fn in_place(x: FloatTensor<Flex>, change: impl FnOnce(&mut [f32])) -> FloatTensor<Flex> {
    assert_eq!(x.dtype(), DType::F32, "networks compute in f32");
    let mut x = contiguous(x);
    change(x.storage_mut());
    x
}
