//! PyTorch checkpoints, by `pytorch-reader`, after each of their pickles has been looked at.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use pytorch_reader::{MAX_PICKLE_SIZE, PytorchReader};

use super::pickle::{self, Fault, Pickle, Place};
use super::{Data, Dtype, Entry, StateDictError, printable};

/// Dictionaries under which training scripts put the weights, the likeliest first.
const WRAPPERS: [&str; 9] = [
    "state_dict",
    "model",
    "model_state_dict",
    "ema",
    "state_dict_ema",
    "model_ema",
    "net",
    "network",
    "weights",
];

/// A tensor may be larger than its file (a view can repeat a row), but only up to here.
const ANY_FILE_BYTES: u64 = 64 << 20;

/// The container that holds the pickles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Container {
    Zip,
    /// Five pickles and the storages, one after another: PyTorch 0.1.10 to 1.5.
    Legacy,
    /// One pickle, which can hold no tensors of PyTorch's.
    Plain,
}

/// A checkpoint's tensors in its order, and the wrappers they were found under.
pub(super) struct Checkpoint {
    pub entries: Vec<(String, Entry)>,
    pub wrappers: Vec<String>,
}

/// Reads a checkpoint's structure; the tensors' bytes stay in the file.
pub(super) fn read(
    path: &Path,
    file: &str,
    container: Container,
) -> Result<Checkpoint, StateDictError> {
    // Neither crate is known to panic on any input; should one, the user gets an error.
    let work = AssertUnwindSafe(|| read_checked(path, file, container));
    catch_unwind(work).unwrap_or_else(|_| Err(bad(file, "the reader failed on it")))
}

fn read_checked(
    path: &Path,
    file: &str,
    container: Container,
) -> Result<Checkpoint, StateDictError> {
    let places = examine(path, file, container)?.tensors().ok_or_else(|| {
        bad(file, "its values are nested, or shared, beyond what a checkpoint needs")
    })?;
    if places.is_empty() {
        return Err(StateDictError::NoTensors { file: file.to_string() });
    }
    let reader = PytorchReader::new(path).map_err(|e| bad(file, &e.to_string()))?;
    let length = std::fs::metadata(path).map_or(0, |m| m.len());
    gather(file, &places, reader.into_tensors(), length)
}

/// Looks at all pickles of the file, and gives the one with the tensors.
fn examine(path: &Path, file: &str, container: Container) -> Result<Pickle, StateDictError> {
    if container == Container::Zip {
        return scan(file, &mut Cursor::new(data_pkl(path, file)?));
    }
    let mut reader = BufReader::new(open(path, file)?);
    if container == Container::Legacy {
        // A magic number, a version, facts about the system.
        (0..3).try_for_each(|_| scan(file, &mut reader).map(drop))?;
    }
    let pickle = scan(file, &mut reader)?;
    if container == Container::Legacy {
        // The list of the storages' keys.
        scan(file, &mut reader)?;
    }
    Ok(pickle)
}

fn open(path: &Path, file: &str) -> Result<File, StateDictError> {
    File::open(path).map_err(|error| StateDictError::Unreadable { file: file.to_string(), error })
}

fn scan(file: &str, reader: &mut impl BufRead) -> Result<Pickle, StateDictError> {
    pickle::scan(reader).map_err(|fault| match fault {
        Fault::Forbidden { asks, .. } => {
            StateDictError::ForbiddenPickle { file: file.to_string(), asks }
        }
        Fault::Malformed(problem) => bad(file, &problem),
    })
}

/// The pickle that `pytorch-reader` will read: the `data.pkl` nearest to the archive's root.
fn data_pkl(path: &Path, file: &str) -> Result<Vec<u8>, StateDictError> {
    let zip = |error: zip::result::ZipError| bad(file, &format!("as a zip archive: {error}"));
    let mut archive = zip::ZipArchive::new(BufReader::new(open(path, file)?)).map_err(zip)?;
    let names: Vec<String> = archive
        .file_names()
        .map(|name| name.map(|name| name.into_owned()))
        .collect::<Result<_, _>>()
        .map_err(zip)?;
    let is_pickle = |name: &&String| *name == "data.pkl" || name.ends_with("/data.pkl");
    let Some(name) = names.iter().filter(is_pickle).min_by_key(|name| name.len()) else {
        return Err(StateDictError::ZipWithoutPickle { file: file.to_string(), holds: few(names) });
    };
    let entry = archive.by_name(name).map_err(zip)?;
    let mut bytes = Vec::new();
    let read = entry.take(MAX_PICKLE_SIZE + 1).read_to_end(&mut bytes);
    read.map_err(|error| bad(file, &format!("its `{name}`: {error}")))?;
    match bytes.len() as u64 > MAX_PICKLE_SIZE {
        true => Err(bad(file, &format!("its `{name}` is longer than {MAX_PICKLE_SIZE} bytes"))),
        false => Ok(bytes),
    }
}

/// The first few names, by name.
fn few(mut names: Vec<String>) -> String {
    const SHOWN: usize = 3;
    names.sort();
    let quoted: Vec<_> =
        names.iter().take(SHOWN).map(|name| format!("`{}`", name.escape_debug())).collect();
    match names.len() {
        0 => "nothing".into(),
        n if n > SHOWN => format!("{} and {} more", quoted.join(", "), n - SHOWN),
        _ => quoted.join(", "),
    }
}

/// Names the tensors as they stand below the wrappers, in the pickle's order.
fn gather(
    file: &str,
    places: &[Place],
    mut read: HashMap<String, pytorch_reader::Tensor>,
    file_length: u64,
) -> Result<Checkpoint, StateDictError> {
    let wrappers = wrappers(places);
    let mut seen: HashMap<String, &[String]> = HashMap::new();
    let mut entries = Vec::new();
    for path in places.iter().map(|place| &place.path) {
        let full = path.join(".");
        if let Some(other) = seen.insert(full.clone(), path) {
            // The same key set twice is Python's to settle: the later value stands.
            if other == path {
                continue;
            }
            return Err(bad(file, &format!("two of its tensors are named `{full}`")));
        }
        let Some(below) = path.strip_prefix(wrappers.as_slice()) else { continue };
        // A module's non-persistent buffers stand in the pickle and in no state dict.
        let Some(tensor) = read.remove(&full) else { continue };
        let name = below.join(".");
        let entry = entry(file, &name, tensor, file_length)?;
        entries.push((name, entry));
    }
    Ok(Checkpoint { entries, wrappers })
}

/// The keys that lead to the weights in a training script's checkpoint, outermost first.
fn wrappers(places: &[Place]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    while let Some(wrapper) = next_wrapper(places, &found) {
        found.push(wrapper.to_string());
    }
    found
}

/// A wrapper stands in a plain dictionary beside other settings. Beside tensors, or in a module
/// that was saved whole, the same key is part of the network.
fn next_wrapper(places: &[Place], found: &[String]) -> Option<&'static str> {
    let depth = found.len();
    let below = || places.iter().filter(|place| place.path.starts_with(found));
    let in_network = |place: &Place| {
        place.path.len() <= depth + 1 || place.module.is_some_and(|module| module <= depth)
    };
    if below().any(in_network) {
        return None;
    }
    WRAPPERS.into_iter().find(|&wrapper| below().any(|place| place.path[depth] == wrapper))
}

fn entry(
    file: &str,
    name: &str,
    tensor: pytorch_reader::Tensor,
    file_length: u64,
) -> Result<Entry, StateDictError> {
    let (bytes, shape) = (tensor.byte_len() as u64, tensor.shape().to_vec());
    if bytes > file_length.max(ANY_FILE_BYTES) {
        let problem =
            format!("shape {shape:?} takes {bytes} bytes, but the whole file has {file_length}");
        let (file, tensor) = (file.to_string(), printable(name));
        return Err(StateDictError::BadTensor { file, tensor, problem });
    }
    Ok(Entry { shape, dtype: dtype(tensor.dtype()), data: Data::Checkpoint(tensor) })
}

fn dtype(dtype: pytorch_reader::DType) -> Dtype {
    use pytorch_reader::DType;
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::Bool,
    }
}

/// A tensor's bytes, in this machine's order.
pub(super) fn read_tensor(tensor: &pytorch_reader::Tensor) -> io::Result<Vec<u8>> {
    catch_unwind(AssertUnwindSafe(|| tensor.read()))
        .unwrap_or_else(|_| Err(io::Error::other("the reader failed on it")))
}

fn bad(file: &str, problem: &str) -> StateDictError {
    StateDictError::BadCheckpoint { file: file.to_string(), problem: printable(problem) }
}
