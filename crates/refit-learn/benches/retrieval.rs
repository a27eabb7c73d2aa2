//! Search among many vectors: time and recall of the graph against comparing with all of them.
//!
//! Vectors are synthetic: points of a space of fewer dimensions, turned into `DIM` numbers, with some
//! noise in all of them, as features of images are.
//!
//! ```console
//! $ cargo bench --workspace --bench retrieval -- 1000000 128 i8
//! ```
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::unwrap_used, reason = "a benchmark may stop")]

use std::time::Instant;

use rayon::prelude::*;
use refit_data::Stream;
use refit_learn::retrieval::{Element, Entry, Index, IndexOptions, Search, Source};
use refit_net::Precision;

/// Dimensions that most of a vector lies in.
const INNER: usize = 24;

/// Noise in every number, against the rest.
const NOISE: f64 = 0.1;

const QUERIES: usize = 500;
const K: usize = 10;

fn main() {
    // `cargo bench` passes a flag of its own.
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let rows: usize = arguments.next().map_or(100_000, |a| a.parse().unwrap());
    let dim: usize = arguments.next().map_or(128, |a| a.parse().unwrap());
    let element: Element = arguments.next().map_or(Element::F16, |a| a.parse().unwrap());
    let axes: Vec<f32> = {
        let mut stream = Stream::new(0, "axes", &[]);
        (0..INNER * dim).map(|_| stream.normal() as f32).collect()
    };
    let vectors = |purpose: &str, rows: usize| -> Vec<f32> {
        let row = |row: usize| {
            let mut stream = Stream::new(0, purpose, &[row as u64]);
            let at: Vec<f64> = (0..INNER).map(|_| stream.normal()).collect();
            let axes = &axes;
            (0..dim).map(move |j| {
                let sum: f64 = (0..INNER).map(|i| at[i] * f64::from(axes[i * dim + j])).sum();
                (sum + NOISE * (INNER as f64).sqrt() * stream.normal()) as f32
            })
        };
        (0..rows).into_par_iter().flat_map_iter(row).collect()
    };
    let entries: Vec<Entry> = (0..rows)
        .map(|i| Entry { path: format!("/{i}").into(), content: [0; 32], label: None })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let source = Source {
        model: "synthetic".into(),
        layer: "none".into(),
        dim,
        fingerprint: String::new(),
        preprocess: String::new(),
        precision: Precision::F32,
    };
    let options = IndexOptions { element, search: Search::Graph, whiten: None };
    let began = Instant::now();
    let made =
        Index::create(&path, source, &options, &entries, &vectors("rows", rows), &()).unwrap();
    println!("{rows} vectors of {dim} {element} numbers");
    println!("build   {:.1} s", began.elapsed().as_secs_f64());
    drop((made, entries));
    let began = Instant::now();
    let index = Index::open(&path).unwrap();
    let [bytes, of_vectors] = index.bytes();
    println!("open    {:.2} s, checksums too", began.elapsed().as_secs_f64());
    println!("file    {:.0} MB, vectors {:.0} MB", bytes as f64 / 1e6, of_vectors as f64 / 1e6);
    let queries = vectors("queries", QUERIES);
    let began = Instant::now();
    let truth = index.search_exactly(&queries, K);
    println!(
        "exact   {:.2} ms a query, all threads",
        1e3 * began.elapsed().as_secs_f64() / QUERIES as f64
    );
    println!("effort  ms a query  recall@{K}");
    for effort in [32, 64, 128, 256, 512] {
        let began = Instant::now();
        let search = |query| index.search(query, K, Some(effort));
        let found: Vec<_> = queries.chunks_exact(dim).map(search).collect();
        let ms = 1e3 * began.elapsed().as_secs_f64() / QUERIES as f64;
        let hits: usize = truth
            .iter()
            .zip(&found)
            .map(|(truth, found)| {
                truth.iter().filter(|t| found.iter().any(|f| f.row == t.row)).count()
            })
            .sum();
        println!("{effort:>6}  {ms:>10.3}  {:.4}", hits as f64 / (K * QUERIES) as f64);
    }
}
