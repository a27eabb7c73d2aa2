//! Dropout: Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>.

use serde::{Deserialize, Serialize};

/// Zeroes values at random in training and scales the rest up; does nothing otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// The share of values that is zeroed, in `[0, 1)`.
    pub share: f32,
}
