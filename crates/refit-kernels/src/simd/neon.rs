//! NEON, which every aarch64 CPU has.

use std::arch::aarch64::*;

use super::{HALF_EXPONENT, Isa, Simd};

/// Four lanes.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

// SAFETY of every intrinsic below: NEON is part of aarch64; pointers are valid by the trait's
// contract.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    const ISA: Isa = Isa::Neon;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> float32x4_t {
        let mut values = [0.0; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(p, values.as_mut_ptr(), n);
            vld1q_f32(values.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: float32x4_t, n: usize) {
        let mut values = [0.0; 4];
        unsafe {
            vst1q_f32(values.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(values.as_ptr(), p, n);
        }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: float32x4_t) -> float32x4_t {
        unsafe { vsqrtq_f32(a) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn fnma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn keep_between(
        v: float32x4_t,
        x: float32x4_t,
        low: float32x4_t,
        high: float32x4_t,
    ) -> float32x4_t {
        unsafe {
            let inside = vandq_u32(vcgtq_f32(x, low), vcltq_f32(x, high));
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), inside))
        }
    }
    #[inline(always)]
    unsafe fn select_above(
        x: float32x4_t,
        y: float32x4_t,
        a: float32x4_t,
        b: float32x4_t,
    ) -> float32x4_t {
        unsafe {
            let number = vceqq_f32(x, x);
            vbslq_f32(vorrq_u32(vcgtq_f32(x, y), vmvnq_u32(number)), a, b)
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> float32x4_t {
        let mut values = [0.0; 4];
        for (i, value) in values.iter_mut().enumerate().take(n) {
            *value = f32::from(unsafe { *p.add(i) });
        }
        unsafe { vld1q_f32(values.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u16, n: usize) -> float32x4_t {
        let mut halves = [0u16; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(p, halves.as_mut_ptr(), n);
            let wide = vmovl_u16(vld1_u16(halves.as_ptr()));
            let sign = vshlq_n_u32::<16>(vandq_u32(wide, vdupq_n_u32(0x8000)));
            let rest = vshlq_n_u32::<13>(vandq_u32(wide, vdupq_n_u32(0x7fff)));
            vmulq_n_f32(vreinterpretq_f32_u32(vorrq_u32(sign, rest)), HALF_EXPONENT)
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: float32x4_t, n: usize) {
        let mut values = [0.0; 4];
        unsafe { vst1q_f32(values.as_mut_ptr(), v) };
        for (i, value) in values.iter().enumerate().take(n) {
            unsafe { *p.add(i) = *value as u8 };
        }
    }
    #[inline(always)]
    unsafe fn times_power(v: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(v, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
}
