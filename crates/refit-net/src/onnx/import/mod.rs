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
use std::path::Path;

use burn::tensor::Device;
use prost::Message as _;
use prost::bytes::Bytes;
use prost::encoding::{WireType, decode_key, decode_varint};

use self::constant::{Constant, MOST_VALUES, Source};
use self::draft::{Draft, Op, Origin};
use self::view::View;
use super::proto::{self, Model};
use super::{OnnxError, PREPROCESSED, PRODUCER};
use crate::layer::Layer;
use crate::network::Network;
use crate::shape::Shape;

/// The longest file: what the format's encoding allows.
const MOST_BYTES: u64 = 1 << 31;
/// The most nodes of a graph.
const MOST_NODES: usize = 100_000;
/// The most fields of a file: names, attributes and what they hold.
const MOST_PARTS: usize = 1 << 22;
/// The operators' versions that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;
/// How often a file's values may be copied on the way: folded, turned, scaled, kept.
const COPIES: usize = 4;
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
    let folder = path.parent().map(Path::to_path_buf);
    from_bytes(bytes.into(), Source::new(file, folder), options, device)
}

/// The same for a file's bytes, under a name for messages; data beside it cannot be read.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(
    bytes: impl Into<Bytes>,
    file: &str,
    options: &ImportOptions,
    device: &Device,
) -> Result<Imported, OnnxError> {
    from_bytes(bytes.into(), Source::new(file.to_owned(), None), options, device)
}

fn from_bytes(
    bytes: Bytes,
    source: Source,
    options: &ImportOptions,
    device: &Device,
) -> Result<Imported, OnnxError> {
    let refuse = |problem: String| OnnxError::NotOnnx { file: source.file.clone(), problem };
    if bytes.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    check_counts(&bytes).map_err(refuse)?;
    let model = Model::decode(bytes).map_err(|e| refuse(e.to_string()))?;
    let Some(graph) = &model.graph else { return Err(refuse("it holds no graph".into())) };
    let version = model.opset_import.iter().find(|o| matches!(&*o.domain, "" | "ai.onnx"));
    let version = version.map_or(1, |o| o.version);
    if !OPSETS.contains(&version) {
        let (first, last) = (*OPSETS.start(), *OPSETS.end());
        return Err(OnnxError::Opset { file: source.file, version, first, last });
    }
    let ours = model.producer_name == PRODUCER;
    let mut importer = Importer::new(&source, graph, version);
    for node in importer.images(options, ours)? {
        let outputs = operators::apply(&mut importer, node)?;
        for (name, value) in node.output.iter().zip(outputs) {
            importer.values.insert(name, value);
        }
    }
    let mut imported = importer.finish(device)?;
    let entries = model.metadata_props.iter().map(|e| (e.key.clone(), e.value.clone()));
    imported.metadata = entries.collect();
    Ok(imported)
}

/// Refuses a file of more parts than a network has, before room is made for them.
fn check_counts(bytes: &[u8]) -> Result<(), String> {
    let mut counts = Counts::default();
    counts.add(bytes, Message::Model)?;
    match counts.nodes.max(counts.tensors) > MOST_NODES || counts.parts > MOST_PARTS {
        true => Err(format!("it has more than {MOST_NODES} nodes or constants")),
        false => Ok(()),
    }
}

/// The messages of a file that hold others.
#[derive(Clone, Copy, PartialEq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Other,
}

impl Message {
    /// What a field of this message is.
    fn field(self, tag: u32) -> Self {
        match (self, tag) {
            (Self::Model, 7) => Self::Graph,
            (Self::Graph, 1) => Self::Node,
            (Self::Node, 5) => Self::Attribute,
            (Self::Graph | Self::Attribute, 5) => Self::Tensor,
            _ => Self::Other,
        }
    }
}

/// What a file holds.
#[derive(Default)]
struct Counts {
    nodes: usize,
    tensors: usize,
    /// Fields of all kinds.
    parts: usize,
}

impl Counts {
    fn add(&mut self, mut bytes: &[u8], message: Message) -> Result<(), String> {
        let damaged = || "it is cut short, or of another format".to_owned();
        while !bytes.is_empty() {
            let Some((tag, field)) = take_field(&mut bytes).ok_or_else(damaged)? else { continue };
            let kind = message.field(tag);
            self.parts += 1;
            self.nodes += usize::from(kind == Message::Node);
            self.tensors += usize::from(message == Message::Graph && kind != Message::Node);
            if kind != Message::Other {
                self.add(field, kind)?;
            }
        }
        Ok(())
    }
}

/// Takes one field off a message: its tag and bytes if it is a message or bytes itself, nothing if
/// it is a number; `None` where it is damaged.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<Option<(u32, &'a [u8])>> {
    let (tag, wire) = decode_key(bytes).ok()?;
    let length = match wire {
        WireType::Varint => {
            decode_varint(bytes).ok()?;
            return Some(None);
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => usize::try_from(decode_varint(bytes).ok()?).ok()?,
        _ => return None,
    };
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some((wire == WireType::LengthDelimited).then_some((tag, field)))
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
    /// The operators' version.
    version: i64,
    /// Values that may still be computed of constants, or copied.
    room: usize,
    notes: Vec<String>,
}

impl<'a> Importer<'a> {
    fn new(source: &'a Source, graph: &'a proto::Graph, version: i64) -> Self {
        Self {
            source,
            graph,
            initializers: graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect(),
            values: HashMap::new(),
            draft: Draft::default(),
            prefix: names::common_prefix(graph.node.iter().map(|n| n.name.as_str())),
            batch: None,
            version,
            room: MOST_VALUES,
            notes: Vec::new(),
        }
    }

    /// Finds the images: the graph's input, or what preprocessing that refit exported gives. Gives
    /// the nodes behind them.
    fn images(
        &mut self,
        options: &ImportOptions,
        ours: bool,
    ) -> Result<&'a [proto::Node], OnnxError> {
        let refuse =
            |problem: String| Err(OnnxError::Signature { file: self.source.file.clone(), problem });
        let graph = self.graph;
        let inputs = graph.input.iter().filter(|i| !self.initializers.contains_key(&*i.name));
        let inputs: Vec<&proto::ValueInfo> = inputs.collect();
        // What refit's preprocessing does stands in the metadata.
        let gives = |node: &proto::Node| node.output.iter().any(|o| o == PREPROCESSED);
        let end = graph.node.iter().position(gives).filter(|_| ours);
        let preprocessed = graph.value_info.iter().find(|i| i.name == PREPROCESSED);
        let preprocessed = preprocessed.filter(|_| end.is_some());
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
        let shape = Shape::map(channels, height, width);
        if height.max(width) > MOST_PIXELS || !operators::is_sane(shape) {
            return refuse(format!("takes images of {height}x{width} pixels"));
        }
        let origin =
            Origin { node: taken.to_owned(), op: "Input".into(), layer: "input".to_owned() };
        let id =
            self.draft.push(Op::Layer(Layer::Input { shape }, Vec::new()), &[], shape, &origin);
        self.values.insert(taken, Value::Layer(View::new(id, shape).transposed(&order)));
        Ok(&graph.node[end.map_or(0, |end| end + 1)..])
    }

    /// What a name stands for.
    fn value(&mut self, name: &'a str) -> Result<Option<Value>, OnnxError> {
        if let Some(value) = self.values.get(name) {
            return Ok(Some(value.clone()));
        }
        let Some(tensor) = self.initializers.get(name) else { return Ok(None) };
        let value = Value::Constant(self.source.read(tensor)?);
        if let Value::Constant(constant) = &value {
            self.room = self.room.saturating_add(COPIES * constant.len());
        }
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
