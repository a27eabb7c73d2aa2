//! Maps made larger by whole factors, each pixel repeated.

use crate::threads::parallel_chunks;

/// A batch of maps whose pixels become squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upsampling {
    /// Channels.
    pub channels: usize,
    /// Pixels of a row before.
    pub width: usize,
    /// Height and width of the square that a pixel becomes.
    pub factor: usize,
}

impl Upsampling {
    fn check(&self, name: &str, before: usize, after: usize) {
        let row = self.row();
        assert!(row > 0 && before.is_multiple_of(row), "{name}: whole rows");
        assert_eq!(before * self.factor * self.factor, after, "{name}: lengths of maps");
    }

    /// Values of a row before.
    fn row(&self) -> usize {
        self.width * self.channels
    }
}

/// Pixel `(i, j)` after is pixel `(i / factor, j / factor)` before, rounded down.
///
/// # Panics
/// If lengths do not fit.
pub fn upsample(shape: &Upsampling, x: &[f32], y: &mut [f32]) {
    shape.check("upsample", x.len(), y.len());
    let (c, factor) = (shape.channels, shape.factor);
    parallel_chunks([(y, factor * shape.row())], |i, [row]| {
        let x = &x[i / factor * shape.row()..][..shape.row()];
        for (square, pixel) in row.chunks_exact_mut(factor * c).zip(x.chunks_exact(c)) {
            square.chunks_exact_mut(c).for_each(|y| y.copy_from_slice(pixel));
        }
    });
}

/// The gradient of [`upsample`] with respect to its input: sums over squares.
///
/// # Panics
/// If lengths do not fit.
pub fn upsample_gradient(shape: &Upsampling, dy: &[f32], dx: &mut [f32]) {
    shape.check("upsample_gradient", dx.len(), dy.len());
    let (c, factor) = (shape.channels, shape.factor);
    let rows = factor * factor * shape.row();
    parallel_chunks([(dx, shape.row())], |i, [row]| {
        row.fill(0.0);
        for dy in dy[i * rows..][..rows].chunks_exact(factor * shape.row()) {
            for (pixel, square) in row.chunks_exact_mut(c).zip(dy.chunks_exact(factor * c)) {
                for dy in square.chunks_exact(c) {
                    pixel.iter_mut().zip(dy).for_each(|(x, y)| *x += y);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    #[test]
    fn pixels_become_squares_and_gradients_sums_over_them() {
        for (c, h, w, f) in [(3, 2, 4, 2), (1, 5, 1, 3), (17, 1, 3, 1), (8, 3, 3, 4)] {
            let shape = Upsampling { channels: c, width: w, factor: f };
            let (x, dy) = (values(2 * h * w * c, 1), values(2 * h * w * c * f * f, 2));
            let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
            upsample(&shape, &x, &mut y);
            upsample_gradient(&shape, &dy, &mut dx);
            let mut want = vec![0.0_f64; x.len()];
            for at in 0..y.len() {
                let (row, column) = (at / (w * f * c), at / c % (w * f));
                let from = (row / f * w + column / f) * c + at % c;
                assert_eq!(y[at], x[from]);
                want[from] += f64::from(dy[at]);
            }
            assert_close(&dx, &want, 1e-6);
        }
    }
}
