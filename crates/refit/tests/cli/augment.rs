//! Augmentation: what it shows, and what it refuses.

use std::fs;

use insta::assert_snapshot;

use crate::scene::{Scene, trained};

#[test]
fn a_sheet_shows_what_training_sees() {
    let scene = Scene::with_photos(6);
    let draw = "augment photos --images 2 --views 3 --out";
    let said = scene.run(&format!("{draw} strong.png --augment strong")).exits(0);
    assert_snapshot!("augment", said.stdout);
    let read = |name: &str| fs::read(scene.path(name)).unwrap();
    let size =
        |bytes: &[u8]| [16, 20].map(|at| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()));
    assert_eq!(size(&read("strong.png")), [4 * 160 + 4 * 4 + 12, 2 * 160 + 3 * 4]);
    scene.run(&format!("{draw} again.png --augment strong --threads 1")).exits(0);
    assert!(read("strong.png") == read("again.png"));
    scene.run(&format!("{draw} other.png --augment strong --seed 1")).exits(0);
    assert!(read("strong.png") != read("other.png"));
    // Levels and a file of settings.
    scene.write(
        "light.toml",
        "flip = 0.5\n[crop]\nscale = [0.7, 1.0]\nratio = [0.85, 1.1764705882352942]\n",
    );
    for name in ["light", "light.toml", "auto", "standard", "medium"] {
        scene.run(&format!("{draw} {name}.png --augment {name}")).exits(0);
    }
    assert!(read("light.png") == read("light.toml.png") && read("light.png") == read("auto.png"));
    assert!(read("standard.png") == read("medium.png") && read("medium.png") != read("light.png"));
}

#[test]
fn augmentation_that_makes_no_sense_is_refused() {
    let scene = Scene::with_photos(4);
    scene.write("unknown.toml", "flip = 0.5\nflop = 0.5\n");
    scene.write("wrong.toml", "flip = 1.5\n");
    scene.write("idle.toml", "[mix]\nmixup = 0\ncutmix = 0\n");
    scene.write("broken.toml", "flip = \n");
    let mut refused = String::new();
    for level in ["heavy", "unknown.toml", "wrong.toml", "idle.toml", "broken.toml", "none.toml"] {
        refused +=
            &scene.run(&format!("train photos --strategy fine-tune --augment {level}")).refused();
    }
    for arguments in ["augment photos --out sheet.jpg", "augment nowhere --out sheet.png"] {
        refused += &scene.run(arguments).refused();
    }
    assert_snapshot!("augment-refused", refused);
    assert!(!scene.path("refit-runs").exists());
}

#[test]
fn single_settings_reach_the_run() {
    let scene = Scene::with_photos(4);
    scene.write("mine.toml", "policy = \"trivial-augment\"\n[mix]\nmixup = 0.4\n");
    let train = "train photos --strategy scratch --backbone lenet5 --epochs 1 --mirror never";
    scene.run(&format!("{train} --augment mine.toml --out run")).exits(0);
    let settings = fs::read_to_string(scene.path("run/settings.toml")).unwrap();
    for line in
        ["mirror = \"never\"", "policy = \"trivial-augment\"", "mixup = 0.4", "cutmix = 1.0"]
    {
        assert!(settings.contains(line), "{settings}");
    }
    scene.run("train --resume run").exits(0);
}

#[test]
fn several_views_judge_one_image() {
    let scene = trained();
    let model = "run/model.safetensors";
    let judged =
        |flags: &str| scene.run(&format!("evaluate {model} photos --json {flags}")).exits(0);
    let (plain, one) = (judged(""), judged("--tta 1"));
    assert_eq!(plain.stdout, one.stdout);
    let ten = judged("--tta 10").json();
    assert_eq!(ten["samples"], plain.json()["samples"]);
    assert_ne!(ten["loss"], plain.json()["loss"]);
    let predict = format!("predict {model} photos/red/00.bmp --format csv");
    let two = scene.run(&format!("{predict} --tta 2")).exits(0).stdout;
    assert_ne!(two, scene.run(&predict).exits(0).stdout);
    let mut refused = String::new();
    for count in ["0", "11", "many"] {
        refused += &scene.run(&format!("{predict} --tta {count}")).refused();
    }
    assert_snapshot!("tta-refused", refused);
}
