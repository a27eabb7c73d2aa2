//! Search by comparing with everything: the truth, and quick enough for some tens of thousands.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::graph::Near;
use super::vectors::{Probe, Vectors};

/// Vectors that a task compares with; so many stay in the second-level cache for all of its probes.
const BLOCK: usize = 256;

/// Probes that share a pass over the vectors.
const PROBES: usize = 16;

/// The best so far, the worst of them at hand.
struct Best {
    k: usize,
    heap: BinaryHeap<Reverse<Near>>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024) + 1) }
    }

    fn push(&mut self, near: Near) {
        if self.heap.len() < self.k {
            self.heap.push(Reverse(near));
        } else if self.heap.peek().is_some_and(|Reverse(worst)| near > *worst) {
            self.heap.pop();
            self.heap.push(Reverse(near));
        }
    }

    fn sorted(self) -> Vec<Near> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(near)| near).collect()
    }
}

/// The `k` vectors most similar to `probe` of those that `counts`, most similar first.
#[cfg(test)]
pub(crate) fn search(
    vectors: &Vectors,
    probe: &Probe,
    k: usize,
    counts: &dyn Fn(u32) -> bool,
) -> Vec<Near> {
    let mut best = Best::new(k);
    for row in (0..vectors.rows() as u32).filter(|row| counts(*row)) {
        best.push(Near { similarity: vectors.similarity(probe, row as usize), row });
    }
    best.sorted()
}

/// The same for many probes at once, on all threads.
pub(crate) fn search_all(
    vectors: &Vectors,
    probes: &[Probe],
    k: usize,
    counts: &(dyn Fn(u32) -> bool + Sync),
) -> Vec<Vec<Near>> {
    match probes.len() {
        // One probe: threads share the vectors.
        0..PROBES => probes.iter().map(|probe| search_one(vectors, probe, k, counts)).collect(),
        _ => probes.par_chunks(PROBES).flat_map_iter(|few| pass(vectors, few, k, counts)).collect(),
    }
}

fn search_one(
    vectors: &Vectors,
    probe: &Probe,
    k: usize,
    counts: &(dyn Fn(u32) -> bool + Sync),
) -> Vec<Near> {
    const SHARE: usize = 4096;
    let shares = vectors.rows().div_ceil(SHARE);
    let found: Vec<Vec<Near>> = (0..shares)
        .into_par_iter()
        .map(|share| {
            let mut best = Best::new(k);
            let end = ((share + 1) * SHARE).min(vectors.rows());
            for row in (share * SHARE..end).filter(|row| counts(*row as u32)) {
                let similarity = vectors.similarity(probe, row);
                best.push(Near { similarity, row: row as u32 });
            }
            best.sorted()
        })
        .collect();
    let mut best = Best::new(k);
    found.into_iter().flatten().for_each(|near| best.push(near));
    best.sorted()
}

fn pass(
    vectors: &Vectors,
    probes: &[Probe],
    k: usize,
    counts: &(dyn Fn(u32) -> bool + Sync),
) -> Vec<Vec<Near>> {
    let mut best: Vec<Best> = probes.iter().map(|_| Best::new(k)).collect();
    for first in (0..vectors.rows()).step_by(BLOCK) {
        let rows = first..(first + BLOCK).min(vectors.rows());
        for (probe, best) in probes.iter().zip(&mut best) {
            for row in rows.clone().filter(|row| counts(*row as u32)) {
                let similarity = vectors.similarity(probe, row);
                best.push(Near { similarity, row: row as u32 });
            }
        }
    }
    best.into_iter().map(Best::sorted).collect()
}

#[cfg(test)]
mod tests {
    use super::super::vectors::Element;
    use super::*;
    use refit_data::parts::Bytes;

    #[test]
    fn one_by_one_and_all_at_once_agree() {
        let dim = 5;
        let all: Vec<f32> = (0..9000 * dim).map(|i| ((i * 7919) % 101) as f32 - 50.0).collect();
        let mut vectors = Vectors::new(Element::F32, dim);
        vectors.push(Bytes::owned(Vectors::encode(Element::F32, dim, &all)));
        let probes: Vec<Probe> = (0..40).map(|i| vectors.probe_of(i * 31)).collect();
        let counts = |row: u32| !row.is_multiple_of(3);
        let found = search_all(&vectors, &probes, 7, &counts);
        for (probe, found) in probes.iter().zip(&found) {
            assert_eq!(*found, search(&vectors, probe, 7, &counts));
            assert_eq!(*found, search_all(&vectors, std::slice::from_ref(probe), 7, &counts)[0]);
            assert_eq!(found.len(), 7);
        }
        // Everything, and more than there is.
        assert_eq!(search_all(&vectors, &probes[..1], 10_000, &counts)[0].len(), 6000);
        assert!(search_all(&vectors, &[], 3, &counts).is_empty());
    }
}
