//! The head on cached features: all of `features`, the first stage of `fine-tune` and `partial`.

use std::borrow::Cow;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use refit_net::{Edit, Network, Training, Value};

use super::images::{Images, SplitFeatures};
use super::judge::judge_rows;
use super::{Learned, Run, labels};
use crate::error::LearnError;
use crate::extract::Features;
use crate::fit::{Aim, Feed, Step, Verdict};
use crate::logistic::{ClassWeights, Fit, LogisticError, LogisticOptions, LogisticRegression};
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
        if let Some(teaching) = self.teaching.filter(|_| is_whole_run) {
            let soft = self.soft_targets(teaching, images)?;
            return self.learned_head(&network, features, images, Some(&soft));
        }
        match self.settings.solves_head() {
            true if !self.settings.learner.is_linear() => {
                self.learned_head(&network, features, images, None)
            }
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
        let all: Vec<usize> = (0..images.train.len()).collect();
        let Fit { model, strength, .. } =
            stage(self.watch, "head", 0, || self.solve(features, &all, images, None))?;
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

    /// Solves for a head on the views of some training images, by a given penalty or the one that
    /// cross-validation chooses.
    pub(super) fn solve(
        &self,
        features: &SplitFeatures,
        some: &[usize],
        images: &Images,
        strength: Option<f64>,
    ) -> Result<Fit, LogisticError> {
        let (features, views) = (&features.learned, features.learned.views);
        let width = views * features.dim;
        let rows: Cow<'_, [f32]> = match some.len() == images.train.len() {
            true => Cow::Borrowed(&features.rows),
            false => {
                some.iter().flat_map(|i| &features.rows[i * width..][..width]).copied().collect()
            }
        };
        let labels: Vec<usize> =
            some.iter().flat_map(|&i| vec![images.train[i].label; views]).collect();
        let groups: Vec<usize> = (0..some.len()).flat_map(|i| vec![i; views]).collect();
        let defaults = LogisticOptions::default();
        let options = LogisticOptions {
            seed: self.settings.seed,
            strengths: strength.map_or(defaults.strengths, |strength| vec![strength]),
            groups: (views > 1).then_some(&groups),
            class_weights: match self.settings.balance {
                ClassBalance::Images | ClassBalance::Logits => ClassWeights::None,
                // To draw a class more often is to weigh it more.
                ClassBalance::Classes | ClassBalance::Sampling => ClassWeights::Balanced,
            },
            ..LogisticOptions::default()
        };
        let mut fit =
            LogisticRegression::fit(&rows, &labels, self.dataset.classes.len(), &options)?;
        // The bias is not penalized, so raised logits change it and nothing else: it is lower by what
        // they are raised by.
        for (bias, offset) in fit.model.bias.iter_mut().zip(self.logit_offsets(&labels)) {
            *bias -= offset;
        }
        Ok(fit)
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
        let last = self.place.last_epoch().filter(|_| is_whole_run);
        self.fit(network, &feed, &training, (checkpoints.as_deref(), last))
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
            let n = self.labels.len();
            let row = |&id: &usize| {
                self.features.learned.row(id % n, (epoch + id % n + id / n) % views).to_vec()
            };
            let rows: Vec<f32> = images.iter().flat_map(row).collect();
            let data = TensorData::new(rows, [images.len(), dim]);
            let boundary = vec![Value::Vector(Tensor::from_data(data, &self.device))];
            let labels = images.iter().map(|&id| self.labels[id % n]).collect();
            each(Step { boundary, labels, mixtures: Vec::new(), aim: Aim::default() })?;
        }
        Ok(())
    }

    fn validate(&self, _: &Training, net: &Network) -> Result<Option<Verdict>, LearnError> {
        let (rows, labels) = (&self.features.judged, &self.val_labels);
        let metrics = judge_rows(net, rows, self.val.clone(), labels, self.classes);
        Ok(metrics.map(Verdict::from))
    }
}
