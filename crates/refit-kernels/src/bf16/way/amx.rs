//! AMX. Rust has no intrinsics for it yet, hence assembly.

use std::arch::asm;

use super::{Block, TILE};

/// Whether the CPU has AMX for `bf16`, and the system lets this process use its registers.
#[cfg(target_os = "linux")]
pub(super) fn is_available() -> bool {
    use std::arch::x86_64::__cpuid_count;
    /// `arch_prctl`, and its request for the tiles' state.
    const ARCH_PRCTL: usize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    const FEATURES: u32 = 1 << 22 | 1 << 24;
    if __cpuid_count(0, 0).eax < 7 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    let refused: isize;
    // SAFETY: the call grants this process the use of registers; it touches no memory of ours. The
    // kernel overwrites `rcx` and `r11`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => refused,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    refused == 0
}

/// Other systems ask in other ways.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_available() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, of each tile.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Calls `work` with tiles 0 to 3 for sums, 4 and 5 for pixels, 6 and 7 for weights.
pub(super) fn with_tiles<R>(depth: usize, work: impl FnOnce() -> R) -> R {
    /// Frees the tiles, also if `work` panics: their state would be saved at every switch.
    struct Release;
    impl Drop for Release {
        fn drop(&mut self) {
            // SAFETY: only called where tiles were configured.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    row_bytes[..8].fill(64);
    rows[..6].fill(TILE as u8);
    row_bytes[4..6].fill(2 * depth as u16);
    rows[6..8].fill(depth as u8 / 2);
    let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
    // SAFETY: `is_available` saw AMX; the configuration is valid for palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
    let _release = Release;
    work()
}

/// As [`Block::compute`].
///
/// # Safety
/// As there.
#[inline]
pub(super) unsafe fn block(block: &Block) {
    // SAFETY: by the caller's word.
    unsafe {
        match block.tiles {
            [1, 1] => one_by_one(block),
            [1, _] => one_by_two(block),
            [_, 1] => two_by_one(block),
            _ => two_by_two(block),
        }
    }
}

/// Defines a kernel from its assembly: zeroing, a step, stores.
macro_rules! kernel {
    ($name:ident, $zero:literal, [$($step:literal),*], [$($store:literal),*]) => {
        /// # Safety
        /// As [`block`].
        unsafe fn $name(block: &Block) {
            // SAFETY: the steps' pixels and weights, and the sums, lie where the block says; tiles
            // are configured.
            unsafe {
                asm!(
                    $zero,
                    "2:",
                    "mov {at}, [{steps}]",
                    "lea {at}, [{a} + 2*{at}]",
                    $($step,)*
                    // The last tile's weights, for kernels of two; `second` is not used by all.
                    "add {b}, {tile} # {second}",
                    "add {steps}, 8",
                    "cmp {steps}, {end}",
                    "jne 2b",
                    "mov {at:e}, 128",
                    $($store,)*
                    at = out(reg) _,
                    steps = inout(reg) block.steps.as_ptr() => _,
                    end = in(reg) block.steps.as_ptr_range().end,
                    a = in(reg) block.a,
                    stride = in(reg) 2 * block.stride,
                    second = in(reg) 2 * TILE * block.stride,
                    b = inout(reg) block.b => _,
                    row = in(reg) 64usize,
                    tile = in(reg) 2 * TILE * block.depth,
                    c = in(reg) block.c,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel!(
    one_by_one,
    "tilezero tmm0",
    [
        "tileloadd tmm4, [{at} + {stride}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6"
    ],
    ["tilestored [{c} + {at}], tmm0"]
);
kernel!(
    one_by_two,
    "tilezero tmm0
    tilezero tmm1",
    [
        "tileloadd tmm4, [{at} + {stride}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "add {b}, {tile}",
        "tileloadd tmm7, [{b} + {row}]",
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    ["tilestored [{c} + {at}], tmm0", "tilestored [{c} + {at} + 64], tmm1"]
);
kernel!(
    two_by_one,
    "tilezero tmm0
    tilezero tmm2",
    [
        "tileloadd tmm4, [{at} + {stride}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "add {at}, {second}",
        "tileloadd tmm5, [{at} + {stride}]",
        "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    ["tilestored [{c} + {at}], tmm0", "tilestored [{c} + {at} + 2048], tmm2"]
);
kernel!(
    two_by_two,
    "tilezero tmm0
    tilezero tmm1
    tilezero tmm2
    tilezero tmm3",
    [
        "tileloadd tmm4, [{at} + {stride}]",
        "tileloadd tmm6, [{b} + {row}]",
        "tdpbf16ps tmm0, tmm4, tmm6",
        "add {at}, {second}",
        "tileloadd tmm5, [{at} + {stride}]",
        "tdpbf16ps tmm2, tmm5, tmm6",
        "add {b}, {tile}",
        "tileloadd tmm7, [{b} + {row}]",
        "tdpbf16ps tmm1, tmm4, tmm7",
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{c} + {at}], tmm0",
        "tilestored [{c} + {at} + 64], tmm1",
        "tilestored [{c} + {at} + 2048], tmm2",
        "tilestored [{c} + {at} + 2112], tmm3"
    ]
);
