//! Structural similarity of images (Wang et al. 2004, <https://doi.org/10.1109/TIP.2003.819861>), so
//! that a network can learn by it (Zhao et al. 2017, <https://arxiv.org/abs/1511.08861>).

use burn::tensor::{Device, Tensor, TensorData};

/// Pixels of a window's side, and the deviation of the weights within it, in pixels.
const WINDOW: usize = 11;
const DEVIATION: f64 = 1.5;
/// What keeps quotients from being of noise, for values from 0 to 1.
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

/// Compares square images of one size, window by window.
#[derive(Debug, Clone)]
pub struct Ssim {
    /// The windows' weights along an axis: `[size, windows]`.
    weights: Tensor<2>,
    window: usize,
}

impl Ssim {
    /// For images of `size` by `size` pixels; smaller ones than a window are one window.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: usize, device: &Device) -> Self {
        assert!(size > 0, "Ssim::new: images without pixels");
        let window = WINDOW.min(size);
        let bell = bell(window);
        let windows = size - window + 1;
        let weight = |at: usize| {
            let (pixel, first) = (at / windows, at % windows);
            pixel.checked_sub(first).and_then(|i| bell.get(i)).copied().unwrap_or(0.0)
        };
        let weights: Vec<f32> = (0..size * windows).map(|at| weight(at) as f32).collect();
        let weights = Tensor::from_data(TensorData::new(weights, [size, windows]), device);
        Self { weights, window }
    }

    /// The similarity of each window of each channel, from -1 to 1: `[n, c, windows, windows]` of
    /// images `[n, c, size, size]` with values from 0 to 1. Differentiable in both.
    ///
    /// # Panics
    /// If shapes do not fit.
    pub fn map(&self, x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
        let (mean_x, mean_y) = (self.blur(x.clone()), self.blur(y.clone()));
        let (xx, yy) = (mean_x.clone().square(), mean_y.clone().square());
        let xy = mean_x * mean_y;
        let variance_x = self.blur(x.clone().square()) - xx.clone();
        let variance_y = self.blur(y.clone().square()) - yy.clone();
        let covariance = self.blur(x * y) - xy.clone();
        let alike = (xy * 2.0 + C1) * (covariance * 2.0 + C2);
        alike / ((xx + yy + C1) * (variance_x + variance_y + C2))
    }

    /// The middle pixel of each window.
    pub(super) fn middles(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, windows] = self.weights.dims();
        let first = (self.window - 1) / 2;
        x.narrow(2, first, windows).narrow(3, first, windows)
    }

    /// The weighted mean of each window.
    fn blur(&self, x: Tensor<4>) -> Tensor<4> {
        let weights = match x.is_autodiff() {
            true => self.weights.clone().autodiff(),
            false => self.weights.clone(),
        };
        let along = |x: Tensor<4>| {
            let [n, c, h, w] = x.dims();
            let y = x.reshape([n * c * h, w]).matmul(weights.clone());
            let [_, windows] = y.dims();
            y.reshape([n, c, h, windows]).swap_dims(2, 3)
        };
        along(along(x))
    }
}

/// A normal distribution's bell over `n` pixels, whose sum is 1.
fn bell(n: usize) -> Vec<f64> {
    let middle = (n - 1) as f64 / 2.0;
    let height = |i: usize| libm::exp(-0.5 * ((i as f64 - middle) / DEVIATION).powi(2));
    let heights: Vec<f64> = (0..n).map(height).collect();
    let sum: f64 = heights.iter().sum();
    heights.into_iter().map(|h| h / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(seed: usize, size: usize) -> Vec<f32> {
        (0..2 * 3 * size * size).map(|i| ((i * 7919 + seed * 131) % 1013) as f32 / 1012.0).collect()
    }

    fn tensor(values: &[f32], size: usize) -> Tensor<4> {
        let data = TensorData::new(values.to_vec(), [2, 3, size, size]);
        Tensor::from_data(data, &Device::flex())
    }

    fn values(x: &Tensor<4>) -> Vec<f32> {
        x.to_data().iter::<f32>().collect()
    }

    /// The definition, in f64, of the window whose first pixel is `(row, column)`.
    fn defined(x: &[f32], y: &[f32], size: usize, row: usize, column: usize) -> f64 {
        let n = WINDOW.min(size);
        let bell = bell(n);
        let mut sums = [0.0; 5];
        for (i, a) in bell.iter().enumerate() {
            for (j, b) in bell.iter().enumerate() {
                let at = (row + i) * size + column + j;
                let (x, y) = (f64::from(x[at]), f64::from(y[at]));
                let parts = [x, y, x * x, y * y, x * y];
                sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += a * b * part);
            }
        }
        let [mx, my, xx, yy, xy] = sums;
        let alike = (2.0 * mx * my + C1) * (2.0 * (xy - mx * my) + C2);
        alike / ((mx * mx + my * my + C1) * (xx - mx * mx + yy - my * my + C2))
    }

    #[test]
    fn every_window_is_as_defined() {
        for size in [5, 11, 17] {
            let (a, b) = (images(1, size), images(2, size));
            let map = Ssim::new(size, &Device::flex()).map(tensor(&a, size), tensor(&b, size));
            let [_, _, windows, _] = map.dims();
            assert_eq!(windows, size - WINDOW.min(size) + 1);
            let (area, found) = (size * size, values(&map));
            for (at, found) in found.iter().enumerate() {
                let image = at / (windows * windows) * area;
                let (row, column) = (at / windows % windows, at % windows);
                let (x, y) = (&a[image..][..area], &b[image..][..area]);
                let want = defined(x, y, size, row, column);
                assert!((f64::from(*found) - want).abs() < 1e-4, "{found}, not {want}");
            }
        }
    }

    #[test]
    fn an_image_is_like_itself_and_less_like_its_negative() {
        let x = tensor(&images(3, 16), 16);
        let ssim = Ssim::new(16, &Device::flex());
        let same = values(&ssim.map(x.clone(), x.clone()));
        assert!(same.iter().all(|v| (v - 1.0).abs() < 1e-4), "{same:?}");
        let negative = values(&ssim.map(x.clone(), -x + 1.0));
        assert!(negative.iter().all(|v| *v < 0.0), "{negative:?}");
    }

    #[test]
    fn the_gradient_is_the_slope() {
        let (a, b) = (images(4, 13), images(5, 13));
        let ssim = Ssim::new(13, &Device::flex());
        let x = tensor(&a, 13).autodiff().require_grad();
        let mut gradients = ssim.map(x.clone(), tensor(&b, 13).autodiff()).sum().backward();
        let slope: Vec<f32> = values(&x.grad_remove(&mut gradients).unwrap());
        let sum = |a: &[f32]| -> f64 {
            values(&ssim.map(tensor(a, 13), tensor(&b, 13))).iter().map(|v| f64::from(*v)).sum()
        };
        for at in [0, 84, 300, 507, 800] {
            let step = 2e-3;
            let moved = |by: f32| {
                let mut a = a.clone();
                a[at] += by;
                sum(&a)
            };
            let want = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let found = f64::from(slope[at]);
            assert!((found - want).abs() < 0.02 * want.abs().max(0.05), "{found}, not {want}");
        }
    }
}
