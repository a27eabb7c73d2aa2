//! Batch normalization over NHWC maps in passes that do several things at once.
//!
//! A batch norm is a scale and a shift a channel, from the batch's statistics or from stored ones;
//! mostly the next convolution applies it as it reads ([`Entry`]). Going back, the gradient first
//! passes the activation and is summed up ([`gradient_through`]), then the sums' share is taken
//! from it ([`affine_gradient`]).

use crate::activation::Activation;
use crate::conv::{Entry, Moments};

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
    assert_eq!(x.len() % channels, 0, "moments: length of `x`");
    let count = (x.len() / channels) as f64;
    let mut mean = vec![0.0f64; channels];
    let mut variance = vec![0.0f64; channels];
    for pixel in x.chunks_exact(channels) {
        mean.iter_mut().zip(pixel).for_each(|(m, x)| *m += f64::from(*x) / count);
    }
    for pixel in x.chunks_exact(channels) {
        for ((v, m), x) in variance.iter_mut().zip(&mean).zip(pixel) {
            *v += (f64::from(*x) - m).powi(2) / count;
        }
    }
    let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
    Moments { mean: narrow(mean), variance: narrow(variance) }
}

/// `g *= activation'(scale * x + shift)`, and its sums. What is left for the batch norm is linear
/// ([`affine_gradient`]).
///
/// # Panics
/// If lengths differ.
pub fn gradient_through(g: &mut [f32], through: Through) -> GradientSums {
    let Through { x, entry, center } = through;
    assert_eq!(g.len(), x.len(), "gradient_through: lengths of `g` and `x`");
    let c = entry.scale.len();
    let (mut sum, mut product) = (vec![0.0f64; c], vec![0.0f64; c]);
    for (i, (g, x)) in g.iter_mut().zip(x).enumerate() {
        let channel = i % c;
        *g *= entry.activation.derivative(x * entry.scale[channel] + entry.shift[channel]);
        sum[channel] += f64::from(*g);
        product[channel] += f64::from(*g) * f64::from(x - center[channel]);
    }
    let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
    GradientSums { sum: narrow(sum), product: narrow(product) }
}

/// `g = a[c] * g + b[c] * x + d[c]`.
///
/// # Panics
/// If lengths differ.
pub fn affine_gradient(g: &mut [f32], x: &[f32], a: &[f32], b: &[f32], d: &[f32]) {
    assert_eq!(g.len(), x.len(), "affine_gradient: lengths of `g` and `x`");
    for (i, (g, x)) in g.iter_mut().zip(x).enumerate() {
        let c = i % a.len();
        *g = a[c] * *g + b[c] * x + d[c];
    }
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
    assert_eq!(x.x.len(), y.len(), "enter: lengths of `x` and `y`");
    y.copy_from_slice(&crate::conv::reference::enter(x.x, x.entry));
    if let Some(r) = residual {
        assert_eq!(r.x.len(), y.len(), "enter: lengths of `residual` and `y`");
        let r = crate::conv::reference::enter(r.x, r.entry);
        y.iter_mut().zip(r).for_each(|(y, r)| *y += r);
    }
    y.iter_mut().for_each(|y| *y = activation.of(*y));
}

/// `g` where `y`, an activation's output, lies strictly inside its bounds; else 0.
///
/// # Panics
/// If lengths differ.
pub fn activation_gradient(g: &mut [f32], y: &[f32], activation: Activation) {
    assert_eq!(g.len(), y.len(), "activation_gradient: lengths of `g` and `y`");
    g.iter_mut().zip(y).for_each(|(g, y)| *g *= activation.derivative(*y));
}
