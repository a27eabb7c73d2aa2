//! A convolution as matrix products over tiles of pixels: the forward pass, and the gradient with
//! respect to the input, which is a convolution of the output's gradient.
//!
//! A product is computed at cells, each a place in the source that the taps are counted from and a
//! pixel of the target. Going forward, cells are the output's pixels, `stride` apart in the source.
//! For the gradient there is one phase of cells for each place modulo the stride, `stride` apart in
//! the target, and each phase has the taps that meet it.
//!
//! A task computes some rows of cells (or some whole images) for some panels of output channels.
//! It copies the source's rows into a window in L2, unless they can be read where they lie, and
//! then runs panel by panel over its tiles, each over its whole depth. A value is thus one sum in
//! the order of the depth, however tasks and tiles are cut.

use std::ops::Range;

use super::window::{Image, Window};
use super::{Entry, Exit, Moments};
use crate::norm::{GradientSums, Through};
use crate::partials::{fold_gradient, fold_moments};
use crate::simd::{Isa, fence};
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Ahead, Gather, Panel, Run, Tile, TileExit, TileThrough, cut, run_tile};

/// Cells that a task aims at: enough for a panel's way from L2, few enough for the window in L2.
const CELLS: usize = 224;

/// Fewer tasks than this are cut further, to keep several threads busy.
const TASKS: usize = 16;

/// The least multiply-adds that are worth a task, or weights, where these are what takes time: each
/// is read for few cells.
const TASK_WORK: usize = 1 << 20;
const TASK_WEIGHTS: usize = 1 << 16;

/// The greatest depth that tiles run over at once, a panel's weights being read for every tile. What
/// is deeper goes on from the sums in the output, which changes nothing in their order.
const DEPTH: usize = 768;

/// Outputs from this length on, 16 MB, are larger than what caches keep until the next layer.
const STREAMED: usize = 1 << 22;

/// One dimension of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub source: usize,
    pub target: usize,
    /// Distance between neighbouring cells in the source.
    pub step: usize,
    /// Distance between neighbouring cells in the target.
    pub spread: usize,
    /// Where the first cell's taps begin in the source.
    pub first: isize,
    /// Source pixels that the taps reach over.
    pub reach: usize,
}

impl Axis {
    /// Cells of the phase that begins at `at`.
    fn cells(&self, at: usize) -> usize {
        self.target.saturating_sub(at).div_ceil(self.spread)
    }

    /// Whether source and target are the same pixels.
    fn is_plain(&self) -> bool {
        let plain = Self { step: 1, spread: 1, first: 0, reach: 1, ..*self };
        *self == plain && self.source == self.target
    }

    /// Source pixels of `cells` cells.
    fn extent(&self, cells: usize) -> usize {
        (cells - 1) * self.step + self.reach
    }

    /// Whether no tap of any cell lies outside the source.
    fn is_inside(&self) -> bool {
        let first = usize::try_from(self.first);
        first.is_ok_and(|first| first + self.extent(self.cells(0)) <= self.source)
    }
}

/// Cells whose target pixels begin at `at`, and the taps that they sum, in the order of the depth.
#[derive(Debug)]
pub(super) struct Phase {
    pub at: [usize; 2],
    /// Source rows and columns behind the first.
    pub taps: Vec<[usize; 2]>,
}

/// What is computed.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    pub isa: Isa,
    pub batch: usize,
    pub axes: [Axis; 2],
    /// Channels of the source and of the target.
    pub channels: [usize; 2],
    pub groups: usize,
    pub panels: &'a [Panel],
    /// Columns of all panels.
    pub columns: usize,
    /// Packed, phase behind phase.
    pub weights: &'a [f32],
    pub phases: Vec<Phase>,
}

/// What happens to finished tiles.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    Exit(Exit<'a>),
    /// Moments are gathered, [`Product::partials`] values.
    Moments(Shared),
    /// The gradient passes an entry, and its sums are gathered.
    Through(Through<'a>, Shared),
}

/// A planned product.
pub(super) struct Product<'a> {
    layout: Layout<'a>,
    /// The depth of each phase, in parts.
    depths: Vec<Vec<Depth>>,
    /// The window of a task, or none if the source is read in place.
    window: Option<Window>,
    /// Distances between the source's rows and between cells, in values, and between target rows.
    row: usize,
    cell: [usize; 2],
    /// A task's rows of cells and images, and the parts that panels are dealt out to.
    rows: usize,
    images: usize,
    parts: usize,
}

/// A part of a phase's depth.
struct Depth {
    first: usize,
    len: usize,
    runs: Vec<Run>,
    is_last: bool,
}

/// Rows of cells of some images.
#[derive(Clone, Copy)]
struct Block {
    image: usize,
    images: usize,
    y: usize,
    rows: usize,
}

impl<'a> Product<'a> {
    /// Plans a product; an `entered` source can't be read in place.
    pub(super) fn new(mut layout: Layout<'a>, entered: bool) -> Self {
        if layout.batch > 0 && layout.axes.iter().all(Axis::is_plain) {
            layout.flatten();
        }
        let in_place = !entered && layout.axes.iter().all(Axis::is_inside);
        let mut product = Self {
            depths: Vec::new(),
            window: None,
            row: layout.axes[1].source * layout.channels[0],
            cell: [0; 2],
            rows: 1,
            images: 1,
            parts: 1,
            layout,
        };
        product.cut();
        product.lay(in_place);
        product
    }

    /// Cuts the work into tasks, by its shape alone.
    fn cut(&mut self) {
        let layout = &self.layout;
        let [height, width] = layout.axes.map(|a| a.cells(0));
        let work = layout.batch * height * width * layout.multiply_adds();
        let weights = layout.multiply_adds() / TASK_WEIGHTS;
        let wanted = (work / TASK_WORK).max(weights).clamp(1, TASKS);
        // Rows are cut further only down to four tiles, then panels are dealt out.
        let fair = (layout.batch * height * width / wanted).max(4 * layout.isa.tile_rows(2));
        let cells = CELLS.min(fair);
        self.rows = (cells / width).clamp(1, height);
        self.rows = height.div_ceil(height.div_ceil(self.rows));
        if self.rows == height {
            self.images = (cells / (height * width)).clamp(1, layout.batch.max(1));
        }
        self.parts = wanted.div_ceil(self.blocks().max(1)).clamp(1, layout.panels.len());
    }

    /// Settles where the source's values lie.
    fn lay(&mut self, in_place: bool) {
        let [channels, _] = self.layout.channels;
        let axes = self.layout.axes;
        let mut step = axes.map(|a| a.step);
        if !in_place {
            // Taps that don't reach beyond their pixel need no others.
            let skip = axes.map(|a| if a.reach == 1 { a.step } else { 1 });
            step = [step[0] / skip[0], step[1] / skip[1]];
            let extent = |i: usize, cells| (cells - 1) * step[i] + axes[i].reach;
            let window = Window {
                rows: extent(0, self.rows),
                width: extent(1, axes[1].cells(0)),
                channels,
                step: skip,
            };
            self.row = window.width * channels;
            self.window = Some(window);
        }
        self.cell = [step[0] * self.row, step[1] * channels];
        self.depths = self.layout.phases.iter().map(|p| depths(&self.runs(&p.taps))).collect();
    }

    /// Taps as runs of values; neighbours in memory make one.
    fn runs(&self, taps: &[[usize; 2]]) -> Vec<Run> {
        let [channels, _] = self.layout.channels;
        let len = channels / self.layout.groups;
        let mut runs: Vec<Run> = Vec::new();
        for [y, x] in taps {
            let offset = y * self.row + x * channels;
            match runs.last_mut() {
                Some(run) if run.offset + run.len == offset => run.len += len,
                _ => runs.push(Run { offset, len }),
            }
        }
        runs
    }

    /// Blocks of cells.
    fn blocks(&self) -> usize {
        self.layout.batch.div_ceil(self.images) * self.strips()
    }

    /// Blocks of an image.
    fn strips(&self) -> usize {
        self.layout.axes[0].cells(0).div_ceil(self.rows)
    }

    fn block(&self, number: usize) -> Block {
        let (image, y) = (number / self.strips() * self.images, number % self.strips() * self.rows);
        Block {
            image,
            images: self.images.min(self.layout.batch - image),
            y,
            rows: self.rows.min(self.layout.axes[0].cells(0) - y),
        }
    }

    /// Values that are gathered: two rows of columns a block.
    pub(super) fn partials(&self) -> usize {
        self.blocks() * 2 * self.layout.columns
    }

    /// Computes the product.
    ///
    /// # Panics
    /// If a length does not fit.
    pub(super) fn run(&self, x: &[f32], entry: Option<Entry>, y: &mut [f32], finish: Finish) {
        let layout = &self.layout;
        let len = |i: usize, size: fn(&Axis) -> usize| {
            layout.batch * layout.axes.iter().map(size).product::<usize>() * layout.channels[i]
        };
        assert_eq!(x.len(), len(0, |a| a.source), "length of a convolution's input");
        assert_eq!(y.len(), len(1, |a| a.target), "length of a convolution's output");
        assert!(layout.isa.is_available());
        finish.check(layout.channels[1], y.len());
        let streams = self.streams(y);
        let y = Shared::new(y);
        parallel(self.blocks() * self.parts, |task| {
            self.task(x, entry, (y, streams), finish, task);
            if streams {
                fence();
            }
        });
    }

    /// Whether the output had better not pass the caches: if it is larger than they are, each line
    /// would be fetched only to be overwritten. Needs pixels on cache lines and sums in one part.
    fn streams(&self, y: &[f32]) -> bool {
        let in_one = self.depths.iter().all(|d| d.len() <= 1);
        let of_group = self.layout.channels[1] / self.layout.groups;
        let on_lines = y.as_ptr().addr().is_multiple_of(64) && of_group.is_multiple_of(16);
        in_one && on_lines && y.len() >= STREAMED
    }

    fn task(
        &self,
        x: &[f32],
        entry: Option<Entry>,
        (y, streams): (Shared, bool),
        finish: Finish,
        task: usize,
    ) {
        let (number, part) = (task / self.parts, task % self.parts);
        let deal = |part: usize| part * self.layout.panels.len() / self.parts;
        let task = Task {
            product: self,
            number,
            block: self.block(number),
            panels: deal(part)..deal(part + 1),
            y,
            streams,
            finish,
        };
        task.clear_gathered();
        let Some(window) = &self.window else {
            return task.tiles(x.as_ptr().wrapping_add(self.place(&task.block)), self.image(), x);
        };
        with_scratch(self.images * window.len(), |copy| {
            self.fill(window, copy, x, entry, &task.block);
            task.tiles(copy.as_ptr(), window.len(), x);
        });
    }

    /// Values of a source image.
    fn image(&self) -> usize {
        let [height, width] = self.layout.axes.map(|a| a.source);
        height * width * self.layout.channels[0]
    }

    /// Where a block's first cell lies in a source that is read in place.
    fn place(&self, block: &Block) -> usize {
        let [rows, columns] = self.layout.axes.map(|a| a.first.unsigned_abs());
        let first = rows * self.row + columns * self.layout.channels[0];
        block.image * self.image() + first + block.y * self.cell[0]
    }

    fn fill(
        &self,
        window: &Window,
        copy: &mut [f32],
        x: &[f32],
        entry: Option<Entry>,
        block: &Block,
    ) {
        let [rows, columns] = self.layout.axes;
        let at = [rows.first + (block.y * rows.step) as isize, columns.first];
        let images = x[block.image * self.image()..].chunks_exact(self.image());
        let copies = copy.chunks_exact_mut(window.len());
        for (values, to) in images.zip(copies).take(block.images) {
            let image = Image { values, height: rows.source, width: columns.source };
            window.fill(self.layout.isa, to, image, at, entry);
        }
    }

    /// The source's rows that a later block will read.
    fn rows_of<'x>(&self, x: &'x [f32], number: usize) -> &'x [f32] {
        if number >= self.blocks() {
            return &[];
        }
        let (block, axis) = (self.block(number), self.layout.axes[0]);
        let row = |y: usize| {
            let y = axis.first + (y * axis.step) as isize;
            y.clamp(0, axis.source as isize).unsigned_abs() * (self.image() / axis.source)
        };
        let first = block.image * self.image() + row(block.y);
        let end = (block.image + block.images - 1) * self.image() + row(block.y + block.rows);
        &x[first..end.max(first)]
    }

    /// Pixels of each block.
    fn counts(&self) -> impl Iterator<Item = usize> {
        let width = self.layout.axes[1].cells(0);
        (0..self.blocks()).map(|i| self.block(i)).map(move |b| b.images * b.rows * width)
    }

    /// What belongs to channels, of what belongs to columns.
    fn narrow(&self, columns: &[f32]) -> Vec<f32> {
        let of_panel = |p: &Panel| &columns[p.offset..p.offset + p.width];
        self.layout.panels.iter().flat_map(of_panel).copied().collect()
    }

    /// The moments of all blocks, joined in their order.
    pub(super) fn moments(&self, partials: &[f32]) -> Moments {
        let all = fold_moments(partials, self.counts(), self.layout.columns);
        Moments { mean: self.narrow(&all.mean), variance: self.narrow(&all.variance) }
    }

    /// The gradient's sums over all blocks, in their order.
    pub(super) fn sums(&self, partials: &[f32]) -> GradientSums {
        let all = fold_gradient(partials, self.layout.columns);
        GradientSums { sum: self.narrow(&all.sum), product: self.narrow(&all.product) }
    }
}

/// Cuts runs into parts of nearly equal depth, at most [`DEPTH`].
fn depths(runs: &[Run]) -> Vec<Depth> {
    let all: usize = runs.iter().map(|r| r.len).sum();
    cut(all, DEPTH)
        .map(|(first, len)| Depth {
            first,
            len,
            runs: between(runs, first, first + len),
            is_last: first + len == all,
        })
        .collect()
}

/// What lies between two depths.
fn between(runs: &[Run], begin: usize, end: usize) -> Vec<Run> {
    let mut at = 0;
    let mut part = Vec::new();
    for run in runs {
        let (first, last) = (begin.max(at), end.min(at + run.len));
        if first < last {
            part.push(Run { offset: run.offset + first - at, len: last - first });
        }
        at += run.len;
    }
    part
}

impl Layout<'_> {
    /// One column of all the batch's pixels, where every pixel is on its own.
    fn flatten(&mut self) {
        let pixels = self.batch * self.axes[0].source * self.axes[1].source;
        let axis = |len| Axis { source: len, target: len, ..self.axes[0] };
        self.axes = [axis(pixels), axis(1)];
        self.batch = 1;
    }

    /// Multiply-adds of a cell.
    fn multiply_adds(&self) -> usize {
        let taps: usize = self.phases.iter().map(|p| p.taps.len()).sum();
        taps * self.channels[0] / self.groups * self.channels[1]
    }
}

impl Finish<'_> {
    fn check(&self, channels: usize, len: usize) {
        match self {
            Self::Exit(exit) => {
                assert!(exit.shift.is_none_or(|s| s.len() == channels), "length of `shift`");
                assert!(exit.residual.is_none_or(|r| r.len() == len), "length of `residual`");
            }
            Self::Moments(_) => {}
            Self::Through(through, _) => {
                let Through { x, entry, center } = through;
                assert_eq!(x.len(), len, "length of an entry's input");
                let lens = [entry.scale, entry.shift, center].map(<[f32]>::len);
                assert_eq!(lens, [channels; 3], "lengths of an entry's channels");
            }
        }
    }
}

/// A task at work.
struct Task<'a> {
    product: &'a Product<'a>,
    /// Of the block.
    number: usize,
    block: Block,
    panels: Range<usize>,
    y: Shared,
    /// Whether the output passes the caches by.
    streams: bool,
    finish: Finish<'a>,
}

/// What all tiles of a panel share.
struct PanelRun<'a> {
    source: *const f32,
    depth: &'a Depth,
    panel: &'a Panel,
    weights: &'a [f32],
    /// What will be needed next.
    next_weights: &'a [f32],
    next_rows: &'a [f32],
}

impl<'a> PanelRun<'a> {
    /// What each of `tiles` tiles brings near: rows first and weights last, since both and the
    /// present ones may be more than L2 holds.
    fn ahead(&self, tiles: usize) -> impl Iterator<Item = Ahead> + use<'a> {
        let depth = self.depth.len;
        let spread = move |values: &'a [f32], tiles: usize| {
            values
                .chunks(values.len().div_ceil(tiles.max(1)).max(1))
                .map(move |v| Ahead::new(v, depth))
        };
        let first = tiles / 2;
        let rows = spread(if first > 0 { self.next_rows } else { &[] }, first);
        let gap = first - rows.len();
        let weights = spread(self.next_weights, tiles - first);
        rows.chain(std::iter::repeat_n(Ahead::NOTHING, gap)).chain(weights)
    }
}

/// Cells side by side: the first's place in the task's source, and its target pixel.
struct Line {
    from: usize,
    to: usize,
    cells: usize,
}

impl Task<'_> {
    /// The block's gathered values from a panel on; null if none are gathered.
    fn gathered(&self, panel: &Panel) -> *mut f32 {
        match self.finish {
            Finish::Exit(_) => std::ptr::null_mut(),
            Finish::Moments(to) | Finish::Through(_, to) => {
                let row = self.number * 2 * self.product.layout.columns;
                to.ptr().wrapping_add(row + panel.offset)
            }
        }
    }

    fn clear_gathered(&self) {
        let layout = &self.product.layout;
        for panel in &layout.panels[self.panels.clone()] {
            let to = self.gathered(panel);
            let len = panel.vectors * layout.isa.lanes();
            if !to.is_null() {
                // SAFETY: the columns of this task's panels, of its block, in both rows.
                unsafe {
                    std::slice::from_raw_parts_mut(to, len).fill(0.0);
                    std::slice::from_raw_parts_mut(to.add(layout.columns), len).fill(0.0);
                }
            }
        }
    }

    /// Computes every phase from `source`, whose images lie `image` values apart. Meanwhile rows of
    /// `x` for this thread's next task are brought near.
    fn tiles(&self, source: *const f32, image: usize, x: &[f32]) {
        let product = self.product;
        let panels = &product.layout.panels[self.panels.clone()];
        let rows = product.rows_of(x, self.number + rayon::current_num_threads());
        let each = rows
            .len()
            .div_ceil(panels.len() * product.depths.iter().map(Vec::len).sum::<usize>())
            .max(1);
        let mut rows = rows.chunks(each);
        let (mut seen, mut weights) = (0, 0);
        for (phase, depths) in product.layout.phases.iter().zip(&product.depths) {
            let lines = || self.lines(phase, image);
            let depth: usize = depths.iter().map(|d| d.len).sum();
            let of_part = |panel: &Panel, part: &Depth| {
                let width = panel.vectors * product.layout.isa.lanes();
                let first = weights + panel.offset * depth + part.first * width;
                &product.layout.weights[first..][..part.len * width]
            };
            for (i, panel) in panels.iter().enumerate() {
                if depths.is_empty() {
                    lines().for_each(|line| self.clear(&line, panel));
                }
                let next_panel = panels.get(i + 1).unwrap_or(&panels[0]);
                for (k, part) in depths.iter().enumerate() {
                    let next = depths.get(k + 1).map(|part| of_part(panel, part));
                    let run = PanelRun {
                        source,
                        depth: part,
                        panel,
                        weights: of_part(panel, part),
                        next_weights: next.unwrap_or_else(|| of_part(next_panel, &depths[0])),
                        next_rows: rows.next().unwrap_or_default(),
                    };
                    self.panel(&run, lines(), seen);
                }
            }
            weights += depth * product.layout.columns;
            seen += lines().map(|l| l.cells).sum::<usize>();
        }
    }

    /// Tiles of a panel in lines that are all as long as the first phase's.
    fn count_tiles(&self, panel: &Panel) -> usize {
        let layout = &self.product.layout;
        let width = layout.axes[1].cells(0);
        let most = layout.isa.tile_rows(panel.vectors);
        let cells = self.block.images * self.block.rows;
        if self.is_column() { cells.div_ceil(most) } else { cells * width.div_ceil(most) }
    }

    /// Whether maps are one cell wide, so that tiles run over rows.
    fn is_column(&self) -> bool {
        self.product.layout.axes[1].cells(0) == 1
    }

    /// The lines of cells of a phase.
    fn lines(&self, phase: &Phase, image: usize) -> impl Iterator<Item = Line> {
        let Product { layout: Layout { axes, .. }, cell, .. } = self.product;
        let block = self.block;
        let rows = axes[0].cells(phase.at[0]).saturating_sub(block.y).min(block.rows);
        let columns = axes[1].cells(phase.at[1]);
        let (lines, cells) = if self.is_column() { (1, rows * columns) } else { (rows, columns) };
        let (at, step) = (phase.at, cell[0]);
        let [height, width] = axes.map(|a| a.target);
        let spread = axes[0].spread;
        (0..block.images).flat_map(move |i| {
            (0..lines).map(move |r| Line {
                from: i * image + r * step,
                to: ((block.image + i) * height + (block.y + r) * spread + at[0]) * width + at[1],
                cells,
            })
        })
    }

    /// Distances between a line's cells in source and target.
    fn strides(&self) -> (usize, usize) {
        let Layout { axes, channels, .. } = &self.product.layout;
        if self.is_column() {
            (self.product.cell[0], axes[0].spread * axes[1].target * channels[1])
        } else {
            (self.product.cell[1], axes[1].spread * channels[1])
        }
    }

    /// Computes a panel's tiles, after `seen` pixels of other phases.
    fn panel(&self, run: &PanelRun, lines: impl Iterator<Item = Line>, mut seen: usize) {
        let layout = &self.product.layout;
        let [channels, out_channels] = layout.channels;
        let panel = run.panel;
        let group = panel.start / (out_channels / layout.groups);
        let source = run.source.wrapping_add(group * (channels / layout.groups));
        let (a_stride, c_stride) = self.strides();
        let mut ahead = run.ahead(self.count_tiles(panel));
        for line in lines {
            for (first, rows) in cut(line.cells, layout.isa.tile_rows(panel.vectors)) {
                let to = line.to * out_channels + first * c_stride + panel.start;
                let tile = Tile {
                    a: source.wrapping_add(line.from + first * a_stride),
                    a_stride,
                    runs: &run.depth.runs,
                    b: run.weights.as_ptr(),
                    c: self.y.ptr().wrapping_add(to),
                    c_stride,
                    n: panel.width,
                    goes_on: run.depth.first > 0,
                    exit: if run.depth.is_last {
                        self.exit(panel, to, seen)
                    } else {
                        self.begin(panel)
                    },
                    ahead: ahead.next().unwrap_or(Ahead::NOTHING),
                };
                // SAFETY: `run` saw that the CPU has `isa`. The source holds every tap of the
                // block's cells, the panel's weights are as deep as the runs, and the target's
                // pixels and channels are this task's alone.
                unsafe { run_tile(layout.isa, rows, panel.vectors, &tile) };
                seen += rows;
            }
        }
    }

    /// Where sums that are not finished begin.
    fn begin(&self, panel: &Panel) -> TileExit<'_> {
        match &self.finish {
            Finish::Exit(Exit { shift: Some(shift), .. }) => {
                TileExit { shift: shift[panel.start..].as_ptr(), ..TileExit::NONE }
            }
            _ => TileExit::NONE,
        }
    }

    /// What happens to the tile that begins at value `to`.
    fn exit(&self, panel: &Panel, to: usize, seen: usize) -> TileExit<'_> {
        let (gathered, stride) = (self.gathered(panel), self.product.layout.columns);
        match &self.finish {
            Finish::Exit(exit) => TileExit {
                shift: exit.shift.map_or(std::ptr::null(), |s| s[panel.start..].as_ptr()),
                residual: exit.residual.map_or(std::ptr::null(), |r| r[to..].as_ptr()),
                activation: exit.activation,
                curve: exit.curve,
                gather: Gather::Nothing,
                streams: self.streams,
            },
            Finish::Moments(_) => TileExit {
                gather: Gather::Moments { to: gathered, stride, before: seen },
                streams: self.streams,
                ..TileExit::NONE
            },
            Finish::Through(Through { x, entry, center }, _) => {
                let through = TileThrough {
                    x: x[to..].as_ptr(),
                    scale: &entry.scale[panel.start..],
                    shift: &entry.shift[panel.start..],
                    center: &center[panel.start..],
                    activation: entry.activation,
                };
                let gather = Gather::Gradient { to: gathered, stride, through };
                TileExit { gather, streams: self.streams, ..TileExit::NONE }
            }
        }
    }

    /// Writes zeros where no tap meets.
    fn clear(&self, line: &Line, panel: &Panel) {
        let (_, c_stride) = self.strides();
        for i in 0..line.cells {
            let to = line.to * self.product.layout.channels[1] + i * c_stride + panel.start;
            // SAFETY: pixels and channels of this task.
            unsafe {
                std::slice::from_raw_parts_mut(self.y.ptr().add(to), panel.width).fill(0.0);
            }
        }
    }
}
