//! In which order an epoch shows the training images.

use refit_data::Stream;

use crate::settings::ClassBalance;

/// The images of an epoch in the order of its steps, as many as there are: each once, or, where classes
/// are sampled alike, as many of each class as of any other. What is shown for the `k`-th time again is
/// listed as its position plus `k` times the number of images, so that it can be another view.
pub(crate) fn order(labels: &[usize], balance: ClassBalance, stream: &mut Stream) -> Vec<usize> {
    match balance {
        ClassBalance::Sampling => balanced(labels, stream),
        _ => stream.permutation(labels.len()),
    }
}

/// One image of each class, in random order, and again. A class's images come all once before any
/// comes again; of a large class, other images come in other epochs.
fn balanced(labels: &[usize], stream: &mut Stream) -> Vec<usize> {
    let classes = labels.iter().max().map_or(0, |most| most + 1);
    let mut members = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(i, &label)| members[label].push(i));
    members.retain(|images| !images.is_empty());
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); members.len()];
    let mut order = Vec::with_capacity(labels.len());
    while order.len() < labels.len() {
        for class in stream.permutation(members.len()) {
            let (images, waiting) = (&members[class], &mut waiting[class]);
            if waiting.is_empty() {
                *waiting =
                    stream.permutation(images.len()).into_iter().map(|k| images[k]).collect();
            }
            order.extend(waiting.pop());
        }
    }
    order.truncate(labels.len());
    let mut shown = vec![0; labels.len()];
    for image in &mut order {
        shown[*image] += 1;
        *image += (shown[*image] - 1) * labels.len();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(labels: &[usize], balance: ClassBalance, epoch: u64) -> Vec<usize> {
        order(labels, balance, &mut Stream::new(5, "order", &[epoch]))
    }

    #[test]
    fn every_image_comes_once() {
        let labels = [0, 0, 0, 1, 2, 2];
        let mut all = drawn(&labels, ClassBalance::Images, 0);
        assert_eq!(all, drawn(&labels, ClassBalance::Images, 0));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn every_class_comes_as_often() {
        // Ninety of one class, nine of another, one of a third; none of the second.
        let labels: Vec<usize> =
            (0..100).map(|i| [0, 2, 3][(i >= 90) as usize + (i >= 99) as usize]).collect();
        let order = drawn(&labels, ClassBalance::Sampling, 0);
        assert_eq!(order.len(), 100);
        let ids_of = |epoch| drawn(&labels, ClassBalance::Sampling, epoch);
        let mut ids = order.clone();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 100, "what comes again is told apart");
        let order: Vec<usize> = order.iter().map(|id| id % 100).collect();
        let count = |class| order.iter().filter(|i| labels[**i] == class).count();
        assert!([0, 2, 3].iter().all(|class| (33..=34).contains(&count(*class))));
        // Each of the nine three times and up to once more, none of the ninety twice.
        let times = |image: usize| order.iter().filter(|i| **i == image).count();
        assert!((90..99).all(|i| (3..=4).contains(&times(i))));
        assert!((0..90).all(|i| times(i) <= 1));
        assert_ne!(ids_of(0), ids_of(1));
        assert!(drawn(&[], ClassBalance::Sampling, 0).is_empty());
    }
}
