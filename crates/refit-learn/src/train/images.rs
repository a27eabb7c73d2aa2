//! The images of a run, and their features.

use std::sync::Arc;

use refit_data::check::{CheckOptions, Checked, Fingerprint, check_readable};
use refit_data::{Augment, ContentHash, DecodeOptions, Sample, Skipped, Strictness};
use refit_net::Precision;

use super::Run;
use super::leaks::Leaks;
use super::start::Start;
use crate::error::LearnError;
use crate::extract::{Change, ExtractOptions, Features, extract};
use crate::settings::{Mirror, Strategy};
use crate::watch::{Event, Watch, stage};

/// The images of a run after the unreadable ones are left out.
pub(super) struct Images {
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    pub test: Vec<Sample>,
    /// The contents of the training images, and of the validation images.
    pub hashes: [Arc<[ContentHash]>; 2],
    pub skipped: Vec<Skipped>,
    pub leaks: Leaks,
    pub fingerprint: String,
}

impl Images {
    pub fn count(&self) -> usize {
        self.train.len() + self.val.len() + self.test.len()
    }
}

/// Features of the images to learn from, and of those to judge by: validation, then test.
pub(super) struct SplitFeatures {
    pub learned: Features,
    pub judged: Features,
}

/// Reads images once, to know which can be read and what they hold.
pub(crate) fn check(
    samples: &[Sample],
    workers: usize,
    strictness: Strictness,
    watch: &dyn Watch,
) -> Result<Checked, LearnError> {
    let options = CheckOptions { workers, strictness, decode: DecodeOptions::default() };
    let checked = stage(watch, "check", samples.len(), || {
        let advance = |_: usize, _: usize| watch.event(Event::Advance { items: 1 });
        check_readable(samples, &options, &|_| false, Some(&advance))
    });
    Ok(checked?)
}

/// Tells which images are left out, and why.
pub(crate) fn warn_of_skipped(skipped: &[Skipped], watch: &dyn Watch) {
    for skip in skipped {
        let text = format!("{} is left out: {}", skip.path.display(), skip.reason);
        watch.event(Event::Warning(text));
    }
}

impl Run<'_> {
    /// Features of all images; the training ones with their other views.
    pub(super) fn features(&self, start: &Start) -> Result<SplitFeatures, LearnError> {
        let samples = self.samples();
        let (train, rest) = samples.split_at(self.dataset.train.len());
        // Where the head may be the result, it learns from as many views as it can have.
        let views = if self.last_head() { self.settings.views } else { 1 };
        let mirrored = self.settings.mirror != Mirror::Never;
        let augment = Augment::medium();
        let augment = if mirrored { augment } else { augment.without_flip() };
        let take = |samples: &[Sample], views: usize| {
            let options = ExtractOptions {
                run: self.run_options(),
                views,
                mirrored,
                change: Change::Nothing,
                augment,
                seed: self.settings.seed,
                cache: self.context.features_folder(),
            };
            extract(&start.network, &start.preprocess, samples, &options, self.watch)
        };
        let features = SplitFeatures { learned: take(train, views)?, judged: take(rest, 1)? };
        let SplitFeatures { learned, judged } = &features;
        let rows = (learned.rows.len() + judged.rows.len()) / learned.dim;
        let computed = learned.computed + judged.computed;
        let kind = match self.settings.precision {
            Precision::F32 => String::new(),
            other => format!("{other} "),
        };
        self.watch.event(Event::Note(format!(
            "{kind}features of {} images in {:.1} s, {} rows computed and {} from the cache",
            learned.readable.len() + judged.readable.len(),
            learned.seconds + judged.seconds,
            computed,
            rows.saturating_sub(computed)
        )));
        Ok(features)
    }

    /// The views that a head learns from, of those that were taken; augmented ones, which may be
    /// mirrored too, are taken again where nothing is to be mirrored.
    pub(super) fn features_to_learn_from(
        &self,
        taken: SplitFeatures,
        start: &Start,
    ) -> Result<SplitFeatures, LearnError> {
        let views = if self.last_head() { self.settings.views } else { 1 };
        let views = match self.settings.mirror {
            Mirror::Never if views > 2 && taken.learned.views == views => {
                return self.features(start);
            }
            // The second is the mirrored one.
            Mirror::Never if views == 2 => 1,
            _ => views,
        };
        let SplitFeatures { learned, judged } = taken;
        Ok(SplitFeatures { learned: learned.of_views(views), judged })
    }

    pub(super) fn images_with(&self, features: &SplitFeatures) -> Result<Images, LearnError> {
        let SplitFeatures { learned, judged } = features;
        let offset = self.dataset.train.len();
        let readable: Vec<usize> = learned
            .readable
            .iter()
            .copied()
            .chain(judged.readable.iter().map(|i| i + offset))
            .collect();
        let hashes: Vec<ContentHash> =
            learned.hashes.iter().chain(&judged.hashes).copied().collect();
        let skipped = learned.skipped.iter().chain(&judged.skipped).cloned().collect();
        self.images(&readable, &hashes, skipped)
    }

    pub(super) fn checked_images(&self) -> Result<Images, LearnError> {
        let (workers, strictness) = (self.context.workers, self.run_options().strictness);
        let checked = check(&self.samples(), workers, strictness, self.watch)?;
        let hashes: Vec<ContentHash> =
            checked.readable.iter().filter_map(|&i| checked.hashes[i]).collect();
        self.images(&checked.readable, &hashes, checked.skipped)
    }

    pub(super) fn images(
        &self,
        readable: &[usize],
        hashes: &[ContentHash],
        skipped: Vec<Skipped>,
    ) -> Result<Images, LearnError> {
        warn_of_skipped(&skipped, self.watch);
        let samples = self.samples();
        let (trains, vals) = (self.dataset.train.len(), self.dataset.val.len());
        let mut images = Images {
            train: vec![],
            val: vec![],
            test: vec![],
            hashes: Default::default(),
            skipped,
            leaks: Leaks::default(),
            fingerprint: String::new(),
        };
        let mut fingerprint = Fingerprint::new();
        for (&index, hash) in readable.iter().zip(hashes) {
            let sample = samples[index].clone();
            let (part, split) = match index {
                i if i < trains => ("train", &mut images.train),
                i if i < trains + vals => ("val", &mut images.val),
                _ => ("test", &mut images.test),
            };
            fingerprint.add(part, &self.dataset.classes[sample.label], hash);
            split.push(sample);
        }
        let (train, rest) = hashes.split_at(images.train.len());
        // Nothing leaks where nothing is learned, and a trial's images are those of its run.
        if self.settings.strategy != Strategy::AsIs && !self.is_trial {
            images.leaks = Leaks::of(&images, train, rest);
            let warning = images.leaks.warning();
            warning.into_iter().for_each(|text| self.watch.event(Event::Warning(text)));
        }
        images.hashes = [train.into(), rest[..images.val.len()].into()];
        images.fingerprint = blake3::Hash::from_bytes(fingerprint.finish()).to_hex().to_string();
        self.check_classes(&images)?;
        Ok(images)
    }

    /// Every class must have kept a readable training image, unless a teacher knows them all and no
    /// head is solved for.
    pub(super) fn check_classes(&self, images: &Images) -> Result<(), LearnError> {
        let taught = self.teaching.is_some_and(|teaching| !teaching.unlabelled.is_empty());
        match self.lost_class(images) {
            None => Ok(()),
            Some(_) if taught && !self.settings.strategy.runs_frozen() => Ok(()),
            Some(class) => Err(LearnError::NoTrainingImages {
                class: self.dataset.classes[class].clone(),
                path: self.settings.data.clone(),
            }),
        }
    }

    /// A class without a training image.
    pub(super) fn lost_class(&self, images: &Images) -> Option<usize> {
        (0..self.dataset.classes.len()).find(|&class| images.train.iter().all(|s| s.label != class))
    }
}
