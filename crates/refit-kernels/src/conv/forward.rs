//! Convolution, forward.

use std::borrow::Cow;

use super::pack::pack;
use super::product::{Axis, Finish, Layout, Phase, Product};
use super::{ConvShape, Entry, Exit, Moments};
use crate::activation::Activation;
use crate::buffer::Buffer;
use crate::linear::Linear;
use crate::norm::{Entering, enter};
use crate::rows::needed;
use crate::simd::Isa;
use crate::threads::Shared;
use crate::tile::Panel;
use crate::{depthwise, winograd};

/// Weights packed for the forward kernels: made once, used for every batch.
#[derive(Debug)]
pub struct Filter {
    isa: Isa,
    /// What it was packed for.
    kind: Kind,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Dense(Dense),
    Depthwise(depthwise::Filter),
    /// `direct` for so few tiles that reading the weights, transformed four times as many, is what
    /// takes time.
    Winograd {
        transformed: winograd::Filter,
        direct: Option<Dense>,
    },
}

#[derive(Debug)]
struct Dense {
    panels: Vec<Panel>,
    packed: Buffer,
}

impl Dense {
    fn new(isa: Isa, shape: &ConvShape, weight: &[f32]) -> Self {
        let (panels, packed) = pack(isa, shape, weight);
        Self { panels, packed }
    }

    fn product<'a>(&'a self, shape: &ConvShape, isa: Isa, entered: bool) -> Product<'a> {
        Product::new(layout(shape, isa, &self.panels, &self.packed), entered)
    }
}

/// What a filter's shape is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    channels: usize,
    out_channels: usize,
    groups: usize,
}

impl Kind {
    fn of(shape: &ConvShape) -> Self {
        let ConvShape { kernel, stride, dilation, channels, out_channels, groups, .. } = *shape;
        Self { kernel, stride, dilation, channels, out_channels, groups }
    }
}

impl Filter {
    /// Packs `weight`, `[o, c / groups, kh, kw]`, for convolutions of this kernel, stride, dilation,
    /// groups and channels; the batch and the size of the maps don't matter.
    ///
    /// # Panics
    /// If `weight` is not as long as the shape says.
    pub fn new(shape: &ConvShape, weight: &[f32]) -> Self {
        Self::on(Isa::widest(), shape, weight)
    }

    /// As [`new`](Self::new), and packed a second way where single images are convolved faster so,
    /// whose results then differ in rounding from those in a batch.
    pub fn for_any_batch(shape: &ConvShape, weight: &[f32]) -> Self {
        let mut filter = Self::new(shape, weight);
        if let Weights::Winograd { direct, .. } = &mut filter.weights
            && winograd::is_small(&ConvShape { batch: 1, ..*shape })
        {
            *direct = Some(Dense::new(filter.isa, shape, weight));
        }
        filter
    }

    fn on(isa: Isa, shape: &ConvShape, weight: &[f32]) -> Self {
        assert_eq!(weight.len(), shape.weight_len(), "Filter: length of `weight`");
        let weights = if shape.is_depthwise() {
            Weights::Depthwise(depthwise::Filter::new(shape, weight))
        } else if winograd::pays(shape) {
            let transformed = winograd::Filter::new(isa, shape, weight);
            Weights::Winograd { transformed, direct: None }
        } else {
            Weights::Dense(Dense::new(isa, shape, weight))
        };
        Self { isa, kind: Kind::of(shape), weights }
    }
}

/// `y = exit(convolution(entry(x), filter))`.
///
/// # Panics
/// If a slice's length does not fit `shape`, or `filter` was packed for another kernel or other
/// channels.
pub fn convolve(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    exit: Exit,
    y: &mut [f32],
) {
    assert_eq!(filter.kind, Kind::of(shape), "convolve: what the filter was packed for");
    match &filter.weights {
        Weights::Dense(dense) => {
            let product = dense.product(shape, filter.isa, entry.is_some());
            product.run(x, entry, y, Finish::Exit(exit));
        }
        Weights::Winograd { direct: Some(dense), .. } if winograd::is_small(shape) => {
            let product = dense.product(shape, filter.isa, entry.is_some());
            product.run(x, entry, y, Finish::Exit(exit));
        }
        Weights::Depthwise(filter) => depthwise::convolve(shape, x, entry, filter, exit, y),
        Weights::Winograd { transformed, .. } => {
            winograd::convolve(shape, x, entry, transformed, exit, y);
        }
    }
}

/// `y = convolution(entry(x), weight)` with weights, `[o, c / groups, kh, kw]`, that are used once.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn convolve_once(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    weight: &[f32],
    y: &mut [f32],
) {
    match Linear::of(Isa::widest(), shape) {
        Some(linear) => linear.forward(&entered(shape, x, entry), weight, y),
        None => convolve(shape, x, entry, &Filter::new(shape, weight), Exit::default(), y),
    }
}

/// A map behind its entry.
///
/// # Panics
/// If the entry has not a factor and a summand for each channel.
pub(super) fn entered<'a>(shape: &ConvShape, x: &'a [f32], entry: Option<Entry>) -> Cow<'a, [f32]> {
    let Some(entry) = needed(entry) else { return Cow::Borrowed(x) };
    assert_eq!(entry.scale.len(), shape.channels, "convolve: length of the entry's scale");
    assert_eq!(entry.shift.len(), shape.channels, "convolve: length of the entry's shift");
    let mut y = vec![0.0; x.len()];
    enter(Entering { x, entry: Some(entry) }, None, Activation::Identity, &mut y);
    Cow::Owned(y)
}

/// `y = convolution(entry(x), filter)`, and the mean and variance of each channel of `y`.
///
/// # Panics
/// As [`convolve`].
pub fn convolve_with_moments(
    shape: &ConvShape,
    x: &[f32],
    entry: Option<Entry>,
    filter: &Filter,
    y: &mut [f32],
) -> Moments {
    assert_eq!(filter.kind, Kind::of(shape), "convolve: what the filter was packed for");
    match &filter.weights {
        Weights::Dense(dense) => {
            let product = dense.product(shape, filter.isa, entry.is_some());
            let mut partials = Buffer::stale(product.partials());
            product.run(x, entry, y, Finish::Moments(Shared::new(&mut partials)));
            product.moments(&partials)
        }
        Weights::Depthwise(filter) => depthwise::convolve_with_moments(shape, x, entry, filter, y),
        Weights::Winograd { transformed, .. } => {
            winograd::convolve_with_moments(shape, x, entry, transformed, y)
        }
    }
}

/// The convolution as a product: one phase, each output pixel a cell.
fn layout<'a>(shape: &ConvShape, isa: Isa, panels: &'a [Panel], weights: &'a [f32]) -> Layout<'a> {
    let (source, target) = ([shape.height, shape.width], shape.out_size());
    let [kh, kw] = shape.kernel;
    let [dy, dx] = shape.dilation;
    let axis = |i: usize| Axis {
        source: source[i],
        target: target[i],
        step: shape.stride[i],
        spread: 1,
        first: -(shape.padding[i].0 as isize),
        reach: (shape.kernel[i] - 1) * shape.dilation[i] + 1,
    };
    let taps = (0..kh).flat_map(|y| (0..kw).map(move |x| [y * dy, x * dx])).collect();
    Layout {
        isa,
        batch: shape.batch,
        axes: [axis(0), axis(1)],
        channels: [shape.channels, shape.out_channels],
        groups: shape.groups,
        panels,
        columns: panels.iter().map(|p| p.vectors * isa.lanes()).sum(),
        weights,
        phases: vec![Phase { at: [0, 0], taps }],
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::{Random, assert_close, in_pools, shapes};
    use super::super::reference;
    use super::*;
    use crate::curve::Curve;

    struct Case {
        shape: ConvShape,
        x: Vec<f32>,
        weight: Vec<f32>,
        /// Factors and summands of the entry, and the exit's summands.
        channels: [Vec<f32>; 3],
        residual: Vec<f32>,
    }

    impl Case {
        fn new(shape: ConvShape) -> Self {
            let mut random = Random::new(shape.input_len() as u64);
            Self {
                shape,
                x: random.values(shape.input_len()),
                weight: random.values(shape.weight_len()),
                channels: [shape.channels, shape.channels, shape.out_channels]
                    .map(|n| random.values(n)),
                residual: random.values(shape.output_len()),
            }
        }

        fn entry(&self) -> Entry<'_> {
            let [scale, shift, _] = &self.channels;
            Entry { scale, shift, activation: Activation::Relu }
        }

        fn exit(&self) -> Exit<'_> {
            Exit {
                shift: Some(&self.channels[2]),
                residual: Some(&self.residual),
                activation: Activation::Relu6,
                curve: None,
            }
        }

        fn convolve(&self, isa: Isa, entry: Option<Entry>, exit: Exit) -> Vec<f32> {
            let mut y = Buffer::zeros(self.shape.output_len());
            y.fill(f32::NAN);
            let filter = Filter::on(isa, &self.shape, &self.weight);
            convolve(&self.shape, &self.x, entry, &filter, exit, &mut y);
            y.to_vec()
        }
    }

    fn bent(exit: Exit) -> Exit {
        Exit { activation: Activation::Identity, curve: Some(Curve::Silu), ..exit }
    }

    #[test]
    fn equals_the_definition() {
        for case in shapes().into_iter().map(Case::new) {
            for (entry, exit) in [
                (None, Exit::default()),
                (Some(case.entry()), Exit::default()),
                (None, case.exit()),
                (None, bent(case.exit())),
            ] {
                let exact = reference::convolve(&case.shape, &case.x, entry, &case.weight, exit);
                for isa in Isa::available() {
                    let got = case.convolve(isa, entry, exit);
                    assert_close(&got, &exact, &format!("{isa:?} {:?}", case.shape));
                }
            }
        }
    }

    /// With few tiles the weights are read as they are, which `new` does not provide for.
    #[test]
    fn a_filter_for_any_batch_equals_the_definition_too() {
        let one = ConvShape {
            batch: 1,
            height: 7,
            width: 7,
            channels: 40,
            out_channels: 33,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [(1, 1); 2],
            dilation: [1, 1],
            groups: 1,
        };
        for case in [1, 2].map(|batch| Case::new(ConvShape { batch, ..one })) {
            let filter = Filter::for_any_batch(&case.shape, &case.weight);
            let Weights::Winograd { direct: Some(_), .. } = filter.weights else {
                panic!("not packed twice")
            };
            let mut y = vec![f32::NAN; case.shape.output_len()];
            convolve(&case.shape, &case.x, None, &filter, case.exit(), &mut y);
            let exact = reference::convolve(&case.shape, &case.x, None, &case.weight, case.exit());
            assert_close(&y, &exact, &format!("{:?}", case.shape));
            let by_tiles = case.convolve(Isa::widest(), None, case.exit());
            assert_eq!(y == by_tiles, case.shape.batch == 2);
        }
    }

    #[test]
    fn weights_used_once_give_the_same() {
        let vectors = ConvShape {
            batch: 5,
            height: 1,
            width: 1,
            channels: 600,
            out_channels: 500,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [(0, 0); 2],
            dilation: [1, 1],
            groups: 1,
        };
        for case in [vectors, shapes()[0]].map(Case::new) {
            for entry in [None, Some(case.entry())] {
                let mut y = vec![f32::NAN; case.shape.output_len()];
                convolve_once(&case.shape, &case.x, entry, &case.weight, &mut y);
                assert_eq!(y, case.convolve(Isa::widest(), entry, Exit::default()));
            }
        }
    }

    #[test]
    fn moments_are_those_of_the_output() {
        for case in shapes().into_iter().map(Case::new) {
            for isa in Isa::available() {
                let shape = &case.shape;
                let filter = Filter::on(isa, shape, &case.weight);
                let mut y = vec![f32::NAN; shape.output_len()];
                let moments =
                    convolve_with_moments(shape, &case.x, Some(case.entry()), &filter, &mut y);
                assert_eq!(y, case.convolve(isa, Some(case.entry()), Exit::default()));
                let exact = crate::norm::moments(&y, shape.out_channels);
                assert_close(&moments.mean, &exact.mean, &format!("{isa:?} {shape:?}"));
                assert_close(&moments.variance, &exact.variance, &format!("{isa:?} {shape:?}"));
            }
        }
    }

    #[test]
    fn a_variance_survives_a_large_mean() {
        let shape = ConvShape { batch: 4, height: 20, width: 20, ..shapes()[4] };
        let mut random = Random::new(1);
        let x: Vec<f32> = random.values(shape.input_len()).into_iter().map(|v| 100.0 + v).collect();
        let weight = vec![1.0 / shape.channels as f32; shape.weight_len()];
        let mut y = vec![0.0; shape.output_len()];
        let filter = Filter::new(&shape, &weight);
        let moments = convolve_with_moments(&shape, &x, None, &filter, &mut y);
        let exact = crate::norm::moments(&y, shape.out_channels);
        for (got, exact) in moments.variance.iter().zip(&exact.variance) {
            assert!((got - exact).abs() < 1e-4 * exact, "{got}, not {exact}");
        }
    }

    #[test]
    fn threads_change_nothing() {
        for case in shapes().into_iter().map(Case::new) {
            let filter = Filter::new(&case.shape, &case.weight);
            let all = in_pools(|| {
                let mut y = vec![f32::NAN; case.shape.output_len()];
                let moments = convolve_with_moments(&case.shape, &case.x, None, &filter, &mut y);
                (y, moments)
            });
            assert!(all.iter().all(|one| *one == all[0]), "{:?}", case.shape);
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for shape in shapes() {
            let case = Case::new(ConvShape { batch: 9, ..shape });
            let alone = Case {
                shape: ConvShape { batch: 1, ..shape },
                x: case.x[..case.x.len() / 9].to_vec(),
                residual: Vec::new(),
                weight: case.weight.clone(),
                channels: case.channels.clone(),
            };
            let isa = Isa::widest();
            for entry in [None, Some(case.entry())] {
                let all = case.convolve(isa, entry, Exit::default());
                let one = alone.convolve(isa, entry, Exit::default());
                assert_eq!(all[..one.len()], one, "{shape:?}");
            }
        }
    }

    #[test]
    fn a_map_larger_than_the_caches_is_no_different() {
        for out_channels in [64, 80] {
            let shape = ConvShape { batch: 17, height: 64, width: 64, out_channels, ..shapes()[4] };
            let case = Case::new(shape);
            let alone = Case::new(ConvShape { batch: 1, ..shape });
            let alone = Case {
                x: case.x[..alone.x.len()].to_vec(),
                weight: case.weight.clone(),
                channels: case.channels.clone(),
                ..alone
            };
            for isa in Isa::available() {
                let exit = Exit { residual: None, ..case.exit() };
                for exit in [exit, bent(exit)] {
                    let all = case.convolve(isa, None, exit);
                    let one = alone.convolve(isa, None, exit);
                    assert_eq!(all[..one.len()], one, "{isa:?}");
                }
                let filter = Filter::on(isa, &shape, &case.weight);
                let mut y = Buffer::stale(shape.output_len());
                let moments = convolve_with_moments(&shape, &case.x, None, &filter, &mut y);
                let exact = crate::norm::moments(&y, out_channels);
                assert_close(&moments.variance, &exact.variance, "variance");
            }
        }
    }

    #[test]
    fn no_images_give_none() {
        for shape in shapes() {
            let none = Case::new(ConvShape { batch: 0, ..shape });
            assert!(none.convolve(Isa::widest(), None, Exit::default()).is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "what the filter was packed for")]
    fn a_filter_of_another_shape_is_refused() {
        let case = Case::new(shapes()[0]);
        let filter = Filter::new(&case.shape, &case.weight);
        let other = ConvShape { out_channels: case.shape.out_channels + 1, ..case.shape };
        let mut y = vec![0.0; other.output_len()];
        convolve(&other, &case.x, None, &filter, Exit::default(), &mut y);
    }

    #[test]
    #[should_panic(expected = "length of the entry's scale")]
    fn an_entry_of_other_channels_is_refused() {
        let shape = ConvShape { batch: 1, channels: 600, out_channels: 500, ..shapes()[7] };
        let (x, weight) = (vec![0.0; shape.input_len()], vec![0.0; shape.weight_len()]);
        let entry = Entry { scale: &[1.0; 300], shift: &[0.0; 300], activation: Activation::Relu };
        convolve_once(&shape, &x, Some(entry), &weight, &mut vec![0.0; shape.output_len()]);
    }

    #[test]
    #[should_panic(expected = "length of `residual`")]
    fn a_residual_of_another_size_is_refused() {
        let case = Case::new(shapes()[0]);
        case.convolve(Isa::widest(), None, Exit { residual: Some(&[0.0]), ..Exit::default() });
    }
}
