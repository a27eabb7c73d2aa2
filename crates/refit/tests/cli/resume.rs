//! A run that was killed goes on to the very result that it would have had.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;

use crate::scene::{REFIT, Scene, trained};

const TRAIN: &str =
    "train photos --strategy fine-tune --epochs 3 --batch 4 --seed 3 --threads 1 --out";

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let scene = Scene::with_photos(4);
    scene.run(&format!("{TRAIN} whole")).exits(0);

    let mut child = scene.program(REFIT);
    child.args(TRAIN.split_whitespace()).arg("killed");
    let mut child = child.stderr(Stdio::null()).spawn().unwrap();
    let checkpoint = scene.path("killed/checkpoints/last.safetensors");
    wait_for(&checkpoint);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!scene.path("killed/model.safetensors").exists(), "killed too late to show anything");

    scene.run("train --resume killed --threads 2").exits(0);
    assert_same_model(&scene, "whole", "killed");
    // What is done stays done.
    scene.run("train --resume killed").exits(0);
    assert_same_model(&scene, "whole", "killed");
}

fn assert_same_model(scene: &Scene, a: &str, b: &str) {
    let model = |run: &str| fs::read(scene.path(run).join("model.safetensors")).unwrap();
    assert!(model(a) == model(b), "{a} and {b} differ");
}

pub fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < Duration::from_secs(300), "no {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_at_the_next_step_and_says_how_to_go_on() {
    let scene = Scene::with_photos(4);
    let mut child = scene.program(REFIT);
    child.args(TRAIN.replace("--epochs 3", "--epochs 50").split_whitespace()).arg("run");
    let mut child = child.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("epoch 2 of")));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_snapshot!("ctrl-c", rest.join("\n").trim_start());
}

#[test]
fn resuming_takes_the_settings_from_the_folder() {
    let scene = Scene::new();
    let said = scene.run("train --resume nowhere").refused();
    assert_snapshot!("resume-nothing", said);
    let said = trained().run("train --resume run --seed 2").refused();
    assert_snapshot!("resume-conflict", said);
    let said = trained().run("train photos --resume run").refused();
    assert!(said.contains("cannot be used with"), "{said}");
    let said = trained().run("train --resume run --out elsewhere").refused();
    assert!(said.contains("cannot be used with"), "{said}");
}

#[test]
fn other_images_than_the_run_began_with_are_refused() {
    let scene = Scene::with_photos(4);
    scene.run("train photos --strategy features --out run").exits(0);
    fs::remove_file(scene.path("photos/red/00.bmp")).unwrap();
    assert_snapshot!("resume-other-images", last_lines(&scene.run("train --resume run").refused()));
}

/// The error, without what was said before it.
pub fn last_lines(said: &str) -> &str {
    said.find("error: ").map_or(said, |at| &said[at..])
}
