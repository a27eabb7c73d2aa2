//! Feature hints: FitNets, Romero et al. 2015, <https://arxiv.org/abs/1412.6550>.

use burn::tensor::Tensor;

/// How far a student's values, brought to the teacher's channels by a learned adapter, are from the
/// teacher's: the squared difference as a share of the teacher's own square, so that one weight
/// suits layers of any scale.
///
/// `adapted` is tracked and of `hint`'s shape: `[n, channels, h, w]`, or `[n, channels]`.
///
/// # Panics
/// If the shapes differ.
pub fn hint<const D: usize>(adapted: Tensor<D>, hint: &Tensor<D>) -> Tensor<1> {
    assert_eq!(adapted.dims(), hint.dims(), "hint: shapes");
    let scale: f32 = hint.clone().powi_scalar(2).sum().into_scalar();
    let difference = adapted - hint.clone().autodiff();
    difference.powi_scalar(2).sum() / f64::from(scale.max(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::{slope, tensor};

    #[test]
    fn it_is_a_share_of_the_teachers_square() {
        let teacher = tensor(&[[3.0, 0.0, -4.0]]);
        let of = |x: Tensor<2>| hint(x.autodiff(), &teacher).into_scalar::<f32>();
        assert_eq!(of(teacher.clone()), 0.0);
        assert!((of(teacher.clone() * 0.0) - 1.0).abs() < 1e-6);
        assert!((of(teacher.clone() * 1.5) - 0.25).abs() < 1e-6);
    }

    #[test]
    fn its_gradient_is_its_slope() {
        let teacher = tensor(&[[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]);
        slope(&[[0.3, -0.2, 0.9], [1.2, 0.1, -0.4]], |x| hint(x, &teacher));
    }
}
