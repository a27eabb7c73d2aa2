//! Labels that their image speaks against.
//!
//! Two witnesses are heard: heads that learned from the other images (confident learning: Northcutt
//! et al. 2021, <https://arxiv.org/abs/1911.00068>), and the labels of the nearest images. A class's
//! threshold is the mean probability of its own label among its images, so that a class that is
//! hard to tell is not held against its images.

use serde::Serialize;

use super::neighbours::neighbours;
use crate::advice::curve::{FOLDS, folds_of};
use crate::error::LearnError;
use crate::logistic::{LogisticOptions, LogisticRegression};
use crate::metrics::softmax;

/// Neighbours that are asked for their labels.
const NEIGHBOURS: usize = 10;

/// An image whose label is doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Suspect {
    /// The image's position.
    pub image: usize,
    /// Its label.
    pub label: usize,
    /// The class that it looks like.
    pub likely: usize,
    /// Whether the heads alone would call it that: its probability is at least what it is on average
    /// for images of that class.
    pub confident: bool,
    /// Probability of its label, `[0, 1]`, by heads that learned from other images.
    pub probability: f32,
    /// Probability of the likely class.
    pub likely_probability: f32,
    /// Share of the nearest images that have its label, `[0, 1]`, the more similar counting more.
    pub neighbours: f32,
    /// Share of the nearest images that have the likely class.
    pub likely_neighbours: f32,
}

impl Suspect {
    /// How much more speaks for the likely class than for the label, `[-1, 1]`.
    pub fn doubt(&self) -> f32 {
        let by_head = self.likely_probability - self.probability;
        let by_neighbours = self.likely_neighbours - self.neighbours;
        (by_head + by_neighbours) / 2.0
    }
}

/// How many images of each label look like which class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfidentJoint {
    /// Classes.
    pub classes: usize,
    /// `[classes, classes]`: a row a label, a column a class that images confidently look like.
    pub counts: Vec<usize>,
}

/// Doubtful labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Suspects {
    /// The most doubtful first.
    pub found: Vec<Suspect>,
    /// What the heads say of them.
    pub joint: ConfidentJoint,
    /// Images whose labels were judged: all but those that are the only one of their class.
    pub judged: usize,
}

/// Looks for doubtful labels: `features` are `[n, dim]`, `labels` `[n]`, below `classes`. Copies of an
/// image vouch for each other's labels and should be left out.
///
/// # Errors
/// If features are not finite, or there are fewer than two classes.
///
/// # Panics
/// If `features` are not `n` rows, or a label is too large.
pub fn suspects(
    features: &[f32],
    labels: &[usize],
    classes: usize,
    seed: u64,
) -> Result<Suspects, LearnError> {
    let n = labels.len();
    assert!(n > 0 && features.len().is_multiple_of(n), "suspects: {n} rows");
    let dim = features.len() / n;
    let folds = folds_of(labels, classes, seed);
    let probabilities = held_out(features, labels, classes, &folds, seed)?;
    let votes = votes(features, dim, labels, classes);
    let judged: Vec<usize> = (0..n).filter(|i| folds[*i].is_some()).collect();
    let p = |i: usize, class: usize| probabilities[i * classes + class];
    let threshold = |class: usize| {
        let own: Vec<usize> = judged.iter().copied().filter(|i| labels[*i] == class).collect();
        let sum: f32 = own.iter().map(|i| p(*i, class)).sum();
        // No image can look like a class of which none was judged.
        if own.is_empty() { f32::INFINITY } else { sum / own.len() as f32 }
    };
    let thresholds: Vec<f32> = (0..classes).map(threshold).collect();
    let mut joint = ConfidentJoint { classes, counts: vec![0; classes * classes] };
    let mut found = Vec::new();
    for &image in &judged {
        let label = labels[image];
        let surest = (0..classes)
            .filter(|class| p(image, *class) >= thresholds[*class])
            .max_by(|a, b| p(image, *a).total_cmp(&p(image, *b)));
        if let Some(class) = surest {
            joint.counts[label * classes + class] += 1;
        }
        let vote = |class: usize| votes[image * classes + class];
        let evidence = |class: usize| p(image, class) + vote(class);
        let others = (0..classes).filter(|class| *class != label);
        let Some(likely) = others.max_by(|a, b| evidence(*a).total_cmp(&evidence(*b))) else {
            continue;
        };
        let suspect = Suspect {
            image,
            label,
            likely,
            confident: surest == Some(likely),
            probability: p(image, label),
            likely_probability: p(image, likely),
            neighbours: vote(label),
            likely_neighbours: vote(likely),
        };
        if suspect.doubt() > 0.0 {
            found.push(suspect);
        }
    }
    found.sort_by(|a, b| b.doubt().total_cmp(&a.doubt()).then(a.image.cmp(&b.image)));
    Ok(Suspects { found, joint, judged: judged.len() })
}

/// Class probabilities `[n, classes]` by heads that learned from the other folds; zeros for the only
/// image of a class.
fn held_out(
    features: &[f32],
    labels: &[usize],
    classes: usize,
    folds: &[Option<usize>],
    seed: u64,
) -> Result<Vec<f32>, LearnError> {
    let dim = features.len() / labels.len();
    let row = |i: usize| &features[i * dim..][..dim];
    // Classes without images have no place in a head.
    let there: Vec<usize> = (0..classes).filter(|class| labels.contains(class)).collect();
    let place = |label: usize| there.binary_search(&label).expect("a class that is there");
    let fit = |images: &[usize], options: &LogisticOptions| {
        let rows: Vec<f32> = images.iter().flat_map(|i| row(*i)).copied().collect();
        let labels: Vec<usize> = images.iter().map(|i| place(labels[*i])).collect();
        LogisticRegression::fit(&rows, &labels, there.len(), options)
    };
    let options = LogisticOptions { seed, ..LogisticOptions::default() };
    let all: Vec<usize> = (0..labels.len()).collect();
    let strengths = vec![fit(&all, &options)?.strength];
    let options = LogisticOptions { strengths, ..options };
    let mut probabilities = vec![0.0; labels.len() * classes];
    for fold in 0..FOLDS {
        let part = |held: bool| -> Vec<usize> {
            all.iter().copied().filter(|i| (folds[*i] == Some(fold)) == held).collect()
        };
        let (own, others) = (part(true), part(false));
        if own.is_empty() {
            continue;
        }
        let head = fit(&others, &options)?.model;
        for i in own {
            let p = softmax(&head.logits(row(i)), there.len());
            for (class, p) in there.iter().zip(p) {
                probabilities[i * classes + class] = p;
            }
        }
    }
    Ok(probabilities)
}

/// For each image the share of each class among its nearest: `[n, classes]`.
fn votes(features: &[f32], dim: usize, labels: &[usize], classes: usize) -> Vec<f32> {
    let mut votes = vec![0.0; labels.len() * classes];
    for (own, near) in votes.chunks_exact_mut(classes).zip(neighbours(features, dim, NEIGHBOURS)) {
        near.iter().for_each(|n| own[labels[n.row]] += n.similarity.max(0.0));
        let sum: f32 = own.iter().sum();
        if sum > 0.0 {
            own.iter_mut().for_each(|vote| *vote /= sum);
        }
    }
    votes
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit_data::Stream;

    /// Clouds of points around `classes` corners.
    fn clouds(each: usize, classes: usize) -> (Vec<f32>, Vec<usize>) {
        let mut stream = Stream::new(5, "clouds", &[]);
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for i in 0..each * classes {
            let class = i % classes;
            features.extend(
                (0..8).map(|j| stream.normal() as f32 + if j == class { 5.0 } else { 0.0 }),
            );
            labels.push(class);
        }
        (features, labels)
    }

    #[test]
    fn wrong_labels_come_first() {
        let (features, mut labels) = clouds(40, 4);
        let wrong = [3, 17, 44, 90, 121, 150];
        wrong.iter().for_each(|&i| labels[i] = (labels[i] + 1) % 4);
        let found = suspects(&features, &labels, 4, 1).unwrap();
        let first: Vec<usize> = found.found.iter().take(6).map(|s| s.image).collect();
        assert!(wrong.iter().all(|i| first.contains(i)), "{first:?}");
        assert!(found.found.len() <= 10, "{}", found.found.len());
        for suspect in &found.found[..6] {
            assert_eq!(suspect.likely, suspect.image % 4);
            assert!(suspect.doubt() > 0.3 && suspect.probability < suspect.likely_probability);
        }
        assert_eq!(found.judged, 160);
        let off: usize = (0..4).map(|c| found.joint.counts[(c + 1) % 4 * 4 + c]).sum();
        assert!(off >= 4, "{:?}", found.joint);
    }

    #[test]
    fn right_labels_are_left_alone() {
        let (features, labels) = clouds(30, 3);
        let found = suspects(&features, &labels, 3, 1).unwrap();
        assert!(found.found.len() <= 1, "{:?}", found.found);
    }

    #[test]
    fn lone_images_and_empty_classes_are_no_trouble() {
        let (features, mut labels) = clouds(10, 3);
        labels.iter_mut().for_each(|label| *label *= 2);
        labels[0] = 6;
        let found = suspects(&features, &labels, 8, 1).unwrap();
        assert_eq!(found.judged, 29);
        assert!(found.found.iter().all(|s| s.image != 0));
        assert!(suspects(&features, &[0; 30], 1, 1).is_err());
    }
}
