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
    /// Whether images of one class are enough: to judge a model, not to learn one.
    pub one_class: bool,
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
        let mut dataset = found.labelled(path, options.one_class)?;
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
    fn labelled(mut self, path: &Path, one_class: bool) -> Result<Dataset, DataError> {
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
            [class] if !one_class => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A folder with these files in it; their content does not matter here.
    fn tree(files: &[&str]) -> TempDir {
        let dir = TempDir::new().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    fn numbered(folder: &str, count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{folder}/{n:03}.jpg")).collect()
    }

    fn open(dir: &TempDir) -> Result<Dataset, DataError> {
        Dataset::open(dir.path(), &SourceOptions::default())
    }

    /// Paths from the folder on, with their labels.
    fn shown(dir: &TempDir, samples: &[Sample]) -> Vec<(String, usize)> {
        samples
            .iter()
            .map(|s| {
                (s.path.strip_prefix(dir.path()).unwrap().to_string_lossy().into_owned(), s.label)
            })
            .collect()
    }

    fn message(dir: &TempDir, error: &DataError) -> String {
        error.to_string().replace(&*dir.path().to_string_lossy(), "DIR")
    }

    #[test]
    fn class_folders_are_split_in_the_same_way_each_time() {
        let files: Vec<String> = [numbered("b", 10), numbered("a", 5), numbered("c", 1)].concat();
        let dir = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let dataset = open(&dir).unwrap();
        assert_eq!(dataset.classes, ["a", "b", "c"]);
        assert!(!dataset.has_given_val && dataset.test.is_empty() && dataset.notes.is_empty());
        let count = |samples: &[Sample], label| samples.iter().filter(|s| s.label == label).count();
        assert_eq!(
            [0, 1, 2].map(|label| (count(&dataset.train, label), count(&dataset.val, label))),
            [(4, 1), (8, 2), (1, 0)]
        );
        assert_eq!(open(&dir).unwrap(), dataset);
        let other =
            Dataset::open(dir.path(), &SourceOptions { seed: 1, ..SourceOptions::default() })
                .unwrap();
        assert_ne!(other.val, dataset.val);
        let elsewhere = tree(&files.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            shown(&elsewhere, &open(&elsewhere).unwrap().val),
            shown(&dir, &dataset.val),
            "the place does not matter"
        );
        let none = Dataset::open(
            dir.path(),
            &SourceOptions { val_fraction: Some(0.0), ..SourceOptions::default() },
        )
        .unwrap();
        assert!(none.val.is_empty() && none.train.len() == 16);
    }

    #[test]
    fn a_split_keeps_one_of_each_class_on_both_sides() {
        let samples: Vec<Sample> = (0..100)
            .map(|n| Sample {
                path: n.to_string().into(),
                label: [0, 0, 0, 0, 0, 0, 0, 1, 2, 2][n % 10],
            })
            .collect();
        for fraction in [0.01, 0.2, 0.5, 0.99] {
            let (kept, off) = stratified_split(&samples, fraction, 3);
            assert_eq!(kept.len() + off.len(), 100);
            for label in 0..3 {
                assert!(
                    kept.iter().any(|s| s.label == label) && off.iter().any(|s| s.label == label),
                    "{fraction} {label}"
                );
            }
        }
        let (kept, off) = stratified_split(&samples[..2], 0.2, 0);
        assert_eq!((kept.len(), off.len()), (1, 1));
    }

    #[test]
    fn given_parts_are_used_and_hidden_things_are_not() {
        let dir = tree(&[
            "Train/cat/1.jpg",
            "Train/cat/deep/er/2.png",
            "Train/dog/1",
            "Train/.hidden/x.jpg",
            "Train/dog/.DS_Store",
            "Train/loose.jpg",
            "Train/__MACOSX/cat/1.jpg",
            "VALID/dog/9.jpg",
            "test/cat/8.jpg",
            "extra/1.jpg",
            "README.md",
        ]);
        fs::create_dir(dir.path().join("Train/empty")).unwrap();
        let dataset = open(&dir).unwrap();
        assert_eq!(dataset.classes, ["cat", "dog"]);
        assert_eq!(
            shown(&dir, &dataset.train),
            [
                ("Train/cat/1.jpg".into(), 0),
                ("Train/cat/deep/er/2.png".into(), 0),
                ("Train/dog/1".into(), 1)
            ]
        );
        assert_eq!(
            shown(&dir, &dataset.val),
            [("VALID/dog/9.jpg".into(), 1)],
            "a class missing from validation shifts nothing"
        );
        assert_eq!(shown(&dir, &dataset.test), [("test/cat/8.jpg".into(), 0)]);
        assert!(dataset.has_given_val);
        let mut notes: Vec<String> = dataset
            .notes
            .iter()
            .map(|note| note.replace(&*dir.path().to_string_lossy(), "DIR"))
            .collect();
        notes.sort();
        let expected = [
            "1 file lies directly in `DIR/Train`, in no class folder, and not used",
            "`DIR/extra` lies beside the training folder and is not used",
            "no test images of `dog`",
            "no validation images of `cat`",
            "the class folder `DIR/Train/empty` is empty and not used",
        ];
        assert_eq!(notes, expected);
        assert_eq!(dataset.samples().count(), 5);
    }

    #[test]
    fn train_and_test_alone_leave_test_alone() {
        let dir =
            tree(&["train/a/1", "train/a/2", "train/b/1", "train/b/2", "test/a/3", "test/b/3"]);
        let dataset = open(&dir).unwrap();
        assert_eq!(
            (dataset.train.len(), dataset.val.len(), dataset.test.len(), dataset.has_given_val),
            (2, 2, 2, false)
        );
    }

    #[test]
    fn parts_beside_bare_class_folders_are_found() {
        let dir = tree(&["a/1", "b/1", "val/a/2", "val/b/2", "test/1.jpg"]);
        let dataset = open(&dir).unwrap();
        assert_eq!(
            dataset.classes,
            ["a", "b", "test"],
            "a folder `test` of images only is a class"
        );
        assert_eq!((dataset.val.len(), dataset.has_given_val), (2, true));
    }

    #[test]
    fn validation_from_elsewhere_goes_by_name() {
        let dir = tree(&["train/a/1", "train/b/1", "train/c/1", "val/a/2"]);
        let elsewhere = tree(&["set/c/5", "set/b/4", "parts/val/b/6", "list.csv", "x.jpg"]);
        let with = |val: &str| {
            Dataset::open(
                dir.path(),
                &SourceOptions {
                    val: Some(elsewhere.path().join(val)),
                    ..SourceOptions::default()
                },
            )
        };
        let dataset = with("set").unwrap();
        assert_eq!(shown(&elsewhere, &dataset.val), [("set/b/4".into(), 1), ("set/c/5".into(), 2)]);
        assert!(
            dataset.has_given_val && dataset.notes[0].contains("are not used; those in"),
            "{:?}",
            dataset.notes
        );
        assert_eq!(shown(&elsewhere, &with("parts").unwrap().val), [("parts/val/b/6".into(), 1)]);
        fs::write(elsewhere.path().join("list.csv"), "path,label\nx.jpg,c\n").unwrap();
        assert_eq!(shown(&elsewhere, &with("list.csv").unwrap().val), [("x.jpg".into(), 2)]);
    }

    #[test]
    fn folders_that_cannot_be_learned_from_are_refused() {
        let refused = |files: &[&str]| {
            let dir = tree(files);
            message(&dir, &open(&dir).unwrap_err())
        };
        assert_eq!(refused(&[]), "`DIR` holds no images");
        assert_eq!(refused(&["train/.keep"]), "`DIR/train` holds no images");
        assert_eq!(refused(&["1.jpg", "2.jpg"]), "`DIR` holds 2 files but no class folders");
        assert_eq!(refused(&["train/1.jpg"]), "`DIR/train` holds 1 file but no class folders");
        assert_eq!(
            refused(&["cat/1.jpg"]),
            "`DIR` holds one class only, `cat`; two or more are needed"
        );
        assert_eq!(
            refused(&["val/a/1", "test/a/1"]),
            "`DIR` has no training images, only `val`, `test`"
        );
        assert_eq!(
            refused(&["train/a/1", "train/b/1", "val/A/1"]),
            "the validation images in `DIR/val` have a class `A` that the training images lack (they have `a`, `b`)"
        );
        assert_eq!(
            refused(&["train/a/1", "train/b/1", "test/c/1"]),
            "the test images in `DIR/test` have a class `c` that the training images lack (they have `a`, `b`)"
        );
        assert_eq!(
            refused(&["train/a/1", "train/b/1", "val/a/1", "valid/a/1"]),
            "`DIR/val` and `DIR/valid` both mean the validation images"
        );
    }

    #[test]
    fn options_that_contradict_are_refused() {
        let dir = tree(&["train/a/1", "train/b/1", "val/a/1"]);
        let refused =
            |path: &Path, options| message(&dir, &Dataset::open(path, &options).unwrap_err());
        let fraction =
            |value| SourceOptions { val_fraction: Some(value), ..SourceOptions::default() };
        assert_eq!(
            refused(dir.path(), fraction(1.0)),
            "the validation fraction is 1; it must be at least 0 and less than 1"
        );
        assert_eq!(
            refused(dir.path(), fraction(f64::NAN)),
            "the validation fraction is NaN; it must be at least 0 and less than 1"
        );
        assert_eq!(
            refused(dir.path(), fraction(0.3)),
            "a validation fraction of 0.3 and a validation set in `DIR/val` are both given"
        );
        assert_eq!(
            refused(&dir.path().join("nowhere"), SourceOptions::default()),
            "`DIR/nowhere` does not exist"
        );
        assert_eq!(
            refused(&dir.path().join("train/a/1"), SourceOptions::default()),
            "`DIR/train/a/1` is neither a folder nor a .csv file"
        );
    }

    #[test]
    fn a_csv_is_read_by_its_header() {
        let dir = tree(&["img/1.jpg", "img/2.jpg", "img/3, or so.jpg", "img/4.jpg"]);
        let absolute = dir.path().join("img/4.jpg");
        let csv = format!(
            "\u{feff}Label, note ,PATH,split\ndog,x,img/1.jpg,\ncat,,img/2.jpg,Train\ncat,,\"img/3, or so.jpg\",validation\ndog,,{},test\ndog,,img/1.jpg,\n",
            absolute.display()
        );
        let path = dir.path().join("set.CSV");
        fs::write(&path, csv).unwrap();
        let dataset = Dataset::open(&path, &SourceOptions::default()).unwrap();
        assert_eq!(dataset.classes, ["cat", "dog"]);
        assert_eq!(shown(&dir, &dataset.train), [("img/1.jpg".into(), 1), ("img/2.jpg".into(), 0)]);
        assert_eq!(shown(&dir, &dataset.val), [("img/3, or so.jpg".into(), 0)]);
        assert_eq!(shown(&dir, &dataset.test), [("img/4.jpg".into(), 1)]);
        assert!(
            dataset.has_given_val && dataset.notes[0].starts_with("1 line of"),
            "{:?}",
            dataset.notes
        );
    }

    #[test]
    fn csvs_that_cannot_be_used_are_refused() {
        let dir = tree(&["1.jpg", "2.jpg"]);
        let refused = |csv: &[u8]| {
            let path = dir.path().join("set.csv");
            fs::write(&path, csv).unwrap();
            message(&dir, &Dataset::open(&path, &SourceOptions::default()).unwrap_err())
        };
        assert_eq!(refused(b""), "`DIR/set.csv` has no column `path`; its first line is ``");
        assert_eq!(
            refused(b"1.jpg,cat\n2.jpg,dog\n"),
            "`DIR/set.csv` has no column `path`; its first line is `1.jpg,cat`"
        );
        assert_eq!(
            refused(b"path,class\n1.jpg,cat\n"),
            "`DIR/set.csv` has no column `label`; its first line is `path,class`"
        );
        assert_eq!(refused(b"path,label\n"), "`DIR/set.csv` holds no images");
        assert_eq!(
            refused(b"path,label\n1.jpg,cat\n2.jpg, \n"),
            "line 3 of `DIR/set.csv` has an empty `label`"
        );
        assert_eq!(refused(b"path,label\n,cat\n"), "line 2 of `DIR/set.csv` has an empty `path`");
        assert_eq!(
            refused(b"path,label,split\n1.jpg,cat,holdout\n"),
            "line 2 of `DIR/set.csv` has the split `holdout`"
        );
        assert_eq!(
            refused(b"path,label\n1.jpg\n"),
            "`DIR/set.csv` is not a well-formed CSV: line 2 has 1 field, the first line 2"
        );
        assert_eq!(
            refused(b"path,label\n1.jpg,\xff\xfe\n"),
            "`DIR/set.csv` is not a well-formed CSV: line 2 is not UTF-8"
        );
        assert_eq!(
            refused(b"path,label\n1.jpg,cat\n1.jpg,dog\n"),
            "`DIR/set.csv` gives `DIR/1.jpg` two labels, `cat` and `dog`"
        );
        assert_eq!(
            refused(b"path,label\n1.jpg,cat\n2.jpg,cat\n"),
            "`DIR/set.csv` holds one class only, `cat`; two or more are needed"
        );
        assert_eq!(
            refused(b"path,label,split\n1.jpg,cat,val\n"),
            "`DIR/set.csv` has no training images, only `validation`"
        );
        assert_eq!(
            refused(b"path,label\na,x\nb,x\nc,x\nd,x\ne,x\nf,x\ng,y\n1.jpg,y\n"),
            "`DIR/set.csv` names 7 files that do not exist: `DIR/a`, `DIR/b`, `DIR/c`, `DIR/d`, `DIR/e` and 2 more"
        );
    }

    #[test]
    fn lists_images_for_prediction() {
        let dir = tree(&["b.jpg", "a/2.jpg", "a/1.txt", "a/.x", "c.png"]);
        let at = |name: &str| dir.path().join(name);
        let shown: Vec<PathBuf> = list_images(&[at("c.png"), dir.path().into()]).unwrap();
        assert_eq!(shown, [at("c.png"), at("b.jpg"), at("c.png"), at("a/1.txt"), at("a/2.jpg")]);
        assert_eq!(
            message(&dir, &list_images(&[at("none")]).unwrap_err()),
            "`DIR/none` does not exist"
        );
        fs::create_dir(at("empty")).unwrap();
        assert_eq!(
            message(&dir, &list_images(&[at("empty")]).unwrap_err()),
            "`DIR/empty` holds no images"
        );
        assert!(list_images(&[]).unwrap().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_in_a_circle_end() {
        let dir = tree(&["a/1.jpg", "b/1.jpg"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
        assert!(list_images(&[dir.path().into()]).unwrap().len() < 10);
    }
}
