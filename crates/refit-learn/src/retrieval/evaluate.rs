//! How well neighbours agree with labels.

use rayon::prelude::*;
use serde::Serialize;

use super::graph::Near;
use super::index::Index;

/// An image to ask with.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// One outside of the index.
    New {
        /// Its features, as the index's [`super::Source`] gives them.
        features: Vec<f32>,
        /// Its label, by the index's [`Index::labels`].
        label: usize,
    },
    /// The one at a place of the index, which is not among what is to be found.
    Within(usize),
}

impl Query {
    fn label(&self, index: &Index) -> Option<usize> {
        match self {
            Self::New { label, .. } => Some(*label),
            Self::Within(row) => index.label(*row),
        }
    }
}

/// How well the images of a class are found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassRetrieval {
    /// The class.
    pub class: String,
    /// Queries of it.
    pub queries: usize,
    /// Share of them whose nearest image is of the class, `[0, 1]`.
    pub recall_at_1: f64,
    /// Mean average precision, `[0, 1]`.
    pub map: f64,
}

/// How well an index finds images of the query's class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retrieval {
    /// Queries of which the index has other images of the class.
    pub queries: usize,
    /// Queries that do not count: it has none, or they have no label.
    pub without_images: usize,
    /// Images that were searched.
    pub images: usize,
    /// For each `k`, the share of queries with an image of their class among the first `k`.
    pub recall: Vec<(usize, f64)>,
    /// For each `k`, the share of the first `k` images that are of the query's class.
    pub precision: Vec<(usize, f64)>,
    /// The mean over queries of the average precision of the whole ranking.
    pub map: f64,
    /// By class.
    pub classes: Vec<ClassRetrieval>,
}

/// What one query finds.
struct Ranked {
    /// The position of the first image of its class, from 0.
    first: usize,
    /// For each `k`, how many of the first `k` are of its class.
    hits: Vec<usize>,
    average_precision: f64,
}

/// Ranks the whole index for each query; `ks` are those of recall and precision.
///
/// # Panics
/// If a query's features are not as many as the index takes.
pub fn evaluate(index: &Index, queries: &[Query], ks: &[usize]) -> Retrieval {
    let ranked: Vec<Option<Ranked>> =
        queries.par_iter().map(|query| rank(index, query, ks)).collect();
    let judged: Vec<(usize, &Ranked)> = queries
        .iter()
        .zip(&ranked)
        .filter_map(|(query, ranked)| Some((query.label(index)?, ranked.as_ref()?)))
        .collect();
    let mean = |label: Option<usize>, value: &dyn Fn(&Ranked) -> f64| {
        let own = judged.iter().filter(|(l, _)| label.is_none_or(|label| label == *l));
        let values: Vec<f64> = own.map(|(_, ranked)| value(ranked)).collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let found_by = |k: usize| move |ranked: &Ranked| f64::from(u8::from(ranked.first < k));
    let recall = ks.iter().map(|&k| (k, mean(None, &found_by(k)))).collect();
    let precision = ks
        .iter()
        .enumerate()
        .map(|(i, &k)| (k, mean(None, &|ranked| ranked.hits[i] as f64 / k as f64)));
    let class = |(label, class): (usize, &String)| {
        let queries = judged.iter().filter(|(l, _)| *l == label).count();
        let label = Some(label);
        (queries > 0).then(|| ClassRetrieval {
            class: class.clone(),
            queries,
            recall_at_1: mean(label, &found_by(1)),
            map: mean(label, &|ranked| ranked.average_precision),
        })
    };
    Retrieval {
        queries: judged.len(),
        without_images: queries.len() - judged.len(),
        images: index.len(),
        recall,
        precision: precision.collect(),
        map: mean(None, &|ranked| ranked.average_precision),
        classes: index.labels().iter().enumerate().filter_map(class).collect(),
    }
}

/// Nothing if the index has no other image of the query's class.
fn rank(index: &Index, query: &Query, ks: &[usize]) -> Option<Ranked> {
    let label = query.label(index)?;
    let mut all: Vec<Near> = match query {
        Query::New { features, .. } => index.similarities(features),
        Query::Within(row) => {
            let mut others = index.similarities_of(*row);
            others.retain(|near| near.row as usize != *row);
            others
        }
    };
    all.sort_unstable_by(|a, b| b.cmp(a));
    let is_own = |near: &Near| index.label(near.row as usize) == Some(label);
    let places: Vec<usize> = (0..all.len()).filter(|i| is_own(&all[*i])).collect();
    let precision = |(found, place): (usize, &usize)| (found + 1) as f64 / (place + 1) as f64;
    let sum: f64 = places.iter().enumerate().map(precision).sum();
    Some(Ranked {
        first: *places.first()?,
        hits: ks.iter().map(|k| places.partition_point(|place| place < k)).collect(),
        average_precision: sum / places.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::super::index::{Entry, IndexOptions};
    use super::super::{Element, Source};
    use super::*;
    use refit_net::Precision;

    #[test]
    fn measures_are_those_of_the_definition() {
        let folder = tempfile::tempdir().unwrap();
        // Directions by angle; the nearest to 0 degrees come in this order.
        let angles = [0.0_f32, 10.0, 20.0, 30.0, 40.0];
        let labels = ["a", "b", "a", "b", "a"];
        let features: Vec<f32> =
            angles.iter().flat_map(|a| [a.to_radians().cos(), a.to_radians().sin()]).collect();
        let entry = |label: &&str| Entry {
            path: label.into(),
            content: [0; 32],
            label: Some((*label).to_owned()),
        };
        let entries: Vec<Entry> = labels.iter().map(entry).collect();
        let (fingerprint, preprocess) = (String::new(), String::new());
        let (model, layer, precision) = (String::new(), String::new(), Precision::F32);
        let source = Source { model, layer, dim: 2, fingerprint, preprocess, precision };
        let options = IndexOptions { element: Element::F32, ..IndexOptions::default() };
        let path = folder.path().join("i");
        let index = Index::create(&path, source, &options, &entries, &features, &()).unwrap();
        let near_zero = Query::New { features: vec![1.0, -0.1], label: 0 };
        let found = evaluate(&index, &[near_zero], &[1, 2, 5]);
        // a b a b a: precisions 1, 2/3, 3/5.
        assert!((found.map - (1.0 + 2.0 / 3.0 + 3.0 / 5.0) / 3.0).abs() < 1e-12);
        assert_eq!(found.recall, [(1, 1.0), (2, 1.0), (5, 1.0)]);
        assert_eq!(found.precision, [(1, 1.0), (2, 0.5), (5, 0.6)]);
        // Without itself the first sees b a b a.
        let found = evaluate(&index, &[Query::Within(0)], &[1, 2]);
        assert_eq!(found.recall, [(1, 0.0), (2, 1.0)]);
        assert!((found.map - 0.5).abs() < 1e-12);
        assert_eq!((found.classes[0].class.as_str(), found.classes[0].queries), ("a", 1));
        let strange = Query::New { features: vec![1.0, 0.0], label: 7 };
        let found = evaluate(&index, &[strange], &[1]);
        assert_eq!((found.queries, found.without_images, found.map), (0, 1, 0.0));
    }
}
