//! Sums over the pixels of a map, gathered while its rows are in the cache.
//!
//! Each group of rows leaves its own sums in `f32`; they are folded in `f64`, in the order of the
//! groups, so that neither threads nor the number of pixels show in the result.

use crate::conv::{Entry, Moments};
use crate::norm::GradientSums;
use crate::simd::{Simd, on_isa};

/// Vectors of channels that go over the pixels together.
const TOGETHER: usize = 4;

/// Calls a function over channels, four vectors at once while there are as many.
macro_rules! over_channels {
    ($S:ident, $channels:expr, $function:ident($($arg:expr),*)) => {
        let (mut at, n) = (0, $channels);
        while at + TOGETHER * $S::LANES <= n {
            $function::<$S, TOGETHER, true>($($arg,)* at, $S::LANES);
            at += TOGETHER * $S::LANES;
        }
        while at + $S::LANES <= n {
            $function::<$S, 1, true>($($arg,)* at, $S::LANES);
            at += $S::LANES;
        }
        if at < n {
            $function::<$S, 1, false>($($arg,)* at, n - at);
        }
    };
}

#[inline(always)]
unsafe fn load<S: Simd, const WHOLE: bool>(p: *const f32, n: usize) -> S::V {
    // SAFETY: by the caller's word.
    unsafe { if WHOLE { S::load(p) } else { S::load_first(p, n) } }
}

#[inline(always)]
unsafe fn store<S: Simd, const WHOLE: bool>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: by the caller's word.
    unsafe { if WHOLE { S::store(p, v) } else { S::store_first(p, v, n) } }
}

/// Some channels of neighbouring pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pixels {
    pub count: usize,
    /// Distance between neighbouring ones.
    pub stride: usize,
    pub channels: usize,
}

on_isa! {
    /// The mean of each channel, and the sum of squares around it.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for these pixels and channels.
    pub(crate) fn gather_moments<S>(x: *const f32, pixels: Pixels, mean: *mut f32, squares: *mut f32) {
        over_channels!(S, pixels.channels, moments_of(x, pixels, mean, squares));
    }
}

/// The mean first, then squares around it: as exact as can be, and the second look at the pixels
/// finds them in the cache.
#[inline(always)]
unsafe fn moments_of<S: Simd, const N: usize, const WHOLE: bool>(
    x: *const f32,
    pixels: Pixels,
    mean: *mut f32,
    squares: *mut f32,
    at: usize,
    left: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let mut means = [S::zero(); N];
        for p in 0..pixels.count {
            let x = x.add(p * pixels.stride + at);
            for (j, mean) in means.iter_mut().enumerate() {
                *mean = S::add(*mean, load::<S, WHOLE>(x.add(j * S::LANES), left));
            }
        }
        let count = S::splat(pixels.count as f32);
        means = means.map(|sum| S::div(sum, count));
        let mut sums = [S::zero(); N];
        for p in 0..pixels.count {
            let x = x.add(p * pixels.stride + at);
            for j in 0..N {
                let d = S::sub(load::<S, WHOLE>(x.add(j * S::LANES), left), means[j]);
                sums[j] = S::fma(d, d, sums[j]);
            }
        }
        for j in 0..N {
            store::<S, WHOLE>(mean.add(at + j * S::LANES), means[j], left);
            store::<S, WHOLE>(squares.add(at + j * S::LANES), sums[j], left);
        }
    }
}

/// The entry that a gradient passes on its way back, from a block's first channel on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passing {
    pub scale: *const f32,
    pub shift: *const f32,
    pub center: *const f32,
    /// Of the activation.
    pub bounds: [f32; 2],
}

impl Passing {
    /// From channel `first` on.
    pub(crate) fn new(entry: &Entry, center: &[f32], first: usize) -> Self {
        let (low, high) = entry.activation.bounds();
        Self {
            scale: entry.scale[first..].as_ptr(),
            shift: entry.shift[first..].as_ptr(),
            center: center[first..].as_ptr(),
            bounds: [low, high],
        }
    }
}

on_isa! {
    /// `g *= activation'(scale * x + shift)`, `sum(g)` and `sum(g * (x - center))` of each channel.
    ///
    /// # Safety
    /// The CPU has `isa`; pointers are valid for these pixels and channels.
    pub(crate) fn pass_gradient<S>(
        g: *mut f32, x: *const f32, pixels: Pixels, through: Passing, sum: *mut f32, product: *mut f32,
    ) {
        over_channels!(S, pixels.channels, gradient_of(g, x, pixels, through, sum, product));
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn gradient_of<S: Simd, const N: usize, const WHOLE: bool>(
    g: *mut f32,
    x: *const f32,
    pixels: Pixels,
    through: Passing,
    sum: *mut f32,
    product: *mut f32,
    at: usize,
    left: usize,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let (low, high) = (S::splat(through.bounds[0]), S::splat(through.bounds[1]));
        let mut channel = [[S::zero(); 3]; N];
        for (j, channel) in channel.iter_mut().enumerate() {
            *channel = [through.scale, through.shift, through.center]
                .map(|p| load::<S, WHOLE>(p.add(at + j * S::LANES), left));
        }
        let (mut sums, mut products) = ([S::zero(); N], [S::zero(); N]);
        for p in 0..pixels.count {
            let place = p * pixels.stride + at;
            for j in 0..N {
                let [scale, shift, center] = channel[j];
                let x = load::<S, WHOLE>(x.add(place + j * S::LANES), left);
                let to = g.add(place + j * S::LANES);
                let inner = S::fma(scale, x, shift);
                let v = S::keep_between(load::<S, WHOLE>(to, left), inner, low, high);
                store::<S, WHOLE>(to, v, left);
                sums[j] = S::add(sums[j], v);
                products[j] = S::fma(v, S::sub(x, center), products[j]);
            }
        }
        for j in 0..N {
            store::<S, WHOLE>(sum.add(at + j * S::LANES), sums[j], left);
            store::<S, WHOLE>(product.add(at + j * S::LANES), products[j], left);
        }
    }
}

/// Moments of groups of pixels, joined one after the other (Chan, Golub and LeVeque 1979).
pub(crate) struct Joined {
    mean: Vec<f64>,
    squares: Vec<f64>,
    total: f64,
}

impl Joined {
    pub(crate) fn new(channels: usize) -> Self {
        Self { mean: vec![0.0; channels], squares: vec![0.0; channels], total: 0.0 }
    }

    /// Joins a group of `count` pixels; `group` gives a channel's mean and the sum of squares
    /// around it.
    pub(crate) fn join(&mut self, count: usize, group: impl Fn(usize) -> [f64; 2]) {
        let (before, count) = (self.total, count as f64);
        self.total += count;
        let share = count / self.total;
        for (c, (mean, squares)) in self.mean.iter_mut().zip(&mut self.squares).enumerate() {
            let [group_mean, group_squares] = group(c);
            let delta = group_mean - *mean;
            *mean += delta * share;
            *squares += group_squares + delta * delta * before * share;
        }
    }

    pub(crate) fn finish(self) -> Moments {
        let variance = self.squares.into_iter().map(|s| (s / self.total) as f32).collect();
        Moments { mean: self.mean.into_iter().map(|m| m as f32).collect(), variance }
    }
}

/// Joins the moments of groups, `[groups, 2, channels]` (means and squares); `counts` are the
/// groups' pixels.
pub(crate) fn fold_moments(
    groups: &[f32],
    counts: impl Iterator<Item = usize>,
    channels: usize,
) -> Moments {
    let mut joined = Joined::new(channels);
    for (group, count) in groups.chunks_exact(2 * channels).zip(counts) {
        joined.join(count, |c| [group[c], group[channels + c]].map(f64::from));
    }
    joined.finish()
}

/// Sums of `[groups, width]` over the groups.
pub(crate) fn fold_sums(groups: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0f64; width];
    for group in groups.chunks_exact(width) {
        sums.iter_mut().zip(group).for_each(|(sum, v)| *sum += f64::from(*v));
    }
    sums
}

/// Joins the sums of groups of pixels, `[groups, 2, channels]` (sums and products).
pub(crate) fn fold_gradient(groups: &[f32], channels: usize) -> GradientSums {
    let sums: Vec<f32> = fold_sums(groups, 2 * channels).into_iter().map(|v| v as f32).collect();
    let (sum, product) = sums.split_at(channels);
    GradientSums { sum: sum.to_vec(), product: product.to_vec() }
}
