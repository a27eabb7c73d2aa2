//! Students that learn from teachers, on small pictures made here.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/pictures.rs"]
mod pictures;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use refit_data::Augment;
use refit_learn::shallow::Learner;
use refit_learn::{
    ALONE, Card, Distillation, Event, LearnError, Mirror, Model, Record, RunContext, Settings,
    Strategy, Watch, distill_into, train,
};
use refit_net::{BatchNorm, Builder, Conv, Network, Shape, zoo};

use pictures::pictures;

const CLASSES: [&str; 3] = ["blue", "green", "red"];

/// Keeps what it is told, and asks to stop after so many epochs.
#[derive(Default)]
struct Log {
    told: Mutex<Vec<String>>,
    epochs: AtomicUsize,
    until: Option<usize>,
}

impl Watch for Log {
    fn event(&self, event: Event) {
        let (Event::Note(text) | Event::Warning(text)) = event else { return };
        if text.starts_with("epoch ") {
            self.epochs.fetch_add(1, Ordering::SeqCst);
        }
        self.told.lock().unwrap().push(text);
    }

    fn stops(&self) -> bool {
        self.until.is_some_and(|n| self.epochs.load(Ordering::SeqCst) >= n)
    }
}

impl Log {
    fn told(&self, part: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|text| text.contains(part)).count()
    }
}

/// A small network of its own name, as a model file.
fn network(file: &Path, name: &str, channels: usize, side: usize, classes: &[&str]) {
    let (mut g, x) = Builder::new(name, Shape::map(3, side, side));
    let y = g.conv("stem", x, Conv::k3(channels).stride(2));
    let y = g.batch_norm("stem_norm", y, BatchNorm::default());
    let y = g.relu("stem_relu", y);
    let y = g.conv("conv", y, Conv::k3(2 * channels).stride(2));
    let y = g.batch_norm("norm", y, BatchNorm::default());
    let y = g.relu("relu", y);
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("fc", y, classes.len());
    let network = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Default::default());
    let lite = zoo::find("efficientnet_lite0").unwrap();
    let card = Model::random(lite, 0, &Default::default()).card;
    let preprocess = refit_data::Preprocess { size: side, ..card.preprocess };
    let classes = classes.iter().map(|class| (*class).to_owned()).collect();
    Model { network, card: Card { classes, preprocess, ..card } }.save(file).unwrap();
}

/// Pictures of three classes, a teacher that learned them, and a student that did not.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        pictures(&scene.path("data"), &[8, 8, 8]);
        network(&scene.path("start"), "teacher_net", 8, 32, &CLASSES);
        network(&scene.path("student"), "student_net", 5, 24, &CLASSES);
        let mut settings = scene.settings("teacher_net", "start");
        settings.distillation = None;
        settings.training.epochs = 12;
        train(&settings, &scene.context("teacher"), &()).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn teacher(&self) -> PathBuf {
        self.path("teacher/model.safetensors")
    }

    fn settings(&self, backbone: &str, weights: &str) -> Settings {
        let mut settings = Settings {
            backbone: backbone.into(),
            weights: Some(self.path(weights)),
            seed: 3,
            mirror: Mirror::Always,
            distillation: Some(Distillation::of(vec![self.teacher()])),
            ..Settings::new(self.path("data"), Strategy::PretrainedInit)
        };
        settings.training.augment = Some(Augment::light());
        settings.training.epochs = 3;
        settings.training.batch = 5;
        settings.training.fixed_views = 2;
        settings
    }

    /// A student whose loss has every part there is.
    fn student(&self) -> Settings {
        let mut settings = self.settings("student_net", "student");
        let asked = settings.distillation.as_mut().unwrap();
        (asked.decoupled, asked.hints, asked.attention, asked.relational) = (0.1, 0.5, 0.5, 0.5);
        settings
    }

    fn context(&self, run: &str) -> RunContext {
        RunContext {
            folder: Some(self.path(run)),
            resume: false,
            workers: 2,
            cache: None,
            ..RunContext::default()
        }
    }

    fn model(&self, run: &str) -> Vec<u8> {
        fs::read(self.path(run).join("model.safetensors")).unwrap()
    }
}

#[test]
fn teachers_are_asked_once_and_leave_no_trace_in_the_student() {
    let scene = Scene::new();
    let settings = scene.student();
    let cached = |run: &str, budget| RunContext {
        cache: Some(scene.path("cache")),
        activation_budget: budget,
        ..scene.context(run)
    };
    let first = Log::default();
    let outcome = train(&settings, &cached("first", 1 << 30), &first).unwrap();
    // 8 of each class, of which 2 are validation images.
    assert_eq!(first.told("36 views of 18 images, 36 computed and 0 kept before"), 1);
    assert_eq!(first.told("asked of"), 0, "in epochs no teacher runs");
    let names: Vec<&String> = outcome.model.network.parameters().keys().collect();
    let student = Model::load(&scene.path("student"), &Default::default()).unwrap();
    assert_eq!(names, student.network.parameters().keys().collect::<Vec<_>>());
    assert_eq!(outcome.model.network.graph(), student.network.graph());

    let second = Log::default();
    train(&settings, &cached("second", 1 << 30), &second).unwrap();
    assert_eq!(second.told("36 views of 18 images, 0 computed and 36 kept before"), 1);
    assert!(scene.model("first") == scene.model("second"));

    // Without room it runs in every epoch, with the same result.
    let none = Log::default();
    let context = RunContext { cache: None, ..cached("none", 0) };
    train(&settings, &context, &none).unwrap();
    assert_eq!(none.told("asked of 18 views again"), 3);
    assert!(scene.model("first") == scene.model("none"));
}

#[test]
fn a_stopped_student_ends_as_if_it_had_not_been_and_threads_change_nothing() {
    let scene = Scene::new();
    let settings = scene.student();
    train(&settings, &scene.context("whole"), &()).unwrap();
    let stops = Log { until: Some(1), ..Log::default() };
    let stopped = train(&settings, &scene.context("parts"), &stops);
    assert!(matches!(stopped, Err(LearnError::Stopped)));
    let goes_on = RunContext { resume: true, workers: 1, ..scene.context("parts") };
    train(&settings, &goes_on, &()).unwrap();
    assert!(scene.model("whole") == scene.model("parts"));
}

#[test]
fn a_student_stands_beside_teachers_and_itself_alone() {
    let scene = Scene::new();
    let mut settings = scene.student();
    settings.distillation.as_mut().unwrap().teachers.push(scene.teacher());
    let (outcome, distilled) = distill_into(&settings, &scene.context("run"), true, &()).unwrap();
    assert_eq!(distilled.teachers.len(), 3, "two, and both together");
    let together = distilled.teachers[2].metrics.as_ref().unwrap();
    let teacher = distilled.teachers[0].metrics.as_ref().unwrap();
    // The same teacher twice says the same.
    assert_eq!(together.top1, teacher.top1);
    assert_eq!(distilled.images, 6);
    assert_eq!(distilled.student.metrics, outcome.report.val);
    assert!(distilled.student.multiply_adds < distilled.teachers[0].multiply_adds);
    let record = Record::read(&scene.path("run")).unwrap();
    assert_eq!(record.distilled.unwrap().student.network, "student_net");
    let alone = Record::read(&scene.path("run").join(ALONE)).unwrap();
    assert_eq!(alone.settings.distillation, None);
    assert_eq!(alone.report.val.map(|m| m.top1), distilled.alone.unwrap().metrics.map(|m| m.top1));
}

/// Of images without labels, what the teacher says is learned, and nothing else.
#[test]
fn images_without_labels_teach() {
    let scene = Scene::new();
    let flat = scene.path("flat");
    fs::create_dir(&flat).unwrap();
    for class in CLASSES {
        for (i, file) in fs::read_dir(scene.path("data").join(class)).unwrap().enumerate() {
            fs::copy(file.unwrap().path(), flat.join(format!("{i}-{class}.png"))).unwrap();
        }
    }
    let settings =
        Settings { data: flat.clone(), val: Some(scene.path("data")), ..scene.student() };
    let (outcome, distilled) =
        distill_into(&settings, &scene.context("flat-run"), true, &()).unwrap();
    assert!(distilled.without_labels && distilled.alone.is_none());
    assert_eq!(outcome.report.classes, CLASSES);
    assert_eq!(distilled.images, 24);

    // Labels that are ignored do not matter: the true ones or all wrong.
    let mut ignored = scene.student();
    ignored.distillation.as_mut().unwrap().ignore_labels = true;
    ignored.val = Some(scene.path("data"));
    let wrong = scene.path("wrong");
    for (class, other) in CLASSES.iter().zip(["green", "red", "blue"]) {
        let from = scene.path("data").join(class);
        fs::create_dir_all(wrong.join(other)).unwrap();
        for file in fs::read_dir(&from).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, wrong.join(other).join(path.file_name().unwrap())).unwrap();
        }
    }
    ignored.data = wrong;
    let log = Log::default();
    let outcome = train(&ignored, &scene.context("ignored"), &log).unwrap();
    assert_eq!(log.told("24 images to learn from without labels"), 1);
    let teacher = Model::load(&scene.teacher(), &Default::default()).unwrap();
    let judged = teacher.evaluate(&scene.path("data"), &Default::default(), &()).unwrap();
    // What the teacher takes images for is what counts, not the folders.
    let found = outcome.model.card.data.unwrap().train;
    assert_eq!(
        found,
        judged.metrics.confusion.rows().iter().fold(vec![0; 3], |sums, row| {
            sums.iter().zip(row).map(|(sum, n)| sum + *n as usize).collect()
        })
    );

    // Those that are judged by are left out.
    ignored.data = scene.path("data");
    let log = Log::default();
    let error = train(&ignored, &scene.context("judged"), &log).unwrap_err();
    assert!(matches!(error, LearnError::NoTrainingImages { .. }), "{error}");
    assert_eq!(log.told("24 images are left out: they are among those to judge by"), 1);

    // Beside labelled ones.
    let mut both = scene.student();
    both.distillation.as_mut().unwrap().unlabelled = vec![flat];
    let log = Log::default();
    train(&both, &scene.context("both"), &log).unwrap();
    assert_eq!(log.told("24 images to learn from without labels"), 1);
    assert_eq!(log.told("84 views of 42 images"), 1);
}

/// Learners that are no networks learn what the teacher says, even where labels say otherwise.
#[test]
fn students_need_not_be_networks() {
    let scene = Scene::new();
    let teacher = Model::load(&scene.teacher(), &Default::default()).unwrap();
    let judged = teacher.evaluate(&scene.path("data"), &Default::default(), &()).unwrap();
    let by_teacher = judged.metrics.top1;
    // The same pictures again: what is judged by is not learned from.
    pictures(&scene.path("apart"), &[8, 8, 8]);
    for learner in Learner::ALL {
        let mut settings = Settings {
            strategy: Strategy::Features,
            backbone: "colours".into(),
            weights: None,
            learner,
            val: Some(scene.path("apart")),
            ..scene.settings("", "")
        };
        let asked = settings.distillation.as_mut().unwrap();
        (asked.ignore_labels, asked.temperature) = (true, 1.0);
        let context = scene.context(learner.name());
        let (outcome, distilled) = distill_into(&settings, &context, true, &()).unwrap();
        assert!(distilled.alone.is_none());
        // The images are those that it learned from: it says of them what the teacher says.
        let agrees = distilled.teachers[0].agreement.unwrap();
        assert!(agrees > 0.8, "{learner}: {agrees}, and {by_teacher} are right");
        assert!(outcome.report.val.is_some());
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let scene = Scene::new();
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = scene.student();
        change(&mut settings);
        let error = train(&settings, &RunContext { folder: None, ..scene.context("") }, &());
        error.unwrap_err().to_string()
    };
    let error = refused(&|s| s.strategy = Strategy::AsIs);
    assert!(error.contains("--strategy is as-is"), "{error}");
    let error = refused(&|s| s.strategy = Strategy::Features);
    assert!(error.contains("--hints"), "{error}");
    let error = refused(&|s| s.training.fixed_views = 0);
    assert!(error.contains("--fixed-views"), "{error}");
    network(&scene.path("other"), "other_net", 8, 32, &["blue", "green", "cyan"]);
    let error = refused(&|s| s.distillation = Some(Distillation::of(vec![scene.path("other")])));
    assert!(error.contains("red"), "{error}");
    let error = refused(&|s| {
        s.distillation = Some(Distillation::of(vec![scene.path("nowhere.safetensors")]))
    });
    assert!(error.contains("nowhere"), "{error}");
    let error = refused(&|s| {
        s.distillation.as_mut().unwrap().hint_layers = vec![["relu".into(), "pool".into()]];
    });
    assert!(error.contains("one is a map, the other a vector"), "{error}");
}
