//! Softmax cross-entropy: the loss and its gradient in one pass over the logits.

use crate::threads::{Shared, parallel, with_scratch};

/// What a batch is compared with.
#[derive(Debug, Clone, Copy)]
pub enum Targets<'a> {
    /// A class a sample, `[n]`.
    Classes(&'a [usize]),
    /// A weight for each class and sample, `[n, classes]`: mixed or softened labels.
    Soft(&'a [f32]),
}

/// Softmax cross-entropy (`torch.nn.CrossEntropyLoss`, averaged over the batch).
#[derive(Debug, Clone, Copy, Default)]
pub struct CrossEntropy<'a> {
    /// The share of each target that is spread over all classes alike, 0 to 1.
    pub smoothing: f32,
    /// A factor a class. With [`Targets::Classes`], the mean is weighted by them.
    pub class_weights: Option<&'a [f32]>,
}

/// Samples of a task.
const SAMPLES: usize = 16;

/// The mean loss of a batch; `gradient`, `[n, classes]`, is that of the mean with respect to the
/// logits. An empty batch has the loss 0.
///
/// # Panics
/// If `logits` and `gradient` are not `[n, classes]` for the targets' `n`, a target is no class, or
/// there are not as many class weights as classes.
pub fn cross_entropy(
    settings: &CrossEntropy,
    classes: usize,
    logits: &[f32],
    targets: Targets,
    gradient: &mut [f32],
) -> f64 {
    let n = check(settings, classes, logits, targets, gradient.len());
    if n == 0 {
        return 0.0;
    }
    let share = 1.0 / divisor(settings, targets, n);
    with_scratch(n, |losses| {
        let (all, each) = (Shared::new(gradient), Shared::new(losses));
        parallel(n.div_ceil(SAMPLES), |task| {
            for i in task * SAMPLES..((task + 1) * SAMPLES).min(n) {
                // SAFETY: each sample is of one task.
                let (gradient, loss) = unsafe { (all.part(i * classes, classes), each.part(i, 1)) };
                let target = Target::new(settings, targets, i, classes);
                loss[0] = sample(&logits[i * classes..][..classes], &target, share, gradient);
            }
        });
        losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() * share
    })
}

/// Samples of the batch.
fn check(
    settings: &CrossEntropy,
    classes: usize,
    logits: &[f32],
    targets: Targets,
    gradient: usize,
) -> usize {
    let weights = settings.class_weights.map_or(classes, <[f32]>::len);
    assert_eq!(weights, classes, "cross_entropy: number of class weights");
    assert_eq!(gradient, logits.len(), "cross_entropy: lengths of `gradient` and `logits`");
    let n = match targets {
        Targets::Classes(targets) => {
            assert!(targets.iter().all(|t| *t < classes), "cross_entropy: a target is no class");
            targets.len()
        }
        Targets::Soft(soft) => {
            assert_eq!(soft.len(), logits.len(), "cross_entropy: length of the soft targets");
            soft.len().checked_div(classes).unwrap_or(0)
        }
    };
    assert_eq!(logits.len(), n * classes, "cross_entropy: length of `logits`");
    n
}

/// What the sum over the batch is divided by.
fn divisor(settings: &CrossEntropy, targets: Targets, n: usize) -> f64 {
    match (targets, settings.class_weights) {
        (Targets::Classes(targets), Some(weights)) => {
            targets.iter().map(|t| f64::from(weights[*t])).sum()
        }
        _ => n as f64,
    }
}

/// The weight of each class in a sample's loss.
struct Target<'a> {
    class: Option<usize>,
    soft: Option<&'a [f32]>,
    /// What a target keeps, and what each class gets.
    kept: f32,
    spread: f32,
    weights: Option<&'a [f32]>,
}

impl<'a> Target<'a> {
    fn new(
        settings: &CrossEntropy<'a>,
        targets: Targets<'a>,
        sample: usize,
        classes: usize,
    ) -> Self {
        let (class, soft) = match targets {
            Targets::Classes(targets) => (Some(targets[sample]), None),
            Targets::Soft(soft) => (None, Some(&soft[sample * classes..][..classes])),
        };
        let smoothing = settings.smoothing;
        let (kept, spread) = (1.0 - smoothing, smoothing / classes as f32);
        Self { class, soft, kept, spread, weights: settings.class_weights }
    }

    fn of(&self, class: usize) -> f32 {
        let own =
            self.soft.map_or(f32::from(u8::from(self.class == Some(class))), |soft| soft[class]);
        (self.kept * own + self.spread) * self.weights.map_or(1.0, |w| w[class])
    }
}

/// A sample's loss; its gradient is multiplied by `share`.
fn sample(logits: &[f32], target: &Target, share: f64, gradient: &mut [f32]) -> f32 {
    // The greatest is taken off, so that no exponential overflows; a NaN goes through to the loss.
    let greatest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let mut sum = 0.0f64;
    for (g, logit) in gradient.iter_mut().zip(logits) {
        *g = (logit - greatest).exp();
        sum += f64::from(*g);
    }
    let log_sum = sum.ln();
    let (mut loss, mut total) = (0.0f64, 0.0f64);
    for (class, logit) in logits.iter().enumerate() {
        let weight = f64::from(target.of(class));
        // A class of no weight adds nothing, be its probability zero.
        if weight != 0.0 {
            loss += weight * (log_sum - f64::from(logit - greatest));
            total += weight;
        }
    }
    for (class, g) in gradient.iter_mut().enumerate() {
        let probability = f64::from(*g) / sum;
        *g = ((total * probability - f64::from(target.of(class))) * share) as f32;
    }
    if sum.is_nan() { f32::NAN } else { loss as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{on_threads, values};

    /// The loss by its definition: `-sum(weight * log(softmax))`.
    fn exact(s: &CrossEntropy, classes: usize, logits: &[f64], targets: Targets) -> f64 {
        let n = logits.len() / classes;
        let (mut loss, mut divisor) = (0.0, 0.0);
        for i in 0..n {
            let row = &logits[i * classes..][..classes];
            let log_sum = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            let weight = |c: usize| s.class_weights.map_or(1.0, |w| f64::from(w[c]));
            for (c, x) in row.iter().enumerate() {
                let own = match targets {
                    Targets::Classes(targets) => f64::from(u8::from(targets[i] == c)),
                    Targets::Soft(soft) => f64::from(soft[i * classes + c]),
                };
                let smoothing = f64::from(s.smoothing);
                let own = own * (1.0 - smoothing) + smoothing / classes as f64;
                loss += weight(c) * own * (log_sum - x);
            }
            divisor += match targets {
                Targets::Classes(targets) => weight(targets[i]),
                Targets::Soft(_) => 1.0,
            };
        }
        loss / divisor
    }

    #[test]
    fn loss_and_gradient_equal_their_definition() {
        for (n, classes) in [(1, 1), (1, 2), (3, 5), (40, 10), (17, 33)] {
            let logits: Vec<f32> = values(n * classes, 1).iter().map(|v| 3.0 * v).collect();
            let wide: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
            let indices: Vec<usize> = (0..n).map(|i| i * 7 % classes).collect();
            let soft: Vec<f32> = values(n * classes, 2).iter().map(|v| v.abs()).collect();
            let weights: Vec<f32> = values(classes, 3).iter().map(|v| v.abs() + 0.1).collect();
            for targets in [Targets::Classes(&indices), Targets::Soft(&soft)] {
                for (smoothing, class_weights) in
                    [(0.0, None), (0.1, None), (0.0, Some(&*weights)), (0.2, Some(&*weights))]
                {
                    let settings = CrossEntropy { smoothing, class_weights };
                    let mut gradient = vec![f32::NAN; logits.len()];
                    let mut run =
                        || cross_entropy(&settings, classes, &logits, targets, &mut gradient);
                    let loss = on_threads(2, &mut run);
                    let of = |x: &[f64]| exact(&settings, classes, x, targets);
                    assert!((loss - of(&wide)).abs() < 1e-6 * of(&wide).abs().max(1.0));
                    for i in (0..logits.len()).step_by(3) {
                        let moved = |by: f64| {
                            let mut x = wide.clone();
                            x[i] += by;
                            of(&x)
                        };
                        // Central differences are good to 1e-9 here.
                        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                        assert!((f64::from(gradient[i]) - slope).abs() < 1e-6, "{i}");
                    }
                }
            }
        }
    }

    #[test]
    fn great_logits_and_nans() {
        let settings = CrossEntropy::default();
        let mut gradient = [0.0; 2];
        let logits = [1e30, -1e30];
        let mut of =
            |x: &[f32]| cross_entropy(&settings, 2, x, Targets::Classes(&[0]), &mut gradient);
        assert_eq!(of(&logits), 0.0);
        assert!(of(&[f32::NAN, 0.0]).is_nan());
        assert_eq!(cross_entropy(&settings, 2, &[], Targets::Classes(&[]), &mut []), 0.0);
    }

    #[test]
    #[should_panic(expected = "cross_entropy: a target is no class")]
    fn targets_are_classes() {
        let targets = Targets::Classes(&[2]);
        cross_entropy(&CrossEntropy::default(), 2, &[0.0; 2], targets, &mut [0.0; 2]);
    }
}
