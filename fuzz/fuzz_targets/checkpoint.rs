//! A checkpoint as it lies on the disk: a zip archive, the legacy format, or a bare pickle.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| refit_fuzz::read_all("x.pth", bytes));
