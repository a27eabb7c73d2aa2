//! The k nearest neighbours: Cover and Hart 1967, <https://doi.org/10.1109/TIT.1967.1053964>.

use serde::{Deserialize, Serialize};

use super::conv2d::MOST_CHANNELS;
use super::{Misfit, ParameterSpec, Role};
use crate::shape::Shape;

/// The most rows, whose numbers f32 hold exactly.
const MOST_ROWS: usize = 1 << 24;

/// The classes of the nearest of some rows, by the cosine of standardized vectors:
/// `[n, features] -> [n, classes]`, the logarithms of the share of votes.
///
/// Each of the `k` nearest rows votes with its class, or the distribution over classes that it has;
/// of rows that are as near, the first ones do. The `prior` has one more vote, so that no class gets
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// How many rows there are.
    pub rows: usize,
    /// How many of them vote.
    pub k: usize,
    /// Values of a vote.
    pub classes: usize,
}

impl Neighbours {
    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let Self { rows, k, classes } = *self;
        let sane = (1..=MOST_ROWS).contains(&rows) && (1..=rows).contains(&k);
        match input {
            Shape::Vector { features }
                if sane && features <= MOST_ROWS && (1..=MOST_CHANNELS).contains(&classes) =>
            {
                Ok(Shape::vector(classes))
            }
            x => Err(Misfit(format!(
                "is of {k} of {rows} vectors, and {classes} classes, given {x}"
            ))),
        }
    }

    pub(super) fn parameters(&self, features: usize) -> Vec<ParameterSpec> {
        let fitted = |suffix, shape| ParameterSpec::new(suffix, shape, Role::Fitted);
        vec![
            fitted("mean", vec![features]),
            fitted("scale", vec![features]),
            fitted("rows", vec![self.rows, features]),
            fitted("labels", vec![self.rows, self.classes]),
            fitted("prior", vec![self.classes]),
        ]
    }

    /// What the neighbours of one vector `x` say; `parameters` in the layer's order.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub(crate) fn judge(&self, x: &[f32], parameters: &[Vec<f32>], y: &mut [f32]) {
        let [mean, scale, rows, labels, prior] = parameters else {
            unreachable!("five parameters")
        };
        let x = direction(x, mean, scale);
        let mut near: Vec<(f32, usize)> =
            rows.chunks_exact(x.len().max(1)).map(|row| dot(row, &x)).zip(0..).collect();
        let k = self.k.min(near.len());
        let nearer = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if k < near.len() {
            near.select_nth_unstable_by(k, nearer);
            near.truncate(k);
        }
        near.sort_unstable_by(nearer);
        y.copy_from_slice(prior);
        for (_, row) in near {
            let votes = &labels[row * self.classes..][..self.classes];
            y.iter_mut().zip(votes).for_each(|(y, v)| *y += v);
        }
        y.iter_mut().for_each(|v| *v = (*v / (k + 1) as f32).max(f32::MIN_POSITIVE).ln());
    }
}

/// `(x - mean) scale`, of length 1; zeros where that has none.
pub fn direction(x: &[f32], mean: &[f32], scale: &[f32]) -> Vec<f32> {
    let mut x: Vec<f32> = x.iter().zip(mean).zip(scale).map(|((x, m), s)| (x - m) * s).collect();
    let norm = dot(&x, &x).sqrt();
    if norm > 0.0 {
        x.iter_mut().for_each(|v| *v /= norm);
    }
    x
}

/// The sum of products, in an order of its own that never changes.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (a, b) = (a.chunks(LANES), b.chunks(LANES));
    for (a, b) in a.zip(b) {
        if let (Ok(a), Ok(b)) = (<&[f32; LANES]>::try_from(a), <&[f32; LANES]>::try_from(b)) {
            (0..LANES).for_each(|i| sums[i] += a[i] * b[i]);
        } else {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row against every other, by the definition.
    #[test]
    fn votes_are_those_of_a_plain_search() {
        let (rows, dim, k) = (40, 5, 7);
        let value = |i: usize| ((i * i * 31 + i * 17) % 101) as f32 / 50.0 - 1.0;
        let (mean, scale) = (vec![0.1; dim], vec![2.0; dim]);
        let table: Vec<Vec<f32>> = (0..rows)
            .map(|r| {
                let row: Vec<f32> = (0..dim).map(|d| value(r * dim + d)).collect();
                direction(&row, &mean, &scale)
            })
            .collect();
        let labels: Vec<f32> =
            (0..rows).flat_map(|r| [0.25 * (r % 5) as f32, 1.0 - 0.25 * (r % 5) as f32]).collect();
        let parameters =
            [mean.clone(), scale.clone(), table.concat(), labels.clone(), vec![0.5, 0.5]];
        let layer = Neighbours { rows, k, classes: 2 };
        for query in 0..10 {
            let x: Vec<f32> = (0..dim).map(|d| value(1000 + query * dim + d)).collect();
            let mut y = [0.0; 2];
            layer.judge(&x, &parameters, &mut y);
            let to = direction(&x, &mean, &scale);
            let cosine = |r: &Vec<f32>| r.iter().zip(&to).map(|(a, b)| f64::from(a * b)).sum();
            let mut order: Vec<(f64, usize)> = table.iter().map(cosine).zip(0..).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0));
            let votes: f32 = order[..k].iter().map(|&(_, r)| labels[r * 2]).sum();
            let expected = ((votes + 0.5) / (k + 1) as f32).ln();
            assert!((y[0] - expected).abs() < 1e-5, "{query}: {y:?}, not {expected}");
            assert!((y[0].exp() + y[1].exp() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn of_equally_near_rows_the_first_vote() {
        let layer = Neighbours { rows: 3, k: 1, classes: 2 };
        let parameters = [
            vec![0.0; 2],
            vec![1.0; 2],
            vec![1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
            vec![0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
            vec![0.5; 2],
        ];
        let mut y = [0.0; 2];
        layer.judge(&[5.0, 0.0], &parameters, &mut y);
        assert!((y[1] - 0.75_f32.ln()).abs() < 1e-6, "{y:?}");
        // No direction at all, and a damaged row: an answer all the same.
        layer.judge(&[0.0, 0.0], &parameters, &mut y);
        assert!(y.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn more_voters_than_rows_are_refused() {
        let layer = Neighbours { rows: 3, k: 4, classes: 2 };
        let error = layer.output_shape(Shape::vector(2)).unwrap_err().to_string();
        assert!(error.contains("4 of 3 vectors"), "{error}");
        let layer = Neighbours { k: 3, ..layer };
        assert_eq!(layer.output_shape(Shape::vector(2)), Ok(Shape::vector(2)));
        assert!(layer.output_shape(Shape::map(2, 4, 4)).is_err());
    }
}
