//! Some neighbouring output pixels of a depthwise convolution, summed in registers: a vector of
//! channels at a time, each loaded pixel of a kernel's row used for every tap that meets it.

use crate::simd::{Isa, Simd, on_isa};
use crate::tile::TileExit;

/// A row of output pixels. Pointers are to the first channel of a block.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// The padded input row of each row of the kernel, or null where the image has none.
    pub inputs: &'a [*const f32],
    /// Distance between neighbouring pixels of the input rows.
    pub in_stride: usize,
    /// Weights, `[kh * kw]`, and the distance between neighbouring ones.
    pub taps: *const f32,
    pub tap_stride: usize,
    /// The output row, and the distance between its pixels (and the residual's).
    pub out: *mut f32,
    pub out_stride: usize,
    /// Channels.
    pub channels: usize,
    pub exit: TileExit<'a>,
}

/// The numbers of pixels that tiles are compiled for, the largest first.
const SIZES: [usize; 4] = [7, 4, 2, 1];

/// Cuts `len` pixels into tiles of one compiled size, and gives the first pixel of each. The last
/// may overlap the one before it: a pixel computed twice gets the same value twice.
fn tiles(len: usize) -> (usize, impl Iterator<Item = usize>) {
    let cost = |size: &usize| len.div_ceil(*size) * (size + 1);
    let size = SIZES.into_iter().filter(|s| *s <= len).min_by_key(cost).unwrap_or(1);
    (size, (0..len.div_ceil(size)).map(move |i| (i * size).min(len - size)))
}

/// `activation(v + shift + residual)` for the channels from `at` on of pixel `x`.
#[inline(always)]
unsafe fn finish<S: Simd, const WHOLE: bool>(row: &Row, at: usize, x: usize, v: S::V) {
    // SAFETY: by the caller's word.
    unsafe {
        let n = row.channels - at;
        let exit = &row.exit;
        let mut v = v;
        if !exit.shift.is_null() {
            v = S::add(v, load::<S, WHOLE>(exit.shift.add(at), n));
        }
        if !exit.residual.is_null() {
            v = S::add(v, load::<S, WHOLE>(exit.residual.add(x * row.out_stride + at), n));
        }
        let (low, high) = exit.activation.bounds();
        v = S::clamp(v, S::splat(low), S::splat(high));
        let to = row.out.add(x * row.out_stride + at);
        if WHOLE { S::store(to, v) } else { S::store_first(to, v, n) }
    }
}

#[inline(always)]
pub(super) unsafe fn load<S: Simd, const WHOLE: bool>(p: *const f32, n: usize) -> S::V {
    // SAFETY: by the caller's word.
    unsafe { if WHOLE { S::load(p) } else { S::load_first(p, n) } }
}

/// Calls a function over channels: whole vectors, then what is left.
macro_rules! over_channels {
    ($S:ident, $channels:expr, $vector:ident::<$($K:ident),*>($($arg:expr),*)) => {
        let mut at = 0;
        while at + $S::LANES <= $channels {
            $vector::<$S, $($K,)* true>($($arg,)* at);
            at += $S::LANES;
        }
        if at < $channels {
            $vector::<$S, $($K,)* false>($($arg,)* at);
        }
    };
}
pub(super) use over_channels;

/// A vector of channels of `MX` pixels from `x` on, of a square kernel without dilation.
#[inline(always)]
unsafe fn correlate_vector<
    S: Simd,
    const K: usize,
    const STRIDE: usize,
    const MX: usize,
    const WHOLE: bool,
>(
    row: &Row,
    x: usize,
    at: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let n = row.channels - at;
        let mut sums = [S::zero(); MX];
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
            for kx in 0..K {
                let tap = load::<S, WHOLE>(row.taps.add((ky * K + kx) * row.tap_stride + at), n);
                for i in 0..MX {
                    sums[i] = S::fma(pixels[i * STRIDE + kx], tap, sums[i]);
                }
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            finish::<S, WHOLE>(row, at, x + i, sum);
        }
    }
}

on_isa! {
    /// `MX` pixels from `x` on.
    ///
    /// # Safety
    /// The CPU has `isa`; rows hold the pixels that the taps meet.
    fn correlate_tile<S, const K: usize, const STRIDE: usize, const MX: usize>(row: &Row, x: usize) {
        over_channels!(S, row.channels, correlate_vector::<K, STRIDE, MX>(row, x));
    }
}

/// Where a row of [`spread`] lies: pixel `x` of the output is sum `x - shift`, if `0 <= x < width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread {
    pub shift: isize,
    pub width: usize,
}

/// A vector of channels of the `MX * STRIDE` sums that `MX` input pixels begin.
#[inline(always)]
unsafe fn spread_vector<
    S: Simd,
    const K: usize,
    const STRIDE: usize,
    const MX: usize,
    const WHOLE: bool,
>(
    row: &Row,
    spread: Spread,
    q: usize,
    at: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let n = row.channels - at;
        let back = (K - 1) / STRIDE;
        let mut sums = [[S::zero(); STRIDE]; MX];
        for ky in 0..K {
            let input = *row.inputs.get_unchecked(ky);
            if input.is_null() {
                continue;
            }
            let input = input.add(q * row.in_stride + at);
            let mut pixels = [S::zero(); 12];
            for (i, pixel) in pixels.iter_mut().enumerate().take(MX + back) {
                *pixel = load::<S, WHOLE>(input.add(i * row.in_stride), n);
            }
            for kx in 0..K {
                let tap = load::<S, WHOLE>(row.taps.add((ky * K + kx) * row.tap_stride + at), n);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let pixel = pixels[i + back - kx / STRIDE];
                    sums[kx % STRIDE] = S::fma(pixel, tap, sums[kx % STRIDE]);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (phase, sum) in sums.iter().enumerate() {
                let x = ((q + i) * STRIDE + phase) as isize + spread.shift;
                if x >= 0 && x < spread.width as isize {
                    finish::<S, WHOLE>(row, at, x as usize, *sum);
                }
            }
        }
    }
}

on_isa! {
    /// The sums that `MX` input pixels from the `q`th on begin.
    ///
    /// # Safety
    /// The CPU has `isa`; rows hold the pixels that the taps meet.
    fn spread_tile<S, const K: usize, const STRIDE: usize, const MX: usize>(
        row: &Row, spread: Spread, q: usize,
    ) {
        over_channels!(S, row.channels, spread_vector::<K, STRIDE, MX>(row, spread, q));
    }
}

/// What a pixel of any kernel sums: an input pixel and a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tap {
    /// The kernel's row, an index of [`Row::inputs`].
    pub row: usize,
    /// Pixels from the place that the output pixel begins at.
    pub column: usize,
    /// Index of the weight.
    pub weight: usize,
}

/// Output pixels `first, first + step, ...`, whose inputs lie `in_step` pixels apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub first: usize,
    pub step: usize,
    pub in_step: usize,
}

#[inline(always)]
unsafe fn gather_vector<S: Simd, const MX: usize, const WHOLE: bool>(
    row: &Row,
    taps: &[Tap],
    steps: Steps,
    i: usize,
    at: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let n = row.channels - at;
        let mut sums = [S::zero(); MX];
        for tap in taps {
            let input = *row.inputs.get_unchecked(tap.row);
            if input.is_null() {
                continue;
            }
            let input = input.add((i * steps.in_step + tap.column) * row.in_stride + at);
            let weight = load::<S, WHOLE>(row.taps.add(tap.weight * row.tap_stride + at), n);
            for (j, sum) in sums.iter_mut().enumerate() {
                let pixel = load::<S, WHOLE>(input.add(j * steps.in_step * row.in_stride), n);
                *sum = S::fma(pixel, weight, *sum);
            }
        }
        for (j, sum) in sums.into_iter().enumerate() {
            finish::<S, WHOLE>(row, at, steps.first + (i + j) * steps.step, sum);
        }
    }
}

on_isa! {
    /// `MX` pixels from the `i`th on.
    ///
    /// # Safety
    /// The CPU has `isa`; rows hold the pixels that the taps meet.
    fn gather_tile<S, const MX: usize>(row: &Row, taps: &[Tap], steps: Steps, i: usize) {
        over_channels!(S, row.channels, gather_vector::<MX>(row, taps, steps, i));
    }
}

/// Whether [`correlate`] is compiled for a square kernel of this size.
pub(crate) fn is_compiled(kernel: usize, stride: usize) -> bool {
    matches!((kernel, stride), (3 | 5, 1 | 2))
}

/// The first `pixels` output pixels of a correlation with a `kernel` x `kernel` filter; pixel `x`
/// begins at input pixel `x * stride`.
///
/// # Safety
/// The CPU has `isa`; rows hold the pixels that the taps meet; [`is_compiled`].
pub(crate) unsafe fn correlate(isa: Isa, kernel: usize, stride: usize, pixels: usize, row: &Row) {
    macro_rules! pick {
        ($size:expr, $x:expr; $(($k:literal, $s:literal): $($m:literal)*;)*) => {
            match (kernel, stride, $size) {
                // SAFETY: by the caller's word.
                $($(($k, $s, $m) => unsafe { correlate_tile::<$k, $s, $m>(isa, row, $x) },)*)*
                _ => unreachable!("a depthwise tile of {kernel}x{kernel} at stride {stride}"),
            }
        };
    }
    let (size, tiles) = tiles(pixels);
    for x in tiles {
        pick!(size, x; (3, 1): 7 4 2 1; (3, 2): 7 4 2 1; (5, 1): 7 4 2 1; (5, 2): 7 4 2 1;);
    }
}

/// The transpose of [`correlate`] at stride 2: `count` input pixels, each the first that two sums
/// meet, make a row of output pixels.
///
/// # Safety
/// The CPU has `isa`; rows hold the pixels that the taps meet; `kernel` is 3 or 5.
pub(super) unsafe fn spread(isa: Isa, kernel: usize, count: usize, row: &Row, spread: Spread) {
    let (size, tiles) = tiles(count);
    for q in tiles {
        // SAFETY: by the caller's word.
        unsafe {
            match (kernel, size) {
                (3, 7) => spread_tile::<3, 2, 7>(isa, row, spread, q),
                (3, 4) => spread_tile::<3, 2, 4>(isa, row, spread, q),
                (3, 2) => spread_tile::<3, 2, 2>(isa, row, spread, q),
                (3, 1) => spread_tile::<3, 2, 1>(isa, row, spread, q),
                (5, 7) => spread_tile::<5, 2, 7>(isa, row, spread, q),
                (5, 4) => spread_tile::<5, 2, 4>(isa, row, spread, q),
                (5, 2) => spread_tile::<5, 2, 2>(isa, row, spread, q),
                (5, 1) => spread_tile::<5, 2, 1>(isa, row, spread, q),
                _ => unreachable!("a transposed depthwise tile of {kernel}x{kernel}"),
            }
        }
    }
}

/// `pixels` output pixels of any kernel: sums over `taps`, each pixel as `steps` says.
///
/// # Safety
/// The CPU has `isa`; rows hold the pixels that the taps meet.
pub(crate) unsafe fn gather(isa: Isa, pixels: usize, row: &Row, taps: &[Tap], steps: Steps) {
    let (size, tiles) = tiles(pixels);
    for i in tiles {
        // SAFETY: by the caller's word.
        unsafe {
            match size {
                7 => gather_tile::<7>(isa, row, taps, steps, i),
                4 => gather_tile::<4>(isa, row, taps, steps, i),
                2 => gather_tile::<2>(isa, row, taps, steps, i),
                _ => gather_tile::<1>(isa, row, taps, steps, i),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_pixel() {
        for len in 1..100 {
            let (size, tiles) = tiles(len);
            let mut next = 0;
            for first in tiles {
                assert!(first <= next);
                next = first + size;
            }
            assert_eq!(next, len);
        }
    }
}
