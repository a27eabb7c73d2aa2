//! Histograms of colours: Swain and Ballard 1991, "Color indexing",
//! <https://doi.org/10.1007/BF00130487>; over a grid, so that it counts where a colour is.

use serde::{Deserialize, Serialize};

use super::Misfit;
use super::conv2d::MOST_CHANNELS;
use crate::shape::Shape;

/// Joint histograms of hue, saturation and value in the squares of a grid:
/// `[n, 3, h, w] -> [n, grid grid hues saturations values]`, of red, green and blue from 0 to 1.
///
/// What is given are the square roots of the pixels' shares, whose products compare histograms as the
/// Bhattacharyya coefficient does; a square's have length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColourHistogram {
    /// Squares along a side of the image.
    pub grid: usize,
    /// Bins of the hue, around the circle.
    pub hues: usize,
    /// Bins of the saturation.
    pub saturations: usize,
    /// Bins of the value.
    pub values: usize,
}

impl ColourHistogram {
    /// Over `grid` by `grid` squares: eight hues of three saturations and three values each.
    pub const fn new(grid: usize) -> Self {
        Self { grid, hues: 8, saturations: 3, values: 3 }
    }

    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let sane = [self.grid, self.hues, self.saturations, self.values]
            .iter()
            .all(|v| (1..=64).contains(v));
        match input {
            Shape::Map { channels: 3, height, width }
                if sane && height.min(width) >= self.grid && self.features() <= MOST_CHANNELS =>
            {
                Ok(Shape::vector(self.features()))
            }
            x => {
                let grid = self.grid;
                Err(Misfit(format!("takes colours in {grid}x{grid} squares, given {x}")))
            }
        }
    }

    pub(super) const fn bins(&self) -> usize {
        self.hues * self.saturations * self.values
    }

    /// Values of an image.
    pub(crate) const fn features(&self) -> usize {
        self.grid * self.grid * self.bins()
    }

    /// Describes one image `x`, `[h, w, 3]`, into `y`.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub(crate) fn describe(&self, x: &[f32], [height, width, _]: [usize; 3], y: &mut [f32]) {
        y.fill(0.0);
        let bins = self.bins();
        let mut pixels = vec![0_u32; self.grid * self.grid];
        for (at, pixel) in x.chunks_exact(3).enumerate() {
            let [row, column] = [at / width * self.grid / height, at % width * self.grid / width];
            let square = row * self.grid + column;
            y[square * bins + self.bin([pixel[0], pixel[1], pixel[2]])] += 1.0;
            pixels[square] += 1;
        }
        for (square, &pixels) in y.chunks_exact_mut(bins).zip(&pixels) {
            square.iter_mut().for_each(|v| *v = (*v / pixels as f32).sqrt());
        }
    }

    fn bin(&self, rgb: [f32; 3]) -> usize {
        let [hue, saturation, value] = hsv(rgb);
        let bin = |share: f32, bins: usize| ((share * bins as f32) as usize).min(bins - 1);
        // A bin's middle is at a pure colour: both ends of the circle are red.
        let hue = (hue + 0.5 / self.hues as f32).rem_euclid(1.0);
        let hue = bin(hue, self.hues) * self.saturations + bin(saturation, self.saturations);
        hue * self.values + bin(value, self.values)
    }
}

/// Hue as a share of the circle that begins at red, saturation and value, all from 0 to 1 (Smith
/// 1978, <https://doi.org/10.1145/965139.807361>).
fn hsv(rgb: [f32; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(|v| v.clamp(0.0, 1.0));
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    if range <= 0.0 {
        return [0.0, 0.0, most];
    }
    let sixths = match most {
        m if m == r => (g - b) / range,
        m if m == g => 2.0 + (b - r) / range,
        _ => 4.0 + (r - g) / range,
    };
    [(sixths / 6.0).rem_euclid(1.0), range / most, most]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_colours_have_known_hues() {
        let close = |rgb: [f32; 3], hsv_: [f32; 3]| {
            let found = hsv(rgb);
            assert!(
                found.iter().zip(hsv_).all(|(a, b)| (a - b).abs() < 1e-6),
                "{rgb:?}: {found:?}"
            );
        };
        close([1.0, 0.0, 0.0], [0.0, 1.0, 1.0]);
        close([0.0, 0.5, 0.0], [1.0 / 3.0, 1.0, 0.5]);
        close([0.5, 0.5, 1.0], [2.0 / 3.0, 0.5, 1.0]);
        close([1.0, 0.0, 0.5], [11.0 / 12.0, 1.0, 1.0]);
        close([0.3; 3], [0.0, 0.0, 0.3]);
    }

    #[test]
    fn each_square_counts_its_own_colours() {
        let colours = ColourHistogram { grid: 2, hues: 3, saturations: 2, values: 2 };
        let (red, green, grey) = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2; 3]);
        // Above red, below left green, below right grey but for a red pixel.
        let x = [red, red, red, red, green, green, grey, red].as_flattened().to_vec();
        let mut y = vec![9.0; colours.features()];
        colours.describe(&x, [2, 4, 3], &mut y);
        let filled = |square: usize| -> Vec<(usize, f32)> {
            let bins = y[square * 12..][..12].iter().copied().enumerate();
            bins.filter(|(_, v)| *v > 0.0).collect()
        };
        // Hue, saturation, value: red 0 1 1, green 1 1 1, dark grey 0 0 0.
        assert_eq!(filled(0), [(3, 1.0)]);
        assert_eq!(filled(1), [(3, 1.0)]);
        assert_eq!(filled(2), [(7, 1.0)]);
        assert_eq!(filled(3), [(0, 0.5_f32.sqrt()), (3, 0.5_f32.sqrt())]);
    }

    #[test]
    fn only_colours_are_counted() {
        let colours = ColourHistogram::new(3);
        assert_eq!(colours.output_shape(Shape::map(3, 30, 20)), Ok(Shape::vector(648)));
        assert!(colours.output_shape(Shape::map(1, 30, 20)).is_err());
        assert!(colours.output_shape(Shape::map(3, 2, 20)).is_err());
        let error = colours.output_shape(Shape::vector(3)).unwrap_err().to_string();
        assert!(error.contains("colours in 3x3 squares"), "{error}");
    }
}
