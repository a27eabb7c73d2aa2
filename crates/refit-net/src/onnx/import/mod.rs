//! A trainable network from an ONNX graph.
//!
//! Nodes are met in the file's order. What hangs on constants and shapes alone is computed; a
//! transpose or reshape changes the [view](view::View) of a layer's value; parts of layers are put
//! together in the [draft](draft::Draft), whose end the [network](finish) is made of.

mod constant;
mod draft;
mod finish;
mod names;
mod operators;
mod view;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use prost::Message;
use prost::bytes::Bytes;

use self::constant::{Constant, MOST_VALUES, Source};
use self::draft::{Draft, Op, Origin};
use self::view::View;
use super::proto::{self, Model};
use super::{OnnxError, PREPROCESSED};
use crate::layer::Layer;
use crate::network::Network;
use crate::shape::Shape;

/// The longest file: what the format's encoding allows.
const MOST_BYTES: u64 = 1 << 31;
/// The most nodes of a graph.
const MOST_NODES: usize = 100_000;
/// The operators' versions that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;
/// The most pixels of a side.
const MOST_PIXELS: usize = 1 << 14;

/// How a file is imported.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Height and width of the images, for a file that leaves them open.
    pub size: Option<usize>,
}

/// What a file gives.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The network; nothing is frozen.
    pub network: Network,
    /// The file's metadata, text by key.
    pub metadata: BTreeMap<String, String>,
    /// What was left out.
    pub notes: Vec<String>,
}

/// Makes a network of an ONNX file.
///
/// # Errors
/// If the file cannot be read, is damaged, or does what no layer does; the message names the node.
pub fn import(
    path: &Path,
    options: &ImportOptions,
    device: &Device,
) -> Result<Imported, OnnxError> {
    let file = path.display().to_string();
    let unreadable = |error| OnnxError::Unreadable { file: file.clone(), error };
    let mut opened = File::open(path).map_err(unreadable)?;
    let length = opened.metadata().map_err(unreadable)?.len();
    if length > MOST_BYTES {
        return Err(OnnxError::TooLong { file, length, most: MOST_BYTES });
    }
    let mut bytes = Vec::with_capacity(length as usize);
    opened.by_ref().take(MOST_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    from_bytes(bytes, Source::new(file, folder), options, device)
}

/// The same for a file's bytes, under a name for messages; data beside it cannot be read.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(
    bytes: Vec<u8>,
    file: &str,
    options: &ImportOptions,
    device: &Device,
) -> Result<Imported, OnnxError> {
    from_bytes(bytes, Source::new(file.to_owned(), PathBuf::new()), options, device)
}

fn from_bytes(
    bytes: Vec<u8>,
    source: Source,
    options: &ImportOptions,
    device: &Device,
) -> Result<Imported, OnnxError> {
    let refuse = |problem: String| OnnxError::NotOnnx { file: source.file.clone(), problem };
    if bytes.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    check_counts(&bytes).map_err(refuse)?;
    let model = Model::decode(Bytes::from(bytes)).map_err(|e| refuse(e.to_string()))?;
    let Some(graph) = &model.graph else { return Err(refuse("it holds no graph".into())) };
    let version = model.opset_import.iter().find(|o| matches!(&*o.domain, "" | "ai.onnx"));
    let version = version.map_or(1, |o| o.version);
    if !OPSETS.contains(&version) {
        let (first, last) = (*OPSETS.start(), *OPSETS.end());
        return Err(OnnxError::Opset { file: source.file, version, first, last });
    }
    let mut importer = Importer::new(&source, graph);
    importer.images(options)?;
    for node in &graph.node {
        importer.node(node)?;
    }
    let mut imported = importer.finish(device)?;
    let entries = model.metadata_props.iter().map(|e| (e.key.clone(), e.value.clone()));
    imported.metadata = entries.collect();
    Ok(imported)
}

/// Refuses a file of more parts than a network has, before room is made for them.
fn check_counts(bytes: &[u8]) -> Result<(), String> {
    let (mut nodes, mut tensors) = (0, 0);
    let graphs = fields(bytes).filter(|(tag, _)| *tag == 7);
    for (tag, _) in graphs.flat_map(|(_, graph)| fields(graph)) {
        nodes += usize::from(tag == 1);
        tensors += usize::from(matches!(tag, 5 | 11 | 12 | 13));
    }
    match nodes.max(tensors) > MOST_NODES {
        true => Err(format!("it has more than {MOST_NODES} nodes or constants")),
        false => Ok(()),
    }
}

/// The fields of a message that are messages or bytes themselves, up to the first that is damaged.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    std::iter::from_fn(move || {
        loop {
            let (tag, wire) = decode_key(&mut bytes).ok()?;
            let skip = match wire {
                WireType::Varint => {
                    decode_varint(&mut bytes).ok()?;
                    0
                }
                WireType::SixtyFourBit => 8,
                WireType::ThirtyTwoBit => 4,
                WireType::LengthDelimited => {
                    let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                    let (field, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    return Some((tag, field));
                }
                _ => return None,
            };
            bytes = bytes.get(skip..)?;
        }
    })
}

/// What a name of the file stands for.
#[derive(Debug, Clone)]
enum Value {
    Constant(Constant),
    Layer(View),
}

struct Importer<'a> {
    source: &'a Source,
    graph: &'a proto::Graph,
    initializers: HashMap<&'a str, &'a proto::Tensor>,
    values: HashMap<&'a str, Value>,
    draft: Draft,
    /// What all paths of nodes begin with.
    prefix: String,
    /// The batch's length, where the file fixes it.
    batch: Option<i64>,
    /// Values that may still be computed of constants.
    room: usize,
    notes: Vec<String>,
}

impl<'a> Importer<'a> {
    fn new(source: &'a Source, graph: &'a proto::Graph) -> Self {
        Self {
            source,
            graph,
            initializers: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect(),
            values: HashMap::new(),
            draft: Draft::default(),
            prefix: names::common_prefix(graph.node.iter().map(|n| n.name.as_str())),
            batch: None,
            room: MOST_VALUES,
            notes: Vec::new(),
        }
    }

    /// Finds the images: the graph's input, or what preprocessing that refit exported gives.
    fn images(&mut self, options: &ImportOptions) -> Result<(), OnnxError> {
        let refuse =
            |problem: String| Err(OnnxError::Signature { file: self.source.file.clone(), problem });
        let graph = self.graph;
        let inputs = graph.input.iter().filter(|i| !self.initializers.contains_key(&*i.name));
        let inputs: Vec<&proto::ValueInfo> = inputs.collect();
        let preprocessed = graph.value_info.iter().find(|i| i.name == PREPROCESSED);
        let (input, taken) = match (&inputs[..], preprocessed) {
            (_, Some(info)) => (info, info.name.as_str()),
            ([input], None) => (*input, input.name.as_str()),
            (several, None) => {
                return refuse(format!("takes {} inputs, not images alone", several.len()));
            }
        };
        let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
        let Some([n, rest @ ..]) = shape.map(|s| &s.dim[..]) else {
            return refuse(format!("does not say the shape of its input `{taken}`"));
        };
        let known = |d: &proto::Dimension| d.dim_value.and_then(|v| usize::try_from(v).ok());
        self.batch = n.dim_value.filter(|&v| v > 0);
        let sizes: Vec<Option<usize>> = rest.iter().map(|d| known(d).filter(|&v| v > 0)).collect();
        let (channels, height, width, order) = match sizes[..] {
            [Some(c @ 1..=4), h, w] => (c, h, w, [0, 1, 2, 3]),
            [h, w, Some(c @ 1..=4)] => (c, h, w, [0, 2, 3, 1]),
            _ => {
                let said: Vec<String> = sizes
                    .iter()
                    .map(|s| s.map_or_else(|| "?".to_owned(), |s| s.to_string()))
                    .collect();
                return refuse(format!("takes [n, {}], not images", said.join(", ")));
            }
        };
        let (Some(height), Some(width)) = (height.or(options.size), width.or(options.size)) else {
            let file = self.source.file.clone();
            return Err(OnnxError::NoSize { file });
        };
        if let Some(asked) = options.size.filter(|&asked| (asked, asked) != (height, width)) {
            let file = self.source.file.clone();
            return Err(OnnxError::FixedSize { file, height, width, asked });
        }
        if height.max(width) > MOST_PIXELS {
            return refuse(format!("takes images of {height}x{width} pixels"));
        }
        let shape = Shape::map(channels, height, width);
        let origin =
            Origin { node: taken.to_owned(), op: "Input".into(), layer: "input".to_owned() };
        let id =
            self.draft.push(Op::Layer(Layer::Input { shape }, Vec::new()), &[], shape, &origin);
        self.values.insert(taken, Value::Layer(View::new(id, shape).transposed(&order)));
        Ok(())
    }

    /// Takes one node in.
    fn node(&mut self, node: &'a proto::Node) -> Result<(), OnnxError> {
        // Preprocessing stands in the metadata, and images come in preprocessed.
        let ours = |name: &str| name.starts_with("preprocess.") || name == PREPROCESSED;
        if self.values.contains_key(PREPROCESSED) && node.output.iter().all(|o| ours(o)) {
            return Ok(());
        }
        let outputs = operators::apply(self, node)?;
        for (name, value) in node.output.iter().zip(outputs) {
            self.values.insert(name, value);
        }
        Ok(())
    }

    /// What a name stands for.
    fn value(&mut self, name: &'a str) -> Result<Option<Value>, OnnxError> {
        if let Some(value) = self.values.get(name) {
            return Ok(Some(value.clone()));
        }
        let Some(tensor) = self.initializers.get(name) else { return Ok(None) };
        let value = Value::Constant(self.source.read(tensor)?);
        self.values.insert(name, value.clone());
        Ok(Some(value))
    }
}

/// Text that a file brought, fit to be printed.
fn printable(text: &str) -> Cow<'_, str> {
    const MOST: usize = 120;
    let plain = text.len() <= MOST && !text.chars().any(char::is_control);
    if plain {
        return Cow::Borrowed(text);
    }
    let kept = text.chars().take(MOST).map(|c| if c.is_control() { '\u{fffd}' } else { c });
    Cow::Owned(kept.collect())
}
