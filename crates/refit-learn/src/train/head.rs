//! The head on cached features: all of `features`, the first stage of `fine-tune` and `partial`.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use refit_net::{Edit, Network, Training, Value};

use super::images::{Images, SplitFeatures};
use super::judge::judge_rows;
use super::{Learned, Run, labels};
use crate::error::LearnError;
use crate::extract::Features;
use crate::fit::{Feed, Step};
use crate::logistic::{ClassWeights, Fit, LogisticOptions, LogisticRegression};
use crate::metrics::Metrics;
use crate::settings::{ClassBalance, Strategy, TrainingSettings};
use crate::watch::{Event, stage};

impl Run<'_> {
    /// Freezes the body and fits the head on features: a linear one is solved for, unless it is to
    /// start from rows that were kept.
    pub(super) fn head(
        &self,
        network: Network,
        features: &SplitFeatures,
        images: &Images,
        is_whole_run: bool,
    ) -> Result<Learned, LearnError> {
        let network = network.edit(&[Edit::FreezeBody], self.settings.seed)?;
        match self.settings.solves_head() {
            true => self.solved_head(network, features, images),
            false => self.stepped_head(network, features, images, is_whole_run),
        }
    }

    /// Solves a linear head by logistic regression.
    pub(super) fn solved_head(
        &self,
        mut network: Network,
        features: &SplitFeatures,
        images: &Images,
    ) -> Result<Learned, LearnError> {
        let classes = self.dataset.classes.len();
        let features = &features.learned;
        let (count, views) = (images.train.len(), features.views);
        let labels: Vec<usize> = images.train.iter().flat_map(|s| vec![s.label; views]).collect();
        let groups: Vec<usize> = (0..count).flat_map(|i| vec![i; views]).collect();
        let options = LogisticOptions {
            seed: self.settings.seed,
            groups: (views > 1).then_some(&groups),
            class_weights: match self.settings.balance {
                ClassBalance::Images => ClassWeights::None,
                // To draw a class more often is to weigh it more.
                ClassBalance::Classes | ClassBalance::Sampling => ClassWeights::Balanced,
            },
            ..LogisticOptions::default()
        };
        let Fit { model, strength, .. } = stage(self.watch, "head", 0, || {
            LogisticRegression::fit(&features.rows, &labels, classes, &options)
        })?;
        let head = network.graph().head().to_owned();
        let device = network.device().clone();
        let tensor = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len]), &device)
        };
        network.set(&format!("{head}.weight"), tensor(model.weights));
        network.set(&format!("{head}.bias"), tensor(model.bias));
        self.watch.event(Event::Note(format!("linear head solved, penalty {strength:.2e}")));
        Ok(Learned { strength: Some(strength), ..Learned::at_once(network) })
    }

    /// Trains a head by gradient descent from where it is.
    pub(super) fn stepped_head(
        &self,
        network: Network,
        features: &SplitFeatures,
        images: &Images,
        is_whole_run: bool,
    ) -> Result<Learned, LearnError> {
        let training = match is_whole_run {
            true => self.settings.training.clone(),
            false => TrainingSettings::for_strategy(Strategy::Features),
        };
        let feed = FeatureFeed {
            features,
            labels: labels(&images.train),
            val: 0..images.val.len(),
            val_labels: labels(&images.val),
            classes: &self.dataset.classes,
            batch: training.batch,
            device: network.device().clone(),
        };
        // As a first stage it is quick, and done again when a run is resumed.
        let checkpoints = self.folder.checkpoints().filter(|_| is_whole_run);
        self.fit(network, &feed, &training, checkpoints.as_deref())
    }
}

/// Steps from features, for a head that is trained by gradient descent.
struct FeatureFeed<'a> {
    features: &'a SplitFeatures,
    labels: Vec<usize>,
    val: Range<usize>,
    val_labels: Vec<usize>,
    classes: &'a [String],
    batch: usize,
    device: Device,
}

impl Feed for FeatureFeed<'_> {
    fn labels(&self) -> &[usize] {
        &self.labels
    }

    fn epoch(
        &self,
        _: &Training,
        epoch: usize,
        order: Vec<usize>,
        each: &mut dyn FnMut(Step) -> Result<(), LearnError>,
    ) -> Result<(), LearnError> {
        let Features { dim, views, .. } = self.features.learned;
        for images in order.chunks(self.batch) {
            // Every epoch sees another view of an image.
            let row = |&i: &usize| self.features.learned.row(i, (epoch + i) % views).to_vec();
            let rows: Vec<f32> = images.iter().flat_map(row).collect();
            let data = TensorData::new(rows, [images.len(), dim]);
            let boundary = vec![Value::Vector(Tensor::from_data(data, &self.device))];
            let labels = images.iter().map(|&i| self.labels[i]).collect();
            each(Step { boundary, labels, mixtures: Vec::new() })?;
        }
        Ok(())
    }

    fn validate(&self, _: &Training, net: &Network) -> Result<Option<Metrics>, LearnError> {
        Ok(judge_rows(net, &self.features.judged, self.val.clone(), &self.val_labels, self.classes))
    }
}
