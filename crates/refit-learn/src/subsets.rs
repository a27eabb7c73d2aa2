//! Which of some images are looked at, and which are held out together.

use refit_data::Stream;

/// At most `most` of `n` places, evenly spread.
pub(crate) fn evenly(n: usize, most: usize) -> Vec<usize> {
    let taken = n.min(most);
    (0..taken).map(|i| i * n / taken).collect()
}

/// At most `most` positions, one of each class and then spread evenly over all; more only if there are
/// more classes.
pub(crate) fn over_classes(labels: &[usize], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|&i| labels[i]);
    let first = |k: &usize| *k == 0 || labels[order[*k]] != labels[order[*k - 1]];
    let (mut chosen, rest): (Vec<usize>, Vec<usize>) = (0..order.len()).partition(first);
    let spread = evenly(rest.len(), most.saturating_sub(chosen.len()));
    chosen.extend(spread.into_iter().map(|k| rest[k]));
    chosen.sort_unstable();
    chosen.into_iter().map(|k| order[k]).collect()
}

/// The one of `count` folds that holds each image out; none for the only one of a class, which is always
/// learned from. Classes are spread evenly: folds follow each other, so that two of a class never share
/// one while another has none. A stream
/// for each class decides which of its images go together.
pub(crate) fn folds(
    labels: &[usize],
    classes: usize,
    count: usize,
    order_of: impl Fn(u64) -> Stream,
) -> Vec<Option<usize>> {
    let mut folds = vec![None; labels.len()];
    let mut next = 0;
    for class in 0..classes {
        let mut own: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == class).collect();
        if own.len() < 2 {
            continue;
        }
        order_of(class as u64).shuffle(&mut own);
        for i in own {
            folds[i] = Some(next % count);
            next += 1;
        }
    }
    folds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_evenly() {
        assert_eq!(evenly(10, 4), [0, 2, 5, 7]);
        assert_eq!(evenly(3, 4), [0, 1, 2]);
        assert!(evenly(0, 4).is_empty() && evenly(4, 0).is_empty());
    }

    #[test]
    fn a_sample_is_spread_over_the_classes() {
        let labels: Vec<usize> = (0..300).map(|i| usize::from(i % 3 == 0)).collect();
        let chosen = over_classes(&labels, 30);
        assert_eq!(chosen.len(), 30);
        let ones = chosen.iter().filter(|i| labels[**i] == 1).count();
        assert!((9..=11).contains(&ones), "{ones}");
        assert_eq!(over_classes(&labels[..4], 30).len(), 4);
        let rare: Vec<usize> = (0..1003).map(|i| usize::from(i >= 1000)).collect();
        assert!(over_classes(&rare, 128).iter().any(|i| rare[*i] == 1));
        assert_eq!(over_classes(&(0..200).collect::<Vec<_>>(), 128).len(), 200);
    }

    #[test]
    fn folds_are_stratified_and_drawn_anew() {
        let labels: Vec<usize> = (0..53).map(|i| [0, 0, 0, 1, 2][i % 5]).chain([3]).collect();
        let of = |number| folds(&labels, 4, 5, |class| Stream::new(7, "test", &[class, number]));
        let found = of(0);
        assert_eq!(found.iter().filter(|fold| fold.is_none()).count(), 1);
        assert_eq!(found[53], None);
        for class in 0..3 {
            let in_fold = |k: usize| {
                let own = (0..53).filter(|&i| labels[i] == class && found[i] == Some(k));
                own.count()
            };
            let counts: Vec<usize> = (0..5).map(in_fold).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{class}: {counts:?}");
        }
        assert_eq!(of(0), found);
        assert_ne!(of(1), found);
    }
}
