//! Pages of runs that are told here.

use std::path::PathBuf;

use refit::learn::metrics::Metrics;
use refit::learn::{
    Attempt, Calibration, Distillation, Distilled, FittedOn, FoldReport, FoldsReport, Importance,
    Judgement, Parameter, Party, RatePoint, RateSearch, Rung, Search, Seconds, Setup, TuneOptions,
    Values,
};
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
        fold: None,
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
            folds: None,
            images: 4 * classes,
            skipped: vec![],
            leaks: refit::learn::Leaks::default(),
            seconds: Seconds::default(),
            parameters: [10, 1000],
            strength: None,
            best_epoch: None,
            averaged_epochs: vec![],
            calibration: Calibration { temperature: 1.0, fitted_on: FittedOn::Nothing, images: 0 },
            unknown: None,
        },
        fingerprint: "0123".into(),
        history: vec![],
        choice: None,
        rates: None,
        search: None,
        distilled: None,
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
fn a_student_stands_beside_its_teacher_and_itself() {
    let mut record = record(3);
    let party = |network: &str, agreement: Option<f64>| Party {
        name: network.into(),
        network: network.into(),
        metrics: record.report.val.clone(),
        model_bytes: 14_000_000,
        multiply_adds: 384_000_000,
        latency: 4.2,
        agreement,
        p_value: agreement.map(|_| 0.25),
    };
    record.distilled = Some(Distilled {
        split: Split::Val,
        images: 12,
        teachers: vec![party("big_net", Some(0.75))],
        student: party("small_net", None),
        alone: Some(party("small_net", Some(0.5))),
        without_labels: false,
    });
    let teachers = vec!["big model.safetensors".into()];
    let asked = Distillation { hints: 2.0, ..Distillation::of(teachers) };
    record.settings.distillation = Some(asked);
    record.settings.strategy = Strategy::Scratch;
    record.settings.backbone = "small_net".into();
    let page = of_run(&Run { record: &record, model: None });
    html::check_page(&page);
    for text in [
        "Teacher and student",
        "say the same of 75.0% of them",
        "worth +0.0 points.",
        "refit distill nowhere",
        "--teacher 'big model.safetensors'",
        "--student small_net",
        "--hints 2",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

/// The same run judged in two folds.
fn folded(repeats: usize) -> Record {
    let mut record = record(3);
    let metrics = record.report.val.take().unwrap();
    let fold = |number: usize| FoldReport {
        repeat: 1 + number / 2,
        fold: 1 + number % 2,
        others: 5,
        images: 4,
        top1: 0.75,
        loss: 0.9,
        best_epoch: Some(3),
        strength: None,
        seconds: 1.0,
    };
    record.report.folds = Some(FoldsReport {
        folds: 2,
        repeats,
        top1: 0.651,
        interval95: [0.34, 0.87],
        mean: 0.75,
        deviation: 0.042,
        epochs: Some(3),
        each: (0..2 * repeats).map(fold).collect(),
        metrics,
    });
    for (i, p) in record.predictions.iter_mut().flatten().enumerate() {
        (p.split, p.fold) = (Split::HeldOut, Some(1 + i % 2));
    }
    record
}

#[test]
fn folds_are_shown() {
    for repeats in [1, 3] {
        let record = folded(repeats);
        let page = of_run(&Run { record: &record, model: None });
        html::check_page(&page);
        assert_eq!(page.matches("<td>75.0%</td>").count(), 2 * repeats);
        assert!(page.contains("<section id=\"folds\"") && page.contains("75.0% ± 4.2"), "{page}");
        let big = if repeats == 1 { "66.7%" } else { "65.1%" };
        assert!(page.contains(&format!("<div class=\"big\">{big}</div>")), "{page}");
        assert!(page.contains("<section id=\"mistakes\"") && page.contains("9 held-out images"));
        let both = of_runs(&[record.clone(), Record { folder: "other".into(), ..record }]);
        html::check_page(&both);
        assert!(both.contains("<td>1.000</td>"), "{both}");
    }
    assert!(!of_run(&Run { record: &record(3), model: None }).contains("id=\"folds\""));
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
fn a_search_for_the_rate_is_drawn() {
    let mut record = record(3);
    let point = |i: i32| RatePoint {
        rate: 1e-6 * 10_f64.powi(i),
        loss: 1.0,
        before: 1.0,
        change: [0.0, -0.1, -0.4, 0.9][i as usize],
    };
    let points: Vec<RatePoint> = (0..4).map(point).collect();
    record.rates = Some(RateSearch { rate: Some(1e-5), points });
    let page = of_run(&Run { record: &record, model: None });
    html::check_page(&page);
    assert!(page.contains("id=\"rate\"") && page.contains("found: 1.00e-5"), "{page}");
    record.rates = Some(RateSearch { rate: None, points: vec![] });
    let page = of_run(&Run { record: &record, model: None });
    html::check_page(&page);
    assert!(page.contains("no rate lowered the loss"), "{page}");
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

/// A search whose trials have these losses.
fn search(losses: &[f64], importance: Vec<Importance>) -> Search {
    let trial = |(number, &loss): (usize, &f64)| Attempt {
        number,
        rung: if number % 3 == 0 { Rung::Whole } else { Rung::Third },
        epochs: if number > 0 { 4 } else { 0 },
        setup: Setup {
            unfreeze_from: Some("<blocks>".into()),
            strategy: Strategy::Partial,
            values: Values { learning_rate: Some(1e-3), ..Values::default() },
        },
        loss,
        top1: 0.5,
        interval95: [0.4, 0.6],
        seconds: 1.0,
        losses: vec![loss; 3],
    };
    Search {
        options: TuneOptions::default(),
        settings: Settings::new("nowhere", Strategy::Features),
        trials: losses.iter().enumerate().map(trial).collect(),
        best: 0,
        importance,
    }
}

#[test]
fn searches_are_shown_with_what_mattered() {
    let importance = |parameter, p_value| Importance { parameter, share: 0.5, p_value };
    let found = vec![importance(Parameter::Depth, 0.01), importance(Parameter::Augment, 0.4)];
    let mut losses = [0.5; 14];
    (losses[4], losses[5]) = (f64::INFINITY, 40.0);
    let mut record = record(3);
    for (losses, found, parts) in [
        (&losses[..], found, ["diverged", "up to three times", "What mattered"]),
        (&losses[..1], vec![], ["No setup was clearly better", "features", "Loss by trial"]),
    ] {
        record.search = Some(search(losses, found));
        let page = of_run(&Run { record: &record, model: None });
        html::check_page(&page);
        assert!(page.contains("id=\"search\"") && page.contains("refit tune nowhere"), "{page}");
        parts.iter().for_each(|part| assert!(page.contains(part), "{part}: {page}"));
        assert!(!page.contains("NaN") && !page.contains("<blocks>"));
    }
    record.search = Some(search(&[], vec![]));
    assert!(!of_run(&Run { record: &record, model: None }).contains("id=\"search\""));
}
