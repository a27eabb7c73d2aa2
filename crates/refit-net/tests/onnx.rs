//! Files that PyTorch's exporters and TensorFlow's converter wrote give the logits that ONNX Runtime
//! gives; `tools/golden_onnx.py` makes them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use refit_net::onnx::{ImportOptions, Imported, import};
use refit_net::state_dict::StateDict;

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/onnx", name].iter().collect()
}

fn imported(name: &str) -> Imported {
    let file = golden(&format!("{name}.onnx"));
    import(&file, &ImportOptions::default(), &Device::default()).unwrap()
}

/// The largest difference from the expected logits, relative to the largest of them. Differences
/// by image are taken out where only a softmax was compared.
fn difference(name: &str, up_to_softmax: bool) -> f32 {
    let expected = StateDict::read(golden(&format!("{name}.safetensors"))).unwrap();
    let images = TensorData::new(expected.get_f32("images").unwrap(), [3, 3, 16, 16]);
    let net = imported(name).network;
    let images = Tensor::<4>::from_data(images, &Device::default());
    let logits = net.compile_all().run(images).remove(0).to_vec();
    let wanted = expected.get_f32("logits").unwrap();
    assert_eq!(logits.len(), wanted.len());
    let top = wanted.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
    let rows = logits.chunks(5).zip(wanted.chunks(5));
    let apart = rows.flat_map(|(a, b)| {
        let offset = if up_to_softmax { a[0] - b[0] } else { 0.0 };
        a.iter().zip(b).map(move |(a, b)| (a - b - offset).abs())
    });
    apart.fold(0.0, f32::max) / top
}

#[test]
fn networks_from_pytorch_give_their_logits() {
    for network in ["branches", "shuffled"] {
        for exporter in ["script11", "script17", "dynamo"] {
            let name = format!("{network}.{exporter}");
            let apart = difference(&name, false);
            assert!(apart < 1e-4, "{name}: {apart}");
        }
    }
}

#[test]
fn networks_from_tensorflow_give_their_logits() {
    let apart = difference("tensorflow", true);
    assert!(apart < 1e-4, "{apart}");
    let notes = imported("tensorflow").notes;
    assert!(notes.iter().any(|note| note.contains("softmax")), "{notes:?}");
}

#[test]
fn layers_have_the_names_of_modules() {
    let Imported { network, .. } = imported("branches.script17");
    let graph = network.graph();
    let kind = |name: &str| graph.nodes()[graph.find(name).unwrap()].layer.kind();
    assert_eq!(graph.head(), "fc2");
    for (name, wanted) in [
        ("stem.0", "conv"),
        ("stem.2", "silu"),
        ("depthwise.2", "relu6"),
        ("squeeze.fc1", "linear"),
        ("left.2", "hard_swish"),
        ("right.1", "gelu"),
        ("right.2", "gelu_tanh"),
        ("pool", "max_pool"),
        ("add", "add"),
        ("fc1", "linear"),
    ] {
        assert_eq!(kind(name), wanted, "{name}");
    }
    assert!(network.parameters().contains_key("fc1.weight"));
    let shuffled = imported("shuffled.dynamo").network;
    let kinds: Vec<&str> = shuffled.graph().nodes().iter().map(|n| n.layer.kind()).collect();
    for wanted in ["slice", "shuffle", "layer_norm", "gelu", "layer_scale", "global_avg_pool"] {
        assert!(kinds.contains(&wanted), "{wanted}: {kinds:?}");
    }
}

#[test]
fn files_cut_short_or_changed_are_refused_without_a_panic() {
    let bytes = std::fs::read(golden("tensorflow.onnx")).unwrap();
    let options = ImportOptions::default();
    let try_bytes = |bytes: Vec<u8>| {
        let _ = refit_net::onnx::import_bytes(bytes, "x.onnx", &options, &Device::default());
    };
    for end in (0..bytes.len()).step_by(37) {
        try_bytes(bytes[..end].to_vec());
    }
    for at in 0..bytes.len() {
        for value in [0x00, 0x7f, 0xff] {
            let weights = at % 16 != 0 && at > 1500;
            if !weights {
                let mut changed = bytes.clone();
                changed[at] = value;
                try_bytes(changed);
            }
        }
    }
}
