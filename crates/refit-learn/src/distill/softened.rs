//! Softened outputs: Hinton et al. 2015, <https://arxiv.org/abs/1503.02531>.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// How far a student's softened distribution is from the teacher's: `T^2 KL(teacher || student)`, the
/// mean over images. The square keeps the gradient's size as the temperature changes.
///
/// `logits` is `[n, classes]`, tracked; `soft` the teacher's distribution at `temperature`,
/// `[n, classes]`.
pub fn softened(logits: Tensor<2>, soft: &Tensor<2>, temperature: f64) -> Tensor<1> {
    let [n, _] = soft.dims();
    let log_p = log_softmax(logits / temperature, 1);
    let log_q = soft.clone().clamp_min(f32::MIN_POSITIVE).log();
    let entropy = (log_q * soft.clone()).sum().autodiff();
    (entropy - (log_p * soft.clone().autodiff()).sum()) * (temperature * temperature / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::{gradient, slope, tensor};
    use burn::tensor::activation::softmax;

    #[test]
    fn it_is_zero_where_both_say_the_same_and_grows_from_there() {
        let teacher = tensor(&[[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]);
        let soft = softmax(teacher.clone() / 4.0, 1);
        let of = |x: Tensor<2>| softened(x.autodiff(), &soft, 4.0).into_scalar::<f32>();
        assert!(of(teacher.clone()).abs() < 1e-5);
        // Logits mean the same when all of them rise.
        assert!(of(teacher.clone() + 7.0).abs() < 1e-5);
        assert!(of(teacher * 2.0) > 0.1);
    }

    /// With a high temperature the gradient is that of half the squared difference of centred
    /// logits over the number of classes (section 2.1 of the paper).
    #[test]
    fn at_a_high_temperature_logits_are_matched() {
        let teacher = [[2.0, 0.5, -2.5]];
        let student = [[1.0, 1.0, -2.0]];
        let t = 1000.0;
        let soft = softmax(tensor(&teacher) / t, 1);
        let found = gradient(tensor(&student), |x| softened(x, &soft, t));
        for c in 0..3 {
            let wanted = (student[0][c] - teacher[0][c]) / 3.0;
            assert!((found[c] - wanted).abs() < 5e-3, "{}: {wanted}", found[c]);
        }
    }

    #[test]
    fn its_gradient_is_its_slope() {
        let soft = softmax(tensor(&[[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]]), 1);
        slope(&[[0.3, -0.2, 0.9], [1.2, 0.1, -0.4]], |x| softened(x, &soft, 2.0));
    }
}
