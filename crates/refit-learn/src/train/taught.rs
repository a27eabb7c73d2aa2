//! Learning from teachers: their views, their lessons, and the images that have no labels.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{
    DataError, Dataset, DecodeOptions, ImageCache, Preprocess, Sample, SourceOptions, list_images,
};
use refit_net::{Network, NodeId, Pass, Training, Value};

use super::activations::fixed_views;
use super::images::Images;
use super::{Run, RunContext, labels, run_options};
use crate::distill::{
    Distillation, Keep, Lessons, Pairs, Sized, Teacher, Views, What, attention, average_softened,
    decoupled, hint, relational, softened,
};
use crate::error::LearnError;
use crate::fit::{Aim, Feed, Step, Verdict};
use crate::kept::View;
use crate::metrics::arg_max;
use crate::model::Model;
use crate::settings::Settings;
use crate::watch::{Event, Watch};

/// The teachers of a run, and the images that they alone tell the classes of.
pub(super) struct Teaching {
    pub settings: Distillation,
    pub teachers: Vec<Teacher>,
    pub unlabelled: BTreeSet<PathBuf>,
}

impl Teaching {
    /// Opens the teachers and adds the images without labels to those to learn from, each as of the
    /// class that the teachers take it for; nothing but the order in which images come and the count
    /// of classes depends on that.
    pub fn begin(
        asked: &Distillation,
        dataset: &mut Dataset,
        settings: &Settings,
        context: &RunContext,
        watch: &dyn Watch,
    ) -> Result<Self, LearnError> {
        let device = Device::flex();
        asked.check_head(dataset.classes.is_empty())?;
        let open = |path: &PathBuf| Teacher::open(path, &device);
        let teachers = asked.teachers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let has_labels = !dataset.classes.is_empty() && !asked.ignore_labels;
        if dataset.classes.is_empty() {
            dataset.classes.clone_from(&teachers[0].model.card.classes);
            given_val(dataset, settings, &teachers[0].model)?;
        }
        let about = |teacher: Teacher| teacher.about(&dataset.classes);
        let teachers = teachers.into_iter().map(about).collect::<Result<Vec<_>, _>>()?;
        let mut teaching = Self { settings: asked.clone(), teachers, unlabelled: BTreeSet::new() };
        let mut open: Vec<Sample> = match has_labels {
            true => Vec::new(),
            false => std::mem::take(&mut dataset.train),
        };
        let known: BTreeSet<PathBuf> =
            dataset.samples().chain(&open).map(|s| s.path.clone()).collect();
        let others =
            list_images(&asked.unlabelled)?.into_iter().filter(|path| !known.contains(path));
        open.extend(others.map(|path| Sample { path, label: 0 }));
        if open.is_empty() {
            return Ok(teaching);
        }
        let apart: BTreeSet<&PathBuf> =
            dataset.val.iter().chain(&dataset.test).map(|s| &s.path).collect();
        let all = open.len();
        open.retain(|sample| !apart.contains(&sample.path));
        if open.len() < all {
            let out = all - open.len();
            let text = format!("{out} images are left out: they are among those to judge by");
            watch.event(Event::Warning(text));
        }
        let judged = teaching.judge(&open, settings, context, watch)?;
        teaching.unlabelled = judged.iter().map(|sample| sample.path.clone()).collect();
        watch.event(Event::Note(format!("{} images to learn from without labels", judged.len())));
        dataset.train.extend(judged);
        Ok(teaching)
    }

    /// The images with the classes that the teachers take them for; unreadable ones stay, to be told.
    fn judge(
        &self,
        samples: &[Sample],
        settings: &Settings,
        context: &RunContext,
        watch: &dyn Watch,
    ) -> Result<Vec<Sample>, LearnError> {
        let (classes, options) = (self.teachers[0].classes(), run_options(settings, context));
        let logits = |teacher: &Teacher| teacher.logits(samples, &options, watch);
        let logits = self.teachers.iter().map(logits).collect::<Result<Vec<_>, _>>()?;
        let mean = average_softened(&logits, classes, 1.0);
        let judged = samples.iter().zip(mean.chunks_exact(classes));
        Ok(judged.map(|(s, row)| Sample { label: arg_max(row), ..s.clone() }).collect())
    }
}

/// Images in a folder without class folders, to be learned from without labels; none where the
/// error is another one.
pub(super) fn without_classes(error: &DataError, data: &Path) -> Option<Dataset> {
    let DataError::NoClasses { path, .. } = error else { return None };
    if path != data {
        return None;
    }
    let paths = list_images(&[data.to_owned()]).ok()?;
    Some(Dataset {
        classes: Vec::new(),
        train: paths.into_iter().map(|path| Sample { path, label: 0 }).collect(),
        val: Vec::new(),
        test: Vec::new(),
        has_given_val: false,
        notes: vec![],
    })
}

/// Validation images with labels, given apart from images without.
fn given_val(
    dataset: &mut Dataset,
    settings: &Settings,
    teacher: &Model,
) -> Result<(), LearnError> {
    let Some(val) = &settings.val else { return Ok(()) };
    let options =
        SourceOptions { val_fraction: Some(0.0), one_class: true, ..SourceOptions::default() };
    let given = Dataset::open(val, &options)?;
    let positions = teacher.positions_of(&given.classes)?;
    let place = |s: &Sample| Sample { label: positions[s.label], ..s.clone() };
    dataset.val = given.samples().map(place).collect();
    dataset.has_given_val = true;
    Ok(())
}

/// Steps from views that teachers were asked of.
pub(super) struct TaughtFeed<'a> {
    run: &'a Run<'a>,
    preprocess: &'a Preprocess,
    images: &'a Images,
    labels: Vec<usize>,
    /// Which training images have labels of their own.
    labelled: Vec<bool>,
    teaching: &'a Teaching,
    pairs: &'a Pairs,
    lessons: Lessons<'a>,
}

impl Run<'_> {
    /// What teachers take the training images for, softened, and mixed with the labels by the weights of
    /// the two: `[images, classes]`.
    pub(super) fn soft_targets(
        &self,
        teaching: &Teaching,
        images: &Images,
    ) -> Result<Vec<f32>, LearnError> {
        let (settings, classes) = (&teaching.settings, self.dataset.classes.len());
        let pairs = Pairs::default();
        let lessons = self.lessons(teaching, &pairs, images, 0, 1)?;
        lessons.prepare(self.watch)?;
        let jobs: Vec<View> = (0..images.train.len()).map(|image| (image, 0)).collect();
        let lesson = lessons.of(&jobs)?;
        let mut soft = average_softened(&lesson.logits, classes, settings.temperature);
        let share = (settings.hard / (settings.hard + settings.soft)) as f32;
        for (row, sample) in soft.chunks_exact_mut(classes).zip(&images.train) {
            if !teaching.unlabelled.contains(&sample.path) {
                row.iter_mut().for_each(|p| *p *= 1.0 - share);
                row[sample.label] += share;
            }
        }
        Ok(soft)
    }

    /// What teachers say of so many views of the training images, of which a student sees `size` pixels a
    /// side.
    fn lessons<'b>(
        &self,
        teaching: &'b Teaching,
        pairs: &'b Pairs,
        images: &Images,
        size: usize,
        count: usize,
    ) -> Result<Lessons<'b>, LearnError> {
        let sizes = teaching.teachers.iter().map(|t| t.model.card.preprocess.size);
        let side = 2 * sizes.fold(size, usize::max) as u32;
        let settings = self.settings;
        let views = Views {
            samples: images.train.clone().into(),
            hashes: Arc::clone(&images.hashes[0]),
            augment: settings.training.augment(),
            seed: settings.seed,
            count,
            workers: self.context.workers,
            side,
            images: Arc::new(ImageCache::new(DecodeOptions::default(), Some(side), 1 << 30)),
        };
        let folder = self.context.cache.as_ref().map(|cache| cache.join("lessons"));
        let (budget, precision) = (self.context.activation_budget, settings.precision);
        let watch = self.watch;
        let keep = Keep { folder: folder.as_deref(), budget, precision, watch };
        Lessons::new(&teaching.teachers, pairs, views, &keep)
    }
}

/// The pairs of layers that a run's loss compares.
pub(super) fn pairs_of(
    teaching: &Teaching,
    student: &Network,
    preprocess: &Preprocess,
) -> Result<Pairs, LearnError> {
    let student = Sized { graph: student.graph(), size: preprocess.size };
    Pairs::of(&teaching.settings, student, teaching.teachers[0].sized())
}

impl<'a> TaughtFeed<'a> {
    pub fn new(
        run: &'a Run<'a>,
        preprocess: &'a Preprocess,
        images: &'a Images,
        teaching: &'a Teaching,
        pairs: &'a Pairs,
    ) -> Result<Self, LearnError> {
        let count = fixed_views(run.settings);
        let lessons = run.lessons(teaching, pairs, images, preprocess.size, count)?;
        let labelled = |s: &Sample| !teaching.unlabelled.contains(&s.path);
        Ok(Self {
            run,
            preprocess,
            images,
            labels: labels(&images.train),
            labelled: images.train.iter().map(labelled).collect(),
            teaching,
            pairs,
            lessons,
        })
    }

    /// What a step aims at beside its labels.
    fn aim(&self, jobs: &[View], labels: &[usize]) -> Result<Aim, LearnError> {
        let (settings, n) = (&self.teaching.settings, jobs.len());
        let (classes, device) = (self.run.dataset.classes.len(), Device::flex());
        let lesson = self.lessons.of(jobs)?;
        let vector = |values: Vec<f32>| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values, [n, classes]), &device)
        };
        let soft = vector(average_softened(&lesson.logits, classes, settings.temperature));
        let mut one_hot = vec![0.0; n * classes];
        labels.iter().enumerate().for_each(|(i, label)| one_hot[i * classes + label] = 1.0);
        let compared = self.lessons.values(&lesson, n, &device);
        let loss = Taught {
            settings: settings.clone(),
            soft,
            target: vector(one_hot),
            whats: self.pairs.0.iter().map(|pair| pair.what).collect(),
            compared,
        };
        let share = |&(image, _): &View| f32::from(u8::from(self.labelled[image]));
        let shares: Vec<f32> = jobs.iter().map(share).collect();
        let any = shares.iter().any(|share| *share > 0.0);
        let hard = if any { settings.hard } else { 0.0 };
        Ok(Aim { classes: hard, shares, other: Some(Rc::new(move |pass| loss.of(pass))) })
    }
}

/// The part of a step's loss that teachers give.
struct Taught {
    settings: Distillation,
    soft: Tensor<2>,
    target: Tensor<2>,
    whats: Vec<What>,
    compared: Vec<Value>,
}

impl Taught {
    fn of(&self, pass: &Pass) -> Tensor<1> {
        let mut loss = self.of_outputs(pass.logits.clone());
        for (logits, share) in &pass.auxiliary {
            loss = loss + self.of_outputs(logits.clone()) * *share;
        }
        for ((what, tap), compared) in self.whats.iter().zip(&pass.taps).zip(&self.compared) {
            loss = loss + self.of_pair(*what, tap.clone(), compared.clone());
        }
        loss
    }

    fn of_outputs(&self, logits: Tensor<2>) -> Tensor<1> {
        let Distillation { soft, decoupled: apart, temperature, .. } = self.settings;
        let mut loss = Tensor::zeros([1], &logits.device()).autodiff();
        if soft > 0.0 {
            loss = loss + softened(logits.clone(), &self.soft, temperature) * soft;
        }
        if apart > 0.0 {
            loss = loss + decoupled(logits, &self.soft, &self.target, temperature) * apart;
        }
        loss
    }

    fn of_pair(&self, what: What, tap: Value, compared: Value) -> Tensor<1> {
        let settings = &self.settings;
        match what {
            What::Attention(size) => {
                attention(tap.map(), &compared.vector(), size) * settings.attention
            }
            What::MapHint(size) => {
                let map = tap.map();
                let [_, _, h, w] = map.dims();
                let map = if [h, w] == size { map } else { adaptive_avg_pool2d(map, size) };
                hint(map, &compared.map()) * settings.hints
            }
            What::VectorHint => hint(tap.vector(), &compared.vector()) * settings.hints,
            What::Relations => relational(tap.pooled(), &compared.vector()) * settings.relational,
        }
    }
}

impl Feed for TaughtFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn weighed(&self) -> Vec<usize> {
        let all = self.labels.iter().zip(&self.labelled);
        let labelled: Vec<usize> = all.filter(|(_, known)| **known).map(|(l, _)| *l).collect();
        if labelled.is_empty() { self.labels.clone() } else { labelled }
    }

    fn is_body(&self) -> bool {
        true
    }

    fn taps(&self, net: &Network) -> Vec<NodeId> {
        self.pairs.taps(net.graph())
    }

    fn prepare(&self, _: &Training) -> Result<(), LearnError> {
        self.lessons.prepare(self.run.watch)
    }

    fn epoch(
        &self,
        training: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let (n, views) = (self.images.train.len(), self.lessons.views());
        let view = |id: usize| (id % n, (epoch + id % n + id / n) % views.count);
        let jobs: Vec<View> = order.into_iter().map(view).collect();
        let batch = self.run.settings.training.batch;
        for loaded in views.load(*self.preprocess, jobs.clone(), batch) {
            let loaded = loaded?;
            let jobs: Vec<View> = loaded.indices.iter().map(|job| jobs[*job]).collect();
            let labels: Vec<usize> = jobs.iter().map(|&(i, _)| self.labels[i]).collect();
            let aim = self.aim(&jobs, &labels)?;
            let shape = [loaded.n, 3, loaded.size, loaded.size];
            let images = Tensor::from_data(TensorData::new(loaded.images, shape), &Device::flex());
            let boundary = training.run_frozen(images);
            each(Step { boundary, labels, mixtures: Vec::new(), aim })?;
        }
        let again = self.lessons.take_computed();
        if again > 0 {
            self.run.watch.event(Event::Note(format!(
                "teachers were asked of {again} views again, which --activation-budget has no room for"
            )));
        }
        Ok(())
    }

    fn validate(&self, _: &Training, net: &Network) -> Result<Option<Verdict>, LearnError> {
        let metrics = self.run.judge(net, self.preprocess, &self.images.val, "validation")?;
        Ok(metrics.map(Verdict::from))
    }
}
