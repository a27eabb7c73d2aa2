//! Training over activations that are kept: what is frozen runs once a view.
//!
//! Each training image has a fixed number of views, the plain one and augmented ones, and epochs learn
//! from them in turn. Their activations where the trained part begins are kept as f16 in a
//! memory-mapped file, so that epochs cost the trained part only. What does not fit into the budget
//! is computed again each time, with the same result.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use half::f16;
use half::slice::HalfFloatSliceExt;
use refit_data::cache::Element;
use refit_data::{
    CacheKey, ContentHash, DataError, DecodeOptions, FeatureCache, Loader, LoaderOptions,
    Preprocess, RgbImage, Sample, Strictness, decode_file_in,
};
use refit_net::{Network, Precision, Shape, Training, Value};

use super::images::Images;
use super::{Run, labels};
use crate::error::LearnError;
use crate::extract::{draw_view, drawn_key};
use crate::fit::{Aim, Feed, Step, Verdict};
use crate::kept::{self, TOGETHER, View, in_company};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::watch::{Event, stage};

/// Takes the views of a batch, and what enters the trained part.
type Each<'a> = dyn FnMut(&[View], Vec<Value>) -> Result<(), LearnError> + 'a;

/// Steps from activations that are kept.
pub(super) struct ActivationFeed<'a> {
    run: &'a Run<'a>,
    preprocess: &'a Preprocess,
    train: Part<'a>,
    val: Part<'a>,
    /// What enters the trained part, of one image.
    shapes: Vec<Shape>,
    learned: RefCell<FeatureCache<f16>>,
    /// In f32: a network is judged as it will compute.
    judged: RefCell<FeatureCache>,
}

/// Images to learn from, or to judge by.
struct Part<'a> {
    samples: &'a [Sample],
    labels: Vec<usize>,
    hashes: Arc<[ContentHash]>,
}

impl<'a> Part<'a> {
    fn new(samples: &'a [Sample], hashes: &Arc<[ContentHash]>) -> Self {
        Self { samples, labels: labels(samples), hashes: Arc::clone(hashes) }
    }
}

/// Numbers that rows are kept as.
trait Kept: Element {
    fn of(values: &[f32]) -> Vec<Self>;
    fn append(row: &[Self], values: &mut Vec<f32>);
}

impl Kept for f32 {
    fn of(values: &[f32]) -> Vec<Self> {
        values.to_vec()
    }

    fn append(row: &[Self], values: &mut Vec<f32>) {
        values.extend_from_slice(row);
    }
}

impl Kept for f16 {
    fn of(values: &[f32]) -> Vec<Self> {
        let (low, high) = (f16::MIN.to_f32(), f16::MAX.to_f32());
        let bounded: Vec<f32> = values.iter().map(|v| v.clamp(low, high)).collect();
        let mut row = vec![f16::ZERO; values.len()];
        row.convert_from_f32_slice(&bounded);
        row
    }

    fn append(row: &[Self], values: &mut Vec<f32>) {
        let start = values.len();
        values.resize(start + row.len(), 0.0);
        row.convert_to_f32_slice(&mut values[start..]);
    }
}

impl<'a> ActivationFeed<'a> {
    pub fn new(
        run: &'a Run<'a>,
        preprocess: &'a Preprocess,
        images: &'a Images,
        network: &Network,
    ) -> Result<Self, LearnError> {
        let training = Training::new_in(network, run.settings.precision);
        let graph = network.graph();
        let all = graph.shapes_at(preprocess.size, preprocess.size)?;
        let layers = training.boundary(network);
        let shape = |layer: &&str| Ok(all[graph.find(layer)?]);
        let shapes: Vec<Shape> = layers.iter().map(shape).collect::<Result<_, LearnError>>()?;
        let dim = shapes.iter().map(Shape::elements).sum();
        let key = run.boundary_key(network, &layers, preprocess)?;
        Ok(Self {
            run,
            preprocess,
            train: Part::new(&images.train, &images.hashes[0]),
            val: Part::new(&images.val, &images.hashes[1]),
            shapes,
            learned: RefCell::new(open(run, &key, dim, run.context.activation_budget)),
            judged: RefCell::new(open(run, &key, dim, run.context.activation_budget / 4)),
        })
    }

    fn views(&self) -> usize {
        fixed_views(self.run.settings)
    }

    /// Computes and keeps the rows of `part` that are not there, as far as there is room.
    fn fill<T: Kept>(
        &self,
        training: &Training,
        part: &Part,
        views: usize,
        cache: &RefCell<FeatureCache<T>>,
        what: &str,
    ) -> Result<(), LearnError> {
        let jobs = (0..part.samples.len()).flat_map(|i| (0..views).map(move |view| (i, view)));
        let missing: Vec<View> = {
            let cache = cache.borrow();
            jobs.filter(|job| !self.is_kept(&cache, part, *job)).take(cache.room()).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        stage(self.run.watch, what, missing.len(), || -> Result<(), LearnError> {
            let rows = self.rows::<T>(training, part, missing.clone());
            for (row, &(image, view)) in rows.zip(&missing) {
                let key = self.key(part, (image, view));
                cache.borrow_mut().insert(&key, view as u32, &row?);
                self.run.watch.event(Event::Advance { items: 1 });
                if self.run.watch.stops() {
                    return Err(LearnError::Stopped);
                }
            }
            cache.borrow_mut().flush();
            Ok(())
        })?;
        for warning in cache.borrow_mut().take_warnings() {
            self.run.watch.event(Event::Warning(warning));
        }
        Ok(())
    }

    fn key(&self, part: &Part, (image, view): View) -> ContentHash {
        let settings = self.run.settings;
        drawn_key(&part.hashes[image], view, &settings.training.augment(), settings.seed)
    }

    fn is_kept<T: Kept>(&self, cache: &FeatureCache<T>, part: &Part, job: View) -> bool {
        cache.contains(&self.key(part, job), job.1 as u32)
    }

    /// The rows of some images' views, computed in their order.
    fn rows<'b, T: Kept>(
        &self,
        training: &'b Training,
        part: &Part,
        jobs: Vec<View>,
    ) -> impl Iterator<Item = Result<Vec<T>, LearnError>> + use<'b, T> {
        let count = jobs.len();
        let jobs = in_company(jobs);
        let samples: Vec<Sample> = jobs.iter().map(|&(i, _)| part.samples[i].clone()).collect();
        let options = LoaderOptions {
            batch_size: TOGETHER,
            size: self.preprocess.size,
            workers: self.run.context.workers,
            ahead: 2,
            strictness: Strictness::Strict,
        };
        let (pipeline, augment) = (*self.preprocess, self.run.settings.training.augment());
        let (seed, hashes) = (self.run.settings.seed, Arc::clone(&part.hashes));
        let open = move |sample: &Sample| {
            decode_file_in(&sample.path, &DecodeOptions::default(), pipeline.detail())
        };
        let order = (0..jobs.len()).collect();
        let make = move |image: &RgbImage, job: usize, out: &mut [f32]| -> Result<(), DataError> {
            let (i, view) = jobs[job];
            draw_view(image, (&hashes[i], view), &pipeline, (&augment, seed), out);
            Ok(())
        };
        let loader = Loader::of_views(samples, order, options, open, make);
        let rows = loader.flat_map(move |batch| match batch {
            Err(error) => vec![Err(error.into())],
            Ok(batch) => {
                let shape = [batch.n, 3, batch.size, batch.size];
                let data = TensorData::new(batch.images, shape);
                let values = training.run_frozen(Tensor::from_data(data, &Device::flex()));
                split(&values, batch.n).into_iter().map(|row| Ok(T::of(&row))).collect()
            }
        });
        rows.take(count)
    }

    /// The values of rows `[n, everything]`, as they enter the trained part.
    fn values(&self, rows: &[f32], n: usize, device: &Device) -> Vec<Value> {
        let dim = rows.len() / n;
        let mut start = 0;
        let value = |shape: &Shape| {
            let part = start..start + shape.elements();
            start = part.end;
            let mut values = Vec::with_capacity(n * part.len());
            rows.chunks_exact(dim).for_each(|row| values.extend_from_slice(&row[part.clone()]));
            match *shape {
                Shape::Map { channels, height, width } => {
                    let data = TensorData::new(values, [n, channels, height, width]);
                    Value::Map(Tensor::from_data(data, device))
                }
                Shape::Vector { features } => {
                    let data = TensorData::new(values, [n, features]);
                    Value::Vector(Tensor::from_data(data, device))
                }
            }
        };
        self.shapes.iter().map(value).collect()
    }

    /// Hands out the rows of jobs in batches: those that are kept, the others as they are computed.
    fn batches<T: Kept>(
        &self,
        training: &Training,
        part: &Part,
        jobs: &[View],
        (batch, cache): (usize, &RefCell<FeatureCache<T>>),
        each: &mut Each,
    ) -> Result<(), LearnError> {
        let cache = cache.borrow();
        let missing: Vec<View> =
            jobs.iter().copied().filter(|job| !self.is_kept(&cache, part, *job)).collect();
        let mut computed = self.rows::<T>(training, part, missing);
        let mut rows = Vec::new();
        for jobs in jobs.chunks(batch) {
            rows.clear();
            for &job in jobs {
                match cache.get(&self.key(part, job), job.1 as u32) {
                    Some(row) => T::append(row, &mut rows),
                    None => {
                        let row = computed.next().expect("a row for each that is missing")?;
                        T::append(&row, &mut rows);
                    }
                }
            }
            each(jobs, self.values(&rows, jobs.len(), &Device::flex()))?;
        }
        Ok(())
    }
}

/// The views that epochs take in turn; 0 where every epoch draws its own.
pub(super) fn fixed_views(settings: &Settings) -> usize {
    match settings.training.fixed_views {
        0 => 0,
        _ if settings.training.augment().is_none() => 1,
        views => views,
    }
}

impl Feed for ActivationFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.train.labels
    }

    fn is_body(&self) -> bool {
        true
    }

    fn prepare(&self, training: &Training) -> Result<(), LearnError> {
        self.fill(training, &self.train, self.views(), &self.learned, "activations")?;
        self.fill(training, &self.val, 1, &self.judged, "validation activations")
    }

    fn epoch(
        &self,
        training: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let n = self.train.samples.len();
        let view = |id: usize| (id % n, (epoch + id % n + id / n) % self.views());
        let jobs: Vec<View> = order.into_iter().map(view).collect();
        let batch = self.run.settings.training.batch;
        let cache = (batch, &self.learned);
        self.batches(training, &self.train, &jobs, cache, &mut |jobs, boundary| {
            let labels = jobs.iter().map(|&(i, _)| self.train.labels[i]).collect();
            each(Step { boundary, labels, mixtures: Vec::new(), aim: Aim::default() })
        })
    }

    fn validate(&self, training: &Training, net: &Network) -> Result<Option<Verdict>, LearnError> {
        let val = &self.val;
        let trained = training.compile_trained(net);
        let jobs: Vec<View> = (0..val.samples.len()).map(|i| (i, 0)).collect();
        let mut logits = Vec::new();
        let cache = (TOGETHER, &self.judged);
        self.batches(training, val, &jobs, cache, &mut |_, boundary| {
            logits.extend(trained.run_from(boundary).remove(0).to_vec());
            Ok(())
        })?;
        let metrics = Metrics::from_logits(&logits, &val.labels, &self.run.dataset.classes);
        Ok(metrics.map(Verdict::from))
    }
}

impl Run<'_> {
    /// Everything beside the image that decides what enters the trained part.
    fn boundary_key(
        &self,
        network: &Network,
        layers: &[&str],
        preprocess: &Preprocess,
    ) -> Result<CacheKey, LearnError> {
        let mut frozen = blake3::Hasher::new();
        for layer in layers {
            frozen.update(&network.fingerprint(layer)?);
        }
        // A file for these images and views alone, so that others, when they are no longer used, leave.
        let settings = self.settings;
        let mut views = blake3::Hasher::new();
        views.update(settings.data.as_os_str().as_encoded_bytes());
        views.update(&settings.seed.to_le_bytes()).update(&settings.training.augment().digest());
        let views = views.finalize().to_hex();
        let (name, layers) = (network.graph().name(), layers.join(" "));
        Ok(CacheKey {
            frozen: *frozen.finalize().as_bytes(),
            preprocess: preprocess.digest(&DecodeOptions::default()),
            what: match self.settings.precision {
                Precision::F32 => format!("{name} activations of {layers}, {views}"),
                other => format!("{name} activations of {layers} in {other}, {views}"),
            },
        })
    }
}

fn open<T: Kept>(run: &Run, key: &CacheKey, dim: usize, budget: u64) -> FeatureCache<T> {
    let folder = run.context.cache.as_deref().map(|cache: &Path| cache.join("activations"));
    kept::open(folder.as_deref(), key, dim, budget, run.watch)
}

/// Each image's values, one layer's after the other's.
fn split(values: &[Value], images: usize) -> Vec<Vec<f32>> {
    let whole: Vec<Vec<f32>> = values.iter().map(Value::to_vec).collect();
    let row = |i: usize| {
        whole.iter().flat_map(move |v| v.chunks_exact(v.len() / images).nth(i)).flatten().copied()
    };
    (0..images).map(|i| row(i).collect()).collect()
}
