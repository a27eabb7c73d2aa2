//! Where images and their labels come from: class folders or a CSV.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::plural;
use crate::{DataError, Stream};

/// An image's file and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The file; nothing about its content is known yet.
    pub path: PathBuf,
    /// Position in [`Dataset::classes`].
    pub label: usize,
}

/// Labelled images in three parts.
///
/// Classes are ordered by name and come from the training part; labels of the other parts are
/// found by name, so a class missing there shifts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Class names, ordered; a label is a position here.
    pub classes: Vec<String>,
    /// To learn from.
    pub train: Vec<Sample>,
    /// To choose by: a given set, or split off from the training images.
    pub val: Vec<Sample>,
    /// To judge by at the end; empty unless given.
    pub test: Vec<Sample>,
    /// Whether `val` was given and not split off.
    pub has_given_val: bool,
    /// What a user should know about how the source was understood.
    pub notes: Vec<String>,
}

/// How a dataset is opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceOptions {
    /// A validation set elsewhere: class folders or a CSV.
    pub val: Option<PathBuf>,
    /// Share of the training images to split off for validation, in `[0, 1)`, where no set is
    /// given; 0.2 unless told, 0 for none.
    pub val_fraction: Option<f64>,
    /// Decides the split.
    pub seed: u64,
}

/// Share of images split off for validation unless told otherwise.
pub const DEFAULT_VAL_FRACTION: f64 = 0.2;

impl Dataset {
    /// Opens a folder of class folders, with or without `train/`, `val/` and `test/`, or a CSV with
    /// the columns `path,label[,split]`.
    ///
    /// Every file in a class folder, however deep, is a candidate, whatever its extension; hidden
    /// files and folders are not. Nothing is decoded here.
    ///
    /// # Errors
    /// If nothing can be learned from what is there: not existing, empty, one class only, a
    /// validation class unknown to training, a CSV that is malformed or names missing files.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        let fraction = options.val_fraction.unwrap_or(DEFAULT_VAL_FRACTION);
        if !(0.0..1.0).contains(&fraction) {
            return Err(DataError::Fraction { value: fraction });
        }
        let mut found = Found::read(path)?;
        if let Some(val) = &options.val {
            found.replace_val(val)?;
        }
        if let (Some(fraction), Some(given)) = (options.val_fraction, &found.val.given) {
            return Err(DataError::ValTwice { path: given.clone(), fraction });
        }
        let mut dataset = found.labelled(path)?;
        if !dataset.has_given_val && fraction > 0.0 {
            (dataset.train, dataset.val) = stratified_split(&dataset.train, fraction, options.seed);
        }
        Ok(dataset)
    }

    /// All samples: training, then validation, then test.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.train.iter().chain(&self.val).chain(&self.test)
    }
}

/// Splits off a share of each class's samples, at least one from each class of two or more and
/// never its last: (kept, split off), both in the order given.
///
/// The same seed and samples give the same split; where the files lie does not matter.
///
/// # Panics
/// If `fraction` is not in `[0, 1)`.
pub fn stratified_split(
    samples: &[Sample],
    fraction: f64,
    seed: u64,
) -> (Vec<Sample>, Vec<Sample>) {
    assert!((0.0..1.0).contains(&fraction), "stratified_split: a fraction of {fraction}");
    let mut by_class: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, sample) in samples.iter().enumerate() {
        by_class.entry(sample.label).or_default().push(index);
    }
    let mut chosen: BTreeSet<usize> = BTreeSet::new();
    for (label, mut indices) in by_class {
        let wanted = (indices.len() as f64 * fraction).round() as usize;
        let count = if indices.len() < 2 || fraction == 0.0 {
            0
        } else {
            wanted.clamp(1, indices.len() - 1)
        };
        Stream::new(seed, "split", &[label as u64]).shuffle(&mut indices);
        chosen.extend(&indices[..count]);
    }
    let part = |off: bool| {
        samples
            .iter()
            .enumerate()
            .filter(|(i, _)| chosen.contains(i) == off)
            .map(|(_, s)| s.clone())
            .collect()
    };
    (part(false), part(true))
}

/// The images among `paths`: files as they are, folders with everything below them, sorted, hidden
/// ones left out. Nothing is decoded; a file that is no image is found out later.
///
/// # Errors
/// If a path does not exist or cannot be read, or a folder holds no files.
pub fn list_images(paths: &[PathBuf]) -> Result<Vec<PathBuf>, DataError> {
    let mut images = Vec::new();
    for path in paths {
        if metadata(path)?.is_dir() {
            let before = images.len();
            files_below(path, &mut images)?;
            if images.len() == before {
                return Err(DataError::Empty { path: path.clone() });
            }
        } else {
            images.push(path.clone());
        }
    }
    Ok(images)
}

// ---- what a source holds, before labels are numbers ----

/// A part's images by class name.
#[derive(Default)]
struct Part {
    /// The folder or CSV it comes from, if it was given.
    given: Option<PathBuf>,
    images: Vec<(PathBuf, String)>,
}

#[derive(Default)]
struct Found {
    train: Part,
    val: Part,
    test: Part,
    notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Split {
    Train,
    Val,
    Test,
}

impl Split {
    fn named(name: &str) -> Option<Self> {
        match name.to_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    fn adjective(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Val => "validation",
            Self::Test => "test",
        }
    }
}

impl Found {
    fn read(path: &Path) -> Result<Self, DataError> {
        if metadata(path)?.is_dir() {
            return Self::read_folder(path);
        }
        match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            true => Self::read_csv(path),
            false => Err(DataError::NotADataset { path: path.into() }),
        }
    }

    fn part(&mut self, split: Split) -> &mut Part {
        match split {
            Split::Train => &mut self.train,
            Split::Val => &mut self.val,
            Split::Test => &mut self.test,
        }
    }

    /// With `train/` inside, the folders of parts; without, class folders, beside which folders
    /// named as parts count as such if they hold class folders themselves.
    fn read_folder(path: &Path) -> Result<Self, DataError> {
        let mut found = Self::default();
        let listing = Listing::of(path)?;
        let has_train = listing
            .folders
            .iter()
            .any(|folder| Split::named(&name_of(folder)) == Some(Split::Train));
        let mut classes = Vec::new();
        for folder in listing.folders {
            match Split::named(&name_of(&folder)) {
                Some(split) if has_train || !Listing::of(&folder)?.folders.is_empty() => {
                    found.read_part(split, folder)?
                }
                _ if has_train => found.notes.push(format!(
                    "`{}` lies beside the training folder and is not used",
                    folder.display()
                )),
                _ => classes.push(folder),
            }
        }
        if !has_train {
            found.train.given = (!classes.is_empty()).then(|| path.into());
            let images = found.read_classes(classes)?;
            found.train.images = images;
            found.note_loose(path, &listing.files);
        }
        match (&found.train.given, listing.files.len(), found.parts_given()) {
            (None, _, given) if !given.is_empty() => {
                Err(DataError::NoTrain { path: path.into(), found: given })
            }
            (None, files @ 1.., _) => Err(DataError::NoClasses { path: path.into(), files }),
            _ => Ok(found),
        }
    }

    fn parts_given(&self) -> Vec<String> {
        let parts = [&self.val.given, &self.test.given];
        parts.into_iter().flatten().map(|folder| name_of(folder)).collect()
    }

    fn read_part(&mut self, split: Split, folder: PathBuf) -> Result<(), DataError> {
        if let Some(first) = self.part(split).given.clone() {
            return Err(DataError::SameName {
                first,
                second: folder,
                what: format!("the {} images", split.adjective()),
            });
        }
        let listing = Listing::of(&folder)?;
        if listing.folders.is_empty() && !listing.files.is_empty() {
            return Err(DataError::NoClasses { path: folder, files: listing.files.len() });
        }
        self.note_loose(&folder, &listing.files);
        let images = self.read_classes(listing.folders)?;
        *self.part(split) = Part { given: Some(folder), images };
        Ok(())
    }

    fn note_loose(&mut self, folder: &Path, files: &[PathBuf]) {
        if !files.is_empty() {
            let (n, files) = (files.len(), plural(files.len(), "file lies", "files lie"));
            self.notes.push(format!(
                "{n} {files} directly in `{}`, in no class folder, and not used",
                folder.display()
            ));
        }
    }

    fn read_classes(&mut self, folders: Vec<PathBuf>) -> Result<Vec<(PathBuf, String)>, DataError> {
        let (mut images, mut names) = (Vec::new(), BTreeMap::new());
        for folder in folders {
            let class = name_of(&folder);
            if let Some(first) = names.insert(class.clone(), folder.clone()) {
                return Err(DataError::SameName {
                    first,
                    second: folder,
                    what: format!("the class `{class}`"),
                });
            }
            let mut files = Vec::new();
            files_below(&folder, &mut files)?;
            if files.is_empty() {
                self.notes
                    .push(format!("the class folder `{}` is empty and not used", folder.display()));
            }
            images.extend(files.into_iter().map(|file| (file, class.clone())));
        }
        Ok(images)
    }

    fn read_csv(path: &Path) -> Result<Self, DataError> {
        let mut found = Self::default();
        let base = path.parent().unwrap_or(Path::new(""));
        let malformed = |error: csv::Error| match error.into_kind() {
            csv::ErrorKind::Io(source) => DataError::read(path, source),
            csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                let line = pos.map_or(0, |pos| pos.line());
                DataError::Csv {
                    path: path.into(),
                    detail: format!(
                        "line {line} has {len} {}, the first line {expected_len}",
                        plural(len as usize, "field", "fields")
                    ),
                }
            }
            csv::ErrorKind::Utf8 { pos, .. } => DataError::Csv {
                path: path.into(),
                detail: format!("line {} is not UTF-8", pos.map_or(0, |pos| pos.line())),
            },
            other => DataError::Csv { path: path.into(), detail: format!("{other:?}") },
        };
        let mut reader =
            csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(malformed)?;
        let header = reader.headers().map_err(malformed)?.clone();
        let column = |name: &str| {
            header
                .iter()
                .position(|title| title.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name))
        };
        let needed = |name| {
            column(name).ok_or_else(|| DataError::CsvColumn {
                path: path.into(),
                missing: name,
                header: header.iter().collect::<Vec<_>>().join(","),
            })
        };
        let (path_column, label_column, split_column) =
            (needed("path")?, needed("label")?, column("split"));
        let mut rows = CsvRows {
            csv: path,
            labels: BTreeMap::new(),
            repeated: 0,
            missing: Vec::new(),
            missing_count: 0,
        };
        for record in reader.records() {
            let record = record.map_err(malformed)?;
            let line = record.position().map_or(0, |position| position.line());
            let field = |column: usize, name| match record.get(column) {
                Some(text) if !text.is_empty() => Ok(text),
                _ => Err(DataError::CsvField { path: path.into(), line, column: name }),
            };
            let (file, label) =
                (base.join(field(path_column, "path")?), field(label_column, "label")?);
            let split = match split_column
                .and_then(|column| record.get(column))
                .filter(|text| !text.is_empty())
            {
                Some(text) => Split::named(text).ok_or_else(|| DataError::CsvSplit {
                    path: path.into(),
                    line,
                    value: text.into(),
                })?,
                None => Split::Train,
            };
            if rows.is_new(&file, label)? {
                let part = found.part(split);
                part.given = Some(path.into());
                part.images.push((file, label.into()));
            }
        }
        rows.finish(&mut found.notes)?;
        match found.parts_given() {
            _ if found.train.given.is_some() => Ok(found),
            given if given.is_empty() => Err(DataError::Empty { path: path.into() }),
            _ => {
                let parts = [(Split::Val, &found.val), (Split::Test, &found.test)];
                let found = parts
                    .iter()
                    .filter(|(_, part)| part.given.is_some())
                    .map(|(split, _)| split.adjective().into())
                    .collect();
                Err(DataError::NoTrain { path: path.into(), found })
            }
        }
    }

    /// Takes the validation images from elsewhere: from a CSV's rows or a folder's class folders,
    /// or, where those are in parts themselves, from their validation part.
    fn replace_val(&mut self, path: &Path) -> Result<(), DataError> {
        let elsewhere = match Self::read(path) {
            Ok(found) => found,
            Err(DataError::NoTrain { .. }) if metadata(path)?.is_dir() => Self::val_only(path)?,
            Err(error) => return Err(error),
        };
        let images = if elsewhere.val.given.is_some() {
            elsewhere.val.images
        } else {
            elsewhere.train.images
        };
        if images.is_empty() {
            return Err(DataError::Empty { path: path.into() });
        }
        if let Some(inside) = &self.val.given {
            self.notes.push(format!(
                "the validation images in `{}` are not used; those in `{}` are",
                inside.display(),
                path.display()
            ));
        }
        self.notes.extend(elsewhere.notes);
        self.val = Part { given: Some(path.into()), images };
        Ok(())
    }

    /// A folder that holds `val/` and nothing to learn from.
    fn val_only(path: &Path) -> Result<Self, DataError> {
        let mut found = Self::default();
        for folder in Listing::of(path)?.folders {
            if Split::named(&name_of(&folder)) == Some(Split::Val) {
                found.read_part(Split::Val, folder)?;
            }
        }
        Ok(found)
    }

    /// Turns class names to numbers.
    fn labelled(mut self, path: &Path) -> Result<Dataset, DataError> {
        let classes: Vec<String> = self
            .train
            .images
            .iter()
            .map(|(_, class)| class.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        match classes.as_slice() {
            [] => return Err(DataError::Empty { path: self.train.given.unwrap_or(path.into()) }),
            [class] => {
                return Err(DataError::OneClass {
                    path: self.train.given.unwrap_or(path.into()),
                    class: class.clone(),
                });
            }
            _ => {}
        }
        let label = |part: Part, split: Split| -> Result<Vec<Sample>, DataError> {
            let from = part.given.unwrap_or(path.into());
            let sample = |(path, class): (PathBuf, String)| match classes.binary_search(&class) {
                Ok(label) => Ok(Sample { path, label }),
                Err(_) => Err(DataError::UnknownClass {
                    path: from.clone(),
                    part: split.adjective(),
                    class,
                    known: classes.clone(),
                }),
            };
            part.images.into_iter().map(sample).collect()
        };
        // A folder `val/` without an image is as good as none.
        let has_given_val = !self.val.images.is_empty();
        for (part, split) in [(&self.val, Split::Val), (&self.test, Split::Test)] {
            if let (Some(folder), true) = (&part.given, part.images.is_empty()) {
                self.notes.push(format!(
                    "`{}` holds no {} images",
                    folder.display(),
                    split.adjective()
                ));
            }
        }
        let (train, val, test) = (
            label(self.train, Split::Train)?,
            label(self.val, Split::Val)?,
            label(self.test, Split::Test)?,
        );
        let mut dataset = Dataset { train, val, test, has_given_val, notes: self.notes, classes };
        dataset.note_missing_classes();
        Ok(dataset)
    }
}

impl Dataset {
    /// Says which classes a given validation or test set lacks.
    fn note_missing_classes(&mut self) {
        for (name, samples) in [("validation", &self.val), ("test", &self.test)] {
            let present: BTreeSet<usize> = samples.iter().map(|sample| sample.label).collect();
            let missing: Vec<String> = self
                .classes
                .iter()
                .enumerate()
                .filter(|(label, _)| !present.contains(label))
                .map(|(_, c)| format!("`{c}`"))
                .collect();
            if !present.is_empty() && !missing.is_empty() {
                self.notes.push(format!("no {name} images of {}", missing.join(", ")));
            }
        }
    }
}

/// What was seen of a CSV so far.
struct CsvRows<'a> {
    csv: &'a Path,
    labels: BTreeMap<PathBuf, String>,
    repeated: usize,
    missing: Vec<PathBuf>,
    missing_count: usize,
}

impl CsvRows<'_> {
    /// Whether a row names an image that is there and was not named before.
    fn is_new(&mut self, file: &Path, label: &str) -> Result<bool, DataError> {
        match self.labels.get(file) {
            Some(first) if first == label => {
                self.repeated += 1;
                return Ok(false);
            }
            Some(first) => {
                return Err(DataError::CsvConflict {
                    path: self.csv.into(),
                    image: file.into(),
                    first: first.clone(),
                    second: label.into(),
                });
            }
            None => self.labels.insert(file.into(), label.into()),
        };
        let there = fs::metadata(file).is_ok_and(|found| found.is_file());
        if !there {
            self.missing_count += 1;
            if self.missing.len() < 5 {
                self.missing.push(file.into());
            }
        }
        Ok(there)
    }

    fn finish(self, notes: &mut Vec<String>) -> Result<(), DataError> {
        if self.missing_count > 0 {
            return Err(DataError::CsvMissing {
                path: self.csv.into(),
                first: self.missing,
                count: self.missing_count,
            });
        }
        if self.repeated > 0 {
            notes.push(format!(
                "{} {} of `{}` repeat an image and count once",
                self.repeated,
                plural(self.repeated, "line", "lines"),
                self.csv.display()
            ));
        }
        Ok(())
    }
}

// ---- folders ----

/// What lies in a folder, hidden entries left out, sorted.
struct Listing {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self, DataError> {
        let refused = |source| DataError::read(folder, source);
        let mut listing = Self { folders: Vec::new(), files: Vec::new() };
        let mut entries = fs::read_dir(folder)
            .map_err(refused)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for path in entries.iter().map(fs::DirEntry::path).filter(|path| !is_hidden(path)) {
            // A link to nowhere stays a candidate: it is named when it cannot be read.
            match fs::metadata(&path).is_ok_and(|found| found.is_dir()) {
                true => listing.folders.push(path),
                false => listing.files.push(path),
            }
        }
        Ok(listing)
    }
}

/// Hidden by Unix's rule, or left behind by a desktop or an archiver.
fn is_hidden(path: &Path) -> bool {
    let name = name_of(path);
    name.starts_with('.')
        || ["Thumbs.db", "desktop.ini", "__MACOSX"]
            .iter()
            .any(|hidden| name.eq_ignore_ascii_case(hidden))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    walk(folder, &mut Vec::new(), files)
}

/// `above` holds the folders on the way down, so that a link back up is not followed forever.
fn walk(
    folder: &Path,
    above: &mut Vec<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> Result<(), DataError> {
    let real = fs::canonicalize(folder).map_err(|source| DataError::read(folder, source))?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    let listing = Listing::of(folder)?;
    files.extend(listing.files);
    for folder in listing.folders {
        walk(&folder, above, files)?;
    }
    above.pop();
    Ok(())
}

fn metadata(path: &Path) -> Result<fs::Metadata, DataError> {
    fs::metadata(path).map_err(|source| DataError::read(path, source))
}
