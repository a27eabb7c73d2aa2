//! What is written is read again; what is wrong with a file is said in words.

mod operators;

use std::path::Path;

use burn::tensor::Device;
use prost::Message;

use super::proto::{self, Attribute, Dimension, Model, Node, OperatorSet, Tensor};
use super::{
    BatchNorms, Bytes, ExportOptions, Fit, ImportOptions, OnnxError, Preprocessing, export, import,
    import_bytes,
};
use crate::cpu::tape::tests::{decoder, everything, everything_else, images, shake};
use crate::error::Hint;
use crate::frozen::Compiled;
use crate::graph::{Builder, Graph};
use crate::layer::{Layer, LocalResponseNorm};
use crate::network::Network;
use crate::shape::Shape;
use crate::zoo::Interpolation;

fn read(bytes: impl Into<Bytes>) -> Result<Network, OnnxError> {
    let options = ImportOptions::default();
    import_bytes(bytes, "x.onnx", &options, &Device::default()).map(|i| i.network)
}

fn compare(graph: Graph, options: &ExportOptions) -> Network {
    let device = Device::default();
    let mut net = Network::initialize(graph, 3, &device);
    shake(&mut net);
    let back = read(export(&net, options).unwrap()).unwrap();
    let run = |net: &Network| {
        let compiled = Compiled::new(net, vec![0], vec![net.graph().output()]);
        compiled.run(images(3, &device).map()).remove(0).to_vec()
    };
    let (ours, theirs) = (run(&net), run(&back));
    let top = ours.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(&theirs) {
        assert!((a - b).abs() <= 1e-4 * top, "{b}, not {a}, of {top}");
    }
    back
}

fn has(net: &Network, kind: &str) -> bool {
    net.graph().nodes().iter().any(|n| n.layer.kind() == kind)
}

#[test]
fn every_layer_comes_back() {
    let kept = ExportOptions { batch_norms: BatchNorms::Kept, ..ExportOptions::default() };
    for graph in [everything(), everything_else()] {
        compare(graph.clone(), &ExportOptions::default());
        let back = compare(graph.clone(), &kept);
        let needed = graph.needed();
        for kind in needed.iter().map(|&id| graph.nodes()[id].layer.kind()) {
            let merged = ["dropout", "stochastic_depth", "identity"].contains(&kind);
            assert!(merged || has(&back, kind), "no {kind} came back");
        }
    }
}

/// Whoever reads them repeats pixels and takes values in the order that refit does.
#[test]
fn decoders_are_written() {
    let net = Network::initialize(decoder(), 3, &Device::default());
    let file = Model::decode(export(&net, &ExportOptions::default()).unwrap()).unwrap();
    let graph = file.graph.unwrap();
    let of = |op: &str| -> Vec<&Node> { graph.node.iter().filter(|n| n.op_type == op).collect() };
    let words = |node: &Node| -> Vec<String> {
        let words = node.attribute.iter().map(|a| String::from_utf8(a.s.to_vec()).unwrap());
        words.collect()
    };
    let [double, triple] = of("Resize")[..] else { panic!("two upsamplings") };
    assert_eq!(words(double), ["nearest", "asymmetric", "floor"]);
    let factors = |node: &Node| {
        let constant = graph.initializer.iter().find(|t| t.name == node.input[2]).unwrap();
        constant.raw_data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (found, want): (Vec<f32>, _) = (factors(double), [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(found, want);
    assert_eq!((factors(triple) as Vec<f32>)[3], 3.0);
    assert_eq!((double.input[1].as_str(), of("Reshape").len()), ("", 1));
}

#[test]
fn preprocessing_is_left_to_the_metadata() {
    let preprocessing = Preprocessing {
        size: 13,
        fit: Fit::ShorterSide(16),
        interpolation: Interpolation::Bicubic,
        mean: [0.5; 3],
        std: [0.25; 3],
    };
    let options = ExportOptions {
        preprocessing: Some(preprocessing),
        metadata: [("classes".to_owned(), "[]".to_owned())].into(),
        ..ExportOptions::default()
    };
    for fit in [Fit::ShorterSide(16), Fit::ShorterSide(8), Fit::Squash, Fit::Letterbox([1; 3])] {
        let preprocessing = Some(Preprocessing { fit, ..preprocessing });
        compare(everything(), &ExportOptions { preprocessing, ..options.clone() });
    }
}

#[test]
fn a_norm_that_onnx_centres_otherwise_is_refused() {
    let (mut g, x) = Builder::new("even", Shape::map(3, 4, 4));
    let norm = LocalResponseNorm { size: 4, alpha: 1e-4, beta: 0.75, k: 1.0 };
    let y = g.layer("norm", Layer::LocalResponseNorm(norm), &[x]);
    let y = g.global_avg_pool("pool", y);
    let net = Network::initialize(g.finish(y, "").unwrap(), 0, &Device::default());
    let error = export(&net, &ExportOptions::default()).unwrap_err();
    let said = "layer `norm` normalizes over 4 channels, and ONNX centres odd numbers only";
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().contains("safetensors"));
}

/// A model of nodes that take `images` [n, 3, 8, 8] and give `y`.
fn model(nodes: Vec<Node>, initializer: Vec<Tensor>) -> Model {
    let info = |name: &str, sizes: &[i64]| {
        let known = |&v: &i64| Dimension { dim_value: Some(v), dim_param: None };
        let n = Dimension { dim_value: None, dim_param: Some("n".into()) };
        let dim = std::iter::once(n).chain(sizes.iter().map(known)).collect();
        let shape = Some(proto::TensorShape { dim });
        let tensor_type = Some(proto::TensorType { elem_type: 1, shape });
        proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type }) }
    };
    Model {
        ir_version: 8,
        graph: Some(proto::Graph {
            node: nodes,
            initializer,
            input: vec![info("images", &[3, 8, 8])],
            output: vec![info("y", &[3])],
            ..proto::Graph::default()
        }),
        opset_import: vec![OperatorSet { domain: String::new(), version: 17 }],
        ..Model::default()
    }
}

fn node(op: &str, input: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: input.iter().map(|&i| i.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: format!("the_{}", op.to_lowercase()),
        op_type: op.into(),
        attribute,
        ..Node::default()
    }
}

/// What a model is refused with, and the hint.
fn refusal(model: &Model) -> (String, String) {
    let error = read(model.encode_to_vec()).unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default())
}

fn pool() -> Node {
    node("GlobalAveragePool", &["x"], "y", vec![])
}

#[test]
fn what_no_layer_does_is_named_with_what_would_be_needed() {
    for (op, needed) in [
        ("LeakyRelu", "in place of LeakyRelu"),
        ("DequantizeLinear", "quantized"),
        ("If", "without branches"),
        ("ArgMax", "up to its logits"),
        ("ConvTranspose", "a layer for ConvTranspose"),
    ] {
        let (said, hint) =
            refusal(&model(vec![node(op, &["images"], "x", vec![]), pool()], vec![]));
        let name = format!("the_{}", op.to_lowercase());
        let wanted =
            format!("node `{name}` ({op}) cannot be imported: no layer of refit's computes it");
        assert_eq!(said, wanted);
        assert!(hint.contains(needed), "{hint}");
    }
    let mut foreign = node("FusedConv", &["images"], "x", vec![]);
    foreign.domain = "com.microsoft".into();
    let (said, hint) = refusal(&model(vec![foreign, pool()], vec![]));
    assert!(said.ends_with("it is of the domain `com.microsoft`"), "{said}");
    assert!(hint.contains("ai.onnx"), "{hint}");
    let (said, hint) = refusal(&model(
        vec![
            node("Relu", &["images"], "r", vec![]),
            node("Mul", &["r", "images"], "x", vec![]),
            pool(),
        ],
        vec![],
    ));
    assert!(said.starts_with("node `the_mul` (Mul) cannot be imported: it multiplies"), "{said}");
    assert!(hint.contains("docs/onnx.md"), "{hint}");
}

#[test]
fn damaged_graphs_are_refused_in_words() {
    let (said, hint) = refusal(&model(vec![node("Relu", &["gone"], "x", vec![])], vec![]));
    assert_eq!(
        said,
        "node `the_relu` (Relu) is damaged: it takes `gone`, which nothing gives before"
    );
    assert!(hint.contains("export the network again"));
    let (said, hint) = refusal(&model(vec![], vec![]));
    assert_eq!(said, "`x.onnx` has an output that does not depend on images");
    assert!(hint.contains("logits"));
    let (said, _) = refusal(&model(vec![node("Relu", &["images"], "y", vec![])], vec![]));
    assert_eq!(said, "`x.onnx` gives no row of logits an image");
    let mut old = model(vec![pool()], vec![]);
    old.opset_import[0].version = 3;
    let (said, hint) = refusal(&old);
    assert_eq!(said, "`x.onnx` is of opset 3; refit reads 7 to 24");
    assert_eq!(hint, "export the network again with opset_version=17");
    old.opset_import[0].version = 99;
    assert!(refusal(&old).1.contains("older"));
    let mut open = model(vec![], vec![]);
    let info = &mut open.graph.as_mut().unwrap().input[0];
    let shape = info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut();
    shape.unwrap().dim[2].dim_value = None;
    let (said, hint) = refusal(&open);
    assert_eq!(said, "`x.onnx` takes images of any size, and a network has a nominal one");
    assert!(hint.contains("--size 224"));
    let bytes = model(vec![pool()], vec![]).encode_to_vec();
    let options = ImportOptions { size: Some(9) };
    let error = import_bytes(bytes, "x.onnx", &options, &Device::default()).unwrap_err();
    assert_eq!(error.to_string(), "`x.onnx` takes images of 8x8 pixels alone, not of 9");
    assert!(error.hint().unwrap().contains("leave --size out"));
}

#[test]
fn files_that_are_no_models_are_refused_in_words() {
    let refused = |bytes: &[u8]| read(bytes.to_vec()).unwrap_err();
    assert_eq!(refused(b"").to_string(), "`x.onnx` is no ONNX model: it is empty");
    let error = refused(b"not a model at all");
    assert!(error.to_string().starts_with("`x.onnx` is no ONNX model: "), "{error}");
    assert!(error.hint().unwrap().contains(".onnx"));
    // Two bytes a node, of which each would take hundreds.
    let graph = [0x0a_u8, 0].repeat(200_000);
    let mut many = vec![0x3a];
    prost::encoding::encode_varint(graph.len() as u64, &mut many);
    many.extend(graph);
    assert!(refused(&many).to_string().contains("more than 100000 nodes"));
    let options = ImportOptions::default();
    let error = import(Path::new("gone.onnx"), &options, &Device::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read `gone.onnx`: "), "{error}");
    assert_eq!(error.hint().unwrap(), "check the path");
    let long = OnnxError::TooLong { file: "x".into(), length: 9, most: 8 };
    assert!(long.hint().unwrap().contains("external data"));
}

#[test]
fn constants_are_checked_before_room_is_made() {
    let said = |tensor: Tensor| {
        let nodes = vec![node("Add", &["images", "c"], "x", vec![]), pool()];
        refusal(&model(nodes, vec![Tensor { name: "c".into(), ..tensor }])).0
    };
    let float = Tensor { data_type: 1, ..Tensor::default() };
    let huge = Tensor { dims: vec![i64::MAX, 2], ..float.clone() };
    assert!(said(huge).contains("constant `c` of `x.onnx` has an impossible shape"));
    let less = Tensor { dims: vec![1 << 40], raw_data: vec![0; 4].into(), ..float.clone() };
    assert!(said(less).contains("but is given 4"));
    let none = Tensor { dims: vec![3], ..float.clone() };
    assert!(said(none).contains("is of shape [3], but holds 0 values"));
    let words = Tensor { data_type: 8, ..Tensor::default() };
    assert!(said(words).contains("is of element type string"));
    let outside = Tensor {
        dims: vec![1],
        data_location: 1,
        external_data: vec![proto::Entry { key: "location".into(), value: "../secret".into() }],
        ..float
    };
    let error = said(outside);
    assert!(error.ends_with("lies in `../secret`, which is not a file in the folder of the model"));
}

#[test]
fn weights_may_lie_in_a_file_beside_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |key: &str, value: &str| proto::Entry { key: key.into(), value: value.into() };
    let tensor = Tensor {
        name: "c".into(),
        dims: vec![3, 1, 1],
        data_type: 1,
        data_location: 1,
        external_data: vec![
            entry("location", "x.data"),
            entry("offset", "4"),
            entry("length", "12"),
        ],
        ..Tensor::default()
    };
    let nodes = vec![node("Mul", &["images", "c"], "x", vec![]), pool()];
    let path = dir.path().join("x.onnx");
    std::fs::write(&path, model(nodes, vec![tensor]).encode_to_vec()).unwrap();
    let bytes: Vec<u8> = [0.0_f32, 1.0, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(dir.path().join("x.data"), &bytes).unwrap();
    let options = ImportOptions::default();
    let net = import(&path, &options, &Device::default()).unwrap().network;
    let scale = net.parameters().values().next().unwrap();
    assert_eq!(scale.to_vec(), [1.0, 2.0, 3.0]);
    std::fs::write(dir.path().join("x.data"), &bytes[..8]).unwrap();
    let error = import(&path, &options, &Device::default()).unwrap_err();
    assert!(error.to_string().contains("lies beyond the end of"), "{error}");
}
