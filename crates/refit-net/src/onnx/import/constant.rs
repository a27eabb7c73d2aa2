//! Constants of an ONNX graph, and what is computed of constants alone.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use crate::onnx::OnnxError;
use crate::onnx::proto::{self, data_type};

/// The most values of a list of integers: shapes, axes and indices are short.
const MOST_INTS: usize = 1 << 12;
/// The most dimensions.
const MOST_RANK: usize = 8;
/// The most bytes that are read from files beside a model: no classifier has more.
const MOST_EXTERNAL: u64 = 1 << 33;
/// The most values that are computed of constants, beyond those that a file holds.
pub(super) const MOST_VALUES: usize = 1 << 22;

/// An integer that may count images: `images * n + known`, `n` being the batch's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int {
    pub images: i64,
    pub known: i64,
}

impl Int {
    pub const fn known(known: i64) -> Self {
        Self { images: 0, known }
    }

    pub const BATCH: Self = Self { images: 1, known: 0 };

    pub fn value(self) -> Option<i64> {
        (self.images == 0).then_some(self.known)
    }

    /// The result of an operator, as far as it can be said.
    fn combine(self, other: Self, op: &str) -> Option<Self> {
        let each = |f: fn(i64, i64) -> Option<i64>| {
            Some(Self { images: f(self.images, other.images)?, known: f(self.known, other.known)? })
        };
        match op {
            "Add" => each(i64::checked_add),
            "Sub" => each(i64::checked_sub),
            "Mul" => match (self.value(), other.value()) {
                (_, Some(k)) => Some(Self {
                    images: self.images.checked_mul(k)?,
                    known: self.known.checked_mul(k)?,
                }),
                (Some(_), None) => other.combine(self, op),
                (None, None) => None,
            },
            "Div" => {
                let by = other.value().filter(|&k| k > 0)?;
                let divides = self.images % by == 0 && (self.images == 0 || self.known % by == 0);
                let quotient = Self { images: self.images / by, known: self.known / by };
                divides.then_some(quotient)
            }
            "Max" => Some(Self::known(self.value()?.max(other.value()?))),
            "Min" => Some(Self::known(self.value()?.min(other.value()?))),
            _ => None,
        }
    }
}

/// The values of a constant, row-major.
#[derive(Debug, Clone)]
pub(super) enum Values {
    Floats(Arc<Vec<f32>>),
    Ints(Vec<Int>),
}

/// A constant.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    pub shape: Vec<usize>,
    pub values: Values,
}

impl Constant {
    pub fn floats(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self { shape, values: Values::Floats(Arc::new(values)) }
    }

    pub fn ints(values: Vec<Int>) -> Self {
        Self { shape: vec![values.len()], values: Values::Ints(values) }
    }

    pub fn len(&self) -> usize {
        match &self.values {
            Values::Floats(values) => values.len(),
            Values::Ints(values) => values.len(),
        }
    }

    /// As numbers; integers that count images are none.
    pub fn to_floats(&self) -> Option<Arc<Vec<f32>>> {
        match &self.values {
            Values::Floats(values) => Some(Arc::clone(values)),
            Values::Ints(values) => {
                let values: Option<Vec<f32>> =
                    values.iter().map(|v| v.value().map(|v| v as f32)).collect();
                values.map(Arc::new)
            }
        }
    }

    /// As integers.
    pub fn to_ints(&self) -> Option<Vec<Int>> {
        match &self.values {
            Values::Ints(values) => Some(values.clone()),
            Values::Floats(values) if values.len() <= MOST_INTS => {
                Some(values.iter().map(|&v| Int::known(v as i64)).collect())
            }
            Values::Floats(_) => None,
        }
    }

    /// As integers of an element type, cut off towards zero; `None` where one does not fit it.
    pub fn to_integers(&self, kind: i32) -> Option<Vec<Int>> {
        if kind == data_type::BOOL {
            let is_true = |&v: &f32| Int::known(i64::from(v != 0.0));
            return Some(self.to_floats()?.iter().map(is_true).collect());
        }
        let range = match kind {
            data_type::INT64 => i64::MIN..=i64::MAX,
            data_type::INT32 => i32::MIN.into()..=i32::MAX.into(),
            data_type::INT8 => i8::MIN.into()..=i8::MAX.into(),
            data_type::UINT8 => 0..=u8::MAX.into(),
            _ => return None,
        };
        let fits = |v: &Int| v.value().is_none_or(|v| range.contains(&v));
        self.to_ints().filter(|ints| ints.iter().all(fits))
    }

    /// Lists behind each other.
    pub fn joined(lists: &[Self]) -> Option<Self> {
        let len: usize = lists.iter().map(Self::len).sum();
        if len > MOST_INTS {
            return None;
        }
        if lists.iter().all(|list| matches!(list.values, Values::Ints(_))) {
            let ints: Option<Vec<Vec<Int>>> = lists.iter().map(Self::to_ints).collect();
            return Some(Self::ints(ints?.concat()));
        }
        let floats: Option<Vec<_>> = lists.iter().map(Self::to_floats).collect();
        let floats: Vec<f32> = floats?.iter().flat_map(|list| list.iter().copied()).collect();
        Some(Self::floats(vec![floats.len()], floats))
    }

    /// The only value there is.
    pub fn scalar(&self) -> Option<f32> {
        let values = self.to_floats()?;
        (values.len() == 1).then(|| values[0])
    }

    pub fn with_shape(&self, shape: Vec<usize>) -> Option<Self> {
        let fits = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d)) == Some(self.len());
        fits.then(|| Self { shape, values: self.values.clone() })
    }

    /// Values at `index` along the first axis.
    pub fn pick(&self, index: &[usize]) -> Option<Values> {
        let row: usize = self.shape.get(1..)?.iter().product();
        let rows = *self.shape.first()?;
        if index.iter().any(|&i| i >= rows) || index.len().checked_mul(row)? > MOST_VALUES {
            return None;
        }
        let range = |&i: &usize| i * row..(i + 1) * row;
        Some(match &self.values {
            Values::Ints(v) => {
                Values::Ints(index.iter().flat_map(|i| v[range(i)].to_vec()).collect())
            }
            Values::Floats(v) => {
                let picked = index.iter().flat_map(|i| v[range(i)].to_vec());
                Values::Floats(Arc::new(picked.collect()))
            }
        })
    }

    /// With axes in another order.
    pub fn transposed(&self, order: &[usize]) -> Option<Self> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted != (0..self.shape.len()).collect::<Vec<_>>() {
            return None;
        }
        let Values::Floats(values) = &self.values else { return None };
        let mut strides = vec![1; self.shape.len()];
        for axis in (1..self.shape.len()).rev() {
            strides[axis - 1] = strides[axis] * self.shape[axis];
        }
        let shape: Vec<usize> = order.iter().map(|&axis| self.shape[axis]).collect();
        let strides: Vec<usize> = order.iter().map(|&axis| strides[axis]).collect();
        let turned = places(&shape, &strides).map(|at| values[at]).collect();
        Some(Self::floats(shape, turned))
    }

    /// `self op other` with broadcasting; `room` is what may still be computed.
    pub fn combine(&self, other: &Self, op: &str, room: usize) -> Option<Self> {
        let rank = self.shape.len().max(other.shape.len());
        let aligned = |c: &Self| [vec![1; rank - c.shape.len()], c.shape.clone()].concat();
        let (a, b) = (aligned(self), aligned(other));
        let fits = a.iter().zip(&b).all(|(a, b)| a == b || *a == 1 || *b == 1);
        // An axis of no values meets one of a single value.
        let shape: Vec<usize> =
            a.iter().zip(&b).map(|(&a, &b)| if a == 1 { b } else { a }).collect();
        let len = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d))?;
        if !fits || len > room {
            return None;
        }
        let strides = |own: &[usize]| {
            let mut strides = vec![0; rank];
            let mut stride = 1;
            for axis in (0..rank).rev() {
                strides[axis] = if own[axis] == 1 { 0 } else { stride };
                stride *= own[axis];
            }
            strides
        };
        let (a, b) = (strides(&a), strides(&b));
        let pairs = places(&shape, &a).zip(places(&shape, &b));
        if let (Values::Ints(a), Values::Ints(b)) = (&self.values, &other.values) {
            let values: Option<Vec<Int>> = pairs.map(|(i, j)| a[i].combine(b[j], op)).collect();
            return Some(Self { shape, values: Values::Ints(values?) });
        }
        let (a, b) = (self.to_floats()?, other.to_floats()?);
        let f: fn(f32, f32) -> f32 = match op {
            "Add" => |a, b| a + b,
            "Sub" => |a, b| a - b,
            "Mul" => |a, b| a * b,
            "Div" => |a, b| a / b,
            "Pow" => f32::powf,
            "Max" => f32::max,
            "Min" => f32::min,
            _ => return None,
        };
        Some(Self::floats(shape, pairs.map(|(i, j)| f(a[i], b[j])).collect()))
    }

    /// A function of each value.
    pub fn map(&self, op: &str) -> Option<Self> {
        let f: fn(f32) -> f32 = match op {
            "Sqrt" => f32::sqrt,
            "Reciprocal" => |v| 1.0 / v,
            "Neg" => |v| -v,
            "Exp" => f32::exp,
            "Abs" => f32::abs,
            "Ceil" => f32::ceil,
            "Floor" => f32::floor,
            _ => return None,
        };
        match &self.values {
            Values::Floats(values) => {
                Some(Self::floats(self.shape.clone(), values.iter().map(|&v| f(v)).collect()))
            }
            Values::Ints(values) => {
                let negative = |v: &Int| Int::known(0).combine(*v, "Sub");
                let values = values.iter().map(negative).collect::<Option<_>>();
                let values = Values::Ints(values.filter(|_| op == "Neg")?);
                Some(Self { shape: self.shape.clone(), values })
            }
        }
    }
}

/// The places that strides give to every index of a shape, row-major.
pub(super) fn places(shape: &[usize], strides: &[usize]) -> impl Iterator<Item = usize> + use<> {
    let len: usize = shape.iter().product();
    let (shape, strides) = (shape.to_vec(), strides.to_vec());
    (0..len).map(move |mut index| {
        let mut at = 0;
        for (size, stride) in shape.iter().zip(&strides).rev() {
            at += index % size * stride;
            index /= size;
        }
        at
    })
}

/// Where constants are read from.
pub(super) struct Source {
    /// The file, as messages name it.
    pub file: String,
    /// The folder that it is in, where external data may be.
    pub folder: Option<PathBuf>,
    /// Bytes read from files beside it.
    read: Cell<u64>,
}

impl Source {
    pub fn new(file: String, folder: Option<PathBuf>) -> Self {
        Self { file, folder, read: Cell::new(0) }
    }

    /// Reads a constant, every size checked against its bytes.
    pub fn read(&self, tensor: &proto::Tensor) -> Result<Constant, OnnxError> {
        let refuse = |problem: String| OnnxError::Tensor {
            file: self.file.clone(),
            tensor: tensor.name.clone(),
            problem,
        };
        let too_large = || refuse(format!("has an impossible shape {:?}", tensor.dims));
        let shape: Option<Vec<usize>> =
            tensor.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape.filter(|s| s.len() <= MOST_RANK).ok_or_else(too_large)?;
        // Strides are products of other sizes than those that are zero.
        let some = shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d.max(1)));
        let some = some.ok_or_else(too_large)?;
        let len = if shape.contains(&0) { 0 } else { some };
        let size = element_size(tensor.data_type)
            .ok_or_else(|| refuse(format!("is of element type {}", type_name(tensor.data_type))))?;
        let takes = len.checked_mul(size).ok_or_else(too_large)?;
        let is_int = !is_float(tensor.data_type);
        if is_int && len > MOST_INTS {
            return Err(refuse(format!("holds {len} integers, and weights are floats")));
        }
        let external = self.external(tensor, takes).map_err(&refuse)?;
        let raw: &[u8] = external.as_deref().unwrap_or(&tensor.raw_data);
        let holds = |found: usize| {
            (found == len)
                .then_some(())
                .ok_or_else(|| refuse(format!("is of shape {shape:?}, but holds {found} values")))
        };
        let values = if !raw.is_empty() {
            if raw.len() != takes {
                let given = raw.len();
                return Err(refuse(format!("takes {takes} bytes, but is given {given}")));
            }
            from_bytes(raw, tensor.data_type)
        } else if is_int {
            let wide = tensor.int64_data.iter().copied();
            let narrow = tensor.int32_data.iter().map(|&v| i64::from(v));
            let values: Vec<i64> = wide.chain(narrow).take(len.saturating_add(1)).collect();
            holds(values.len())?;
            Values::Ints(values.into_iter().map(Int::known).collect())
        } else {
            let halves = tensor.int32_data.iter().map(|&v| match tensor.data_type {
                data_type::BFLOAT16 => bf16::from_bits(v as u16).to_f32(),
                _ => f16::from_bits(v as u16).to_f32(),
            });
            let doubles = tensor.double_data.iter().map(|&v| v as f32);
            let values: Vec<f32> =
                tensor.float_data.iter().copied().chain(doubles).chain(halves).collect();
            holds(values.len())?;
            Values::Floats(Arc::new(values))
        };
        Ok(Constant { shape, values })
    }

    /// The bytes of a tensor that lie in a file beside the model; in the same folder only.
    fn external(&self, tensor: &proto::Tensor, takes: usize) -> Result<Option<Vec<u8>>, String> {
        if tensor.data_location != 1 {
            return Ok(None);
        }
        let entry = |key: &str| {
            tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str())
        };
        let location = entry("location").unwrap_or_default();
        let is_name = Path::new(location).file_name().is_some_and(|name| name == location);
        if !is_name {
            return Err(format!(
                "lies in `{location}`, which is not a file in the folder of the model"
            ));
        }
        let number = |key: &str, default: u64| match entry(key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("has an impossible {key}, `{text}`")),
        };
        let (offset, length) = (number("offset", 0)?, number("length", takes as u64)?);
        if length != takes as u64 {
            return Err(format!("takes {takes} bytes, but {length} of `{location}` are named"));
        }
        let Some(folder) = &self.folder else {
            return Err(format!("lies in `{location}`, and the model is read from memory"));
        };
        let path = folder.join(location);
        let unreadable = |e: std::io::Error| format!("lies in `{}`: {e}", path.display());
        let mut file = File::open(&path).map_err(unreadable)?;
        let there = file.metadata().map_err(unreadable)?.len();
        if offset.checked_add(length).is_none_or(|end| end > there) {
            return Err(format!("lies beyond the end of `{}`", path.display()));
        }
        self.read.set(self.read.get().saturating_add(length));
        if self.read.get() > MOST_EXTERNAL {
            return Err(format!(
                "is beyond the {MOST_EXTERNAL} bytes that are read of other files"
            ));
        }
        let mut bytes = vec![0; takes];
        file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
        file.read_exact(&mut bytes).map_err(unreadable)?;
        Ok(Some(bytes))
    }
}

const fn is_float(kind: i32) -> bool {
    matches!(kind, data_type::FLOAT | data_type::DOUBLE | data_type::FLOAT16 | data_type::BFLOAT16)
}

const fn element_size(kind: i32) -> Option<usize> {
    match kind {
        data_type::DOUBLE | data_type::INT64 => Some(8),
        data_type::FLOAT | data_type::INT32 => Some(4),
        data_type::FLOAT16 | data_type::BFLOAT16 => Some(2),
        data_type::UINT8 | data_type::INT8 | data_type::BOOL => Some(1),
        _ => None,
    }
}

fn type_name(kind: i32) -> String {
    const NAMES: [&str; 17] = [
        "undefined",
        "float",
        "uint8",
        "int8",
        "uint16",
        "int16",
        "int32",
        "int64",
        "string",
        "bool",
        "float16",
        "double",
        "uint32",
        "uint64",
        "complex64",
        "complex128",
        "bfloat16",
    ];
    let name = usize::try_from(kind).ok().and_then(|kind| NAMES.get(kind));
    name.map_or_else(|| kind.to_string(), |&name| name.to_owned())
}

fn from_bytes(raw: &[u8], kind: i32) -> Values {
    fn each<const N: usize, T>(raw: &[u8], value: fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
    }
    let floats = |values| Values::Floats(Arc::new(values));
    let ints = |values: Vec<i64>| Values::Ints(values.into_iter().map(Int::known).collect());
    match kind {
        data_type::FLOAT => floats(each(raw, f32::from_le_bytes)),
        data_type::DOUBLE => floats(each(raw, |b| f64::from_le_bytes(b) as f32)),
        data_type::FLOAT16 => floats(each(raw, |b| f16::from_le_bytes(b).to_f32())),
        data_type::BFLOAT16 => floats(each(raw, |b| bf16::from_le_bytes(b).to_f32())),
        data_type::INT64 => ints(each(raw, i64::from_le_bytes)),
        data_type::INT32 => ints(each(raw, |b| i32::from_le_bytes(b).into())),
        data_type::INT8 => ints(each(raw, |b| i8::from_le_bytes(b).into())),
        _ => ints(each(raw, |[b]| b.into())),
    }
}
