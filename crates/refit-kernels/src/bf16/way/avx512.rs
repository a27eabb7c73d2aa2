//! AVX512-BF16.
#![expect(clippy::needless_range_loop, reason = "tiles of registers, by number")]

use std::arch::x86_64::*;

use super::{Block, Into, Leaving, Settling, TILE};

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Pixels that are computed at once.
const ROWS: usize = 8;

/// As [`Block::compute`].
///
/// # Safety
/// As there.
pub(super) unsafe fn block(block: &Block) {
    for first in (0..block.tiles[0] * TILE).step_by(ROWS) {
        // SAFETY: by the caller's word.
        unsafe {
            match block.tiles[1] {
                1 => rows::<1>(block, first),
                _ => rows::<2>(block, first),
            }
        }
    }
}

/// # Safety
/// As [`block`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn rows<const NR: usize>(block: &Block, first: usize) {
    let mut sums = [[_mm512_setzero_ps(); NR]; ROWS];
    let a = block.a.wrapping_add(first * block.stride);
    let mut b = block.b;
    let tile = TILE * block.depth;
    // SAFETY: by the caller's word.
    unsafe {
        for step in block.steps {
            let mut a = a.add(*step);
            let end = b.add(tile);
            while b != end {
                let mut weights = [_mm512_setzero_si512(); NR];
                for j in 0..NR {
                    weights[j] = _mm512_loadu_si512(b.add(j * tile).cast());
                }
                for i in 0..ROWS {
                    let pair = a.add(i * block.stride).cast::<i32>().read_unaligned();
                    let pair = _mm512_set1_epi32(pair);
                    for j in 0..NR {
                        sums[i][j] = _mm512_dpbf16_ps(
                            sums[i][j],
                            std::mem::transmute::<__m512i, __m512bh>(pair),
                            std::mem::transmute::<__m512i, __m512bh>(weights[j]),
                        );
                    }
                }
                a = a.add(2);
                b = b.add(2 * TILE);
            }
            b = b.add((NR - 1) * tile);
        }
        for i in 0..ROWS {
            for j in 0..NR {
                _mm512_storeu_ps(block.c.add((first + i) * 2 * TILE + j * TILE), sums[i][j]);
            }
        }
    }
}

/// Widens sixteen values.
#[target_feature(enable = "avx512f,avx512bw")]
fn widen(v: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
}

/// As [`Leaving::write`].
///
/// # Safety
/// As there.
pub(super) unsafe fn leave(l: &Leaving) {
    // SAFETY: by the caller's word.
    unsafe {
        match (l.residual.is_null(), l.n == 2 * TILE, l.streams) {
            (true, true, false) => leave_as::<false, true, false>(l),
            (true, true, true) => leave_as::<false, true, true>(l),
            (true, false, _) => leave_as::<false, false, false>(l),
            (false, true, false) => leave_as::<true, true, false>(l),
            (false, true, true) => leave_as::<true, true, true>(l),
            (false, false, _) => leave_as::<true, false, false>(l),
        }
    }
}

/// # Safety
/// As [`leave`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn leave_as<const RESIDUAL: bool, const WHOLE: bool, const STREAMS: bool>(l: &Leaving) {
    let mask = u32::MAX >> (2 * TILE - l.n);
    let (low, high) = (_mm512_set1_ps(l.low), _mm512_set1_ps(l.high));
    // SAFETY: by the caller's word; masked lanes are not touched.
    unsafe {
        let shift = [
            _mm512_maskz_loadu_ps(mask as u16, l.shift),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, l.shift.wrapping_add(TILE)),
        ];
        for p in 0..l.pixels {
            let c = l.c.add(p * 2 * TILE);
            let mut v = [
                _mm512_add_ps(_mm512_loadu_ps(c), shift[0]),
                _mm512_add_ps(_mm512_loadu_ps(c.add(TILE)), shift[1]),
            ];
            if RESIDUAL {
                let r = l.residual.add(p * l.stride).cast();
                let r =
                    if WHOLE { _mm512_loadu_epi16(r) } else { _mm512_maskz_loadu_epi16(mask, r) };
                v[0] = _mm512_add_ps(v[0], widen(_mm512_castsi512_si256(r)));
                v[1] = _mm512_add_ps(v[1], widen(_mm512_extracti64x4_epi64::<1>(r)));
            }
            // A NaN, as the second operand, stays.
            v[0] = _mm512_min_ps(high, _mm512_max_ps(low, v[0]));
            v[1] = _mm512_min_ps(high, _mm512_max_ps(low, v[1]));
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(v[1], v[0]));
            let y = l.y.add(p * l.stride).cast::<i16>();
            if STREAMS {
                _mm512_stream_si512(y.cast(), both)
            } else if WHOLE {
                _mm512_storeu_epi16(y, both)
            } else {
                _mm512_mask_storeu_epi16(y, mask, both)
            }
        }
    }
}

/// As [`Settling::write`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn settle(s: &Settling) {
    let (low, high) = (_mm512_set1_ps(s.low), _mm512_set1_ps(s.high));
    for column in 0..s.columns {
        let at = column * TILE;
        // SAFETY: by the caller's word.
        unsafe {
            let shift = _mm512_loadu_ps(s.shift.add(at));
            for p in 0..s.pixels {
                let v = _mm512_add_ps(_mm512_loadu_ps(s.c.add(p * 2 * TILE + at)), shift);
                // A NaN, as the second operand, stays.
                let v = _mm512_min_ps(high, _mm512_max_ps(low, v));
                _mm512_storeu_ps(s.to.add(p * 2 * TILE + at), v);
            }
        }
    }
}

/// The first `n <= 16` lanes.
fn lanes(n: usize) -> __mmask16 {
    (u32::MAX >> (32 - n)) as __mmask16
}

/// As [`super::Way::widen`], for `n` values.
///
/// # Safety
/// The CPU has this; pointers are valid for `n` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn widen_into(from: *const u16, to: *mut f32, n: usize, into: Into) {
    for at in (0..n).step_by(TILE) {
        let mask = lanes((n - at).min(TILE));
        // SAFETY: by the caller's word; masked lanes are not touched.
        unsafe {
            let to = to.add(at);
            let mut v = widen(_mm256_maskz_loadu_epi16(mask, from.add(at).cast()));
            if into != Into::Set {
                let old = _mm512_maskz_loadu_ps(mask, to);
                if into == Into::Add {
                    v = _mm512_add_ps(old, v);
                } else {
                    // The second operand wins if one is a NaN.
                    let greater = _mm512_max_ps(old, v);
                    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(old, old);
                    v = _mm512_mask_mov_ps(greater, nan, old);
                }
            }
            _mm512_mask_storeu_ps(to, mask, v);
        }
    }
}

/// As [`super::Way::narrow`], for `n` values.
///
/// # Safety
/// The CPU has this; pointers are valid for `n` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn narrow(from: *const f32, to: *mut u16, n: usize) {
    for at in (0..n).step_by(TILE) {
        let mask = lanes((n - at).min(TILE));
        // SAFETY: by the caller's word; masked lanes are not touched.
        unsafe {
            let v = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from.add(at)));
            let v = std::mem::transmute::<__m256bh, __m256i>(v);
            _mm256_mask_storeu_epi16(to.add(at).cast(), mask, v);
        }
    }
}
