//! Passes over maps without channels.

use crate::simd::{Isa, on_isa};
use crate::threads::{Shared, parallel};

/// Values a task takes: 256 KiB of each slice, which stay in the second-level cache.
const CHUNK: usize = 1 << 16;

/// `y += x`.
///
/// # Panics
/// If `x` and `y` differ in length.
pub fn accumulate(y: &mut [f32], x: &[f32]) {
    accumulate_on(Isa::widest(), y, x);
}

fn accumulate_on(isa: Isa, y: &mut [f32], x: &[f32]) {
    assert_eq!(x.len(), y.len(), "accumulate: lengths of `x` and `y`");
    let y = Shared::new(y);
    parallel(x.len().div_ceil(CHUNK), |task| {
        let first = task * CHUNK;
        let len = CHUNK.min(x.len() - first);
        // SAFETY: this task's chunk of both slices, which are equally long; `isa` is available.
        unsafe { add(isa, y.ptr().add(first), x[first..].as_ptr(), len) };
    });
}

on_isa! {
    /// Adds `len` values.
    ///
    /// # Safety
    /// The CPU has `isa`; both pointers are valid for `len` values.
    fn add<S>(y: *mut f32, x: *const f32, len: usize) {
        let whole = len / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            S::store(y.add(i), S::add(S::load(y.add(i)), S::load(x.add(i))));
        }
        let (y, x, left) = (y.add(whole), x.add(whole), len - whole);
        S::store_first(y, S::add(S::load_first(y, left), S::load_first(x, left)), left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_all_lengths_are_exact() {
        for isa in Isa::available() {
            for len in [0, 1, 7, 16, 33, 1000, CHUNK, CHUNK + 5] {
                let mut y: Vec<f32> = (0..len).map(|i| i as f32).collect();
                let x: Vec<f32> = (0..len).map(|i| 0.5 * i as f32).collect();
                accumulate_on(isa, &mut y, &x);
                assert!(y.iter().enumerate().all(|(i, y)| *y == 1.5 * i as f32));
            }
        }
    }

    #[test]
    #[should_panic(expected = "accumulate: lengths")]
    fn lengths_must_agree() {
        accumulate(&mut [0.0], &[0.0, 1.0]);
    }
}
