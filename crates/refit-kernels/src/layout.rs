//! Between the two orders of a batch of maps in memory.

use crate::threads::{Shared, parallel};

/// Columns that a task moves, at least.
const COLUMNS: usize = 64;

/// Values that a task moves about: they fit the first-level cache.
const VALUES: usize = 4096;

/// `[n, c, pixels]` to `[n, pixels, c]`.
///
/// # Panics
/// If a length does not fit `shape`.
pub fn to_channels_last(x: &[f32], shape: [usize; 3], y: &mut [f32]) {
    transpose(x, shape, y);
}

/// `[n, pixels, c]` to `[n, c, pixels]`; `shape` is that of `x`.
///
/// # Panics
/// If a length does not fit `shape`.
pub fn to_channels_first(x: &[f32], shape: [usize; 3], y: &mut [f32]) {
    transpose(x, shape, y);
}

/// Transposes each of `n` matrices `[rows, columns]`.
fn transpose(x: &[f32], [n, rows, columns]: [usize; 3], y: &mut [f32]) {
    let matrix = rows * columns;
    assert_eq!(x.len(), n * matrix, "layout: length of `x`");
    assert_eq!(y.len(), x.len(), "layout: length of `y`");
    if x.is_empty() {
        return;
    }
    let width = (VALUES / rows).max(COLUMNS);
    let blocks = columns.div_ceil(width);
    let y = Shared::new(y);
    parallel(n * blocks, |task| {
        let (image, first) = (task / blocks, task % blocks * width);
        let last = (first + width).min(columns);
        let x = &x[image * matrix..][..matrix];
        if rows == 3 {
            // SAFETY: this task's rows `first..last` of its matrix of `y`.
            let y = unsafe { y.part(image * matrix + first * 3, (last - first) * 3) };
            let plane = |i: usize| &x[i * columns + first..i * columns + last];
            return interleave([plane(0), plane(1), plane(2)], y);
        }
        for i0 in (0..rows).step_by(16) {
            let i1 = (i0 + 16).min(rows);
            for j in first..last {
                for i in i0..i1 {
                    // SAFETY: the place lies in `y`, and in this task's rows `first..last` of it.
                    unsafe { *y.ptr().add(image * matrix + j * rows + i) = x[i * columns + j] };
                }
            }
        }
    });
}

/// The colours of a picture, in a loop that becomes vectors.
fn interleave([r, g, b]: [&[f32]; 3], y: &mut [f32]) {
    let pixels = y.as_chunks_mut::<3>().0.iter_mut();
    for (((y, r), g), b) in pixels.zip(r).zip(g).zip(b) {
        *y = [*r, *g, *b];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_finds_its_place_and_its_way_back() {
        for [n, c, pixels] in [[1, 1, 1], [2, 3, 1500], [1, 40, 165], [3, 17, 64], [0, 3, 4]] {
            let x: Vec<f32> = (0..n * c * pixels).map(|i| i as f32).collect();
            let mut last = vec![f32::NAN; x.len()];
            to_channels_last(&x, [n, c, pixels], &mut last);
            for (i, v) in last.iter().enumerate() {
                let (image, pixel, channel) = (i / (pixels * c), i / c % pixels, i % c);
                assert_eq!(*v, x[(image * c + channel) * pixels + pixel]);
            }
            let mut first = vec![f32::NAN; x.len()];
            to_channels_first(&last, [n, pixels, c], &mut first);
            assert_eq!(first, x);
        }
    }
}
