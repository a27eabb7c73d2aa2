//! Padded copies of input rows, small enough for L2, with the entry applied.

use super::Entry;
use crate::simd::{Isa, on_isa};

/// A copy of part of an image: `[rows][width][channels]`, zero where it lies outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub rows: usize,
    pub width: usize,
    pub channels: usize,
    /// Distances between the rows and columns that are copied.
    pub step: [usize; 2],
}

/// An image: `[height][width][channels]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image<'a> {
    pub values: &'a [f32],
    pub height: usize,
    pub width: usize,
}

impl Window {
    /// Values, up to a whole cache line.
    pub(crate) fn len(&self) -> usize {
        (self.rows * self.width * self.channels).next_multiple_of(16)
    }

    /// Copies from `image`, from row `at[0]` and column `at[1]` on, which may lie outside.
    ///
    /// # Panics
    /// If `to` is shorter than the window, or the entry's slices than the channels.
    pub(crate) fn fill(
        &self,
        isa: Isa,
        to: &mut [f32],
        image: Image,
        at: [isize; 2],
        entry: Option<Entry>,
    ) {
        assert!(isa.is_available());
        assert!(entry.is_none_or(|e| e.scale.len() == self.channels));
        assert!(entry.is_none_or(|e| e.shift.len() == self.channels));
        let rows = to.chunks_exact_mut(self.width * self.channels);
        assert!(rows.len() >= self.rows, "Window::fill: length of `to`");
        for (r, row) in rows.take(self.rows).enumerate() {
            let y = at[0] + (r * self.step[0]) as isize;
            match usize::try_from(y) {
                Ok(y) if y < image.height => self.fill_row(isa, row, image, (y, at[1]), entry),
                _ => row.fill(0.0),
            }
        }
    }

    fn fill_row(
        &self,
        isa: Isa,
        row: &mut [f32],
        image: Image,
        (y, x0): (usize, isize),
        entry: Option<Entry>,
    ) {
        let (c, step) = (self.channels, self.step[1]);
        // The first column inside the image, and the first behind it.
        let inside = (x0.min(0).unsigned_abs().div_ceil(step)).min(self.width);
        let behind = image.width as isize - x0;
        let outside = (behind.max(0).unsigned_abs().div_ceil(step)).clamp(inside, self.width);
        row[..inside * c].fill(0.0);
        row[outside * c..].fill(0.0);
        if inside == outside {
            return;
        }
        let first = (x0 + (inside * step) as isize).unsigned_abs();
        let pixels = outside - inside;
        let from = &image.values[(y * image.width + first) * c..];
        let from = &from[..((pixels - 1) * step + 1) * c];
        let row = &mut row[inside * c..outside * c];
        if entry.is_none() && step == 1 {
            row.copy_from_slice(from);
        } else {
            // SAFETY: the CPU has `isa`; `from` holds `pixels` pixels `step` apart, `row` as many
            // side by side, the entry's slices `c` values.
            unsafe { copy(isa, row.as_mut_ptr(), from.as_ptr(), pixels, step * c, c, &entry) };
        }
    }
}

on_isa! {
    /// Copies `pixels` pixels of `c` channels that lie `stride` apart, with the entry applied.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers hold the pixels, the entry's slices `c` values.
    fn copy<S>(
        to: *mut f32,
        from: *const f32,
        pixels: usize,
        stride: usize,
        c: usize,
        entry: &Option<Entry>,
    ) {
        let Some(entry) = entry else {
            for i in 0..pixels {
                std::ptr::copy_nonoverlapping(from.add(i * stride), to.add(i * c), c);
            }
            return;
        };
        let (low, high) = entry.activation.bounds();
        let (low, high) = (S::splat(low), S::splat(high));
        let (scale, shift) = (entry.scale.as_ptr(), entry.shift.as_ptr());
        let whole = c - c % S::LANES;
        for i in 0..pixels {
            let (from, to) = (from.add(i * stride), to.add(i * c));
            for at in (0..whole).step_by(S::LANES) {
                let v = S::fma(S::load(from.add(at)), S::load(scale.add(at)), S::load(shift.add(at)));
                S::store(to.add(at), S::clamp(v, low, high));
            }
            if whole < c {
                let n = c - whole;
                let v = S::fma(
                    S::load_first(from.add(whole), n),
                    S::load_first(scale.add(whole), n),
                    S::load_first(shift.add(whole), n),
                );
                S::store_first(to.add(whole), S::clamp(v, low, high), n);
            }
        }
    }
}
