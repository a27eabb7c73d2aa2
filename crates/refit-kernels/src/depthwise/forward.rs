//! Depthwise convolution, forward.

use super::plan::{Correlation, Group, Job};
use super::{Filter, check};
use crate::conv::{ConvShape, Entry, Exit, Moments};
use crate::curve::bend_pixels;
use crate::partials::{Pixels, fold_moments, gather_moments};
use crate::rows::needed;
use crate::simd::Isa;
use crate::threads::{Shared, with_scratch};

/// `y = exit(convolution(entry(x), filter))`.
///
/// # Panics
/// If the shape is not depthwise (as many groups as channels and outputs), or a slice's length does
/// not fit it.
pub fn convolve(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    exit: Exit,
    y: &mut [f32],
) {
    convolve_on(Isa::widest(), shape, x, entry, filter, exit, y);
}

/// `y = convolution(entry(x), filter)`, and the mean and variance of each channel of `y`.
///
/// # Panics
/// As [`convolve`].
pub fn convolve_with_moments(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    y: &mut [f32],
) -> Moments {
    convolve_with_moments_on(Isa::widest(), shape, x, entry, filter, y)
}

pub(super) fn convolve_on(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    exit: Exit,
    y: &mut [f32],
) {
    let job = job(isa, shape, x, entry, filter, exit, y);
    let kernel = correlation(shape);
    let (out, stride) = (Shared::new(y), shape.channels);
    job.run(&kernel, job.cut(&kernel), out, |group: Group| {
        if let Some(curve) = exit.curve {
            let pixels = Pixels { count: group.pixels, stride, channels: group.channels };
            // SAFETY: the group's rows and channels are this task's.
            unsafe { bend_pixels(isa, out.ptr().add(group.start), pixels, curve) };
        }
    });
}

pub(super) fn convolve_with_moments_on(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    y: &mut [f32],
) -> Moments {
    let job = job(isa, shape, x, entry, filter, Exit::default(), y);
    let kernel = correlation(shape);
    let (cut, c) = (job.cut(&kernel), shape.channels);
    with_scratch(job.groups(cut).count() * 2 * c, |partials| {
        let (out, parts) = (Shared::new(y), Shared::new(partials));
        job.run(&kernel, cut, out, |group: Group| {
            let pixels = Pixels { count: group.pixels, stride: c, channels: group.channels };
            // SAFETY: the group's rows are the caller's, and so are its channels of its part.
            unsafe {
                let mean = parts.ptr().add(group.index * 2 * c + group.first);
                gather_moments(isa, out.ptr().add(group.start), pixels, mean, mean.add(c));
            }
        });
        fold_moments(partials, job.groups(cut), c)
    })
}

fn correlation(shape: &ConvShape) -> Correlation {
    let lead = shape.padding.map(|(before, _)| before as isize);
    Correlation::new(shape.out_size()[1], shape.kernel, shape.stride, shape.dilation, lead)
}

fn job<'a>(
    isa: Isa,
    shape: &ConvShape,
    x: &'a [f32],
    entry: Option<Entry<'a>>,
    filter: &'a Filter,
    exit: Exit<'a>,
    y: &[f32],
) -> Job<'a> {
    check(shape, x, entry, y);
    assert_eq!(filter.channels, shape.channels, "depthwise: channels of the filter");
    assert_eq!(filter.taps.len(), shape.weight_len(), "depthwise: size of the filter");
    if let Some(shift) = exit.shift {
        assert_eq!(shift.len(), shape.channels, "depthwise: length of the exit's shift");
    }
    if let Some(residual) = exit.residual {
        assert_eq!(residual.len(), y.len(), "depthwise: length of the residual");
    }
    Job {
        isa,
        batch: shape.batch,
        channels: shape.channels,
        in_size: [shape.height, shape.width],
        out_size: shape.out_size(),
        x,
        entry: needed(entry),
        taps: &filter.taps,
        exit,
    }
}
