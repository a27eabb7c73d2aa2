//! Whether two images show the same picture: one a copy of the other, resized, recompressed, cropped
//! or mirrored.
//!
//! Images that merely look alike do not agree pixel by pixel, wherever one is laid on the other. A
//! copy does: so the whole of one image is laid over every part of the other on a coarse grid, the
//! best places are refined, and what counts in the end is how the fine structure agrees, from which
//! large soft shapes (a bright flower on dark ground) have been taken away.

use std::path::Path;

use crate::preprocess::{resize, resize_part};
use crate::{DataError, DecodeOptions, Detail, Interpolation, RgbImage, decode_file_in};

/// Pixels of a thumbnail's longer side.
const LONGER: u32 = 96;

/// Pixels of the longer side of the image that is searched coarsely.
const COARSE: u32 = 32;

/// Points of a side at which the other image is compared with it.
const POINTS: usize = 14;

/// Sides of a part, against the largest that fits: down to a half.
const SCALES: [f32; 8] = [1.0, 0.92, 0.84, 0.77, 0.7, 0.63, 0.56, 0.5];

/// Coarse agreement from which a place is refined.
const PROMISING: f32 = 0.6;

/// Places that are refined.
const PLACES: usize = 3;

/// Pixels of a side at which places are refined and judged.
const FINE: u32 = 32;

/// Steps by which a place is refined, against the longer side.
const STEPS: [f32; 4] = [1.0 / 32.0, 1.0 / 64.0, 1.0 / 128.0, 1.0 / 256.0];

/// Correlation of fine structure below which a place is given up after so many rounds.
const HOPELESS: [f32; 4] = [-1.0, 0.2, 0.3, 0.4];

/// Pixels on each side over which the mean is taken away.
const SOFT: usize = 3;

/// Deviation of fine structure, in grey levels, below which there is none to compare.
const FLAT: f32 = 1.0;

/// A small image to compare others with.
#[derive(Debug, Clone)]
pub struct Thumbnail {
    image: RgbImage,
    coarse: Grey,
    coarse_mirrored: Grey,
    /// The whole in `[FINE, FINE]`, plain and mirrored, so that it is made once.
    whole: [Grey; 2],
}

/// How two images agree.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// The correlation of their fine structure where one lies on the other, in `[-1, 1]`: near 1 for
    /// copies, seldom above 0.6 for others, but up to 0.9 for two outlines of one shape on plain ground.
    pub correlation: f32,
    /// Whether one of them was mirrored for it.
    pub mirrored: bool,
    /// The share of the larger picture that both show, `(0, 1]`.
    pub share: f32,
}

/// Grey values, a row after the other.
#[derive(Debug, Clone)]
struct Grey {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Grey {
    fn of(image: &RgbImage) -> Self {
        let grey = |p: &[u8; 3]| {
            let [r, g, b] = p.map(f32::from);
            0.299 * r + 0.587 * g + 0.114 * b
        };
        let values = image.pixels().as_chunks::<3>().0.iter().map(grey).collect();
        Self { width: image.width() as usize, height: image.height() as usize, values }
    }

    /// The value at a point between pixels, whose centres lie at halves.
    fn at(&self, x: f32, y: f32) -> f32 {
        let clamp = |v: f32, n: usize| (v - 0.5).clamp(0.0, (n - 1) as f32);
        let (x, y) = (clamp(x, self.width), clamp(y, self.height));
        let (left, top) = (x as usize, y as usize);
        let (right, below) = ((left + 1).min(self.width - 1), (top + 1).min(self.height - 1));
        let (u, v) = (x - left as f32, y - top as f32);
        let row = |y: usize| {
            let row = &self.values[y * self.width..];
            row[left] + u * (row[right] - row[left])
        };
        row(top) + v * (row(below) - row(top))
    }

    /// What is left when the mean over a square around each pixel is taken away.
    fn fine(&self) -> Vec<f32> {
        let (w, h) = (self.width, self.height);
        let mut sums = vec![0.0_f32; (w + 1) * (h + 1)];
        for y in 0..h {
            let mut row = 0.0;
            for x in 0..w {
                row += self.values[y * w + x];
                sums[(y + 1) * (w + 1) + x + 1] = sums[y * (w + 1) + x + 1] + row;
            }
        }
        let mut fine = Vec::with_capacity(w * h);
        for y in 0..h {
            let (top, below) = (y.saturating_sub(SOFT), (y + SOFT + 1).min(h));
            for x in 0..w {
                let (left, right) = (x.saturating_sub(SOFT), (x + SOFT + 1).min(w));
                let at = |x: usize, y: usize| sums[y * (w + 1) + x];
                let sum = at(right, below) - at(left, below) - at(right, top) + at(left, top);
                let mean = sum / ((right - left) * (below - top)) as f32;
                fine.push(self.values[y * w + x] - mean);
            }
        }
        fine
    }
}

/// The correlation of two equally long rows of numbers; 0 where one does not vary.
fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len() as f32;
    let (ma, mb) = (a.iter().sum::<f32>() / n, b.iter().sum::<f32>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - ma, b - mb);
        (ab, aa, bb) = (ab + a * b, aa + a * a, bb + b * b);
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

fn deviation(values: &[f32]) -> f32 {
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt()
}

impl Thumbnail {
    /// Of an image.
    pub fn of(image: &RgbImage) -> Self {
        let image = shrunk(image, LONGER);
        let mirrored = image.flipped_horizontal();
        let coarse = |image: &RgbImage| Grey::of(&shrunk(image, COARSE));
        let whole =
            |image: &RgbImage| Grey::of(&resize(image, FINE, FINE, Interpolation::Bilinear));
        Self {
            coarse: coarse(&image),
            coarse_mirrored: coarse(&mirrored),
            whole: [whole(&image), whole(&mirrored)],
            image,
        }
    }

    /// Of a file.
    ///
    /// # Errors
    /// If it is no image that can be read.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let detail = Detail::AtLeast { shorter: 0, longer: LONGER };
        Ok(Self::of(&decode_file_in(path, &DecodeOptions::default(), detail)?))
    }

    /// The small image.
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// How well this and another image agree where they agree best; nothing if nowhere at all.
    pub fn agreement(&self, other: &Self) -> Option<Agreement> {
        let mut best: Option<Agreement> = None;
        for (whole, part) in [(self, other), (other, self)] {
            for mirrored in [false, true] {
                let found = whole.contains(part, mirrored);
                best = best
                    .into_iter()
                    .chain(found)
                    .max_by(|a, b| a.correlation.total_cmp(&b.correlation));
                if best.is_some_and(|b| b.correlation > 0.9) {
                    return best;
                }
            }
        }
        best
    }

    /// How well all of `part` agrees with some part of this image.
    fn contains(&self, part: &Self, mirrored: bool) -> Option<Agreement> {
        let mut places = self.coarse_places(part, mirrored);
        places.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut apart: Vec<Place> = Vec::new();
        for (coarse, place) in places {
            if coarse < PROMISING || apart.len() == PLACES {
                break;
            }
            if apart.iter().all(|other| overlap(other, &place) < 0.7) {
                apart.push(place);
            }
        }
        let refined = apart.into_iter().map(|place| self.refine(place, part, mirrored));
        refined.max_by(|a, b| a.correlation.total_cmp(&b.correlation))
    }

    /// Places for `part` in this image, in pixels of the thumbnail, and how they agree coarsely.
    fn coarse_places(&self, part: &Self, mirrored: bool) -> Vec<(f32, Place)> {
        let here = &self.coarse;
        let there = if mirrored { &part.coarse_mirrored } else { &part.coarse };
        let points =
            |n: usize| (0..POINTS).map(move |i| (i as f32 + 0.5) * n as f32 / POINTS as f32);
        let samples = |grey: &Grey, [left, top, width, height]: [f32; 4]| -> Vec<f32> {
            let point =
                |i: usize, from: f32, side: f32| from + (i as f32 + 0.5) * side / POINTS as f32;
            (0..POINTS * POINTS)
                .map(|i| grey.at(point(i % POINTS, left, width), point(i / POINTS, top, height)))
                .collect()
        };
        let pattern: Vec<f32> = points(there.height)
            .flat_map(|y| points(there.width).map(move |x| (x, y)))
            .map(|(x, y)| there.at(x, y))
            .collect();
        let (w, h) = (here.width as f32, here.height as f32);
        let (part_w, part_h) = (part.image.width() as f32, part.image.height() as f32);
        let fit = (w / part_w).min(h / part_h);
        // All of both, in case one was stretched.
        let mut rectangles = vec![[0.0, 0.0, w, h]];
        for scale in SCALES {
            let (width, height) = (part_w * fit * scale, part_h * fit * scale);
            let steps = |room: f32| room.max(0.0).round() as usize;
            let (across, down) = (steps(w - width), steps(h - height));
            let place = |i: usize, n: usize, room: f32| match n {
                0 => room / 2.0,
                _ => room * i as f32 / n as f32,
            };
            for y in 0..=down {
                for x in 0..=across {
                    let (left, top) = (place(x, across, w - width), place(y, down, h - height));
                    rectangles.push([left, top, width, height]);
                }
            }
        }
        let (sx, sy) = (
            f64::from(self.image.width()) / f64::from(w),
            f64::from(self.image.height()) / f64::from(h),
        );
        let judged = |rectangle: [f32; 4]| {
            let agreement = correlation(&samples(here, rectangle), &pattern);
            let [left, top, width, height] = rectangle.map(f64::from);
            let [left, width] = [left, width].map(|v| v * sx);
            let [top, height] = [top, height].map(|v| v * sy);
            (agreement, Place { left, top, width, height })
        };
        rectangles.into_iter().map(judged).collect()
    }

    /// Moves and stretches a place until nothing near is better.
    fn refine(&self, place: Place, part: &Self, mirrored: bool) -> Agreement {
        let pattern = &part.whole[usize::from(mirrored)];
        let fine = pattern.fine();
        let judge = |place: &Place| {
            let rectangle = [place.left, place.top, place.width, place.height];
            let (to, how) = ((FINE, FINE), Interpolation::Bilinear);
            let here = Grey::of(&resize_part(&self.image, rectangle, to, how));
            let soft = correlation(&here.values, &pattern.values);
            let here_fine = here.fine();
            let flat = deviation(&here_fine).max(deviation(&fine)) < FLAT;
            let sharp = if flat { soft } else { correlation(&here_fine, &fine) };
            (sharp, soft + sharp)
        };
        let side = self.image.width().max(self.image.height()) as f32;
        let (mut best, mut score) = (place, judge(&place));
        for (round, step) in STEPS.into_iter().enumerate() {
            if score.0 < HOPELESS[round] {
                break;
            }
            // Twice a step's size on each side is as far as a coarse place may be off.
            for _ in 0..2 {
                let before = score.1;
                for change in 0..8 {
                    let Some(next) = self.moved(&best, change, step * side) else { continue };
                    let found = judge(&next);
                    if found.1 > score.1 {
                        (best, score) = (next, found);
                    }
                }
                if score.1 <= before {
                    break;
                }
            }
        }
        let all = f64::from(self.image.width()) * f64::from(self.image.height());
        let share = (best.width * best.height / all) as f32;
        Agreement { correlation: score.0, mirrored, share }
    }

    /// A place moved, or stretched about its centre, by a step one way; none if that leads outside.
    fn moved(&self, place: &Place, change: usize, step: f32) -> Option<Place> {
        let step = f64::from(step) * if change.is_multiple_of(2) { 1.0 } else { -1.0 };
        let mut next = *place;
        match change / 2 {
            0 => next.left += step,
            1 => next.top += step,
            2 => (next.left, next.width) = (next.left - step / 2.0, next.width + step),
            _ => (next.top, next.height) = (next.top - step / 2.0, next.height + step),
        }
        let (w, h) = (f64::from(self.image.width()), f64::from(self.image.height()));
        next.left = next.left.max(0.0);
        next.top = next.top.max(0.0);
        next.width = next.width.min(w - next.left);
        next.height = next.height.min(h - next.top);
        (next.width >= w / 4.0 && next.height >= h / 4.0).then_some(next)
    }
}

/// A rectangle of an image, in pixels and parts of pixels.
#[derive(Debug, Clone, Copy)]
struct Place {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// The part of the union that two places share.
fn overlap(a: &Place, b: &Place) -> f64 {
    let along = |a: f64, aw: f64, b: f64, bw: f64| ((a + aw).min(b + bw) - a.max(b)).max(0.0);
    let both = along(a.left, a.width, b.left, b.width) * along(a.top, a.height, b.top, b.height);
    both / (a.width * a.height + b.width * b.height - both)
}

/// An image whose longer side has so many pixels, or its own if that is fewer.
fn shrunk(image: &RgbImage, longer: u32) -> RgbImage {
    let (w, h) = (image.width(), image.height());
    let most = w.max(h);
    if most <= longer {
        return image.clone();
    }
    let side =
        |side: u32| ((f64::from(side) * f64::from(longer) / f64::from(most)).round() as u32).max(1);
    resize(image, side(w), side(h), Interpolation::Bilinear)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;
    use crate::preprocess::crop_and_resize;

    /// A picture of soft spots, unlike any of another seed.
    fn picture(width: u32, height: u32, seed: u64) -> RgbImage {
        let mut stream = Stream::new(seed, "picture", &[]);
        let spots: Vec<[f32; 6]> =
            (0..60).map(|_| std::array::from_fn(|_| stream.uniform_f32())).collect();
        let mut image = RgbImage::filled(width, height, [0; 3]);
        let w = width as usize;
        for (i, pixel) in image.pixels_mut().as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (x, y) = ((i % w) as f32 / width as f32, (i / w) as f32 / height as f32);
            let mut colour = [90.0_f32; 3];
            for [sx, sy, size, r, g, b] in &spots {
                let size = 0.01 + 0.06 * size;
                let near = (-((x - sx).powi(2) + (y - sy).powi(2)) / (size * size)).exp();
                for (c, part) in colour.iter_mut().zip([r, g, b]) {
                    *c += near * (part - 0.5) * 300.0;
                }
            }
            *pixel = colour.map(|c| c.clamp(0.0, 255.0) as u8);
        }
        image
    }

    fn agreement(a: &RgbImage, b: &RgbImage) -> Option<Agreement> {
        Thumbnail::of(a).agreement(&Thumbnail::of(b))
    }

    #[test]
    fn copies_agree() {
        for seed in 0..6 {
            let image = picture(300, 220, seed);
            let small = resize(&image, 140, 100, Interpolation::Bicubic);
            let cropped =
                crop_and_resize(&image, [45, 20, 210, 160], (180, 137), Interpolation::Bicubic);
            let mut dark = cropped.clone();
            dark.pixels_mut().iter_mut().for_each(|v| *v = *v / 2 + 10);
            for (name, copy) in [("small", small), ("cropped", cropped), ("dark", dark)] {
                for mirrored in [false, true] {
                    let copy = if mirrored { copy.flipped_horizontal() } else { copy.clone() };
                    for (a, b) in [(&image, &copy), (&copy, &image)] {
                        let found = agreement(a, b).unwrap();
                        assert!(found.correlation > 0.85, "{name} {seed}: {found:?}");
                        assert_eq!(found.mirrored, mirrored, "{name} {seed}: {found:?}");
                        let share = if name == "small" { 1.0 } else { 0.51 };
                        assert!((found.share - share).abs() < 0.1, "{name} {seed}: {found:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_pictures_do_not() {
        for seed in 0..6 {
            let (a, b) = (picture(200, 150, seed), picture(180, 200, seed + 100));
            let found = agreement(&a, &b).map_or(0.0, |found| found.correlation);
            assert!(found < 0.5, "{seed}: {found}");
        }
    }

    #[test]
    fn images_of_one_colour_and_of_one_pixel_are_no_trouble() {
        let (grey, dot) = (RgbImage::filled(50, 40, [90; 3]), RgbImage::filled(1, 1, [3; 3]));
        for (a, b) in [(&grey, &grey), (&grey, &dot), (&dot, &dot)] {
            assert!(agreement(a, b).is_none_or(|found| found.correlation < 0.5));
        }
    }
}
