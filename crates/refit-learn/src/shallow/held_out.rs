//! Sizes of learners by images held out.

use refit_data::Stream;

use super::Examples;
use crate::metrics::arg_max;
use crate::subsets;

/// Folds of a choice.
pub(super) const FOLDS: usize = 3;

/// Rows to learn from, and rows of other images to judge by, for each fold that has any. What is
/// never held out is always learned from.
pub(super) fn folds(examples: &Examples, seed: u64) -> Vec<[Vec<usize>; 2]> {
    let groups = examples.groups.iter().max().map_or(0, |most| most + 1);
    let mut labels = vec![0; groups];
    for (row, &group) in examples.groups.iter().enumerate() {
        labels[group] = arg_max(examples.target(row));
    }
    let stream = |class| Stream::new(seed, "learner folds", &[class]);
    let fold = subsets::folds(&labels, examples.classes, FOLDS, stream);
    let part = |number: usize, held: bool| -> Vec<usize> {
        let is = |row: &usize| (fold[examples.groups[*row]] == Some(number)) == held;
        (0..examples.len()).filter(is).collect()
    };
    let all = (0..FOLDS).map(|number| [part(number, false), part(number, true)]);
    all.filter(|[own, held]| !own.is_empty() && !held.is_empty()).collect()
}

/// The weighted sum of the cross-entropies of rows' targets with `probabilities(row)`, and of weights.
pub(super) fn loss(
    examples: &Examples,
    rows: &[usize],
    probabilities: impl Fn(usize) -> Vec<f64>,
) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for &row in rows {
        let weight = f64::from(examples.weights[row]);
        let p = probabilities(row);
        let of = |(t, p): (&f32, &f64)| -f64::from(*t) * p.max(1e-12).ln();
        sums[0] += weight * examples.target(row).iter().zip(&p).map(of).sum::<f64>();
        sums[1] += weight;
    }
    sums
}

/// The place of the least of some losses, each the sums of all folds; the first where there are none.
pub(super) fn least(losses: &[[f64; 2]]) -> usize {
    let mean = |[loss, weight]: &[f64; 2]| if *weight > 0.0 { loss / weight } else { f64::MAX };
    let order = |a: &usize, b: &usize| mean(&losses[*a]).total_cmp(&mean(&losses[*b]));
    (0..losses.len()).min_by(order).unwrap_or(0)
}

/// Sums of folds, place by place.
pub(super) fn summed(folds: impl IntoIterator<Item = Vec<[f64; 2]>>) -> Vec<[f64; 2]> {
    let add = |mut a: Vec<[f64; 2]>, b: Vec<[f64; 2]>| {
        a.truncate(b.len());
        a.iter_mut().zip(b).for_each(|(a, b)| *a = [a[0] + b[0], a[1] + b[1]]);
        a
    };
    folds.into_iter().reduce(add).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shallow::tests::Blobs;

    #[test]
    fn views_of_an_image_are_held_out_together() {
        let blobs = Blobs::new(11, 2, 2, 0.1);
        let examples = blobs.examples();
        let folds = folds(&examples, 4);
        assert_eq!(folds.len(), FOLDS);
        let mut held: Vec<usize> = folds.iter().flat_map(|[_, held]| held.clone()).collect();
        held.sort_unstable();
        assert_eq!(held, (0..22).collect::<Vec<_>>(), "each row once");
        for [own, held] in &folds {
            assert_eq!(own.len() + held.len(), 22);
            let apart = |row: &usize| !own.iter().any(|o| blobs.groups[*o] == blobs.groups[*row]);
            assert!(held.iter().all(apart));
        }
        assert!(super::folds(&Blobs::new(2, 2, 2, 0.1).examples(), 4).is_empty());
    }

    #[test]
    fn the_least_mean_loss_is_chosen() {
        let folds = [vec![[2.0, 2.0], [1.0, 2.0], [3.0, 2.0]], vec![[2.0, 1.0], [2.5, 1.0]]];
        let losses = summed(folds);
        assert_eq!(losses, [[4.0, 3.0], [3.5, 3.0]]);
        assert_eq!(least(&losses), 1);
        assert_eq!(least(&[]), 0);
        let blobs = Blobs::new(2, 2, 2, 0.1);
        let found = loss(&blobs.examples(), &[0, 2], |_| vec![0.5, 0.5]);
        assert!((found[0] - 2.0 * 2.0_f64.ln()).abs() < 1e-12 && found[1] == 2.0);
    }
}
