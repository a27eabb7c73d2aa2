//! `tune`, from images to settings and the run that they give.

use std::fs;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::html::check_page;
use crate::resume::wait_for;
use crate::scene::{REFIT, Scene, steady};

const TUNE: &str = "tune photos --epochs 2 --batch 4 --unfreeze-from blocks.6 --search lr,ema \
                    --trials 3 --seed 3 --out";

#[test]
fn a_search_ends_with_a_run_and_its_report() {
    let scene = Scene::with_photos(8);
    let said = scene.run(&format!("{TUNE} run --json")).exits(0);
    assert!(said.stderr.contains("\ntrial 0: features: "), "{}", said.stderr);
    assert!(said.stderr.contains("\nthe best of 4 setups:\n"), "{}", said.stderr);
    let found = said.json();
    assert_eq!(found["search"]["trials"].as_array().unwrap().len(), 5);
    assert_eq!(found["search"]["options"]["search"], serde_json::json!(["lr", "ema"]));
    assert_eq!(found["best"]["strategy"], found["report"]["strategy"]);
    let page = fs::read_to_string(scene.path("run/report.html")).unwrap();
    check_page(&page);
    assert!(page.contains("id=\"search\""));
    assert!(page.contains("refit tune ") && page.contains("--search lr,ema"), "{page}");
    // The folder is a run as any other.
    scene.run("report run --out again.html").exits(0);
    assert_eq!(fs::read_to_string(scene.path("again.html")).unwrap(), page);
    scene.run("train --resume run").exits(0);
    scene.run("predict run/model.safetensors photos/red").exits(0);
    let taken = scene.run(&format!("{TUNE} run")).refused();
    assert!(taken.contains("already holds a run"), "{taken}");
}

#[test]
fn a_killed_search_goes_on() {
    let scene = Scene::with_photos(6);
    scene.run(&format!("{TUNE} whole --no-train")).exits(0);
    let mut child = scene.program(REFIT);
    child.args(TUNE.split_whitespace()).arg("killed");
    let mut child = child.stderr(Stdio::null()).spawn().unwrap();
    wait_for(&scene.path("killed/trials.jsonl"));
    child.kill().unwrap();
    child.wait().unwrap();
    let said = scene.run("train --resume killed").refused();
    assert_snapshot!("tune-goes-on", said);
    let said = scene.run("tune --resume killed --no-train").exits(0);
    assert!(
        said.stderr.ends_with("best settings: refit tune --resume killed\n"),
        "{}",
        said.stderr
    );
    let journal = |run: &str| -> Vec<String> {
        let text = fs::read_to_string(scene.path(run).join("trials.jsonl")).unwrap();
        let without_time = |line: &str| {
            let (before, after) = line.split_once(",\"seconds\":").unwrap();
            format!("{before}{}", after.split_once(',').unwrap().1)
        };
        text.lines().map(without_time).collect()
    };
    assert_eq!(journal("whole"), journal("killed"));
    scene.run("tune --resume killed").exits(0);
    assert!(scene.path("killed/report.html").is_file());
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let scene = Scene::with_photos(4);
    let mut said = String::new();
    for flags in [
        "photos --search magic",
        "photos --search lr,ema --lr 0.01",
        "photos --lr 0.01 --lowest-rate 1 --optimizer sgd --weight-decay 0 --label-smoothing 0 \
         --augment none --ema 0 --unfreeze-from all",
        "photos --unfreeze-from blocks.99",
        "photos --trials 0",
        "photos --lr 2",
        "photos --augment wild",
        "nowhere",
        "--resume nowhere",
        "--resume nowhere --trials 4",
    ] {
        said +=
            &format!("$ refit tune {flags}\n{}\n", scene.run(&format!("tune {flags}")).refused());
    }
    assert_snapshot!("tune-refused", steady(&said));
    assert!(!scene.path("refit-runs").exists());
    scene.write("run/search.toml", "trials = 3");
    assert_snapshot!("tune-damaged", scene.run("tune --resume run").refused());
}
