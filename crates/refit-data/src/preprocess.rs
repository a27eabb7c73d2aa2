//! Pixels to what a network expects: resized, cropped, normalized, `[3, size, size]`.
//!
//! Resizing has antialiasing and works on eight-bit values, as in PIL and therefore in
//! torchvision on PIL images; crops round as torchvision's do.

use std::cell::RefCell;

use fast_image_resize as fir;
use fir::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fir::pixels::U8x3;
use serde::{Deserialize, Serialize};

use crate::{DataError, RgbImage};

/// Enters every cache key: raised when the same file and settings come to give other pixels.
pub(crate) const PIPELINE_VERSION: u32 = 1;

/// How an image of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// The shorter side is resized to `to` pixels, then a square is cut from the centre: the usual
    /// evaluation on ImageNet. Whatever lies outside the square is not seen.
    ShorterSide {
        /// Pixels of the shorter side before the crop.
        to: usize,
    },
    /// Both sides are resized to the square; everything is seen, shapes are distorted.
    Squash,
    /// The longer side is resized to the square and bars fill the rest; everything is seen.
    Letterbox {
        /// The colour of the bars.
        fill: [u8; 3],
    },
}

/// The filter of a resize; both widen when shrinking (antialiasing), as in PIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Keys' cubic with a = -0.5, PIL's `BICUBIC`.
    Bicubic,
    /// The triangle, PIL's `BILINEAR`.
    Bilinear,
}

/// How an image becomes the input of a network; belongs to the network's weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Preprocess {
    /// Pixels on each side of the result.
    pub size: usize,
    /// How the square is made.
    pub resize: Resize,
    /// The filter.
    pub interpolation: Interpolation,
    /// Subtracted, by channel, from values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Divided by, by channel, after the mean was subtracted.
    pub std: [f32; 3],
}

impl Preprocess {
    /// Length of a result: `3 * size * size`.
    pub fn len(&self) -> usize {
        3 * self.size * self.size
    }

    /// Whether results have no length, which [`validate`](Self::validate) refuses.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Checks that the settings can be carried out.
    ///
    /// # Errors
    /// If a size is 0 or above 16384, or a mean or deviation is not finite, or a deviation not
    /// positive.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |field, problem: String| Err(DataError::Preprocess { field, problem });
        let fits = |side: usize| (1..=16384).contains(&side);
        if !fits(self.size) {
            return refuse("size", format!("is {}, not from 1 to 16384", self.size));
        }
        if let Resize::ShorterSide { to } = self.resize
            && !fits(to)
        {
            return refuse("shorter side", format!("is {to}, not from 1 to 16384"));
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return refuse("mean", format!("is {:?}, not three finite numbers", self.mean));
        }
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return refuse("std", format!("is {:?}, not three positive numbers", self.std));
        }
        Ok(())
    }

    /// The network's input for an image, `[3, size, size]`: `(v / 255 - mean) / std`.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate).
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.apply_into(image, &mut values);
        values
    }

    /// Writes the network's input for an image into `out`, `[3, size, size]`.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate), or `out` is not [`len`](Self::len) long.
    pub fn apply_into(&self, image: &RgbImage, out: &mut [f32]) {
        self.normalize_into(&self.square(image), out);
    }

    /// The resized and cropped image, `size` by `size`, before its values are normalized.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate).
    pub fn square(&self, image: &RgbImage) -> RgbImage {
        let size = self.size as u32;
        match self.resize {
            Resize::ShorterSide { to } => self.centre(image, to as u32),
            Resize::Squash => resize(image, Region::all(image), size, size, self.interpolation),
            Resize::Letterbox { fill } => self.letterbox(image, fill),
        }
    }

    /// torchvision's `Resize(to)` and `CenterCrop(size)`. Only what the crop keeps is computed, so
    /// an image a hundred thousand times as long as wide costs no more than another.
    fn centre(&self, image: &RgbImage, to: u32) -> RgbImage {
        let size = self.size as u32;
        let (width, height) = shorter_side_to(image.width(), image.height(), to);
        let (x, y) = (Window::centre(width, size), Window::centre(height, size));
        let scale =
            (f64::from(image.width()) / width as f64, f64::from(image.height()) / height as f64);
        let region = Region {
            left: x.start as f64 * scale.0,
            top: y.start as f64 * scale.1,
            width: f64::from(x.length) * scale.0,
            height: f64::from(y.length) * scale.1,
        };
        let kept = resize(image, region, x.length, y.length, self.interpolation);
        padded(kept, size, x.padding, y.padding, [0; 3])
    }

    fn letterbox(&self, image: &RgbImage, fill: [u8; 3]) -> RgbImage {
        let size = self.size as u32;
        let (width, height) = (u64::from(image.width()), u64::from(image.height()));
        let longer = width.max(height);
        let side = |length: u64| {
            (((length * u64::from(size)) as f64 / longer as f64).round() as u32).max(1)
        };
        let (width, height) = (side(width), side(height));
        let inner = resize(image, Region::all(image), width, height, self.interpolation);
        padded(inner, size, (size - width) / 2, (size - height) / 2, fill)
    }

    /// Writes `(v / 255 - mean) / std` of a square image into `out`, `[3, size, size]`.
    ///
    /// # Panics
    /// If the image is not `size` by `size` or `out` not [`len`](Self::len) long.
    pub fn normalize_into(&self, image: &RgbImage, out: &mut [f32]) {
        let plane = self.size * self.size;
        assert_eq!(
            (image.width() as usize, image.height() as usize),
            (self.size, self.size),
            "normalize_into: sides of the image"
        );
        assert_eq!(out.len(), 3 * plane, "normalize_into: length of `out`");
        let table = |c: usize| {
            std::array::from_fn::<f32, 256, _>(|v| (v as f32 / 255.0 - self.mean[c]) / self.std[c])
        };
        let (r, g, b) = (table(0), table(1), table(2));
        let (red, rest) = out.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let pixels = image.pixels().as_chunks::<3>().0;
        for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
            *red = r[usize::from(pixel[0])];
            *green = g[usize::from(pixel[1])];
            *blue = b[usize::from(pixel[2])];
        }
    }

    /// A hash of everything that decides the pixels, the version of this code included: a part of
    /// the key of cached features.
    pub fn digest(&self, decode: &crate::DecodeOptions) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("refit preprocess v1");
        hasher.update(&PIPELINE_VERSION.to_le_bytes());
        hasher.update(&decode.background);
        hasher.update(&(self.size as u64).to_le_bytes());
        match self.resize {
            Resize::ShorterSide { to } => hasher.update(&[0]).update(&(to as u64).to_le_bytes()),
            Resize::Squash => hasher.update(&[1]),
            Resize::Letterbox { fill } => hasher.update(&[2]).update(&fill),
        };
        hasher.update(&[match self.interpolation {
            Interpolation::Bicubic => 0,
            Interpolation::Bilinear => 1,
        }]);
        for value in self.mean.iter().chain(&self.std) {
            hasher.update(&value.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// The sides after torchvision's `Resize(to)`: the longer one is cut to whole pixels.
pub(crate) fn shorter_side_to(width: u32, height: u32, to: u32) -> (u64, u64) {
    let longer = |long: u32, short: u32| {
        ((u64::from(to) * u64::from(long)) as f64 / f64::from(short)) as u64
    };
    if width <= height {
        (u64::from(to), longer(height, width))
    } else {
        (longer(width, height), u64::from(to))
    }
}

/// A part of one side that a centre crop keeps, and the padding before it when the side is shorter
/// than the crop.
struct Window {
    start: u64,
    length: u32,
    padding: u32,
}

impl Window {
    /// torchvision's `CenterCrop`: its offset is `int(round(extra / 2))`, halves to the even
    /// number; its padding is `missing // 2` before and the rest behind.
    fn centre(side: u64, crop: u32) -> Self {
        match side.checked_sub(u64::from(crop)) {
            Some(extra) => Self {
                start: (extra as f64 / 2.0).round_ties_even() as u64,
                length: crop,
                padding: 0,
            },
            None => Self { start: 0, length: side as u32, padding: (crop - side as u32) / 2 },
        }
    }
}

/// A rectangle of an image, in pixels and parts of pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Region {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl Region {
    pub(crate) fn all(image: &RgbImage) -> Self {
        Self { left: 0.0, top: 0.0, width: image.width().into(), height: image.height().into() }
    }

    /// Rounding may have put an edge a hair outside.
    fn within(self, image: &RgbImage) -> Self {
        let (width, height) = (f64::from(image.width()), f64::from(image.height()));
        let (left, top) = (self.left.clamp(0.0, width), self.top.clamp(0.0, height));
        Self {
            left,
            top,
            width: self.width.min(width - left),
            height: self.height.min(height - top),
        }
    }
}

/// A region of an image, resized. Pixels next to the region take part, as with PIL's `box`.
pub(crate) fn resize(
    image: &RgbImage,
    region: Region,
    width: u32,
    height: u32,
    interpolation: Interpolation,
) -> RgbImage {
    let Region { left, top, width: from_width, height: from_height } = region.within(image);
    let options = convolution(interpolation).crop(left, top, from_width, from_height);
    resized(width, height, |target, resizer| {
        Ok(resizer.resize_typed(&view(image)?, target, &options)?)
    })
}

/// A rectangle of whole pixels, cut out and then resized: pixels next to it take no part.
pub(crate) fn crop_and_resize(
    image: &RgbImage,
    [left, top, width, height]: [u32; 4],
    size: u32,
    interpolation: Interpolation,
) -> RgbImage {
    resized(size, size, |target, resizer| {
        let source = TypedCroppedImage::new(view(image)?, left, top, width, height)?;
        Ok(resizer.resize_typed(&source, target, &convolution(interpolation))?)
    })
}

fn convolution(interpolation: Interpolation) -> fir::ResizeOptions {
    let filter = match interpolation {
        Interpolation::Bicubic => fir::FilterType::CatmullRom,
        Interpolation::Bilinear => fir::FilterType::Bilinear,
    };
    fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter)).use_alpha(false)
}

fn view(image: &RgbImage) -> Result<TypedImageRef<'_, U8x3>, Box<dyn std::error::Error>> {
    Ok(TypedImageRef::from_buffer(image.width(), image.height(), image.pixels())?)
}

/// # Panics
/// If the resizer refuses. Sides are never zero and regions lie inside, so only a bug comes here.
fn resized(
    width: u32,
    height: u32,
    work: impl FnOnce(
        &mut TypedImage<U8x3>,
        &mut fir::Resizer,
    ) -> Result<(), Box<dyn std::error::Error>>,
) -> RgbImage {
    thread_local! {
        /// Keeps its scratch space from one image to the next.
        static RESIZER: RefCell<fir::Resizer> = RefCell::new(fir::Resizer::new());
    }
    let mut pixels = vec![0; width as usize * height as usize * 3];
    let done = TypedImage::from_buffer(width, height, &mut pixels)
        .map_err(Into::into)
        .and_then(|mut target| RESIZER.with_borrow_mut(|resizer| work(&mut target, resizer)));
    if let Err(error) = done {
        panic!("resizing to {width}x{height}: {error}");
    }
    RgbImage::new(width, height, pixels)
}

/// The image put into a square of `size`, at (`left`, `top`).
fn padded(image: RgbImage, size: u32, left: u32, top: u32, fill: [u8; 3]) -> RgbImage {
    if (image.width(), image.height()) == (size, size) {
        return image;
    }
    let mut square = RgbImage::filled(size, size, fill);
    let row = image.width() as usize * 3;
    let rows = square.pixels_mut().chunks_exact_mut(size as usize * 3).skip(top as usize);
    for (to, from) in rows.zip(image.pixels().chunks_exact(row)) {
        to[left as usize * 3..][..row].copy_from_slice(from);
    }
    square
}
