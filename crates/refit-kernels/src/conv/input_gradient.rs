//! The gradient of a convolution with respect to its input.

use super::pack::pack_transposed;
use super::product::{Axis, Finish, Layout, Phase, Product};
use super::{ConvShape, Exit};
use crate::buffer::Buffer;
use crate::linear::Linear;
use crate::norm::{GradientSums, Through, gradient_through};
use crate::simd::Isa;
use crate::threads::Shared;
use crate::{depthwise, winograd};

/// `dx`: the gradient with respect to the entered input, `[n, h, w, c]`, from the output's, `dy`;
/// `weight` is `[o, c / groups, kh, kw]`.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn input_gradient(shape: &ConvShape, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    input_gradient_on(Isa::widest(), shape, weight, dy, dx);
}

fn input_gradient_on(isa: Isa, shape: &ConvShape, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(weight.len(), shape.weight_len(), "input_gradient: length of `weight`");
    if shape.is_depthwise() {
        return depthwise::input_gradient(shape, weight, dy, dx);
    }
    if winograd::pays(shape) {
        return winograd::input_gradient(isa, shape, weight, dy, dx);
    }
    if let Some(linear) = Linear::of(isa, shape) {
        return linear.input_gradient(dy, weight, dx);
    }
    with_product(isa, shape, weight, |product| {
        product.run(dy, None, dx, Finish::Exit(Exit::default()));
    });
}

/// [`input_gradient`] and then [`gradient_through`](crate::gradient_through) the entry, in one pass.
///
/// # Panics
/// If a slice's length does not fit `shape`.
pub fn input_gradient_through(
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    through: Through,
    dx: &mut [f32],
) -> GradientSums {
    input_gradient_through_on(Isa::widest(), shape, weight, dy, through, dx)
}

fn input_gradient_through_on(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    dy: &[f32],
    through: Through,
    dx: &mut [f32],
) -> GradientSums {
    assert_eq!(weight.len(), shape.weight_len(), "input_gradient: length of `weight`");
    if shape.is_depthwise() {
        return depthwise::input_gradient_through(shape, weight, dy, through, dx);
    }
    if winograd::pays(shape) {
        return winograd::input_gradient_through(isa, shape, weight, dy, through, dx);
    }
    if let Some(linear) = Linear::of(isa, shape) {
        linear.input_gradient(dy, weight, dx);
        return gradient_through(dx, through);
    }
    with_product(isa, shape, weight, |product| {
        let mut partials = Buffer::stale(product.partials());
        product.run(dy, None, dx, Finish::Through(through, Shared::new(&mut partials)));
        product.sums(&partials)
    })
}

/// Plans the gradient as a product over `dy`, with the weights transposed.
fn with_product<R>(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    use_it: impl FnOnce(&Product) -> R,
) -> R {
    let [rows, columns] = [AxisPhases::new(shape, 0), AxisPhases::new(shape, 1)];
    let (mut phases, mut numbers) = (Vec::new(), Vec::new());
    for (y, x) in (0..shape.stride[0]).flat_map(|y| (0..shape.stride[1]).map(move |x| (y, x))) {
        let taps = || rows.taps[y].iter().flat_map(|r| columns.taps[x].iter().map(move |c| (r, c)));
        numbers.push(taps().map(|(r, c)| r.kernel * shape.kernel[1] + c.kernel).collect());
        phases
            .push(Phase { at: [y, x], taps: taps().map(|(r, c)| [r.source, c.source]).collect() });
    }
    let (panels, columns_of_panels, weights) = pack_transposed(isa, shape, weight, &numbers);
    let layout = Layout {
        isa,
        batch: shape.batch,
        axes: [rows.axis, columns.axis],
        channels: [shape.out_channels, shape.channels],
        groups: shape.groups,
        panels: &panels,
        columns: columns_of_panels,
        weights: &weights,
        phases,
    };
    use_it(&Product::new(layout, false))
}

/// A kernel row or column, and where its values lie in `dy` behind the first that is read.
struct Tap {
    kernel: usize,
    source: usize,
}

/// One dimension: the taps that meet the input pixels `phase`, `phase + stride`, ...
struct AxisPhases {
    axis: Axis,
    taps: Vec<Vec<Tap>>,
}

impl AxisPhases {
    fn new(shape: &ConvShape, i: usize) -> Self {
        let (stride, kernel, dilation) = (shape.stride[i], shape.kernel[i], shape.dilation[i]);
        // Input pixel `p` meets tap `k` at output pixel `(p + padding - k * dilation) / stride`.
        let meets = |phase: usize, k: usize| {
            let at = (phase + shape.padding[i].0) as isize - (k * dilation) as isize;
            (at.rem_euclid(stride as isize) == 0).then(|| at.div_euclid(stride as isize))
        };
        // The last tap of a kernel meets the first output pixel.
        let of_phase =
            move |phase| (0..kernel).rev().filter_map(move |k| Some((k, meets(phase, k)?)));
        let places = || (0..stride).flat_map(of_phase).map(|(_, at)| at);
        let (first, last) = (places().min().unwrap_or(0), places().max().unwrap_or(0));
        let tap =
            |(kernel, at): (usize, isize)| Tap { kernel, source: (at - first).unsigned_abs() };
        Self {
            axis: Axis {
                source: shape.out_size()[i],
                target: [shape.height, shape.width][i],
                step: 1,
                spread: stride,
                first,
                reach: (last - first).unsigned_abs() + 1,
            },
            taps: (0..stride).map(|phase| of_phase(phase).map(tap).collect()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::super::cases::{Random, assert_close, in_pools, shapes};
    use super::super::reference;
    use super::*;
    use crate::activation::Activation;
    use crate::gradient_through;

    struct Case {
        shape: ConvShape,
        weight: Vec<f32>,
        dy: Vec<f32>,
        x: Vec<f32>,
        /// Factors, summands and centers.
        channels: [Vec<f32>; 3],
    }

    impl Case {
        fn new(shape: ConvShape) -> Self {
            let mut random = Random::new(shape.input_len() as u64);
            Self {
                shape,
                weight: random.values(shape.weight_len()),
                dy: random.values(shape.output_len()),
                x: random.values(shape.input_len()),
                channels: [(); 3].map(|()| random.values(shape.channels)),
            }
        }

        fn through(&self) -> Through<'_> {
            let [scale, shift, center] = &self.channels;
            let entry = Entry { scale, shift, activation: Activation::Relu };
            Through { x: &self.x, entry, center }
        }

        fn gradient(&self, isa: Isa) -> Vec<f32> {
            let mut dx = vec![f32::NAN; self.shape.input_len()];
            input_gradient_on(isa, &self.shape, &self.weight, &self.dy, &mut dx);
            dx
        }

        fn gradient_through(&self, isa: Isa) -> (Vec<f32>, GradientSums) {
            let mut dx = vec![f32::NAN; self.shape.input_len()];
            let Self { shape, weight, dy, .. } = self;
            let sums = input_gradient_through_on(isa, shape, weight, dy, self.through(), &mut dx);
            (dx, sums)
        }
    }

    #[test]
    fn equals_the_definition() {
        for case in shapes().into_iter().map(Case::new) {
            let exact = reference::input_gradient(&case.shape, &case.weight, &case.dy);
            for isa in Isa::available() {
                assert_close(&case.gradient(isa), &exact, &format!("{isa:?} {:?}", case.shape));
            }
        }
    }

    #[test]
    fn passing_an_entry_is_the_gradient_and_then_the_entry() {
        for case in shapes().into_iter().map(Case::new) {
            for isa in Isa::available() {
                let what = format!("{isa:?} {:?}", case.shape);
                let mut exact = case.gradient(isa);
                let exact_sums = gradient_through(&mut exact, case.through());
                let (dx, sums) = case.gradient_through(isa);
                assert_close(&dx, &exact, &what);
                assert_close(&sums.sum, &exact_sums.sum, &what);
                assert_close(&sums.product, &exact_sums.product, &what);
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        for case in shapes().into_iter().map(Case::new) {
            let all = in_pools(|| case.gradient_through(Isa::widest()));
            assert!(all.iter().all(|one| *one == all[0]), "{:?}", case.shape);
        }
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for shape in shapes() {
            let case = Case::new(ConvShape { batch: 9, ..shape });
            let alone = Case {
                shape: ConvShape { batch: 1, ..shape },
                dy: case.dy[..case.dy.len() / 9].to_vec(),
                x: case.x[..case.x.len() / 9].to_vec(),
                weight: case.weight.clone(),
                channels: case.channels.clone(),
            };
            let one = alone.gradient_through(Isa::widest()).0;
            let all = case.gradient_through(Isa::widest()).0;
            assert_eq!(all[..one.len()], one, "{shape:?}");
        }
    }

    #[test]
    #[should_panic(expected = "length of a convolution's output")]
    fn a_gradient_of_another_size_is_refused() {
        let case = Case::new(shapes()[0]);
        input_gradient(&case.shape, &case.weight, &case.dy, &mut [0.0]);
    }
}
