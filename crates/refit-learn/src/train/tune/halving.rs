//! In which order trials are made: successive halving (Jamieson and Talwalkar 2016,
//! <https://arxiv.org/abs/1502.07943>) in rounds.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Attempt;

/// Of so many trials the best goes on, with so many times the epochs.
pub(super) const ETA: usize = 3;

/// New setups in a round.
const ROUND: usize = 9;

/// How long a trial trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// A third of the epochs, with a whole course of the rate.
    Third,
    /// All epochs, from the beginning: the rate's course depends on their number.
    Whole,
}

impl Rung {
    /// Epochs of a trial, of `all` that a run has.
    pub(super) fn epochs(self, all: usize) -> usize {
        match self {
            Self::Third => all.div_ceil(ETA),
            Self::Whole => all,
        }
    }
}

/// A trial that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub number: usize,
    pub rung: Rung,
}

/// What is tried after `tried`; none after the last. A search's state is its trials, so that one
/// that goes on later goes the same way.
pub(super) fn next(tried: &[Attempt], trials: usize, first: Rung) -> Option<Job> {
    let is_due = |&(number, rung): &(usize, Rung)| {
        !tried.iter().any(|t| t.number == number && t.rung == rung)
    };
    let rounds = (1..=trials).step_by(ROUND).map(|from| from..trials.min(from + ROUND - 1) + 1);
    let jobs = rounds.flat_map(|round| {
        let again = match first {
            Rung::Third => best(tried, &round),
            Rung::Whole => Vec::new(),
        };
        let whole = again.into_iter().map(|number| (number, Rung::Whole));
        round.map(move |number| (number, first)).chain(whole)
    });
    let mut jobs = std::iter::once((0, Rung::Whole)).chain(jobs);
    jobs.find(is_due).map(|(number, rung)| Job { number, rung })
}

/// The trials of a round that go on, the best first; those that diverged never do.
fn best(tried: &[Attempt], round: &Range<usize>) -> Vec<usize> {
    let mut short: Vec<&Attempt> = tried
        .iter()
        .filter(|t| t.rung == Rung::Third && round.contains(&t.number) && t.loss.is_finite())
        .collect();
    short.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.number.cmp(&b.number)));
    short.iter().take(round.len().div_ceil(ETA)).map(|t| t.number).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;

    /// The order of a search in which trial `n` has the loss `loss(n)`.
    fn order(trials: usize, first: Rung, loss: impl Fn(usize) -> f64) -> Vec<(usize, Rung)> {
        let mut tried = Vec::new();
        while let Some(Job { number, rung }) = next(&tried, trials, first) {
            tried.push(Attempt { rung, ..attempt(number, loss(number)) });
            assert!(tried.len() < 100);
        }
        tried.iter().map(|t| (t.number, t.rung)).collect()
    }

    #[test]
    fn a_third_of_each_round_goes_on() {
        let jobs = order(11, Rung::Third, |n| ((n * 7) % 10) as f64);
        let mut wanted = vec![(0, Rung::Whole)];
        wanted.extend((1..=9).map(|n| (n, Rung::Third)));
        // Losses 7, 4, 1, 8, 5, 2, 9, 6, 3.
        wanted.extend([3, 6, 9].map(|n| (n, Rung::Whole)));
        wanted.extend([(10, Rung::Third), (11, Rung::Third), (10, Rung::Whole)]);
        assert_eq!(jobs, wanted);
    }

    #[test]
    fn what_diverged_does_not_go_on() {
        let jobs = order(9, Rung::Third, |n| if n == 4 { 0.5 } else { f64::INFINITY });
        assert_eq!(jobs.len(), 11);
        assert_eq!(jobs[10], (4, Rung::Whole));
        assert_eq!(order(3, Rung::Third, |_| f64::INFINITY).len(), 4);
    }

    #[test]
    fn an_epoch_is_not_divided() {
        let jobs = order(4, Rung::Whole, |n| n as f64);
        assert_eq!(jobs, (0..5).map(|n| (n, Rung::Whole)).collect::<Vec<_>>());
        assert_eq!([1, 2, 3, 4, 12].map(|n| Rung::Third.epochs(n)), [1, 1, 1, 2, 4]);
    }
}
