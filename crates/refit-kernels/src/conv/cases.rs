//! Shapes and values that the tests of convolutions share.

use super::ConvShape;

/// Numbers from a small linear congruential generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// Values in `[-1, 1)`.
    pub(crate) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0).collect()
    }
}

const fn square(
    batch: usize,
    size: usize,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
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
        dilation: [1; 2],
        groups: 1,
    }
}

/// Shapes of real layers in small, and random ones; none is depthwise.
pub(crate) fn shapes() -> Vec<ConvShape> {
    let mut shapes = vec![
        square(2, 30, [16, 33], 3, 1),
        square(2, 31, [3, 32], 7, 2),
        square(3, 7, [48, 100], 3, 1),
        square(1, 7, [100, 300], 3, 1),
        square(3, 14, [16, 48], 3, 2),
        square(2, 15, [31, 17], 1, 1),
        square(2, 15, [17, 5], 1, 2),
        square(33, 1, [100, 48], 1, 1),
        square(5, 1, [600, 500], 1, 1),
        square(1, 23, [5, 16], 1, 3),
        ConvShape { groups: 4, ..square(2, 9, [16, 32], 3, 1) },
        ConvShape { padding: [(0, 0); 2], ..square(2, 12, [16, 16], 3, 1) },
    ];
    let mut random = Random::new(1);
    while shapes.len() < 60 {
        shapes.extend(random_shape(&mut random));
    }
    shapes
}

fn random_shape(random: &mut Random) -> Option<ConvShape> {
    const CHANNELS: [usize; 9] = [1, 3, 5, 16, 17, 31, 33, 48, 100];
    let groups = random.one_of(&[1, 1, 1, 2, 3]);
    let channels = |r: &mut Random| r.one_of(&CHANNELS[..if groups == 1 { 9 } else { 6 }]) * groups;
    let mut pair = |end| [1 + random.below(end), 1 + random.below(end)];
    let ([height, width], kernel, stride, dilation) = (pair(16), pair(4), pair(3), pair(2));
    let padding = [(); 2].map(|()| (random.below(4), random.below(4)));
    let shape = ConvShape {
        batch: 1 + random.below(3),
        height,
        width,
        channels: channels(random),
        out_channels: channels(random),
        kernel,
        stride,
        padding,
        dilation,
        groups,
    };
    let reach = |i: usize| dilation[i] * (kernel[i] - 1) + 1;
    let fits = |i: usize, len| reach(i) <= len + padding[i].0 + padding[i].1;
    (fits(0, height) && fits(1, width) && !shape.is_depthwise()).then_some(shape)
}

/// Asserts that two maps agree up to 2e-5 of the largest value: a sum of 900 products in `f32` is
/// off by a few of its last bits, `6e-8` each, of a sum that may be far larger than what remains.
pub(crate) fn assert_close(got: &[f32], exact: &[f32], what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}");
    let largest = exact.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (g, e)) in got.iter().zip(exact).enumerate() {
        assert!((g - e).abs() <= 2e-5 * largest, "{what}: {g}, not {e}, at {i}");
    }
}

/// Runs `each` in pools of one, two and three threads.
pub(crate) fn in_pools<R: Send>(each: impl Fn() -> R + Sync) -> Vec<R> {
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    (1..=3).map(|n| pool(n).expect("a pool").install(&each)).collect()
}
