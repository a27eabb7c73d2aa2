//! Layers as edits describe them: what matters, the rest by default.

use serde::{Deserialize, Serialize};

use super::EditError;
use crate::layer::{
    Activation, BatchNorm, Conv, Divisor, Dropout, Layer, LayerNorm, LayerScale, Linear, Padding,
    Windows,
};

/// A layer of one input that an edit puts into a network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NewLayer {
    /// A convolution with a square kernel, padded so that stride 1 keeps the map's size.
    Conv {
        /// Output channels.
        channels: usize,
        /// Height and width of the kernel.
        #[serde(default = "three")]
        kernel: usize,
        /// Stride in both directions.
        #[serde(default = "one")]
        stride: usize,
        /// Groups of channels that do not see each other.
        #[serde(default = "one")]
        groups: usize,
        /// Distance between the pixels that a kernel reads.
        #[serde(default = "one")]
        dilation: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// A fully connected layer; of a map, over the channels of each pixel.
    Linear {
        /// Output features.
        features: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Batch normalization.
    BatchNorm,
    /// Layer normalization over the channels of each pixel.
    LayerNorm,
    /// An elementwise function.
    Activation(Activation),
    /// Dropout of single values.
    Dropout {
        /// The share of values that is zeroed, in `[0, 1)`.
        share: f32,
    },
    /// A learned factor for each channel.
    LayerScale {
        /// What it starts at.
        initial: f32,
    },
    /// Maximum over windows.
    MaxPool {
        /// Height and width of a window.
        window: usize,
        /// Stride in both directions; the window's size if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<usize>,
        /// Pixels added on all sides.
        #[serde(default)]
        padding: usize,
    },
    /// Mean over windows.
    AvgPool {
        /// Height and width of a window.
        window: usize,
        /// Stride in both directions; the window's size if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<usize>,
        /// Pixels added on all sides, which do not count.
        #[serde(default)]
        padding: usize,
    },
    /// The mean of each channel.
    GlobalAvgPool,
    /// The means of as many windows as make a square map of this size.
    AdaptiveAvgPool {
        /// Height and width of the map.
        size: usize,
    },
    /// A map as a vector, channel by channel.
    Flatten,
}

const fn one() -> usize {
    1
}

const fn three() -> usize {
    3
}

const fn yes() -> bool {
    true
}

impl NewLayer {
    /// The layer that is meant.
    pub(super) fn layer(self) -> Result<Layer, EditError> {
        let windows = |window: usize, stride: Option<usize>, padding| {
            Windows::new(window, stride.unwrap_or(window)).padded(padding)
        };
        Ok(match self {
            Self::Conv { channels, kernel, stride, groups, dilation, bias } => Layer::Conv(Conv {
                dilation: [dilation; 2],
                // An odd kernel's reach to either side.
                padding: Padding::Symmetric([(kernel / 2).saturating_mul(dilation); 2]),
                bias,
                ..Conv::square(channels, kernel).stride(stride).groups(groups)
            }),
            Self::Linear { features, bias } => Layer::Linear(Linear { features, bias }),
            Self::BatchNorm => Layer::BatchNorm(BatchNorm::default()),
            Self::LayerNorm => Layer::LayerNorm(LayerNorm { epsilon: 1e-6 }),
            Self::Activation(function) => Layer::Activation { function },
            Self::Dropout { share } if (0.0..1.0).contains(&share) => {
                Layer::Dropout(Dropout::new(share))
            }
            Self::Dropout { share } => return Err(wrong("a dropout's share", share, "in [0, 1)")),
            Self::LayerScale { initial } if initial.is_finite() => {
                Layer::LayerScale(LayerScale { initial })
            }
            Self::LayerScale { initial } => {
                return Err(wrong("a layer scale's initial value", initial, "a finite number"));
            }
            Self::MaxPool { window, stride, padding } => {
                Layer::MaxPool(windows(window, stride, padding))
            }
            Self::AvgPool { window, stride, padding } => Layer::AvgPool {
                windows: windows(window, stride, padding),
                divisor: Divisor::Inside,
            },
            Self::GlobalAvgPool => Layer::GlobalAvgPool,
            Self::AdaptiveAvgPool { size } => Layer::AdaptiveAvgPool { size: [size; 2] },
            Self::Flatten => Layer::Flatten,
        })
    }
}

fn wrong(what: &'static str, value: f32, range: &'static str) -> EditError {
    EditError::Value { what, value: value.to_string(), range }
}
