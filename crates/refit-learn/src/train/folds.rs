//! Cross-validation: every image to learn from is judged once by a model that has not seen it, then one
//! model learns from all.
//!
//! Each fold is a whole run without a folder: its own images are the test images of that run. What
//! trains by steps splits off validation images of its own from the others, which choose the epoch, so
//! that nothing about a fold is chosen by its own images (Varma and Simon 2006,
//! <https://doi.org/10.1186/1471-2105-7-91>).

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use refit_data::{DEFAULT_VAL_FRACTION, Dataset, Sample, Skipped, Stream, stratified_split};
use serde::{Deserialize, Serialize};

use super::auto::Behind;
use super::folder::{FOLDS, RunFolder, write};
use super::images::Images;
use super::judge::Judged;
use super::start::starting_point;
use super::{Beginning, Outcome, Place, Run, RunContext, labels, train_on};
use crate::calibrate::{ENOUGH, cross_fitted_by};
use crate::error::LearnError;
use crate::metrics::{Metrics, arg_max, wilson95_of};
use crate::predictions::{Judgement, Split, judgements};
use crate::settings::{Settings, Strategy};
use crate::subsets;
use crate::watch::{Event, Watch, stage};

/// What cross-validation found: `folds` of `metrics.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldsReport {
    /// Parts that the images were divided into.
    pub folds: usize,
    /// Times that they were divided anew.
    pub repeats: usize,
    /// The share of the images that are recognized by a model that learned from the other folds,
    /// `[0, 1]`; the mean over the repeats.
    pub top1: f64,
    /// Its 95% interval: Wilson's for as many images as there are, however often each was judged. It
    /// covers the choice of the images to judge by; that models of two folds learn from images in
    /// common is not in it.
    pub interval95: [f64; 2],
    /// The mean of the folds' accuracies.
    pub mean: f64,
    /// Their standard deviation: how much a single split's accuracy depends on the split.
    pub deviation: f64,
    /// The epoch after which the model's training ended: the median of the folds' best ones; none
    /// where nothing is trained by steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// Every fold of every repeat.
    pub each: Vec<FoldReport>,
    /// On all images, each held out once: those of the first repeat, which `predictions.csv` lists.
    /// Where they gave the temperature, each fold is at that of the others.
    pub metrics: Metrics,
}

/// How one fold did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldReport {
    /// Which division, from 1.
    pub repeat: usize,
    /// Which part of it, from 1.
    pub fold: usize,
    /// Images of the other parts, to learn from and to choose the epoch by.
    pub others: usize,
    /// Images held out.
    pub images: usize,
    /// The share of them that is recognized, `[0, 1]`.
    pub top1: f64,
    /// Mean of `-ln p` of their true class, in nats.
    pub loss: f64,
    /// The epoch whose weights were kept, chosen by some of the others; 0 for those that training began
    /// with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<usize>,
    /// The penalty of a linear head that was solved for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What the model that learns from all images is told by those that did not.
pub(super) struct OutOfFold {
    /// What they made of each image of the first repeat.
    pub judged: Judged,
    /// How far each of these images is from those that were learned from; none where that is not known.
    pub distances: Option<Vec<f32>>,
    pub report: FoldsReport,
    pub predictions: Vec<Judgement>,
    /// Images that no fold could read.
    pub skipped: Vec<Skipped>,
    /// Seconds of all folds and of what went before.
    pub seconds: f64,
}

/// A fold that is done: the content of `folds/N.json`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Fold {
    /// The images held out, by position among all.
    images: Vec<usize>,
    #[serde(with = "crate::unknown::packed")]
    logits: Vec<f32>,
    /// As many as images, or none.
    #[serde(with = "crate::unknown::packed")]
    distances: Vec<f32>,
    best_epoch: Option<usize>,
    strength: Option<f64>,
    seconds: f64,
}

/// A run by `settings` with their folds.
pub(super) fn cross_validate(
    dataset: Dataset,
    settings: &Settings,
    context: &RunContext,
    watch: &dyn Watch,
    beginning: &Beginning,
) -> Result<Outcome, LearnError> {
    let (began, settings) = (beginning.started, &settings.settled());
    let folder = RunFolder::open(context)?;
    let start = starting_point(settings, &Device::flex(), watch)?;
    let advice = beginning.advice.as_deref();
    let run = Run { folder, advice, ..Run::to_measure(settings, context, watch, dataset) };
    let (images, features) = run.readable(&start)?;
    drop(features);
    let settings = &run.settle_changes(&start, &images)?;
    let dataset = &run.dataset;
    let folding = Folding { dataset, images: &images, settings, context, watch };
    let divisions = folding.divisions()?;
    run.folder.begin(settings, &images, context.resume)?;
    run.write_advice()?;
    let mut done = Vec::new();
    for (repeat, division) in divisions.iter().enumerate() {
        for fold in 0..folding.count() {
            let held = (0..division.len()).filter(|i| division[*i] == fold).collect();
            done.push(folding.fold([repeat, fold], held)?);
        }
    }
    let out_of_fold = folding.conclude(&done, folding.seconds(&done, began));
    watch.event(Event::Note(in_words(&out_of_fold.report)));
    // The folder is this run's already.
    let context = RunContext { resume: true, ..context.clone() };
    let place = Place::Last(&out_of_fold);
    let beginning = Beginning { place, ..Beginning::now() };
    train_on(folding.all(), settings, &context, watch, &beginning)
}

fn in_words(report: &FoldsReport) -> String {
    let epochs = match report.epochs {
        None => String::new(),
        Some(0) => "; the head solved for is the best in most".into(),
        Some(epochs) => format!("; the best epoch is {epochs} (median)"),
    };
    format!(
        "{} folds: {:.1}% ± {:.1} right{epochs}; now one model learns from all",
        report.each.len(),
        100.0 * report.mean,
        100.0 * report.deviation
    )
}

struct Folding<'a> {
    dataset: &'a Dataset,
    images: &'a Images,
    settings: &'a Settings,
    context: &'a RunContext,
    watch: &'a dyn Watch,
}

/// A fold, whether it was done before, and the seconds that it took now.
struct Done {
    fold: Fold,
    was_kept: bool,
}

impl Folding<'_> {
    fn count(&self) -> usize {
        self.settings.folds.unwrap_or(1)
    }

    /// All readable images, none of them kept apart.
    fn all(&self) -> Dataset {
        self.of(self.images.train.clone(), Vec::new(), self.images.test.clone())
    }

    fn of(&self, train: Vec<Sample>, val: Vec<Sample>, test: Vec<Sample>) -> Dataset {
        let classes = self.dataset.classes.clone();
        Dataset { classes, train, val, test, has_given_val: true, notes: Vec::new() }
    }

    /// For each repeat the fold of each image: of every class as many in one as in another, give or take
    /// one.
    fn divisions(&self) -> Result<Vec<Vec<usize>>, LearnError> {
        let (labels, folds) = (labels(&self.images.train), self.count());
        let classes = &self.dataset.classes;
        let images = |class: &usize| labels.iter().filter(|l| *l == class).count();
        let smallest = (0..classes.len()).min_by_key(images).unwrap_or(0);
        if images(&smallest) < folds {
            let (class, images) = (classes[smallest].clone(), images(&smallest));
            return Err(LearnError::TooFewForFolds { class, images, folds });
        }
        let of = |repeat: usize| {
            let stream = |class| Stream::new(self.settings.seed, "folds", &[repeat as u64, class]);
            subsets::folds(&labels, classes.len(), folds, stream).into_iter().flatten().collect()
        };
        Ok((0..self.settings.repeats).map(of).collect())
    }

    /// What is left of a fold's images, as a run sees them: some to choose the epoch by where there are
    /// epochs, its own to be judged by.
    fn without(&self, held: &[usize]) -> Dataset {
        let all = &self.images.train;
        let mut is_held = vec![false; all.len()];
        held.iter().for_each(|&i| is_held[i] = true);
        let others: Vec<Sample> =
            (0..all.len()).filter(|i| !is_held[*i]).map(|i| all[i].clone()).collect();
        let settings = self.settings;
        let (train, val) = match settings.strategy == Strategy::Features && settings.solves_head() {
            true => (others, Vec::new()),
            false => {
                let fraction = settings.val_fraction.unwrap_or(DEFAULT_VAL_FRACTION);
                stratified_split(&others, fraction, settings.seed)
            }
        };
        self.of(train, val, held.iter().map(|&i| all[i].clone()).collect())
    }

    /// A fold as it was kept, or as it is done now.
    fn fold(&self, [repeat, fold]: [usize; 2], held: Vec<usize>) -> Result<Done, LearnError> {
        let (number, all) =
            (repeat * self.count() + fold + 1, self.count() * self.settings.repeats);
        if let Some(fold) = self.kept(number, &held)? {
            return Ok(Done { fold, was_kept: true });
        }
        let began = Instant::now();
        let context = RunContext { folder: None, resume: false, ..self.context.clone() };
        let beginning = Beginning { place: Place::Fold, ..Beginning::now() };
        let outcome = stage(self.watch, format!("fold {number} of {all}"), 0, || {
            let behind = Behind(self.watch);
            train_on(self.without(&held), self.settings, &context, &behind, &beginning)
        })?;
        let kept = Fold {
            images: held,
            logits: outcome.tested.logits,
            distances: outcome.tested.distances.unwrap_or_default(),
            best_epoch: outcome.report.best_epoch,
            strength: outcome.report.strength,
            seconds: began.elapsed().as_secs_f64(),
        };
        let report = self.report([repeat, fold], &kept, &kept.logits);
        self.watch.event(Event::Note(format!(
            "fold {number} of {all}: {:.1}% right of {} held out",
            100.0 * report.top1,
            report.images
        )));
        self.keep(number, &kept)?;
        Ok(Done { fold: kept, was_kept: false })
    }

    fn file(&self, number: usize) -> Option<PathBuf> {
        Some(self.context.folder.as_ref()?.join(FOLDS).join(format!("{number}.json")))
    }

    fn keep(&self, number: usize, fold: &Fold) -> Result<(), LearnError> {
        let Some(path) = self.file(number) else { return Ok(()) };
        let folder = path.with_file_name("");
        fs::create_dir_all(&folder).map_err(|source| LearnError::Io {
            what: "make",
            path: folder,
            source,
        })?;
        let json = serde_json::to_string(fold).expect("numbers serialize");
        write(&path, json.as_bytes())
    }

    /// What an earlier session of a resumed run kept of a fold.
    fn kept(&self, number: usize, held: &[usize]) -> Result<Option<Fold>, LearnError> {
        let Some(path) = self.file(number).filter(|_| self.context.resume) else { return Ok(None) };
        // What a killed writer left is of no use, but does no harm either.
        let _ = refit_net::atomic_file::remove_leftovers(&path);
        let damaged = |reason: String| {
            let folder = self.context.folder.clone().unwrap_or_default();
            LearnError::DamagedRun { path: folder, file: format!("{FOLDS}/{number}.json"), reason }
        };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| damaged(error.to_string()))?,
        };
        let fold: Fold = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let (n, classes) = (held.len(), self.dataset.classes.len());
        let fits = fold.images == held
            && fold.logits.len() == n * classes
            && [0, n].contains(&fold.distances.len());
        match fits {
            true => Ok(Some(fold)),
            false => Err(damaged("it is of other images".into())),
        }
    }

    /// Seconds of all folds, those of earlier sessions included.
    fn seconds(&self, done: &[Done], began: Instant) -> f64 {
        let kept = done.iter().filter(|done| done.was_kept);
        kept.map(|done| done.fold.seconds).sum::<f64>() + began.elapsed().as_secs_f64()
    }

    fn labels_of(&self, fold: &Fold) -> Vec<usize> {
        fold.images.iter().map(|&i| self.images.train[i].label).collect()
    }

    /// How a fold did, by some logits of its images.
    fn report(&self, [repeat, number]: [usize; 2], fold: &Fold, logits: &[f32]) -> FoldReport {
        let metrics = Metrics::from_logits(logits, &self.labels_of(fold), &self.dataset.classes);
        let metrics = metrics.expect("as many images of each class as folds");
        FoldReport {
            repeat: repeat + 1,
            fold: number + 1,
            others: self.images.train.len() - fold.images.len(),
            images: fold.images.len(),
            top1: metrics.top1,
            loss: metrics.loss,
            best_epoch: fold.best_epoch,
            strength: fold.strength,
            seconds: fold.seconds,
        }
    }

    /// What all folds come to.
    fn conclude(&self, done: &[Done], seconds: f64) -> OutOfFold {
        let folds = self.count();
        let mut each = Vec::new();
        let (mut first, mut right) = (None, 0);
        for (repeat, done) in done.chunks(folds).enumerate() {
            let whole = self.together(done);
            let mut start = 0;
            for (number, done) in done.iter().enumerate() {
                let rows = start..start + done.fold.logits.len();
                start = rows.end;
                each.push(self.report([repeat, number], &done.fold, &whole.heated[rows]));
            }
            right += whole.right();
            first.get_or_insert(whole);
        }
        let first = first.expect("a repeat");
        let images = first.judged.labels.len();
        let top1 = right as f64 / (images * self.settings.repeats) as f64;
        let (mean, deviation) = mean_and_deviation(each.iter().map(|fold| fold.top1));
        let report = FoldsReport {
            folds,
            repeats: self.settings.repeats,
            top1,
            interval95: wilson95_of(top1, images as f64),
            mean,
            deviation,
            epochs: median(each.iter().filter_map(|fold| fold.best_epoch).collect()),
            each,
            metrics: first.metrics(&self.dataset.classes),
        };
        let predictions = first.predictions(self.dataset.classes.len());
        let Together { judged, distances, .. } = first;
        let skipped = self.images.skipped.clone();
        OutOfFold { judged, distances, report, predictions, skipped, seconds }
    }

    /// The folds of one repeat, one behind the other.
    fn together(&self, done: &[Done]) -> Together {
        let mut judged = Judged::default();
        let (mut numbers, mut distances) = (Vec::new(), Vec::new());
        for (number, Done { fold, .. }) in done.iter().enumerate() {
            judged.logits.extend(&fold.logits);
            judged.labels.extend(self.labels_of(fold));
            judged.samples.extend(fold.images.iter().map(|&i| self.images.train[i].clone()));
            numbers.extend(vec![number; fold.images.len()]);
            distances.extend(&fold.distances);
        }
        let classes = self.dataset.classes.len();
        let heated = match judged.labels.len() {
            n if n < ENOUGH => judged.logits.clone(),
            _ => cross_fitted_by(&judged.logits, &judged.labels, classes, &numbers),
        };
        let distances = (distances.len() == judged.labels.len()).then_some(distances);
        Together { judged, numbers, heated, distances }
    }
}

/// All images, each as a model sees it that did not learn from it.
struct Together {
    judged: Judged,
    /// The fold of each.
    numbers: Vec<usize>,
    /// Logits, each fold's at the temperature that the others give.
    heated: Vec<f32>,
    distances: Option<Vec<f32>>,
}

impl Together {
    fn right(&self) -> usize {
        let rows = self.judged.logits.chunks_exact(self.heated.len() / self.numbers.len());
        rows.zip(&self.judged.labels).filter(|(row, label)| arg_max(row) == **label).count()
    }

    fn metrics(&self, classes: &[String]) -> Metrics {
        let Judged { logits, labels, .. } = &self.judged;
        let metrics = match labels.len() {
            n if n < ENOUGH => Metrics::from_logits(logits, labels, classes),
            _ => Metrics::calibrated(&self.heated, logits, labels, classes),
        };
        metrics.expect("images in folds")
    }

    fn predictions(&self, classes: usize) -> Vec<Judgement> {
        let all = judgements(&self.heated, &self.judged.samples, classes, Split::HeldOut);
        let of = |(judgement, number): (Judgement, &usize)| Judgement {
            fold: Some(number + 1),
            ..judgement
        };
        all.into_iter().zip(&self.numbers).map(of).collect()
    }
}

/// The mean of some numbers, and their standard deviation, that of one being 0.
fn mean_and_deviation(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// The number in the middle, of two the lower.
fn median(mut numbers: Vec<usize>) -> Option<usize> {
    numbers.sort_unstable();
    numbers.get(numbers.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_the_lower() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![7]), Some(7));
        assert_eq!(median(vec![9, 2, 4, 3]), Some(3));
        assert_eq!(median(vec![5, 0, 1]), Some(1));
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        let (mean, deviation) = mean_and_deviation([0.5, 0.7, 0.9].into_iter());
        assert!((mean - 0.7).abs() < 1e-12 && (deviation - 0.2).abs() < 1e-12);
        assert_eq!(mean_and_deviation([0.5].into_iter()), (0.5, 0.0));
    }
}
