//! What is read and written, and what is refused, with each message and hint.

use super::*;
use crate::error::Hint;
use std::path::PathBuf;

type Tensor = (String, Vec<usize>, Dtype, Vec<u8>);

/// A small network's tensors, of several types and of lengths that do not align by themselves.
fn tensors() -> Vec<Tensor> {
    let f32s = |n: usize| (0..n).flat_map(|i| (i as f32 / 4.0).to_le_bytes()).collect();
    let half = |x: f32| f16::from_f32(x).to_le_bytes();
    vec![
        ("conv1.weight".into(), vec![2, 3], Dtype::F32, f32s(6)),
        ("conv1.bias".into(), vec![3], Dtype::F16, [half(1.0), half(-2.0), half(0.5)].concat()),
        ("bn1.num_batches_tracked".into(), vec![], Dtype::I64, 7i64.to_le_bytes().into()),
        ("empty".into(), vec![0, 4], Dtype::F32, vec![]),
    ]
}

fn metadata(pairs: &[(&str, &str)]) -> Metadata {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn sound() -> Vec<u8> {
    to_safetensors(tensors(), &metadata(&[("format", "pt")])).unwrap()
}

/// A file with this JSON header and this many bytes of data.
fn with_header(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// The message for these bytes, and that there is a hint with it.
fn refusal(bytes: &[u8]) -> String {
    let error = StateDict::from_bytes(bytes).unwrap_err();
    assert!(error.hint().is_some(), "no hint for: {error}");
    error.to_string()
}

/// A file in a folder that lasts as long as the first value.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// The message, its file called `F`, and the hint for a file of this name and content.
fn file_refusal(name: &str, bytes: &[u8]) -> (String, String) {
    let (_folder, path) = file(name, bytes);
    let error = StateDict::read(&path).unwrap_err();
    (error.to_string().replace(&path.display().to_string(), "F"), error.hint().unwrap())
}

fn named(names: &[&str]) -> StateDict {
    let scalars = names.iter().map(|name| (*name, vec![], Dtype::U8, vec![1]));
    StateDict::from_bytes(&to_safetensors(scalars, &Metadata::new()).unwrap()).unwrap()
}

// Reading and writing.

#[test]
fn what_is_written_is_read_from_a_file_and_from_memory() {
    let (_folder, path) = file("m.safetensors", b"old");
    write_safetensors(&path, tensors(), &metadata(&[("a", "\"1\"\n"), ("refit", "{}")])).unwrap();
    let from_file = StateDict::read(&path).unwrap();
    let from_memory = StateDict::from_bytes(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(from_file.source(), path.display().to_string());
    assert_eq!(from_memory.with_source("embedded").source(), "embedded");
    assert_eq!(from_file.metadata()["a"], "\"1\"\n");
    assert_eq!(from_file.len(), 4);
    for (name, shape, dtype, bytes) in tensors() {
        let entry = from_file.get(&name).unwrap();
        assert_eq!((entry.shape(), entry.dtype()), (&shape[..], dtype));
        assert_eq!(entry.byte_len(), bytes.len());
        assert_eq!(from_file.get_bytes(&name).unwrap(), bytes);
    }
    assert_eq!(from_file.get_f32("conv1.bias").unwrap(), [1.0, -2.0, 0.5]);
    assert_eq!(from_file.get_f32("bn1.num_batches_tracked").unwrap(), [7.0]);
    assert!(from_file.get_f32("empty").unwrap().is_empty());
}

#[test]
fn the_safetensors_crate_reads_what_is_written() {
    let bytes = sound();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), 4);
    for (name, shape, dtype, bytes) in tensors() {
        let view = theirs.tensor(&name).unwrap();
        assert_eq!((view.shape(), view.data()), (&shape[..], &bytes[..]));
        assert_eq!(view.dtype().to_string(), dtype.name());
    }
    let (_, header) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn what_the_safetensors_crate_writes_is_read() {
    let data: Vec<u8> = (0..24).collect();
    let view = ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, vec![2, 3], &data);
    let bytes = ::safetensors::serialize([("w", view.unwrap())], None).unwrap();
    assert_eq!(StateDict::from_bytes(&bytes).unwrap().get_bytes("w").unwrap(), data);
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let mut turned = tensors();
    turned.reverse();
    let settings = metadata(&[("refit", "{}"), ("format", "pt"), ("a", "b")]);
    let (one, other) = (to_safetensors(tensors(), &settings), to_safetensors(turned, &settings));
    assert_eq!(one.unwrap(), other.unwrap());
    let text = String::from_utf8_lossy(&sound()).into_owned();
    let start = "{\"__metadata__\":{\"format\":\"pt\"},\"bn1.num_batches_tracked\":\
                 {\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},\"conv1.weight\":";
    assert_eq!(&text[8..8 + start.len()], start);
}

#[test]
fn each_tensor_is_aligned_to_its_elements() {
    for length in 1..=16 {
        let bytes = to_safetensors(tensors(), &metadata(&[("k", &"v".repeat(length))])).unwrap();
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert_eq!(header % 8, 0);
        let json = &bytes[8..8 + header as usize];
        let (_, places) = safetensors::parse_header("m", json, bytes.len() as u64).unwrap();
        assert!(places.iter().all(|p| p.begin.is_multiple_of(p.dtype.size() as u64)));
    }
}

#[test]
fn every_type_is_brought_to_single_precision() {
    let cases: [(Dtype, Vec<u8>, f32); 13] = [
        (Dtype::F64, (-1.5f64).to_le_bytes().into(), -1.5),
        (Dtype::F32, 0.1f32.to_le_bytes().into(), 0.1),
        (Dtype::F16, f16::from_f32(0.25).to_le_bytes().into(), 0.25),
        (Dtype::BF16, bf16::from_f32(-3.0).to_le_bytes().into(), -3.0),
        (Dtype::I64, (-9i64).to_le_bytes().into(), -9.0),
        (Dtype::I32, (-8i32).to_le_bytes().into(), -8.0),
        (Dtype::I16, (-7i16).to_le_bytes().into(), -7.0),
        (Dtype::I8, (-6i8).to_le_bytes().into(), -6.0),
        (Dtype::U64, 5u64.to_le_bytes().into(), 5.0),
        (Dtype::U32, 4u32.to_le_bytes().into(), 4.0),
        (Dtype::U16, 3u16.to_le_bytes().into(), 3.0),
        (Dtype::U8, vec![200], 200.0),
        (Dtype::Bool, vec![1], 1.0),
    ];
    for (dtype, bytes, value) in cases {
        let bytes = to_safetensors([("x", vec![1], dtype, bytes)], &Metadata::new()).unwrap();
        assert_eq!(StateDict::from_bytes(&bytes).unwrap().get_f32("x").unwrap(), [value]);
    }
}

// Names.

#[test]
fn prefixes_that_all_names_have_are_taken_off() {
    let compiled = named(&["_orig_mod.module.conv1.weight", "_orig_mod.module.fc.weight"]);
    assert_eq!(compiled.names().collect::<Vec<_>>(), ["conv1.weight", "fc.weight"]);
    assert_eq!(compiled.wrapping(), "_orig_mod.module.");
    let averaged = named(&["module.fc.weight", "n_averaged"]);
    assert!(averaged.contains("fc.weight") && averaged.contains("n_averaged"));
    let partly = named(&["model.0.weight", "head.weight"]);
    assert_eq!((partly.contains("model.0.weight"), partly.wrapping()), (true, ""));
    assert!(named(&["module."]).contains("module."), "nothing would be left");
}

#[test]
fn names_of_refit_s_own_files_are_exact() {
    let own = [("model.fc.weight", vec![], Dtype::U8, vec![1])];
    let bytes = to_safetensors(own, &metadata(&[("refit", "{}")])).unwrap();
    assert!(StateDict::from_bytes(&bytes).unwrap().contains("model.fc.weight"));
}

#[test]
fn counters_are_known_by_name() {
    assert!(StateDict::is_counter("layer1.0.bn1.num_batches_tracked"));
    assert!(StateDict::is_counter("num_batches_tracked"));
    assert!(StateDict::is_counter("n_averaged"));
    assert!(!StateDict::is_counter("layer1.0.bn1.running_mean"));
    assert!(!StateDict::is_counter("num_batches_tracked.weight"));
}

#[test]
fn a_missing_tensor_is_named_with_the_nearest() {
    let error = named(&["conv1.weight", "fc.bias"]).get_f32("conv1.weigth").unwrap_err();
    assert_eq!(error.to_string(), "`bytes in memory` has no tensor `conv1.weigth`");
    assert_eq!(error.hint().unwrap(), "try `conv1.weight`");
}

// Files that are no weights.

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display().to_string();
    let error = StateDict::read(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("`{place}` is a folder, not a file of weights"));
    assert_eq!(error.hint().unwrap(), "give a .safetensors, .pth or .pt file");
    let inside = folder.path().join("m.pth");
    fs::write(&inside, "").unwrap();
    let one = inside.display().to_string();
    let hint = StateDict::read(folder.path()).unwrap_err().hint().unwrap();
    assert_eq!(hint, format!("give the file in it: `{one}`"));
    fs::write(folder.path().join("n.pt"), "").unwrap();
    let hint = StateDict::read(folder.path()).unwrap_err().hint().unwrap();
    assert_eq!(hint, format!("give one of the files in it: `{one}`, `{place}/n.pt`"));
    let missing = folder.path().join("none.pth");
    let error = StateDict::read(&missing).unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("cannot read `{}`: No such", missing.display()))
    );
    assert_eq!(error.hint().unwrap(), "check the path");
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = StateDictError::Unreadable { file: "m".into(), error: denied };
    assert_eq!(error.hint().unwrap(), "make the file readable for your user");
}

#[test]
#[cfg(unix)]
fn a_device_is_not_read() {
    let error = StateDict::read("/dev/zero").unwrap_err();
    assert_eq!(error.to_string(), "`/dev/zero` is a device or a pipe, not a file of weights");
    assert_eq!(error.hint().unwrap(), "give a .safetensors, .pth or .pt file");
}

#[test]
fn files_of_other_kinds_are_told_apart() {
    let tar = [&[b'a'; 257][..], b"ustar", &[0; 250]].concat();
    for (bytes, kind, mend) in [
        (&b"<!DOCTYPE html><html>Sign in"[..], "a web page", "the server sent a page"),
        (b"\n  <HTML>", "a web page", "the server sent a page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "git lfs pull"),
        (b"{\"a\": 1}", "JSON text", "that it belongs to"),
        (b"{\"config\": [1, 2]}", "JSON text", "that it belongs to"),
        (b"Entry not found", "a text file", "give a .safetensors, .pth or .pt file"),
        (b"cat\ndog\n", "a text file", "give a .safetensors, .pth or .pt file"),
        (b"\x89HDF\r\n\x1a\n....", "an HDF5 file", "Keras names and orders"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "a gzip archive", "unpack it (gunzip"),
        (&tar, "a tar archive", "unpack it (tar xf)"),
        (b"\x93NUMPY\x01\0v\0", "a NumPy array", "one array is no network"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file", "a language model's"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture", "pictures where the command asks"),
    ] {
        let (message, hint) = file_refusal("weights.pth", bytes);
        assert_eq!(message, format!("`F` is {kind}, not a file of weights"));
        assert!(hint.contains(mend), "{kind}: {hint}");
    }
}

#[test]
fn empty_and_unknown_files_are_refused() {
    let (message, hint) = file_refusal("m.safetensors", b"");
    assert_eq!(message, "`F` is empty");
    assert_eq!(hint, "the download or copy did not finish: fetch or copy it again");
    let (message, hint) = file_refusal("m.bin", &[0, 1, 2, 3, 0xfe, 0xff, 0, 0, 9, 9]);
    let unknown = "neither a safetensors file nor a PyTorch checkpoint";
    assert_eq!(message, format!("`F` is {unknown} (it begins with 00 01 02 03 fe ff 00 00)"));
    assert_eq!(hint, "give a .safetensors file, or a .pth or .pt file that torch.save wrote");
}

// Damaged and hostile safetensors.

const AGAIN: &str = "fetch or copy it again, and compare its length or checksum with its source's";

#[test]
fn a_file_that_is_cut_short_says_by_how_much() {
    let bytes = sound();
    let n = bytes.len();
    let (message, hint) = file_refusal("m.safetensors", &bytes[..n - 5]);
    let short = format!("`F` is cut short: its header promises {n} bytes, it holds {}", n - 5);
    assert_eq!((message, hint.as_str()), (short, AGAIN));
    let (message, _) = file_refusal("m.safetensors", &bytes[..5]);
    assert_eq!(message, "`F` is cut short: its header promises 8 bytes, it holds 5");
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap());
    let (message, _) = file_refusal("m.safetensors", &bytes[..100]);
    let short = format!("`F` is cut short: its header promises {header} bytes, it holds 100");
    assert_eq!(message, short);
}

#[test]
fn a_file_with_more_than_its_tensors_is_refused() {
    let (message, hint) = file_refusal("m.safetensors", &[sound(), vec![0; 3]].concat());
    assert_eq!(message, "`F` has 3 bytes after its last tensor, which belong to none");
    assert_eq!(hint, AGAIN);
}

#[test]
fn a_header_longer_than_allowed_takes_no_memory() {
    let mut bytes = sound();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let (message, hint) = file_refusal("m.safetensors", &bytes);
    let claims = "`F` claims a header of 18446744073709551615 bytes; the format allows 100000000";
    assert_eq!(message, claims);
    let faulty = "the file is damaged, or made by a faulty program: ";
    assert_eq!(hint, format!("{faulty}{AGAIN}"));
}

#[test]
fn headers_that_are_not_valid_say_why() {
    let start = "the header of `bytes in memory` is not valid: ";
    for (json, problem) in [
        ("{\"a\":", "EOF while parsing a value at line 1 column 5"),
        ("{\"a\":1}", "invalid type: integer `1`, expected struct RawTensor at line 1 column 6"),
        ("{\"a\":{\"dtype\":\"F32\"}}", "missing field `shape` at line 1 column 20"),
        ("{\"__metadata__\":{\"a\":1}}", "expected a string at line 1 column 22"),
    ] {
        let message = refusal(&with_header(json, 0));
        assert!(message.starts_with(start) && message.ends_with(problem), "{message}");
    }
    let twice = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\
                  \"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}";
    assert!(refusal(&with_header(twice, 2)).contains("`a` stands in it twice"));
    let twice = "{\"__metadata__\":{},\"__metadata__\":{}}";
    assert!(refusal(&with_header(twice, 0)).contains("`__metadata__` stands in it twice"));
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(refusal(&with_header(&deep, 0)).starts_with(start));
    let mut not_text = with_header("{\"aaaa\":{}}", 0);
    not_text[11] = 0xff;
    assert!(refusal(&not_text).starts_with(start));
}

/// `"name":{...}` of a header.
fn tensor_json(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(
        "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}"
    )
}

#[test]
fn tensors_that_contradict_the_file_are_named() {
    let max = u64::MAX.to_string();
    let ranks = format!("[{}1]", "1,".repeat(64));
    for (tensors, problem) in [
        (tensor_json("a", "F32", "[2]", 8, 0), "its bytes end (0) before they begin (8)"),
        (
            tensor_json("a", "F32", "[3]", 0, 8),
            "F32 of shape [3] takes 12 bytes, but it is given 8",
        ),
        (tensor_json("a", "F32", &format!("[{max},{max}]"), 0, 8), "is too large for any machine"),
        (tensor_json("a", "F64", "[2305843009213693952]", 0, 8), "is too large for any machine"),
        (tensor_json("a", "F32", "[2]", 4, 12), "the bytes before it belong to no tensor"),
        (tensor_json("a", "U8", &ranks, 0, 1), "its shape has 65 dimensions"),
        (
            [tensor_json("b", "F32", "[2]", 0, 8), tensor_json("a", "F32", "[2]", 4, 12)].join(","),
            "its bytes overlap those of the tensor before it",
        ),
    ] {
        let message = refusal(&with_header(&format!("{{{tensors}}}"), 12));
        assert!(message.starts_with("tensor `a` of `bytes in memory` is not valid: "), "{message}");
        assert!(message.ends_with(problem), "{message}");
    }
    let beyond = tensor_json("a", "U8", &format!("[{max}]"), 0, u64::MAX);
    let message = refusal(&with_header(&format!("{{{beyond}}}"), 4));
    assert!(message.contains("is cut short: its header promises 18446744073709551615"));
}

#[test]
fn types_that_are_not_read_are_named() {
    let tensor = tensor_json("a\\u001b", "F8_E4M3", "[2]", 0, 2);
    let error = StateDict::from_bytes(&with_header(&format!("{{{tensor}}}"), 2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `a\u{fffd}` of `bytes in memory` is of type F8_E4M3, which refit does not read"
    );
    assert!(error.hint().unwrap().starts_with("convert it to float32 or float16 first"));
}

#[test]
fn a_file_without_tensors_is_refused() {
    let error = StateDict::from_bytes(&with_header("{\"__metadata__\":null}", 0)).unwrap_err();
    assert_eq!(error.to_string(), "`bytes in memory` holds no tensors");
    assert!(error.hint().unwrap().starts_with("give the file that holds the weights themselves"));
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let (_folder, path) = file("m.safetensors", &sound());
    let weights = StateDict::read(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(20).unwrap();
    let error = weights.get_f32("conv1.weight").unwrap_err();
    let start = format!("cannot read tensor `conv1.weight` of `{}`: ", path.display());
    assert!(error.to_string().starts_with(&start), "{error}");
    assert_eq!(error.hint().unwrap(), AGAIN);
}

#[test]
fn what_cannot_be_written_is_named() {
    let one = |name: &str, bytes: usize| (name.to_string(), vec![2], Dtype::F32, vec![0; bytes]);
    for (tensors, problem) in [
        (vec![one("a", 8), one("a", 8)], "`a` to `memory`: the name comes twice"),
        (vec![one("a", 7)], "`a` to `memory`: F32 of shape [2] is not 7 bytes"),
        (vec![one("__metadata__", 8)], "`__metadata__` to `memory`: the name is reserved"),
    ] {
        let error = to_safetensors(tensors, &Metadata::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write tensor {problem}"));
        assert!(error.hint().unwrap().starts_with("this is a mistake in the program"));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_says_how_much_the_file_takes() {
    let error = write_safetensors("/dev/full", tensors(), &Metadata::new()).unwrap_err();
    assert!(error.to_string().starts_with("cannot write `/dev/full`: the disk is full"));
    let takes = to_safetensors(tensors(), &Metadata::new()).unwrap().len();
    let hint = format!("free at least {takes} bytes, or give another place with --out");
    assert_eq!(error.hint().unwrap(), hint);
}

// PyTorch checkpoints. `tests/containers.rs` reads files that PyTorch wrote; these are made
// here, opcode by opcode, so that they can be wrong in chosen ways.

/// A short text, pickled.
fn text_op(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor of four numbers in storage `key`, pickled.
fn tensor_op(key: &str, shape: [u8; 2]) -> Vec<u8> {
    let storage = [
        &b"((X\x07\0\0\0storagectorch\nFloatStorage\n"[..],
        &text_op(key),
        &text_op("cpu"),
        b"K\x04tQ",
    ];
    let [h, w] = shape;
    let shape = [b'K', 0, b'K', h, b'K', w, 0x86, b'K', w, b'K', 1, 0x86, 0x89];
    let hooks = b"ccollections\nOrderedDict\n)RtR";
    [&b"ctorch._utils\n_rebuild_tensor_v2\n"[..], &storage.concat(), &shape, hooks].concat()
}

/// A dictionary, pickled without protocol and STOP.
fn dict_op(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> =
        items.iter().flat_map(|(key, value)| [text_op(key), value.clone()].concat()).collect();
    [&b"}("[..], &items, b"u"].concat()
}

fn pickle_of(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// Storage `0` holds 0, 1, 2, 3 and storage `1` holds 4, 5, 6, 7.
fn storages() -> [Vec<u8>; 2] {
    [0, 4].map(|start| (start..start + 4).flat_map(|i| (i as f32).to_le_bytes()).collect())
}

/// What `torch.save` writes since 1.6.
fn zip_of(value: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let [zero, one] = storages();
    for (name, bytes) in [("m/data.pkl", pickle_of(value)), ("m/data/0", zero), ("m/data/1", one)] {
        zip.start_file(name, stored).unwrap();
        io::Write::write_all(&mut zip, &bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// What `torch.save` wrote before.
fn legacy_of(value: &[u8]) -> Vec<u8> {
    let mut bytes = pickle_of(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
    bytes.extend(pickle_of(b"M\xe9\x03"));
    bytes.extend(pickle_of(&dict_op(&[("little_endian", vec![0x88])])));
    bytes.extend(pickle_of(value));
    bytes.extend(pickle_of(&[&b"]("[..], &text_op("0"), &text_op("1"), b"e"].concat()));
    for storage in storages() {
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(storage);
    }
    bytes
}

fn two_tensors() -> Vec<u8> {
    dict_op(&[("z.weight", tensor_op("1", [2, 2])), ("a.bias", tensor_op("0", [1, 3]))])
}

fn read_bytes(bytes: &[u8]) -> Result<StateDict, StateDictError> {
    let (_folder, path) = file("m.pth", bytes);
    read_all(&path)
}

/// Opens a file and reads every tensor.
fn read_all(path: &Path) -> Result<StateDict, StateDictError> {
    let weights = StateDict::read(path)?;
    weights.names().try_for_each(|name| weights.get_f32(name).map(drop))?;
    Ok(weights)
}

#[test]
fn both_containers_are_read_in_their_order() {
    for bytes in [zip_of(&two_tensors()), legacy_of(&two_tensors())] {
        let (_folder, path) = file("m.pth", &bytes);
        let weights = StateDict::read(&path).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["z.weight", "a.bias"]);
        assert_eq!(weights.get("a.bias").unwrap().shape(), [1, 3]);
        assert_eq!(weights.get_f32("z.weight").unwrap(), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(weights.get_f32("a.bias").unwrap(), [0.0, 1.0, 2.0]);
        assert!(weights.metadata().is_empty());
    }
}

#[test]
fn weights_are_found_under_a_training_script_s_keys() {
    let weights = dict_op(&[("module.fc.weight", tensor_op("0", [2, 2]))]);
    let optimizer = dict_op(&[("exp_avg", tensor_op("1", [2, 2]))]);
    for key in ["state_dict", "model", "model_state_dict", "ema", "state_dict_ema"] {
        let checkpoint = dict_op(&[
            ("epoch", b"K\x03".to_vec()),
            ("optimizer", optimizer.clone()),
            (key, weights.clone()),
        ]);
        let found = read_bytes(&zip_of(&checkpoint)).unwrap();
        assert_eq!(found.names().collect::<Vec<_>>(), ["fc.weight"]);
        assert_eq!(found.wrapping(), format!("{key}.module."));
    }
    let nested = dict_op(&[("state_dict", dict_op(&[("model", weights)]))]);
    assert_eq!(read_bytes(&zip_of(&nested)).unwrap().wrapping(), "state_dict.model.module.");
}

#[test]
fn a_part_of_the_network_is_not_taken_for_a_wrapper() {
    let beside = dict_op(&[
        ("model", dict_op(&[("fc.weight", tensor_op("0", [2, 2]))])),
        ("scale", tensor_op("1", [1, 1])),
    ]);
    let names = |bytes: &[u8]| -> Vec<String> {
        read_bytes(&zip_of(bytes)).unwrap().names().map(str::to_string).collect()
    };
    assert_eq!(names(&beside), ["model.fc.weight", "scale"]);
    // A module that was saved whole, with children `model` and `head`.
    let child = |key| {
        let tables = dict_op(&[
            ("_parameters", dict_op(&[("weight", tensor_op(key, [2, 2]))])),
            ("_buffers", b"}".to_vec()),
            ("_modules", b"}".to_vec()),
        ]);
        [&b"ctorch.nn.modules.linear\nLinear\n)\x81"[..], &tables, b"b"].concat()
    };
    let tables = dict_op(&[
        ("_parameters", b"}".to_vec()),
        ("_buffers", b"}".to_vec()),
        ("_modules", dict_op(&[("model", child("0")), ("head", child("1"))])),
    ]);
    let whole = [&b"ctorch.nn.modules.container\nSequential\n)\x81"[..], &tables, b"b"].concat();
    assert_eq!(names(&whole), ["model.weight", "head.weight"]);
    assert_eq!(names(&dict_op(&[("model", whole)])), ["model.weight", "head.weight"]);
}

#[test]
fn a_pickle_that_asks_for_more_is_refused_by_name() {
    let evil = b"cposix\nsystem\nX\x02\0\0\0id\x85R".to_vec();
    let value = dict_op(&[("w", tensor_op("0", [2, 2])), ("x", evil)]);
    let message = "`F` asks Python to load `posix.system`, which is neither a tensor nor a plain \
                   container; it was refused, and nothing of it was run";
    let danger = "weights never need this, and Python would have run it: do not open the file \
                  with Python, and get the weights from a source you trust";
    let text_only = b"cposix\nsystem\n(S'id'\ntR.".to_vec();
    for bytes in [zip_of(&value), legacy_of(&value), pickle_of(&value), text_only] {
        assert_eq!(file_refusal("m.pth", &bytes), (message.to_string(), danger.to_string()));
    }
}

#[test]
fn whole_objects_are_told_from_attacks() {
    let (message, hint) = file_refusal("m.pth", &zip_of(b"c__main__\nNet\n)\x81}b"));
    assert!(message.contains("`__main__.Net`"));
    assert!(hint.starts_with("it holds a whole Python object: if you trust"), "{hint}");
    let (message, hint) = file_refusal("m.pt", &zip_of(b"c__torch__\nNet\n)\x81}b"));
    assert!(message.contains("`__torch__.Net`"));
    assert!(hint.starts_with("it is a TorchScript archive"), "{hint}");
    let (_, hint) = file_refusal("m.pt", &zip_of(b"csubprocess\nPopen\n)\x81"));
    assert!(hint.starts_with("weights never need this"), "{hint}");
}

#[test]
fn zip_archives_of_other_things_say_what_they_hold() {
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    for name in ["d.txt", "b.txt", "c.txt", "a\x1b.txt"] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    }
    let (message, hint) = file_refusal("m.pth", &zip.finish().unwrap().into_inner());
    let holds = "(it holds `a\\u{1b}.txt`, `b.txt`, `c.txt` and 1 more)";
    assert_eq!(message, format!("`F` is a zip archive without PyTorch's `data.pkl` {holds}"));
    assert!(hint.starts_with("if the weights are packed in it, unzip it"));
    let empty = [&b"PK\x05\x06"[..], &[0; 18]].concat();
    assert!(file_refusal("m.pth", &empty).0.ends_with("(it holds nothing)"));
}

#[test]
fn damaged_checkpoints_say_what_is_wrong() {
    let start = "cannot read `F` as a PyTorch checkpoint: ";
    let zip = zip_of(&two_tensors());
    let same = dict_op(&[
        ("a", dict_op(&[("b.c", tensor_op("0", [2, 2]))])),
        ("a.b", dict_op(&[("c", tensor_op("1", [2, 2]))])),
    ]);
    let beyond = dict_op(&[("w", tensor_op("0", [9, 9]))]);
    let itself = b"]q\0h\0a".to_vec();
    for (bytes, problem) in [
        (zip[..zip.len() - 30].to_vec(), "as a zip archive: "),
        (legacy_of(&two_tensors())[..60].to_vec(), "its pickle ends early"),
        (zip_of(&same), "two of its tensors are named `a.b.c`"),
        (zip_of(&beyond), "Tensor with shape [9, 9]"),
        (zip_of(&itself), "its values are nested, or shared, beyond what a checkpoint needs"),
        (zip_of(b"\xff"), "0xff is no opcode of a pickle"),
    ] {
        let (message, hint) = file_refusal("m.pth", &bytes);
        assert!(message.starts_with(start) && message.contains(problem), "{message}");
        assert!(
            hint.starts_with(AGAIN) && hint.contains("torch.save(model.state_dict()"),
            "{hint}"
        );
    }
}

#[test]
fn a_checkpoint_without_tensors_is_refused() {
    let (message, _) = file_refusal("m.pth", &zip_of(&dict_op(&[("epoch", b"K\x03".to_vec())])));
    assert_eq!(message, "`F` holds no tensors");
    assert_eq!(file_refusal("m.pth", &pickle_of(b"}")).0, "`F` holds no tensors");
}

#[test]
fn a_tensor_far_larger_than_its_file_is_refused() {
    // Four numbers, said to be repeated 2^26 times by a stride of 0.
    let value = dict_op(&[("w", tensor_op("0", [2, 2]))]);
    let (shape, stride) = (&b"K\x02K\x02\x86"[..], &b"K\x02K\x01\x86"[..]);
    let old = [shape, stride].concat();
    let new = [&b"J\0\0\0\x04K\x04\x86"[..], &b"K\0K\x01\x86"[..]].concat();
    let at = value.windows(old.len()).position(|w| w == old).unwrap();
    let value = [&value[..at], &new, &value[at + old.len()..]].concat();
    let (message, hint) = file_refusal("m.pth", &zip_of(&value));
    let start = "tensor `w` of `F` is not valid: shape [67108864, 4] takes 1073741824 bytes, but";
    assert!(message.starts_with(start), "{message}");
    assert!(hint.contains(AGAIN));
}

#[test]
fn checkpoints_are_not_read_from_memory() {
    let message = refusal(&zip_of(&two_tensors()));
    assert!(message.ends_with("as a PyTorch checkpoint: checkpoints are read from files only"));
}

// Damage at random: an error or a value, never a panic.

/// A sequence of numbers from a seed (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// Cuts, or changes up to eight bytes, or both.
    fn damage(&mut self, sound: &[u8]) -> Vec<u8> {
        let kept = if self.below(3) == 0 { self.below(sound.len()) } else { sound.len() };
        let mut bytes = sound[..kept].to_vec();
        for _ in 0..self.below(9).min(kept) {
            let at = self.below(kept);
            bytes[at] = if self.below(2) == 0 { self.below(256) as u8 } else { bytes[at] ^ 1 };
        }
        bytes
    }
}

#[test]
fn damaged_safetensors_never_panic() {
    let (mut random, sound) = (Random(1), sound());
    let mut refused = 0;
    for _ in 0..20_000 {
        match StateDict::from_bytes(&random.damage(&sound)) {
            Ok(weights) => weights.names().for_each(|name| {
                weights.get_f32(name).unwrap();
            }),
            Err(error) => {
                assert!(error.hint().is_some(), "{error}");
                refused += 1;
            }
        }
    }
    assert!((5_000..20_000).contains(&refused), "{refused}");
}

#[test]
fn damaged_checkpoints_never_panic() {
    // A panic inside `pytorch-reader` would show as this problem.
    let failed = "the reader failed on it";
    let mut random = Random(2);
    let (_folder, path) = file("m.pth", b"");
    let mut overwritten = File::options().write(true).open(&path).unwrap();
    for sound in [zip_of(&two_tensors()), legacy_of(&two_tensors())] {
        for _ in 0..3_000 {
            let bytes = random.damage(&sound);
            // In place: thousands of new files are slow on some disks.
            overwritten.rewind().unwrap();
            io::Write::write_all(&mut overwritten, &bytes).unwrap();
            overwritten.set_len(bytes.len() as u64).unwrap();
            if let Err(error) = read_all(&path) {
                assert!(error.hint().is_some(), "{error}");
                assert!(!error.to_string().contains(failed), "{error}");
            }
        }
    }
}
