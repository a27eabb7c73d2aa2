//! Inner products of single vectors, for search by similarity.
//!
//! One product is what a walk through a graph of neighbours asks for, each time of a row somewhere
//! else in memory: [`prefetch`] has the next one on its way while this one is computed.

use crate::simd::{self, Isa, Simd, on_isa};

/// Sums that go side by side, so that none waits for the one before.
const SUMS: usize = 4;

/// `sum_i x_i y_i`.
///
/// # Panics
/// If `x` and `y` differ in length.
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "dot: lengths of `x` and `y`");
    // SAFETY: equally long; the widest instruction set is this CPU's.
    unsafe { dot_on(Isa::widest(), x.as_ptr(), y.as_ptr(), x.len()) }
}

/// `sum_i x_i y_i`, where `y` holds the bits of finite `f16` numbers.
///
/// # Panics
/// If `x` and `y` differ in length.
pub fn dot_halves(x: &[f32], y: &[u16]) -> f32 {
    assert_eq!(x.len(), y.len(), "dot_halves: lengths of `x` and `y`");
    // SAFETY: as in `dot`.
    unsafe { dot_halves_on(Isa::widest(), x.as_ptr(), y.as_ptr(), x.len()) }
}

/// `sum_i x_i y_i`, exactly.
///
/// # Panics
/// If `x` and `y` differ in length, or have more than 65,536 values, whose sum could overflow.
pub fn dot_bytes(x: &[i8], y: &[i8]) -> i32 {
    assert_eq!(x.len(), y.len(), "dot_bytes: lengths of `x` and `y`");
    assert!(x.len() <= 1 << 16, "dot_bytes: {} values", x.len());
    // Whole numbers of sixteen bits are not part of the widest set that kernels ask for.
    // SAFETY: as in `dot`; every CPU with AVX-512 has AVX2.
    unsafe { dot_bytes_on(Isa::widest().min(Isa::Avx2), x, y) }
}

/// Asks for the first KiB of `bytes` to be brought into the cache. Reads nothing.
pub fn prefetch(bytes: &[u8]) {
    for line in (0..bytes.len().min(1024)).step_by(64) {
        simd::prefetch(bytes[line..].as_ptr().cast());
    }
}

/// The sum of what four vectors hold, in a fixed order.
#[inline(always)]
unsafe fn total<S: Simd>(sums: [S::V; SUMS]) -> f32 {
    // SAFETY: by the caller's word, which is that the CPU has the instruction set.
    unsafe {
        let [a, b, c, d] = sums;
        let mut lanes = [0.0; 16];
        S::store(lanes.as_mut_ptr(), S::add(S::add(a, b), S::add(c, d)));
        let mut width = S::LANES;
        while width > 1 {
            width /= 2;
            (0..width).for_each(|i| lanes[i] += lanes[i + width]);
        }
        lanes[0]
    }
}

on_isa! {
    /// # Safety
    /// The CPU has `isa`; both pointers are valid for `len` values.
    fn dot_on<S>(x: *const f32, y: *const f32, len: usize) -> f32 {
        let mut sums = [S::zero(); SUMS];
        let step = SUMS * S::LANES;
        let whole = len / step * step;
        for i in (0..whole).step_by(step) {
            for (s, sum) in sums.iter_mut().enumerate() {
                let at = i + s * S::LANES;
                *sum = S::fma(S::load(x.add(at)), S::load(y.add(at)), *sum);
            }
        }
        for i in (whole..len).step_by(S::LANES) {
            let n = S::LANES.min(len - i);
            sums[0] = S::fma(S::load_first(x.add(i), n), S::load_first(y.add(i), n), sums[0]);
        }
        total::<S>(sums)
    }
}

on_isa! {
    /// # Safety
    /// The CPU has `isa`; both pointers are valid for `len` values.
    fn dot_halves_on<S>(x: *const f32, y: *const u16, len: usize) -> f32 {
        let mut sums = [S::zero(); SUMS];
        let step = SUMS * S::LANES;
        let whole = len / step * step;
        for i in (0..whole).step_by(step) {
            for (s, sum) in sums.iter_mut().enumerate() {
                let at = i + s * S::LANES;
                *sum = S::fma(S::load(x.add(at)), S::load_halves(y.add(at), S::LANES), *sum);
            }
        }
        for i in (whole..len).step_by(S::LANES) {
            let n = S::LANES.min(len - i);
            sums[0] = S::fma(S::load_first(x.add(i), n), S::load_halves(y.add(i), n), sums[0]);
        }
        total::<S>(sums)
    }
}

on_isa! {
    /// Plain Rust, which compilers turn into vectors: whole numbers may be summed in any order.
    ///
    /// # Safety
    /// The CPU has `isa`.
    fn dot_bytes_on<S>(x: &[i8], y: &[i8]) -> i32 {
        let products = x.iter().zip(y).map(|(x, y)| i32::from(*x) * i32::from(*y));
        products.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::widened;
    use crate::testing::{assert_close, values};

    const LENGTHS: [usize; 9] = [0, 1, 7, 16, 63, 64, 65, 128, 1280];

    #[test]
    fn products_are_those_of_the_definition() {
        for isa in Isa::available() {
            for len in LENGTHS {
                let (x, y) = (values(len, 1), values(len, 2));
                let exact: f64 = x.iter().zip(&y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                // SAFETY: equally long; `isa` is available.
                let got = unsafe { dot_on(isa, x.as_ptr(), y.as_ptr(), len) };
                assert_close(&[got, 40.0], &[exact, 40.0], 1e-5);
            }
        }
    }

    #[test]
    fn halves_are_widened_exactly() {
        // One, minus two, the largest, the least normal and the least of all, and zeros.
        let known = [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0400, 6.103_515_6e-5)];
        let least = [(0x0001, 5.960_464_5e-8), (0x0000, 0.0), (0x8000, 0.0)];
        for (bits, value) in known.into_iter().chain(least) {
            assert_eq!(widened(bits), value);
        }
        for isa in Isa::available() {
            for len in LENGTHS {
                let halves: Vec<u16> = (0..len).map(|i| (i * 97 % 0x7c00) as u16).collect();
                for (i, half) in halves.iter().enumerate() {
                    let mut one = vec![0.0; len];
                    one[i] = 1.0;
                    // SAFETY: equally long; `isa` is available.
                    let got = unsafe { dot_halves_on(isa, one.as_ptr(), halves.as_ptr(), len) };
                    assert_eq!(got, widened(*half), "{isa:?}, {i} of {len}");
                }
            }
        }
    }

    #[test]
    fn bytes_are_summed_exactly() {
        for isa in Isa::available() {
            for len in LENGTHS {
                let x: Vec<i8> = (0..len).map(|i| (i * 37 % 256) as u8 as i8).collect();
                let y: Vec<i8> = (0..len).map(|i| (i * 91 % 256) as u8 as i8).collect();
                let exact: i32 = x.iter().zip(&y).map(|(x, y)| i32::from(*x) * i32::from(*y)).sum();
                // SAFETY: `isa` is available.
                assert_eq!(unsafe { dot_bytes_on(isa, &x, &y) }, exact);
            }
        }
        assert_eq!(dot_bytes(&[-128; 1 << 16], &[-127; 1 << 16]), (128 * 127) << 16);
    }

    #[test]
    fn anything_may_be_asked_for() {
        prefetch(&[]);
        prefetch(&[0; 5000]);
    }

    #[test]
    #[should_panic(expected = "dot: lengths")]
    fn lengths_must_agree() {
        dot(&[0.0], &[0.0, 1.0]);
    }
}
