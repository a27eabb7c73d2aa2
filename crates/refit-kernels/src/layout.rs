//! Between the two orders of a batch of maps in memory.

use crate::threads::{Shared, parallel};

/// Pixels that a task moves at a time: their channels fit the first-level cache.
const PIXELS: usize = 64;

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
    let blocks = columns.div_ceil(PIXELS);
    let y = Shared::new(y);
    parallel(n * blocks, |task| {
        let (image, first) = (task / blocks, task % blocks * PIXELS);
        let last = (first + PIXELS).min(columns);
        let x = &x[image * matrix..][..matrix];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_finds_its_place_and_its_way_back() {
        for [n, c, pixels] in [[1, 1, 1], [2, 3, 100], [1, 40, 65], [3, 17, 64], [0, 3, 4]] {
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
