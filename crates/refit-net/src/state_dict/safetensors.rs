//! The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
//!
//! The header is read here rather than by the `safetensors` crate, for messages that name the
//! tensor and the fault, and for doubled names; it is written here because that crate writes
//! metadata in a hash map's order. Tests hold both against that crate.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{Dtype, StateDictError, printable};
use crate::atomic_file;

/// The longest header the format allows, in bytes.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The bytes in which the header's length stands.
pub(super) const LENGTH_BYTES: u64 = 8;
/// The most dimensions a tensor may have, twice as many as NumPy once allowed.
const MAX_RANK: usize = 64;
/// The header's entry that is no tensor.
const METADATA: &str = "__metadata__";

/// Text by key, as a header carries it.
pub(super) type Metadata = BTreeMap<String, String>;

/// One tensor's place: `begin..begin + length` bytes, counted from the end of the header.
#[derive(Debug)]
pub(super) struct Place {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub begin: u64,
    pub length: u64,
}

/// The header's length in bytes, from the file's first eight, checked against the file's.
pub(super) fn header_length(
    file: &str,
    first: [u8; 8],
    file_length: u64,
) -> Result<u64, StateDictError> {
    let claims = u64::from_le_bytes(first);
    if claims > MAX_HEADER {
        let file = file.to_string();
        return Err(StateDictError::HeaderTooLong { file, claims, most: MAX_HEADER });
    }
    check_length(file, LENGTH_BYTES + claims, file_length)?;
    Ok(claims)
}

fn check_length(file: &str, promised: u64, holds: u64) -> Result<(), StateDictError> {
    match promised <= holds {
        true => Ok(()),
        false => Err(StateDictError::Truncated { file: file.to_string(), promised, holds }),
    }
}

/// Reads a header: its metadata, and the tensors in the order of their bytes, each inside
/// the `file_length`, none overlapping another, none leaving a gap.
pub(super) fn parse_header(
    file: &str,
    header: &[u8],
    file_length: u64,
) -> Result<(Metadata, Vec<Place>), StateDictError> {
    let parsed: Header = serde_json::from_slice(header).map_err(|error| {
        StateDictError::BadHeader { file: file.to_string(), problem: printable(&error.to_string()) }
    })?;
    let mut places = Vec::with_capacity(parsed.tensors.len());
    for (name, tensor) in parsed.tensors {
        places.push(place(file, name, tensor)?);
    }
    places.sort_by(|a, b| (a.begin, a.length, &a.name).cmp(&(b.begin, b.length, &b.name)));
    let start = LENGTH_BYTES + header.len() as u64;
    let end = start.saturating_add(check_chain(file, &places)?);
    check_length(file, end, file_length)?;
    match file_length - end {
        0 => Ok((parsed.metadata, places)),
        extra => Err(StateDictError::TrailingBytes { file: file.to_string(), extra }),
    }
}

/// Each tensor begins where the one before it ends; gives the end of the last.
fn check_chain(file: &str, places: &[Place]) -> Result<u64, StateDictError> {
    let mut end = 0;
    for place in places {
        let problem = match place.begin.cmp(&end) {
            std::cmp::Ordering::Less => "its bytes overlap those of the tensor before it",
            std::cmp::Ordering::Greater => "the bytes before it belong to no tensor",
            std::cmp::Ordering::Equal => {
                end = place.begin + place.length;
                continue;
            }
        };
        return Err(bad_tensor(file, &place.name, problem.to_string()));
    }
    Ok(end)
}

/// Checks one tensor's shape and type against its bytes.
fn place(file: &str, name: String, tensor: RawTensor) -> Result<Place, StateDictError> {
    let RawTensor { dtype, shape, data_offsets: (begin, end) } = tensor;
    let Some(dtype) = Dtype::from_name(&dtype) else {
        let (file, tensor, dtype) = (file.to_string(), printable(&name), printable(&dtype));
        return Err(StateDictError::UnknownDtype { file, tensor, dtype });
    };
    let bad = |problem: String| bad_tensor(file, &name, problem);
    let Some(length) = end.checked_sub(begin) else {
        return Err(bad(format!("its bytes end ({end}) before they begin ({begin})")));
    };
    if shape.len() > MAX_RANK {
        return Err(bad(format!("its shape has {} dimensions", shape.len())));
    }
    let shape: Option<Vec<usize>> = shape.into_iter().map(|n| n.try_into().ok()).collect();
    let shape = shape.ok_or_else(|| bad("its shape is too large for this machine".into()))?;
    match byte_length(&shape, dtype) {
        Some(takes) if takes == length => Ok(Place { name, shape, dtype, begin, length }),
        Some(takes) => Err(bad(format!(
            "{dtype} of shape {shape:?} takes {takes} bytes, but it is given {length}"
        ))),
        None => Err(bad(format!("its shape {shape:?} is too large for any machine"))),
    }
}

fn bad_tensor(file: &str, tensor: &str, problem: String) -> StateDictError {
    StateDictError::BadTensor { file: file.to_string(), tensor: printable(tensor), problem }
}

/// How many bytes a tensor takes; `None` if more than a number can say.
pub(super) fn byte_length(shape: &[usize], dtype: Dtype) -> Option<u64> {
    let count = |n: u64, &d: &usize| n.checked_mul(d as u64);
    shape.iter().try_fold(1, count)?.checked_mul(dtype.size() as u64)
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A header as it stands: doubled names are refused, where a map would lose one.
#[derive(Default)]
struct Header {
    metadata: Metadata,
    tensors: BTreeMap<String, RawTensor>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with an entry for each tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            let doubled = if name == METADATA {
                header.metadata = map.next_value::<Option<Metadata>>()?.unwrap_or_default();
                std::mem::replace(&mut metadata_seen, true)
            } else {
                header.tensors.insert(name.clone(), map.next_value()?).is_some()
            };
            if doubled {
                return Err(serde::de::Error::custom(format_args!("`{name}` stands in it twice")));
            }
        }
        Ok(header)
    }
}

/// Writes tensors (name, shape, type, row-major little-endian bytes) and metadata to a
/// `.safetensors` file, whole or not at all.
///
/// The same tensors and metadata give the same bytes, in whatever order they come: tensors
/// stand by element size, the largest first (so that each is aligned to its own), then by
/// name; metadata by key; the tensors' bytes begin at a multiple of eight.
///
/// # Errors
/// [`StateDictError::Unwritable`] for a name that is reserved or comes twice, or bytes that
/// are not as many as shape and type say; [`StateDictError::Write`] if the file cannot be
/// written, in which case an old one at `path` is untouched.
pub fn write_safetensors<N, B>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (N, Vec<usize>, Dtype, B)>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), StateDictError>
where
    N: Into<String>,
    B: AsRef<[u8]>,
{
    let path = path.as_ref();
    let layout = Layout::new(&path.display().to_string(), tensors, metadata)?;
    atomic_file::write_sized(path, layout.length(), |writer| layout.write(writer))?;
    Ok(())
}

/// As [`write_safetensors`], into memory.
///
/// # Errors
/// [`StateDictError::Unwritable`], as there.
pub fn to_safetensors<N, B>(
    tensors: impl IntoIterator<Item = (N, Vec<usize>, Dtype, B)>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, StateDictError>
where
    N: Into<String>,
    B: AsRef<[u8]>,
{
    let mut header = Layout::new("memory", tensors, metadata)?;
    let mut bytes = std::mem::take(&mut header.head);
    header.tensors.iter().for_each(|tensor| bytes.extend_from_slice(tensor.bytes.as_ref()));
    Ok(bytes)
}

/// The length in bytes of the file that [`write_safetensors`] would write.
///
/// # Errors
/// [`StateDictError::Unwritable`], as there.
pub fn safetensors_length<N, B>(
    tensors: impl IntoIterator<Item = (N, Vec<usize>, Dtype, B)>,
    metadata: &BTreeMap<String, String>,
) -> Result<u64, StateDictError>
where
    N: Into<String>,
    B: AsRef<[u8]>,
{
    Ok(Layout::new("memory", tensors, metadata)?.length())
}

struct Tensor<B> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: B,
}

/// All that is to be written, in its order.
struct Layout<B> {
    /// The header's length and the header.
    head: Vec<u8>,
    tensors: Vec<Tensor<B>>,
}

impl<B: AsRef<[u8]>> Layout<B> {
    fn new<N: Into<String>>(
        file: &str,
        tensors: impl IntoIterator<Item = (N, Vec<usize>, Dtype, B)>,
        metadata: &Metadata,
    ) -> Result<Self, StateDictError> {
        let named = |(name, shape, dtype, bytes): (N, _, _, _)| Tensor {
            name: name.into(),
            shape,
            dtype,
            bytes,
        };
        let mut tensors: Vec<_> = tensors.into_iter().map(named).collect();
        tensors.sort_by(|a, b| (b.dtype.size(), &a.name).cmp(&(a.dtype.size(), &b.name)));
        check_writable(file, &tensors)?;
        let mut head = vec![0; LENGTH_BYTES as usize];
        head.extend(header_text(&tensors, metadata).into_bytes());
        head.resize(head.len().next_multiple_of(8), b' ');
        let length = head.len() as u64 - LENGTH_BYTES;
        if length > MAX_HEADER {
            let file = file.to_string();
            return Err(StateDictError::HeaderTooLong { file, claims: length, most: MAX_HEADER });
        }
        head[..LENGTH_BYTES as usize].copy_from_slice(&length.to_le_bytes());
        Ok(Self { head, tensors })
    }

    fn length(&self) -> u64 {
        let bytes = |tensor: &Tensor<B>| tensor.bytes.as_ref().len() as u64;
        self.head.len() as u64 + self.tensors.iter().map(bytes).sum::<u64>()
    }

    fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        writer.write_all(&self.head)?;
        self.tensors.iter().try_for_each(|tensor| writer.write_all(tensor.bytes.as_ref()))
    }
}

fn check_writable<B: AsRef<[u8]>>(file: &str, tensors: &[Tensor<B>]) -> Result<(), StateDictError> {
    let mut names = std::collections::BTreeSet::new();
    for Tensor { name, shape, dtype, bytes } in tensors {
        let given = bytes.as_ref().len() as u64;
        let problem = if name == METADATA {
            "the name is reserved".to_string()
        } else if !names.insert(name) {
            "the name comes twice".to_string()
        } else if byte_length(shape, *dtype) != Some(given) {
            format!("{dtype} of shape {shape:?} is not {given} bytes")
        } else {
            continue;
        };
        let (file, tensor) = (file.to_string(), name.clone());
        return Err(StateDictError::Unwritable { file, tensor, problem });
    }
    Ok(())
}

/// The header's JSON.
fn header_text<B: AsRef<[u8]>>(tensors: &[Tensor<B>], metadata: &Metadata) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut entries = Vec::with_capacity(tensors.len() + 1);
    if !metadata.is_empty() {
        let pairs: Vec<_> =
            metadata.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
        entries.push(format!("\"{METADATA}\":{{{}}}", pairs.join(",")));
    }
    let mut begin = 0;
    for Tensor { name, shape, dtype, bytes } in tensors {
        let end = begin + bytes.as_ref().len();
        let shape: Vec<_> = shape.iter().map(usize::to_string).collect();
        entries.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            quoted(name),
            shape.join(",")
        ));
        begin = end;
    }
    format!("{{{}}}", entries.join(","))
}
