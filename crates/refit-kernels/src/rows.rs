//! Copies of an image's rows, padded with zeros and passed through the entry.
//!
//! Kernels read rows that hold their own padding: no pixel needs a test of where it lies, and the
//! copy is a good moment to apply a batch norm. A copy is read while it is in the cache.

use crate::activation::Activation;
use crate::conv::Entry;
use crate::simd::{Isa, on_isa};

/// Some channels of one image, `[height, width, stride]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub isa: Isa,
    pub image: &'a [f32],
    /// Rows and columns.
    pub size: [usize; 2],
    /// Channels of the image, and thus the distance between its pixels.
    pub stride: usize,
    /// The first channel.
    pub first: usize,
    /// Channels.
    pub channels: usize,
    pub entry: Option<Entry<'a>>,
}

impl Source<'_> {
    /// Copies `to.len() / channels` pixels of row `y` from column `x` on.
    ///
    /// # Panics
    /// If the row ends before.
    pub(crate) fn copy(&self, y: usize, x: usize, to: &mut [f32]) {
        let pixels = to.len() / self.channels;
        let from = (y * self.size[1] + x) * self.stride + self.first;
        if pixels == 0 {
            return;
        }
        let end = from + (pixels - 1) * self.stride + self.channels;
        assert!(y < self.size[0] && x + pixels <= self.size[1] && end <= self.image.len());
        let from = &self.image[from..end];
        if let Some(entry) = self.entry {
            let (low, high) = entry.activation.bounds();
            let (scale, shift) = (&entry.scale[self.first..], &entry.shift[self.first..]);
            assert!(scale.len() >= self.channels && shift.len() >= self.channels);
            // SAFETY: `isa` is this CPU's; lengths were checked above.
            unsafe {
                enter(
                    self.isa,
                    from.as_ptr(),
                    self.stride,
                    to.as_mut_ptr(),
                    [pixels, self.channels],
                    scale.as_ptr(),
                    shift.as_ptr(),
                    [low, high],
                );
            }
        } else if self.channels == self.stride {
            to.copy_from_slice(from);
        } else {
            for (to, from) in to.chunks_exact_mut(self.channels).zip(from.chunks(self.stride)) {
                to.copy_from_slice(&from[..self.channels]);
            }
        }
    }
}

on_isa! {
    /// Enters `size` (pixels, channels) values, whose pixels lie `stride` apart, into dense ones.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for these extents.
    fn enter<S>(
        from: *const f32, stride: usize, to: *mut f32, size: [usize; 2],
        scale: *const f32, shift: *const f32, bounds: [f32; 2],
    ) {
        let [pixels, channels] = size;
        let (low, high) = (S::splat(bounds[0]), S::splat(bounds[1]));
        for p in 0..pixels {
            let (from, to) = (from.add(p * stride), to.add(p * channels));
            let mut at = 0;
            while at + S::LANES <= channels {
                let v = S::fma(S::load(from.add(at)), S::load(scale.add(at)), S::load(shift.add(at)));
                S::store(to.add(at), S::clamp(v, low, high));
                at += S::LANES;
            }
            let n = channels - at;
            if n > 0 {
                let scale = S::load_first(scale.add(at), n);
                let v = S::fma(S::load_first(from.add(at), n), scale, S::load_first(shift.add(at), n));
                S::store_first(to.add(at), S::clamp(v, low, high), n);
            }
        }
    }
}

/// How rows are kept in a [`Ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingShape {
    /// Rows kept at once.
    pub slots: usize,
    /// Pixels of a padded row.
    pub width: usize,
    /// Zeros before an image's first column; if negative, columns that are left out.
    pub left: isize,
}

/// The last few rows of an image, padded left and right.
pub(crate) struct Ring<'a> {
    source: Source<'a>,
    shape: RingShape,
    memory: &'a mut [f32],
    /// Columns of a row that hold pixels, and the image's column that the first of them is.
    inside: (usize, usize),
    skipped: usize,
    /// The first row not copied yet.
    next: usize,
}

impl<'a> Ring<'a> {
    /// Values of memory.
    pub(crate) fn len(shape: RingShape, channels: usize) -> usize {
        shape.slots * shape.width * channels
    }

    /// No rows yet. `memory` holds [`Ring::len`] values.
    pub(crate) fn new(shape: RingShape, source: Source<'a>, memory: &'a mut [f32]) -> Self {
        assert_eq!(memory.len(), Self::len(shape, source.channels), "Ring: length of `memory`");
        let within = |column: isize| column.clamp(0, shape.width as isize) as usize;
        let start = within(shape.left);
        let inside = (start, within(shape.left + source.size[1] as isize).max(start));
        let skipped = (-shape.left).max(0) as usize;
        for row in memory.chunks_exact_mut(shape.width * source.channels) {
            row[..inside.0 * source.channels].fill(0.0);
            row[inside.1 * source.channels..].fill(0.0);
        }
        Self { source, shape, memory, inside, skipped, next: 0 }
    }

    /// Copies the rows from `first` to before `end` that the image has and the ring has not yet.
    /// Rows come in order; at most `slots` of them are asked for at once.
    pub(crate) fn advance(&mut self, first: isize, end: isize) {
        debug_assert!(end - first <= self.shape.slots as isize);
        self.next = self.next.max(first.max(0) as usize);
        let end = end.clamp(0, self.source.size[0] as isize) as usize;
        while self.next < end {
            let (at, c) = (self.start(self.next), self.source.channels);
            let to = &mut self.memory[at + self.inside.0 * c..at + self.inside.1 * c];
            self.source.copy(self.next, self.skipped, to);
            self.next += 1;
        }
    }

    /// The first value of row `y`'s copy, its padding included; null if the image has no such row.
    pub(crate) fn row(&self, y: isize) -> *const f32 {
        if y < 0 || y >= self.source.size[0] as isize {
            return std::ptr::null();
        }
        self.memory[self.start(y as usize)..].as_ptr()
    }

    fn start(&self, y: usize) -> usize {
        y % self.shape.slots * self.shape.width * self.source.channels
    }
}

/// An entry that changes nothing needs no pass.
pub(crate) fn needed(entry: Option<Entry>) -> Option<Entry> {
    entry.filter(|e| {
        e.activation != Activation::Identity
            || e.scale.iter().any(|s| *s != 1.0)
            || e.shift.iter().any(|s| *s != 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_entered_and_padded() {
        let (h, w, c) = (5, 4, 21);
        let image: Vec<f32> = (0..h * w * c).map(|i| i as f32 - 200.0).collect();
        let scale: Vec<f32> = (0..c).map(|i| i as f32).collect();
        let shift: Vec<f32> = (0..c).map(|i| 1.0 - i as f32).collect();
        let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu };
        for (isa, left) in Isa::available().flat_map(|isa| [-2, 0, 3].map(|left| (isa, left))) {
            for (first, channels, entry) in [(0, c, None), (2, 17, None), (2, 19, Some(entry))] {
                let source =
                    Source { isa, image: &image, size: [h, w], stride: c, first, channels, entry };
                let shape = RingShape { slots: 2, width: 6, left };
                let mut memory = vec![f32::NAN; Ring::len(shape, channels)];
                let mut ring = Ring::new(shape, source, &mut memory);
                for y in 0..h as isize {
                    ring.advance(y - 1, y + 1);
                    // SAFETY: rows are as long as the shape says.
                    let row = unsafe { std::slice::from_raw_parts(ring.row(y), 6 * channels) };
                    for (i, value) in row.iter().enumerate() {
                        let x = (i / channels) as isize - left;
                        let channel = first + i % channels;
                        let mut want = 0.0;
                        if x >= 0 && x < w as isize {
                            want = image[(y as usize * w + x as usize) * c + channel];
                            if entry.is_some() {
                                want = (want * scale[channel] + shift[channel]).max(0.0);
                            }
                        }
                        assert!((value - want).abs() <= 1e-6 * want.abs(), "{isa:?} {y} {i}");
                    }
                }
                assert!(ring.row(-1).is_null() && ring.row(h as isize).is_null());
            }
        }
    }
}
