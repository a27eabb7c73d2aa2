//! Contestants on one split, kept and gone on with; networks ranked by their features.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/pictures.rs"]
mod pictures;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Tensor;
use refit_data::Augment;
use refit_learn::{
    Card, Comparison, Event, Hint, LearnError, Mirror, Model, RunContext, Settings, Strategy,
    Watch, Way, advise, advise_among, compare,
};
use refit_net::{BatchNorm, Builder, Conv, Network, Shape, zoo};

use pictures::{picture, pictures};

/// Saves a small network of two convolutions; a blind one's features are all zero.
fn network(name: &str, width: usize, sees: bool, file: &Path) {
    let (mut g, x) = Builder::new(name, Shape::map(3, 32, 32));
    let y = g.conv("low", x, Conv::k3(8).stride(2));
    let y = g.batch_norm("low_norm", y, BatchNorm::default());
    let y = g.relu("low_relu", y);
    let y = g.conv("high", y, Conv { bias: true, ..Conv::k3(width).stride(2) });
    let y = g.relu("high_relu", y);
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("fc", y, 3);
    let mut network = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Default::default());
    if !sees {
        let weights = network.parameters()["high.weight"].len();
        network.set("high.weight", Tensor::zeros([weights], &Default::default()));
    }
    let lite = zoo::find("efficientnet_lite0").unwrap();
    let card = Card { classes: vec![], ..Model::random(lite, 0, &Default::default()).card };
    Model { network, card }.save(file).unwrap();
}

fn context(folder: Option<&Path>) -> RunContext {
    let folder = folder.map(Path::to_owned);
    RunContext { folder, workers: 2, cache: None, ..RunContext::default() }
}

/// Remembers what it is told, and stops after so many steps.
#[derive(Default)]
struct Log {
    said: Mutex<Vec<String>>,
    advances: AtomicUsize,
    stop_after: Option<usize>,
}

impl Watch for Log {
    fn event(&self, event: Event) {
        match event {
            Event::Note(text) | Event::Warning(text) => self.said.lock().unwrap().push(text),
            Event::Begin { stage, .. } => self.said.lock().unwrap().push(stage),
            Event::Advance { .. } => drop(self.advances.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
    }

    fn stops(&self) -> bool {
        self.stop_after.is_some_and(|n| self.advances.load(Ordering::SeqCst) >= n)
    }
}

impl Log {
    fn count(&self, part: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|text| text.contains(part)).count()
    }
}

/// Settings of small runs from networks saved beside the images.
fn small(folder: &Path, backbone: &str, strategy: Strategy, from: Option<&str>) -> Settings {
    let mut settings = Settings {
        backbone: backbone.to_owned(),
        weights: Some(folder.join(format!("{backbone}.safetensors"))),
        seed: 3,
        mirror: Mirror::Always,
        unfreeze_from: from.map(str::to_owned),
        ..Settings::new(folder.join("data"), strategy)
    };
    settings.training.augment = Some(Augment::light());
    (settings.training.epochs, settings.training.batch) = (3, 4);
    settings
}

const WAYS: [Way; 4] = [
    Way::Named(Strategy::Features),
    Way::Named(Strategy::FineTune),
    Way::Named(Strategy::AsIs),
    Way::Auto,
];

/// What does not change from time to time.
fn steady(found: &Comparison) -> Vec<(String, Way, f64, f64, u64, Option<f64>)> {
    let of = found.contestants.iter().map(|c| {
        (c.backbone.clone(), c.strategy, c.metrics.top1, c.metrics.loss, c.model_bytes, c.p_value)
    });
    of.collect()
}

#[test]
fn contestants_are_kept_and_not_trained_again() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("data"), &[8; 3]);
    network("small", 8, true, &dir.path().join("small.safetensors"));
    network("wide", 24, true, &dir.path().join("wide.safetensors"));
    let settings =
        |name: &str, strategy, from: Option<&str>| small(dir.path(), name, strategy, from);
    let names = ["small", "wide"];
    let run = |out: Option<&Path>, watch: &dyn Watch| {
        compare(&settings, &names, &WAYS, &context(out), watch)
    };
    let plain = run(None, &()).unwrap();
    assert_eq!((plain.contestants.len(), plain.left_out.len()), (6, 2));
    assert!(plain.left_out.iter().all(|l| l.strategy == Way::Named(Strategy::AsIs)));
    let [first, others @ ..] = &plain.contestants[..] else { panic!("contestants") };
    assert!(first.p_value.is_none() && others.iter().all(|c| c.p_value.is_some()));
    for contestant in &plain.contestants {
        assert_eq!(contestant.metrics.samples, first.metrics.samples);
        assert_eq!(contestant.chosen.is_some(), contestant.strategy == Way::Auto);
        assert!(contestant.folder.is_none() && contestant.seconds > 0.0);
        assert!(contestant.peak_memory.is_none_or(|bytes| bytes > 1 << 20));
        let parameters = contestant.parameters[1] as u64;
        assert!(contestant.model_bytes > 4 * parameters, "{contestant:?}");
    }

    // Kept, it is the same; and what is kept is not made again.
    let out = dir.path().join("out");
    let kept = run(Some(&out), &()).unwrap();
    assert_eq!(steady(&kept), steady(&plain));
    for contestant in &kept.contestants {
        let folder = contestant.folder.as_ref().unwrap();
        let saved = fs::metadata(folder.join("model.safetensors")).unwrap().len();
        assert_eq!(saved, contestant.model_bytes);
    }
    let text = fs::read_to_string(out.join("compare.json")).unwrap();
    let written: Comparison = serde_json::from_str(&text).unwrap();
    assert_eq!(steady(&written).len(), 6);
    let log = Log::default();
    let again = run(Some(&out), &log).unwrap();
    assert_eq!(log.count("taken from"), 6);
    let of = |found: &Comparison| found.contestants.iter().map(|c| c.seconds).sum::<f64>();
    assert!((of(&again) - of(&kept)).abs() < 1e-6 * of(&kept));

    // Other settings, other images.
    let longer = |name: &str, strategy, from: Option<&str>| {
        let mut settings = settings(name, strategy, from);
        settings.training.epochs += 1;
        settings
    };
    let error = compare(&longer, &names, &WAYS, &context(Some(&out)), &()).unwrap_err();
    assert!(matches!(error, LearnError::OtherContest { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--out"));
    picture(&dir.path().join("data/red/0.bmp"), 1, 9);
    let error = run(Some(&out), &()).unwrap_err();
    assert!(matches!(error, LearnError::DataChanged { .. }), "{error}");
}

#[test]
fn a_comparison_that_was_stopped_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("data"), &[8; 3]);
    network("small", 8, true, &dir.path().join("small.safetensors"));
    let settings =
        |name: &str, strategy, from: Option<&str>| small(dir.path(), name, strategy, from);
    let ways = [Way::Named(Strategy::Features), Way::Named(Strategy::PretrainedInit)];
    let run = |out: &str, watch: &dyn Watch| {
        let out = dir.path().join(out);
        compare(&settings, &["small"], &ways, &context(Some(&out)), watch)
    };
    let whole = run("whole", &()).unwrap();
    let steps = Log::default();
    compare(&settings, &["small"], &ways[..1], &context(None), &steps).unwrap();
    // A little into what comes second.
    let stop_after = Some(steps.advances.load(Ordering::SeqCst) + 30);
    let stopped = run("parts", &Log { stop_after, ..Log::default() }).unwrap();
    assert_eq!((stopped.contestants.len(), stopped.unfinished.len()), (1, 1), "{stopped:?}");
    assert_eq!(stopped.unfinished[0].reason, "stopped");
    let log = Log::default();
    let ended = run("parts", &log).unwrap();
    assert_eq!(log.count("taken from"), 1);
    assert_eq!(steady(&ended), steady(&whole));
    let model = |out: &str| {
        fs::read(dir.path().join(out).join("small-pretrained-init/model.safetensors")).unwrap()
    };
    assert!(model("whole") == model("parts"));
}

#[test]
fn networks_are_read_before_anything_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("data"), &[4; 3]);
    network("small", 8, true, &dir.path().join("small.safetensors"));
    let settings = |name: &str, strategy, from: Option<&str>| match name {
        "small" => small(dir.path(), name, strategy, from),
        _ => Settings { weights: None, ..small(dir.path(), name, strategy, from) },
    };
    let log = Log::default();
    let ways = &WAYS[..1];
    let names = ["small", "resnet18"];
    let error = compare(&settings, &names, ways, &context(None), &log).unwrap_err();
    assert_eq!(error.to_string(), "`resnet18` comes without weights");
    assert_eq!(log.advances.load(Ordering::SeqCst), 0);
    let all = names.map(|name| settings(name, Strategy::Features, None));
    let error = advise_among(&all, &context(None), &log).unwrap_err();
    assert_eq!(error.to_string(), "`resnet18` comes without weights");
    assert_eq!(log.advances.load(Ordering::SeqCst), 0);
}

#[test]
fn networks_are_ranked_by_what_their_features_say() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("data"), &[10; 3]);
    network("blind", 8, false, &dir.path().join("blind.safetensors"));
    network("small", 8, true, &dir.path().join("small.safetensors"));
    let of = |name: &str| small(dir.path(), name, Strategy::Features, None);
    let advice = advise_among(&[of("blind"), of("small")], &context(None), &()).unwrap();
    let order: Vec<&str> = advice.ranking.iter().map(|r| r.backbone.as_str()).collect();
    assert_eq!((order, advice.backbone.as_str()), (vec!["small", "blind"], "small"));
    let [best, worst] = &advice.ranking[..] else { panic!("two") };
    assert!(best.log_me > worst.log_me && best.neighbours > worst.neighbours, "{best:?} {worst:?}");
    assert_eq!((best.images, best.features, best.leep), (24, 8, None));
    assert!(best.image_ms > 0.0 && best.parameters < 1000);
    // The highest layer of the advice is what the ranking went by.
    assert_eq!(advice.transfer.last().unwrap().log_me, best.log_me);

    let alone = advise(&of("small"), &context(None), &()).unwrap();
    assert!(alone.ranking.is_empty());
    assert_eq!((&alone.transfer, &alone.curve), (&advice.transfer, &advice.curve));
    assert_eq!(alone.conclusion.expected.as_ref(), alone.curve.expected());
    let evidence = alone.conclusion.evidence.join("\n");
    for part in ["augmentation", "on this machine"] {
        assert!(evidence.contains(part), "{evidence}");
    }
}
