//! `report`, and the report that `train` writes.

use std::fs;

use crate::html::check_page;
use crate::images::bmp;
use crate::resume::last_lines;
use crate::scene::{Scene, trained};

fn read(scene: &Scene, name: &str) -> String {
    fs::read_to_string(scene.path(name)).unwrap()
}

/// Three classes, of which two are hardly told apart.
fn with_doubts() -> Scene {
    let scene = Scene::new();
    for (class, colour) in
        [("red", [180, 40, 30]), ("ruby", [178, 40, 32]), ("blue", [20, 50, 170])]
    {
        for i in 0..8 {
            let seed = colour[0] as u64 * 100 + i;
            scene.write(&format!("photos/{class}/{i}.bmp"), bmp(40, colour, seed));
        }
    }
    scene
}

#[test]
fn a_run_ends_with_a_page_that_agrees_with_its_numbers() {
    let scene = with_doubts();
    let train =
        "train photos --strategy fine-tune --epochs 2 --batch 4 --val-fraction 0.4 --seed 1";
    let said = scene.run(&format!("{train} --out run")).exits(0);
    assert!(said.stderr.ends_with("report: run/report.html\n"), "{}", said.stderr);
    let page = read(&scene, "run/report.html");
    check_page(&page);
    for id in ["data", "training", "confusion", "classes", "mistakes", "calibration", "settings"] {
        assert!(page.contains(&format!("<section id=\"{id}\"")), "{id}");
    }
    assert!(!page.contains("<section id=\"advice\""));
    assert!(page.contains("--strategy fine-tune"), "how to do it again");

    let metrics: serde_json::Value =
        serde_json::from_str(&read(&scene, "run/metrics.json")).unwrap();
    let val = &metrics["val"];
    let accuracy = format!("{:.1}%", 100.0 * val["top1"].as_f64().unwrap());
    assert!(page.contains(&format!("<div class=\"big\">{accuracy}</div>")), "{accuracy}");
    let classes: Vec<&str> =
        metrics["classes"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();

    // predictions.csv tells the same of each image as metrics.json of all.
    let lines = read(&scene, "run/predictions.csv");
    let mut rows = csv::Reader::from_reader(lines.as_bytes());
    assert_eq!(
        rows.headers().unwrap().iter().collect::<Vec<_>>(),
        ["path", "split", "label", "predicted", "probability", "label_probability"]
    );
    let (mut confusion, mut loss) = (vec![vec![0; 3]; 3], 0.0);
    for row in rows.records().map(Result::unwrap) {
        let class = |i: usize| classes.iter().position(|c| *c == &row[i]).unwrap();
        confusion[class(2)][class(3)] += 1;
        loss -= row[5].parse::<f64>().unwrap().ln();
        assert!(row[0].contains(&row[2]) && &row[1] == "val", "{row:?}");
    }
    assert_eq!(serde_json::to_value(&confusion).unwrap(), val["confusion"]);
    let count = val["samples"].as_f64().unwrap();
    assert!((loss / count - val["loss"].as_f64().unwrap()).abs() < 1e-5);

    // Made again, it is the same; and the run is the same without it.
    assert_eq!(scene.run("report run --out again.html").exits(0).stdout, "again.html\n");
    assert!(page == read(&scene, "again.html"), "another page");
    scene.run(&format!("{train} --out plain --no-report")).exits(0);
    assert!(!scene.path("plain/report.html").exists());
    for file in ["predictions.csv", "data.txt", "settings.toml"] {
        assert_eq!(read(&scene, &format!("run/{file}")), read(&scene, &format!("plain/{file}")));
    }

    // Beside each other.
    scene.run("train photos --strategy features --val-fraction 0.4 --seed 1 --out head").exits(0);
    assert_eq!(scene.run("report run head --out both.html").exits(0).stdout, "both.html\n");
    let both = read(&scene, "both.html");
    check_page(&both);
    assert!(both.contains(">fine-tune<") && both.contains(">features<"), "{both}");
    let p = both.split("<td>1.000</td>").count() + both.split("<td>0.").count();
    assert!(p > 1, "no p-value: {both}");

    // Images and model are gone.
    fs::rename(scene.path("photos"), scene.path("elsewhere")).unwrap();
    fs::remove_file(scene.path("run/model.safetensors")).unwrap();
    let said = scene.run("report run").exits(0);
    assert_eq!(said.stdout, "run/report.html\n");
    assert!(said.stderr.contains("model.safetensors` is gone"), "{}", said.stderr);
    let page = read(&scene, "run/report.html");
    check_page(&page);
    assert!(page.contains("No thumbnails: ") && page.contains("the image is gone"), "{page}");
    assert!(!page.contains("<img"), "{page}");
}

#[test]
fn names_are_text_whatever_is_in_them() {
    let scene = Scene::new();
    for (class, colour) in [("<script>alert(1)", [180, 40, 30]), ("\"a\" & 'b'", [20, 50, 170])] {
        for i in 0..4 {
            scene.write(&format!("<b>/{class}/<i>{i}.bmp"), bmp(40, colour, i));
        }
    }
    scene.refit(["train", "<b>", "--strategy", "features", "--out", "run"]).exits(0);
    let page = read(&scene, "run/report.html");
    check_page(&page);
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("&quot;a&quot; &amp; 'b'"));
    assert!(!page.contains("<script") && !page.contains("<i>") && !page.contains("<b>/"));
}

#[test]
fn folders_without_a_finished_run_are_refused() {
    let scene = Scene::with_photos(2);
    let mut said = scene.run("report photos").refused();
    said += &scene.run("report").refused();
    for file in ["settings.toml", "metrics.json", "predictions.csv"] {
        let content = fs::read(trained().path("run").join(file)).unwrap();
        scene.write(&format!("run/{file}"), content);
    }
    scene.write("run/predictions.csv", "path,split,label\nx.jpg,val,red\n");
    said += &scene.run("report run").refused();
    fs::remove_file(scene.path("run/metrics.json")).unwrap();
    said += &scene.run("report run").refused();
    let said: String =
        said.lines().filter(|l| l.contains(": ")).map(|l| format!("{l}\n")).collect();
    insta::assert_snapshot!("report-refused", said);
}

#[test]
fn a_report_that_cannot_be_written_does_not_undo_the_run() {
    let scene = Scene::with_photos(3);
    // A folder stands where the page should go.
    scene.write("run/report.html/in-the-way", "");
    let said = scene.run("train photos --strategy features --out run").exits(0);
    assert!(said.stderr.contains("warning: no report: "), "{}", said.stderr);
    assert!(scene.path("run/model.safetensors").is_file());
    assert!(!last_lines(&said.stderr).starts_with("error"));
}
