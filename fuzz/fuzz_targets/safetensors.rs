//! A header of safetensors, and what it says of the bytes behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use refit_net::state_dict::StateDict;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = StateDict::from_bytes(bytes) {
        for name in state.names() {
            let _ = state.get_f32(name);
        }
    }
});
