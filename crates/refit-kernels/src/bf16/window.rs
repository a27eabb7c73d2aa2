//! Padded copies of input rows, in which output pixels lie evenly spaced: also from one output row
//! to the next, so that a tile of pixels may reach over the end of a row. What lies between rows is
//! computed and thrown away.
//!
//! For strides, input rows are sorted by their remainder: one region for each.

use super::{Layout, TILE};
use crate::conv::ConvShape;

#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Channels of a pixel, padded.
    channels: usize,
    /// Pixels of a copied row.
    width: usize,
    /// Output pixels from a row to the next.
    pub period: usize,
    /// Values from an output pixel to the next.
    pub stride: usize,
}

impl Window {
    pub fn new(shape: &ConvShape, layout: &Layout) -> Self {
        let [_, ow] = shape.out_size();
        let reach = (ow - 1) * shape.stride[1] + (shape.kernel[1] - 1) * shape.dilation[1] + 1;
        let period = reach.div_ceil(shape.stride[1]);
        let width = period * shape.stride[1];
        let channels = layout.channels;
        Self { channels, width, period, stride: shape.stride[1] * channels }
    }

    /// Rows of a region for `rows` output rows.
    fn region_rows(shape: &ConvShape, rows: usize) -> usize {
        rows + (shape.kernel[0] - 1) * shape.dilation[0] / shape.stride[0]
    }

    fn region(&self, shape: &ConvShape, rows: usize) -> usize {
        Self::region_rows(shape, rows) * self.width * self.channels
    }

    /// Values of a window for `rows` output rows, with room for whole blocks at its end.
    pub fn len(&self, shape: &ConvShape, rows: usize) -> usize {
        let room = 2 * TILE * self.stride + self.width * self.channels;
        (shape.stride[0] * self.region(shape, rows) + room).next_multiple_of(32)
    }

    /// Where the values of each step lie.
    pub fn steps(&self, shape: &ConvShape, layout: &Layout, rows: usize) -> Vec<usize> {
        let row_len = self.channels * shape.kernel[1];
        let runs = row_len / layout.run;
        let mut steps = Vec::new();
        for ky in 0..shape.kernel[0] {
            let y = ky * shape.dilation[0];
            let (phase, line) = (y % shape.stride[0], y / shape.stride[0]);
            let row = phase * self.region(shape, rows) + line * self.width * self.channels;
            for run in 0..runs {
                let at = row + run * shape.dilation[1] * self.channels;
                steps.extend((0..layout.run).step_by(layout.depth).map(|k| at + k));
            }
        }
        steps
    }

    /// Copies the rows that `rows` output rows of an image from `first` on need.
    ///
    /// # Safety
    /// `to` has room for [`len`](Self::len) values.
    pub unsafe fn fill(
        &self,
        shape: &ConvShape,
        x: &[u16],
        image: usize,
        first: usize,
        rows: usize,
        to: *mut u16,
    ) {
        let row_len = shape.width * shape.channels;
        let image = &x[image * shape.height * row_len..][..shape.height * row_len];
        for phase in 0..shape.stride[0].min((shape.kernel[0] - 1) * shape.dilation[0] + 1) {
            for line in 0..Self::region_rows(shape, rows) {
                let y = (first + line) * shape.stride[0] + phase;
                let y = y.checked_sub(shape.padding[0].0).filter(|y| *y < shape.height);
                let len = self.width * self.channels;
                let at = phase * self.region(shape, rows) + line * len;
                // SAFETY: by the caller's word; rows don't overlap.
                let to = unsafe { std::slice::from_raw_parts_mut(to.add(at), len) };
                match y {
                    Some(y) => self.fill_row(shape, &image[y * row_len..][..row_len], to),
                    None => to.fill(0),
                }
            }
        }
    }

    /// Copies one row, zeros around it.
    fn fill_row(&self, shape: &ConvShape, from: &[u16], to: &mut [u16]) {
        let (c, padded) = (shape.channels, self.channels);
        let before = shape.padding[1].0.min(self.width);
        let inside = shape.width.min(self.width - before);
        let (left, rest) = to.split_at_mut(before * padded);
        let (middle, right) = rest.split_at_mut(inside * padded);
        left.fill(0);
        right.fill(0);
        if c == padded {
            middle.copy_from_slice(&from[..inside * c]);
            return;
        }
        if c == 3 && padded == 4 {
            // The colours of a picture: a loop that becomes vectors.
            let (to, from) = (middle.as_chunks_mut::<4>().0, from.as_chunks::<3>().0);
            to.iter_mut().zip(from).for_each(|(to, &[r, g, b])| *to = [r, g, b, 0]);
            return;
        }
        for (to, from) in middle.chunks_exact_mut(padded).zip(from.chunks_exact(c)) {
            to[..c].copy_from_slice(from);
            to[c..].fill(0);
        }
    }
}
