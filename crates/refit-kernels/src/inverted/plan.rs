//! How a block runs over maps of one size, whatever the type of their values: which rows a task
//! expands, where it keeps them, and when it projects.

use std::ops::Range;

use super::InvertedShape;
use crate::depthwise::{Correlation, RowKernel};
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::Panel;

/// An image of each map.
#[derive(Clone, Copy)]
pub(crate) struct Maps<'a, T> {
    pub x: &'a [T],
    /// Null if there is none.
    pub residual: *const T,
    pub y: *mut T,
}

impl<T> Maps<'_, T> {
    /// The residual from value `at` on, null if there is none.
    pub(crate) fn residual_at(&self, at: usize) -> *const T {
        match self.residual.is_null() {
            true => self.residual,
            false => self.residual.wrapping_add(at),
        }
    }
}

/// What a block's kernels do between maps of a type and the expanded rows, which are `f32`.
pub(crate) trait Stages: Sync {
    /// A value of the maps.
    type Value: Copy + Send + Sync + 'static;

    /// Panels of expanded channels.
    fn panels(&self) -> &[Panel];

    /// Panels of output channels.
    fn out_panels(&self) -> usize;

    /// Values of `f32` that the filtered pixels of a round take.
    fn filtered_len(&self, plan: &Plan) -> usize;

    /// Values of `f32` that a task needs besides; they begin as zeros.
    fn spare_len(&self, _plan: &Plan, _rows: usize) -> usize {
        0
    }

    /// Calls `work`, within which rows may be expanded.
    fn expanding(&self, work: impl FnOnce()) {
        work();
    }

    /// Calls `work`, within which pixels may be projected.
    fn projecting(&self, work: impl FnOnce()) {
        work();
    }

    /// Prepares `rows` of the expanded map, for all panels.
    fn gather(&self, _plan: &Plan, _x: &[Self::Value], _rows: Range<usize>, _spare: &mut [f32]) {}

    /// Expands rows for a panel into its ring.
    ///
    /// # Safety
    /// `x` is an image, the rows are gathered, and the ring has room for them.
    unsafe fn expand(
        &self,
        plan: &Plan,
        panel: &Panel,
        x: &[Self::Value],
        rows: Range<usize>,
        ring: &mut [f32],
        spare: &mut [f32],
    );

    /// Filters row `at[0]` of the output, the `at[1]`th of a round, for panel number `i`: to
    /// the filtered pixels, or if there are no output panels to project them to, to the output.
    ///
    /// # Safety
    /// `inputs` are rows of the panel's ring; no one else touches these channels of this line.
    unsafe fn filter(
        &self,
        plan: &Plan,
        i: usize,
        at: [usize; 2],
        inputs: &[*const f32],
        to: (*mut f32, *mut Self::Value),
        spare: &mut [f32],
    );

    /// Projects filtered pixels onto panel number `i` of the output's channels; the first of all
    /// filtered ones is the output's pixel `begin`.
    ///
    /// # Safety
    /// The pixels are filtered, and no one else touches these channels of them in `maps.y`.
    unsafe fn project(
        &self,
        plan: &Plan,
        i: usize,
        filtered: *const f32,
        pixels: Range<usize>,
        begin: usize,
        maps: &Maps<Self::Value>,
    );
}

/// Bytes of expanded rows and filtered ones that a task keeps; they share the second-level cache
/// with the weights.
pub(super) const KEPT: usize = 512 << 10;

/// What a block's tasks divide among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Output rows: all of a task stays in its own cache, but rows at the seams are expanded twice.
    Rows,
    /// Expanded channels, and then, when all are filtered, output channels: for few images of few
    /// pixels, whose many weights are then read once.
    Channels,
}

/// Pixels that a task projects.
const PIXELS: usize = 112;

/// How a block runs over maps of one size.
///
/// Expanded rows lie in a ring of `slots` rows for each panel, or, when a task is done in a single
/// round, in one ring for all of them.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    by: By,
    pub shape: &'a InvertedShape,
    pub kernel: Correlation,
    pub out_size: [usize; 2],
    /// Output rows of a task, and of a round.
    strip: usize,
    pub rows: usize,
    /// Distance between the expanded pixels of a panel.
    pub stride: usize,
    /// Values of an expanded row of a panel, padding included.
    row: usize,
    slots: usize,
    /// Values between the rings of two panels.
    ring: usize,
}

impl<'a> Plan<'a> {
    /// `stride` is the distance between the expanded pixels of one of so many panels.
    pub(crate) fn new(shape: &'a InvertedShape, panels: usize, stride: usize) -> Self {
        let d = &shape.depthwise;
        let out_size = d.out_size();
        let lead = d.padding.map(|(before, _)| before as isize);
        let kernel = Correlation::new(out_size[1], d.kernel, d.stride, d.dilation, lead);
        let width = kernel.ring().width.max(d.padding[1].0 + d.width);
        let (by, strip) = division(shape);
        let row = width * stride;
        let slots = |rows: usize| (rows - 1) * d.stride[0] + kernel.ring().slots;
        let rows = match by {
            By::Rows => round_rows(strip, panels, row, out_size[1] * stride, slots),
            By::Channels => strip,
        };
        let slots = slots(rows);
        let ring = if rows == strip { 0 } else { slots * row };
        Self { by, shape, kernel, out_size, strip, rows, stride, row, slots, ring }
    }

    /// Where row `y`'s first expanded pixel lies in a ring, behind its padding.
    pub(crate) fn slot(&self, y: usize) -> usize {
        y % self.slots * self.row + self.shape.depthwise.padding[1].0 * self.stride
    }

    /// Hands a panel's channels of each pixel of rows of `x`, and their place in a ring, to `copy`: a
    /// block without an expansion.
    pub(crate) fn copy<T>(
        &self,
        panel: &Panel,
        x: &[T],
        rows: Range<usize>,
        ring: &mut [f32],
        copy: impl Fn(&[T], &mut [f32]),
    ) {
        let (width, channels) = (self.shape.depthwise.width, self.shape.depthwise.channels);
        for y in rows {
            let from = x[y * width * channels..].chunks_exact(channels);
            let to = ring[self.slot(y)..].chunks_exact_mut(self.stride);
            for (from, to) in from.zip(to).take(width) {
                copy(&from[panel.start..][..panel.width], &mut to[..panel.width]);
            }
        }
    }

    /// Rows that are expanded at once, at most.
    fn most_fresh(&self) -> usize {
        self.slots.min(self.shape.depthwise.height)
    }

    /// Runs a block over a batch.
    ///
    /// # Panics
    /// If a slice's length does not fit the shape.
    pub(crate) fn run<S: Stages>(
        &self,
        stages: &S,
        x: &[S::Value],
        residual: Option<&[S::Value]>,
        y: &mut [S::Value],
    ) {
        let shape = self.shape;
        assert_eq!(x.len(), shape.input_len(), "InvertedResidual: length of `x`");
        assert_eq!(y.len(), shape.output_len(), "InvertedResidual: length of `y`");
        let fits = residual.is_none_or(|r| r.len() == y.len());
        assert!(fits, "InvertedResidual: length of `residual`");
        let (image_len, out_len) = match shape.depthwise.batch {
            0 => return,
            batch => (x.len() / batch, y.len() / batch),
        };
        let y = Shared::new(y);
        let maps = |image: usize| Maps {
            x: &x[image * image_len..][..image_len],
            residual: residual.map_or(std::ptr::null(), |r| r[image * out_len..].as_ptr()),
            // SAFETY: an image of `y`.
            y: unsafe { y.ptr().add(image * out_len) },
        };
        match self.by {
            By::Rows => self.run_by_rows(stages, maps),
            By::Channels => self.run_by_channels(stages, maps),
        }
    }

    /// Strips of rows of all images, from input to output.
    fn run_by_rows<'m, S: Stages>(
        &self,
        stages: &S,
        maps: impl Fn(usize) -> Maps<'m, S::Value> + Sync,
    ) {
        let height = self.out_size[0];
        let strips = height.div_ceil(self.strip);
        parallel(self.shape.depthwise.batch * strips, |task| {
            let first = task % strips * self.strip;
            let rows = first..(first + self.strip).min(height);
            // SAFETY: no other task writes these rows of this image.
            unsafe { self.task(stages, &maps(task / strips), rows) };
        });
    }

    /// Panels of expanded channels of all images, then pixels and panels of the output.
    fn run_by_channels<'m, S: Stages>(
        &self,
        stages: &S,
        maps: impl Fn(usize) -> Maps<'m, S::Value> + Sync,
    ) {
        let (batch, panels) = (self.shape.depthwise.batch, stages.panels());
        let out_panels = stages.out_panels();
        let pixels = self.out_size[0] * self.out_size[1];
        let len = stages.filtered_len(self);
        with_scratch(batch * len, |memory| {
            let filtered = Shared::new(memory);
            parallel(batch * panels.len(), |task| {
                // Panel by panel, so that its weights serve all images while they are in the cache.
                let (i, image) = (task / batch, task % batch);
                let filtered = filtered.ptr().wrapping_add(image * len);
                // SAFETY: each task has its own panel of filtered pixels; `maps` are whole images.
                unsafe { self.task_of_panel(stages, i, &maps(image), filtered) };
            });
            let blocks = pixels.div_ceil(PIXELS);
            parallel(batch * out_panels * blocks, |task| {
                let (image, task) = (task / (out_panels * blocks), task % (out_panels * blocks));
                let (panel, first) = (task / blocks, task % blocks * PIXELS);
                let filtered = filtered.ptr().wrapping_add(image * len);
                let pixels = first..(first + PIXELS).min(pixels);
                let maps = maps(image);
                stages.projecting(|| {
                    // SAFETY: no other task writes these channels of these pixels.
                    unsafe { stages.project(self, panel, filtered, pixels, 0, &maps) };
                });
            });
        });
    }

    /// Expands and filters a panel's channels of a whole image.
    ///
    /// # Safety
    /// `maps` are whole images; no one else touches these channels of `filtered` and of `y`.
    unsafe fn task_of_panel<S: Stages>(
        &self,
        stages: &S,
        i: usize,
        maps: &Maps<S::Value>,
        filtered: *mut f32,
    ) {
        let rows = 0..self.out_size[0];
        let needed = self.needs(0).start..self.needs(rows.end - 1).end;
        let (ring, spare) = (self.slots * self.row, stages.spare_len(self, self.most_fresh()));
        with_scratch(ring + spare, |memory| {
            let (ring, spare) = memory.split_at_mut(ring);
            self.clear_padding(ring);
            spare.fill(0.0);
            stages.gather(self, maps.x, needed.clone(), spare);
            let panel = &stages.panels()[i];
            stages.expanding(|| {
                // SAFETY: by the caller's word; the ring has room for all rows.
                unsafe {
                    stages.expand(self, panel, maps.x, needed, ring, spare);
                    self.filter(stages, i, ring, rows, (filtered, maps.y), spare);
                }
            });
        });
    }

    /// Makes output rows `rows` of an image.
    ///
    /// # Safety
    /// `maps` are whole images, and no one else touches these rows of `y`.
    unsafe fn task<S: Stages>(&self, stages: &S, maps: &Maps<S::Value>, rows: Range<usize>) {
        let panels = stages.panels();
        let rings = if self.ring == 0 { self.slots * self.row } else { panels.len() * self.ring };
        let (filtered, spare) =
            (stages.filtered_len(self), stages.spare_len(self, self.most_fresh()));
        with_scratch(rings + filtered + spare, |memory| {
            let (rings, rest) = memory.split_at_mut(rings);
            let (filtered, spare) = rest.split_at_mut(filtered);
            self.clear_padding(rings);
            spare.fill(0.0);
            let filtered = filtered.as_mut_ptr();
            let mut next = self.needs(rows.start).start;
            for first in rows.clone().step_by(self.rows) {
                let round = first..(first + self.rows).min(rows.end);
                // A kernel smaller than its stride leaves rows out.
                let start = next.max(self.needs(round.start).start);
                let fresh = start..self.needs(round.end - 1).end.max(start);
                next = fresh.end;
                stages.gather(self, maps.x, fresh.clone(), spare);
                stages.expanding(|| {
                    for (i, panel) in panels.iter().enumerate() {
                        let ring = &mut rings[i * self.ring..];
                        // SAFETY: `maps.x` is a whole image; a panel's ring and filtered rows have
                        // room for a round.
                        unsafe {
                            stages.expand(self, panel, maps.x, fresh.clone(), ring, spare);
                            let to = (filtered, maps.y);
                            self.filter(stages, i, ring, round.clone(), to, spare);
                        }
                    }
                });
                let (pixels, begin) =
                    (round.len() * self.out_size[1], round.start * self.out_size[1]);
                stages.projecting(|| {
                    for i in 0..stages.out_panels() {
                        // SAFETY: the rows are this task's.
                        unsafe { stages.project(self, i, filtered, 0..pixels, begin, maps) };
                    }
                });
            }
        });
    }

    /// The expanded rows that output row `y` needs.
    fn needs(&self, y: usize) -> Range<usize> {
        let (first, end) = self.kernel.needs(y);
        let height = self.shape.depthwise.height as isize;
        let first = first.clamp(0, height);
        first as usize..end.clamp(first, height) as usize
    }

    fn clear_padding(&self, rings: &mut [f32]) {
        let d = &self.shape.depthwise;
        let (left, right) = (d.padding[1].0, d.padding[1].0 + d.width);
        for row in rings.chunks_exact_mut(self.row) {
            row[..left * self.stride].fill(0.0);
            row[right * self.stride..].fill(0.0);
        }
    }

    /// Filters a panel's channels: output rows from a ring.
    ///
    /// # Safety
    /// The ring has the rows that these need; no one else touches these channels of `filtered` and `y`.
    unsafe fn filter<S: Stages>(
        &self,
        stages: &S,
        i: usize,
        ring: &[f32],
        rows: Range<usize>,
        to: (*mut f32, *mut S::Value),
        spare: &mut [f32],
    ) {
        let d = &self.shape.depthwise;
        let mut inputs = Vec::with_capacity(d.kernel[0]);
        for (line, y) in rows.enumerate() {
            let (first, _) = self.kernel.needs(y);
            let at = |ky: usize| {
                let y = first + (ky * d.dilation[0]) as isize;
                let inside = y >= 0 && y < d.height as isize;
                let row = || ring[y as usize % self.slots * self.row..].as_ptr();
                if inside { row() } else { std::ptr::null() }
            };
            inputs.clear();
            inputs.extend((0..d.kernel[0]).map(at));
            // SAFETY: the ring holds the rows by the caller's word, as wide as taps reach.
            unsafe { stages.filter(self, i, [y, line], &inputs, to, spare) };
        }
    }
}

/// Tasks that a batch is to make at least: for even shares of a few threads.
pub(super) const TASKS: usize = 8;

/// What tasks divide among them, and how many output rows a task makes.
pub(super) fn division(shape: &InvertedShape) -> (By, usize) {
    let d = &shape.depthwise;
    let height = d.out_size()[0];
    let wanted = TASKS.div_ceil(d.batch.max(1)).min(height);
    // Rows that two tasks expand are to be few: a sixth of all.
    let reach = (d.kernel[0] - 1) * d.dilation[0] + 1;
    let most = 1 + d.height / (6 * reach.saturating_sub(d.stride[0])).max(1);
    let strips = 1 << wanted.min(most).max(1).ilog2();
    let small = d.height * d.width <= 256;
    match wanted > 1 && (small || strips == 1) {
        true => (By::Channels, height),
        false => (By::Rows, height.div_ceil(strips)),
    }
}

/// Output rows of a round: as many as the cache holds.
fn round_rows(
    strip: usize,
    panels: usize,
    row: usize,
    out_row: usize,
    slots: impl Fn(usize) -> usize,
) -> usize {
    let most = KEPT / size_of::<f32>();
    if slots(strip) * row + panels * strip * out_row <= most {
        return strip;
    }
    let fits = |rows: &usize| panels * (slots(*rows) * row + rows * out_row) <= most;
    (1..strip).rev().find(fits).unwrap_or(1)
}
