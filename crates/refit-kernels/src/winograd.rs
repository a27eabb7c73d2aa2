//! Winograd's convolution F(4x4, 3x3): 36 products for 16 outputs instead of 144.
//! Lavin & Gray 2015, <https://arxiv.org/abs/1509.09308>.
//!
//! The output is cut into tiles of 4x4 pixels. A tile's input, 6x6 pixels, is transformed; each of
//! the 36 places of the result is multiplied by a matrix of transformed weights; the products are
//! transformed back. It serves 3x3 kernels of stride 1, and the gradient with respect to their input,
//! which is such a convolution too. The gradient with respect to the weights is F(3x3, 4x4), on the
//! same tiles.

mod transform;
mod weight_gradient;

use std::ops::Range;

use self::transform::{
    EntryRows, ExitRows, Finish, M, N, Outcome, PRODUCTS, Patch, Sums, Taps, ThroughRows,
    transform_filter, transform_gradient, transform_input, transform_output,
};
pub(crate) use self::weight_gradient::{pays_for_weights, weight_gradient};
use crate::buffer::Buffer;
use crate::conv::{ConvShape, Entry, Exit, Moments};
use crate::curve::bend;
use crate::norm::{GradientSums, Through};
use crate::partials::{Joined, fold_sums};
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Ahead, Panel, Run, Tile, TileExit, cut, panels, run_tile};

/// Tiles that go from input to output in one task when weights are small: their transformed input
/// and the products of a panel stay in the second cache.
const TASK: usize = 28;

/// Bytes of transformed weights that are reread for every task; larger ones are read once for as
/// many tiles as [`STAGE_BYTES`] hold.
const REREAD_BYTES: usize = 3 << 20;

/// Most tiles of a stage, and most bytes of their transformed input and products: more would leave
/// the caches.
const STAGE: usize = 128;
const STAGE_BYTES: usize = 20 << 20;

/// Tiles of a task of the transforms when the steps are done one after the other.
const STAGE_TASK: usize = 4;

/// Whether a convolution has the form that this serves.
pub(crate) fn fits(shape: &ConvShape) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
}

/// Whether this is faster than the direct convolution: tiles that mostly lie inside the image, and
/// channels enough for the products to outweigh the transforms. The batch doesn't matter, so that an
/// image's result does not depend on it.
pub(crate) fn pays(shape: &ConvShape) -> bool {
    let [height, width] = shape.out_size();
    let tiles = height.div_ceil(M) * width.div_ceil(M);
    fits(shape) && shape.channels.min(shape.out_channels) >= 32 && height * width >= 2 * M * tiles
}

/// Whether there are so few tiles that the direct convolution is faster after all, which reads a
/// quarter of the weights.
pub(crate) fn is_small(shape: &ConvShape) -> bool {
    let [height, width] = shape.out_size();
    shape.batch * height.div_ceil(M) * width.div_ceil(M) <= 6
}

/// Weights transformed and packed: panels of `[36][depth][vectors * lanes]`.
#[derive(Debug)]
pub(crate) struct Filter {
    isa: Isa,
    depth: usize,
    channels: usize,
    panels: Vec<Panel>,
    weights: Buffer,
}

impl Filter {
    /// Packs `weight`, `[o, c, 3, 3]`, for [`convolve`].
    pub(crate) fn new(isa: Isa, shape: &ConvShape, weight: &[f32]) -> Self {
        let c = shape.channels;
        let taps = Taps { from: weight.as_ptr(), row: 9, column: 9 * c, turned: false };
        Self::pack(isa, shape, weight, [c, shape.out_channels], taps)
    }

    /// Packs `weight`, `[o, c, 3, 3]`, for the gradient with respect to the input.
    fn of_gradient(isa: Isa, shape: &ConvShape, weight: &[f32]) -> Self {
        let c = shape.channels;
        let taps = Taps { from: weight.as_ptr(), row: 9 * c, column: 9, turned: true };
        Self::pack(isa, shape, weight, [shape.out_channels, c], taps)
    }

    fn pack(
        isa: Isa,
        shape: &ConvShape,
        weight: &[f32],
        [depth, channels]: [usize; 2],
        taps: Taps,
    ) -> Self {
        /// Rows a task packs.
        const ROWS: usize = 32;
        assert!(fits(shape), "winograd: a 3x3 kernel of stride 1");
        assert_eq!(weight.len(), shape.weight_len(), "winograd: length of `weight`");
        let (panels, len) = panels(isa, channels, PRODUCTS * depth);
        let mut weights = Buffer::stale(len);
        let to = Shared::new(&mut weights);
        let taps = SharedTaps(taps);
        let blocks = depth.div_ceil(ROWS);
        parallel(panels.len() * blocks, |task| {
            let (panel, first) = (&panels[task / blocks], task % blocks * ROWS);
            let taps = taps.from(first, panel.start);
            let row = panel.vectors * isa.lanes();
            // SAFETY: tasks own disjoint rows of the panels; all taps lie in `weight`.
            unsafe {
                let to = to.ptr().add(panel.offset + first * row);
                let rows = ROWS.min(depth - first);
                transform_filter(isa, taps, rows, panel.width, panel.vectors, to, depth * row);
            }
        });
        Self { isa, depth, channels, panels, weights }
    }
}

/// [`Taps`] for all threads.
struct SharedTaps(Taps);

// SAFETY: the taps are only read.
unsafe impl Sync for SharedTaps {}

impl SharedTaps {
    /// Those of an input and an output channel on.
    fn from(&self, row: usize, column: usize) -> Taps {
        let taps = self.0;
        Taps { from: taps.from.wrapping_add(row * taps.row + column * taps.column), ..taps }
    }
}

/// A map's rows, columns and channels.
#[derive(Debug, Clone, Copy)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
}

/// A convolution cut into tiles.
#[derive(Debug, Clone, Copy)]
struct Plan {
    batch: usize,
    input: Map,
    output: Map,
    /// Zeros before the first row and column; fewer than none if those are never read.
    padding: [isize; 2],
    /// Tiles of an image.
    tiles: [usize; 2],
}

impl Plan {
    fn new(batch: usize, input: Map, output: Map, padding: [isize; 2]) -> Self {
        let tiles = [output.height.div_ceil(M), output.width.div_ceil(M)];
        Self { batch, input, output, padding, tiles }
    }

    fn forward(s: &ConvShape) -> Self {
        let [height, width] = s.out_size();
        let input = Map { height: s.height, width: s.width, channels: s.channels };
        let output = Map { height, width, channels: s.out_channels };
        Self::new(s.batch, input, output, s.padding.map(|p| p.0 as isize))
    }

    /// The gradient of the input is the convolution of the output's with the turned kernel.
    fn backward(s: &ConvShape) -> Self {
        let forward = Self::forward(s);
        let padding = forward.padding.map(|p| 2 - p);
        Self::new(s.batch, forward.output, forward.input, padding)
    }

    /// Tiles of all images.
    fn total(&self) -> usize {
        self.batch * self.tiles[0] * self.tiles[1]
    }

    /// Image, and first output row and column, of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [rows, columns] = self.tiles;
        (tile / (rows * columns), tile / columns % rows * M, tile % columns * M)
    }

    /// Output pixels of some tiles.
    fn pixels(&self, tiles: Range<usize>) -> usize {
        let Map { height, width, .. } = self.output;
        let area = |(_, y, x): (usize, usize, usize)| M.min(height - y) * M.min(width - x);
        tiles.map(|tile| area(self.place(tile))).sum()
    }

    /// Room for three rows of sums for each group of tiles.
    fn sums(&self, schedule: Schedule) -> Buffer {
        Buffer::stale(self.total().div_ceil(schedule.group()) * 3 * self.output.channels)
    }
}

/// The rows (or columns) of a patch of `side` that lie inside an image of `len`, if its first is
/// `at`.
fn inside(at: isize, side: usize, len: usize) -> Range<usize> {
    let clip = |v: isize| v.clamp(0, side as isize) as usize;
    clip(-at)..clip(len as isize - at).max(clip(-at))
}

/// A map of which tiles are read.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    values: &'a [f32],
    map: Map,
    entry: Option<Entry<'a>>,
    /// Zeros before the first row and column; fewer than none if those are never read.
    padding: [isize; 2],
}

impl Source<'_> {
    /// What a tile of `side` by `side` reads of `channels`, if its output begins at `place`. It is
    /// to be transformed to `to`.
    fn patch(
        &self,
        (image, y, x): (usize, usize, usize),
        side: usize,
        channels: Range<usize>,
        (to, product): (*mut f32, usize),
    ) -> Patch {
        let Map { height, width, channels: pixel } = self.map;
        let [y, x] = [y as isize - self.padding[0], x as isize - self.padding[1]];
        let at = (y * width as isize + x) * pixel as isize + channels.start as isize;
        let image = self.values[image * height * width * pixel..].as_ptr();
        let entry = self.entry.map(|e| {
            let (low, high) = e.activation.bounds();
            let [scale, shift] = [e.scale, e.shift].map(|v| v[channels.start..].as_ptr());
            EntryRows { scale, shift, low, high }
        });
        Patch {
            at: image.wrapping_offset(at),
            row: width * pixel,
            pixel,
            channels: channels.len(),
            rows: inside(y, side, height),
            columns: inside(x, side, width),
            entry,
            to,
            product,
        }
    }
}

/// How the work is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schedule {
    /// Tasks of so many tiles from input to output.
    Whole(usize),
    /// The three steps one after the other over so many tiles.
    Staged(usize),
}

impl Schedule {
    fn of(plan: &Plan) -> Self {
        let (c, o) = (plan.input.channels, plan.output.channels);
        // No images make one empty stage.
        let total = plan.total().max(1);
        if PRODUCTS * c * o * 4 <= REREAD_BYTES && total >= TASK {
            // A multiple of four tasks, so that two or four threads finish together.
            let tasks = total.div_ceil(TASK).next_multiple_of(4);
            return Self::Whole(total.div_ceil(tasks));
        }
        let most = (STAGE_BYTES / (4 * PRODUCTS * (c + o))).clamp(TASK, STAGE);
        Self::Staged(total.div_ceil(total.div_ceil(most)).next_multiple_of(STAGE_TASK))
    }

    /// Tiles whose sums are gathered together.
    fn group(self) -> usize {
        match self {
            Self::Whole(tiles) => tiles,
            Self::Staged(_) => STAGE_TASK,
        }
    }
}

/// What the output passes.
#[derive(Debug, Clone, Copy)]
enum End<'a> {
    Exit(Exit<'a>),
    Moments,
    Through(Through<'a>),
}

/// Values between the pixels of a transformed map: whole vectors, and an odd number of cache lines,
/// so that pixels of a tile don't fall into the same sets.
const fn spaced(channels: usize) -> usize {
    channels.next_multiple_of(32) + 16
}

/// A convolution under way.
struct Job<'a> {
    plan: Plan,
    filter: &'a Filter,
    x: &'a [f32],
    entry: Option<Entry<'a>>,
    end: End<'a>,
    y: Shared,
    sums: Option<Shared>,
}

impl Job<'_> {
    /// Transforms the input of some tiles. Row `i` of `v`'s first matrix is tile `i`'s of `tiles`.
    ///
    /// # Safety
    /// `v` holds these rows of all matrices, `product` apart.
    unsafe fn enter(&self, tiles: Range<usize>, v: *mut f32, product: usize) {
        let map = self.plan.input;
        let source = Source { values: self.x, map, entry: self.entry, padding: self.plan.padding };
        for (i, tile) in tiles.enumerate() {
            let to = (v.wrapping_add(i * spaced(map.channels)), product);
            let patch = source.patch(self.plan.place(tile), N, 0..map.channels, to);
            // SAFETY: the filter was packed for a CPU with this; only what lies inside is read.
            unsafe { transform_input(self.filter.isa, &patch) };
        }
    }

    /// `count` pixels times one panel of one of the matrices: from `v` to `m`, `m_row` apart.
    ///
    /// # Safety
    /// `v` and `m` hold so many pixels.
    unsafe fn multiply(
        &self,
        panel: &Panel,
        product: usize,
        count: usize,
        v: *const f32,
        m: *mut f32,
        m_row: usize,
    ) {
        let Filter { isa, depth, ref weights, .. } = *self.filter;
        let (n, stride) = (panel.vectors * isa.lanes(), spaced(depth));
        let b = weights[panel.offset + product * depth * n..].as_ptr();
        for (first, rows) in cut(count, isa.tile_rows(panel.vectors)) {
            let tile = Tile {
                a: v.wrapping_add(first * stride),
                a_stride: stride,
                runs: &[Run { offset: 0, len: depth }],
                b,
                c: m.wrapping_add(first * m_row),
                c_stride: m_row,
                n,
                goes_on: false,
                exit: TileExit::NONE,
                ahead: Ahead::NOTHING,
            };
            // SAFETY: by the caller's word; the panel holds `depth` rows for each product.
            unsafe { run_tile(isa, rows, panel.vectors, &tile) };
        }
    }

    /// Transforms the products of some tiles back, for `width` output channels from `start` on.
    /// `group` is the number of the rows of sums that they add to.
    ///
    /// # Safety
    /// `m` holds the tiles' rows of all products, `row` and `product` apart. No other task writes
    /// these tiles' channels, or adds to the same rows.
    unsafe fn leave(
        &self,
        tiles: Range<usize>,
        group: usize,
        (start, width): (usize, usize),
        (m, row, product): (*const f32, usize, usize),
    ) {
        let map = self.plan.output;
        for (i, tile) in tiles.enumerate() {
            let (image, y, x) = self.plan.place(tile);
            let at = ((image * map.height + y) * map.width + x) * map.channels + start;
            let sums = self.sums.map_or(std::ptr::null_mut(), |s| {
                s.ptr().wrapping_add(group * 3 * map.channels + start)
            });
            let outcome = Outcome {
                from: m.wrapping_add(i * row),
                product,
                channels: width,
                rows: M.min(map.height - y),
                columns: M.min(map.width - x),
                to: self.y.ptr().wrapping_add(at),
                row: map.width * map.channels,
                pixel: map.channels,
                finish: self.finish(at, start),
                sums: Sums { at: sums, row: map.channels, first: i == 0 },
            };
            // SAFETY: by the caller's word; only what lies inside the map is touched.
            unsafe { transform_output(self.filter.isa, &outcome) };
        }
    }

    /// What becomes of the output value at `at`, of channel `channel`.
    fn finish(&self, at: usize, channel: usize) -> Finish {
        let row = |values: &[f32]| values[channel..].as_ptr();
        match self.end {
            End::Exit(exit) => {
                let (low, high) = exit.activation.bounds();
                let shift = exit.shift.map_or(std::ptr::null(), row);
                let residual = exit.residual.map_or(std::ptr::null(), |r| r[at..].as_ptr());
                Finish::Exit(ExitRows { shift, residual, low, high })
            }
            End::Moments => Finish::Moments,
            End::Through(Through { x, entry, center }) => {
                let (low, high) = entry.activation.bounds();
                let (x, scale, shift) = (x[at..].as_ptr(), row(entry.scale), row(entry.shift));
                Finish::Through(ThroughRows { x, scale, shift, center: row(center), low, high })
            }
        }
    }

    /// Tiles of a task from input to output, a panel at a time.
    fn whole(&self, most: usize) {
        let total = self.plan.total();
        let lanes = self.filter.isa.lanes();
        let widest = self.filter.panels.iter().map(|p| p.vectors * lanes).max().unwrap_or(0);
        let v_product = most * spaced(self.plan.input.channels);
        let m_product = most * widest + 16;
        parallel(total.div_ceil(most), |task| {
            let tiles = task * most..total.min((task + 1) * most);
            with_scratch(PRODUCTS * (v_product + m_product), |scratch| {
                let (v, m) = scratch.split_at_mut(PRODUCTS * v_product);
                let (v, m) = (v.as_mut_ptr(), m.as_mut_ptr());
                // SAFETY: `v` and `m` hold `most` pixels of each product; a task owns its tiles.
                unsafe {
                    self.enter(tiles.clone(), v, v_product);
                    for panel in &self.filter.panels {
                        let row = panel.vectors * lanes;
                        for f in 0..PRODUCTS {
                            let (v, m) = (v.add(f * v_product), m.add(f * m_product));
                            self.multiply(panel, f, tiles.len(), v, m, row);
                        }
                        let channels = (panel.start, panel.width);
                        self.leave(tiles.clone(), task, channels, (m, row, m_product));
                    }
                }
            });
        });
    }

    /// Every step over `most` tiles, then the next.
    fn staged(&self, most: usize) {
        let total = self.plan.total();
        let (v_row, m_row) = (spaced(self.plan.input.channels), spaced(self.plan.output.channels));
        let (v_product, m_product) = (most * v_row, most * m_row);
        let mut v = Buffer::stale(PRODUCTS * v_product);
        let mut m = Buffer::stale(PRODUCTS * m_product);
        let (v, m) = (Shared::new(&mut v), Shared::new(&mut m));
        for first in (0..total).step_by(most) {
            let tiles = first..total.min(first + most);
            self.stage(tiles, (v, v_row, v_product), (m, m_row, m_product));
        }
    }

    fn stage(
        &self,
        tiles: Range<usize>,
        (v, v_row, v_product): (Shared, usize, usize),
        (m, m_row, m_product): (Shared, usize, usize),
    ) {
        /// Panels of a task of the products.
        const PANELS: usize = 4;
        let tasks = tiles.len().div_ceil(STAGE_TASK);
        let part = |task: usize| {
            tiles.start + task * STAGE_TASK..tiles.end.min(tiles.start + (task + 1) * STAGE_TASK)
        };
        // SAFETY: `v` and `m` hold as many pixels of each product as there are tiles; tasks own
        // disjoint tiles, or products and panels.
        parallel(tasks, |task| unsafe {
            self.enter(part(task), v.ptr().add(task * STAGE_TASK * v_row), v_product);
        });
        let blocks = self.filter.panels.chunks(PANELS);
        parallel(PRODUCTS * blocks.len(), |task| {
            let (f, block) = (task % PRODUCTS, task / PRODUCTS);
            for panel in self.filter.panels.chunks(PANELS).nth(block).unwrap_or(&[]) {
                // SAFETY: as above.
                unsafe {
                    let v = v.ptr().add(f * v_product);
                    let m = m.ptr().add(f * m_product + panel.start);
                    self.multiply(panel, f, tiles.len(), v, m, m_row);
                }
            }
        });
        // SAFETY: as above.
        parallel(tasks, |task| unsafe {
            let m = m.ptr().add(task * STAGE_TASK * m_row);
            let group = part(task).start / STAGE_TASK;
            let channels = (0, self.plan.output.channels);
            self.leave(part(task), group, channels, (m, m_row, m_product));
        });
    }
}

/// Computes a planned convolution; rows of [`Sums`] for each group of tiles, if `sums` is there.
fn run(
    plan: Plan,
    schedule: Schedule,
    (x, entry): (&[f32], Option<Entry>),
    filter: &Filter,
    end: End,
    y: &mut [f32],
    sums: Option<&mut [f32]>,
) {
    let Plan { batch, input, output, .. } = plan;
    let len = |map: Map| batch * map.height * map.width * map.channels;
    assert_eq!(x.len(), len(input), "winograd: length of the input");
    assert_eq!(y.len(), len(output), "winograd: length of the output");
    assert_eq!(filter.depth, input.channels, "winograd: channels of the filter");
    assert_eq!(filter.channels, output.channels, "winograd: output channels of the filter");
    let row = |name: &str, values: &[f32], channels: usize| {
        assert_eq!(values.len(), channels, "winograd: length of `{name}`");
    };
    if let Some(Entry { scale, shift, .. }) = entry {
        row("scale", scale, input.channels);
        row("shift", shift, input.channels);
    }
    match end {
        End::Exit(Exit { shift, residual, .. }) => {
            shift.inspect(|s| row("shift", s, output.channels));
            residual.inspect(|r| row("residual", r, y.len()));
        }
        End::Moments => {}
        End::Through(Through { x, entry, center }) => {
            row("x", x, y.len());
            for values in [entry.scale, entry.shift, center] {
                row("through", values, output.channels);
            }
        }
    }
    let (y, sums) = (Shared::new(y), sums.map(Shared::new));
    let job = Job { plan, filter, x, entry, end, y, sums };
    match schedule {
        Schedule::Whole(tiles) => job.whole(tiles),
        Schedule::Staged(tiles) => job.staged(tiles),
    }
}

/// `y = exit(convolution(entry(x), filter))`.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub(crate) fn convolve(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    exit: Exit,
    y: &mut [f32],
) {
    let plan = Plan::forward(shape);
    if exit.curve.is_none() {
        return run(plan, Schedule::of(&plan), (x, entry), filter, End::Exit(exit), y, None);
    }
    let given = shape.output_len() / shape.batch.max(1);
    bent(shape, x, entry, filter, exit, y, (BENT / given.max(1)).max(1));
}

/// A convolution whose exit has a curve: some images at a time, so that they are bent while they are in
/// the cache.
fn bent(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    exit: Exit,
    y: &mut [f32],
    images: usize,
) {
    assert_eq!(x.len(), shape.input_len(), "winograd: length of the input");
    assert_eq!(y.len(), shape.output_len(), "winograd: length of the output");
    let whole = exit.residual.is_none_or(|r| r.len() == y.len());
    assert!(whole, "winograd: length of `residual`");
    let [taken, given] = [x.len(), y.len()].map(|len| len / shape.batch.max(1));
    for first in (0..shape.batch).step_by(images) {
        let batch = images.min(shape.batch - first);
        let plan = Plan::forward(&ConvShape { batch, ..*shape });
        let part = first * given..(first + batch) * given;
        let end = End::Exit(Exit { residual: exit.residual.map(|r| &r[part.clone()]), ..exit });
        let (x, y) = (&x[first * taken..][..batch * taken], &mut y[part]);
        run(plan, Schedule::of(&plan), (x, entry), filter, end, y, None);
        exit.curve.into_iter().for_each(|curve| bend(y, curve));
    }
}

/// Values of an output that are bent together.
const BENT: usize = 1 << 20;

/// `y = convolution(entry(x), filter)`, and the mean and variance of each channel of `y`.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub(crate) fn convolve_with_moments(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    y: &mut [f32],
) -> Moments {
    let plan = Plan::forward(shape);
    let schedule = Schedule::of(&plan);
    let mut sums = plan.sums(schedule);
    run(plan, schedule, (x, entry), filter, End::Moments, y, Some(&mut sums));
    fold_moments(&plan, schedule, &sums)
}

/// `dx`, as [`crate::input_gradient`] has it.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub(crate) fn input_gradient(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let (plan, filter) = (Plan::backward(shape), Filter::of_gradient(isa, shape, weight));
    let end = End::Exit(Exit::default());
    run(plan, Schedule::of(&plan), (dy, None), &filter, end, dx, None);
}

/// [`input_gradient`] and then [`crate::gradient_through`] the entry, in one pass.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub(crate) fn input_gradient_through(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    through: Through,
    dx: &mut [f32],
) -> GradientSums {
    let (plan, filter) = (Plan::backward(shape), Filter::of_gradient(isa, shape, weight));
    let schedule = Schedule::of(&plan);
    let mut sums = plan.sums(schedule);
    run(plan, schedule, (dy, None), &filter, End::Through(through), dx, Some(&mut sums));
    let c = shape.channels;
    let sums: Vec<f32> = fold_sums(&sums, 3 * c).into_iter().map(|v| v as f32).collect();
    GradientSums { sum: sums[c..2 * c].to_vec(), product: sums[2 * c..].to_vec() }
}

/// Joins the groups' sums, which are taken around a pivot, in their order.
fn fold_moments(plan: &Plan, schedule: Schedule, sums: &[f32]) -> Moments {
    let channels = plan.output.channels;
    let mut joined = Joined::new(channels);
    for (group, rows) in sums.chunks_exact(3 * channels).enumerate() {
        let first = group * schedule.group();
        let pixels = plan.pixels(first..plan.total().min(first + schedule.group()));
        joined.join(pixels, |c| {
            let [pivot, sum, square] = [0, 1, 2].map(|k| f64::from(rows[k * channels + c]));
            let count = pixels as f64;
            let squares = square - sum * sum / count;
            // Rounding may leave less than nothing; a NaN stays.
            [pivot + sum / count, if squares < 0.0 { 0.0 } else { squares }]
        });
    }
    joined.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::conv::reference;
    use crate::curve::Curve;
    use crate::norm;

    /// Normally distributed values, near enough: sums of twelve uniform ones.
    pub(super) fn normal(len: usize, seed: u64, scale: f32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
        let mut uniform = move || {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..len).map(|_| scale * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
    }

    /// He's scale for weights.
    fn weights(shape: &ConvShape) -> Vec<f32> {
        normal(shape.weight_len(), 2, (2.0 / (9 * shape.channels) as f32).sqrt())
    }

    pub(super) fn shape(
        batch: usize,
        [height, width]: [usize; 2],
        [channels, out_channels]: [usize; 2],
        padding: [(usize, usize); 2],
    ) -> ConvShape {
        ConvShape {
            batch,
            height,
            width,
            channels,
            out_channels,
            kernel: [3, 3],
            stride: [1, 1],
            padding,
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// Odd sizes, uneven paddings, channels around whole vectors; some are computed whole, some in
    /// stages.
    pub(super) fn shapes() -> Vec<ConvShape> {
        let same = [(1, 1); 2];
        vec![
            shape(1, [1, 1], [1, 1], same),
            shape(2, [7, 7], [31, 33], same),
            shape(3, [4, 9], [16, 48], [(0, 0), (1, 1)]),
            shape(1, [6, 5], [3, 5], [(2, 0), (0, 1)]),
            shape(2, [5, 3], [17, 100], [(3, 1), (1, 4)]),
            shape(2, [30, 21], [5, 16], same),
            shape(1, [23, 25], [33, 31], [(0, 2), (2, 2)]),
            shape(5, [14, 13], [48, 17], same),
        ]
    }

    /// Rounding errors grow with the root of the products summed and with the transforms: with
    /// normally distributed data they stay near 2e-6 of the largest value, with 512 channels too.
    pub(super) const TOLERANCE: f32 = 2e-5;

    /// The greatest difference, as a share of the greatest value.
    pub(super) fn error(got: &[f32], want: &[f32]) -> f32 {
        assert_eq!(got.len(), want.len());
        let top = want.iter().fold(f32::MIN_POSITIVE, |top, v| top.max(v.abs()));
        let off = got.iter().zip(want).map(|(g, w)| (g - w).abs());
        off.fold(0.0, |off, v| if v.is_nan() { f32::INFINITY } else { v.max(off) }) / top
    }

    pub(super) fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn convolutions_agree_with_their_definition() {
        for s in shapes() {
            let (x, w) = (normal(s.input_len(), 1, 1.0), weights(&s));
            let (scale, shift) = (normal(s.channels, 3, 1.0), normal(s.channels, 4, 1.0));
            let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu };
            let add = normal(s.out_channels, 5, 1.0);
            let residual = normal(s.output_len(), 6, 1.0);
            let full = Exit {
                shift: Some(&add),
                residual: Some(&residual),
                activation: Activation::Relu6,
                curve: None,
            };
            let bent = Exit { activation: Activation::Identity, curve: Some(Curve::Silu), ..full };
            for (entry, exit) in [(None, Exit::default()), (Some(entry), full), (None, bent)] {
                let want = reference::convolve(&s, &x, entry, &w, exit);
                for isa in Isa::available() {
                    let mut y = vec![f32::NAN; s.output_len()];
                    convolve(&s, &x, entry, &Filter::new(isa, &s, &w), exit, &mut y);
                    let off = error(&y, &want);
                    assert!(off < TOLERANCE, "{isa:?} {s:?}: {off:e}");
                }
            }
        }
    }

    #[test]
    fn images_are_bent_together_or_alone() {
        let s = shape(5, [9, 10], [16, 20], [(1, 1); 2]);
        let (x, w) = (normal(s.input_len(), 1, 1.0), weights(&s));
        let residual = normal(s.output_len(), 6, 1.0);
        let exit = Exit { residual: Some(&residual), curve: Some(Curve::Silu), ..Exit::default() };
        let filter = Filter::new(Isa::widest(), &s, &w);
        let run = |images: usize| {
            let mut y = vec![f32::NAN; s.output_len()];
            bent(&s, &x, None, &filter, exit, &mut y, images);
            y
        };
        let all = run(5);
        assert!(all.iter().all(|v| v.is_finite()));
        assert!([1, 2].into_iter().all(|images| run(images) == all));
    }

    #[test]
    fn many_channels_keep_the_tolerance() {
        let s = shape(1, [6, 7], [512, 64], [(1, 1); 2]);
        let x: Vec<f32> =
            normal(s.input_len(), 1, 1.0).into_iter().map(|v| Activation::Relu.of(v)).collect();
        let w = weights(&s);
        let want = reference::convolve(&s, &x, None, &w, Exit::default());
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; s.output_len()];
            convolve(&s, &x, None, &Filter::new(isa, &s, &w), Exit::default(), &mut y);
            let off = error(&y, &want);
            assert!(off < TOLERANCE / 4.0, "{isa:?}: {off:e}");
        }
    }

    #[test]
    fn moments_are_those_of_the_output() {
        for s in shapes() {
            // A mean far from zero would show sums that cancel.
            let x: Vec<f32> = normal(s.input_len(), 1, 1.0).into_iter().map(|v| v + 20.0).collect();
            let w = weights(&s);
            for isa in Isa::available() {
                let filter = Filter::new(isa, &s, &w);
                let mut plain = vec![f32::NAN; s.output_len()];
                convolve(&s, &x, None, &filter, Exit::default(), &mut plain);
                let mut y = vec![f32::NAN; s.output_len()];
                let got = convolve_with_moments(&s, &x, None, &filter, &mut y);
                assert_eq!(bits(&y), bits(&plain), "{isa:?} {s:?}");
                let want = norm::moments(&y, s.out_channels);
                assert!(error(&got.mean, &want.mean) < 1e-5, "{isa:?} {s:?}");
                assert!(error(&got.variance, &want.variance) < 1e-5, "{isa:?} {s:?}");
            }
        }
    }

    #[test]
    fn input_gradients_agree_with_their_definition() {
        for s in shapes() {
            let (dy, w) = (normal(s.output_len(), 1, 1.0), weights(&s));
            let x = normal(s.input_len(), 7, 1.0);
            let [scale, shift, center] = [3, 4, 5].map(|seed| normal(s.channels, seed, 1.0));
            let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu };
            let through = Through { x: &x, entry, center: &center };
            let want = reference::input_gradient(&s, &w, &dy);
            for isa in Isa::available() {
                let mut dx = vec![f32::NAN; s.input_len()];
                input_gradient(isa, &s, &w, &dy, &mut dx);
                let off = error(&dx, &want);
                assert!(off < TOLERANCE, "{isa:?} {s:?}: {off:e}");
                let mut gated = vec![f32::NAN; s.input_len()];
                let got = input_gradient_through(isa, &s, &w, &dy, through, &mut gated);
                let want = norm::gradient_through(&mut dx, through);
                assert_eq!(gated, dx, "{isa:?} {s:?}");
                assert!(error(&got.sum, &want.sum) < 1e-4, "{isa:?} {s:?}");
                assert!(error(&got.product, &want.product) < 1e-4, "{isa:?} {s:?}");
            }
        }
    }

    #[test]
    fn neither_threads_nor_the_batch_change_a_bit() {
        for s in shapes() {
            let (x, w) = (normal(s.input_len(), 1, 1.0), weights(&s));
            let filter = Filter::new(Isa::widest(), &s, &w);
            let whole = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.expect("a pool").install(|| {
                    let mut y = vec![f32::NAN; s.output_len()];
                    let moments = convolve_with_moments(&s, &x, None, &filter, &mut y);
                    (bits(&y), bits(&moments.mean), bits(&moments.variance))
                })
            };
            let one = whole(1);
            assert!(one == whole(2) && one == whole(3), "{s:?}");
            let alone = ConvShape { batch: 1, ..s };
            let mut each = Vec::new();
            for x in x.chunks_exact(alone.input_len()) {
                let mut y = vec![f32::NAN; alone.output_len()];
                convolve(&alone, x, None, &filter, Exit::default(), &mut y);
                each.extend(bits(&y));
            }
            assert_eq!(each, one.0, "{s:?}");
        }
    }

    #[test]
    fn both_schedules_give_the_same_bits() {
        let s = shape(3, [13, 10], [20, 40], [(1, 1); 2]);
        let (x, w) = (normal(s.input_len(), 1, 1.0), weights(&s));
        let (plan, filter) = (Plan::forward(&s), Filter::new(Isa::widest(), &s, &w));
        let results = [Schedule::Whole(5), Schedule::Staged(8), Schedule::Staged(40)].map(|how| {
            let mut y = vec![f32::NAN; s.output_len()];
            run(plan, how, (&x, None), &filter, End::Exit(Exit::default()), &mut y, None);
            bits(&y)
        });
        assert!(results[0] == results[1] && results[0] == results[2]);
    }

    #[test]
    fn it_pays_where_tiles_and_channels_fill() {
        let same = |size, c| shape(1, [size, size], [c, c], [(1, 1); 2]);
        assert!(pays(&same(56, 64)) && pays(&same(7, 512)));
        assert!(!pays(&same(56, 3)) && !pays(&same(1, 512)));
        assert!(!pays(&ConvShape { stride: [2, 2], ..same(56, 64) }));
    }

    #[test]
    #[should_panic(expected = "length of the output")]
    fn a_short_output_is_refused() {
        let s = shape(1, [4, 4], [1, 1], [(1, 1); 2]);
        let filter = Filter::new(Isa::Scalar, &s, &[0.0; 9]);
        convolve(&s, &[0.0; 16], None, &filter, Exit::default(), &mut [0.0; 15]);
    }
}
