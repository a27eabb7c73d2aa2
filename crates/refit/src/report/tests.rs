//! Pages of runs that are told here.

use std::path::PathBuf;

use refit::learn::metrics::Metrics;
use refit::learn::{Calibration, FittedOn, Judgement, Seconds};
use refit::net::Precision;
use refit::{Report, Settings, Strategy};

use super::*;

#[path = "../../tests/cli/html.rs"]
mod html;

/// A run over `classes` classes, of whose images each third is taken for the next class.
fn record(classes: usize) -> Record {
    let names: Vec<String> = (0..classes).map(|i| format!("class {i} & <co>")).collect();
    let labels: Vec<usize> = (0..3 * classes).map(|i| i % classes).collect();
    let taken = |i: usize| if i < classes { (labels[i] + 1) % classes } else { labels[i] };
    let row = |i: usize| {
        let rest = 0.3 / (classes - 1) as f32;
        (0..classes).map(move |c| if c == taken(i) { 0.7 } else { rest })
    };
    let probabilities: Vec<f32> = (0..labels.len()).flat_map(row).collect();
    let prediction = |i: usize| Judgement {
        path: PathBuf::from(format!("nowhere/<{i}>.jpg")),
        split: Split::Val,
        label: labels[i],
        predicted: taken(i),
        probability: 0.7,
        label_probability: probabilities[i * classes + labels[i]],
    };
    let val = Metrics::from_probabilities(&probabilities, &labels, &names);
    Record {
        folder: "run".into(),
        settings: Settings::new("nowhere", Strategy::Features),
        report: Report {
            strategy: Strategy::Features,
            backbone: "efficientnet_lite0".into(),
            precision: Precision::F32,
            classes: names,
            val,
            test: None,
            images: 4 * classes,
            skipped: vec![],
            leaks: refit::learn::Leaks::default(),
            seconds: Seconds::default(),
            parameters: [10, 1000],
            strength: None,
            best_epoch: None,
            calibration: Calibration { temperature: 1.0, fitted_on: FittedOn::Nothing, images: 0 },
            unknown: None,
        },
        fingerprint: "0123".into(),
        history: vec![],
        choice: None,
        predictions: Some((0..labels.len()).map(prediction).collect()),
        model_bytes: None,
    }
}

#[test]
fn pages_hold_for_two_classes_and_for_many() {
    for classes in [2, 16, 17, 100, 101, 1000] {
        let record = record(classes);
        let page = of_run(&Run { record: &record, model: None });
        html::check_page(&page);
        assert!(page.len() < 2_500_000, "{classes}: {} bytes", page.len());
        assert!(page.contains("class 1 &amp; &lt;co&gt;"));
        assert_eq!(page.contains("<table class=\"confusion\">"), classes <= 16);
        assert_eq!(page.contains("<svg class=\"matrix\""), (17..=100).contains(&classes));
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let mut record = record(3);
    (record.report.val, record.predictions) = (None, None);
    let page = of_run(&Run { record: &record, model: None });
    html::check_page(&page);
    assert!(page.contains("nothing says how good it is"));
    for id in ["confusion", "classes", "mistakes", "calibration", "training", "advice"] {
        assert!(!page.contains(&format!("id=\"{id}\"")), "{id}");
    }
}

#[test]
fn runs_by_other_images_are_not_tested_in_pairs() {
    let (a, mut b) = (record(3), record(3));
    b.folder = "other".into();
    let page = of_runs(&[a.clone(), b.clone()]);
    html::check_page(&page);
    assert!(page.contains("<td>1.000</td>"), "{page}");
    b.predictions.iter_mut().flatten().for_each(|p| p.path = "elsewhere".into());
    assert!(!of_runs(&[a, b]).contains("<td>1.000</td>"));
}
