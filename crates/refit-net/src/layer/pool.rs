//! Pooling over windows.

use serde::{Deserialize, Serialize};

use super::Misfit;
use super::conv2d::{MOST_PIXELS, Padding, windows};
use crate::shape::Shape;

/// The largest window: a place in it fits a byte, which is how training keeps it.
const LARGEST_WINDOW: usize = 16;

/// The maximum over square windows; padding never wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPool {
    /// Height and width of the window.
    pub window: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Pixels added at all four sides.
    pub padding: usize,
}

impl MaxPool {
    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let Shape::Map { channels, height, width } = input else {
            return Err(Misfit(format!("pools a feature map, not {input}")));
        };
        let sane = (1..=LARGEST_WINDOW).contains(&self.window)
            && (1..=MOST_PIXELS).contains(&self.stride)
            && self.padding <= self.window / 2;
        if !sane {
            return Err(Misfit(
                "has a window or stride of zero or beyond reason, or pads more than half a window"
                    .into(),
            ));
        }
        let fit = |axis, size| {
            windows(Padding::Symmetric([self.padding; 2]), axis, size, self.window, self.stride)
                .ok_or_else(|| Misfit(format!("needs windows of {}, given {input}", self.window)))
        };
        Ok(Shape::map(channels, fit(0, height)?, fit(1, width)?))
    }
}
