//! Random erasing.

use serde::{Deserialize, Serialize};

use crate::{RgbImage, Stream};

/// Covers a rectangle of the image with the mean colour (Zhong et al. 2020,
/// <https://arxiv.org/abs/1708.04896>), as torchvision's `RandomErasing` does by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Erasing {
    /// Probability of erasing anything.
    pub probability: f64,
    /// Least and greatest share of the image's area, each in `(0, 1)`.
    pub area: [f64; 2],
    /// Least and greatest height over width; drawn evenly in its logarithm.
    pub ratio: [f64; 2],
}

impl Default for Erasing {
    /// torchvision's: half of the images, 2 to 33% of the area.
    fn default() -> Self {
        Self { probability: 0.5, area: [0.02, 0.33], ratio: [0.3, 3.3] }
    }
}

impl Erasing {
    pub(super) fn apply(&self, image: &mut RgbImage, fill: [u8; 3], stream: &mut Stream) {
        if !stream.chance(self.probability) {
            return;
        }
        let Some([left, top, width, height]) = self.draw(image.width(), image.height(), stream)
        else {
            return;
        };
        let stride = image.width() as usize;
        let rows = image.pixels_mut().as_chunks_mut::<3>().0.chunks_exact_mut(stride);
        rows.skip(top).take(height).for_each(|row| row[left..left + width].fill(fill));
    }

    /// Left, top, width, height; none if ten tries give no rectangle that is smaller than the image.
    fn draw(&self, width: u32, height: u32, stream: &mut Stream) -> Option<[usize; 4]> {
        let (w, h) = (f64::from(width), f64::from(height));
        let [low, high] = self.ratio;
        for _ in 0..10 {
            let area = w * h * stream.range(self.area[0], self.area[1]);
            let ratio = libm::exp(stream.range(libm::log(low), libm::log(high)));
            let tall = libm::sqrt(area * ratio).round_ties_even();
            let wide = libm::sqrt(area / ratio).round_ties_even();
            if tall < h && wide < w {
                let top = stream.below((h - tall) as usize + 1);
                let left = stream.below((w - wide) as usize + 1);
                return Some([left, top, wide as usize, tall as usize]);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erased_shares_keep_to_their_range() {
        let erasing = Erasing { probability: 1.0, ..Erasing::default() };
        let mut shares = Vec::new();
        for n in 0..300 {
            let mut image = RgbImage::filled(60, 40, [9; 3]);
            erasing.apply(&mut image, [1; 3], &mut Stream::new(1, "erase", &[n]));
            let erased = image.pixels().iter().filter(|v| **v == 1).count();
            shares.push(erased as f64 / image.pixels().len() as f64);
        }
        assert!(shares.iter().all(|s| (0.015..0.35).contains(s)), "{shares:?}");
        assert!(shares.iter().any(|s| *s < 0.05) && shares.iter().any(|s| *s > 0.28));
    }

    #[test]
    fn tiny_images_stay() {
        let erasing = Erasing { probability: 1.0, ..Erasing::default() };
        let mut image = RgbImage::filled(1, 1, [9; 3]);
        erasing.apply(&mut image, [1; 3], &mut Stream::new(1, "erase", &[]));
        assert_eq!(image.pixel(0, 0), [9; 3]);
    }
}
