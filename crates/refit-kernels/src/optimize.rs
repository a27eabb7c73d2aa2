//! Optimizer steps over one parameter, in place and in one pass; formulas as PyTorch has them.

use crate::simd::{Isa, Simd, on_isa};
use crate::threads::{Shared, parallel};
use crate::walk::{Cut, Pass, load, store, walk};

/// Stochastic gradient descent with momentum (`torch.optim.SGD`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub rate: f32,
    /// How much of the last step's direction is kept.
    pub momentum: f32,
    /// How much less of the gradient is added to it; nothing at the first step.
    pub dampening: f32,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f32,
    /// Which direction is taken.
    pub direction: Direction,
    /// Counted from 1.
    pub step: u64,
}

/// Where a step with momentum goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Along the momentum.
    Momentum,
    /// Along the gradient plus the momentum: Nesterov's.
    Nesterov,
}

/// Adam with decoupled weight decay (`torch.optim.AdamW`; Loshchilov and Hutter 2019,
/// <https://arxiv.org/abs/1711.05101>).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f32,
    /// How much of the mean of gradients is kept.
    pub beta1: f32,
    /// How much of the mean of their squares is kept.
    pub beta2: f32,
    /// Added to the root, against division by zero.
    pub epsilon: f32,
    /// The share of a parameter that a step at rate 1 takes away.
    pub weight_decay: f32,
    /// Counted from 1.
    pub step: u64,
}

/// A step of gradient descent. `momentum` is as long as the parameter, and holds anything before the
/// first step; without momentum it is not touched and may be empty.
///
/// # Panics
/// If lengths differ.
pub fn sgd(parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32], settings: &Sgd) {
    sgd_on(Isa::widest(), parameter, gradient, momentum, settings);
}

fn sgd_on(isa: Isa, parameter: &mut [f32], gradient: &[f32], momentum: &mut [f32], settings: &Sgd) {
    assert_eq!(parameter.len(), gradient.len(), "sgd: length of the gradient");
    let kept = settings.momentum != 0.0;
    assert!(!kept || momentum.len() == parameter.len(), "sgd: length of the momentum");
    let cut = Cut::new(parameter.len(), 1);
    let (parameter, momentum) = (Shared::new(parameter), Shared::new(momentum));
    parallel(cut.tasks(), |task| {
        let values = cut.values(task);
        let pass = SgdPass {
            // SAFETY: each task has its own values of `parameter`.
            parameter: unsafe { parameter.ptr().add(values.start) },
            gradient: gradient[values.clone()].as_ptr(),
            momentum: match kept {
                true => momentum.ptr().wrapping_add(values.start),
                false => std::ptr::null_mut(),
            },
            settings: *settings,
        };
        // SAFETY: `isa` is this CPU's; all slices hold the task's values.
        unsafe { walk_sgd(isa, &pass, values.len(), cut.wide) };
    });
}

/// A step of AdamW; `first` and `second`, zeros before the first step, are the running means of
/// gradients and of their squares.
///
/// # Panics
/// If lengths differ, or steps are not counted from 1.
pub fn adamw(
    parameter: &mut [f32],
    gradient: &[f32],
    first: &mut [f32],
    second: &mut [f32],
    settings: &AdamW,
) {
    adamw_on(Isa::widest(), parameter, gradient, [first, second], settings);
}

fn adamw_on(
    isa: Isa,
    parameter: &mut [f32],
    gradient: &[f32],
    [first, second]: [&mut [f32]; 2],
    settings: &AdamW,
) {
    let len = parameter.len();
    assert_eq!(gradient.len(), len, "adamw: length of the gradient");
    assert_eq!((first.len(), second.len()), (len, len), "adamw: length of the means");
    assert!(settings.step > 0, "adamw: steps are counted from 1");
    let cut = Cut::new(len, 1);
    let means = [Shared::new(first), Shared::new(second)];
    let (parameter, factors) = (Shared::new(parameter), AdamFactors::new(settings));
    parallel(cut.tasks(), |task| {
        let values = cut.values(task);
        // SAFETY: each task has its own values of every slice.
        let at = |all: Shared| unsafe { all.ptr().add(values.start) };
        let pass = AdamPass {
            parameter: at(parameter),
            gradient: gradient[values.clone()].as_ptr(),
            means: means.map(at),
            factors,
        };
        // SAFETY: `isa` is this CPU's; all slices hold the task's values.
        unsafe { walk_adam(isa, &pass, values.len(), cut.wide) };
    });
}

/// What all values of a step share, reckoned in `f64`: the bias corrections of late steps are close
/// to 1.
#[derive(Clone, Copy)]
struct AdamFactors {
    /// What weight decay leaves.
    left: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    /// Square root of the second bias correction.
    root: f32,
    epsilon: f32,
    /// The rate over the first bias correction.
    rate: f32,
}

impl AdamFactors {
    fn new(s: &AdamW) -> Self {
        let step = s.step.min(i32::MAX as u64) as i32;
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(step);
        Self {
            left: (1.0 - f64::from(s.rate) * f64::from(s.weight_decay)) as f32,
            beta1: s.beta1,
            beta2: s.beta2,
            rest1: (1.0 - f64::from(s.beta1)) as f32,
            rest2: (1.0 - f64::from(s.beta2)) as f32,
            root: correction(s.beta2).sqrt() as f32,
            epsilon: s.epsilon,
            rate: (f64::from(s.rate) / correction(s.beta1)) as f32,
        }
    }
}

/// [`sgd`]; no momentum if null.
struct SgdPass {
    parameter: *mut f32,
    gradient: *const f32,
    momentum: *mut f32,
    settings: Sgd,
}

// SAFETY of the passes below: the contract of `Pass`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for SgdPass {
    type State = ();
    #[inline(always)]
    unsafe fn begin(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn step(&self, (): &mut (), at: usize, lanes: usize) {
        unsafe {
            let s = &self.settings;
            let p = load::<S>(self.parameter.add(at), lanes);
            let g = load::<S>(self.gradient.add(at), lanes);
            let mut g = S::fma(S::splat(s.weight_decay), p, g);
            if !self.momentum.is_null() {
                let mut m = g;
                if s.step > 1 {
                    let kept = load::<S>(self.momentum.add(at), lanes);
                    let added = S::mul(S::splat(1.0 - s.dampening), g);
                    m = S::fma(S::splat(s.momentum), kept, added);
                }
                store::<S>(self.momentum.add(at), m, lanes);
                g = match s.direction {
                    Direction::Momentum => m,
                    Direction::Nesterov => S::fma(S::splat(s.momentum), m, g),
                };
            }
            store::<S>(self.parameter.add(at), S::fnma(S::splat(s.rate), g, p), lanes);
        }
    }
}

/// [`adamw`].
struct AdamPass {
    parameter: *mut f32,
    gradient: *const f32,
    means: [*mut f32; 2],
    factors: AdamFactors,
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "stated once, above")]
impl<S: Simd> Pass<S> for AdamPass {
    type State = ();
    #[inline(always)]
    unsafe fn begin(&self, _: usize, _: usize) {}
    #[inline(always)]
    unsafe fn step(&self, (): &mut (), at: usize, lanes: usize) {
        unsafe {
            let f = &self.factors;
            let [first, second] = self.means.map(|p| p.wrapping_add(at));
            let p = S::mul(S::splat(f.left), load::<S>(self.parameter.add(at), lanes));
            let g = load::<S>(self.gradient.add(at), lanes);
            let m = S::mul(S::splat(f.beta1), load::<S>(first, lanes));
            let m = S::fma(S::splat(f.rest1), g, m);
            let v = S::mul(S::splat(f.beta2), load::<S>(second, lanes));
            let v = S::fma(S::mul(S::splat(f.rest2), g), g, v);
            store::<S>(first, m, lanes);
            store::<S>(second, v, lanes);
            let root = S::add(S::div(S::sqrt(v), S::splat(f.root)), S::splat(f.epsilon));
            let p = S::fnma(S::splat(f.rate), S::div(m, root), p);
            store::<S>(self.parameter.add(at), p, lanes);
        }
    }
}

on_isa! {
    /// # Safety
    /// As [`Pass`] says; the same below.
    fn walk_sgd<S>(pass: &SgdPass, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}
on_isa! {
    fn walk_adam<S>(pass: &AdamPass, len: usize, wide: usize) { walk::<S, _>(pass, len, wide) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, on_threads, values};

    const LENGTHS: [usize; 6] = [0, 1, 15, 64, 1003, 150_001];

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|v| f64::from(*v)).collect()
    }

    /// `torch.optim.SGD`, in `f64`.
    fn exact_sgd(p: &mut [f64], m: &mut [f64], g: &[f32], s: &Sgd) {
        let [rate, momentum, dampening, decay] =
            [s.rate, s.momentum, s.dampening, s.weight_decay].map(f64::from);
        for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
            let g = f64::from(*g) + decay * *p;
            *m = if s.step == 1 { g } else { momentum * *m + (1.0 - dampening) * g };
            let nesterov = s.direction == Direction::Nesterov;
            let along = if nesterov { g + momentum * *m } else { *m };
            *p -= rate * if momentum == 0.0 { g } else { along };
        }
    }

    #[test]
    fn sgd_is_that_of_torch() {
        let plain = Sgd {
            rate: 0.1,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            direction: Direction::Momentum,
            step: 1,
        };
        let settings = [
            plain,
            Sgd { momentum: 0.9, weight_decay: 1e-3, ..plain },
            Sgd { momentum: 0.8, dampening: 0.3, ..plain },
            Sgd { momentum: 0.9, weight_decay: 0.1, direction: Direction::Nesterov, ..plain },
        ];
        for (len, settings, isa) in LENGTHS
            .into_iter()
            .flat_map(|l| settings.map(|s| (l, s)))
            .flat_map(|(l, s)| Isa::available().map(move |i| (l, s, i)))
        {
            let mut p = values(len, 1);
            let mut m = vec![f32::NAN; if settings.momentum == 0.0 { 0 } else { len }];
            let (mut exact_p, mut exact_m) = (wide(&p), vec![0.0; len]);
            for step in 1..=3 {
                let settings = Sgd { step, ..settings };
                let g = values(len, step as u32 + 5);
                on_threads(2, || sgd_on(isa, &mut p, &g, &mut m, &settings));
                exact_sgd(&mut exact_p, &mut exact_m, &g, &settings);
                // Some roundings a step, of values up to twice the parameter.
                assert_close(&p, &exact_p, 1e-6);
            }
        }
    }

    #[test]
    fn adamw_is_that_of_torch() {
        let settings = AdamW {
            rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.05,
            step: 1,
        };
        for (len, isa) in LENGTHS.into_iter().flat_map(|l| Isa::available().map(move |i| (l, i))) {
            let (mut p, mut m, mut v) = (values(len, 1), vec![0.0; len], vec![0.0; len]);
            let mut exact = wide(&p);
            let (mut exact_m, mut exact_v) = (vec![0.0; len], vec![0.0; len]);
            let [rate, beta1, beta2, epsilon, decay] = [
                settings.rate,
                settings.beta1,
                settings.beta2,
                settings.epsilon,
                settings.weight_decay,
            ]
            .map(f64::from);
            for step in 1..=4 {
                let g = values(len, step as u32 + 5);
                adamw_on(isa, &mut p, &g, [&mut m, &mut v], &AdamW { step, ..settings });
                for i in 0..len {
                    let g = f64::from(g[i]);
                    exact[i] *= 1.0 - rate * decay;
                    exact_m[i] = beta1 * exact_m[i] + (1.0 - beta1) * g;
                    exact_v[i] = beta2 * exact_v[i] + (1.0 - beta2) * g * g;
                    let correction = |beta: f64| 1.0 - beta.powi(step as i32);
                    let root = (exact_v[i] / correction(beta2)).sqrt() + epsilon;
                    exact[i] -= rate * (exact_m[i] / correction(beta1)) / root;
                }
                assert_close(&p, &exact, 1e-6);
                assert_close(&m, &exact_m, 1e-6);
                assert_close(&v, &exact_v, 1e-6);
            }
        }
    }

    #[test]
    #[should_panic(expected = "adamw: steps are counted from 1")]
    fn steps_are_counted_from_one() {
        let settings =
            AdamW { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0, step: 0 };
        adamw(&mut [0.0], &[0.0], &mut [0.0], &mut [0.0], &settings);
    }

    #[test]
    #[should_panic(expected = "sgd: length of the gradient")]
    fn lengths_must_agree() {
        let settings = Sgd {
            rate: 0.1,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            direction: Direction::Momentum,
            step: 1,
        };
        sgd(&mut [0.0], &[], &mut [], &settings);
    }
}
