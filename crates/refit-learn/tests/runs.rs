//! Whole runs on small pictures made here.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/pictures.rs"]
mod pictures;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use refit_data::{Augment, Stream};
use refit_learn::{
    Card, ClassBalance, Event, FittedOn, Hint, LearnError, Mirror, Model, Outcome, Record, Report,
    RunContext, RunOptions, ScheduleKind, Seconds, Select, Settings, Split, Strategy, Watch,
    advise, auto, preview, read_settings, train,
};
use refit_net::{BatchNorm, Builder, Conv, Edit, HeadKind, Network, Precision, Shape, zoo};

use pictures::{picture, pictures};
use support::has_bf16;

fn context(folder: Option<PathBuf>) -> RunContext {
    RunContext { folder, resume: false, workers: 2, cache: None, ..RunContext::default() }
}

fn small(data: &Path, strategy: Strategy) -> Settings {
    let mut settings =
        Settings { seed: 3, mirror: Mirror::Always, ..Settings::new(data, strategy) };
    settings.training.augment = Some(Augment::light());
    settings.training.epochs = 2;
    settings.training.batch = 4;
    settings
}

/// Keeps everything it is told, and asks to stop after so many steps.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    epochs: AtomicUsize,
    stop_after_epochs: Option<usize>,
}

impl Watch for Log {
    fn event(&self, event: Event) {
        if matches!(&event, Event::Note(text) if text.starts_with("epoch ")) {
            self.epochs.fetch_add(1, Ordering::SeqCst);
        }
        self.events.lock().unwrap().push(event);
    }

    fn stops(&self) -> bool {
        self.stop_after_epochs.is_some_and(|n| self.epochs.load(Ordering::SeqCst) >= n)
    }
}

impl Log {
    fn says(&self, part: &str) -> bool {
        self.events.lock().unwrap().iter().any(|event| {
            matches!(event, Event::Note(text) | Event::Warning(text) if text.contains(part))
        })
    }
}

/// What a run leaves tells it again.
#[test]
fn a_runs_folder_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data, &[6, 6, 6]);
    fs::write(data.join("red/broken.bmp"), "nothing").unwrap();
    let settings = small(&data, Strategy::Features);
    let no_run = Record::read(&folder).unwrap_err();
    assert!(matches!(no_run, LearnError::NoRun { .. }), "{no_run}");
    let Outcome { report, predictions, .. } =
        train(&settings, &context(Some(folder.clone())), &()).unwrap();
    let record = Record::read(&folder).unwrap();
    assert_eq!(record.settings, settings);
    // JSON may lose a number's last bit.
    let told = serde_json::to_string(&report).unwrap();
    assert_eq!(record.report, serde_json::from_str(&told).unwrap());
    assert_eq!(record.predictions.as_ref(), Some(&predictions));
    assert_eq!(predictions.len() as u64, report.val.unwrap().samples);
    assert_eq!(record.fingerprint.len(), 64);
    assert!(record.history.is_empty() && record.choice.is_none());
    // Images that could not be read are listed still.
    assert_eq!(record.dataset().unwrap().samples().count(), 19);
    fs::remove_file(folder.join("metrics.json")).unwrap();
    let unfinished = Record::read(&folder).unwrap_err();
    assert!(unfinished.hint().unwrap().contains("refit train --resume"), "{unfinished}");
}

/// A model of a network that is not in the zoo.
fn tiny(classes: [&str; 3]) -> Model {
    let (mut g, x) = Builder::new("tiny", Shape::map(3, 32, 32));
    let y = g.conv("conv", x, Conv::k3(8).stride(2));
    let y = g.batch_norm("norm", y, BatchNorm::default());
    let y = g.relu("relu", y);
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("fc", y, 3);
    let network = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Default::default());
    let lite = zoo::find("efficientnet_lite0").unwrap();
    let card = Model::random(lite, 0, &Default::default()).card;
    Model { network, card: Card { classes: classes.map(String::from).to_vec(), ..card } }
}

#[test]
fn a_run_starts_from_a_model_file() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 6, 6]);
    let Model { network: tiny, card } = tiny(["a", "b", "c"]);
    let file = dir.path().join("tiny.safetensors");
    let frozen = tiny.edit(&[Edit::FreezeBody], 0).unwrap();
    Model { network: frozen, card }.save(&file).unwrap();
    for strategy in [Strategy::Features, Strategy::FineTune] {
        let start = Settings { weights: Some(file.clone()), ..small(&data, strategy) };
        let outcome = train(&Settings { backbone: "tiny".into(), ..start }, &context(None), &());
        let network = outcome.unwrap().model.network;
        assert_eq!(network.graph().name(), "tiny");
        let conv = network.parameters()["conv.weight"].to_vec();
        let stays = conv == tiny.parameters()["conv.weight"].to_vec();
        assert_eq!(stays, strategy == Strategy::Features, "{strategy}");
    }
    // But not for `as-is`, which is about the classes of published weights.
    for (hue, class) in ["n01440764", "n01443537"].into_iter().enumerate() {
        fs::create_dir_all(dir.path().join("known").join(class)).unwrap();
        picture(&dir.path().join("known").join(class).join("0.bmp"), hue, 0);
    }
    let as_is = small(&dir.path().join("known"), Strategy::AsIs);
    let as_is = Settings { weights: Some(file), backbone: "tiny".into(), ..as_is };
    let error = train(&as_is, &context(None), &()).unwrap_err();
    assert_eq!(error.to_string(), "there is no network `tiny`");
}

fn row(network: &Network, parameter: &str, row: usize) -> Vec<f32> {
    let parameter = &network.parameters()[parameter];
    let width = parameter.len() / parameter.shape[0];
    parameter.to_vec()[row * width..][..width].to_vec()
}

/// Rates at which nothing moves show where training began.
#[test]
fn shared_classes_keep_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 6, 6]);
    let (file, old) = (dir.path().join("tiny.safetensors"), tiny(["Red ", "violet", "BLUE"]));
    old.save(&file).unwrap();
    for strategy in [Strategy::Features, Strategy::FineTune, Strategy::PretrainedInit] {
        let log = Log::default();
        let mut settings = small(&data, strategy);
        (settings.weights, settings.backbone) = (Some(file.clone()), "tiny".into());
        (settings.keep_classes, settings.training.learning_rate) = (true, 1e-12);
        let new = train(&settings, &context(None), &log).unwrap().model.network;
        assert!(
            log.says("head: kept the rows of 2 of 3 classes: `blue`, `red`; the others are new")
        );
        for (from, to) in [(2, 0), (0, 2)] {
            let (old, new) = (row(&old.network, "fc.weight", from), row(&new, "fc.weight", to));
            let far = old.iter().zip(&new).any(|(old, new)| (old - new).abs() > 1e-8);
            // The first stage of `fine-tune` has rates of its own.
            assert_eq!(far, strategy == Strategy::FineTune, "{strategy}: {old:?} {new:?}");
        }
    }
}

#[test]
fn classes_of_imagenet_keep_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    for (hue, class) in ["n01440764_tench", "Great_White_Shark", "zebu"].into_iter().enumerate() {
        fs::create_dir_all(dir.path().join(class)).unwrap();
        (0..3).for_each(|i| picture(&dir.path().join(class).join(format!("{i}.bmp")), hue, i));
    }
    let mut settings = Settings { keep_classes: true, ..small(dir.path(), Strategy::Features) };
    settings.training.learning_rate = 1e-12;
    let new = train(&settings, &context(None), &()).unwrap().model;
    let old = Model::open("efficientnet_lite0", &Default::default()).unwrap();
    assert_eq!(new.card.classes[..2], ["Great_White_Shark", "n01440764_tench"]);
    for (from, to) in [(2, 0), (0, 1)] {
        for parameter in ["classifier.weight", "classifier.bias"] {
            let (old, new) = (row(&old.network, parameter, from), row(&new.network, parameter, to));
            assert!(old.iter().zip(&new).all(|(old, new)| (old - new).abs() < 1e-8), "{parameter}");
        }
    }
}

#[test]
fn rows_that_cannot_be_kept_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[3, 3]);
    let file = dir.path().join("tiny.safetensors");
    let refused = |strategy: Strategy, change: &dyn Fn(&mut Settings)| {
        let mut settings = small(&data, strategy);
        (settings.weights, settings.backbone) = (Some(file.clone()), "tiny".into());
        settings.keep_classes = true;
        change(&mut settings);
        let error = train(&settings, &context(None), &()).unwrap_err();
        assert!(error.hint().unwrap().contains("leave it out"), "{error}");
        error.to_string()
    };
    let does_nothing = |with: &str| format!("--keep-classes does nothing with {with}");
    assert_eq!(
        refused(Strategy::Scratch, &|_| ()),
        does_nothing("--strategy scratch, which starts without any classes")
    );
    assert_eq!(
        refused(Strategy::AsIs, &|_| ()),
        does_nothing("--strategy as-is, which keeps the whole head")
    );
    assert_eq!(
        refused(Strategy::FineTune, &|s| s.head = HeadKind::Mlp { hidden: 4 }),
        does_nothing("--head mlp:4, whose rows take other values")
    );

    let features = |change: &dyn Fn(&mut Settings)| refused(Strategy::Features, change);
    tiny(["cat", "dog", "cow"]).save(&file).unwrap();
    assert_eq!(
        features(&|_| ()),
        "--keep-classes finds none to keep: the classes were `cat`, `dog`, `cow` and are now \
         `blue`, `green`"
    );
    tiny(["blue", "dog", "cow"]).save(&file).unwrap();
    let keep = vec![[0, 1]];
    for edit in [
        Edit::ReplaceHead { classes: 3, kind: HeadKind::Linear, keep },
        Edit::Reinitialize { layers: "fc".into() },
        Edit::CutAt { layer: "norm".into() },
    ] {
        let edited = features(&|s| s.edits = vec![edit.clone()]);
        assert_eq!(edited, does_nothing("this --recipe, which changes the head"));
    }
    let Model { network, mut card } = tiny(["blue", "dog", "cow"]);
    card.classes.clear();
    let cut = network.edit(&[Edit::CutAt { layer: "norm".into() }], 0).unwrap();
    Model { network: cut, card }.save(&file).unwrap();
    assert_eq!(features(&|_| ()), does_nothing("this network, which gives features, not classes"));

    // A checkpoint's classes are known by their numbers.
    let head = Edit::ReplaceHead { classes: 7, kind: HeadKind::Linear, keep: vec![] };
    let resnet = zoo::find("resnet18").unwrap().random(1, &Default::default());
    let resnet = resnet.edit(&[head], 0).unwrap();
    refit_net::model_file::save(&file, &resnet, &serde_json::json!({})).unwrap();
    let numbered = features(&|s| s.backbone = "resnet18".into());
    assert!(numbered.contains("were `0`, `1`, `2`, `3`, `4` and 2 more and are"), "{numbered}");
}

#[test]
fn features_learn_colours_and_the_model_keeps_all_that_prediction_needs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 6, 6]);
    fs::write(data.join("red/notes.txt"), "no picture").unwrap();
    let run = dir.path().join("run");
    let log = Log::default();
    let outcome =
        train(&small(&data, Strategy::Features), &context(Some(run.clone())), &log).unwrap();
    let val = outcome.report.val.as_ref().unwrap();
    assert_eq!(val.top1, 1.0, "{val:?}");
    assert_eq!(outcome.report.skipped.len(), 1);
    assert!(log.says("notes.txt is left out"));

    let model = Model::load(&run.join("model.safetensors"), &Default::default()).unwrap();
    assert_eq!(model.card, outcome.model.card);
    assert_eq!(model.card.classes, ["blue", "green", "red"]);
    assert_eq!(model.card.weights.licence.as_deref(), Some("Apache-2.0"));
    let probabilities = model.predict_file(&data.join("green/0.bmp")).unwrap();
    assert!(probabilities[1] > 0.5, "{probabilities:?}");
    let evaluation = model.evaluate(&data, &RunOptions::default(), &()).unwrap();
    assert_eq!((evaluation.images, evaluation.skipped.len()), (18, 1));
    // One class is not enough to learn from, but to judge by.
    fs::create_dir(dir.path().join("one")).unwrap();
    fs::rename(data.join("green"), dir.path().join("one/green")).unwrap();
    let one = dir.path().join("one");
    let evaluation_of_one = model.evaluate(&one, &RunOptions::default(), &()).unwrap();
    assert_eq!(evaluation_of_one.images, 6);
    assert!(evaluation.metrics.top1 > 0.9);
    for name in ["settings.toml", "log.jsonl", "metrics.json", "checkpoints"] {
        assert!(run.join(name).exists(), "{name}");
    }
    let metrics: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(run.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["val"]["top1"], 1.0);
    assert_eq!(metrics["images"], 18);
    assert!(metrics["seconds"]["features"].is_number() && metrics["seconds"]["total"].is_number());
    assert!(metrics["val"]["interval95"].is_array());
}

#[test]
fn a_validation_folder_that_lacks_a_class_shifts_no_labels() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("train"), &[5, 5, 5]);
    pictures(&dir.path().join("val"), &[0, 2, 2]);
    fs::remove_dir(dir.path().join("val/blue")).unwrap();
    let outcome = train(&small(dir.path(), Strategy::Features), &context(None), &()).unwrap();
    let val = outcome.report.val.unwrap();
    assert_eq!((val.samples, val.top1), (4, 1.0));
    assert_eq!(val.per_class[0].support, 0);
}

#[test]
fn cached_features_are_used_again_and_give_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[5, 5]);
    let context = RunContext { cache: Some(dir.path().join("cache")), ..context(None) };
    let settings = Settings { views: 3, ..small(&data, Strategy::Features) };
    let (first, second) = (Log::default(), Log::default());
    let a = train(&settings, &context, &first).unwrap();
    let b = train(&settings, &context, &second).unwrap();
    assert!(first.says("26 rows computed and 0 from the cache"));
    assert!(second.says("0 rows computed and 26 from the cache"));
    let weights = |model: &Model| model.network.parameters()["classifier.weight"].to_vec();
    assert_eq!(weights(&a.model), weights(&b.model));
    // Other views are other rows; the plain ones serve both.
    let third = Log::default();
    train(&Settings { seed: 4, ..settings }, &context, &third).unwrap();
    assert!(!third.says(" 0 rows computed"));
}

#[test]
fn bf16_features_are_kept_apart_and_serve_as_well() {
    if !has_bf16() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[5, 5]);
    let context = RunContext { cache: Some(dir.path().join("cache")), ..context(None) };
    let full = small(&data, Strategy::Features);
    let half = Settings { precision: Precision::Bf16, ..full.clone() };
    let run = |settings: &Settings| {
        let log = Log::default();
        (train(settings, &context, &log).unwrap(), log)
    };
    let (in_f32, _) = run(&full);
    let (in_bf16, log) = run(&half);
    assert!(log.says("bf16 features of 10 images"));
    assert!(log.says("18 rows computed and 0 from the cache"));
    assert!(run(&half).1.says(" 0 rows computed and 18 from the cache"));
    assert!(run(&full).1.says(" 0 rows computed and 18 from the cache"));
    for (outcome, precision) in [(&in_f32, Precision::F32), (&in_bf16, Precision::Bf16)] {
        assert_eq!(outcome.report.precision, precision);
        assert_eq!(outcome.model.card.settings.as_ref().unwrap().precision, precision);
        assert_eq!(outcome.report.val.as_ref().unwrap().top1, 1.0);
    }
    let weights =
        |outcome: &Outcome| outcome.model.network.parameters()["classifier.weight"].to_vec();
    assert_ne!(weights(&in_f32), weights(&in_bf16));
}

#[test]
fn strategies_that_train_layers_run_what_is_frozen_in_bf16() {
    if !has_bf16() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[4, 4]);
    for strategy in [Strategy::Partial, Strategy::FineTune] {
        let run = |precision| {
            let mut settings = Settings { precision, ..small(dir.path(), strategy) };
            // New views, since two plain ones of these pictures are too much alike for the head.
            (settings.training.epochs, settings.training.fixed_views) = (1, 0);
            settings.unfreeze_from = (strategy == Strategy::Partial).then(|| "conv_head".into());
            let log = Log::default();
            let outcome = train(&settings, &context(None), &log).unwrap();
            assert_eq!(log.says("bf16 features of 8 images"), precision == Precision::Bf16);
            outcome
        };
        let (full, half) = (run(Precision::F32), run(Precision::Bf16));
        // Two validation images say little after two steps; the training loss hardly moves.
        let loss = |outcome: &Outcome| outcome.history[0].train_loss;
        assert_ne!(loss(&full), loss(&half), "{strategy}");
        let (full, half) = (loss(&full), loss(&half));
        assert!((full - half).abs() < 0.2 * full, "{strategy}: {full}, {half}");
    }
}

#[test]
fn every_strategy_trains_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[4, 4]);
    let start = refit_net::zoo::find("efficientnet_lite0").unwrap();
    let start = start.pretrained(&Default::default()).unwrap();
    for (strategy, head) in [
        (Strategy::Features, HeadKind::Mlp { hidden: 8 }),
        (Strategy::Partial, HeadKind::Linear),
        (Strategy::FineTune, HeadKind::Linear),
        (Strategy::PretrainedInit, HeadKind::Linear),
        (Strategy::Scratch, HeadKind::Linear),
    ] {
        let mut settings = Settings { head, ..small(dir.path(), strategy) };
        settings.training.epochs = 1;
        settings.unfreeze_from = (strategy == Strategy::Partial).then(|| "conv_head".into());
        let outcome = train(&settings, &context(None), &()).unwrap();
        let moved = |name: &str| {
            outcome.model.network.parameters()[name].to_vec() != start.parameters()[name].to_vec()
        };
        assert_eq!(
            moved("conv_stem.weight"),
            !matches!(strategy, Strategy::Features | Strategy::Partial),
            "{strategy}"
        );
        assert_eq!(moved("conv_head.weight"), strategy.trains_body(), "{strategy}");
        let statistics = matches!(strategy, Strategy::PretrainedInit | Strategy::Scratch);
        assert_eq!(moved("bn2.running_mean"), statistics, "{strategy}");
        assert!(!outcome.history.is_empty(), "{strategy}");
        assert!(outcome.report.val.is_some());
    }
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    a_resumed_run_equals_an_uninterrupted_one_in(Precision::F32);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_in_bf16() {
    if has_bf16() {
        a_resumed_run_equals_an_uninterrupted_one_in(Precision::Bf16);
    }
}

/// What is stopped and resumed, with another number of threads, ends with the same bytes.
fn a_resumed_run_equals_an_uninterrupted_one_in(precision: Precision) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[5, 5]);
    let mut settings = Settings { precision, ..small(&data, Strategy::Partial) };
    settings.unfreeze_from = Some("blocks.6".into());
    settings.training.epochs = 3;
    let whole = dir.path().join("whole");
    train(&settings, &context(Some(whole.clone())), &()).unwrap();

    let parts = dir.path().join("parts");
    let stopping = Log { stop_after_epochs: Some(1), ..Log::default() };
    let error = train(&settings, &context(Some(parts.clone())), &stopping).unwrap_err();
    assert!(matches!(error, LearnError::Stopped), "{error}");
    assert_eq!(error.hint().unwrap(), "continue with --resume");
    let read = refit_learn::read_settings(&parts).unwrap();
    assert_eq!(read, settings);
    let resumed = RunContext { resume: true, workers: 1, ..context(Some(parts.clone())) };
    let outcome = train(&read, &resumed, &()).unwrap();
    assert_eq!(outcome.history.len(), 3);
    let bytes = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
    assert!(bytes(&whole) == bytes(&parts), "the model files differ");

    // Other images are another run.
    picture(&data.join("blue/new.bmp"), 0, 9);
    let error = train(&read, &resumed, &()).unwrap_err();
    assert!(error.to_string().ends_with("are not those that the run began with"), "{error}");
    assert!(error.hint().unwrap().contains("put the images back"));
}

/// A run that was begun before there was a choice computed in f32.
#[test]
fn settings_without_a_precision_mean_f32() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { precision: Precision::Bf16, ..small(dir.path(), Strategy::Features) };
    let text = toml::to_string(&settings).unwrap();
    let line = "precision = \"bf16\"\n";
    assert!(text.contains(line), "{text}");
    let file = dir.path().join("settings.toml");
    fs::write(&file, &text).unwrap();
    assert_eq!(refit_learn::read_settings(dir.path()).unwrap(), settings);
    fs::write(&file, text.replace(line, "")).unwrap();
    let before = Settings { precision: Precision::F32, ..settings };
    assert_eq!(refit_learn::read_settings(dir.path()).unwrap(), before);
}

#[test]
fn as_is_knows_its_own_classes_only() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, hue) in [("n01443537", 0), ("Great White Shark", 1)] {
        let folder = dir.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        (0..3).for_each(|i| picture(&folder.join(format!("{i}.bmp")), hue, i));
    }
    let outcome = train(&small(dir.path(), Strategy::AsIs), &context(None), &()).unwrap();
    assert_eq!(outcome.report.classes.len(), 1000);
    assert_eq!(outcome.report.parameters[0], 0);
    let val = outcome.report.val.unwrap();
    assert_eq!(val.samples, 6, "nothing is trained: all images judge");
    if has_bf16() {
        let half = Settings { precision: Precision::Bf16, ..small(dir.path(), Strategy::AsIs) };
        let half = train(&half, &context(None), &()).unwrap().report.val.unwrap();
        assert!(half.loss != val.loss && (half.loss - val.loss).abs() < 0.1 * val.loss);
    }
    let other = tempfile::tempdir().unwrap();
    pictures(other.path(), &[3, 3]);
    let error = train(&small(other.path(), Strategy::AsIs), &context(None), &()).unwrap_err();
    assert_eq!(error.to_string(), "efficientnet_lite0 does not know the classes `blue`, `green`");
    assert!(error.hint().unwrap().contains("--strategy features"));
}

#[test]
fn refusals_say_what_and_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[3, 3]);
    let refused = |settings: &Settings| {
        let error = train(settings, &context(None), &()).unwrap_err();
        let hint = error.hint().unwrap_or_default();
        (error.to_string(), hint)
    };
    let settings = || small(&data, Strategy::Features);
    let mut bad = settings();
    bad.training.learning_rate = 0.0;
    let (message, hint) = refused(&bad);
    assert_eq!(message, "--lr is 0, but must be above 0 and at most 1");
    assert!(hint.contains("--help"));
    let mut solved = settings();
    solved.training.find_learning_rate = true;
    let (message, _) = refused(&solved);
    assert_eq!(message, "--lr is auto, but must be a number where nothing is trained by steps");
    let mut focal = settings();
    for gamma in [-1.0, f64::NAN, 11.0] {
        focal.training.focal = gamma;
        let (message, _) = refused(&focal);
        assert_eq!(message, format!("--focal is {gamma}, but must be 0 to 10"));
    }
    let (message, _) = refused(&Settings { views: 0, ..settings() });
    assert_eq!(message, "--views is 0, but must be 1 to 1000");
    let (message, _) = refused(&small(&data, Strategy::Partial));
    assert!(message.starts_with("--unfreeze-from is not given"));
    let (message, hint) = refused(&Settings { backbone: "resnet18".into(), ..settings() });
    assert_eq!(message, "`resnet18` comes without weights");
    assert!(hint.contains("--weights"));
    let partial =
        Settings { unfreeze_from: Some("blocks.12".into()), ..small(&data, Strategy::Partial) };
    let (message, hint) = refused(&partial);
    assert!(message.contains("no layer `blocks.12`") && hint.contains("refit layers"), "{message}");

    for strategy in [Strategy::Scratch, Strategy::PretrainedInit] {
        let idle = Settings { precision: Precision::Bf16, ..small(&data, strategy) };
        let (message, hint) = refused(&idle);
        assert_eq!(
            message,
            format!(
                "--precision bf16 does nothing with --strategy {strategy}, which trains all \
                 layers: what is trained computes in f32"
            )
        );
        assert!(hint.starts_with("leave it out, or use --strategy features"), "{hint}");
    }
    if !Precision::Bf16.is_supported() {
        let (message, hint) = refused(&Settings { precision: Precision::Bf16, ..settings() });
        assert!(message.contains("neither AMX nor AVX512-BF16"), "{message}");
        assert_eq!(hint, "use --precision f32");
    }

    let mut wild = Settings { head: HeadKind::Mlp { hidden: 4 }, ..settings() };
    wild.training.learning_rate = 1.0;
    wild.training.clip = f64::MAX;
    wild.training.optimizer = refit_learn::OptimizerKind::Sgd;
    wild.training.weight_decay = 1e30;
    wild.training.epochs = 50;
    let (message, hint) = refused(&wild);
    assert!(message.starts_with("the loss became"), "{message}");
    assert!(hint.contains("lower --lr"));

    let run = dir.path().join("run");
    train(&settings(), &context(Some(run.clone())), &()).unwrap();
    let error = train(&settings(), &context(Some(run)), &()).unwrap_err();
    assert!(error.to_string().ends_with("already holds a run"));
    assert!(error.hint().unwrap().contains("--resume"));
    let error = refit_learn::read_settings(dir.path()).unwrap_err();
    assert!(error.to_string().contains("holds no run to resume: settings.toml"), "{error}");

    fs::write(data.join("blue/0.bmp"), "").unwrap();
    fs::write(data.join("blue/1.bmp"), "").unwrap();
    fs::write(data.join("blue/2.bmp"), "").unwrap();
    let (message, hint) = refused(&settings());
    assert!(message.starts_with("no training image of class `blue`"), "{message}");
    assert!(hint.contains("mend"));
    let (message, _) = refused(&Settings { strict: true, ..settings() });
    assert!(message.contains("0.bmp"), "{message}");
}

#[test]
fn weights_of_another_architecture_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[3, 3]);
    let file = dir.path().join("resnet18.safetensors");
    let resnet = refit_net::zoo::find("resnet18").unwrap().random(1, &Default::default());
    refit_net::model_file::save(&file, &resnet, &serde_json::json!({})).unwrap();
    let settings = Settings { weights: Some(file.clone()), ..small(&data, Strategy::Features) };
    let error = train(&settings, &context(None), &()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("are those of `resnet18`, not of `efficientnet_lite0`"), "{message}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("--backbone resnet18") && hint.contains("refit distill"), "{hint}");
    // The right architecture takes them, even with a head of another size.
    let headed = resnet
        .edit(&[Edit::ReplaceHead { classes: 7, kind: HeadKind::Linear, keep: vec![] }], 0)
        .unwrap();
    refit_net::model_file::save(&file, &headed, &serde_json::json!({})).unwrap();
    let settings = Settings { backbone: "resnet18".into(), ..settings };
    train(&settings, &context(None), &()).unwrap();
}

#[test]
fn evaluation_refuses_classes_that_the_model_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[3, 3]);
    let model = Model::open("efficientnet_lite0", &Default::default()).unwrap();
    let error = model.evaluate(dir.path(), &RunOptions::default(), &()).unwrap_err();
    assert_eq!(error.to_string(), "the model does not know the classes `blue`, `green`");
    assert!(error.hint().unwrap().contains("name the folders"));
}

/// A last batch of one image breaks nothing, not even with batch statistics.
#[test]
fn a_last_batch_of_one_trains() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[4, 3]);
    let mut settings = small(dir.path(), Strategy::PretrainedInit);
    settings.training.epochs = 1;
    settings.val_fraction = Some(0.3);
    settings.training.batch = 4;
    let outcome = train(&settings, &context(None), &()).unwrap();
    assert!(outcome.history[0].train_loss.is_finite());
}

#[test]
fn a_gif_is_used_and_said_so() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[4, 4]);
    let gif =
        b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    fs::write(dir.path().join("blue/trap.jpg"), gif).unwrap();
    let log = Log::default();
    let outcome = train(&small(dir.path(), Strategy::Features), &context(None), &log).unwrap();
    assert!(log.says("trap.jpg: a GIF is used like any image"));
    assert_eq!((outcome.report.images, outcome.report.skipped.len()), (9, 0));
}

#[test]
fn auto_tries_the_advice_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[8, 8, 8]);
    let settings = |strategy, from: Option<&str>| Settings {
        unfreeze_from: from.map(str::to_owned),
        ..small(&data, strategy)
    };
    let whole = dir.path().join("whole");
    let log = Log::default();
    let (choice, outcome) = auto(&settings, &context(Some(whole.clone())), &log).unwrap();
    assert!(choice.trials.len() >= 2, "{choice:?}");
    assert!(choice.trials.iter().any(|t| t.candidate.strategy == Strategy::Features));
    assert!(choice.trials.windows(2).all(|pair| pair[0].loss <= pair[1].loss));
    assert!(choice.trials.iter().any(|t| t.candidate == choice.chosen));
    assert_eq!(outcome.report.strategy, choice.chosen.strategy);
    assert!(log.says("advice: few images") && log.says("strategy: "));
    let text = fs::read_to_string(whole.join("advice.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["chosen"]["strategy"], choice.chosen.strategy.name());
    assert_eq!(json["advice"]["amount"]["by_class"].as_array().unwrap().len(), 3);

    // The same seed chooses and learns the same.
    let again = dir.path().join("again");
    auto(&settings, &context(Some(again.clone())), &()).unwrap();
    assert!(model_bytes(&whole) == model_bytes(&again));
    let error = auto(&settings, &context(Some(whole)), &()).unwrap_err();
    assert!(matches!(error, LearnError::RunExists { .. }), "{error}");
}

/// What a run keeps of itself, for two that should be the same.
fn model_bytes(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn a_run_with_a_floor_is_resumed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[10, 10, 10]);
    let mut settings = Settings { floor: true, ..small(&data, Strategy::FineTune) };
    (settings.training.epochs, settings.training.learning_rate) = (3, 0.05);
    is_resumed_to_the_same_bytes(&settings);
}

/// Averages, what rests and what is shown depend on how far a run has come.
#[test]
fn a_run_with_averages_is_resumed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[12, 4, 4]);
    let mut settings = small(&data, Strategy::FineTune);
    settings.balance = ClassBalance::Sampling;
    let training = &mut settings.training;
    (training.epochs, training.learning_rate) = (3, 0.01);
    (training.average_best, training.thaw_every) = (2, 1);
    (training.select, training.schedule) = (Select::Auc, ScheduleKind::OneCycle);
    for average in [0.0, 0.9] {
        settings.training.average = average;
        is_resumed_to_the_same_bytes(&settings);
    }
}

/// A run that is stopped after each of its first epochs, and one that is not.
fn is_resumed_to_the_same_bytes(settings: &Settings) {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    train(settings, &context(Some(whole.clone())), &()).unwrap();
    let stop = || Log { stop_after_epochs: Some(1), ..Log::default() };
    let stopped = train(settings, &context(Some(parts.clone())), &stop()).unwrap_err();
    assert!(matches!(stopped, LearnError::Stopped), "{stopped}");
    let resumed = RunContext { resume: true, ..context(Some(parts.clone())) };
    let stopped = train(settings, &resumed, &stop()).unwrap_err();
    assert!(matches!(stopped, LearnError::Stopped), "{stopped}");
    train(settings, &resumed, &()).unwrap();
    assert!(model_bytes(&whole) == model_bytes(&parts));
}

/// Where activations are kept, whether there was room for them and whether they were there before makes
/// no difference, nor does an interruption.
#[test]
fn kept_activations_change_no_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 6]);
    let mut settings = small(&data, Strategy::Partial);
    settings.unfreeze_from = Some("blocks.6".into());
    (settings.training.epochs, settings.training.fixed_views) = (3, 2);
    let run = |name: &str, change: &dyn Fn(RunContext) -> RunContext, watch: &dyn Watch| {
        let folder = dir.path().join(name);
        let outcome = train(&settings, &change(context(Some(folder.clone()))), watch);
        outcome.map(|outcome| (model_bytes(&folder), outcome))
    };
    let cached =
        |context| RunContext { cache: Some(dir.path().join("cache")), workers: 1, ..context };
    let (first, second) = (Log::default(), Log::default());
    let (whole, outcome) = run("cached", &cached, &first).unwrap();
    let stages = |log: &Log| {
        let events = log.events.lock().unwrap();
        let of = |name: &str| {
            let matches =
                |e: &&Event| matches!(e, Event::Begin { stage, .. } if stage.ends_with(name));
            events.iter().filter(matches).count()
        };
        of("activations")
    };
    assert_eq!(stages(&first), 2);
    // Judged over what is kept, an epoch gives what the finished network gives.
    let best = outcome.report.best_epoch.unwrap();
    let val = outcome.report.val.unwrap();
    assert_eq!(outcome.history[best - 1].val_loss, Some(val.loss));
    assert!(run("again", &cached, &second).unwrap().0 == whole);
    assert_eq!(stages(&second), 0, "all was there");
    for (name, budget) in [("memory", 4 << 30), ("some", 300_000), ("nothing", 0)] {
        let change = |context| RunContext { activation_budget: budget, ..context };
        assert!(run(name, &change, &()).unwrap().0 == whole, "{name}");
    }
    let stop = Log { stop_after_epochs: Some(2), ..Log::default() };
    assert!(run("parts", &|context| context, &stop).is_err());
    let resume = |context| RunContext { resume: true, ..context };
    assert!(run("parts", &resume, &()).unwrap().0 == whole);
    // Views that are drawn anew are others.
    settings.training.fixed_views = 0;
    let anew = train(&settings, &context(None), &()).unwrap();
    assert!(anew.history[2].train_loss != outcome.history[2].train_loss);
}

#[test]
fn a_run_with_everything_that_varies_images_is_resumed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[10, 9, 8]);
    let mut settings = small(&data, Strategy::PretrainedInit);
    settings.backbone = "lenet5".into();
    settings.strategy = Strategy::Scratch;
    settings.balance = ClassBalance::Classes;
    settings.training.epochs = 3;
    settings.training.augment = Some(Augment {
        vertical_flip: 0.5,
        quarter_turn: 0.5,
        rotation: 10.0,
        ..Augment::strong()
    });
    let [whole, parts, none] = ["whole", "parts", "none"].map(|name| dir.path().join(name));
    let learned = train(&settings, &context(Some(whole.clone())), &()).unwrap();
    let stop = Log { stop_after_epochs: Some(1), ..Log::default() };
    let stopped = train(&settings, &context(Some(parts.clone())), &stop).unwrap_err();
    assert!(matches!(stopped, LearnError::Stopped), "{stopped}");
    let resumed = RunContext { resume: true, workers: 1, ..context(Some(parts.clone())) };
    train(&read_settings(&parts).unwrap(), &resumed, &()).unwrap();
    assert!(model_bytes(&whole) == model_bytes(&parts));
    // What was left to the run is written down.
    let written = read_settings(&whole).unwrap();
    assert_eq!(
        (written.mirror, written.training.augment),
        (Mirror::Always, settings.training.augment)
    );
    settings.training.augment = Some(Augment::none());
    let plain = train(&settings, &context(Some(none)), &()).unwrap();
    assert_ne!(plain.history[0].train_loss, learned.history[0].train_loss);
}

#[test]
fn settings_from_before_there_were_levels_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = small(dir.path(), Strategy::FineTune);
    settings.training.augment = Some(Augment::light());
    settings.mirror = Mirror::Always;
    let text = toml::to_string_pretty(&settings).unwrap();
    assert!(!text.contains("mirror") && !text.contains("policy"), "{text}");
    assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
}

#[test]
fn views_are_averaged_as_probabilities() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[3, 3, 3]);
    let outcome = train(&small(&data, Strategy::Features), &context(None), &()).unwrap();
    let samples: Vec<_> = refit_data::list_images(std::slice::from_ref(&data)).unwrap();
    let samples: Vec<_> =
        samples.into_iter().map(|path| refit_data::Sample { path, label: 0 }).collect();
    let mut model = outcome.model;
    model.card.temperature = 1.7;
    let judged = |views: usize| {
        let options = RunOptions { views, batch: 4, ..RunOptions::default() };
        let mut rows = Vec::new();
        let each = &mut |output: refit_learn::Output| {
            assert_eq!(output.index, rows.len());
            rows.push(model.probabilities(&output.values));
        };
        model.run(&samples, &[], &options, &(), each).unwrap();
        rows
    };
    let (plain, both) = (judged(1), judged(2));
    let mirrored = |path: &Path| {
        let image = refit_data::decode_file(path, &Default::default()).unwrap();
        let file = dir.path().join("mirrored.png");
        fs::write(&file, refit_data::to_png(&image.flipped_horizontal())).unwrap();
        model.predict_file(&file).unwrap()
    };
    for ((sample, plain), both) in samples.iter().zip(&plain).zip(&both) {
        let other = mirrored(&sample.path);
        for ((a, b), mean) in plain.iter().zip(&other).zip(both) {
            assert!(((a + b) / 2.0 - mean).abs() < 1e-5, "{a} {b} {mean}");
        }
    }
    assert_eq!(judged(10).len(), samples.len());
    let options = RunOptions { views: 11, ..RunOptions::default() };
    let error = model.run(&samples, &[], &options, &(), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "--tta is 11, but must be 1 to 10");
}

#[test]
fn a_trial_that_diverges_does_not_end_auto() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[8, 8, 8]);
    let settings = |strategy: Strategy, from: Option<&str>| {
        let mut settings = small(dir.path(), strategy);
        settings.unfreeze_from = from.map(str::to_owned);
        (settings.training.learning_rate, settings.training.lowest_rate) = (1.0, 1.0);
        settings
    };
    let (choice, outcome) = auto(&settings, &context(None), &()).unwrap();
    assert_eq!(choice.chosen.strategy, Strategy::Features, "{choice:?}");
    assert!(outcome.report.val.is_some());
}

#[test]
fn without_images_to_spare_there_are_no_trials() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[1, 1]);
    let settings = |strategy, _: Option<&str>| small(dir.path(), strategy);
    let log = Log::default();
    let (choice, _) = auto(&settings, &context(None), &log).unwrap();
    assert!(choice.trials.is_empty() && log.says("no trials: "), "{choice:?}");
}

#[test]
fn without_time_for_more_auto_is_features() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[6, 6]);
    let settings = |strategy, _: Option<&str>| Settings {
        time_budget: Some(1e-3),
        ..small(dir.path(), strategy)
    };
    let log = Log::default();
    let (choice, outcome) = auto(&settings, &context(None), &log).unwrap();
    assert_eq!(choice.chosen.strategy, Strategy::Features);
    assert!(choice.trials.is_empty() && log.says("--time-budget allows more"));
    assert_eq!(outcome.report.strategy, Strategy::Features);
}

#[test]
fn with_a_floor_training_does_not_end_below_its_start() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[10, 10, 10]);
    let mut settings = Settings { floor: true, ..small(dir.path(), Strategy::FineTune) };
    // Steps that ruin everything.
    settings.training.learning_rate = 1.0;
    settings.training.lowest_rate = 1.0;
    let outcome = train(&settings, &context(None), &()).unwrap();
    let features = train(&small(dir.path(), Strategy::Features), &context(None), &()).unwrap();
    let top1 = |outcome: &Outcome| outcome.report.val.as_ref().unwrap().top1;
    assert!(top1(&outcome) >= top1(&features));
    assert_eq!(outcome.report.best_epoch, Some(0));
    assert_eq!(outcome.history.len(), 2);
    let without = Settings { floor: false, ..settings };
    let ruined = train(&without, &context(None), &()).ok();
    assert!(ruined.is_none_or(|ruined| top1(&ruined) < top1(&outcome)));
}

#[test]
fn advice_needs_no_batch_norms_and_no_old_classes() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 6, 1]);
    let (mut g, x) = Builder::new("plain", Shape::map(3, 32, 32));
    let y = g.conv("conv", x, Conv { bias: true, ..Conv::k3(8).stride(2) });
    let y = g.relu("relu", y);
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("fc", y, 3);
    let network = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Default::default());
    let lite = zoo::find("efficientnet_lite0").unwrap();
    let card = Card { classes: vec![], ..Model::random(lite, 0, &Default::default()).card };
    let file = dir.path().join("plain.safetensors");
    Model { network, card }.save(&file).unwrap();
    let settings = Settings {
        weights: Some(file),
        backbone: "plain".into(),
        ..small(&data, Strategy::Features)
    };
    let advice = advise(&settings, &context(None), &()).unwrap();
    assert!(advice.similarity.is_none() && advice.energy.is_none() && advice.leep.is_none());
    assert_eq!(advice.transfer.len(), 1);
    assert!(advice.conclusion.rule.contains("not known"), "{:?}", advice.conclusion);
    let tiny = dir.path().join("tiny.safetensors");
    self::tiny(["a", "b", "c"]).save(&tiny).unwrap();
    let settings = Settings { weights: Some(tiny), backbone: "tiny".into(), ..settings };
    let advice = advise(&settings, &context(None), &()).unwrap();
    let similarity = advice.similarity.unwrap();
    assert_eq!((similarity.divergence.len(), similarity.own_reference), (1, false));
    assert!(similarity.distance.is_finite());
}

#[test]
fn trained_bodies_are_calibrated_and_tell_what_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let (data, val) = (dir.path().join("data"), dir.path().join("val"));
    pictures(&data, &[20, 20, 20]);
    pictures(&val, &[18, 18, 18]);
    let file = dir.path().join("tiny.safetensors");
    tiny(["a", "b", "c"]).save(&file).unwrap();
    let mut settings = Settings {
        weights: Some(file),
        backbone: "tiny".into(),
        val: Some(val.clone()),
        ..small(&data, Strategy::FineTune)
    };
    settings.training.learning_rate = 0.05;
    let run = dir.path().join("run");
    let Outcome { model, report, .. } = train(&settings, &context(Some(run.clone())), &()).unwrap();
    assert_eq!(report.calibration.fitted_on, FittedOn::Validation);
    assert_eq!(report.calibration.images, 54);
    let unknown = report.unknown.unwrap();
    assert!(unknown.val.unwrap().unknown <= 0.05, "{unknown:?}");
    let back = Model::load(&run.join("model.safetensors"), &Default::default()).unwrap();
    assert_eq!(back.card.unknown, model.card.unknown);
    assert_eq!(back.card.temperature, model.card.temperature);
    assert_ne!(model.card.temperature, 1.0);

    // The validation images judged by the model alone: what the threshold was fitted on.
    let judged = back.evaluate(&val, &RunOptions::default(), &()).unwrap();
    assert_eq!(judged.unknown.unwrap(), unknown.val.unwrap());
    let before = judged.metrics.uncalibrated.as_ref().unwrap();
    assert!(judged.metrics.loss <= before.loss + 0.01, "{judged:?}");
    let one = val.join("green/0.bmp");
    let prediction = back.predict(&one).unwrap();
    assert_eq!(prediction.probabilities, back.predict_file(&one).unwrap());
    assert!(prediction.score.unwrap() > 0.0);

    // A file from before has neither; a damaged one is refused in words.
    let write = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut card = serde_json::to_value(&back.card).unwrap();
        change(&mut card);
        let path = dir.path().join("changed.safetensors");
        refit_net::model_file::save(&path, &back.network, &card).unwrap();
        Model::load(&path, &Default::default())
    };
    let old = write(&|card| drop(card.as_object_mut().unwrap().remove("unknown"))).unwrap();
    assert_eq!(old.predict(&one).unwrap().score, None);
    let error = write(&|card| card["unknown"]["distance"]["dim"] = 4.into()).unwrap_err();
    assert!(error.to_string().contains("damaged: of what is unknown, "), "{error}");
    assert!(error.hint().unwrap().contains("copy the file again"));
    let error = write(&|card| card["unknown"]["held-out"] = "AAA=".into()).unwrap_err();
    assert!(error.to_string().contains("damaged: numbers in Base64: 2 bytes"), "{error}");

    // Too few validation images: nothing is fitted, and that is said.
    let log = Log::default();
    let settings = Settings { val: None, val_fraction: Some(0.2), ..settings };
    let outcome = train(&settings, &context(None), &log).unwrap();
    assert_eq!(outcome.report.calibration.fitted_on, FittedOn::Nothing);
    assert_eq!((outcome.model.card.temperature, outcome.model.card.unknown), (1.0, None));
    assert!(log.says("not calibrated"));
}

/// Everything of a report but the time that it took.
fn timeless(mut report: Report) -> Report {
    report.seconds = Seconds::default();
    report.folds.iter_mut().flat_map(|f| &mut f.each).for_each(|fold| fold.seconds = 0.0);
    report
}

#[test]
fn folds_hold_every_image_out_once_and_the_model_learns_from_all() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[7, 6, 8]);
    fs::write(data.join("red/broken.bmp"), "nothing").unwrap();
    let run = dir.path().join("run");
    let settings = Settings { folds: Some(3), repeats: 2, ..small(&data, Strategy::Features) };
    let cache = Some(dir.path().join("cache"));
    let context = |folder| RunContext { cache: cache.clone(), ..context(folder) };
    let outcome = train(&settings, &context(Some(run.clone())), &()).unwrap();
    let folds = outcome.report.folds.as_ref().unwrap();
    assert_eq!((folds.each.len(), folds.metrics.samples, folds.epochs), (6, 21, None));
    assert!(folds.each.iter().all(|fold| fold.images == 7 && fold.others == 14));
    // Wilson's for 21 images, not for 42.
    let width = folds.interval95[1] - folds.interval95[0];
    assert!(
        folds.top1 > 0.6 && width > 2.0 * 1.6 * (folds.top1 * (1.0 - folds.top1) / 21.0).sqrt()
    );
    assert!(outcome.report.val.is_none() && outcome.report.skipped.len() == 1);
    let mut paths: Vec<_> = outcome.predictions.iter().map(|p| &p.path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!((paths.len(), outcome.predictions.len()), (21, 21));
    assert!(outcome.predictions.iter().all(|p| p.split == Split::HeldOut && p.fold.is_some()));
    let learned = &outcome.model.card.data.as_ref().unwrap();
    assert_eq!((learned.train.clone(), learned.val), (vec![7, 6, 8], 0));
    assert_eq!(Record::read(&run).unwrap().predictions.unwrap(), outcome.predictions);

    // The model is the one of a run on the same images without any kept apart.
    let bytes = model_bytes(&run);
    let again = dir.path().join("again");
    fs::create_dir_all(again.join("folds")).unwrap();
    for name in ["settings.toml", "data.txt", "folds/1.json", "folds/2.json", "folds/5.json"] {
        fs::copy(run.join(name), again.join(name)).unwrap();
    }
    let resumed = RunContext { resume: true, ..context(Some(again.clone())) };
    let outcome_again = train(&read_settings(&again).unwrap(), &resumed, &()).unwrap();
    assert_eq!(timeless(outcome_again.report), timeless(outcome.report));
    assert!(bytes == model_bytes(&again), "another model");
    fs::write(again.join("folds/2.json"), "{}").unwrap();
    let error = train(&read_settings(&again).unwrap(), &resumed, &()).unwrap_err();
    assert!(error.to_string().contains("is damaged: folds/2.json: "), "{error}");
    assert!(error.hint().unwrap().contains("train --resume"), "{error}");
}

#[test]
fn folds_tell_for_how_many_epochs_to_train() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 6]);
    let mut settings = Settings { folds: Some(3), ..small(&data, Strategy::FineTune) };
    (settings.training.epochs, settings.floor) = (3, true);
    let cache = Some(dir.path().join("cache"));
    let context = RunContext { cache, ..context(None) };
    let outcome = train(&settings, &context, &()).unwrap();
    let folds = outcome.report.folds.unwrap();
    let mut best: Vec<usize> = folds.each.iter().map(|fold| fold.best_epoch.unwrap()).collect();
    best.sort_unstable();
    assert_eq!(folds.epochs, Some(best[1]));
    assert_eq!(outcome.history.len(), best[1]);
    assert_eq!(outcome.report.best_epoch, Some(best[1]));
}

#[test]
fn folds_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[6, 3]);
    let refused = |folds, repeats, strategy| {
        let settings = Settings { folds, repeats, ..small(&data, strategy) };
        let error = train(&settings, &context(None), &()).unwrap_err();
        format!("{error}; {}", error.hint().unwrap())
    };
    assert_eq!(
        refused(Some(4), 1, Strategy::Features),
        "class `green` has 3 readable images, too few for 4 folds; use --folds 3, or add images of \
         this class"
    );
    for (folds, repeats, strategy, says) in [
        (Some(1), 1, Strategy::Features, "--folds is 1, but must be 2 to 100"),
        (Some(3), 0, Strategy::Features, "--repeats is 0, but must be 1 to 100"),
        (None, 2, Strategy::Features, "--repeats is 2, but must be left out without --folds"),
        (Some(3), 1, Strategy::AsIs, "--folds is 3, but must be left out with --strategy as-is"),
    ] {
        assert!(refused(folds, repeats, strategy).starts_with(says), "{says}");
    }
}

/// Fixed views come in turn, the plain one among them.
#[test]
fn the_sheet_of_partial_shows_its_fixed_views() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[4, 4]);
    let mut settings = small(dir.path(), Strategy::Partial);
    settings.training.fixed_views = 3;
    let shown = preview(&settings, 2, 6, &context(None), &()).unwrap();
    for row in &shown {
        let pixels: Vec<&[u8]> = row.views.iter().map(|view| view.pixels()).collect();
        assert_eq!(pixels[..3], pixels[3..]);
        assert_eq!(pixels[..3].iter().filter(|view| **view == row.plain.pixels()).count(), 1);
    }
}
/// Grey pictures whose brightness says the class, but not always: `per_class` of each of two.
fn shades(folder: &Path, per_class: [usize; 2], seed: u64) {
    for (class, count) in per_class.into_iter().enumerate() {
        let class_folder = folder.join(["common", "rare"][class]);
        fs::create_dir_all(&class_folder).unwrap();
        for i in 0..count {
            let mut stream = Stream::new(seed, "shade", &[class as u64, i as u64]);
            let level = [90.0, 130.0][class] + 80.0 * (stream.uniform() - 0.5);
            let (w, h) = (32_u32, 32_u32);
            let size = 54 + w * h * 3;
            let mut bytes = b"BM".to_vec();
            for value in [size, 0, 54, 40, w, h, 1 | 24 << 16, 0, w * h * 3, 2835, 2835, 0, 0] {
                bytes.extend(value.to_le_bytes());
            }
            for _ in 0..w * h {
                bytes.extend([(level + 20.0 * stream.uniform()) as u8; 3]);
            }
            fs::write(class_folder.join(format!("{i}.bmp")), bytes).unwrap();
        }
    }
}

#[test]
fn rare_classes_are_found_by_adjusted_logits() {
    let dir = tempfile::tempdir().unwrap();
    let (data, val) = (dir.path().join("data"), dir.path().join("val"));
    shades(&data, [60, 6], 1);
    shades(&val, [20, 20], 2);
    let run = |balance, head| {
        let mut settings = Settings { balance, head, ..small(&data, Strategy::Features) };
        settings.val = Some(val.clone());
        settings.training.epochs = 10;
        train(&settings, &context(None), &()).unwrap()
    };
    let rare = |outcome: &Outcome| {
        let val = outcome.report.val.as_ref().unwrap();
        (val.per_class[1].recall.unwrap(), val.balanced_accuracy)
    };
    for head in [HeadKind::Linear, HeadKind::Mlp { hidden: 16 }] {
        let [plain, adjusted] = [ClassBalance::Images, ClassBalance::Logits].map(|b| run(b, head));
        let ((few, all), (more, better)) = (rare(&plain), rare(&adjusted));
        assert!(more > few + 0.1 && better > all, "{head}: {few} {more}, {all} {better}");
        if head == HeadKind::Linear {
            // Solved heads differ by the logarithms of the classes' shares.
            let of =
                |outcome: &Outcome, name: &str| outcome.model.network.parameters()[name].to_vec();
            let weights = [&plain, &adjusted].map(|o| of(o, "classifier.weight"));
            assert_eq!(weights[0], weights[1]);
            let [a, b] = [&plain, &adjusted].map(|o| of(o, "classifier.bias"));
            for (class, share) in [60.0 / 66.0, 6.0 / 66.0_f32].into_iter().enumerate() {
                assert!((a[class] - b[class] - share.ln()).abs() < 1e-5, "{a:?} {b:?}");
            }
        }
    }
}

/// The rate that was looked for and the batch that was chosen are settings like others: a run that goes
/// on does not look again, and one that is told them is the same.
#[test]
fn what_is_found_is_written_and_not_looked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[12, 5, 4]);
    let mut partial = small(&data, Strategy::Partial);
    partial.unfreeze_from = Some("blocks.6.0.conv_pwl".into());
    let scratch = Settings { backbone: "lenet5".into(), ..small(&data, Strategy::Scratch) };
    let mlp = Settings { head: HeadKind::Mlp { hidden: 8 }, ..small(&data, Strategy::Features) };
    for mut settings in [partial, scratch, mlp] {
        let strategy = settings.strategy;
        settings.balance = ClassBalance::Logits;
        let training = &mut settings.training;
        (training.epochs, training.focal) = (3, 2.0);
        (training.find_learning_rate, training.find_batch) = (true, true);
        let folder = |name: &str| dir.path().join(format!("{name}-{strategy}"));
        let (whole, parts, told) = (folder("whole"), folder("parts"), folder("told"));
        train(&settings, &context(Some(whole.clone())), &()).unwrap();

        let stop = Log { stop_after_epochs: Some(1), ..Log::default() };
        let stopped = train(&settings, &context(Some(parts.clone())), &stop).unwrap_err();
        assert!(matches!(stopped, LearnError::Stopped), "{stopped}");
        assert!(stop.says("learning rate ") && stop.says("batch 8: 1"));
        let written = read_settings(&parts).unwrap();
        assert!(!written.training.find_learning_rate && !written.training.find_batch);
        let log = Log::default();
        let resumed = RunContext { resume: true, workers: 1, ..context(Some(parts.clone())) };
        train(&written, &resumed, &log).unwrap();
        assert!(!log.says("learning rate "));
        assert!(model_bytes(&whole) == model_bytes(&parts), "{strategy}");

        let record = Record::read(&parts).unwrap();
        let rates = record.rates.unwrap();
        assert_eq!(rates.rate, Some(written.training.learning_rate), "{strategy}");
        assert!(rates.points.len() > 10 && rates.points[0].loss == rates.points[0].before);
        assert!(rates.points.windows(2).all(|w| w[0].rate < w[1].rate));
        train(&written, &context(Some(told.clone())), &()).unwrap();
        assert!(model_bytes(&whole) == model_bytes(&told), "{strategy}");
        assert_eq!(Record::read(&told).unwrap().rates, None);
    }
}

#[test]
fn a_machine_of_little_memory_takes_small_batches() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[200, 200]);
    let mut settings = Settings { backbone: "lenet5".into(), ..small(&data, Strategy::Scratch) };
    settings.training.epochs = 1;
    settings.training.find_batch = true;
    for (memory, batch) in [(None, 16), (Some(1 << 34), 16), (Some(1 << 10), 8)] {
        let log = Log::default();
        let outcome = train(&settings, &RunContext { memory, ..context(None) }, &log).unwrap();
        assert_eq!(outcome.model.card.settings.unwrap().training.batch, batch, "{memory:?}");
        assert!(log.says(&format!("batch {batch}: 320 training images give")));
    }
}

/// A focal loss with smoothing, mixtures and weights trains, and is another loss.
#[test]
fn focal_losses_train() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[10, 9, 4]);
    let mut settings = Settings { backbone: "lenet5".into(), ..small(&data, Strategy::Scratch) };
    settings.balance = ClassBalance::Classes;
    settings.training.augment = Some(Augment::strong());
    let mut losses = [0.0, 1.0, 2.0].map(|gamma| {
        settings.training.focal = gamma;
        train(&settings, &context(None), &()).unwrap().history[0].train_loss
    });
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
    losses.reverse();
    assert!(losses.is_sorted(), "{losses:?}");
}
