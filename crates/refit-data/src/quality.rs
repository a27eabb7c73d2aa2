//! What can be seen of an image without knowing what it shows: its size, its light, its sharpness.

use std::path::Path;

use image::metadata::Orientation;
use serde::Serialize;

use crate::check::{ContentHash, hash_bytes};
use crate::decode::stored;
use crate::preprocess::resize;
use crate::{
    DataError, DecodeOptions, Detail, Interpolation, Progress, RgbImage, decode_in, parallel,
};

/// Pixels of the shorter side at which sharpness is measured: what networks see.
const SEEN: u32 = 256;

/// What an image is like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quality {
    /// Columns, as it is meant to be seen.
    pub width: u32,
    /// Rows, as it is meant to be seen.
    pub height: u32,
    /// Whether its pixels are stored turned or mirrored, and EXIF tells how: programs that do not
    /// look there show it wrongly.
    pub turned: bool,
    /// Mean grey value, `[0, 1]`.
    pub brightness: f32,
    /// Standard deviation of the grey values, `[0, 0.5]`.
    pub contrast: f32,
    /// Variance of the Laplacian (Pech-Pacheco et al. 2000) against that of the grey values, with the
    /// shorter side at 256 pixels or, if it has fewer, as it is; `[0, 64]`. Contrast does not change it;
    /// focus and motion do.
    pub sharpness: f32,
}

/// What is the matter with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// A side has less than [`TINY`] pixels.
    Tiny,
    /// The longer side is more than [`ODD`] times the shorter one: little of it is seen at once.
    OddShape,
    /// It is nearly black.
    Dark,
    /// It has next to no contrast.
    Flat,
    /// It is out of focus or moved, or was enlarged.
    Blurred,
}

/// Pixels of a side below which an image is tiny.
pub const TINY: u32 = 64;

/// The most that one side may be longer than the other.
pub const ODD: f32 = 3.0;

/// Brightness below which an image is dark.
const DARK: f32 = 0.1;

/// Contrast below which an image is flat.
const FLAT: f32 = 0.03;

/// Sharpness below which an image is blurred.
const BLURRED: f32 = 0.006;

impl Quality {
    /// Of an image. EXIF says nothing of it any more.
    pub fn of(image: &RgbImage) -> Self {
        let (width, height) = (image.width(), image.height());
        let shorter = width.min(height);
        let side = |side: u32| {
            (f64::from(side) * f64::from(SEEN) / f64::from(shorter)).round().max(1.0) as u32
        };
        let seen = match shorter > SEEN {
            true => resize(image, side(width), side(height), Interpolation::Bilinear),
            false => image.clone(),
        };
        let grey: Vec<f32> = seen.pixels().as_chunks::<3>().0.iter().map(grey).collect();
        let (mean, variance) = moments(&grey);
        let edges = laplacian(&grey, seen.width() as usize);
        let sharpness = if variance > 0.0 { moments(&edges).1 / variance } else { 0.0 };
        let contrast = variance.sqrt();
        Self { width, height, turned: false, brightness: mean, contrast, sharpness }
    }

    /// What is the matter with it, worst first.
    pub fn flaws(&self) -> Vec<Flaw> {
        let (least, most) = (self.width.min(self.height), self.width.max(self.height));
        let flat = self.contrast < FLAT;
        let found = [
            (Flaw::Tiny, least < TINY),
            (Flaw::OddShape, most as f32 > ODD * least as f32),
            (Flaw::Dark, self.brightness < DARK),
            (Flaw::Flat, flat),
            // What has no contrast has no edges to be sharp.
            (Flaw::Blurred, !flat && self.sharpness < BLURRED),
        ];
        found.into_iter().filter(|(_, is_so)| *is_so).map(|(flaw, _)| flaw).collect()
    }
}

fn grey(pixel: &[u8; 3]) -> f32 {
    let [r, g, b] = pixel.map(f32::from);
    (0.299 * r + 0.587 * g + 0.114 * b) / 255.0
}

/// Mean and variance.
fn moments(values: &[f32]) -> (f32, f32) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    (mean as f32, variance as f32)
}

/// Four neighbours less four times the middle, inside.
fn laplacian(grey: &[f32], width: usize) -> Vec<f32> {
    let height = grey.len() / width;
    let mut edges = Vec::with_capacity(grey.len());
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let at = y * width + x;
            let around = grey[at - 1] + grey[at + 1] + grey[at - width] + grey[at + width];
            edges.push(around - 4.0 * grey[at]);
        }
    }
    edges
}

/// A file's content and what it is like; the content too where it is no image, if it can be read.
pub type Inspected = (Option<ContentHash>, Result<Quality, DataError>);

/// Looks at files on `workers` threads; results in their order.
pub fn inspect<P: AsRef<Path> + Sync>(
    paths: &[P],
    workers: usize,
    progress: Option<Progress>,
) -> Vec<Inspected> {
    parallel::map(paths, workers, progress, |_, path| inspect_one(path.as_ref()))
}

fn inspect_one(path: &Path) -> Inspected {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) => return (None, Err(DataError::read(path, source))),
    };
    let unreadable = |source| DataError::Unreadable { path: path.into(), source };
    let (options, detail) =
        (DecodeOptions::default(), Detail::AtLeast { shorter: SEEN, longer: 0 });
    let quality = decode_in(&bytes, &options, detail).map(|image| {
        let seen = Quality::of(&image);
        // Less detail may have been decoded than there is.
        match stored(&bytes) {
            None => seen,
            Some((width, height, orientation)) => {
                let turned = orientation != Orientation::NoTransforms;
                let (width, height) = match orientation {
                    Orientation::Rotate90
                    | Orientation::Rotate270
                    | Orientation::Rotate90FlipH
                    | Orientation::Rotate270FlipH => (height, width),
                    _ => (width, height),
                };
                Quality { width, height, turned, ..seen }
            }
        }
    });
    (Some(hash_bytes(&bytes)), quality.map_err(unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{encoded, real, rgb8, synthetic};
    use image::ImageFormat;

    /// Means over squares, several times: nearly a Gaussian.
    fn blurred(image: &RgbImage, radius: u32) -> RgbImage {
        let (w, h) = (image.width(), image.height());
        let small =
            resize(image, (w / radius).max(1), (h / radius).max(1), Interpolation::Bilinear);
        resize(&small, w, h, Interpolation::Bicubic)
    }

    #[test]
    fn flaws_are_seen_and_good_images_have_none() {
        let image = synthetic(300, 280, 1);
        assert_eq!(Quality::of(&image).flaws(), []);
        assert_eq!(Quality::of(&blurred(&image, 24)).flaws(), [Flaw::Blurred]);
        let mut dark = image.clone();
        dark.pixels_mut().iter_mut().for_each(|v| *v /= 8);
        assert!(Quality::of(&dark).flaws().contains(&Flaw::Dark));
        assert_eq!(Quality::of(&RgbImage::filled(80, 80, [200; 3])).flaws(), [Flaw::Flat]);
        assert_eq!(Quality::of(&synthetic(63, 80, 2)).flaws(), [Flaw::Tiny]);
        assert_eq!(Quality::of(&synthetic(400, 100, 2)).flaws(), [Flaw::OddShape]);
        let dot = Quality::of(&RgbImage::filled(1, 1, [0; 3]));
        assert_eq!(dot.flaws(), [Flaw::Tiny, Flaw::Dark, Flaw::Flat]);
    }

    #[test]
    fn contrast_does_not_make_an_image_sharper() {
        let image = synthetic(200, 200, 3);
        let mut faint = image.clone();
        faint.pixels_mut().iter_mut().for_each(|v| *v = *v / 4 + 90);
        let (a, b) = (Quality::of(&image), Quality::of(&faint));
        assert!((a.sharpness / b.sharpness - 1.0).abs() < 0.1, "{a:?} {b:?}");
        assert!(b.contrast < a.contrast / 3.5);
    }

    #[test]
    fn files_are_inspected_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = ["a.png", "b.png", "gone.png"].map(|n| folder.path().join(n)).into();
        let png = encoded(rgb8(&synthetic(90, 70, 1)), ImageFormat::Png);
        std::fs::write(&paths[0], &png).unwrap();
        std::fs::write(&paths[1], "no image").unwrap();
        let found = inspect(&paths, 2, None);
        assert_eq!(found[0].0, Some(hash_bytes(&png)));
        let quality = found[0].1.as_ref().unwrap();
        assert_eq!((quality.width, quality.height, quality.turned), (90, 70, false));
        assert!(found[1].0.is_some() && found[1].1.is_err());
        assert!(found[2].0.is_none() && found[2].1.is_err());
    }

    #[test]
    fn turned_images_are_told() {
        let Some(folder) = real("exif") else { return };
        let paths = crate::list_images(&[folder]).unwrap();
        let found = inspect(&paths, 2, None);
        assert!(!found.is_empty());
        for (path, (_, quality)) in paths.iter().zip(found) {
            let upright = path.to_string_lossy().contains("_1.");
            let quality = quality.unwrap();
            assert_eq!(quality.turned, !upright, "{}", path.display());
            assert!(quality.width > quality.height, "{}", path.display());
        }
    }
}
