//! Which images can be read, and what each one is.

use std::path::{Path, PathBuf};

use crate::source::Dataset;
use crate::{DataError, DecodeOptions, Hint, Progress, Sample, decode, parallel};

/// BLAKE3 of a file's bytes: the same image has the same hash wherever it lies.
pub type ContentHash = [u8; 32];

/// What happens at an image that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// It is named and left out.
    #[default]
    Skip,
    /// It stops the run.
    Strict,
}

/// An image that was left out.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is the matter, without the path.
    pub reason: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Skipped {
    /// The account of an error about one image.
    pub fn new(path: &Path, error: &DataError) -> Self {
        let reason = match error {
            DataError::Unreadable { source, .. } => source.to_string(),
            DataError::Read { source, .. } => source.to_string(),
            DataError::NotFound { .. } => "the file does not exist".into(),
            other => other.to_string(),
        };
        Self { path: path.into(), reason, hint: error.hint() }
    }
}

/// How images are checked.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Threads; at least one is used.
    pub workers: usize,
    /// What an unreadable image does.
    pub strictness: Strictness,
    /// Limits of decoding.
    pub decode: DecodeOptions,
}

/// What a check found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Positions of the readable samples, ascending.
    pub readable: Vec<usize>,
    /// The others, in the samples' order.
    pub skipped: Vec<Skipped>,
    /// For each sample the hash of its content; none where the file itself could not be read.
    pub hashes: Vec<Option<ContentHash>>,
}

/// Reads and decodes every image once and tells which ones are whole.
///
/// Decoding is spared where `known` already vouches for the content, such as a feature cache that
/// holds its features: then the cost is that of reading and hashing the file.
///
/// # Errors
/// Under [`Strictness::Strict`] the first unreadable image, in the samples' order; otherwise only
/// if no image at all is readable.
pub fn check_readable(
    samples: &[Sample],
    options: &CheckOptions,
    known: &(dyn Fn(&ContentHash) -> bool + Sync),
    progress: Option<Progress>,
) -> Result<Checked, DataError> {
    let results = parallel::map(samples, options.workers, progress, |_, sample| {
        check_one(sample, options, known)
    });
    let mut checked =
        Checked { readable: vec![], skipped: vec![], hashes: Vec::with_capacity(samples.len()) };
    for (index, (sample, (hash, error))) in samples.iter().zip(results).enumerate() {
        checked.hashes.push(hash);
        match (error, options.strictness) {
            (None, _) => checked.readable.push(index),
            (Some(error), Strictness::Strict) => return Err(error),
            (Some(error), Strictness::Skip) => {
                checked.skipped.push(Skipped::new(&sample.path, &error))
            }
        }
    }
    match checked.skipped.first() {
        Some(first) if checked.readable.is_empty() => Err(DataError::NothingReadable {
            count: samples.len(),
            path: first.path.clone(),
            reason: first.reason.clone(),
        }),
        _ => Ok(checked),
    }
}

fn check_one(
    sample: &Sample,
    options: &CheckOptions,
    known: &(dyn Fn(&ContentHash) -> bool + Sync),
) -> (Option<ContentHash>, Option<DataError>) {
    let bytes = match std::fs::read(&sample.path) {
        Ok(bytes) => bytes,
        Err(source) => return (None, Some(DataError::read(&sample.path, source))),
    };
    let hash = hash_bytes(&bytes);
    let error = if known(&hash) { None } else { decode(&bytes, &options.decode).err() };
    (Some(hash), error.map(|source| DataError::Unreadable { path: sample.path.clone(), source }))
}

/// The hash of some bytes.
pub fn hash_bytes(bytes: &[u8]) -> ContentHash {
    *blake3::hash(bytes).as_bytes()
}

/// The hash of a file's content.
///
/// # Errors
/// If the file cannot be read.
pub fn hash_file(path: &Path) -> Result<ContentHash, DataError> {
    std::fs::read(path)
        .map(|bytes| hash_bytes(&bytes))
        .map_err(|source| DataError::read(path, source))
}

/// The hashes of many files, in order, on `workers` threads.
pub fn hash_files(
    paths: &[PathBuf],
    workers: usize,
    progress: Option<Progress>,
) -> Vec<Result<ContentHash, DataError>> {
    parallel::map(paths, workers, progress, |_, path| hash_file(path))
}

/// A fingerprint of labelled images: what they show, how they are labelled and which part they are
/// in decides it; where they lie, their names and their order do not.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint {
    entries: Vec<[u8; 32]>,
}

impl Fingerprint {
    /// Of no images yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image of a part (`train`, `val`, `test`) and class.
    pub fn add(&mut self, part: &str, class: &str, content: &ContentHash) {
        let mut hasher = blake3::Hasher::new();
        for text in [part, class] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        self.entries.push(*hasher.update(content).finalize().as_bytes());
    }

    /// The fingerprint of all that was added.
    pub fn finish(mut self) -> [u8; 32] {
        self.entries.sort_unstable();
        let mut hasher = blake3::Hasher::new_derive_key("refit dataset v1");
        self.entries.iter().for_each(|entry| _ = hasher.update(entry));
        *hasher.finalize().as_bytes()
    }

    /// The fingerprint of a whole dataset. Files that cannot be read do not enter.
    pub fn of(dataset: &Dataset, workers: usize, progress: Option<Progress>) -> [u8; 32] {
        let parts = [("train", &dataset.train), ("val", &dataset.val), ("test", &dataset.test)];
        let all: Vec<(&str, &Sample)> = parts
            .iter()
            .flat_map(|(part, samples)| samples.iter().map(move |sample| (*part, sample)))
            .collect();
        let hashes =
            parallel::map(&all, workers, progress, |_, (_, sample)| hash_file(&sample.path).ok());
        let mut fingerprint = Self::new();
        for ((part, sample), hash) in all.iter().zip(hashes) {
            if let (Some(hash), Some(class)) = (hash, dataset.classes.get(sample.label)) {
                fingerprint.add(part, class, &hash);
            }
        }
        fingerprint.finish()
    }
}
