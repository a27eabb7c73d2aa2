//! `refit doctor`, and what `refit train` tells of the same.

use std::fs;

use insta::assert_snapshot;

use crate::images::{bmp, two_classes};
use crate::resume::last_lines;
use crate::scene::Scene;

/// Photos with everything that can be the matter.
fn ill() -> Scene {
    let scene = Scene::new();
    for (part, count) in [("train", 12), ("val", 4)] {
        two_classes(&scene.path(&format!("photos/{part}")), count);
    }
    // Other images than those of training.
    for i in 0..4 {
        scene.write(&format!("photos/val/red/0{i}.bmp"), bmp(80, [180, 40, 30], 500 + i));
        scene.write(&format!("photos/val/blue/0{i}.bmp"), bmp(80, [20, 50, 170], 600 + i));
    }
    scene.write("photos/val/red/copy.bmp", bmp(40, [180, 40, 30], 3));
    scene.write("photos/train/blue/wrong.bmp", bmp(40, [180, 40, 30], 900));
    scene.write("photos/train/red/contradiction.bmp", bmp(40, [20, 50, 170], 1003));
    let mut dark = bmp(90, [3, 2, 2], 901);
    dark[54..].iter_mut().for_each(|value| *value /= 4);
    scene.write("photos/train/red/dark.bmp", dark);
    scene.write("photos/train/red/broken.jpg", "no picture");
    scene
}

#[test]
fn findings_are_told_in_words() {
    let scene = ill();
    let said = scene.run("doctor photos --html f.html --csv s.csv --sheet f.png").exits(0);
    assert!(said.stdout.contains("more like red"), "{}", said.stdout);
    assert!(fs::read_to_string(scene.path("f.html")).unwrap().contains("wrong.bmp"));
    let csv = fs::read_to_string(scene.path("s.csv")).unwrap();
    assert!(csv.lines().any(|line| line.contains("wrong.bmp,blue,red,")), "{csv}");
    assert_snapshot!("doctor-quick", scene.run("doctor photos --quick").exits(0).stdout);
}

#[test]
fn findings_are_told_to_programs() {
    let found = ill().run("doctor photos --json").exits(0).json();
    assert_eq!(found["counts"]["train"], serde_json::json!([13, 14]));
    assert_eq!(found["skipped"][0]["path"], "photos/train/red/broken.jpg");
    let copies = found["copies"].as_array().unwrap();
    assert!(copies.iter().any(|group| group["leak"] == true));
    assert!(copies.iter().any(|group| group["different_labels"] == true));
    let dark = found["flawed"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["path"] == "photos/train/red/dark.bmp");
    assert!(dark.unwrap()["flaws"].as_array().unwrap().contains(&"dark".into()));
    let suspects = found["suspects"].as_array().unwrap();
    assert_eq!(suspects[0]["path"], "photos/train/blue/wrong.bmp");
}

#[test]
fn what_cannot_be_examined_is_refused() {
    let scene = Scene::with_photos(2);
    fs::create_dir(scene.path("empty")).unwrap();
    let mut said = String::new();
    for command in [
        "doctor gone",
        "doctor empty",
        "doctor photos --sheet s.jpg",
        "doctor photos --quick --csv s.csv",
        "doctor photos --model gone.safetensors",
        "doctor photos --val gone",
    ] {
        said += &format!("$ refit {command}\n{}\n", last_lines(&scene.run(command).refused()));
    }
    assert_snapshot!("doctor-refused", said);
}

#[test]
fn training_warns_of_validation_images_that_it_learns_from() {
    let scene = ill();
    let said = scene.run("train photos --strategy features --out run").exits(0).stderr;
    let warning: Vec<&str> =
        said.lines().filter(|line| line.contains("too, which makes")).collect();
    assert_eq!(warning.len(), 1, "{said}");
    assert_snapshot!(warning[0], @"warning: 1 validation image is a training image too, which makes results look better than they are: [dir]/photos/val/red/copy.bmp is [dir]/photos/train/red/02.bmp (`refit doctor` finds altered copies as well)");
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(scene.path("run/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["leaks"]["val"], 1);
    let page = fs::read_to_string(scene.path("run/report.html")).unwrap();
    assert!(page.contains("can be found among the training images"));
}
