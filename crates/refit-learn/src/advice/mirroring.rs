//! Does mirroring an image, or turning it, make another class of it? A head on frozen features tells.
//!
//! A head learns from plain images and judges, of each image held out, the plain and the changed view.
//! Where the changed images of one class are taken for one other class far more often than the plain
//! ones are, the change alters what the images mean: left and right, b and d, 6 and 9. A head that
//! confuses the two classes anyway does so in both views, which the paired test allows for.

use serde::{Deserialize, Serialize};

use super::curve::{FOLDS, folds};
use crate::logistic::{LogisticError, LogisticOptions, LogisticRegression};
use crate::metrics::arg_max;

/// The penalty of the heads: one of the middle, since only the likeliest class counts.
const STRENGTH: f64 = 1e-2;

/// The likelihood that must not be exceeded, over all pairs of classes together.
const LEVEL: f64 = 0.01;

/// The least share of a class's images that must have gone over. In the sets of photographs that this
/// was measured on it is at most a tenth of that.
const SHARE: f64 = 0.25;

/// A class whose changed images are taken for another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// The class's number.
    pub class: usize,
    /// The other class's number.
    pub taken_for: usize,
    /// The share of its images that are taken for the other when they are changed, `[0, 1]`.
    pub share: f64,
    /// The share of them that are when they are not.
    pub plain_share: f64,
    /// How likely as many going over would be by chance: the one-sided exact test of pairs, after
    /// McNemar 1947.
    pub p_value: f64,
}

/// The classes whose images are taken for another class once they are changed. `plain` and `changed`
/// are features of the same images, `[n, dim]` row-major; `labels` is `[n]`.
///
/// # Errors
/// If features are not finite.
///
/// # Panics
/// If lengths don't fit.
pub fn confusions(
    plain: &[f32],
    changed: &[f32],
    labels: &[usize],
    classes: usize,
    seed: u64,
) -> Result<Vec<Confusion>, LogisticError> {
    assert_eq!(plain.len(), changed.len(), "confusions: two views of the same images");
    let n = labels.len();
    assert!(n > 0 && plain.len().is_multiple_of(n), "confusions: {n} rows");
    let dim = plain.len() / n;
    let folds = folds(labels, classes, seed);
    let options = LogisticOptions { strengths: vec![STRENGTH], seed, ..Default::default() };
    // By class and class taken for: images so taken plain, changed, plain alone and changed alone.
    let mut counts = vec![[0_u64; 4]; classes * classes];
    for fold in (0..FOLDS).filter(|fold| folds.contains(&Some(*fold))) {
        let learned = (0..n).filter(|i| folds[*i] != Some(fold));
        let (rows, own): (Vec<&[f32]>, Vec<usize>) =
            learned.map(|i| (&plain[i * dim..][..dim], labels[i])).unzip();
        let head = LogisticRegression::fit(&rows.concat(), &own, classes, &options)?.model;
        for i in (0..n).filter(|i| folds[*i] == Some(fold)) {
            let taken = [plain, changed].map(|rows| arg_max(&head.logits(&rows[i * dim..][..dim])));
            let own = &mut counts[labels[i] * classes..][..classes];
            own[taken[0]][0] += 1;
            own[taken[1]][1] += 1;
            if taken[0] != taken[1] {
                own[taken[0]][2] += 1;
                own[taken[1]][3] += 1;
            }
        }
    }
    let pairs = (classes * classes.saturating_sub(1)) as f64;
    let judge = |(at, [before, after, left, came]): (usize, &[u64; 4])| {
        let (class, taken_for) = (at / classes, at % classes);
        let all: u64 = counts[class * classes..][..classes].iter().map(|c| c[0]).sum();
        let share = |count: u64| count as f64 / all.max(1) as f64;
        let p_value = at_least(*came, came + left);
        let found = Confusion {
            class,
            taken_for,
            share: share(*after),
            plain_share: share(*before),
            p_value,
        };
        let goes_over = found.share - found.plain_share >= SHARE;
        (class != taken_for && goes_over && p_value <= LEVEL / pairs).then_some(found)
    };
    Ok(counts.iter().enumerate().filter_map(judge).collect())
}

/// Those that go both ways: `back` is about the opposite change. A change that only makes images strange
/// sends them all to the same class.
pub fn mutual(there: Vec<Confusion>, back: &[Confusion]) -> Vec<Confusion> {
    let returns =
        |c: &Confusion| back.iter().any(|b| (b.class, b.taken_for) == (c.taken_for, c.class));
    there.into_iter().filter(returns).collect()
}

/// What was found, in a sentence: `mirroring makes class `left` look like `right`...`.
pub fn in_words(found: &[Confusion], classes: &[String], change: &str) -> String {
    const TOLD: usize = 4;
    let name = |class: usize| classes.get(class).map_or("?", String::as_str);
    let one = |c: &Confusion| {
        let share = |share: f64| (100.0 * share).round();
        format!(
            "`{}` into `{}` ({:.0}% of its images are taken for that, {:.0}% as they are)",
            name(c.class),
            name(c.taken_for),
            share(c.share),
            share(c.plain_share)
        )
    };
    let told: Vec<String> = found.iter().take(TOLD).map(one).collect();
    let others = match found.len().saturating_sub(TOLD) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{change} turns {}{others}", told.join(", "))
}

/// How likely at least `heads` of `n` tosses of a coin are.
fn at_least(heads: u64, n: u64) -> f64 {
    // Binomials by their logarithms, one from the other; tails are few where it matters.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for tails in 0..=n - heads {
        sum += log.exp();
        log += ((n - tails) as f64).ln() - ((tails + 1) as f64).ln();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use refit_data::Stream;

    use super::*;

    #[test]
    fn the_test_is_a_binomial_one() {
        assert!((at_least(5, 5) - 1.0 / 32.0).abs() < 1e-12);
        assert!((at_least(4, 5) - 6.0 / 32.0).abs() < 1e-12);
        assert_eq!((at_least(0, 0), at_least(0, 7)), (1.0, 1.0));
    }

    /// Features of `n` images a class: the side that a class looks to, `noise` about it, and what does
    /// not depend on the side.
    fn views(n: usize, sides: &[f32], noise: f64) -> ([Vec<f32>; 2], Vec<usize>) {
        let mut stream = Stream::new(1, "sides", &[]);
        let (mut plain, mut mirrored, mut labels) = (vec![], vec![], vec![]);
        for (class, side) in sides.iter().enumerate() {
            for _ in 0..n {
                let look = f64::from(*side) + noise * stream.normal();
                let other = class as f64 * f64::from(u8::from(*side == 0.0));
                for (rows, look) in [(&mut plain, look), (&mut mirrored, -look)] {
                    let row = [look, other + 0.2 * stream.normal(), stream.normal()];
                    rows.extend(row.map(|v| v as f32));
                }
                labels.push(class);
            }
        }
        ([plain, mirrored], labels)
    }

    #[test]
    fn left_and_right_are_found_and_nothing_else() {
        let ([plain, mirrored], labels) = views(20, &[-1.0, 1.0, 0.0], 0.3);
        let found = confusions(&plain, &mirrored, &labels, 3, 0).unwrap();
        let pairs: Vec<_> = found.iter().map(|c| (c.class, c.taken_for)).collect();
        assert_eq!(pairs, [(0, 1), (1, 0)]);
        assert!(found.iter().all(|c| c.share > 0.9 && c.plain_share < 0.1), "{found:?}");
        assert_eq!(mutual(found.clone(), &found), found);
        assert!(mutual(found.clone(), &found[..1]).len() == 1);
    }

    #[test]
    fn classes_that_are_confused_anyway_are_not_told() {
        for seed in 0..5 {
            let ([plain, mirrored], labels) = views(30, &[-0.05, 0.05, 0.0, 0.0], 1.0);
            assert_eq!(confusions(&plain, &mirrored, &labels, 4, seed).unwrap(), []);
        }
    }

    #[test]
    fn few_images_prove_nothing() {
        let ([plain, mirrored], labels) = views(4, &[-1.0, 1.0], 0.1);
        assert_eq!(confusions(&plain, &mirrored, &labels, 2, 0).unwrap(), []);
        let ([plain, mirrored], labels) = views(1, &[-1.0, 1.0], 0.1);
        assert_eq!(confusions(&plain, &mirrored, &labels, 2, 0).unwrap(), []);
    }
}
