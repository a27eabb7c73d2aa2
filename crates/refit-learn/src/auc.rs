//! The area under the ROC curve.

/// The mean over classes of the area under each one's ROC curve against the rest: the probability that
/// an image of the class is given a higher `probability` of it (`[n, classes]`) than one of another
/// class, ties counting half (Hanley and McNeil 1982, <https://doi.org/10.1148/radiology.143.1.7063747>).
/// Classes without images, or that have all of them, are left out; `None` where no class is left.
///
/// # Panics
/// If `probabilities` has not `labels.len()` rows of `classes`.
pub fn macro_auc(probabilities: &[f32], labels: &[usize], classes: usize) -> Option<f64> {
    assert_eq!(probabilities.len(), labels.len() * classes, "macro_auc: rows of `probabilities`");
    let of = |class: usize| {
        let scores: Vec<f32> = probabilities.iter().skip(class).step_by(classes).copied().collect();
        auc(&scores, labels, class)
    };
    let areas: Vec<f64> = (0..classes).filter_map(of).collect();
    (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
}

/// The same for one class, from the ranks of its images (Mann and Whitney 1947).
fn auc(scores: &[f32], labels: &[usize], class: usize) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut below, mut wins, mut own) = (0.0, 0.0, 0.0);
    for ties in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let inside = ties.iter().filter(|i| labels[**i] == class).count() as f64;
        let outside = ties.len() as f64 - inside;
        wins += inside * (below + 0.5 * outside);
        below += outside;
        own += inside;
    }
    (own * below > 0.0).then(|| wins / (own * below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_pairs_in_the_right_order() {
        // Of class 1: 0.8 and 0.3; of class 0: 0.5 and 0.3. Pairs: 1 + 1 + 0 + 1/2 of four.
        let p = [0.2, 0.8, 0.7, 0.3, 0.5, 0.5, 0.7, 0.3];
        assert_eq!(macro_auc(&p, &[1, 1, 0, 0], 2), Some(2.5 / 4.0));
        // Three classes, one of which has no images: the others against the rest.
        let p = [0.9, 0.0, 0.1, 0.8, 0.0, 0.2, 0.3, 0.0, 0.7];
        assert_eq!(macro_auc(&p, &[0, 0, 2], 3), Some(1.0));
        assert_eq!(macro_auc(&p, &[0, 0, 0], 3), None);
        assert_eq!(macro_auc(&[], &[], 3), None);
    }
}
