//! The transforms, a vector of channels at a time.
//!
//! The points are 0, ±√½, ±√2 and infinity. With the usual ±1 and ±2 the matrices hold numbers up to
//! 8 and 1/24; these are better balanced, at the same cost.
#![expect(
    clippy::needless_range_loop,
    reason = "rows and columns by their numbers; iterators over parts of arrays keep them in memory"
)]

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::ops::Range;

use crate::simd::{Simd, on_isa};

/// Output pixels of a tile's side.
pub(super) const M: usize = 4;
/// Input pixels of a tile's side.
pub(super) const N: usize = 6;
/// Matrix products.
pub(super) const PRODUCTS: usize = N * N;

/// The first pair of points is ±A, the second ±B.
const A: f32 = FRAC_1_SQRT_2;
const B: f32 = SQRT_2;

/// The transform of a filter at a pair of points, `even[0] * g0 + even[1] * g2 ± odd * g1`.
#[inline(always)]
unsafe fn filter_pair<S: Simd>(g: [S::V; 3], even: [f32; 2], odd: f32) -> [S::V; 2] {
    // SAFETY: by the caller's word.
    unsafe {
        let e = S::fma(S::splat(even[1]), g[2], S::mul(S::splat(even[0]), g[0]));
        [S::fma(S::splat(odd), g[1], e), S::fnma(S::splat(odd), g[1], e)]
    }
}

/// One dimension of the filter's transform.
#[inline(always)]
unsafe fn filter_1d<S: Simd>(g: [S::V; 3]) -> [S::V; N] {
    // SAFETY: by the caller's word.
    unsafe {
        let [a, minus_a] = filter_pair::<S>(g, [-1.0 / 1.5, -1.0 / 3.0], -A / 1.5);
        let [b, minus_b] = filter_pair::<S>(g, [1.0 / 6.0, 1.0 / 3.0], B / 6.0);
        [g[0], a, minus_a, b, minus_b, g[2]]
    }
}

/// One dimension of the input's transform.
#[inline(always)]
unsafe fn input_1d<S: Simd>(d: [S::V; N]) -> [S::V; N] {
    // SAFETY: by the caller's word.
    unsafe {
        let (half, two, sum) = (S::splat(0.5), S::splat(2.0), S::splat(2.5));
        let (even_a, odd_a) = (S::fnma(two, d[2], d[4]), S::fnma(two, d[1], d[3]));
        let (even_b, odd_b) = (S::fnma(half, d[2], d[4]), S::fnma(half, d[1], d[3]));
        [
            S::fnma(sum, d[2], S::add(d[0], d[4])),
            S::fma(S::splat(A), odd_a, even_a),
            S::fnma(S::splat(A), odd_a, even_a),
            S::fma(S::splat(B), odd_b, even_b),
            S::fnma(S::splat(B), odd_b, even_b),
            S::fnma(sum, d[3], S::add(d[1], d[5])),
        ]
    }
}

/// One dimension of the output's transform.
#[inline(always)]
unsafe fn output_1d<S: Simd>(m: [S::V; N]) -> [S::V; M] {
    // SAFETY: by the caller's word.
    unsafe {
        let (even_a, odd_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (even_b, odd_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(even_a, even_b)),
            S::fma(S::splat(A), odd_a, S::mul(S::splat(B), odd_b)),
            S::fma(S::splat(0.5), even_a, S::mul(S::splat(2.0), even_b)),
            S::fma(S::splat(A * 0.5), odd_a, S::fma(S::splat(B * 2.0), odd_b, m[5])),
        ]
    }
}

/// One dimension of the gradient's transform: the output's, turned round.
#[inline(always)]
unsafe fn gradient_1d<S: Simd>(e: [S::V; M]) -> [S::V; N] {
    // SAFETY: by the caller's word.
    unsafe {
        let (half, two) = (S::splat(0.5), S::splat(2.0));
        let (even_a, odd_a) = (S::fma(half, e[2], e[0]), S::fma(half, e[3], e[1]));
        let (even_b, odd_b) = (S::fma(two, e[2], e[0]), S::fma(two, e[3], e[1]));
        [
            e[0],
            S::fma(S::splat(A), odd_a, even_a),
            S::fnma(S::splat(A), odd_a, even_a),
            S::fma(S::splat(B), odd_b, even_b),
            S::fnma(S::splat(B), odd_b, even_b),
            e[3],
        ]
    }
}

/// One dimension of the transform of the weights' gradient: the filter's, turned round.
#[inline(always)]
unsafe fn weights_1d<S: Simd>(p: [S::V; N]) -> [S::V; 3] {
    // SAFETY: by the caller's word.
    unsafe {
        let (even_a, odd_a) = (S::add(p[1], p[2]), S::sub(p[1], p[2]));
        let (even_b, odd_b) = (S::add(p[3], p[4]), S::sub(p[3], p[4]));
        let (third, sixth) = (S::splat(1.0 / 3.0), S::splat(1.0 / 6.0));
        [
            S::fnma(S::splat(1.0 / 1.5), even_a, S::fma(sixth, even_b, p[0])),
            S::fnma(S::splat(A / 1.5), odd_a, S::mul(S::splat(B / 6.0), odd_b)),
            S::fma(third, S::sub(even_b, even_a), p[5]),
        ]
    }
}

/// Where the weights of a run of output channels lie; `row` and `column` are the distances between
/// neighbouring input and output channels. Each pair has its nine taps side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taps {
    pub from: *const f32,
    pub row: usize,
    pub column: usize,
    /// Whether the kernel is turned by half a turn.
    pub turned: bool,
}

on_isa! {
    /// Transforms the kernels of `rows` input channels and `n` output channels, of one panel of
    /// `vectors` vectors. `to` is the first row's place in the panel of the first product; the
    /// products' panels are `product` apart.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for that extent.
    pub(super) fn transform_filter<S>(taps: Taps, rows: usize, n: usize, vectors: usize, to: *mut f32, product: usize) {
        for row in 0..rows {
            for v in 0..vectors {
                let lanes = n.saturating_sub(v * S::LANES).min(S::LANES);
                let mut g = [[0.0f32; 16]; 9];
                for lane in 0..lanes {
                    let from = taps.from.add(row * taps.row + (v * S::LANES + lane) * taps.column);
                    for (t, g) in g.iter_mut().enumerate() {
                        g[lane] = *from.add(if taps.turned { 8 - t } else { t });
                    }
                }
                let mut half = [[S::zero(); 3]; N];
                for x in 0..3 {
                    let mut column = [S::zero(); 3];
                    for (y, v) in column.iter_mut().enumerate() {
                        *v = S::load(g[y * 3 + x].as_ptr());
                    }
                    for (y, v) in filter_1d::<S>(column).into_iter().enumerate() {
                        half[y][x] = v;
                    }
                }
                let to = to.add((row * vectors + v) * S::LANES);
                for (y, half) in half.into_iter().enumerate() {
                    for (x, v) in filter_1d::<S>(half).into_iter().enumerate() {
                        S::store(to.add((y * N + x) * product), v);
                    }
                }
            }
        }
    }
}

/// What input values pass; pointers to the first channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryRows {
    pub scale: *const f32,
    pub shift: *const f32,
    pub low: f32,
    pub high: f32,
}

/// A tile's input. `at` is where its first pixel would lie, inside the image or not.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub at: *const f32,
    /// Values from a row to the next, and from a pixel to the next.
    pub row: usize,
    pub pixel: usize,
    pub channels: usize,
    /// Which of its rows and columns lie inside the image; the others are zero.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub entry: Option<EntryRows>,
    /// The tile's row of the first product's matrix; whole vectors are written.
    pub to: *mut f32,
    /// From a product's matrix to the next.
    pub product: usize,
}

/// A whole vector, or the first `n` lanes.
#[inline(always)]
unsafe fn get<S: Simd, const WHOLE: bool>(at: *const f32, n: usize) -> S::V {
    // SAFETY: by the caller's word.
    unsafe { if WHOLE { S::load(at) } else { S::load_first(at, n) } }
}

/// The `i`th of each.
#[inline(always)]
unsafe fn column<S: Simd, const K: usize>(rows: &[[S::V; K]; N], i: usize) -> [S::V; N] {
    [rows[0][i], rows[1][i], rows[2][i], rows[3][i], rows[4][i], rows[5][i]]
}

/// One dimension of the transform of a patch of `SIDE` pixels: an input's, or a gradient's.
#[inline(always)]
unsafe fn patch_1d<S: Simd, const SIDE: usize>(d: [S::V; N]) -> [S::V; N] {
    // SAFETY: by the caller's word.
    unsafe { if SIDE == N { input_1d::<S>(d) } else { gradient_1d::<S>([d[0], d[1], d[2], d[3]]) } }
}

/// One vector of channels of a patch of `SIDE` by `SIDE` pixels.
#[inline(always)]
unsafe fn patch<S: Simd, const SIDE: usize, const WHOLE: bool>(p: &Patch, c: usize, n: usize) {
    // SAFETY: by the caller's word; only pixels inside the image are read.
    unsafe {
        let (mut scale, mut shift, mut low, mut high) =
            (S::zero(), S::zero(), S::zero(), S::zero());
        if let Some(e) = p.entry {
            (scale, shift) =
                (get::<S, WHOLE>(e.scale.add(c), n), get::<S, WHOLE>(e.shift.add(c), n));
            (low, high) = (S::splat(e.low), S::splat(e.high));
        }
        let mut half = [[S::zero(); N]; N];
        for (j, half) in half.iter_mut().enumerate().take(SIDE) {
            if !WHOLE && !p.rows.contains(&j) {
                continue;
            }
            let row = p.at.wrapping_add(j * p.row + c);
            let mut values = [S::zero(); N];
            for (i, value) in values.iter_mut().enumerate().take(SIDE) {
                if WHOLE || p.columns.contains(&i) {
                    *value = get::<S, WHOLE>(row.wrapping_add(i * p.pixel), n);
                    if p.entry.is_some() {
                        *value = S::clamp(S::fma(*value, scale, shift), low, high);
                    }
                }
            }
            *half = patch_1d::<S, SIDE>(values);
        }
        for i in 0..N {
            for (j, v) in patch_1d::<S, SIDE>(column::<S, N>(&half, i)).into_iter().enumerate() {
                S::store(p.to.add((j * N + i) * p.product + c), v);
            }
        }
    }
}

/// All channels of a patch of `SIDE` by `SIDE` pixels.
#[inline(always)]
unsafe fn all_channels<S: Simd, const SIDE: usize>(p: &Patch) {
    let inside = p.rows == (0..SIDE) && p.columns == (0..SIDE);
    for c in (0..p.channels).step_by(S::LANES) {
        let n = (p.channels - c).min(S::LANES);
        // SAFETY: by the caller's word.
        unsafe {
            if inside && n == S::LANES {
                patch::<S, SIDE, true>(p, c, n);
            } else {
                patch::<S, SIDE, false>(p, c, n);
            }
        }
    }
}

on_isa! {
    /// Transforms a tile's input.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for the extents that [`Patch`] names.
    pub(super) fn transform_input<S>(p: &Patch) {
        all_channels::<S, N>(p);
    }
}

on_isa! {
    /// Transforms the gradient of a tile's output, the output's transform turned round.
    ///
    /// # Safety
    /// As [`transform_input`].
    pub(super) fn transform_gradient<S>(p: &Patch) {
        all_channels::<S, M>(p);
    }
}

/// `clamp(y + shift + residual)`; pointers to the first channel (of the tile's first pixel), or null.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExitRows {
    pub shift: *const f32,
    pub residual: *const f32,
    pub low: f32,
    pub high: f32,
}

/// The gradient's way back through an entry; `x` points to the tile's first pixel.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThroughRows {
    pub x: *const f32,
    pub scale: *const f32,
    pub shift: *const f32,
    pub center: *const f32,
    pub low: f32,
    pub high: f32,
}

/// What happens to the output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Finish {
    Exit(ExitRows),
    /// Gather [`Sums`] of the output around the mean of the task's first tile. That is a part of the
    /// task's pixels, so that it can't be far from the mean for the spread that there is.
    Moments,
    Through(ThroughRows),
}

/// Three rows of sums over the pixels of a task, `row` apart: what squares are taken around, the
/// sum, and the sum of squares (or of products).
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub at: *mut f32,
    pub row: usize,
    /// Whether this is the task's first tile: nothing stands there yet.
    pub first: bool,
}

/// A tile's output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// The tile's row of the first product's result; whole vectors are read.
    pub from: *const f32,
    /// From a product's result to the next.
    pub product: usize,
    pub channels: usize,
    /// Its pixels that lie inside the image, at most [`M`] each way.
    pub rows: usize,
    pub columns: usize,
    /// The first output value.
    pub to: *mut f32,
    /// Values from an output row to the next, and from a pixel to the next.
    pub row: usize,
    pub pixel: usize,
    pub finish: Finish,
    pub sums: Sums,
}

impl Outcome {
    /// Rows and columns, known to the compiler if the tile is whole.
    #[inline(always)]
    const fn extent<const WHOLE: bool>(&self) -> (usize, usize) {
        if WHOLE { (M, M) } else { (self.rows, self.columns) }
    }
}

/// Adds a shift and a residual to a tile and clamps it.
#[inline(always)]
unsafe fn exit<S: Simd, const WHOLE: bool>(
    o: &Outcome,
    e: ExitRows,
    y: &mut [[S::V; M]; M],
    c: usize,
    n: usize,
) {
    let (rows, columns) = o.extent::<WHOLE>();
    // SAFETY: by the caller's word; only pixels inside the image are read.
    unsafe {
        let mut shift = S::zero();
        if !e.shift.is_null() {
            shift = get::<S, WHOLE>(e.shift.wrapping_add(c), n);
        }
        let (low, high) = (S::splat(e.low), S::splat(e.high));
        for j in 0..rows {
            for i in 0..columns {
                let mut v = S::add(y[j][i], shift);
                if !e.residual.is_null() {
                    let at = e.residual.wrapping_add(j * o.row + i * o.pixel + c);
                    v = S::add(v, get::<S, WHOLE>(at, n));
                }
                y[j][i] = S::clamp(v, low, high);
            }
        }
    }
}

/// The sum of a tile's values around `pivot`, and of their squares. A first tile sets the pivot.
#[inline(always)]
unsafe fn moments<S: Simd, const WHOLE: bool>(
    o: &Outcome,
    y: &[[S::V; M]; M],
    pivot: *mut f32,
    n: usize,
) -> [S::V; 2] {
    let (rows, columns) = o.extent::<WHOLE>();
    // SAFETY: by the caller's word.
    unsafe {
        if o.sums.first {
            let mut total = S::zero();
            for j in 0..rows {
                for i in 0..columns {
                    total = S::add(total, y[j][i]);
                }
            }
            S::store_first(pivot, S::mul(total, S::splat(1.0 / (rows * columns) as f32)), n);
        }
        let pivot = S::load_first(pivot, n);
        let (mut sum, mut square) = (S::zero(), S::zero());
        for j in 0..rows {
            for i in 0..columns {
                let off = S::sub(y[j][i], pivot);
                sum = S::add(sum, off);
                square = S::fma(off, off, square);
            }
        }
        [sum, square]
    }
}

/// Takes a tile of gradients back through an entry; their sum, and that of their products with the
/// centred input.
#[inline(always)]
unsafe fn through<S: Simd, const WHOLE: bool>(
    o: &Outcome,
    t: ThroughRows,
    y: &mut [[S::V; M]; M],
    c: usize,
    n: usize,
) -> [S::V; 2] {
    let (rows, columns) = o.extent::<WHOLE>();
    // SAFETY: by the caller's word; only pixels inside the image are read.
    unsafe {
        let scale = get::<S, WHOLE>(t.scale.wrapping_add(c), n);
        let shift = get::<S, WHOLE>(t.shift.wrapping_add(c), n);
        let center = get::<S, WHOLE>(t.center.wrapping_add(c), n);
        let (low, high) = (S::splat(t.low), S::splat(t.high));
        let (mut sum, mut product) = (S::zero(), S::zero());
        for j in 0..rows {
            for i in 0..columns {
                let x = get::<S, WHOLE>(t.x.wrapping_add(j * o.row + i * o.pixel + c), n);
                let g = S::keep_between(y[j][i], S::fma(x, scale, shift), low, high);
                sum = S::add(sum, g);
                product = S::fma(g, S::sub(x, center), product);
                y[j][i] = g;
            }
        }
        [sum, product]
    }
}

/// Adds a tile's sums to its task's.
#[inline(always)]
unsafe fn add_sums<S: Simd>(sums: Sums, c: usize, n: usize, values: [S::V; 2]) {
    // SAFETY: by the caller's word.
    unsafe {
        for (k, value) in values.into_iter().enumerate() {
            let at = sums.at.wrapping_add((k + 1) * sums.row + c);
            if sums.first {
                S::store_first(at, value, n);
            } else {
                S::store_first(at, S::add(S::load_first(at, n), value), n);
            }
        }
    }
}

/// The sixteen outputs of one vector of channels.
#[inline(always)]
unsafe fn restore<S: Simd>(o: &Outcome, c: usize) -> [[S::V; M]; M] {
    // SAFETY: by the caller's word.
    unsafe {
        let mut half = [[S::zero(); M]; N];
        for (j, half) in half.iter_mut().enumerate() {
            let mut row = [S::zero(); N];
            for (i, v) in row.iter_mut().enumerate() {
                *v = S::load(o.from.add((j * N + i) * o.product + c));
            }
            *half = output_1d::<S>(row);
        }
        let mut y = [[S::zero(); M]; M];
        for i in 0..M {
            for (j, v) in output_1d::<S>(column::<S, M>(&half, i)).into_iter().enumerate() {
                y[j][i] = v;
            }
        }
        y
    }
}

/// One vector of channels of a tile's output.
#[inline(always)]
unsafe fn outcome<S: Simd, const WHOLE: bool>(o: &Outcome, c: usize, n: usize) {
    let (rows, columns) = o.extent::<WHOLE>();
    // SAFETY: by the caller's word; only pixels inside the image are touched.
    unsafe {
        let mut y = restore::<S>(o, c);
        match o.finish {
            Finish::Exit(e) => exit::<S, WHOLE>(o, e, &mut y, c, n),
            Finish::Moments => {
                let values = moments::<S, WHOLE>(o, &y, o.sums.at.wrapping_add(c), n);
                add_sums::<S>(o.sums, c, n, values);
            }
            Finish::Through(t) => {
                let values = through::<S, WHOLE>(o, t, &mut y, c, n);
                add_sums::<S>(o.sums, c, n, values);
            }
        }
        for j in 0..rows {
            for i in 0..columns {
                let to = o.to.wrapping_add(j * o.row + i * o.pixel + c);
                if WHOLE { S::store(to, y[j][i]) } else { S::store_first(to, y[j][i], n) }
            }
        }
    }
}

on_isa! {
    /// Transforms a tile's products back and writes its output.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for the extents that [`Outcome`] names.
    pub(super) fn transform_output<S>(o: &Outcome) {
        let inside = o.rows == M && o.columns == M;
        let mut c = 0;
        while c < o.channels {
            let n = (o.channels - c).min(S::LANES);
            if inside && n == S::LANES {
                outcome::<S, true>(o, c, n);
            } else {
                outcome::<S, false>(o, c, n);
            }
            c += S::LANES;
        }
    }
}

/// Sums of products, and the weights' gradients that they make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Summed {
    /// Those of the first product; whole vectors are read.
    pub from: *const f32,
    /// From a product's sums to the next.
    pub product: usize,
    /// Output channels, and the distance between their sums.
    pub rows: usize,
    pub row: usize,
    /// Input channels.
    pub channels: usize,
    /// The first weight; an input channel's nine lie side by side.
    pub to: *mut f32,
    /// From an output channel's weights to the next one's.
    pub to_row: usize,
}

on_isa! {
    /// Transforms sums over all tiles to the gradient of weights.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for the extents that [`Summed`] names.
    pub(super) fn transform_weights<S>(t: &Summed) {
        for o in 0..t.rows {
            for c in (0..t.channels).step_by(S::LANES) {
                let from = t.from.add(o * t.row + c);
                let mut half = [[S::zero(); 3]; N];
                for (j, half) in half.iter_mut().enumerate() {
                    let mut row = [S::zero(); N];
                    for (i, v) in row.iter_mut().enumerate() {
                        *v = S::load(from.add((j * N + i) * t.product));
                    }
                    *half = weights_1d::<S>(row);
                }
                // Lanes are input channels, which lie nine weights apart.
                let mut weights = [0.0f32; 9 * 16];
                for i in 0..3 {
                    for (j, v) in weights_1d::<S>(column::<S, 3>(&half, i)).into_iter().enumerate() {
                        S::store(weights.as_mut_ptr().add((j * 3 + i) * S::LANES), v);
                    }
                }
                let to = t.to.add(o * t.to_row + 9 * c);
                for lane in 0..S::LANES.min(t.channels - c) {
                    for tap in 0..9 {
                        *to.add(9 * lane + tap) = weights[tap * S::LANES + lane];
                    }
                }
            }
        }
    }
}
