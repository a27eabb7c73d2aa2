//! The gradient with respect to the weights, F(3x3, 4x4): a tile's transformed input times the
//! transformed gradient of its output, summed over all tiles; the sums are transformed back once.
//! With the forward's points and tiles, each transform is one of the forward's, or one turned round.
//!
//! Channels are cut into blocks. A block's tiles, transformed, are a unit, `[36][tiles][channels]`.
//! For each of the 36 places, a unit of the input and one of the gradient make a matrix product whose
//! depth is the tiles.
//!
//! With few channels, tasks take some of the tiles and add them to sums of their own, all of which
//! stay in the second-level cache. With more, so many tiles are transformed as fit the last cache;
//! then tasks take pairs of blocks, or some places of a pair, and read its units once.

use std::ops::Range;

use super::transform::{Summed, transform_weights};
use super::{M, N, PRODUCTS, Plan, Source, fits, transform_gradient, transform_input};
use crate::buffer::Buffer;
use crate::conv::sum_tile::{PixelRun, SumTile, fold, run_sum_tile};
use crate::conv::{ConvShape, Entry};
use crate::rows::needed;
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Ahead, Panel, cut, panels};

/// Channels of a block: the sums of a pair of blocks stay in the second-level cache.
const BLOCK: usize = 64;

/// Up to so many channels make one block, whose units are then read once.
const ONE_BLOCK: usize = 128;

/// Input channels times output channels up to which tasks have sums of their own.
const OWN_SUMS: usize = 64 * 64;

/// Tiles summed in registers: their transformed channels stay in the first-level cache.
const CHUNK: usize = 64;

/// Tiles that a task with sums of its own transforms at once, and has at least.
const OWN_CHUNK: usize = 48;
const OWN_TILES: usize = 192;

/// Most tasks with sums of their own, which are folded in the end.
const OWN_TASKS: usize = 8;

/// Tasks wanted otherwise; most shares of the places of a pair.
const TASKS: usize = 16;
const SHARES: usize = 12;

/// Tiles that a task of the transforms takes.
const ENTER: usize = 16;

/// Bytes of transformed tiles: the cores' second-level caches and a little of the last one. As many
/// as there are of sums in any case, which are read and written once a stage.
const STAGE_BYTES: usize = 10 << 20;

/// Some channels of a map.
#[derive(Debug)]
struct Block {
    start: usize,
    width: usize,
    /// Values that a pixel takes: whole vectors.
    row: usize,
    /// Panels, with offsets for a depth of one.
    panels: Vec<Panel>,
}

impl Block {
    fn cut(isa: Isa, channels: usize, most: usize) -> Vec<Self> {
        let block = |start: usize| {
            let width = most.min(channels - start);
            let (panels, row) = panels(isa, width, 1);
            Self { start, width, row, panels }
        };
        (0..channels).step_by(most).map(block).collect()
    }

    fn channels(&self) -> Range<usize> {
        self.start..self.start + self.width
    }

    /// From a place's values to the next one's in a unit of so many tiles: an odd number of cache
    /// lines, so that a tile's values don't fall into the same sets.
    fn product(&self, tiles: usize) -> usize {
        tiles * self.row + 16
    }
}

/// The input or the gradient: a map whose patches of `side` by `side` pixels are transformed.
struct Side<'a> {
    source: Source<'a>,
    side: usize,
    blocks: Vec<Block>,
}

impl Side<'_> {
    /// Where the unit of a block begins if units have room for so many tiles; that of none, where
    /// the last one ends.
    fn unit_at(&self, block: usize, room: usize) -> usize {
        self.blocks[..block].iter().map(|b| PRODUCTS * b.product(room)).sum()
    }

    fn unit(&self, block: usize, units: Units) -> Unit<'_> {
        let at = units.memory.ptr().wrapping_add(self.unit_at(block, units.room));
        (&self.blocks[block], at, self.blocks[block].product(units.room))
    }

    /// Values of all units.
    fn len(&self, room: usize) -> usize {
        self.unit_at(self.blocks.len(), room)
    }
}

/// Transformed tiles: units with room for so many.
#[derive(Clone, Copy)]
struct Units {
    memory: Shared,
    room: usize,
}

/// A block, its unit, and that unit's [`Block::product`].
type Unit<'a> = (&'a Block, *const f32, usize);

/// Two blocks that are multiplied.
struct Pair<'a> {
    input: Unit<'a>,
    gradient: Unit<'a>,
    /// `[panel][36][output channels][channels of the panel]`.
    sums: *mut f32,
}

impl Pair<'_> {
    /// Adds the products of `tiles` tiles for some of the places, or writes them if sums don't go on.
    ///
    /// # Safety
    /// The CPU has `isa`; the units hold the tiles, and nobody else touches the sums of these places.
    unsafe fn add(&self, isa: Isa, places: Range<usize>, tiles: usize, goes_on: bool) {
        let (c, v, v_product) = self.input;
        let (o, m, m_product) = self.gradient;
        for place in places {
            let at = [m.wrapping_add(place * m_product), v.wrapping_add(place * v_product)];
            for (first, count) in cut(tiles, CHUNK) {
                let [m, v] = [at[0].wrapping_add(first * o.row), at[1].wrapping_add(first * c.row)];
                // SAFETY: by the caller's word.
                unsafe { self.add_chunk(isa, place, count, [m, v], goes_on || first > 0) };
            }
        }
    }

    /// Adds the products of one chunk, and brings near what lies behind it, which is the next one
    /// or the next place's first.
    ///
    /// # Safety
    /// As [`Self::add`].
    unsafe fn add_chunk(
        &self,
        isa: Isa,
        place: usize,
        count: usize,
        [m, v]: [*const f32; 2],
        goes_on: bool,
    ) {
        let ((c, ..), (o, ..)) = (self.input, self.gradient);
        let runs = [PixelRun { x: 0, dy: 0, len: count }];
        let tiles = |panel: &Panel| o.width.div_ceil(isa.tile_rows(panel.vectors));
        let half = c.panels.iter().map(tiles).sum::<usize>().div_ceil(2);
        // Tiles of registers bring near the gradient and the input by turns.
        let mut ahead = [(m, o.row), (v, c.row)].map(|(at, row)| Ahead {
            from: at.wrapping_add(count * row),
            step: row.div_ceil(half),
        });
        let mut turn = 0;
        for panel in &c.panels {
            let width = panel.vectors * isa.lanes();
            let sums = self.sums.wrapping_add((PRODUCTS * panel.offset + place * width) * o.width);
            for (first, rows) in cut(o.width, isa.tile_rows(panel.vectors)) {
                let tile = SumTile {
                    runs: &runs,
                    x: m.wrapping_add(first),
                    x_stride: o.row,
                    x_step: 1,
                    dy: v.wrapping_add(panel.start),
                    dy_stride: c.row,
                    sums: sums.wrapping_add(first * width),
                    goes_on,
                    ahead: ahead[turn],
                };
                ahead[turn].from = ahead[turn].from.wrapping_add(ahead[turn].step * count);
                turn = 1 - turn;
                // SAFETY: by the caller's word.
                unsafe { run_sum_tile(isa, rows, panel.vectors, &tile) };
            }
        }
    }
}

/// Sums of several tasks, `distance` apart.
#[derive(Clone, Copy)]
struct Parts {
    first: *const f32,
    count: usize,
    distance: usize,
}

/// A gradient to be computed.
struct Job<'a> {
    isa: Isa,
    plan: Plan,
    input: Side<'a>,
    gradient: Side<'a>,
}

impl<'a> Job<'a> {
    fn new(isa: Isa, s: &ConvShape, x: &'a [f32], entry: Option<Entry<'a>>, dy: &'a [f32]) -> Self {
        let plan = Plan::forward(s);
        let most = if s.channels.max(s.out_channels) <= ONE_BLOCK { ONE_BLOCK } else { BLOCK };
        let side = |source: Source<'a>, side: usize| {
            let blocks = Block::cut(isa, source.map.channels, most);
            Side { source, side, blocks }
        };
        let input = Source { values: x, map: plan.input, entry, padding: plan.padding };
        let gradient = Source { values: dy, map: plan.output, entry: None, padding: [0; 2] };
        Self { isa, plan, input: side(input, N), gradient: side(gradient, M) }
    }

    /// Values of an output channel's sums at one place.
    fn sums_row(&self) -> usize {
        self.input.blocks.iter().map(|c| c.row).sum()
    }

    /// Values of all sums.
    fn sums_len(&self) -> usize {
        PRODUCTS * self.sums_row() * self.plan.output.channels
    }

    /// Where the sums of two blocks begin. All blocks but the last are whole vectors.
    fn sums_at(&self, c: &Block, o: &Block) -> usize {
        PRODUCTS * (o.start * self.sums_row() + c.start * o.width)
    }

    /// Transforms a block of some tiles, which are those from `first` on in its unit.
    ///
    /// # Safety
    /// The CPU has [`Self::isa`]; units of this side have room for the tiles, which no one else
    /// touches.
    unsafe fn enter(
        &self,
        side: &Side,
        block: usize,
        tiles: Range<usize>,
        to: Units,
        first: usize,
    ) {
        let (at, block) = (side.unit_at(block, to.room), &side.blocks[block]);
        let product = block.product(to.room);
        for (i, tile) in tiles.enumerate() {
            let to = to.memory.ptr().wrapping_add(at + (first + i) * block.row);
            let place = self.plan.place(tile);
            let patch = side.source.patch(place, side.side, block.channels(), (to, product));
            // SAFETY: by the caller's word; only what lies inside the map is read.
            unsafe {
                match side.side {
                    N => transform_input(self.isa, &patch),
                    _ => transform_gradient(self.isa, &patch),
                }
            }
        }
    }

    /// The pair of the input's block `c` and the gradient's `o`.
    fn pair(&self, c: usize, o: usize, [v, m]: [Units; 2], sums: *mut f32) -> Pair<'_> {
        Pair { input: self.input.unit(c, v), gradient: self.gradient.unit(o, m), sums }
    }

    /// Tasks take tiles.
    fn with_own_sums(&self, dw: &mut [f32]) {
        let total = self.plan.total();
        let parts = (total / OWN_TILES).clamp(1, OWN_TASKS);
        let len = self.sums_len();
        with_scratch(parts * len, |sums| {
            let shared = Shared::new(sums);
            parallel(parts, |part| {
                let tiles = part * total / parts..(part + 1) * total / parts;
                // SAFETY: each task has its part.
                self.add_tiles(tiles, unsafe { shared.part(part * len, len) });
            });
            self.finish(sums, parts, dw);
        });
    }

    /// Sums over some tiles, at least one.
    fn add_tiles(&self, tiles: Range<usize>, sums: &mut [f32]) {
        let lens = [&self.input, &self.gradient].map(|side| side.len(OWN_CHUNK));
        with_scratch(lens[0] + lens[1], |scratch| {
            let (v, m) = scratch.split_at_mut(lens[0]);
            let units = [v, m].map(|memory| Units { memory: Shared::new(memory), room: OWN_CHUNK });
            for (first, count) in cut(tiles.len(), OWN_CHUNK) {
                let chunk = tiles.start + first..tiles.start + first + count;
                for (side, units) in [&self.input, &self.gradient].into_iter().zip(units) {
                    for block in 0..side.blocks.len() {
                        // SAFETY: the units are this task's, with room for a chunk.
                        unsafe { self.enter(side, block, chunk.clone(), units, 0) };
                    }
                }
                for (c, o) in self.pairs() {
                    let at = self.sums_at(&self.input.blocks[c], &self.gradient.blocks[o]);
                    let pair = self.pair(c, o, units, sums[at..].as_mut_ptr());
                    // SAFETY: the units hold the chunk; the sums are this task's.
                    unsafe { pair.add(self.isa, 0..PRODUCTS, count, first > 0) };
                }
            }
        });
    }

    /// All pairs of blocks of the input and of the gradient.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let ins = self.input.blocks.len();
        (0..ins * self.gradient.blocks.len()).map(move |pair| (pair % ins, pair / ins))
    }

    /// Stages that all tiles are cut into.
    fn stages(&self) -> usize {
        let bytes = STAGE_BYTES.max(4 * self.sums_len());
        let channels = self.plan.input.channels + self.plan.output.channels;
        self.plan.total().div_ceil((bytes / (4 * PRODUCTS * channels)).max(CHUNK))
    }

    /// Stage after stage, tasks transform some tiles and then take pairs of blocks.
    fn in_stages(&self, stages: usize, dw: &mut [f32]) {
        let room = self.plan.total().div_ceil(stages);
        let mut memory = [&self.input, &self.gradient].map(|s| Buffer::stale(s.len(room)));
        let units = memory.each_mut().map(|all| Units { memory: Shared::new(all), room });
        let shares = TASKS.div_ceil(self.pairs().count()).min(SHARES);
        // A single stage's sums don't outlive a task that has all places.
        let kept = if stages > 1 || shares > 1 { self.sums_len() } else { 0 };
        let mut sums = Buffer::stale(kept);
        let work = Stages { job: self, stages, shares, units, sums: Shared::new(&mut sums), kept };
        for stage in 0..stages {
            work.enter(stage);
            work.multiply(stage, Shared::new(dw));
        }
        if shares > 1 {
            self.finish(&sums, 1, dw);
        }
    }

    /// Folds the sums of so many parts and transforms them.
    fn finish(&self, sums: &[f32], parts: usize, dw: &mut [f32]) {
        /// Output channels of a task.
        const ROWS: usize = 8;
        assert_eq!(sums.len(), parts * self.sums_len());
        let (len, dw) = (self.sums_len(), Shared::new(dw));
        parallel(self.plan.output.channels.div_ceil(ROWS), |task| {
            let first = task * ROWS;
            for o in self.gradient.blocks.iter().filter(|o| o.channels().contains(&first)) {
                let first = first - o.start;
                for c in &self.input.blocks {
                    let from = sums[self.sums_at(c, o)..].as_ptr();
                    let parts = Parts { first: from, count: parts, distance: len };
                    // SAFETY: all sums were written; each task has its output channels.
                    unsafe {
                        self.finish_rows((c, o), first..o.width.min(first + ROWS), parts, dw)
                    };
                }
            }
        });
    }

    /// Folds and transforms the sums of two blocks, for some of the output channels.
    ///
    /// # Safety
    /// The sums were written, and no one else writes these weights.
    unsafe fn finish_rows(
        &self,
        (c, o): (&Block, &Block),
        rows: Range<usize>,
        parts: Parts,
        dw: Shared,
    ) {
        let channels = self.plan.input.channels;
        let to = |start: usize| (o.start + rows.start) * channels + c.start + start;
        let most = if parts.count > 1 { PRODUCTS * rows.len() * 3 * self.isa.lanes() } else { 0 };
        with_scratch(most, |folded| {
            for panel in &c.panels {
                let row = panel.vectors * self.isa.lanes();
                let at = PRODUCTS * panel.offset * o.width + rows.start * row;
                let (mut from, mut product) = (parts.first.wrapping_add(at), o.width * row);
                if parts.count > 1 {
                    let len = rows.len() * row;
                    for (place, to) in folded.chunks_exact_mut(len).take(PRODUCTS).enumerate() {
                        let from = from.wrapping_add(place * product);
                        let Parts { count, distance, .. } = parts;
                        // SAFETY: by the caller's word.
                        unsafe { fold(self.isa, from, count, distance, to.as_mut_ptr(), len) };
                    }
                    (from, product) = (folded.as_ptr(), len);
                }
                let summed = Summed {
                    from,
                    product,
                    rows: rows.len(),
                    row,
                    channels: panel.width,
                    to: dw.ptr().wrapping_add(9 * to(panel.start)),
                    to_row: 9 * channels,
                };
                // SAFETY: by the caller's word.
                unsafe { transform_weights(self.isa, &summed) };
            }
        });
    }
}

/// A job done in stages.
struct Stages<'a> {
    job: &'a Job<'a>,
    stages: usize,
    /// Parts that the places of a pair are cut into.
    shares: usize,
    units: [Units; 2],
    sums: Shared,
    /// Values of `sums`: all, or none.
    kept: usize,
}

impl Stages<'_> {
    fn tiles(&self, stage: usize) -> Range<usize> {
        let total = self.job.plan.total();
        stage * total / self.stages..(stage + 1) * total / self.stages
    }

    /// Transforms the tiles of a stage.
    fn enter(&self, stage: usize) {
        let (job, tiles) = (self.job, self.tiles(stage));
        let (ins, parts) = (job.input.blocks.len(), tiles.len().div_ceil(ENTER));
        parallel(parts * (ins + job.gradient.blocks.len()), |task| {
            let (block, first) = (task / parts, task % parts * ENTER);
            let part = tiles.start + first..tiles.end.min(tiles.start + first + ENTER);
            // SAFETY: units have room for a stage; each task has its tiles of one unit.
            unsafe {
                match block.checked_sub(ins) {
                    None => job.enter(&job.input, block, part, self.units[0], first),
                    Some(block) => job.enter(&job.gradient, block, part, self.units[1], first),
                }
            }
        });
    }

    /// Multiplies the units of a stage. After the last one, whole pairs go on to the weights.
    fn multiply(&self, stage: usize, dw: Shared) {
        let pairs = self.job.pairs().count();
        parallel(pairs * self.shares, |task| {
            let (pair, share) = (task / self.shares, task % self.shares);
            let (c, o) = (pair % self.job.input.blocks.len(), pair / self.job.input.blocks.len());
            if self.kept > 0 {
                let at = self.job.sums_at(&self.job.input.blocks[c], &self.job.gradient.blocks[o]);
                return self.add((c, o), share, stage, self.sums.ptr().wrapping_add(at), dw);
            }
            let len = PRODUCTS * self.job.input.blocks[c].row * self.job.gradient.blocks[o].width;
            with_scratch(len, |sums| self.add((c, o), share, stage, sums.as_mut_ptr(), dw));
        });
    }

    /// Adds a share of the places of a pair to its sums.
    fn add(&self, (c, o): (usize, usize), share: usize, stage: usize, sums: *mut f32, dw: Shared) {
        let places = share * PRODUCTS / self.shares..(share + 1) * PRODUCTS / self.shares;
        let pair = self.job.pair(c, o, self.units, sums);
        // SAFETY: the units hold the stage's tiles; each task has its places of a pair's sums, and
        // if these are all, its weights.
        unsafe {
            pair.add(self.job.isa, places, self.tiles(stage).len(), stage > 0);
            if self.shares == 1 && stage + 1 == self.stages {
                let (c, o) = (pair.input.0, pair.gradient.0);
                let parts = Parts { first: sums, count: 1, distance: 0 };
                self.job.finish_rows((c, o), 0..o.width, parts, dw);
            }
        }
    }
}

/// Whether this is faster than the direct gradient: tiles that lie inside the image for a third or
/// more, and whole vectors of channels. It is at any batch, down to a single image.
pub(crate) fn pays_for_weights(shape: &ConvShape) -> bool {
    let [height, width] = shape.out_size();
    let pixels = height.next_multiple_of(M) * width.next_multiple_of(M);
    fits(shape) && shape.channels.min(shape.out_channels) >= 16 && 3 * height * width >= pixels
}

/// `dw`, as [`crate::weight_gradient`] has it.
///
/// # Panics
/// If a slice's length does not fit `shape`, or there is no image.
pub(crate) fn weight_gradient(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    dy: &[f32],
    dw: &mut [f32],
) {
    assert!(fits(shape), "winograd: a 3x3 kernel of stride 1");
    assert!(shape.batch > 0, "winograd: images");
    assert_eq!(x.len(), shape.input_len(), "winograd: length of the input");
    assert_eq!(dy.len(), shape.output_len(), "winograd: length of the gradient");
    assert_eq!(dw.len(), shape.weight_len(), "winograd: length of the weights");
    if let Some(entry) = entry {
        assert_eq!(entry.scale.len(), shape.channels, "winograd: length of the scale");
        assert_eq!(entry.shift.len(), shape.channels, "winograd: length of the shift");
    }
    let job = Job::new(isa, shape, x, needed(entry), dy);
    if shape.channels * shape.out_channels <= OWN_SUMS {
        job.with_own_sums(dw);
    } else {
        job.in_stages(job.stages(), dw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::conv::reference;
    use crate::testing::on_threads;
    use crate::winograd::tests::{TOLERANCE, bits, error, normal, shape, shapes};

    /// Those of the other directions, and some of several parts, blocks and shares, and of pairs
    /// enough that tasks take all places.
    fn all_shapes() -> Vec<ConvShape> {
        let same = [(1, 1); 2];
        let more = [
            shape(2, [60, 56], [5, 20], same),
            shape(2, [9, 6], [140, 70], same),
            shape(1, [10, 7], [100, 128], [(0, 1), (2, 1)]),
            shape(2, [5, 4], [260, 250], same),
        ];
        shapes().into_iter().chain(more).collect()
    }

    struct Data {
        x: Vec<f32>,
        dy: Vec<f32>,
        scale: Vec<f32>,
        shift: Vec<f32>,
    }

    impl Data {
        fn new(s: &ConvShape) -> Self {
            Self {
                x: normal(s.input_len(), 1, 1.0),
                dy: normal(s.output_len(), 2, 1e-3),
                scale: normal(s.channels, 3, 1.0),
                shift: normal(s.channels, 4, 1.0),
            }
        }

        fn entry(&self) -> Entry<'_> {
            Entry { scale: &self.scale, shift: &self.shift, activation: Activation::Relu }
        }
    }

    /// The gradient by every way: tasks with sums of their own, one stage, and two.
    fn every_way(isa: Isa, s: &ConvShape, data: &Data, entry: Option<Entry>) -> [Vec<f32>; 3] {
        let job = Job::new(isa, s, &data.x, entry, &data.dy);
        let mut all = [(); 3].map(|()| vec![f32::NAN; s.weight_len()]);
        job.with_own_sums(&mut all[0]);
        job.in_stages(1, &mut all[1]);
        job.in_stages(job.plan.total().min(2), &mut all[2]);
        all
    }

    #[test]
    fn weight_gradients_agree_with_their_definition() {
        for s in all_shapes() {
            let data = Data::new(&s);
            for entry in [None, Some(data.entry())] {
                let want = reference::weight_gradient(&s, &data.x, entry, &data.dy);
                for isa in Isa::available() {
                    for (way, dw) in every_way(isa, &s, &data, entry).into_iter().enumerate() {
                        let off = error(&dw, &want);
                        assert!(off < TOLERANCE, "{isa:?} {s:?}, way {way}: {off:e}");
                    }
                }
            }
        }
    }

    /// Sums in registers are over few tiles, so that errors grow slowly with the pixels.
    #[test]
    fn many_pixels_keep_the_tolerance() {
        for s in
            [shape(8, [56, 56], [64, 3], [(1, 1); 2]), shape(32, [14, 14], [130, 2], [(1, 1); 2])]
        {
            let data = Data::new(&s);
            let want = reference::weight_gradient(&s, &data.x, Some(data.entry()), &data.dy);
            for isa in Isa::available() {
                for dw in every_way(isa, &s, &data, Some(data.entry())) {
                    let off = error(&dw, &want);
                    assert!(off < TOLERANCE / 4.0, "{isa:?} {s:?}: {off:e}");
                }
            }
        }
    }

    #[test]
    fn threads_change_no_bit() {
        for s in all_shapes() {
            let data = Data::new(&s);
            let results = [1, 2, 3].map(|threads| {
                on_threads(threads, || {
                    every_way(Isa::widest(), &s, &data, Some(data.entry())).map(|dw| bits(&dw))
                })
            });
            assert!(results[0] == results[1] && results[0] == results[2], "{s:?}");
        }
    }

    #[test]
    fn it_pays_where_tiles_and_vectors_fill() {
        let same = |size, c| shape(1, [size, size], [c, c], [(1, 1); 2]);
        assert!([same(56, 64), same(7, 512), same(5, 16)].iter().all(pays_for_weights));
        assert!(![same(2, 64), same(56, 3)].iter().any(pays_for_weights));
        assert!(!pays_for_weights(&ConvShape { stride: [2, 2], ..same(56, 64) }));
    }

    #[test]
    #[should_panic(expected = "length of the gradient")]
    fn a_short_gradient_is_refused() {
        let s = shape(1, [4, 4], [1, 1], [(1, 1); 2]);
        weight_gradient(Isa::Scalar, &s, &[0.0; 16], None, &[0.0; 15], &mut [0.0; 9]);
    }
}
