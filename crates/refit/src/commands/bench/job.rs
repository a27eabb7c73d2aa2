//! `refit bench --job`: where the time of a job goes, from files to a head.

use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use refit::data::{Dataset, DecodeOptions, Sample, SourceOptions, decode_file_in};
use refit::learn::logistic::{LogisticOptions, LogisticRegression};
use refit::net::Precision;
use refit::{Model, RunOptions};
use serde::Serialize;

use crate::failure::Failure;
use crate::interrupt;
use crate::output::{Side, percent, table};

/// What each part of a job costs an image, and what of it a run waits for.
#[derive(Debug, Serialize)]
pub struct JobTimes {
    images: usize,
    skipped: usize,
    precision: Precision,
    threads: usize,
    /// Reading and decoding, on one thread.
    decode_seconds: f64,
    /// Resizing and normalizing, on one thread.
    preprocess_seconds: f64,
    /// The network up to its head, on all threads.
    forward_seconds: f64,
    /// Fitting a linear head to what it gave.
    head_seconds: f64,
}

impl JobTimes {
    /// Takes the images of `data` one by one through each part, in batches.
    ///
    /// # Errors
    /// If no image can be read, or the user stops it.
    pub fn measure(model: &Model, data: &Path, options: &RunOptions) -> Result<Self, Failure> {
        let dataset =
            Dataset::open(data, &SourceOptions { one_class: true, ..Default::default() })?;
        let graph = model.network.graph();
        let features = &graph.nodes()[graph.features()].name;
        let compiled = model.network.compile_in(&[features], options.precision)?;
        let samples: Vec<&Sample> = dataset.samples().collect();
        let mut clock = Clock::default();
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for chunk in samples.chunks(options.batch) {
            let images = clock.read(model, chunk, &mut labels);
            let size = model.card.preprocess.size;
            let n = images.len() / (3 * size * size);
            if n == 0 {
                continue;
            }
            let began = Instant::now();
            let data = TensorData::new(images, [n, 3, size, size]);
            let images = Tensor::from_data(data, model.network.device());
            rows.extend(compiled.run(images).remove(0).pooled().to_data().iter::<f32>());
            clock.forward += began.elapsed();
            if interrupt::asked() {
                return Err(refit::LearnError::Stopped.into());
            }
        }
        if labels.is_empty() {
            return Err(Failure::mistake(
                format!("none of the {} images can be read", samples.len()),
                "`refit predict` says of each what is wrong with it",
            ));
        }
        let began = Instant::now();
        let classes = dataset.classes.len();
        if classes > 1 {
            let options = LogisticOptions::default();
            let _ = LogisticRegression::fit(&rows, &labels, classes, &options)
                .map_err(refit::LearnError::from)?;
        }
        Ok(Self {
            images: labels.len(),
            skipped: samples.len() - labels.len(),
            precision: options.precision,
            threads: options.workers,
            decode_seconds: clock.decode.as_secs_f64(),
            preprocess_seconds: clock.preprocess.as_secs_f64(),
            forward_seconds: clock.forward.as_secs_f64(),
            head_seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// As a table.
    pub fn in_words(&self) -> String {
        // Decoding and preprocessing run beside the network, on all threads together.
        let parts = [
            ("decode", self.decode_seconds, self.threads),
            ("preprocess", self.preprocess_seconds, self.threads),
            ("forward", self.forward_seconds, 1),
            ("head", self.head_seconds, 1),
        ];
        let wall = |(_, seconds, threads): &(&str, f64, usize)| seconds / *threads as f64;
        let total: f64 = parts.iter().map(wall).sum();
        let mut rows =
            vec![["part", "seconds", "ms an image", "share"].map(str::to_owned).to_vec()];
        rows.extend(parts.iter().map(|part| {
            let seconds = wall(part);
            vec![
                part.0.to_owned(),
                format!("{seconds:.2}"),
                format!("{:.2}", 1e3 * seconds / self.images.max(1) as f64),
                percent(seconds / total),
            ]
        }));
        let sides = [Side::Left, Side::Right, Side::Right, Side::Right];
        format!(
            "{}\n{} images, {} that could not be read; {} threads\n",
            table(&sides, &rows),
            self.images,
            self.skipped,
            self.threads
        )
    }
}

#[derive(Default)]
struct Clock {
    decode: Duration,
    preprocess: Duration,
    forward: Duration,
}

impl Clock {
    /// The images that can be read, `[n, 3, size, size]`; their classes go to `labels`.
    fn read(&mut self, model: &Model, samples: &[&Sample], labels: &mut Vec<usize>) -> Vec<f32> {
        let preprocess = &model.card.preprocess;
        let mut images = vec![0.0; samples.len() * preprocess.len()];
        let mut n = 0;
        for sample in samples {
            let began = Instant::now();
            let image =
                decode_file_in(&sample.path, &DecodeOptions::default(), preprocess.detail());
            self.decode += began.elapsed();
            let Ok(image) = image else { continue };
            let began = Instant::now();
            preprocess.apply_into(&image, &mut images[n * preprocess.len()..][..preprocess.len()]);
            self.preprocess += began.elapsed();
            labels.push(sample.label);
            n += 1;
        }
        images.truncate(n * preprocess.len());
        images
    }
}
