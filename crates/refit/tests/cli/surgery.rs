//! `edit`, recipes, and what `layers` and `embed` tell of several layers.

use std::fs;
use std::io::{Cursor, Read};

use insta::assert_snapshot;

use crate::images::two_classes;
use crate::scene::Scene;

/// A network with weights that are made in no time.
const NET: &str = "squeezenet1_1 --random 0";

const RECIPE: &str = r#"
# A smaller one, for five classes.
[[edit]]
remove = { layers = "features.12" }

[[edit]]
insert = { after = "features.5", layer = { dropout = { share = 0.25 } } }

[[edit]]
insert.after = "features.2"
insert.layer = "batch_norm"
insert.name = "norm"

[[edit]]
change_pooling = { to = "avg", layers = "features.8" }

[[edit]]
replace_head = { classes = 5 }

[[edit]]
freeze_body = {}

[[edit]]
unfreeze = { layers = "norm" }
"#;

#[test]
fn edits_are_told_and_written() {
    let scene = Scene::new();
    scene.write("edits.toml", RECIPE);
    let command =
        format!("edit {NET} --recipe edits.toml --rename features.0=stem --out new.safetensors");
    let said = scene.run(&command).exits(0);
    assert_snapshot!("edit", said.stdout);
    assert_snapshot!("edit-summary", said.stderr);
    let json = scene.run("layers new.safetensors --json").exits(0).json();
    let layers = json["layers"].as_array().unwrap();
    let layer = |name: &str| layers.iter().find(|l| l["name"] == name).unwrap();
    assert_eq!((&layer("stem")["frozen"], &layer("norm")["frozen"]), (&true.into(), &false.into()));
    assert_eq!(json["head"], "classifier");
    assert_eq!(layers.last().unwrap()["shape"], serde_json::json!([5]));
    let card = scene.run("info new.safetensors --json").exits(0).json();
    assert_eq!(card["card"]["classes"], serde_json::json!(["0", "1", "2", "3", "4"]));
    let again = scene.run(&command.replace("new.safe", "again.safe")).exits(0);
    assert_eq!(again.stdout, said.stdout);
    let bytes = |name| fs::read(scene.path(name)).unwrap();
    assert_eq!(bytes("new.safetensors"), bytes("again.safetensors"));
}

#[test]
fn a_recipe_keeps_rows_of_the_head() {
    let scene = Scene::new();
    let recipe = |row: usize| {
        format!("[[edit]]\nreplace_head = {{ classes = 3, keep = [[{row}, 0], [17, 2]] }}\n")
    };
    scene.write("keep.toml", recipe(999));
    let said = scene.run(&format!("edit {NET} --recipe keep.toml")).exits(0);
    assert_snapshot!("edit-keep", said.stdout);
    scene.write("keep.toml", recipe(1000));
    assert_snapshot!(
        "edit-keep-refused",
        scene.run(&format!("edit {NET} --recipe keep.toml")).refused()
    );
}

#[test]
fn flags_are_edits_in_their_order() {
    let scene = Scene::new();
    let last = |flags: &str| {
        let said = scene.run(&format!("edit {NET} {flags}")).exits(0).stdout;
        said.lines().last().unwrap_or_default().to_owned()
    };
    assert_snapshot!(
        "edit-order",
        [
            last("--freeze features.0 --unfreeze *"),
            last("--unfreeze * --freeze features.0"),
            last("--insert features.2=conv:64,kernel=1,name=mix --freeze mix"),
        ]
        .join("\n")
    );
}

#[test]
fn wrong_recipes_and_edits_say_where_and_what_fits() {
    let scene = Scene::new();
    let mut said = String::new();
    for (right, wrong) in [
        ("remove", "rmove"),
        ("share", "shaer"),
        ("\"batch_norm\"", "\"batch_nrom\""),
        ("after = \"features.5\"", "after = \"faetures.5\""),
        ("layers = \"features.12\"", "layers = \"features.3.cat\""),
        ("freeze_body = {}", "freeze_body = 3"),
        (
            "replace_head = { classes = 5 }",
            "replace_head = { classes = 5 }\ncut_at = { layer = \"norm\" }",
        ),
        ("[[edit]]", "[[edits]]"),
        (RECIPE, "# nothing yet"),
        (RECIPE, "[[edit]\n"),
    ] {
        scene.write("wrong.toml", RECIPE.replace(right, wrong));
        said +=
            &scene.run(&format!("edit {NET} --recipe wrong.toml --out x.safetensors")).refused();
    }
    for flags in [
        "--remove features.3.cat",
        "--insert features.2=flatten",
        "--insert features.2=cnov:3",
        "--activation rleu",
        "--pooling classifier.1=max",
        "--recipe gone.toml",
        "",
    ] {
        said += &scene.run(&format!("edit {NET} {flags}")).refused();
    }
    assert_snapshot!("edit-refused", said);
    assert!(!scene.path("x.safetensors").exists());
}

#[test]
fn training_takes_a_recipe() {
    let scene = Scene::with_photos(2);
    scene.write("wrong.toml", "[[edit]]\nremove = { layers = \"blocks.99\" }\n");
    let train = "train photos --recipe wrong.toml";
    assert_snapshot!("train-recipe-wrong", scene.run(train).refused());
    let idle = scene.run(&format!("{train} --strategy as-is")).refused();
    assert!(idle.starts_with("error: --recipe does nothing with --strategy as-is"), "{idle}");
}

#[test]
fn what_a_recipe_freezes_stays_frozen_in_training() {
    let scene = Scene::with_photos(4);
    let recipe =
        "[[edit]]\ncut_at.layer = \"blocks.0\"\n[[edit]]\nfreeze.layers = \"blocks.0.0.conv_dw\"\n";
    scene.write("cut.toml", recipe);
    let train = "train photos --recipe cut.toml --strategy fine-tune --epochs 1 --out run";
    scene.run(train).exits(0);
    let json = scene.run("layers run/model.safetensors --json").exits(0).json();
    let frozen: Vec<&str> = json["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|l| l["frozen"] == true)
        .map(|l| l["name"].as_str().unwrap())
        .collect();
    assert_eq!(frozen, ["blocks.0.0.conv_dw"]);
    assert_eq!(json["head"], "head");
    assert!(fs::read_to_string(scene.path("run/settings.toml")).unwrap().contains("[[edits]]"));
}

#[test]
fn a_cut_network_gives_features_of_several_layers() {
    let scene = Scene::new();
    two_classes(&scene.path("photos"), 1);
    scene.run(&format!("edit {NET} --cut-at features.3 --out cut.safetensors")).exits(0);
    let refused = scene.run("predict cut.safetensors photos").refused();
    assert_snapshot!("predict-features", refused);
    assert_eq!(scene.run("evaluate cut.safetensors photos").refused(), refused);

    let embed = |more: &str| scene.run(&format!("embed cut.safetensors photos {more}"));
    let both = "--at features.3 --at features.2";
    let said = embed(&format!("{both} --out f.npz")).exits(0).stderr;
    assert!(
        said.ends_with("2 images, 64 + 128 features each: f.npz and f.npz.paths.txt\n"),
        "{said}"
    );
    embed(&format!("{both} --out f.csv")).exits(0);
    embed("--at features.2 --out one.npy").exits(0);
    assert_snapshot!("embed-one-array", embed(&format!("{both} --out f.npy")).refused());
    let twice = embed("--at features.3 --at features.3.cat --out f.npz").refused();
    assert!(twice.contains("are one layer"), "{twice}");

    let array = |bytes: &[u8]| {
        let file = npyz::NpyFile::new(bytes).unwrap();
        (file.shape().to_vec(), file.into_vec::<f32>().unwrap())
    };
    let mut archive =
        zip::ZipArchive::new(Cursor::new(fs::read(scene.path("f.npz")).unwrap())).unwrap();
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        array(&bytes)
    };
    let (first, second) = (read("features.2.npy"), read("features.3.npy"));
    assert_eq!((&*first.0, &*second.0), (&[2, 64][..], &[2, 128][..]));
    assert_eq!(first, array(&fs::read(scene.path("one.npy")).unwrap()));
    let mut csv = csv::Reader::from_path(scene.path("f.csv")).unwrap();
    let header = csv.headers().unwrap().clone();
    assert_eq!((&header[1], &header[65], header.len()), ("features.2.f0", "features.3.f0", 193));
    let row = csv.records().next().unwrap().unwrap();
    let numbers: Vec<f32> = row.iter().skip(1).map(|n| n.parse().unwrap()).collect();
    assert_eq!(numbers, [&first.1[..64], &second.1[..128]].concat());
}

#[test]
fn networks_are_listed_as_trees_and_drawn() {
    let scene = Scene::new();
    assert_snapshot!("layers-tree", scene.run("layers googlenet --tree=1").exits(0).stdout);
    let whole = scene.run("layers squeezenet1_1 --tree").exits(0).stdout;
    assert!(whole.contains("│  ├─ 3"), "{whole}");
    scene.run("layers lenet5 --graph net.svg").exits(0);
    scene.run("layers lenet5 --graph net.dot").exits(0);
    assert_snapshot!("layers-dot", fs::read_to_string(scene.path("net.dot")).unwrap());
    assert!(fs::read_to_string(scene.path("net.svg")).unwrap().contains("</svg>"));
    assert_snapshot!("layers-graph-format", scene.run("layers lenet5 --graph net.pdf").refused());
}
