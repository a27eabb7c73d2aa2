//! Features of images as a file: NumPy, CSV or Parquet.
//!
//! Features of one layer are `f0`, `f1`, ...; of several, each layer's bear its name:
//! `layer3.f0`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use npyz::WriterBuilder;
use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use refit::net::atomic_file::{self, AtomicWriteError, Needs};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// How features are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// float32 `[n, dim]`, the paths in a text file beside it.
    Npy,
    /// An array like that for each layer, under its name, in one archive.
    Npz,
    /// `path,f0,f1,...`.
    Csv,
    /// A column `path` and one of floats for each feature.
    Parquet,
}

impl Format {
    /// The format that a file's name asks for.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "npy" => Some(Self::Npy),
            "npz" => Some(Self::Npz),
            "csv" => Some(Self::Csv),
            "parquet" | "pq" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// The features of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The layer.
    pub layer: String,
    /// Number of features.
    pub dim: usize,
}

/// Rows on their way to a file. How many there will be is known at the end only, so they wait in a
/// hidden file beside it and memory stays flat.
#[derive(Debug)]
pub struct Rows {
    target: PathBuf,
    waiting: PathBuf,
    file: BufWriter<File>,
    paths: Vec<PathBuf>,
    groups: Vec<Group>,
    /// Numbers a row.
    dim: usize,
}

impl Rows {
    /// Rows of some layers' features, one behind the other, for the file `target`.
    ///
    /// # Errors
    /// If nothing can be written beside the target.
    pub fn for_file(target: &Path, groups: Vec<Group>) -> Result<Self, AtomicWriteError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let waiting = folder_of(target).join(format!(".{name}.{}.rows", std::process::id()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(&waiting).map_err(|error| failed(target, 0, error))?;
        let (target, file) = (target.to_owned(), BufWriter::new(file));
        let dim = groups.iter().map(|group| group.dim).sum();
        Ok(Self { target, waiting, file, paths: Vec::new(), groups, dim })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn push(&mut self, path: &Path, row: &[f32]) -> Result<(), AtomicWriteError> {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        let written = (self.paths.len() * self.dim * 4) as u64;
        self.file.write_all(&bytes).map_err(|error| failed(&self.target, written, error))?;
        self.paths.push(path.to_owned());
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Writes the file; it appears whole or not at all. Gives all files that were written.
    ///
    /// # Errors
    /// If it cannot be written: no room, no permission.
    pub fn finish(mut self, format: Format) -> Result<Vec<PathBuf>, AtomicWriteError> {
        let written = (self.paths.len() * self.dim * 4) as u64;
        let flushed = self.file.flush().and_then(|()| self.file.get_mut().rewind());
        flushed.map_err(|error| failed(&self.target, written, error))?;
        let mut files = vec![self.target.clone()];
        match format {
            Format::Npy | Format::Npz => {
                let list = beside(&self.target);
                atomic_file::write(&list, |file| self.write_paths(file))?;
                atomic_file::write(&self.target, |file| match format {
                    Format::Npz => self.write_npz(file),
                    _ => self.write_npy(file, 0..self.dim),
                })?;
                files.push(list);
            }
            Format::Csv => atomic_file::write(&self.target, |file| self.write_csv(file))?,
            Format::Parquet => atomic_file::write(&self.target, |file| self.write_parquet(file))?,
        }
        Ok(files)
    }

    /// Hands out the rows in blocks of at most `rows`, each with its first row's position.
    fn blocks(
        &self,
        rows: usize,
        each: &mut dyn FnMut(usize, &[f32]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut file = BufReader::new(self.file.get_ref());
        let mut bytes = Vec::new();
        for first in (0..self.len()).step_by(rows) {
            bytes.resize(rows.min(self.len() - first) * self.dim * 4, 0);
            file.read_exact(&mut bytes)?;
            let values: Vec<f32> =
                bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            each(first, &values)?;
        }
        Ok(())
    }

    fn write_paths(&self, file: &mut dyn Write) -> io::Result<()> {
        self.paths.iter().try_for_each(|path| writeln!(file, "{}", path.display()))
    }

    /// Some columns as an array.
    fn write_npy(&self, file: &mut dyn Write, columns: Range<usize>) -> io::Result<()> {
        let shape = [self.len() as u64, columns.len() as u64];
        let options = npyz::WriteOptions::<f32>::new().default_dtype().shape(&shape).writer(file);
        let mut out = options.begin_nd()?;
        self.blocks(256, &mut |_, values| {
            values
                .chunks_exact(self.dim)
                .try_for_each(|row| out.extend(row[columns.clone()].iter().copied()))
        })?;
        out.finish()
    }

    fn write_npz(&self, file: &mut dyn Write) -> io::Result<()> {
        let mut archive = ZipWriter::new_stream(file);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(true);
        let mut first = 0;
        for Group { layer, dim } in &self.groups {
            archive.start_file(format!("{layer}.npy"), options)?;
            self.write_npy(&mut archive, first..first + dim)?;
            self.file.get_ref().rewind()?;
            first += dim;
        }
        archive.finish()?;
        Ok(())
    }

    /// The names of the columns.
    fn names(&self) -> Vec<String> {
        let name = |layer: &str, i: usize| match self.groups.len() {
            1 => format!("f{i}"),
            _ => format!("{layer}.f{i}"),
        };
        self.groups.iter().flat_map(|g| (0..g.dim).map(move |i| name(&g.layer, i))).collect()
    }

    fn write_csv(&self, file: &mut dyn Write) -> io::Result<()> {
        let mut out = csv::Writer::from_writer(file);
        let names = std::iter::once("path".to_owned()).chain(self.names());
        out.write_record(names).map_err(of_csv)?;
        self.blocks(256, &mut |first, values| {
            for (path, row) in self.paths[first..].iter().zip(values.chunks_exact(self.dim)) {
                let numbers = row.iter().map(f32::to_string);
                let path = path.to_string_lossy().into_owned();
                out.write_record(std::iter::once(path).chain(numbers)).map_err(of_csv)?;
            }
            Ok(())
        })?;
        out.flush()
    }

    /// Plain columns, as `pandas.read_parquet` and `polars.read_parquet` take them.
    fn write_parquet(&self, file: &mut dyn Write) -> io::Result<()> {
        const GROUP_BYTES: usize = 64 << 20;
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_created_by(format!("refit {}", env!("CARGO_PKG_VERSION")))
            .build();
        let ready = Ready::default();
        let schema = self.schema().map_err(of_parquet)?;
        let mut out = SerializedFileWriter::new(ready.clone(), schema, Arc::new(properties))
            .map_err(of_parquet)?;
        let rows = (GROUP_BYTES / (4 * self.dim)).max(1024);
        self.blocks(rows, &mut |first, values| {
            self.write_group(&mut out, first, values).map_err(of_parquet)?;
            out.flush()?;
            ready.drain(file)
        })?;
        out.close().map_err(of_parquet)?;
        ready.drain(file)
    }

    fn schema(&self) -> Result<TypePtr, ParquetError> {
        let path = Type::primitive_type_builder("path", PhysicalType::BYTE_ARRAY)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(Some(LogicalType::String))
            .build()?;
        let feature = |name: &String| {
            let column = Type::primitive_type_builder(name, PhysicalType::FLOAT);
            column.with_repetition(Repetition::REQUIRED).build().map(Arc::new)
        };
        let mut columns = vec![Arc::new(path)];
        columns.extend(self.names().iter().map(feature).collect::<Result<Vec<_>, _>>()?);
        Ok(Arc::new(Type::group_type_builder("schema").with_fields(columns).build()?))
    }

    fn write_group(
        &self,
        out: &mut SerializedFileWriter<Ready>,
        first: usize,
        values: &[f32],
    ) -> Result<(), ParquetError> {
        let rows = values.len() / self.dim;
        let mut group = out.next_row_group()?;
        let mut position = 0;
        while let Some(mut column) = group.next_column()? {
            if position == 0 {
                let paths = &self.paths[first..first + rows];
                let paths: Vec<ByteArray> =
                    paths.iter().map(|p| p.to_string_lossy().as_bytes().to_vec().into()).collect();
                column.typed::<ByteArrayType>().write_batch(&paths, None, None)?;
            } else {
                let feature = values.iter().skip(position - 1).step_by(self.dim).copied();
                let feature: Vec<f32> = feature.collect();
                column.typed::<FloatType>().write_batch(&feature, None, None)?;
            }
            column.close()?;
            position += 1;
        }
        group.close()?;
        Ok(())
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // Nothing more can be done about a file that cannot be removed.
        let _ = fs::remove_file(&self.waiting);
    }
}

/// `features.npy.paths.txt`.
fn beside(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".paths.txt");
    name.into()
}

fn failed(target: &Path, written: u64, error: io::Error) -> AtomicWriteError {
    let path = target.to_path_buf();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            AtomicWriteError::DiskFull { path, needs: Needs::MoreThan(written), error }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            AtomicWriteError::NotPermitted { path, folder: folder_of(target), error }
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            AtomicWriteError::NoFolder { path, folder: folder_of(target) }
        }
        _ => AtomicWriteError::Failed { path, doing: "write", error },
    }
}

fn folder_of(target: &Path) -> PathBuf {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

fn of_csv(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

fn of_parquet(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

/// What the Parquet writer, which wants to own its target, has ready to be written.
#[derive(Debug, Clone, Default)]
struct Ready(Arc<Mutex<Vec<u8>>>);

impl Ready {
    fn drain(&self, file: &mut dyn Write) -> io::Result<()> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        file.write_all(&bytes)
    }
}

impl Write for Ready {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
