//! `refit index` and `refit dedup`.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use insta::assert_snapshot;

use crate::images::bmp;
use crate::resume::last_lines;
use crate::scene::{REFIT, Scene};

/// A scene with an index of its photos.
fn indexed(count: usize) -> Scene {
    let scene = Scene::with_photos(count);
    scene.run("index build photos --out photos.index").exits(0);
    scene
}

fn last_line(said: &str) -> &str {
    said.lines().last().unwrap()
}

#[test]
fn an_image_finds_itself_and_its_kind() {
    let scene = indexed(6);
    let said =
        scene.run("index query photos.index photos/red/00.bmp --top 4 --format jsonl").exits(0);
    let found = said.json();
    assert_eq!(found["path"], "photos/red/00.bmp");
    let found = found["found"].as_array().unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(found[0]["path"], "photos/red/00.bmp");
    assert!(found[0]["similarity"].as_f64().unwrap() > 0.999);
    assert!(found.iter().all(|f| f["label"] == "red"), "{found:?}");
    let said = scene.run("index query photos.index photos/blue --top 1 --format csv").exits(0);
    assert_eq!(said.stdout.lines().count(), 7);
    assert!(
        said.stdout.lines().skip(1).all(|line| line.contains(",1,") && line.contains(",blue,"))
    );
    let said =
        scene.run("index query photos.index photos/red/01.bmp --top 2 --format table").exits(0);
    assert!(said.stdout.starts_with("photos/red/01.bmp\n  1  "), "{}", said.stdout);
    let draw = "index query photos.index photos/red/00.bmp --sheet s.png --html s.html";
    scene.run(draw).exits(0);
    assert!(fs::read(scene.path("s.png")).unwrap().starts_with(b"\x89PNG"));
    let page = fs::read_to_string(scene.path("s.html")).unwrap();
    assert!(page.contains("data:image/jpeg") && page.contains("photos/red/00.bmp"));
}

#[test]
fn images_come_and_go() {
    let scene = indexed(5);
    scene.write("photos/red/new.bmp", bmp(40, [180, 40, 30], 77));
    scene.write("photos/red/00.bmp", bmp(40, [180, 40, 30], 78));
    let said = scene.run("index add photos.index photos").exits(0).stderr;
    assert_snapshot!(last_line(&said), @"1 image added, 1 changed, 9 there already: 11 images in photos.index");
    let said = scene.run("index add photos.index photos").exits(0).stderr;
    assert_snapshot!(last_line(&said), @"0 images added, 0 changed, 11 there already: 11 images in photos.index");
    let said = scene.run("index remove photos.index photos/blue photos/red/01.bmp").exits(0).stderr;
    assert_snapshot!(said, @"6 images removed: 5 images in photos.index");
    fs::remove_file(scene.path("photos/red/new.bmp")).unwrap();
    let said = scene.run("index remove photos.index --missing").exits(0).stderr;
    assert_snapshot!(said, @"1 image removed: 4 images in photos.index");
    let info = scene.run("index info photos.index --json").exits(0).json();
    assert_eq!((info["images"].as_u64(), info["missing"].as_u64()), (Some(4), Some(0)));
    let found = scene.run("index query photos.index photos/blue/00.bmp --top 9").exits(0).json();
    assert_eq!(found["found"].as_array().unwrap().len(), 4);
}

#[test]
fn any_layer_type_and_search_will_do() {
    let scene = Scene::with_photos(8);
    for how in ["--at blocks.2 --type i8", "--search graph --type f32", "--whiten 5"] {
        scene.run(&format!("index build photos --out i {how}")).exits(0);
        let said = scene.run("index evaluate i --top 1,3 --json").exits(0).json();
        assert_eq!(said["queries"], 16, "{how}");
        assert!(said["map"].as_f64().unwrap() > 0.6, "{how}: {said}");
    }
    assert_snapshot!("index-info", scene.run("index info i").exits(0).stdout);
    assert_snapshot!("index-evaluate", scene.run("index evaluate i").exits(0).stdout);
    let other = scene.run("index evaluate i photos/red --json").refused();
    assert_snapshot!("index-evaluate-unlabelled", last_lines(&other));
    let given = scene.run("index evaluate i photos --json").exits(0).json();
    assert_eq!(given["queries"], 16);
}

#[test]
fn a_killed_build_or_addition_leaves_what_was_there() {
    let scene = indexed(5);
    let before = fs::read(scene.path("photos.index")).unwrap();
    fs::create_dir(scene.path("more")).unwrap();
    for i in 0..200 {
        fs::write(scene.path(&format!("more/{i}.bmp")), bmp(60, [90; 3], i)).unwrap();
    }
    for command in ["index build more photos --out photos.index", "index add photos.index more"] {
        for wait in [50, 400, 1500] {
            let mut child = scene.program(REFIT);
            child.args(command.split_whitespace()).stderr(Stdio::null());
            let mut child = child.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            let finished = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            child.wait().unwrap();
            scene.run("index info photos.index").exits(0);
            if !finished {
                scene.run("index query photos.index photos/red/00.bmp --top 1").exits(0);
            }
            fs::write(scene.path("photos.index"), &before).unwrap();
        }
    }
    // An addition that was cut off anywhere before its end is as if it had not been.
    scene.run("index add photos.index more").exits(0);
    let after = fs::read(scene.path("photos.index")).unwrap();
    for length in [before.len() + 1, (before.len() + after.len()) / 2, after.len() - 1] {
        let mut torn = after[..length].to_vec();
        torn[..4096].copy_from_slice(&before[..4096]);
        fs::write(scene.path("photos.index"), torn).unwrap();
        let info = scene.run("index info photos.index --json").exits(0).json();
        assert_eq!(info["images"], 10);
    }
}

#[test]
fn what_cannot_be_used_is_refused() {
    let scene = indexed(4);
    let whole = fs::read(scene.path("photos.index")).unwrap();
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    scene.write("flipped.index", flipped);
    scene.write("cut.index", &whole[..whole.len() - 10]);
    scene.write("text.index", "no index at all");
    scene.write("empty.index", "");
    fs::create_dir(scene.path("empty")).unwrap();
    let mut said = String::new();
    for command in [
        "index query gone.index photos",
        "index query flipped.index photos",
        "index query cut.index photos",
        "index query text.index photos",
        "index info empty.index",
        "index query photos.index gone.jpg",
        "index query photos.index empty",
        "index query photos.index photos --top 0",
        "index query photos.index photos --sheet s.jpg",
        "index query photos.index photos --model resnet18",
        "index query photos.index photos --model gone.safetensors",
        "index build empty --out i",
        "index build photos --out photos/red/00.bmp",
        "index build photos --out gone/i",
        "index build photos --out i --at block.1",
        "index build photos --out i --type f64",
        "index build photos --out i --whiten 0",
        "index build photos --out i --whiten 8",
        "index build photos --out i --search fast",
        "index remove photos.index photos/red/77.bmp",
        "index remove photos.index",
        "index evaluate photos.index empty",
        "dedup empty",
        "dedup gone",
        "dedup photos --html s.png",
    ] {
        said += &format!("$ refit {command}\n{}\n", last_lines(&scene.run(command).refused()));
    }
    assert_snapshot!("index-refused", said);
    assert_eq!(fs::read(scene.path("photos.index")).unwrap(), whole);
}

#[test]
fn another_model_is_refused_by_name() {
    let scene = Scene::with_photos(4);
    for (seed, model) in [(1, "one"), (2, "two")] {
        let train = "train photos --strategy fine-tune --epochs 1 --batch 4";
        scene.run(&format!("{train} --seed {seed} --out {model}")).exits(0);
    }
    scene.run("index build photos --model one/model.safetensors --out i").exits(0);
    scene.run("index query i photos/red/00.bmp").exits(0);
    let said = scene.run("index query i photos --model two/model.safetensors").refused();
    assert_snapshot!("index-other-model", last_lines(&said));
    scene.run("index query i photos --model one/model.safetensors").exits(0);
}

#[test]
fn copies_are_grouped() {
    let scene = Scene::new();
    for (part, seeds) in [("train", 0..6), ("val", 6..9)] {
        for seed in seeds {
            let class = ["red", "blue"][seed % 2];
            scene
                .write(&format!("photos/{part}/{class}/{seed}.bmp"), bmp(48, [90; 3], seed as u64));
        }
    }
    scene.write("photos/val/red/again.bmp", bmp(48, [90; 3], 2));
    scene.write("photos/train/red/once-more.bmp", bmp(48, [90; 3], 4));
    let said = scene.run("dedup photos").exits(0);
    assert_snapshot!("dedup", said.stdout);
    assert_snapshot!(last_line(&said.stderr), @"2 copies among 11 images: 2 groups, 1 of them across splits");
    let across = scene.run("dedup photos --across-splits --json --html c.html").exits(0).json();
    assert_eq!(across["groups"].as_array().unwrap().len(), 1);
    assert_eq!(across["groups"][0]["across_splits"], true);
    assert_eq!(across["groups"][0]["images"][1]["split"], "val");
    assert!(fs::read_to_string(scene.path("c.html")).unwrap().contains("again.bmp"));
}
