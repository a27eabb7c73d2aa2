//! The register tile of every matrix product here: some pixels times some vectors of output
//! channels, summed over the whole depth before anything is written.
//!
//! Pixels are broadcast from where they lie; weights are packed in panels, `[depth][vectors * lanes]`
//! for each run of `vectors * lanes` output channels. With 16 lanes and 32 registers, 14 pixels by 2
//! vectors keep both multiply-add units busy: 28 sums, 2 vectors of weights.

use std::mem::MaybeUninit;

use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::curve::Curve;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Isa, Scalar, Simd, on_isa, prefetch};

/// A run of consecutive input values, at an offset from a tile's first pixel. A product's depth is
/// the runs' lengths together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub offset: usize,
    pub len: usize,
}

/// What happens to a finished tile: `curve(activation(sum + shift + residual))`, and what is gathered
/// from it. Pointers are to the tile's first output channel (`residual`: of its first pixel), or null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileExit<'a> {
    pub shift: *const f32,
    pub residual: *const f32,
    pub activation: Activation,
    pub curve: Option<Curve>,
    pub gather: Gather<'a>,
    /// Whether whole vectors pass the caches by, each then being a cache line of its own or part of
    /// one that is written whole.
    pub streams: bool,
}

impl TileExit<'_> {
    pub(crate) const NONE: Self = Self {
        shift: std::ptr::null(),
        residual: std::ptr::null(),
        activation: Activation::Identity,
        curve: None,
        gather: Gather::Nothing,
        streams: false,
    };

    /// Whether an activation is all that comes after the shift.
    fn is_simple(&self) -> bool {
        self.residual.is_null() && self.curve.is_none() && matches!(self.gather, Gather::Nothing)
    }
}

/// What the tiles of a panel gather one after the other, two rows of `vectors * lanes` values that
/// lie `stride` apart and begin as zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Gather<'a> {
    Nothing,
    /// The mean, and the sum of squares around it, of the `before` pixels gathered until now.
    Moments {
        to: *mut f32,
        stride: usize,
        before: usize,
    },
    /// The sum of a gradient that has passed an activation, and of its products with the input.
    Gradient {
        to: *mut f32,
        stride: usize,
        through: TileThrough<'a>,
    },
}

/// The activation that a tile's gradient passes backwards: the channels' factors from the tile's
/// first one on, and its first input, whose pixels lie as far apart as the output's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileThrough<'a> {
    pub x: *const f32,
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub center: &'a [f32],
    pub activation: Activation,
}

/// One tile. Pointers are to its first value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// Input pixels, and the distance between neighbouring ones.
    pub a: *const f32,
    pub a_stride: usize,
    /// Where a pixel's values lie.
    pub runs: &'a [Run],
    /// The packed panel of weights.
    pub b: *const f32,
    /// Output pixels, and the distance between neighbouring ones (that of the residual's too).
    pub c: *mut f32,
    pub c_stride: usize,
    /// Output channels in the panel, less than `vectors * lanes` at the last.
    pub n: usize,
    /// Whether sums go on from what stands in the output, not from the exit's shift.
    pub goes_on: bool,
    pub exit: TileExit<'a>,
    pub ahead: Ahead,
}

/// Memory that a tile brings near while it computes: at every step of its depth the line at `from`,
/// which then moves on by `step` values. A few at a time, since the CPU keeps few lines on the way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    pub from: *const f32,
    pub step: usize,
}

impl Ahead {
    pub(crate) const NOTHING: Self = Self { from: std::ptr::null(), step: 0 };

    /// Spreads `values` over a depth.
    pub(crate) fn new(values: &[f32], depth: usize) -> Self {
        Self { from: values.as_ptr(), step: values.len().div_ceil(depth.max(1)) }
    }
}

/// Computes a tile of `MR` pixels by `NR` vectors.
///
/// # Safety
/// The CPU has `S`; all pointers are valid for the tile's extent.
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NR: usize>(t: &Tile) {
    // SAFETY: by the caller's word.
    unsafe {
        let mut shift = [S::zero(); NR];
        if !t.exit.shift.is_null() {
            for (j, shift) in shift.iter_mut().enumerate() {
                *shift = load::<S, NR>(t.exit.shift, t.n, j);
            }
        }
        let mut sums = [shift; MR];
        if t.goes_on {
            read::<S, MR, NR>(&mut sums, t);
        }
        let (mut b, mut ahead) = (t.b, t.ahead.from);
        for run in t.runs {
            let mut a = t.a.add(run.offset);
            for _ in 0..run.len {
                prefetch(ahead);
                ahead = ahead.wrapping_add(t.ahead.step);
                let mut weights = [S::zero(); NR];
                for (j, weights) in weights.iter_mut().enumerate() {
                    *weights = S::load(b.add(S::LANES * j));
                }
                for (i, row) in sums.iter_mut().enumerate() {
                    let pixel = S::splat(*a.add(i * t.a_stride));
                    for (sum, weights) in row.iter_mut().zip(weights) {
                        *sum = S::fma(pixel, weights, *sum);
                    }
                }
                a = a.add(1);
                b = b.add(S::LANES * NR);
            }
        }
        if t.n < S::LANES * NR || !t.exit.is_simple() {
            // A copy: where `sums` itself is lent, the compiler keeps it in memory, not registers.
            let mut copy = MaybeUninit::<[[S::V; NR]; MR]>::uninit();
            let to: *mut f32 = copy.as_mut_ptr().cast();
            write::<S, MR, NR>(&sums, to, S::LANES * NR);
            return finish::<NR>(S::ISA, to, MR, t);
        }
        if t.exit.activation != Activation::Identity {
            let (low, high) = t.exit.activation.bounds();
            let (low, high) = (S::splat(low), S::splat(high));
            for row in &mut sums {
                for v in row {
                    *v = S::clamp(*v, low, high);
                }
            }
        }
        if t.exit.streams {
            stream::<S, MR, NR>(&sums, t.c, t.c_stride);
        } else {
            write::<S, MR, NR>(&sums, t.c, t.c_stride);
        }
    }
}

/// Reads what stands in the output.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "iterators would keep the sums in memory")]
unsafe fn read<S: Simd, const MR: usize, const NR: usize>(sums: &mut [[S::V; NR]; MR], t: &Tile) {
    for i in 0..MR {
        for j in 0..NR {
            // SAFETY: by the caller's word.
            sums[i][j] = unsafe { load::<S, NR>(t.c.wrapping_add(i * t.c_stride), t.n, j) };
        }
    }
}

/// Writes whole vectors, a row every `stride` values.
///
/// # Safety
/// The CPU has `S`; the rows can be written.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "iterators would keep the sums in memory")]
unsafe fn write<S: Simd, const MR: usize, const NR: usize>(
    sums: &[[S::V; NR]; MR],
    to: *mut f32,
    stride: usize,
) {
    for i in 0..MR {
        for j in 0..NR {
            // SAFETY: by the caller's word.
            unsafe { S::store(to.add(i * stride + S::LANES * j), sums[i][j]) };
        }
    }
}

/// Writes whole vectors past the caches.
///
/// # Safety
/// As [`write`], and rows begin on cache lines.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "iterators would keep the sums in memory")]
unsafe fn stream<S: Simd, const MR: usize, const NR: usize>(
    sums: &[[S::V; NR]; MR],
    to: *mut f32,
    stride: usize,
) {
    for i in 0..MR {
        for j in 0..NR {
            // SAFETY: by the caller's word.
            unsafe { S::stream(to.add(i * stride + S::LANES * j), sums[i][j]) };
        }
    }
}

/// Vector `j` of `n` values.
///
/// # Safety
/// The CPU has `S`; `n` values can be read.
#[inline(always)]
unsafe fn load<S: Simd, const NR: usize>(p: *const f32, n: usize, j: usize) -> S::V {
    let at = p.wrapping_add(S::LANES * j);
    // SAFETY: by the caller's word; a vector that is not whole is read as far as `n` goes.
    unsafe {
        if n == S::LANES * NR {
            S::load(at)
        } else {
            S::load_first(at, n.saturating_sub(S::LANES * j).min(S::LANES))
        }
    }
}

/// Writes vector `j` of a tile's row at `p`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn store<S: Simd, const NR: usize>(t: &Tile, p: *mut f32, j: usize, v: S::V) {
    let at = p.wrapping_add(S::LANES * j);
    // SAFETY: as in `load`.
    unsafe {
        if t.n < S::LANES * NR {
            S::store_first(at, v, t.n.saturating_sub(S::LANES * j).min(S::LANES));
        } else if t.exit.streams {
            S::stream(at, v);
        } else {
            S::store(at, v);
        }
    }
}

on_isa! {
    /// Writes a tile's sums, `rows` of `NR` vectors, by way of its exit (but the shift).
    ///
    /// # Safety
    /// As [`tile`]; `sums` are vectors of `isa`.
    fn finish<S, const NR: usize>(sums: *const f32, rows: usize, t: &Tile) {
        let sums = std::slice::from_raw_parts(sums.cast::<[S::V; NR]>(), rows);
        match &t.exit.gather {
            Gather::Nothing => activate::<S, NR>(sums, t),
            Gather::Moments { to, stride, before } => {
                activate::<S, NR>(sums, t);
                add_moments::<S, NR>(sums, *to, *stride, *before);
            }
            Gather::Gradient { to, stride, through } => {
                pass_activation::<S, NR>(sums, t, through, *to, *stride);
            }
        }
    }
}

/// Adds the residual, applies the activation and then the curve.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn activate<S: Simd, const NR: usize>(sums: &[[S::V; NR]], t: &Tile) {
    let (low, high) = t.exit.activation.bounds();
    // SAFETY: by the caller's word.
    unsafe {
        let (low, high) = (S::splat(low), S::splat(high));
        for (i, row) in sums.iter().enumerate() {
            let residual = t.exit.residual.wrapping_add(i * t.c_stride);
            for (j, v) in row.iter().enumerate() {
                let mut v = *v;
                if !t.exit.residual.is_null() {
                    v = S::add(v, load::<S, NR>(residual, t.n, j));
                }
                v = S::clamp(v, low, high);
                if let Some(curve) = t.exit.curve {
                    v = curve.of_vector::<S>(v);
                }
                store::<S, NR>(t, t.c.wrapping_add(i * t.c_stride), j, v);
            }
        }
    }
}

/// Joins a tile's mean and squares with those of the tiles before (Chan, Golub & LeVeque 1983).
///
/// # Safety
/// The CPU has `S`; both rows of `to` hold `NR` vectors.
#[inline(always)]
unsafe fn add_moments<S: Simd, const NR: usize>(
    sums: &[[S::V; NR]],
    to: *mut f32,
    stride: usize,
    before: usize,
) {
    let count = sums.len() as f32;
    let share = count / (before as f32 + count);
    // SAFETY: by the caller's word.
    unsafe {
        let mut means = [S::zero(); NR];
        for row in sums {
            for (mean, v) in means.iter_mut().zip(row) {
                *mean = S::add(*mean, *v);
            }
        }
        for mean in &mut means {
            *mean = S::mul(*mean, S::splat(1.0 / count));
        }
        let mut squares = [S::zero(); NR];
        for row in sums {
            for (j, v) in row.iter().enumerate() {
                let d = S::sub(*v, means[j]);
                squares[j] = S::fma(d, d, squares[j]);
            }
        }
        for (j, mean) in means.into_iter().enumerate() {
            let means = to.add(S::LANES * j);
            let all_squares = means.add(stride);
            let old = S::load(means);
            let d = S::sub(mean, old);
            S::store(means, S::fma(d, S::splat(share), old));
            let between = S::mul(S::mul(d, d), S::splat(before as f32 * share));
            S::store(all_squares, S::add(S::load(all_squares), S::add(squares[j], between)));
        }
    }
}

/// Passes a tile's gradient through the activation, writes it and sums it up.
///
/// # Safety
/// As [`tile`]; both rows of `to` hold `NR` vectors.
#[inline(always)]
unsafe fn pass_activation<S: Simd, const NR: usize>(
    sums: &[[S::V; NR]],
    t: &Tile,
    through: &TileThrough,
    to: *mut f32,
    stride: usize,
) {
    let (low, high) = through.activation.bounds();
    // SAFETY: by the caller's word.
    unsafe {
        let (low, high) = (S::splat(low), S::splat(high));
        let mut factors = [[S::zero(); 3]; NR];
        let mut totals = [[S::zero(); 2]; NR];
        for (j, (factors, totals)) in factors.iter_mut().zip(&mut totals).enumerate() {
            *factors = [
                load::<S, NR>(through.scale.as_ptr(), t.n, j),
                load::<S, NR>(through.shift.as_ptr(), t.n, j),
                load::<S, NR>(through.center.as_ptr(), t.n, j),
            ];
            let sum = to.add(S::LANES * j);
            *totals = [S::load(sum), S::load(sum.add(stride))];
        }
        for (i, row) in sums.iter().enumerate() {
            for (j, g) in row.iter().enumerate() {
                let ([scale, shift, center], [sum, product]) = (factors[j], totals[j]);
                let x = load::<S, NR>(through.x.wrapping_add(i * t.c_stride), t.n, j);
                let g = S::keep_between(*g, S::fma(x, scale, shift), low, high);
                totals[j] = [S::add(sum, g), S::fma(g, S::sub(x, center), product)];
                store::<S, NR>(t, t.c.wrapping_add(i * t.c_stride), j, g);
            }
        }
        for (j, [sum, product]) in totals.into_iter().enumerate() {
            let at = to.add(S::LANES * j);
            S::store(at, sum);
            S::store(at.add(stride), product);
        }
    }
}

/// Computes a tile of `rows` pixels by `vectors` vectors.
///
/// # Safety
/// The CPU has `isa`; `rows` is at most [`Isa::tile_rows`]; all pointers are valid for the tile's
/// extent.
pub(crate) unsafe fn run_tile(isa: Isa, rows: usize, vectors: usize, t: &Tile) {
    // Only sizes that are used are compiled.
    macro_rules! pick {
        ($S:ty: $($n:literal: $($m:literal)*;)*) => {
            match (vectors, rows) {
                // SAFETY: by the caller's word.
                $($(($n, $m) => unsafe { tile::<$S, $m, $n>(t) },)*)*
                _ => unreachable!("a tile of {rows} pixels by {vectors} vectors"),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            #[target_feature(enable = "avx512f")]
            unsafe fn tile<S: Simd, const MR: usize, const NR: usize>(t: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { super::tile::tile::<S, MR, NR>(t) }
            }
            pick!(Avx512:
                1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
                3: 1 2 3 4 5 6 7 8 9;
            )
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            #[target_feature(enable = "avx2,fma")]
            unsafe fn tile<S: Simd, const MR: usize, const NR: usize>(t: &Tile) {
                // SAFETY: by the caller's word.
                unsafe { super::tile::tile::<S, MR, NR>(t) }
            }
            pick!(Avx2: 1: 1 2 3 4 5 6; 2: 1 2 3 4 5 6; 3: 1 2 3 4;)
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => pick!(Neon:
            1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
            2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
            3: 1 2 3 4 5 6 7 8 9;
        ),
        _ => pick!(Scalar: 1: 1 2; 2: 1 2; 3: 1 2;),
    }
}

/// A run of output channels that share packed weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panel {
    /// The first channel.
    pub start: usize,
    /// Channels.
    pub width: usize,
    /// Vectors that hold them.
    pub vectors: usize,
    /// Where its weights begin.
    pub offset: usize,
}

/// Cuts `channels` into panels of two vectors; a single vector left over joins the one before. The
/// number of weights of all panels comes with them.
pub(crate) fn panels(isa: Isa, channels: usize, depth: usize) -> (Vec<Panel>, usize) {
    let lanes = isa.lanes();
    let mut left = channels.div_ceil(lanes);
    let (mut start, mut offset, mut panels) = (0, 0, Vec::new());
    while left > 0 {
        let vectors = if left == 3 { 3 } else { left.min(2) };
        let width = (lanes * vectors).min(channels - start);
        panels.push(Panel { start, width, vectors, offset });
        start += width;
        offset += depth * lanes * vectors;
        left -= vectors;
    }
    (panels, offset)
}

/// Cuts `len` pixels into nearly equal tiles of at most `most`: `(first, pixels)`.
pub(crate) fn cut(len: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = len.div_ceil(most);
    (0..parts).map(move |i| {
        let (first, end) = (i * len / parts, (i + 1) * len / parts);
        (first, end - first)
    })
}

/// Weights in panels.
#[derive(Debug)]
pub(crate) struct Packed {
    pub panels: Vec<Panel>,
    pub weights: Buffer,
}

impl Packed {
    /// Packs `depth` rows for `channels` output channels; `weight(row, channel)` gives the values.
    pub(crate) fn new(
        isa: Isa,
        depth: usize,
        channels: usize,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let (panels, len) = panels(isa, channels, depth);
        let mut weights = Buffer::zeros(len);
        for panel in &panels {
            let rows = weights[panel.offset..].chunks_exact_mut(isa.lanes() * panel.vectors);
            for (k, row) in rows.take(depth).enumerate() {
                for (j, value) in row.iter_mut().take(panel.width).enumerate() {
                    *value = weight(k, panel.start + j);
                }
            }
        }
        Self { panels, weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_every_channel_once() {
        for isa in Isa::available() {
            for channels in 1..100 {
                let (panels, len) = panels(isa, channels, 5);
                let mut next = 0;
                for panel in &panels {
                    assert_eq!(panel.start, next);
                    next += panel.width;
                }
                assert_eq!(next, channels);
                assert_eq!(len, panels.iter().map(|p| 5 * p.vectors * isa.lanes()).sum::<usize>());
            }
        }
    }

    #[test]
    fn tiles_equal_the_sum_of_products() {
        let value = |i: usize| ((i * 37 + 11) % 23) as f32 / 7.0 - 1.5;
        let (stride, depth) = (11, 9);
        let runs = [Run { offset: 0, len: 6 }, Run { offset: 8, len: 3 }];
        let places: Vec<usize> = runs.iter().flat_map(|r| r.offset..r.offset + r.len).collect();
        for isa in Isa::available() {
            for channels in [1, 3, 16, 17, 31, 32, 40, 48] {
                let packed = Packed::new(isa, depth, channels, |k, n| value(k * channels + n + 5));
                for panel in &packed.panels {
                    for rows in 1..=isa.tile_rows(panel.vectors) {
                        let a: Vec<f32> = (0..stride * rows).map(value).collect();
                        let residual: Vec<f32> = (0..channels * rows).map(value).collect();
                        let shift: Vec<f32> = (0..channels).map(value).collect();
                        let mut c = vec![f32::NAN; channels * rows];
                        let exit = TileExit {
                            shift: shift[panel.start..].as_ptr(),
                            residual: residual[panel.start..].as_ptr(),
                            activation: Activation::Relu6,
                            curve: Some(Curve::HardSwish),
                            ..TileExit::NONE
                        };
                        let tile = Tile {
                            a: a.as_ptr(),
                            a_stride: stride,
                            runs: &runs,
                            b: packed.weights[panel.offset..].as_ptr(),
                            c: c[panel.start..].as_mut_ptr(),
                            c_stride: channels,
                            n: panel.width,
                            goes_on: false,
                            exit,
                            ahead: Ahead::NOTHING,
                        };
                        // SAFETY: `isa` is available, and the slices hold the tile's extent.
                        unsafe { run_tile(isa, rows, panel.vectors, &tile) };
                        for (i, c) in c.iter().enumerate() {
                            let (row, n) = (i / channels, i % channels);
                            if n < panel.start || n >= panel.start + panel.width {
                                assert!(c.is_nan(), "{i} was touched");
                                continue;
                            }
                            let sum = |(k, place): (usize, &usize)| {
                                f64::from(a[row * stride + place])
                                    * f64::from(value(k * channels + n + 5))
                            };
                            let exact = places.iter().enumerate().map(sum).sum::<f64>()
                                + f64::from(shift[n])
                                + f64::from(residual[i]);
                            let exact = exact.clamp(0.0, 6.0);
                            let exact = exact * (exact + 3.0).clamp(0.0, 6.0) / 6.0;
                            assert!((f64::from(*c) - exact).abs() < 1e-4, "{isa:?} {i}");
                        }
                    }
                }
            }
        }
    }
}
