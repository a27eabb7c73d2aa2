//! `distill`, from a teacher to a student of another architecture.

use std::fs;

use crate::html::check_page;
use crate::scene::Scene;

#[test]
fn a_student_of_another_architecture_learns_from_a_run() {
    let scene = Scene::with_photos(8);
    scene.run("train photos --strategy features --out teacher --no-report").exits(0);
    let distill = "distill photos --teacher teacher/model.safetensors --student lenet5";
    let said = scene.run(&format!("{distill} --epochs 1 --batch 4 --out run --json")).exits(0);
    for part in ["teacher", "student", "without a teacher", "multiply-adds"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    let found = said.json();
    assert_eq!(found["student"]["network"], "lenet5");
    assert_eq!(found["teachers"][0]["network"], "efficientnet_lite0");
    assert!(found["alone"]["metrics"]["top1"].is_number());
    let page = fs::read_to_string(scene.path("run/report.html")).unwrap();
    check_page(&page);
    assert!(page.contains("id=\"distillation\"") && page.contains("refit distill "), "{page}");
    scene.run("predict run/model.safetensors photos/red").exits(0);
    scene.run("distill --resume run --no-report").exits(0);
    let taken = scene.run(&format!("{distill} --out run")).refused();
    assert!(taken.contains("already holds a run"), "{taken}");
}

#[test]
fn a_student_may_be_no_network() {
    let scene = Scene::with_photos(8);
    scene.run("train photos --strategy features --out teacher --no-report").exits(0);
    let teacher = "--teacher teacher/model.safetensors";
    let distill = format!("distill photos {teacher} --student trees --backbone colours --out run");
    let said = scene.run(&format!("{distill} --json")).exits(0);
    let found = said.json();
    assert_eq!(found["student"]["network"], "colours");
    assert!(found["alone"]["metrics"]["top1"].is_number());
    let page = fs::read_to_string(scene.path("run/report.html")).unwrap();
    check_page(&page);
    assert!(page.contains("--student trees") && page.contains("--backbone colours"), "{page}");
    scene.run("predict run/model.safetensors photos/red").exits(0);
    let hints = scene.run(&format!("{distill}-2 --hints 1")).refused();
    assert!(hints.contains("softened outputs alone"), "{hints}");
}

#[test]
fn images_in_no_class_folders_are_learned_from() {
    let scene = Scene::with_photos(8);
    scene.run("train photos --strategy features --out teacher --no-report").exits(0);
    // All of one class: the teacher knows both.
    fs::create_dir(scene.path("unsorted")).unwrap();
    for file in fs::read_dir(scene.path("photos/red")).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, scene.path("unsorted").join(path.file_name().unwrap())).unwrap();
    }
    let said = scene
        .run(
            "distill unsorted --val photos --teacher teacher/model.safetensors \
             --student lenet5 --epochs 1 --out run",
        )
        .exits(0);
    assert!(said.stderr.contains("8 images without labels"), "{}", said.stderr);
    assert!(said.stderr.contains("without labels the student cannot learn alone"));
    let page = fs::read_to_string(scene.path("run/report.html")).unwrap();
    check_page(&page);
    assert!(page.contains("learned without any labels"), "{page}");
}

#[test]
fn what_is_missing_is_said() {
    let scene = Scene::with_photos(6);
    let student = scene.run("distill photos --teacher efficientnet_lite0").refused();
    assert!(student.contains("--student"), "{student}");
    let classes =
        scene.run("distill photos --teacher efficientnet_lite0 --student lenet5").refused();
    assert!(classes.contains("red"), "{classes}");
    let backbone = scene
        .run("distill photos --teacher efficientnet_lite0 --student lenet5 --backbone hog")
        .refused();
    assert!(backbone.contains("--backbone hog does nothing"), "{backbone}");
    let hint = scene
        .run("distill photos --teacher efficientnet_lite0 --student lenet5 --hints 1 --hint-layers a")
        .refused();
    assert!(hint.contains("layer3=blocks.4"), "{hint}");
}
