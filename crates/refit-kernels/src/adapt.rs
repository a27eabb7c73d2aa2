//! Maps brought to another size: averaged to any (PyTorch's adaptive pooling), padded or cropped.

use crate::threads::{over_chunks, parallel_chunks};

/// A batch of maps brought from one size to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resized {
    /// Channels.
    pub channels: usize,
    /// Height and width before.
    pub from: [usize; 2],
    /// Height and width after.
    pub to: [usize; 2],
}

impl Resized {
    fn check(&self, name: &str, from: usize, to: usize) {
        let [before, after] = [self.from, self.to].map(|[h, w]| h * w * self.channels);
        assert!(before > 0 && after > 0, "{name}: maps without pixels");
        assert!(from.is_multiple_of(before), "{name}: whole maps");
        assert_eq!(from / before, to / after, "{name}: numbers of maps");
    }

    /// The pixels, along an axis, whose mean makes pixel `i` after.
    fn window(&self, axis: usize, i: usize) -> std::ops::Range<usize> {
        let (from, to) = (self.from[axis], self.to[axis]);
        i * from / to..((i + 1) * from).div_ceil(to)
    }

    fn row(&self, of: [usize; 2]) -> usize {
        of[1] * self.channels
    }
}

/// Each pixel after is the mean of a window before: of row `i` of `to`, the rows from
/// `i * from / to` to before `(i + 1) * from / to`, rounded down and up.
///
/// # Panics
/// If lengths do not fit.
pub fn adaptive_pool(shape: &Resized, x: &[f32], y: &mut [f32]) {
    shape.check("adaptive_pool", x.len(), y.len());
    let (c, [height, _]) = (shape.channels, shape.to);
    let image = shape.from[0] * shape.row(shape.from);
    parallel_chunks([(y, shape.row(shape.to))], |i, [row]| {
        let x = &x[i / height * image..][..image];
        let ys = shape.window(0, i % height);
        for (column, y) in row.chunks_exact_mut(c).enumerate() {
            let xs = shape.window(1, column);
            y.fill(0.0);
            for at in ys.clone() {
                let pixels = &x[(at * shape.from[1] + xs.start) * c..][..xs.len() * c];
                for pixel in pixels.chunks_exact(c) {
                    y.iter_mut().zip(pixel).for_each(|(y, x)| *y += x);
                }
            }
            let share = 1.0 / (ys.len() * xs.len()) as f32;
            y.iter_mut().for_each(|y| *y *= share);
        }
    });
}

/// The gradient of [`adaptive_pool`] with respect to its input.
///
/// # Panics
/// If lengths do not fit.
pub fn adaptive_pool_gradient(shape: &Resized, dy: &[f32], dx: &mut [f32]) {
    shape.check("adaptive_pool_gradient", dx.len(), dy.len());
    let (c, [height, width]) = (shape.channels, shape.to);
    let image = shape.from[0] * shape.row(shape.from);
    parallel_chunks([(dx, image)], |n, [dx]| {
        let dy = &dy[n * height * width * c..][..height * width * c];
        dx.fill(0.0);
        for (i, dy) in dy.chunks_exact(c).enumerate() {
            let (ys, xs) = (shape.window(0, i / width), shape.window(1, i % width));
            let share = 1.0 / (ys.len() * xs.len()) as f32;
            for at in ys {
                let pixels = &mut dx[(at * shape.from[1] + xs.start) * c..][..xs.len() * c];
                for pixel in pixels.chunks_exact_mut(c) {
                    pixel.iter_mut().zip(dy).for_each(|(x, y)| *x += share * y);
                }
            }
        }
    });
}

/// Copies maps to another size: pixel `(i, j)` after is pixel `(i - before[0], j - before[1])`
/// before, or zero where there is none. Negative numbers crop.
///
/// # Panics
/// If lengths do not fit.
pub fn pad(shape: &Resized, before: [isize; 2], x: &[f32], y: &mut [f32]) {
    shape.check("pad", x.len(), y.len());
    let (c, [height, width]) = (shape.channels, shape.to);
    let image = shape.from[0] * shape.row(shape.from);
    // The columns after that stand for columns before.
    let clamp = |at: isize| at.clamp(0, width as isize).unsigned_abs();
    let (begin, end) = (clamp(before[1]), clamp(before[1] + shape.from[1] as isize));
    over_chunks(y, width * c, |first, rows| {
        for (i, row) in rows.chunks_exact_mut(width * c).enumerate() {
            let (n, at) = ((first + i) / height, ((first + i) % height) as isize - before[0]);
            row.fill(0.0);
            let Ok(at) = usize::try_from(at) else { continue };
            if at < shape.from[0] && begin < end {
                let left = (begin as isize - before[1]).unsigned_abs();
                let from = &x[n * image + (at * shape.from[1] + left) * c..];
                row[begin * c..end * c].copy_from_slice(&from[..(end - begin) * c]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, values};

    const SHAPES: [Resized; 5] = [
        Resized { channels: 3, from: [7, 5], to: [7, 5] },
        Resized { channels: 2, from: [13, 6], to: [6, 6] },
        Resized { channels: 5, from: [3, 4], to: [7, 7] },
        Resized { channels: 1, from: [9, 9], to: [1, 1] },
        Resized { channels: 17, from: [2, 30], to: [3, 4] },
    ];

    #[test]
    fn adaptive_means_equal_their_definition() {
        for shape in SHAPES {
            let Resized { channels: c, from: [h, w], to: [th, tw] } = shape;
            let (x, dy) = (values(2 * h * w * c, 1), values(2 * th * tw * c, 2));
            let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
            adaptive_pool(&shape, &x, &mut y);
            adaptive_pool_gradient(&shape, &dy, &mut dx);
            let (mut want, mut want_dx) = (vec![0.0_f64; y.len()], vec![0.0_f64; x.len()]);
            for (at, want) in want.iter_mut().enumerate() {
                let (n, i) = (at / (th * tw * c), at / (tw * c) % th);
                let (j, channel) = (at / c % tw, at % c);
                let (top, bottom) = (i * h / th, ((i + 1) * h).div_ceil(th));
                let (left, right) = (j * w / tw, ((j + 1) * w).div_ceil(tw));
                let share = 1.0 / ((bottom - top) * (right - left)) as f64;
                for row in top..bottom {
                    for column in left..right {
                        let from = ((n * h + row) * w + column) * c + channel;
                        *want += share * f64::from(x[from]);
                        want_dx[from] += share * f64::from(dy[at]);
                    }
                }
            }
            assert_close(&y, &want, 1e-6);
            assert_close(&dx, &want_dx, 1e-6);
        }
    }

    #[test]
    fn padding_and_cropping_copy_pixels() {
        for shape in SHAPES {
            for before in [[0, 0], [1, 2], [-1, 1], [2, -3], [-20, 0], [0, 40]] {
                let Resized { channels: c, from: [h, w], to: [th, tw] } = shape;
                let x = values(2 * h * w * c, 1);
                let mut y = vec![f32::NAN; 2 * th * tw * c];
                pad(&shape, before, &x, &mut y);
                for (at, y) in y.iter().enumerate() {
                    let (n, i) = (at / (th * tw * c), (at / (tw * c) % th) as isize - before[0]);
                    let j = (at / c % tw) as isize - before[1];
                    let inside = (0..h as isize).contains(&i) && (0..w as isize).contains(&j);
                    let from = ((n * h) as isize + i) * w as isize + j;
                    let want = if inside { x[from as usize * c + at % c] } else { 0.0 };
                    assert_eq!(*y, want);
                }
            }
        }
    }
}
