//! Which images can be read, and what each one is.

use std::path::{Path, PathBuf};

use crate::source::Dataset;
use crate::{DataError, DecodeOptions, Detail, Hint, Progress, Sample, decode_in, parallel};

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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Skipped {
    /// The file; a name that is not Unicode is written with replacement characters.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What is the matter, without the path.
    pub reason: String,
    /// How to mend it.
    pub hint: Option<String>,
}

fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
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
    let error = match known(&hash) {
        true => None,
        false => decode_in(&bytes, &options.decode, Detail::Least).err(),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceOptions;
    use crate::test_data::{encoded, rgb8, synthetic};
    use image::ImageFormat;
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tempfile::TempDir;

    fn some_images() -> (TempDir, Vec<Sample>) {
        let dir = TempDir::new().unwrap();
        let good = |seed| encoded(rgb8(&synthetic(20, 20, seed)), ImageFormat::Png);
        let files = [
            ("1.png", good(1)),
            ("2.jpg", b"text".to_vec()),
            ("3.png", good(3)),
            ("4.png", vec![]),
            ("5.png", good(5)[..100].to_vec()),
        ];
        let mut samples = Vec::new();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
            samples.push(Sample { path: dir.path().join(name), label: 0 });
        }
        samples.push(Sample { path: dir.path().join("gone.png"), label: 0 });
        (dir, samples)
    }

    const SKIP: CheckOptions = CheckOptions {
        workers: 2,
        strictness: Strictness::Skip,
        decode: DecodeOptions { background: [255; 3], max_pixels: 178_956_970 },
    };

    #[test]
    fn unreadable_images_are_named_and_left_out() {
        let (dir, samples) = some_images();
        let told = AtomicUsize::new(0);
        let progress = |_, total| assert!(told.fetch_add(1, Ordering::Relaxed) < total);
        let checked = check_readable(&samples, &SKIP, &|_| false, Some(&progress)).unwrap();
        assert_eq!((checked.readable, told.into_inner()), (vec![0, 2], 6));
        let skipped: Vec<(String, String)> = checked
            .skipped
            .iter()
            .map(|s| {
                (s.path.strip_prefix(dir.path()).unwrap().display().to_string(), s.reason.clone())
            })
            .collect();
        let expected = [
            ("2.jpg", "not an image of a known format: it starts with `text`"),
            ("4.png", "the file is empty (0 bytes)"),
            ("5.png", "the PNG is cut short: its data end before the picture does"),
            ("gone.png", "the file does not exist"),
        ];
        assert_eq!(skipped, expected.map(|(path, reason)| (path.to_string(), reason.to_string())));
        assert!(checked.skipped.iter().all(|skipped| skipped.hint.is_some()));
        assert_eq!(checked.hashes[0], Some(hash_file(&samples[0].path).unwrap()));
        assert!(checked.hashes[5].is_none() && checked.hashes[4].is_some());
    }

    #[test]
    fn strictness_stops_at_the_first() {
        let (dir, samples) = some_images();
        let strict = CheckOptions { strictness: Strictness::Strict, ..SKIP };
        let error = check_readable(&samples, &strict, &|_| false, None).unwrap_err();
        assert_eq!(
            error.to_string().replace(&*dir.path().to_string_lossy(), "DIR"),
            "`DIR/2.jpg` cannot be used: not an image of a known format: it starts with `text`"
        );
    }

    #[test]
    fn known_content_is_not_decoded_again() {
        let (_dir, samples) = some_images();
        let known = hash_file(&samples[1].path).unwrap();
        let checked = check_readable(&samples, &SKIP, &|hash| *hash == known, None).unwrap();
        assert_eq!(checked.readable, [0, 1, 2], "the text was vouched for");
    }

    #[test]
    fn nothing_readable_is_an_error() {
        let (dir, samples) = some_images();
        let error = check_readable(&samples[3..], &SKIP, &|_| false, None).unwrap_err();
        assert_eq!(
            error.to_string().replace(&*dir.path().to_string_lossy(), "DIR"),
            "none of the 3 images can be read; the first is `DIR/4.png`: the file is empty (0 bytes)"
        );
        assert!(check_readable(&[], &SKIP, &|_| false, None).unwrap().readable.is_empty());
    }

    #[test]
    fn fingerprint_knows_content_label_and_part_but_not_place() {
        let write = |files: &[(&str, &str)]| {
            let dir = TempDir::new().unwrap();
            for (file, content) in files {
                fs::create_dir_all(dir.path().join(file).parent().unwrap()).unwrap();
                fs::write(dir.path().join(file), content).unwrap();
            }
            let dataset = Dataset::open(
                dir.path(),
                &SourceOptions { val_fraction: Some(0.0), ..SourceOptions::default() },
            );
            Fingerprint::of(&dataset.unwrap(), 2, None)
        };
        let base = write(&[("a/1", "x"), ("a/2", "y"), ("b/1", "z")]);
        assert_eq!(write(&[("b/7", "z"), ("a/9", "x"), ("a/deep/0", "y")]), base);
        assert_ne!(write(&[("a/1", "x"), ("a/2", "Y"), ("b/1", "z")]), base, "content");
        assert_ne!(write(&[("a/1", "x"), ("b/2", "y"), ("b/1", "z")]), base, "label");
        assert_ne!(write(&[("a/1", "x"), ("a/2", "y"), ("b/1", "z"), ("b/2", "z")]), base, "count");
        let (mut train, mut val) = (Fingerprint::new(), Fingerprint::new());
        train.add("train", "a", &[1; 32]);
        val.add("val", "a", &[1; 32]);
        assert_ne!(train.finish(), val.finish());
    }
}
