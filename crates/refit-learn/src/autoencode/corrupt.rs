//! Images spoiled before an autoencoder sees them, so that it learns more than to copy.

use refit_data::{Preprocess, Stream};
use serde::{Deserialize, Serialize};

/// What is done to an image before the encoder sees it; it is compared with the image as it was.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Corruption {
    /// The deviation of normal noise on every value, for pixels from 0 to 1 (Vincent et al. 2008,
    /// <https://doi.org/10.1145/1390156.1390294>); 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub noise: f64,
    /// The share of square patches that become the mean colour (He et al. 2021,
    /// <https://arxiv.org/abs/2111.06377>), from 0 to below 1; 0 for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mask: f64,
    /// Pixels of a patch's side, at most half the image's, 0 for an eighth of it; those at the right and lower edge may
    /// be smaller.
    #[serde(default, skip_serializing_if = "is_none")]
    pub patch: usize,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_none(value: &usize) -> bool {
    *value == 0
}

/// An epoch that no training has: what images held out are spoiled by, the same every time.
pub(super) const HELD_OUT: u64 = u64::MAX;

impl Corruption {
    /// Whether images stay as they are.
    pub fn is_nothing(&self) -> bool {
        self.noise == 0.0 && self.mask == 0.0
    }

    /// Spoils one image, `[3, size, size]`, as the network takes it. What happens depends on the seed,
    /// the epoch and the image's number alone. Gives which pixels lie in masked patches, `[size, size]`:
    /// 1 for one that does, else 0; empty where nothing is masked.
    ///
    /// # Panics
    /// If the image is not of the preprocessing's size.
    pub fn apply(
        &self,
        image: &mut [f32],
        preprocess: &Preprocess,
        (seed, epoch, index): (u64, u64, u64),
    ) -> Vec<f32> {
        assert_eq!(image.len(), preprocess.len(), "Corruption::apply: length of the image");
        let area = preprocess.size * preprocess.size;
        if self.noise > 0.0 {
            let mut stream = Stream::new(seed, "noise", &[epoch, index]);
            for (plane, std) in image.chunks_exact_mut(area).zip(preprocess.std) {
                let deviation = self.noise / f64::from(std);
                plane.iter_mut().for_each(|v| *v += (deviation * stream.normal()) as f32);
            }
        }
        if self.mask == 0.0 {
            return Vec::new();
        }
        let mut stream = Stream::new(seed, "mask", &[epoch, index]);
        let mask = self.masked(preprocess.size, &mut stream);
        for plane in image.chunks_exact_mut(area) {
            // Zero is the mean colour.
            plane.iter_mut().zip(&mask).filter(|(_, m)| **m > 0.0).for_each(|(v, _)| *v = 0.0);
        }
        mask
    }

    /// A share of the patches, the same number in every image, and at least one, but never all.
    fn masked(&self, size: usize, stream: &mut Stream) -> Vec<f32> {
        let patch =
            if self.patch == 0 { size.div_ceil(8) } else { self.patch.min(size.div_ceil(2)) };
        let across = size.div_ceil(patch);
        let count = across * across;
        let wanted = (self.mask * count as f64).round() as usize;
        let wanted = wanted.clamp(1, (count - 1).max(1));
        let mut is_masked = vec![0.0; count];
        for place in stream.permutation(count).into_iter().take(wanted) {
            is_masked[place] = 1.0;
        }
        let of = |at: usize| is_masked[at / size / patch * across + at % size / patch];
        (0..size * size).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use refit_data::{Interpolation, Resize};

    use super::*;

    const PLAIN: Preprocess = Preprocess {
        size: 20,
        resize: Resize::Squash,
        interpolation: Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.5, 0.25, 1.0],
    };

    fn spoiled(what: Corruption, key: (u64, u64, u64)) -> (Vec<f32>, Vec<f32>) {
        let mut image = vec![0.25; PLAIN.len()];
        let mask = what.apply(&mut image, &PLAIN, key);
        (image, mask)
    }

    #[test]
    fn keys_decide_and_nothing_else() {
        let both = Corruption { noise: 0.1, mask: 0.5, patch: 4 };
        assert_eq!(spoiled(both, (1, 2, 3)), spoiled(both, (1, 2, 3)));
        for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            let (image, mask) = spoiled(both, (1, 2, 3));
            assert_ne!(spoiled(both, other).0, image);
            assert_ne!(spoiled(both, other).1, mask);
        }
        assert_eq!(spoiled(Corruption::default(), (1, 2, 3)), (vec![0.25; PLAIN.len()], vec![]));
    }

    #[test]
    fn noise_has_its_deviation_in_pixels() {
        let (image, _) = spoiled(Corruption { noise: 0.1, ..Corruption::default() }, (0, 0, 0));
        for (plane, std) in image.chunks_exact(400).zip(PLAIN.std) {
            let pixels = plane.iter().map(|v| f64::from((v - 0.25) * std));
            let deviation = (pixels.map(|v| v * v).sum::<f64>() / 400.0).sqrt();
            assert!((deviation - 0.1).abs() < 0.012, "{deviation}");
        }
    }

    #[test]
    fn masks_cover_whole_patches_of_the_mean_colour() {
        for (share, patch, pixels) in [(0.75, 5, 12 * 25), (0.5, 10, 2 * 100), (0.01, 4, 16)] {
            let what = Corruption { mask: share, patch, noise: 0.0 };
            let (image, mask) = spoiled(what, (7, 0, 5));
            assert_eq!(mask.iter().filter(|m| **m == 1.0).count(), pixels);
            for (at, m) in mask.iter().enumerate() {
                let corner = at / 20 / patch * patch * 20 + at % 20 / patch * patch;
                assert_eq!(mask[corner], *m);
                for plane in image.chunks_exact(400) {
                    assert_eq!(plane[at], if *m == 1.0 { 0.0 } else { 0.25 });
                }
            }
        }
        let eighths = spoiled(Corruption { mask: 0.5, patch: 0, noise: 0.0 }, (0, 0, 0)).1;
        assert_eq!(eighths, spoiled(Corruption { mask: 0.5, patch: 3, noise: 0.0 }, (0, 0, 0)).1);
        // Patches that do not divide the image are cut off at its edges.
        let uneven = spoiled(Corruption { mask: 0.99, patch: 16, noise: 0.0 }, (0, 0, 0)).1;
        assert!(uneven.contains(&1.0) && uneven.contains(&0.0));
    }
}
