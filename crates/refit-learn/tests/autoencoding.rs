//! Autoencoders of small pictures made here.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/pictures.rs"]
mod pictures;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use refit_data::{Sample, list_images};
use refit_learn::autoencode::{
    AutoencodeRecord, AutoencodeSettings, Autoencoded, Corruption, ReconstructionLoss, autoencode,
    read_autoencode_settings, sheet,
};
use refit_learn::{
    Event, Hint, LearnError, Model, RunContext, RunOptions, Settings, Strategy, Watch,
    read_settings, train,
};
use refit_net::{Edit, zoo};

use pictures::pictures;

fn context(folder: Option<PathBuf>) -> RunContext {
    RunContext { folder, resume: false, workers: 2, cache: None, ..RunContext::default() }
}

/// Pictures of 16 pixels in 6 values, a few epochs.
fn small(images: &Path) -> AutoencodeSettings {
    AutoencodeSettings {
        size: Some(16),
        bottleneck: Some(6),
        epochs: 3,
        batch: 8,
        held_out: 0.25,
        seed: 5,
        ..AutoencodeSettings::new(images)
    }
}

/// Everything that can be random.
fn spoiled(images: &Path) -> AutoencodeSettings {
    AutoencodeSettings {
        corruption: Corruption { noise: 0.1, mask: 0.4, patch: 4 },
        masked_only: true,
        loss: ReconstructionLoss::L1Ssim,
        ..small(images)
    }
}

/// Stops after so many epochs.
struct StopAfter(usize, AtomicUsize);

impl Watch for StopAfter {
    fn event(&self, event: Event) {
        if matches!(&event, Event::Note(text) if text.starts_with("epoch ")) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn stops(&self) -> bool {
        self.1.load(Ordering::SeqCst) >= self.0
    }
}

fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

fn refused<T>(result: Result<T, LearnError>) -> (String, String) {
    let Err(error) = result else { panic!("not refused") };
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn the_error_falls_and_the_folder_tells_the_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data, &[8, 8, 8]);
    fs::write(data.join("red/broken.bmp"), "nothing").unwrap();
    let settings = AutoencodeSettings { epochs: 30, ..small(&data) };
    let Autoencoded { model, report, history, pictures } =
        autoencode(&settings, &context(Some(folder.clone())), &()).unwrap();
    assert_eq!((report.train, report.held_out, report.skipped.len()), (18, 6, 1));
    assert_eq!((report.bottleneck, report.size, history.len()), (6, 16, 30));
    assert!(report.after.mse < 0.5 * report.before.mse, "{report:?}");
    assert!(report.after.psnr > report.before.psnr && report.spoiled.is_none());
    let best = history.iter().map(|e| e.val_loss.unwrap()).fold(f64::INFINITY, f64::min);
    assert_eq!(history[report.best_epoch - 1].val_loss, Some(best));
    assert!(history[29].train_loss < history[0].train_loss);
    let sheet = sheet(&pictures).unwrap();
    assert_eq!((pictures.len(), pictures[0].made.width()), (6, 16));
    let record = AutoencodeRecord::read(&folder).unwrap();
    assert_eq!(record.settings, settings);
    assert_eq!(record.history.len(), 30);
    assert_eq!(record.sheet.unwrap(), refit_data::to_png(&sheet));
    let read = Model::load(&folder.join("model.safetensors"), &Default::default()).unwrap();
    // JSON may lose a number's last bit.
    let told = serde_json::to_string(&model.card).unwrap();
    assert_eq!(read.card, serde_json::from_str(&told).unwrap());
    assert_eq!(read.card.autoencoder.as_ref().unwrap().settings.images, Path::new("data"));
    fs::remove_file(folder.join("metrics.json")).unwrap();
    let (_, hint) = refused(AutoencodeRecord::read(&folder));
    assert!(hint.contains("refit autoencode --resume"), "{hint}");
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes_with_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    pictures(&data, &[7, 7, 7]);
    let at = |name: &str| dir.path().join(name);
    let settings = spoiled(&data);
    autoencode(&settings, &context(Some(at("whole"))), &()).unwrap();
    let stopped =
        autoencode(&settings, &context(Some(at("stopped"))), &StopAfter(1, AtomicUsize::new(0)));
    assert!(matches!(stopped, Err(LearnError::Stopped)));
    assert!(!at("stopped").join("model.safetensors").exists());
    let settings = read_autoencode_settings(&at("stopped")).unwrap();
    let resumed = RunContext { resume: true, workers: 1, ..context(Some(at("stopped"))) };
    autoencode(&settings, &resumed, &()).unwrap();
    for file in ["model.safetensors", "sheet.png", "data.txt", "settings.toml"] {
        assert!(bytes(&at("whole"), file) == bytes(&at("stopped"), file), "{file} differs");
    }
    // Another seed spoils otherwise.
    let other = AutoencodeSettings { seed: 6, ..settings.clone() };
    autoencode(&other, &context(Some(at("other"))), &()).unwrap();
    assert!(bytes(&at("whole"), "sheet.png") != bytes(&at("other"), "sheet.png"));
    fs::remove_file(data.join("red/0.bmp")).unwrap();
    let (said, _) = refused(autoencode(&settings, &resumed, &()));
    assert!(said.contains("not those that the run began with"), "{said}");
}

#[test]
fn what_is_spoiled_is_judged_spoiled_too() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path(), &[8, 8]);
    for settings in [
        spoiled(dir.path()),
        AutoencodeSettings {
            corruption: Corruption { noise: 0.5, ..Corruption::default() },
            ..small(dir.path())
        },
    ] {
        let found = autoencode(&settings, &context(None), &()).unwrap();
        let spoiled = found.report.spoiled.unwrap();
        assert_ne!(spoiled.loss, found.report.after.loss);
        let best = found.history[found.report.best_epoch - 1].val_loss.unwrap();
        assert!((spoiled.loss - best).abs() < 1e-9, "{} {best}", spoiled.loss);
        assert!(found.pictures.iter().all(|p| p.seen.as_ref().unwrap() != &p.original));
    }
}

#[test]
fn no_epochs_leave_a_network_to_compare_with() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data, &[8, 8]);
    let settings = AutoencodeSettings { epochs: 0, ..small(&data) };
    let found = autoencode(&settings, &context(Some(folder.clone())), &()).unwrap();
    assert_eq!((found.report.best_epoch, found.history.len()), (0, 0));
    assert!((found.report.before.loss - found.report.after.loss).abs() < 1e-3);
    assert!(AutoencodeRecord::read(&folder).unwrap().history.is_empty());
}

#[test]
fn the_encoder_is_a_backbone_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data, &[8, 8, 8]);
    autoencode(&small(&data), &context(Some(folder.clone())), &()).unwrap();
    let weights = folder.join("model.safetensors");
    for strategy in [Strategy::Features, Strategy::FineTune, Strategy::Partial] {
        let mut settings = Settings::new(&data, strategy);
        settings.backbone = "small".into();
        settings.weights = Some(weights.clone());
        settings.unfreeze_from = (strategy == Strategy::Partial).then(|| "stages.2".into());
        settings.training.epochs = 1;
        let outcome = train(&settings, &context(None), &()).unwrap();
        let graph = outcome.model.network.graph();
        assert_eq!(graph.nodes()[graph.features()].name, "bottleneck", "{strategy}");
        assert_eq!(outcome.model.card.preprocess.size, 16);
        assert_eq!(graph.reconstruction(), None);
        assert!(graph.nodes().iter().all(|n| !n.name.starts_with("decoder")));
        assert!(outcome.model.card.autoencoder.is_none());
    }
    // It learns on as an autoencoder, too, but not as another one.
    let weights = Some(weights);
    let on = AutoencodeSettings { weights, bottleneck: None, size: None, ..small(&data) };
    let more = autoencode(&on, &context(None), &()).unwrap();
    assert_eq!((more.report.bottleneck, more.report.size), (6, 16));
    let (said, hint) =
        refused(autoencode(&AutoencodeSettings { bottleneck: Some(7), ..on }, &context(None), &()));
    assert!(said.starts_with("--bottleneck is 7, but must be left out"), "{said}");
    assert!(hint.contains("--help"), "{hint}");
}

#[test]
fn images_of_another_kind_have_a_higher_error() {
    let dir = tempfile::tempdir().unwrap();
    let (data, others) = (dir.path().join("data"), dir.path().join("others"));
    pictures(&data, &[24, 24]);
    fs::create_dir(&others).unwrap();
    let halves = |at: usize| if at / 3 % 40 < 20 { 255 } else { 0 };
    let picture = refit_data::RgbImage::new(40, 40, (0..40 * 40 * 3).map(halves).collect());
    fs::write(others.join("halves.png"), refit_data::to_png(&picture)).unwrap();
    let settings = AutoencodeSettings { epochs: 10, held_out: 0.5, ..small(&data) };
    let found = autoencode(&settings, &context(None), &()).unwrap();
    let look = |folder: &Path| -> Vec<bool> {
        let paths = list_images(&[folder.to_owned()]).unwrap();
        let samples: Vec<Sample> =
            paths.into_iter().map(|path| Sample { path, label: 0 }).collect();
        let (mut all, options) = (Vec::new(), RunOptions::default());
        let mut each = |_: usize, a: refit_learn::Anomaly| all.push(a.exceeds);
        found.model.anomalies(&samples, 0.05, &options, &(), &mut each).unwrap();
        all
    };
    assert_eq!(look(&others), [true]);
    let exceeding = look(&data).into_iter().filter(|e| *e).count();
    assert!(exceeding <= 6, "{exceeding} of 48");
}

#[test]
fn what_cannot_be_done_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let (data, folder) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data, &[1]);
    let (said, hint) = refused(autoencode(&small(&data), &context(None), &()));
    assert!(said.ends_with("has 1 readable image, too few to hold one out"), "{said}");
    assert!(hint.contains("--held-out"), "{hint}");
    let pretrained = AutoencodeSettings { pretrained: true, ..small(&data) };
    let (said, _) = refused(autoencode(&pretrained, &context(None), &()));
    assert_eq!(said, "`small` comes without weights");
    let classifier = Model::random(zoo::find("small").unwrap(), 0, &Default::default());
    let ask = |model: &Model| {
        model.anomalies(&[], 0.05, &RunOptions::default(), &(), &mut |_, _| unreachable!())
    };
    let (said, hint) = refused(ask(&classifier));
    assert!(said.contains("makes no images again"), "{said}");
    assert!(hint.contains("refit autoencode"), "{hint}");
    pictures(&data, &[4, 4]);
    let found = autoencode(&small(&data), &context(Some(folder.clone())), &()).unwrap();
    let (said, hint) = refused(found.model.check_classes());
    assert!(said.contains("gives a code, not classes"), "{said}");
    for part in ["--anomaly", "refit embed", "--weights"] {
        assert!(hint.contains(part), "{hint}");
    }
    // A decoder that was cut off makes nothing.
    let cut = Edit::CutAt { layer: "stages.2".into() };
    let network = found.model.network.edit(&[cut], 0).unwrap();
    let (said, _) = refused(ask(&Model { network, ..found.model.clone() }));
    assert!(said.contains("makes no images again"), "{said}");
    let (said, _) = refused(autoencode(&small(&data), &context(Some(folder.clone())), &()));
    assert!(said.contains("already holds a run"), "{said}");
    let (said, hint) = refused(read_settings(&folder));
    assert!(said.ends_with("is one of `refit autoencode`"), "{said}");
    assert!(hint.contains("refit autoencode --resume"), "{hint}");
    let (said, _) = refused(read_autoencode_settings(dir.path()));
    assert!(said.contains("holds no run to resume"), "{said}");
    fs::write(folder.join("settings.toml"), "images = 3").unwrap();
    let (said, _) = refused(read_autoencode_settings(&folder));
    assert!(said.contains("settings.toml: line 1"), "{said}");
}
