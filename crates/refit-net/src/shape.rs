//! Shapes of activations, without the batch dimension.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The shape of one image's activation; a batch adds a leading `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shape {
    /// `[n, channels, height, width]`.
    Map {
        /// Number of channels.
        channels: usize,
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
    },
    /// `[n, features]`.
    Vector {
        /// Number of features.
        features: usize,
    },
}

impl Shape {
    /// A feature map of `channels` planes of `height` by `width`.
    pub const fn map(channels: usize, height: usize, width: usize) -> Self {
        Self::Map { channels, height, width }
    }

    /// A vector of `features` values.
    pub const fn vector(features: usize) -> Self {
        Self::Vector { features }
    }

    /// Channels of a map, features of a vector.
    pub const fn channels(&self) -> usize {
        match *self {
            Self::Map { channels, .. } => channels,
            Self::Vector { features } => features,
        }
    }

    /// The same with another number of channels or features.
    #[must_use]
    pub const fn with_channels(self, channels: usize) -> Self {
        match self {
            Self::Map { height, width, .. } => Self::map(channels, height, width),
            Self::Vector { .. } => Self::vector(channels),
        }
    }

    /// Values an image.
    pub const fn elements(&self) -> usize {
        match *self {
            Self::Map { channels, height, width } => channels * height * width,
            Self::Vector { features } => features,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { channels, height, width } => {
                write!(f, "[n, {channels}, {height}, {width}]")
            }
            Self::Vector { features } => write!(f, "[n, {features}]"),
        }
    }
}
