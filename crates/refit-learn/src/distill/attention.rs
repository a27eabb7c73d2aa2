//! Attention transfer: Zagoruyko and Komodakis 2017, <https://arxiv.org/abs/1612.03928>.

use burn::tensor::Tensor;
use burn::tensor::module::adaptive_avg_pool2d;

/// Where a map is strong: the mean of the channels' squares at each pixel, averaged down to
/// `size` and scaled to length 1: `[n, c, h, w] -> [n, size[0] * size[1]]`.
pub fn attention_map(map: Tensor<4>, size: [usize; 2]) -> Tensor<2> {
    let [n, _, h, w] = map.dims();
    let strength = map.powi_scalar(2).mean_dim(1);
    let strength = if [h, w] == size { strength } else { adaptive_avg_pool2d(strength, size) };
    let flat: Tensor<2> = strength.reshape([n, size[0] * size[1]]);
    let length = (flat.clone().powi_scalar(2).sum_dim(1) + 1e-12).sqrt();
    flat / length
}

/// How differently a student looks: the squared distance of its attention map from the teacher's,
/// the mean over images.
///
/// `map` is `[n, c, h, w]`, tracked; `attention` the teacher's [`attention_map`] of `size`.
pub fn attention(map: Tensor<4>, attention: &Tensor<2>, size: [usize; 2]) -> Tensor<1> {
    let [n, _] = attention.dims();
    let difference = attention_map(map, size) - attention.clone().autodiff();
    difference.powi_scalar(2).sum() / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::{slope, tensor};

    fn map(rows: Tensor<2>) -> Tensor<4> {
        let [n, values] = rows.dims();
        rows.reshape([n, 2, 2, values / 4])
    }

    #[test]
    fn channels_and_scale_do_not_matter_but_places_do() {
        let teacher = map(tensor(&[[1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]]));
        let seen = attention_map(teacher.clone(), [2, 2]);
        let values: Vec<f32> = seen.clone().into_data().try_to_vec().unwrap();
        assert!((values[0] - 1.0).abs() < 1e-5 && values[1..].iter().all(|v| *v == 0.0));
        let of = |x: Tensor<4>| attention(x.autodiff(), &seen, [2, 2]).into_scalar::<f32>();
        assert!(of(teacher * 3.0) < 1e-9);
        // Elsewhere: both of length 1 and at right angles.
        let other = map(tensor(&[[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]));
        assert!((of(other) - 2.0).abs() < 1e-4);
    }

    #[test]
    fn its_gradient_is_its_slope() {
        let teacher = map(tensor(&[[1.0, 0.5, 0.2, 0.1, 2.0, 0.3, 0.4, 0.0]]));
        for size in [[2, 2], [1, 2]] {
            let seen = attention_map(teacher.clone(), size);
            let at = [[0.3, -0.2, 0.9, 1.2, 0.1, -0.4, 0.7, 0.8]];
            slope(&at, |x| attention(map(x), &seen, size));
        }
    }
}
