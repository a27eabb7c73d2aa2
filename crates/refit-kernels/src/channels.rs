//! Maps joined, parted, shuffled and gated channel by channel. All of it is bound by memory.

use crate::threads::{over_chunks, parallel_chunks};

/// Some channels of every pixel of a map `[pixels, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// Channels of a pixel.
    pub channels: usize,
    /// The first that is meant.
    pub first: usize,
}

/// Copies `count` channels of every pixel of `x` to `y`; other channels of `y` stay as they are.
///
/// # Panics
/// If a slice is not whole pixels, pixels differ in number, or there are no such channels.
pub fn copy_channels(x: &[f32], from: Channels, y: &mut [f32], to: Channels, count: usize) {
    assert!(from.first + count <= from.channels, "copy_channels: channels of `x`");
    assert!(to.first + count <= to.channels, "copy_channels: channels of `y`");
    if count == 0 || x.is_empty() {
        return;
    }
    let pixels = x.len() / from.channels;
    assert_eq!(x.len(), pixels * from.channels, "copy_channels: whole pixels of `x`");
    assert_eq!(y.len(), pixels * to.channels, "copy_channels: pixels of `y`");
    over_chunks(y, to.channels, |pixel, y| {
        let x = x[pixel * from.channels..].chunks_exact(from.channels);
        for (x, y) in x.zip(y.chunks_exact_mut(to.channels)) {
            y[to.first..][..count].copy_from_slice(&x[from.first..][..count]);
        }
    });
}

/// Deals channels out (Zhang et al. 2018, <https://arxiv.org/abs/1707.01083>): of `groups` groups
/// side by side the first channel of each, then the second of each. With `channels / groups` for
/// `groups`, it takes itself back.
///
/// # Panics
/// If lengths differ, or `groups` does not divide the channels.
pub fn shuffle_channels(x: &[f32], channels: usize, groups: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "shuffle_channels: lengths of `x` and `y`");
    assert!(channels.is_multiple_of(groups), "shuffle_channels: {groups} groups of {channels}");
    let each = channels / groups;
    over_chunks(y, channels, |pixel, y| {
        let x = x[pixel * channels..].chunks_exact(channels);
        for (x, y) in x.zip(y.chunks_exact_mut(channels)) {
            for (i, y) in y.chunks_exact_mut(groups).enumerate() {
                y.iter_mut().zip(x[i..].iter().step_by(each)).for_each(|(y, x)| *y = *x);
            }
        }
    });
}

/// `y = x * gate`, a factor `[n, c]` for each channel of each of `n` images `[pixels, c]`.
///
/// # Panics
/// If lengths do not fit.
pub fn gate(images: usize, x: &[f32], factors: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "gate: lengths of `x` and `y`");
    let channels = factors.len() / images.max(1);
    let image = checked_image("gate", images, x.len(), factors.len());
    over_chunks(y, channels, |pixel, y| {
        let x = x[pixel * channels..].chunks_exact(channels);
        for (i, (x, y)) in x.zip(y.chunks_exact_mut(channels)).enumerate() {
            let factors = &factors[(pixel + i) * channels / image * channels..][..channels];
            for ((y, x), f) in y.iter_mut().zip(x).zip(factors) {
                *y = x * f;
            }
        }
    });
}

/// The gradients of [`gate`]: `g`, its output's, becomes its input's; `factors_gradient` is written.
///
/// # Panics
/// If lengths do not fit.
pub fn gate_gradient(
    images: usize,
    x: &[f32],
    factors: &[f32],
    g: &mut [f32],
    factors_gradient: &mut [f32],
) {
    assert_eq!(x.len(), g.len(), "gate_gradient: lengths of `x` and `g`");
    assert_eq!(factors.len(), factors_gradient.len(), "gate_gradient: lengths of factors");
    let channels = factors.len() / images.max(1);
    let image = checked_image("gate_gradient", images, x.len(), factors.len());
    parallel_chunks([(factors_gradient, channels), (g, image)], |n, [sums, g]| {
        let (x, factors) = (&x[n * image..][..image], &factors[n * channels..][..channels]);
        let mut wide = vec![0.0_f64; channels];
        // Sums of a few pixels in f32, of these in f64.
        let run = 16 * channels.max(1);
        for (x, g) in x.chunks(run).zip(g.chunks_mut(run)) {
            sums.fill(0.0);
            for (x, g) in x.chunks_exact(channels).zip(g.chunks_exact_mut(channels)) {
                for (((sum, x), g), f) in sums.iter_mut().zip(x).zip(g).zip(factors) {
                    *sum += x * *g;
                    *g *= f;
                }
            }
            wide.iter_mut().zip(&*sums).for_each(|(wide, sum)| *wide += f64::from(*sum));
        }
        sums.iter_mut().zip(wide).for_each(|(sum, wide)| *sum = wide as f32);
    });
}

/// Values of an image.
fn checked_image(name: &str, images: usize, len: usize, factors: usize) -> usize {
    let image = len / images.max(1);
    let channels = factors / images.max(1);
    let whole = image * images == len && channels * images == factors;
    assert!(whole && image.is_multiple_of(channels.max(1)), "{name}: {images} whole images");
    image.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn channels_are_copied_between_pixels_of_any_width() {
        let x = values(7 * 5, 1);
        let mut y = vec![9.0; 7 * 8];
        let (from, to) = (Channels { channels: 5, first: 1 }, Channels { channels: 8, first: 4 });
        copy_channels(&x, from, &mut y, to, 3);
        for pixel in 0..7 {
            for c in 0..8 {
                let want = if (4..7).contains(&c) { x[pixel * 5 + c - 3] } else { 9.0 };
                assert_eq!(y[pixel * 8 + c], want);
            }
        }
    }

    #[test]
    fn a_shuffle_deals_out_and_takes_itself_back() {
        let x = values(5 * 12, 2);
        let (mut y, mut back) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        shuffle_channels(&x, 12, 3, &mut y);
        assert_eq!(y[..6], [x[0], x[4], x[8], x[1], x[5], x[9]]);
        shuffle_channels(&y, 12, 4, &mut back);
        assert_eq!(x, back);
    }

    #[test]
    fn gates_and_their_gradients_are_their_definition() {
        for (images, pixels, channels) in [(1, 1, 1), (2, 50, 3), (3, 49, 40), (1, 4000, 17)] {
            let x = values(images * pixels * channels, 3);
            let factors = values(images * channels, 4);
            let g = values(x.len(), 5);
            let (mut y, mut dx) = (vec![0.0; x.len()], g.clone());
            let mut df = vec![f32::NAN; factors.len()];
            gate(images, &x, &factors, &mut y);
            gate_gradient(images, &x, &factors, &mut dx, &mut df);
            let mut want = vec![0.0_f64; factors.len()];
            for i in 0..x.len() {
                let f = i / (pixels * channels) * channels + i % channels;
                assert_eq!(y[i], x[i] * factors[f]);
                assert_eq!(dx[i], g[i] * factors[f]);
                want[f] += f64::from(x[i]) * f64::from(g[i]);
            }
            assert_close(&df, &want, 1e-6);
        }
    }
}
