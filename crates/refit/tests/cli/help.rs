//! Help, as it stands in a terminal of 80 columns.

use insta::assert_snapshot;

use crate::scene::Scene;

#[test]
fn every_command_explains_itself() {
    let scene = Scene::new();
    assert_snapshot!("help", scene.run("--help").exits(0).stdout);
    for command in [
        "train",
        "advise",
        "tune",
        "distill",
        "augment",
        "compare",
        "predict",
        "evaluate",
        "explain",
        "report",
        "embed",
        "index",
        "index build",
        "index query",
        "index add",
        "index remove",
        "index info",
        "index evaluate",
        "dedup",
        "doctor",
        "run",
        "export",
        "import",
        "layers",
        "edit",
        "models",
        "pull",
        "info",
        "bench",
    ] {
        let help = scene.run(&format!("{command} --help")).exits(0).stdout;
        assert!(help.contains("Examples:"), "{command}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{command}");
        assert_snapshot!(format!("help-{}", command.replace(' ', "-")), help);
    }
}

#[test]
fn without_a_command_help_is_shown_as_a_mistake() {
    let said = Scene::new().run("").exits(1);
    assert!(said.stderr.contains("Usage: refit"), "{}", said.stderr);
    assert_eq!(said.stdout, "");
}

#[test]
fn the_version_is_told() {
    let said = Scene::new().run("--version").exits(0);
    assert_eq!(said.stdout, concat!("refit ", env!("CARGO_PKG_VERSION"), "\n"));
}
