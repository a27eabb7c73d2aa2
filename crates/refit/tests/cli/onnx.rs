//! `export` and `import`: models for other programs, and networks from them.

use std::fs;

use insta::assert_snapshot;

use crate::scene::{Scene, npy};

/// A network with weights that are made in no time.
const NET: &str = "squeezenet1_1 --random 0";

/// A graph that PyTorch's exporter wrote: 16 px, five classes.
fn golden(name: &str) -> String {
    format!("{}/../refit-net/tests/golden/onnx/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_model_goes_there_and_back() {
    let scene = Scene::new();
    scene.run(&format!("edit {NET} --replace-head 2 --out m.safetensors")).exits(0);
    let said = scene.run("export m.safetensors --to onnx --with-preprocessing --out m.onnx");
    let said = said.exits(0).stderr;
    assert!(said.starts_with("m.onnx: read again, its logits differ by "), "{said}");
    let said = scene.run("import m.onnx --out back.safetensors").exits(0).stderr;
    assert_snapshot!(said, @r"
    note: no batch norms: if the network had any, the exporter folded them, and it trains without
    back.safetensors: 64 layers, 723522 parameters; the head is `classifier`
    ");
    let card =
        |file: &str| scene.run(&format!("info {file} --json")).exits(0).json()["card"].take();
    let (before, after) = (card("m.safetensors"), card("back.safetensors"));
    for key in ["classes", "preprocess", "temperature", "weights"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let values: Vec<u8> = (0..3 * 64 * 64).flat_map(|i| ((i % 89) as f32).to_le_bytes()).collect();
    scene.write("x.npy", npy("<f4", false, &[1, 3, 64, 64], &values));
    let outputs = ["m.safetensors", "back.safetensors"].map(|file| {
        scene.run(&format!("run {file} --input x.npy --output y.npy")).exits(0);
        fs::read(scene.path("y.npy")).unwrap()
    });
    assert_eq!(outputs[0], outputs[1], "no batch norm was folded");
}

#[test]
fn parameters_alone_are_those_of_the_model() {
    let scene = Scene::new();
    let said = scene.run(&format!("export {NET} --to safetensors --out w.safetensors")).exits(0);
    assert_snapshot!(said.stderr, @"w.safetensors: 52 tensors");
    let info = scene.run("info w.safetensors --json").exits(0).json();
    assert_eq!(info["networks"], serde_json::json!(["squeezenet1_1"]));
}

#[test]
fn a_network_that_is_not_refits_is_trained() {
    let scene = Scene::with_photos(4);
    scene.write("names.txt", "a\nb\n\nc\nd\ne\n");
    let file = golden("branches.script17.onnx");
    let import =
        "--classes names.txt --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --resize 20 --bicubic";
    scene.run(&format!("import {file} {import} --out net.safetensors")).exits(0);
    let card = scene.run("info net.safetensors --json").exits(0).json()["card"].take();
    assert_eq!(card["classes"], serde_json::json!(["a", "b", "c", "d", "e"]));
    assert_eq!(card["preprocess"]["mean"], serde_json::json!([0.5, 0.5, 0.5]));
    assert_eq!(card["preprocess"]["interpolation"], "bicubic");
    for strategy in ["features", "fine-tune"] {
        let train = "train photos --weights net.safetensors --epochs 1";
        let train = match strategy {
            "features" => train.replace(" --epochs 1", ""),
            _ => train.to_owned(),
        };
        scene.run(&format!("{train} --strategy {strategy} --out {strategy}")).exits(0);
        scene.run(&format!("predict {strategy}/model.safetensors photos")).exits(0);
    }
}

#[test]
fn what_cannot_be_is_said_and_nothing_is_written() {
    let scene = Scene::new();
    scene.write("text.onnx", "not a graph");
    scene.write("two.txt", "a\nb\n");
    fs::copy(golden("branches.script17.onnx"), scene.path("net.onnx")).unwrap();
    let mut said = String::new();
    for command in [
        "import gone.onnx --out m.safetensors",
        "import text.onnx --out m.safetensors",
        "import net.onnx --out gone/m.safetensors",
        "import net.onnx --out m.safetensors --classes gone.txt",
        "import net.onnx --out m.safetensors --classes two.txt",
        "import net.onnx --out m.safetensors --mean 0.5",
        "import net.onnx --out m.safetensors --std 0,1,1 --mean 0,0,0",
        "import net.onnx --out m.safetensors --size 32",
        "import net.onnx",
        &format!("export {NET} --to onnx --out gone/m.onnx"),
        &format!("export {NET} --to safetensors --keep-batch-norms --out m.safetensors"),
        &format!("export {NET} --to torchscript --out m.pt"),
        "export resnet18 --to onnx --out m.onnx",
        "export gone.safetensors --to onnx --out m.onnx",
    ] {
        said += &format!("$ refit {command}\n{}\n", scene.run(command).refused());
        for name in ["m.safetensors", "m.onnx", "m.pt"] {
            assert!(!scene.path(name).exists(), "{command}");
        }
    }
    assert_snapshot!("onnx-refused", said);
}
