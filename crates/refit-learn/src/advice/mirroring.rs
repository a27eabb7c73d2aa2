//! Does mirroring an image, or turning it, make another class of it? Heads on frozen features tell.
//!
//! For two classes that a head confuses when images are mirrored, two heads learn from plain and
//! mirrored images: one that mirrored images stay in their class, one that they belong to the other.
//! Where the second knows plain images held out, better than chance and better than the first, the
//! mirror image of the one is the other: left and right, b and d. Of classes that are merely hard to
//! tell apart neither knows more; of others the first does.

use serde::{Deserialize, Serialize};

use super::curve::{FOLDS, folds_of};
use crate::logistic::{LogisticError, LogisticOptions, LogisticRegression};
use crate::metrics::arg_max;

/// The penalty of the heads: one of the middle, since heads are only compared.
const STRENGTH: f64 = 1e-2;

/// How likely the second head's knowledge may be by chance, over all pairs of classes together.
const BY_CHANCE: f64 = 0.01;

/// How likely its advantage over the first may be.
const ADVANTAGE: f64 = 0.05;

/// By how much more plain images must be known where mirrored ones belong to the other class.
const GAIN: f64 = 0.1;

/// The share of two classes' images that must be confused, plain or mirrored, for a closer look.
const CONFUSED: f64 = 0.1;

/// Pairs of classes that are looked at closely, at most: those confused most.
const PAIRS: usize = 8;

/// Images of a class in a closer look: fewer prove nothing, more tell nothing new.
const IMAGES: std::ops::RangeInclusive<usize> = 8..=60;

/// Two classes that a change of images turns into each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// The two classes, by number.
    pub classes: [usize; 2],
    /// The share of plain images held out that are known, `[0, 1]`, where changed ones count as the
    /// other class.
    pub as_other: f64,
    /// The same where changed ones count as their own class.
    pub as_own: f64,
    /// How likely that knowledge would be by chance, where the classes are not told apart at all: a
    /// one-sided binomial test.
    pub p_value: f64,
    /// How likely the difference would be by chance: the one-sided exact test of the images that one of
    /// the two heads alone knows, after McNemar 1947.
    pub paired_p_value: f64,
}

/// Features of the same images, `[n, dim]` row-major.
#[derive(Debug, Clone, Copy)]
pub struct Views<'a> {
    /// As they are.
    pub plain: &'a [f32],
    /// Changed; of the first class of a pair.
    pub there: &'a [f32],
    /// Changed the opposite way, which for mirroring is the same; of the second class of a pair.
    pub back: &'a [f32],
}

/// The pairs of classes that the change turns into each other; `labels` is `[n]`.
///
/// # Errors
/// If features are not finite.
///
/// # Panics
/// If lengths don't fit.
pub fn confusions(
    views: &Views,
    labels: &[usize],
    classes: usize,
    seed: u64,
) -> Result<Vec<Confusion>, LogisticError> {
    let n = labels.len();
    assert!(n > 0 && views.plain.len().is_multiple_of(n), "confusions: {n} rows");
    for changed in [views.there, views.back] {
        assert_eq!(views.plain.len(), changed.len(), "confusions: views of the same images");
    }
    let pairs = (classes * classes.saturating_sub(1) / 2) as f64;
    let mut found = Vec::new();
    for pair in confused(views, labels, classes, seed)? {
        let Some(confusion) = look_closely(views, labels, pair, seed)? else { continue };
        let gains = confusion.as_other - confusion.as_own >= GAIN;
        let sure = confusion.p_value <= BY_CHANCE / pairs && confusion.paired_p_value <= ADVANTAGE;
        if gains && sure {
            found.push(confusion);
        }
    }
    found.sort_by_key(|c| c.classes);
    Ok(found)
}

/// Logistic regression with the one penalty.
fn head(
    rows: &[&[f32]],
    labels: &[usize],
    classes: usize,
    seed: u64,
) -> Result<LogisticRegression, LogisticError> {
    let options = LogisticOptions { strengths: vec![STRENGTH], seed, ..Default::default() };
    Ok(LogisticRegression::fit(&rows.concat(), labels, classes, &options)?.model)
}

/// Pairs of classes, of which images held out are taken for each other, plain or changed, by a head
/// that knows plain images; the most confused first.
fn confused(
    views: &Views,
    labels: &[usize],
    classes: usize,
    seed: u64,
) -> Result<Vec<[usize; 2]>, LogisticError> {
    let n = labels.len();
    let dim = views.plain.len() / n;
    let folds = folds_of(labels, classes, seed);
    let mut counts = vec![0_usize; classes];
    labels.iter().for_each(|l| counts[*l] += 1);
    let mut taken = vec![0.0; classes * classes];
    for fold in (0..FOLDS).filter(|fold| folds.contains(&Some(*fold))) {
        let learned: Vec<usize> = (0..n).filter(|i| folds[*i] != Some(fold)).collect();
        let rows: Vec<&[f32]> = learned.iter().map(|i| &views.plain[i * dim..][..dim]).collect();
        let own: Vec<usize> = learned.iter().map(|i| labels[*i]).collect();
        let head = head(&rows, &own, classes, seed)?;
        for i in (0..n).filter(|i| folds[*i] == Some(fold)) {
            for view in [views.plain, views.there, views.back] {
                let guess = arg_max(&head.logits(&view[i * dim..][..dim]));
                let (low, high) = (guess.min(labels[i]), guess.max(labels[i]));
                taken[low * classes + high] += 1.0 / counts[labels[i]] as f64;
            }
        }
    }
    let share = |[a, b]: [usize; 2]| taken[a * classes + b] / 6.0;
    let mut pairs: Vec<[usize; 2]> = (0..classes)
        .flat_map(|a| (a + 1..classes).map(move |b| [a, b]))
        .filter(|pair| share(*pair) >= CONFUSED)
        .collect();
    pairs.sort_by(|a, b| share(*b).total_cmp(&share(*a)));
    pairs.truncate(PAIRS);
    Ok(pairs)
}

/// How well two heads know plain images of two classes: none where there are too few.
fn look_closely(
    views: &Views,
    labels: &[usize],
    pair: [usize; 2],
    seed: u64,
) -> Result<Option<Confusion>, LogisticError> {
    let dim = views.plain.len() / labels.len();
    let members = |class: usize| (0..labels.len()).filter(move |i| labels[*i] == class);
    let count = pair.map(|class| members(class).count());
    let count = count[0].min(count[1]).min(*IMAGES.end());
    if count < *IMAGES.start() {
        return Ok(None);
    }
    // As many of each, so that neither head gains by knowing which is more frequent.
    let images: Vec<usize> = pair.iter().flat_map(|class| members(*class).take(count)).collect();
    let truth: Vec<usize> = (0..2 * count).map(|at| at / count).collect();
    let row = |rows: &'_ [f32], at: usize| rows[images[at] * dim..][..dim].to_vec();
    let changed = [views.there, views.back];
    let folds = folds_of(&truth, 2, seed);
    // Images known by each head, and by it alone.
    let (mut known, mut alone) = ([0_u64; 2], [0_u64; 2]);
    for fold in 0..FOLDS {
        let learned: Vec<usize> = (0..2 * count).filter(|at| folds[*at] != Some(fold)).collect();
        let rows: Vec<Vec<f32>> = learned
            .iter()
            .map(|at| row(views.plain, *at))
            .chain(learned.iter().map(|at| row(changed[truth[*at]], *at)))
            .collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let learn = |class_of_changed: fn(usize) -> usize| {
            let plain = learned.iter().map(|at| truth[*at]);
            let changed = learned.iter().map(|at| class_of_changed(truth[*at]));
            head(&rows, &plain.chain(changed).collect::<Vec<_>>(), 2, seed)
        };
        let heads = [learn(|class| 1 - class)?, learn(|class| class)?];
        for at in (0..2 * count).filter(|at| folds[*at] == Some(fold)) {
            let right = heads
                .each_ref()
                .map(|head| arg_max(&head.logits(&row(views.plain, at))) == truth[at]);
            for which in (0..2).filter(|which| right[*which]) {
                known[which] += 1;
                alone[which] += u64::from(!right[1 - which]);
            }
        }
    }
    let [as_other, as_own] = known.map(|known| known as f64 / (2 * count) as f64);
    let p_value = at_least(known[0], 2 * count as u64);
    let paired_p_value = at_least(alone[0], alone[0] + alone[1]);
    Ok(Some(Confusion { classes: pair, as_other, as_own, p_value, paired_p_value }))
}

/// What was found, in words: ``mirroring turns `b` and `d` into each other (...)``.
pub fn in_words(found: &[Confusion], classes: &[String], change: &str) -> String {
    const TOLD: usize = 4;
    let name = |class: usize| classes.get(class).map_or("?", String::as_str);
    let one = |c: &Confusion| {
        let [first, second] = c.classes.map(name);
        let [other, own] = [c.as_other, c.as_own].map(|share| (100.0 * share).round());
        format!(
            "`{first}` and `{second}` into each other ({other:.0}% of plain images are known when \
             changed ones count as the other class, {own:.0}% when as their own)"
        )
    };
    let told: Vec<String> = found.iter().take(TOLD).map(one).collect();
    let others = match found.len().saturating_sub(TOLD) {
        0 => String::new(),
        n => format!(", and {n} more pairs"),
    };
    format!("{change} turns {}{others}", told.join(", "))
}

/// How likely at least `heads` of `n` tosses of a coin are.
fn at_least(heads: u64, n: u64) -> f64 {
    // Binomials by their logarithms, one from the other.
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

    /// Features of `n` images of each class: the side that it looks to, with noise about it, and what
    /// does not depend on the side, by which classes of kinds of their own are told apart.
    fn found(n: usize, looks: &[(f64, f64)], noise: f64, seed: u64) -> Vec<[usize; 2]> {
        let mut stream = Stream::new(seed, "looks", &[]);
        let (mut plain, mut mirrored, mut labels) = (vec![], vec![], vec![]);
        for (class, (side, kind)) in looks.iter().enumerate() {
            for _ in 0..n {
                let side = side + noise * stream.normal();
                let rest = [kind + 0.3 * stream.normal(), stream.normal(), stream.normal()];
                for (rows, side) in [(&mut plain, side), (&mut mirrored, -side)] {
                    rows.push(side as f32);
                    rows.extend(rest.map(|v| v as f32));
                }
                labels.push(class);
            }
        }
        let views = Views { plain: &plain, there: &mirrored, back: &mirrored };
        let found = confusions(&views, &labels, looks.len(), seed).unwrap();
        assert!(found.iter().all(|c| c.as_other > c.as_own && c.p_value < 0.01), "{found:?}");
        found.iter().map(|c| c.classes).collect()
    }

    #[test]
    fn left_and_right_are_found_and_nothing_else() {
        assert_eq!(found(20, &[(-1.0, 0.0), (1.0, 0.0), (0.0, 2.0)], 0.5, 0), [[0, 1]]);
        // Found where plain images are hard to tell apart, too.
        assert_eq!(found(60, &[(-0.7, 0.0), (0.7, 0.0)], 1.0, 0), [[0, 1]]);
    }

    #[test]
    fn what_is_only_confused_or_faces_one_way_is_not_told() {
        for seed in 0..5 {
            assert!(found(30, &[(0.0, 0.0), (0.0, 0.0), (0.0, 0.3)], 1.0, seed).is_empty());
            // One class looks left, the other anywhere; the other kind tells them apart.
            assert!(found(30, &[(-1.0, 0.0), (0.0, 1.0)], 1.0, seed).is_empty());
        }
    }

    #[test]
    fn few_images_prove_nothing() {
        assert!(found(7, &[(-1.0, 0.0), (1.0, 0.0)], 0.1, 0).is_empty());
        assert!(found(1, &[(-1.0, 0.0), (1.0, 0.0)], 0.1, 0).is_empty());
    }
}
