//! Softmax cross-entropy with label smoothing and class weights.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use refit_data::Mixture;

/// What the loss compares logits with.
#[derive(Debug, Clone)]
pub struct Targets {
    /// Distributions over classes, each row scaled by its image's weight: `[n, classes]`.
    weighted: Tensor<2>,
}

impl Targets {
    /// Targets for images of classes `labels`: `1 - smoothing` for the right class and the rest
    /// spread evenly (Szegedy et al. 2015, <https://arxiv.org/abs/1512.00567>). `class_weights` is
    /// `[classes]`; images are weighted so that the loss is a weighted mean.
    ///
    /// # Panics
    /// If a label is not below the number of classes.
    pub fn new(labels: &[usize], class_weights: &[f32], smoothing: f64, device: &Device) -> Self {
        Self::mixed(labels, &[], class_weights, smoothing, device)
    }

    /// As [`new`](Self::new) for images that are mixed: a share of an image counts as an image of that
    /// class with that weight. `mixtures` is `[n]`, or empty where none is mixed.
    ///
    /// # Panics
    /// If a label is not below the number of classes, or a partner not below `n`.
    pub fn mixed(
        labels: &[usize],
        mixtures: &[Option<Mixture>],
        class_weights: &[f32],
        smoothing: f64,
        device: &Device,
    ) -> Self {
        let classes = class_weights.len();
        let parts = |image: usize| {
            let mixture = mixtures.get(image).copied().flatten();
            let own = mixture.map_or(1.0, |m| m.own);
            let partner = mixture.map(|m| (labels[m.partner], 1.0 - own));
            std::iter::once((labels[image], own)).chain(partner)
        };
        let weight = |(label, share): (usize, f32)| share * class_weights[label];
        let total: f32 = (0..labels.len()).flat_map(parts).map(weight).sum();
        let rest = (smoothing / classes as f64) as f32;
        let mut values = vec![0.0; labels.len() * classes];
        for (image, row) in values.chunks_exact_mut(classes).enumerate() {
            for part in parts(image) {
                let weight = weight(part) / total;
                row.iter_mut().for_each(|v| *v += rest * weight);
                row[part.0] += (1.0 - smoothing) as f32 * weight;
            }
        }
        let data = TensorData::new(values, [labels.len(), classes]);
        Self { weighted: Tensor::from_data(data, device) }
    }

    /// The mean cross-entropy of logits `[n, classes]` against the targets.
    pub fn cross_entropy(&self, logits: Tensor<2>) -> Tensor<1> {
        let targets = self.weighted.clone();
        let targets = if logits.is_autodiff() { targets.autodiff() } else { targets };
        -(log_softmax(logits, 1) * targets).sum()
    }
}

/// Weights by which every class counts alike: `n / (classes * images of the class)`; 1 for a class
/// without images.
pub fn balanced_weights(labels: &[usize], classes: usize) -> Vec<f32> {
    let mut counts = vec![0_usize; classes];
    labels.iter().for_each(|&l| counts[l] += 1);
    let share = labels.len() as f32 / classes as f32;
    counts.iter().map(|&n| if n == 0 { 1.0 } else { share / n as f32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(labels: &[usize], weights: &[f32], smoothing: f64) -> f32 {
        let device = Device::default();
        let logits = Tensor::<2>::from_data([[1.0, 2.0, 3.0], [0.5, -0.5, 0.0]], &device);
        Targets::new(labels, weights, smoothing, &device).cross_entropy(logits).into_scalar()
    }

    #[test]
    fn equals_pytorch() {
        // torch.nn.functional.cross_entropy(x, tensor([2, 1]), label_smoothing=s), in float64
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(loss(&[2, 1], &[1.0; 3], 0.0), 1.043_937_8);
        close(loss(&[2, 1], &[1.0; 3], 0.1), 1.068_937_8);
        // By hand: log-softmax rows and the stated targets.
        let ls = |x: [f64; 3]| {
            let sum: f64 = x.iter().map(|v| v.exp()).sum();
            x.map(|v| v - sum.ln())
        };
        let (a, b) = (ls([1.0, 2.0, 3.0]), ls([0.5, -0.5, 0.0]));
        let smooth = |l: [f64; 3], y: usize| -(0.9 * l[y] + 0.1 / 3.0 * l.iter().sum::<f64>());
        let expected = (2.0 * smooth(a, 2) + 0.5 * smooth(b, 1)) / 2.5;
        close(loss(&[2, 1], &[1.0, 0.5, 2.0], 0.1), expected as f32);
    }

    #[test]
    fn mixed_targets_are_the_mean_of_both_by_weight() {
        let device = Device::default();
        let logits = [[1.0, 2.0, 3.0], [0.5, -0.5, 0.0]];
        let (weights, labels) = ([1.0, 0.5, 2.0], [2, 1]);
        let mixture = Mixture { partner: 1, own: 0.25, cut: None };
        let targets = Targets::mixed(&labels, &[Some(mixture), None], &weights, 0.1, &device);
        let loss = targets.cross_entropy(Tensor::from_data(logits, &device)).into_scalar::<f32>();
        // The first image counts as a quarter of an image of class 2 and three of class 1.
        let own = |row: [f32; 3], label: usize| {
            let logits = Tensor::<2>::from_data([row], &device);
            Targets::new(&[label], &weights, 0.1, &device)
                .cross_entropy(logits)
                .into_scalar::<f32>()
        };
        let parts = [
            (0.25 * weights[2], own(logits[0], 2)),
            (0.75 * weights[1], own(logits[0], 1)),
            (weights[1], own(logits[1], 1)),
        ];
        let total: f32 = parts.iter().map(|(w, _)| w).sum();
        let expected = parts.iter().map(|(w, l)| w * l).sum::<f32>() / total;
        assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
    }

    #[test]
    fn balanced_weights_make_classes_count_alike() {
        assert_eq!(balanced_weights(&[0, 0, 0, 1], 2), [2.0 / 3.0, 2.0]);
        assert_eq!(balanced_weights(&[0, 0], 2), [0.5, 1.0]);
    }
}
