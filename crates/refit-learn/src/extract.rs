//! Features of images from the frozen part of a network, each computed once.

use std::path::PathBuf;
use std::time::Instant;

use refit_data::{
    Augment, CacheKey, ContentHash, DataError, DecodeOptions, FeatureCache, Loader, LoaderOptions,
    Preprocess, RgbImage, Sample, Skipped, Stream, check, decode_file_in,
};
use refit_net::{Network, NodeId, Precision};

use crate::error::LearnError;
use crate::model::{RunOptions, compile};
use crate::watch::{Event, Watch, stage};

/// How features are taken.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// How images are read.
    pub run: RunOptions,
    /// Views of each image: plain, mirrored, and from the third on augmented.
    pub views: usize,
    /// Whether the mirrored view, where it is one of them, is not left out.
    pub mirrored: bool,
    /// What is done to every image before its views are made.
    pub change: Change,
    /// How the augmented views are made.
    pub augment: Augment,
    /// Decides the augmented views.
    pub seed: u64,
    /// Where features are kept between runs; nowhere if none.
    pub cache: Option<PathBuf>,
}

/// A change of whole images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Change {
    /// None.
    #[default]
    Nothing,
    /// Top and bottom are mirrored.
    UpsideDown,
    /// Turned counterclockwise by so many quarters of a circle.
    Turned(usize),
}

impl Change {
    fn of(self, mut image: RgbImage) -> RgbImage {
        match self {
            Self::Nothing => {}
            Self::UpsideDown => image.flip_vertical(),
            Self::Turned(quarters) => image = image.turned(quarters),
        }
        image
    }

    /// What a changed image's features are kept under, with its content.
    fn name(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::UpsideDown => Some("upside down".into()),
            Self::Turned(quarters) => Some(format!("turned {}", quarters % 4)),
        }
    }
}

/// Features of some images.
#[derive(Debug, Clone)]
pub struct Features {
    /// Numbers a row.
    pub dim: usize,
    /// A row for each readable image and view: `[images * views, dim]`, an image's views together.
    pub rows: Vec<f32>,
    /// Rows an image.
    pub views: usize,
    /// Positions of the readable images among those asked for, ascending.
    pub readable: Vec<usize>,
    /// The contents of the readable images.
    pub hashes: Vec<ContentHash>,
    /// The others.
    pub skipped: Vec<Skipped>,
    /// Rows that had to be computed.
    pub computed: usize,
    /// Seconds it took.
    pub seconds: f64,
}

impl Features {
    /// The row of one view of one readable image.
    pub fn row(&self, image: usize, view: usize) -> &[f32] {
        &self.rows[(image * self.views + view) * self.dim..][..self.dim]
    }

    /// The same with the first so many views of each image alone.
    pub(crate) fn of_views(self, views: usize) -> Self {
        if views >= self.views {
            return self;
        }
        let images = self.rows.chunks_exact(self.views * self.dim);
        let rows = images.flat_map(|image| &image[..views * self.dim]).copied().collect();
        Self { rows, views, ..self }
    }
}

impl ExtractOptions {
    /// The views that are asked for, by number.
    fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        let mirrored = self.mirrored;
        (0..self.views).filter(move |view| mirrored || *view != 1)
    }
}

/// Takes the features of `samples`: what the head of `net` would take.
///
/// # Errors
/// If an image cannot be read under `strict`, or none can be read at all, or this machine does not
/// have the precision.
pub fn extract(
    net: &Network,
    preprocess: &Preprocess,
    samples: &[Sample],
    options: &ExtractOptions,
    watch: &dyn Watch,
) -> Result<Features, LearnError> {
    extract_at(net, net.graph().features(), preprocess, samples, options, watch)
}

/// Takes the values of `samples` at a layer; of a feature map, each channel's mean over the image.
///
/// # Errors
/// As [`extract`].
///
/// # Panics
/// If there is no such layer.
pub fn extract_at(
    net: &Network,
    layer: NodeId,
    preprocess: &Preprocess,
    samples: &[Sample],
    options: &ExtractOptions,
    watch: &dyn Watch,
) -> Result<Features, LearnError> {
    let started = Instant::now();
    let node = &net.graph().nodes()[layer];
    let dim = node.shape.channels();
    let mut cache = open_cache(net, preprocess, &node.name, dim, options)?;
    let mut work = Extraction::new(samples, options)?;
    let missing = work.missing(&cache);
    let mut computed = 0;
    if !missing.is_empty() {
        let compiled = compile(net, &node.name, options.run.precision)?;
        stage(watch, "features", missing.len(), || -> Result<(), LearnError> {
            let mut loader = work.loader(preprocess, &missing);
            for batch in loader.by_ref() {
                let batch = batch?;
                let shape = [batch.n, 3, preprocess.size, preprocess.size];
                let images = burn::tensor::TensorData::new(batch.images, shape);
                let images = burn::tensor::Tensor::from_data(images, net.device());
                let rows = compiled.run(images).remove(0).pooled();
                let rows: Vec<f32> = rows.to_data().iter::<f32>().collect();
                for (row, &job) in rows.chunks_exact(dim).zip(&batch.indices) {
                    let (image, view) = missing[job];
                    if let Some(hash) = &work.hashes[image] {
                        cache.insert(&work.key(hash, view), view as u32, row);
                        computed += 1;
                    }
                }
                watch.event(Event::Advance { items: batch.n });
                if watch.stops() {
                    return Err(LearnError::Stopped);
                }
            }
            work.skip(loader.skipped().to_vec());
            Ok(())
        })?;
        cache.flush();
    }
    cache.take_warnings().into_iter().for_each(|w| watch.event(Event::Warning(w)));
    let mut features = work.collect(&cache, dim)?;
    features.computed = computed;
    features.seconds = started.elapsed().as_secs_f64();
    Ok(features)
}

fn open_cache(
    net: &Network,
    preprocess: &Preprocess,
    layer: &str,
    dim: usize,
    options: &ExtractOptions,
) -> Result<FeatureCache, LearnError> {
    let Some(dir) = &options.cache else { return Ok(FeatureCache::in_memory(dim)) };
    let name = net.graph().name();
    let key = CacheKey {
        frozen: net.fingerprint(layer)?,
        preprocess: preprocess.digest(&DecodeOptions::default()),
        what: match options.run.precision {
            Precision::F32 => format!("{name} {layer}"),
            other => format!("{name} {layer} in {other}"),
        },
    };
    Ok(FeatureCache::open(dir, &key, dim))
}

struct Extraction<'a> {
    samples: &'a [Sample],
    options: &'a ExtractOptions,
    hashes: Vec<Option<ContentHash>>,
    skipped: Vec<Skipped>,
}

impl<'a> Extraction<'a> {
    fn new(samples: &'a [Sample], options: &'a ExtractOptions) -> Result<Self, LearnError> {
        let paths: Vec<PathBuf> = samples.iter().map(|s| s.path.clone()).collect();
        let mut hashes = Vec::with_capacity(samples.len());
        let mut skipped = Vec::new();
        for (path, hash) in paths.iter().zip(check::hash_files(&paths, options.run.workers, None)) {
            match hash {
                Ok(hash) => hashes.push(Some(hash)),
                Err(error) if options.run.strictness == refit_data::Strictness::Strict => {
                    return Err(error.into());
                }
                Err(error) => {
                    skipped.push(Skipped::new(path, &error));
                    hashes.push(None);
                }
            }
        }
        Ok(Self { samples, options, hashes, skipped })
    }

    /// What a view's row is kept under: augmented ones depend on how they were drawn.
    fn key(&self, content: &ContentHash, view: usize) -> ContentHash {
        let content = match self.options.change.name() {
            None => *content,
            Some(change) => {
                let mut hasher = blake3::Hasher::new();
                *hasher.update(content).update(change.as_bytes()).finalize().as_bytes()
            }
        };
        match view {
            0 | 1 => content,
            _ => view_key(&content, &self.options.augment, self.options.seed),
        }
    }

    /// The images and views that are not in the cache.
    fn missing(&self, cache: &FeatureCache) -> Vec<(usize, usize)> {
        let jobs =
            (0..self.samples.len()).flat_map(|i| self.options.numbers().map(move |v| (i, v)));
        jobs.filter(|&(image, view)| {
            self.hashes[image]
                .is_some_and(|hash| !cache.contains(&self.key(&hash, view), view as u32))
        })
        .collect()
    }

    fn loader(&self, preprocess: &Preprocess, missing: &[(usize, usize)]) -> Loader {
        let jobs: Vec<Sample> = missing.iter().map(|&(i, _)| self.samples[i].clone()).collect();
        let options = LoaderOptions {
            batch_size: self.options.run.batch,
            size: preprocess.size,
            workers: self.options.run.workers,
            ahead: 2,
            strictness: self.options.run.strictness,
        };
        let (pipeline, augment, seed) = (*preprocess, self.options.augment, self.options.seed);
        let change = self.options.change;
        let keys: Vec<(ContentHash, usize)> = missing
            .iter()
            .map(|&(image, view)| (self.hashes[image].unwrap_or_default(), view))
            .collect();
        let open = move |sample: &Sample| {
            let image = decode_file_in(&sample.path, &DecodeOptions::default(), pipeline.detail())?;
            Ok(change.of(image))
        };
        let make = move |image: &RgbImage, job: usize, out: &mut [f32]| {
            match keys[job] {
                (_, 0) => pipeline.apply_into(image, out),
                (_, 1) => pipeline.apply_into(&image.flipped_horizontal(), out),
                (content, view) => {
                    let mut stream = view_stream(seed, &content, view);
                    augment.apply_into(image, &pipeline, &mut stream, out);
                }
            }
            Ok(())
        };
        let order = (0..jobs.len()).collect();
        Loader::of_views(jobs, order, options, open, make)
    }

    fn skip(&mut self, skipped: Vec<Skipped>) {
        for skip in skipped {
            // An image's other views fail the same way.
            if self.skipped.iter().all(|s| s.path != skip.path) {
                self.skipped.push(skip);
            }
        }
    }

    fn collect(mut self, cache: &FeatureCache, dim: usize) -> Result<Features, LearnError> {
        let views = self.options.numbers().count();
        let (mut rows, mut readable, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
        for (image, hash) in self.hashes.iter().enumerate() {
            let Some(hash) = hash else { continue };
            let found: Option<Vec<&[f32]>> =
                self.options.numbers().map(|v| cache.get(&self.key(hash, v), v as u32)).collect();
            let Some(found) = found else { continue };
            found.into_iter().for_each(|row| rows.extend_from_slice(row));
            readable.push(image);
            hashes.push(*hash);
        }
        self.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        if let (true, Some(first)) = (readable.is_empty(), self.skipped.first()) {
            return Err(DataError::NothingReadable {
                count: self.samples.len(),
                path: first.path.clone(),
                reason: first.reason.clone(),
            }
            .into());
        }
        let skipped = self.skipped;
        Ok(Features { dim, rows, views, readable, hashes, skipped, computed: 0, seconds: 0.0 })
    }
}

/// What augmented views of an image are kept under: it depends on how they were drawn.
fn view_key(content: &ContentHash, augment: &Augment, seed: u64) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(content).update(&augment.digest());
    *hasher.update(&seed.to_le_bytes()).finalize().as_bytes()
}

/// Writes a view of an image whose content is known: the plain one, or from 1 on an augmented one.
pub(crate) fn draw_view(
    image: &RgbImage,
    (content, view): (&ContentHash, usize),
    preprocess: &Preprocess,
    (augment, seed): (&Augment, u64),
    out: &mut [f32],
) {
    match view {
        0 => preprocess.apply_into(image, out),
        _ => {
            let mut stream = view_stream(seed, content, view);
            augment.apply_into(image, preprocess, &mut stream, out);
        }
    }
}

/// What a view of an image that [`draw_view`] draws is kept under, beside its number.
pub(crate) fn drawn_key(
    content: &ContentHash,
    view: usize,
    augment: &Augment,
    seed: u64,
) -> ContentHash {
    match view {
        0 => *content,
        _ => view_key(content, augment, seed),
    }
}

/// What an augmented view of an image is drawn from; keyed by the content, so that one that is kept
/// equals one that is drawn again.
pub(crate) fn view_stream(seed: u64, content: &ContentHash, view: usize) -> Stream {
    let key = content.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte));
    Stream::new(seed, "view", &[key, view as u64])
}
