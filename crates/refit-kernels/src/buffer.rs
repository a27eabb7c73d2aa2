//! Memory for activations: aligned, on huge pages where the system has them, and kept for reuse.
//!
//! A network allocates maps of a few megabytes to hundreds, again and again in the same sizes. Fresh
//! pages cost more than the kernel that fills them (0.7 s a gigabyte in pages of 4 KiB), so freed
//! maps stay as long as all maps together take no more than they ever did.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;

/// From this size on, memory is mapped on its own, and pooled.
const MAPPED: usize = 1 << 20;

/// The most bytes that a slice may have, and a huge page less.
const MOST: usize = isize::MAX as usize - HUGE_PAGE;

/// Bytes that may be kept in any case: a small network's maps of all sizes, not only its peak.
const FLOOR: usize = 256 << 20;

/// The size of a huge page on x86-64 and aarch64.
const HUGE_PAGE: usize = 1 << 21;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

enum Memory {
    Lines(Vec<Line>),
    Mapped(MmapMut),
}

/// `f32` values on cache-line boundaries. Dropping it gives its memory back to the pool.
pub struct Buffer {
    memory: Memory,
    len: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} values", self.len)
    }
}

impl Buffer {
    /// All zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::stale(len);
        buffer.fill(0.0);
        buffer
    }

    /// Values left by whoever had the memory before: for results that are written whole.
    pub fn stale(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<f32>()).filter(|b| *b <= MOST);
        let bytes = bytes.unwrap_or_else(|| panic!("a map of {len} values"));
        let memory = if bytes < MAPPED {
            let lines = len.div_ceil(16);
            let kept = SMALL.lock().unwrap_or_else(PoisonError::into_inner).take(lines);
            Memory::Lines(kept.unwrap_or_else(|| vec![Line([0.0; 16]); lines]))
        } else {
            Memory::Mapped(POOL.lock().unwrap_or_else(PoisonError::into_inner).take(bytes))
        };
        Self { memory, len }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[f32]) -> Self {
        let mut buffer = Self::stale(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        let start: *const f32 = match &self.memory {
            Memory::Lines(lines) => lines.as_ptr().cast(),
            Memory::Mapped(map) => map.as_ptr().cast(),
        };
        // SAFETY: the memory holds at least `len` values, aligned and initialized: lines are made
        // of `f32`, and pages start as zeros.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let start: *mut f32 = match &mut self.memory {
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            Memory::Mapped(map) => map.as_mut_ptr().cast(),
        };
        // SAFETY: as in `deref`, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.memory, Memory::Lines(Vec::new())) {
            Memory::Mapped(map) => POOL.lock().unwrap_or_else(PoisonError::into_inner).give(map),
            Memory::Lines(lines) => {
                SMALL.lock().unwrap_or_else(PoisonError::into_inner).give(lines);
            }
        }
    }
}

/// Lines, 64 bytes each, from which on memory is kept rather than given back to the allocator, and
/// how many of them are kept: what a network takes for a single image.
const KEPT: std::ops::Range<usize> = 64..(16 << 20) / 64;

static SMALL: Mutex<Small> = Mutex::new(Small { free: VecDeque::new(), kept: 0 });

/// Free memory below [`MAPPED`], the longest unused first: what is new would have to be cleared.
struct Small {
    free: VecDeque<Vec<Line>>,
    /// Lines in `free`.
    kept: usize,
}

impl Small {
    /// The best fit for so many lines.
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        let fits = |free: &Vec<Line>| free.len() >= lines && free.len() <= lines + lines / 2;
        let fitting = (0..self.free.len()).filter(|&i| fits(&self.free[i]));
        let best = fitting.min_by_key(|&i| self.free[i].len())?;
        let taken = self.free.remove(best)?;
        self.kept -= taken.len();
        Some(taken)
    }

    fn give(&mut self, lines: Vec<Line>) {
        if lines.len() < KEPT.start {
            return;
        }
        self.kept += lines.len();
        self.free.push_back(lines);
        while self.kept > KEPT.end
            && let Some(oldest) = self.free.pop_front()
        {
            self.kept -= oldest.len();
        }
    }
}

static POOL: Mutex<Pool> =
    Mutex::new(Pool { free: VecDeque::new(), kept: 0, used: 0, most: FLOOR });

/// Free maps, the longest unused first.
struct Pool {
    free: VecDeque<MmapMut>,
    /// Bytes in `free`.
    kept: usize,
    /// Bytes in use, and the most that ever were, if not less than [`FLOOR`].
    used: usize,
    most: usize,
}

impl Pool {
    /// A map of at least `bytes`: the best fit among the free ones, or a new one.
    fn take(&mut self, bytes: usize) -> MmapMut {
        let bytes = if bytes < HUGE_PAGE { bytes } else { bytes.next_multiple_of(HUGE_PAGE) };
        let fits = |map: &MmapMut| map.len() >= bytes && map.len() <= bytes + bytes / 4;
        let best = (0..self.free.len())
            .filter(|&i| fits(&self.free[i]))
            .min_by_key(|&i| self.free[i].len());
        let map = match best.and_then(|i| self.free.remove(i)) {
            Some(map) => {
                self.kept -= map.len();
                map
            }
            None => {
                self.shrink(bytes);
                new_map(bytes)
            }
        };
        self.used += map.len();
        self.most = self.most.max(self.used);
        map
    }

    fn give(&mut self, map: MmapMut) {
        self.used -= map.len();
        self.kept += map.len();
        self.free.push_back(map);
    }

    /// Makes room for `bytes`: used and free maps together stay within what was ever in use at
    /// once, so that keeping them costs no memory at the peak. The longest unused go first.
    fn shrink(&mut self, bytes: usize) {
        while self.used + self.kept + bytes > self.most
            && let Some(map) = self.free.pop_front()
        {
            self.kept -= map.len();
        }
    }
}

fn new_map(bytes: usize) -> MmapMut {
    let map = MmapMut::map_anon(bytes)
        .unwrap_or_else(|error| panic!("no memory for {bytes} bytes of activations: {error}"));
    // Advice: a system without huge pages goes on with small ones.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for len in [0, 1, 15, 16, 17, 1000, MAPPED / 4, HUGE_PAGE + 3] {
            let mut buffer = Buffer::zeros(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_ptr().addr().is_multiple_of(64), "{len}");
            assert!(buffer.iter().all(|v| *v == 0.0));
            buffer.fill(3.0);
        }
        // What was left by another is not seen.
        assert!(Buffer::zeros(HUGE_PAGE + 3).iter().all(|v| *v == 0.0));
    }

    #[test]
    fn little_memory_is_kept_too_up_to_a_limit() {
        let mut small = Small { free: VecDeque::new(), kept: 0 };
        let lines = |n| vec![Line([1.0; 16]); n];
        small.give(lines(KEPT.start - 1));
        assert!(small.take(KEPT.start - 1).is_none());
        small.give(lines(1000));
        small.give(lines(1200));
        assert_eq!(small.take(990).map(|l| l.len()), Some(1000));
        assert!(small.take(500).is_none(), "more than half as much again");
        (0..100).for_each(|_| small.give(lines(MAPPED / 64 - 1)));
        assert!(small.kept <= KEPT.end && small.kept > KEPT.end / 2);
        assert_eq!(small.kept, small.free.iter().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn the_pool_reuses_what_fits_within_the_peak() {
        let mut pool = Pool { free: VecDeque::new(), kept: 0, used: 0, most: 0 };
        let maps: Vec<_> = (0..8).map(|_| pool.take(MAPPED)).collect();
        maps.into_iter().for_each(|map| pool.give(map));
        assert_eq!((pool.kept, pool.free.len(), pool.used), (8 * MAPPED, 8, 0));
        let again = pool.take(MAPPED - 100);
        assert_eq!((pool.kept, pool.used), (7 * MAPPED, MAPPED));
        // Nothing fits: as many go as the new one needs.
        let other = pool.take(4 * MAPPED);
        assert_eq!((pool.kept, pool.used, pool.most), (3 * MAPPED, 5 * MAPPED, 8 * MAPPED));
        pool.give(again);
        pool.give(other);
        assert_eq!(pool.kept + pool.used, pool.most);
    }
}
