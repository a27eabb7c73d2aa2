//! Layers that leave things out at random in training.

use serde::{Deserialize, Serialize};

/// Zeroes values at random in training and scales the rest up; does nothing otherwise (Srivastava et
/// al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// The share of values that is zeroed, in `[0, 1)`.
    pub share: f32,
    /// Whether values go one by one, or all of an image's together: stochastic depth (Huang et al.
    /// 2016, <https://arxiv.org/abs/1603.09382>).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

impl Dropout {
    /// Of single values.
    pub const fn new(share: f32) -> Self {
        Self { share, whole: false }
    }

    /// Of all values of an image.
    pub const fn of_images(share: f32) -> Self {
        Self { share, whole: true }
    }
}
