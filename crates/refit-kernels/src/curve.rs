//! Activations that bend: sigmoid, SiLU, GELU and their like, over whole slices.
//!
//! Kernels clamp in their registers ([`Activation`](crate::Activation)); these functions take
//! dozens of instructions, so they have passes of their own, over values that were just computed and
//! are still in the cache.

use crate::partials::Pixels;
use crate::simd::{Isa, Simd, on_isa};
use crate::threads::{Shared, parallel};
use crate::walk::{Cut, Pass, load, store, walk};

/// An elementwise function that does not just clamp. Definitions are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
    /// `clamp(x + 3, 0, 6) / 6`.
    HardSigmoid,
    /// `x * clamp(x + 3, 0, 6) / 6`.
    HardSwish,
    /// `x * Phi(x)`, with the normal distribution's `Phi`.
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2`, which is close to it.
    GeluTanh,
}

/// `values = curve(values)`, to `3e-7` of the larger of 1 and the value.
pub fn bend(values: &mut [f32], curve: Curve) {
    bend_on(Isa::widest(), values, curve);
}

pub(crate) fn bend_on(isa: Isa, values: &mut [f32], curve: Curve) {
    let cut = Cut::new(values.len(), 1);
    let all = Shared::new(values);
    parallel(cut.tasks(), |task| {
        let range = cut.values(task);
        // SAFETY: each task has its own values.
        let pass = Bend { values: unsafe { all.ptr().add(range.start) }, curve };
        // SAFETY: `isa` is this CPU's; the task's values are walked.
        unsafe { walk_bend(isa, &pass, range.len(), cut.wide) };
    });
}

/// Bends `count` pixels of `channels` values that lie `stride` apart, on this thread.
///
/// # Safety
/// The CPU has `isa`; the values can be read and written, and no one else touches them.
pub(crate) unsafe fn bend_pixels(
    isa: Isa,
    values: *mut f32,
    Pixels { count, stride, channels }: Pixels,
    curve: Curve,
) {
    let (runs, len) = if stride == channels { (1, count * channels) } else { (count, channels) };
    for i in 0..runs {
        let pass = Bend { values: values.wrapping_add(i * stride), curve };
        // SAFETY: by the caller's word.
        unsafe { walk_bend(isa, &pass, len, Cut::new(len, 1).wide) };
    }
}

/// `g *= curve'(x)`, the derivative to `1e-6`; `x` is what went into the curve.
///
/// # Panics
/// If `g` and `x` differ in length.
pub fn bend_gradient(g: &mut [f32], x: &[f32], curve: Curve) {
    bend_gradient_on(Isa::widest(), g, x, curve);
}

fn bend_gradient_on(isa: Isa, g: &mut [f32], x: &[f32], curve: Curve) {
    assert_eq!(g.len(), x.len(), "bend_gradient: lengths of `g` and `x`");
    let cut = Cut::new(g.len(), 1);
    let all = Shared::new(g);
    parallel(cut.tasks(), |task| {
        let range = cut.values(task);
        let pass = BendGradient {
            // SAFETY: each task has its own values of `g`.
            g: unsafe { all.ptr().add(range.start) },
            x: x[range.clone()].as_ptr(),
            curve,
        };
        // SAFETY: `isa` is this CPU's; `g` and `x` hold the task's values.
        unsafe { walk_bend_gradient(isa, &pass, range.len(), cut.wide) };
    });
}

impl Curve {
    /// Its values.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn of_vector<S: Simd>(self, x: S::V) -> S::V {
        // SAFETY: by the caller's word.
        unsafe {
            match self {
                Self::Sigmoid => sigmoid::<S>(x),
                Self::Tanh => {
                    let two = S::splat(2.0);
                    S::fma(two, sigmoid::<S>(S::mul(two, x)), S::splat(-1.0))
                }
                Self::Silu => S::mul(x, sigmoid::<S>(x)),
                Self::HardSigmoid => hard_sigmoid::<S>(x),
                Self::HardSwish => S::mul(x, hard_sigmoid::<S>(x)),
                Self::Gelu => S::mul(x, normal::<S>(x).0),
                Self::GeluTanh => S::mul(x, sigmoid::<S>(gelu_tanh_inner::<S>(x).0)),
            }
        }
    }

    /// Its derivatives.
    ///
    /// # Safety
    /// The CPU has `S`.
    #[inline(always)]
    pub(crate) unsafe fn derivative_vector<S: Simd>(self, x: S::V) -> S::V {
        // SAFETY: by the caller's word.
        unsafe {
            let one = S::splat(1.0);
            match self {
                Self::Sigmoid => {
                    let (s, rest) = sigmoid_and_rest::<S>(x);
                    S::mul(s, rest)
                }
                Self::Tanh => {
                    let (s, rest) = sigmoid_and_rest::<S>(S::mul(S::splat(2.0), x));
                    S::mul(S::splat(4.0), S::mul(s, rest))
                }
                Self::Silu => {
                    let (s, rest) = sigmoid_and_rest::<S>(x);
                    S::mul(s, S::fma(x, rest, one))
                }
                Self::HardSigmoid => {
                    S::keep_between(S::splat(1.0 / 6.0), x, S::splat(-3.0), S::splat(3.0))
                }
                Self::HardSwish => {
                    let inside = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
                    let inside = S::select_above(x, S::splat(-3.0), inside, S::zero());
                    // A NaN counts as above: it is to stay one.
                    let above = S::fma(S::sub(x, x), S::zero(), one);
                    S::select_above(x, S::splat(3.0), above, inside)
                }
                Self::Gelu => {
                    let (below, density) = normal::<S>(x);
                    S::fma(x, density, below)
                }
                Self::GeluTanh => {
                    let (inner, slope) = gelu_tanh_inner::<S>(x);
                    let (s, rest) = sigmoid_and_rest::<S>(inner);
                    S::mul(s, S::fma(S::mul(x, slope), rest, one))
                }
            }
        }
    }
}

/// `exp(x)` to 2 units in the last place, for `x` clamped to `[-87.3, 88]`; a NaN stays one.
#[inline(always)]
unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by the caller's word.
    unsafe {
        let x = S::clamp(x, S::splat(-87.3), S::splat(88.0));
        // Adding 1.5 * 2^23 leaves no room for a fraction: it rounds.
        let magic = S::splat(12_582_912.0);
        let n = S::sub(S::fma(x, S::splat(std::f32::consts::LOG2_E), magic), magic);
        // What is left of `x` beside `n * ln 2`, taken in two parts.
        let r = S::fnma(n, S::splat(0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        // Cephes' polynomial for `(exp(r) - 1 - r) / r^2`.
        let mut p = S::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(c));
        }
        let p = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        S::times_power(p, n)
    }
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by the caller's word.
    unsafe { sigmoid_and_rest::<S>(x).0 }
}

/// The sigmoid and what it lacks of 1, which a subtraction would give without its last digits.
#[inline(always)]
unsafe fn sigmoid_and_rest<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: by the caller's word.
    unsafe {
        let one = S::splat(1.0);
        let e = exp::<S>(S::sub(S::zero(), x));
        let s = S::div(one, S::add(one, e));
        (s, S::mul(e, s))
    }
}

#[inline(always)]
unsafe fn hard_sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by the caller's word.
    unsafe {
        let six = S::splat(6.0);
        S::div(S::clamp(S::add(x, S::splat(3.0)), S::zero(), six), six)
    }
}

/// `2 * sqrt(2 / pi) * (x + 0.044715 * x^3)` and its derivative: `(1 + tanh(u)) / 2` is the sigmoid
/// of `2 * u`.
#[inline(always)]
unsafe fn gelu_tanh_inner<S: Simd>(x: S::V) -> (S::V, S::V) {
    const FACTOR: f32 = 1.595_769;
    const CUBE: f32 = 0.044_715 * FACTOR;
    // SAFETY: by the caller's word.
    unsafe {
        let square = S::mul(x, x);
        let inner = S::mul(x, S::fma(square, S::splat(CUBE), S::splat(FACTOR)));
        (inner, S::fma(square, S::splat(3.0 * CUBE), S::splat(FACTOR)))
    }
}

/// The normal distribution, to `2e-7` (Abramowitz and Stegun 7.1.26), and its density.
#[inline(always)]
unsafe fn normal<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: by the caller's word.
    unsafe {
        let (zero, one) = (S::zero(), S::splat(1.0));
        let size = S::max(S::sub(zero, x), x);
        let bell = exp::<S>(S::mul(S::mul(x, x), S::splat(-0.5)));
        const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
        let t = S::div(one, S::fma(size, S::splat(P), one));
        let mut p = S::splat(1.061_405_4);
        for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
            p = S::fma(p, t, S::splat(c));
        }
        let tail = S::mul(S::mul(S::mul(p, t), bell), S::splat(0.5));
        let below = S::select_above(x, zero, S::sub(one, tail), tail);
        (below, S::mul(bell, S::splat(0.398_942_3)))
    }
}

/// [`bend`].
struct Bend {
    values: *mut f32,
    curve: Curve,
}

// SAFETY of the passes below: the contract of `Pass`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for Bend {
    type State = ();
    #[inline(always)]
    unsafe fn begin(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn step(&self, (): &mut (), at: usize, lanes: usize) {
        unsafe {
            let x = load::<S>(self.values.add(at), lanes);
            store::<S>(self.values.add(at), self.curve.of_vector::<S>(x), lanes);
        }
    }
}

/// [`bend_gradient`].
struct BendGradient {
    g: *mut f32,
    x: *const f32,
    curve: Curve,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for BendGradient {
    type State = ();
    #[inline(always)]
    unsafe fn begin(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn step(&self, (): &mut (), at: usize, lanes: usize) {
        unsafe {
            let slope = self.curve.derivative_vector::<S>(load::<S>(self.x.add(at), lanes));
            let g = load::<S>(self.g.add(at), lanes);
            store::<S>(self.g.add(at), S::mul(g, slope), lanes);
        }
    }
}

on_isa! {
    /// # Safety
    /// As [`Pass`] says; the same below.
    fn walk_bend<S>(pass: &Bend, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_bend_gradient<S>(pass: &BendGradient, len: usize, wide: usize) {
        walk::<S, _>(pass, len, wide)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::on_threads;

    const CURVES: [Curve; 7] = [
        Curve::Sigmoid,
        Curve::Tanh,
        Curve::Silu,
        Curve::HardSigmoid,
        Curve::HardSwish,
        Curve::Gelu,
        Curve::GeluTanh,
    ];

    /// The normal distribution, by Simpson's rule from 0.
    fn phi(x: f64) -> f64 {
        let bell = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        // Beyond, it differs from 0 and 1 by less than an `f64` of 1 can show.
        if x.abs() > 8.5 {
            return f64::from(u8::from(x > 0.0));
        }
        let h = x / 400.0;
        let inner = |i: usize| bell(h * i as f64) * if i.is_multiple_of(2) { 2.0 } else { 4.0 };
        0.5 + h / 3.0 * (bell(0.0) + bell(x) + (1..400).map(inner).sum::<f64>())
    }

    pub(crate) fn exact(curve: Curve, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match curve {
            Curve::Sigmoid => sigmoid(x),
            Curve::Tanh => x.tanh(),
            Curve::Silu => x * sigmoid(x),
            Curve::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Curve::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Curve::Gelu => x * phi(x),
            Curve::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                x * (1.0 + inner.tanh()) / 2.0
            }
        }
    }

    /// From -20 to 20, off the corners at -3 and 3, and some far out.
    fn points() -> Vec<f32> {
        let near = (0..1999).map(|i| (i as f32 - 999.3) / 50.0);
        near.chain([-1e30, -1000.0, -88.0, 88.0, 1000.0, 0.0, -1e-20]).collect()
    }

    #[test]
    fn curves_equal_their_definition() {
        let x = points();
        for (isa, curve) in Isa::available().flat_map(|i| CURVES.map(|c| (i, c))) {
            let mut y = x.clone();
            on_threads(2, || bend_on(isa, &mut y, curve));
            for (x, y) in x.iter().zip(&y) {
                let exact = exact(curve, f64::from(*x));
                let error = (f64::from(*y) - exact).abs();
                assert!(error <= 3e-7 * exact.abs().max(1.0), "{isa:?} {curve:?}({x}) is {y}");
            }
        }
    }

    #[test]
    fn derivatives_are_slopes() {
        let x: Vec<f32> = points().into_iter().filter(|x| x.abs() < 1e6).collect();
        for (isa, curve) in Isa::available().flat_map(|i| CURVES.map(|c| (i, c))) {
            let mut g = vec![2.0; x.len()];
            bend_gradient_on(isa, &mut g, &x, curve);
            for (x, g) in x.iter().zip(&g) {
                let (at, h) = (f64::from(*x), 1e-5);
                let slope = (exact(curve, at + h) - exact(curve, at - h)) / (2.0 * h);
                let error = (f64::from(*g) / 2.0 - slope).abs();
                assert!(error < 1e-6, "{isa:?} {curve:?}'({x}) is {}, not {slope}", g / 2.0);
            }
        }
    }

    #[test]
    fn a_nan_stays_one() {
        for (isa, curve) in Isa::available().flat_map(|i| CURVES.map(|c| (i, c))) {
            let mut y = [f32::NAN; 5];
            bend_on(isa, &mut y, curve);
            assert!(y.iter().all(|y| y.is_nan()), "{isa:?} {curve:?}");
        }
    }

    #[test]
    #[should_panic(expected = "bend_gradient: lengths of `g` and `x`")]
    fn lengths_must_agree() {
        bend_gradient(&mut [0.0], &[], Curve::Silu);
    }
}
