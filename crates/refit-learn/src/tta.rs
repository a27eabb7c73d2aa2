//! Judging an image by several views of it (test-time augmentation).

use std::collections::BTreeMap;

use refit_data::{
    DecodeOptions, Loader, LoaderOptions, RgbImage, Sample, Skipped, View, decode_file_in,
};

use crate::error::LearnError;
use crate::model::{Model, RunOptions, Seen, run_batch};
use crate::settings::Mirror;
use crate::watch::{Event, Watch};

/// The smallest probability of which a logarithm is taken.
const LEAST: f32 = 1e-30;

impl Model {
    /// The views by which an image is judged, the first so many.
    ///
    /// # Errors
    /// If there are not so many, or none is asked for.
    pub fn views(&self, count: usize) -> Result<Vec<View>, LearnError> {
        let settings = self.card.settings.as_ref();
        let mirrored = settings.is_none_or(|s| s.mirror != Mirror::Never);
        let mut views = View::all(mirrored);
        if count == 0 || count > views.len() {
            let range = match mirrored {
                true => "1 to 10",
                false => {
                    "1 to 5: this model tells mirror images apart, so they are not among the views"
                }
            };
            return Err(LearnError::Setting { name: "--tta", value: count.to_string(), range });
        }
        views.truncate(count);
        Ok(views)
    }

    /// Logits whose probabilities, at the model's temperature, are the means over the views.
    ///
    /// Probabilities are averaged, not logits: each view's are calibrated by the temperature, the mean
    /// of calibrated probabilities is one again, and a single view that is absurdly sure cannot outvote
    /// the others. The distance is the plain view's, since thresholds were fitted to plain views.
    pub(crate) fn see_views(
        &self,
        samples: &[Sample],
        options: &RunOptions,
        watch: &dyn Watch,
        each: &mut dyn FnMut(usize, Seen),
    ) -> Result<Vec<Skipped>, LearnError> {
        let views = self.views(options.views)?;
        let (network, preprocess) = (&self.network, self.card.preprocess);
        options.precision.check()?;
        let compiled = network.compile_in(&self.seen_at(), options.precision)?;
        let count = views.len();
        let mut loader = view_loader(self, samples, views, options);
        let mut sums: BTreeMap<usize, Sum> = BTreeMap::new();
        for batch in loader.by_ref() {
            let batch = batch?;
            let values = run_batch(&compiled, batch.images, batch.n, &preprocess, network);
            let width = values.len() / batch.n;
            let mut done = 0;
            for (row, &job) in values.chunks_exact(width).zip(&batch.indices) {
                let index = job / count;
                let sum = sums.entry(index).or_default();
                let seen = self.seen(row.to_vec());
                sum.add(&self.probabilities(&seen.logits), seen.score.filter(|_| job % count == 0));
                if sum.views == count {
                    each(index, sum.seen(self.card.temperature));
                    sums.remove(&index);
                    done += 1;
                }
            }
            watch.event(Event::Advance { items: done });
            if watch.stops() {
                return Err(LearnError::Stopped);
            }
        }
        // An unreadable image is left out once for each of its views.
        let mut skipped = loader.skipped().to_vec();
        skipped.dedup_by(|a, b| a.path == b.path);
        Ok(skipped)
    }
}

/// What some views of an image come to.
#[derive(Default)]
struct Sum {
    views: usize,
    probabilities: Vec<f32>,
    score: Option<f32>,
}

impl Sum {
    fn add(&mut self, probabilities: &[f32], score: Option<f32>) {
        self.views += 1;
        self.probabilities.resize(probabilities.len(), 0.0);
        self.probabilities.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += p);
        self.score = self.score.or(score);
    }

    /// Logits whose probabilities at `temperature` are the means.
    fn seen(&self, temperature: f32) -> Seen {
        let logit = |sum: &f32| temperature * (sum / self.views as f32).max(LEAST).ln();
        Seen { logits: self.probabilities.iter().map(logit).collect(), score: self.score }
    }
}

/// The views of each image, one behind the other; files are read once.
fn view_loader(
    model: &Model,
    samples: &[Sample],
    views: Vec<View>,
    options: &RunOptions,
) -> Loader {
    let preprocess = model.card.preprocess;
    let loader = LoaderOptions {
        batch_size: options.batch,
        size: preprocess.size,
        workers: options.workers,
        ahead: 2,
        strictness: options.strictness,
    };
    let jobs: Vec<Sample> =
        samples.iter().flat_map(|s| std::iter::repeat_n(s.clone(), views.len())).collect();
    let order = (0..jobs.len()).collect();
    let open = move |sample: &Sample| {
        decode_file_in(&sample.path, &DecodeOptions::default(), preprocess.detail())
    };
    let make = move |image: &RgbImage, job: usize, out: &mut [f32]| {
        preprocess.normalize_into(&views[job % views.len()].of(image, &preprocess), out);
        Ok(())
    };
    Loader::of_views(jobs, order, loader, open, make)
}
