//! Plain Rust.

use super::{Block, Into, Leaving, Settling, TILE};
use crate::bf16::{from_f32, to_f32};

/// As [`Block::compute`].
///
/// # Safety
/// As there.
pub(super) unsafe fn block(block: &Block) {
    let [rows, columns] = block.tiles;
    let tile = TILE * block.depth;
    for (i, j) in (0..rows * TILE).flat_map(|i| (0..columns * TILE).map(move |j| (i, j))) {
        let mut sum = 0.0f32;
        for (s, step) in block.steps.iter().enumerate() {
            let b = block.b.wrapping_add((s * columns + j / TILE) * tile + 2 * (j % TILE));
            for k in 0..block.depth {
                // SAFETY: by the caller's word.
                let (a, b) = unsafe {
                    (*block.a.add(i * block.stride + step + k), *b.add(k / 2 * 2 * TILE + k % 2))
                };
                sum += to_f32(a) * to_f32(b);
            }
        }
        // SAFETY: by the caller's word.
        unsafe { *block.c.add(i * 2 * TILE + j) = sum };
    }
}

/// As [`Leaving::write`].
///
/// # Safety
/// As there.
pub(super) unsafe fn leave(l: &Leaving) {
    for (p, i) in (0..l.pixels).flat_map(|p| (0..l.n).map(move |i| (p, i))) {
        // SAFETY: by the caller's word.
        unsafe {
            let mut v = *l.c.add(p * 2 * TILE + i) + *l.shift.add(i);
            if !l.residual.is_null() {
                v += to_f32(*l.residual.add(p * l.stride + i));
            }
            v = clamp(v, l.low, l.high);
            *l.y.add(p * l.stride + i) = from_f32(v);
        }
    }
}

/// Leaves a NaN.
fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v < low { low } else { v };
    if v > high { high } else { v }
}

/// As [`Settling::write`].
///
/// # Safety
/// As there.
pub(super) unsafe fn settle(s: &Settling) {
    for (p, i) in (0..s.pixels).flat_map(|p| (0..s.columns * TILE).map(move |i| (p, i))) {
        let at = p * 2 * TILE + i;
        // SAFETY: by the caller's word.
        unsafe { *s.to.add(at) = clamp(*s.c.add(at) + *s.shift.add(i), s.low, s.high) };
    }
}

/// As [`super::Way::widen`].
pub(super) fn widen_into(from: &[u16], to: &mut [f32], into: Into) {
    for (to, v) in to.iter_mut().zip(from) {
        let v = to_f32(*v);
        match into {
            Into::Set => *to = v,
            Into::Add => *to += v,
            Into::Max => *to = if *to >= v || to.is_nan() { *to } else { v },
        }
    }
}
