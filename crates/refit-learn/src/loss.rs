//! Softmax cross-entropy with label smoothing, class weights, focus on hard images, and adjustment to
//! the classes' shares.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use refit_data::Mixture;

/// What the loss compares logits with.
#[derive(Debug, Clone)]
pub struct Targets {
    /// Distributions over classes, each row scaled by its image's weight: `[n, classes]`.
    weighted: Tensor<2>,
    /// The exponent of the focal loss; 0 for plain cross-entropy.
    focus: f64,
    /// What logits are raised by before they are compared: `[1, classes]`.
    offsets: Option<Tensor<2>>,
}

/// What one minus a probability is at least in the focal loss, whose slope may be infinite at 0.
const LEAST_DOUBT: f64 = 1e-6;

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
        Self::of_shares(labels, mixtures, &[], class_weights, smoothing, device)
    }

    /// As [`mixed`](Self::mixed) for images that do not count alike: `shares` is `[n]` and not negative,
    /// or empty where all count for 1. Where nothing counts at all, the loss is 0.
    ///
    /// # Panics
    /// As [`mixed`](Self::mixed).
    pub fn of_shares(
        labels: &[usize],
        mixtures: &[Option<Mixture>],
        shares: &[f32],
        class_weights: &[f32],
        smoothing: f64,
        device: &Device,
    ) -> Self {
        let classes = class_weights.len();
        let counts = |image: usize| shares.get(image).copied().unwrap_or(1.0);
        let parts = |image: usize| {
            let mixture = mixtures.get(image).copied().flatten();
            let own = mixture.map_or(1.0, |m| m.own);
            let partner = mixture.map(|m| (labels[m.partner], (1.0 - own) * counts(m.partner)));
            std::iter::once((labels[image], own * counts(image))).chain(partner)
        };
        let weight = |(label, share): (usize, f32)| share * class_weights[label];
        let total: f32 = (0..labels.len()).flat_map(parts).map(weight).sum();
        let total = if total > 0.0 { total } else { 1.0 };
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
        Self { weighted: Tensor::from_data(data, device), focus: 0.0, offsets: None }
    }

    /// Lets what a network is sure of count less: each class's part of the cross-entropy is multiplied
    /// by `(1 - p)^gamma`, `p` being its probability (the focal loss: Lin et al. 2017,
    /// <https://arxiv.org/abs/1708.02002>, over a softmax). `gamma` is at least 0, which changes
    /// nothing.
    pub fn focused(self, gamma: f64) -> Self {
        Self { focus: gamma, ..self }
    }

    /// Adds `offsets`, `[classes]`, to the logits of every image before they are compared, such as
    /// [`log_shares`] (logit adjustment: Menon et al. 2021, <https://arxiv.org/abs/2007.07314>, with
    /// tau = 1). Empty ones change nothing.
    ///
    /// # Panics
    /// If there are offsets, but not one a class.
    pub fn adjusted(self, offsets: &[f32]) -> Self {
        let [_, classes] = self.weighted.dims();
        let row = || {
            assert_eq!(offsets.len(), classes, "adjusted: one offset a class");
            let data = TensorData::new(offsets.to_vec(), [1, classes]);
            Tensor::from_data(data, &self.weighted.device())
        };
        Self { offsets: (!offsets.is_empty()).then(row), ..self }
    }

    /// The mean cross-entropy of logits `[n, classes]` against the targets; the mean focal loss where
    /// these are focused.
    pub fn cross_entropy(&self, logits: Tensor<2>) -> Tensor<1> {
        let alike = |x: &Tensor<2>| match logits.is_autodiff() {
            true => x.clone().autodiff(),
            false => x.clone(),
        };
        let targets = alike(&self.weighted);
        let offsets = self.offsets.as_ref().map(alike);
        let logits = offsets.map_or(logits.clone(), |offsets| logits + offsets);
        let log_p = log_softmax(logits, 1);
        if self.focus == 0.0 {
            return -(log_p * targets).sum();
        }
        let doubt = (-log_p.clone().exp() + 1.0).clamp_min(LEAST_DOUBT);
        -(doubt.powf_scalar(self.focus) * log_p * targets).sum()
    }
}

/// The logarithm of each class's share of the images: what [`Targets::adjusted`] takes so that every
/// class counts alike in what a network learns. A class without images counts as if it had one.
pub fn log_shares(labels: &[usize], classes: usize) -> Vec<f32> {
    let all = labels.len().max(1) as f32;
    counts(labels, classes).into_iter().map(|n| (n.max(1) as f32 / all).ln()).collect()
}

fn counts(labels: &[usize], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    labels.iter().for_each(|&label| counts[label] += 1);
    counts
}

/// Weights by which every class counts alike: `n / (classes * images of the class)`; 1 for a class
/// without images.
pub fn balanced_weights(labels: &[usize], classes: usize) -> Vec<f32> {
    let share = labels.len() as f32 / classes as f32;
    let weight = |n| if n == 0 { 1.0 } else { share / n as f32 };
    counts(labels, classes).into_iter().map(weight).collect()
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

    const LOGITS: [[f32; 3]; 2] = [[1.0, 2.0, 3.0], [0.5, -0.5, 0.0]];

    /// The focal loss over adjusted logits in f64, from its formula.
    fn by_formula(logits: [[f64; 3]; 2], targets: [[f64; 3]; 2], gamma: f64, add: [f64; 3]) -> f64 {
        let row = |(x, t): ([f64; 3], [f64; 3])| -> f64 {
            let x = [x[0] + add[0], x[1] + add[1], x[2] + add[2]];
            let all = x.iter().map(|v| v.exp()).sum::<f64>();
            let part = |(v, t): (f64, f64)| {
                let p = v.exp() / all;
                -t * (1.0 - p).powf(gamma) * p.ln()
            };
            x.into_iter().zip(t).map(part).sum()
        };
        logits.into_iter().zip(targets).map(row).sum()
    }

    #[test]
    fn the_focal_loss_is_that_of_the_paper() {
        let device = Device::default();
        let of = |gamma| {
            let targets = Targets::new(&[2, 1], &[1.0; 3], 0.0, &device).focused(gamma);
            targets.cross_entropy(Tensor::<2>::from_data(LOGITS, &device)).into_scalar::<f32>()
        };
        // ce = -log_softmax(x)[y]; ((1 - exp(-ce)) ** gamma * ce).mean(), in float64
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(of(0.0), 1.043_937_8);
        close(of(2.0), 0.579_066_2);
        close(of(0.5), 0.875_752_4);
    }

    /// With weights, smoothing, a mixture and adjustment, value and gradient.
    #[test]
    fn gradients_of_the_focal_loss_are_its_differences() {
        let device = Device::default();
        let (weights, labels) = ([1.0, 0.5, 2.0], [2, 1]);
        let mixture = Mixture { partner: 1, own: 0.25, cut: None };
        for (gamma, add) in [(2.0, [-0.5, -1.5, -1.0]), (0.5, [0.0; 3]), (1.0, [0.3, 0.0, -2.0])] {
            let offsets = add.map(|v: f64| v as f32);
            let targets = Targets::mixed(&labels, &[Some(mixture), None], &weights, 0.1, &device)
                .focused(gamma)
                .adjusted(&offsets);
            let shares: Vec<f32> = targets.weighted.to_data().try_to_vec().unwrap();
            let shares = [0, 3].map(|i| [0, 1, 2].map(|c| f64::from(shares[i + c])));
            let logits = LOGITS.map(|row| row.map(f64::from));
            let leaf = Tensor::<2>::from_data(LOGITS, &device).autodiff().require_grad();
            let loss = targets.cross_entropy(leaf.clone());
            let gradients = loss.backward();
            let found: Vec<f32> = leaf.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
            let value = by_formula(logits, shares, gamma, add);
            assert!((f64::from(loss.into_scalar::<f32>()) - value).abs() < 1e-6);
            for (at, found) in found.into_iter().enumerate() {
                let moved = |step: f64| {
                    let mut logits = logits;
                    logits[at / 3][at % 3] += step;
                    by_formula(logits, shares, gamma, add)
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((f64::from(found) - slope).abs() < 1e-5, "{gamma} {at}: {found} {slope}");
            }
        }
    }

    /// Where a network is sure of what is right, the focal loss is flat and not infinitely steep.
    #[test]
    fn what_is_certain_has_a_finite_gradient() {
        let device = Device::default();
        for gamma in [0.5, 1.0, 2.0, 5.0] {
            let logits = Tensor::<2>::from_data([[200.0, 0.0, -200.0]], &device);
            let leaf = logits.autodiff().require_grad();
            let targets = Targets::new(&[0], &[1.0; 3], 0.0, &device).focused(gamma);
            let gradients = targets.cross_entropy(leaf.clone()).backward();
            let found: Vec<f32> = leaf.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
            assert!(found.iter().all(|g| g.abs() < 1e-2), "{gamma}: {found:?}");
        }
    }

    /// What does not count is as if it were not there.
    #[test]
    fn shares_weigh_images() {
        let device = Device::default();
        let loss = |labels: &[usize], shares: &[f32], logits: &[[f32; 3]]| {
            let targets = Targets::of_shares(labels, &[], shares, &[1.0; 3], 0.1, &device);
            let values = logits.concat();
            let data = TensorData::new(values, [logits.len(), 3]);
            targets.cross_entropy(Tensor::<2>::from_data(data, &device)).into_scalar::<f32>()
        };
        let (one, other) = (loss(&[2], &[], &LOGITS[..1]), loss(&[1], &[], &LOGITS[1..]));
        assert_eq!(loss(&[2, 1], &[1.0, 0.0], &LOGITS), one);
        assert!((loss(&[2, 1], &[1.0, 3.0], &LOGITS) - (one + 3.0 * other) / 4.0).abs() < 1e-6);
        assert_eq!(loss(&[2, 1], &[0.0, 0.0], &LOGITS), 0.0);
    }

    #[test]
    fn adjusted_logits_are_raised_by_the_shares() {
        let device = Device::default();
        let shares = log_shares(&[0, 0, 0, 1], 3);
        assert_eq!(shares, [0.75_f32.ln(), 0.25_f32.ln(), 0.25_f32.ln()]);
        let targets = || Targets::new(&[2, 1], &[1.0; 3], 0.1, &device);
        let of = |targets: Targets, logits: [[f32; 3]; 2]| {
            targets.cross_entropy(Tensor::<2>::from_data(logits, &device)).into_scalar::<f32>()
        };
        let raised = LOGITS.map(|row| [row[0] + shares[0], row[1] + shares[1], row[2] + shares[2]]);
        assert_eq!(of(targets().adjusted(&shares), LOGITS), of(targets(), raised));
        assert_eq!(of(targets().adjusted(&[]), LOGITS), of(targets(), LOGITS));
    }

    #[test]
    fn balanced_weights_make_classes_count_alike() {
        assert_eq!(balanced_weights(&[0, 0, 0, 1], 2), [2.0 / 3.0, 2.0]);
        assert_eq!(balanced_weights(&[0, 0], 2), [0.5, 1.0]);
    }
}
