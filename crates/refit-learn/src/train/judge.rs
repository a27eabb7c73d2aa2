//! How good a network is on images kept apart.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use refit_data::{Preprocess, Sample};
use refit_net::{Compiled, Network, Value};

use super::{Run, labels};
use crate::error::LearnError;
use crate::extract::Features;
use crate::metrics::Metrics;
use crate::model::{Output, run_compiled};
use crate::watch::stage;

/// What a network makes of labelled images.
#[derive(Default)]
pub(super) struct Judged {
    /// The features that its head takes, where they were asked for: `[n, dim]`.
    pub features: Vec<f32>,
    /// `[n, classes]`.
    pub logits: Vec<f32>,
    /// `[n]`.
    pub labels: Vec<usize>,
    /// `[n]`.
    pub samples: Vec<Sample>,
}

impl Run<'_> {
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
        let Judged { logits, labels, .. } =
            self.run_judged(compiled, 0, network, preprocess, samples, what)?;
        Ok(Metrics::from_logits(&logits, &labels, &self.dataset.classes))
    }

    /// Runs images through something compiled, whose outputs are `dim` features, perhaps none, and
    /// logits.
    pub(super) fn run_judged(
        &self,
        compiled: impl FnOnce() -> Result<Compiled, LearnError>,
        dim: usize,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        what: &str,
    ) -> Result<Judged, LearnError> {
        let mut judged = Judged::default();
        if samples.is_empty() {
            return Ok(judged);
        }
        let compiled = compiled()?;
        stage(self.watch, what, samples.len(), || {
            let options = self.run_options();
            let each = &mut |output: Output| {
                let (features, logits) = output.values.split_at(dim);
                judged.features.extend_from_slice(features);
                judged.logits.extend_from_slice(logits);
                let sample = samples[output.index].clone();
                judged.labels.push(sample.label);
                judged.samples.push(sample);
            };
            run_compiled(&compiled, network, preprocess, samples, &options, self.watch, each)
        })?;
        Ok(judged)
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
    let (_, logits) = run_head(network, features, images);
    Metrics::from_logits(&logits, labels, classes)
}

/// What a head makes of rows of features that are there.
pub(super) fn judged_rows(
    network: &Network,
    features: &Features,
    images: Range<usize>,
    samples: &[Sample],
) -> Judged {
    let (features, logits) = run_head(network, features, images);
    Judged { features, logits, labels: labels(samples), samples: samples.to_vec() }
}

/// The rows of some images, `[n, dim]`, and a head's logits for them, `[n, classes]`.
fn run_head(network: &Network, features: &Features, images: Range<usize>) -> (Vec<f32>, Vec<f32>) {
    if images.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let rows: Vec<f32> = images.clone().flat_map(|i| features.row(i, 0).to_vec()).collect();
    let data = TensorData::new(rows.clone(), [images.len(), features.dim]);
    let input = Value::Vector(Tensor::from_data(data, network.device()));
    let graph = network.graph();
    let name = |id: usize| graph.nodes()[id].name.as_str();
    let compiled = network
        .compile_between(&[name(graph.features())], &[name(graph.output())])
        .expect("names of this graph");
    let logits = compiled.run_from(vec![input]).remove(0).to_vec();
    (rows, logits)
}
