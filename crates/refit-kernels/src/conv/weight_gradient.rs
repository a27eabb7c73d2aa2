//! The gradient of a convolution with respect to its weights: a matrix product whose depth is the
//! pixels.
//!
//! Tasks take some of the output channels, and if these make too few tasks, some of the pixels. A
//! task goes through its pixels in units that stay in the second-level cache, and adds each to sums
//! of its own, `[taps, c / groups, output channels]` by panels. In the end the sums of parts are
//! folded and transposed.

mod tile;

use self::tile::{PixelRun, SumTile, fold, pack, run_sum_tile};
use super::{ConvShape, Entry};
use crate::depthwise;
use crate::rows::{Source, needed};
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Panel, cut, panels};

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
    weight_gradient_on(Isa::widest(), shape, x, entry, dy, dw);
}

fn weight_gradient_on(
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

/// Bytes of input and gradient in a unit, about half of a second-level cache.
const UNIT_BYTES: usize = 1 << 20;

/// Pixels of a unit at most: a panel's share of the gradient should stay in the first-level cache.
const UNIT_PIXELS: usize = 256;

/// Tasks wanted at least.
const TASKS: usize = 8;

/// How pixels are cut into units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Units {
    /// A 1x1 kernel meets each pixel once, wherever it lies: so many, of all.
    Flat { pixels: usize, total: usize },
    /// Some output rows of some images.
    Rows { images: usize, rows: usize },
}

/// The product for one call.
struct Product<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    x: &'a [f32],
    entry: Option<Entry<'a>>,
    dy: &'a [f32],
    out_size: [usize; 2],
    /// Channels of the input and of the output in a group.
    in_group: usize,
    /// Panels of a group, and values in its sums.
    panels: Vec<Panel>,
    group_len: usize,
    /// Panels that a task takes.
    share: usize,
    units: Units,
    /// Parts that the units are cut into.
    parts: usize,
    /// Whether the input is read where it lies.
    in_place: bool,
}

impl<'a> Product<'a> {
    fn new(
        isa: Isa,
        shape: &'a ConvShape,
        x: &'a [f32],
        entry: Option<Entry<'a>>,
        dy: &'a [f32],
    ) -> Self {
        let (in_group, out_group) =
            (shape.channels / shape.groups, shape.out_channels / shape.groups);
        let depth = shape.kernel[0] * shape.kernel[1] * in_group;
        let (panels, group_len) = panels(isa, out_group, depth);
        let shares = (TASKS / shape.groups).clamp(1, panels.len().div_ceil(2));
        let share = panels.len().div_ceil(shares);
        let in_place = entry.is_none() && shape.padding == [(0, 0); 2];
        let out_size = shape.out_size();
        let units = Units::new(shape, out_size, share * 2 * isa.lanes());
        let mut new = Self {
            isa,
            shape,
            x,
            entry,
            dy,
            out_size,
            in_group,
            panels,
            group_len,
            share,
            units,
            parts: 1,
            in_place,
        };
        let tasks = shape.groups * new.panels.len().div_ceil(share);
        new.parts = TASKS.div_ceil(tasks).clamp(1, new.unit_count().max(1));
        new
    }

    /// Values of a part's sums.
    fn sums_len(&self) -> usize {
        self.shape.groups * self.group_len
    }

    fn unit_count(&self) -> usize {
        match self.units {
            Units::Flat { pixels, total } => total.div_ceil(pixels),
            Units::Rows { images, rows } => {
                self.shape.batch.div_ceil(images) * self.out_size[0].div_ceil(rows)
            }
        }
    }

    /// Fills every part's sums.
    fn sum(&self, sums: &mut [f32]) {
        let shares = self.panels.len().div_ceil(self.share);
        let shared = Shared::new(sums);
        parallel(self.parts * self.shape.groups * shares, |task| {
            let (part, group, share) = (
                task / shares / self.shape.groups,
                task / shares % self.shape.groups,
                task % shares,
            );
            let end = ((share + 1) * self.share).min(self.panels.len());
            let panels = &self.panels[share * self.share..end];
            let (first, last) = (panels[0], panels[panels.len() - 1]);
            let end = last.offset + self.panel_len(&last);
            let start = part * self.sums_len() + group * self.group_len;
            // SAFETY: no other task has these panels of this group and part.
            let sums = unsafe {
                let first = shared.ptr().add(start + first.offset);
                std::slice::from_raw_parts_mut(first, end - panels[0].offset)
            };
            sums.fill(0.0);
            self.task(part, group, panels, sums);
        });
    }

    /// Values of a panel's sums.
    fn panel_len(&self, panel: &Panel) -> usize {
        self.depth() * panel.vectors * self.isa.lanes()
    }

    fn depth(&self) -> usize {
        self.shape.kernel[0] * self.shape.kernel[1] * self.in_group
    }

    /// Adds all units of a part to the sums of some panels.
    fn task(&self, part: usize, group: usize, panels: &[Panel], sums: &mut [f32]) {
        let count = self.unit_count();
        let widest = panels.iter().map(|p| p.vectors).max().unwrap_or(1) * self.isa.lanes();
        let window = if self.in_place { 0 } else { self.window_len() };
        with_scratch(window + self.unit_pixels() * widest, |scratch| {
            let (window, packed) = scratch.split_at_mut(window);
            // Margins are never written, so that they stay zero.
            window.fill(0.0);
            let mut runs = Vec::new();
            for unit in part * count / self.parts..(part + 1) * count / self.parts {
                let start = self.load_unit(unit, window, &mut runs);
                let x = if self.in_place { self.x[start..].as_ptr() } else { window.as_ptr() };
                for panel in panels {
                    let sums =
                        &mut sums[panel.offset - panels[0].offset..][..self.panel_len(panel)];
                    self.add_panel(x, &runs, group, panel, packed, sums);
                }
            }
        });
    }

    /// Adds a unit to the sums of a panel.
    fn add_panel(
        &self,
        x: *const f32,
        runs: &[PixelRun],
        group: usize,
        panel: &Panel,
        packed: &mut [f32],
        sums: &mut [f32],
    ) {
        let shape = self.shape;
        let stride = shape.out_channels;
        let padded = panel.vectors * self.isa.lanes();
        let dy = self.dy[group * (stride / shape.groups) + panel.start..].as_ptr();
        let mut own = Vec::new();
        let (runs, dy, dy_stride) = if panel.width < padded {
            let mut at = 0;
            own.extend(runs.iter().map(|run| {
                at += run.len;
                PixelRun { dy: (at - run.len) * padded, ..*run }
            }));
            // SAFETY: runs lie in `dy`, and `packed` holds a unit's pixels.
            unsafe { pack(self.isa, runs, dy, stride, packed.as_mut_ptr(), panel.width, padded) };
            (&own[..], packed.as_ptr(), padded)
        } else {
            (runs, dy, stride)
        };
        let most = self.isa.tile_rows(panel.vectors);
        for (offset, depth, len) in self.channel_runs(group) {
            for (first, channels) in cut(len, most) {
                let tile = SumTile {
                    runs,
                    x: x.wrapping_add(offset + first),
                    x_stride: self.pixel_stride(),
                    dy,
                    dy_stride,
                    sums: sums[(depth + first) * padded..].as_mut_ptr(),
                };
                // SAFETY: `x` holds every tap of the runs' pixels, `sums` the panel.
                unsafe { run_sum_tile(self.isa, channels, panel.vectors, &tile) };
            }
        }
    }

    /// Runs of neighbouring input channels: where they lie from a pixel's first tap on, the first
    /// one's index in the depth, and how many they are. Without dilation and groups, neighbouring
    /// taps make one run.
    fn channel_runs(&self, group: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let ConvShape { channels, kernel: [kh, kw], dilation, groups, .. } = *self.shape;
        let c = self.in_group;
        let whole = groups == 1 && dilation[1] == 1;
        let (taps, len) = if whole { (1, kw * c) } else { (kw, c) };
        let row = self.row_width() * channels * dilation[0];
        (0..kh).flat_map(move |ky| {
            (0..taps).map(move |kx| {
                let offset = ky * row + kx * dilation[1] * channels + group * c;
                (offset, (ky * kw + kx) * c, len)
            })
        })
    }

    /// Values between neighbouring pixels of a run.
    fn pixel_stride(&self) -> usize {
        self.shape.stride[1] * self.shape.channels
    }

    /// Pixels of a row from which tiles read.
    fn row_width(&self) -> usize {
        let ConvShape { kernel, stride, dilation, width, .. } = *self.shape;
        if self.in_place {
            width
        } else {
            (self.out_size[1] - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1
        }
    }

    /// Rows of an image's window.
    fn window_rows(&self, rows: usize) -> usize {
        let ConvShape { kernel, stride, dilation, .. } = *self.shape;
        (rows - 1) * stride[0] + (kernel[0] - 1) * dilation[0] + 1
    }

    /// Values of a unit's window.
    fn window_len(&self) -> usize {
        match self.units {
            Units::Flat { pixels, .. } => pixels * self.shape.channels,
            Units::Rows { images, rows } => {
                images * self.window_rows(rows) * self.row_width() * self.shape.channels
            }
        }
    }

    /// Pixels of a unit at most.
    fn unit_pixels(&self) -> usize {
        match self.units {
            Units::Flat { pixels, .. } => pixels,
            Units::Rows { images, rows } => images * rows * self.out_size[1],
        }
    }

    /// Copies a unit's input to the window, unless it is read in place, and fills in its runs, whose
    /// places are told from the value returned on.
    fn load_unit(&self, unit: usize, window: &mut [f32], runs: &mut Vec<PixelRun>) -> usize {
        runs.clear();
        match self.units {
            Units::Flat { pixels, total } => {
                let len = pixels.min(total - unit * pixels);
                let (x, dy) = (self.shape.channels, self.shape.out_channels);
                runs.push(PixelRun { x: 0, dy: unit * pixels * dy, len });
                if !self.in_place {
                    let source = self.source(self.x, [1, total]);
                    source.copy(0, unit * pixels, &mut window[..len * x]);
                }
                unit * pixels * x
            }
            Units::Rows { images, rows } => {
                let strips = self.out_size[0].div_ceil(rows);
                let (begin, y) = (unit / strips * images, unit % strips * rows);
                let rows = rows.min(self.out_size[0] - y);
                let end = (begin + images).min(self.shape.batch);
                let distance = window.len() / images;
                for image in begin..end {
                    let at = (image - begin) * distance;
                    if !self.in_place {
                        self.load_rows(image, y, rows, &mut window[at..]);
                    }
                    self.add_runs(image, y, rows, at, runs);
                }
                0
            }
        }
    }

    /// The runs of some rows of an image.
    fn add_runs(&self, image: usize, y: usize, rows: usize, at: usize, runs: &mut Vec<PixelRun>) {
        let ConvShape { height, width, channels, stride, .. } = *self.shape;
        let [oh, ow] = self.out_size;
        runs.extend((0..rows).map(|i| {
            let x = match self.in_place {
                true => (image * height + (y + i) * stride[0]) * width,
                false => i * stride[0] * self.row_width(),
            };
            let dy = (image * oh + y + i) * ow * self.shape.out_channels;
            PixelRun { x: at + x * channels, dy, len: ow }
        }));
    }

    /// Copies the input rows that `rows` output rows from `y` on need.
    fn load_rows(&self, image: usize, y: usize, rows: usize, window: &mut [f32]) {
        let ConvShape { height, width, channels: c, stride, padding, .. } = *self.shape;
        let len = height * width * c;
        let source = self.source(&self.x[image * len..][..len], [height, width]);
        let (left, row) = (padding[1].0, self.row_width());
        let columns = width.min(row.saturating_sub(left));
        let steps = if self.shape.kernel[0] == 1 { stride[0] } else { 1 };
        for i in (0..self.window_rows(rows)).step_by(steps) {
            let to = &mut window[(i * row + left.min(row)) * c..][..columns * c];
            match (y * stride[0] + i).checked_sub(padding[0].0) {
                Some(from) if from < height => source.copy(from, 0, to),
                _ => to.fill(0.0),
            }
        }
    }

    fn source<'b>(&'b self, image: &'b [f32], size: [usize; 2]) -> Source<'b> {
        let c = self.shape.channels;
        Source { isa: self.isa, image, size, stride: c, first: 0, channels: c, entry: self.entry }
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

impl Units {
    /// For tasks that read `out_channels` of the gradient.
    fn new(shape: &ConvShape, out_size: [usize; 2], out_channels: usize) -> Self {
        let per_pixel = (shape.channels + out_channels) * size_of::<f32>();
        let pixels = (UNIT_BYTES / per_pixel).clamp(48, UNIT_PIXELS);
        let [height, width] = out_size;
        let dense = shape.kernel == [1, 1] && shape.stride == [1, 1];
        if dense && shape.padding == [(0, 0); 2] {
            let total = shape.batch * height * width;
            let units = total.div_ceil(pixels).max(1);
            return Self::Flat { pixels: total.div_ceil(units).max(1), total };
        }
        let strips = (height * width).div_ceil(pixels).min(height);
        let rows = height.div_ceil(strips);
        let images = if strips > 1 { 1 } else { (pixels / (height * width)).max(1) };
        Self::Rows { images: images.min(shape.batch.max(1)), rows }
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
                weight_gradient_on(isa, shape, &data.x, entry, &data.dy, &mut dw);
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
                weight_gradient(&shape, &data.x, Some(data.entry()), &data.dy, &mut dw);
                dw
            });
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }

    #[test]
    #[should_panic(expected = "length of `dy`")]
    fn lengths_must_fit() {
        let shape = shape(1, 5, 3, 3);
        weight_gradient(&shape, &vec![0.0; shape.input_len()], None, &[], &mut []);
    }
}
