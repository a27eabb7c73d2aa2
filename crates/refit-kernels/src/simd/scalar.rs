//! Plain Rust, 16 lanes: what other instruction sets are compared with.

use super::{Isa, Simd, widened};

/// Sixteen values in an array.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; 16];

impl Simd for Scalar {
    type V = V;
    const LANES: usize = 16;
    const ISA: Isa = Isa::Scalar;

    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        // SAFETY: 16 values by the caller's word; an array of `f32` has their alignment.
        unsafe { p.cast::<V>().read() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        // SAFETY: as in `load`.
        unsafe { p.cast::<V>().write(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> V {
        // SAFETY: only the first `n` are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.wrapping_add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: V, n: usize) {
        for (i, v) in v.into_iter().enumerate().take(n) {
            // SAFETY: only the first `n` are written.
            unsafe { *p.add(i) = v }
        }
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn sqrt(a: V) -> V {
        a.map(f32::sqrt)
    }
    // Two roundings: without the instruction, `f32::mul_add` is a slow library call.
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn fnma(a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn keep_between(v: V, x: V, low: V, high: V) -> V {
        std::array::from_fn(|i| if x[i] > low[i] && x[i] < high[i] { v[i] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn select_above(x: V, y: V, a: V, b: V) -> V {
        std::array::from_fn(|i| if x[i] > y[i] || x[i].is_nan() { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8, n: usize) -> V {
        // SAFETY: only the first `n` are read.
        std::array::from_fn(|i| if i < n { f32::from(unsafe { *p.wrapping_add(i) }) } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load_halves(p: *const u16, n: usize) -> V {
        // SAFETY: only the first `n` are read.
        std::array::from_fn(|i| if i < n { widened(unsafe { *p.wrapping_add(i) }) } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: V, n: usize) {
        for (i, v) in v.into_iter().enumerate().take(n) {
            // SAFETY: only the first `n` are written.
            unsafe { *p.add(i) = v as u8 }
        }
    }
    #[inline(always)]
    unsafe fn times_power(v: V, n: V) -> V {
        std::array::from_fn(|i| v[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
}
