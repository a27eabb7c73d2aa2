//! Pooling over windows.

use serde::{Deserialize, Serialize};

use super::Misfit;
use super::conv2d::{MOST_PIXELS, Padding};
use crate::shape::Shape;

/// The largest window: a place in it fits a byte, which is how training keeps it.
const LARGEST_WINDOW: usize = 16;

/// Square windows that slide over a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Height and width of a window.
    pub window: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Pixels added around the map, which never win and count as zeros.
    pub padding: Padding,
    /// Whether a last window that reaches beyond the padding counts too (PyTorch's `ceil_mode`).
    #[serde(default)]
    pub ceil: bool,
}

impl Windows {
    /// Windows that do not reach beyond the map.
    pub const fn new(window: usize, stride: usize) -> Self {
        Self { window, stride, padding: Padding::Symmetric([0; 2]), ceil: false }
    }

    /// With `padding` pixels on all sides.
    #[must_use]
    pub const fn padded(mut self, padding: usize) -> Self {
        self.padding = Padding::Symmetric([padding; 2]);
        self
    }

    /// With TensorFlow's "same" padding.
    #[must_use]
    pub const fn same(mut self) -> Self {
        self.padding = Padding::Same;
        self
    }

    /// With a last window that reaches beyond the padding.
    #[must_use]
    pub const fn ceil(mut self) -> Self {
        self.ceil = true;
        self
    }

    /// Pixels before and after along one axis.
    pub fn pads(&self, axis: usize, size: usize) -> (usize, usize) {
        self.padding.resolve(axis, size, self.window, self.stride)
    }

    /// Windows along one axis of `size` pixels, or `None` where not even one fits.
    pub fn count(&self, axis: usize, size: usize) -> Option<usize> {
        self.count_between(size, self.pads(axis, size))
    }

    /// The same for so many pixels before and after, whatever the padding.
    pub(crate) fn count_between(
        &self,
        size: usize,
        (before, after): (usize, usize),
    ) -> Option<usize> {
        let slack = (size + before + after).checked_sub(self.window)?;
        if !self.ceil {
            return Some(slack / self.stride + 1);
        }
        // The last window has to begin within the map or the padding before it.
        let count = slack.div_ceil(self.stride) + 1;
        Some(if (count - 1) * self.stride >= size + before { count - 1 } else { count })
    }

    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let Shape::Map { channels, height, width } = input else {
            return Err(Misfit(format!("pools a feature map, not {input}")));
        };
        let padding = match self.padding {
            Padding::Same => [0; 2],
            Padding::Symmetric(padding) => padding,
        };
        let sane = (1..=LARGEST_WINDOW).contains(&self.window)
            && (1..=MOST_PIXELS).contains(&self.stride)
            && padding.iter().all(|p| *p <= self.window / 2);
        if !sane {
            return Err(Misfit(
                "has a window or stride of zero or beyond reason, or pads more than half a window"
                    .into(),
            ));
        }
        let fit = |axis, size| {
            self.count(axis, size)
                .ok_or_else(|| Misfit(format!("needs windows of {}, given {input}", self.window)))
        };
        Ok(Shape::map(channels, fit(0, height)?, fit(1, width)?))
    }
}

/// What the sum over a window is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divisor {
    /// The window's pixels within the map and its padding (PyTorch's `count_include_pad`).
    Padded,
    /// The window's pixels within the map.
    Inside,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_counted_as_pytorch_does() {
        let count = |w: Windows, size| w.count(0, size).unwrap();
        assert_eq!(count(Windows::new(3, 2).padded(1), 112), 56);
        assert_eq!(count(Windows::new(3, 2), 112), 55);
        assert_eq!(count(Windows::new(3, 2).ceil(), 112), 56);
        assert_eq!(count(Windows::new(2, 2).ceil(), 7), 4);
        // The last window would begin in the padding behind.
        assert_eq!(count(Windows::new(2, 2).padded(1).ceil(), 3), 2);
        assert_eq!(count(Windows::new(3, 2).same(), 7), 4);
        assert!(Windows::new(3, 2).count(0, 2).is_none());
    }
}
