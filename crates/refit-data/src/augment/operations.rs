//! The operations of the augmentation policies, with PIL's semantics on eight-bit pixels.
//!
//! Each gives the pixels that torchvision 0.29 gives on PIL images (Pillow 13), to the last bit.

use super::colour::{blend, brightness, contrast, saturation};
use crate::RgbImage;

/// Something done to an image with a strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Colour,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Operation {
    /// All, in torchvision's order.
    pub const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Colour,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// Whether a strength may be negative.
    pub fn is_signed(self) -> bool {
        !matches!(
            self,
            Self::Identity | Self::Posterize | Self::Solarize | Self::AutoContrast | Self::Equalize
        )
    }

    /// Whether there is a strength at all.
    pub fn has_strength(self) -> bool {
        !matches!(self, Self::Identity | Self::AutoContrast | Self::Equalize)
    }

    /// Does it. `strength` is a slope (shears), pixels (translations), degrees counterclockwise
    /// (rotation), a factor less 1 (brightness, colour, contrast, sharpness), bits that are kept
    /// (posterize), the least value that is turned over (solarize). `fill` goes where the image was not.
    pub fn apply(self, image: &mut RgbImage, strength: f64, fill: [u8; 3]) {
        let factor = (1.0 + strength) as f32;
        match self {
            Self::Identity => {}
            Self::ShearX => affine(image, [1.0, strength, 0.0, 0.0, 1.0, 0.0], fill),
            Self::ShearY => affine(image, [1.0, 0.0, 0.0, strength, 1.0, 0.0], fill),
            Self::TranslateX => affine(image, [1.0, 0.0, -strength.trunc(), 0.0, 1.0, 0.0], fill),
            Self::TranslateY => affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, -strength.trunc()], fill),
            Self::Rotate => affine(image, rotation(image, strength), fill),
            Self::Brightness => brightness(image, factor),
            Self::Colour => saturation(image, factor),
            Self::Contrast => contrast(image, factor),
            Self::Sharpness => sharpness(image, factor),
            Self::Posterize => posterize(image, strength as u32),
            Self::Solarize => solarize(image, strength),
            Self::AutoContrast => auto_contrast(image),
            Self::Equalize => equalize(image),
        }
    }
}

/// From places in the result to places in the source: `x' = a x + b y + c`, `y' = d x + e y + f`.
type Matrix = [f64; 6];

/// PIL's matrix of a rotation about the centre, counterclockwise, its sines and cosines rounded to 15
/// decimals.
fn rotation(image: &RgbImage, degrees: f64) -> Matrix {
    let (x, y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    let angle = -degrees.to_radians();
    // Multiplied by 10^15, it would be rounded twice.
    let rounded = |v: f64| format!("{v:.15}").parse().unwrap_or(v);
    let (cos, sin) = (rounded(libm::cos(angle)), rounded(libm::sin(angle)));
    [cos, sin, -cos * x - sin * y + x, -sin, cos, sin * x - cos * y + y]
}

/// PIL's affine transform by the nearest pixel, in fixed point of 16 bits.
fn affine(image: &mut RgbImage, [a, b, c, d, e, f]: Matrix, fill: [u8; 3]) {
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let [across, down] = [[fixed(a), fixed(d)], [fixed(b), fixed(e)]];
    let mut start = [fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5)];
    let mut target = fill.repeat(width * height);
    let source = image.pixels().as_chunks::<3>().0;
    for row in target.as_chunks_mut::<3>().0.chunks_exact_mut(width) {
        let [mut x, mut y] = start;
        for pixel in row {
            // A negative place becomes a huge one.
            let (column, line) = ((x >> 16) as usize, (y >> 16) as usize);
            if column < width && line < height {
                *pixel = source[line * width + column];
            }
            x += across[0];
            y += across[1];
        }
        start = [start[0] + down[0], start[1] + down[1]];
    }
    *image = RgbImage::new(image.width(), image.height(), target);
}

/// PIL's rotation about the centre, counterclockwise, with bilinear interpolation; `fill` goes where
/// the image was not.
pub(crate) fn rotate_smoothly(image: &mut RgbImage, degrees: f64, fill: [u8; 3]) {
    let [a, b, c, d, e, f] = rotation(image, degrees);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut target = fill.repeat(width * height);
    let source = image.pixels().as_chunks::<3>().0;
    for (line, row) in target.as_chunks_mut::<3>().0.chunks_exact_mut(width).enumerate() {
        let y = line as f64 + 0.5;
        for (column, pixel) in row.iter_mut().enumerate() {
            let x = column as f64 + 0.5;
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            if x < 0.0 || x >= width as f64 || y < 0.0 || y >= height as f64 {
                continue;
            }
            let ([left, right], dx) = neighbours(x, width);
            let ([top, bottom], dy) = neighbours(y, height);
            let corners = [[top, left], [top, right], [bottom, left], [bottom, right]];
            let corners = corners.map(|[line, column]| source[line * width + column]);
            *pixel = std::array::from_fn(|channel| {
                let [p, q, r, s] = corners.map(|corner| f64::from(corner[channel]));
                let (above, below) = (p + (q - p) * dx, r + (s - r) * dx);
                (above + (below - above) * dy) as u8
            });
        }
    }
    *image = RgbImage::new(image.width(), image.height(), target);
}

/// The two pixels that a place lies between, and how far it is from the first to the second.
fn neighbours(place: f64, side: usize) -> ([usize; 2], f64) {
    let place = place - 0.5;
    let first = place.floor();
    let within = |v: f64| v.clamp(0.0, (side - 1) as f64) as usize;
    ([within(first), within(first + 1.0)], place - first)
}

/// PIL's `ImageEnhance.Sharpness`: away from what its `SMOOTH` filter leaves. The outermost pixels
/// stay.
fn sharpness(image: &mut RgbImage, factor: f32) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width < 3 || height < 3 {
        return;
    }
    let source = image.pixels().to_vec();
    let stride = 3 * width;
    for y in 1..height - 1 {
        let [above, own, below] = [y - 1, y, y + 1].map(|line| &source[line * stride..][..stride]);
        let out = &mut image.pixels_mut()[y * stride..][..stride];
        for i in 3..stride - 3 {
            let column =
                |row: &[u8]| u32::from(row[i - 3]) + u32::from(row[i]) + u32::from(row[i + 3]);
            let sum = column(above) + column(own) + column(below) + 4 * u32::from(own[i]);
            // The kernel's sum is 13; halves cannot come up.
            out[i] = blend(((2 * sum + 13) / 26) as u8, own[i], factor);
        }
    }
}

fn posterize(image: &mut RgbImage, bits: u32) {
    let mask = 0xFF00_u32.wrapping_shr(bits.min(8)) as u8;
    image.pixels_mut().iter_mut().for_each(|v| *v &= mask);
}

fn solarize(image: &mut RgbImage, threshold: f64) {
    let turned = |v: u8| if f64::from(v) < threshold { v } else { 255 - v };
    image.pixels_mut().iter_mut().for_each(|v| *v = turned(*v));
}

/// Stretches each channel to the whole range.
fn auto_contrast(image: &mut RgbImage) {
    let tables = histograms(image).map(|counts| {
        let low = counts.iter().position(|n| *n > 0).unwrap_or(0);
        let high = counts.iter().rposition(|n| *n > 0).unwrap_or(0);
        if high <= low {
            return std::array::from_fn(|v| v as u8);
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        std::array::from_fn(|v| (v as f64 * scale + offset).clamp(0.0, 255.0) as u8)
    });
    look_up(image, &tables);
}

/// Makes each channel's values about equally frequent.
fn equalize(image: &mut RgbImage) {
    let tables = histograms(image).map(|counts| {
        let last = counts.iter().rev().find(|n| **n > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<usize>() - last) / 255;
        if step == 0 {
            return std::array::from_fn(|v| v as u8);
        }
        let mut sum = step / 2;
        counts.map(|count| {
            let value = (sum / step).min(255) as u8;
            sum += count;
            value
        })
    });
    look_up(image, &tables);
}

fn histograms(image: &RgbImage) -> [[usize; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    for pixel in image.pixels().as_chunks::<3>().0 {
        for (counts, v) in counts.iter_mut().zip(pixel) {
            counts[usize::from(*v)] += 1;
        }
    }
    counts
}

fn look_up(image: &mut RgbImage, [r, g, b]: &[[u8; 256]; 3]) {
    for pixel in image.pixels_mut().as_chunks_mut::<3>().0 {
        *pixel = [r[usize::from(pixel[0])], g[usize::from(pixel[1])], b[usize::from(pixel[2])]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::synthetic;

    #[test]
    fn no_strength_changes_nothing() {
        for (width, height) in [(41, 27), (2, 2), (1, 5)] {
            let image = synthetic(width, height, 4);
            let same = |operation: Operation, strength| {
                let mut changed = image.clone();
                operation.apply(&mut changed, strength, [1, 2, 3]);
                assert_eq!(changed, image, "{operation:?}");
            };
            Operation::ALL.into_iter().filter(|o| o.is_signed()).for_each(|o| same(o, 0.0));
            same(Operation::Identity, 0.0);
            same(Operation::Posterize, 8.0);
            same(Operation::Solarize, 256.0);
            same(Operation::Rotate, 360.0);
        }
    }

    #[test]
    fn what_moves_in_is_filled() {
        let mut image = RgbImage::filled(10, 10, [9; 3]);
        Operation::TranslateX.apply(&mut image, 3.9, [1, 2, 3]);
        assert_eq!((image.pixel(2, 5), image.pixel(3, 5)), ([1, 2, 3], [9; 3]));
        let mut image = RgbImage::filled(10, 10, [9; 3]);
        Operation::TranslateY.apply(&mut image, -4.0, [1, 2, 3]);
        assert_eq!((image.pixel(5, 6), image.pixel(5, 5)), ([1, 2, 3], [9; 3]));
        let mut image = RgbImage::filled(11, 11, [9; 3]);
        rotate_smoothly(&mut image, 45.0, [1, 2, 3]);
        assert_eq!((image.pixel(0, 0), image.pixel(5, 5)), ([1, 2, 3], [9; 3]));
    }

    #[test]
    fn quarter_turns_are_exact() {
        let image = synthetic(24, 24, 5);
        for quarters in 1..4 {
            let degrees = 90.0 * f64::from(quarters);
            let mut turned = image.clone();
            Operation::Rotate.apply(&mut turned, degrees, [0; 3]);
            assert_eq!(turned, image.turned(quarters as usize), "{degrees}");
        }
    }
}
