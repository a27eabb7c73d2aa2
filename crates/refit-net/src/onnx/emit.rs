//! Nodes and constants of an ONNX graph under construction, each name given once.

use std::collections::BTreeMap;

use super::names::Names;
use super::proto::{Attribute, Node, Tensor, attribute_type as kind, data_type};

/// Nodes and constants of a graph under construction.
#[derive(Default)]
pub(super) struct Emitter {
    pub nodes: Vec<Node>,
    pub constants: Vec<Tensor>,
    names: Names,
    /// Names of numbers and integers that are kept once.
    scalars: BTreeMap<u32, String>,
    integers: BTreeMap<i64, String>,
}

impl Emitter {
    /// A name that no value has yet, as close to `name` as can be.
    pub fn fresh(&mut self, name: &str) -> String {
        self.names.free(name, &[])
    }

    /// Keeps a name from all values but the one that is given it in the end.
    pub fn reserve(&mut self, name: &str) {
        self.names.reserve(name);
    }

    /// Adds a node of one output, and gives the output's name.
    pub fn node<const N: usize>(
        &mut self,
        op: &str,
        name: &str,
        inputs: [&str; N],
        attribute: Vec<Attribute>,
    ) -> String {
        self.node_of(op, name, inputs.map(str::to_owned).to_vec(), attribute)
    }

    /// The same for inputs of any number.
    pub fn node_of(
        &mut self,
        op: &str,
        name: &str,
        input: Vec<String>,
        attribute: Vec<Attribute>,
    ) -> String {
        let output = self.fresh(name);
        self.push(op, output, input, attribute)
    }

    /// Adds a node that gives a reserved name.
    pub fn push(
        &mut self,
        op: &str,
        output: String,
        input: Vec<String>,
        attribute: Vec<Attribute>,
    ) -> String {
        self.nodes.push(Node {
            input,
            output: vec![output.clone()],
            name: output.clone(),
            op_type: op.to_owned(),
            attribute,
            ..Node::default()
        });
        output
    }

    /// Adds a constant of 32-bit floats under a new name.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, dims, data_type::FLOAT, bytes)
    }

    /// Adds a list of 64-bit integers under a new name.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, &[values.len()], data_type::INT64, bytes)
    }

    /// A number, kept once.
    pub fn scalar(&mut self, value: f32) -> String {
        if let Some(name) = self.scalars.get(&value.to_bits()) {
            return name.clone();
        }
        let name = self.floats(&format!("scalar {value}"), &[], &[value]);
        self.scalars.insert(value.to_bits(), name.clone());
        name
    }

    /// An integer, kept once.
    pub fn int(&mut self, value: i64) -> String {
        if let Some(name) = self.integers.get(&value) {
            return name.clone();
        }
        let name = self.ints(&format!("int {value}"), &[value]);
        self.integers.insert(value, name.clone());
        name
    }

    fn constant(&mut self, name: &str, dims: &[usize], data_type: i32, bytes: Vec<u8>) -> String {
        let name = self.fresh(name);
        self.constants.push(Tensor {
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type,
            name: name.clone(),
            raw_data: bytes.into(),
            ..Tensor::default()
        });
        name
    }
}

/// An attribute that is an integer.
pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), i: Some(value), r#type: kind::INT, ..Attribute::default() }
}

/// An attribute that is a number.
pub(super) fn float(name: &str, value: f32) -> Attribute {
    Attribute { name: name.into(), f: Some(value), r#type: kind::FLOAT, ..Attribute::default() }
}

/// An attribute that is a word.
pub(super) fn word(name: &str, value: &'static str) -> Attribute {
    let s = value.as_bytes().into();
    Attribute { name: name.into(), s, r#type: kind::STRING, ..Attribute::default() }
}

/// An attribute that is a list of integers.
pub(super) fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> Attribute {
    let ints = values.into_iter().map(|v| v as i64).collect();
    Attribute { name: name.into(), ints, r#type: kind::INTS, ..Attribute::default() }
}
