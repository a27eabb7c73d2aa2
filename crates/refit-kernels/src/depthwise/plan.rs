//! How a depthwise convolution is cut into tasks, and how a task runs: rows into a ring, from there
//! into output rows.

use super::pixels::{Row, Spread, Steps, Tap, correlate, gather, is_compiled, spread};
use super::sums::{SumRow, sum, sum_any};
use crate::conv::{Entry, Exit};
use crate::rows::{Ring, RingShape, Source};
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::TileExit;

/// Bytes of rows that a task keeps: they and what is written fit the second-level cache.
const RING_BYTES: usize = 384 << 10;

/// Values of output rows that are finished before anything looks at them again.
const GROUP_VALUES: usize = 16 << 10;

/// Makes output rows from a ring of input rows.
pub(crate) trait RowKernel: Sync {
    /// The ring that it reads.
    fn ring(&self) -> RingShape;
    /// The input rows that output row `y` needs, from the first to before the second.
    fn needs(&self, y: usize) -> (isize, isize);
    /// Fills in the `inputs` for output row `y`, a pointer for each row of the kernel.
    fn inputs(&self, y: usize, ring: &Ring, inputs: &mut Vec<*const f32>);
    /// Makes an output row.
    ///
    /// # Safety
    /// `row` has the inputs of row `y`, and extents that fit.
    unsafe fn run(&self, isa: Isa, y: usize, row: &Row);
}

/// An output pixel `(y, x)` sums over the kernel's `(ky, kx)` the input pixels `(y, x) * stride +
/// (ky, kx) * dilation - lead`.
#[derive(Debug, Clone)]
pub(crate) struct Correlation {
    out_width: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    lead: [isize; 2],
    /// All taps, unless a compiled kernel knows them.
    taps: Option<Vec<Tap>>,
}

impl Correlation {
    pub(crate) fn new(
        out_width: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        lead: [isize; 2],
    ) -> Self {
        let compiled = kernel[0] == kernel[1]
            && stride[0] == stride[1]
            && dilation == [1, 1]
            && is_compiled(kernel[0], stride[0]);
        let tap = |ky: usize, kx: usize| Tap {
            row: ky,
            column: kx * dilation[1],
            weight: ky * kernel[1] + kx,
        };
        let all = || (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| tap(y, x))).collect();
        let taps = (!compiled).then(all);
        Self { out_width, kernel, stride, dilation, lead, taps }
    }
}

impl Correlation {
    /// Columns of the output.
    pub(super) fn out_width(&self) -> usize {
        self.out_width
    }

    /// Adds a row of the output's gradient to the taps' sums.
    ///
    /// # Safety
    /// `row` has the row's inputs, and extents that fit.
    pub(super) unsafe fn sum(&self, isa: Isa, row: &SumRow) {
        // SAFETY: the ring's rows are as wide as the last pixel's taps reach.
        unsafe {
            match &self.taps {
                None => sum(isa, self.kernel[0], self.stride[0], self.out_width, row),
                Some(taps) => sum_any(isa, row, taps, self.stride[1], self.out_width),
            }
        }
    }
}

impl RowKernel for Correlation {
    fn ring(&self) -> RingShape {
        let reach = |axis: usize| (self.kernel[axis] - 1) * self.dilation[axis] + 1;
        let width = (self.out_width - 1) * self.stride[1] + reach(1);
        RingShape { slots: reach(0), width, left: self.lead[1] }
    }

    fn needs(&self, y: usize) -> (isize, isize) {
        let first = (y * self.stride[0]) as isize - self.lead[0];
        (first, first + self.ring().slots as isize)
    }

    fn inputs(&self, y: usize, ring: &Ring, inputs: &mut Vec<*const f32>) {
        let (first, _) = self.needs(y);
        inputs.clear();
        inputs.extend(
            (0..self.kernel[0]).map(|ky| ring.row(first + (ky * self.dilation[0]) as isize)),
        );
    }

    unsafe fn run(&self, isa: Isa, _: usize, row: &Row) {
        let steps = Steps { first: 0, step: 1, in_step: self.stride[1] };
        // SAFETY: the ring's rows are as wide as the last pixel's taps reach.
        unsafe {
            match &self.taps {
                None => correlate(isa, self.kernel[0], self.stride[0], self.out_width, row),
                Some(taps) => gather(isa, self.out_width, row, taps, steps),
            }
        }
    }
}

/// The transpose of a [`Correlation`] with a stride: output pixel `u - lead` sums the input pixels `q`
/// and taps `k` with `q * stride + k * dilation = u`, on both axes.
#[derive(Debug, Clone)]
pub(super) struct Transposed {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    lead: [usize; 2],
    /// Input columns from the one that the first output pixel falls to, to the last one's.
    columns: usize,
    /// Input columns before that one which taps reach back to.
    back: usize,
    width: usize,
    /// For each phase of the stride its pixels, how many, and their taps, unless a compiled kernel
    /// knows them.
    phases: Option<Vec<(Steps, usize, Vec<Tap>)>>,
}

impl Transposed {
    /// For an output of `width` columns.
    pub(super) fn new(
        width: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        lead: [usize; 2],
    ) -> Self {
        let columns = (lead[1] + width - 1) / stride[1] - lead[1] / stride[1] + 1;
        let back = (kernel[1] - 1) * dilation[1] / stride[1];
        let compiled = kernel[0] == kernel[1]
            && stride == [2, 2]
            && dilation == [1, 1]
            && is_compiled(kernel[0], 2);
        let mut new = Self { kernel, stride, dilation, lead, columns, back, width, phases: None };
        if !compiled {
            new.phases = Some((0..stride[1].min(width)).map(|first| new.phase(first)).collect());
        }
        new
    }

    /// The output pixels `first, first + stride, ...`.
    fn phase(&self, first: usize) -> (Steps, usize, Vec<Tap>) {
        let (s, d, lead) = (self.stride[1], self.dilation[1], self.lead[1]);
        let start = (first + lead) / s - lead / s + self.back;
        let taps = (0..self.kernel[0]).flat_map(|ky| (0..self.kernel[1]).map(move |kx| (ky, kx)));
        let taps = taps.filter(|(_, kx)| kx * d % s == (first + lead) % s).map(|(row, kx)| Tap {
            row,
            column: start - kx * d / s,
            weight: row * self.kernel[1] + kx,
        });
        (Steps { first, step: s, in_step: 1 }, (self.width - first).div_ceil(s), taps.collect())
    }
}

impl RowKernel for Transposed {
    fn ring(&self) -> RingShape {
        RingShape {
            slots: (self.kernel[0] - 1) * self.dilation[0] / self.stride[0] + 1,
            width: self.columns + self.back,
            left: self.back as isize - (self.lead[1] / self.stride[1]) as isize,
        }
    }

    fn needs(&self, y: usize) -> (isize, isize) {
        let end = ((y + self.lead[0]) / self.stride[0]) as isize + 1;
        (end - self.ring().slots as isize, end)
    }

    fn inputs(&self, y: usize, ring: &Ring, inputs: &mut Vec<*const f32>) {
        let stride = self.stride[0] as isize;
        inputs.clear();
        inputs.extend((0..self.kernel[0]).map(|ky| {
            let at = (y + self.lead[0]) as isize - (ky * self.dilation[0]) as isize;
            if at % stride == 0 { ring.row(at / stride) } else { std::ptr::null() }
        }));
    }

    unsafe fn run(&self, isa: Isa, _: usize, row: &Row) {
        // SAFETY: the ring's rows begin and end with the columns that the taps meet.
        unsafe {
            if let Some(phases) = &self.phases {
                for (steps, count, taps) in phases {
                    gather(isa, *count, row, taps, *steps);
                }
            } else {
                let shift = -((self.lead[1] % self.stride[1]) as isize);
                spread(isa, self.kernel[0], self.columns, row, Spread { shift, width: self.width });
            }
        }
    }
}

/// The cut of a map into tasks and of tasks into groups of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Channels of a task.
    pub block: usize,
    /// Output rows of a task.
    pub strip: usize,
    /// Output rows after which a task looks back.
    pub group: usize,
}

impl Cut {
    /// For a ring and an output of this size.
    pub(super) fn new(ring: RingShape, size: [usize; 2], channels: usize, batch: usize) -> Self {
        let per_vector = 16 * size_of::<f32>() * ring.slots * ring.width;
        let most = 16 * (RING_BYTES / per_vector).max(1);
        let mut blocks = channels.div_ceil(most);
        // A single image makes too few tasks: narrower ones cost nothing, shorter ones copy the
        // rows between them twice.
        let few = |tasks: usize| tasks < 16;
        while few(batch * blocks) && channels > 64 * blocks {
            blocks += 1;
        }
        let mut strips = 1;
        while few(batch * blocks * strips) && size[0] > 8 * strips {
            strips += 1;
        }
        let block = channels.div_ceil(blocks).next_multiple_of(16).min(channels);
        let strip = size[0].div_ceil(strips);
        let group = (GROUP_VALUES / (size[1] * block)).clamp(1, strip);
        Self { block, strip, group }
    }
}

/// A map from which another is made.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub isa: Isa,
    pub batch: usize,
    pub channels: usize,
    pub in_size: [usize; 2],
    pub out_size: [usize; 2],
    pub x: &'a [f32],
    pub entry: Option<Entry<'a>>,
    /// Weights, `[kh * kw, c]`.
    pub taps: &'a [f32],
    pub exit: Exit<'a>,
}

/// A group of finished rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// Its number among all that share its channels.
    pub index: usize,
    /// Where it starts in the output, its first channel included.
    pub start: usize,
    pub pixels: usize,
    /// The first channel, and how many.
    pub first: usize,
    pub channels: usize,
}

impl Job<'_> {
    pub(super) fn cut(&self, kernel: &impl RowKernel) -> Cut {
        Cut::new(kernel.ring(), self.out_size, self.channels, self.batch)
    }

    /// Groups of rows of the whole batch, and the pixels of each.
    pub(super) fn groups(&self, cut: Cut) -> impl Iterator<Item = usize> {
        let [height, width] = self.out_size;
        let strips = (0..height).step_by(cut.strip);
        let rows = strips.flat_map(move |start| {
            let end = (start + cut.strip).min(height);
            (start..end).step_by(cut.group).map(move |y| cut.group.min(end - y))
        });
        (0..self.batch).flat_map(move |_| rows.clone()).map(move |rows| rows * width)
    }

    /// Makes the output, as long as the job says, and calls `after` with every group of rows, from the thread that wrote it.
    pub(super) fn run(
        &self,
        kernel: &impl RowKernel,
        cut: Cut,
        out: Shared,
        after: impl Fn(Group) + Sync,
    ) {
        let blocks = self.channels.div_ceil(cut.block);
        let strips = self.out_size[0].div_ceil(cut.strip);
        parallel(self.batch * strips * blocks, |task| {
            let (image, strip, block) =
                (task / blocks / strips, task / blocks % strips, task % blocks);
            self.strip(kernel, cut, [image, strip, block], out, &after);
        });
    }

    /// Makes the rows of a strip of an image, for a block of channels.
    pub(super) fn strip(
        &self,
        kernel: &impl RowKernel,
        cut: Cut,
        [image, strip, block]: [usize; 3],
        out: Shared,
        mut after: impl FnMut(Group),
    ) {
        let [height, width] = self.out_size;
        let first = block * cut.block;
        let channels = cut.block.min(self.channels - first);
        let source = self.source(image, first, channels);
        with_scratch(Ring::len(kernel.ring(), channels), |memory| {
            let mut ring = Ring::new(kernel.ring(), source, memory);
            let mut inputs = Vec::new();
            let begin = strip * cut.strip;
            let end = (begin + cut.strip).min(height);
            for (i, y0) in (begin..end).step_by(cut.group).enumerate() {
                let rows = cut.group.min(end - y0);
                let start = (image * height + y0) * width * self.channels + first;
                for y in y0..y0 + rows {
                    let (from, to) = kernel.needs(y);
                    ring.advance(from, to);
                    kernel.inputs(y, &ring, &mut inputs);
                    let at = start + (y - y0) * width * self.channels;
                    let row = self.row(&inputs, out, at, first, channels);
                    // SAFETY: no other task has these channels of this row; the ring holds what
                    // the kernel asked for.
                    unsafe { kernel.run(self.isa, y, &row) };
                }
                let before = begin / cut.strip * cut.strip.div_ceil(cut.group);
                let per_image = self.groups_per_image(cut);
                let index = image * per_image + before + i;
                after(Group { index, start, pixels: rows * width, first, channels });
            }
        });
    }

    fn groups_per_image(&self, cut: Cut) -> usize {
        let last = self.out_size[0] % cut.strip;
        self.out_size[0] / cut.strip * cut.strip.div_ceil(cut.group) + last.div_ceil(cut.group)
    }

    fn source(&self, image: usize, first: usize, channels: usize) -> Source<'_> {
        let len = self.in_size[0] * self.in_size[1] * self.channels;
        Source {
            isa: self.isa,
            image: &self.x[image * len..][..len],
            size: self.in_size,
            stride: self.channels,
            first,
            channels,
            entry: self.entry,
        }
    }

    fn row<'a>(
        &self,
        inputs: &'a [*const f32],
        out: Shared,
        at: usize,
        first: usize,
        channels: usize,
    ) -> Row<'a> {
        let from = |values: Option<&[f32]>, at: usize| {
            values.map_or(std::ptr::null(), |values| values[at..].as_ptr())
        };
        Row {
            inputs,
            in_stride: channels,
            taps: self.taps[first..].as_ptr(),
            tap_stride: self.channels,
            out: out.ptr().wrapping_add(at),
            out_stride: self.channels,
            channels,
            exit: TileExit {
                shift: from(self.exit.shift, first),
                residual: from(self.exit.residual, at),
                activation: self.exit.activation,
                ..TileExit::NONE
            },
        }
    }
}
