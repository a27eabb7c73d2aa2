//! `explain`: heat maps, and what has none.

use std::fs;

use crate::resume::last_lines;
use crate::scene::{Scene, trained};

const MODEL: &str = "run/model.safetensors";

#[test]
fn an_image_is_shown_under_what_speaks_for_its_class() {
    let scene = trained();
    let explain = format!("explain {MODEL} photos/red/00.bmp --out");
    let said = scene.run(&format!("{explain} heat.png")).exits(0);
    assert!(said.stdout.starts_with("red  ") && said.stdout.ends_with("%\n"), "{}", said.stdout);
    let png = fs::read(scene.path("heat.png")).unwrap();
    // The header says 224 by 224 pixels: what the network sees.
    assert_eq!(png[..8], *b"\x89PNG\r\n\x1a\n");
    assert_eq!(png[16..24], [0, 0, 0, 224, 0, 0, 0, 224]);

    let other = scene.run(&format!("{explain} other.jpg --class blue --json")).exits(0).json();
    assert_eq!(
        (other["class"].as_str(), other["method"].as_str()),
        (Some("blue"), Some("grad-cam"))
    );
    assert!(other["probability"].as_f64().unwrap() < 0.5);
    assert_eq!((&other["map"]["width"], &other["map"]["height"]), (&7.into(), &7.into()));
    assert!(fs::read(scene.path("other.jpg")).unwrap().starts_with(&[0xFF, 0xD8, 0xFF]));

    let block = format!("{explain} block.png --layer blocks.2 --method eigen-cam --json");
    let block = scene.run(&block).exits(0).json();
    assert!(block["layer"].as_str().unwrap().starts_with("blocks.2."), "{block}");
    assert_eq!(block["map"]["width"], 28);
    let values = block["map"]["values"].as_array().unwrap();
    assert!(values.iter().any(|v| v == 1.0) && values.len() == 28 * 28);
}

#[test]
fn what_has_no_heat_map_is_refused() {
    let scene = trained();
    let folder = Scene::new();
    folder.write("broken.jpg", "nothing");
    let broken = folder.path("broken.jpg");
    let mut said = String::new();
    let fixed = [
        "--class green",
        "--layer blocks.9",
        "--layer classifier",
        "--method eigen-cam --class red",
    ];
    for flags in fixed {
        let command = format!("explain {MODEL} photos/red/00.bmp --out x.png {flags}");
        said += &format!("$ {flags}\n{}\n", last_lines(&scene.run(&command).refused()));
    }
    for (image, out) in [("photos/red/00.bmp", "x.gif"), ("gone.jpg", "x.png")] {
        let command = format!("explain {MODEL} {image} --out {out}");
        said += &format!("$ {image} {out}\n{}\n", last_lines(&scene.run(&command).refused()));
    }
    let command = format!("explain {MODEL} {} --out x.png", broken.display());
    let refused = scene.run(&command).refused().replace(&*broken.to_string_lossy(), "broken.jpg");
    said += &format!("$ broken.jpg\n{}", last_lines(&refused));
    insta::assert_snapshot!("explain-refused", said);
    assert!(!scene.path("x.png").exists());
}
