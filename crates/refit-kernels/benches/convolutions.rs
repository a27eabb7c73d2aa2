//! Convolutions of real networks, in GFLOP/s and as a share of what this CPU's multiply-add units
//! could do, measured around each layer, since the clock of a shared machine wanders.
//!
//! `cargo bench -p refit-kernels --bench convolutions -- [batch] [word...]`: layers whose name has
//! one of the words, or all; `forward`, `moments`, `entry`, `input`, `through` and `weight` choose
//! passes; `cpu` counts the threads' own time, not the clock's, for a machine that others use too.
#![expect(clippy::print_stdout, reason = "a benchmark's result")]
#![expect(unsafe_code, reason = "the loop of multiply-adds")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use refit_kernels::{
    Activation, Buffer, ConvShape, Entry, Exit, Filter, Through, convolve, convolve_with_moments,
    input_gradient, input_gradient_through, weight_gradient,
};

/// Name, size of the input, channels in and out, kernel, stride.
type Layer = (&'static str, usize, usize, usize, usize, usize);

#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    ("resnet.conv1", 224, 3, 64, 7, 2),
    ("resnet.layer1.0.conv2.3x3", 56, 64, 64, 3, 1),
    ("resnet50.layer2.0.conv2.3x3", 56, 128, 128, 3, 2),
    ("resnet.layer2.1.conv2.3x3", 28, 128, 128, 3, 1),
    ("resnet50.layer3.0.conv2.3x3", 28, 256, 256, 3, 2),
    ("resnet.layer3.1.conv2.3x3", 14, 256, 256, 3, 1),
    ("resnet50.layer4.0.conv2.3x3", 14, 512, 512, 3, 2),
    ("resnet.layer4.1.conv2.3x3", 7, 512, 512, 3, 1),
    ("resnet18.layer2.0.conv1.3x3", 56, 64, 128, 3, 2),
    ("resnet18.layer3.0.conv1.3x3", 28, 128, 256, 3, 2),
    ("resnet18.layer4.0.conv1.3x3", 14, 256, 512, 3, 2),
    ("resnet18.layer2.0.downsample", 56, 64, 128, 1, 2),
    ("resnet50.layer1.0.conv1", 56, 64, 64, 1, 1),
    ("resnet50.layer1.0.conv3", 56, 64, 256, 1, 1),
    ("resnet50.layer1.1.conv1", 56, 256, 64, 1, 1),
    ("resnet50.layer2.0.conv1", 56, 256, 128, 1, 1),
    ("resnet50.layer2.0.downsample", 56, 256, 512, 1, 2),
    ("resnet50.layer2.0.conv3", 28, 128, 512, 1, 1),
    ("resnet50.layer2.1.conv1", 28, 512, 128, 1, 1),
    ("resnet50.layer3.0.downsample", 28, 512, 1024, 1, 2),
    ("resnet50.layer3.0.conv3", 14, 256, 1024, 1, 1),
    ("resnet50.layer3.1.conv1", 14, 1024, 256, 1, 1),
    ("resnet50.layer4.0.conv3", 7, 512, 2048, 1, 1),
    ("resnet50.layer4.1.conv1", 7, 2048, 512, 1, 1),
    ("lite0.conv_stem", 224, 3, 32, 3, 2),
    ("lite0.blocks.0.0.conv_pw", 112, 32, 16, 1, 1),
    ("lite0.blocks.1.0.conv_pw", 112, 16, 96, 1, 1),
    ("lite0.blocks.1.0.conv_pwl", 56, 96, 24, 1, 1),
    ("lite0.blocks.1.1.conv_pw", 56, 24, 144, 1, 1),
    ("lite0.blocks.1.1.conv_pwl", 56, 144, 24, 1, 1),
    ("lite0.blocks.2.1.conv_pw", 28, 40, 240, 1, 1),
    ("lite0.blocks.2.1.conv_pwl", 28, 240, 40, 1, 1),
    ("lite0.blocks.3.1.conv_pw", 14, 80, 480, 1, 1),
    ("lite0.blocks.3.1.conv_pwl", 14, 480, 80, 1, 1),
    ("lite0.blocks.5.1.conv_pw", 7, 192, 1152, 1, 1),
    ("lite0.blocks.5.1.conv_pwl", 7, 1152, 192, 1, 1),
    ("lite0.conv_head", 7, 320, 1280, 1, 1),
    ("vgg16.features.2.3x3", 224, 64, 64, 3, 1),
    ("vgg16.features.7.3x3", 112, 128, 128, 3, 1),
    ("vgg16.features.14.3x3", 56, 256, 256, 3, 1),
    ("vgg16.features.21.3x3", 28, 512, 512, 3, 1),
    ("vgg16.features.28.3x3", 14, 512, 512, 3, 1),
];

const PASSES: [&str; 6] = ["forward", "moments", "entry", "input", "through", "weight"];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let batch = words.iter().find_map(|w| w.parse().ok()).unwrap_or(32);
    CPU_TIME.store(words.iter().any(|w| w == "cpu"), Ordering::Relaxed);
    let is_pass = |w: &&String| PASSES.contains(&w.as_str());
    let chosen: Vec<&String> = words.iter().filter(is_pass).collect();
    let named: Vec<&String> = words
        .iter()
        .filter(|w| !is_pass(w) && *w != "cpu" && w.parse::<usize>().is_err())
        .collect();
    let passes: Vec<&str> =
        PASSES.into_iter().filter(|p| chosen.is_empty() || chosen.iter().any(|c| c == p)).collect();
    // As a network's maps do, this lets the pool keep what is freed.
    drop(Buffer::zeros(1 << 28));
    let head: String = passes.iter().map(|p| format!("{p:>13}")).collect();
    println!("{:30}  peak{head}   (batch {batch}, GFLOP/s, share of peak)", "layer");
    for layer in LAYERS {
        if named.is_empty() || named.iter().any(|w| layer.0.contains(w.as_str())) {
            measure(batch, layer, &passes);
        }
    }
}

fn shape(batch: usize, (_, size, channels, out_channels, kernel, stride): Layer) -> ConvShape {
    ConvShape {
        batch,
        height: size,
        width: size,
        channels,
        out_channels,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [(kernel / 2, kernel / 2); 2],
        dilation: [1; 2],
        groups: 1,
    }
}

/// Values in `[-0.5, 0.5)`.
fn random(len: usize) -> Buffer {
    let mut state = len as u32;
    let mut values = Buffer::zeros(len);
    for v in values.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *v = (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5;
    }
    values
}

fn measure(batch: usize, layer: &Layer, passes: &[&str]) {
    let shape = shape(batch, *layer);
    let x = random(shape.input_len());
    let weight = random(shape.weight_len());
    let dy = random(shape.output_len());
    let (scale, shift) = (random(shape.channels), random(shape.channels + 1));
    let entry = Entry { scale: &scale, shift: &shift[1..], activation: Activation::Relu };
    let out_shift = random(shape.out_channels);
    let exit = Exit { shift: Some(&out_shift), activation: Activation::Relu, ..Exit::default() };
    let (mut y, mut dx) = (Buffer::zeros(dy.len()), Buffer::zeros(x.len()));
    let mut dw = Buffer::zeros(weight.len());
    let filter = Filter::new(&shape, &weight);
    let flops = 2.0 * shape.multiply_adds() as f64;
    let mut peak = peak();
    let mut times = Vec::new();
    for pass in passes {
        times.push(best(|| match *pass {
            "forward" => convolve(&shape, &x, None, &filter, exit, &mut y),
            "moments" => {
                let filter = Filter::new(&shape, &weight);
                _ = convolve_with_moments(&shape, &x, None, &filter, &mut y);
            }
            "entry" => _ = convolve_with_moments(&shape, &x, Some(entry), &filter, &mut y),
            "input" => input_gradient(&shape, &weight, &dy, &mut dx),
            "through" => {
                let through = Through { x: &x, entry, center: &shift[1..] };
                _ = input_gradient_through(&shape, &weight, &dy, through, &mut dx);
            }
            _ => weight_gradient(&shape, &x, Some(entry), &dy, &mut dw),
        }));
        peak = peak.max(self::peak());
    }
    let cell = |t: &f64| {
        let rate = flops / t / 1e9;
        format!("{rate:7.1} {:3.0} %", 100.0 * rate / peak)
    };
    let cells: String = times.iter().map(cell).collect();
    println!("{:30} {peak:5.0}{cells}", layer.0);
}

/// The least seconds of a call.
fn best(mut call: impl FnMut()) -> f64 {
    call();
    let begin = Instant::now();
    let (mut best, mut calls) = (f64::INFINITY, 0);
    while calls < 3 || begin.elapsed() < Duration::from_millis(200) {
        let start = seconds();
        call();
        best = best.min(seconds() - start);
        calls += 1;
    }
    best
}

static CPU_TIME: AtomicBool = AtomicBool::new(false);

/// The time, or the time that each of the threads has worked.
fn seconds() -> f64 {
    #[cfg(unix)]
    if CPU_TIME.load(Ordering::Relaxed) {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to `time`.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        let all = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
        return all / rayon::current_num_threads() as f64;
    }
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// GFLOP/s of all threads in a loop of multiply-adds that touches no memory.
fn peak() -> f64 {
    let threads = rayon::current_num_threads();
    let rounds = 400_000;
    let run = || {
        let start = seconds();
        let flops: f64 = rayon::broadcast(|_| multiply_adds(rounds)).into_iter().sum();
        flops / (seconds() - start) / 1e9
    };
    (0..4).map(|_| run()).fold(0.0, f64::max).max(threads as f64)
}

/// Floating-point operations done.
#[cfg(target_arch = "x86_64")]
fn multiply_adds(rounds: usize) -> f64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn wide(rounds: usize) -> f64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        (rounds * 16 * 32) as f64
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow(rounds: usize) -> f64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        (rounds * 12 * 16) as f64
    }
    // SAFETY: each is called where the CPU has what it needs.
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            wide(rounds)
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            narrow(rounds)
        } else {
            f64::NAN
        }
    }
}

/// Unknown elsewhere.
#[cfg(not(target_arch = "x86_64"))]
fn multiply_adds(rounds: usize) -> f64 {
    black_box(rounds);
    f64::NAN
}
