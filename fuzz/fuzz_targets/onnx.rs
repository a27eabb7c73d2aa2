//! An ONNX file, up to the network.
#![no_main]

use burn::tensor::Device;
use libfuzzer_sys::fuzz_target;
use refit_net::onnx::{ImportOptions, import_bytes};

fuzz_target!(|bytes: &[u8]| {
    let options = ImportOptions { size: None };
    let _ = import_bytes(bytes.to_vec(), "x.onnx", &options, &Device::default());
});
