//! `train --learner` and backbones that are no networks, from images to predictions.

use std::fs;

use crate::scene::Scene;

const MODEL: &str = "run/model.safetensors";

/// Trains, and looks at the result by every command that takes a model.
fn whole_way(scene: &Scene, flags: &str, layer: &str) -> String {
    let said = scene.run(&format!("train photos {flags} --seed 1 --out run")).exits(0).stderr;
    for file in ["settings.toml", "metrics.json", "model.safetensors", "report.html"] {
        assert!(scene.path("run").join(file).is_file(), "{flags}: {file}");
    }
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(scene.path("run/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["val"]["top1"], 1.0, "{flags}: {said}");
    assert_eq!(metrics["strategy"], "features");
    let settings = fs::read_to_string(scene.path("run/settings.toml")).unwrap();
    let predicted = scene.run(&format!("predict {MODEL} photos/red/00.bmp")).exits(0).stdout;
    assert!(predicted.contains("red"), "{flags}: {predicted}");
    let judged = scene.run(&format!("evaluate {MODEL} photos --json")).exits(0).json();
    assert!(judged["top1"].as_f64().unwrap() > 0.9, "{flags}: {judged}");
    let info = scene.run(&format!("info {MODEL}")).exits(0).stdout;
    assert!(info.contains("red") && info.contains("blue"), "{info}");
    let layers = scene.run(&format!("layers {MODEL}")).exits(0).stdout;
    assert!(layers.contains(layer), "{layers}");
    settings
}

#[test]
fn learners_that_are_no_networks_go_the_whole_way() {
    for (flags, layer) in [
        ("--backbone colours --learner trees", "tree_ensemble"),
        ("--backbone handmade --learner knn", "neighbours"),
        ("--learner forest", "tree_ensemble"),
    ] {
        let scene = Scene::with_photos(8);
        let settings = whole_way(&scene, flags, layer);
        assert!(settings.contains("learner = "), "{settings}");
        let export = scene.run(&format!("export {MODEL} --to onnx --out m.onnx")).refused();
        assert!(export.contains("no operator of ONNX computes"), "{export}");
        let explain =
            scene.run(&format!("explain {MODEL} photos/red/00.bmp --out h.png")).refused();
        assert!(explain.contains("gradient") || explain.contains("no layer that gives a map"));
    }
    let scene = Scene::with_photos(8);
    let settings = whole_way(&scene, "--backbone pixels", "linear");
    assert!(!settings.contains("learner = "), "{settings}");
}

#[test]
fn inputs_give_features_and_not_classes() {
    let scene = Scene::with_photos(2);
    let said = scene.run("predict hog photos/red/00.bmp").refused();
    assert!(said.contains("this `hog` gives features, not classes"), "{said}");
    scene.run("embed colours photos --out colours.npy").exits(0);
    // A header of 128 bytes, then four rows of 648 values.
    let length = fs::metadata(scene.path("colours.npy")).unwrap().len();
    assert_eq!(length, 128 + 4 * 648 * 4);
    let info = scene.run("info handmade").exits(0).stdout;
    assert!(info.contains("handmade"), "{info}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scene = Scene::with_photos(4);
    let refused = |flags: &str| {
        let said = scene.run(&format!("train photos {flags} --out run")).refused();
        assert!(!scene.path("run").exists(), "{said}");
        said
    };
    let said = refused("--learner trees --strategy fine-tune");
    assert!(said.contains("--learner trees does not go with --strategy fine-tune"), "{said}");
    let said = refused("--learner knn --head mlp:8");
    assert!(said.contains("--learner knn does not go with --head mlp:8"), "{said}");
    for backbone in ["hog", "pixels"] {
        let said = refused(&format!("--backbone {backbone} --strategy fine-tune"));
        assert!(said.contains(&format!("`{backbone}` of `{backbone}`")), "{said}");
        assert!(said.contains("--strategy features"), "{said}");
    }
}
