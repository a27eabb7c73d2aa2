//! Local response normalization across channels (Krizhevsky et al. 2012).

use crate::threads::over_chunks;

/// `y = x / (k + alpha / size * sum)^beta`, the sum of squares being over `size` neighbouring
/// channels, the earlier half of an even number first; channels that are not there are zeros
/// (`torch.nn.LocalResponseNorm`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalResponse {
    /// Channels of a sum.
    pub size: usize,
    /// The factor of the mean square.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// What is added to the mean square.
    pub k: f32,
}

impl LocalResponse {
    /// The channels that channel `c` of `channels` sums over.
    fn around(&self, c: usize, channels: usize) -> std::ops::Range<usize> {
        let first = c.saturating_sub(self.size / 2);
        first..(c + self.size.div_ceil(2)).min(channels)
    }

    /// The base of the power, by channel.
    fn bases(&self, x: &[f32], bases: &mut [f32]) {
        let share = self.alpha / self.size as f32;
        for (c, base) in bases.iter_mut().enumerate() {
            let squares = x[self.around(c, x.len())].iter().map(|v| v * v).sum::<f32>();
            *base = self.k + share * squares;
        }
    }
}

/// Normalizes every pixel of `channels`.
///
/// # Panics
/// If lengths do not fit.
pub fn local_response(x: &[f32], channels: usize, settings: &LocalResponse, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "local_response: lengths of `x` and `y`");
    over_chunks(y, channels, |pixel, y| {
        let x = x[pixel * channels..].chunks_exact(channels);
        for (x, y) in x.zip(y.chunks_exact_mut(channels)) {
            settings.bases(x, y);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * y.powf(-settings.beta));
        }
    });
}

/// The gradient of [`local_response`]: `g`, its output's, becomes its input's.
///
/// # Panics
/// If lengths do not fit.
pub fn local_response_gradient(
    x: &[f32],
    channels: usize,
    settings: &LocalResponse,
    g: &mut [f32],
) {
    assert_eq!(x.len(), g.len(), "local_response_gradient: lengths of `x` and `g`");
    let slope = -2.0 * settings.beta * settings.alpha / settings.size as f32;
    over_chunks(g, channels, |pixel, g| {
        let (mut bases, mut pulls) = (vec![0.0; channels], vec![0.0; channels]);
        let x = x[pixel * channels..].chunks_exact(channels);
        for (x, g) in x.zip(g.chunks_exact_mut(channels)) {
            settings.bases(x, &mut bases);
            // What a unit of each sum's base does to the loss.
            for c in 0..channels {
                let power = bases[c].powf(-settings.beta);
                pulls[c] = g[c] * x[c] * power / bases[c];
                g[c] *= power;
            }
            // A channel stands in the sums of those whose neighbour it is.
            for c in 0..channels {
                let first = (c + 1).saturating_sub(settings.size.div_ceil(2));
                let end = (c + settings.size / 2 + 1).min(channels);
                g[c] += slope * x[c] * pulls[first..end].iter().sum::<f32>();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    fn reference(x: &[f64], channels: usize, s: &LocalResponse) -> Vec<f64> {
        let (alpha, beta, k) = (f64::from(s.alpha), f64::from(s.beta), f64::from(s.k));
        let mut y = Vec::new();
        for x in x.chunks_exact(channels) {
            // As PyTorch does it: zeros before and after, then means of windows.
            let mut padded = vec![0.0; s.size / 2];
            padded.extend(x.iter().map(|v| v * v));
            padded.extend(vec![0.0; (s.size - 1) / 2]);
            let means = padded.windows(s.size).map(|w| w.iter().sum::<f64>() / s.size as f64);
            y.extend(x.iter().zip(means).map(|(x, mean)| x / (k + alpha * mean).powf(beta)));
        }
        y
    }

    #[test]
    fn equals_its_definition_and_finite_differences() {
        for (size, channels) in [(5, 12), (4, 9), (5, 3), (1, 2)] {
            let settings = LocalResponse { size, alpha: 0.3, beta: 0.75, k: 2.0 };
            let (x, g) = (values(3 * channels, 1), values(3 * channels, 2));
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], g.clone());
            local_response(&x, channels, &settings, &mut y);
            local_response_gradient(&x, channels, &settings, &mut dx);
            let x64: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            assert_close(&y, &reference(&x64, channels, &settings), 1e-6);
            let loss = |i: usize, by: f64| -> f64 {
                let mut x = x64.clone();
                x[i] += by;
                let y = reference(&x, channels, &settings);
                y.iter().zip(&g).map(|(y, g)| y * f64::from(*g)).sum()
            };
            let want: Vec<f64> =
                (0..x.len()).map(|i| (loss(i, 1e-4) - loss(i, -1e-4)) / 2e-4).collect();
            assert_close(&dx, &want, 1e-5);
        }
    }
}
