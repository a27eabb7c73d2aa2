//! How good a network is on images kept apart.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use refit_data::{Preprocess, Sample};
use refit_net::{Compiled, Network, Value};

use super::images::{Images, SplitFeatures};
use super::{Run, labels};
use crate::error::LearnError;
use crate::extract::Features;
use crate::metrics::Metrics;
use crate::model::run_compiled;
use crate::watch::stage;

impl Run<'_> {
    /// Metrics of a network whose head takes features that are there.
    pub(super) fn judge_on_features(
        &self,
        network: &Network,
        features: &SplitFeatures,
        images: &Images,
    ) -> (Option<Metrics>, Option<Metrics>) {
        let judge = |from: usize, samples: &[Sample]| {
            let rows = from..from + samples.len();
            let labels = labels(samples);
            judge_rows(network, &features.judged, rows, &labels, &self.dataset.classes)
        };
        (judge(0, &images.val), judge(images.val.len(), &images.test))
    }

    /// Metrics of a network that computes as in training: what is frozen in the settings'
    /// precision, the rest in f32.
    pub(super) fn judge(
        &self,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        what: &str,
    ) -> Result<Option<Metrics>, LearnError> {
        let compiled = || Ok(network.compile_mixed(self.settings.precision));
        self.judge_as(compiled, network, preprocess, samples, what, &self.dataset.classes)
    }

    pub(super) fn judge_as(
        &self,
        compiled: impl FnOnce() -> Result<Compiled, LearnError>,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        what: &str,
        classes: &[String],
    ) -> Result<Option<Metrics>, LearnError> {
        if samples.is_empty() {
            return Ok(None);
        }
        let compiled = compiled()?;
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        stage(self.watch, what, samples.len(), || {
            run_compiled(
                &compiled,
                network,
                preprocess,
                samples,
                &self.run_options(),
                self.watch,
                &mut |output| {
                    logits.extend(output.values);
                    labels.push(samples[output.index].label);
                },
            )
        })?;
        Ok(Metrics::from_logits(&logits, &labels, classes))
    }
}

/// Metrics of a head on rows of features that are there.
pub(super) fn judge_rows(
    network: &Network,
    features: &Features,
    images: Range<usize>,
    labels: &[usize],
    classes: &[String],
) -> Option<Metrics> {
    if images.is_empty() {
        return None;
    }
    let rows: Vec<f32> = images.clone().flat_map(|i| features.row(i, 0).to_vec()).collect();
    let data = TensorData::new(rows, [images.len(), features.dim]);
    let rows = Value::Vector(Tensor::from_data(data, network.device()));
    let graph = network.graph();
    let name = |id: usize| graph.nodes()[id].name.as_str();
    let compiled = network
        .compile_between(&[name(graph.features())], &[name(graph.output())])
        .expect("names of this graph");
    let logits = compiled.run_from(vec![rows]).remove(0).to_vec();
    Metrics::from_logits(&logits, labels, classes)
}
