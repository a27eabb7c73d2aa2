//! Files that PyTorch wrote, in each of its containers, against the same values in safetensors.
//!
//! `tools/golden_networks.py` makes them (`... tests/golden containers`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use refit_net::Hint;
use refit_net::state_dict::{Dtype, StateDict, StateDictError};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/containers").join(name)
}

fn read(name: &str) -> StateDict {
    StateDict::read(golden(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All tensors of `expected.safetensors`, of this type, shape and value, and no others but
/// counters and `extra`.
fn assert_expected(name: &str, dtype: Dtype, extra: &[&str]) -> StateDict {
    let (expected, weights) = (read("expected.safetensors"), read(name));
    assert_eq!(expected.len(), 4);
    for (tensor, entry) in expected.iter() {
        let found = weights.get(tensor).unwrap_or_else(|| panic!("{name} lacks {tensor}"));
        assert_eq!((found.shape(), found.dtype()), (entry.shape(), dtype), "{name}: {tensor}");
        let (want, got) = (expected.get_f32(tensor).unwrap(), weights.get_f32(tensor).unwrap());
        assert_eq!(want, got, "{name}: {tensor}");
    }
    let more = |tensor: &&str| !expected.contains(tensor) && !StateDict::is_counter(tensor);
    assert_eq!(weights.names().filter(more).collect::<Vec<_>>(), extra, "{name}");
    weights
}

#[test]
fn both_containers_keep_the_order_and_the_counter() {
    for name in ["zip.pth", "legacy.pth"] {
        let weights = assert_expected(name, Dtype::F32, &[]);
        let order =
            ["conv.weight", "conv.bias", "bn.running_var", "fc.weight", "bn.num_batches_tracked"];
        assert_eq!(weights.names().collect::<Vec<_>>(), order);
        assert_eq!(weights.get_f32("bn.num_batches_tracked").unwrap(), [17.0]);
        assert_eq!(weights.get("bn.num_batches_tracked").unwrap().dtype(), Dtype::I64);
        assert_eq!(weights.wrapping(), "");
    }
}

#[test]
fn a_training_script_s_checkpoint_is_unwrapped() {
    let weights = assert_expected("nested.pth", Dtype::F32, &[]);
    assert_eq!(weights.wrapping(), "state_dict.module.");
}

#[test]
fn every_float_type_is_read() {
    assert_expected("half.pth", Dtype::F16, &[]);
    assert_expected("bfloat16.pth", Dtype::BF16, &[]);
    assert_expected("double.pth", Dtype::F64, &[]);
}

#[test]
fn parameters_and_views_are_read_as_their_values() {
    assert_expected("parameters.pth", Dtype::F32, &[]);
    assert_expected("strided.pth", Dtype::F32, &[]);
    assert_expected("strided_legacy.pth", Dtype::F32, &[]);
    let weights = assert_expected("shared.pth", Dtype::F32, &["tied.weight", "tied.row"]);
    let whole = weights.get_f32("fc.weight").unwrap();
    assert_eq!(weights.get_f32("tied.weight").unwrap(), whole);
    assert_eq!(weights.get_f32("tied.row").unwrap(), whole[8..12]);
}

#[test]
fn a_module_saved_whole_gives_its_state_dict() {
    let weights = read("module.pth");
    assert_eq!(weights.names().collect::<Vec<_>>(), ["conv.weight", "conv.bias"]);
    assert_eq!(weights.get("conv.weight").unwrap().shape(), [4, 3, 3, 3]);
}

#[test]
fn malicious_pickles_are_refused_by_name_and_not_run() {
    for name in ["malicious.pth", "malicious_legacy.pth"] {
        let error = StateDict::read(golden(name)).unwrap_err();
        let StateDictError::ForbiddenPickle { asks, .. } = &error else { panic!("{error}") };
        assert_eq!(asks, "posix.system");
        assert!(error.hint().unwrap().contains("do not open the file with Python"));
    }
    assert!(!Path::new("pwned").exists() && !golden("pwned").exists());
}

/// Opens a file of these bytes and reads every tensor. The file is overwritten in place, since
/// thousands of new ones are slow on some disks.
fn read_all(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), StateDictError> {
    file.rewind().unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    let weights = StateDict::read(path)?;
    weights.names().try_for_each(|name| weights.get_f32(name).map(drop))
}

#[test]
fn damaged_files_are_errors_and_not_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged");
    let mut file = File::create(&path).unwrap();
    for name in ["expected.safetensors", "zip.pth", "legacy.pth", "nested.pth", "module.pth"] {
        let sound = std::fs::read(golden(name)).unwrap();
        for at in (0..sound.len()).step_by(7) {
            let cut = read_all(&mut file, &path, &sound[..at]).unwrap_err();
            assert!(cut.hint().is_some(), "{name} cut at {at}: {cut}");
            let mut flipped = sound.clone();
            flipped[at] ^= 1 << (at % 8);
            if let Err(error) = read_all(&mut file, &path, &flipped) {
                assert!(error.hint().is_some(), "{name} flipped at {at}: {error}");
            }
        }
    }
}
