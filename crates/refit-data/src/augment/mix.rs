//! Mixup and CutMix: images made of two, with the classes of both.

use serde::{Deserialize, Serialize};

use crate::Stream;

/// How images of a batch are mixed, and their classes with them.
///
/// Each image is mixed, or not, with its successor in the batch, whose order is random already; the
/// last with the first. Share and rectangle are drawn for each image by itself, not once a batch: a
/// batch of sixteen then holds sixteen mixtures, not sixteen of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Mix {
    /// Probability that an image is mixed at all.
    pub probability: f64,
    /// Mixup's alpha: weighted means of two images, weights from Beta(alpha, alpha) (Zhang et al.
    /// 2018, <https://arxiv.org/abs/1710.09412>); 0 for none.
    pub mixup: f64,
    /// CutMix's alpha: a rectangle from another image, its area from Beta(alpha, alpha) (Yun et al.
    /// 2019, <https://arxiv.org/abs/1905.04899>); 0 for none. With both, either is as likely.
    pub cutmix: f64,
}

impl Default for Mix {
    /// torchvision's alphas: 0.2 and 1.
    fn default() -> Self {
        Self { probability: 0.5, mixup: 0.2, cutmix: 1.0 }
    }
}

/// What an image takes from another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    /// The other image's place in the batch.
    pub partner: usize,
    /// The share of the image's own class, `[0, 1]`; the rest is the partner's.
    pub own: f32,
    /// The rectangle that is the partner's (left, top, width, height); none where the two are
    /// averaged.
    pub cut: Option<[usize; 4]>,
}

impl Mix {
    /// What becomes of each image of a batch; none stays as it is. `indices` are the images' positions
    /// among the training images: the same (seed, epoch, image) draws the same.
    pub fn draw(
        &self,
        seed: u64,
        epoch: usize,
        indices: &[usize],
        size: usize,
    ) -> Vec<Option<Mixture>> {
        let n = indices.len();
        let one = |(place, &index): (usize, &usize)| {
            let mut stream = Stream::new(seed, "mix", &[epoch as u64, index as u64]);
            // An image does not mix with itself.
            (stream.chance(self.probability) && n > 1)
                .then(|| self.mixture((place + 1) % n, size, &mut stream))
        };
        indices.iter().enumerate().map(one).collect()
    }

    fn mixture(&self, partner: usize, size: usize, stream: &mut Stream) -> Mixture {
        let averages = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => stream.chance(0.5),
            (averages, _) => averages,
        };
        if averages {
            let own = beta(self.mixup, stream) as f32;
            return Mixture { partner, own, cut: None };
        }
        let own = beta(self.cutmix, stream);
        let side = size as f64 * libm::sqrt(1.0 - own);
        let [left, width] = interval(stream.below(size), side, size);
        let [top, height] = interval(stream.below(size), side, size);
        // What the edges cut off is not the partner's.
        let own = 1.0 - (width * height) as f32 / (size * size) as f32;
        Mixture { partner, own, cut: Some([left, top, width, height]) }
    }

    /// Mixes the images of a batch, `[n, 3, size, size]`, as drawn.
    ///
    /// # Panics
    /// If `images` is not as long as that, or a partner lies outside.
    pub fn apply(images: &mut [f32], size: usize, mixtures: &[Option<Mixture>]) {
        let length = 3 * size * size;
        assert_eq!(images.len(), mixtures.len() * length, "Mix::apply: length of `images`");
        // Partners give what they were before, and each has been its predecessor's only.
        let first = images.get(..length).map(<[f32]>::to_vec).unwrap_or_default();
        for (place, mixture) in mixtures.iter().enumerate() {
            let Some(mixture) = mixture else { continue };
            let (own, behind) = images[place * length..].split_at_mut(length);
            let partner = match mixture.partner {
                0 => first.as_slice(),
                next => {
                    assert_eq!(next, place + 1, "Mix::apply: partners are successors");
                    &behind[..length]
                }
            };
            mixture.apply(own, partner, size);
        }
    }
}

impl Mixture {
    /// Mixes one image, `[3, size, size]`, with its partner.
    ///
    /// # Panics
    /// If they are not as long as that.
    pub fn apply(&self, image: &mut [f32], partner: &[f32], size: usize) {
        assert_eq!([image.len(), partner.len()], [3 * size * size; 2], "Mixture::apply: lengths");
        let Some([left, top, width, height]) = self.cut else {
            let rest = 1.0 - self.own;
            image.iter_mut().zip(partner).for_each(|(v, p)| *v = self.own * *v + rest * p);
            return;
        };
        for channel in 0..3 {
            for y in top..top + height {
                let at = (channel * size + y) * size + left;
                image[at..at + width].copy_from_slice(&partner[at..at + width]);
            }
        }
    }
}

/// Start and length of what lies `length` wide about a centre and within a side.
fn interval(centre: usize, length: f64, side: usize) -> [usize; 2] {
    let half = length / 2.0;
    let start = (centre as f64 - half).max(0.0) as usize;
    let end = ((centre as f64 + half) as usize).min(side);
    [start, end - start]
}

/// From Beta(alpha, alpha), of two gamma variates.
fn beta(alpha: f64, stream: &mut Stream) -> f64 {
    let (a, b) = (gamma(alpha, stream), gamma(alpha, stream));
    // Both underflow only for a tiny alpha, whose mixtures are all of one image.
    if a + b > 0.0 { a / (a + b) } else { 1.0 }
}

/// From Gamma(shape, 1) (Marsaglia and Tsang 2000); for shapes below 1 through the next one.
fn gamma(shape: f64, stream: &mut Stream) -> f64 {
    if shape < 1.0 {
        let power = libm::pow(1.0 - stream.uniform(), 1.0 / shape);
        return power * gamma(shape + 1.0, stream);
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / libm::sqrt(9.0 * d);
    loop {
        let x = stream.normal();
        let root = 1.0 + c * x;
        let v = root * root * root;
        if v > 0.0 && libm::log(1.0 - stream.uniform()) < 0.5 * x * x + d * (1.0 - v + libm::log(v))
        {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_distributed_as_the_papers_say() {
        for (alpha, variance) in [(0.2, 1.0 / (4.0 * 1.4)), (1.0, 1.0 / 12.0), (4.0, 1.0 / 36.0)] {
            let mut stream = Stream::new(1, "beta", &[]);
            let draws: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut stream)).collect();
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let spread = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
            assert!((mean - 0.5).abs() < 0.01, "{alpha}: {mean}");
            assert!((spread / variance - 1.0).abs() < 0.05, "{alpha}: {spread}");
            assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)));
        }
    }

    #[test]
    fn mixtures_are_what_their_shares_say() {
        const SIZE: usize = 12;
        let length = 3 * SIZE * SIZE;
        let mix = Mix { probability: 0.7, ..Mix::default() };
        let indices: Vec<usize> = (0..40).map(|i| 100 + i).collect();
        let mixtures = mix.draw(1, 2, &indices, SIZE);
        assert_eq!(mixtures, mix.draw(1, 2, &indices, SIZE));
        assert_ne!(mixtures, mix.draw(1, 3, &indices, SIZE));
        let mut images: Vec<f32> = (0..40 * length).map(|i| (i / length) as f32).collect();
        Mix::apply(&mut images, SIZE, &mixtures);
        let (mut averaged, mut cut, mut plain) = (0, 0, 0);
        for (place, mixture) in mixtures.iter().enumerate() {
            let image = &images[place * length..][..length];
            let mean = image.iter().sum::<f32>() / length as f32;
            let Some(m) = mixture else {
                plain += 1;
                assert!(image.iter().all(|v| *v == place as f32));
                continue;
            };
            assert_eq!(m.partner, (place + 1) % 40);
            let expected = m.own * place as f32 + (1.0 - m.own) * m.partner as f32;
            assert!((mean - expected).abs() < 1e-3, "{m:?}: {mean}, not {expected}");
            match m.cut {
                Some([left, top, width, height]) => {
                    assert!(left + width <= SIZE && top + height <= SIZE);
                    cut += 1;
                }
                None => averaged += 1,
            }
        }
        assert!(averaged > 4 && cut > 4 && plain > 4, "{averaged} {cut} {plain}");
    }

    #[test]
    fn one_kind_alone_and_one_image_alone() {
        let indices: Vec<usize> = (0..50).collect();
        let only = |mixup, cutmix| Mix { probability: 1.0, mixup, cutmix };
        let cuts = |mix: Mix| {
            let drawn = mix.draw(1, 0, &indices, 8);
            drawn.iter().flatten().filter(|m| m.cut.is_some()).count()
        };
        assert_eq!((cuts(only(0.2, 0.0)), cuts(only(0.0, 1.0))), (0, 50));
        assert_eq!(only(0.2, 1.0).draw(1, 0, &[3], 8), [None]);
    }
}
