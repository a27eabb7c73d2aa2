//! Gradient descent through the layers that a strategy does not freeze.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{
    DataError, DecodeOptions, ImageCache, Loader, LoaderOptions, Mix, Preprocess, Sample, Stream,
    Strictness,
};
use refit_net::{Edit, Network, Training};

use super::activations::ActivationFeed;
use super::folder::RATES;
use super::images::Images;
use super::start::Start;
use super::taught::{TaughtFeed, Teaching, pairs_of};
use super::{Learned, Place, Run, labels};
use crate::distill::without_adapters;
use crate::error::LearnError;
use crate::fit::{Aim, Feed, FitOptions, Step, Verdict, find_rate, fit};
use crate::loss::{balanced_weights, log_shares};
use crate::settings::{ClassBalance, Settings, Strategy, TrainingSettings};
use crate::watch::Event;

impl Run<'_> {
    pub(super) fn class_weights(&self, labels: &[usize]) -> Vec<f32> {
        let classes = self.dataset.classes.len();
        match self.settings.balance {
            ClassBalance::Classes => balanced_weights(labels, classes),
            ClassBalance::Images | ClassBalance::Sampling | ClassBalance::Logits => {
                vec![1.0; classes]
            }
        }
    }

    /// What logits are raised by in the loss, if they are.
    pub(super) fn logit_offsets(&self, labels: &[usize]) -> Vec<f32> {
        match self.settings.balance {
            ClassBalance::Logits => log_shares(labels, self.dataset.classes.len()),
            _ => Vec::new(),
        }
    }

    /// The network with what the strategy trains thawed, and what edits froze frozen.
    pub(super) fn thawed(&self, network: &Network, start: &Start) -> Result<Network, LearnError> {
        let edit = match (&self.settings.strategy, &self.settings.unfreeze_from) {
            (Strategy::Partial, Some(layer)) => Edit::UnfreezeFrom { layer: layer.clone() },
            _ => Edit::Unfreeze { layers: "*".into() },
        };
        let edits = [vec![edit], start.freezes(network)].concat();
        Ok(network.edit(&edits, self.settings.seed)?)
    }

    /// Trains the layers that the strategy does not freeze.
    pub(super) fn body(
        &self,
        learned: Learned,
        start: &Start,
        images: &Images,
    ) -> Result<Learned, LearnError> {
        let preprocess = &start.preprocess;
        let network = self.thawed(&learned.network, start)?;
        if let Some(teaching) = self.teaching {
            return self.taught_body(teaching, learned, network, preprocess, images);
        }
        let feed: Box<dyn Feed> = match self.settings.training.fixed_views {
            0 => Box::new(ImageFeed::new(self, preprocess, images)),
            _ => Box::new(ActivationFeed::new(self, preprocess, images, &network)?),
        };
        self.fit_body(learned, network, feed.as_ref())
    }

    /// The same with teachers.
    fn taught_body(
        &self,
        teaching: &Teaching,
        learned: Learned,
        network: Network,
        preprocess: &Preprocess,
        images: &Images,
    ) -> Result<Learned, LearnError> {
        let pairs = pairs_of(teaching, &network, preprocess)?;
        let teacher = teaching.teachers[0].model.network.graph();
        let network = pairs.with_adapters(&network, teacher, self.settings.seed)?;
        let feed = TaughtFeed::new(self, preprocess, images, teaching, &pairs)?;
        let learned = self.fit_body(learned, network, &feed)?;
        Ok(Learned { network: without_adapters(&learned.network)?, ..learned })
    }

    fn fit_body(
        &self,
        learned: Learned,
        network: Network,
        feed: &dyn Feed,
    ) -> Result<Learned, LearnError> {
        let checkpoints = self.folder.checkpoints();
        let training = &self.settings.training;
        let last = self.place.last_epoch();
        let fitted = self.fit(network, feed, training, (checkpoints.as_deref(), last))?;
        Ok(Learned { strength: learned.strength, ..fitted })
    }

    pub(super) fn fit(
        &self,
        network: Network,
        feed: &dyn Feed,
        training: &TrainingSettings,
        (checkpoints, last_epoch): (Option<&Path>, Option<usize>),
    ) -> Result<Learned, LearnError> {
        let mut options = FitOptions {
            training,
            precision: self.settings.precision,
            balance: self.settings.balance,
            class_weights: &self.class_weights(&feed.weighed()),
            logit_offsets: &self.logit_offsets(&feed.weighed()),
            seed: self.settings.seed,
            time_budget: self.time_budget(),
            floor: self.settings.floor && feed.is_body(),
            last_epoch,
            started: self.started,
            checkpoints,
            resume: self.context.resume,
            // A first stage is done again on resume, and its epochs are not the run's.
            log: &|history| {
                if checkpoints.is_some() { self.folder.write_log(history) } else { Ok(()) }
            },
        };
        let (mut found, mut learning_rate) = (training.clone(), None);
        if training.find_learning_rate {
            let rate = self.find_rate(&network, feed, &options)?;
            (found.learning_rate, learning_rate) = (rate, Some(rate));
            options.training = &found;
        }
        let fitted = fit(network, feed, &options, self.watch)?;
        let best_epoch = Some(fitted.best);
        Ok(Learned {
            network: fitted.network,
            history: fitted.history,
            best_epoch,
            averaged: fitted.averaged,
            strength: None,
            learning_rate,
            seconds_before: fitted.seconds_before,
        })
    }

    /// The seconds that may be taken by this run, of which a cross-validation has several.
    fn time_budget(&self) -> Option<f64> {
        let Settings { folds, repeats, time_budget, .. } = self.settings;
        let runs = match self.place {
            Place::Alone => 1,
            Place::Fold | Place::Last(_) => folds.unwrap_or(0) * repeats + 1,
        };
        time_budget.map(|budget| budget / runs as f64)
    }

    /// Looks for the learning rate and writes it down, so that a resumed run need not; where no rate
    /// lowers the loss, the strategy's own stays.
    fn find_rate(
        &self,
        network: &Network,
        feed: &dyn Feed,
        options: &FitOptions,
    ) -> Result<f64, LearnError> {
        let search = find_rate(network, feed, options, self.watch)?;
        let usual = options.training.learning_rate;
        let tried = search.points.len();
        self.watch.event(match search.rate {
            Some(rate) => Event::Note(format!("learning rate {rate:.2e}, by a test of {tried} steps")),
            None => Event::Warning(format!(
                "no rate lowered the loss in a test of {tried} steps: the learning rate stays {usual:.2e}"
            )),
        });
        let rate = search.rate.unwrap_or(usual);
        let json = serde_json::to_string_pretty(&search).expect("numbers serialize");
        self.folder.write(RATES, format!("{json}\n").as_bytes())?;
        self.folder.write_settings(&self.settings.with_rate(Some(rate)))?;
        Ok(rate)
    }
}

/// Training images between epochs: twice the input's side leaves random crops their detail.
pub(super) fn image_cache(preprocess: &Preprocess) -> ImageCache {
    ImageCache::new(DecodeOptions::default(), Some(2 * preprocess.size as u32), 1 << 30)
}

/// The stream that an image's augmentation in an epoch is drawn from; `index` is its position among
/// the readable training images, or, where it comes again, as [`Feed::epoch`] lists it.
pub(super) fn augment_stream(seed: u64, epoch: usize, index: usize) -> Stream {
    Stream::new(seed, "augment", &[epoch as u64, index as u64])
}

/// Steps from augmented images.
struct ImageFeed<'a> {
    run: &'a Run<'a>,
    preprocess: &'a Preprocess,
    images: &'a Images,
    labels: Vec<usize>,
    cache: Arc<ImageCache>,
}

impl<'a> ImageFeed<'a> {
    fn new(run: &'a Run<'a>, preprocess: &'a Preprocess, images: &'a Images) -> Self {
        let cache = Arc::new(image_cache(preprocess));
        Self { run, preprocess, images, labels: labels(&images.train), cache }
    }
}

impl Feed for ImageFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn is_body(&self) -> bool {
        true
    }

    fn epoch(
        &self,
        training: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let settings = self.run.settings;
        let (cache, pipeline) = (Arc::clone(&self.cache), *self.preprocess);
        let (augment, seed) = (settings.training.augment(), settings.seed);
        let options = LoaderOptions {
            batch_size: settings.training.batch,
            size: pipeline.size,
            workers: self.run.context.workers,
            ahead: 2,
            strictness: Strictness::Strict,
        };
        let train = &self.images.train;
        let samples: Vec<Sample> = order.iter().map(|id| train[id % train.len()].clone()).collect();
        let ids: Arc<[usize]> = order.into();
        let all = (0..ids.len()).collect();
        let own = Arc::clone(&ids);
        let make = move |sample: &Sample, job: usize, out: &mut [f32]| -> Result<(), DataError> {
            let image = cache.get(&sample.path)?;
            let mut stream = augment_stream(seed, epoch, own[job]);
            augment.apply_into(&image, &pipeline, &mut stream, out);
            Ok(())
        };
        for batch in Loader::new(samples, all, options, make) {
            let mut batch = batch?;
            let drawn: Vec<usize> = batch.indices.iter().map(|job| ids[*job]).collect();
            let mixtures =
                augment.mix.map_or_else(Vec::new, |mix| mix.draw(seed, epoch, &drawn, batch.size));
            if !mixtures.is_empty() {
                Mix::apply(&mut batch.images, batch.size, &mixtures);
            }
            let shape = [batch.n, 3, batch.size, batch.size];
            let data = TensorData::new(batch.images, shape);
            let images = Tensor::from_data(data, &Device::flex());
            let boundary = training.run_frozen(images);
            each(Step { boundary, labels: batch.labels, mixtures, aim: Aim::default() })?;
        }
        Ok(())
    }

    fn validate(&self, _: &Training, net: &Network) -> Result<Option<Verdict>, LearnError> {
        let metrics = self.run.judge(net, self.preprocess, &self.images.val, "validation")?;
        Ok(metrics.map(Verdict::from))
    }
}
