//! Searches on small pictures made here.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/pictures.rs"]
mod pictures;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use refit_learn::{
    Event, Hint, LearnError, Mirror, OptimizerKind, Parameter, Record, RunContext, Rung, Settings,
    Strategy, TuneOptions, Values, Watch, read_search, search, train, tune,
};

use pictures::{picture, pictures};

/// Keeps what it is told, and asks to stop once a note begins so.
#[derive(Default)]
struct Log {
    told: Mutex<Vec<String>>,
    until: Option<&'static str>,
    stops: AtomicBool,
}

impl Watch for Log {
    fn event(&self, event: Event) {
        let (Event::Note(text) | Event::Warning(text)) = event else { return };
        if self.until.is_some_and(|until| text.starts_with(until)) {
            self.stops.store(true, Ordering::SeqCst);
        }
        self.told.lock().unwrap().push(text);
    }

    fn stops(&self) -> bool {
        self.stops.load(Ordering::SeqCst)
    }
}

impl Log {
    fn until(until: &'static str) -> Self {
        Self { until: Some(until), ..Self::default() }
    }

    fn says(&self, part: &str) -> bool {
        self.told.lock().unwrap().iter().any(|text| text.contains(part))
    }
}

/// Data of three classes, and where features are kept.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new(per_class: &[usize]) -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        pictures(&scene.path("data"), per_class);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> Settings {
        let settings = Settings::new(self.path("data"), Strategy::Features);
        Settings { seed: 5, mirror: Mirror::Always, ..settings }
    }

    fn context(&self, run: &str, workers: usize) -> RunContext {
        RunContext {
            folder: Some(self.path(run)),
            workers,
            cache: Some(self.path("cache")),
            ..RunContext::default()
        }
    }

    fn again(&self, run: &str, workers: usize) -> RunContext {
        RunContext { resume: true, ..self.context(run, workers) }
    }
}

/// Three setups, two epochs, in the upper part of the network.
fn few() -> TuneOptions {
    TuneOptions {
        trials: 3,
        depth: Some("blocks.6".into()),
        search: vec![Parameter::LearningRate, Parameter::Augment],
        epochs: Some(2),
        batch: Some(4),
        ..TuneOptions::default()
    }
}

/// The lines of a journal without the time that trials took.
fn journal(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("trials.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("seconds").unwrap();
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn a_search_that_was_stopped_goes_on_to_the_same_end() {
    let scene = Scene::new(&[8, 8, 8]);
    let whole = tune(&scene.settings(), &few(), &scene.context("whole", 2), &()).unwrap();
    let order: Vec<(usize, Rung)> =
        whole.search.trials.iter().map(|t| (t.number, t.rung)).collect();
    let thirds = [1, 2, 3].map(|n| (n, Rung::Third));
    assert_eq!(order[..4], [&[(0, Rung::Whole)], &thirds[..]].concat()[..]);
    assert!(order.len() == 5 && order[4].1 == Rung::Whole, "{order:?}");
    assert_eq!(whole.search.trials[1].epochs, 1);
    assert_eq!(whole.search.trials[4].epochs, 2);

    // Stopped in a trial, and again in the run behind the search.
    let settings = &scene.settings();
    let first = tune(settings, &few(), &scene.context("parts", 1), &Log::until("trial 2:"));
    assert!(matches!(first, Err(LearnError::Stopped)), "{first:?}");
    assert_eq!(journal(&scene.path("parts")).len(), 3);
    let unfinished = Record::read(&scene.path("parts")).unwrap_err();
    assert!(unfinished.hint().unwrap().contains("refit tune --resume"), "{unfinished}");
    let (settings, options) = read_search(&scene.path("parts")).unwrap();
    assert_eq!(options, few());
    let second = tune(&settings, &options, &scene.again("parts", 2), &Log::until("the best"));
    // A head that is solved for has no step to stop at.
    let trains_body = whole.outcome.report.strategy.trains_body();
    assert_eq!(matches!(second, Err(LearnError::Stopped)), trains_body, "{second:?}");
    let parts = tune(&settings, &options, &scene.again("parts", 2), &()).unwrap();

    assert_eq!(journal(&scene.path("whole")), journal(&scene.path("parts")));
    assert_eq!(whole.search.best, parts.search.best);
    let model = |run: &str| fs::read(scene.path(run).join("model.safetensors")).unwrap();
    assert!(model("whole") == model("parts"));
    // The folder tells all of it again.
    let record = Record::read(&scene.path("parts")).unwrap();
    assert_eq!(record.search.as_ref(), Some(&parts.search));
    assert_eq!(record.settings.strategy, parts.search.setup().strategy);
    // Done is done.
    let trials = parts.search.trials.clone();
    let done = tune(&settings, &options, &scene.again("parts", 2), &()).unwrap();
    assert_eq!(done.search.trials, trials);
    assert!(model("whole") == model("parts"));
}

#[test]
fn a_search_alone_writes_no_run() {
    let scene = Scene::new(&[6, 6]);
    fs::write(scene.path("data/blue/broken.bmp"), "nothing").unwrap();
    let options = TuneOptions { trials: 1, epochs: Some(1), ..few() };
    let log = Log::default();
    let found = search(&scene.settings(), &options, &scene.context("run", 2), &log).unwrap();
    assert!(log.says("broken.bmp is left out"));
    // One epoch is not divided.
    let rungs: Vec<Rung> = found.trials.iter().map(|trial| trial.rung).collect();
    assert_eq!(rungs, [Rung::Whole, Rung::Whole]);
    assert!(!scene.path("run/settings.toml").exists());
    // Neither a run nor a search begins where there is one.
    for again in [
        train(&scene.settings(), &scene.context("run", 2), &()).unwrap_err(),
        search(&scene.settings(), &options, &scene.context("run", 2), &()).unwrap_err(),
    ] {
        assert!(matches!(again, LearnError::RunExists { .. }), "{again}");
    }
    // Other images than the trials saw.
    let (settings, options) = read_search(&scene.path("run")).unwrap();
    picture(&scene.path("data/blue/more.bmp"), 0, 77);
    let changed = tune(&settings, &options, &scene.again("run", 2), &()).unwrap_err();
    assert!(matches!(changed, LearnError::DataChanged { .. }), "{changed}");
}

#[test]
fn a_damaged_journal_is_refused_by_its_line() {
    let scene = Scene::new(&[5, 5]);
    let options = TuneOptions { trials: 2, epochs: Some(1), ..few() };
    let context = scene.context("run", 2);
    search(&scene.settings(), &options, &context, &()).unwrap();
    let file = scene.path("run/trials.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let refused = |text: String| {
        fs::write(&file, text).unwrap();
        let error = search(&scene.settings(), &options, &scene.again("run", 2), &()).unwrap_err();
        assert!(error.hint().unwrap().contains("and all after it"), "{error:?}");
        error.to_string()
    };
    let cut = format!("{}\n{}", lines[0], &lines[1][..30]);
    assert!(refused(cut).contains("line 2 of"));
    let swapped = format!("{}\n{}\n", lines[0], lines[2]);
    assert!(refused(swapped).ends_with("it is trial 2, where trial 1 is due"));
    let more = format!("{whole}{}\n", lines[2]);
    assert!(refused(more).contains("line 4 of"));
    let fewer = whole.replacen("\"losses\":[", "\"losses\":[0.5,", 1);
    assert!(refused(fewer).contains("losses of 2 images held out"));
    // Without the last line the trial is made again, the same.
    fs::write(&file, format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    search(&scene.settings(), &options, &scene.again("run", 2), &()).unwrap();
    let again = fs::read_to_string(&file).unwrap();
    let losses = |text: &str| text[text.rfind("\"losses\"").unwrap()..].to_owned();
    assert_eq!(losses(&again), losses(&whole));
}

#[test]
fn what_diverges_ends_no_search() {
    let scene = Scene::new(&[5, 5]);
    let given = Values {
        optimizer: Some(OptimizerKind::Sgd),
        learning_rate: Some(1.0),
        weight_decay: Some(1e30),
        ..Values::default()
    };
    let options = TuneOptions { trials: 2, search: vec![Parameter::Average], given, ..few() };
    let log = Log::default();
    let found = search(&scene.settings(), &options, &scene.context("run", 2), &log).unwrap();
    assert!(log.says("diverged"));
    let [features, first, second] = &found.trials[..] else { panic!("{found:?}") };
    assert!(features.loss.is_finite());
    assert!(first.loss.is_infinite() && second.loss.is_infinite(), "{found:?}");
    assert_eq!(found.best, 0);
    assert_eq!(found.best_settings().strategy, Strategy::Features);
    // What was not finite is read again.
    search(&scene.settings(), &options, &scene.again("run", 2), &()).unwrap();
}

#[test]
fn classes_of_one_image_leave_features() {
    let scene = Scene::new(&[1, 1]);
    let log = Log::default();
    let settings = Settings { val_fraction: Some(0.5), ..scene.settings() };
    let tuned = tune(&settings, &few(), &scene.context("run", 2), &log).unwrap();
    assert!(log.says("no class has an image to spare"));
    assert!(tuned.search.trials.is_empty());
    assert_eq!(tuned.outcome.report.strategy, Strategy::Features);
    assert!(Record::read(&scene.path("run")).unwrap().search.unwrap().ranked().is_empty());
}

#[test]
fn a_time_budget_ends_the_search() {
    let scene = Scene::new(&[6, 6]);
    let settings = Settings { time_budget: Some(0.01), ..scene.settings() };
    let log = Log::default();
    let found = search(&settings, &few(), &scene.context("run", 2), &log).unwrap();
    assert_eq!(found.trials.len(), 1);
    assert!(log.says("the time budget ends the search after 0 of 3 setups"));
}

#[test]
fn options_out_of_range_are_refused() {
    let scene = Scene::new(&[5, 5]);
    let refused = |options: TuneOptions| {
        search(&scene.settings(), &options, &scene.context("run", 2), &()).unwrap_err().to_string()
    };
    assert_eq!(refused(TuneOptions { trials: 0, ..few() }), "--trials is 0, but must be 1 to 1000");
    let given = Values { smoothing: Some(1.5), ..Values::default() };
    assert!(refused(TuneOptions { given, ..few() }).starts_with("--label-smoothing is 1.5"));
    let depth = Some("blocks.99".into());
    assert!(refused(TuneOptions { depth, ..few() }).contains("blocks.99"));
    assert!(!scene.path("run").exists());
}
