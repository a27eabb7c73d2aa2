//! Elementwise activation functions.

use serde::{Deserialize, Serialize};

/// An elementwise function after a layer. Definitions are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x`.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)` (Krizhevsky 2010, Convolutional deep belief networks on CIFAR-10).
    Relu6,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `(exp(x) - exp(-x)) / (exp(x) + exp(-x))`.
    Tanh,
    /// `x * sigmoid(x)`, also called swish (Elfwing et al. 2017, <https://arxiv.org/abs/1702.03118>).
    Silu,
    /// `clamp(x + 3, 0, 6) / 6` (Howard et al. 2019, <https://arxiv.org/abs/1905.02244>).
    HardSigmoid,
    /// `x * clamp(x + 3, 0, 6) / 6` (Howard et al. 2019, <https://arxiv.org/abs/1905.02244>).
    HardSwish,
    /// `x * Phi(x)` with the normal distribution's `Phi` (Hendrycks and Gimpel 2016,
    /// <https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`, which is close to [`Self::Gelu`].
    GeluTanh,
}

impl Activation {
    /// The name as layer tables print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::Silu => "silu",
            Self::HardSigmoid => "hard_sigmoid",
            Self::HardSwish => "hard_swish",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
        }
    }

    /// Whether it only clamps, so that what went in need not be known to go back.
    pub const fn clamps(self) -> bool {
        matches!(self, Self::Identity | Self::Relu | Self::Relu6)
    }
}
