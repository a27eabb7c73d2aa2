//! Which instructions multiply, and the blocks they compute.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::sync::OnceLock;

/// Pixels of a tile, and output channels of one.
pub(super) const TILE: usize = 16;

/// How products of `bf16` are summed. The values agree but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Plain Rust: the reference.
    Scalar,
    /// AVX512-BF16: pairs of products in vectors.
    Avx512,
    /// AMX: tiles of 16x32 by 32x16 in one instruction.
    Amx,
}

impl Way {
    /// The fastest this CPU has.
    pub(crate) fn fastest() -> Self {
        static FASTEST: OnceLock<Way> = OnceLock::new();
        let all = [Self::Amx, Self::Avx512];
        *FASTEST.get_or_init(|| all.into_iter().find(|w| w.is_available()).unwrap_or(Self::Scalar))
    }

    /// Whether this CPU has it, and the system lets programs use it.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => avx512::is_available() && amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// All there are, for tests.
    #[cfg(test)]
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        [Self::Scalar, Self::Avx512, Self::Amx].into_iter().filter(|w| w.is_available())
    }

    /// Calls `work`, within which blocks of `depth` values a step may be computed on this thread.
    pub(super) fn with_tiles<R>(self, depth: usize, work: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Amx {
            return amx::with_tiles(depth, work);
        }
        let _ = depth;
        work()
    }
}

/// What becomes of values that are widened into others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// They replace them.
    Set,
    /// They are added.
    Add,
    /// The greater stays; a NaN stays too.
    Max,
}

impl Way {
    /// Widens `from` into `to`.
    pub(super) fn widen(self, from: &[u16], to: &mut [f32], into: Into) {
        assert_eq!(from.len(), to.len(), "bf16: lengths of a row");
        match self {
            // SAFETY: a way that is used is available; both are as long.
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512 => unsafe {
                avx512::widen_into(from.as_ptr(), to.as_mut_ptr(), to.len(), into);
            },
            _ => scalar::widen_into(from, to, into),
        }
    }

    /// Rounds `from` into `to`.
    pub(super) fn narrow(self, from: &[f32], to: &mut [u16]) {
        assert_eq!(from.len(), to.len(), "bf16: lengths of a row");
        match self {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512 => unsafe {
                avx512::narrow(from.as_ptr(), to.as_mut_ptr(), to.len());
            },
            _ => to.iter_mut().zip(from).for_each(|(to, v)| *to = super::from_f32(*v)),
        }
    }
}

/// Up to 32 pixels times up to 32 output channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    /// The first pixel, and values to the next.
    pub a: *const u16,
    pub stride: usize,
    /// Where the values of each step lie, from the pixel's first on.
    pub steps: &'a [usize],
    /// Values of a step, an even number up to 32.
    pub depth: usize,
    /// Weights: for each step and tile of output channels, `[depth / 2][16][2]`.
    pub b: *const u16,
    /// Tiles of pixels and of output channels, one or two.
    pub tiles: [usize; 2],
    /// Sums, `[32][32]`.
    pub c: *mut f32,
}

impl Block<'_> {
    /// Computes the sums.
    ///
    /// # Safety
    /// The CPU has `way`, and this is called within [`Way::with_tiles`]; pointers are valid for the
    /// block's extent.
    pub(super) unsafe fn compute(&self, way: Way) {
        // SAFETY: by the caller's word.
        unsafe {
            match way {
                #[cfg(target_arch = "x86_64")]
                Way::Amx => amx::block(self),
                #[cfg(target_arch = "x86_64")]
                Way::Avx512 => avx512::block(self),
                _ => scalar::block(self),
            }
        }
    }
}

/// Sums that are finished and written: of `pixels` neighbouring pixels, the first `n <= 32` channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// Sums, 32 a pixel.
    pub c: *const f32,
    pub pixels: usize,
    pub n: usize,
    /// One summand a channel.
    pub shift: *const f32,
    /// Null, or the residual of the first pixel.
    pub residual: *const u16,
    pub low: f32,
    pub high: f32,
    /// The output of the first pixel, and values to the next (the residual's too).
    pub y: *mut u16,
    pub stride: usize,
    /// Whether whole panels pass by the caches; pixels lie on cache lines then.
    pub streams: bool,
}

impl Leaving {
    /// Writes `clamp(sum + shift + residual)`, rounded.
    ///
    /// # Safety
    /// The CPU has `way`; `c` holds 32 values a pixel, the other pointers are valid for `n`.
    pub(super) unsafe fn write(&self, way: Way) {
        // SAFETY: by the caller's word.
        unsafe {
            match way {
                #[cfg(target_arch = "x86_64")]
                Way::Amx | Way::Avx512 => avx512::leave(self),
                _ => scalar::leave(self),
            }
        }
    }
}

/// Sums that are finished and kept: of neighbouring pixels, whole tiles of channels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settling {
    /// Sums, 32 a pixel.
    pub c: *const f32,
    pub pixels: usize,
    /// Tiles of channels, one or two.
    pub columns: usize,
    /// One summand a channel.
    pub shift: *const f32,
    pub low: f32,
    pub high: f32,
    /// 32 values a pixel.
    pub to: *mut f32,
}

impl Settling {
    /// Writes `clamp(sum + shift)`.
    ///
    /// # Safety
    /// The CPU has `way`; the pointers are valid for whole tiles of all pixels.
    #[inline]
    pub(super) unsafe fn write(&self, way: Way) {
        // SAFETY: by the caller's word.
        unsafe {
            match way {
                #[cfg(target_arch = "x86_64")]
                Way::Amx | Way::Avx512 => avx512::settle(self),
                _ => scalar::settle(self),
            }
        }
    }
}
