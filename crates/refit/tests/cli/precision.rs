//! `--precision`: frozen networks in bf16, where this CPU has it.

use std::fs;

use insta::assert_snapshot;
use refit::net::Precision;

use crate::resume::last_lines;
use crate::scene::{Scene, npy, trained};

fn has_bf16() -> bool {
    let supported = Precision::Bf16.is_supported();
    if !supported {
        eprintln!("skipped: this CPU has neither AMX nor AVX512-BF16");
    }
    supported
}

/// `a` and `b` differ, but by at most a tenth of their length: weights of 8 bits move what is summed
/// of large values with both signs, such as efficientnet_lite0's features, by some 4%.
#[track_caller]
fn assert_near(a: &[f32], b: &[f32]) {
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let apart = length(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let share = apart / length(&mut b.iter().copied());
    assert_eq!(a.len(), b.len());
    assert!(share > 0.0 && share <= 0.1, "{share}");
}

#[test]
fn a_head_is_trained_on_bf16_features() {
    if !has_bf16() {
        return;
    }
    let scene = Scene::with_photos(12);
    scene.run("train photos --strategy features --seed 1 --out full").exits(0);
    let said = scene
        .run("train photos --strategy features --seed 1 --precision bf16 --out half --json")
        .exits(0);
    let all = "rows computed and 0 from the cache";
    assert!(said.stderr.contains("bf16 features of 24 images"), "{}", said.stderr);
    assert!(said.stderr.contains(all), "{}", said.stderr);
    let report = said.json();
    assert_eq!(report["precision"], "bf16");
    assert_eq!(report["val"]["top1"], 1.0);
    let settings = fs::read_to_string(scene.path("half/settings.toml")).unwrap();
    assert!(settings.contains("\nprecision = \"bf16\"\n"), "{settings}");
    let info = scene.run("info half/model.safetensors").exits(0).stdout;
    assert!(info.contains("seed 1, frozen layers in bf16\n"), "{info}");
    // What was judged is what the same precision gives again.
    let again = scene.run("evaluate half/model.safetensors photos --precision bf16 --json");
    assert_eq!(again.exits(0).json()["top1"], 1.0);

    // Each precision finds its own features, and a resumed run its precision.
    let model = fs::read(scene.path("half/model.safetensors")).unwrap();
    fs::remove_file(scene.path("half/model.safetensors")).unwrap();
    let said = scene.run("train --resume half").exits(0).stderr;
    assert!(said.contains("bf16 features of") && said.contains(" 0 rows computed"), "{said}");
    assert!(fs::read(scene.path("half/model.safetensors")).unwrap() == model);
    let said = scene.run("train photos --strategy features --seed 1 --out again").exits(0).stderr;
    assert!(!said.contains("bf16") && said.contains(" 0 rows computed"), "{said}");
    let bytes = |run: &str| fs::read(scene.path(run).join("model.safetensors")).unwrap();
    assert!(bytes("full") == bytes("again"));
    assert!(bytes("full") != bytes("half"));
}

#[test]
fn predictions_in_bf16_are_nearly_the_same() {
    if !has_bf16() {
        return;
    }
    let predict = |model: &str, more: &str| -> Vec<(u64, f32)> {
        let said = trained().run(&format!("predict {model} photos --top 1 {more}")).exits(0);
        let first = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let first = &line["predictions"][0];
            (first["index"].as_u64().unwrap(), first["probability"].as_f64().unwrap() as f32)
        };
        said.stdout.lines().map(first).collect()
    };
    let classes = |of: &[(u64, f32)]| of.iter().map(|p| p.0).collect::<Vec<_>>();
    let probabilities = |of: &[(u64, f32)]| of.iter().map(|p| p.1).collect::<Vec<_>>();
    let model = "run/model.safetensors";
    let (full, half) = (predict(model, "--precision f32"), predict(model, "--precision bf16"));
    assert_eq!(full, predict(model, ""));
    assert_eq!(full.len(), 24);
    assert_eq!(classes(&half), classes(&full));
    assert_near(&probabilities(&half), &probabilities(&full));
}

#[test]
fn features_and_arrays_in_bf16_are_nearly_the_same() {
    if !has_bf16() {
        return;
    }
    let scene = Scene::with_photos(3);
    let values: Vec<u8> = (0..3 * 64 * 64).flat_map(|i| (i as f32).sin().to_le_bytes()).collect();
    scene.write("x.npy", npy("<f4", false, &[1, 3, 64, 64], &values));
    let read = |name: &str| {
        let bytes = fs::read(scene.path(name)).unwrap();
        npyz::NpyFile::new(&bytes[..]).unwrap().into_vec::<f32>().unwrap()
    };
    for (command, out) in [
        ("embed efficientnet_lite0 photos", "--out"),
        ("embed efficientnet_lite0 photos --at blocks.2", "--out"),
        ("run efficientnet_lite0 --input x.npy", "--output"),
        ("run resnet18 --random 3 --input x.npy --at layer2", "--output"),
    ] {
        scene.run(&format!("{command} {out} full.npy")).exits(0);
        scene.run(&format!("{command} {out} half.npy --precision bf16")).exits(0);
        assert_near(&read("half.npy"), &read("full.npy"));
    }
    let said = scene.run("bench efficientnet_lite0 --job photos --precision bf16 --json").exits(0);
    assert_eq!((&said.json()["precision"], &said.json()["images"]), (&"bf16".into(), &6.into()));
}

#[test]
fn bf16_where_nothing_is_frozen_is_refused() {
    if !has_bf16() {
        return;
    }
    let scene = Scene::with_photos(3);
    let mut said = String::new();
    for command in [
        "train photos --strategy scratch --precision bf16",
        "train photos --strategy pretrained-init --precision bf16",
        "bench resnet18 --mode train --precision bf16",
    ] {
        said += &format!("$ refit {command}\n{}\n", last_lines(&scene.run(command).refused()));
    }
    assert_snapshot!("bf16-idle", said);
    assert!(!scene.path("refit-runs").exists());
}

#[test]
fn a_cpu_without_bf16_says_so() {
    if Precision::Bf16.is_supported() {
        eprintln!("skipped: this CPU has AMX or AVX512-BF16");
        return;
    }
    let scene = trained();
    for command in [
        "train photos",
        "predict run/model.safetensors photos",
        "evaluate run/model.safetensors photos",
        "embed run/model.safetensors photos --out f.npy",
        "run run/model.safetensors --input x.npy --output y.npy",
        "bench efficientnet_lite0",
    ] {
        let said = scene.run(&format!("{command} --precision bf16")).refused();
        let expected = "error: invalid value 'bf16' for '--precision <TYPE>': this CPU has neither \
                        AMX nor AVX512-BF16, which bf16 needs: use --precision f32\n";
        assert!(said.starts_with(expected), "{said}");
    }
    let other = Scene::new();
    let settings = fs::read_to_string(scene.path("run/settings.toml")).unwrap();
    other.write("run/settings.toml", settings.replace("\"f32\"", "\"bf16\""));
    assert_eq!(
        other.run("train --resume run").refused(),
        "error: `run` began in bf16: this CPU has neither AMX nor AVX512-BF16, which bf16 needs\n\
         hint: go on with it on a CPU that has one, or begin a new run with --precision f32\n"
    );
}
