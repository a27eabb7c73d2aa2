//! Depthwise layers of EfficientNet-Lite0, forward and backward, and weight gradients of ResNet-18
//! and -50, as a table: `cargo bench -p refit-kernels --bench gradients -- [words] [batch=32]`
//! measures the layers whose names hold all the words, on two threads. With the word `cpu`, time is
//! what the process computed, for a machine that others use as well.
//!
//! Speeds are the best of several runs. Beside them stands what this machine reaches at the time:
//! multiply-adds in registers, and copied bytes.
#![allow(unsafe_code, clippy::print_stdout, reason = "a measuring program")]

use std::hint::black_box;
use std::time::Instant;

use refit_kernels::depthwise;
use refit_kernels::{Activation, Buffer, ConvShape, Entry, Exit, Isa, Through, weight_gradient};

/// Seconds that the process has computed, shared out over the threads; without such a clock, those
/// that went by.
fn now(begin: Instant) -> f64 {
    #[cfg(target_os = "linux")]
    if std::env::args().any(|word| word == "cpu") {
        unsafe extern "C" {
            fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
        }
        let mut time = [0; 2];
        // SAFETY: `timespec` is two 64-bit integers here; clock 2 is the process's.
        unsafe { clock_gettime(2, &mut time) };
        let seconds = time[0] as f64 + 1e-9 * time[1] as f64;
        return seconds / rayon::current_num_threads() as f64;
    }
    begin.elapsed().as_secs_f64()
}

/// Best seconds of a few runs.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    let (mut best, mut runs) = (f64::INFINITY, 0);
    while runs < 3 || (begin.elapsed().as_secs_f64() < 0.3 && runs < 100) {
        let start = now(begin);
        run();
        best = best.min(now(begin) - start);
        runs += 1;
    }
    best
}

/// Multiply-adds a second, in GFLOP/s: sums that never leave the registers.
fn peak() -> f64 {
    const ROUNDS: usize = 1 << 20;
    let vectors = 12;
    let seconds = best(|| {
        rayon::broadcast(|_| multiply_add(ROUNDS));
    });
    let each = 2.0 * (ROUNDS * vectors * Isa::widest().lanes()) as f64;
    each * rayon::current_num_threads() as f64 / seconds / 1e9
}

fn multiply_add(rounds: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction set was seen on this CPU.
    unsafe {
        match Isa::widest() {
            Isa::Avx512 => return avx512(rounds),
            Isa::Avx2 => return avx2(rounds),
            _ => (),
        }
    }
    let mut sums = [[0.0f32; 4]; 12];
    let (a, b) = black_box(([1.0f32; 4], [0.5f32; 4]));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = std::array::from_fn(|i| a[i] * b[i] + sum[i]);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, b) = black_box((_mm512_set1_ps(1.0), _mm512_set1_ps(0.5)));
    let mut sums = [_mm512_setzero_ps(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, b, *sum);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, b) = black_box((_mm256_set1_ps(1.0), _mm256_set1_ps(0.5)));
    let mut sums = [_mm256_setzero_ps(); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    black_box(sums);
}

/// Bytes read and written a second by copying 100 MB, in GB/s.
fn copy_speed() -> f64 {
    let from = random(25 << 20);
    let mut to = Buffer::zeros(from.len());
    let half = from.len() / 2;
    let seconds = best(|| {
        let (a, b) = to.split_at_mut(half);
        rayon::join(|| a.copy_from_slice(&from[..half]), || b.copy_from_slice(&from[half..]));
    });
    8.0 * from.len() as f64 / seconds / 1e9
}

fn random(len: usize) -> Buffer {
    let mut buffer = Buffer::stale(len);
    let mut state = 12345u32;
    for v in buffer.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *v = (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5;
    }
    buffer
}

/// `(size, channels, kernel, stride)` of Lite0's depthwise layers, each kind once.
const LITE0: [(usize, usize, usize, usize); 10] = [
    (112, 32, 3, 1),
    (112, 96, 3, 2),
    (56, 144, 3, 1),
    (56, 144, 5, 2),
    (28, 240, 5, 1),
    (28, 240, 3, 2),
    (14, 480, 3, 1),
    (14, 672, 5, 1),
    (14, 672, 5, 2),
    (7, 1152, 5, 1),
];

/// `(name, size of the input, channels in, channels out, kernel, stride)` of ResNet-18's and -50's
/// convolutions, each kind once.
const RESNET: [(&str, usize, usize, usize, usize, usize); 26] = [
    ("resnet.conv1", 224, 3, 64, 7, 2),
    ("resnet.layer1.conv2", 56, 64, 64, 3, 1),
    ("resnet.layer2.conv2", 28, 128, 128, 3, 1),
    ("resnet.layer3.conv2", 14, 256, 256, 3, 1),
    ("resnet.layer4.conv2", 7, 512, 512, 3, 1),
    ("resnet18.layer2.0.conv1", 56, 64, 128, 3, 2),
    ("resnet18.layer3.0.conv1", 28, 128, 256, 3, 2),
    ("resnet18.layer4.0.conv1", 14, 256, 512, 3, 2),
    ("resnet18.layer2.0.downsample", 56, 64, 128, 1, 2),
    ("resnet50.layer2.0.conv2", 56, 128, 128, 3, 2),
    ("resnet50.layer3.0.conv2", 28, 256, 256, 3, 2),
    ("resnet50.layer4.0.conv2", 14, 512, 512, 3, 2),
    ("resnet50.layer1.0.conv1", 56, 64, 64, 1, 1),
    ("resnet50.layer1.conv3", 56, 64, 256, 1, 1),
    ("resnet50.layer1.1.conv1", 56, 256, 64, 1, 1),
    ("resnet50.layer2.0.conv1", 56, 256, 128, 1, 1),
    ("resnet50.layer2.conv3", 28, 128, 512, 1, 1),
    ("resnet50.layer2.1.conv1", 28, 512, 128, 1, 1),
    ("resnet50.layer3.0.conv1", 28, 512, 256, 1, 1),
    ("resnet50.layer3.conv3", 14, 256, 1024, 1, 1),
    ("resnet50.layer3.1.conv1", 14, 1024, 256, 1, 1),
    ("resnet50.layer4.0.conv1", 14, 1024, 512, 1, 1),
    ("resnet50.layer4.conv3", 7, 512, 2048, 1, 1),
    ("resnet50.layer4.1.conv1", 7, 2048, 512, 1, 1),
    ("resnet50.layer2.0.downsample", 56, 256, 512, 1, 2),
    ("resnet50.layer4.0.downsample", 14, 1024, 2048, 1, 2),
];

fn shape(
    batch: usize,
    size: usize,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    groups: usize,
) -> ConvShape {
    ConvShape {
        batch,
        height: size,
        width: size,
        channels: channels[0],
        out_channels: channels[1],
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [(kernel / 2, kernel / 2); 2],
        dilation: [1, 1],
        groups,
    }
}

/// A row of the table: what was run, its operations and the values that it has to move.
fn report(what: &str, seconds: f64, shape: &ConvShape, values: usize, limits: [f64; 2]) {
    let flops = 2.0 * shape.multiply_adds() as f64 / seconds / 1e9;
    let bytes = 4.0 * values as f64 / seconds / 1e9;
    println!(
        "  {what:<24} {:8.3} ms {flops:8.1} GFLOP/s {:4.0} % {bytes:8.1} GB/s {:4.0} %",
        1e3 * seconds,
        100.0 * flops / limits[0],
        100.0 * bytes / limits[1]
    );
}

fn depthwise_layer(shape: &ConvShape, limits: [f64; 2]) {
    let c = shape.channels;
    let (x, dy, weight) =
        (random(shape.input_len()), random(shape.output_len()), random(shape.weight_len()));
    let (scale, shift) = (random(c), random(c));
    let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu6 };
    let filter = depthwise::Filter::new(shape, &weight);
    let mut y = Buffer::stale(dy.len());
    let (a, b) = (x.len(), dy.len());
    let exit = Exit {
        shift: Some(&shift),
        residual: None,
        activation: Activation::Relu6,
        ..Exit::default()
    };
    let t = best(|| depthwise::convolve(shape, &x, None, &filter, exit, &mut y));
    report("forward, exit", t, shape, a + b, limits);
    let t =
        best(|| drop(depthwise::convolve_with_moments(shape, &x, Some(entry), &filter, &mut y)));
    report("forward, entry, moments", t, shape, a + b, limits);
    let (mut dx, mut dw) = (Buffer::stale(a), Buffer::stale(weight.len()));
    let t = best(|| depthwise::input_gradient(shape, &weight, &dy, &mut dx));
    report("input gradient", t, shape, a + b, limits);
    let through = Through { x: &x, entry, center: &shift };
    let t = best(|| {
        depthwise::input_gradient_through(shape, &weight, &dy, through, &mut dx);
    });
    report("through the entry", t, shape, 2 * a + b, limits);
    let t = best(|| depthwise::weight_gradient(shape, &x, Some(entry), &dy, &mut dw));
    report("weight gradient", t, shape, a + b, limits);
    let t = best(|| {
        depthwise::gradients(shape, &weight, &dy, through, &mut dx, &mut dw);
    });
    report("both", t, shape, 2 * a + b, limits);
}

fn dense_layer(shape: &ConvShape, limits: [f64; 2]) {
    let (x, dy) = (random(shape.input_len()), random(shape.output_len()));
    let (scale, shift) = (random(shape.channels), random(shape.channels));
    let entry = Entry { scale: &scale, shift: &shift, activation: Activation::Relu };
    let mut dw = Buffer::stale(shape.weight_len());
    let values = x.len() + dy.len() + dw.len();
    for (what, entry) in [("weight gradient", None), ("with an entry", Some(entry))] {
        let t = best(|| weight_gradient(shape, &x, entry, &dy, &mut dw));
        report(what, t, shape, values, limits);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with("--")).collect();
    let batch = words.iter().find_map(|w| w.strip_prefix("batch=")?.parse().ok()).unwrap_or(32);
    let wanted = |name: &str| {
        words.iter().filter(|w| !w.contains('=') && *w != "cpu").all(|w| name.contains(w.as_str()))
    };
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    let Ok(threads) = threads else { return println!("no threads") };
    threads.install(|| {
        let limits = || [peak(), copy_speed()];
        for (size, c, kernel, stride) in LITE0 {
            let name = format!("lite0.depthwise {size}x{size}x{c} {kernel}x{kernel} s{stride}");
            if wanted(&name) {
                let limits = limits();
                println!("{name}: peak {:.0} GFLOP/s, copy {:.1} GB/s", limits[0], limits[1]);
                depthwise_layer(&shape(batch, size, [c, c], kernel, stride, c), limits);
            }
        }
        for (name, size, c, o, kernel, stride) in RESNET {
            let name = format!("{name} {size}x{size}x{c}->{o} {kernel}x{kernel} s{stride}");
            if wanted(&name) {
                let limits = limits();
                println!("{name}: peak {:.0} GFLOP/s, copy {:.1} GB/s", limits[0], limits[1]);
                dense_layer(&shape(batch, size, [c, o], kernel, stride, 1), limits);
            }
        }
    });
}
