//! Passes over activations that end in a clamp: ReLU, ReLU6 and the identity are all one.

use rayon::prelude::*;

/// The interval a value is clamped to; infinite ends leave it alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The least value.
    pub low: f32,
    /// The greatest value.
    pub high: f32,
}

impl Bounds {
    /// All numbers: the identity.
    pub const NONE: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };
    /// ReLU.
    pub const RELU: Self = Self { low: 0.0, high: f32::INFINITY };
    /// ReLU6.
    pub const RELU6: Self = Self { low: 0.0, high: 6.0 };

    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        // Comparisons leave a NaN a NaN, as `f32::clamp` does.
        if x < self.low {
            self.low
        } else if x > self.high {
            self.high
        } else {
            x
        }
    }
}

/// Values a thread takes at a time: 256 KiB, which stay in the second-level cache.
const CHUNK: usize = 1 << 16;

/// The widest vectors that the loops of this file are compiled for.
macro_rules! widest {
    ($name:ident($($arg:ident: $type:ty),*) $body:block) => {
        #[inline]
        fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the line above saw AVX-512F on this CPU.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the line above saw AVX2 and FMA on this CPU.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

widest!(clamp_chunk(y: &mut [f32], bounds: Bounds) {
    for y in y {
        *y = bounds.of(*y);
    }
});

widest!(add_clamp_chunk(y: &mut [f32], x: &[f32], bounds: Bounds) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = bounds.of(*y + *x);
    }
});

widest!(scale_shift_clamp_chunk(y: &mut [f32], scale: f32, shift: f32, bounds: Bounds) {
    for y in y {
        *y = bounds.of(*y * scale + shift);
    }
});

widest!(clamp_gradient_chunk(gradient: &mut [f32], y: &[f32], bounds: Bounds) {
    for (gradient, y) in gradient.iter_mut().zip(y) {
        *gradient = if *y > bounds.low && *y < bounds.high { *gradient } else { 0.0 };
    }
});

/// `y = clamp(y)`.
pub fn clamp(y: &mut [f32], bounds: Bounds) {
    y.par_chunks_mut(CHUNK).for_each(|y| clamp_chunk(y, bounds));
}

/// `y = clamp(y + x)`: a residual and its activation in one pass.
///
/// # Panics
/// If `x` and `y` differ in length.
pub fn add_clamp(y: &mut [f32], x: &[f32], bounds: Bounds) {
    assert_eq!(x.len(), y.len(), "add_clamp: lengths of `x` and `y`");
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| add_clamp_chunk(y, x, bounds));
}

/// `y = clamp(scale * y + shift)` for each plane of `y`, `[n, channels, plane]`, with its channel's
/// `scale` and `shift`, `[channels]`: a batch norm with stored statistics and its activation.
///
/// # Panics
/// If `scale` and `shift` differ in length, or `y` is not whole images of planes.
pub fn scale_shift_clamp(
    y: &mut [f32],
    plane: usize,
    scale: &[f32],
    shift: &[f32],
    bounds: Bounds,
) {
    let channels = scale.len();
    assert_eq!(channels, shift.len(), "scale_shift_clamp: lengths of `scale` and `shift`");
    if y.is_empty() {
        return;
    }
    assert_eq!(y.len() % (channels * plane), 0, "scale_shift_clamp: length of `y`");
    y.par_chunks_mut(plane).enumerate().for_each(|(index, y)| {
        let channel = index % channels;
        scale_shift_clamp_chunk(y, scale[channel], shift[channel], bounds);
    });
}

/// The gradient before a clamp that gave `y`: `gradient` where `y` lies inside the bounds, else 0.
///
/// # Panics
/// If `gradient` and `y` differ in length.
pub fn clamp_gradient(gradient: &mut [f32], y: &[f32], bounds: Bounds) {
    assert_eq!(gradient.len(), y.len(), "clamp_gradient: lengths of `gradient` and `y`");
    gradient
        .par_chunks_mut(CHUNK)
        .zip(y.par_chunks(CHUNK))
        .for_each(|(gradient, y)| clamp_gradient_chunk(gradient, y, bounds));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around vectors and chunks.
    const LENGTHS: [usize; 8] = [0, 1, 7, 16, 33, 1000, CHUNK, CHUNK + 5];
    const BOUNDS: [Bounds; 3] = [Bounds::NONE, Bounds::RELU, Bounds::RELU6];

    fn values(len: usize, salt: f32) -> Vec<f32> {
        (0..len).map(|i| ((i as f32 + salt) * 0.37).sin() * 9.0).collect()
    }

    fn plain(x: f32, bounds: Bounds) -> f32 {
        x.max(bounds.low).min(bounds.high)
    }

    #[test]
    fn kernels_equal_their_definitions() {
        for len in LENGTHS {
            for bounds in BOUNDS {
                let (a, b) = (values(len, 0.0), values(len, 50.0));
                let mut y = a.clone();
                clamp(&mut y, bounds);
                assert!(y.iter().zip(&a).all(|(y, a)| *y == plain(*a, bounds)));
                let mut y = a.clone();
                add_clamp(&mut y, &b, bounds);
                assert!((0..len).all(|i| y[i] == plain(a[i] + b[i], bounds)));
                let mut gradient = b.clone();
                clamp(&mut y, bounds);
                clamp_gradient(&mut gradient, &y, bounds);
                let inside = |y: f32| y > bounds.low && y < bounds.high;
                assert!((0..len).all(|i| gradient[i] == if inside(y[i]) { b[i] } else { 0.0 }));
            }
        }
    }

    #[test]
    fn planes_get_their_channels_scale_and_shift() {
        for plane in [1, 5, 49, 200] {
            let (n, channels) = (3, 7);
            let x = values(n * channels * plane, 1.0);
            let (scale, shift) = (values(channels, 2.0), values(channels, 3.0));
            let mut y = x.clone();
            scale_shift_clamp(&mut y, plane, &scale, &shift, Bounds::RELU6);
            for (i, y) in y.iter().enumerate() {
                let c = i / plane % channels;
                // A fused multiply-add rounds once instead of twice.
                let exact = f64::from(x[i]) * f64::from(scale[c]) + f64::from(shift[c]);
                assert!((f64::from(*y) - exact.clamp(0.0, 6.0)).abs() < 1e-5, "{i}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "add_clamp: lengths")]
    fn lengths_must_agree() {
        add_clamp(&mut [0.0], &[0.0, 1.0], Bounds::NONE);
    }
}
