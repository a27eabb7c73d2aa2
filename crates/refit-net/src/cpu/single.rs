//! Layers that run by themselves, with their gradients, over whole maps.

use refit_kernels::{
    Buffer, Channels, Divisor, LocalResponse, Resized, Upsampling, adaptive_pool,
    adaptive_pool_gradient, average_pool, average_pool_gradient, copy_channels, gate,
    gate_gradient, layer_norm, layer_norm_gradient, local_response, local_response_gradient,
    mean_pool, mean_pool_gradient, pad, shuffle_channels, to_channels_first, to_channels_last,
    upsample, upsample_gradient,
};

use super::map::Map;
use super::program::pool_shape;
use crate::layer::{self, Layer, LocalResponseNorm};

/// Whether its gradients need its inputs' values, not only their shapes.
pub(super) fn needs_inputs(layer: &Layer) -> bool {
    matches!(layer, Layer::Gate | Layer::LocalResponseNorm(_) | Layer::LayerNorm(_))
}

/// What a layer gives; `parameters` in the layer's order.
///
/// # Panics
/// If the layer does not run here.
pub(super) fn forward(layer: &Layer, inputs: &[Map], parameters: &[Vec<f32>]) -> Map {
    let x = &inputs[0];
    let [n, h, w, c] = x.shape;
    match layer {
        Layer::Gate => same(x, |y| gate(n, &x.values, &inputs[1].values, y)),
        Layer::Concat => {
            let channels = inputs.iter().map(Map::channels).sum();
            made([n, h, w, channels], |y| {
                let mut first = 0;
                for x in inputs {
                    let from = Channels { channels: x.channels(), first: 0 };
                    copy_channels(&x.values, from, y, Channels { channels, first }, x.channels());
                    first += x.channels();
                }
            })
        }
        Layer::Slice { first, channels } => made([n, h, w, *channels], |y| {
            let from = Channels { channels: c, first: *first };
            let to = Channels { channels: *channels, first: 0 };
            copy_channels(&x.values, from, y, to, *channels);
        }),
        Layer::Shuffle { groups } => same(x, |y| shuffle_channels(&x.values, c, *groups, y)),
        Layer::Pad { rows, columns } => {
            let (shape, before) = padded([h, w, c], *rows, *columns);
            made([n, shape.to[0], shape.to[1], c], |y| pad(&shape, before, &x.values, y))
        }
        Layer::AvgPool { windows, divisor } => {
            let shape = pool_shape(windows, x.shape);
            let [rows, columns] = shape.out_size;
            made([n, rows, columns, c], |y| {
                average_pool(&shape, kernels_divisor(*divisor), &x.values, None, y);
            })
        }
        Layer::AdaptiveAvgPool { size: [1, 1] } => {
            made([n, 1, 1, c], |y| mean_pool(n, c, &x.values, None, y))
        }
        Layer::AdaptiveAvgPool { size } => made([n, size[0], size[1], c], |y| {
            adaptive_pool(&Resized { channels: c, from: [h, w], to: *size }, &x.values, y);
        }),
        Layer::Flatten => made([n, 1, 1, h * w * c], |y| {
            to_channels_first(&x.values, [n, h * w, c], y);
        }),
        Layer::Unflatten { size: [rows, columns] } => {
            let channels = c / (rows * columns);
            made([n, *rows, *columns, channels], |y| {
                to_channels_last(&x.values, [n, channels, rows * columns], y);
            })
        }
        Layer::Upsample { factor } => made([n, h * factor, w * factor, c], |y| {
            upsample(&Upsampling { channels: c, width: w, factor: *factor }, &x.values, y);
        }),
        Layer::LocalResponseNorm(norm) => {
            same(x, |y| local_response(&x.values, c, &response(norm), y))
        }
        Layer::LayerNorm(norm) => {
            same(x, |y| layer_norm(&x.values, &parameters[0], &parameters[1], norm.epsilon, y))
        }
        other => super::shallow::forward(other, x, parameters)
            .unwrap_or_else(|| unreachable!("`{}` runs in a fused step", other.kind())),
    }
}

/// From the gradient of what a layer gives to those of its inputs and of its parameters. Of inputs
/// whose values are not [needed](needs_inputs) only the shapes are read.
///
/// # Panics
/// If the layer does not run here.
pub(super) fn backward(
    layer: &Layer,
    inputs: &[Map],
    parameters: &[Vec<f32>],
    mut g: Buffer,
) -> (Vec<Buffer>, Vec<Vec<f32>>) {
    let x = &inputs[0];
    let [n, h, w, c] = x.shape;
    let len = n * h * w * c;
    let dx = match layer {
        Layer::Gate => {
            let factors = &inputs[1].values;
            let mut df = Buffer::stale(factors.len());
            gate_gradient(n, &x.values, factors, &mut g, &mut df);
            return (vec![g, df], Vec::new());
        }
        Layer::Concat => {
            let channels = inputs.iter().map(Map::channels).sum();
            let mut first = 0;
            let part = |x: &Map| {
                let mut dx = Buffer::stale(x.shape.iter().product());
                let to = Channels { channels: x.channels(), first: 0 };
                copy_channels(&g, Channels { channels, first }, &mut dx, to, x.channels());
                first += x.channels();
                dx
            };
            return (inputs.iter().map(part).collect(), Vec::new());
        }
        Layer::Slice { first, channels } => {
            let mut dx = Buffer::zeros(len);
            let from = Channels { channels: *channels, first: 0 };
            copy_channels(&g, from, &mut dx, Channels { channels: c, first: *first }, *channels);
            dx
        }
        Layer::Shuffle { groups } => {
            let mut dx = Buffer::stale(len);
            shuffle_channels(&g, c, c / groups, &mut dx);
            dx
        }
        Layer::Pad { rows, columns } => {
            let (shape, before) = padded([h, w, c], *rows, *columns);
            let mut dx = Buffer::stale(len);
            let back = Resized { from: shape.to, to: shape.from, ..shape };
            pad(&back, before.map(|v| -v), &g, &mut dx);
            dx
        }
        Layer::AvgPool { windows, divisor } => {
            let mut dx = Buffer::stale(len);
            let shape = pool_shape(windows, x.shape);
            average_pool_gradient(&shape, kernels_divisor(*divisor), &g, &mut dx);
            dx
        }
        Layer::AdaptiveAvgPool { size: [1, 1] } => {
            let mut dx = Buffer::stale(len);
            mean_pool_gradient(n, c, &g, &mut dx);
            dx
        }
        Layer::AdaptiveAvgPool { size } => {
            let mut dx = Buffer::stale(len);
            let shape = Resized { channels: c, from: [h, w], to: *size };
            adaptive_pool_gradient(&shape, &g, &mut dx);
            dx
        }
        Layer::Flatten => {
            let mut dx = Buffer::stale(len);
            to_channels_last(&g, [n, c, h * w], &mut dx);
            dx
        }
        Layer::Unflatten { size: [rows, columns] } => {
            let mut dx = Buffer::stale(len);
            to_channels_first(&g, [n, rows * columns, c / (rows * columns)], &mut dx);
            dx
        }
        Layer::Upsample { factor } => {
            let mut dx = Buffer::stale(len);
            let shape = Upsampling { channels: c, width: w, factor: *factor };
            upsample_gradient(&shape, &g, &mut dx);
            dx
        }
        Layer::LocalResponseNorm(norm) => {
            local_response_gradient(&x.values, c, &response(norm), &mut g);
            g
        }
        Layer::LayerNorm(norm) => {
            let (mut scale, mut shift) = (vec![0.0; c], vec![0.0; c]);
            let epsilon = norm.epsilon;
            layer_norm_gradient(&x.values, &parameters[0], epsilon, &mut g, &mut scale, &mut shift);
            return (vec![g], vec![scale, shift]);
        }
        other => unreachable!("`{}` runs in a fused step", other.kind()),
    };
    (vec![dx], Vec::new())
}

fn made(shape: [usize; 4], make: impl FnOnce(&mut [f32])) -> Map {
    let mut y = Buffer::stale(shape.iter().product());
    make(&mut y);
    Map::new(shape, y)
}

fn same(x: &Map, make: impl FnOnce(&mut [f32])) -> Map {
    made(x.shape, make)
}

/// How [`Layer::Pad`] brings `[h, w, c]` to another size, and the pixels before the first.
fn padded(
    [h, w, channels]: [usize; 3],
    rows: [isize; 2],
    columns: [isize; 2],
) -> (Resized, [isize; 2]) {
    let size = |size: usize, ends: [isize; 2]| size.saturating_add_signed(ends[0] + ends[1]);
    let to = [size(h, rows), size(w, columns)];
    (Resized { channels, from: [h, w], to }, [rows[0], columns[0]])
}

const fn kernels_divisor(divisor: layer::Divisor) -> Divisor {
    match divisor {
        layer::Divisor::Padded => Divisor::Padded,
        layer::Divisor::Inside => Divisor::Inside,
    }
}

const fn response(norm: &LocalResponseNorm) -> LocalResponse {
    let LocalResponseNorm { size, alpha, beta, k } = *norm;
    LocalResponse { size, alpha, beta, k }
}
