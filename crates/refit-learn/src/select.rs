//! By what an epoch is the best.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// What the best epoch has the best of, on the validation images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// The lowest log loss. Where a solved head competes, the lowest at the best temperature: it and
    /// one that was trained with smoothed labels differ in their confidence, which says nothing of
    /// which is better.
    #[default]
    Loss,
    /// The highest accuracy; of equals the lowest loss.
    Top1,
    /// The highest mean recall of the classes; of equals the lowest loss.
    Balanced,
    /// The highest mean F1 of the classes; of equals the lowest loss.
    F1,
    /// The highest mean area under the classes' ROC curves, each against the rest; of equals the
    /// lowest loss.
    Auc,
}

impl Select {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Loss, Self::Top1, Self::Balanced, Self::F1, Self::Auc];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Top1 => "top1",
            Self::Balanced => "balanced",
            Self::F1 => "f1",
            Self::Auc => "auc",
        }
    }

    /// What counts of some metrics.
    pub(crate) fn score(self, metrics: &Metrics, calibrated: bool) -> Score {
        let loss = if calibrated { metrics.calibrated_loss } else { metrics.loss };
        let high = match self {
            Self::Loss => 0.0,
            Self::Top1 => metrics.top1,
            Self::Balanced => metrics.balanced_accuracy,
            Self::F1 => metrics.macro_f1,
            Self::Auc => metrics.macro_auc.unwrap_or(0.0),
        };
        Score { high, loss }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Select {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("nothing to select by is called `{name}`; there are {names}")
        })
    }
}

/// How good an epoch was: first what is high, then what is low. Written down bit by bit, so that a run
/// that goes on compares what it would have compared.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "[u64; 2]", into = "[u64; 2]")]
pub(crate) struct Score {
    high: f64,
    loss: f64,
}

impl Score {
    /// That of an error: the less the better.
    pub fn of_error(error: f64) -> Self {
        Self { high: 0.0, loss: error }
    }

    /// Whether it is better than another; what is no number is not.
    pub fn is_better(&self, other: &Self) -> bool {
        let high = self.high.partial_cmp(&other.high);
        high == Some(Ordering::Greater) || (high == Some(Ordering::Equal) && self.loss < other.loss)
    }
}

impl From<[u64; 2]> for Score {
    fn from([high, loss]: [u64; 2]) -> Self {
        Self { high: f64::from_bits(high), loss: f64::from_bits(loss) }
    }
}

impl From<Score> for [u64; 2] {
    fn from(score: Score) -> Self {
        [score.high.to_bits(), score.loss.to_bits()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_counts_and_then_the_lower_loss() {
        let score = |high, loss| Score { high, loss };
        assert!(score(0.9, 0.5).is_better(&score(0.8, 0.1)));
        assert!(score(0.9, 0.4).is_better(&score(0.9, 0.5)));
        assert!(!score(0.9, 0.5).is_better(&score(0.9, 0.5)));
        assert!(!score(0.9, f64::NAN).is_better(&score(0.9, 0.5)));
        assert!(!score(f64::NAN, 0.1).is_better(&score(0.9, 0.5)));
        let odd = score(0.1 + 0.2, 1.0 / 3.0);
        assert_eq!(Score::from(<[u64; 2]>::from(odd)), odd);
    }

    #[test]
    fn each_selects_by_its_own_figure() {
        // Two of class a, both right; of b one of two.
        let classes = ["a".to_owned(), "b".to_owned()];
        let p = [0.9, 0.1, 0.6, 0.4, 0.7, 0.3, 0.2, 0.8];
        let metrics = Metrics::from_probabilities(&p, &[0, 0, 1, 1], &classes).unwrap();
        let high = |select: Select| select.score(&metrics, false).high;
        assert_eq!(high(Select::Loss), 0.0);
        assert_eq!(high(Select::Top1), 0.75);
        assert_eq!(high(Select::Balanced), 0.75);
        assert_eq!(high(Select::F1), metrics.macro_f1);
        assert_eq!(high(Select::Auc), 0.75);
        assert_eq!(Select::Loss.score(&metrics, true).loss, metrics.calibrated_loss);
        assert!(Select::ALL.iter().all(|s| s.name().parse() == Ok(*s)));
        assert!("best".parse::<Select>().unwrap_err().contains("top1"));
    }
}
