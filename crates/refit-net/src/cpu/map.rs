//! Maps in memory, and their way from and to tensors.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchTensorKind, Flex};
use burn::tensor::{DType, Device, Tensor, TensorData};
use refit_kernels::{Buffer, to_channels_first, to_channels_last};

use crate::frozen::Value;

/// A batch of maps `[n, h, w, c]`; vectors are maps of one pixel. Cloning shares the values.
#[derive(Debug, Clone)]
pub(crate) struct Map {
    pub shape: [usize; 4],
    pub values: Arc<Buffer>,
}

impl Map {
    pub(crate) fn new(shape: [usize; 4], values: Buffer) -> Self {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        Self { shape, values: Arc::new(values) }
    }

    /// The same without its values, for those who ask for its shape only.
    pub(crate) fn emptied(&self) -> Self {
        Self { shape: self.shape, values: Arc::new(Buffer::zeros(0)) }
    }

    /// Channels of a pixel.
    pub(crate) fn channels(&self) -> usize {
        self.shape[3]
    }

    /// As it leaves for the rest of the program.
    pub(crate) fn to_value(&self, is_vector: bool, device: &Device) -> Value {
        let [n, h, w, c] = self.shape;
        if is_vector {
            let data = TensorData::new(self.values.to_vec(), [n, c]);
            return Value::Vector(Tensor::from_data(data, device));
        }
        let mut values = vec![0.0; self.values.len()];
        to_channels_first(&self.values, [n, h * w, c], &mut values);
        Value::Map(Tensor::from_data(TensorData::new(values, [n, c, h, w]), device))
    }
}

impl From<Value> for Map {
    fn from(value: Value) -> Self {
        match value {
            Value::Map(x) => {
                let [n, c, h, w] = x.dims();
                let mut values = Buffer::stale(n * c * h * w);
                to_channels_last(&Floats::of(x), [n, c, h * w], &mut values);
                Self::new([n, h, w, c], values)
            }
            Value::Vector(x) => {
                let [n, c] = x.dims();
                Self::new([n, 1, 1, c], Buffer::from_slice(&Floats::of(x)))
            }
        }
    }
}

/// The values of a tensor on the CPU, in row-major order, where they lie.
#[derive(Debug)]
pub(crate) struct Floats(FloatTensor<Flex>);

impl Floats {
    /// # Panics
    /// If the tensor lies elsewhere, or holds other numbers than `f32`.
    pub(crate) fn of<const D: usize>(x: Tensor<D>) -> Self {
        let DispatchTensorKind::Flex(tensor) = x.into_dispatch().kind else {
            panic!("a tensor that is not on the CPU, or tracked")
        };
        let tensor = tensor.float();
        assert_eq!(tensor.dtype(), DType::F32, "networks compute in f32");
        Self(if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() })
    }
}

impl std::ops::Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.0.as_slice().expect("made contiguous")
    }
}
