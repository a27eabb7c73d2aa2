//! How unlike the images of its training an image is, by how badly an autoencoder makes it again.

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::{Batch, Sample, Skipped};
use refit_net::{Compiled, Network};
use serde::{Deserialize, Serialize};

use super::objective::{Closeness, Objective};
use super::{AutoencodeSettings, Reconstruction};
use crate::error::LearnError;
use crate::model::{Model, RunOptions, each_batch};
use crate::unknown::rank;
use crate::watch::Watch;

/// Scores of images held out that a card keeps, at most.
const MOST_SCORES: usize = 1000;

/// What a model file says of how it makes images again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Autoencoder {
    /// How it was made.
    pub settings: AutoencodeSettings,
    /// How close it comes to images held out.
    pub held_out: Reconstruction,
    /// The errors of these, ascending; of many, some that are spread evenly.
    pub scores: Vec<f32>,
}

/// What an autoencoder says of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anomaly {
    /// The error of its reconstruction: what training lowers.
    pub score: f32,
    /// Whether that is above the threshold, so that the image is probably unlike those of training.
    pub exceeds: bool,
}

impl Autoencoder {
    pub(super) fn new(
        settings: AutoencodeSettings,
        held_out: Reconstruction,
        mut scores: Vec<f32>,
    ) -> Self {
        scores.sort_by(f32::total_cmp);
        let (all, most) = (scores.len(), scores.len().min(MOST_SCORES));
        // The highest are the ones that thresholds are of.
        let scores = (1..=most).map(|i| scores[i * all / most - 1]).collect();
        Self { settings, held_out, scores }
    }

    /// The error above which an image is an anomaly: of images like those of training, at most `share`
    /// exceed it. Infinite where too few were held out to tell.
    pub fn threshold(&self, share: f64) -> f32 {
        match rank(self.scores.len(), share) {
            0 => f32::NEG_INFINITY,
            place => self.scores.get(place - 1).copied().unwrap_or(f32::INFINITY),
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let sane = self.scores.iter().all(|s| s.is_finite()) && self.scores.is_sorted();
        if sane { Ok(()) } else { Err("the errors of images held out are not in order".into()) }
    }
}

/// What makes images again, ready to run.
#[derive(Debug)]
pub(super) struct Reconstructor {
    compiled: Compiled,
}

impl Reconstructor {
    /// None where the network has no decoder.
    pub fn new(network: &Network, options: &RunOptions) -> Result<Option<Self>, LearnError> {
        options.precision.check()?;
        let graph = network.graph();
        let Some(images) = graph.reconstruction() else { return Ok(None) };
        let name = graph.nodes()[images].name.as_str();
        Ok(Some(Self { compiled: network.compile_in(&[name], options.precision)? }))
    }

    /// Images `[n, 3, size, size]` as the network makes them again.
    pub fn run(&self, images: Tensor<4>) -> Tensor<4> {
        self.compiled.run(images).remove(0).map()
    }
}

/// A batch's images on a device.
pub(super) fn tensor_of(batch: &Batch, device: &Device) -> Tensor<4> {
    let shape = [batch.n, 3, batch.size, batch.size];
    Tensor::from_data(TensorData::new(batch.images.clone(), shape), device)
}

impl Model {
    /// How badly the model makes each readable image again; gives the unreadable ones. Of images like
    /// those that it learned from, at most `share` exceed the threshold.
    ///
    /// # Errors
    /// If the model is no autoencoder, or as [`Model::run`].
    pub fn anomalies(
        &self,
        samples: &[Sample],
        share: f64,
        options: &RunOptions,
        watch: &dyn Watch,
        each: &mut dyn FnMut(usize, Anomaly),
    ) -> Result<Vec<Skipped>, LearnError> {
        let refused = || LearnError::NoDecoder { net: self.network.graph().name().to_owned() };
        let autoencoder = self.card.autoencoder.as_ref().ok_or_else(refused)?;
        let threshold = autoencoder.threshold(share);
        let objective =
            Objective::new(autoencoder.settings.loss, &self.card.preprocess, self.network.device());
        self.closeness(samples, &objective, options, watch, &mut |index, close| {
            let score = close.loss[0];
            each(index, Anomaly { score, exceeds: score > threshold });
        })
    }

    /// How close the model comes to each readable image.
    pub(super) fn closeness(
        &self,
        samples: &[Sample],
        objective: &Objective,
        options: &RunOptions,
        watch: &dyn Watch,
        each: &mut dyn FnMut(usize, Closeness),
    ) -> Result<Vec<Skipped>, LearnError> {
        let Some(reconstructor) = Reconstructor::new(&self.network, options)? else {
            return Err(LearnError::NoDecoder { net: self.network.graph().name().to_owned() });
        };
        each_batch(&self.card.preprocess, samples, options, watch, &mut |batch| {
            let images = tensor_of(&batch, self.network.device());
            let made = reconstructor.run(images.clone());
            let close = objective.closeness(made, images, None);
            for (row, &index) in batch.indices.iter().enumerate() {
                each(index, close.of(row));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scores: Vec<f32>) -> Autoencoder {
        Autoencoder::new(AutoencodeSettings::new("x"), Reconstruction::default(), scores)
    }

    #[test]
    fn a_share_of_what_is_alike_exceeds_the_threshold() {
        let found = of((1..=99).rev().map(|i| i as f32).collect());
        assert_eq!(found.threshold(0.05), 95.0);
        assert_eq!(found.threshold(0.5), 50.0);
        assert_eq!(found.threshold(0.001), f32::INFINITY);
        assert_eq!(of(vec![1.0; 18]).threshold(0.05), f32::INFINITY);
        assert_eq!(of(vec![]).threshold(0.05), f32::INFINITY);
    }

    #[test]
    fn many_scores_are_thinned_and_keep_their_quantiles() {
        let found = of((0..12_345).map(|i| i as f32).collect());
        assert_eq!(found.scores.len(), MOST_SCORES);
        assert_eq!(found.scores.last(), Some(&12_344.0));
        assert!((found.threshold(0.05) - 0.95 * 12_345.0).abs() < 30.0);
        assert!(found.check().is_ok());
        let scores = vec![2.0, 1.0];
        assert!(Autoencoder { scores, ..found }.check().is_err());
    }
}
