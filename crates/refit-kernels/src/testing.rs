//! What tests of several kernels share.

/// Values in `[-2, 2)`, the same for the same salt.
pub(crate) fn values(len: usize, salt: u32) -> Vec<f32> {
    let mut state = salt.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 22) as f32 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

/// Whether each value is within `tolerance` of the largest one.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], exact: &[f64], tolerance: f64) {
    assert_eq!(got.len(), exact.len());
    let top = exact.iter().fold(0.0f64, |top, e| top.max(e.abs()));
    for (i, (got, exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs();
        assert!(error <= tolerance * top, "{got} for {exact} at {i}; the largest is {top}");
    }
}

/// Runs on a pool of so many threads.
pub(crate) fn on_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("a pool of threads").install(run)
}
