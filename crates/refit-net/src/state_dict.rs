//! Weights by name, from `.safetensors` files and PyTorch checkpoints.
//!
//! The content decides the format, not the extension; a folder, or the index in it, stands for the
//! safetensors files that the index names. No code of a pickle is ever run: a
//! checkpoint that asks for more than tensors and plain containers is refused by name. A file
//! is trusted in nothing: lengths, offsets and shapes are checked against what it holds before
//! memory is taken for them.
//!
//! Opening reads the header only; a tensor's bytes are read when asked for.

mod error;
mod pickle;
mod pytorch;
mod safetensors;
mod sharded;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};

use crate::error::nearest;

pub use error::{LooksLike, StateDictError};
pub use safetensors::{safetensors_length, to_safetensors, write_safetensors};

use pytorch::Container;
use safetensors::{LENGTH_BYTES, Metadata, Place};

/// The metadata key under which refit's own files describe themselves; their names are exact.
const OWN_FILES: &str = "refit";

/// What wrapping a network (`DataParallel`, `torch.compile`, a trainer's class) puts before
/// all of its names.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The type of a tensor's elements, little-endian in memory and in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    const ALL: [Self; 13] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
    ];

    /// One element's size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name by which safetensors headers call it: `F32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U16 => "U16",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor: its shape, its type, and where its bytes are.
#[derive(Debug, Clone)]
pub struct Entry {
    shape: Vec<usize>,
    dtype: Dtype,
    data: Data,
}

impl Entry {
    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements' type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How many elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The length of its bytes.
    pub fn byte_len(&self) -> usize {
        self.num_elements() * self.dtype.size()
    }
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone)]
enum Data {
    Memory(Arc<[u8]>, Range<usize>),
    File(Arc<Mutex<File>>, u64),
    Checkpoint(pytorch_reader::Tensor),
}

impl Data {
    /// Row-major little-endian bytes. `length` has been checked against the file's.
    fn read(&self, length: usize, element: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(bytes, range) => Ok(bytes[range.clone()].to_vec()),
            Self::File(file, offset) => {
                let mut bytes = vec![0; length];
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(*offset))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            }
            Self::Checkpoint(tensor) => {
                let bytes = pytorch::read_tensor(tensor)?;
                Ok(if cfg!(target_endian = "big") { reversed(bytes, element) } else { bytes })
            }
        }
    }
}

/// `pytorch-reader` gives the machine's own order of bytes.
fn reversed(mut bytes: Vec<u8>, element: usize) -> Vec<u8> {
    bytes.chunks_exact_mut(element).for_each(<[u8]>::reverse);
    bytes
}

/// Named tensors, in their file's order.
///
/// What wraps a network is taken off its names: a dictionary such as `state_dict` or `model`
/// in which a training script put the weights beside other things, and the prefixes `module.`,
/// `_orig_mod.` and `model.` where all names have them. Files of refit's own are left exact.
///
/// ```no_run
/// # use refit_net::state_dict::StateDict;
/// let weights = StateDict::read("resnet18.pth")?;
/// for (name, entry) in weights.iter() {
///     eprintln!("{name} {:?}", entry.shape());
/// }
/// let stem: Vec<f32> = weights.get_f32("conv1.weight")?;
/// # Ok::<(), refit_net::state_dict::StateDictError>(())
/// ```
#[derive(Debug, Clone)]
pub struct StateDict {
    source: String,
    metadata: Metadata,
    entries: Vec<(String, Entry)>,
    index: BTreeMap<String, usize>,
    wrapping: String,
}

impl StateDict {
    /// Opens a file of weights, or several by their index (`model.safetensors.index.json`) or its
    /// folder. The files must stay as they are while the weights are in use; replacing them by a
    /// rename is no harm.
    ///
    /// # Errors
    /// If it cannot be read, is of another format, damaged, hostile, or holds no tensors.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, StateDictError> {
        let path = path.as_ref();
        let source = path.display().to_string();
        if sharded::is_index(path) {
            return sharded::read(path, source);
        }
        if let Some(index) = sharded::index_in(path) {
            return sharded::read(&index, source);
        }
        let length = check_is_file(path, &source)?;
        let unreadable =
            |error| StateDictError::Unreadable { file: path.display().to_string(), error };
        let mut file = File::open(path).map_err(unreadable)?;
        let mut start = Vec::new();
        file.by_ref().take(START_BYTES).read_to_end(&mut start).map_err(unreadable)?;
        match detect(&source, &start, length)? {
            Format::Safetensors => {
                let (metadata, entries) = read_safetensors(&source, file, length)?;
                Self::new(source, metadata, entries, String::new())
            }
            Format::PyTorch(container) => {
                let checkpoint = pytorch::read(path, &source, container)?;
                let wrapping = checkpoint.wrappers.iter().map(|key| format!("{key}.")).collect();
                Self::new(source, Metadata::new(), checkpoint.entries, wrapping)
            }
        }
    }

    /// Reads safetensors from memory, as for embedded weights. The bytes are copied once.
    ///
    /// # Errors
    /// As [`StateDict::read`]. PyTorch checkpoints are read from files only.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateDictError> {
        let source = "bytes in memory".to_string();
        let length = bytes.len() as u64;
        let start = &bytes[..bytes.len().min(START_BYTES as usize)];
        match detect(&source, start, length)? {
            Format::Safetensors => {}
            Format::PyTorch(_) => {
                let problem = "checkpoints are read from files only".to_string();
                return Err(StateDictError::BadCheckpoint { file: source, problem });
            }
        }
        let header = read_header(&source, &mut &*bytes, length)?;
        let (metadata, places) = safetensors::parse_header(&source, &header, length)?;
        let shared: Arc<[u8]> = bytes.into();
        let base = LENGTH_BYTES as usize + header.len();
        let data = |place: &Place| {
            let begin = base + place.begin as usize;
            Data::Memory(shared.clone(), begin..begin + place.length as usize)
        };
        Self::new(source, metadata, entries(places, data), String::new())
    }

    /// Gives the weights another name in messages, such as `the embedded weights`.
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// The same tensors under other names.
    ///
    /// # Errors
    /// If two are called alike then.
    pub fn renamed(self, rename: impl Fn(&str) -> String) -> Result<Self, StateDictError> {
        let entries =
            self.entries.into_iter().map(|(name, entry)| (rename(&name), entry)).collect();
        Self::new(self.source, self.metadata, entries, self.wrapping)
    }

    /// The same values in these shapes, where they are as many: a 1x1 convolution's weights are a
    /// linear layer's.
    #[must_use]
    pub fn viewed_as(mut self, shapes: &[(String, Vec<usize>)]) -> Self {
        for (name, shape) in shapes {
            let Some(&at) = self.index.get(name) else { continue };
            let entry = &mut self.entries[at].1;
            if entry.num_elements() == shape.iter().product::<usize>() {
                entry.shape.clone_from(shape);
            }
        }
        self
    }

    fn new(
        source: String,
        metadata: Metadata,
        mut entries: Vec<(String, Entry)>,
        mut wrapping: String,
    ) -> Result<Self, StateDictError> {
        if entries.is_empty() {
            return Err(StateDictError::NoTensors { file: source });
        }
        if !metadata.contains_key(OWN_FILES) {
            while let Some(prefix) = shared_prefix(&entries) {
                strip(&mut entries, prefix);
                wrapping.push_str(prefix);
            }
        }
        let mut index = BTreeMap::new();
        for (i, (name, _)) in entries.iter().enumerate() {
            if index.insert(name.clone(), i).is_some() {
                let (tensor, problem) = (name.clone(), "its name comes twice".to_string());
                return Err(StateDictError::BadTensor { file: source, tensor, problem });
            }
        }
        Ok(Self { source, metadata, entries, index, wrapping })
    }

    /// Where the weights are from, for messages: the path as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The header's metadata; empty for PyTorch checkpoints.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What was taken off all names, such as `state_dict.module.`; empty if nothing.
    pub fn wrapping(&self) -> &str {
        &self.wrapping
    }

    /// How many tensors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Never true: a file without tensors is refused.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names and tensors, in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Names, in the file's order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// A tensor's shape and type.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|&i| &self.entries[i].1)
    }

    /// A tensor's elements, row-major, each brought to single precision.
    ///
    /// # Errors
    /// If there is no such tensor, or its bytes cannot be read.
    pub fn get_f32(&self, name: &str) -> Result<Vec<f32>, StateDictError> {
        let entry = self.entry(name)?;
        self.bytes_of(name, entry).map(|bytes| to_f32(&bytes, entry.dtype))
    }

    /// A tensor's elements, row-major, little-endian, in its own type.
    ///
    /// # Errors
    /// If there is no such tensor, or its bytes cannot be read.
    pub fn get_bytes(&self, name: &str) -> Result<Vec<u8>, StateDictError> {
        self.bytes_of(name, self.entry(name)?)
    }

    /// Whether a tensor only counts (batches seen by a batch norm, models in an average) and
    /// may be absent, or left over, without harm.
    pub fn is_counter(name: &str) -> bool {
        let last = name.rsplit('.').next().unwrap_or_default();
        last == "num_batches_tracked" || name == "n_averaged"
    }

    fn entry(&self, name: &str) -> Result<&Entry, StateDictError> {
        self.get(name).ok_or_else(|| StateDictError::UnknownTensor {
            file: self.source.clone(),
            tensor: name.to_string(),
            nearest: nearest(name, self.names()).map(printable),
        })
    }

    fn bytes_of(&self, name: &str, entry: &Entry) -> Result<Vec<u8>, StateDictError> {
        let length = entry.byte_len();
        let bytes = entry.data.read(length, entry.dtype.size()).and_then(|bytes| {
            match bytes.len() == length {
                true => Ok(bytes),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        });
        bytes.map_err(|error| StateDictError::UnreadableTensor {
            file: self.source.clone(),
            tensor: name.to_string(),
            error,
        })
    }
}

/// How much of a file decides its format: a tar archive shows itself at byte 257.
const START_BYTES: u64 = 512;

enum Format {
    Safetensors,
    PyTorch(Container),
}

/// The file's length, if it is one.
fn check_is_file(path: &Path, source: &str) -> Result<u64, StateDictError> {
    let file = source.to_string();
    match fs::metadata(path) {
        Ok(there) if there.is_file() => Ok(there.len()),
        Ok(there) if there.is_dir() => {
            Err(StateDictError::NotAFile { file, what: "a folder", inside: weights_in(path) })
        }
        Ok(_) => {
            Err(StateDictError::NotAFile { file, what: "a device or a pipe", inside: Vec::new() })
        }
        Err(error) => Err(StateDictError::Unreadable { file, error }),
    }
}

/// A few files of weights in a folder, by their extensions, for a hint.
fn weights_in(folder: &Path) -> Vec<String> {
    let known = |path: &Path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        matches!(extension, "safetensors" | "pth" | "pt" | "bin" | "ckpt")
    };
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names: Vec<_> =
        paths.filter(|path| known(path)).map(|path| path.display().to_string()).collect();
    names.sort();
    names.truncate(3);
    names
}

/// Tells the format by the file's first bytes.
fn detect(source: &str, start: &[u8], length: u64) -> Result<Format, StateDictError> {
    let file = source.to_string();
    if length == 0 || start.is_empty() {
        return Err(StateDictError::Empty { file });
    }
    if is_safetensors(start) {
        return Ok(Format::Safetensors);
    }
    if let Some(container) = pytorch_container(start) {
        return Ok(Format::PyTorch(container));
    }
    if let Some(looks_like) = looks_like(start) {
        return match text_pickle(start) {
            Some(asks) => Err(StateDictError::ForbiddenPickle { file, asks }),
            None => Err(StateDictError::NotWeights { file, looks_like }),
        };
    }
    // Damaged perhaps, but its faults are those of a safetensors file.
    let named_so = Path::new(source).extension().is_some_and(|e| e == "safetensors");
    if start.get(8) == Some(&b'{') || named_so {
        return Ok(Format::Safetensors);
    }
    if matches!(start, [0x80, 0..=5, ..] | [b'(' | b'}' | b']' | b'c', ..]) {
        return Ok(Format::PyTorch(Container::Plain));
    }
    let first: Vec<_> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Err(StateDictError::UnknownFormat { file, first: first.join(" ") })
}

/// A header's length that can be, and the brace that opens the header.
fn is_safetensors(start: &[u8]) -> bool {
    let claims = start.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    claims.is_some_and(|n| n <= safetensors::MAX_HEADER) && start.get(8) == Some(&b'{')
}

fn pytorch_container(start: &[u8]) -> Option<Container> {
    /// The number that opens a legacy file, as pickled in binary and as text.
    const MAGIC: [&[u8]; 2] =
        [b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", b"119547037146038801333356"];
    let head = &start[..start.len().min(64)];
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        return Some(Container::Zip);
    }
    let legacy = MAGIC.iter().any(|magic| head.windows(magic.len()).any(|w| w == *magic));
    // A tar archive's first pickle may hold the number too, but behind the archive's header.
    legacy.then_some(Container::Legacy)
}

/// What a file that holds no weights looks like, if that is clear.
fn looks_like(start: &[u8]) -> Option<LooksLike> {
    const MAGIC: [(&[u8], LooksLike); 9] = [
        (b"\x89HDF\r\n\x1a\n", LooksLike::Hdf5),
        (b"\x1f\x8b", LooksLike::Gzip),
        (b"\x93NUMPY", LooksLike::Numpy),
        (b"GGUF", LooksLike::Gguf),
        (b"\xff\xd8\xff", LooksLike::Picture),
        (b"\x89PNG", LooksLike::Picture),
        (b"GIF8", LooksLike::Picture),
        (b"RIFF", LooksLike::Picture),
        (b"version https://git-lfs", LooksLike::GitLfs),
    ];
    if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(*found);
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(LooksLike::Tar);
    }
    let text = text(start)?.trim_start_matches('\u{feff}').trim_start();
    let tag = text.get(..5).unwrap_or_default().to_ascii_lowercase();
    Some(match text.as_bytes().first() {
        _ if matches!(tag.as_str(), "<!doc" | "<html" | "<head" | "<body" | "<?xml") => {
            LooksLike::Html
        }
        Some(b'{' | b'[') => LooksLike::Json,
        _ => LooksLike::Text,
    })
}

/// The start of a file as text, if it is text: a character may be cut at its end.
fn text(start: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\x0c');
    (!text.is_empty() && !text.contains(control)).then_some(text)
}

/// What a short pickle of protocol 0, which is all text, asks for against the rules.
fn text_pickle(mut start: &[u8]) -> Option<String> {
    match pickle::scan(&mut start) {
        Err(pickle::Fault::Forbidden { asks, well_formed: true }) => Some(asks),
        _ => None,
    }
}

/// The metadata and the tensors of a safetensors file.
fn read_safetensors(
    source: &str,
    mut file: File,
    length: u64,
) -> Result<(Metadata, Vec<(String, Entry)>), StateDictError> {
    let rewound = file.seek(SeekFrom::Start(0));
    rewound.map_err(|error| StateDictError::Unreadable { file: source.to_string(), error })?;
    let header = read_header(source, &mut file, length)?;
    let (metadata, places) = safetensors::parse_header(source, &header, length)?;
    let base = LENGTH_BYTES + header.len() as u64;
    let shared = Arc::new(Mutex::new(file));
    let data = |place: &Place| Data::File(shared.clone(), base + place.begin);
    Ok((metadata, entries(places, data)))
}

/// As [`read_safetensors`], of a file that can be no other.
fn open_safetensors(path: &Path) -> Result<(Metadata, Vec<(String, Entry)>), StateDictError> {
    let source = path.display().to_string();
    let length = check_is_file(path, &source)?;
    let file = File::open(path)
        .map_err(|error| StateDictError::Unreadable { file: source.clone(), error })?;
    read_safetensors(&source, file, length)
}

fn entries(places: Vec<Place>, data: impl Fn(&Place) -> Data) -> Vec<(String, Entry)> {
    let entry = |place: Place| {
        let data = data(&place);
        (place.name, Entry { shape: place.shape, dtype: place.dtype, data })
    };
    places.into_iter().map(entry).collect()
}

/// The JSON header's bytes; its length is checked against the file's before any are taken.
fn read_header(
    source: &str,
    reader: &mut impl Read,
    length: u64,
) -> Result<Vec<u8>, StateDictError> {
    if length < LENGTH_BYTES {
        let (file, promised) = (source.to_string(), LENGTH_BYTES);
        return Err(StateDictError::Truncated { file, promised, holds: length });
    }
    let unreadable = |error| StateDictError::Unreadable { file: source.to_string(), error };
    let mut first = [0; LENGTH_BYTES as usize];
    reader.read_exact(&mut first).map_err(unreadable)?;
    let mut header = vec![0; safetensors::header_length(source, first, length)? as usize];
    reader.read_exact(&mut header).map_err(unreadable)?;
    Ok(header)
}

/// The first prefix that all names have, counters of averaged models aside.
fn shared_prefix(entries: &[(String, Entry)]) -> Option<&'static str> {
    let bare = |name: &str| name == "n_averaged";
    let has = |name: &str, prefix: &str| name.len() > prefix.len() && name.starts_with(prefix);
    let mut prefixes = PREFIXES.into_iter();
    if entries.iter().all(|(name, _)| bare(name)) {
        return None;
    }
    prefixes.find(|prefix| entries.iter().all(|(name, _)| bare(name) || has(name, prefix)))
}

fn strip(entries: &mut [(String, Entry)], prefix: &str) {
    for (name, _) in entries {
        if let Some(rest) = name.strip_prefix(prefix) {
            *name = rest.to_string();
        }
    }
}

/// Text from a file that is not trusted, made safe to print: not long, no control characters.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(300).map(shown).collect()
}

/// Little-endian elements, each brought to single precision.
fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
        Dtype::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::I8 => each(bytes, |b| f32::from(i8::from_le_bytes(b))),
        Dtype::U64 => each(bytes, |b| u64::from_le_bytes(b) as f32),
        Dtype::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
        Dtype::U16 => each(bytes, |b| f32::from(u16::from_le_bytes(b))),
        Dtype::U8 => each(bytes, |[b]| f32::from(b)),
        Dtype::Bool => each(bytes, |[b]| f32::from(u8::from(b != 0))),
    }
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
}

#[cfg(test)]
mod tests;
