//! Histograms of oriented gradients: Dalal and Triggs 2005,
//! <https://doi.org/10.1109/CVPR.2005.177>.

use std::f32::consts::{PI, TAU};

use serde::{Deserialize, Serialize};

use super::Misfit;
use super::conv2d::MOST_CHANNELS;
use crate::shape::Shape;

/// Cells along a side of a block.
const BLOCK: usize = 2;
/// What a value of a normalized block is clipped at before it is normalized again (Lowe's way, the
/// paper's L2-Hys).
const CLIP: f32 = 0.2;
/// Keeps blocks without gradients at zero.
const EPSILON: f32 = 1e-3;

/// Which directions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientations {
    /// Over half a turn: from dark to light is from light to dark.
    #[default]
    Unsigned,
    /// Over a whole turn.
    Signed,
}

impl Orientations {
    const fn range(self) -> f32 {
        match self {
            Self::Unsigned => PI,
            Self::Signed => TAU,
        }
    }
}

/// Histograms of the gradients' orientations in square cells, normalized over blocks of 2x2
/// overlapping cells: `[n, c, h, w] -> [n, (h / cell - 1) (w / cell - 1) 4 bins]`.
///
/// A pixel's gradient is that of the channel where it is longest. Its length is shared among the two
/// nearest orientations and the four nearest cells. Rows and columns beyond the last whole cell are
/// left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hog {
    /// Side of a cell, in pixels.
    pub cell: usize,
    /// Orientations of a histogram.
    pub bins: usize,
    /// Which directions differ.
    #[serde(default)]
    pub orientations: Orientations,
}

impl Hog {
    /// Cells of `cell` pixels, and the paper's nine orientations over half a turn.
    pub const fn new(cell: usize) -> Self {
        Self { cell, bins: 9, orientations: Orientations::Unsigned }
    }

    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let refuse = || {
            let Self { cell, bins, .. } = self;
            Misfit(format!("takes maps of 2x2 cells of {cell} pixels, {bins} bins, given {input}"))
        };
        let sane = (2..=1 << 12).contains(&self.cell) && (2..=360).contains(&self.bins);
        let Shape::Map { height, width, .. } = input else { return Err(refuse()) };
        if !sane || height / self.cell < BLOCK || width / self.cell < BLOCK {
            return Err(refuse());
        }
        let features = self.features([height, width]);
        if features > MOST_CHANNELS { Err(refuse()) } else { Ok(Shape::vector(features)) }
    }

    /// Values of an image of `height` by `width` pixels.
    pub(crate) fn features(&self, [height, width]: [usize; 2]) -> usize {
        let blocks = |size: usize| (size / self.cell).saturating_sub(BLOCK - 1);
        blocks(height) * blocks(width) * BLOCK * BLOCK * self.bins
    }

    /// Describes one image `x`, `[h, w, c]`, into `y`.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub(crate) fn describe(&self, x: &[f32], shape: [usize; 3], y: &mut [f32]) {
        let cells = self.cells(x, shape);
        let [rows, columns] = [shape[0] / self.cell, shape[1] / self.cell];
        let bins = self.bins;
        let places =
            (0..rows - 1).flat_map(|row| (0..columns - 1).map(move |column| (row, column)));
        for ((row, column), block) in places.zip(y.chunks_exact_mut(BLOCK * BLOCK * bins)) {
            for (at, part) in block.chunks_exact_mut(bins).enumerate() {
                let cell = (row + at / BLOCK) * columns + column + at % BLOCK;
                part.copy_from_slice(&cells[cell * bins..][..bins]);
            }
            normalize(block);
            block.iter_mut().for_each(|v| *v = v.min(CLIP));
            normalize(block);
        }
    }

    /// The histogram of each cell, `[rows, columns, bins]`.
    fn cells(&self, x: &[f32], [height, width, channels]: [usize; 3]) -> Vec<f32> {
        let (cell, bins) = (self.cell, self.bins);
        let [rows, columns] = [height / cell, width / cell];
        let mut cells = vec![0.0; rows * columns * bins];
        for row in 0..rows * cell {
            for column in 0..columns * cell {
                let [dy, dx] = gradient(x, [height, width, channels], row, column);
                let length = dy.hypot(dx);
                if length == 0.0 {
                    continue;
                }
                let angle = dy.atan2(dx).rem_euclid(self.orientations.range());
                // The middle of bin `b` is at `b + 0.5`.
                let [bin, next] = neighbours(angle / self.orientations.range() * bins as f32);
                for (y, share_y) in neighbours((row as f32 + 0.5) / cell as f32) {
                    for (x, share_x) in neighbours((column as f32 + 0.5) / cell as f32) {
                        if !(0..rows as isize).contains(&y) || !(0..columns as isize).contains(&x) {
                            continue;
                        }
                        let histogram = (y as usize * columns + x as usize) * bins;
                        for (bin, share) in [bin, next] {
                            let bin = bin.rem_euclid(bins as isize) as usize;
                            cells[histogram + bin] += length * share * share_y * share_x;
                        }
                    }
                }
            }
        }
        cells
    }
}

/// The two places whose middles are nearest to `at`, and their shares.
fn neighbours(at: f32) -> [(isize, f32); 2] {
    let first = (at - 0.5).floor();
    let share = at - 0.5 - first;
    [(first as isize, 1.0 - share), (first as isize + 1, share)]
}

/// Differences between the pixels around one, downwards and to the right, of the channel where they
/// are greatest; at the border, to the pixel itself.
fn gradient(
    x: &[f32],
    [height, width, channels]: [usize; 3],
    row: usize,
    column: usize,
) -> [f32; 2] {
    let at = |row: usize, column: usize, channel| x[(row * width + column) * channels + channel];
    let (up, down) = (row.saturating_sub(1), (row + 1).min(height - 1));
    let (left, right) = (column.saturating_sub(1), (column + 1).min(width - 1));
    let of = |c: usize| {
        let dy = at(down, column, c) - at(up, column, c);
        [dy, at(row, right, c) - at(row, left, c)]
    };
    let squared = |[dy, dx]: [f32; 2]| dy * dy + dx * dx;
    let longer = |a, b| if squared(b) > squared(a) { b } else { a };
    (0..channels).map(of).reduce(longer).unwrap_or_default()
}

fn normalize(block: &mut [f32]) {
    let norm = (block.iter().map(|v| v * v).sum::<f32>() + EPSILON * EPSILON).sqrt();
    block.iter_mut().for_each(|v| *v /= norm);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of one channel that gets lighter along a direction.
    fn ramp(size: usize, [dy, dx]: [f32; 2]) -> Vec<f32> {
        let pixels = (0..size * size).map(|i| [i / size, i % size].map(|v| v as f32));
        pixels.map(|[y, x]| 0.01 * (dy * y + dx * x)).collect()
    }

    fn strongest(hog: Hog, direction: [f32; 2]) -> usize {
        let mut y = vec![0.0; hog.features([32, 32])];
        hog.describe(&ramp(32, direction), [32, 32, 1], &mut y);
        let cell = &y[..hog.bins];
        (0..hog.bins).max_by(|&a, &b| cell[a].total_cmp(&cell[b])).unwrap()
    }

    #[test]
    fn a_ramp_fills_the_bin_of_its_direction() {
        let hog = Hog { cell: 8, bins: 8, orientations: Orientations::Unsigned };
        let signed = Hog { orientations: Orientations::Signed, ..hog };
        // The middle of bin b of eight over half a turn is at (b + 0.5) * 22.5 degrees.
        for bin in 0..8 {
            let (sin, cos) = ((bin as f32 + 0.5) * PI / 8.0).sin_cos();
            assert_eq!(strongest(hog, [sin, cos]), bin);
            assert_eq!(strongest(hog, [-sin, -cos]), bin, "the other way round");
            let (sin, cos) = ((bin as f32 + 0.5) * TAU / 8.0).sin_cos();
            assert_eq!(strongest(signed, [sin, cos]), bin);
        }
        assert_eq!(strongest(signed, [-0.4, -1.0]), 4);
    }

    #[test]
    fn lengths_are_shared_among_bins_and_cells_and_blocks_have_length_one() {
        let hog = Hog { cell: 4, bins: 4, orientations: Orientations::Unsigned };
        // Straight down is the border between bins 1 and 2.
        let cells = hog.cells(&ramp(16, [1.0, 0.0]), [16, 16, 1]);
        let inner = &cells[(4 + 1) * 4..][..4];
        assert!((inner[1] - inner[2]).abs() < 1e-4 && inner[0].abs() < 1e-4, "{inner:?}");
        // Within a cell's reach lie 4x4 pixels' worth of gradients, each 0.02 long.
        assert!((inner.iter().sum::<f32>() - 16.0 * 0.02).abs() < 1e-4, "{inner:?}");
        let mut y = vec![0.0; hog.features([16, 16])];
        hog.describe(&ramp(16, [1.0, 0.3]), [16, 16, 1], &mut y);
        assert_eq!(y.len(), 3 * 3 * 4 * 4);
        for block in y.chunks(16) {
            let norm: f32 = block.iter().map(|v| v * v).sum();
            assert!((norm - 1.0).abs() < 1e-3, "{norm}");
        }
        hog.describe(&[0.5; 256], [16, 16, 1], &mut y);
        assert!(y.iter().all(|&v| v == 0.0), "nothing where all is alike");
    }

    #[test]
    fn the_channel_with_the_longest_gradient_counts() {
        let x: Vec<f32> = ramp(16, [0.0, 1.0]).into_iter().flat_map(|v| [0.1 * v, v]).collect();
        let hog = Hog::new(8);
        let (mut both, mut one) = (vec![0.0; 36], vec![0.0; 36]);
        hog.describe(&x, [16, 16, 2], &mut both);
        hog.describe(&ramp(16, [0.0, 1.0]), [16, 16, 1], &mut one);
        assert_eq!(both, one);
    }

    #[test]
    fn what_has_no_block_is_refused() {
        let fits = |hog: Hog, shape| hog.output_shape(shape).map(|s| s.elements());
        assert_eq!(fits(Hog::new(8), Shape::map(3, 64, 40)), Ok(7 * 4 * 36));
        assert!(fits(Hog::new(8), Shape::map(3, 15, 64)).is_err());
        assert!(fits(Hog::new(0), Shape::map(3, 64, 64)).is_err());
        let error = fits(Hog::new(8), Shape::vector(9)).unwrap_err();
        assert!(error.to_string().contains("2x2 cells of 8 pixels"), "{error}");
    }
}
