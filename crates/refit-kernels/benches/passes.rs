//! Passes over maps, bound by memory: gigabytes a second, next to those of a plain copy.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::hint::black_box;
use std::time::Instant;

use refit_kernels::{
    Activation, Buffer, Entering, Entry, PoolShape, Through, affine_gradient, enter,
    gradient_through, max_pool, max_pool_gradient, moments,
};

/// The best seconds of some calls.
fn best(mut call: impl FnMut()) -> f64 {
    let time = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    (0..8).map(|_| time(&mut call)).fold(f64::INFINITY, f64::min)
}

/// A copy by two threads.
fn copy(x: &[f32], y: &mut [f32]) {
    let half = x.len() / 2;
    let (left, right) = y.split_at_mut(half);
    rayon::join(|| left.copy_from_slice(&x[..half]), || right.copy_from_slice(&x[half..]));
}

/// Pooling layers; the gigabytes are those of input and output.
fn pools() {
    println!("\n{:<26}{:>8}{:>9}{:>9}", "pool", "plain", "indexed", "gradient");
    for (name, size, c, k, pad) in
        [("resnet.maxpool 112x64", 112, 64, 3, 1), ("vgg.pool1 224x64", 224, 64, 2, 0)]
    {
        let padding = [(pad, pad), (pad, pad)];
        let (window, stride, out_size) = ([k, k], [2, 2], [0, 0]);
        let (batch, height, width, channels) = (8, size, size, c);
        let shape = PoolShape { batch, height, width, channels, window, stride, padding, out_size };
        let shape = shape.rounded_down();
        let mut x = Buffer::zeros(shape.input_len());
        x.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 101) as f32);
        let mut y = Buffer::zeros(shape.output_len());
        let mut indices = vec![0; y.len()];
        let seconds = [
            best(|| max_pool(&shape, &x, None, &mut y, None)),
            best(|| max_pool(&shape, &x, None, &mut y, Some(&mut indices))),
            best(|| max_pool_gradient(&shape, &indices, &y, &mut x)),
        ];
        let rate = seconds.map(|s| format!("{:>9.1}", 4e-9 * (x.len() + y.len()) as f64 / s));
        println!("{name:<25}{}", rate.concat());
    }
}

fn main() {
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(2).build_global() {
        println!("{error}");
    }
    println!(
        "{:<26}{:>8}{:>9}{:>9}{:>9}{:>9}",
        "map", "copy", "moments", "through", "affine", "enter"
    );
    for (name, pixels, c) in [
        ("32x112x112x32", 32 * 112 * 112, 32),
        ("32x56x56x64", 32 * 56 * 56, 64),
        ("32x56x56x24", 32 * 56 * 56, 24),
        ("32x14x14x256", 32 * 14 * 14, 256),
        ("32x7x7x1280", 32 * 49, 1280),
        ("32x224x224x3", 32 * 224 * 224, 3),
    ] {
        let len = pixels * c;
        let mut x = Buffer::zeros(len);
        x.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 101) as f32 / 50.0 - 1.0);
        let (mut y, mut g) = (Buffer::from_slice(&x), Buffer::from_slice(&x));
        let (ones, zeros) = (vec![1.0; c], vec![0.0; c]);
        let entry = Entry { scale: &ones, shift: &zeros, activation: Activation::Relu };
        let through = Through { x: &x, entry, center: &zeros };
        let entering = |x| Entering { x, entry: Some(entry) };
        let seconds = [
            best(|| copy(&x, &mut y)) / 2.0,
            best(|| drop(black_box(moments(&x, c)))),
            best(|| drop(black_box(gradient_through(&mut g, through)))) / 3.0,
            best(|| affine_gradient(&mut g, &x, &ones, &zeros, &zeros)) / 3.0,
            best(|| enter(entering(&x), Some(entering(&g)), Activation::Relu, &mut y)) / 3.0,
        ];
        let rate = seconds.map(|s| format!("{:>9.1}", 4e-9 * len as f64 / s));
        println!("{name:<25}{}", rate.concat());
    }
    pools();
}
