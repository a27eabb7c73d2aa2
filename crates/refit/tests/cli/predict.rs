//! `predict`: formats, lists, and images that cannot be read.

use std::io::Write;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::images::bmp;
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
    assert_eq!(lines[0], "path,rank,class,index,probability");
    assert!(lines[1].starts_with("photos/red/00.bmp,1,red,1,0."), "{csv}");
    assert_eq!(lines.len(), 3);
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
