//! A file of checksummed parts that grows: what is added comes behind what is there, and counts only
//! once a slot at the beginning says so.
//!
//! ```text
//! 0     magic, 16 bytes
//! 64    slot A, 64 bytes: generation, manifest's offset and length, end of the file, checksums
//! 128   slot B
//! 4096  parts and manifests, each on a boundary of 64 bytes
//! ```
//!
//! The manifest, which is the caller's, tells what the parts are. Each addition writes its parts and
//! a new manifest, syncs them, and then writes the older of the two slots: whoever is killed before
//! that leaves the file as it was, with some bytes at its end that nobody reads and the next addition
//! overwrites. Nothing that counts is ever changed in place, so that who has the file mapped may go on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::{Hint, parallel};

/// Where parts begin, and what boundaries they lie on.
const FIRST: u64 = 4096;
const ALIGN: u64 = 64;

/// The slots' places and length.
const SLOTS: [usize; 2] = [64, 128];
const SLOT: usize = 64;

/// Bytes that are hashed by themselves, so that threads share a part.
const BLOCK: usize = 1 << 20;

/// A stretch of a file, and the hash of what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Bytes before it.
    pub offset: u64,
    /// Bytes in it.
    pub length: u64,
    /// BLAKE3 over the hashes of its blocks of 1 MiB, in hexadecimal.
    pub hash: String,
}

/// Why a file of parts cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartsError {
    /// Another kind of file.
    #[error("`{}` is not {what}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What was expected: `an index of images`.
        what: &'static str,
    },
    /// Not what was written.
    #[error("`{}` is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not agree.
        reason: String,
    },
    /// Somebody else is adding to it, or has done so since it was opened.
    #[error("another process is changing `{}`", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// `open`, `read`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Hint for PartsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Other { .. } => "see whether the name is right".into(),
            Self::Damaged { .. } => {
                "copy it again from where it is whole, or build it anew from the images".into()
            }
            Self::Busy { .. } => "wait until that is done, and try again".into(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "see whether the name is right".into(),
                io::ErrorKind::StorageFull => "free some space; the file is as it was".into(),
                io::ErrorKind::PermissionDenied => "see whether the file may be used".into(),
                _ => return None,
            },
        })
    }
}

/// Bytes of a mapped file, or of memory; four bytes lie on a boundary of four.
#[derive(Debug, Clone)]
pub struct Bytes(Held);

#[derive(Debug, Clone)]
enum Held {
    Mapped(Arc<Mmap>, Range<usize>),
    Owned(Vec<u32>),
}

impl Bytes {
    /// Of memory.
    pub fn owned(words: Vec<u32>) -> Self {
        Self(Held::Owned(words))
    }

    /// As numbers of four bytes.
    ///
    /// # Panics
    /// If they are not a multiple of four bytes.
    pub fn words(&self) -> &[u32] {
        bytemuck::cast_slice(self)
    }

    /// As numbers of four bytes to be changed, copied if they belong to a file.
    ///
    /// # Panics
    /// If they are not a multiple of four bytes.
    pub fn words_mut(&mut self) -> &mut Vec<u32> {
        if let Held::Mapped(..) = self.0 {
            self.0 = Held::Owned(self.words().to_vec());
        }
        match &mut self.0 {
            Held::Owned(words) => words,
            Held::Mapped(..) => unreachable!("it has just been copied"),
        }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped(map, range) => &map[range.clone()],
            Held::Owned(words) => bytemuck::cast_slice(words),
        }
    }
}

/// A file that is open for reading.
#[derive(Debug)]
pub struct PartsFile {
    path: PathBuf,
    map: Arc<Mmap>,
    slot: Slot,
}

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slot {
    /// 1 for a new file, one more with each addition.
    generation: u64,
    manifest: [u64; 2],
    end: u64,
    hash: [u8; 16],
}

impl Slot {
    fn of(generation: u64, offset: u64, manifest: &[u8]) -> Self {
        let length = manifest.len() as u64;
        let end = offset + length;
        Self { generation, manifest: [offset, length], end, hash: short_hash(manifest) }
    }

    fn to_bytes(self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        let numbers = [self.generation, self.manifest[0], self.manifest[1], self.end];
        for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes[32..48].copy_from_slice(&self.hash);
        let check = short_hash(&bytes[..48]);
        bytes[48..].copy_from_slice(&check);
        bytes
    }

    /// Nothing for a slot that was never written.
    fn read(bytes: &[u8]) -> Result<Option<Self>, &'static str> {
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if bytes[48..] != short_hash(&bytes[..48]) {
            return Err("its table of contents does not agree with its checksum");
        }
        let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * i + byte]));
        let hash = std::array::from_fn(|i| bytes[32 + i]);
        let manifest = [number(1), number(2)];
        Ok(Some(Self { generation: number(0), manifest, end: number(3), hash }))
    }
}

fn short_hash(bytes: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

fn hash_of(bytes: &[u8], workers: usize) -> String {
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK).collect();
    let mut hasher = blake3::Hasher::new();
    for hash in parallel::map(&blocks, workers, None, |_, block| blake3::hash(block)) {
        hasher.update(hash.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Contents laid out from `start` on, and where what follows them begins.
fn lay_out(start: u64, contents: &[&[u8]]) -> (Vec<Part>, u64) {
    let mut at = start.next_multiple_of(ALIGN);
    let part = |content: &&[u8]| {
        let (offset, length) = (at, content.len() as u64);
        at = (at + length).next_multiple_of(ALIGN);
        Part { offset, length, hash: hash_of(content, workers()) }
    };
    (contents.iter().map(part).collect(), at)
}

fn pad(out: &mut dyn Write, from: u64, to: u64) -> io::Result<()> {
    out.write_all(&vec![0; (to - from) as usize])
}

/// Parts and a manifest behind them, written from `start` on.
fn write_body(
    out: &mut dyn Write,
    start: u64,
    contents: &[&[u8]],
    parts: &[Part],
    manifest: (u64, &[u8]),
) -> io::Result<()> {
    let mut at = start;
    for (part, content) in parts.iter().zip(contents) {
        pad(out, at, part.offset)?;
        out.write_all(content)?;
        at = part.offset + part.length;
    }
    pad(out, at, manifest.0)?;
    out.write_all(manifest.1)
}

/// Writes a new file: its parts, and a manifest that is made when it is known where they lie.
///
/// # Errors
/// If it cannot be written.
pub fn write_new(
    out: &mut dyn Write,
    magic: &[u8; 16],
    contents: &[&[u8]],
    manifest: impl FnOnce(&[Part]) -> Vec<u8>,
) -> io::Result<()> {
    let (parts, at) = lay_out(FIRST, contents);
    let manifest = manifest(&parts);
    let mut head = vec![0; FIRST as usize];
    head[..16].copy_from_slice(magic);
    head[SLOTS[1]..][..SLOT].copy_from_slice(&Slot::of(1, at, &manifest).to_bytes());
    out.write_all(&head)?;
    write_body(out, FIRST, contents, &parts, (at, &manifest))
}

impl PartsFile {
    /// Opens a file that begins with `magic`; `what` it is, for messages: `an index of images`.
    ///
    /// # Errors
    /// If it is not there, of another kind, cut short, or its contents' table is damaged.
    pub fn open(path: &Path, magic: &[u8; 16], what: &'static str) -> Result<Self, PartsError> {
        let io = |source| PartsError::Io { doing: "open", path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length < FIRST {
            return Err(PartsError::Other { path: path.into(), what });
        }
        let map = map(&file).map_err(io)?;
        let damaged =
            |reason: &str| PartsError::Damaged { path: path.into(), reason: reason.into() };
        if map[..16] != *magic {
            return Err(PartsError::Other { path: path.into(), what });
        }
        let slots = SLOTS.map(|at| Slot::read(&map[at..][..SLOT]));
        let slots: Result<Vec<_>, _> = slots.into_iter().collect();
        let newest = slots.map_err(damaged)?.into_iter().flatten().max_by_key(|s| s.generation);
        let slot = newest.ok_or_else(|| damaged("it has no table of contents"))?;
        if slot.end > length {
            let reason = format!("{length} bytes of {}", slot.end);
            return Err(PartsError::Damaged { path: path.into(), reason });
        }
        let file = Self { path: path.into(), map: Arc::new(map), slot };
        let manifest = file.range(slot.manifest[0], slot.manifest[1]);
        match manifest.map(|range| short_hash(&file.map[range]) == slot.hash) {
            Some(true) => Ok(file),
            _ => Err(damaged("its table of contents does not agree with its checksum")),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest of the last addition.
    pub fn manifest(&self) -> &[u8] {
        let [offset, length] = self.slot.manifest;
        &self.map[offset as usize..][..length as usize]
    }

    /// How often the file was written: 1 for a new one.
    pub fn generation(&self) -> u64 {
        self.slot.generation
    }

    /// Bytes of the file that count.
    pub fn length(&self) -> u64 {
        self.slot.end
    }

    fn range(&self, offset: u64, length: u64) -> Option<Range<usize>> {
        let end = offset.checked_add(length).filter(|end| *end <= self.slot.end)?;
        Some(offset as usize..end as usize)
    }

    /// A part's bytes, which are compared with nothing.
    ///
    /// # Errors
    /// If the part lies outside of the file, or on no boundary.
    pub fn bytes(&self, part: &Part) -> Result<Bytes, PartsError> {
        let range = self.range(part.offset, part.length);
        match range.filter(|_| part.offset.is_multiple_of(ALIGN)) {
            Some(range) => Ok(Bytes(Held::Mapped(self.map.clone(), range))),
            None => Err(self.damaged("a part lies outside of the file")),
        }
    }

    /// Compares a part with its hash, on all processors.
    ///
    /// # Errors
    /// If they differ.
    pub fn verify(&self, part: &Part, name: &str) -> Result<(), PartsError> {
        match hash_of(&self.bytes(part)?, workers()) == part.hash {
            true => Ok(()),
            false => Err(self.damaged(&format!("its {name} do not agree with their checksum"))),
        }
    }

    /// The account of a damage that the caller found.
    pub fn damaged(&self, reason: &str) -> PartsError {
        PartsError::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    /// Adds parts and a new manifest, and gives the file as it is then. The old one can still be read.
    ///
    /// # Errors
    /// If somebody else has changed the file or is doing so, or it cannot be written; then it is as
    /// it was.
    pub fn append(
        &self,
        contents: &[&[u8]],
        manifest: impl FnOnce(&[Part]) -> Vec<u8>,
    ) -> Result<Self, PartsError> {
        let io = |source| PartsError::Io { doing: "write", path: self.path.clone(), source };
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PartsError::Busy { path: self.path.clone() });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let (magic, what) = (std::array::from_fn(|i| self.map[i]), "what it was");
        if Self::open(&self.path, &magic, what)?.slot != self.slot {
            return Err(PartsError::Busy { path: self.path.clone() });
        }
        let (parts, at) = lay_out(self.slot.end, contents);
        let manifest = manifest(&parts);
        let slot = Slot::of(self.slot.generation + 1, at, &manifest);
        let place = SLOTS[(slot.generation % 2) as usize] as u64;
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(self.slot.end)?;
            file.seek(SeekFrom::Start(self.slot.end))?;
            let mut out = io::BufWriter::with_capacity(1 << 20, &mut *file);
            write_body(&mut out, self.slot.end, contents, &parts, (at, &manifest))?;
            out.flush()?;
            drop(out);
            file.sync_all()?;
            file.seek(SeekFrom::Start(place))?;
            file.write_all(&slot.to_bytes())?;
            file.sync_all()
        };
        write(&mut file).map_err(io)?;
        let map = Arc::new(map(&file).map_err(io)?);
        // A map keeps the file open, and with it the lock.
        file.unlock().map_err(io)?;
        Ok(Self { path: self.path.clone(), map, slot })
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe: others could change it")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: what counts of such a file is never changed nor cut off by any process of ours: it
    // grows at its end, and a new one takes its place by a rename. Someone else truncating the file
    // would end the process, as with any mapped file.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8; 16] = b"refit test   v1\n";

    fn list(parts: &[Part]) -> Vec<u8> {
        serde_json::to_vec(parts).unwrap()
    }

    fn parts(file: &PartsFile) -> Vec<Part> {
        serde_json::from_slice(file.manifest()).unwrap()
    }

    fn new(path: &Path, contents: &[&[u8]]) -> PartsFile {
        write_new(&mut File::create(path).unwrap(), MAGIC, contents, list).unwrap();
        open(path).unwrap()
    }

    fn open(path: &Path) -> Result<PartsFile, PartsError> {
        PartsFile::open(path, MAGIC, "a test")
    }

    #[test]
    fn what_is_added_is_there_and_the_old_can_be_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let old = new(&path, &[b"one", b"", &[7; 100]]);
        assert_eq!(parts(&old).len(), 3);
        let both = |new: &[Part]| list(&[parts(&old), new.to_vec()].concat());
        let added = old.append(&[b"more"], both).unwrap();
        for file in [added, open(&path).unwrap()] {
            let parts = parts(&file);
            let all: Vec<Vec<u8>> = parts.iter().map(|p| file.bytes(p).unwrap().to_vec()).collect();
            assert_eq!(all, [b"one".to_vec(), vec![], vec![7; 100], b"more".to_vec()]);
            parts.iter().for_each(|part| file.verify(part, "things").unwrap());
            assert_eq!(file.generation(), 2);
        }
        assert_eq!(&*old.bytes(&parts(&old)[0]).unwrap(), b"one");
        // Whoever has it may go on adding, also while others have it open.
        let third = open(&path).unwrap().append(&[b"third"], list).unwrap();
        let fourth = third.append(&[b"fourth"], list).unwrap();
        assert_eq!((third.generation(), fourth.generation()), (3, 4));
        // Who read the file before it was changed may not change it.
        assert!(matches!(old.append(&[], list), Err(PartsError::Busy { .. })));
    }

    #[test]
    fn an_addition_that_was_killed_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let old = new(&path, &[b"one"]);
        let before = std::fs::read(&path).unwrap();
        old.append(&[&[1; 5000]], list).unwrap();
        let after = std::fs::read(&path).unwrap();
        // Killed after so many bytes; the slot comes last.
        for length in [before.len(), before.len() + 1, before.len() + 3000, after.len()] {
            let mut torn = after[..length].to_vec();
            torn[..FIRST as usize].copy_from_slice(&before[..FIRST as usize]);
            std::fs::write(&path, &torn).unwrap();
            let file = open(&path).unwrap();
            assert_eq!(file.generation(), 1);
            assert_eq!(&*file.bytes(&parts(&file)[0]).unwrap(), b"one");
            let again = file.append(&[b"two"], list).unwrap();
            assert_eq!(&*again.bytes(&parts(&again)[0]).unwrap(), b"two");
        }
    }

    #[test]
    fn damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = new(&path, &[&[5; 300]]);
        let whole = std::fs::read(&path).unwrap();
        let end = whole.len();
        let part = parts(&file).remove(0);
        let places = [SLOTS[1], SLOTS[1] + 40, SLOTS[1] + 63, SLOTS[0] + 5, end - 1];
        for at in places {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(open(&path), Err(PartsError::Damaged { .. })), "at {at}");
        }
        let mut bytes = whole.clone();
        bytes[part.offset as usize + 200] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let said = open(&path).unwrap().verify(&part, "vectors").unwrap_err();
        assert!(said.to_string().contains("its vectors do not agree"), "{said}");
        std::fs::write(&path, &whole[..end - 1]).unwrap();
        assert!(matches!(open(&path), Err(PartsError::Damaged { .. })));
        for other in [&whole[..100], b"text", &[0; 5000]] {
            std::fs::write(&path, other).unwrap();
            assert!(matches!(open(&path), Err(PartsError::Other { .. })));
        }
        let gone = open(&folder.path().join("gone")).unwrap_err();
        assert!(matches!(gone, PartsError::Io { .. }) && gone.hint().is_some());
    }

    #[test]
    fn words_are_copied_before_they_change() {
        let mut bytes = Bytes::owned(vec![1, 2]);
        bytes.words_mut()[1] = 9;
        assert_eq!(bytes.words(), [1, 9]);
        assert_eq!(bytes.len(), 8);
    }
}
