//! Maps in half the memory: the frozen part of a network in bf16.

use std::sync::Arc;

use refit_kernels::{Buffer, bend, bf16};

use super::map::Map;
use super::program::pool_shape;
use super::{conv_shape, parted};
use crate::layer::{Activation, Conv, Windows};

/// A batch of maps `[n, h, w, c]` in bf16. Cloning shares the values.
#[derive(Debug, Clone)]
pub(crate) struct HalfMap {
    pub shape: [usize; 4],
    pub values: Arc<bf16::Buffer>,
}

/// A map between two steps.
#[derive(Debug, Clone)]
pub(crate) enum Held {
    Full(Map),
    Half(HalfMap),
}

impl Held {
    /// In f32.
    pub(crate) fn full(&self) -> Map {
        match self {
            Self::Full(map) => map.clone(),
            Self::Half(half) => {
                let mut values = Buffer::stale(half.values.len());
                bf16::widen(&half.values, &mut values);
                Map::new(half.shape, values)
            }
        }
    }

    /// In bf16, rounded to nearest even.
    pub(crate) fn half(&self) -> HalfMap {
        match self {
            Self::Full(map) => {
                let mut values = bf16::Buffer::stale(map.values.len());
                bf16::round(&map.values, &mut values);
                HalfMap::new(map.shape, values)
            }
            Self::Half(half) => half.clone(),
        }
    }
}

impl HalfMap {
    pub(crate) fn new(shape: [usize; 4], values: bf16::Buffer) -> Self {
        Self { shape, values: Arc::new(values) }
    }
}

/// A convolution and what is fused behind it, products in bf16, sums in f32.
#[derive(Debug)]
pub(crate) struct HalfConv {
    pub conv: Conv,
    pub filter: bf16::Filter,
    pub shift: Vec<f32>,
}

impl HalfConv {
    /// `activation(convolution(x) + shift + residual)`.
    pub(crate) fn run(&self, x: &Held, residual: Option<&Held>, activation: Activation) -> Held {
        let (x, residual) = (x.half(), residual.map(Held::half));
        let shape = conv_shape(&self.conv, x.shape);
        let [h, w] = shape.out_size();
        let mut y = bf16::Buffer::stale(shape.output_len());
        let (activation, curve) = parted(activation);
        let exit = bf16::Exit {
            shift: Some(&self.shift),
            residual: residual.as_ref().map(|r| &r.values[..]),
            activation,
        };
        bf16::convolve(&shape, &x.values, &self.filter, exit, &mut y);
        if let Some(curve) = curve {
            let mut wide = Buffer::stale(y.len());
            bf16::widen(&y, &mut wide);
            bend(&mut wide, curve);
            bf16::round(&wide, &mut y);
        }
        Held::Half(HalfMap::new([shape.batch, h, w, shape.out_channels], y))
    }
}

/// The maxima of windows.
pub(crate) fn max_pool(pool: &Windows, x: &HalfMap) -> Held {
    let shape = pool_shape(pool, x.shape);
    let [h, w] = shape.out_size;
    let mut y = bf16::Buffer::stale(shape.output_len());
    bf16::max_pool(&shape, &x.values, &mut y);
    Held::Half(HalfMap::new([shape.batch, h, w, shape.channels], y))
}

/// The mean of each channel, in f32.
pub(crate) fn mean_pool(x: &HalfMap) -> Held {
    let [n, _, _, c] = x.shape;
    let mut y = Buffer::stale(n * c);
    bf16::mean_pool(n, c, &x.values, &mut y);
    Held::Full(Map::new([n, 1, 1, c], y))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::tape::tests::{everything, images, shake};
    use crate::{Network, Precision};

    /// Eight bits of mantissa and some twenty roundings: 2% of the largest output.
    #[test]
    fn a_network_in_bf16_stays_near_the_same_in_f32() {
        if !Precision::Bf16.is_supported() {
            eprintln!("skipped: this CPU has neither AMX nor AVX512-BF16");
            return;
        }
        let device = Device::flex();
        let mut net = Network::initialize(everything(), 3, &device);
        shake(&mut net);
        for output in ["fc", "mean", "d_relu", "pool"] {
            let run = |precision| {
                let compiled = net.compile_in(&[output], precision).unwrap();
                compiled.run(images(3, &device).map()).remove(0).to_vec()
            };
            let (half, full) = (run(Precision::Bf16), run(Precision::F32));
            let top = full.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
            for (half, full) in half.iter().zip(&full) {
                assert!((half - full).abs() <= 0.02 * top, "{output}: {half}, not {full}");
            }
            assert_ne!(half, full, "{output} was not rounded");
        }
    }
}
