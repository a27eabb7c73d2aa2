//! What several test programs share.

use refit_net::Precision;

/// Whether this CPU computes in bf16; says so where a test is skipped for it.
pub fn has_bf16() -> bool {
    let supported = Precision::Bf16.is_supported();
    if !supported {
        eprintln!("skipped: this CPU has neither AMX nor AVX512-BF16");
    }
    supported
}
