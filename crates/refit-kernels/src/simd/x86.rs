//! AVX-512 and AVX2 with FMA.

use std::arch::x86_64::*;

use super::{HALF_EXPONENT, Isa, Simd};

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// The first `n` lanes.
#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

// SAFETY of every intrinsic below: the trait's contract, that the CPU has the instruction set and
// that pointers are valid for the lanes touched; masked lanes are not touched.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const ISA: Isa = Isa::Avx512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: __m512) {
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(mask16(n), p) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: __m512, n: usize) {
        unsafe { _mm512_mask_storeu_ps(p, mask16(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn keep_between(v: __m512, x: __m512, low: __m512, high: __m512) -> __m512 {
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, low);
            _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, x, high), v)
        }
    }
    #[inline(always)]
    unsafe fn select_above(x: __m512, y: __m512, a: __m512, b: __m512) -> __m512 {
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, y);
            _mm512_mask_blend_ps(above | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), b, a)
        }
    }
    #[inline(always)]
    unsafe fn times_power(v: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> __m512 {
        unsafe {
            let bytes = if n == 16 { _mm_loadu_si128(p.cast()) } else { first_bytes(p, n) };
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
        }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u16, n: usize) -> __m512 {
        unsafe {
            let halves = match n {
                16 => _mm256_loadu_si256(p.cast()),
                _ => first_halves(p, n),
            };
            _mm512_cvtph_ps(halves)
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m512, n: usize) {
        unsafe { _mm512_mask_cvtepi32_storeu_epi8(p.cast(), mask16(n), _mm512_cvttps_epi32(v)) }
    }
}

/// The first `n <= 16` bytes; zeros beyond.
#[inline(always)]
unsafe fn first_bytes(p: *const u8, n: usize) -> __m128i {
    let mut bytes = [0u8; 16];
    // SAFETY: `n` bytes by the caller's word; `bytes` has sixteen; SSE2 is part of x86-64.
    unsafe {
        std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n);
        _mm_loadu_si128(bytes.as_ptr().cast())
    }
}

/// The first `n <= 16` halves; zeros beyond.
#[inline(always)]
unsafe fn first_halves(p: *const u16, n: usize) -> __m256i {
    let mut halves = [0u16; 16];
    // SAFETY: `n` halves by the caller's word; `halves` has sixteen; whoever calls has AVX.
    unsafe {
        std::ptr::copy_nonoverlapping(p, halves.as_mut_ptr(), n);
        _mm256_loadu_si256(halves.as_ptr().cast())
    }
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// The first `n` lanes, as the sign bits of integers.
#[inline(always)]
unsafe fn mask8(n: usize) -> __m256i {
    const BITS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: `n <= 8`, so that eight integers lie behind the pointer.
    unsafe { _mm256_loadu_si256(BITS.as_ptr().add(8 - n).cast()) }
}

// SAFETY of every intrinsic below: as for `Avx512`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const ISA: Isa = Isa::Avx2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: __m256) {
        unsafe { _mm256_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(p, mask8(n)) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: __m256, n: usize) {
        unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn keep_between(v: __m256, x: __m256, low: __m256, high: __m256) -> __m256 {
        unsafe {
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(x, low);
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, high);
            _mm256_and_ps(v, _mm256_and_ps(above, below))
        }
    }
    #[inline(always)]
    unsafe fn select_above(x: __m256, y: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe {
            let above = _mm256_cmp_ps::<_CMP_GT_OQ>(x, y);
            _mm256_blendv_ps(b, a, _mm256_or_ps(above, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)))
        }
    }
    #[inline(always)]
    unsafe fn times_power(v: __m256, n: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> __m256 {
        unsafe {
            let bytes = if n == 8 { _mm_loadl_epi64(p.cast()) } else { first_bytes(p, n) };
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
        }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u16, n: usize) -> __m256 {
        unsafe {
            let halves = match n {
                8 => _mm_loadu_si128(p.cast()),
                _ => _mm256_castsi256_si128(first_halves(p, n)),
            };
            let wide = _mm256_cvtepu16_epi32(halves);
            let sign = _mm256_and_si256(wide, _mm256_set1_epi32(0x8000));
            let rest = _mm256_and_si256(wide, _mm256_set1_epi32(0x7fff));
            let bits =
                _mm256_or_si256(_mm256_slli_epi32::<16>(sign), _mm256_slli_epi32::<13>(rest));
            _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(HALF_EXPONENT))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m256, n: usize) {
        let mut bytes = [0u8; 16];
        unsafe {
            let v = _mm256_cvttps_epi32(v);
            let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let words = _mm_packus_epi32(low, high);
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, n);
        }
    }
}
