//! `train` and `evaluate`, from images to a judged model.

use std::fs;

use insta::assert_snapshot;

use crate::images::{bmp, jpeg, png_bomb};
use crate::resume::last_lines;
use crate::scene::{Scene, steady, trained};

#[test]
fn training_writes_a_run_and_a_summary() {
    let scene = Scene::with_photos(12);
    let said = scene.run("train photos --strategy features --seed 1 --out run").exits(0);
    assert_eq!(said.stdout, "");
    assert_snapshot!("train-summary", steady(&said.stderr));
    for file in ["settings.toml", "log.jsonl", "metrics.json", "model.safetensors"] {
        assert!(scene.path("run").join(file).is_file(), "{file}");
    }
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(scene.path("run/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["val"]["top1"], 1.0);
    assert_eq!(metrics["val"]["interval95"].as_array().unwrap().len(), 2);
    assert_eq!(metrics["images"], 24);
    assert_eq!(metrics["skipped"].as_array().unwrap().len(), 0);
    assert!(metrics["seconds"]["total"].as_f64() >= metrics["seconds"]["features"].as_f64());
}

#[test]
fn without_a_strategy_advice_and_trials_choose_one() {
    let scene = Scene::with_photos(8);
    let said = scene.run("train photos --epochs 2 --batch 4 --out run --json").exits(0);
    let notes = said.stderr.as_str();
    assert!(notes.contains("\nadvice: few images, "), "{notes}");
    assert!(notes.contains("\ntrial of features: "), "{notes}");
    assert!(notes.contains("\nstrategy: "), "{notes}");
    // What goes on inside a trial is not the run's.
    let before = notes.split("\nstrategy: ").next().unwrap();
    assert!(!before.contains("epoch 1/2"), "{notes}");
    let advice: serde_json::Value =
        serde_json::from_slice(&fs::read(scene.path("run/advice.json")).unwrap()).unwrap();
    assert_eq!(advice["chosen"]["strategy"], said.json()["strategy"]);
    assert_eq!(advice["trials"][0]["candidate"], advice["chosen"]);
    let settings = fs::read_to_string(scene.path("run/settings.toml")).unwrap();
    let strategy = advice["chosen"]["strategy"].as_str().unwrap();
    assert!(settings.contains(&format!("strategy = \"{strategy}\"")), "{settings}");
    scene.run("train --resume run").exits(0);

    // An unreadable image is left out of trials too.
    scene.write("photos/red/broken.jpg", "nothing");
    let said = scene.run("train photos --time-budget 1s").exits(0);
    assert_eq!(said.stderr.matches("broken.jpg is left out").count(), 2, "{}", said.stderr);
    assert!(said.stderr.contains("--time-budget allows more"), "{}", said.stderr);
    assert!(scene.path("refit-runs/photos-auto/model.safetensors").is_file());
}

#[test]
fn advice_is_given_in_words_and_in_json() {
    let scene = Scene::with_photos(6);
    let said = scene.run("advise photos").exits(0).stdout;
    for part in ["Similarity, from the stem up", "Features", "What this says", "Advice: few images"]
    {
        assert!(said.contains(part), "{said}");
    }
    let advice = scene.run("advise photos --json").exits(0).json();
    assert_eq!(advice["backbone"], "efficientnet_lite0");
    assert_eq!(advice["similarity"]["divergence"].as_array().unwrap().len(), 7);
    assert_eq!(advice["amount"]["by_class"], serde_json::json!([5, 5]));
    let missing = scene.run("advise nowhere").refused();
    assert!(missing.starts_with("error: ") && missing.contains("nowhere"), "{missing}");
}

#[test]
fn strategies_are_compared_on_the_same_images() {
    let scene = Scene::with_photos(8);
    let compare = "compare photos --epochs 1 --strategies";
    let said = scene.run(&format!("{compare} features,partial,as-is --json")).exits(0);
    assert!(said.stderr.contains("as-is is left out: "), "{}", said.stderr);
    let found = said.json();
    let contestants = found["contestants"].as_array().unwrap();
    assert_eq!((contestants.len(), found["judged_on"].as_str()), (2, Some("validation")));
    assert_eq!(found["left_out"][0]["strategy"], "as-is");
    assert!(contestants[0]["p_value"].is_null() && contestants[1]["p_value"].is_number());
    let samples = &contestants[0]["metrics"]["samples"];
    assert_eq!(samples, &contestants[1]["metrics"]["samples"]);
    let words = scene.run(&format!("{compare} features")).exits(0).stdout;
    assert!(words.contains("judged on 4 validation images; efficientnet_lite0"), "{words}");
    assert!(!scene.path("refit-runs").exists());
    let refused = scene.run(&format!("{compare} magic")).refused();
    assert!(refused.contains("no strategy `magic`"), "{refused}");
    let layer = scene.run("compare photos --unfreeze-from blocks.99").refused();
    assert!(layer.contains("blocks.99"), "{layer}");
}

#[test]
fn the_report_is_one_json_object_on_stdout() {
    let scene = Scene::with_photos(6);
    let said = scene.run("train photos --strategy features --json --out run --threads 1").exits(0);
    assert_eq!(said.stdout.lines().count(), 1);
    let report = said.json();
    assert_eq!(report["strategy"], "features");
    assert_eq!(report["classes"], serde_json::json!(["blue", "red"]));
    let file = fs::read(scene.path("run/metrics.json")).unwrap();
    assert_eq!(report, serde_json::from_slice::<serde_json::Value>(&file).unwrap());
}

#[test]
fn runs_get_folders_of_their_own() {
    let scene = Scene::with_photos(4);
    for folder in ["refit-runs/photos-features", "refit-runs/photos-features-2"] {
        let said = scene.run("train photos/ --strategy features").exits(0);
        assert!(scene.path(folder).join("model.safetensors").is_file(), "{folder}");
        let command = format!("refit predict {folder}/model.safetensors IMAGE...");
        assert!(said.stderr.contains(&command), "{}", said.stderr);
    }
}

#[test]
fn flags_reach_the_settings() {
    let scene = Scene::with_photos(4);
    let flags = "--strategy partial --unfreeze-from conv_head --epochs 1 --batch 4 --lr 0.002 \
                 --seed 7 --optimizer sgd --weight-decay 0.01 --label-smoothing 0 --warmup 0.2 \
                 --clip 2.5 --patience 3 --augment none --norms batch --balance classes \
                 --time-budget 1h --val-fraction 0.25";
    scene.run(&format!("train photos --out run {flags}")).exits(0);
    let settings = fs::read_to_string(scene.path("run/settings.toml")).unwrap();
    let settings = settings.replace(&*scene.path("").to_string_lossy(), "[dir]/");
    assert_snapshot!("settings", settings);
    let log = fs::read_to_string(scene.path("run/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 1);
}

#[test]
fn levers_reach_the_settings() {
    let scene = Scene::with_photos(4);
    let flags = "--strategy partial --unfreeze-from conv_head --epochs 1 --batch auto --lr auto \
                 --lowest-rate 0.5 --focal 1.5 --dropout 0.4 --balance logits --augment none";
    let said = scene.run(&format!("train photos --out run {flags}")).exits(0).stderr;
    assert!(said.contains("batch 8: 6 training images give 1 step an epoch"), "{said}");
    let settings: toml::Table =
        toml::from_str(&fs::read_to_string(scene.path("run/settings.toml")).unwrap()).unwrap();
    let training = settings["training"].as_table().unwrap();
    assert_eq!(settings["balance"].as_str(), Some("logits"));
    let edit = &settings["edits"].as_array().unwrap()[0]["change_dropout"];
    assert_eq!(edit["layers"].as_str(), Some("*"));
    assert!((edit["to"].as_float().unwrap() - 0.4).abs() < 1e-6);
    assert_eq!(training["batch"].as_integer(), Some(8));
    let number = |name: &str| training[name].as_float().unwrap();
    assert_eq!((number("focal"), number("lowest-rate")), (1.5, 0.5));
    assert!(!training.contains_key("find-learning-rate") && !training.contains_key("find-batch"));
    let search = fs::read(scene.path("run/lr.json")).unwrap();
    let search: serde_json::Value = serde_json::from_slice(&search).unwrap();
    assert_eq!(search["rate"].as_f64(), Some(number("learning-rate")));
    let page = fs::read_to_string(scene.path("run/report.html")).unwrap();
    assert!(page.contains("id=\"rate\"") && page.contains("found: "));
    // The page says how to make it again without a search.
    assert!(page.contains(&format!("--lr {}", number("learning-rate"))));
}

#[test]
fn levers_without_anything_to_move_are_refused() {
    let scene = Scene::with_photos(3);
    let mut refused = String::new();
    for flags in [
        "--strategy features --lr auto",
        "--strategy as-is --lr auto",
        "--strategy features --dropout 0.5",
        "--strategy fine-tune --drop-path 0.1",
        "--strategy fine-tune --dropout 1",
        "--strategy fine-tune --lr fast",
        "--strategy fine-tune --batch some",
        "--strategy fine-tune --focal 11",
        "--strategy fine-tune --lowest-rate 0",
    ] {
        refused += &format!("{flags}\n{}", scene.run(&format!("train photos {flags}")).refused());
    }
    assert_snapshot!("train-levers-refused", refused);
    assert!(!scene.path("refit-runs").exists());
}

#[test]
fn flags_that_do_nothing_are_said_to() {
    let scene = Scene::with_photos(4);
    let said = scene.run("train photos --strategy features --out run --epochs 5 --lr 0.1").exits(0);
    assert!(
        said.stderr.contains(
            "warning: --epochs, --lr do nothing here: a linear head is solved for, not trained"
        ),
        "{}",
        said.stderr
    );
}

#[test]
fn heads_keep_the_rows_of_classes_that_stay() {
    let model = trained().path("run/model.safetensors");
    let scene = Scene::with_photos(6);
    fs::copy(&model, scene.path("old.safetensors")).unwrap();
    fs::rename(scene.path("photos/blue"), scene.path("photos/Sky")).unwrap();
    for i in 0..6 {
        scene.write(&format!("photos/BLUE/{i}.bmp"), bmp(40, [20, 50, 170], i));
    }
    let train =
        "train photos --strategy features --weights old.safetensors --keep-classes --seed 1";
    let said = scene.run(&format!("{train} --epochs 4 --out run")).exits(0);
    let kept = "\nhead: kept the rows of 2 of 3 classes: `BLUE`, `red`; the others are new\n";
    assert!(said.stderr.contains(kept), "{}", said.stderr);
    // What only steps heed is heeded.
    assert!(said.stderr.contains("\nepoch 4/4: "), "{}", said.stderr);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    let settings = fs::read_to_string(scene.path("run/settings.toml")).unwrap();
    assert!(settings.contains("keep-classes = true"), "{settings}");

    let mut refused = String::new();
    for flags in ["--strategy scratch", "--strategy as-is", "--head mlp:8"] {
        refused += &scene.run(&format!("train photos --keep-classes {flags}")).refused();
    }
    for (old, new) in [("red", "ruby"), ("BLUE", "navy")] {
        let path = |class| scene.path("photos").join(class);
        fs::rename(path(old), path(new)).unwrap();
    }
    refused += last_lines(&scene.run(train).refused());
    assert_snapshot!("train-keep-classes-refused", refused);
}

#[test]
fn a_hidden_layer_can_be_trained() {
    let scene = Scene::with_photos(6);
    let report = scene
        .run("train photos --strategy features --head mlp:16 --epochs 3 --views 2 --json --out run")
        .exits(0);
    assert!(report.json()["val"]["top1"].as_f64() >= Some(0.5));
}

#[test]
fn broken_images_are_named_and_left_out_or_stop_the_run() {
    let scene = Scene::with_photos(6);
    scene.write("photos/red/bomb.png", png_bomb());
    scene.write("photos/red/cut.jpg", &jpeg()[..300]);
    scene.write("photos/red/empty.jpg", "");
    scene.write("photos/blue/text.jpg", "Dear diary, this is no picture.\n");
    scene.write("photos/blue/whole.jpg", jpeg());
    let said = scene.run("train photos --strategy features --out run --json").exits(0);
    assert_snapshot!("train-broken", steady(&said.stderr));
    let report = said.json();
    assert_eq!(report["images"], 13);
    assert_eq!(report["skipped"].as_array().unwrap().len(), 4);
    let refused = scene.run("train photos --strategy features --out strict --strict").refused();
    assert_snapshot!("train-strict", steady(&refused));
    assert!(!scene.path("strict/model.safetensors").exists());
}

#[test]
fn a_model_is_judged_on_other_images() {
    let scene = trained();
    let said = scene.run("evaluate run/model.safetensors photos").exits(0);
    assert_snapshot!("evaluate", said.stdout);
    let json = scene.run("evaluate run/model.safetensors photos --json").exits(0).json();
    assert_eq!(json["samples"], 24);
    assert_eq!(json["top1"], 1.0);
    assert_eq!(json["confusion"], serde_json::json!([[12, 0], [0, 12]]));
}

#[test]
fn evaluation_says_what_is_taken_for_what() {
    let scene = trained();
    let other = Scene::new();
    for i in 0..3 {
        other.write(&format!("mixed/red/{i}.bmp"), bmp(40, [20, 50, 170], i));
        other.write(&format!("mixed/blue/{i}.bmp"), bmp(40, [20, 50, 170], 10 + i));
    }
    let model = scene.path("run/model.safetensors");
    let said = other.refit(["evaluate".as_ref(), model.as_os_str(), "mixed".as_ref()]).exits(0);
    let lines: Vec<&str> = said.stdout.lines().filter(|l| !l.starts_with("loss")).collect();
    assert_snapshot!("evaluate-confused", lines.join("\n"));
}

#[test]
fn classes_that_the_model_does_not_know_are_refused() {
    let other = Scene::new();
    other.write("data/red/1.bmp", bmp(8, [0; 3], 1));
    other.write("data/green/1.bmp", bmp(8, [0; 3], 2));
    let model = trained().path("run/model.safetensors");
    let said = other.refit(["evaluate".as_ref(), model.as_os_str(), "data".as_ref()]);
    assert_snapshot!("evaluate-unknown-class", said.refused());
}
