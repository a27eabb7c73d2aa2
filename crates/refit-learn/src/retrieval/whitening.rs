//! Principal components of features, each scaled to variance 1: what many images have in common says
//! little about which are alike (Jegou and Chum 2012, "Negative evidences and co-occurrences in image
//! retrieval").

use ndarray::{Array2, Axis};
use refit_kernels::dot;

use super::error::RetrievalError;
use super::vectors::normalize;
use crate::unknown::principal;

/// A mean, and directions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Whitening {
    /// `[dim]`.
    mean: Vec<f32>,
    /// `[directions, dim]`, each divided by the deviation along it.
    directions: Vec<f32>,
}

impl Whitening {
    /// The first `directions` of `rows`, `[n, dim]`.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn fit(rows: &[f32], dim: usize, directions: usize) -> Result<Self, RetrievalError> {
        let n = rows.len() / dim;
        let most = dim.min(n.saturating_sub(1));
        let refused = RetrievalError::Whitening { asked: directions, most };
        if directions == 0 || directions > most {
            return Err(refused);
        }
        let mut x = Array2::from_shape_fn((n, dim), |(i, j)| f64::from(rows[i * dim + j]));
        let mean = x.mean_axis(Axis(0)).expect("more than one row");
        x.rows_mut().into_iter().for_each(|mut row| row -= &mean);
        let (squares, axes) = principal(x.view(), directions);
        let least = 1e-10 * squares[0];
        let real = squares.iter().take_while(|square| **square > least).count();
        if real < directions {
            return Err(RetrievalError::Whitening { asked: directions, most: real });
        }
        let scaled = squares.iter().zip(axes.rows()).flat_map(|(square, axis)| {
            let deviation = (square / (n - 1) as f64).sqrt();
            axis.iter().map(|v| (v / deviation) as f32).collect::<Vec<f32>>()
        });
        Ok(Self { mean: mean.iter().map(|m| *m as f32).collect(), directions: scaled.collect() })
    }

    /// From its numbers, as [`Whitening::numbers`] gave them.
    pub fn of(numbers: &[f32], dim: usize) -> Option<Self> {
        let (mean, directions) = numbers.split_at_checked(dim)?;
        let whole = !directions.is_empty() && directions.len().is_multiple_of(dim);
        whole.then(|| Self { mean: mean.into(), directions: directions.into() })
    }

    /// Its mean, and then its directions.
    pub fn numbers(&self) -> Vec<f32> {
        [self.mean.as_slice(), &self.directions].concat()
    }

    /// Numbers of a whitened row.
    pub fn directions(&self) -> usize {
        self.directions.len() / self.mean.len()
    }

    /// A row along the directions, of length 1.
    pub fn apply(&self, row: &[f32]) -> Vec<f32> {
        let apart: Vec<f32> = row.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
        let mut along: Vec<f32> =
            self.directions.chunks_exact(row.len()).map(|d| dot(d, &apart)).collect();
        normalize(&mut along);
        along
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit_data::Stream;

    #[test]
    fn whitened_rows_vary_alike_in_all_directions() {
        let (n, dim) = (400, 6);
        let mut stream = Stream::new(1, "test", &[]);
        let rows: Vec<f32> =
            (0..n * dim).map(|i| (stream.normal() * (1 + i % dim) as f64 + 3.0) as f32).collect();
        let whitening = Whitening::fit(&rows, dim, 4).unwrap();
        assert_eq!(whitening.directions(), 4);
        let raw = |row: &[f32]| -> Vec<f64> {
            let apart: Vec<f32> = row.iter().zip(&whitening.mean).map(|(x, m)| x - m).collect();
            whitening.directions.chunks_exact(dim).map(|d| f64::from(dot(d, &apart))).collect()
        };
        let white: Vec<Vec<f64>> = rows.chunks_exact(dim).map(raw).collect();
        for i in 0..4 {
            for j in 0..4 {
                let mean = white.iter().map(|w| w[i] * w[j]).sum::<f64>() / (n - 1) as f64;
                let wanted = f64::from(u8::from(i == j));
                assert!((mean - wanted).abs() < 1e-4, "{i} {j}: {mean}");
            }
        }
        let one = whitening.apply(&rows[..dim]);
        assert!((dot(&one, &one) - 1.0).abs() < 1e-5);
        assert_eq!(Whitening::of(&whitening.numbers(), dim), Some(whitening));
        assert_eq!(Whitening::of(&[1.0; 7], 6), None);
    }

    #[test]
    fn more_directions_than_there_are_is_refused() {
        let rows = [1.0, 0.0, 0.0, 2.0, 1.0, 0.0, 3.0, 0.5, 0.0];
        for asked in [0, 3, 4] {
            let said = Whitening::fit(&rows, 3, asked).unwrap_err();
            assert!(matches!(said, RetrievalError::Whitening { most: 2, .. }), "{said}");
        }
    }
}
