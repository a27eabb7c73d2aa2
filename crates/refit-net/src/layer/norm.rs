//! Normalizations that know no batch.

use serde::{Deserialize, Serialize};

use super::{ParameterSpec, Role};

/// Layer normalization over the channels of each pixel (Ba et al. 2016,
/// <https://arxiv.org/abs/1607.06450>), then a scale and a shift for each channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    pub(super) fn parameters(channels: usize) -> Vec<ParameterSpec> {
        [("weight", Role::NormScale), ("bias", Role::NormShift)]
            .map(|(suffix, role)| ParameterSpec::new(suffix, vec![channels], role))
            .to_vec()
    }
}

/// Local response normalization (Krizhevsky et al. 2012, <https://doi.org/10.1145/3065386>):
/// `x / (k + alpha / size * sum of squares)^beta` over neighbouring channels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LocalResponseNorm {
    /// Channels of a sum.
    pub size: usize,
    /// The factor of the mean square.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// What is added to the mean square.
    pub k: f32,
}

/// A learned factor for each channel of a residual branch (Touvron et al. 2021,
/// <https://arxiv.org/abs/2103.17239>). Its one parameter has the layer's own name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerScale {
    /// What it starts at.
    pub initial: f32,
}

impl LayerScale {
    pub(super) fn parameters(channels: usize) -> Vec<ParameterSpec> {
        vec![ParameterSpec::new("", vec![channels, 1, 1], Role::BranchScale)]
    }
}
