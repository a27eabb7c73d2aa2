//! Decoupled knowledge distillation: Zhao et al. 2022, <https://arxiv.org/abs/2203.08679>.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// How much the other classes' part counts beside the true class's (beta over alpha in the paper's
/// experiments).
const OTHERS: f64 = 8.0;

/// What takes a class out of a softmax.
const OUT: f64 = 1e4;

/// Hinton's divergence in two parts: how sure the teacher is of the `target` class (against all
/// others together), and how it divides the rest among the others, which plain distillation
/// weighs by the teacher's doubt. The mean over images of `T^2 (KL(sure) + 8 KL(others))`.
///
/// `logits` is `[n, classes]`, tracked; `soft` the teacher's distribution at `temperature`, and
/// `target` one-hot, both `[n, classes]`.
pub fn decoupled(
    logits: Tensor<2>,
    soft: &Tensor<2>,
    target: &Tensor<2>,
    temperature: f64,
) -> Tensor<1> {
    let [n, _] = soft.dims();
    let logits = logits / temperature;
    let sure = (soft.clone() * target.clone()).sum_dim(1);
    let log_p = log_softmax(logits.clone(), 1);
    let log_sure = (log_p * target.clone().autodiff()).sum_dim(1);
    // The others' share of a softmax is what is left of one; of a sure student little is.
    let log_rest = (-log_sure.clone().exp() + 1.0).clamp_min(f32::EPSILON).log();
    let rest = (-sure.clone() + 1.0).clamp_min(f32::EPSILON);
    let of_target = divergence(&sure, log_sure) + divergence(&rest, log_rest);

    let others = (-target.clone() + 1.0) * soft.clone() / rest;
    let log_others = log_softmax(logits - target.clone().autodiff() * OUT, 1);
    let of_others = divergence(&others, log_others * (-target.clone() + 1.0).autodiff());
    (of_target + of_others * OTHERS) * (temperature * temperature / n as f64)
}

/// `sum p (log p - log q)`, where `p` is 0 nothing.
fn divergence(p: &Tensor<2>, log_q: Tensor<2>) -> Tensor<1> {
    let own = (p.clone() * p.clone().clamp_min(f32::MIN_POSITIVE).log()).sum().autodiff();
    own - (log_q * p.clone().autodiff()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::{slope, tensor};
    use burn::tensor::activation::softmax;

    const TEACHER: [[f32; 3]; 2] = [[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]];
    const TARGET: [[f32; 3]; 2] = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]];

    #[test]
    fn it_is_zero_where_both_say_the_same() {
        let soft = softmax(tensor(&TEACHER) / 2.0, 1);
        let of = |x: Tensor<2>| {
            decoupled(x.autodiff(), &soft, &tensor(&TARGET), 2.0).into_scalar::<f32>()
        };
        assert!(of(tensor(&TEACHER)).abs() < 1e-4);
        assert!(of(tensor(&TEACHER) * 2.0) > 0.1);
    }

    /// Equation 4 of the paper: Hinton's divergence is the target's part and, weighed by the
    /// teacher's doubt, the others'.
    #[test]
    fn its_parts_make_up_the_whole_divergence() {
        let student = [[0.3, -0.2, 0.9]];
        let soft = softmax(tensor(&TEACHER[..1]), 1);
        let doubt = 1.0 - soft.clone().into_data().try_to_vec::<f32>().unwrap()[0];
        let whole = super::super::softened(tensor(&student).autodiff(), &soft, 1.0);
        let target = tensor(&TARGET[..1]);
        let both = |x: Tensor<2>| decoupled(x.autodiff(), &soft, &target, 1.0).into_scalar::<f32>();
        // The same student with its certainty as the teacher's has the others' part alone.
        let p = softmax(tensor(&student), 1).into_data().try_to_vec::<f32>().unwrap();
        let binary = |q: f32| {
            let t = 1.0 - doubt;
            t * (t / q).ln() + doubt * (doubt / (1.0 - q)).ln()
        };
        let others = (both(tensor(&student)) - binary(p[0])) / OTHERS as f32;
        assert!((whole.into_scalar::<f32>() - binary(p[0]) - doubt * others).abs() < 1e-5);
    }

    #[test]
    fn its_gradient_is_its_slope() {
        let soft = softmax(tensor(&TEACHER), 1);
        let target = tensor(&TARGET);
        slope(&[[0.3, -0.2, 0.9], [1.2, 0.1, -0.4]], |x| decoupled(x, &soft, &target, 2.0));
    }
}
