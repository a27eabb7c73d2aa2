//! An index of images on disk.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use refit_data::ContentHash;
use refit_data::parts::{Bytes, Part, PartsFile, write_new};
use refit_net::atomic_file;
use serde::{Deserialize, Serialize};

use super::error::RetrievalError;
use super::exact;
use super::graph::{Graph, Near};
use super::source::Source;
use super::vectors::{Element, Probe, Vectors, normalize};
use super::whitening::Whitening;
use super::{EFFORT, EXACT_UP_TO};
use crate::error::LearnError;
use crate::watch::{Event, Watch, stage};

/// How files of this kind begin, and what they are called.
const MAGIC: &[u8; 16] = b"refit index   1\n";
const WHAT: &str = "an index of images";

/// The version of the manifest.
const FORMAT: u32 = 1;

/// Bytes of vectors up to which they are compared with their checksums whenever the file is opened.
const CHECKED: u64 = 1 << 30;

/// Additions after which the file is written anew, in one piece.
const PIECES: usize = 64;

/// Of an image without a label.
const NO_LABEL: u32 = u32::MAX;

/// Bytes of an image's record: its content, its label, and where its path ends.
const RECORD: usize = 40;

/// How an index is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Search {
    /// By comparing with everything up to [`EXACT_UP_TO`] images, by a graph beyond.
    #[default]
    Auto,
    /// By comparing with everything.
    Exact,
    /// By a graph of neighbours.
    Graph,
}

impl std::str::FromStr for Search {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            "exact" => Ok(Self::Exact),
            "graph" => Ok(Self::Graph),
            _ => Err("write `auto`, `exact` or `graph`".into()),
        }
    }
}

/// How an index is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexOptions {
    /// What vectors are kept as.
    pub element: Element,
    /// How it is searched.
    pub search: Search,
    /// Principal directions that vectors are whitened to; as the features are, if none.
    pub whiten: Option<usize>,
}

/// An image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its file.
    pub path: PathBuf,
    /// Its content.
    pub content: ContentHash,
    /// The name of its class, if it has one.
    pub label: Option<String>,
}

/// An image that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Its place in the index.
    pub row: usize,
    /// The cosine between its vector and the query's, in `[-1, 1]`.
    pub similarity: f32,
}

/// What an addition did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    /// Images that are new.
    pub new: usize,
    /// Images that took the place of others under the same path.
    pub replaced: usize,
}

/// What the file says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Manifest {
    format: u32,
    refit: String,
    source: Source,
    element: Element,
    search: Search,
    /// Numbers of a vector that is kept.
    dim: usize,
    labels: Vec<String>,
    vectors: Vec<Part>,
    names: Vec<Part>,
    removed: Option<Part>,
    graph: Option<GraphParts>,
    whitening: Option<Part>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct GraphParts {
    parts: [Part; 3],
    entry: [u32; 2],
}

/// Images, and a vector of each, in one file: [`Index::create`] writes it, [`Index::open`] maps it.
///
/// Changing an index gives the changed one; who holds the old one can go on with it.
#[derive(Debug)]
pub struct Index {
    file: PartsFile,
    manifest: Manifest,
    vectors: Vectors,
    /// The first row and the bytes of each piece.
    names: Vec<(usize, Bytes)>,
    removed: Vec<bool>,
    /// Images that are not removed.
    len: usize,
    graph: Option<Graph>,
    whitening: Option<Whitening>,
}

impl Index {
    /// Makes an index of images and their features, `[entries, source.dim]`, and writes it to `path`,
    /// whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written, features are not finite, or there are fewer directions to whiten to.
    ///
    /// # Panics
    /// If there is not a row of features for each entry.
    pub fn create(
        path: &Path,
        source: Source,
        options: &IndexOptions,
        entries: &[Entry],
        features: &[f32],
        watch: &dyn Watch,
    ) -> Result<Self, LearnError> {
        assert_eq!(features.len(), entries.len() * source.dim, "create: features of each image");
        check_finite(entries, features, source.dim)?;
        let mut rows = features.to_vec();
        rows.par_chunks_exact_mut(source.dim).for_each(normalize);
        let whitening = match options.whiten {
            Some(directions) => Some(Whitening::fit(&rows, source.dim, directions)?),
            None => None,
        };
        let rows = whitened(whitening.as_ref(), rows, source.dim);
        let dim = whitening.as_ref().map_or(source.dim, Whitening::directions);
        let mut vectors = Vectors::new(options.element, dim);
        vectors.push(Bytes::owned(Vectors::encode(options.element, dim, &rows)));
        let mut labels = Vec::new();
        let names = names_of(path, entries, &mut labels);
        let new = New { source, options: *options, labels, vectors, names, whitening };
        new.write(path, watch)
    }

    /// Opens an index. What it says of images is compared with its checksums, and its vectors too
    /// where they are less than 1 GiB ([`Index::verify`] does it in any case).
    ///
    /// # Errors
    /// If it is not there, not an index, damaged, or of a newer format.
    pub fn open(path: &Path) -> Result<Self, RetrievalError> {
        let index = Self::read(PartsFile::open(path, MAGIC, WHAT)?)?;
        if index.vector_bytes() <= CHECKED {
            index.verify()?;
        }
        Ok(index)
    }

    fn read(file: PartsFile) -> Result<Self, RetrievalError> {
        let manifest: Manifest = match serde_json::from_slice(file.manifest()) {
            Ok(manifest) => manifest,
            Err(error) => return Err(Self::unread(&file, &error.to_string())),
        };
        if manifest.dim == 0 || manifest.source.dim == 0 {
            return Err(file.damaged("its vectors have no numbers").into());
        }
        let open = |part: &Part, name: &str| -> Result<Bytes, RetrievalError> {
            file.verify(part, name)?;
            Ok(file.bytes(part)?)
        };
        let mut vectors = Vectors::new(manifest.element, manifest.dim);
        let mut names = Vec::new();
        if manifest.vectors.len() != manifest.names.len() {
            return Err(file.damaged("its images are not as many as its vectors").into());
        }
        for (piece, part) in manifest.vectors.iter().zip(&manifest.names) {
            let (first, records) = (vectors.rows(), open(part, "paths")?);
            let bytes = file.bytes(piece)?;
            let whole = bytes.len().is_multiple_of(vectors.stride());
            let rows = vectors.push(bytes);
            if !whole || !is_whole(&records, rows, manifest.labels.len()) {
                return Err(file.damaged("its images are not as many as its vectors").into());
            }
            names.push((first, records));
        }
        let mut removed = vec![false; vectors.rows()];
        if let Some(part) = &manifest.removed {
            for &row in open(part, "list of removed images")?.words() {
                match removed.get_mut(row as usize) {
                    Some(removed) => *removed = true,
                    None => return Err(file.damaged("it lacks an image that was removed").into()),
                }
            }
        }
        let graph = match &manifest.graph {
            None => None,
            Some(GraphParts { parts: [a, b, c], entry }) => {
                let parts = [open(a, "graph")?, open(b, "graph")?, open(c, "graph")?];
                let graph = Graph::of(vectors.rows(), parts, *entry);
                Some(graph.map_err(|reason| file.damaged(&reason))?)
            }
        };
        let whitening = match &manifest.whitening {
            None => None,
            Some(part) => {
                let numbers = open(part, "whitening")?;
                let whitening = Whitening::of(bytemuck::cast_slice(&numbers), manifest.source.dim);
                let fits = whitening.filter(|w| w.directions() == manifest.dim);
                Some(fits.ok_or_else(|| file.damaged("its whitening does not fit"))?)
            }
        };
        let len = removed.iter().filter(|removed| !**removed).count();
        Ok(Self { file, manifest, vectors, names, removed, len, graph, whitening })
    }

    /// The account of a manifest that cannot be read.
    fn unread(file: &PartsFile, reason: &str) -> RetrievalError {
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        match serde_json::from_slice(file.manifest()) {
            Ok(Any { format }) if format > FORMAT => {
                RetrievalError::Format { path: file.path().into(), found: format, known: FORMAT }
            }
            _ => file.damaged(reason).into(),
        }
    }

    /// Compares the vectors with their checksums.
    ///
    /// # Errors
    /// If they differ.
    pub fn verify(&self) -> Result<(), RetrievalError> {
        for part in &self.manifest.vectors {
            self.file.verify(part, "vectors")?;
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Where its vectors come from.
    pub fn source(&self) -> &Source {
        &self.manifest.source
    }

    /// Images in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no images.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What vectors are kept as.
    pub fn element(&self) -> Element {
        self.manifest.element
    }

    /// Numbers of a vector.
    pub fn dim(&self) -> usize {
        self.manifest.dim
    }

    /// Whether vectors are whitened.
    pub fn is_whitened(&self) -> bool {
        self.whitening.is_some()
    }

    /// Whether a graph is searched.
    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// Removed images whose vectors are still in the file.
    pub fn removed(&self) -> usize {
        self.removed.len() - self.len
    }

    /// Bytes of the file, and of the vectors in it.
    pub fn bytes(&self) -> [u64; 2] {
        [self.file.length(), self.vector_bytes()]
    }

    fn vector_bytes(&self) -> u64 {
        self.manifest.vectors.iter().map(|part| part.length).sum()
    }

    /// The names of classes; an image's label is a position here.
    pub fn labels(&self) -> &[String] {
        &self.manifest.labels
    }

    /// The places of the images in it, ascending.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.removed.iter().enumerate().filter(|(_, removed)| !**removed).map(|(row, _)| row)
    }

    /// The label of the image at a place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn label(&self, row: usize) -> Option<usize> {
        let (record, _) = self.record(row);
        let label = word(&record[32..36]);
        (label != NO_LABEL).then_some(label as usize)
    }

    /// The image at a place.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn entry(&self, row: usize) -> Entry {
        let (record, path) = self.record(row);
        let content = std::array::from_fn(|i| record[i]);
        let label = self.label(row).map(|label| self.labels()[label].clone());
        Entry { path: folder_of(self.path()).join(path_of(path)), content, label }
    }

    /// A record, and the path that goes with it.
    fn record(&self, row: usize) -> (&[u8], &[u8]) {
        let piece = self.names.partition_point(|(first, _)| *first <= row) - 1;
        let (first, bytes) = &self.names[piece];
        let (row, rows) = (row - first, word(&bytes[..4]) as usize);
        let record = |row: usize| &bytes[4 + row * RECORD..][..RECORD];
        let end = |row: usize| word(&record(row)[36..]) as usize;
        let begin = if row == 0 { 0 } else { end(row - 1) };
        (record(row), &bytes[4 + rows * RECORD..][begin..end(row)])
    }

    /// The `k` images most similar to features (as [`Source::features`] gives them), most similar
    /// first. A graph is asked to look at `effort` of them, [`EFFORT`] if none is told.
    ///
    /// # Panics
    /// If there are not `source().dim` features.
    pub fn search(&self, features: &[f32], k: usize, effort: Option<usize>) -> Vec<Hit> {
        self.search_all(features, k, effort).pop().unwrap_or_default()
    }

    /// The same for rows of features, `[n, source().dim]`, on all threads.
    ///
    /// # Panics
    /// If they are not whole rows.
    pub fn search_all(&self, features: &[f32], k: usize, effort: Option<usize>) -> Vec<Vec<Hit>> {
        let dim = self.source().dim;
        assert!(features.len().is_multiple_of(dim), "search: rows of {dim} features");
        let probes: Vec<Probe> =
            features.par_chunks_exact(dim).map(|row| self.probe(row)).collect();
        let counts = |row: u32| !self.removed[row as usize];
        let found: Vec<Vec<Near>> = match &self.graph {
            Some(graph) => {
                let effort = effort.unwrap_or(EFFORT);
                let search = |p: &Probe| graph.search(&self.vectors, p, k, effort, &counts);
                probes.par_iter().map(search).collect()
            }
            None => exact::search_all(&self.vectors, &probes, k, &counts),
        };
        let hit = |near: Near| Hit { row: near.row as usize, similarity: near.similarity };
        found.into_iter().map(|found| found.into_iter().map(hit).collect()).collect()
    }

    /// The same as [`Index::search_all`], by comparing with all images.
    ///
    /// # Panics
    /// If features are not whole rows.
    pub fn search_exactly(&self, features: &[f32], k: usize) -> Vec<Vec<Hit>> {
        let rows = features.par_chunks_exact(self.source().dim);
        let probes: Vec<Probe> = rows.map(|row| self.probe(row)).collect();
        let counts = |row: u32| !self.removed[row as usize];
        let found = exact::search_all(&self.vectors, &probes, k, &counts);
        let hit = |near: Near| Hit { row: near.row as usize, similarity: near.similarity };
        found.into_iter().map(|found| found.into_iter().map(hit).collect()).collect()
    }

    /// The vector of the image at a place, as it is kept: of length 1, whitened where the index is.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn vector(&self, row: usize) -> Vec<f32> {
        self.vectors.floats(row)
    }

    /// How similar each image is to features, in no order.
    pub(super) fn similarities(&self, features: &[f32]) -> Vec<Near> {
        self.all_near(&self.probe(features))
    }

    /// How similar each image is to the one at a place.
    pub(super) fn similarities_of(&self, row: usize) -> Vec<Near> {
        self.all_near(&self.vectors.probe_of(row))
    }

    fn all_near(&self, probe: &Probe) -> Vec<Near> {
        let near =
            |row: usize| Near { similarity: self.vectors.similarity(probe, row), row: row as u32 };
        self.rows().map(near).collect()
    }

    fn probe(&self, features: &[f32]) -> Probe {
        let mut row = features.to_vec();
        normalize(&mut row);
        self.vectors.probe(&whitened(self.whitening.as_ref(), row, features.len()))
    }

    /// The places of images by their path.
    pub fn by_path(&self) -> HashMap<PathBuf, usize> {
        self.rows()
            .map(|row| (std::path::absolute(self.entry(row).path), row))
            .filter_map(|(path, row)| Some((path.ok()?, row)))
            .collect()
    }

    /// Adds images and their features behind what is there; those under a path that is there take its
    /// place. An addition that is killed leaves the index as it was.
    ///
    /// # Errors
    /// If the file cannot be written, another process has changed it, or features are not finite.
    ///
    /// # Panics
    /// If there is not a row of features for each entry.
    pub fn add(
        self,
        entries: &[Entry],
        features: &[f32],
        watch: &dyn Watch,
    ) -> Result<(Self, Added), LearnError> {
        let dim = self.source().dim;
        assert_eq!(features.len(), entries.len() * dim, "add: features of each image");
        check_finite(entries, features, dim)?;
        if entries.is_empty() {
            return Ok((self, Added::default()));
        }
        let there = self.by_path();
        let absolute = |entry: &Entry| std::path::absolute(&entry.path).ok();
        let old: Vec<usize> =
            entries.iter().filter_map(|e| there.get(&absolute(e)?).copied()).collect();
        let added = Added { new: entries.len() - old.len(), replaced: old.len() };
        let mut rows = features.to_vec();
        rows.par_chunks_exact_mut(dim).for_each(normalize);
        let rows = whitened(self.whitening.as_ref(), rows, dim);
        let bytes = Vectors::encode(self.element(), self.dim(), &rows);
        let mut labels = self.manifest.labels.clone();
        let names = names_of(self.path(), entries, &mut labels);
        let mut vectors = self.vectors.clone();
        vectors.push(Bytes::owned(bytes.clone()));
        let mut removed = self.removed.clone();
        old.iter().for_each(|row| removed[*row] = true);
        removed.resize(vectors.rows(), false);
        let graph = self.grown(&vectors, &removed, watch)?;
        let piece: &[u8] = bytemuck::cast_slice(&bytes);
        let next = self.append(Some((piece, &names)), &removed, graph.as_ref(), labels)?;
        Ok((next.tidy(watch)?, added))
    }

    /// Removes images; gives how many. An unfinished removal leaves the index as it was.
    ///
    /// # Errors
    /// If the file cannot be written, or another process has changed it.
    pub fn remove(self, rows: &[usize], watch: &dyn Watch) -> Result<(Self, usize), LearnError> {
        let mut removed = self.removed.clone();
        rows.iter().for_each(|row| removed[*row] = true);
        let gone = removed.iter().filter(|r| **r).count() - self.removed();
        if gone == 0 {
            return Ok((self, 0));
        }
        let labels = self.manifest.labels.clone();
        let next = self.append(None, &removed, None, labels)?;
        Ok((next.tidy(watch)?, gone))
    }

    /// The graph with new vectors in it, if there is to be one.
    fn grown(
        &self,
        vectors: &Vectors,
        removed: &[bool],
        watch: &dyn Watch,
    ) -> Result<Option<Graph>, LearnError> {
        let images = removed.iter().filter(|removed| !**removed).count();
        match (&self.graph, wants_graph(self.manifest.search, images)) {
            (None, false) => Ok(None),
            (graph, _) => {
                let graph = graph.clone().unwrap_or_else(Graph::new);
                Ok(Some(extended(graph, vectors, watch)?))
            }
        }
    }

    /// Writes what is new behind the file. Without a graph the old one stays.
    fn append(
        &self,
        piece: Option<(&[u8], &[u8])>,
        removed: &[bool],
        graph: Option<&Graph>,
        labels: Vec<String>,
    ) -> Result<Self, RetrievalError> {
        let gone: Vec<u32> =
            (0..removed.len()).filter(|row| removed[*row]).map(|row| row as u32).collect();
        let mut contents: Vec<&[u8]> = vec![bytemuck::cast_slice(&gone)];
        if let Some((vectors, names)) = piece {
            contents.extend([vectors, names]);
        }
        contents.extend(graph.iter().flat_map(|graph| graph.parts()));
        let mut manifest = self.manifest.clone();
        manifest.labels = labels;
        let file = self.file.append(&contents, |parts| {
            let mut parts = parts.iter().cloned();
            let mut next = || parts.next().expect("a part for each content");
            manifest.removed = Some(next());
            if piece.is_some() {
                manifest.vectors.push(next());
                manifest.names.push(next());
            }
            if let Some(graph) = graph {
                let parts = [next(), next(), next()];
                manifest.graph = Some(GraphParts { parts, entry: graph.entry() });
            }
            serde_json::to_vec(&manifest).expect("names and numbers serialize")
        })?;
        Self::read(file)
    }

    /// Writes the file anew where half of it is of no use, or it is in many pieces.
    fn tidy(self, watch: &dyn Watch) -> Result<Self, LearnError> {
        let of_use: u64 = {
            let m = &self.manifest;
            let graph = m.graph.iter().flat_map(|graph| &graph.parts);
            m.vectors.iter().chain(&m.names).chain(graph).map(|part| part.length).sum()
        };
        let many_removed = self.removed() > self.len;
        let much_unused = self.file.length() > 2 * of_use + (1 << 20);
        if !many_removed && !much_unused && self.manifest.vectors.len() <= PIECES {
            return Ok(self);
        }
        let rows: Vec<usize> = self.rows().collect();
        let entries: Vec<Entry> = rows.iter().map(|row| self.entry(*row)).collect();
        let mut labels = Vec::new();
        let names = names_of(self.path(), &entries, &mut labels);
        let mut bytes = Vec::with_capacity(rows.len() * self.vectors.stride() / 4);
        for row in rows {
            bytes.extend_from_slice(bytemuck::cast_slice(self.vectors.row(row)));
        }
        let mut vectors = Vectors::new(self.element(), self.dim());
        vectors.push(Bytes::owned(bytes));
        let options =
            IndexOptions { element: self.element(), search: self.manifest.search, whiten: None };
        let (source, whitening) = (self.manifest.source.clone(), self.whitening.clone());
        New { source, options, labels, vectors, names, whitening }.write(self.path(), watch)
    }
}

/// An index that is not on disk yet.
struct New {
    source: Source,
    options: IndexOptions,
    labels: Vec<String>,
    /// In one piece.
    vectors: Vectors,
    names: Vec<u8>,
    whitening: Option<Whitening>,
}

impl New {
    fn write(self, path: &Path, watch: &dyn Watch) -> Result<Index, LearnError> {
        let graph = match wants_graph(self.options.search, self.vectors.rows()) {
            true => Some(extended(Graph::new(), &self.vectors, watch)?),
            false => None,
        };
        let whitening = self.whitening.as_ref().map(Whitening::numbers);
        let mut contents: Vec<&[u8]> = vec![self.vectors.only_piece(), &self.names];
        contents.extend(graph.iter().flat_map(Graph::parts));
        contents.extend(whitening.as_deref().map(bytemuck::cast_slice));
        let manifest = |parts: &[Part]| {
            let mut parts = parts.iter().cloned();
            let mut next = || parts.next().expect("a part for each content");
            let (vectors, names) = (vec![next()], vec![next()]);
            let graph = graph
                .as_ref()
                .map(|graph| GraphParts { parts: [next(), next(), next()], entry: graph.entry() });
            let manifest = Manifest {
                format: FORMAT,
                refit: env!("CARGO_PKG_VERSION").into(),
                source: self.source.clone(),
                element: self.options.element,
                search: self.options.search,
                dim: self.vectors.dim(),
                labels: self.labels.clone(),
                vectors,
                names,
                removed: None,
                graph,
                whitening: whitening.as_ref().map(|_| next()),
            };
            serde_json::to_vec(&manifest).expect("names and numbers serialize")
        };
        let write = |out: &mut dyn Write| write_new(out, MAGIC, &contents, manifest);
        atomic_file::write(path, write).map_err(RetrievalError::from)?;
        let file = PartsFile::open(path, MAGIC, WHAT).map_err(RetrievalError::from)?;
        Ok(Index::read(file)?)
    }
}

fn wants_graph(search: Search, images: usize) -> bool {
    match search {
        Search::Auto => images > EXACT_UP_TO,
        Search::Exact => false,
        Search::Graph => true,
    }
}

/// A graph of all vectors.
fn extended(mut graph: Graph, vectors: &Vectors, watch: &dyn Watch) -> Result<Graph, LearnError> {
    let whole = stage(watch, "index", vectors.rows() - graph.nodes(), || {
        graph.extend(vectors, &mut |items| {
            watch.event(Event::Advance { items });
            !watch.stops()
        })
    });
    if whole { Ok(graph) } else { Err(LearnError::Stopped) }
}

/// Rows along the directions of a whitening, where there is one.
fn whitened(whitening: Option<&Whitening>, rows: Vec<f32>, dim: usize) -> Vec<f32> {
    match whitening {
        None => rows,
        Some(whitening) => {
            rows.par_chunks_exact(dim).flat_map_iter(|row| whitening.apply(row)).collect()
        }
    }
}

fn check_finite(entries: &[Entry], features: &[f32], dim: usize) -> Result<(), RetrievalError> {
    let odd = features.chunks_exact(dim).position(|row| row.iter().any(|x| !x.is_finite()));
    match odd {
        None => Ok(()),
        Some(row) => Err(RetrievalError::NotFinite { path: entries[row].path.clone() }),
    }
}

// ---- what is kept of images beside their vectors ----

/// How many, a record for each, and their paths, one behind the other. Labels that are new are put
/// behind the others.
fn names_of(index: &Path, entries: &[Entry], labels: &mut Vec<String>) -> Vec<u8> {
    // An empty path has no absolute one, so the folder is taken off afterwards.
    let folder = std::path::absolute(index).ok().map(|index| folder_of(&index).to_owned());
    let mut numbers: HashMap<String, u32> =
        labels.iter().enumerate().map(|(i, label)| (label.clone(), i as u32)).collect();
    let (mut records, mut paths) = ((entries.len() as u32).to_le_bytes().to_vec(), Vec::new());
    for entry in entries {
        let label = entry.label.as_ref().map_or(NO_LABEL, |label| {
            *numbers.entry(label.clone()).or_insert_with(|| {
                labels.push(label.clone());
                labels.len() as u32 - 1
            })
        });
        paths.extend(bytes_of(&stored(folder.as_deref(), &entry.path)));
        records.extend_from_slice(&entry.content);
        records.extend_from_slice(&label.to_le_bytes());
        records.extend_from_slice(&(paths.len() as u32).to_le_bytes());
    }
    records.extend(paths);
    records
}

/// A path as it is kept: from the index's folder on, if it lies there, so that both can be moved.
fn stored(folder: Option<&Path>, path: &Path) -> PathBuf {
    let Ok(absolute) = std::path::absolute(path) else { return path.into() };
    match folder.and_then(|folder| absolute.strip_prefix(folder).ok()) {
        Some(below) => below.into(),
        None => absolute,
    }
}

/// Whether there are so many records, and their labels and paths are there.
fn is_whole(bytes: &[u8], rows: usize, labels: usize) -> bool {
    if bytes.len() < 4 + rows * RECORD || word(&bytes[..4]) as usize != rows {
        return false;
    }
    let (records, paths) = bytes[4..].split_at(rows * RECORD);
    let ends: Vec<usize> = records.chunks_exact(RECORD).map(|r| word(&r[36..]) as usize).collect();
    let known = |label: u32| label == NO_LABEL || (label as usize) < labels;
    ends.is_sorted()
        && ends.last().copied().unwrap_or(0) == paths.len()
        && records.chunks_exact(RECORD).all(|record| known(word(&record[32..36])))
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

#[cfg(unix)]
fn bytes_of(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

#[cfg(not(unix))]
fn bytes_of(path: &Path) -> Vec<u8> {
    path.to_string_lossy().into_owned().into_bytes()
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit_data::Stream;
    use refit_net::Precision;

    const DIM: usize = 12;

    fn source() -> Source {
        Source {
            model: "net".into(),
            layer: "pool".into(),
            dim: DIM,
            fingerprint: "f".into(),
            preprocess: "p".into(),
            precision: Precision::F32,
        }
    }

    /// Images `from..to` in `folder` with features of their own.
    fn images(folder: &Path, range: std::ops::Range<usize>) -> (Vec<Entry>, Vec<f32>) {
        let entry = |i: usize| Entry {
            path: folder.join(format!("a/{i}\n.jpg")),
            content: [i as u8; 32],
            label: (!i.is_multiple_of(3)).then(|| format!("class {}", i % 3)),
        };
        let features = range.clone().flat_map(|i| {
            let mut stream = Stream::new(1, "image", &[i as u64]);
            (0..DIM).map(move |_| stream.normal() as f32)
        });
        (range.map(entry).collect(), features.collect())
    }

    fn create(folder: &Path, count: usize, options: &IndexOptions) -> Index {
        let (entries, features) = images(folder, 0..count);
        Index::create(&folder.join("i"), source(), options, &entries, &features, &()).unwrap()
    }

    fn all_options() -> Vec<IndexOptions> {
        let mut all = Vec::new();
        for element in [Element::F32, Element::F16, Element::I8] {
            for search in [Search::Exact, Search::Graph] {
                for whiten in [None, Some(9)] {
                    all.push(IndexOptions { element, search, whiten });
                }
            }
        }
        all
    }

    #[test]
    fn an_image_finds_itself_whatever_the_kind() {
        for options in all_options() {
            let folder = tempfile::tempdir().unwrap();
            let made = create(folder.path(), 200, &options);
            let (entries, features) = images(folder.path(), 0..200);
            for index in [made, Index::open(&folder.path().join("i")).unwrap()] {
                assert_eq!(index.len(), 200);
                assert_eq!(index.has_graph(), options.search == Search::Graph);
                assert_eq!(index.dim(), options.whiten.unwrap_or(DIM));
                let found = index.search_all(&features, 3, None);
                for (i, hits) in found.iter().enumerate() {
                    assert_eq!(hits[0].row, i, "{options:?}");
                    assert!((hits[0].similarity - 1.0).abs() < 0.02);
                    assert_eq!(index.entry(i), entries[i]);
                }
                assert_eq!(index.search(&features[..DIM], 3, None), found[0]);
                assert_eq!(index.labels(), ["class 1", "class 2"]);
            }
        }
    }

    #[test]
    fn added_images_are_found_and_removed_ones_are_not() {
        for options in all_options() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("i");
            let index = create(folder.path(), 150, &options);
            let (entries, features) = images(folder.path(), 140..180);
            let (index, added) = index.add(&entries, &features, &()).unwrap();
            assert_eq!(added, Added { new: 30, replaced: 10 });
            assert_eq!((index.len(), index.removed()), (180, 10));
            let (_, all) = images(folder.path(), 0..180);
            let rows: Vec<usize> = (0..20).collect();
            let (index, gone) = index.remove(&rows, &()).unwrap();
            assert_eq!(gone, 20);
            for index in [index, Index::open(&path).unwrap()] {
                assert_eq!(index.len(), 160);
                for (i, row) in all.chunks_exact(DIM).enumerate() {
                    let hit = index.search(row, 1, None)[0];
                    let itself = index.entry(hit.row).content == [i as u8; 32];
                    assert_eq!(itself, i >= 20, "{i}, {options:?}");
                    assert!(!rows.contains(&hit.row));
                }
                assert_eq!(index.rows().count(), 160);
            }
        }
    }

    #[test]
    fn what_is_of_no_use_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = create(folder.path(), 60, &IndexOptions::default());
        for i in 60..130 {
            let (entries, features) = images(folder.path(), i..i + 1);
            index = index.add(&entries, &features, &()).unwrap().0;
        }
        assert!(index.names.len() <= PIECES && index.len() == 130);
        let rows: Vec<usize> = index.rows().filter(|row| row % 5 > 0).collect();
        let (index, _) = index.remove(&rows, &()).unwrap();
        assert_eq!((index.len(), index.removed()), (26, 0));
        let (_, features) = images(folder.path(), 0..130);
        for (i, row) in features.chunks_exact(DIM).enumerate().step_by(5) {
            let hit = index.search(row, 1, None)[0];
            assert_eq!(index.entry(hit.row).content, [i as u8; 32]);
        }
        assert!(index.remove(&[], &()).unwrap().1 == 0);
    }

    #[test]
    fn it_moves_with_its_images() {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        std::fs::create_dir(&here).unwrap();
        let (mut entries, features) = images(&here, 0..3);
        let away = PathBuf::from("/elsewhere/x.jpg");
        entries[2].path = away.clone();
        let options = IndexOptions::default();
        Index::create(&here.join("i"), source(), &options, &entries, &features, &()).unwrap();
        std::fs::rename(&here, &there).unwrap();
        let index = Index::open(&there.join("i")).unwrap();
        assert_eq!(index.entry(0).path, there.join("a/0\n.jpg"));
        assert_eq!(index.entry(2).path, away);
    }

    #[cfg(unix)]
    #[test]
    fn any_name_is_kept() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let (mut entries, features) = images(folder.path(), 0..1);
        let name = std::ffi::OsStr::from_bytes(b"\xff\xfe\n\".jpg");
        entries[0].path = folder.path().join(name);
        let options = IndexOptions::default();
        let path = folder.path().join("i");
        Index::create(&path, source(), &options, &entries, &features, &()).unwrap();
        assert_eq!(Index::open(&path).unwrap().entry(0), entries[0]);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        for search in [Search::Exact, Search::Graph] {
            let folder = tempfile::tempdir().unwrap();
            let options = IndexOptions { search, whiten: Some(4), ..IndexOptions::default() };
            let index = create(folder.path(), 40, &options);
            let (entries, features) = images(folder.path(), 40..50);
            index.add(&entries, &features, &()).unwrap();
            let path = folder.path().join("i");
            let whole = std::fs::read(&path).unwrap();
            let index = Index::open(&path).unwrap();
            let m = &index.manifest;
            let graph = m.graph.iter().flat_map(|graph| &graph.parts);
            let parts = m.vectors.iter().chain(&m.names).chain(&m.removed).chain(&m.whitening);
            for part in parts.chain(graph).filter(|part| part.length > 0) {
                for at in [0, part.length / 2, part.length - 1] {
                    let mut bytes = whole.clone();
                    bytes[(part.offset + at) as usize] ^= 4;
                    std::fs::write(&path, &bytes).unwrap();
                    let said = Index::open(&path).unwrap_err().to_string();
                    assert!(said.contains("is damaged: its "), "{said}");
                }
            }
        }
    }

    #[test]
    fn features_that_are_no_numbers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (entries, mut features) = images(folder.path(), 0..4);
        features[DIM + 3] = f32::NAN;
        let path = folder.path().join("i");
        let made =
            Index::create(&path, source(), &IndexOptions::default(), &entries, &features, &());
        let said = made.unwrap_err().to_string();
        assert!(said.contains("1\n.jpg` are not finite"), "{said}");
        assert!(!path.exists());
    }

    #[test]
    fn a_newer_format_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i");
        let manifest = |_: &[Part]| br#"{"format": 7}"#.to_vec();
        let mut file = std::fs::File::create(&path).unwrap();
        write_new(&mut file, MAGIC, &[], manifest).unwrap();
        let said = Index::open(&path).unwrap_err();
        assert!(matches!(said, RetrievalError::Format { found: 7, .. }), "{said}");
    }
}
