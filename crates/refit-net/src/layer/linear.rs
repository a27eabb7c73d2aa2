//! A fully connected layer.

use serde::{Deserialize, Serialize};

use super::conv2d::MOST_CHANNELS;
use super::{Misfit, ParameterSpec, Role};
use crate::shape::Shape;

/// `y = W x + b`: `[n, in] -> [n, features]`; of a feature map, the channels of each pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Output features.
    pub features: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

impl Linear {
    /// A layer of `features` outputs with a bias.
    pub const fn new(features: usize) -> Self {
        Self { features, bias: true }
    }

    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        if !(1..=MOST_CHANNELS).contains(&self.features) {
            return Err(Misfit("has no outputs, or too many".into()));
        }
        Ok(match input {
            Shape::Vector { .. } => Shape::vector(self.features),
            Shape::Map { height, width, .. } => Shape::map(self.features, height, width),
        })
    }

    pub(super) fn parameters(&self, inputs: usize) -> Vec<ParameterSpec> {
        let mut specs =
            vec![ParameterSpec::new("weight", vec![self.features, inputs], Role::Weight)];
        if self.bias {
            specs.push(ParameterSpec::new("bias", vec![self.features], Role::Bias));
        }
        specs
    }
}
