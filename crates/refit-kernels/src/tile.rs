//! The register tile of every matrix product here: some pixels times some vectors of output
//! channels, summed over the whole depth before anything is written.
//!
//! Pixels are broadcast from where they lie; weights are packed in panels, `[depth][vectors * lanes]`
//! for each run of `vectors * lanes` output channels. With 16 lanes and 32 registers, 14 pixels by 2
//! vectors keep both multiply-add units busy: 28 sums, 2 vectors of weights.

use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::simd::{Isa, on_isa};

/// A run of consecutive input values, at an offset from a tile's first pixel. A product's depth is
/// the runs' lengths together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub offset: usize,
    pub len: usize,
}

/// What happens to a finished tile: `activation(sum + shift + residual)`. Pointers are to the tile's
/// first output channel (`residual`: of its first pixel), or null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileExit {
    pub shift: *const f32,
    pub residual: *const f32,
    pub activation: Activation,
}

impl TileExit {
    pub(crate) const NONE: Self = Self {
        shift: std::ptr::null(),
        residual: std::ptr::null(),
        activation: Activation::Identity,
    };
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
    pub exit: TileExit,
}

on_isa! {
    /// Computes a tile of `MR` pixels by `NR` vectors.
    ///
    /// # Safety
    /// The CPU has `isa`; all pointers are valid for the tile's extent.
    fn tile<S, const MR: usize, const NR: usize>(t: &Tile) {
        let mut sums = [[S::zero(); NR]; MR];
        let mut b = t.b;
        for run in t.runs {
            let mut a = t.a.add(run.offset);
            for _ in 0..run.len {
                let mut weights = [S::zero(); NR];
                for j in 0..NR {
                    weights[j] = S::load(b.add(S::LANES * j));
                }
                for i in 0..MR {
                    let pixel = S::splat(*a.add(i * t.a_stride));
                    for j in 0..NR {
                        sums[i][j] = S::fma(pixel, weights[j], sums[i][j]);
                    }
                }
                a = a.add(1);
                b = b.add(S::LANES * NR);
            }
        }
        let whole = t.n == S::LANES * NR;
        let left = |j: usize| t.n.saturating_sub(S::LANES * j).min(S::LANES);
        if !t.exit.shift.is_null() {
            for j in 0..NR {
                let shift = if whole {
                    S::load(t.exit.shift.add(S::LANES * j))
                } else {
                    S::load_first(t.exit.shift.wrapping_add(S::LANES * j), left(j))
                };
                for i in 0..MR {
                    sums[i][j] = S::add(sums[i][j], shift);
                }
            }
        }
        if !t.exit.residual.is_null() {
            for i in 0..MR {
                for j in 0..NR {
                    let at = t.exit.residual.wrapping_add(i * t.c_stride + S::LANES * j);
                    let residual = if whole { S::load(at) } else { S::load_first(at, left(j)) };
                    sums[i][j] = S::add(sums[i][j], residual);
                }
            }
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
        for i in 0..MR {
            for j in 0..NR {
                let at = t.c.wrapping_add(i * t.c_stride + S::LANES * j);
                if whole {
                    S::store(at, sums[i][j]);
                } else {
                    S::store_first(at, sums[i][j], left(j));
                }
            }
        }
    }
}

/// Computes a tile of `rows` pixels by `vectors` vectors.
///
/// # Safety
/// The CPU has `isa`; `rows` is at most [`Isa::tile_rows`]; all pointers are valid for the tile's
/// extent.
#[inline]
pub(crate) unsafe fn run_tile(isa: Isa, rows: usize, vectors: usize, t: &Tile) {
    macro_rules! pick {
        ($($n:literal: $($m:literal)*;)*) => {
            match (vectors, rows) {
                // SAFETY: by the caller's word.
                $($(($n, $m) => unsafe { tile::<$m, $n>(isa, t) },)*)*
                _ => unreachable!("a tile of {rows} pixels by {vectors} vectors"),
            }
        };
    }
    pick!(
        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        3: 1 2 3 4 5 6 7 8 9;
        4: 1 2 3 4 5 6;
    )
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
    pub isa: Isa,
    pub panels: Vec<Panel>,
    pub depth: usize,
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
        Self { isa, panels, depth, weights }
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
                        };
                        let tile = Tile {
                            a: a.as_ptr(),
                            a_stride: stride,
                            runs: &runs,
                            b: packed.weights[panel.offset..].as_ptr(),
                            c: c[panel.start..].as_mut_ptr(),
                            c_stride: channels,
                            n: panel.width,
                            exit,
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
                            assert!((f64::from(*c) - exact).abs() < 1e-4, "{isa:?} {i}");
                        }
                    }
                }
            }
        }
    }
}
