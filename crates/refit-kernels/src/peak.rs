//! What this machine can do at most, measured: what a kernel's speed is a share of.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::simd::{Isa, on_isa};

/// Sums that do not depend on each other: enough to hide the latency of a multiply-add.
const SUMS: usize = 12;

/// Floating-point operations a second of fused multiply-adds in registers, on all threads of the
/// current pool: the most a product of `f32` matrices can reach. Takes some milliseconds.
pub fn measure_peak() -> f64 {
    let isa = Isa::widest();
    const ROUNDS: usize = 200_000;
    let operations = (2 * SUMS * isa.lanes() * ROUNDS) as f64;
    let best = (0..5).map(|_| {
        let slowest = AtomicU64::new(0);
        rayon::broadcast(|_| {
            let began = Instant::now();
            // SAFETY: `isa` is available.
            black_box(unsafe { multiply_add(isa, black_box([0.999, 0.001]), ROUNDS) });
            slowest.fetch_max(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        });
        slowest.into_inner()
    });
    let nanoseconds = best.min().unwrap_or(1).max(1) as f64;
    operations * rayon::current_num_threads() as f64 / (nanoseconds * 1e-9)
}

on_isa! {
    /// `rounds` multiply-adds of each sum.
    ///
    /// # Safety
    /// The CPU has `isa`.
    fn multiply_add<S>(by: [f32; 2], rounds: usize) -> f32 {
        let (a, b) = (S::splat(by[0]), S::splat(by[1]));
        let mut sums = [S::splat(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(*sum, a, b);
            }
        }
        let mut first = [0.0];
        let mut all = S::zero();
        for sum in sums {
            all = S::add(all, sum);
        }
        S::store_first(first.as_mut_ptr(), all, 1);
        first[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_computes_what_it_claims_to() {
        for isa in Isa::available() {
            // SAFETY: `isa` is available.
            let sum = unsafe { multiply_add(isa, [0.5, 1.0], 100) };
            assert_eq!(sum, 2.0 * SUMS as f32, "{isa:?}");
        }
        assert!(measure_peak() > 1e6);
    }
}
