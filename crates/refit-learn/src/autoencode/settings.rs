//! What an autoencoder's training is asked to do.

use std::path::PathBuf;

use refit_data::{Augment, Level};
use serde::{Deserialize, Serialize};

use super::corrupt::Corruption;
use super::objective::ReconstructionLoss;
use crate::error::LearnError;
use crate::settings::{Norms, Strategy, TrainingSettings};

/// Everything that decides an autoencoder, but for the images themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AutoencodeSettings {
    /// A folder of images, with or without folders in it, or one image.
    pub images: PathBuf,
    /// The architecture whose body encodes.
    pub encoder: String,
    /// Weights that the encoder begins with, or an autoencoder that goes on learning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Whether the encoder begins with its published weights, where no others are given; else it begins
    /// with random ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pretrained: bool,
    /// Values of the code; 64 where nothing else is said, or as many as an autoencoder has that goes on
    /// learning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bottleneck: Option<usize>,
    /// Height and width of the images; the encoder's own where nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// The share of the images that is held out to judge by, in `(0, 1)`.
    pub held_out: f64,
    /// What the decoder learns by.
    pub loss: ReconstructionLoss,
    /// What is done to images before they are encoded.
    #[serde(default)]
    pub corruption: Corruption,
    /// Whether only masked patches count in the loss; with none masked, all do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub masked_only: bool,
    /// Decides every random choice.
    pub seed: u64,
    /// Whether an unreadable image stops the run.
    pub strict: bool,
    /// Seconds after which no further epoch begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_budget: Option<f64>,
    /// Times that every image is seen; 0 for a network as it begins, to compare with.
    pub epochs: usize,
    /// Images a step.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Decoupled weight decay of weights.
    pub weight_decay: f64,
    /// Epochs without a better one after which training ends; 0 never ends it early.
    pub patience: usize,
    /// How training images are varied before they are spoiled; never mixed.
    pub augment: Augment,
}

impl AutoencodeSettings {
    /// The settings for `images` with everything else as it is by default: the small encoder.
    pub fn new(images: impl Into<PathBuf>) -> Self {
        Self {
            images: images.into(),
            encoder: "small".into(),
            weights: None,
            pretrained: false,
            bottleneck: None,
            size: None,
            held_out: 0.1,
            loss: ReconstructionLoss::default(),
            corruption: Corruption::default(),
            masked_only: false,
            seed: 0,
            strict: false,
            time_budget: None,
            epochs: 100,
            batch: 32,
            learning_rate: 2e-3,
            weight_decay: 0.01,
            patience: 0,
            augment: Level::Light.augment(),
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(), LearnError> {
        let check = |fine: bool, name, value: String, range| match fine {
            true => Ok(()),
            false => Err(LearnError::Setting { name, value, range }),
        };
        let Corruption { noise, mask, patch } = self.corruption;
        let bottleneck = self.bottleneck.unwrap_or(1);
        let sane = (1..=65_536).contains(&bottleneck);
        check(sane, "--bottleneck", bottleneck.to_string(), "1 to 65536")?;
        let size = self.size.unwrap_or(64);
        check((16..=1024).contains(&size), "--size", size.to_string(), "16 to 1024")?;
        let held_out = self.held_out;
        let sane = held_out > 0.0 && held_out < 1.0;
        check(sane, "--held-out", held_out.to_string(), "between 0 and 1")?;
        check((0.0..=10.0).contains(&noise), "--noise", noise.to_string(), "0 to 10")?;
        check((0.0..1.0).contains(&mask), "--mask", mask.to_string(), "from 0 to below 1")?;
        check(patch <= 1024, "--patch", patch.to_string(), "1 to 1024")?;
        let sane = patch == 0 || mask > 0.0;
        check(sane, "--patch", patch.to_string(), "left out where nothing is masked")?;
        let sane = !self.masked_only || mask > 0.0;
        check(sane, "--count", "masked".into(), "all where nothing is masked")?;
        check(self.batch >= 1, "--batch", self.batch.to_string(), "at least 1")?;
        let rate = self.learning_rate;
        check(rate > 0.0 && rate <= 1.0, "--lr", rate.to_string(), "above 0 and at most 1")?;
        let decay = self.weight_decay;
        check(decay >= 0.0, "--weight-decay", decay.to_string(), "at least 0")?;
        let budget = self.time_budget.unwrap_or(1.0);
        check(budget > 0.0, "--time-budget", budget.to_string(), "above 0")?;
        let unmixed = self.augment.mix.is_none();
        check(unmixed, "--augment", "one that mixes images".into(), "one that does not")?;
        for path in [Some(&self.images), self.weights.as_ref()].into_iter().flatten() {
            let shown = path.display().to_string();
            check(path.to_str().is_some(), "a path", shown, "valid Unicode, to be written down")?;
        }
        Ok(self.augment.validate()?)
    }

    /// How gradient descent is done.
    pub(super) fn training(&self) -> TrainingSettings {
        TrainingSettings {
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            patience: self.patience,
            smoothing: 0.0,
            norms: Norms::Batch,
            augment: Some(self.augment),
            ..TrainingSettings::for_strategy(Strategy::Scratch)
        }
    }

    /// The same with the last part of every path only, to be given away.
    pub(super) fn without_folders(&self) -> Self {
        let last = |path: &PathBuf| path.file_name().map_or_else(|| path.clone(), PathBuf::from);
        Self {
            images: last(&self.images),
            weights: self.weights.as_ref().map(last),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_and_read_back() {
        let mut settings = AutoencodeSettings::new("photos");
        for change in [
            (|_| {}) as fn(&mut AutoencodeSettings),
            |s| s.corruption = Corruption { noise: 0.2, mask: 0.5, patch: 8 },
            |s| (s.loss, s.masked_only) = (ReconstructionLoss::L1Ssim, true),
            |s| (s.bottleneck, s.size, s.time_budget) = (Some(32), Some(96), Some(9.5)),
        ] {
            change(&mut settings);
            let text = toml::to_string_pretty(&settings).unwrap();
            assert_eq!(toml::from_str::<AutoencodeSettings>(&text).unwrap(), settings, "{text}");
            settings.validate().unwrap();
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_flag() {
        let refused = |change: &dyn Fn(&mut AutoencodeSettings)| {
            let mut settings = AutoencodeSettings::new("photos");
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert!(refused(&|s| s.bottleneck = Some(0)).starts_with("--bottleneck is 0, but must be"));
        assert!(refused(&|s| s.size = Some(8)).starts_with("--size is 8"));
        assert!(refused(&|s| s.held_out = 1.0).starts_with("--held-out is 1"));
        assert!(refused(&|s| s.corruption.noise = -1.0).starts_with("--noise is -1"));
        assert!(refused(&|s| s.corruption.mask = 1.0).starts_with("--mask is 1"));
        assert!(refused(&|s| s.corruption.patch = 5).contains("where nothing is masked"));
        assert!(refused(&|s| s.masked_only = true).contains("all where nothing is masked"));
        assert!(refused(&|s| s.learning_rate = 0.0).starts_with("--lr is 0"));
        assert!(refused(&|s| s.augment = Augment::strong()).contains("mixes images"));
    }
}
