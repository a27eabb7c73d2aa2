//! Copies among images: the same bytes, or the same picture resized, recompressed, cropped or mirrored.
//!
//! Features find candidates, pixels decide. A copy's features are near those of the original, but so
//! are those of another flower of the kind; laid over each other ([`Thumbnail::agreement`]) only
//! copies agree in their fine structure.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use rayon::prelude::*;
use refit_data::ContentHash;
use refit_data::resemblance::{Agreement, Thumbnail};

use super::neighbours::neighbours;
use crate::error::LearnError;
use crate::watch::{Event, Watch, stage};

/// Neighbours of an image that are looked at.
const CANDIDATES: usize = 8;

/// Cosine of features below which nobody looks.
const LEAST: f32 = 0.5;

/// Correlation of fine structure from which two images are copies. Copies reach 0.97; dark clothes of
/// one cut on light ground, which have little but their outline, 0.9.
const COPY: f32 = 0.93;

/// Images that are compared before it is asked whether to go on.
const AT_ONCE: usize = 64;

/// In what way two images are copies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Copies {
    /// The files are the same, byte by byte.
    Same,
    /// They show the same picture.
    Alike {
        /// The cosine of their features, in `[-1, 1]`.
        similarity: f32,
        /// How their pixels agree.
        agreement: Agreement,
    },
}

/// Two images that are copies; positions among those that were given, the smaller first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The images.
    pub images: [usize; 2],
    /// In what way.
    pub copies: Copies,
}

/// Images each of which is a copy of another of them; their positions, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The images.
    pub images: Vec<usize>,
}

/// All copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Duplicates {
    /// Every pair that was found, in the order of their images. Of files that are the same, each is
    /// paired with the first alone, and only that one is compared with others.
    pub pairs: Vec<Pair>,
    /// The pairs put together, in the order of their first images.
    pub groups: Vec<Group>,
    /// Pairs whose pixels were compared.
    pub compared: usize,
}

/// Finds copies among images: `features` are `[n, dim]`, of any layer that sees the whole image; files
/// that cannot be read any more are not compared. With a `dim` of 0 only files that are the same are
/// found.
///
/// # Errors
/// If `watch` asks to stop.
///
/// # Panics
/// If there are not `n` paths and hashes.
pub fn duplicates(
    paths: &[PathBuf],
    hashes: &[ContentHash],
    features: &[f32],
    dim: usize,
    watch: &dyn Watch,
) -> Result<Duplicates, LearnError> {
    let n = paths.len();
    assert!(hashes.len() == n && features.len() == n * dim, "duplicates: {n} images");
    let mut first: HashMap<&ContentHash, usize> = HashMap::new();
    let (mut pairs, mut distinct) = (Vec::new(), Vec::new());
    for (i, hash) in hashes.iter().enumerate() {
        match first.get(hash) {
            Some(&original) => pairs.push(Pair { images: [original, i], copies: Copies::Same }),
            None => {
                first.insert(hash, i);
                distinct.push(i);
            }
        }
    }
    let candidates = candidates(&distinct, features, dim);
    let thumbnails = thumbnails(&candidates, paths, watch)?;
    let compared: Vec<Option<Pair>> = in_steps(watch, "compare", &candidates, |candidate| {
        let &([a, b], similarity) = candidate;
        let agreement = thumbnails.get(&a)?.agreement(thumbnails.get(&b)?)?;
        let copies = Copies::Alike { similarity, agreement };
        (agreement.correlation >= COPY).then_some(Pair { images: [a, b], copies })
    })?;
    pairs.extend(compared.into_iter().flatten());
    pairs.sort_by_key(|pair| pair.images);
    Ok(Duplicates { groups: groups(n, &pairs), pairs, compared: candidates.len() })
}

type Candidate = ([usize; 2], f32);

/// Pairs of images whose features are near each other, each once.
fn candidates(distinct: &[usize], features: &[f32], dim: usize) -> Vec<Candidate> {
    let rows: Vec<f32> =
        distinct.iter().flat_map(|&i| &features[i * dim..][..dim]).copied().collect();
    let mut found: BTreeMap<[usize; 2], f32> = BTreeMap::new();
    if dim == 0 {
        return Vec::new();
    }
    for (row, near) in neighbours(&rows, dim, CANDIDATES).iter().enumerate() {
        for other in near.iter().filter(|other| other.similarity >= LEAST) {
            let (a, b) = (distinct[row], distinct[other.row]);
            found.insert([a.min(b), a.max(b)], other.similarity);
        }
    }
    found.into_iter().collect()
}

fn thumbnails(
    candidates: &[Candidate],
    paths: &[PathBuf],
    watch: &dyn Watch,
) -> Result<HashMap<usize, Thumbnail>, LearnError> {
    let mut images: Vec<usize> = candidates.iter().flat_map(|(pair, _)| *pair).collect();
    images.sort_unstable();
    images.dedup();
    let opened = in_steps(watch, "thumbnails", &images, |&i| Thumbnail::open(&paths[i]).ok())?;
    let found = images.into_iter().zip(opened);
    Ok(found.filter_map(|(i, thumbnail)| Some((i, thumbnail?))).collect())
}

/// `f` of each item on all threads, in order; asks in between whether to stop.
fn in_steps<T: Sync, R: Send>(
    watch: &dyn Watch,
    name: &str,
    items: &[T],
    f: impl Fn(&T) -> R + Sync,
) -> Result<Vec<R>, LearnError> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    stage(watch, name, items.len(), || {
        let mut results = Vec::with_capacity(items.len());
        for some in items.chunks(AT_ONCE) {
            results.par_extend(some.par_iter().map(&f));
            watch.event(Event::Advance { items: some.len() });
            if watch.stops() {
                return Err(LearnError::Stopped);
            }
        }
        Ok(results)
    })
}

/// Images that pairs connect.
fn groups(n: usize, pairs: &[Pair]) -> Vec<Group> {
    let mut parent: Vec<usize> = (0..n).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    for pair in pairs {
        let [a, b] = pair.images.map(|i| root(&mut parent, i));
        // The first image of a group stands for it.
        parent[a.max(b)] = a.min(b);
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in 0..n {
        groups.entry(root(&mut parent, i)).or_default().push(i);
    }
    let several = groups.into_values().filter(|images| images.len() > 1);
    several.map(|images| Group { images }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_share_an_image_are_one_group() {
        let pair = |a, b| Pair { images: [a, b], copies: Copies::Same };
        let found = groups(8, &[pair(1, 5), pair(2, 3), pair(5, 6), pair(0, 6)]);
        let images: Vec<Vec<usize>> = found.into_iter().map(|group| group.images).collect();
        assert_eq!(images, [vec![0, 1, 5, 6], vec![2, 3]]);
        assert!(groups(3, &[]).is_empty());
    }

    #[test]
    fn the_same_bytes_need_no_pixels() {
        let paths: Vec<PathBuf> = ["a", "b", "c"].map(PathBuf::from).into();
        let hashes = [[1; 32], [2; 32], [1; 32]];
        let features = [1.0, 0.0, 0.9, 0.1, 1.0, 0.0];
        let found = duplicates(&paths, &hashes, &features, 2, &()).unwrap();
        assert_eq!(found.pairs, [Pair { images: [0, 2], copies: Copies::Same }]);
        assert_eq!(found.groups, [Group { images: vec![0, 2] }]);
        assert_eq!(found.compared, 1);
        assert!(duplicates(&[], &[], &[], 2, &()).unwrap().pairs.is_empty());
    }
}
