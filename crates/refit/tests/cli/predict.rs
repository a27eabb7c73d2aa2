//! `predict`: formats, lists, and images that cannot be read.

use std::io::Write;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::images::{bmp, jpeg};
use crate::scene::{REFIT, Scene, trained};

const MODEL: &str = "run/model.safetensors";

#[test]
fn lines_of_json_name_path_class_index_and_probability() {
    let said = trained().run(&format!("predict {MODEL} photos/red/00.bmp photos/blue")).exits(0);
    assert_eq!(said.stderr, "");
    let lines: Vec<serde_json::Value> =
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 13);
    assert!(said.stdout.starts_with(
        r#"{"path":"photos/red/00.bmp","predictions":[{"class":"red","index":1,"probability":0."#
    ));
    assert_eq!(lines[1]["path"], "photos/blue/00.bmp");
    assert_eq!(lines[1]["predictions"][0]["class"], "blue");
    // Two classes are all there are, though three would be printed.
    let predictions = lines[0]["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 2);
    let sum: f64 = predictions.iter().map(|p| p["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
}

#[test]
fn tables_are_for_people_and_csv_for_spreadsheets() {
    let scene = trained();
    let paths = "photos/red/00.bmp photos/blue/11.bmp";
    let table = scene.run(&format!("predict {MODEL} {paths} --format table")).exits(0).stdout;
    let row = |line: usize| table.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row(0)[..2], ["photos/red/00.bmp", "red"]);
    assert_eq!(row(1)[..2], ["photos/blue/11.bmp", "blue"]);
    assert!(row(0)[2].ends_with('%'));
    let csv = scene.run(&format!("predict {MODEL} {paths} --format csv --top 1")).exits(0).stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "path,rank,class,index,probability,unknown,score");
    assert!(lines[1].starts_with("photos/red/00.bmp,1,red,1,0."), "{csv}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn images_of_another_kind_are_unknown() {
    let scene = Scene::with_photos(32);
    let train = "train photos --strategy features --views 1 --seed 1 --out run --json";
    let said = scene.run(train).exits(0);
    assert!(said.stderr.contains("\ncalibration error on validation images: "), "{}", said.stderr);
    assert!(said.stderr.contains("\nunknown: "), "{}", said.stderr);
    let report = said.json();
    assert_eq!(report["calibration"]["fitted_on"], "held-out-training");
    assert_eq!(report["unknown"]["images"], report["calibration"]["images"]);
    assert_eq!(report["val"]["reliability"]["bins"].as_array().unwrap().len(), 15);
    assert!(report["val"]["uncalibrated"]["brier"].is_number());

    scene.write("grey.jpg", jpeg());
    let predict = |more: &str| {
        scene.run(&format!("predict {MODEL} photos/red/00.bmp grey.jpg --top 1 {more}"))
    };
    let lines = predict("").exits(0).stdout;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["unknown"], &lines[1]["unknown"]), (&false.into(), &true.into()));
    let score = |line: usize| lines[line]["score"].as_f64().unwrap();
    assert!(score(1) > 1.5 * score(0), "{lines:?}");
    // What it would be is told all the same.
    assert!(lines[1]["predictions"][0]["class"].is_string());
    let csv = predict("--format csv").exits(0).stdout;
    assert!(csv.lines().nth(2).unwrap().contains(",true,"), "{csv}");
    let table = predict("--format table").exits(0).stdout;
    let line = table.lines().nth(1).unwrap();
    assert!(line.starts_with("grey.jpg           unknown ") && line.ends_with("%)"), "{table}");
    let column = |line: &str, text: &str| line.find(text).unwrap();
    assert_eq!(column(&table, "red "), column(line, "("), "{table}");

    let off = predict("--unknown off").exits(0).stdout;
    assert!(!off.contains("unknown"), "{off}");
    let said = predict("--unknown 0.001").exits(0);
    assert!(!said.stdout.contains("\"unknown\":true"), "{}", said.stdout);
    assert_snapshot!("predict-unknown-too-fine", said.stderr);
    assert_snapshot!("predict-unknown-wrong", predict("--unknown 5%").refused());

    let judged = scene.run("evaluate run/model.safetensors photos --json").exits(0).json();
    let share = judged["unknown"]["unknown"].as_f64().unwrap();
    assert!(share < 0.1, "{share}");
    let judged = scene.run("evaluate run/model.safetensors photos --unknown off").exits(0).stdout;
    assert!(judged.contains("calibration error: ") && !judged.contains("unknown"), "{judged}");
    let info = scene.run("info run/model.safetensors").exits(0).stdout;
    assert!(info.contains("\nunknown ") && info.contains("\ncalibrated "), "{info}");
    let info = scene.run("info run/model.safetensors --json").exits(0).json();
    assert!(info["unknown"]["threshold"].is_number() && info["card"]["unknown"].is_null());

    // An edit of what the network computes leaves out what was known of it; others keep it.
    let said = scene.run("edit run/model.safetensors --activation silu --out other.safetensors");
    assert_snapshot!("edit-drops-trust", said.exits(0).stderr);
    let said = scene.run("predict other.safetensors grey.jpg --unknown 0.05").refused();
    assert_snapshot!("predict-unknown-not-told", said);
    scene.run("edit run/model.safetensors --freeze-body --out same.safetensors").exits(0);
    let same = scene.run("predict same.safetensors grey.jpg").exits(0).json();
    assert_eq!(same["score"], lines[1]["score"]);
    scene.run("export run/model.safetensors --to onnx --out run/model.onnx").exits(0);
}

#[test]
fn paths_can_be_listed_on_stdin() {
    let scene = trained();
    let mut command = scene.program(REFIT);
    command.args(["predict", MODEL, "-", "--top", "1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let list = b"photos/red/01.bmp\n\nmissing.jpg\r\nphotos/blue/01.bmp";
    child.stdin.take().unwrap().write_all(list).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "warning: missing.jpg is left out: the file does not exist\n");
}

#[test]
fn unreadable_images_are_named_and_left_out() {
    let scene = Scene::new();
    scene.write("new/1.bmp", bmp(30, [200, 0, 0], 1));
    scene.write("new/2.jpg", "no image");
    scene.write("new/3.bmp", bmp(30, [0, 0, 200], 1));
    let model = trained().path(MODEL);
    let predict = |more: &[&str]| {
        let mut arguments = vec!["predict".as_ref(), model.as_os_str()];
        arguments.extend(more.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
        scene.refit(arguments)
    };
    let said = predict(&["new", "--top", "1"]).exits(0);
    assert_eq!(said.stdout.lines().count(), 2);
    assert_snapshot!("predict-unreadable", said.stderr);
    assert_snapshot!("predict-strict", predict(&["new", "--strict"]).exits(1).stderr);
    assert_snapshot!("predict-none-readable", predict(&["new/2.jpg"]).refused());
    assert_snapshot!("predict-missing", predict(&["gone"]).refused());
    assert_snapshot!("predict-empty-list", predict(&["-"]).refused());
}

#[test]
fn the_embedded_network_predicts_imagenet_classes() {
    let scene = trained();
    let said = scene.run("predict efficientnet_lite0 photos/red/00.bmp --top 5").exits(0);
    let predictions = said.json()["predictions"].as_array().unwrap().clone();
    assert_eq!(predictions.len(), 5);
    let probability = |i: usize| predictions[i]["probability"].as_f64().unwrap();
    assert!((0..4).all(|i| probability(i) >= probability(i + 1)));
}

#[test]
fn whoever_reads_no_more_ends_it_quietly() {
    let scene = trained();
    let script = format!(
        "{{ sleep 0.5; $REFIT predict {MODEL} photos/red; echo $? > code; }} | true; cat code"
    );
    let said = scene.bash(&script).exits(0);
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("0\n", ""));
}
