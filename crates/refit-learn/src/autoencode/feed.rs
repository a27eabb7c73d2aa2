//! Steps of an autoencoder: images, spoiled or not, to be made again.

use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{
    Batch, DataError, DecodeOptions, ImageCache, Loader, LoaderOptions, Preprocess, Sample, Stream,
    Strictness,
};
use refit_net::{Network, NodeId, Pass, Training, Value};

use super::anomaly::{Reconstructor, tensor_of};
use super::corrupt::HELD_OUT;
use super::objective::{Closeness, Objective};
use super::{AutoencodeSettings, Reconstruction};
use crate::error::LearnError;
use crate::fit::{Aim, Feed, Step, Verdict};
use crate::model::RunOptions;
use crate::watch::Watch;

/// Images to learn from and to judge by.
pub(super) struct PictureFeed<'a> {
    pub settings: &'a AutoencodeSettings,
    pub preprocess: Preprocess,
    pub train: &'a [Sample],
    pub held_out: &'a [Sample],
    pub objective: Rc<Objective>,
    pub options: RunOptions,
    pub watch: &'a dyn Watch,
    /// All of one class.
    pub labels: Vec<usize>,
    pub cache: Arc<ImageCache>,
    pub device: Device,
}

/// A batch as the encoder sees it, and how much its pixels count.
struct Spoiled {
    seen: Tensor<4>,
    weights: Option<Tensor<4>>,
}

impl<'a> PictureFeed<'a> {
    pub fn new(
        settings: &'a AutoencodeSettings,
        preprocess: Preprocess,
        [train, held_out]: [&'a [Sample]; 2],
        objective: Objective,
        options: RunOptions,
        watch: &'a dyn Watch,
    ) -> Self {
        let decode = DecodeOptions::default();
        let cache = ImageCache::new(decode, Some(2 * preprocess.size as u32), 1 << 30);
        Self {
            settings,
            preprocess,
            train,
            held_out,
            objective: Rc::new(objective),
            options,
            watch,
            labels: vec![0; train.len()],
            cache: Arc::new(cache),
            device: Device::flex(),
        }
    }

    fn loader_options(&self, batch_size: usize) -> LoaderOptions {
        LoaderOptions {
            batch_size,
            size: self.preprocess.size,
            workers: self.options.workers,
            ahead: 2,
            strictness: Strictness::Strict,
        }
    }

    /// Spoils a batch whose images have these numbers.
    fn spoil(&self, batch: &Batch, epoch: u64) -> Spoiled {
        let corruption = self.settings.corruption;
        if corruption.is_nothing() {
            return Spoiled { seen: tensor_of(batch, &self.device), weights: None };
        }
        let mut spoiled = batch.clone();
        let images = spoiled.images.chunks_exact_mut(self.preprocess.len());
        let mut masks = Vec::new();
        for (image, &number) in images.zip(&batch.indices) {
            let key = (self.settings.seed, epoch, number as u64);
            masks.extend(corruption.apply(image, &self.preprocess, key));
        }
        let weights = (self.settings.masked_only && !masks.is_empty()).then(|| {
            let mean = masks.iter().sum::<f32>() / masks.len() as f32;
            masks.iter_mut().for_each(|m| *m /= mean);
            let shape = [batch.n, 1, batch.size, batch.size];
            Tensor::from_data(TensorData::new(masks, shape), &self.device)
        });
        Spoiled { seen: tensor_of(&spoiled, &self.device), weights }
    }

    /// How close a network comes to the images held out, spoiled as in training or not.
    pub fn judge(&self, network: &Network, spoil: bool) -> Result<Reconstruction, LearnError> {
        let Some(reconstructor) = Reconstructor::new(network, &self.options)? else {
            return Err(LearnError::NoDecoder { net: network.graph().name().to_owned() });
        };
        let (cache, pipeline) = (Arc::clone(&self.cache), self.preprocess);
        let make = move |sample: &Sample, _: usize, out: &mut [f32]| -> Result<(), DataError> {
            pipeline.apply_into(&*cache.get(&sample.path)?, out);
            Ok(())
        };
        let order = (0..self.held_out.len()).collect();
        let options = self.loader_options(self.options.batch);
        let mut all = Closeness::default();
        for batch in Loader::new(self.held_out.to_vec(), order, options, make) {
            let batch = batch?;
            let wanted = tensor_of(&batch, &self.device);
            let Spoiled { seen, weights } = match spoil {
                true => self.spoil(&batch, HELD_OUT),
                false => Spoiled { seen: wanted.clone(), weights: None },
            };
            all.extend(&self.objective.closeness(reconstructor.run(seen), wanted, weights));
            if self.watch.stops() {
                return Err(LearnError::Stopped);
            }
        }
        Ok(Reconstruction::of(&all))
    }
}

/// Images a step so that as many steps as `batch` makes of them are as even as can be: one image left
/// for the last step would be normalized by itself.
fn even(images: usize, batch: usize) -> usize {
    images.div_ceil(images.div_ceil(batch).max(1)).max(1)
}

impl Feed for PictureFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn is_body(&self) -> bool {
        true
    }

    fn taps(&self, net: &Network) -> Vec<NodeId> {
        net.graph().reconstruction().into_iter().collect()
    }

    fn epoch(
        &self,
        training: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let (cache, pipeline) = (Arc::clone(&self.cache), self.preprocess);
        let (augment, seed) = (self.settings.augment, self.settings.seed);
        let make = move |sample: &Sample, index: usize, out: &mut [f32]| -> Result<(), DataError> {
            let mut stream = Stream::new(seed, "augment", &[epoch as u64, index as u64]);
            augment.apply_into(&*cache.get(&sample.path)?, &pipeline, &mut stream, out);
            Ok(())
        };
        let size = even(order.len(), self.settings.batch);
        let mut order = order;
        // Where evenness does not help, another image in each epoch waits for the next.
        if order.len() > size && order.len() % size == 1 {
            order.pop();
        }
        let options = self.loader_options(size);
        for batch in Loader::new(self.train.to_vec(), order, options, make) {
            let batch = batch?;
            let wanted = tensor_of(&batch, &self.device);
            let Spoiled { seen, weights } = self.spoil(&batch, epoch as u64);
            let objective = Rc::clone(&self.objective);
            let other = move |pass: &Pass| match &pass.taps[0] {
                Value::Map(made) => objective.loss(made.clone(), wanted.clone(), weights.clone()),
                Value::Vector(_) => unreachable!("images are maps"),
            };
            let aim = Aim { classes: 0.0, shares: Vec::new(), other: Some(Rc::new(other)) };
            let boundary = training.run_frozen(seen);
            each(Step { boundary, labels: batch.labels, mixtures: Vec::new(), aim })?;
        }
        Ok(())
    }

    fn validate(&self, _: &Training, net: &Network) -> Result<Option<Verdict>, LearnError> {
        Ok(Some(Verdict::Error(self.judge(net, true)?.loss)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_step_is_left_with_one_image() {
        assert_eq!((even(225, 32), even(224, 32), even(10, 32)), (29, 32, 10));
        assert_eq!((even(33, 32), even(1, 32), even(0, 32)), (17, 1, 1));
        for images in 1..200 {
            let even = even(images, 32);
            assert!(even <= 32 && images.div_ceil(even) <= images.div_ceil(32));
        }
    }
}
