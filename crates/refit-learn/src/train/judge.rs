//! How good a network is on images kept apart.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use refit_data::{Preprocess, Sample};
use refit_net::{Compiled, Network, Value};

use super::Run;
use super::images::{Images, SplitFeatures};
use crate::error::LearnError;
use crate::extract::Features;
use crate::metrics::Metrics;
use crate::model::run_compiled;
use crate::predictions::{Prediction, Split, predictions};
use crate::watch::stage;

/// How a network did on some images: all together, and on each.
pub(super) struct Judged {
    pub metrics: Metrics,
    pub predictions: Vec<Prediction>,
}

impl Judged {
    /// Of logits, a row for each sample; nothing where there are none.
    fn new<'a>(
        logits: &[f32],
        samples: impl Iterator<Item = &'a Sample> + Clone,
        classes: &[String],
        split: Split,
    ) -> Option<Self> {
        let labels: Vec<usize> = samples.clone().map(|s| s.label).collect();
        let metrics = Metrics::from_logits(logits, &labels, classes)?;
        Some(Self { metrics, predictions: predictions(logits, samples, classes.len(), split) })
    }
}

/// Metrics of the validation and the test images, and the predictions for both.
pub(super) fn parted(
    judged: [Option<Judged>; 2],
) -> (Option<Metrics>, Option<Metrics>, Vec<Prediction>) {
    let mut all = Vec::new();
    let [val, test] = judged.map(|judged| {
        let Judged { metrics, predictions } = judged?;
        all.extend(predictions);
        Some(metrics)
    });
    (val, test, all)
}

impl Run<'_> {
    /// Metrics of a network whose head takes features that are there.
    pub(super) fn judge_on_features(
        &self,
        network: &Network,
        features: &SplitFeatures,
        images: &Images,
    ) -> [Option<Judged>; 2] {
        let judge = |from: usize, samples: &[Sample], split| {
            let rows = from..from + samples.len();
            let logits = logits_of_rows(network, &features.judged, rows);
            Judged::new(&logits, samples.iter(), &self.dataset.classes, split)
        };
        [judge(0, &images.val, Split::Val), judge(images.val.len(), &images.test, Split::Test)]
    }

    /// Metrics of a network that computes as in training: what is frozen in the settings'
    /// precision, the rest in f32.
    pub(super) fn judge(
        &self,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        split: Split,
    ) -> Result<Option<Judged>, LearnError> {
        let compiled = || Ok(network.compile_mixed(self.settings.precision));
        self.judge_as(compiled, network, preprocess, samples, split, &self.dataset.classes)
    }

    pub(super) fn judge_as(
        &self,
        compiled: impl FnOnce() -> Result<Compiled, LearnError>,
        network: &Network,
        preprocess: &Preprocess,
        samples: &[Sample],
        split: Split,
        classes: &[String],
    ) -> Result<Option<Judged>, LearnError> {
        if samples.is_empty() {
            return Ok(None);
        }
        let compiled = compiled()?;
        let (mut logits, mut judged) = (Vec::new(), Vec::new());
        stage(self.watch, split.to_string(), samples.len(), || {
            run_compiled(
                &compiled,
                network,
                preprocess,
                samples,
                &self.run_options(),
                self.watch,
                &mut |output| {
                    logits.extend(output.values);
                    judged.push(&samples[output.index]);
                },
            )
        })?;
        Ok(Judged::new(&logits, judged.into_iter(), classes, split))
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
    Metrics::from_logits(&logits_of_rows(network, features, images), labels, classes)
}

/// What a head makes of rows of features, `[n, classes]`.
fn logits_of_rows(network: &Network, features: &Features, images: Range<usize>) -> Vec<f32> {
    if images.is_empty() {
        return Vec::new();
    }
    let rows: Vec<f32> = images.clone().flat_map(|i| features.row(i, 0).to_vec()).collect();
    let data = TensorData::new(rows, [images.len(), features.dim]);
    let rows = Value::Vector(Tensor::from_data(data, network.device()));
    let graph = network.graph();
    let name = |id: usize| graph.nodes()[id].name.as_str();
    let compiled = network
        .compile_between(&[name(graph.features())], &[name(graph.output())])
        .expect("names of this graph");
    compiled.run_from(vec![rows]).remove(0).to_vec()
}
