//! Vectors of `f32`, one type an instruction set, so that a kernel is written once.
//!
//! A kernel body is generic over [`Simd`] and `#[inline(always)]`; [`on_isa!`]
//! compiles it once an instruction set, with that set's features switched on, and calls the one
//! asked for.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// An instruction set that kernels are compiled for, the narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust: the reference.
    Scalar,
    /// 4 lanes, aarch64.
    Neon,
    /// 8 lanes with fused multiply-add.
    Avx2,
    /// 16 lanes.
    Avx512,
}

impl Isa {
    /// The widest this CPU has.
    pub fn widest() -> Self {
        static SEEN: AtomicU8 = AtomicU8::new(u8::MAX);
        let all = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];
        let seen = SEEN.load(Ordering::Relaxed);
        if let Some(isa) = all.get(usize::from(seen)) {
            return *isa;
        }
        let isa = all.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Scalar);
        SEEN.store(isa as u8, Ordering::Relaxed);
        isa
    }

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// All that this CPU has, for tests.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|i| i.is_available())
    }

    /// `f32` values in a vector.
    pub const fn lanes(self) -> usize {
        match self {
            Self::Scalar | Self::Avx512 => 16,
            Self::Avx2 => 8,
            Self::Neon => 4,
        }
    }

    /// The most pixels that a register tile of `vectors` vectors of output channels holds.
    pub(crate) const fn tile_rows(self, vectors: usize) -> usize {
        match (self, vectors) {
            (Self::Scalar, _) => 2,
            (Self::Avx2, 1 | 2) => 6,
            (Self::Avx2, _) => 4,
            (_, 1 | 2) => 14,
            (_, _) => 9,
        }
    }
}

/// Vectors of one instruction set.
///
/// Every function is `unsafe`: the CPU must have the instruction set, and pointers must be valid for
/// the lanes they read or write (`LANES`, or `n` of them).
pub(crate) trait Simd: Copy + 'static {
    /// The vector.
    type V: Copy;
    /// Values in a vector.
    const LANES: usize;
    /// The instruction set.
    const ISA: Isa;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n <= LANES` values; zeros beyond. Nothing past them is touched.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n <= LANES` values; nothing past them is touched.
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize);
    /// Stores past the caches, where there is a way; `p` lies on a vector's boundary. [`fence`]
    /// must follow before others may read.
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: Self::V) {
        // SAFETY: by the caller's word.
        unsafe { Self::store(p, v) }
    }
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`, rounded once.
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; a NaN in `b` stays (as `maxps` has it).
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The lesser; a NaN in `b` stays.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `v` where `low < x < high`, else zero.
    unsafe fn keep_between(v: Self::V, x: Self::V, low: Self::V, high: Self::V) -> Self::V;
    /// `a` where `x > y` or `x` is NaN, else `b`.
    unsafe fn select_above(x: Self::V, y: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `v * 2^n`, for whole `n` from -126 to 127; a NaN in `v` stays.
    unsafe fn times_power(v: Self::V, n: Self::V) -> Self::V;
    /// The first `n <= LANES` bytes as numbers; zeros beyond.
    unsafe fn load_bytes(p: *const u8, n: usize) -> Self::V;
    /// The first `n <= LANES` halves (finite `f16`, as bits) as numbers; zeros beyond.
    unsafe fn load_halves(p: *const u16, n: usize) -> Self::V;
    /// Stores the first `n <= LANES` values, whole numbers up to 255, as bytes.
    unsafe fn store_bytes(p: *mut u8, v: Self::V, n: usize);

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: by the caller's word.
        unsafe { Self::splat(0.0) }
    }

    /// `min(max(v, low), high)`; a NaN stays.
    #[inline(always)]
    unsafe fn clamp(v: Self::V, low: Self::V, high: Self::V) -> Self::V {
        // SAFETY: by the caller's word.
        unsafe { Self::min(high, Self::max(low, v)) }
    }
}

/// Asks for the cache line at `p`, to be brought into L2. Reads nothing, so any pointer will do.
#[inline(always)]
pub(crate) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, part of every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// A finite `f16` from its bits: widened as an integer, then moved to its exponent, which is exact.
#[inline(always)]
pub(crate) fn widened(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    f32::from_bits(sign | u32::from(half & 0x7fff) << 13) * HALF_EXPONENT
}

/// What the exponents of `f32` and `f16` differ by: `2^112`.
pub(crate) const HALF_EXPONENT: f32 = f32::from_bits((127 + 112) << 23);

/// Orders what was stored past the caches before all that follows.
pub(crate) fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Compiles a generic body for every instruction set and makes a function that calls the one asked
/// for: `on_isa!(fn name<S>(x: &[f32], n: usize) { body });` gives `name(isa, x, n)`. Inside the
/// body `S` is the [`Simd`] type; the body is in an `unsafe` context.
macro_rules! on_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$S:ident $(, const $K:ident: $KT:ty)*>($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name<$(const $K: $KT),*>(isa: $crate::simd::Isa, $($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            unsafe fn body<$S: $crate::simd::Simd $(, const $K: $KT)*>($($arg: $type),*) $(-> $ret)? {
                // SAFETY: the caller vouches for extents and the instruction set.
                #[allow(unused_unsafe)]
                unsafe { $body }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512<$(const $K: $KT),*>($($arg: $type),*) $(-> $ret)? {
                // SAFETY: as the caller's.
                unsafe { body::<$crate::simd::Avx512 $(, $K)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2<$(const $K: $KT),*>($($arg: $type),*) $(-> $ret)? {
                // SAFETY: as the caller's.
                unsafe { body::<$crate::simd::Avx2 $(, $K)*>($($arg),*) }
            }
            // SAFETY: the caller says that this CPU has `isa`.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx512 => avx512::<$($K),*>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx2 => avx2::<$($K),*>($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::simd::Isa::Neon => body::<$crate::simd::Neon $(, $K)*>($($arg),*),
                    _ => body::<$crate::simd::Scalar $(, $K)*>($($arg),*),
                }
            }
        }
    };
}

pub(crate) use on_isa;
