//! How far an image that was made again is from the image.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor, TensorData};
use refit_data::Preprocess;
use serde::{Deserialize, Serialize};

use super::ssim::Ssim;

/// What a decoder learns by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReconstructionLoss {
    /// The mean squared difference of pixels from 0 to 1.
    #[default]
    Mse,
    /// Their mean absolute difference, plus one minus their structural similarity (Zhao et al. 2017,
    /// <https://arxiv.org/abs/1511.08861>).
    L1Ssim,
}

impl ReconstructionLoss {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Mse, Self::L1Ssim];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mse => "mse",
            Self::L1Ssim => "l1-ssim",
        }
    }
}

impl fmt::Display for ReconstructionLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ReconstructionLoss {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|loss| loss.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no loss is called `{name}`; there are {names}")
        })
    }
}

/// Compares images as a network takes and makes them.
#[derive(Debug)]
pub struct Objective {
    loss: ReconstructionLoss,
    ssim: Ssim,
    /// `[1, 3, 1, 1]`.
    mean: Tensor<4>,
    std: Tensor<4>,
}

/// How close images are to what was made of them, each `[n]`, for pixels from 0 to 1.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Closeness {
    /// What a decoder learns by.
    pub loss: Vec<f32>,
    pub mse: Vec<f32>,
    pub ssim: Vec<f32>,
}

impl Closeness {
    /// One image's.
    pub fn of(&self, row: usize) -> Self {
        let one = |values: &[f32]| vec![values[row]];
        Self { loss: one(&self.loss), mse: one(&self.mse), ssim: one(&self.ssim) }
    }

    pub fn extend(&mut self, other: &Self) {
        self.loss.extend_from_slice(&other.loss);
        self.mse.extend_from_slice(&other.mse);
        self.ssim.extend_from_slice(&other.ssim);
    }
}

impl Objective {
    /// For images of a preprocessing.
    pub fn new(loss: ReconstructionLoss, preprocess: &Preprocess, device: &Device) -> Self {
        let colour = |values: [f32; 3]| {
            Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), device)
        };
        let (mean, std) = (colour(preprocess.mean), colour(preprocess.std));
        Self { loss, ssim: Ssim::new(preprocess.size, device), mean, std }
    }

    /// The mean loss of what was `made` of images, `[n, 3, size, size]` each, both as networks take
    /// them. `weights`, `[n, 1, size, size]`, say how much a pixel counts; their mean is to be 1.
    pub fn loss(
        &self,
        made: Tensor<4>,
        wanted: Tensor<4>,
        weights: Option<Tensor<4>>,
    ) -> Tensor<1> {
        let wanted = alike(wanted, &made);
        let weights = weights.map(|weights| alike(weights, &made));
        self.each(self.pixels(made), self.pixels(wanted), weights).mean()
    }

    /// The loss of each image, `[n]`.
    fn each(&self, made: Tensor<4>, wanted: Tensor<4>, weights: Option<Tensor<4>>) -> Tensor<1> {
        let weighted = |x: Tensor<4>, weights: Option<Tensor<4>>| match weights {
            Some(weights) => x * weights,
            None => x,
        };
        let difference = made.clone() - wanted.clone();
        match self.loss {
            ReconstructionLoss::Mse => mean_of_each(weighted(difference.square(), weights)),
            ReconstructionLoss::L1Ssim => {
                let unlike = -self.ssim.map(made, wanted) + 1.0;
                let middles = weights.clone().map(|weights| {
                    let middles = self.ssim.middles(weights);
                    // Windows end within the image, so that their middles weigh otherwise.
                    let mean = middles.clone().mean().clamp_min(f32::MIN_POSITIVE);
                    middles / mean.reshape([1, 1, 1, 1])
                });
                let l1 = mean_of_each(weighted(difference.abs(), weights));
                l1 + mean_of_each(weighted(unlike, middles))
            }
        }
    }

    /// How close each image is; what lies beyond black and white counts as these, but in the loss.
    pub(super) fn closeness(
        &self,
        made: Tensor<4>,
        wanted: Tensor<4>,
        weights: Option<Tensor<4>>,
    ) -> Closeness {
        let (made, wanted) = (self.pixels(made), self.pixels(wanted));
        let loss = values(&self.each(made.clone(), wanted.clone(), weights));
        let made = made.clamp(0.0, 1.0);
        let mse = values(&mean_of_each((made.clone() - wanted.clone()).square()));
        let ssim = values(&mean_of_each(self.ssim.map(made, wanted)));
        Closeness { loss, mse, ssim }
    }

    /// From a network's values to pixels from 0 to 1.
    fn pixels(&self, x: Tensor<4>) -> Tensor<4> {
        let (mean, std) = (alike(self.mean.clone(), &x), alike(self.std.clone(), &x));
        x * std + mean
    }
}

/// A constant beside something that may be differentiated.
fn alike(constant: Tensor<4>, x: &Tensor<4>) -> Tensor<4> {
    match x.is_autodiff() && !constant.is_autodiff() {
        true => constant.autodiff(),
        false => constant,
    }
}

/// The mean of each image's values.
fn mean_of_each(x: Tensor<4>) -> Tensor<1> {
    let n = x.dims()[0];
    x.reshape([n as i32, -1]).mean_dim(1).reshape([n])
}

fn values(x: &Tensor<1>) -> Vec<f32> {
    x.to_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use refit_data::{Interpolation, Resize};

    use super::*;

    const SIZE: usize = 16;

    fn objective(loss: ReconstructionLoss) -> Objective {
        let preprocess = Preprocess {
            size: SIZE,
            resize: Resize::Squash,
            interpolation: Interpolation::Bilinear,
            mean: [0.5, 0.4, 0.3],
            std: [0.5, 0.25, 0.2],
        };
        Objective::new(loss, &preprocess, &Device::flex())
    }

    fn images(change: impl Fn(usize) -> f32) -> Tensor<4> {
        let values = (0..2 * 3 * SIZE * SIZE).map(change).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, [2, 3, SIZE, SIZE]), &Device::flex())
    }

    fn pattern(i: usize) -> f32 {
        ((i * 7919) % 1013) as f32 / 1012.0 - 0.5
    }

    #[test]
    fn what_is_the_same_costs_nothing() {
        for loss in ReconstructionLoss::ALL {
            let x = images(pattern);
            let found: f32 = objective(loss).loss(x.clone(), x, None).into_scalar();
            assert!(found.abs() < 1e-5, "{loss}: {found}");
        }
    }

    #[test]
    fn differences_are_of_pixels() {
        // 0.1 of each deviation more: 0.05, 0.025 and 0.02 of black to white.
        let (made, wanted) = (images(|i| pattern(i) + 0.1), images(pattern));
        let want = (0.05_f32.powi(2) + 0.025_f32.powi(2) + 0.02_f32.powi(2)) / 3.0;
        let mse = objective(ReconstructionLoss::Mse);
        let found: f32 = mse.loss(made.clone(), wanted.clone(), None).into_scalar();
        assert!((found - want).abs() < 1e-5, "{found}, not {want}");
        let close = mse.closeness(made.clone(), wanted.clone(), None);
        assert_eq!((close.loss.len(), close.ssim.len()), (2, 2));
        assert!((close.loss[1] - want).abs() < 1e-5 && close.ssim[0] < 1.0);
        let both: f32 =
            objective(ReconstructionLoss::L1Ssim).loss(made, wanted, None).into_scalar();
        let want = (0.05 + 0.025 + 0.02) / 3.0 + 1.0 - (close.ssim[0] + close.ssim[1]) / 2.0;
        assert!((both - want).abs() < 1e-4, "{both}, not {want}");
    }

    #[test]
    fn pixels_that_weigh_nothing_do_not_count() {
        // Wrong in the left half only, on which nothing weighs.
        let left = |i: usize| i % SIZE < SIZE / 2;
        let made = images(|i| if left(i) { 3.0 } else { pattern(i) });
        let right: Vec<f32> =
            (0..2 * SIZE * SIZE).map(|i| if left(i) { 0.0 } else { 2.0 }).collect();
        let right = Tensor::from_data(TensorData::new(right, [2, 1, SIZE, SIZE]), &Device::flex());
        let mse = objective(ReconstructionLoss::Mse);
        let found: f32 = mse.loss(made.clone(), images(pattern), Some(right.clone())).into_scalar();
        assert!(found.abs() < 1e-9, "{found}");
        let whole: f32 = mse.loss(made.clone(), images(pattern), None).into_scalar();
        let ssim = objective(ReconstructionLoss::L1Ssim);
        let counted: f32 = ssim.loss(made.clone(), images(pattern), Some(right)).into_scalar();
        let all: f32 = ssim.loss(made, images(pattern), None).into_scalar();
        assert!(whole > 0.01 && counted < all, "{whole}, {counted} of {all}");
    }

    #[test]
    fn names_are_read_back() {
        for loss in ReconstructionLoss::ALL {
            assert_eq!(loss.name().parse(), Ok(loss));
        }
        let error = "l2".parse::<ReconstructionLoss>().unwrap_err();
        assert_eq!(error, "no loss is called `l2`; there are mse, l1-ssim");
    }
}
