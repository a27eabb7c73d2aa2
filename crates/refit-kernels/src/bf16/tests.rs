//! Every way against the definition, on inputs that are `bf16` already.

use super::*;
use crate::conv::reference;
use crate::inverted::tests as inverted_cases;
use crate::pool::PoolShape;
use crate::testing::{on_threads, values};

/// `values`, rounded.
fn rounded(len: usize, salt: u32) -> Vec<f32> {
    values(len, salt).into_iter().map(|v| to_f32(from_f32(v))).collect()
}

/// The result is rounded to 8 bits, half a unit of the last of which is 2^-8 of the value; before
/// that it is an `f32` sum, with errors of some 1e-6 of the largest.
#[track_caller]
fn assert_close(got: &[u16], want: &[f32], what: &dyn std::fmt::Debug) {
    assert_within(2e-5, got, want, what);
}

/// Half a unit of the last place, and `slack` of the largest.
#[track_caller]
fn assert_within(slack: f32, got: &[u16], want: &[f32], what: &dyn std::fmt::Debug) {
    assert_eq!(got.len(), want.len());
    let top = want.iter().fold(0.0f32, |top, v| top.max(v.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (to_f32(*got) - want).abs();
        assert!(off <= want.abs() / 255.0 + slack * top, "{got} for {want} at {i}: {what:?}");
    }
}

/// A kernel's size, stride, padding and dilation.
type Kernel = ([usize; 2], [usize; 2], [(usize, usize); 2], [usize; 2]);

const POINT: Kernel = ([1, 1], [1, 1], [(0, 0); 2], [1, 1]);
const THREE: Kernel = ([3, 3], [1, 1], [(1, 1); 2], [1, 1]);

fn shape(batch: usize, size: [usize; 2], channels: [usize; 2], kernel: Kernel) -> ConvShape {
    let (kernel, stride, padding, dilation) = kernel;
    ConvShape {
        batch,
        height: size[0],
        width: size[1],
        channels: channels[0],
        out_channels: channels[1],
        kernel,
        stride,
        padding,
        dilation,
        groups: 1,
    }
}

fn shapes() -> Vec<ConvShape> {
    vec![
        shape(2, [7, 9], [32, 32], POINT),
        shape(2, [7, 9], [24, 40], POINT),
        shape(3, [5, 5], [16, 100], POINT),
        shape(1, [1, 5], [48, 17], POINT),
        shape(1, [25, 50], [34, 31], POINT),
        shape(2, [3, 7], [31, 33], POINT),
        shape(3, [7, 9], [17, 33], THREE),
        shape(5, [7, 7], [64, 48], THREE),
        shape(1, [40, 33], [5, 16], THREE),
        shape(1, [1, 1], [1, 1], THREE),
        shape(2, [11, 13], [3, 64], ([7, 7], [2, 2], [(3, 3), (2, 3)], [1, 1])),
        shape(2, [11, 13], [48, 17], ([3, 3], [2, 1], [(1, 0), (1, 2)], [2, 3])),
        shape(2, [9, 8], [20, 5], ([5, 2], [3, 2], [(4, 1), (0, 3)], [1, 1])),
        shape(2, [5, 6], [31, 100], ([1, 1], [2, 2], [(0, 0); 2], [1, 1])),
        shape(1, [12, 4], [33, 3], ([1, 3], [1, 1], [(0, 0), (1, 1)], [1, 2])),
        depthwise(2, [7, 9], 33, THREE),
        depthwise(3, [14, 13], 100, ([5, 5], [2, 2], [(2, 2), (1, 2)], [1, 1])),
        depthwise(1, [40, 31], 16, ([5, 5], [1, 1], [(2, 2); 2], [1, 1])),
        depthwise(1, [9, 8], 17, ([3, 2], [1, 3], [(3, 0), (0, 1)], [2, 1])),
        depthwise(1, [100, 3], 150, THREE),
    ]
}

fn depthwise(batch: usize, size: [usize; 2], channels: usize, kernel: Kernel) -> ConvShape {
    ConvShape { groups: channels, ..shape(batch, size, [channels; 2], kernel) }
}

#[test]
fn convolutions_agree_with_their_definition() {
    for s in shapes() {
        let (x, w) = (rounded(s.input_len(), 1), rounded(s.weight_len(), 2));
        let (shift, residual) = (values(s.out_channels, 3), rounded(s.output_len(), 4));
        let filter = Filter::new(&s, &w);
        let [x16, residual16] = [&x, &residual].map(|v| Buffer::from_f32(v));
        for with in [false, true] {
            let activation = if with { Activation::Relu6 } else { Activation::Identity };
            let shift = with.then_some(&*shift);
            let residual = with.then_some(&*residual);
            let exit = crate::Exit { shift, residual, activation, curve: None };
            let want = reference::convolve(&s, &x, None, &w, exit);
            let exit = Exit { shift, residual: with.then_some(&*residual16), activation };
            for way in Way::available() {
                let mut y = vec![0x7FFF; s.output_len()];
                convolve_by(way, &s, &x16, &filter, exit, &mut y);
                assert_close(&y, &want, &(way, s));
            }
        }
    }
}

#[test]
fn neither_threads_nor_the_batch_change_a_bit() {
    for s in shapes() {
        let x = Buffer::from_f32(&rounded(s.input_len(), 1));
        let filter = Filter::new(&s, &rounded(s.weight_len(), 2));
        let run = |s: &ConvShape, x: &[u16]| {
            let mut y = vec![0x7FFF; s.output_len()];
            convolve(s, x, &filter, Exit::default(), &mut y);
            y
        };
        let whole = on_threads(1, || run(&s, &x));
        assert!(whole == on_threads(2, || run(&s, &x)), "{s:?}");
        assert!(whole == on_threads(3, || run(&s, &x)), "{s:?}");
        let alone = ConvShape { batch: 1, ..s };
        let each = x.chunks_exact(alone.input_len()).flat_map(|x| run(&alone, x));
        assert!(whole == each.collect::<Vec<_>>(), "{s:?}");
    }
}

/// A filtered value that lies between two rounded ones may be rounded to either: an error of 2^-8 of
/// it, hence more slack than for a single convolution.
#[test]
fn inverted_residuals_agree_with_their_layers() {
    for (i, sizes, kind) in inverted_cases::cases() {
        let batch = if i < 2 { 8 } else { 2 };
        let s = inverted_cases::shape(sizes, kind, batch);
        let mut weights = inverted_cases::Weights::new(&s);
        weights.weight.iter_mut().flatten().for_each(|w| *w = to_f32(from_f32(*w)));
        let stages = weights.stages(&s);
        let (x, residual) = (rounded(s.input_len(), 4), rounded(s.output_len(), 5));
        let [x16, residual16] = [&x, &residual].map(|v| Buffer::from_f32(v));
        let exit = |stage: &crate::Stage, i: usize| crate::Exit {
            shift: Some(&weights.shift[i]),
            residual: None,
            activation: stage.activation,
            curve: None,
        };
        let expand = stages.expand.zip(s.expand);
        let wide = expand.map_or(x.clone(), |(stage, e)| {
            reference::convolve(&e, &x, None, stage.weight, exit(&stage, 0))
        });
        let filter = &stages.depthwise;
        let narrow = exit(filter, 1);
        let mut filtered = reference::convolve(&s.depthwise, &wide, None, filter.weight, narrow);
        filtered.iter_mut().for_each(|v| *v = to_f32(from_f32(*v)));
        let channels = [s.depthwise.channels, s.out_channels];
        let down = shape(batch, s.depthwise.out_size(), channels, POINT);
        for with in [None, Some(&*residual)] {
            let project = &stages.project.unwrap();
            let exit = crate::Exit { residual: with, ..exit(project, 2) };
            let want = reference::convolve(&down, &filtered, None, project.weight, exit);
            let with = with.map(|_| &*residual16);
            for way in Way::available() {
                let block = InvertedResidual::by(way, &s, stages);
                let mut y = vec![0x7FFF; s.output_len()];
                block.run(&s, &x16, with, &mut y);
                assert_within(1e-3, &y, &want, &(way, sizes, kind));
                let mut again = vec![0x7FFF; s.output_len()];
                on_threads(3, || block.run(&s, &x16, with, &mut again));
                assert!(again == y, "{way:?} {sizes:?} {kind:?}: threads");
                // An image alone gives the same.
                let one = inverted_cases::shape(sizes, kind, 1);
                let mut alone = vec![0x7FFF; one.output_len()];
                let with = with.map(|r| &r[(batch - 1) * one.output_len()..]);
                block.run(&one, &x16[(batch - 1) * one.input_len()..], with, &mut alone);
                assert!(alone == y[(batch - 1) * one.output_len()..], "{way:?} {sizes:?}: alone");
            }
        }
    }
}

#[test]
fn one_pixel_that_is_not_a_number_stays_alone() {
    let s = shape(1, [6, 40], [24, 16], THREE);
    let mut x = Buffer::from_f32(&rounded(s.input_len(), 1));
    let filter = Filter::new(&s, &rounded(s.weight_len(), 2));
    x[(2 * 40 + 20) * 24] = from_f32(f32::NAN);
    for way in Way::available() {
        let exit = Exit { activation: Activation::Relu6, ..Exit::default() };
        let mut y = vec![0; s.output_len()];
        convolve_by(way, &s, &x, &filter, exit, &mut y);
        for (i, y) in y.iter().enumerate() {
            let (row, column) = (i / 16 / 40, i / 16 % 40);
            let near = (1..4).contains(&row) && (19..22).contains(&column);
            assert_eq!(to_f32(*y).is_nan(), near, "{way:?} {row} {column}");
        }
    }
}

#[test]
fn pools_agree_with_their_definition() {
    let (height, width, channels) = (9, 6, 37);
    let size = PoolShape {
        batch: 2,
        height,
        width,
        channels,
        window: [3, 2],
        stride: [2, 2],
        padding: [(1, 1), (0, 1)],
        out_size: [0, 0],
    };
    let s = size.rounded_up();
    let mut x = rounded(s.input_len(), 1);
    x[100] = f32::NAN;
    let x16 = Buffer::from_f32(&x);
    let mut greatest = vec![0.0; s.output_len()];
    crate::max_pool(&s, &x, None, &mut greatest, None);
    let mut means = vec![0.0; 2 * channels];
    for (i, v) in x.iter().enumerate() {
        means[i / (height * width * channels) * channels + i % channels] +=
            v / (height * width) as f32;
    }
    for way in Way::available() {
        let mut y = vec![0; s.output_len()];
        pool::max_pool_by(way, &s, &x16, &mut y);
        for (y, want) in y.iter().zip(&greatest) {
            assert!(to_f32(*y) == *want || (to_f32(*y).is_nan() && want.is_nan()), "{way:?}");
        }
        let mut y = vec![0.0; 2 * channels];
        pool::mean_pool_by(way, 2, channels, &x16, &mut y);
        for (y, want) in y.iter().zip(&means) {
            assert!((y - want).abs() < 1e-5 || (y.is_nan() && want.is_nan()), "{way:?}");
        }
    }
}

#[test]
fn conversions_agree_with_one_value() {
    let x = values(1000, 5);
    let mut y = vec![0; 1000];
    round(&x, &mut y);
    let one_by_one: Vec<u16> = x.iter().map(|v| from_f32(*v)).collect();
    assert_eq!(y, one_by_one);
    let mut back = vec![0.0; 1000];
    widen(&y, &mut back);
    let one_by_one: Vec<f32> = y.iter().map(|v| to_f32(*v)).collect();
    assert_eq!(back, one_by_one);
}

#[test]
fn rounding_is_to_the_nearest_even() {
    let bits = |bits: u32| from_f32(f32::from_bits(bits));
    assert_eq!([0x3F80_7FFF, 0x3F80_8000, 0x3F80_8001].map(bits), [0x3F80, 0x3F80, 0x3F81]);
    assert_eq!([0x3F81_8000, 0xBF81_8000].map(bits), [0x3F82, 0xBF82]);
    assert_eq!([f32::MAX, f32::INFINITY, 0.0, -0.0].map(from_f32), [0x7F80, 0x7F80, 0, 0x8000]);
    assert!(to_f32(bits(0x7F80_0001)).is_nan() && to_f32(bits(0xFFFF_FFFF)).is_nan());
    for value in (0..=u16::MAX).filter(|v| !to_f32(*v).is_nan()) {
        assert_eq!(from_f32(to_f32(value)), value);
    }
}

#[test]
#[should_panic(expected = "length of `y`")]
fn a_short_output_is_refused() {
    let s = shape(1, [4, 4], [1, 1], POINT);
    convolve(&s, &[0; 16], &Filter::new(&s, &[1.0]), Exit::default(), &mut [0; 15]);
}

#[test]
#[should_panic(expected = "the filter's kernel")]
fn a_filter_of_another_kernel_is_refused() {
    let s = shape(1, [4, 4], [1, 1], POINT);
    let three = Filter::new(&shape(1, [4, 4], [1, 1], THREE), &[1.0; 9]);
    convolve(&s, &[0; 16], &three, Exit::default(), &mut [0; 16]);
}
