//! The nearest of images that are at hand.

use refit_data::parts::Bytes;

use super::graph::Graph;
use super::vectors::{Element, Probe, Vectors, normalize};
use super::{EFFORT, EXACT_UP_TO, exact};
use rayon::prelude::*;

/// Another image, and how similar it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its position.
    pub row: usize,
    /// The cosine of their features, in `[-1, 1]`.
    pub similarity: f32,
}

/// For each row of `features` (`[n, dim]`) the `k` others most similar to it, most similar first; of
/// more than [`EXACT_UP_TO`] rows nearly always.
///
/// # Panics
/// If `features` are not whole rows.
pub fn neighbours(features: &[f32], dim: usize, k: usize) -> Vec<Vec<Neighbour>> {
    assert!(dim > 0 && features.len().is_multiple_of(dim), "neighbours: rows of {dim}");
    let mut rows = features.to_vec();
    rows.chunks_exact_mut(dim).for_each(normalize);
    let mut vectors = Vectors::new(Element::F32, dim);
    vectors.push(Bytes::owned(Vectors::encode(Element::F32, dim, &rows)));
    let probes: Vec<Probe> = (0..vectors.rows()).map(|row| vectors.probe_of(row)).collect();
    // One more, which is the row itself.
    let found = match vectors.rows() > EXACT_UP_TO {
        true => {
            let mut graph = Graph::new();
            graph.extend(&vectors, &mut |_| true);
            let search = |p: &Probe| graph.search(&vectors, p, k + 1, EFFORT, &|_| true);
            probes.par_iter().map(search).collect()
        }
        false => exact::search_all(&vectors, &probes, k + 1, &|_| true),
    };
    let others = |(row, found): (usize, Vec<super::graph::Near>)| {
        let found = found.into_iter().filter(|near| near.row as usize != row).take(k);
        found.map(|n| Neighbour { row: n.row as usize, similarity: n.similarity }).collect()
    };
    found.into_iter().enumerate().map(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_not_its_own_neighbour() {
        let features = [1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 1.0, 1.0];
        let found = neighbours(&features, 2, 2);
        let rows: Vec<Vec<usize>> =
            found.iter().map(|near| near.iter().map(|n| n.row).collect()).collect();
        assert_eq!(rows, [[1, 3], [0, 3], [3, 0], [0, 1]]);
        assert_eq!(found[0][0].similarity, 1.0);
        assert!(neighbours(&[], 3, 1).is_empty());
    }
}
