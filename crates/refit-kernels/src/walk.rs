//! Passes over NHWC maps: a few pixels at a time, so that they are in the first-level cache, and
//! within them a few vectors of channels at a time, so that what belongs to a channel (its scale,
//! its sums) stays in registers while the pixels go by.

use std::ops::Range;

use crate::simd::{Isa, Simd};

/// Values a task takes: 256 KiB a map, which stay in the second-level cache for a second look.
const TASK: usize = 1 << 16;

/// Values taken at a time: 16 KiB a map.
const BLOCK: usize = 1 << 12;

/// How a map is cut into tasks, by its shape alone.
///
/// Pixels of few channels are taken several at a time, as if they were one pixel of `wide` channels,
/// so that vectors are full; what belongs to a channel is then [`spread`](Self::spread) as often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub channels: usize,
    /// Channels times the pixels taken together.
    pub wide: usize,
    len: usize,
    task: usize,
}

impl Cut {
    pub(crate) fn new(len: usize, channels: usize) -> Self {
        let wide = channels * together(channels);
        let task = wide * (TASK / wide).max(4);
        Self { channels, wide, len, task }
    }

    pub(crate) fn tasks(&self) -> usize {
        self.len.div_ceil(self.task)
    }

    /// The values that a task takes: whole pixels.
    pub(crate) fn values(&self, task: usize) -> Range<usize> {
        task * self.task..((task + 1) * self.task).min(self.len)
    }

    /// Repeats `values`, one a channel, over `wide` channels.
    pub(crate) fn spread(&self, values: &[f32], wide: &mut [f32]) {
        wide.chunks_exact_mut(self.channels).for_each(|pixel| pixel.copy_from_slice(values));
    }

    /// Adds up what belongs to the same channel.
    pub(crate) fn gather(&self, wide: &[f32], values: &mut [f32]) {
        values.fill(0.0);
        for pixel in wide.chunks_exact(self.channels) {
            values.iter_mut().zip(pixel).for_each(|(v, p)| *v += p);
        }
    }
}

/// Pixels taken together: at least 64 values, and whole vectors of 16. Wide pixels go alone.
fn together(channels: usize) -> usize {
    if channels >= 128 {
        return 1;
    }
    let whole = 16 >> channels.trailing_zeros().min(4);
    whole * 64usize.div_ceil(whole * channels)
}

/// What is done to the values of one vector of channels, pixel after pixel.
///
/// Every function is `unsafe`: the CPU must have `S`, and the pass must hold as many channels and
/// values as are walked. `lanes` is the number of channels, `S::LANES` unless they are the last.
pub(crate) trait Pass<S: Simd> {
    /// What belongs to a vector of channels.
    type State: Copy;
    unsafe fn begin(&self, channel: usize, lanes: usize) -> Self::State;
    unsafe fn step(&self, state: &mut Self::State, at: usize, lanes: usize);
    unsafe fn end(&self, _state: Self::State, _channel: usize, _lanes: usize) {}
}

/// Walks `len` values, pixels of `wide` channels; the last pixel may lack channels.
///
/// # Safety
/// As [`Pass`] says.
#[inline(always)]
pub(crate) unsafe fn walk<S: Simd, P: Pass<S>>(pass: &P, len: usize, wide: usize) {
    let (pixels, block) = (len / wide, (BLOCK / wide).max(4));
    let mut first = 0;
    while first < pixels {
        let end = (first + block).min(pixels);
        // SAFETY: by the caller's word.
        unsafe { columns(pass, first * wide, end - first, wide, wide) };
        first = end;
    }
    if len > pixels * wide {
        // SAFETY: by the caller's word.
        unsafe { columns(pass, pixels * wide, 1, wide, len - pixels * wide) };
    }
}

/// Walks the first `channels` channels of `pixels` pixels.
#[inline(always)]
unsafe fn columns<S: Simd, P: Pass<S>>(
    pass: &P,
    at: usize,
    pixels: usize,
    wide: usize,
    channels: usize,
) {
    let mut c = 0;
    // SAFETY: by the caller's word.
    unsafe {
        // AVX2 has half the registers.
        if S::ISA == Isa::Avx2 {
            while c + 2 * S::LANES <= channels {
                column::<S, P, 2>(pass, at, pixels, wide, c, S::LANES);
                c += 2 * S::LANES;
            }
        } else {
            while c + 4 * S::LANES <= channels {
                column::<S, P, 4>(pass, at, pixels, wide, c, S::LANES);
                c += 4 * S::LANES;
            }
        }
        while c + S::LANES <= channels {
            column::<S, P, 1>(pass, at, pixels, wide, c, S::LANES);
            c += S::LANES;
        }
        if c < channels {
            column::<S, P, 1>(pass, at, pixels, wide, c, channels - c);
        }
    }
}

/// Walks `N` vectors of channels down the pixels.
#[inline(always)]
unsafe fn column<S: Simd, P: Pass<S>, const N: usize>(
    pass: &P,
    at: usize,
    pixels: usize,
    wide: usize,
    channel: usize,
    lanes: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let mut states = [pass.begin(channel, lanes); N];
        for (j, state) in states.iter_mut().enumerate().skip(1) {
            *state = pass.begin(channel + j * S::LANES, lanes);
        }
        for pixel in 0..pixels {
            for (j, state) in states.iter_mut().enumerate() {
                pass.step(state, at + pixel * wide + channel + j * S::LANES, lanes);
            }
        }
        for (j, state) in states.into_iter().enumerate() {
            pass.end(state, channel + j * S::LANES, lanes);
        }
    }
}

/// The first `lanes` values; without a mask when they are all.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(p: *const f32, lanes: usize) -> S::V {
    // SAFETY: by the caller's word.
    unsafe { if lanes == S::LANES { S::load(p) } else { S::load_first(p, lanes) } }
}

/// Stores the first `lanes` values; without a mask when they are all.
#[inline(always)]
pub(crate) unsafe fn store<S: Simd>(p: *mut f32, v: S::V, lanes: usize) {
    // SAFETY: by the caller's word.
    unsafe { if lanes == S::LANES { S::store(p, v) } else { S::store_first(p, v, lanes) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_whole_pixels_once() {
        for channels in [1, 3, 5, 16, 17, 24, 31, 100, 127, 128, 129, 1000] {
            for pixels in [0, 1, 7, 1000, 20_000] {
                let cut = Cut::new(pixels * channels, channels);
                let mut next = 0;
                for task in 0..cut.tasks() {
                    let values = cut.values(task);
                    assert_eq!((values.start, values.len() % channels), (next, 0));
                    next = values.end;
                }
                assert_eq!(next, pixels * channels);
            }
            assert!(channels >= 128 || (64..=2048).contains(&(channels * together(channels))));
            assert!(channels >= 128 || (channels * together(channels)).is_multiple_of(16));
        }
    }
}
