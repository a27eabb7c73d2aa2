//! What teachers say of views of images: computed once, and kept.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;

use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{
    Augment, CacheKey, ContentHash, DataError, DecodeOptions, FeatureCache, ImageCache, Loader,
    LoaderOptions, RgbImage, Sample, Strictness,
};
use refit_net::{Compiled, NodeId, Precision, Value};

use super::attention_map;
use super::pairs::{Pair, Pairs, Sized, What};
use crate::calibrate::scaled;
use crate::error::LearnError;
use crate::extract::{draw_view, drawn_key};
use crate::kept::{self, TOGETHER, View, in_company};
use crate::metrics::softmax;
use crate::model::{Model, RunOptions};
use crate::watch::{Event, Watch, stage};

/// A model that teaches, and its position of each of the student's classes.
#[derive(Debug)]
pub(crate) struct Teacher {
    pub name: String,
    pub model: Model,
    positions: Vec<usize>,
}

impl Teacher {
    /// A model by file or zoo name.
    pub fn open(path: &Path, device: &Device) -> Result<Self, LearnError> {
        let name = path.to_string_lossy().into_owned();
        let model = Model::open(&name, device)?.for_rgb()?;
        model.check_classes()?;
        let positions = (0..model.card.classes.len()).collect();
        Ok(Self { name, model, positions })
    }

    /// Lets it speak of `classes`, in that order.
    pub fn about(mut self, classes: &[String]) -> Result<Self, LearnError> {
        self.positions = self.model.positions_of(classes)?;
        Ok(self)
    }

    /// How many classes it speaks of.
    pub fn classes(&self) -> usize {
        self.positions.len()
    }

    /// Logits in the order of the student's classes.
    fn ordered(&self, logits: &[f32]) -> Vec<f32> {
        self.positions.iter().map(|&position| logits[position]).collect()
    }

    /// What it says of each image, `[images, classes]` in the order of the student's classes; zeros of one
    /// that cannot be read.
    pub fn logits(
        &self,
        samples: &[Sample],
        options: &RunOptions,
        watch: &dyn Watch,
    ) -> Result<Vec<f32>, LearnError> {
        let classes = self.classes();
        let mut logits = vec![0.0; samples.len() * classes];
        stage(watch, "teacher", samples.len(), || {
            self.model.run(samples, &[], options, watch, &mut |output| {
                let row = self.ordered(&output.values);
                logits[output.index * classes..][..classes].copy_from_slice(&row);
            })
        })?;
        Ok(logits)
    }

    pub fn sized(&self) -> Sized<'_> {
        Sized { graph: self.model.network.graph(), size: self.model.card.preprocess.size }
    }
}

/// The mean of some teachers' distributions at a temperature, of logits `[n, classes]` each.
pub(crate) fn average_softened(logits: &[Vec<f32>], classes: usize, temperature: f64) -> Vec<f32> {
    let share = 1.0 / logits.len() as f32;
    let mut mean = vec![0.0; logits[0].len()];
    for logits in logits {
        let soft = softmax(&scaled(logits, temperature), classes);
        mean.iter_mut().zip(soft).for_each(|(m, p)| *m += share * p);
    }
    mean
}

/// How views are made.
#[derive(Clone)]
pub(crate) struct Views {
    pub samples: Arc<[Sample]>,
    pub hashes: Arc<[ContentHash]>,
    pub augment: Augment,
    pub seed: u64,
    /// Views of each image.
    pub count: usize,
    pub workers: usize,
    /// Pixels of the shorter side that images are decoded to.
    pub side: u32,
    /// Images that were decoded.
    pub images: Arc<ImageCache>,
}

impl Views {
    /// Makes views at a size and normalization, in their order, `batch` at a time.
    pub fn load(
        &self,
        preprocess: refit_data::Preprocess,
        jobs: Vec<View>,
        batch: usize,
    ) -> Loader {
        let samples: Vec<Sample> = jobs.iter().map(|&(i, _)| self.samples[i].clone()).collect();
        let options = LoaderOptions {
            batch_size: batch,
            size: preprocess.size,
            workers: self.workers,
            ahead: 2,
            strictness: Strictness::Strict,
        };
        let (images, hashes) = (Arc::clone(&self.images), Arc::clone(&self.hashes));
        let (augment, seed) = (self.augment, self.seed);
        let order = (0..jobs.len()).collect();
        let open = move |sample: &Sample| images.get(&sample.path);
        let make =
            move |image: &Arc<RgbImage>, job: usize, out: &mut [f32]| -> Result<(), DataError> {
                let (i, view) = jobs[job];
                draw_view(image, (&hashes[i], view), &preprocess, (&augment, seed), out);
                Ok(())
            };
        Loader::of_views(samples, order, options, open, make)
    }

    fn key(&self, (image, view): View) -> ContentHash {
        drawn_key(&self.hashes[image], view, &self.augment, self.seed)
    }
}

/// One teacher's rows: its logits, then what pairs compare.
struct Rows<'a> {
    teacher: &'a Teacher,
    pairs: &'a [Pair],
    compiled: Compiled,
    /// The output, then the nodes that pairs compare, each once.
    nodes: Vec<NodeId>,
    kept: RefCell<FeatureCache>,
}

/// Where rows are kept.
pub(crate) struct Keep<'a> {
    /// Nowhere if none.
    pub folder: Option<&'a Path>,
    /// Bytes of rows.
    pub budget: u64,
    pub precision: Precision,
    /// Told where they cannot be kept.
    pub watch: &'a dyn Watch,
}

/// What all teachers say of views.
pub(crate) struct Lessons<'a> {
    rows: Vec<Rows<'a>>,
    views: Views,
    pairs: &'a [Pair],
    classes: usize,
    computed: Cell<usize>,
}

/// What teachers say of a batch.
pub(crate) struct Lesson {
    /// Each teacher's logits, `[n, classes]`.
    pub logits: Vec<Vec<f32>>,
    /// What each pair compares, `[n, its length]`.
    pub compared: Vec<Vec<f32>>,
}

impl<'a> Lessons<'a> {
    /// Lessons of teachers, of which the first is compared at `pairs`.
    pub fn new(
        teachers: &'a [Teacher],
        pairs: &'a Pairs,
        views: Views,
        keep: &Keep,
    ) -> Result<Self, LearnError> {
        let classes = teachers[0].classes();
        let of = |(number, teacher): (usize, &'a Teacher)| {
            Rows::new(teacher, if number == 0 { &pairs.0 } else { &[] }, &views, keep)
        };
        let rows = teachers.iter().enumerate().map(of).collect::<Result<_, _>>()?;
        Ok(Self { rows, views, pairs: &pairs.0, classes, computed: Cell::new(0) })
    }

    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Asks the teachers of every view that is not kept, as far as there is room.
    pub fn prepare(&self, watch: &dyn Watch) -> Result<(), LearnError> {
        let images = self.views.samples.len();
        let all = || (0..images).flat_map(|i| (0..self.views.count).map(move |view| (i, view)));
        for rows in &self.rows {
            let (missing, room): (Vec<View>, usize) = {
                let kept = rows.kept.borrow();
                let is_missing = |job: &View| !rows.is_kept(&kept, &self.views, *job);
                (all().filter(is_missing).collect(), kept.room())
            };
            let (views, before) = (images * self.views.count, missing.len());
            let missing = &missing[..room.min(before)];
            let computed = missing.len();
            if !missing.is_empty() {
                stage(watch, "teacher", computed, || rows.fill(&self.views, missing, watch))?;
            }
            watch.event(Event::Note(format!(
                "teacher {}: {views} views of {images} images, {computed} computed and {} kept before",
                rows.teacher.name,
                views.saturating_sub(before),
            )));
            let warnings = rows.kept.borrow_mut().take_warnings();
            warnings.into_iter().for_each(|warning| watch.event(Event::Warning(warning)));
        }
        Ok(())
    }

    /// Views that had to be computed outside of [`prepare`](Self::prepare) since this was last asked.
    pub fn take_computed(&self) -> usize {
        self.computed.take()
    }

    /// What the teachers say of some views.
    pub fn of(&self, jobs: &[View]) -> Result<Lesson, LearnError> {
        let mut lesson = Lesson { logits: Vec::new(), compared: Vec::new() };
        for rows in &self.rows {
            let found = rows.get(&self.views, jobs, &self.computed)?;
            lesson
                .logits
                .push(found.iter().flat_map(|row| &row[..self.classes]).copied().collect());
            let mut start = self.classes;
            for pair in rows.pairs {
                let part = start..start + pair.len;
                start = part.end;
                lesson
                    .compared
                    .push(found.iter().flat_map(|row| &row[part.clone()]).copied().collect());
            }
        }
        Ok(lesson)
    }

    /// What the pairs compare, as tensors of a batch of `n`: `[n, c, h, w]` of a map's hint, else
    /// `[n, length]`.
    pub fn values(&self, lesson: &Lesson, n: usize, device: &Device) -> Vec<Value> {
        let value = |(pair, values): (&Pair, &Vec<f32>)| match pair.what {
            What::MapHint([h, w]) => {
                let data = TensorData::new(values.clone(), [n, pair.len / (h * w), h, w]);
                Value::Map(Tensor::from_data(data, device))
            }
            _ => {
                let data = TensorData::new(values.clone(), [n, pair.len]);
                Value::Vector(Tensor::from_data(data, device))
            }
        };
        self.pairs.iter().zip(&lesson.compared).map(value).collect()
    }
}

impl<'a> Rows<'a> {
    fn new(
        teacher: &'a Teacher,
        pairs: &'a [Pair],
        views: &Views,
        keep: &Keep,
    ) -> Result<Self, LearnError> {
        let network = &teacher.model.network;
        let graph = network.graph();
        let mut nodes = vec![graph.output()];
        for pair in pairs {
            if !nodes.contains(&pair.teacher) {
                nodes.push(pair.teacher);
            }
        }
        let names: Vec<&str> = nodes.iter().map(|&id| graph.nodes()[id].name.as_str()).collect();
        keep.precision.check()?;
        let compiled = network.compile_in(&names, keep.precision)?;
        let dim = teacher.positions.len() + pairs.iter().map(|pair| pair.len).sum::<usize>();
        let kept = RefCell::new(open(teacher, pairs, &names, views, keep, dim)?);
        Ok(Self { teacher, pairs, compiled, nodes, kept })
    }

    fn is_kept(&self, kept: &FeatureCache, views: &Views, job: View) -> bool {
        kept.contains(&views.key(job), job.1 as u32)
    }

    fn fill(&self, views: &Views, missing: &[View], watch: &dyn Watch) -> Result<(), LearnError> {
        for (row, &job) in self.compute(views, missing.to_vec()).zip(missing) {
            self.kept.borrow_mut().insert(&views.key(job), job.1 as u32, &row?);
            watch.event(Event::Advance { items: 1 });
            if watch.stops() {
                return Err(LearnError::Stopped);
            }
        }
        self.kept.borrow_mut().flush();
        Ok(())
    }

    /// The rows of views: those that are kept, the others as they are computed.
    fn get(
        &self,
        views: &Views,
        jobs: &[View],
        computed: &Cell<usize>,
    ) -> Result<Vec<Vec<f32>>, LearnError> {
        let kept = self.kept.borrow();
        let missing: Vec<View> =
            jobs.iter().copied().filter(|job| !self.is_kept(&kept, views, *job)).collect();
        computed.set(computed.get() + missing.len());
        let mut others = self.compute(views, missing);
        let row = |&job: &View| match kept.get(&views.key(job), job.1 as u32) {
            Some(row) => Ok(row.to_vec()),
            None => others.next().expect("a row for each that is missing"),
        };
        jobs.iter().map(row).collect()
    }

    /// The rows of views, computed in their order.
    fn compute(
        &self,
        views: &Views,
        jobs: Vec<View>,
    ) -> impl Iterator<Item = Result<Vec<f32>, LearnError>> {
        let count = jobs.len();
        let preprocess = self.teacher.model.card.preprocess;
        let loader = views.load(preprocess, in_company(jobs), TOGETHER);
        let rows = loader.flat_map(move |batch| match batch {
            Err(error) => vec![Err(error.into())],
            Ok(batch) => {
                let shape = [batch.n, 3, batch.size, batch.size];
                let data = TensorData::new(batch.images, shape);
                let device = self.teacher.model.network.device();
                let values = self.compiled.run(Tensor::from_data(data, device));
                self.split(&values, batch.n).into_iter().map(Ok).collect()
            }
        });
        rows.take(count)
    }

    /// Each image's row.
    fn split(&self, values: &[Value], n: usize) -> Vec<Vec<f32>> {
        let logits = values[0].to_vec();
        let known = logits.len() / n;
        let compared: Vec<Vec<f32>> = self
            .pairs
            .iter()
            .map(|pair| {
                let position = self.nodes.iter().position(|&node| node == pair.teacher);
                reduced(pair, values[position.expect("it was compiled")].clone())
            })
            .collect();
        let row = |i: usize| {
            let mut row = self.teacher.ordered(&logits[i * known..][..known]);
            for (pair, values) in self.pairs.iter().zip(&compared) {
                row.extend_from_slice(&values[i * pair.len..][..pair.len]);
            }
            row
        };
        (0..n).map(row).collect()
    }
}

/// What a pair compares of a teacher's value.
fn reduced(pair: &Pair, value: Value) -> Vec<f32> {
    match (pair.what, value) {
        (What::Attention(size), Value::Map(map)) => {
            Value::Vector(attention_map(map, size)).to_vec()
        }
        (What::MapHint(size), Value::Map(map)) => {
            let [_, _, h, w] = map.dims();
            let map = if [h, w] == size { map } else { adaptive_avg_pool2d(map, size) };
            Value::Map(map).to_vec()
        }
        (_, value) => Value::Vector(value.pooled()).to_vec(),
    }
}

fn open(
    teacher: &Teacher,
    pairs: &[Pair],
    names: &[&str],
    views: &Views,
    keep: &Keep,
    dim: usize,
) -> Result<FeatureCache, LearnError> {
    let network = &teacher.model.network;
    let mut frozen = blake3::Hasher::new();
    for name in names {
        frozen.update(&network.fingerprint(name)?);
    }
    let node = |pair: &Pair| &network.graph().nodes()[pair.teacher].name;
    let what = |pair: &Pair| format!("{:?} of {}", pair.what, node(pair));
    let whats: Vec<String> = pairs.iter().map(what).collect();
    let mut seen = blake3::Hasher::new();
    seen.update(&views.seed.to_le_bytes()).update(&views.augment.digest());
    seen.update(&views.side.to_le_bytes());
    let (seen, positions) = (seen.finalize().to_hex(), &teacher.positions);
    let key = CacheKey {
        frozen: *frozen.finalize().as_bytes(),
        preprocess: teacher.model.card.preprocess.digest(&DecodeOptions::default()),
        what: format!(
            "lessons of {} at {} as {} of {positions:?} in {}, {seen}",
            network.graph().name(),
            names.join(" "),
            whats.join(" "),
            keep.precision
        ),
    };
    Ok(kept::open(keep.folder, &key, dim, keep.budget, keep.watch))
}
