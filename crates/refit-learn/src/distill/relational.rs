//! Relations between images: Park et al. 2019, <https://arxiv.org/abs/1904.05068>.

use burn::tensor::Tensor;

/// How much angles count beside distances.
const ANGLES: f64 = 2.0;

/// Below this a distance is that of an image from itself.
const TINY: f64 = 1e-12;

/// How differently a student arranges the images of a batch: the Huber loss between its
/// distances of pairs and the teacher's, each as a share of their mean, and between the cosines of
/// the angles that triplets form; the angles count twice as much (the paper's
/// weights are 25 and 50).
///
/// `features` is `[n, d]`, tracked, and `teacher` `[n, e]`; an image alone has no relations: 0.
pub fn relational(features: Tensor<2>, teacher: &Tensor<2>) -> Tensor<1> {
    let (student, teacher) = (Relations::of(features), Relations::of(teacher.clone()));
    let distances = huber(student.distances - teacher.distances.autodiff());
    let angles = huber(student.angles - teacher.angles.autodiff());
    distances.mean() + angles.mean() * ANGLES
}

struct Relations {
    /// Of each pair, over their mean: `[n, n]`.
    distances: Tensor<2>,
    /// The cosine at the second of three images, `[n, n, n]`, the second first.
    angles: Tensor<3>,
}

impl Relations {
    fn of(x: Tensor<2>) -> Self {
        let [n, d] = x.dims();
        let differences: Tensor<3> = x.clone().reshape([1, n, d]) - x.reshape([n, 1, d]);
        let squares: Tensor<2> = differences.clone().powi_scalar(2).sum_dim(2).reshape([n, n]);
        let distances = squares.clamp_min(TINY).sqrt();
        let pairs = (n * n.saturating_sub(1)).max(1) as f64;
        let mean = (distances.clone().sum() / pairs).reshape([1, 1]);
        let lengths: Tensor<3> = distances.clone().reshape([n, n, 1]);
        let directions = differences / lengths;
        let angles = directions.clone().matmul(directions.swap_dims(1, 2));
        Self { distances: distances / mean, angles }
    }
}

/// Squared up to 1, straight beyond.
fn huber<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let size = x.abs();
    let inner = size.clone().clamp_max(1.0);
    inner.clone().powi_scalar(2) * 0.5 + (size - inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distill::tests::{slope, tensor};

    const POINTS: [[f32; 2]; 4] = [[0.0, 0.0], [1.0, 0.2], [0.3, 2.0], [-1.0, 0.7]];

    fn of(student: Tensor<2>) -> f32 {
        relational(student.autodiff(), &tensor(&POINTS)).into_scalar()
    }

    #[test]
    fn only_the_arrangement_matters() {
        assert!(of(tensor(&POINTS)) < 1e-9);
        // Moved, turned by a right angle, scaled, and in more dimensions.
        let turned = POINTS.map(|[x, y]| [3.0 - 2.0 * y, 1.0 + 2.0 * x, 5.0]);
        assert!(of(tensor(&turned)) < 1e-6);
        let swapped = [POINTS[1], POINTS[0], POINTS[2], POINTS[3]];
        assert!(of(tensor(&swapped)) > 0.05);
    }

    #[test]
    fn images_at_one_place_and_alone_are_no_trouble() {
        assert!(of(tensor(&[[1.0, 1.0]; 4])).is_finite());
        let alone = relational(tensor(&[[1.0, 2.0]]).autodiff(), &tensor(&[[3.0]]));
        assert_eq!(alone.into_scalar::<f32>(), 0.0);
        let gradient = crate::distill::tests::gradient(tensor(&[[1.0, 1.0]; 4]), |x| {
            relational(x, &tensor(&POINTS))
        });
        assert!(gradient.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn its_gradient_is_its_slope() {
        slope(&[[0.1, 0.3], [1.4, 0.0], [0.2, 1.5], [-0.6, 0.9]], |x| {
            relational(x, &tensor(&POINTS))
        });
    }
}
