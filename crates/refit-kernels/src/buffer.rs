//! Memory for activations: aligned, on huge pages where the system has them, and kept for reuse.
//!
//! A network allocates maps of a few megabytes to hundreds, again and again in the same sizes. Fresh
//! pages cost more than the kernel that fills them (0.7 s a gigabyte in pages of 4 KiB), so freed
//! memory stays, in pieces of any size, as long as all of it together takes no more than ever was in
//! use at once.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use memmap2::{MmapMut, MmapRaw};

/// From this size on, memory is a piece of the pool's.
const MAPPED: usize = 1 << 20;

/// The most bytes that a slice may have, and a huge page less.
const MOST: usize = isize::MAX as usize - HUGE_PAGE;

/// Bytes that may be kept in any case: a small network's maps of all sizes, not only its peak.
const FLOOR: usize = 256 << 20;

/// Pieces are multiples of it.
const UNIT: usize = 1 << 16;

/// The size of a huge page on x86-64 and aarch64.
const HUGE_PAGE: usize = 1 << 21;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

enum Memory {
    Lines(Vec<Line>),
    Piece(Piece),
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
            Memory::Piece(POOL.lock().unwrap_or_else(PoisonError::into_inner).take(bytes))
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
            Memory::Piece(piece) => piece.start.as_ptr().cast_const().cast(),
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
            Memory::Piece(piece) => piece.start.as_ptr().cast(),
        };
        // SAFETY: as in `deref`, and `self` is borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.memory, Memory::Lines(Vec::new())) {
            Memory::Piece(piece) => {
                POOL.lock().unwrap_or_else(PoisonError::into_inner).give(piece);
            }
            Memory::Lines(lines) => {
                SMALL.lock().unwrap_or_else(PoisonError::into_inner).give(lines);
            }
        }
    }
}

/// Gives pooled memory that no buffer uses back to the system, at most `bytes` and as whole chunks,
/// the longest unused first, and says how much. It is for who is about to take as much elsewhere, so
/// that the process grows no further; buffers will ask the system for it again.
pub fn release(bytes: usize) -> usize {
    POOL.lock().unwrap_or_else(PoisonError::into_inner).release(bytes)
}

/// Lines, 64 bytes each, from which on memory is kept rather than given back to the allocator, and
/// how many of them are kept: what a network takes for a single image.
const KEPT: Range<usize> = 64..(16 << 20) / 64;

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
    Mutex::new(Pool { chunks: Vec::new(), next: 0, mapped: 0, used: 0, most: FLOOR });

/// Consecutive bytes of a chunk. Whoever holds it owns them.
struct Piece {
    start: NonNull<u8>,
    len: usize,
    /// The chunk's number, and where the piece begins in it.
    chunk: u64,
    offset: usize,
}

// SAFETY: a piece's bytes are its owner's alone, like a box's.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

/// Memory of the system's, cut into pieces as needed.
struct Chunk {
    number: u64,
    map: MmapRaw,
    /// What is free, in order, never side by side.
    free: Vec<Range<usize>>,
}

impl Chunk {
    fn is_free(&self) -> bool {
        matches!(&self.free[..], [all] if all.len() == self.map.len())
    }

    /// The first `bytes` of the free range `i`.
    fn cut(&mut self, i: usize, bytes: usize) -> Piece {
        let offset = self.free[i].start;
        self.free[i].start += bytes;
        if self.free[i].is_empty() {
            self.free.remove(i);
        }
        let start = NonNull::new(self.map.as_mut_ptr().wrapping_add(offset));
        let Some(start) = start else { unreachable!("a map at address 0") };
        Piece { start, len: bytes, chunk: self.number, offset }
    }

    fn join(&mut self, offset: usize, bytes: usize) {
        let i = self.free.partition_point(|range| range.start < offset);
        self.free.insert(i, offset..offset + bytes);
        if self.free.get(i + 1).is_some_and(|next| next.start == offset + bytes) {
            self.free[i].end = self.free.remove(i + 1).end;
        }
        if i > 0 && self.free[i - 1].end == offset {
            self.free[i - 1].end = self.free.remove(i).end;
        }
    }
}

/// Chunks, the longest unused first.
struct Pool {
    chunks: Vec<Chunk>,
    /// The next chunk's number.
    next: u64,
    /// Bytes of all chunks.
    mapped: usize,
    /// Bytes in use, and the most that ever were, if not less than [`FLOOR`].
    used: usize,
    most: usize,
}

impl Pool {
    /// At least `bytes`: of the smallest free range that has them, or of a new chunk.
    fn take(&mut self, bytes: usize) -> Piece {
        let bytes = bytes.next_multiple_of(UNIT);
        let ranges = self.chunks.iter().enumerate().flat_map(|(c, chunk)| {
            let ranges = chunk.free.iter().enumerate();
            ranges.filter(|(_, free)| free.len() >= bytes).map(move |(i, free)| (free.len(), c, i))
        });
        let (chunk, range) = match ranges.min() {
            Some((_, chunk, range)) => (chunk, range),
            None => (self.add(bytes), 0),
        };
        self.used += bytes;
        self.most = self.most.max(self.used);
        self.chunks[chunk].cut(range, bytes)
    }

    fn give(&mut self, piece: Piece) {
        self.used -= piece.len;
        let at = self.chunks.iter().position(|chunk| chunk.number == piece.chunk);
        let Some(at) = at else { unreachable!("a chunk stays as long as its pieces") };
        self.chunks[at].join(piece.offset, piece.len);
        if self.chunks[at].is_free() {
            // The last to be used.
            self.chunks[at..].rotate_left(1);
        }
    }

    /// Unmaps free chunks of at most `bytes` together.
    fn release(&mut self, bytes: usize) -> usize {
        let before = self.mapped;
        let fits =
            |chunk: &Chunk, released: usize| chunk.is_free() && chunk.map.len() <= bytes - released;
        while let Some(at) = self.chunks.iter().position(|c| fits(c, before - self.mapped)) {
            self.mapped -= self.chunks.remove(at).map.len();
        }
        before - self.mapped
    }

    /// Maps a chunk for `bytes`. Chunks of which nothing is used go, the longest unused first, as
    /// long as all together are more than was ever in use at once, so that keeping them costs no
    /// memory at the peak.
    fn add(&mut self, bytes: usize) -> usize {
        let bytes = bytes.next_multiple_of(HUGE_PAGE);
        while self.mapped + bytes > self.most
            && let Some(at) = self.chunks.iter().position(Chunk::is_free)
        {
            self.mapped -= self.chunks.remove(at).map.len();
        }
        let chunk = Chunk {
            number: self.next,
            map: new_map(bytes),
            free: std::iter::once(0..bytes).collect(),
        };
        self.next += 1;
        self.mapped += bytes;
        self.chunks.push(chunk);
        self.chunks.len() - 1
    }
}

fn new_map(bytes: usize) -> MmapRaw {
    let map = MmapMut::map_anon(bytes)
        .unwrap_or_else(|error| panic!("no memory for {bytes} bytes of activations: {error}"));
    // Advice: a system without huge pages goes on with small ones.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    map.into()
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
    fn the_pool_reuses_pieces_within_the_peak() {
        let mut pool = Pool { chunks: Vec::new(), next: 0, mapped: 0, used: 0, most: 0 };
        let pieces: Vec<_> = (0..8).map(|_| pool.take(HUGE_PAGE)).collect();
        assert_eq!(
            (pool.mapped, pool.used, pool.most),
            (8 * HUGE_PAGE, 8 * HUGE_PAGE, 8 * HUGE_PAGE)
        );
        pieces.into_iter().for_each(|piece| pool.give(piece));
        assert_eq!((pool.mapped, pool.used, pool.chunks.len()), (8 * HUGE_PAGE, 0, 8));
        // A piece of one of them, and its rest.
        let half = pool.take(HUGE_PAGE / 2 - 100);
        let rest = pool.take(HUGE_PAGE / 2);
        assert_eq!((half.chunk, rest.chunk, rest.offset), (rest.chunk, half.chunk, HUGE_PAGE / 2));
        assert_eq!((pool.mapped, pool.used), (8 * HUGE_PAGE, HUGE_PAGE));
        // Nothing fits: as many free chunks go as the new one needs.
        let other = pool.take(4 * HUGE_PAGE);
        assert_eq!((pool.mapped, pool.used, pool.chunks.len()), (8 * HUGE_PAGE, 5 * HUGE_PAGE, 5));
        // Neighbours become one again.
        pool.give(half);
        pool.give(other);
        let third = pool.take(HUGE_PAGE);
        pool.give(rest);
        pool.give(third);
        assert!(pool.chunks.iter().all(Chunk::is_free));
        assert_eq!((pool.mapped, pool.used, pool.most), (8 * HUGE_PAGE, 0, 8 * HUGE_PAGE));
    }

    #[test]
    fn free_chunks_are_released_and_mapped_again() {
        let mut pool = Pool { chunks: Vec::new(), next: 0, mapped: 0, used: 0, most: 0 };
        let pieces = [1, 4, 2].map(|pages| pool.take(pages * HUGE_PAGE));
        assert_eq!(pool.release(usize::MAX), 0, "all are in use");
        let [one, four, two] = pieces;
        pool.give(one);
        pool.give(four);
        assert_eq!(pool.release(HUGE_PAGE - 1), 0);
        assert_eq!(pool.release(4 * HUGE_PAGE), HUGE_PAGE, "the longest unused, then what fits");
        assert_eq!(pool.release(4 * HUGE_PAGE), 4 * HUGE_PAGE);
        assert_eq!(
            (pool.mapped, pool.used, pool.most),
            (2 * HUGE_PAGE, 2 * HUGE_PAGE, 7 * HUGE_PAGE)
        );
        let again = pool.take(5 * HUGE_PAGE);
        assert_eq!((pool.mapped, pool.chunks.len()), (7 * HUGE_PAGE, 2));
        pool.give(again);
        pool.give(two);
    }

    #[test]
    fn pieces_of_a_chunk_do_not_overlap() {
        let mut buffers: Vec<Buffer> =
            (0..40).map(|i| Buffer::stale((MAPPED + i * 70_000) / 4)).collect();
        for round in 0..5 {
            for (i, buffer) in buffers.iter_mut().enumerate() {
                buffer.fill(i as f32);
            }
            for (i, buffer) in buffers.iter().enumerate() {
                assert!(buffer.iter().all(|v| *v == i as f32));
            }
            for i in (round % 3..40).step_by(3) {
                buffers[i] = Buffer::stale((MAPPED + (i * 7 + round) * 90_000) / 4);
            }
        }
    }
}
