//! Weights in panels: `[depth][vectors * lanes]` for each run of a product's output channels.
//!
//! A product's depth runs over the kernel's taps and, within each, over the channels that it sums.

use super::ConvShape;
use crate::buffer::Buffer;
use crate::simd::Isa;
use crate::threads::{Shared, parallel};
use crate::tile::{Panel, panels};

/// Fewer weights than these are packed on the calling thread.
const FEW: usize = 1 << 15;

/// The panels of all groups, with offsets for a depth of one, and the columns that they fill.
pub(super) fn grouped_panels(isa: Isa, channels: usize, groups: usize) -> (Vec<Panel>, usize) {
    let per_group = channels / groups;
    let (of_group, columns) = panels(isa, per_group, 1);
    let all = (0..groups).flat_map(|g| {
        of_group.iter().map(move |p| Panel {
            start: g * per_group + p.start,
            offset: g * columns + p.offset,
            ..*p
        })
    });
    (all.collect(), groups * columns)
}

/// Packs `weight`, `[o, c / groups, kh, kw]`, for the convolution: panels of output channels, the
/// depth over `kh`, `kw` and the group's input channels.
pub(super) fn pack(isa: Isa, shape: &ConvShape, weight: &[f32]) -> (Vec<Panel>, Buffer) {
    let (panels, columns) = grouped_panels(isa, shape.out_channels, shape.groups);
    let taps = shape.kernel[0] * shape.kernel[1];
    let depth = taps * (shape.channels / shape.groups);
    let mut packed = Buffer::stale(columns * depth);
    let to = Shared::new(&mut packed);
    for_each_task(weight.len(), panels.len(), |i| {
        let panel = &panels[i];
        let width = panel.vectors * isa.lanes();
        // SAFETY: panels lie one behind the other, so that each task has its part of `packed`.
        let to = unsafe {
            std::slice::from_raw_parts_mut(to.ptr().add(panel.offset * depth), width * depth)
        };
        transpose(&weight[panel.start * depth..][..panel.width * depth], taps, width, to);
    });
    (panels, packed)
}

/// `[o][c][tap]` to `[tap][c][width]`, in blocks that turn whole cache lines into whole cache lines.
fn transpose(weight: &[f32], taps: usize, width: usize, to: &mut [f32]) {
    let depth = to.len() / width;
    let channels = depth / taps;
    let outputs = weight.len() / depth;
    for (o0, q0) in (0..width).step_by(16).flat_map(|o| (0..depth).step_by(16).map(move |q| (o, q)))
    {
        let mut block = [[0.0; 16]; 16];
        let (columns, rows) = (16.min(width - o0), 16.min(depth - q0));
        for o in 0..16.min(outputs.saturating_sub(o0)) {
            let from = &weight[(o0 + o) * depth + q0..][..rows];
            for (row, v) in block.iter_mut().zip(from) {
                row[o] = *v;
            }
        }
        let (mut c, mut tap) = (q0 / taps, q0 % taps);
        for row in &block[..rows] {
            to[(tap * channels + c) * width + o0..][..columns].copy_from_slice(&row[..columns]);
            tap += 1;
            (c, tap) = if tap == taps { (c + 1, 0) } else { (c, tap) };
        }
    }
}

/// Packs `weight` for the gradient: panels of input channels, for each phase the depth over its
/// taps (numbers in `kh * kw`) and the group's output channels. Phases lie one behind the other;
/// each takes `columns * taps * o / groups` values.
pub(super) fn pack_transposed(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    phases: &[Vec<usize>],
) -> (Vec<Panel>, usize, Buffer) {
    let (panels, columns) = grouped_panels(isa, shape.channels, shape.groups);
    let (c_group, o_group) = (shape.channels / shape.groups, shape.out_channels / shape.groups);
    let taps = shape.kernel[0] * shape.kernel[1];
    let of_phase = |taps: &Vec<usize>| columns * taps.len() * o_group;
    let mut packed = Buffer::stale(phases.iter().map(of_phase).sum());
    let to = Shared::new(&mut packed);
    for_each_task(weight.len(), panels.len(), |i| {
        let panel = &panels[i];
        let width = panel.vectors * isa.lanes();
        let (group, first) = (panel.start / c_group, panel.start % c_group);
        let mut phase_at = 0;
        for phase in phases {
            let depth = phase.len() * o_group;
            let at = phase_at + panel.offset * depth;
            // SAFETY: in each phase panels lie one behind the other.
            let to = unsafe { std::slice::from_raw_parts_mut(to.ptr().add(at), width * depth) };
            for o in 0..o_group {
                let from = ((group * o_group + o) * c_group + first) * taps;
                let from = &weight[from..][..panel.width * taps];
                for (t, tap) in phase.iter().enumerate() {
                    let (row, beyond) =
                        to[(t * o_group + o) * width..][..width].split_at_mut(panel.width);
                    row.iter_mut()
                        .zip(from[*tap..].iter().step_by(taps))
                        .for_each(|(r, v)| *r = *v);
                    beyond.fill(0.0);
                }
            }
            phase_at += of_phase(phase);
        }
    });
    (panels, columns, packed)
}

fn for_each_task(weights: usize, count: usize, run: impl Fn(usize) + Sync) {
    if weights < FEW { (0..count).for_each(run) } else { parallel(count, run) }
}
