//! What can go wrong with images and folders of them, and how to mend it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// How to mend what went wrong.
pub trait Hint {
    /// One sentence that says what to do, where something can be done.
    fn hint(&self) -> Option<String>;
}

/// Why bytes are not an image that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty (0 bytes)")]
    Empty,
    /// The content is of no format that is read here.
    #[error("not an image of a known format: it starts with {starts}")]
    UnknownFormat {
        /// The first bytes, made printable.
        starts: String,
    },
    /// An image of a format that is not read here.
    #[error("it is {format}, which refit does not read")]
    OtherFormat {
        /// Such as `HEIC`.
        format: &'static str,
    },
    /// The header tells more pixels than allowed; nothing was allocated for them.
    #[error(
        "its {format} header says {width}x{height} pixels, more than the limit of {max_pixels}"
    )]
    TooLarge {
        /// Such as `PNG`.
        format: &'static str,
        /// Columns, as the header says.
        width: u64,
        /// Rows, as the header says.
        height: u64,
        /// The limit, in pixels.
        max_pixels: u64,
    },
    /// The data end before the image does.
    #[error("the {format} is cut short: {detail}")]
    Truncated {
        /// Such as `JPEG`.
        format: &'static str,
        /// What the decoder said.
        detail: String,
    },
    /// The data contradict the format.
    #[error("the {format} is damaged: {detail}")]
    Damaged {
        /// Such as `JPEG`.
        format: &'static str,
        /// What the decoder said.
        detail: String,
    },
    /// A valid image of a kind that is not read.
    #[error("a kind of {format} that refit does not read: {detail}")]
    Unsupported {
        /// Such as `TIFF`.
        format: &'static str,
        /// What the decoder said.
        detail: String,
    },
}

impl Hint for DecodeError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Empty | Self::Truncated { .. } => "copy or download the file again; it may not have arrived whole".into(),
            Self::UnknownFormat { .. } => "refit reads JPEG, PNG, WebP, GIF, BMP and TIFF: convert the file, or take it out of the folder".into(),
            Self::OtherFormat { .. } => "convert the file to JPEG or PNG, or take it out of the folder".into(),
            Self::TooLarge { .. } => "shrink the image (networks see a few hundred pixels a side), or raise the limit of pixels".into(),
            Self::Damaged { .. } => "open the file in an image viewer and save it again, or take it out of the folder".into(),
            Self::Unsupported { .. } => "convert the file to JPEG or PNG with eight bits a channel".into(),
        })
    }
}

/// What can go wrong between a path and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Nothing is there.
    #[error("`{}` does not exist", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// A file where a folder or a CSV is wanted.
    #[error("`{}` is neither a folder nor a .csv file", path.display())]
    NotADataset {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused to read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder or CSV without one image.
    #[error("`{}` holds no images", path.display())]
    Empty {
        /// The folder or CSV.
        path: PathBuf,
    },
    /// Images, but no folder that says their class.
    #[error("`{}` holds {files} {} but no class folders", path.display(), plural(*files, "file", "files"))]
    NoClasses {
        /// The folder.
        path: PathBuf,
        /// How many files lie in it.
        files: usize,
    },
    /// One class only: nothing to tell apart.
    #[error("`{}` holds one class only, `{class}`; two or more are needed", path.display())]
    OneClass {
        /// The folder or CSV.
        path: PathBuf,
        /// The one class.
        class: String,
    },
    /// A validation or test part names a class the training part lacks.
    #[error("the {part} images in `{}` have a class `{class}` that the training images lack (they have {})", path.display(), listed(known))]
    UnknownClass {
        /// Where it was found.
        path: PathBuf,
        /// `validation` or `test`.
        part: &'static str,
        /// The class.
        class: String,
        /// The classes of the training part.
        known: Vec<String>,
    },
    /// Validation or test images only.
    #[error("`{}` has no training images, only {}", path.display(), listed(found))]
    NoTrain {
        /// The folder or CSV.
        path: PathBuf,
        /// The parts that were found.
        found: Vec<String>,
    },
    /// Two folders or labels that come to the same name.
    #[error("`{}` and `{}` both mean {what}", first.display(), second.display())]
    SameName {
        /// The one.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// What both mean.
        what: String,
    },
    /// The CSV cannot be parsed.
    #[error("`{}` is not a well-formed CSV: {detail}", path.display())]
    Csv {
        /// The CSV.
        path: PathBuf,
        /// What the parser said, with the line.
        detail: String,
    },
    /// The CSV's header lacks a column.
    #[error("`{}` has no column `{missing}`; its first line is `{header}`", path.display())]
    CsvColumn {
        /// The CSV.
        path: PathBuf,
        /// `path` or `label`.
        missing: &'static str,
        /// The first line as it is.
        header: String,
    },
    /// A row with an empty path or label.
    #[error("line {line} of `{}` has an empty `{column}`", path.display())]
    CsvField {
        /// The CSV.
        path: PathBuf,
        /// Counted from 1, the header included.
        line: u64,
        /// `path` or `label`.
        column: &'static str,
    },
    /// A row with a split that is not known.
    #[error("line {line} of `{}` has the split `{value}`", path.display())]
    CsvSplit {
        /// The CSV.
        path: PathBuf,
        /// Counted from 1, the header included.
        line: u64,
        /// What stands there.
        value: String,
    },
    /// The CSV names files that do not exist.
    #[error("`{}` names {count} {} that {} not exist{}", path.display(), plural(*count, "file", "files"), plural(*count, "does", "do"), first_few(first, *count))]
    CsvMissing {
        /// The CSV.
        path: PathBuf,
        /// The first few of them.
        first: Vec<PathBuf>,
        /// How many there are.
        count: usize,
    },
    /// One image under two labels.
    #[error("`{}` gives `{}` two labels, `{first}` and `{second}`", path.display(), image.display())]
    CsvConflict {
        /// The CSV.
        path: PathBuf,
        /// The image.
        image: PathBuf,
        /// The label that came first.
        first: String,
        /// The other label.
        second: String,
    },
    /// A share of images that is no share.
    #[error("the validation fraction is {value}; it must be at least 0 and less than 1")]
    Fraction {
        /// As given.
        value: f64,
    },
    /// A validation fraction where a validation set is given.
    #[error("a validation fraction of {fraction} and a validation set in `{}` are both given", path.display())]
    ValTwice {
        /// Where the given set is.
        path: PathBuf,
        /// The fraction.
        fraction: f64,
    },
    /// Bytes that are no usable image.
    #[error("`{}` cannot be used: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// Nothing is left after unreadable images were left out.
    #[error("none of the {count} images can be read; the first is `{}`: {reason}", path.display())]
    NothingReadable {
        /// How many there were.
        count: usize,
        /// The first.
        path: PathBuf,
        /// Why the first cannot be read.
        reason: String,
    },
    /// Preprocessing that cannot be carried out.
    #[error("the preprocessing's {field} {problem}")]
    Preprocess {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Augmentation that makes no sense.
    #[error("augmentation's {field} {problem}")]
    Augment {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl DataError {
    /// Names what the system refused to read; a missing file gets its own message.
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path: path.into() },
            _ => Self::Read { path: path.into(), source },
        }
    }

    /// Whether one image is the matter, which can be left out, and not the whole set.
    pub fn is_about_one_image(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Read { .. } | Self::NotFound { .. })
    }
}

const LAYOUT: &str = "put each class's images in a folder of its own, as in `photos/cat/1.jpg` and `photos/dog/2.jpg`";

impl Hint for DataError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { .. } => "check the spelling; a relative path starts at the current folder (in a CSV, at the CSV's)".into(),
            Self::NotADataset { .. } => format!("{LAYOUT} and give `photos`; or give a CSV with the columns path,label"),
            Self::Read { .. } => "check that you may read it".into(),
            Self::Empty { .. } | Self::NoClasses { .. } => LAYOUT.into(),
            Self::OneClass { class, .. } => {
                format!("{LAYOUT}; to tell `{class}` from anything else, add a folder of images that are something else")
            }
            Self::UnknownClass { class, known, .. } => match nearest(class, known) {
                Some(known) => format!("rename `{class}` if `{known}` is meant, add training images of it, or leave it out"),
                None => format!("add training images of `{class}`, or leave it out"),
            },
            Self::NoTrain { .. } => "put the images to learn from under `train/`, a folder for each class".into(),
            Self::SameName { .. } => "rename or merge one of them".into(),
            Self::Csv { .. } => "save it as UTF-8 text with commas; put names that hold a comma in double quotes".into(),
            Self::CsvColumn { .. } => "the first line must name the columns: path,label or path,label,split".into(),
            Self::CsvField { column, .. } => format!("fill in the {column}, or delete the line"),
            Self::CsvSplit { .. } => "the split is one of train, val, test, or empty for train".into(),
            Self::CsvMissing { .. } => "paths in a CSV start at the CSV's own folder unless they are absolute".into(),
            Self::CsvConflict { .. } => "keep the right one; an image has one label".into(),
            Self::Fraction { .. } => "0.2 keeps a fifth of the images for validation".into(),
            Self::ValTwice { .. } => "leave out the fraction to use the given set".into(),
            Self::Unreadable { source, .. } => return source.hint(),
            Self::NothingReadable { .. } => "check that these are images: refit reads JPEG, PNG, WebP, GIF, BMP and TIFF".into(),
            Self::Augment { .. } => "docs/augmentation.md lists the settings and their ranges".into(),
            Self::Preprocess { .. } => "sizes are in pixels and at least 1; mean and std are for values in [0, 1]".into(),
        })
    }
}

pub(crate) fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// `a, b, c and 4 more`, each in backticks.
fn listed(names: &[String]) -> String {
    let mut text =
        names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 8 {
        let _ = write!(text, " and {} more", names.len() - 8);
    }
    text
}

/// `: a, b and 4 more`.
fn first_few(first: &[PathBuf], count: usize) -> String {
    let mut text = format!(
        ": {}",
        first.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
    );
    if count > first.len() {
        let _ = write!(text, " and {} more", count - first.len());
    }
    text
}

/// The known name that differs least, when it differs by little: a slip of the pen.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let allowed = (name.chars().count() / 3).max(1);
    known
        .iter()
        .map(|k| (edits(&name.to_lowercase(), &k.to_lowercase()), k))
        .filter(|&(d, _)| d <= allowed)
        .min_by_key(|&(d, _)| d)
        .map(|(_, k)| k)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: impl std::error::Error + Hint) -> String {
        format!("{error} -- {}", error.hint().unwrap())
    }

    #[test]
    fn decode_errors_say_what_and_how_to_mend() {
        assert_eq!(
            told(DecodeError::Empty),
            "the file is empty (0 bytes) -- copy or download the file again; it may not have arrived whole"
        );
        assert_eq!(
            told(DecodeError::UnknownFormat { starts: "`hello`".into() }),
            "not an image of a known format: it starts with `hello` -- refit reads JPEG, PNG, WebP, GIF, BMP and TIFF: convert the file, or take it out of the folder"
        );
        assert_eq!(
            told(DecodeError::OtherFormat { format: "HEIC" }),
            "it is HEIC, which refit does not read -- convert the file to JPEG or PNG, or take it out of the folder"
        );
        assert_eq!(
            told(DecodeError::TooLarge {
                format: "PNG",
                width: 50000,
                height: 50000,
                max_pixels: 178_956_970
            }),
            "its PNG header says 50000x50000 pixels, more than the limit of 178956970 -- shrink the image (networks see a few hundred pixels a side), or raise the limit of pixels"
        );
        assert_eq!(
            told(DecodeError::Truncated { format: "JPEG", detail: "no end marker".into() }),
            "the JPEG is cut short: no end marker -- copy or download the file again; it may not have arrived whole"
        );
        assert_eq!(
            told(DecodeError::Damaged { format: "PNG", detail: "bad CRC".into() }),
            "the PNG is damaged: bad CRC -- open the file in an image viewer and save it again, or take it out of the folder"
        );
        assert_eq!(
            told(DecodeError::Unsupported { format: "TIFF", detail: "64 bits".into() }),
            "a kind of TIFF that refit does not read: 64 bits -- convert the file to JPEG or PNG with eight bits a channel"
        );
    }

    #[test]
    fn data_errors_say_what_where_and_how_to_mend() {
        let path = || PathBuf::from("photos");
        let cases: Vec<(DataError, &str)> = vec![
            (
                DataError::NotFound { path: path() },
                "`photos` does not exist -- check the spelling; a relative path starts at the current folder (in a CSV, at the CSV's)",
            ),
            (
                DataError::NotADataset { path: path() },
                "`photos` is neither a folder nor a .csv file -- put each class's images in a folder of its own, as in `photos/cat/1.jpg` and `photos/dog/2.jpg` and give `photos`; or give a CSV with the columns path,label",
            ),
            (
                DataError::read(&path(), io::Error::from(io::ErrorKind::PermissionDenied)),
                "cannot read `photos`: permission denied -- check that you may read it",
            ),
            (
                DataError::read(&path(), io::Error::from(io::ErrorKind::NotFound)),
                "`photos` does not exist -- check the spelling; a relative path starts at the current folder (in a CSV, at the CSV's)",
            ),
            (
                DataError::Empty { path: path() },
                "`photos` holds no images -- put each class's images in a folder of its own, as in `photos/cat/1.jpg` and `photos/dog/2.jpg`",
            ),
            (
                DataError::NoClasses { path: path(), files: 3 },
                "`photos` holds 3 files but no class folders -- put each class's images in a folder of its own, as in `photos/cat/1.jpg` and `photos/dog/2.jpg`",
            ),
            (
                DataError::OneClass { path: path(), class: "cat".into() },
                "`photos` holds one class only, `cat`; two or more are needed -- put each class's images in a folder of its own, as in `photos/cat/1.jpg` and `photos/dog/2.jpg`; to tell `cat` from anything else, add a folder of images that are something else",
            ),
            (
                DataError::UnknownClass {
                    path: path(),
                    part: "validation",
                    class: "Tulips".into(),
                    known: vec!["rose".into(), "tulip".into()],
                },
                "the validation images in `photos` have a class `Tulips` that the training images lack (they have `rose`, `tulip`) -- rename `Tulips` if `tulip` is meant, add training images of it, or leave it out",
            ),
            (
                DataError::UnknownClass {
                    path: path(),
                    part: "test",
                    class: "horse".into(),
                    known: (0..10).map(|i| i.to_string()).collect(),
                },
                "the test images in `photos` have a class `horse` that the training images lack (they have `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7` and 2 more) -- add training images of `horse`, or leave it out",
            ),
            (
                DataError::NoTrain { path: path(), found: vec!["val".into()] },
                "`photos` has no training images, only `val` -- put the images to learn from under `train/`, a folder for each class",
            ),
            (
                DataError::SameName {
                    first: "val".into(),
                    second: "valid".into(),
                    what: "the validation images".into(),
                },
                "`val` and `valid` both mean the validation images -- rename or merge one of them",
            ),
            (
                DataError::Csv { path: path(), detail: "line 3: 2 fields".into() },
                "`photos` is not a well-formed CSV: line 3: 2 fields -- save it as UTF-8 text with commas; put names that hold a comma in double quotes",
            ),
            (
                DataError::CsvColumn {
                    path: path(),
                    missing: "label",
                    header: "path,class".into(),
                },
                "`photos` has no column `label`; its first line is `path,class` -- the first line must name the columns: path,label or path,label,split",
            ),
            (
                DataError::CsvField { path: path(), line: 4, column: "label" },
                "line 4 of `photos` has an empty `label` -- fill in the label, or delete the line",
            ),
            (
                DataError::CsvSplit { path: path(), line: 4, value: "holdout".into() },
                "line 4 of `photos` has the split `holdout` -- the split is one of train, val, test, or empty for train",
            ),
            (
                DataError::CsvMissing {
                    path: path(),
                    first: vec!["a.jpg".into(), "b.jpg".into()],
                    count: 5,
                },
                "`photos` names 5 files that do not exist: `a.jpg`, `b.jpg` and 3 more -- paths in a CSV start at the CSV's own folder unless they are absolute",
            ),
            (
                DataError::CsvMissing { path: path(), first: vec!["a.jpg".into()], count: 1 },
                "`photos` names 1 file that does not exist: `a.jpg` -- paths in a CSV start at the CSV's own folder unless they are absolute",
            ),
            (
                DataError::CsvConflict {
                    path: path(),
                    image: "a.jpg".into(),
                    first: "cat".into(),
                    second: "dog".into(),
                },
                "`photos` gives `a.jpg` two labels, `cat` and `dog` -- keep the right one; an image has one label",
            ),
            (
                DataError::Fraction { value: 1.5 },
                "the validation fraction is 1.5; it must be at least 0 and less than 1 -- 0.2 keeps a fifth of the images for validation",
            ),
            (
                DataError::ValTwice { path: path(), fraction: 0.2 },
                "a validation fraction of 0.2 and a validation set in `photos` are both given -- leave out the fraction to use the given set",
            ),
            (
                DataError::Unreadable { path: path(), source: DecodeError::Empty },
                "`photos` cannot be used: the file is empty (0 bytes) -- copy or download the file again; it may not have arrived whole",
            ),
            (
                DataError::NothingReadable { count: 2, path: path(), reason: "it is empty".into() },
                "none of the 2 images can be read; the first is `photos`: it is empty -- check that these are images: refit reads JPEG, PNG, WebP, GIF, BMP and TIFF",
            ),
            (
                DataError::Preprocess { field: "size", problem: "is 0".into() },
                "the preprocessing's size is 0 -- sizes are in pixels and at least 1; mean and std are for values in [0, 1]",
            ),
            (
                DataError::Augment { field: "flip", problem: "is 2, not a probability".into() },
                "augmentation's flip is 2, not a probability -- docs/augmentation.md lists the settings and their ranges",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(told(error), message);
        }
    }

    #[test]
    fn nearest_name_forgives_slips_only() {
        assert_eq!(
            (edits("kitten", "sitting"), edits("", "abc"), edits("same", "same")),
            (3, 3, 0)
        );
        let known = ["tulip".to_string(), "rose".to_string()];
        assert_eq!(nearest("Rosen", &known), Some(&known[1]));
        assert_eq!(nearest("daisy", &known), None);
    }
}
