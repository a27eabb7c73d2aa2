//! Layers that run by themselves, on tensors: what every device has, and what tests compare the
//! CPU's kernels with. Burn differentiates them.

use burn::tensor::activation::{gelu, gelu_approximate, hard_sigmoid, sigmoid, silu};
use burn::tensor::module::{adaptive_avg_pool2d, avg_pool2d};
use burn::tensor::ops::{AvgPoolOptions, PadMode};
use burn::tensor::{Device, Tensor, TensorData};
use refit_kernels::Buffer;

use crate::cpu::map::Map;
use crate::cpu::shallow;
use crate::frozen::Value;
use crate::layer::{Activation, Divisor, Layer, LocalResponseNorm, Windows};

/// `function(x)`, for any shape.
pub(crate) fn bend<const D: usize>(x: Tensor<D>, function: Activation) -> Tensor<D> {
    match function {
        Activation::Identity => x,
        Activation::Relu => burn::tensor::activation::relu(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
        Activation::Silu => silu(x),
        Activation::HardSigmoid => hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::HardSwish => x.clone() * hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_approximate(x),
    }
}

/// The value of a layer that has no part in a fused step; `parameters` in the layer's order.
///
/// # Panics
/// If the layer is one of a fused step, or inputs do not fit it.
pub(crate) fn run(layer: &Layer, inputs: Vec<Value>, parameters: &[Tensor<1>]) -> Value {
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().expect("shapes were checked when the graph was built");
    match layer {
        Layer::Gate => Value::Map(next().map() * next().map()),
        Layer::Concat => match next() {
            Value::Map(first) => {
                let rest = inputs.map(Value::map);
                Value::Map(Tensor::cat(std::iter::once(first).chain(rest).collect(), 1))
            }
            Value::Vector(first) => {
                let rest = inputs.map(Value::vector);
                Value::Vector(Tensor::cat(std::iter::once(first).chain(rest).collect(), 1))
            }
        },
        Layer::Slice { first, channels } => match next() {
            Value::Map(x) => Value::Map(x.narrow(1, *first, *channels)),
            Value::Vector(x) => Value::Vector(x.narrow(1, *first, *channels)),
        },
        Layer::Shuffle { groups } => match next() {
            Value::Map(x) => {
                let [n, c, h, w] = x.dims();
                let x = x.reshape([n, *groups, c / groups, h * w]);
                Value::Map(x.swap_dims(1, 2).reshape([n, c, h, w]))
            }
            Value::Vector(x) => {
                let [n, c] = x.dims();
                Value::Vector(x.reshape([n, *groups, c / groups]).swap_dims(1, 2).reshape([n, c]))
            }
        },
        Layer::Pad { rows, columns } => Value::Map(pad(next().map(), [*rows, *columns], 0.0)),
        Layer::AvgPool { windows, divisor } => {
            Value::Map(average_pool(next().map(), *windows, *divisor))
        }
        Layer::AdaptiveAvgPool { size } => Value::Map(adaptive_avg_pool2d(next().map(), *size)),
        Layer::Flatten => match next() {
            Value::Map(x) => Value::Vector(x.flatten::<2>(1, 3)),
            vector @ Value::Vector(_) => vector,
        },
        Layer::Unflatten { size: [rows, columns] } => {
            let x = next().vector();
            let [n, features] = x.dims();
            Value::Map(x.reshape([n, features / (rows * columns), *rows, *columns]))
        }
        Layer::Upsample { factor } => Value::Map(upsample(next().map(), *factor)),
        Layer::LocalResponseNorm(norm) => Value::Map(local_response(next().map(), norm)),
        Layer::LayerNorm(norm) => {
            let [scale, shift] = parameters else { unreachable!("a scale and a shift") };
            match next() {
                Value::Map(x) => Value::Map(layer_norm(x, scale, shift, norm.epsilon)),
                Value::Vector(x) => {
                    let x = layer_norm(x.unsqueeze_dims::<4>(&[2, 3]), scale, shift, norm.epsilon);
                    Value::Vector(x.flatten::<2>(1, 3))
                }
            }
        }
        Layer::LayerScale(_) => {
            Value::Map(next().map() * parameters[0].clone().reshape([1, -1, 1, 1]))
        }
        Layer::Scale { factor } => match next() {
            Value::Map(x) => Value::Map(x * *factor),
            Value::Vector(x) => Value::Vector(x * *factor),
        },
        other => {
            let (x, device) = on_host(next());
            let parameters: Vec<Vec<f32>> =
                parameters.iter().map(|p| p.to_data().iter::<f32>().collect()).collect();
            let y = shallow::forward(other, &x, &parameters);
            let y = y.unwrap_or_else(|| unreachable!("`{}` runs in a fused step", other.kind()));
            y.to_value(true, &device)
        }
    }
}

/// A value where it can be read, and where it was.
fn on_host(x: Value) -> (Map, Device) {
    let (shape, data, device) = match x {
        Value::Map(x) => {
            let [n, c, h, w] = x.dims();
            let device = x.device();
            ([n, h, w, c], x.permute([0, 2, 3, 1]).into_data(), device)
        }
        Value::Vector(x) => {
            let [n, c] = x.dims();
            let device = x.device();
            ([n, 1, 1, c], x.into_data(), device)
        }
    };
    let values: Vec<f32> = data.iter::<f32>().collect();
    (Map::new(shape, Buffer::from_slice(&values)), device)
}

/// With rows and columns before and behind of `value`; negative numbers take pixels away.
fn pad(x: Tensor<4>, [rows, columns]: [[isize; 2]; 2], value: f32) -> Tensor<4> {
    let mut x = x;
    for (dim, ends) in [(2, rows), (3, columns)] {
        let [before, behind] = ends.map(|end| (-end).max(0).unsigned_abs());
        let size = x.dims()[dim];
        x = x.narrow(dim, before, size - before - behind);
    }
    let added = |ends: [isize; 2]| (ends[0].max(0).unsigned_abs(), ends[1].max(0).unsigned_abs());
    let (rows, columns) = (added(rows), added(columns));
    if (rows, columns) == ((0, 0), (0, 0)) {
        return x;
    }
    x.pad([rows, columns], PadMode::Constant(value))
}

/// Each pixel as a square of `factor` by `factor`.
fn upsample(x: Tensor<4>, factor: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n * c, h, 1, w]).repeat_dim(2, factor).reshape([n * c, h * factor, w, 1]);
    x.repeat_dim(3, factor).reshape([n, c, h * factor, w * factor])
}

/// A map padded with `value` so that windows without padding of their own meet the same pixels; a
/// last window may reach beyond.
pub(crate) fn pad_for(x: Tensor<4>, windows: Windows, value: f32) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let ends = |axis: usize, size: usize| {
        let (before, _) = windows.pads(axis, size);
        let count = windows.count(axis, size).expect("a window that fits");
        let reach = (count - 1) * windows.stride + windows.window;
        [before as isize, reach as isize - (size + before) as isize]
    };
    pad(x, [ends(0, height), ends(1, width)], value)
}

fn average_pool(x: Tensor<4>, windows: Windows, divisor: Divisor) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let counts = |axis: usize, size: usize| -> Vec<f32> {
        let (before, behind) = windows.pads(axis, size);
        let (first, end) = match divisor {
            Divisor::Padded => (0, before + size + behind),
            Divisor::Inside => (before, before + size),
        };
        let count = windows.count(axis, size).expect("a window that fits");
        let counted = |i: usize| {
            let at = i * windows.stride;
            (at + windows.window).min(end) - at.max(first)
        };
        (0..count).map(|i| counted(i) as f32).collect()
    };
    let (rows, columns) = (counts(0, height), counts(1, width));
    let area = (windows.window * windows.window) as f32;
    let shares: Vec<f32> =
        rows.iter().flat_map(|r| columns.iter().map(move |c| area / (r * c))).collect();
    let shares = TensorData::new(shares, [1, 1, rows.len(), columns.len()]);
    let shares = Tensor::<4>::from_data(shares, &x.device());
    let shares = if x.is_autodiff() { shares.autodiff() } else { shares };
    let padded = pad_for(x, windows, 0.0);
    let (window, stride) = ([windows.window; 2], [windows.stride; 2]);
    avg_pool2d(padded, AvgPoolOptions::new(window).with_stride(stride)) * shares
}

fn local_response(x: Tensor<4>, norm: &LocalResponseNorm) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let (before, behind) = (norm.size / 2, (norm.size - 1) / 2);
    let squares = x.clone().powi_scalar(2).reshape([n, 1, c, h * w]);
    let squares = squares.pad([(before, behind), (0, 0)], PadMode::Constant(0.0));
    let mut sum = squares.clone().narrow(2, 0, c);
    for i in 1..norm.size {
        sum = sum + squares.clone().narrow(2, i, c);
    }
    let base = sum.reshape([n, c, h, w]) * (norm.alpha / norm.size as f32) + norm.k;
    x / base.powf_scalar(norm.beta)
}

fn layer_norm(x: Tensor<4>, scale: &Tensor<1>, shift: &Tensor<1>, epsilon: f64) -> Tensor<4> {
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().powi_scalar(2).mean_dim(1);
    let by_channel = |v: &Tensor<1>| v.clone().reshape([1, -1, 1, 1]);
    centred / (variance + epsilon).sqrt() * by_channel(scale) + by_channel(shift)
}
