//! `compare` and `advise` with several networks, and what they keep.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use refit::{Device, Model, zoo};

use crate::html::check_page;
use crate::scene::{REFIT, Scene};

/// Photos, and random weights of LeNet-5 in `lenet.safetensors`.
fn scene(count: usize) -> Scene {
    let scene = Scene::with_photos(count);
    let lenet = Model::random(zoo::find("lenet5").unwrap(), 0, &Device::flex());
    lenet.save(&scene.path("lenet.safetensors")).unwrap();
    scene
}

#[test]
fn networks_and_strategies_are_compared_and_kept() {
    let scene = scene(8);
    let compare = "compare photos --backbones efficientnet_lite0,lenet5 --weights \
                   lenet5=lenet.safetensors --strategies features,as-is --out kept";
    let found = scene.run(&format!("{compare} --json")).exits(0).json();
    let contestants = found["contestants"].as_array().unwrap();
    let names: Vec<&str> = contestants.iter().map(|c| c["backbone"].as_str().unwrap()).collect();
    assert!(names.contains(&"lenet5") && names.contains(&"efficientnet_lite0"), "{names:?}");
    assert_eq!(found["left_out"].as_array().unwrap().len(), 2);
    for contestant in contestants {
        let folder = scene.path(contestant["folder"].as_str().unwrap());
        for file in ["model.safetensors", "metrics.json", "predictions.csv", "report.html"] {
            assert!(folder.join(file).is_file(), "{}/{file}", folder.display());
        }
        assert!(contestant["model_bytes"].as_u64().unwrap() > 100_000);
        #[cfg(target_os = "linux")]
        assert!(contestant["peak_memory"].as_u64().unwrap() > 10_000_000);
    }
    let page = fs::read_to_string(scene.path("kept/report.html")).unwrap();
    check_page(&page);
    for part in ["lenet5 features", "an image", "memory", "is left out"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let written = fs::read_to_string(scene.path("kept/compare.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), found);

    let again = scene.run(compare).exits(0);
    assert_eq!(again.stderr.matches("taken from").count(), 2, "{}", again.stderr);
    assert!(again.stdout.contains("network"), "{}", again.stdout);
    let refused = scene.run(&format!("{compare} --seed 1")).refused();
    assert!(refused.contains("holds a run with other settings"), "{refused}");
}

#[test]
fn networks_that_cannot_be_told_apart_or_have_no_weights_are_refused() {
    let scene = scene(2);
    let of = |flags: &str| {
        let said = scene.run(&format!("compare photos {flags}")).refused();
        let said = said.lines().filter(|line| !line.contains("classes;"));
        format!("{flags}\n{}\n\n", said.collect::<Vec<_>>().join("\n"))
    };
    let said: String = [
        "--backbones efficientnet_lite0,resnet18",
        "--backbones lenet5,lenet5",
        "--backbones lenet,resnet18",
        "--backbones resnet18,resnet34 --weights lenet.safetensors",
        "--weights lenet.safetensors --weights lenet5=lenet.safetensors",
        "--backbones efficientnet_lite0,lenet5 --weights lenet5=nowhere.pth",
        "--strategies features,features",
        "--strategies magic",
    ]
    .map(of)
    .concat();
    assert_snapshot!("compare-refused", said);
    assert_eq!(scene.run("advise photos --backbone resnet18,lenet5").refused().lines().count(), 3);
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_what_has_ended() {
    let scene = Scene::with_photos(5);
    let mut child = scene.program(REFIT);
    let compare = "compare photos --strategies features,fine-tune,scratch --epochs 60 --out kept";
    child.args(compare.split_whitespace()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("efficientnet_lite0-fine-tune ...")));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:?}");
    assert!(rest.last().unwrap().ends_with("the same command goes on"), "{rest:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("features") && table.contains("scratch is not compared"), "{table}");
    assert!(scene.path("kept/report.html").is_file());
}

#[test]
fn advice_ranks_networks() {
    let scene = scene(6);
    let advise = "advise photos --backbone lenet5,efficientnet_lite0 --weights lenet.safetensors";
    let advice = scene.run(&format!("{advise} --json")).exits(0).json();
    let ranking = advice["ranking"].as_array().unwrap();
    assert_eq!(ranking.len(), 2);
    assert_eq!(ranking[0]["backbone"], advice["backbone"]);
    assert!(ranking[0]["log_me"].as_f64() >= ranking[1]["log_me"].as_f64());
    let said = scene.run(advise).exits(0).stdout;
    for part in ["Networks by the features of their heads", "augmentation: ", "accuracy to expect"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let alone = scene.run("advise photos --val-fraction 0.4 --json").exits(0).json();
    assert!(alone.get("ranking").is_none());
    assert!(alone["conclusion"]["evidence"].as_array().unwrap().len() >= 5);
    let layer = scene.run("advise photos --val photos --val-fraction 0.5").refused();
    assert!(layer.contains("cannot be used with"), "{layer}");
}
