//! Files that appear whole or not at all: written beside the target, synced, renamed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Hint;

/// Every temporary file ends so; its name starts with a dot and the target's name.
const TEMPORARY: &str = ".refit-tmp";

/// Why a file was not written. Whatever stood at the target before stands there still, but for
/// a disk that fails after the rename (`sync`): then the new file stands there, perhaps not yet
/// for good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AtomicWriteError {
    /// The disk, or the user's share of it, is full.
    #[error("cannot write `{}`: the disk is full ({error})", path.display())]
    DiskFull {
        /// The target.
        path: PathBuf,
        /// Bytes the whole file takes where that is known, else those written before the disk was full.
        needs: Needs,
        /// What the system said.
        error: io::Error,
    },
    /// The folder, or the disk it is on, may not be written to.
    #[error("cannot write `{}`: not permitted ({error})", path.display())]
    NotPermitted {
        /// The target.
        path: PathBuf,
        /// The folder it would be in.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The target's folder does not exist.
    #[error("cannot write `{}`: there is no folder `{}`", path.display(), folder.display())]
    NoFolder {
        /// The target.
        path: PathBuf,
        /// The folder it would be in.
        folder: PathBuf,
    },
    /// The target is a folder.
    #[error("cannot write `{}`: it is a folder", path.display())]
    IsFolder {
        /// The target.
        path: PathBuf,
    },
    /// Anything else, the writing function's own errors among it.
    #[error("cannot {doing} `{}`: {error}", path.display())]
    Failed {
        /// The target.
        path: PathBuf,
        /// The step that failed: `create`, `write`, `sync` or `rename`.
        doing: &'static str,
        /// What the system, or the writing function, said.
        error: io::Error,
    },
}

/// How many bytes a full disk would have had to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The whole file's length in bytes.
    Exactly(u64),
    /// More than this many bytes, which were handed over before the disk was full.
    MoreThan(u64),
}

impl Hint for AtomicWriteError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::DiskFull { needs: Needs::Exactly(n), .. } => {
                Some(format!("free at least {n} bytes, or give another place with --out"))
            }
            Self::DiskFull { needs: Needs::MoreThan(n), .. } => {
                Some(format!("free more than {n} bytes, or give another place with --out"))
            }
            Self::NotPermitted { folder, .. } => Some(format!(
                "make `{}` writable, or give another place with --out",
                folder.display()
            )),
            Self::NoFolder { folder, .. } => Some(format!(
                "make it first (mkdir -p '{}'), or give another place with --out",
                folder.display()
            )),
            Self::IsFolder { path } => {
                Some(format!("name a file in it, such as `{}`", path.join("model").display()))
            }
            Self::Failed { .. } => Some("try again, or give another place with --out".into()),
        }
    }
}

/// Writes `path` as `body` says: into a temporary file beside it, which is synced and then
/// renamed, so that a reader (or a crash) sees the old file or the new one and never a part.
///
/// `body` gets a buffered writer; flushing and syncing are done here. A link is followed, an
/// existing file's permissions are kept, and a target that is no regular file (`/dev/stdout`)
/// is written to directly, since nothing can be renamed onto it.
///
/// # Errors
/// On any error, `body`'s own among them, the temporary file is removed and the old target is
/// as it was (see [`AtomicWriteError`] for the one exception).
pub fn write<F>(path: impl AsRef<Path>, body: F) -> Result<(), AtomicWriteError>
where
    F: FnOnce(&mut dyn Write) -> io::Result<()>,
{
    write_with(path.as_ref(), None, body)
}

/// As [`write()`], for a file of which the `length` in bytes is known beforehand: a full disk's
/// hint then says how much to free.
///
/// # Errors
/// As [`write()`].
pub fn write_sized<F>(path: impl AsRef<Path>, length: u64, body: F) -> Result<(), AtomicWriteError>
where
    F: FnOnce(&mut dyn Write) -> io::Result<()>,
{
    write_with(path.as_ref(), Some(length), body)
}

/// Removes what writers of `path` that were killed left beside it; gives how many files.
///
/// Only for a caller who knows that nobody is writing `path` now, as when a run is resumed.
///
/// # Errors
/// When the folder cannot be listed or a leftover not removed.
pub fn remove_leftovers(path: impl AsRef<Path>) -> io::Result<usize> {
    let path = path.as_ref();
    let Some(name) = path.file_name() else { return Ok(0) };
    let mut start = dotted(name);
    start.push(".");
    let mut removed = 0;
    for entry in fs::read_dir(folder_of(path))? {
        let entry = entry?;
        if is_leftover(&entry.file_name(), &start) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether `name` is `start`, a process and a counter, and the ending of temporary files.
fn is_leftover(name: &OsStr, start: &OsStr) -> bool {
    let (Some(name), Some(start)) = (name.to_str(), start.to_str()) else { return false };
    let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(TEMPORARY));
    middle.is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

fn write_with<F>(path: &Path, length: Option<u64>, body: F) -> Result<(), AtomicWriteError>
where
    F: FnOnce(&mut dyn Write) -> io::Result<()>,
{
    let job = Job { path, length };
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let existing = fs::metadata(&target).ok();
    match &existing {
        Some(there) if there.is_dir() => {
            return Err(AtomicWriteError::IsFolder { path: path.to_path_buf() });
        }
        Some(there) if !there.is_file() => return job.write_through(&target, body),
        _ => {}
    }
    let temporary = Temporary::beside(&target);
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary.path);
    let file = file.map_err(|error| job.failed("create", 0, error))?;
    // A target of which the permissions cannot be copied is still better written than not.
    if let Some(there) = &existing {
        let _ = file.set_permissions(there.permissions());
    }
    let file = job.fill(file, body)?;
    file.sync_all().map_err(|error| job.failed("sync", 0, error))?;
    drop(file);
    fs::rename(&temporary.path, &target).map_err(|error| job.failed("rename", 0, error))?;
    temporary.keep();
    sync_folder(folder_of(&target)).map_err(|error| job.failed("sync", 0, error))
}

/// One write: the path as the user named it, for messages, and its length where known.
struct Job<'a> {
    path: &'a Path,
    length: Option<u64>,
}

impl Job<'_> {
    /// Runs `body` on `file` and empties the buffer.
    fn fill<F>(&self, file: File, body: F) -> Result<File, AtomicWriteError>
    where
        F: FnOnce(&mut dyn Write) -> io::Result<()>,
    {
        let mut counted = Counted { inner: BufWriter::with_capacity(1 << 20, file), bytes: 0 };
        let done = body(&mut counted).and_then(|()| counted.flush());
        done.map_err(|error| self.failed("write", counted.bytes, error))?;
        counted.inner.into_inner().map_err(|e| self.failed("write", counted.bytes, e.into_error()))
    }

    /// Writes to a device or a pipe, which has no old content to keep.
    fn write_through<F>(&self, target: &Path, body: F) -> Result<(), AtomicWriteError>
    where
        F: FnOnce(&mut dyn Write) -> io::Result<()>,
    {
        let file = OpenOptions::new().write(true).open(target);
        let file = file.map_err(|error| self.failed("open", 0, error))?;
        self.fill(file, body).map(drop)
    }

    fn failed(&self, doing: &'static str, written: u64, error: io::Error) -> AtomicWriteError {
        let path = self.path.to_path_buf();
        let folder = folder_of(self.path).to_path_buf();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                let needs = self.length.map_or(Needs::MoreThan(written), Needs::Exactly);
                AtomicWriteError::DiskFull { path, needs, error }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                AtomicWriteError::NotPermitted { path, folder, error }
            }
            ErrorKind::NotFound | ErrorKind::NotADirectory if doing == "create" => {
                AtomicWriteError::NoFolder { path, folder }
            }
            _ => AtomicWriteError::Failed { path, doing, error },
        }
    }
}

/// A writer that knows how many bytes it was handed.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A temporary file's name; the file is removed on drop unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn beside(target: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = dotted(target.file_name().unwrap_or_default());
        name.push(format!(".{}-{n}{TEMPORARY}", process::id()));
        Self { path: folder_of(target).join(name) }
    }

    fn keep(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nothing more can be done about a file that cannot be removed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `.name`: hidden, so that nothing that lists a folder takes a temporary file for a result.
fn dotted(name: &OsStr) -> OsString {
    let mut dotted = OsString::from(".");
    dotted.push(name);
    dotted
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the rename itself durable. Some file systems cannot sync a folder; that is no error.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let cannot = [ErrorKind::InvalidInput, ErrorKind::Unsupported, ErrorKind::PermissionDenied];
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if cannot.contains(&error.kind()) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in a folder, sorted.
    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A folder with an old target in it.
    fn old() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, "old").unwrap();
        (folder, path)
    }

    /// A failed write of `old()` leaves it alone in its folder.
    fn assert_untouched(folder: &tempfile::TempDir, path: &Path) {
        assert_eq!(fs::read(path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["model.safetensors"]);
    }

    #[test]
    fn a_file_is_written_and_replaced_whole() {
        let (folder, path) = old();
        write(&path, |w| {
            assert_eq!(fs::read(&path)?, b"old", "the target changes only at the end");
            w.write_all(b"new")
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["model.safetensors"]);
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file() {
        let (folder, path) = old();
        let error = write(&path, |w| {
            w.write_all(&[7; 3 << 20])?;
            Err(io::Error::other("the source ended early"))
        })
        .unwrap_err();
        assert_untouched(&folder, &path);
        let place = path.display();
        assert_eq!(error.to_string(), format!("cannot write `{place}`: the source ended early"));
        assert_eq!(error.hint().unwrap(), "try again, or give another place with --out");
    }

    #[test]
    fn a_panicking_writer_leaves_the_old_file() {
        let (folder, path) = old();
        let job = std::panic::AssertUnwindSafe(|| write(&path, |_| panic!("a bug elsewhere")));
        std::panic::catch_unwind(job).unwrap_err();
        assert_untouched(&folder, &path);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_leaves_the_old_file_and_says_how_much_to_free() {
        let (folder, path) = old();
        // The system's own "no space left" (`/dev/full` gives it to every write), by the way
        // it takes when the temporary file's disk is full.
        let full = |_: &mut dyn Write| File::create("/dev/full")?.write_all(b"x");
        let error = write_sized(&path, 4096, full).unwrap_err();
        assert_untouched(&folder, &path);
        let (place, said) = (path.display(), "No space left on device (os error 28)");
        assert_eq!(error.to_string(), format!("cannot write `{place}`: the disk is full ({said})"));
        assert_eq!(
            error.hint().unwrap(),
            "free at least 4096 bytes, or give another place with --out"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_device_is_written_to_and_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let error = write("/dev/full", |w| w.write_all(&[0; 100])).unwrap_err();
        assert!(matches!(error, AtomicWriteError::DiskFull { needs: Needs::MoreThan(100), .. }));
        assert_eq!(
            error.hint().unwrap(),
            "free more than 100 bytes, or give another place with --out"
        );
        assert!(fs::metadata("/dev/full").unwrap().file_type().is_char_device());
        write("/dev/null", |w| w.write_all(b"x")).unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, path) = (folder.path().join("runs"), folder.path().join("runs/m"));
        let error = write(&path, |w| w.write_all(b"x")).unwrap_err();
        let (m, p) = (missing.display(), path.display());
        assert_eq!(error.to_string(), format!("cannot write `{p}`: there is no folder `{m}`"));
        let hint = format!("make it first (mkdir -p '{m}'), or give another place with --out");
        assert_eq!(error.hint().unwrap(), hint);
    }

    #[test]
    fn a_folder_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), |w| w.write_all(b"x")).unwrap_err();
        let place = folder.path().display();
        assert_eq!(error.to_string(), format!("cannot write `{place}`: it is a folder"));
        assert_eq!(error.hint().unwrap(), format!("name a file in it, such as `{place}/model`"));
    }

    #[test]
    fn what_is_not_permitted_is_named() {
        // Root may write anywhere, so the system's refusal is made rather than met.
        let job = Job { path: Path::new("/vault/m"), length: None };
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let error = job.failed("create", 0, denied);
        assert_eq!(error.to_string(), "cannot write `/vault/m`: not permitted (permission denied)");
        assert_eq!(
            error.hint().unwrap(),
            "make `/vault` writable, or give another place with --out"
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_link_and_permissions_survive() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let (folder, path) = old();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("latest");
        symlink(&path, &link).unwrap();
        write(&link, |w| w.write_all(b"new")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_bare_name_is_written_in_the_working_folder() {
        assert_eq!(folder_of(Path::new("model")), Path::new("."));
        assert_eq!(folder_of(Path::new("runs/model")), Path::new("runs"));
    }

    #[test]
    fn leftovers_of_a_killed_writer_are_removed_and_nothing_else() {
        let (folder, path) = old();
        let leftover = Temporary::beside(&path);
        fs::write(&leftover.path, "part").unwrap();
        leftover.keep();
        let others = [".model.safetensors.b.refit-tmp", ".other.1-2.refit-tmp"];
        others.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        assert_eq!(remove_leftovers(&path).unwrap(), 1);
        assert_eq!(names(folder.path()), [others[0], others[1], "model.safetensors"]);
    }
}
