//! Batch normalization: Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>.

use serde::{Deserialize, Serialize};

use super::{ParameterSpec, Role};

/// Normalizes each channel, then scales and shifts it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f64,
    /// The share of the batch in the running statistics, as PyTorch counts it.
    pub momentum: f64,
}

impl Default for BatchNorm {
    /// PyTorch's: epsilon 1e-5, momentum 0.1.
    fn default() -> Self {
        Self { epsilon: 1e-5, momentum: 0.1 }
    }
}

impl BatchNorm {
    /// With another epsilon.
    pub fn epsilon(epsilon: f64) -> Self {
        Self { epsilon, ..Self::default() }
    }

    pub(super) fn parameters(channels: usize) -> Vec<ParameterSpec> {
        [
            ("weight", Role::NormScale),
            ("bias", Role::NormShift),
            ("running_mean", Role::RunningMean),
            ("running_var", Role::RunningVariance),
        ]
        .map(|(suffix, role)| ParameterSpec::new(suffix, vec![channels], role))
        .to_vec()
    }
}
