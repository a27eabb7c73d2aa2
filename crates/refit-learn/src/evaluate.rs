//! A model judged on labelled images.

use std::path::Path;

use refit_data::{Dataset, Sample, Skipped, SourceOptions};

use crate::calibrate::scaled;
use crate::error::LearnError;
use crate::metrics::{Metrics, arg_max};
use crate::model::{Model, RunOptions};
use crate::unknown::{Abstention, SHARE, abstention};
use crate::watch::{Watch, stage};

/// How a model does on labelled images.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Evaluation {
    /// The numbers.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// What comes of not answering for images that are too far from those the model learned from, where it
    /// tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Abstention>,
    /// Readable images.
    pub images: usize,
    /// Unreadable ones.
    pub skipped: Vec<Skipped>,
}

impl Model {
    /// Judges the model on all images of a folder or CSV, whatever their split; classes are matched
    /// by name. Unknown are those that [`Model::predict`] calls so.
    ///
    /// # Errors
    /// If the images cannot be read, a class is not among the model's, or it knows none.
    pub fn evaluate(
        &self,
        data: &Path,
        options: &RunOptions,
        watch: &dyn Watch,
    ) -> Result<Evaluation, LearnError> {
        self.evaluate_at(data, Some(SHARE), options, watch)
    }

    /// The same, where at most `share` of the images like those the model learned from are called
    /// unknown; none at all where it is `None`.
    ///
    /// # Errors
    /// As [`Model::evaluate`].
    pub fn evaluate_at(
        &self,
        data: &Path,
        share: Option<f64>,
        options: &RunOptions,
        watch: &dyn Watch,
    ) -> Result<Evaluation, LearnError> {
        self.check_classes()?;
        let dataset =
            Dataset::open(data, &SourceOptions { one_class: true, ..SourceOptions::default() })?;
        let positions = self.positions_of(&dataset.classes)?;
        let relabel = |s: &Sample| Sample { label: positions[s.label], ..s.clone() };
        let samples: Vec<Sample> = dataset.samples().map(relabel).collect();
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        let (mut scores, mut right) = (Vec::new(), Vec::new());
        let skipped = stage(watch, "evaluate", samples.len(), || {
            self.see(&samples, options, watch, &mut |index, seen| {
                let label = samples[index].label;
                right.push(arg_max(&seen.logits) == label);
                scores.extend(seen.score);
                logits.extend(seen.logits);
                labels.push(label);
            })
        })?;
        let metrics = match self.card.temperature {
            1.0 => Metrics::from_logits(&logits, &labels, &self.card.classes),
            heat => {
                let calibrated = scaled(&logits, f64::from(heat));
                Metrics::calibrated(&calibrated, &logits, &labels, &self.card.classes)
            }
        };
        let threshold = share.and_then(|share| self.threshold(share));
        let unknown = threshold.and_then(|threshold| abstention(&scores, &right, threshold));
        let images = labels.len();
        let nothing = || {
            let first = skipped.first();
            LearnError::Data(refit_data::DataError::NothingReadable {
                count: samples.len(),
                path: first.map_or_else(|| data.to_owned(), |s| s.path.clone()),
                reason: first.map_or_else(String::new, |s| s.reason.clone()),
            })
        };
        Ok(Evaluation { metrics: metrics.ok_or_else(nothing)?, unknown, images, skipped })
    }

    pub(crate) fn positions_of(&self, classes: &[String]) -> Result<Vec<usize>, LearnError> {
        let known = &self.card.classes;
        let position = |class: &String| known.iter().position(|k| k == class);
        let unknown: Vec<String> =
            classes.iter().filter(|c| position(c).is_none()).cloned().collect();
        match unknown.is_empty() {
            true => Ok(classes.iter().filter_map(position).collect()),
            false => Err(LearnError::UnknownClasses { classes: unknown, known: known.clone() }),
        }
    }
}
