//! Layer normalization over the channels of each pixel (Ba et al. 2016,
//! <https://arxiv.org/abs/1607.06450>), as ConvNeXt has it.

use crate::threads::{Shared, over_chunks, parallel_chunks};

/// Pixels whose sums make one part.
const PART: usize = 256;

/// Mean and inverse deviation of a pixel.
fn statistics(x: &[f32], epsilon: f64) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = sum(x.iter().copied()) / count;
    let centre = mean as f32;
    let squares = sum(x.iter().map(|v| (v - centre).powi(2))) / count;
    let variance = squares - (mean - f64::from(centre)).powi(2);
    (centre, (1.0 / (variance + epsilon).sqrt()) as f32)
}

/// The sum, over eight sums side by side.
fn sum(values: impl Iterator<Item = f32>) -> f64 {
    let mut sums = [0.0_f32; 8];
    let mut wide = 0.0;
    for (i, v) in values.enumerate() {
        sums[i % 8] += v;
        if i % 512 == 511 {
            wide += sums.iter().map(|v| f64::from(*v)).sum::<f64>();
            sums = [0.0; 8];
        }
    }
    wide + sums.iter().map(|v| f64::from(*v)).sum::<f64>()
}

/// `y = (x - mean) / sqrt(variance + epsilon) * scale + shift`, mean and biased variance being those
/// of the pixel; `scale` and `shift` are `[c]`.
///
/// # Panics
/// If lengths do not fit.
pub fn layer_norm(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f64, y: &mut [f32]) {
    let channels = scale.len();
    assert_eq!(shift.len(), channels, "layer_norm: lengths of scale and shift");
    assert_eq!(x.len(), y.len(), "layer_norm: lengths of `x` and `y`");
    over_chunks(y, channels, |pixel, y| {
        let x = x[pixel * channels..].chunks_exact(channels);
        for (x, y) in x.zip(y.chunks_exact_mut(channels)) {
            let (mean, inverse) = statistics(x, epsilon);
            for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = (x - mean) * inverse * scale + shift;
            }
        }
    });
}

/// The gradients of [`layer_norm`]: `g`, its output's, becomes its input's; those of scale and shift
/// are written.
///
/// # Panics
/// If lengths do not fit.
pub fn layer_norm_gradient(
    x: &[f32],
    scale: &[f32],
    epsilon: f64,
    g: &mut [f32],
    scale_gradient: &mut [f32],
    shift_gradient: &mut [f32],
) {
    let channels = scale.len();
    assert_eq!(x.len(), g.len(), "layer_norm_gradient: lengths of `x` and `g`");
    assert_eq!(scale_gradient.len(), channels, "layer_norm_gradient: length of the scale's");
    assert_eq!(shift_gradient.len(), channels, "layer_norm_gradient: length of the shift's");
    let pixels = x.len() / channels.max(1);
    assert_eq!(x.len(), pixels * channels, "layer_norm_gradient: whole pixels");
    let parts = pixels.div_ceil(PART);
    let mut sums = vec![0.0_f32; parts * 2 * channels];
    let (len, shared) = (g.len(), Shared::new(g));
    parallel_chunks([(&mut sums, 2 * channels)], |part, [sums]| {
        let (scale_sums, shift_sums) = sums.split_at_mut(channels);
        let first = part * PART * channels;
        // SAFETY: each part has its own pixels.
        let g = unsafe { shared.part(first, (PART * channels).min(len - first)) };
        let x = x[first..].chunks_exact(channels);
        for (x, g) in x.zip(g.chunks_exact_mut(channels)) {
            let (mean, inverse) = statistics(x, epsilon);
            let normed = |x: &f32| (x - mean) * inverse;
            for (i, (g, x)) in g.iter_mut().zip(x).enumerate() {
                scale_sums[i] += *g * normed(x);
                shift_sums[i] += *g;
                *g *= scale[i];
            }
            let count = channels as f64;
            let along = (sum(g.iter().copied()) / count) as f32;
            let across = (sum(g.iter().zip(x).map(|(g, x)| g * normed(x))) / count) as f32;
            for (g, x) in g.iter_mut().zip(x) {
                *g = (*g - along - normed(x) * across) * inverse;
            }
        }
    });
    let fold = |into: &mut [f32], first: usize| {
        for (c, into) in into.iter_mut().enumerate() {
            let of_part = |part| f64::from(sums[part * 2 * channels + first + c]);
            *into = (0..parts).map(of_part).sum::<f64>() as f32;
        }
    };
    fold(scale_gradient, 0);
    fold(shift_gradient, channels);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    /// Loss `sum(g * layer_norm(x))` in `f64`.
    fn reference(x: &[f64], scale: &[f64], shift: &[f64], epsilon: f64) -> Vec<f64> {
        let c = scale.len();
        let mut y = Vec::new();
        for x in x.chunks_exact(c) {
            let mean = x.iter().sum::<f64>() / c as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            let normed = |v: &f64| (v - mean) / (variance + epsilon).sqrt();
            y.extend(x.iter().enumerate().map(|(i, v)| normed(v) * scale[i] + shift[i]));
        }
        y
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|v| f64::from(*v)).collect()
    }

    #[test]
    fn equals_its_definition_and_finite_differences() {
        for (pixels, channels) in [(1, 3), (5, 17), (300, 8), (3, 700)] {
            let x = values(pixels * channels, 1);
            let (scale, shift) = (values(channels, 2), values(channels, 3));
            let g = values(x.len(), 4);
            let mut y = vec![f32::NAN; x.len()];
            layer_norm(&x, &scale, &shift, 1e-6, &mut y);
            let (x64, scale64, shift64) = (wide(&x), wide(&scale), wide(&shift));
            assert_close(&y, &reference(&x64, &scale64, &shift64, 1e-6), 2e-6);

            let mut dx = g.clone();
            let (mut ds, mut db) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
            layer_norm_gradient(&x, &scale, 1e-6, &mut dx, &mut ds, &mut db);
            let loss = |x: &[f64], scale: &[f64], shift: &[f64]| -> f64 {
                let y = reference(x, scale, shift, 1e-6);
                y.iter().zip(&g).map(|(y, g)| y * f64::from(*g)).sum()
            };
            let slope = |run: &dyn Fn(f64) -> f64| (run(1e-4) - run(-1e-4)) / 2e-4;
            let moved = |values: &[f64], i: usize, by: f64| {
                let mut values = values.to_vec();
                values[i] += by;
                values
            };
            let some = |len: usize| (0..len).step_by(len.div_ceil(7));
            let picked = |values: &[f32], len| some(len).map(|i| values[i]).collect::<Vec<_>>();
            let want: Vec<f64> = some(x.len())
                .map(|i| slope(&|e| loss(&moved(&x64, i, e), &scale64, &shift64)))
                .collect();
            assert_close(&picked(&dx, x.len()), &want, 1e-4);
            let want: Vec<f64> = some(channels)
                .map(|i| slope(&|e| loss(&x64, &moved(&scale64, i, e), &shift64)))
                .collect();
            assert_close(&picked(&ds, channels), &want, 1e-4);
            let want: Vec<f64> = some(channels)
                .map(|i| slope(&|e| loss(&x64, &scale64, &moved(&shift64, i, e))))
                .collect();
            assert_close(&picked(&db, channels), &want, 1e-4);
        }
    }
}
