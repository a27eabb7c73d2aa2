//! Batches prepared on worker threads, in a given order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::check::{Skipped, Strictness};
use crate::preprocess::{Interpolation, resize, shorter_side_to};
use crate::{DataError, DecodeOptions, Detail, RgbImage, Sample, decode_file_in};

/// Images ready for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The images' values, `[n, 3, size, size]`, or `[n, size, size, 3]` if that is how they were
    /// [filled](Loader::new) in.
    pub images: Vec<f32>,
    /// The images' classes, `[n]`.
    pub labels: Vec<usize>,
    /// The images' positions among the loader's samples, `[n]`.
    pub indices: Vec<usize>,
    /// How many images; at least one.
    pub n: usize,
    /// Pixels on each side.
    pub size: usize,
}

/// How batches are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Images in a batch; the last batch may have fewer. At least one.
    pub batch_size: usize,
    /// Pixels on each side of an image.
    pub size: usize,
    /// Threads; at least one is used. The batches do not depend on it.
    pub workers: usize,
    /// Batches prepared ahead of the one being asked for; at least one. Bounds the memory.
    pub ahead: usize,
    /// What an unreadable image does: the batch closes up over it, or it ends the iteration.
    pub strictness: Strictness,
}

/// An iterator over batches, in the given order whatever the number of threads.
///
/// Dropping it early stops its threads and waits for them (for the image each is at).
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    samples: Arc<[Sample]>,
    options: LoaderOptions,
    /// Position in the order of the next image to hand out.
    at: usize,
    skipped: Vec<Skipped>,
}

#[derive(Debug)]
struct Shared {
    order: Vec<usize>,
    /// For each position in the order where its run ends: neighbours that one worker makes.
    run_ends: Vec<usize>,
    /// How far a worker may be ahead of `at`, in images.
    window: usize,
    state: Mutex<State>,
    /// Told when an image is ready, or a worker has ended.
    ready: Condvar,
    /// Told when the window moves on, or work is to stop.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Position in the order of the next image to begin.
    next: usize,
    /// Copy of the iterator's position.
    at: usize,
    stop: bool,
    done: BTreeMap<usize, Outcome>,
    /// Buffers to use again.
    spare: Vec<Vec<f32>>,
}

type Outcome = std::thread::Result<Result<Vec<f32>, DataError>>;

impl Loader {
    /// Prepares the samples at the positions `order`, in that order.
    ///
    /// `make(sample, index, out)` fills `out`, `[3, size, size]` or `[size, size, 3]`, for the sample
    /// at position `index`; it runs on the workers and must not depend on what ran before it. Each
    /// sample's randomness comes from a [`Stream`](crate::Stream) keyed by epoch and index.
    ///
    /// # Panics
    /// If `order` points outside `samples`, or `size` or `batch_size` is 0. A panic of `make` is
    /// passed on by [`next`](Iterator::next).
    pub fn new<F>(
        samples: impl Into<Arc<[Sample]>>,
        order: Vec<usize>,
        options: LoaderOptions,
        make: F,
    ) -> Self
    where
        F: Fn(&Sample, usize, &mut [f32]) -> Result<(), DataError> + Send + Sync + 'static,
    {
        let run_ends = (1..=order.len()).collect();
        let make = move |_: &mut Option<()>, sample: &Sample, index, out: &mut [f32]| {
            make(sample, index, out)
        };
        Self::start(samples.into(), order, run_ends, options, make)
    }

    /// As [`new`](Self::new) for samples that are views of the same images: where neighbours in
    /// `order` have the same path, `open(sample)` reads it once and `make(&image, index, out)` makes
    /// each view from it. The batches do not depend on what is shared.
    ///
    /// # Panics
    /// As [`new`](Self::new); a panic of `open` is passed on too.
    pub fn of_views<I, O, F>(
        samples: impl Into<Arc<[Sample]>>,
        order: Vec<usize>,
        options: LoaderOptions,
        open: O,
        make: F,
    ) -> Self
    where
        I: 'static,
        O: Fn(&Sample) -> Result<I, DataError> + Send + Sync + 'static,
        F: Fn(&I, usize, &mut [f32]) -> Result<(), DataError> + Send + Sync + 'static,
    {
        let samples = samples.into();
        let run_ends = run_ends(&samples, &order);
        let make = move |opened: &mut Option<I>, sample: &Sample, index, out: &mut [f32]| {
            let image = match opened {
                Some(image) => image,
                None => opened.insert(open(sample)?),
            };
            make(image, index, out)
        };
        Self::start(samples, order, run_ends, options, make)
    }

    fn start<I, F>(
        samples: Arc<[Sample]>,
        order: Vec<usize>,
        run_ends: Vec<usize>,
        options: LoaderOptions,
        make: F,
    ) -> Self
    where
        I: 'static,
        F: Fn(&mut Option<I>, &Sample, usize, &mut [f32]) -> Result<(), DataError>
            + Send
            + Sync
            + 'static,
    {
        assert!(
            options.batch_size > 0 && options.size > 0,
            "Loader: a batch size or image size of 0"
        );
        assert!(
            order.iter().all(|&index| index < samples.len()),
            "Loader: an index outside the {} samples",
            samples.len()
        );
        let window = options.batch_size * (options.ahead.max(1) + 1);
        let count = options.workers.clamp(1, order.len().max(1));
        let shared = Arc::new(Shared {
            order,
            run_ends,
            window,
            state: Mutex::default(),
            ready: Condvar::new(),
            room: Condvar::new(),
        });
        let make = Arc::new(make);
        let start = || {
            let (shared, samples, make) =
                (Arc::clone(&shared), Arc::clone(&samples), Arc::clone(&make));
            std::thread::spawn(move || {
                shared.work(options.size, |opened, index, out| {
                    make(opened, &samples[index], index, out)
                })
            })
        };
        let workers = (0..count).map(|_| start()).collect();
        Self { shared, workers, samples, options, at: 0, skipped: Vec::new() }
    }

    /// The images left out so far, in the order they were come to.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Waits for the next image of the order.
    fn receive(&mut self) -> Option<(usize, Result<Vec<f32>, DataError>)> {
        let &index = self.shared.order.get(self.at)?;
        let mut state = self.shared.lock();
        let outcome = loop {
            match state.done.remove(&self.at) {
                Some(outcome) => break outcome,
                None => {
                    state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
            }
        };
        self.at += 1;
        state.at = self.at;
        drop(state);
        self.shared.room.notify_all();
        Some((index, outcome.unwrap_or_else(|panic| resume_unwind(panic))))
    }

    /// Fills a batch; an error ends the iteration.
    fn fill(&mut self) -> Result<Option<Batch>, DataError> {
        let length = 3 * self.options.size * self.options.size;
        let expected = self.options.batch_size.min(self.shared.order.len() - self.at);
        let mut batch = Batch {
            images: Vec::with_capacity(expected * length),
            labels: vec![],
            indices: vec![],
            n: 0,
            size: self.options.size,
        };
        while batch.n < self.options.batch_size {
            let Some((index, result)) = self.receive() else { break };
            match (result, self.options.strictness) {
                (Ok(values), _) => {
                    batch.images.extend_from_slice(&values);
                    batch.labels.push(self.samples[index].label);
                    batch.indices.push(index);
                    batch.n += 1;
                    self.shared.lock().spare.push(values);
                }
                (Err(error), Strictness::Skip) if error.is_about_one_image() => {
                    self.skipped.push(Skipped::new(&self.samples[index].path, &error))
                }
                (Err(error), _) => {
                    self.at = self.shared.order.len();
                    self.shared.stop();
                    return Err(error);
                }
            }
        }
        Ok((batch.n > 0).then_some(batch))
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.fill().transpose()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // Panics were caught at the image and passed on from there.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A panic elsewhere leaves the state whole: nothing panics while it is held.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stop = true;
        self.room.notify_all();
    }

    /// A worker's life: begin the next run of the order as soon as there is room for it.
    fn work<I>(
        &self,
        size: usize,
        make: impl Fn(&mut Option<I>, usize, &mut [f32]) -> Result<(), DataError>,
    ) {
        while let Some(run) = self.begin() {
            let mut opened = None;
            for position in run {
                let mut values = self.lock().spare.pop().unwrap_or_default();
                values.resize(3 * size * size, 0.0);
                let index = self.order[position];
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    make(&mut opened, index, &mut values).map(|()| values)
                }));
                self.lock().done.insert(position, outcome);
                self.ready.notify_one();
            }
        }
    }

    /// The next run that fits the window; one longer than the window comes in parts.
    fn begin(&self) -> Option<Range<usize>> {
        let mut state = self.lock();
        loop {
            if state.stop || state.next >= self.order.len() {
                return None;
            }
            let length = (self.run_ends[state.next] - state.next).min(self.window);
            let run = state.next..state.next + length;
            if run.end <= state.at + self.window {
                state.next = run.end;
                return Some(run);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// For each position in `order` where the neighbours with the same path end.
fn run_ends(samples: &[Sample], order: &[usize]) -> Vec<usize> {
    let runs = order.chunk_by(|&a, &b| samples[a].path == samples[b].path);
    let mut end = 0;
    let ends = runs.flat_map(|run| {
        end += run.len();
        std::iter::repeat_n(end, run.len())
    });
    ends.collect()
}

/// Decoded images kept in memory, so that later epochs need not decode files again.
///
/// With a working size, an image whose shorter side is longer is shrunk to it on the way in. That
/// is decided by the setting alone, never by what fits the memory: a hit and a miss give the same
/// pixels, so results depend neither on the budget nor on the order in which threads ask.
#[derive(Debug)]
pub struct ImageCache {
    decode: DecodeOptions,
    working_side: Option<u32>,
    budget: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    images: HashMap<PathBuf, Arc<RgbImage>>,
    bytes: usize,
}

impl ImageCache {
    /// A cache that holds at most `budget` bytes of pixels. `working_side` is the longest a shorter
    /// side may be, in pixels; 320 serves inputs of 224 well, and none keeps images as they are.
    ///
    /// # Panics
    /// If `working_side` is zero.
    pub fn new(decode: DecodeOptions, working_side: Option<u32>, budget: usize) -> Self {
        assert_ne!(working_side, Some(0), "ImageCache: a working side of 0");
        Self { decode, working_side, budget, held: Mutex::default() }
    }

    /// The image of a file, from memory or decoded now.
    ///
    /// # Errors
    /// If the file cannot be read or decoded.
    pub fn get(&self, path: &Path) -> Result<Arc<RgbImage>, DataError> {
        if let Some(image) = self.lock().images.get(path) {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(self.shrunk(decode_file_in(path, &self.decode, self.detail())?));
        self.keep(path, &image);
        Ok(image)
    }

    /// Bytes of pixels held now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, path: &Path, image: &Arc<RgbImage>) {
        let mut held = self.lock();
        let bytes = image.pixels().len();
        if held.bytes + bytes <= self.budget
            && held.images.insert(path.into(), Arc::clone(image)).is_none()
        {
            held.bytes += bytes;
        }
    }

    /// Twice the working size: what decoding leaves out would not be seen at it.
    fn detail(&self) -> Detail {
        self.working_side.map_or(Detail::Full, |side| Detail::AtLeast {
            shorter: side.saturating_mul(2),
            longer: 0,
        })
    }

    fn shrunk(&self, image: RgbImage) -> RgbImage {
        match self.working_side {
            Some(side) if image.width().min(image.height()) > side => {
                let (width, height) = shorter_side_to(image.width(), image.height(), side);
                resize(&image, width as u32, height as u32, Interpolation::Bicubic)
            }
            _ => image,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{encoded, real, rgb8, synthetic};
    use crate::{Augment, Preprocess, Stream};
    use image::ImageFormat;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;
    use tempfile::TempDir;

    fn samples(count: usize) -> Vec<Sample> {
        (0..count).map(|n| Sample { path: format!("{n}.jpg").into(), label: n % 3 }).collect()
    }

    const OPTIONS: LoaderOptions = LoaderOptions {
        batch_size: 4,
        size: 2,
        workers: 3,
        ahead: 2,
        strictness: Strictness::Strict,
    };

    /// Fills with the index, after a time that has nothing to do with it.
    fn slowly(_: &Sample, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        std::thread::sleep(Duration::from_micros((index as u64 * 7919) % 500));
        out.fill(index as f32);
        Ok(())
    }

    fn unreadable(sample: &Sample) -> DataError {
        DataError::Unreadable { path: sample.path.clone(), source: crate::DecodeError::Empty }
    }

    #[test]
    fn batches_come_in_order_whatever_the_workers() {
        let order = Stream::new(1, "order", &[]).permutation(50);
        for workers in [0, 1, 2, 7, 100] {
            let loader = Loader::new(
                samples(50),
                order.clone(),
                LoaderOptions { workers, ..OPTIONS },
                slowly,
            );
            let batches: Vec<Batch> = loader.map(Result::unwrap).collect();
            assert_eq!(batches.len(), 13);
            assert_eq!(batches.iter().flat_map(|b| b.indices.clone()).collect::<Vec<_>>(), order);
            for batch in &batches {
                assert_eq!(
                    (batch.images.len(), batch.labels.len(), batch.size),
                    (batch.n * 12, batch.n, 2)
                );
                for (i, &index) in batch.indices.iter().enumerate() {
                    assert_eq!(batch.labels[i], index % 3);
                    assert!(batch.images[i * 12..][..12].iter().all(|&v| v == index as f32));
                }
            }
            assert_eq!(batches[12].n, 2);
        }
        assert!(Loader::new(samples(3), vec![], OPTIONS, slowly).next().is_none());
    }

    #[test]
    fn unreadable_images_close_up_or_stop() {
        let make = |sample: &Sample, index: usize, out: &mut [f32]| match index % 5 {
            3 => Err(unreadable(sample)),
            _ => slowly(sample, index, out),
        };
        let mut loader = Loader::new(
            samples(12),
            (0..12).collect(),
            LoaderOptions { strictness: Strictness::Skip, ..OPTIONS },
            make,
        );
        let indices: Vec<Vec<usize>> =
            loader.by_ref().map(|batch| batch.unwrap().indices).collect();
        assert_eq!(indices, [vec![0, 1, 2, 4], vec![5, 6, 7, 9], vec![10, 11]]);
        assert_eq!(
            loader.skipped().iter().map(|s| s.path.clone()).collect::<Vec<_>>(),
            [PathBuf::from("3.jpg"), "8.jpg".into()]
        );
        let mut loader = Loader::new(samples(12), (4..12).collect(), OPTIONS, make);
        assert_eq!(loader.next().unwrap().unwrap().indices, [4, 5, 6, 7]);
        assert_eq!(
            loader.next().unwrap().unwrap_err().to_string(),
            "`8.jpg` cannot be used: the file is empty (0 bytes)"
        );
        assert!(loader.next().is_none());
    }

    #[test]
    fn work_ahead_is_bounded() {
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let mut loader =
            Loader::new(samples(1000), (0..1000).collect(), OPTIONS, move |_, _, _| {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(begun.load(Ordering::Relaxed), 12, "two batches ahead and the one asked for");
        loader.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(begun.load(Ordering::Relaxed), 16);
    }

    #[test]
    fn views_of_one_image_read_it_once() {
        // Three views of each of 20 images, and of one image more views than the window holds.
        let views: Vec<Sample> = samples(21)
            .into_iter()
            .enumerate()
            .flat_map(|(n, sample)| vec![sample; if n < 20 { 3 } else { 30 }])
            .collect();
        let order: Vec<usize> = (0..views.len()).collect();
        let make = |image: &f32, index: usize, out: &mut [f32]| {
            std::thread::sleep(Duration::from_micros((index as u64 * 7919) % 300));
            out.fill(image * 100.0 + index as f32);
            Ok(())
        };
        let number = |sample: &Sample| {
            let stem = sample.path.file_stem().unwrap().to_string_lossy();
            stem.parse::<f32>().unwrap()
        };
        let alone =
            Loader::new(views.clone(), order.clone(), OPTIONS, move |sample, index, out| {
                make(&number(sample), index, out)
            });
        let alone: Vec<Batch> = alone.map(Result::unwrap).collect();
        for workers in [1, 2, 7] {
            let reads = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&reads);
            let open = move |sample: &Sample| {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(number(sample))
            };
            let options = LoaderOptions { workers, ..OPTIONS };
            let together = Loader::of_views(views.clone(), order.clone(), options, open, make);
            assert_eq!(together.map(Result::unwrap).collect::<Vec<_>>(), alone);
            assert_eq!(reads.load(Ordering::Relaxed), 20 + 3, "windows of 12 split the last 30");
        }
    }

    #[test]
    fn an_unreadable_image_costs_its_views_alone() {
        let views: Vec<Sample> = samples(6).iter().flat_map(|s| [s.clone(), s.clone()]).collect();
        let open = |sample: &Sample| match sample.path == Path::new("2.jpg") {
            true => Err(unreadable(sample)),
            false => Ok(()),
        };
        let mut loader = Loader::of_views(
            views,
            (0..12).collect(),
            LoaderOptions { strictness: Strictness::Skip, ..OPTIONS },
            open,
            |(), _, _| Ok(()),
        );
        let indices: Vec<usize> = loader.by_ref().flat_map(|b| b.unwrap().indices).collect();
        assert_eq!(indices, [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]);
        assert_eq!(loader.skipped().len(), 2);
    }

    #[test]
    fn dropping_early_ends_the_threads() {
        let alive = Arc::new(());
        for taken in [0, 1, 3] {
            let held = Arc::clone(&alive);
            let mut loader = Loader::new(
                samples(500),
                (0..500).collect(),
                OPTIONS,
                move |sample, index, out| {
                    let _held = &held;
                    slowly(sample, index, out)
                },
            );
            loader.by_ref().take(taken).for_each(|batch| _ = batch.unwrap());
            drop(loader);
            assert_eq!(Arc::strong_count(&alive), 1, "the threads and what they held are gone");
        }
    }

    #[test]
    #[should_panic(expected = "a bug in make")]
    fn a_panic_on_a_worker_reaches_the_caller() {
        let loader = Loader::new(samples(20), (0..20).collect(), OPTIONS, |_, index, _| {
            assert!(index != 9, "a bug in make");
            Ok(())
        });
        loader.for_each(|batch| _ = batch.unwrap());
    }

    #[test]
    fn cached_images_are_the_same_whatever_the_budget() {
        let dir = TempDir::new().unwrap();
        let paths: Vec<PathBuf> = (0..4).map(|n| dir.path().join(format!("{n}.png"))).collect();
        for (n, path) in paths.iter().enumerate() {
            std::fs::write(
                path,
                encoded(rgb8(&synthetic(90, 60 + n as u32, n as u64)), ImageFormat::Png),
            )
            .unwrap();
        }
        let decode = DecodeOptions::default();
        let caches = [0, 20_000, 1 << 30].map(|budget| ImageCache::new(decode, Some(40), budget));
        for path in paths.iter().chain(&paths) {
            let images = caches.each_ref().map(|cache| cache.get(path).unwrap());
            assert_eq!(images[0].height().min(images[0].width()), 40);
            assert!(images[0] == images[1] && images[1] == images[2]);
        }
        assert_eq!(caches[0].bytes(), 0);
        assert!((1..=20_000).contains(&caches[1].bytes()) && caches[2].bytes() > 20_000);
        let (first, again) = (caches[2].get(&paths[0]).unwrap(), caches[2].get(&paths[0]).unwrap());
        assert!(Arc::ptr_eq(&first, &again));
        let whole = ImageCache::new(decode, None, 0).get(&paths[0]).unwrap();
        assert_eq!((whole.width(), whole.height()), (90, 60));
        assert!(caches[0].get(&dir.path().join("none.png")).is_err());
    }

    #[test]
    fn photos_load_alike_on_one_and_many_threads() {
        let Some(folder) = real("ants_bees/train/bees") else { return };
        let samples: Vec<Sample> = crate::list_images(&[folder])
            .unwrap()
            .into_iter()
            .take(24)
            .map(|path| Sample { path, label: 0 })
            .collect();
        let preprocess = Preprocess {
            size: 64,
            resize: crate::Resize::ShorterSide { to: 73 },
            interpolation: Interpolation::Bicubic,
            mean: [0.5; 3],
            std: [0.5; 3],
        };
        let load = |workers| {
            let cache = Arc::new(ImageCache::new(DecodeOptions::default(), Some(96), 1 << 20));
            let options = LoaderOptions { workers, size: 64, batch_size: 8, ..OPTIONS };
            let loader = Loader::new(
                samples.clone(),
                (0..24).collect(),
                options,
                move |sample, index, out| {
                    let image = cache.get(&sample.path)?;
                    Augment::medium().apply_into(
                        &image,
                        &preprocess,
                        &mut Stream::new(1, "augment", &[0, index as u64]),
                        out,
                    );
                    Ok(())
                },
            );
            loader.map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(load(1), load(5));
    }
}
