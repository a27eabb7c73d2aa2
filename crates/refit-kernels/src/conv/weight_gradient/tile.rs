//! The register tile of a weight gradient: some neighbouring input channels by some vectors of
//! output channels, summed over pixels.

use crate::simd::{Isa, on_isa, prefetch};
use crate::tile::Ahead;

/// Pixels of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PixelRun {
    /// The first one's number in the window of the input, and in the output's gradient.
    pub x: usize,
    pub dy: usize,
    pub len: usize,
}

/// One tile. Pointers are to its first value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SumTile<'a> {
    /// The pixels that are summed over.
    pub runs: &'a [PixelRun],
    /// Input channels of pixel 0 of the window, the distance between neighbouring pixels, and the
    /// pixels between those of a run.
    pub x: *const f32,
    pub x_stride: usize,
    pub x_step: usize,
    /// Output channels of pixel 0, as many as the vectors have lanes, and the distance between
    /// neighbouring pixels.
    pub dy: *const f32,
    pub dy_stride: usize,
    /// The sums, `[channels, vectors * lanes]`.
    pub sums: *mut f32,
    /// Whether they are added to what stands there, or written over it.
    pub goes_on: bool,
    /// What is brought near, a step a pixel.
    pub ahead: Ahead,
}

on_isa! {
    /// Sums of `MR` input channels by `NR` vectors.
    ///
    /// # Safety
    /// The CPU has `isa`; all pointers are valid for the tile's extent.
    fn tile<S, const MR: usize, const NR: usize>(t: &SumTile) {
        let mut sums = [[S::zero(); NR]; MR];
        let mut ahead = t.ahead.from;
        for run in t.runs {
            let mut x = t.x.add(run.x * t.x_stride);
            let mut dy = t.dy.add(run.dy * t.dy_stride);
            for _ in 0..run.len {
                prefetch(ahead);
                ahead = ahead.wrapping_add(t.ahead.step);
                let mut out = [S::zero(); NR];
                for (j, out) in out.iter_mut().enumerate() {
                    *out = S::load(dy.add(S::LANES * j));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = S::splat(*x.add(i));
                    for j in 0..NR {
                        sums[j] = S::fma(value, out[j], sums[j]);
                    }
                }
                x = x.wrapping_add(t.x_step * t.x_stride);
                dy = dy.wrapping_add(t.dy_stride);
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let at = t.sums.add((i * NR + j) * S::LANES);
                let before = if t.goes_on { S::load(at) } else { S::zero() };
                S::store(at, S::add(before, *sum));
            }
        }
    }
}

/// Sums of `channels` input channels by `vectors` vectors.
///
/// # Safety
/// The CPU has `isa`; `channels` is at most [`Isa::tile_rows`]; all pointers are valid for the
/// tile's extent.
#[inline]
pub(crate) unsafe fn run_sum_tile(isa: Isa, channels: usize, vectors: usize, t: &SumTile) {
    macro_rules! pick {
        ($($n:literal: $($m:literal)*;)*) => {
            match (vectors, channels) {
                // SAFETY: by the caller's word.
                $($(($n, $m) => unsafe { tile::<$m, $n>(isa, t) },)*)*
                _ => unreachable!("a tile of {channels} channels by {vectors} vectors"),
            }
        };
    }
    pick!(
        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        3: 1 2 3 4 5 6 7 8 9;
    )
}

on_isa! {
    /// Copies the first `width` channels of pixels to dense pixels of `padded`, zeros beyond.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for these extents.
    pub(crate) fn pack<S>(
        runs: &[PixelRun], dy: *const f32, stride: usize, to: *mut f32, width: usize, padded: usize,
    ) {
        let mut to = to;
        for run in runs {
            for i in 0..run.len {
                let from = dy.add((run.dy + i) * stride);
                let mut at = 0;
                while at < padded {
                    let n = width.saturating_sub(at).min(S::LANES);
                    let v = if n == S::LANES {
                        S::load(from.add(at))
                    } else {
                        S::load_first(from.wrapping_add(at), n)
                    };
                    S::store(to.add(at), v);
                    at += S::LANES;
                }
                to = to.add(padded);
            }
        }
    }
}

on_isa! {
    /// `to = sum over parts of from[part * distance ..]`, folded in `f64`, for `len` values.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for these extents.
    pub(crate) fn fold<S>(from: *const f32, parts: usize, distance: usize, to: *mut f32, len: usize) {
        const BLOCK: usize = 32;
        let mut at = 0;
        while at < len {
            let n = BLOCK.min(len - at);
            let mut sums = [0.0f64; BLOCK];
            for part in 0..parts {
                let from = from.add(part * distance + at);
                for (i, sum) in sums.iter_mut().enumerate().take(n) {
                    *sum += f64::from(*from.add(i));
                }
            }
            for (i, sum) in sums.iter().enumerate().take(n) {
                *to.add(at + i) = *sum as f32;
            }
            at += n;
        }
    }
}
