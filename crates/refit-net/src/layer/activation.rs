//! Elementwise activation functions.

use serde::{Deserialize, Serialize};

/// An elementwise function after a layer.
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
}

impl Activation {
    /// The name as layer tables print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
        }
    }
}
