//! Inverted residual blocks of `bf16` maps in one pass. Expanded rows are `f32`, as the products
//! leave them; filtered pixels are rounded, for the products that project them.

use std::ops::Range;

use super::way::{Into, Leaving, Settling, TILE, Way};
use super::window::Window;
use super::{Dense, Layout, Row, Wanted, from_f32, panel_columns, to_f32};
use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::conv::ConvShape;
use crate::depthwise::{self, RowKernel};
use crate::inverted::plan::{Maps, Plan, Stages};
use crate::inverted::{BlockStages, InvertedShape, Sizes, Stage, lay_out};
use crate::simd::Isa;
use crate::tile::{Panel, TileExit};

/// Channels of a panel.
const WIDTH: usize = 2 * TILE;

/// A block's weights, rounded and packed once and used for every batch.
#[derive(Debug)]
pub struct InvertedResidual {
    way: Way,
    sizes: Sizes,
    /// Weights of the expansion; without one, the input is filtered as it is.
    expand: Option<(Dense, Finish)>,
    /// Panels of the expanded channels.
    panels: Vec<Panel>,
    /// Weights of the depthwise convolution, `[taps, width]` a panel, rounded.
    taps: Buffer,
    filter: Finish,
    project: (Dense, Finish),
}

/// What happens behind a stage.
#[derive(Debug)]
struct Finish {
    /// Padded with zeros to whole panels.
    shift: Buffer,
    activation: Activation,
}

impl Finish {
    fn new(stage: &Stage, channels: usize) -> Self {
        let mut shift = Buffer::zeros(channels.next_multiple_of(WIDTH));
        if let Some(values) = stage.shift {
            shift[..channels].copy_from_slice(values);
        }
        Self { shift, activation: stage.activation }
    }
}

impl InvertedResidual {
    /// Rounds and packs the weights of a block; the batch and the size of the maps don't matter.
    ///
    /// # Panics
    /// If a slice is not as long as the shape says, the convolution in the middle is not depthwise,
    /// the expansion has groups or does not fit it, there is no projection, or a stage has a curve.
    pub fn new(shape: &InvertedShape, stages: BlockStages) -> Self {
        Self::by(Way::fastest(), shape, stages)
    }

    pub(super) fn by(way: Way, shape: &InvertedShape, stages: BlockStages) -> Self {
        stages.check("bf16::InvertedResidual", shape);
        let Some(project_stage) = stages.project else {
            panic!("bf16::InvertedResidual: no projection")
        };
        let all = [stages.expand, Some(stages.depthwise), Some(project_stage)];
        let bent = all.iter().flatten().any(|stage| stage.curve.is_some());
        assert!(!bent, "bf16::InvertedResidual: a curve");
        let expanded = shape.depthwise.channels;
        let panel = |i: usize| Panel {
            start: i * WIDTH,
            width: WIDTH.min(expanded - i * WIDTH),
            vectors: 2,
            offset: 0,
        };
        let panels: Vec<Panel> = (0..expanded.div_ceil(WIDTH)).map(panel).collect();
        let rounded: Vec<f32> =
            stages.depthwise.weight.iter().map(|w| to_f32(from_f32(*w))).collect();
        let project = ConvShape {
            channels: expanded,
            out_channels: shape.out_channels,
            kernel: [1; 2],
            groups: 1,
            ..shape.depthwise
        };
        // Filtered pixels are whole panels, what exceeds the channels being zeros.
        let whole = panels.len() * WIDTH;
        let layout = Layout { channels: whole, run: whole, depth: WIDTH, in_place: true };
        Self {
            way,
            sizes: Sizes::of(shape),
            expand: stages.expand.zip(shape.expand).map(|(stage, e)| {
                (Dense::new(&e, Layout::new(&e), stage.weight), Finish::new(&stage, expanded))
            }),
            taps: lay_out(&rounded, &panels, expanded),
            panels,
            filter: Finish::new(&stages.depthwise, expanded),
            project: (
                Dense::new(&project, layout, project_stage.weight),
                Finish::new(&project_stage, shape.out_channels),
            ),
        }
    }

    /// `y = project(filter(expand(x))) + residual`.
    ///
    /// # Panics
    /// If a slice's length does not fit `shape`, or `shape` has other channels or another kernel
    /// than the weights.
    pub fn run(&self, shape: &InvertedShape, x: &[u16], residual: Option<&[u16]>, y: &mut [u16]) {
        shape.check("bf16::InvertedResidual");
        assert_eq!(self.sizes, Sizes::of(shape), "bf16::InvertedResidual: channels or kernel");
        let expand = self.expand.as_ref().zip(shape.expand.as_ref());
        let window = expand.and_then(|((dense, _), e)| {
            assert_eq!(dense.layout, Layout::new(e), "bf16::InvertedResidual: layout");
            let in_place = dense.layout.in_place && e.height * e.width >= 2 * TILE;
            (!in_place).then(|| Window::new(e, &dense.layout))
        });
        let plan = Plan::new(shape, self.panels.len(), WIDTH);
        plan.run(&Half { block: self, window }, x, residual, y);
    }
}

/// A block in `bf16`. Filtered pixels are `[pixels, panels * 32]`.
struct Half<'a> {
    block: &'a InvertedResidual,
    /// For an expansion that is not read in place.
    window: Option<Window>,
}

impl Half<'_> {
    /// `bf16` values of a filtered pixel.
    fn stride(&self) -> usize {
        self.block.panels.len() * WIDTH
    }
}

impl Stages for Half<'_> {
    type Value = u16;

    fn panels(&self) -> &[Panel] {
        &self.block.panels
    }

    fn out_panels(&self) -> usize {
        self.block.project.0.panels()
    }

    fn filtered_len(&self, plan: &Plan) -> usize {
        // Products take 32 pixels at a time.
        (plan.rows * plan.out_size[1] + 2 * TILE) * self.stride() / 2
    }

    /// A row of sums, then the window.
    fn spare_len(&self, plan: &Plan, rows: usize) -> usize {
        let window = self.window.as_ref().zip(plan.shape.expand.as_ref());
        let window = window.map_or(0, |(window, e)| window.len(e, rows).div_ceil(2));
        plan.out_size[1] * WIDTH + window
    }

    fn expanding(&self, work: impl FnOnce()) {
        match &self.block.expand {
            Some((dense, _)) => self.block.way.with_tiles(dense.layout.depth, work),
            None => work(),
        }
    }

    fn projecting(&self, work: impl FnOnce()) {
        self.block.way.with_tiles(self.block.project.0.layout.depth, work);
    }

    fn gather(&self, plan: &Plan, x: &[u16], rows: Range<usize>, spare: &mut [f32]) {
        if let Some((window, e)) = self.window.as_ref().zip(plan.shape.expand.as_ref())
            && !rows.is_empty()
        {
            let to = spare[plan.out_size[1] * WIDTH..].as_mut_ptr().cast();
            // SAFETY: the spare memory has room for a window of as many rows as are ever expanded.
            unsafe { window.fill(e, x, 0, rows.start, rows.len(), to) };
        }
    }

    unsafe fn expand(
        &self,
        plan: &Plan,
        panel: &Panel,
        x: &[u16],
        rows: Range<usize>,
        ring: &mut [f32],
        spare: &mut [f32],
    ) {
        let Some(((dense, finish), shape)) = self.block.expand.as_ref().zip(plan.shape.expand)
        else {
            let way = self.block.way;
            return plan.copy(panel, x, rows, ring, |from, to| way.widen(from, to, Into::Set));
        };
        if rows.is_empty() {
            return;
        }
        let width = plan.shape.depthwise.width;
        let (first, last) = (rows.start * width, rows.end * width);
        let (steps, row) = match &self.window {
            Some(window) => {
                let row = Row {
                    a: spare[plan.out_size[1] * WIDTH..].as_ptr().cast(),
                    stride: window.stride,
                    count: (rows.len() - 1) * window.period + width,
                    period: window.period,
                    wanted: width,
                    y: first,
                };
                (window.steps(&shape, &dense.layout, rows.len()), row)
            }
            None => {
                // A block of 32 pixels must not reach over the image: it may begin before the rows,
                // and end behind them.
                let count = (rows.len() * width).max(2 * TILE);
                let y = first.min(shape.height * width - count);
                let a = x[y * shape.channels..].as_ptr();
                let stride = shape.channels;
                (dense.steps_in_place(), Row { a, stride, count, period: count, wanted: count, y })
            }
        };
        let columns = panel_columns(panel.start / WIDTH, dense.out_channels.div_ceil(TILE));
        let (low, high) = finish.activation.bounds();
        let leave = |wanted: Wanted| {
            let (mut pixel, end) = (wanted.pixel.max(first), last.min(wanted.pixel + wanted.count));
            while pixel < end {
                let (y, column) = (pixel / width, pixel % width);
                let pixels = (width - column).min(end - pixel);
                let settling = Settling {
                    c: wanted.sums.wrapping_add((pixel - wanted.pixel) * WIDTH),
                    pixels,
                    columns,
                    shift: finish.shift[panel.start..].as_ptr(),
                    low,
                    high,
                    to: ring[plan.slot(y) + column * WIDTH..].as_mut_ptr(),
                };
                // SAFETY: the ring has row `y`, whose pixels are whole panels.
                unsafe { settling.write(self.block.way) };
                pixel += pixels;
            }
        };
        // SAFETY: the pixels lie in the image or in the window, which has room for whole blocks.
        unsafe {
            dense.sweep(
                self.block.way,
                panel.start / WIDTH,
                &steps,
                &row,
                self.window.is_none(),
                leave,
            );
        }
    }

    unsafe fn filter(
        &self,
        plan: &Plan,
        i: usize,
        [y, line]: [usize; 2],
        inputs: &[*const f32],
        (filtered, _): (*mut f32, *mut u16),
        spare: &mut [f32],
    ) {
        let (panel, d) = (&self.block.panels[i], &plan.shape.depthwise);
        let row = depthwise::Row {
            inputs,
            in_stride: WIDTH,
            taps: self.block.taps[d.kernel[0] * d.kernel[1] * panel.start..].as_ptr(),
            tap_stride: panel.width,
            out: spare.as_mut_ptr(),
            out_stride: WIDTH,
            channels: panel.width,
            exit: TileExit::NONE,
        };
        if panel.width < WIDTH {
            // Channels that there are none of meet weights of zero, and must be numbers.
            spare[..plan.out_size[1] * WIDTH].fill(0.0);
        }
        let (low, high) = self.block.filter.activation.bounds();
        let y_at = line * plan.out_size[1] * self.stride() + panel.start;
        let leaving = Leaving {
            c: row.out,
            pixels: plan.out_size[1],
            n: WIDTH,
            shift: self.block.filter.shift[panel.start..].as_ptr(),
            residual: std::ptr::null(),
            low,
            high,
            y: filtered.cast::<u16>().wrapping_add(y_at),
            stride: self.stride(),
            streams: false,
        };
        // SAFETY: the inputs are as wide as taps reach by the caller's word; the spare memory begins
        // with a row; a filtered line has whole panels.
        unsafe {
            plan.kernel.run(Isa::widest(), y, &row);
            leaving.write(self.block.way);
        }
    }

    unsafe fn project(
        &self,
        plan: &Plan,
        i: usize,
        filtered: *const f32,
        pixels: Range<usize>,
        begin: usize,
        maps: &Maps<u16>,
    ) {
        let (dense, finish) = &self.block.project;
        let (o, channel) = (plan.shape.out_channels, i * WIDTH);
        let (low, high) = finish.activation.bounds();
        let row = Row {
            a: filtered.cast::<u16>().wrapping_add(pixels.start * self.stride()),
            stride: self.stride(),
            count: pixels.len(),
            period: pixels.len(),
            wanted: pixels.len(),
            y: begin + pixels.start,
        };
        let leave = |wanted: Wanted| {
            let at = wanted.pixel * o + channel;
            let leaving = Leaving {
                c: wanted.sums,
                pixels: wanted.count,
                n: (o - channel).min(WIDTH),
                shift: finish.shift[channel..].as_ptr(),
                residual: maps.residual_at(at),
                low,
                high,
                y: maps.y.wrapping_add(at),
                stride: o,
                streams: false,
            };
            // SAFETY: by the caller's word, no one else touches these channels of these pixels.
            unsafe { leaving.write(self.block.way) };
        };
        // SAFETY: the filtered pixels have room for whole blocks.
        unsafe { dense.sweep(self.block.way, i, &dense.steps_in_place(), &row, false, leave) };
    }
}
