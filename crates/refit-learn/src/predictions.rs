//! What a network made of each image that it was judged by: the content of `predictions.csv`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use refit_data::Sample;
use serde::{Deserialize, Serialize};

use crate::metrics::{arg_max, softmax};

/// The part of a run's images that one belongs to, of those it is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// To choose by.
    Val,
    /// To judge by at the end.
    Test,
    /// To learn from, but judged by a model of cross-validation that did not.
    HeldOut,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Val => "validation",
            Self::Test => "test",
            Self::HeldOut => "held-out",
        })
    }
}

/// What a network made of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The file.
    pub path: PathBuf,
    /// Its part.
    pub split: Split,
    /// The fold of cross-validation that it was held out with, from 1.
    pub fold: Option<usize>,
    /// The true class's number.
    pub label: usize,
    /// The likeliest class's number; of equals the first.
    pub predicted: usize,
    /// The probability of the likeliest class, `[0, 1]`.
    pub probability: f32,
    /// The probability of the true class, `[0, 1]`.
    pub label_probability: f32,
}

impl Judgement {
    /// Whether the likeliest class is the true one.
    pub fn is_right(&self) -> bool {
        self.label == self.predicted
    }
}

/// A line of `predictions.csv`.
#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    split: String,
    label: String,
    predicted: String,
    probability: f32,
    label_probability: f32,
}

/// `val`, `test`, or `fold3`.
fn part_name(split: Split, fold: Option<usize>) -> String {
    match (split, fold) {
        (Split::Val, _) => "val".into(),
        (Split::Test, _) => "test".into(),
        (Split::HeldOut, fold) => format!("fold{}", fold.unwrap_or(0)),
    }
}

/// What [`part_name`] wrote.
fn part_named(name: &str) -> Option<(Split, Option<usize>)> {
    match name {
        "val" => Some((Split::Val, None)),
        "test" => Some((Split::Test, None)),
        _ => Some((Split::HeldOut, Some(name.strip_prefix("fold")?.parse().ok()?))),
    }
}

/// Predictions from `logits`, `[n, classes]` row-major, of as many samples.
pub(crate) fn judgements(
    logits: &[f32],
    samples: &[Sample],
    classes: usize,
    split: Split,
) -> Vec<Judgement> {
    let probabilities = softmax(logits, classes);
    let rows = probabilities.chunks_exact(classes.max(1)).zip(samples);
    let prediction = |(row, sample): (&[f32], &Sample)| {
        let predicted = arg_max(row);
        Judgement {
            path: sample.path.clone(),
            split,
            fold: None,
            label: sample.label,
            predicted,
            probability: row[predicted],
            label_probability: row[sample.label],
        }
    };
    rows.map(prediction).collect()
}

/// The lines of `predictions.csv`, classes by name. A path that is not Unicode is written with
/// replacement characters.
pub(crate) fn to_csv(predictions: &[Judgement], classes: &[String]) -> Vec<u8> {
    let mut lines = csv::Writer::from_writer(Vec::new());
    for p in predictions {
        let line = Line {
            path: p.path.to_string_lossy().into_owned(),
            split: part_name(p.split, p.fold),
            label: classes[p.label].clone(),
            predicted: classes[p.predicted].clone(),
            probability: p.probability,
            label_probability: p.label_probability,
        };
        lines.serialize(line).expect("text and numbers, into memory");
    }
    lines.into_inner().expect("into memory")
}

/// Reads what [`to_csv`] wrote.
///
/// # Errors
/// What is wrong, and in which line.
pub(crate) fn from_csv(bytes: &[u8], classes: &[String]) -> Result<Vec<Judgement>, String> {
    let numbers: BTreeMap<&str, usize> =
        classes.iter().enumerate().map(|(i, class)| (class.as_str(), i)).collect();
    let number = |class: &str, line: usize| {
        let known = numbers.get(class).copied();
        known.ok_or_else(|| format!("line {line} names a class `{class}` that the run has not"))
    };
    let mut predictions = Vec::new();
    for (i, line) in csv::Reader::from_reader(bytes).deserialize().enumerate() {
        let line: Line = line.map_err(|e| e.to_string())?;
        let (split, fold) = part_named(&line.split)
            .ok_or_else(|| format!("line {} names no part `{}`", i + 2, line.split))?;
        predictions.push(Judgement {
            path: PathBuf::from(line.path),
            split,
            fold,
            label: number(&line.label, i + 2)?,
            predicted: number(&line.predicted, i + 2)?,
            probability: line.probability,
            label_probability: line.label_probability,
        });
    }
    Ok(predictions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let classes = ["a, \"b\"".to_owned(), "<c>".to_owned()];
        let sample = |path: &str, label| Sample { path: path.into(), label };
        let samples = [sample("x/1,2.jpg", 1), sample("ü.png", 0)];
        let found = judgements(&[0.0, 2.0, 1.0, 1.5], &samples, 2, Split::Test);
        assert!(found[0].is_right() && !found[1].is_right());
        assert!((found[1].probability - 0.622_459_3).abs() < 1e-6);
        assert!((found[1].probability + found[1].label_probability - 1.0).abs() < 1e-6);
        let text = to_csv(&found, &classes);
        let head = b"path,split,label,predicted,probability,label_probability\n\"x/1,2.jpg\",test,";
        assert!(text.starts_with(head), "{}", String::from_utf8_lossy(&text));
        assert_eq!(from_csv(&text, &classes).unwrap(), found);
        let held_out = Judgement { split: Split::HeldOut, fold: Some(12), ..found[0].clone() };
        let text_of_fold = to_csv(std::slice::from_ref(&held_out), &classes);
        assert!(text_of_fold.windows(8).any(|w| w == b",fold12,"));
        assert_eq!(from_csv(&text_of_fold, &classes).unwrap(), [held_out]);
        let error = from_csv(&text, &classes[..1]).unwrap_err();
        assert_eq!(error, "line 2 names a class `<c>` that the run has not");
        let other = String::from_utf8(text).unwrap().replace(",test,", ",train,");
        let error = from_csv(other.as_bytes(), &classes).unwrap_err();
        assert_eq!(error, "line 2 names no part `train`");
        assert!(from_csv(b"path,split\nx,val\n", &classes).unwrap_err().contains("label"));
    }
}
