//! Features of frozen layers, kept between runs.
//!
//! What is frozen computes the same thing for the same image every time, so it is computed once.
//! Rows are found by the image's content and the number of its augmented view, in a file named
//! after everything else that decides them, so a row is never stale. Features are kept in f32, whole
//! maps from which layers above are trained in f16.
//!
//! ```text
//! header  64 bytes   magic, dim, key, checksum
//! record  48 bytes   content hash [32], view, checksum of these two, checksum of all
//!         dim        numbers of the row, f32 or f16, little-endian
//! ```
//!
//! Files only ever grow, by whole records at their end. A record half written when the process was
//! killed is dropped at the next opening; a record that does not match its checksum is taken as
//! absent and written again.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use half::f16;
use memmap2::Mmap;

use crate::ContentHash;

/// The numbers of a row.
pub trait Element: bytemuck::Pod {
    /// What files of such rows begin with.
    const MAGIC: [u8; 8];
}

impl Element for f32 {
    const MAGIC: [u8; 8] = *b"refitfc1";
}

impl Element for f16 {
    const MAGIC: [u8; 8] = *b"refithc1";
}

/// Everything beside the image that decides its features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheKey {
    /// Hash of the frozen layers: their graph and weights.
    pub frozen: [u8; 32],
    /// Hash of the preprocessing (and of the augmentation, for views).
    pub preprocess: [u8; 32],
    /// What the rows are, such as the name of the layer they come from.
    pub what: String,
}

/// How a cache keeps house.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Bytes all cache files in the folder may take together; past it those that were not used for
    /// longest are deleted. 4 GiB unless told. The file in use is never deleted.
    pub budget: u64,
    /// Bytes of new rows held in memory before they are written; 1 MiB unless told.
    pub write_every: usize,
    /// Whether the budget holds for the file in use too, and for what stays in memory: past it new
    /// rows are not kept. Otherwise all are kept, with a warning.
    pub within_budget: bool,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { budget: 4 << 30, write_every: 1 << 20, within_budget: false }
    }
}

/// Rows of `dim` numbers by (image content, view), in a file or in memory.
///
/// A file that cannot be written never stops a run: rows stay in memory then, and
/// [`take_warnings`](Self::take_warnings) says so.
#[derive(Debug)]
pub struct FeatureCache<T: Element = f32> {
    dim: usize,
    index: HashMap<RowKey, Place>,
    store: Option<Store<T>>,
    /// Rows not in the file, `[keys.len(), dim]`.
    memory: Vec<T>,
    keys: Vec<RowKey>,
    options: CacheOptions,
    warnings: Vec<String>,
}

type RowKey = (ContentHash, u32);

#[derive(Debug, Clone, Copy)]
enum Place {
    File(usize),
    Memory(usize),
}

impl<T: Element> FeatureCache<T> {
    /// Opens or begins the file for a key in a folder, which is made if need be. A file another
    /// process is writing is read as it is now, and new rows stay in memory.
    ///
    /// # Panics
    /// If `dim` is zero.
    pub fn open(dir: &Path, key: &CacheKey, dim: usize) -> Self {
        Self::open_with(dir, key, dim, CacheOptions::default())
    }

    /// [`open`](Self::open) with settings.
    ///
    /// # Panics
    /// If `dim` is zero.
    pub fn open_with(dir: &Path, key: &CacheKey, dim: usize, options: CacheOptions) -> Self {
        let mut cache = Self::in_memory_with(dim, options);
        if cfg!(target_endian = "big") {
            return cache;
        }
        match Store::open(dir, key, dim) {
            Ok((store, warning)) => {
                cache.index = store.index();
                cache.warnings.extend(warning);
                cache.store = Some(store);
                cache.keep_house();
            }
            Err(error) => cache.warnings.push(format!(
                "features cannot be kept in `{}` ({error}); they stay in memory for this run",
                dir.display()
            )),
        }
        cache
    }

    /// A cache that writes no file.
    ///
    /// # Panics
    /// If `dim` is zero.
    pub fn in_memory(dim: usize) -> Self {
        Self::in_memory_with(dim, CacheOptions::default())
    }

    /// [`in_memory`](Self::in_memory) with settings.
    ///
    /// # Panics
    /// If `dim` is zero.
    pub fn in_memory_with(dim: usize, options: CacheOptions) -> Self {
        assert!(dim > 0, "FeatureCache: rows of no numbers");
        Self {
            dim,
            index: HashMap::new(),
            store: None,
            memory: vec![],
            keys: vec![],
            options,
            warnings: vec![],
        }
    }

    /// Numbers in a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The file rows are written to, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.store.as_ref().filter(|store| store.writable).map(|store| store.path.as_path())
    }

    /// The row of an image's view, `[dim]`; none if it is not there or no longer whole.
    pub fn get(&self, image: &ContentHash, view: u32) -> Option<&[T]> {
        match *self.index.get(&(*image, view))? {
            Place::Memory(row) => Some(&self.memory[row * self.dim..][..self.dim]),
            Place::File(record) => self.store.as_ref()?.row(record),
        }
    }

    /// Whether [`get`](Self::get) gives a row.
    pub fn contains(&self, image: &ContentHash, view: u32) -> bool {
        self.get(image, view).is_some()
    }

    /// Rows for which there is room in the budget.
    pub fn room(&self) -> usize {
        if !self.options.within_budget {
            return usize::MAX;
        }
        let file = self.store.as_ref().map_or(0, |store| store.length());
        let used = file + (self.keys.len() * record_len::<T>(self.dim)) as u64;
        (self.options.budget.saturating_sub(used) / record_len::<T>(self.dim) as u64) as usize
    }

    /// Adds the row of an image's view, if there is [room](Self::room); one that is there already
    /// stays as it is.
    ///
    /// # Panics
    /// If `row` is not `dim` long.
    pub fn insert(&mut self, image: &ContentHash, view: u32, row: &[T]) {
        assert_eq!(row.len(), self.dim, "FeatureCache::insert: length of the row");
        if self.contains(image, view) || self.room() == 0 {
            return;
        }
        self.index.insert((*image, view), Place::Memory(self.keys.len()));
        self.keys.push((*image, view));
        self.memory.extend_from_slice(row);
        if self.memory.len() * size_of::<T>() >= self.options.write_every {
            self.flush();
        }
    }

    /// Writes to the file what is not there yet; also happens on drop.
    pub fn flush(&mut self) {
        let Some(store) =
            self.store.as_mut().filter(|store| store.writable && !self.keys.is_empty())
        else {
            return;
        };
        let first = store.records();
        match store.append(&self.keys, &self.memory) {
            Ok(()) => {
                for (row, key) in self.keys.drain(..).enumerate() {
                    self.index.insert(key, Place::File(first + row));
                }
                self.memory.clear();
                self.keep_house();
            }
            Err(error) => {
                store.writable = false;
                self.warnings.push(format!("features cannot be written to `{}` ({error}); new ones stay in memory for this run", store.path.display()));
            }
        }
    }

    /// What went wrong since this was last asked; each is a sentence for the user.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Deletes the least recently used files while the folder is over its budget.
    fn keep_house(&mut self) {
        let Some(store) = self.store.as_mut().filter(|store| store.writable) else { return };
        let size = store.length();
        if size + store.others <= self.options.budget && store.house_kept {
            return;
        }
        store.house_kept = true;
        store.others = evict(&store.path, self.options.budget.saturating_sub(size));
        if size > self.options.budget && !self.options.within_budget && !store.told_size {
            store.told_size = true;
            self.warnings.push(format!(
                "the features in `{}` alone take more than the budget of {} bytes",
                store.path.display(),
                self.options.budget
            ));
        }
    }
}

impl<T: Element> Drop for FeatureCache<T> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Where features are kept unless told otherwise: `$REFIT_CACHE`, else `$XDG_CACHE_HOME/refit`, else
/// `~/.cache/refit` (on Windows `%LOCALAPPDATA%\refit`). None where no such variable is set.
pub fn default_dir() -> Option<PathBuf> {
    default_dir_by(|name| env::var_os(name))
}

fn default_dir_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("REFIT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("refit")))
        .or_else(|| set("HOME").map(|home| home.join(".cache").join("refit")))
        .or_else(|| set("LOCALAPPDATA").map(|dir| dir.join("refit")))
}

// ---- the file ----

const HEADER: usize = 64;
const RECORD_HEAD: usize = 48;
const EXTENSION: &str = "features";

/// Whether a record was compared with its checksum.
const UNSEEN: u8 = 0;
const WHOLE: u8 = 1;
const BROKEN: u8 = 2;

#[derive(Debug)]
struct Store<T> {
    path: PathBuf,
    /// Holds the lock while `writable`.
    file: File,
    /// The header and all whole records.
    map: Option<Mmap>,
    seen: Vec<AtomicU8>,
    dim: usize,
    writable: bool,
    /// Bytes of the other cache files, when house was last kept.
    others: u64,
    house_kept: bool,
    told_size: bool,
    rows: PhantomData<T>,
}

impl<T: Element> Store<T> {
    fn open(dir: &Path, key: &CacheKey, dim: usize) -> io::Result<(Self, Option<String>)> {
        fs::create_dir_all(dir)?;
        let header = header::<T>(key, dim);
        let path =
            dir.join(format!("{}.{EXTENSION}", blake3::hash(&header).to_hex().split_at(32).0));
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = match open() {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                let store = Self::view(path.clone(), File::open(&path)?, &header, dim)?;
                return Ok((
                    store,
                    Some(format!(
                        "features in `{}` can be read but not written ({error}); new ones stay in memory for this run",
                        path.display()
                    )),
                ));
            }
            other => other?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let warning = format!(
                    "another process is writing features to `{}`; new ones stay in memory for this run",
                    path.display()
                );
                return Ok((Self::view(path, file, &header, dim)?, Some(warning)));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let length = file.metadata()?.len();
        if length >= HEADER as u64 && !begins_with(&mut file, &header)? {
            // Others may have it mapped: it is replaced, never cut.
            fs::remove_file(&path)?;
            file = open()?;
            file.try_lock().map_err(io::Error::from)?;
        }
        if file.metadata()?.len() < HEADER as u64 {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
        }
        let store = Self::view(path, file, &header, dim)?;
        store.file.set_len(store.length())?;
        // The time of change tells the least recently used; not every system has it.
        let _ = store.file.set_modified(SystemTime::now());
        Ok((Self { writable: true, ..store }, None))
    }

    /// The whole records of a file as it is now, for reading.
    fn view(path: PathBuf, mut file: File, header: &[u8; HEADER], dim: usize) -> io::Result<Self> {
        if !begins_with(&mut file, header)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a cache of these features",
            ));
        }
        let mut store = Self {
            path,
            file,
            map: None,
            seen: vec![],
            dim,
            writable: false,
            others: 0,
            house_kept: false,
            told_size: false,
            rows: PhantomData,
        };
        let records = (store.file.metadata()?.len() as usize - HEADER) / store.record_len();
        store.map_records(records)?;
        Ok(store)
    }

    fn record_len(&self) -> usize {
        record_len::<T>(self.dim)
    }

    fn records(&self) -> usize {
        self.seen.len()
    }

    fn length(&self) -> u64 {
        (HEADER + self.records() * self.record_len()) as u64
    }

    #[expect(unsafe_code, reason = "mapping a file is unsafe: others could change it")]
    fn map_records(&mut self, records: usize) -> io::Result<()> {
        let length = HEADER + records * self.record_len();
        // SAFETY: a cache file only grows (whole records are never changed or cut off, by any
        // process of ours, and a file to be discarded is unlinked), and every row is compared with
        // its checksum before it is used. Someone else truncating the file would end the process,
        // as with any mapped file.
        let map = unsafe { memmap2::MmapOptions::new().len(length).map(&self.file)? };
        self.map = Some(map);
        self.seen.resize_with(records, || AtomicU8::new(UNSEEN));
        Ok(())
    }

    fn record(&self, record: usize) -> Option<&[u8]> {
        self.map.as_ref()?.get(HEADER + record * self.record_len()..)?.get(..self.record_len())
    }

    /// The records by key; of two with the same key the later one counts.
    fn index(&self) -> HashMap<RowKey, Place> {
        let key_of = |record: usize| {
            let bytes = self.record(record)?;
            let key =
                (bytes[..32].try_into().ok()?, u32::from_le_bytes(bytes[32..36].try_into().ok()?));
            (bytes[36..40] == head_check(&key)).then_some((key, Place::File(record)))
        };
        (0..self.records()).filter_map(key_of).collect()
    }

    fn row(&self, record: usize) -> Option<&[T]> {
        let bytes = self.record(record)?;
        let seen = self.seen.get(record)?;
        if seen.load(Ordering::Relaxed) == UNSEEN {
            let whole = bytes[40..48] == body_check(&bytes[..36], &bytes[RECORD_HEAD..]);
            seen.store(if whole { WHOLE } else { BROKEN }, Ordering::Relaxed);
        }
        if seen.load(Ordering::Relaxed) == BROKEN {
            return None;
        }
        bytemuck::try_cast_slice(&bytes[RECORD_HEAD..]).ok()
    }

    fn append(&mut self, keys: &[RowKey], rows: &[T]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(keys.len() * self.record_len());
        for (key, row) in keys.iter().zip(rows.chunks_exact(self.dim)) {
            let start = bytes.len();
            bytes.extend_from_slice(&key.0);
            bytes.extend_from_slice(&key.1.to_le_bytes());
            let row = bytemuck::cast_slice::<T, u8>(row);
            let check = body_check(&bytes[start..], row);
            bytes.extend_from_slice(&head_check(key));
            bytes.extend_from_slice(&check);
            bytes.extend_from_slice(row);
        }
        // What a failed write leaves behind stays: others may have mapped its whole records, and the
        // next opening drops the rest.
        self.file.seek(SeekFrom::Start(self.length()))?;
        self.file.write_all(&bytes)?;
        let records = self.records() + keys.len();
        self.map_records(records)
    }
}

fn record_len<T>(dim: usize) -> usize {
    RECORD_HEAD + dim * size_of::<T>()
}

fn header<T: Element>(key: &CacheKey, dim: usize) -> [u8; HEADER] {
    let mut hasher = blake3::Hasher::new_derive_key("refit feature cache v1");
    hasher.update(&key.frozen).update(&key.preprocess).update(key.what.as_bytes());
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&T::MAGIC);
    header[8..16].copy_from_slice(&(dim as u64).to_le_bytes());
    header[16..48].copy_from_slice(hasher.finalize().as_bytes());
    let check = blake3::hash(&header[..48]);
    header[48..].copy_from_slice(&check.as_bytes()[..16]);
    header
}

fn begins_with(file: &mut File, header: &[u8; HEADER]) -> io::Result<bool> {
    let mut bytes = Vec::with_capacity(HEADER);
    file.seek(SeekFrom::Start(0))?;
    file.take(HEADER as u64).read_to_end(&mut bytes)?;
    Ok(bytes == header)
}

fn head_check(key: &RowKey) -> [u8; 4] {
    let hash = blake3::Hasher::new().update(&key.0).update(&key.1.to_le_bytes()).finalize();
    std::array::from_fn(|i| hash.as_bytes()[i])
}

fn body_check(key: &[u8], row: &[u8]) -> [u8; 8] {
    let hash = blake3::Hasher::new().update(key).update(row).finalize();
    std::array::from_fn(|i| hash.as_bytes()[i])
}

/// Deletes the oldest cache files beside `own` until the rest take at most `budget` bytes; gives
/// what they take. Files in use by other processes stay.
fn evict(own: &Path, budget: u64) -> u64 {
    let entries =
        own.parent().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let others = entries
        .map(|entry| entry.path())
        .filter(|path| path != own && path.extension().is_some_and(|e| e == EXTENSION));
    let age = |path: PathBuf| {
        let metadata = fs::metadata(&path).ok()?;
        Some((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), path))
    };
    let mut files: Vec<_> = others.filter_map(age).collect();
    files.sort();
    let mut total: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (_, length, path) in files {
        if total <= budget {
            break;
        }
        let unused = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if unused && fs::remove_file(&path).is_ok() {
            total -= length;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tempfile::TempDir;

    const DIM: usize = 5;
    const EACH: CacheOptions =
        CacheOptions { budget: 4 << 30, write_every: 1, within_budget: false };

    fn key(what: &str) -> CacheKey {
        CacheKey { frozen: [1; 32], preprocess: [2; 32], what: what.into() }
    }

    fn hash(n: usize) -> ContentHash {
        crate::check::hash_bytes(&n.to_le_bytes())
    }

    fn row(n: usize) -> Vec<f32> {
        (0..DIM).map(|i| (n * 10 + i) as f32).collect()
    }

    fn filled(dir: &Path, options: CacheOptions, range: std::ops::Range<usize>) -> FeatureCache {
        let mut cache = FeatureCache::open_with(dir, &key("features"), DIM, options);
        range.for_each(|n| cache.insert(&hash(n), 0, &row(n)));
        cache
    }

    fn holds(cache: &FeatureCache, n: usize) -> bool {
        cache
            .get(&hash(n), 0)
            .inspect(|found| assert_eq!(*found, row(n), "row {n} is another's"))
            .is_some()
    }

    fn file(dir: &Path) -> PathBuf {
        let mut files: Vec<PathBuf> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        files.remove(0)
    }

    #[test]
    fn rows_are_found_again_after_reopening() {
        for options in [EACH, CacheOptions::default()] {
            let dir = TempDir::new().unwrap();
            let mut cache = filled(dir.path(), options, 0..50);
            cache.insert(&hash(7), 3, &row(1000));
            assert_eq!((cache.len(), cache.dim(), cache.is_empty()), (51, DIM, false));
            assert!((0..50).all(|n| holds(&cache, n)) && !holds(&cache, 50));
            drop(cache);
            let mut cache = FeatureCache::open(dir.path(), &key("features"), DIM);
            assert!(cache.len() == 51 && (0..50).all(|n| holds(&cache, n)));
            assert_eq!(cache.get(&hash(7), 3), Some(&row(1000)[..]));
            assert!(cache.get(&hash(7), 1).is_none() && cache.contains(&hash(7), 0));
            let length = fs::metadata(file(dir.path())).unwrap().len();
            cache.insert(&hash(7), 0, &row(9));
            cache.flush();
            assert_eq!(
                fs::metadata(file(dir.path())).unwrap().len(),
                length,
                "what is there is not written again"
            );
            assert!(cache.take_warnings().is_empty());
        }
    }

    #[test]
    fn other_keys_are_other_files() {
        let dir = TempDir::new().unwrap();
        drop(filled(dir.path(), EACH, 0..3));
        let others = [
            (key("other"), DIM),
            (CacheKey { frozen: [9; 32], ..key("features") }, DIM),
            (CacheKey { preprocess: [9; 32], ..key("features") }, DIM),
            (key("features"), DIM + 1),
        ];
        for (key, dim) in others {
            assert!(FeatureCache::<f32>::open(dir.path(), &key, dim).is_empty());
        }
        assert_eq!(FeatureCache::<f32>::open(dir.path(), &key("features"), DIM).len(), 3);
    }

    #[test]
    fn a_file_cut_anywhere_keeps_its_whole_rows() {
        let dir = TempDir::new().unwrap();
        drop(filled(dir.path(), EACH, 0..4));
        let path = file(dir.path());
        let whole = fs::read(&path).unwrap();
        let record = RECORD_HEAD + 4 * DIM;
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let mut cache = FeatureCache::open_with(dir.path(), &key("features"), DIM, EACH);
            let left = length.saturating_sub(HEADER) / record;
            assert!(cache.len() == left && (0..left).all(|n| holds(&cache, n)), "cut to {length}");
            (0..5).for_each(|n| cache.insert(&hash(n), 0, &row(n)));
            drop(cache);
            let cache = FeatureCache::open(dir.path(), &key("features"), DIM);
            assert!(cache.len() == 5 && (0..5).all(|n| holds(&cache, n)), "cut to {length}");
        }
    }

    #[test]
    fn a_damaged_row_is_absent_and_written_again() {
        let dir = TempDir::new().unwrap();
        drop(filled(dir.path(), EACH, 0..4));
        let path = file(dir.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let mut cache = FeatureCache::open_with(dir.path(), &key("features"), DIM, EACH);
            let left = (0..4).filter(|&n| holds(&cache, n)).count();
            assert_eq!(left, if at < HEADER { 0 } else { 3 }, "byte {at}");
            (0..4).for_each(|n| cache.insert(&hash(n), 0, &row(n)));
            assert!((0..4).all(|n| holds(&cache, n)));
            drop(cache);
            let cache = FeatureCache::open(dir.path(), &key("features"), DIM);
            assert!((0..4).all(|n| holds(&cache, n)), "byte {at}");
        }
    }

    #[test]
    fn a_second_opening_reads_and_keeps_its_own_in_memory() {
        let dir = TempDir::new().unwrap();
        let mut first = filled(dir.path(), EACH, 0..3);
        let mut second = filled(dir.path(), EACH, 3..6);
        assert!((0..6).all(|n| holds(&second, n)) && second.path().is_none());
        let warnings = second.take_warnings();
        assert!(
            warnings.len() == 1
                && warnings[0].starts_with("another process is writing features to"),
            "{warnings:?}"
        );
        first.insert(&hash(10), 0, &row(10));
        assert!(!holds(&second, 10), "it sees the file as it was");
        drop((first, second));
        let third = FeatureCache::open(dir.path(), &key("features"), DIM);
        assert_eq!((0..11).filter(|&n| holds(&third, n)).collect::<Vec<_>>(), [0, 1, 2, 10]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_means_memory() {
        let dir = TempDir::new().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "in the way").unwrap();
        let mut cache = filled(&blocked, EACH, 0..3);
        assert!((0..3).all(|n| holds(&cache, n)) && cache.path().is_none());
        let warnings = cache.take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].starts_with("features cannot be kept in `"),
            "{warnings:?}"
        );
        assert!(cache.take_warnings().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_means_memory() {
        let dir = TempDir::new().unwrap();
        let mut cache = filled(dir.path(), EACH, 0..3);
        if let Some(store) = &mut cache.store {
            store.file = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        }
        (3..6).for_each(|n| cache.insert(&hash(n), 0, &row(n)));
        assert!((0..6).all(|n| holds(&cache, n)) && cache.path().is_none());
        let warnings = cache.take_warnings();
        assert!(
            warnings.len() == 1 && warnings[0].starts_with("features cannot be written to `"),
            "{warnings:?}"
        );
        drop(cache);
        assert_eq!(FeatureCache::<f32>::open(dir.path(), &key("features"), DIM).len(), 3);
    }

    #[test]
    fn the_least_recently_used_files_make_room() {
        let dir = TempDir::new().unwrap();
        let names = ["old", "older", "used"];
        for (age, name) in [(2, "old"), (3, "older"), (9, "used")] {
            let mut cache = FeatureCache::open(dir.path(), &key(name), DIM);
            (0..100).for_each(|n| cache.insert(&hash(n), 0, &row(n)));
            let path = cache.path().unwrap().to_path_buf();
            drop(cache);
            let then = SystemTime::now() - std::time::Duration::from_secs(age * 1000);
            File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        }
        drop(FeatureCache::<f32>::open(dir.path(), &key("used"), DIM));
        let one = (HEADER + 100 * (RECORD_HEAD + 4 * DIM)) as u64;
        drop(FeatureCache::<f32>::open_with(
            dir.path(),
            &key("new"),
            DIM,
            CacheOptions { budget: 2 * one + 200, ..CacheOptions::default() },
        ));
        let left = names.map(|name| FeatureCache::<f32>::open(dir.path(), &key(name), DIM).len());
        assert_eq!(left, [100, 0, 100]);
        let mut big = filled(dir.path(), CacheOptions { budget: one / 2, ..EACH }, 0..100);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "all others went");
        assert_eq!(big.take_warnings().len(), 1);
        assert!((0..100).all(|n| holds(&big, n)));
    }

    #[test]
    fn a_budget_bounds_the_file_in_use_and_memory() {
        let dir = TempDir::new().unwrap();
        let options = CacheOptions {
            budget: (HEADER + 5 * record_len::<f16>(DIM)) as u64,
            write_every: 2 * DIM * size_of::<f16>(),
            within_budget: true,
        };
        let row = |n: usize| row(n).iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>();
        let mut kept = FeatureCache::open_with(dir.path(), &key("features"), DIM, options);
        let budget = 5 * record_len::<f16>(DIM) as u64;
        let mut memory = FeatureCache::in_memory_with(DIM, CacheOptions { budget, ..options });
        for cache in [&mut kept, &mut memory] {
            (0..9).for_each(|n| cache.insert(&hash(n), 0, &row(n)));
            assert!(cache.room() == 0 && cache.take_warnings().is_empty());
            assert!((0..5).all(|n| cache.get(&hash(n), 0) == Some(&row(n)[..])));
            assert!((5..9).all(|n| !cache.contains(&hash(n), 0)));
        }
        drop(kept);
        assert!(fs::metadata(file(dir.path())).unwrap().len() <= options.budget);
        // Rows of other numbers are in another file.
        assert!(FeatureCache::<f32>::open(dir.path(), &key("features"), DIM).is_empty());
        let kept = FeatureCache::open_with(dir.path(), &key("features"), DIM, options);
        assert!((0..5).all(|n| kept.get(&hash(n), 0) == Some(&row(n)[..])));
    }

    #[test]
    fn memory_alone_keeps_rows_too() {
        let mut cache = FeatureCache::in_memory(DIM);
        (0..10).for_each(|n| cache.insert(&hash(n), 0, &row(n)));
        cache.flush();
        assert!(cache.len() == 10 && (0..10).all(|n| holds(&cache, n)) && cache.path().is_none());
    }

    #[test]
    fn rows_survive_sigkill_and_are_read_by_many_threads() {
        let dir = TempDir::new().unwrap();
        let cache = filled(dir.path(), EACH, 0..40);
        // A process that is killed runs no drop.
        std::mem::forget(cache);
        let copy = TempDir::new().unwrap();
        let name = file(dir.path()).file_name().unwrap().to_owned();
        fs::copy(file(dir.path()), copy.path().join(name)).unwrap();
        let cache = FeatureCache::open(copy.path(), &key("features"), DIM);
        let found = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    found
                        .fetch_add((0..40).filter(|&n| holds(&cache, n)).count(), Ordering::Relaxed)
                });
            }
        });
        assert_eq!(found.into_inner(), 160);
    }

    #[test]
    fn the_default_folder_follows_the_environment() {
        let with = |set: &[(&str, &str)]| {
            default_dir_by(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
        };
        let all = [("REFIT_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(with(&all), Some("/a".into()));
        assert_eq!(with(&all[1..]), Some("/b/refit".into()));
        assert_eq!(with(&all[2..]), Some("/c/.cache/refit".into()));
        assert_eq!(with(&[("REFIT_CACHE", ""), ("HOME", "/c")]), Some("/c/.cache/refit".into()));
        assert_eq!(with(&[]), None);
    }
}
