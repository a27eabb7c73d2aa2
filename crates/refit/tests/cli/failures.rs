//! What users see when something is wrong.

use std::fs;

use insta::assert_snapshot;

use crate::images::bmp;
use crate::resume::last_lines;
use crate::scene::{Scene, small_safetensors, trained};

#[test]
fn folders_from_which_nothing_can_be_learned() {
    let scene = Scene::new();
    fs::create_dir(scene.path("empty")).unwrap();
    scene.write("one/cat/1.bmp", bmp(8, [0; 3], 1));
    scene.write("loose/1.bmp", bmp(8, [0; 3], 1));
    scene.write("file.txt", "");
    for name in ["empty", "one", "loose", "file.txt", "gone"] {
        assert_snapshot!(format!("data-{name}"), scene.run(&format!("train {name}")).refused());
    }
    assert!(!scene.path("refit-runs").exists());
}

#[test]
fn tables_that_name_missing_files() {
    let scene = Scene::new();
    scene.write("here.bmp", bmp(8, [0; 3], 1));
    scene.write("list.csv", "path,label\nhere.bmp,a\ngone.jpg,b\nlost.jpg,a\n");
    assert_snapshot!("csv-missing", scene.run("train list.csv").refused());
    scene.write("columns.csv", "file,class\nhere.bmp,a\n");
    assert_snapshot!("csv-columns", scene.run("train columns.csv").refused());
}

#[test]
fn weights_of_another_architecture() {
    let scene = Scene::with_photos(3);
    scene.write("other.safetensors", small_safetensors("encoder.0.weight", &[2, 3]));
    let train = "train photos --strategy features --backbone resnet18 --weights";
    assert_snapshot!(
        "weights-other",
        last_lines(&scene.run(&format!("{train} other.safetensors")).refused())
    );
    assert_snapshot!(
        "weights-none",
        last_lines(&scene.run("train photos --strategy features --backbone resnet18").refused())
    );
    assert_snapshot!(
        "weights-gone",
        last_lines(&scene.run(&format!("{train} gone.pth")).refused())
    );
    assert_snapshot!("model-bare", scene.run("predict other.safetensors photos").refused());
    assert!(!scene.path("refit-runs").exists());
}

#[test]
fn files_that_are_cut_or_hostile() {
    let scene = Scene::new();
    let model = fs::read(trained().path("run/model.safetensors")).unwrap();
    scene.write("cut.safetensors", &model[..model.len() / 2]);
    scene.write("header.safetensors", &model[..100]);
    let mut hostile = u64::MAX.to_le_bytes().to_vec();
    hostile.extend(b"{}");
    scene.write("hostile.safetensors", hostile);
    let mut overlong = small_safetensors("a", &[2]);
    overlong.truncate(overlong.len() - 4);
    scene.write("short.safetensors", overlong);
    scene.write("text.safetensors", "This is no model at all, but a text.");
    scene.write("empty.safetensors", "");
    scene.write("x.bmp", bmp(8, [0; 3], 1));
    for name in ["cut", "header", "hostile", "short", "text", "empty"] {
        for command in ["info", "predict"] {
            let image = if command == "predict" { " x.bmp" } else { "" };
            let said = scene.run(&format!("{command} {name}.safetensors{image}")).refused();
            // A model's length depends on the digits of its metrics.
            let header = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize + 8;
            let lengths =
                [("[whole]", model.len()), ("[half]", model.len() / 2), ("[header]", header)];
            let said = lengths.iter().fold(said, |s, (name, n)| s.replace(&n.to_string(), name));
            assert_snapshot!(format!("file-{name}"), said);
        }
    }
}

#[test]
fn a_job_without_readable_images() {
    let scene = Scene::new();
    scene.write("broken/a/one.jpg", "no picture");
    let said = scene.run("bench efficientnet_lite0 --job broken").refused();
    assert!(said.contains("none of the 1 images can be read"), "{said}");
}

#[test]
fn a_malicious_pickle_runs_no_code() {
    let scene = Scene::with_photos(3);
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../refit-net/tests/golden/containers/");
    for name in ["malicious.pth", "malicious_legacy.pth"] {
        fs::copy(format!("{golden}{name}"), scene.path(name)).unwrap();
        assert_snapshot!(format!("pickle-{name}"), scene.run(&format!("info {name}")).refused());
        scene
            .run(&format!("train photos --strategy features --backbone resnet18 --weights {name}"))
            .refused();
        assert!(!scene.path("pwned").exists());
    }
}

/// The number before `bytes` replaced; it must be one.
#[cfg(target_os = "linux")]
fn without_length(said: &str) -> String {
    let (before, rest) = said.split_once("more than ").unwrap();
    let (length, after) = rest.split_once(" bytes").unwrap();
    assert!(length.parse::<usize>().unwrap() > 100_000, "{said}");
    format!("{before}more than [n] bytes{after}")
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk() {
    let scene = trained();
    let other = Scene::new();
    for name in ["f.npy", "f.csv", "f.parquet"] {
        let target = other.path(name);
        std::os::unix::fs::symlink("/dev/full", &target).unwrap();
        let command = format!("embed run/model.safetensors photos --out {}", target.display());
        let said = scene.run(&command).refused();
        let said = last_lines(&said).replace(&*target.to_string_lossy(), name);
        // A CSV's length hangs on digits that differ by the CPU's vectors.
        let said = if name == "f.csv" { without_length(&said) } else { said };
        assert_snapshot!(format!("full-{name}"), said);
    }
    // No file may grow past 4 MB: as good as full. What was there before stays.
    let scene = Scene::with_photos(3);
    scene.write("keep/model.safetensors", "the old model");
    let said = scene.bash(
        "trap '' XFSZ; ulimit -f 4096; exec $REFIT train photos --strategy features --out keep",
    );
    assert_snapshot!("full-train", last_lines(&said.refused()));
    assert_eq!(fs::read(scene.path("keep/model.safetensors")).unwrap(), b"the old model");
    // With room again, the run goes on.
    scene.run("train --resume keep").exits(0);
    scene.run("info keep/model.safetensors").exits(0);
}

#[test]
fn places_that_cannot_be_written() {
    let scene = trained();
    let said = scene.run("embed run/model.safetensors photos --out gone/f.npy").refused();
    assert_snapshot!("out-no-folder", last_lines(&said));
    let said = scene.run("embed run/model.safetensors photos --out f.txt").refused();
    assert_snapshot!("out-no-format", last_lines(&said));
    let said = scene.run("train photos --strategy features --out run").refused();
    assert_snapshot!("out-exists", last_lines(&said));
    let said = scene.run("train photos --strategy features --out photos/red/00.bmp").refused();
    assert_snapshot!("out-file", last_lines(&said));
}

#[test]
#[cfg(target_os = "linux")]
fn places_that_may_not_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::with_photos(3);
    let locked = scene.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(locked.join("x"), "").is_ok() {
        eprintln!("not tested: this user may write anywhere");
        return;
    }
    let said = scene.run("train photos --strategy features --out locked/run").refused();
    assert_snapshot!(last_lines(&said), @r"
    error: cannot make locked/run/checkpoints: Permission denied (os error 13)
    hint: choose a folder that may be written, with --out DIR
    ");
}

#[test]
fn flags_that_are_wrong() {
    let scene = Scene::with_photos(3);
    let mut said = String::new();
    for command in [
        "train photos --strategy finetune",
        "train photos --time-budget 10",
        "train photos --head cubic",
        "train photos --lr 7",
        "train photos --val-fraction 1.5",
        "train photos --val photos --val-fraction 0.2",
        "train photos --backbone resnet19",
        "train photos --strategy partial",
        "train photos --strategy partial --unfreeze-from blocks.9",
        "train photos --unfreeze-from blocks.5",
        "train photos --device cuda",
        "train",
        "predict efficientnet_lite0",
        "predict efficientnet_lite0 photos --top 0",
        "predict efficient_lite0 photos",
        "predict gone.safetensors photos",
        "predict resnet18 photos",
        "run resnet18 --input x.npy --output y.npy",
        "layers resnet180",
        "layers photos/red/00.bmp --random 1",
        "embed efficientnet_lite0 photos --out f.npy --at block.1",
        "train photos --precision f16",
        "predict efficientnet_lite0 photos --precision half",
        "bench efficientnet_lite0 --precision f16",
        "bench efficientnet_lite0 --threads 0",
        "paint photos",
    ] {
        said += &format!("$ refit {command}\n{}\n", last_lines(&scene.run(command).refused()));
    }
    assert_snapshot!("flags", said);
    assert!(!scene.path("refit-runs").exists());
}

#[test]
fn classes_that_the_pretrained_network_does_not_have() {
    let said = Scene::with_photos(2).run("train photos --strategy as-is").refused();
    assert_snapshot!("as-is-foreign", last_lines(&said));
}
