use super::forward::{convolve_on, convolve_with_moments_on};
use super::gradients::Backward;
use super::*;
use crate::activation::Activation;
use crate::conv::{Exit, reference};
use crate::curve::Curve;
use crate::norm::{self, Through};
use crate::simd::Isa;

/// Relative to the largest value. A sum of `k` products of `f32` is off by about `sqrt(k)` roundings
/// of 6e-8; the rest is room for values near zero among large ones.
const TOLERANCE: f32 = 2e-5;

/// The same numbers every time.
pub(crate) fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub(crate) fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs();
        assert!(off <= TOLERANCE * most, "{what}, value {i}: {got}, not {want}");
    }
}

const CHANNELS: [usize; 9] = [1, 3, 5, 16, 17, 31, 33, 48, 100];

/// Shapes of every kind: the compiled kernels, others, uneven paddings, dilations, and maps of one
/// pixel.
pub(crate) fn shapes() -> Vec<ConvShape> {
    let mut shapes = Vec::new();
    let mut pick = 0;
    let kernels = [[3, 3], [5, 5], [1, 1], [2, 2], [3, 5], [7, 7], [1, 4]];
    for (kernel, stride) in kernels.into_iter().flat_map(|k| [1, 2, 3].map(|s| (k, s))) {
        for (height, width) in [(7, 9), (1, 1), (14, 15), (5, 30)] {
            pick += 1;
            let uneven = [[(1, 1), (1, 1)], [(0, 1), (2, 0)], [(2, 2), (2, 2)], [(4, 5), (5, 3)]];
            let shape = ConvShape {
                batch: 1 + pick % 2,
                height,
                width,
                channels: CHANNELS[pick % CHANNELS.len()],
                out_channels: CHANNELS[pick % CHANNELS.len()],
                kernel,
                stride: if pick % 7 == 0 { [stride, 1] } else { [stride; 2] },
                padding: uneven[pick / 2 % uneven.len()],
                dilation: [[1, 1], [1, 1], [1, 1], [2, 1], [2, 3]][pick % 5],
                groups: CHANNELS[pick % CHANNELS.len()],
            };
            let fits = |axis: usize, len: usize| {
                let (before, after) = shape.padding[axis];
                len + before + after > shape.dilation[axis] * (shape.kernel[axis] - 1)
            };
            if fits(0, height) && fits(1, width) {
                shapes.push(shape);
            }
        }
    }
    shapes
}

/// Slices for a shape.
pub(crate) struct Data {
    pub x: Vec<f32>,
    pub weight: Vec<f32>,
    pub dy: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl Data {
    pub(crate) fn new(shape: &ConvShape) -> Self {
        let (x, weight) = (random(shape.input_len(), 1), random(shape.weight_len(), 2));
        let dy = random(shape.output_len(), 3);
        Self { x, weight, dy, scale: random(shape.channels, 4), shift: random(shape.channels, 5) }
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry { scale: &self.scale, shift: &self.shift, activation: Activation::Relu }
    }
}

fn forward(isa: Isa, shape: &ConvShape, x: &[f32], data: &Data, exit: Exit) -> Vec<f32> {
    let mut y = vec![f32::NAN; shape.output_len()];
    let filter = Filter::new(shape, &data.weight);
    convolve_on(isa, shape, x, Some(data.entry()), &filter, exit, &mut y);
    y
}

#[test]
fn forward_equals_its_definition() {
    for shape in shapes() {
        let data = Data::new(&shape);
        let exit = Exit {
            shift: Some(&data.shift),
            residual: Some(&data.dy),
            activation: Activation::Relu6,
            curve: Some(Curve::HardSwish),
        };
        let entered = reference::convolve(&shape, &data.x, Some(data.entry()), &data.weight, exit);
        let plain = reference::convolve(&shape, &data.x, None, &data.weight, Exit::default());
        for isa in Isa::available() {
            let y = forward(isa, &shape, &data.x, &data, exit);
            assert_close(&y, &entered, &format!("{isa:?} {shape:?}"));
            let filter = Filter::new(&shape, &data.weight);
            let mut y = vec![f32::NAN; shape.output_len()];
            convolve_on(isa, &shape, &data.x, None, &filter, Exit::default(), &mut y);
            assert_close(&y, &plain, &format!("{isa:?} {shape:?}"));
        }
    }
}

#[test]
fn moments_are_those_of_the_output() {
    for shape in shapes() {
        let data = Data::new(&shape);
        let filter = Filter::new(&shape, &data.weight);
        for isa in Isa::available() {
            let mut y = vec![f32::NAN; shape.output_len()];
            let got = convolve_with_moments_on(isa, &shape, &data.x, None, &filter, &mut y);
            let want = norm::moments(&y, shape.channels);
            assert_close(&got.mean, &want.mean, &format!("mean, {isa:?} {shape:?}"));
            assert_close(&got.variance, &want.variance, &format!("variance, {isa:?} {shape:?}"));
        }
    }
}

/// Wide enough for several blocks of channels, strips and groups.
pub(crate) fn large(batch: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape {
        batch,
        height: 37,
        width: 120,
        channels: 100,
        out_channels: 100,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [(kernel / 2, kernel / 2); 2],
        dilation: [1, 1],
        groups: 100,
    }
}

/// The results of a function on pools of one to three threads.
pub(crate) fn on_threads<R: Send>(run: impl Fn() -> R + Sync) -> Vec<R> {
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    (1..=3).map(|n| pool(n).install(&run)).collect()
}

#[test]
fn threads_and_other_images_change_no_bit() {
    for (kernel, stride) in [(3, 1), (5, 2), (4, 3)] {
        let shape = large(2, kernel, stride);
        let one = ConvShape { batch: 1, ..shape };
        let data = Data::new(&shape);
        let filter = Filter::new(&shape, &data.weight);
        let results = on_threads(|| {
            let mut y = vec![f32::NAN; shape.output_len()];
            let entry = Some(data.entry());
            let moments =
                convolve_with_moments_on(Isa::widest(), &shape, &data.x, entry, &filter, &mut y);
            (y, moments)
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        let bent = Exit { curve: Some(Curve::Silu), ..Exit::default() };
        let curved = on_threads(|| forward(Isa::widest(), &shape, &data.x, &data, bent));
        assert!(curved.windows(2).all(|pair| pair[0] == pair[1]));
        for (x, y) in data.x.chunks(one.input_len()).zip(curved[0].chunks(one.output_len())) {
            assert_eq!(forward(Isa::widest(), &one, x, &data, bent), y);
        }
        for (x, y) in data.x.chunks(one.input_len()).zip(results[0].0.chunks(one.output_len())) {
            assert_eq!(forward(Isa::widest(), &one, x, &data, Exit::default()), y);
        }
    }
}

#[test]
#[should_panic(expected = "groups and outputs")]
fn dense_shapes_are_refused() {
    let shape = ConvShape { groups: 1, ..large(1, 3, 1) };
    let filter = Filter::new(&shape, &vec![0.0; shape.weight_len()]);
    convolve(&shape, &[], None, &filter, Exit::default(), &mut []);
}

#[test]
#[should_panic(expected = "length of the input's map")]
fn lengths_must_fit() {
    let shape = large(1, 3, 1);
    let filter = Filter::new(&shape, &vec![0.0; shape.weight_len()]);
    convolve(&shape, &[0.0], None, &filter, Exit::default(), &mut []);
}

fn through<'a>(data: &'a Data, center: &'a [f32]) -> Through<'a> {
    Through { x: &data.x, entry: data.entry(), center }
}

#[test]
fn gradients_equal_their_definition() {
    for shape in shapes() {
        let data = Data::new(&shape);
        let center = random(shape.channels, 6);
        let dx = reference::input_gradient(&shape, &data.weight, &data.dy);
        let dw = reference::weight_gradient(&shape, &data.x, Some(data.entry()), &data.dy);
        let mut passed = dx.clone();
        let sums = norm::gradient_through(&mut passed, through(&data, &center));
        for isa in Isa::available() {
            let what = format!("{isa:?} {shape:?}");
            let backward = Backward::new(isa, &shape, &data.dy);
            let (mut x, mut w) = (vec![f32::NAN; dx.len()], vec![f32::NAN; dw.len()]);
            backward.input(&data.weight, None, &mut x);
            assert_close(&x, &dx, &format!("input, {what}"));
            backward.weights(&data.x, Some(data.entry()), &mut w);
            assert_close(&w, &dw, &format!("weights, {what}"));
            let apart = backward.input(&data.weight, Some(through(&data, &center)), &mut x);
            assert_close(&x, &passed, &format!("input through, {what}"));
            assert_close(&apart.sum, &sums.sum, &format!("sums, {what}"));
            assert_close(&apart.product, &sums.product, &format!("products, {what}"));
            let (mut both_x, mut both_w) = (vec![f32::NAN; dx.len()], vec![f32::NAN; dw.len()]);
            let through = through(&data, &center);
            let both = backward.both(&data.weight, through, &mut both_x, &mut both_w);
            assert!(both_x == x && both == apart, "both, {what}");
            assert_close(&both_w, &dw, &format!("weights of both, {what}"));
        }
    }
}

#[test]
fn gradients_are_the_same_on_any_threads() {
    for (kernel, stride) in [(3, 1), (5, 2), (4, 3)] {
        let shape = large(2, kernel, stride);
        let one = ConvShape { batch: 1, ..shape };
        let data = Data::new(&shape);
        let results = on_threads(|| {
            let (mut dx, mut dw) =
                (vec![f32::NAN; data.x.len()], vec![f32::NAN; data.weight.len()]);
            let through = through(&data, &data.shift);
            let sums = gradients(&shape, &data.weight, &data.dy, through, &mut dx, &mut dw);
            let mut alone = vec![f32::NAN; dw.len()];
            weight_gradient(&shape, &data.x, Some(data.entry()), &data.dy, &mut alone);
            let mut plain = vec![f32::NAN; dx.len()];
            input_gradient(&shape, &data.weight, &data.dy, &mut plain);
            (dx, dw, sums, alone, plain)
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        let images = data.dy.chunks(one.output_len()).zip(results[0].4.chunks(one.input_len()));
        for (dy, want) in images {
            let mut dx = vec![f32::NAN; one.input_len()];
            input_gradient(&one, &data.weight, dy, &mut dx);
            assert_eq!(dx, want);
        }
    }
}
