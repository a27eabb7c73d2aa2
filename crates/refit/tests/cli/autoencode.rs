//! `refit autoencode`, and what its models are good for.

use std::fs;
use std::sync::OnceLock;

use insta::assert_snapshot;

use crate::resume::last_lines;
use crate::scene::{Scene, steady, trained};

const SMALL: &str =
    "autoencode photos --size 16 --bottleneck 4 --epochs 2 --batch 8 --held-out 0.4";

/// A folder with `photos`, and `ae`, an autoencoder of them.
fn autoencoded() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let scene = Scene::with_photos(30);
        scene.run(&format!("{SMALL} --out ae")).exits(0);
        scene
    })
}

#[test]
fn a_run_leaves_everything_and_says_what_it_is_good_for() {
    let scene = Scene::with_photos(30);
    let said = scene.run(&format!("{SMALL} --out ae --json")).exits(0);
    let report = said.json();
    assert_eq!((report["train"].as_u64(), report["held_out"].as_u64()), (Some(36), Some(24)));
    assert!(report["after"]["loss"].as_f64() < report["before"]["loss"].as_f64());
    let text = steady(&said.stderr);
    let summary = text.find("autoencoder on").map(|at| &text[at..]).unwrap();
    for part in ["held out, now: ", "PSNR", "an anomaly is what has an error above", "sheet.png"] {
        assert!(summary.contains(part), "{summary}");
    }
    for file in ["settings.toml", "log.jsonl", "metrics.json", "sheet.png", "report.html"] {
        assert!(scene.path("ae").join(file).exists(), "{file}");
    }
    let page = fs::read_to_string(scene.path("ae/report.html")).unwrap();
    assert!(page.contains("data:image/png;base64,") && page.contains("Do it again"));
    fs::remove_file(scene.path("ae/report.html")).unwrap();
    scene.run("report ae").exits(0);
    assert_eq!(fs::read_to_string(scene.path("ae/report.html")).unwrap(), page);
    scene.run("autoencode --resume ae").exits(0);
}

#[test]
fn threads_do_not_change_a_bit() {
    let scene = Scene::with_photos(12);
    let run = |threads: usize| {
        let flags = "--noise 0.1 --mask 0.5 --patch 4 --count masked --loss l1-ssim";
        scene.run(&format!("{SMALL} {flags} --threads {threads} --out t{threads}")).exits(0);
        fs::read(scene.path(&format!("t{threads}/model.safetensors"))).unwrap()
    };
    assert!(run(1) == run(2), "models differ");
}

#[test]
fn its_model_trains_embeds_and_finds_anomalies() {
    let scene = autoencoded();
    scene.run("train photos --strategy features --weights ae/model.safetensors --out run").exits(0);
    assert_eq!(scene.run("predict run/model.safetensors photos/red/00.bmp").exits(0).code, Some(0));
    scene.run("embed ae/model.safetensors photos --out codes.csv").exits(0);
    let codes = fs::read_to_string(scene.path("codes.csv")).unwrap();
    assert_eq!(codes.lines().next(), Some("path,f0,f1,f2,f3"));
    let anomaly = "predict --anomaly ae/model.safetensors photos/red";
    let lines = scene.run(&format!("{anomaly} --format jsonl")).exits(0).stdout;
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert!(line["score"].is_number() && line["threshold"].is_number(), "{line}");
    assert!(line["anomalous"].is_boolean(), "{line}");
    assert_eq!(lines.lines().count(), 30);
    let csv = scene.run(&format!("{anomaly} --format csv")).exits(0).stdout;
    assert_eq!(csv.lines().next(), Some("path,score,threshold,anomalous"));
    let table = scene.run(&format!("{anomaly} --format table --unknown 0.9")).exits(0).stdout;
    assert!(table.contains("anomalous, above"), "{table}");
    let off = scene.run(&format!("{anomaly} --format table --unknown off")).exits(0);
    assert!(!off.stdout.contains("anomalous") && !off.stderr.contains("warning"), "{}", off.stderr);
    let few = scene.run(&format!("{anomaly} --format table --unknown 0.001")).exits(0).stderr;
    assert!(few.contains("the 24 images held out cannot tell a share of 0.001"), "{few}");
    let info = scene.run("info ae/model.safetensors").exits(0).stdout;
    assert!(info.contains("a code of 4 values"), "{info}");
}

#[test]
fn mistakes_are_refused_in_words() {
    let scene = autoencoded();
    let mut said = Vec::new();
    for arguments in [
        "predict ae/model.safetensors photos",
        "autoencode photos --mask 1 --out x",
        "autoencode photos --bottleneck 0 --out x",
        "autoencode photos --pretrained --out x",
        "autoencode photos --encoder smal --out x",
        "autoencode photos --out ae",
        "autoencode photos/red/00.bmp --out x",
        "train --resume ae",
    ] {
        said.push(format!("$ refit {arguments}\n{}", last_lines(&scene.run(arguments).refused())));
    }
    let classifier = trained();
    for arguments in ["predict --anomaly run/model.safetensors photos", "autoencode --resume run"] {
        let text = classifier.run(arguments).refused();
        said.push(format!("$ refit {arguments}\n{}", last_lines(&text)));
    }
    assert_snapshot!("autoencode-refused", said.join("\n"));
    let both = scene.run("autoencode photos --patch 4 --out x").refused();
    assert!(both.contains("--mask"), "{both}");
}
