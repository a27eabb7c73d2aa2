//! Knowledge from one network to another of any architecture: what a student learns from its
//! teachers' outputs and from what they see on the way. Each loss is a file with its source.

mod attention;
mod decoupled;
mod hints;
mod pairs;
mod relational;
mod softened;
mod teacher;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use attention::{attention, attention_map};
pub use decoupled::decoupled;
pub use hints::hint;
pub use relational::relational;
pub use softened::softened;

pub(crate) use pairs::{Pairs, Sized, What, without_adapters};
pub(crate) use teacher::{Keep, Lessons, Teacher, Views, average_softened};

use crate::error::LearnError;
use crate::settings::Strategy;

/// What a student learns from, and how much each part of its loss counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Distillation {
    /// Model files, or networks of the zoo with weights; of several the mean of their softened outputs
    /// counts, and the first gives hints, attention and relations.
    pub teachers: Vec<PathBuf>,
    /// Folders or files of images without labels, which are learned from as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlabelled: Vec<PathBuf>,
    /// Whether the labels of the training images are not used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_labels: bool,
    /// What logits are divided by before the softmax, from 0.1 to 100.
    pub temperature: f64,
    /// The weight of [`softened`] outputs.
    pub soft: f64,
    /// The weight of the labels' loss, where images have labels.
    pub hard: f64,
    /// The weight of the [`decoupled`] loss.
    #[serde(default)]
    pub decoupled: f64,
    /// The weight of each [`hint`].
    #[serde(default)]
    pub hints: f64,
    /// The weight of [`attention`] at each stage.
    #[serde(default)]
    pub attention: f64,
    /// The weight of the [`relational`] loss.
    #[serde(default)]
    pub relational: f64,
    /// Which of the student's layers learns from which of the teacher's, as hints: the last map of a
    /// common size and the features before the head unless told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hint_layers: Vec<[String; 2]>,
}

impl Distillation {
    /// Views of each image that teachers are asked of, unless told: more where a student trains long.
    /// Asking costs a pass forward a view, once.
    pub const fn views_for(strategy: Strategy) -> usize {
        match strategy {
            Strategy::Scratch | Strategy::PretrainedInit => 32,
            _ => 8,
        }
    }

    /// Softened outputs and labels.
    pub fn of(teachers: Vec<PathBuf>) -> Self {
        Self {
            teachers,
            unlabelled: Vec::new(),
            ignore_labels: false,
            temperature: 4.0,
            soft: 0.9,
            hard: 0.1,
            decoupled: 0.0,
            hints: 0.0,
            attention: 0.0,
            relational: 0.0,
            hint_layers: Vec::new(),
        }
    }

    /// The weights of the losses, by the flags that give them.
    pub const fn weights(&self) -> [(&'static str, f64); 6] {
        [
            ("--soft", self.soft),
            ("--hard", self.hard),
            ("--decoupled", self.decoupled),
            ("--hints", self.hints),
            ("--attention", self.attention),
            ("--relational", self.relational),
        ]
    }

    /// Whether it compares more than outputs.
    pub(crate) fn compares_layers(&self) -> bool {
        self.hints + self.attention + self.relational > 0.0
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub(crate) fn validate(&self) -> Result<(), LearnError> {
        let refuse = |name, value: String, range| Err(LearnError::Setting { name, value, range });
        if self.teachers.is_empty() {
            return refuse("--teacher", "not given".into(), "a model, to learn from");
        }
        if !(0.1..=100.0).contains(&self.temperature) {
            return refuse("--temperature", self.temperature.to_string(), "0.1 to 100");
        }
        let weights = self.weights();
        for (name, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                return refuse(name, weight.to_string(), "at least 0");
            }
        }
        if weights.iter().all(|(name, weight)| *name == "--hard" || *weight == 0.0) {
            return refuse(
                "--soft",
                "0".into(),
                "above 0 where nothing else is learned from a teacher",
            );
        }
        self.check_head(self.ignore_labels)
    }

    /// Checks that some loss trains the head.
    pub(crate) fn check_head(&self, without_labels: bool) -> Result<(), LearnError> {
        let hard = if without_labels || self.ignore_labels { 0.0 } else { self.hard };
        if self.soft + self.decoupled + hard == 0.0 {
            let range = "above 0 where no other loss trains the head";
            return Err(LearnError::Setting { name: "--soft", value: "0".into(), range });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor, TensorData};

    pub fn tensor<const C: usize>(rows: &[[f32; C]]) -> Tensor<2> {
        let data = TensorData::new(rows.concat(), [rows.len(), C]);
        Tensor::from_data(data, &Device::flex())
    }

    /// The gradient of a loss.
    pub fn gradient(at: Tensor<2>, loss: impl Fn(Tensor<2>) -> Tensor<1>) -> Vec<f32> {
        let leaf = at.autodiff().require_grad();
        let gradients = loss(leaf.clone()).backward();
        leaf.grad(&gradients).expect("a leaf").into_data().try_to_vec().expect("f32")
    }

    /// Compares a loss's gradient with differences of it.
    pub fn slope<const C: usize>(at: &[[f32; C]], loss: impl Fn(Tensor<2>) -> Tensor<1>) {
        let found = gradient(tensor(at), &loss);
        let h = 1e-2;
        let of = |rows: &[[f32; C]]| f64::from(loss(tensor(rows).autodiff()).into_scalar::<f32>());
        for i in 0..found.len() {
            let moved = |by: f32| {
                let mut rows = at.to_vec();
                rows[i / C][i % C] += by;
                of(&rows)
            };
            let slope = (moved(h) - moved(-h)) / f64::from(2.0 * h);
            let gap = (slope - f64::from(found[i])).abs();
            assert!(gap < 2e-3 * slope.abs().max(1.0), "{i}: {} against {slope}", found[i]);
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        type Change = fn(&mut Distillation);
        let of = |change: Change| {
            let mut settings = Distillation::of(vec!["teacher.safetensors".into()]);
            change(&mut settings);
            settings.validate().err().map(|error| error.to_string())
        };
        assert_eq!(of(|_| {}), None);
        let refused: [(Change, &str); 5] = [
            (|d| d.teachers.clear(), "--teacher"),
            (|d| d.temperature = 0.0, "--temperature"),
            (|d| d.hints = -1.0, "--hints"),
            (|d| d.attention = f64::NAN, "--attention"),
            (|d| d.soft = 0.0, "--soft"),
        ];
        for (change, flag) in refused {
            let error = of(change).unwrap_or_else(|| panic!("{flag}"));
            assert!(error.contains(flag), "{error}");
        }
        assert!(of(|d| (d.soft, d.hints, d.ignore_labels) = (0.0, 1.0, true)).is_some());
        // Without any label, relations alone would leave the head where it is.
        assert!(of(|d| (d.soft, d.hard, d.relational) = (0.0, 0.0, 1.0)).is_some());
    }
}
