//! Batch normalization over NHWC maps in passes that do several things at once.
//!
//! A batch norm is a scale and a shift a channel, from the batch's statistics or from stored ones;
//! mostly the next convolution applies it as it reads ([`Entry`]). Going back, the gradient first
//! passes the activation and is summed up ([`gradient_through`]), then the sums' share is taken
//! from it ([`affine_gradient`]).
//!
//! All of it is bound by memory: every map is read once, and sums over pixels are taken in `f32`
//! over a few thousand values and folded in `f64`.

use crate::activation::Activation;
use crate::conv::{Entry, Moments};
use crate::partials::{fold_gradient, fold_moments};
use crate::simd::{Isa, Simd, on_isa};
use crate::threads::{Shared, parallel, with_scratch};
use crate::walk::{Cut, Pass, load, store, walk};

/// The input of an entry, and what its gradient needs.
#[derive(Debug, Clone, Copy)]
pub struct Through<'a> {
    /// The input, before the entry.
    pub x: &'a [f32],
    /// The entry.
    pub entry: Entry<'a>,
    /// What products are taken around, one a channel: the mean of `x`, for precision.
    pub center: &'a [f32],
}

/// Sums over all pixels of a gradient `g`.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientSums {
    /// `sum(g)`, `[c]`.
    pub sum: Vec<f32>,
    /// `sum(g * (x - center))`, `[c]`.
    pub product: Vec<f32>,
}

/// Mean and biased variance of each channel.
///
/// # Panics
/// If `x` is not whole pixels of `channels`.
pub fn moments(x: &[f32], channels: usize) -> Moments {
    moments_on(Isa::widest(), x, channels)
}

fn moments_on(isa: Isa, x: &[f32], channels: usize) -> Moments {
    assert_eq!(x.len() % channels, 0, "moments: length of `x`");
    let cut = Cut::new(x.len(), channels);
    with_scratch(2 * channels * cut.tasks(), |parts| {
        let shared = Shared::new(parts);
        parallel(cut.tasks(), |task| {
            // SAFETY: each task has its own `2 * channels` values of `parts`.
            let part = unsafe { shared.part(2 * channels * task, 2 * channels) };
            let (mean, squares) = part.split_at_mut(channels);
            task_moments(isa, &cut, &x[cut.values(task)], mean, squares);
        });
        let counts = (0..cut.tasks()).map(|task| cut.values(task).len() / channels);
        fold_moments(parts, counts, channels)
    })
}

/// The mean of a task's pixels, and the sum of squares around it, by channel.
fn task_moments(isa: Isa, cut: &Cut, x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
    with_scratch(2 * cut.wide, |scratch| {
        let (center, sums) = scratch.split_at_mut(cut.wide);
        sums.fill(0.0);
        let pass = Sums { x: x.as_ptr(), sums: sums.as_mut_ptr() };
        // SAFETY: `isa` is this CPU's; `x` is walked whole; `sums` holds `wide` values.
        unsafe { walk_sums(isa, &pass, x.len(), cut.wide) };
        cut.gather(sums, mean);
        let count = (x.len() / cut.channels) as f32;
        mean.iter_mut().for_each(|m| *m /= count);
        cut.spread(mean, center);
        sums.fill(0.0);
        let (sums, center) = (sums.as_mut_ptr(), center.as_ptr());
        let pass = Squares { x: x.as_ptr(), center, sums };
        // SAFETY: as above, and `center` holds `wide` values.
        unsafe { walk_squares(isa, &pass, x.len(), cut.wide) };
        cut.gather(&scratch[cut.wide..], squares);
    });
}

/// `g *= activation'(scale * x + shift)`, and its sums. What is left for the batch norm is linear
/// ([`affine_gradient`]).
///
/// # Panics
/// If lengths differ.
pub fn gradient_through(g: &mut [f32], through: Through) -> GradientSums {
    gradient_through_on(Isa::widest(), g, through)
}

fn gradient_through_on(isa: Isa, g: &mut [f32], through: Through) -> GradientSums {
    let Through { x, entry, center } = through;
    let channels = entry.scale.len();
    assert_eq!(g.len(), x.len(), "gradient_through: lengths of `g` and `x`");
    assert_eq!(g.len() % channels, 0, "gradient_through: length of `g`");
    assert_eq!(entry.shift.len(), channels, "gradient_through: length of `shift`");
    assert_eq!(center.len(), channels, "gradient_through: length of `center`");
    let cut = Cut::new(g.len(), channels);
    with_scratch(3 * cut.wide + 2 * channels * cut.tasks(), |scratch| {
        let (wide, parts) = scratch.split_at_mut(3 * cut.wide);
        spread_all(&cut, [entry.scale, entry.shift, center], wide);
        let (shared, all) = (Shared::new(parts), Shared::new(g));
        parallel(cut.tasks(), |task| {
            let values = cut.values(task);
            // SAFETY: each task has its own values of `g` and of `parts`.
            let (g, part) = unsafe {
                let g = all.part(values.start, values.len());
                (g, shared.part(2 * channels * task, 2 * channels))
            };
            let (sum, product) = part.split_at_mut(channels);
            task_gradient(isa, &cut, g, &x[values], wide, entry.activation, sum, product);
        });
        fold_gradient(parts, channels)
    })
}

/// [`gradient_through`] for a task's pixels; `wide` is scale, shift and center, spread.
#[expect(clippy::too_many_arguments, reason = "one caller")]
fn task_gradient(
    isa: Isa,
    cut: &Cut,
    g: &mut [f32],
    x: &[f32],
    wide: &[f32],
    activation: Activation,
    sum: &mut [f32],
    product: &mut [f32],
) {
    with_scratch(2 * cut.wide, |sums| {
        sums.fill(0.0);
        let pass = Back {
            g: g.as_mut_ptr(),
            x: x.as_ptr(),
            scale: wide.as_ptr(),
            shift: wide[cut.wide..].as_ptr(),
            center: wide[2 * cut.wide..].as_ptr(),
            activation,
            sum: sums.as_mut_ptr(),
            product: sums[cut.wide..].as_mut_ptr(),
        };
        // SAFETY: `isa` is this CPU's; `g` and `x` are as long as what is walked; what belongs to a
        // channel is spread over `wide` values.
        unsafe { walk_back(isa, &pass, x.len(), cut.wide) };
        cut.gather(&sums[..cut.wide], sum);
        cut.gather(&sums[cut.wide..], product);
    });
}

/// Spreads each of `values` behind the one before.
fn spread_all<const N: usize>(cut: &Cut, values: [&[f32]; N], wide: &mut [f32]) {
    wide.chunks_exact_mut(cut.wide).zip(values).for_each(|(wide, v)| cut.spread(v, wide));
}

/// `g = a[c] * g + b[c] * x + d[c]`.
///
/// # Panics
/// If lengths differ.
pub fn affine_gradient(g: &mut [f32], x: &[f32], a: &[f32], b: &[f32], d: &[f32]) {
    affine_gradient_on(Isa::widest(), g, x, [a, b, d]);
}

fn affine_gradient_on(isa: Isa, g: &mut [f32], x: &[f32], [a, b, d]: [&[f32]; 3]) {
    assert_eq!(g.len(), x.len(), "affine_gradient: lengths of `g` and `x`");
    assert_eq!(g.len() % a.len(), 0, "affine_gradient: length of `g`");
    assert_eq!((b.len(), d.len()), (a.len(), a.len()), "affine_gradient: lengths of `b` and `d`");
    let cut = Cut::new(g.len(), a.len());
    with_scratch(3 * cut.wide, |wide| {
        spread_all(&cut, [a, b, d], wide);
        let (wide, all) = (&*wide, Shared::new(g));
        parallel(cut.tasks(), |task| {
            let values = cut.values(task);
            let pass = Affine {
                // SAFETY: each task has its own values of `g`.
                g: unsafe { all.ptr().add(values.start) },
                x: x[values.clone()].as_ptr(),
                a: wide.as_ptr(),
                b: wide[cut.wide..].as_ptr(),
                d: wide[2 * cut.wide..].as_ptr(),
            };
            // SAFETY: `isa` is this CPU's; `g` and `x` hold the task's values, the others `wide`.
            unsafe { walk_affine(isa, &pass, values.len(), cut.wide) };
        });
    });
}

/// A map and its entry.
#[derive(Debug, Clone, Copy)]
pub struct Entering<'a> {
    /// The map, `[n, h, w, c]`.
    pub x: &'a [f32],
    /// What it passes.
    pub entry: Option<Entry<'a>>,
}

/// `y = activation(entry(x) + entry(residual))`: a map that is needed more than once, or the end of
/// a residual block.
///
/// # Panics
/// If lengths differ.
pub fn enter(x: Entering, residual: Option<Entering>, activation: Activation, y: &mut [f32]) {
    enter_on(Isa::widest(), x, residual, activation, y);
}

fn enter_on(
    isa: Isa,
    x: Entering,
    residual: Option<Entering>,
    activation: Activation,
    y: &mut [f32],
) {
    assert_eq!(x.x.len(), y.len(), "enter: lengths of `x` and `y`");
    assert!(residual.is_none_or(|r| r.x.len() == y.len()), "enter: lengths of `residual` and `y`");
    let entries = [x.entry, residual.and_then(|r| r.entry)];
    let channels = entries.iter().flatten().map(|e| e.scale.len()).next().unwrap_or(1);
    let fits = |e: &Entry| e.scale.len() == channels && e.shift.len() == channels;
    assert!(entries.iter().flatten().all(fits), "enter: lengths of scales and shifts");
    assert_eq!(y.len() % channels, 0, "enter: length of `y`");
    let cut = Cut::new(y.len(), channels);
    with_scratch(4 * cut.wide, |wide| {
        spread_entries(&cut, entries, wide);
        let (wide, all) = (&*wide, Shared::new(y));
        let function = |entry: Option<Entry>| entry.map(|e| e.activation).unwrap_or_default();
        parallel(cut.tasks(), |task| {
            let values = cut.values(task);
            let pass = Enter {
                x: x.x[values.clone()].as_ptr(),
                residual: residual.map_or(std::ptr::null(), |r| r.x[values.start..].as_ptr()),
                wide: wide.as_ptr(),
                row: cut.wide,
                functions: [function(entries[0]), function(entries[1]), activation],
                // SAFETY: each task has its own values of `y`.
                y: unsafe { all.ptr().add(values.start) },
            };
            // SAFETY: `isa` is this CPU's; the maps hold the task's values, `wide` four rows.
            unsafe { walk_enter(isa, &pass, values.len(), cut.wide) };
        });
    });
}

/// Scale and shift of both entries, spread; without an entry, 1 and 0, which change nothing.
fn spread_entries(cut: &Cut, entries: [Option<Entry>; 2], wide: &mut [f32]) {
    for (rows, entry) in wide.chunks_exact_mut(2 * cut.wide).zip(entries) {
        match entry {
            Some(Entry { scale, shift, .. }) => spread_all(cut, [scale, shift], rows),
            None => {
                let (scale, shift) = rows.split_at_mut(cut.wide);
                scale.fill(1.0);
                shift.fill(0.0);
            }
        }
    }
}

/// `g` where `y`, an activation's output, lies strictly inside its bounds; else 0.
///
/// # Panics
/// If lengths differ.
pub fn activation_gradient(g: &mut [f32], y: &[f32], activation: Activation) {
    activation_gradient_on(Isa::widest(), g, y, activation);
}

fn activation_gradient_on(isa: Isa, g: &mut [f32], y: &[f32], activation: Activation) {
    assert_eq!(g.len(), y.len(), "activation_gradient: lengths of `g` and `y`");
    let cut = Cut::new(g.len(), 1);
    let all = Shared::new(g);
    parallel(cut.tasks(), |task| {
        let values = cut.values(task);
        let pass = Derivative {
            // SAFETY: each task has its own values of `g`.
            g: unsafe { all.ptr().add(values.start) },
            y: y[values.clone()].as_ptr(),
            activation,
        };
        // SAFETY: `isa` is this CPU's; `g` and `y` hold the task's values.
        unsafe { walk_derivative(isa, &pass, values.len(), cut.wide) };
    });
}

/// `sums += x`.
struct Sums {
    x: *const f32,
    sums: *mut f32,
}

// SAFETY of the passes below: the contract of `Pass`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Sums {
    type State = S::V;
    #[inline(always)]
    unsafe fn begin(&self, _: usize, _: usize) -> S::V {
        unsafe { S::zero() }
    }
    #[inline(always)]
    unsafe fn step(&self, sum: &mut S::V, at: usize, lanes: usize) {
        unsafe { *sum = S::add(*sum, load::<S>(self.x.add(at), lanes)) }
    }
    #[inline(always)]
    unsafe fn end(&self, sum: S::V, channel: usize, lanes: usize) {
        unsafe { add_to::<S>(self.sums.add(channel), sum, lanes) }
    }
}

/// `sums += (x - center)^2`.
struct Squares {
    x: *const f32,
    center: *const f32,
    sums: *mut f32,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Squares {
    type State = (S::V, S::V);
    #[inline(always)]
    unsafe fn begin(&self, channel: usize, lanes: usize) -> Self::State {
        unsafe { (load::<S>(self.center.add(channel), lanes), S::zero()) }
    }
    #[inline(always)]
    unsafe fn step(&self, (center, sum): &mut Self::State, at: usize, lanes: usize) {
        unsafe {
            let apart = S::sub(load::<S>(self.x.add(at), lanes), *center);
            *sum = S::fma(apart, apart, *sum);
        }
    }
    #[inline(always)]
    unsafe fn end(&self, (_, sum): Self::State, channel: usize, lanes: usize) {
        unsafe { add_to::<S>(self.sums.add(channel), sum, lanes) }
    }
}

/// [`gradient_through`].
struct Back {
    g: *mut f32,
    x: *const f32,
    scale: *const f32,
    shift: *const f32,
    center: *const f32,
    activation: Activation,
    sum: *mut f32,
    product: *mut f32,
}

/// What [`Back`] keeps for a vector of channels.
#[derive(Clone, Copy)]
struct BackState<V> {
    scale: V,
    shift: V,
    center: V,
    sum: V,
    product: V,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Back {
    type State = BackState<S::V>;
    #[inline(always)]
    unsafe fn begin(&self, channel: usize, lanes: usize) -> Self::State {
        unsafe {
            BackState {
                scale: load::<S>(self.scale.add(channel), lanes),
                shift: load::<S>(self.shift.add(channel), lanes),
                center: load::<S>(self.center.add(channel), lanes),
                sum: S::zero(),
                product: S::zero(),
            }
        }
    }
    #[inline(always)]
    unsafe fn step(&self, state: &mut Self::State, at: usize, lanes: usize) {
        unsafe {
            let x = load::<S>(self.x.add(at), lanes);
            let g = load::<S>(self.g.add(at), lanes);
            let entered = S::fma(x, state.scale, state.shift);
            let g = self.activation.gradient_vector::<S>(g, entered);
            store::<S>(self.g.add(at), g, lanes);
            state.sum = S::add(state.sum, g);
            state.product = S::fma(g, S::sub(x, state.center), state.product);
        }
    }
    #[inline(always)]
    unsafe fn end(&self, state: Self::State, channel: usize, lanes: usize) {
        unsafe {
            add_to::<S>(self.sum.add(channel), state.sum, lanes);
            add_to::<S>(self.product.add(channel), state.product, lanes);
        }
    }
}

/// [`affine_gradient`].
struct Affine {
    g: *mut f32,
    x: *const f32,
    a: *const f32,
    b: *const f32,
    d: *const f32,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Affine {
    type State = [S::V; 3];
    #[inline(always)]
    unsafe fn begin(&self, channel: usize, lanes: usize) -> Self::State {
        unsafe {
            let [a, b, d] = [self.a, self.b, self.d].map(|p| p.wrapping_add(channel));
            [load::<S>(a, lanes), load::<S>(b, lanes), load::<S>(d, lanes)]
        }
    }
    #[inline(always)]
    unsafe fn step(&self, [a, b, d]: &mut Self::State, at: usize, lanes: usize) {
        unsafe {
            let x = load::<S>(self.x.add(at), lanes);
            let g = load::<S>(self.g.add(at), lanes);
            store::<S>(self.g.add(at), S::fma(*a, g, S::fma(*b, x, *d)), lanes);
        }
    }
}

/// [`enter`]. `wide` holds the rows scale, shift, the residual's scale, its shift; `functions` are
/// those of the entries and the last.
struct Enter {
    x: *const f32,
    residual: *const f32,
    wide: *const f32,
    row: usize,
    functions: [Activation; 3],
    y: *mut f32,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Enter {
    type State = [S::V; 4];
    #[inline(always)]
    unsafe fn begin(&self, channel: usize, lanes: usize) -> Self::State {
        unsafe {
            let mut state = [S::zero(); 4];
            for (i, v) in state.iter_mut().enumerate() {
                *v = load::<S>(self.wide.add(i * self.row + channel), lanes);
            }
            state
        }
    }
    #[inline(always)]
    unsafe fn step(&self, state: &mut Self::State, at: usize, lanes: usize) {
        unsafe {
            let [scale, shift, r_scale, r_shift] = *state;
            let x = load::<S>(self.x.add(at), lanes);
            let mut y = self.functions[0].of_vector::<S>(S::fma(x, scale, shift));
            if !self.residual.is_null() {
                let r = S::fma(load::<S>(self.residual.add(at), lanes), r_scale, r_shift);
                y = S::add(y, self.functions[1].of_vector::<S>(r));
            }
            store::<S>(self.y.add(at), self.functions[2].of_vector::<S>(y), lanes);
        }
    }
}

/// [`activation_gradient`].
struct Derivative {
    g: *mut f32,
    y: *const f32,
    activation: Activation,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Derivative {
    type State = ();
    #[inline(always)]
    unsafe fn begin(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn step(&self, (): &mut (), at: usize, lanes: usize) {
        unsafe {
            let y = load::<S>(self.y.add(at), lanes);
            let g = load::<S>(self.g.add(at), lanes);
            store::<S>(self.g.add(at), self.activation.gradient_vector::<S>(g, y), lanes);
        }
    }
}

/// `*p += v`.
#[inline(always)]
unsafe fn add_to<S: Simd>(p: *mut f32, v: S::V, lanes: usize) {
    // SAFETY: by the caller's word.
    unsafe { store::<S>(p, S::add(load::<S>(p, lanes), v), lanes) }
}

on_isa! {
    /// # Safety
    /// As [`Pass`] says; the same below.
    fn walk_sums<S>(pass: &Sums, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_squares<S>(pass: &Squares, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_back<S>(pass: &Back, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_affine<S>(pass: &Affine, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_enter<S>(pass: &Enter, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_derivative<S>(pass: &Derivative, len: usize, wide: usize) {
        walk::<S, _>(pass, len, wide)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, on_threads, values};

    /// Channels and pixels: around vectors, tasks of several pixels, several tasks.
    const SIZES: [(usize, usize); 12] = [
        (1, 1),
        (1, 100_000),
        (3, 7),
        (3, 30_001),
        (5, 64),
        (16, 5000),
        (17, 4001),
        (31, 100),
        (33, 2500),
        (48, 1500),
        (100, 1333),
        (130, 1100),
    ];

    fn functions() -> [Activation; 3] {
        [Activation::Identity, Activation::Relu, Activation::Relu6]
    }

    #[test]
    fn moments_equal_their_definition() {
        for (channels, pixels) in SIZES {
            // A mean far from zero, where a sum of plain squares would lose the variance.
            let x: Vec<f32> = values(channels * pixels, 1).iter().map(|v| v + 30.0).collect();
            let of = |c: usize| x[c..].iter().step_by(channels).map(|v| f64::from(*v));
            let mean: Vec<f64> =
                (0..channels).map(|c| of(c).sum::<f64>() / pixels as f64).collect();
            let square = |c: usize| of(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>();
            let variance: Vec<f64> = (0..channels).map(|c| square(c) / pixels as f64).collect();
            for isa in Isa::available() {
                let got = moments_on(isa, &x, channels);
                // Half a unit in the last place of 30 is 6e-8 of it, and rounding adds up.
                assert_close(&got.mean, &mean, 2e-6);
                assert_close(&got.variance, &variance, 2e-5);
                for threads in [1, 2, 3] {
                    assert_eq!(on_threads(threads, || moments_on(isa, &x, channels)), got);
                }
            }
        }
    }

    #[test]
    fn gradients_pass_the_activation_and_are_summed() {
        for ((channels, pixels), activation) in
            SIZES.into_iter().flat_map(|s| functions().map(|f| (s, f)))
        {
            let x = values(channels * pixels, 1);
            let (scale, shift) = (values(channels, 2), values(channels, 3));
            let center = values(channels, 4);
            let entry = Entry { scale: &scale, shift: &shift, activation };
            let through = Through { x: &x, entry, center: &center };
            let before = values(channels * pixels, 5);
            let (mut sum, mut product) = (vec![0.0; channels], vec![0.0; channels]);
            let mut exact = vec![0.0; before.len()];
            for (i, g) in before.iter().enumerate() {
                let c = i % channels;
                let entered = f64::from(x[i]) * f64::from(scale[c]) + f64::from(shift[c]);
                let (low, high) = activation.bounds();
                // On the very edge a rounding decides; the values of this test lie off it.
                let off = |edge: f32| (entered - f64::from(edge)).abs() > 1e-7;
                assert!(off(low) && off(high));
                exact[i] = f64::from(*g) * f64::from(activation.derivative(entered as f32));
                sum[c] += exact[i];
                product[c] += exact[i] * (f64::from(x[i]) - f64::from(center[c]));
            }
            for isa in Isa::available() {
                let mut g = before.clone();
                let got = gradient_through_on(isa, &mut g, through);
                assert_close(&g, &exact, 0.0);
                // Sums of terms of both signs: the error is of their absolute sum.
                let top = pixels as f64 * 1e-6;
                let near = |got: &[f32], exact: &[f64]| {
                    got.iter().zip(exact).all(|(g, e)| (f64::from(*g) - e).abs() < top.max(1e-5))
                };
                assert!(near(&got.sum, &sum) && near(&got.product, &product), "{isa:?} {channels}");
                for threads in [1, 2, 3] {
                    let mut again = before.clone();
                    let sums =
                        on_threads(threads, || gradient_through_on(isa, &mut again, through));
                    assert!(sums == got && again == g);
                }
            }
        }
    }

    #[test]
    fn affine_gradients_equal_their_definition() {
        for (channels, pixels) in SIZES {
            let (x, before) = (values(channels * pixels, 1), values(channels * pixels, 2));
            let [a, b, d] = [3, 4, 5].map(|salt| values(channels, salt));
            let exact: Vec<f64> = (0..x.len())
                .map(|i| {
                    let at = |v: &[f32]| f64::from(v[i % channels]);
                    at(&a) * f64::from(before[i]) + at(&b) * f64::from(x[i]) + at(&d)
                })
                .collect();
            for isa in Isa::available() {
                let mut g = before.clone();
                affine_gradient_on(isa, &mut g, &x, [&a, &b, &d]);
                assert_close(&g, &exact, 1e-6);
            }
        }
    }

    #[test]
    fn maps_enter_and_join() {
        for (channels, pixels) in SIZES {
            let (x, r) = (values(channels * pixels, 1), values(channels * pixels, 2));
            let [s, t, rs, rt] = [3, 4, 5, 6].map(|salt| values(channels, salt));
            for (case, activation) in (0..5).flat_map(|i| functions().map(|f| (i, f))) {
                let entry = Entry { scale: &s, shift: &t, activation: Activation::Relu };
                let r_entry = Entry { scale: &rs, shift: &rt, activation: Activation::Identity };
                let left = Entering { x: &x, entry: (case % 2 == 0).then_some(entry) };
                let right = Entering { x: &r, entry: (case < 3).then_some(r_entry) };
                let right = (case > 0).then_some(right);
                let of = |e: &Entering, i: usize| {
                    let x = f64::from(e.x[i]);
                    let Some(e) = e.entry else { return x };
                    let at = |v: &[f32]| f64::from(v[i % channels]);
                    let (low, high) = e.activation.bounds();
                    (x * at(e.scale) + at(e.shift)).clamp(f64::from(low), f64::from(high))
                };
                let (low, high) = activation.bounds();
                let exact: Vec<f64> = (0..x.len())
                    .map(|i| of(&left, i) + right.as_ref().map_or(0.0, |r| of(r, i)))
                    .map(|y| y.clamp(f64::from(low), f64::from(high)))
                    .collect();
                for isa in Isa::available() {
                    let mut y = vec![f32::NAN; x.len()];
                    enter_on(isa, left, right, activation, &mut y);
                    assert_close(&y, &exact, 1e-6);
                }
            }
        }
    }

    #[test]
    fn an_activation_stops_gradients_outside_its_bounds() {
        for len in [0, 1, 15, 63, 64, 65, 70_001] {
            let (before, y) = (values(len, 1), values(len, 2));
            for (isa, activation) in Isa::available().flat_map(|i| functions().map(|f| (i, f))) {
                let mut g = before.clone();
                activation_gradient_on(isa, &mut g, &y, activation);
                let exact = |i: usize| before[i] * activation.derivative(y[i]);
                assert!((0..len).all(|i| g[i] == exact(i)));
            }
        }
    }

    #[test]
    #[should_panic(expected = "moments: length of `x`")]
    fn moments_take_whole_pixels() {
        moments(&[0.0; 7], 3);
    }

    #[test]
    #[should_panic(expected = "affine_gradient: lengths of `g` and `x`")]
    fn lengths_must_agree() {
        affine_gradient(&mut [0.0; 4], &[0.0; 2], &[1.0], &[1.0], &[1.0]);
    }
}
