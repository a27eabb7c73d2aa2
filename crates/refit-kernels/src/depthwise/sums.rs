//! The gradient of a depthwise convolution's weights: for every tap the sum, over some neighbouring
//! pixels, of an input pixel times the output's gradient.

use super::pixels::{Tap, load, over_channels};
use crate::simd::{Isa, Simd, on_isa};

/// A row of the output's gradient. Pointers are to the first channel of a block.
#[derive(Clone, Copy)]
pub(super) struct SumRow<'a> {
    /// The padded input row of each row of the kernel, or null where the image has none.
    pub inputs: &'a [*const f32],
    /// Distance between neighbouring pixels of the input rows.
    pub in_stride: usize,
    /// The output's gradient, and the distance between its pixels.
    pub dy: *const f32,
    pub dy_stride: usize,
    /// Where sums are added, `[kh * kw, channels]`.
    pub sums: *mut f32,
    /// Channels.
    pub channels: usize,
}

#[inline(always)]
unsafe fn add_to<S: Simd, const WHOLE: bool>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: by the caller's word.
    unsafe {
        let sum = S::add(load::<S, WHOLE>(p, n), v);
        if WHOLE { S::store(p, sum) } else { S::store_first(p, sum, n) }
    }
}

/// A vector of channels of `MX` pixels from `x` on, of a square kernel without dilation.
#[inline(always)]
unsafe fn sum_vector<
    S: Simd,
    const K: usize,
    const STRIDE: usize,
    const MX: usize,
    const WHOLE: bool,
>(
    row: &SumRow,
    x: usize,
    at: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let n = row.channels - at;
        let mut dy = [S::zero(); MX];
        for (i, dy) in dy.iter_mut().enumerate() {
            *dy = load::<S, WHOLE>(row.dy.add((x + i) * row.dy_stride + at), n);
        }
        for ky in 0..K {
            let input = *row.inputs.get_unchecked(ky);
            if input.is_null() {
                continue;
            }
            let input = input.add(x * STRIDE * row.in_stride + at);
            let mut pixels = [S::zero(); 20];
            for (i, pixel) in pixels.iter_mut().enumerate().take((MX - 1) * STRIDE + K) {
                *pixel = load::<S, WHOLE>(input.add(i * row.in_stride), n);
            }
            let mut sums = [S::zero(); K];
            for (i, dy) in dy.iter().enumerate() {
                for (kx, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(pixels[i * STRIDE + kx], *dy, *sum);
                }
            }
            for (kx, sum) in sums.into_iter().enumerate() {
                add_to::<S, WHOLE>(row.sums.add((ky * K + kx) * row.channels + at), sum, n);
            }
        }
    }
}

on_isa! {
    /// `MX` pixels from `x` on.
    ///
    /// # Safety
    /// The CPU has `isa`; rows hold the pixels that the taps meet.
    fn sum_tile<S, const K: usize, const STRIDE: usize, const MX: usize>(row: &SumRow, x: usize) {
        over_channels!(S, row.channels, sum_vector::<K, STRIDE, MX>(row, x));
    }
}

/// Adds `pixels` pixels of a row to the sums of a compiled kernel
/// ([`is_compiled`](super::pixels::is_compiled)).
///
/// # Safety
/// The CPU has `isa`; rows hold the pixels that the taps meet.
pub(super) unsafe fn sum(isa: Isa, kernel: usize, stride: usize, pixels: usize, row: &SumRow) {
    macro_rules! pick {
        ($size:expr, $x:expr; $(($k:literal, $s:literal): $($m:literal)*;)*) => {
            match (kernel, stride, $size) {
                // SAFETY: by the caller's word.
                $($(($k, $s, $m) => unsafe { sum_tile::<$k, $s, $m>(isa, row, $x) },)*)*
                _ => unreachable!("depthwise sums of {kernel}x{kernel} at stride {stride}"),
            }
        };
    }
    let mut x = 0;
    for size in [7, 4, 2, 1] {
        while x + size <= pixels {
            pick!(size, x; (3, 1): 7 4 2 1; (3, 2): 7 4 2 1; (5, 1): 7 4 2 1; (5, 2): 7 4 2 1;);
            x += size;
        }
    }
}

/// Pixels that [`sum_any`] adds up before it goes on to the next tap.
const RUN: usize = 8;

#[inline(always)]
unsafe fn sum_any_vector<S: Simd, const WHOLE: bool>(
    row: &SumRow,
    taps: &[Tap],
    stride: usize,
    pixels: (usize, usize),
    at: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let n = row.channels - at;
        for tap in taps {
            let input = *row.inputs.get_unchecked(tap.row);
            if input.is_null() {
                continue;
            }
            let mut sum = S::zero();
            for x in pixels.0..pixels.1 {
                let pixel = input.add((x * stride + tap.column) * row.in_stride + at);
                let dy = load::<S, WHOLE>(row.dy.add(x * row.dy_stride + at), n);
                sum = S::fma(load::<S, WHOLE>(pixel, n), dy, sum);
            }
            add_to::<S, WHOLE>(row.sums.add(tap.weight * row.channels + at), sum, n);
        }
    }
}

on_isa! {
    /// Adds the first `pixels` pixels of a row to the sums of any kernel.
    ///
    /// # Safety
    /// The CPU has `isa`; rows hold the pixels that the taps meet.
    pub(super) fn sum_any<S>(row: &SumRow, taps: &[Tap], stride: usize, pixels: usize) {
        for x in (0..pixels).step_by(RUN) {
            let run = (x, (x + RUN).min(pixels));
            over_channels!(S, row.channels, sum_any_vector::<>(row, taps, stride, run));
        }
    }
}
