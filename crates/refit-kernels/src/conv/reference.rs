//! What the kernels compute, by definition, in `f64` and without haste. Tests compare with it.

use super::{ConvShape, Entry, Exit};
use crate::curve::tests::exact as curve_of;

/// Calls `each` with the place of the input value, the weight and the output value of every product.
fn for_each_product(shape: &ConvShape, mut each: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = shape.out_size();
    let (c, o) = (shape.channels, shape.out_channels);
    let (c_group, o_group) = (c / shape.groups, o / shape.groups);
    let [kh, kw] = shape.kernel;
    let inside = |out: usize, k: usize, axis: usize, len: usize| {
        let at = out * shape.stride[axis] + k * shape.dilation[axis];
        at.checked_sub(shape.padding[axis].0).filter(|at| *at < len)
    };
    for n in 0..shape.batch {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            for (ky, kx) in (0..kh).flat_map(|y| (0..kw).map(move |x| (y, x))) {
                let (Some(y), Some(x)) =
                    (inside(oy, ky, 0, shape.height), inside(ox, kx, 1, shape.width))
                else {
                    continue;
                };
                for out in 0..o {
                    for i in 0..c_group {
                        let channel = out / o_group * c_group + i;
                        each(
                            ((n * shape.height + y) * shape.width + x) * c + channel,
                            ((out * c_group + i) * kh + ky) * kw + kx,
                            ((n * oh + oy) * ow + ox) * o + out,
                        );
                    }
                }
            }
        }
    }
}

/// The input after its entry.
pub(crate) fn enter(x: &[f32], entry: Option<Entry>) -> Vec<f32> {
    let Some(Entry { scale, shift, activation }) = entry else { return x.to_vec() };
    let c = scale.len();
    let value = |(i, x): (usize, &f32)| activation.of(x * scale[i % c] + shift[i % c]);
    x.iter().enumerate().map(value).collect()
}

/// [`convolve`](crate::convolve).
pub(crate) fn convolve(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    weight: &[f32],
    exit: Exit,
) -> Vec<f32> {
    let x = enter(x, entry);
    let mut y = vec![0.0f64; shape.output_len()];
    for_each_product(shape, |i, w, o| y[o] += f64::from(x[i]) * f64::from(weight[w]));
    let o = shape.out_channels;
    let value = |(i, y): (usize, f64)| {
        let shift = exit.shift.map_or(0.0, |s| f64::from(s[i % o]));
        let residual = exit.residual.map_or(0.0, |r| f64::from(r[i]));
        let y = exit.activation.of((y + shift + residual) as f32);
        exit.curve.map_or(y, |curve| curve_of(curve, f64::from(y)) as f32)
    };
    y.into_iter().enumerate().map(value).collect()
}

/// The gradient of a convolution with respect to its (entered) input.
pub(crate) fn input_gradient(shape: &ConvShape, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = vec![0.0f64; shape.input_len()];
    for_each_product(shape, |i, w, o| dx[i] += f64::from(dy[o]) * f64::from(weight[w]));
    dx.into_iter().map(|v| v as f32).collect()
}

/// The gradient of a convolution with respect to its weights.
pub(crate) fn weight_gradient(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    dy: &[f32],
) -> Vec<f32> {
    let x = enter(x, entry);
    let mut dw = vec![0.0f64; shape.weight_len()];
    for_each_product(shape, |i, w, o| dw[w] += f64::from(dy[o]) * f64::from(x[i]));
    dw.into_iter().map(|v| v as f32).collect()
}
