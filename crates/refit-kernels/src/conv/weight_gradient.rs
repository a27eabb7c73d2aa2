//! The gradient of a convolution with respect to its weights: a matrix product whose depth is the
//! pixels.
//!
//! Tasks take some of the output channels, and if these make too few tasks, some of the pixels. A
//! task goes through its pixels in units that stay in the second-level cache, and adds each to sums
//! of its own, `[taps, c / groups, output channels]` by panels. In the end the sums of parts are
//! folded and transposed.

pub(crate) mod tile;
mod window;

use self::tile::{PixelRun, SumTile, fold, pack, run_sum_tile};
use self::window::Windows;
use super::forward::entered;
use super::{ConvShape, Entry};
use crate::linear::Linear;
use crate::rows::needed;
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Ahead, Panel, cut, panels};
use crate::{depthwise, winograd};

/// `dw`, `[o, c / groups, kh, kw]`, from the input (before its entry) and the output's gradient.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn weight_gradient(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    dy: &[f32],
    dw: &mut [f32],
) {
    if shape.is_depthwise() {
        return depthwise::weight_gradient(shape, x, entry, dy, dw);
    }
    let isa = Isa::widest();
    if shape.batch > 0 && winograd::pays_for_weights(shape) {
        return winograd::weight_gradient(isa, shape, x, entry, dy, dw);
    }
    if let Some(linear) = Linear::of(isa, shape) {
        return linear.weight_gradient(&entered(shape, x, entry), dy, dw);
    }
    sum_directly(isa, shape, x, entry, dy, dw);
}

fn sum_directly(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    dy: &[f32],
    dw: &mut [f32],
) {
    assert_eq!(x.len(), shape.input_len(), "weight_gradient: length of `x`");
    assert_eq!(dy.len(), shape.output_len(), "weight_gradient: length of `dy`");
    assert_eq!(dw.len(), shape.weight_len(), "weight_gradient: length of `dw`");
    if let Some(entry) = entry {
        assert_eq!(entry.scale.len(), shape.channels, "weight_gradient: length of the scale");
        assert_eq!(entry.shift.len(), shape.channels, "weight_gradient: length of the shift");
    }
    let product = Product::new(isa, shape, x, needed(entry), dy);
    with_scratch(product.parts * product.sums_len(), |sums| {
        product.sum(sums);
        product.finish(sums, dw);
    });
}

/// Tasks wanted at least.
const TASKS: usize = 8;

/// Bytes of a task's sums: they stay in the second-level cache, and the more panels share a window,
/// the less is copied.
const SHARE_BYTES: usize = 512 << 10;

/// Output channels and depth from which it pays to copy a panel of the gradient together.
const PACKED: usize = 128;

/// The product for one call.
struct Product<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    dy: &'a [f32],
    windows: Windows<'a>,
    /// Channels of the input in a group.
    in_group: usize,
    /// Panels of a group, and values in its sums.
    panels: Vec<Panel>,
    group_len: usize,
    /// Panels that a task takes.
    share: usize,
    /// Parts that the units are cut into.
    parts: usize,
}

impl<'a> Product<'a> {
    fn new(
        isa: Isa,
        shape: &'a ConvShape,
        x: &'a [f32],
        entry: Option<Entry<'a>>,
        dy: &'a [f32],
    ) -> Self {
        let in_group = shape.channels / shape.groups;
        let depth = shape.kernel[0] * shape.kernel[1] * in_group;
        let (panels, group_len) = panels(isa, shape.out_channels / shape.groups, depth);
        let share = SHARE_BYTES / (depth * 2 * isa.lanes() * size_of::<f32>());
        let share = panels.len().div_ceil(panels.len().div_ceil(share.max(2)));
        let out_channels = share * 2 * isa.lanes();
        let windows = Windows::new(isa, shape, x, entry, out_channels, isa.tile_rows(2));
        let tasks = shape.groups * panels.len().div_ceil(share);
        let parts = TASKS.div_ceil(tasks).clamp(1, windows.count().max(1));
        Self { isa, shape, dy, windows, in_group, panels, group_len, share, parts }
    }

    /// Values of a part's sums.
    fn sums_len(&self) -> usize {
        self.shape.groups * self.group_len
    }

    /// Values of a panel's sums.
    fn panel_len(&self, panel: &Panel) -> usize {
        self.depth() * panel.vectors * self.isa.lanes()
    }

    fn depth(&self) -> usize {
        self.shape.kernel[0] * self.shape.kernel[1] * self.in_group
    }

    /// Fills every part's sums.
    fn sum(&self, sums: &mut [f32]) {
        let (groups, shares) = (self.shape.groups, self.panels.len().div_ceil(self.share));
        let shared = Shared::new(sums);
        parallel(self.parts * groups * shares, |task| {
            let (part, group) = (task / shares / groups, task / shares % groups);
            let first = task % shares * self.share;
            let panels = &self.panels[first..(first + self.share).min(self.panels.len())];
            let start = part * self.sums_len() + group * self.group_len + panels[0].offset;
            let len = panels.iter().map(|panel| self.panel_len(panel)).sum();
            // SAFETY: no other task has these panels of this group and part.
            let sums = unsafe { std::slice::from_raw_parts_mut(shared.ptr().add(start), len) };
            sums.fill(0.0);
            self.task(part, group, panels, sums);
        });
    }

    /// Adds all units of a part to the sums of some panels.
    fn task(&self, part: usize, group: usize, panels: &[Panel], sums: &mut [f32]) {
        let count = self.windows.count();
        let widest = panels.iter().map(|p| p.vectors).max().unwrap_or(1) * self.isa.lanes();
        let window = self.windows.len().next_multiple_of(16);
        with_scratch(window + self.windows.unit_pixels() * widest, |scratch| {
            let (window, packed) = scratch.split_at_mut(window);
            let window = &mut window[..self.windows.len()];
            // Margins are not written again, so that they stay zero.
            window.fill(0.0);
            let mut runs = Vec::new();
            for unit in part * count / self.parts..(part + 1) * count / self.parts {
                self.windows.load(unit, group, window, &mut runs);
                let mut at = 0;
                for panel in panels {
                    let sums = &mut sums[at..at + self.panel_len(panel)];
                    self.add_panel(window, &runs, group, panel, packed, sums);
                    at += sums.len();
                }
            }
        });
    }

    /// Adds a unit to the sums of a panel.
    fn add_panel(
        &self,
        window: &[f32],
        runs: &[PixelRun],
        group: usize,
        panel: &Panel,
        packed: &mut [f32],
        sums: &mut [f32],
    ) {
        let stride = self.shape.out_channels;
        let padded = panel.vectors * self.isa.lanes();
        let dy = self.dy[group * (stride / self.shape.groups) + panel.start..].as_ptr();
        if panel.width == padded && (stride < PACKED || self.depth() < PACKED) {
            return self.add_tiles(window, runs, (dy, stride), padded, sums);
        }
        // SAFETY: runs lie in `dy`, and `packed` holds a unit's pixels.
        unsafe { pack(self.isa, runs, dy, stride, packed.as_mut_ptr(), panel.width, padded) };
        let mut next = 0;
        let place = |run: &PixelRun| {
            next += run.len;
            PixelRun { dy: next - run.len, ..*run }
        };
        let runs: Vec<PixelRun> = runs.iter().map(place).collect();
        self.add_tiles(window, &runs, (packed.as_ptr(), padded), padded, sums);
    }

    /// Adds all tiles of a panel of `width` channels; `dy` is its first value and the distance
    /// between pixels.
    fn add_tiles(
        &self,
        window: &[f32],
        runs: &[PixelRun],
        (dy, dy_stride): (*const f32, usize),
        width: usize,
        sums: &mut [f32],
    ) {
        let vectors = width / self.isa.lanes();
        for &(first, channels) in &self.windows.blocks {
            let block = &window[first * self.windows.pixels()..];
            for (offset, depth, len) in self.channel_runs(channels) {
                for (start, rows) in cut(len, self.isa.tile_rows(vectors)) {
                    let tile = SumTile {
                        runs,
                        x: block[offset + start..].as_ptr(),
                        x_stride: channels,
                        x_step: self.windows.step(),
                        dy,
                        dy_stride,
                        sums: sums[(depth + first + start) * width..].as_mut_ptr(),
                        goes_on: true,
                        ahead: Ahead::NOTHING,
                    };
                    // SAFETY: the block holds every tap of the runs' pixels, `sums` the panel.
                    unsafe { run_sum_tile(self.isa, rows, vectors, &tile) };
                }
            }
        }
    }

    /// Runs of neighbouring values in a block of so many channels: where they lie from a pixel's
    /// first tap on, the first one's index in the depth, and how many they are. If all channels are
    /// one block and taps neighbours, a row of the kernel is one run.
    fn channel_runs(&self, channels: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let ConvShape { kernel: [kh, kw], dilation, .. } = *self.shape;
        let c = self.in_group;
        let whole = channels == c && dilation[1] == 1;
        let (taps, len) = if whole { (1, kw * c) } else { (kw, channels) };
        let row = self.windows.width() * dilation[0];
        (0..kh).flat_map(move |ky| {
            (0..taps)
                .map(move |kx| ((ky * row + kx * dilation[1]) * channels, (ky * kw + kx) * c, len))
        })
    }

    /// Folds the parts' sums and transposes them to `[o, c / groups, kh, kw]`.
    fn finish(&self, sums: &[f32], dw: &mut [f32]) {
        let shared = Shared::new(dw);
        parallel(self.shape.groups * self.panels.len(), |task| {
            let (group, panel) = (task / self.panels.len(), &self.panels[task % self.panels.len()]);
            let first = group * (self.shape.out_channels / self.shape.groups) + panel.start;
            // SAFETY: no other task has these output channels.
            let dw = unsafe {
                let first = shared.ptr().add(first * self.depth());
                std::slice::from_raw_parts_mut(first, panel.width * self.depth())
            };
            self.finish_panel(&sums[group * self.group_len + panel.offset..], panel, dw);
        });
    }

    /// A block of input channels at a time, which stays in the first-level cache.
    fn finish_panel(&self, sums: &[f32], panel: &Panel, dw: &mut [f32]) {
        let taps = self.shape.kernel[0] * self.shape.kernel[1];
        let width = panel.vectors * self.isa.lanes();
        let (c, most) = (self.in_group, (4096 / (taps * width)).max(1));
        with_scratch(taps * most.min(c) * width, |block| {
            for (first, channels) in cut(c, most) {
                for tap in 0..taps {
                    let from = sums[(tap * c + first) * width..].as_ptr();
                    let to = block[tap * channels * width..][..channels * width].as_mut_ptr();
                    let len = channels * width;
                    // SAFETY: every part's sums hold the panel, `block` the block's channels.
                    unsafe { fold(self.isa, from, self.parts, self.sums_len(), to, len) };
                }
                for (o, dw) in dw.chunks_exact_mut(c * taps).enumerate() {
                    let dw = &mut dw[first * taps..][..channels * taps];
                    for (i, dw) in dw.chunks_exact_mut(taps).enumerate() {
                        for (tap, dw) in dw.iter_mut().enumerate() {
                            *dw = block[(tap * channels + i) * width + o];
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::conv::reference;
    use crate::depthwise::tests::{Data, assert_close, on_threads};

    fn check_shape(shape: &ConvShape) {
        let data = Data::new(shape);
        let entry = Entry { activation: Activation::Relu6, ..data.entry() };
        for entry in [None, Some(entry)] {
            let want = reference::weight_gradient(shape, &data.x, entry, &data.dy);
            for isa in Isa::available() {
                let mut dw = vec![f32::NAN; want.len()];
                sum_directly(isa, shape, &data.x, entry, &data.dy, &mut dw);
                assert_close(&dw, &want, &format!("{isa:?} {} {shape:?}", entry.is_some()));
            }
        }
    }

    #[test]
    fn weight_gradients_equal_their_definition() {
        let channels =
            [(1, 1), (3, 16), (16, 5), (17, 33), (31, 48), (33, 3), (48, 100), (100, 17)];
        let grouped = [(6, 9, 3), (32, 64, 2), (34, 34, 17)];
        let kernels = [[1, 1], [3, 3], [2, 5], [7, 7], [1, 3]];
        let paddings = [[(0, 0), (0, 0)], [(1, 1), (1, 1)], [(0, 2), (3, 0)], [(3, 4), (5, 3)]];
        let all = channels.into_iter().map(|(c, o)| (c, o, 1)).chain(grouped);
        for (i, (c, o, groups)) in all.enumerate() {
            for (j, kernel) in kernels.into_iter().enumerate() {
                let pick = i * kernels.len() + j;
                let stride = [[1, 1], [2, 2], [1, 3]][pick / 2 % 3];
                let shape = ConvShape {
                    batch: 1 + pick % 3,
                    height: [9, 15, 8][pick % 3],
                    width: [16, 9, 11][pick / 3 % 3],
                    channels: c,
                    out_channels: o,
                    kernel,
                    stride,
                    padding: paddings[pick % 4],
                    dilation: if kernel == [7, 7] {
                        [1, 1]
                    } else {
                        [[1, 1], [1, 1], [2, 2]][pick % 3]
                    },
                    groups,
                };
                check_shape(&shape);
            }
        }
    }

    fn shape(batch: usize, size: usize, channels: usize, kernel: usize) -> ConvShape {
        ConvShape {
            batch,
            height: size,
            width: size,
            channels,
            out_channels: channels + 7,
            kernel: [kernel; 2],
            stride: [1, 1],
            padding: [(kernel / 2, kernel / 2); 2],
            dilation: [1, 1],
            groups: 1,
        }
    }

    #[test]
    fn several_units_and_parts_make_one_sum() {
        check_shape(&shape(9, 7, 20, 3));
        check_shape(&shape(2, 33, 5, 3));
        check_shape(&shape(3, 20, 9, 1));
    }

    #[test]
    fn threads_change_no_bit() {
        for shape in [shape(3, 19, 40, 3), shape(3, 19, 40, 1)] {
            let data = Data::new(&shape);
            let results = on_threads(|| {
                let mut dw = vec![f32::NAN; data.weight.len()];
                let entry = Some(data.entry());
                sum_directly(Isa::widest(), &shape, &data.x, entry, &data.dy, &mut dw);
                dw
            });
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }

    #[test]
    fn no_images_make_no_gradient() {
        let shape = shape(0, 8, 40, 3);
        let mut dw = vec![f32::NAN; shape.weight_len()];
        weight_gradient(&shape, &[], None, &[], &mut dw);
        assert!(dw.iter().all(|v| *v == 0.0));
    }

    #[test]
    #[should_panic(expected = "length of `dy`")]
    fn lengths_must_fit() {
        let shape = shape(1, 5, 3, 3);
        weight_gradient(&shape, &vec![0.0; shape.input_len()], None, &[], &mut []);
    }
}
