//! Probabilities that mean what they say.

use crate::metrics::{log_loss, softmax};

/// The temperature by which logits are divided so that the mean log loss on `labels` is least
/// (Guo et al. 2017, <https://arxiv.org/abs/1706.04599>), from 0.05 to 20; 1 where there is nothing
/// to learn it from. Which class is likeliest does not change.
///
/// `logits` are `[n, classes]`, row-major, and `labels` `[n]`.
pub fn temperature(logits: &[f32], labels: &[usize], classes: usize) -> f64 {
    if labels.is_empty() || classes < 2 {
        return 1.0;
    }
    // Some thousands of rows tell as much as all.
    const VALUES: usize = 2_000_000;
    let step = logits.len().div_ceil(VALUES).max(1);
    let some: Vec<usize> = labels.iter().copied().step_by(step).collect();
    let rows: Vec<f32> = logits.chunks_exact(classes).step_by(step).flatten().copied().collect();
    let loss = |log: f64| scaled_loss(&rows, &some, classes, log.exp());
    // The loss has one minimum in 1 / T; golden sections close in on it in ln T.
    const RATIO: f64 = 0.618_033_988_749_894_9;
    let (mut low, mut high) = (0.05_f64.ln(), 20.0_f64.ln());
    while high - low > 1e-4 {
        let (a, b) = (high - RATIO * (high - low), low + RATIO * (high - low));
        if loss(a) <= loss(b) { high = b } else { low = a }
    }
    f64::midpoint(low, high).exp()
}

/// The mean log loss of logits divided by `temperature`, in nats.
pub fn scaled_loss(logits: &[f32], labels: &[usize], classes: usize, temperature: f64) -> f64 {
    let scaled: Vec<f32> = logits.iter().map(|v| (f64::from(*v) / temperature) as f32).collect();
    log_loss(&softmax(&scaled, classes), labels, classes).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use refit_data::Stream;

    use super::*;

    #[test]
    fn the_temperature_that_logits_were_made_with_is_found() {
        // Labels drawn from the probabilities of logits that are then multiplied.
        let mut random = Stream::new(1, "temperature", &[]);
        let (n, classes, factor) = (4000, 4, 2.5_f32);
        let honest: Vec<f32> = (0..n * classes).map(|_| 2.0 * random.normal() as f32).collect();
        let p = softmax(&honest, classes);
        let mut draw = |row: &[f32]| {
            let mut left = random.uniform_f32();
            let under = |p: &f32| {
                left -= p;
                left < 0.0
            };
            row.iter().position(under).unwrap_or(classes - 1)
        };
        let labels: Vec<usize> = p.chunks_exact(classes).map(&mut draw).collect();
        let loud: Vec<f32> = honest.iter().map(|v| v * factor).collect();
        let found = temperature(&loud, &labels, classes);
        assert!((found / f64::from(factor) - 1.0).abs() < 0.1, "{found}");
        let before = scaled_loss(&loud, &labels, classes, 1.0);
        assert!(scaled_loss(&loud, &labels, classes, found) < before);
    }

    #[test]
    fn nothing_to_learn_from_leaves_logits_as_they_are() {
        assert_eq!(temperature(&[], &[], 3), 1.0);
        assert_eq!(temperature(&[1.0, 2.0], &[0, 0], 1), 1.0);
        // All right: as sure as it may be.
        assert!(temperature(&[1.0, 0.0, 0.0, 1.0], &[0, 1], 2) < 0.06);
    }
}
