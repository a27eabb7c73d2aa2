//! The gradients of a depthwise convolution.
//!
//! With respect to the input it is again a depthwise convolution, of the output's gradient; with
//! respect to the weights a sum over all pixels. Both read the output's gradient, and the passage
//! through the entry reads the input as the weights' gradient does: [`gradients`] makes both
//! together, row by row, so that each map is read once.

use super::plan::{Correlation, Cut, Group, Job, RowKernel, Transposed};
use super::sums::SumRow;
use super::{check, lay_out};
use crate::conv::{ConvShape, Entry, Exit};
use crate::norm::{GradientSums, Through};
use crate::partials::{Passing, Pixels, fold_gradient, fold_sums, pass_gradient};
use crate::rows::{Ring, Source, needed};
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};

/// `dx`: the gradient with respect to the entered input, `[n, h, w, c]`, from the output's, `dy`;
/// `weight` is `[c, 1, kh, kw]`.
///
/// # Panics
/// If the shape is not depthwise (as many groups as channels and outputs), or a slice's length does
/// not fit it.
pub fn input_gradient(shape: &ConvShape, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    Backward::new(Isa::widest(), shape, dy).input(weight, None, dx);
}

/// [`input_gradient`] and then [`gradient_through`](crate::gradient_through) the entry, in one pass.
///
/// # Panics
/// As [`input_gradient`].
pub fn input_gradient_through(
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    through: Through,
    dx: &mut [f32],
) -> GradientSums {
    Backward::new(Isa::widest(), shape, dy).input(weight, Some(through), dx)
}

/// `dw`, `[c, 1, kh, kw]`, from the input (before its entry) and the output's gradient.
///
/// # Panics
/// As [`input_gradient`].
pub fn weight_gradient(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    dy: &[f32],
    dw: &mut [f32],
) {
    Backward::new(Isa::widest(), shape, dy).weights(x, entry, dw);
}

/// [`input_gradient_through`] and [`weight_gradient`] together, which reads every map once.
///
/// # Panics
/// As [`input_gradient`].
pub fn gradients(
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    through: Through,
    dx: &mut [f32],
    dw: &mut [f32],
) -> GradientSums {
    Backward::new(Isa::widest(), shape, dy).both(weight, through, dx, dw)
}

/// The two ways of making the input's gradient.
enum InputKernel {
    /// At stride 1: with the taps in reverse.
    Flipped(Correlation),
    Transposed(Transposed),
}

impl InputKernel {
    fn new(shape: &ConvShape) -> Self {
        let ConvShape { width, kernel, stride, dilation, .. } = *shape;
        let lead = shape.padding.map(|(before, _)| before);
        if stride != [1, 1] {
            return Self::Transposed(Transposed::new(width, kernel, stride, dilation, lead));
        }
        let reach = |axis: usize| (dilation[axis] * (kernel[axis] - 1)) as isize;
        let lead = [0, 1].map(|axis| reach(axis) - lead[axis] as isize);
        Self::Flipped(Correlation::new(width, kernel, stride, dilation, lead))
    }

    /// Lays out `[c, 1, kh, kw]`.
    fn taps(&self, weight: &[f32], channels: usize, taps: &mut [f32]) {
        let last = weight.len() / channels - 1;
        let flips = matches!(self, Self::Flipped(_));
        lay_out(weight, channels, taps, |i| if flips { last - i } else { i });
    }
}

/// What all gradients start from.
pub(super) struct Backward<'a> {
    isa: Isa,
    shape: &'a ConvShape,
    dy: &'a [f32],
    out_size: [usize; 2],
    /// Taps of a channel.
    count: usize,
}

impl<'a> Backward<'a> {
    pub(super) fn new(isa: Isa, shape: &'a ConvShape, dy: &'a [f32]) -> Self {
        let count = shape.kernel[0] * shape.kernel[1];
        Self { isa, shape, dy, out_size: shape.out_size(), count }
    }

    /// The input's gradient; the sums are empty unless it passes an entry.
    pub(super) fn input(
        &self,
        weight: &[f32],
        through: Option<Through>,
        dx: &mut [f32],
    ) -> GradientSums {
        self.check(weight, through, dx);
        let c = self.shape.channels;
        let kernel = InputKernel::new(self.shape);
        with_scratch(weight.len(), |taps| {
            kernel.taps(weight, c, taps);
            let job = self.job(taps);
            match &kernel {
                InputKernel::Flipped(k) => self.run_input(&job, k, through, dx),
                InputKernel::Transposed(k) => self.run_input(&job, k, through, dx),
            }
        })
    }

    fn run_input(
        &self,
        job: &Job,
        kernel: &impl RowKernel,
        through: Option<Through>,
        dx: &mut [f32],
    ) -> GradientSums {
        let (cut, c) = (job.cut(kernel), job.channels);
        let Some(through) = through else {
            job.run(kernel, cut, Shared::new(dx), |_| ());
            return GradientSums { sum: Vec::new(), product: Vec::new() };
        };
        with_scratch(job.groups(cut).count() * 2 * c, |sums| {
            let (out, parts) = (Shared::new(dx), Shared::new(sums));
            job.run(kernel, cut, out, |group| self.pass(through, group, out, parts));
            fold_gradient(sums, c)
        })
    }

    /// Passes a group of rows of the input's gradient through the entry.
    fn pass(&self, through: Through, group: Group, dx: Shared, parts: Shared) {
        let c = self.shape.channels;
        let pixels = Pixels { count: group.pixels, stride: c, channels: group.channels };
        let passing = Passing::new(&through.entry, through.center, group.first);
        let x = through.x[group.start..].as_ptr();
        // SAFETY: the group's rows are the caller's, and so are its channels of its part; `x` and
        // what belongs to a channel have the lengths checked.
        unsafe {
            let sum = parts.ptr().add(group.index * 2 * c + group.first);
            pass_gradient(self.isa, dx.ptr().add(group.start), x, pixels, passing, sum, sum.add(c));
        }
    }

    /// The weights' gradient.
    pub(super) fn weights(&self, x: &[f32], entry: Option<Entry>, dw: &mut [f32]) {
        check(self.shape, x, entry, self.dy);
        assert_eq!(dw.len(), self.shape.weight_len(), "depthwise: length of the weights");
        let (shape, entry) = (self.shape, needed(entry));
        let kernel = self.correlation();
        let cut = Cut::new(kernel.ring(), self.out_size, shape.channels, shape.batch);
        self.over_parts(cut, self.out_size[0], dw, |[image, strip, block], sums| {
            let begin = strip * cut.strip;
            let end = (begin + cut.strip).min(self.out_size[0]);
            self.with_sums(&kernel, cut, (x, entry), [image, block], sums, |s| s.add(begin, end));
        });
    }

    /// Both gradients.
    pub(super) fn both(
        &self,
        weight: &[f32],
        through: Through,
        dx: &mut [f32],
        dw: &mut [f32],
    ) -> GradientSums {
        self.check(weight, Some(through), dx);
        assert_eq!(dw.len(), self.shape.weight_len(), "depthwise: length of the weights");
        let c = self.shape.channels;
        let kernel = InputKernel::new(self.shape);
        with_scratch(weight.len(), |taps| {
            kernel.taps(weight, c, taps);
            let job = self.job(taps);
            match &kernel {
                InputKernel::Flipped(k) => self.run_both(&job, k, through, dx, dw),
                InputKernel::Transposed(k) => self.run_both(&job, k, through, dx, dw),
            }
        })
    }

    /// Rows of `dy` follow those of `dx` in proportion, so that both find them in the cache.
    fn run_both(
        &self,
        job: &Job,
        kernel: &impl RowKernel,
        through: Through,
        dx: &mut [f32],
        dw: &mut [f32],
    ) -> GradientSums {
        let (cut, c, height) = (job.cut(kernel), job.channels, self.shape.height);
        let forward = self.correlation();
        let entry = needed(Some(through.entry));
        let row_of_dy = |y: usize| y * self.out_size[0] / height;
        with_scratch(job.groups(cut).count() * 2 * c, |partials| {
            let (out, parts) = (Shared::new(dx), Shared::new(partials));
            self.over_parts(cut, height, dw, |[image, strip, block], sums| {
                let entering = (through.x, entry);
                self.with_sums(&forward, cut, entering, [image, block], sums, |sums| {
                    let mut y = strip * cut.strip;
                    job.strip(kernel, cut, [image, strip, block], out, |group| {
                        let end = y + group.pixels / self.shape.width;
                        sums.add(row_of_dy(y), row_of_dy(end));
                        self.pass(through, group, out, parts);
                        y = end;
                    });
                });
            });
            fold_gradient(partials, c)
        })
    }

    fn check(&self, weight: &[f32], through: Option<Through>, dx: &[f32]) {
        check(self.shape, dx, through.map(|t| t.entry), self.dy);
        assert_eq!(weight.len(), self.shape.weight_len(), "depthwise: length of the weights");
        if let Some(Through { x, center, .. }) = through {
            assert_eq!(x.len(), dx.len(), "depthwise: length of the entry's input");
            assert_eq!(center.len(), self.shape.channels, "depthwise: length of the center");
        }
    }

    /// From `dy` to `dx`.
    fn job<'b>(&'b self, taps: &'b [f32]) -> Job<'b> {
        Job {
            isa: self.isa,
            batch: self.shape.batch,
            channels: self.shape.channels,
            in_size: self.out_size,
            out_size: [self.shape.height, self.shape.width],
            x: self.dy,
            entry: None,
            taps,
            exit: Exit::default(),
        }
    }

    fn correlation(&self) -> Correlation {
        let ConvShape { kernel, stride, dilation, padding, .. } = *self.shape;
        let lead = padding.map(|(before, _)| before as isize);
        Correlation::new(self.out_size[1], kernel, stride, dilation, lead)
    }

    /// Calls `task` for every image, strip and block of `cut`, with the sums of the weights'
    /// gradient that it adds to, `[taps, channels of the block]`; then folds these into `dw`. Small
    /// images share sums, so that these stay few.
    fn over_parts(
        &self,
        cut: Cut,
        height: usize,
        dw: &mut [f32],
        task: impl Fn([usize; 3], &mut [f32]) + Sync,
    ) {
        let (batch, c) = (self.shape.batch, self.shape.channels);
        let (strips, blocks) = (height.div_ceil(cut.strip), c.div_ceil(cut.block));
        let mut images = match strips {
            1 => (2048 / (self.out_size[0] * self.out_size[1])).clamp(1, batch.max(1)),
            _ => 1,
        };
        while images > 1 && batch.div_ceil(images) * blocks < 16 {
            images /= 2;
        }
        let parts = batch.div_ceil(images) * strips;
        with_scratch(parts * dw.len(), |sums| {
            let shared = Shared::new(sums);
            parallel(parts * blocks, |i| {
                let (part, block) = (i / blocks, i % blocks);
                let first = block * cut.block;
                let (at, len) = (part * c + first, cut.block.min(c - first));
                // The part's `[blocks][taps, channels of the block]`.
                let at = part * c * self.count + (at - part * c) * self.count;
                // SAFETY: the part and the block are this task's alone.
                let sums = unsafe {
                    std::slice::from_raw_parts_mut(shared.ptr().add(at), len * self.count)
                };
                sums.fill(0.0);
                let begin = part / strips * images;
                for image in begin..(begin + images).min(batch) {
                    task([image, part % strips, block], sums);
                }
            });
            self.fold(sums, cut.block, dw);
        });
    }

    /// Folds parts, `[parts][blocks][taps, channels of the block]`.
    fn fold(&self, sums: &[f32], block: usize, dw: &mut [f32]) {
        let sums = fold_sums(sums, dw.len());
        for (dw, sums) in dw.chunks_mut(block * self.count).zip(sums.chunks(block * self.count)) {
            let channels = sums.len() / self.count;
            for (channel, dw) in dw.chunks_exact_mut(self.count).enumerate() {
                for (tap, dw) in dw.iter_mut().enumerate() {
                    *dw = sums[tap * channels + channel] as f32;
                }
            }
        }
    }

    /// Calls `run` with what adds rows of `dy` to the sums of an image's block of channels.
    fn with_sums(
        &self,
        kernel: &Correlation,
        cut: Cut,
        entering: (&[f32], Option<Entry>),
        [image, block]: [usize; 2],
        sums: &mut [f32],
        run: impl FnOnce(&mut TapSums),
    ) {
        let ConvShape { height, width, channels: c, .. } = *self.shape;
        let first = block * cut.block;
        let channels = cut.block.min(c - first);
        let (x, entry) = entering;
        let source = Source {
            isa: self.isa,
            image: &x[image * height * width * c..][..height * width * c],
            size: [height, width],
            stride: c,
            first,
            channels,
            entry,
        };
        let len = self.out_size[0] * self.out_size[1] * c;
        let dy = &self.dy[image * len..][..len];
        with_scratch(Ring::len(kernel.ring(), channels), |memory| {
            let ring = Ring::new(kernel.ring(), source, memory);
            run(&mut TapSums { kernel, ring, inputs: Vec::new(), dy, source, sums });
        });
    }
}

/// The gradient of a block's weights, summed row by row.
struct TapSums<'a> {
    kernel: &'a Correlation,
    /// Rows of the input.
    ring: Ring<'a>,
    inputs: Vec<*const f32>,
    /// The output's gradient of this image.
    dy: &'a [f32],
    source: Source<'a>,
    /// `[taps, channels]`.
    sums: &'a mut [f32],
}

impl TapSums<'_> {
    /// Adds the rows from `begin` to before `end` of the output's gradient.
    fn add(&mut self, begin: usize, end: usize) {
        let Source { isa, stride, first, channels, .. } = self.source;
        let width = self.kernel.out_width();
        for y in begin..end {
            let (from, to) = self.kernel.needs(y);
            self.ring.advance(from, to);
            self.kernel.inputs(y, &self.ring, &mut self.inputs);
            let row = SumRow {
                inputs: &self.inputs,
                in_stride: channels,
                dy: self.dy[y * width * stride + first..].as_ptr(),
                dy_stride: stride,
                sums: self.sums.as_mut_ptr(),
                channels,
            };
            // SAFETY: the ring holds what the kernel asked for; `sums` is `[taps, channels]`.
            unsafe { self.kernel.sum(isa, &row) };
        }
    }
}
