//! Pixels to what a network expects: resized, cropped, normalized, `[3, size, size]`.
//!
//! Resizing has antialiasing and works on eight-bit values, as in PIL and therefore in
//! torchvision on PIL images; crops round as torchvision's do.

use std::cell::RefCell;

use fast_image_resize::{self as fir, ImageView};
use fir::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fir::pixels::U8x3;
use serde::{Deserialize, Serialize};

use crate::{DataError, Detail, RgbImage};

/// Enters every cache key: raised when the same file and settings come to give other pixels.
pub(crate) const PIPELINE_VERSION: u32 = 2;

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

    /// The colour that normalizes to nothing, as nearly as eight bits allow.
    pub fn mean_colour(&self) -> [u8; 3] {
        self.mean.map(|mean| (mean * 255.0).round().clamp(0.0, 255.0) as u8)
    }

    /// The detail that suffices: twice what the resize gives, so that what decoding leaves out
    /// would not be seen, nor in a random crop of a third of the area.
    pub fn detail(&self) -> Detail {
        let twice = |side: usize| u32::try_from(2 * side).unwrap_or(u32::MAX);
        match self.resize {
            Resize::ShorterSide { to } => Detail::AtLeast { shorter: twice(to), longer: 0 },
            Resize::Squash => Detail::AtLeast { shorter: twice(self.size), longer: 0 },
            Resize::Letterbox { .. } => Detail::AtLeast { shorter: 1, longer: twice(self.size) },
        }
    }

    /// As [`apply_into`](Self::apply_into), with a pixel's channels side by side: `[size, size, 3]`.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate), or `out` is not [`len`](Self::len) long.
    pub fn apply_channels_last_into(&self, image: &RgbImage, out: &mut [f32]) {
        self.normalize_channels_last_into(&self.square(image), out);
    }

    /// The resized and cropped image, `size` by `size`, before its values are normalized.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate).
    pub fn square(&self, image: &RgbImage) -> RgbImage {
        let size = self.size as u32;
        match self.resize {
            Resize::ShorterSide { to } => self.centre(image, to as u32),
            Resize::Squash => resize(image, size, size, self.interpolation),
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
        let order = Order::of((image.width(), image.height()), (width, height));
        let kept = resize_region(image, region, (x.length, y.length), self.interpolation, order);
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
        let inner = resize(image, width, height, self.interpolation);
        padded(inner, size, (size - width) / 2, (size - height) / 2, fill)
    }

    /// Writes `(v / 255 - mean) / std` of a square image into `out`, `[3, size, size]`.
    ///
    /// # Panics
    /// If the image is not `size` by `size` or `out` not [`len`](Self::len) long.
    pub fn normalize_into(&self, image: &RgbImage, out: &mut [f32]) {
        let (pixels, [r, g, b]) = (self.checked(image, out), self.tables());
        let (red, rest) = out.split_at_mut(pixels.len());
        let (green, blue) = rest.split_at_mut(pixels.len());
        for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
            *red = r[usize::from(pixel[0])];
            *green = g[usize::from(pixel[1])];
            *blue = b[usize::from(pixel[2])];
        }
    }

    /// As [`normalize_into`](Self::normalize_into), with a pixel's channels side by side:
    /// `[size, size, 3]`.
    ///
    /// # Panics
    /// If the image is not `size` by `size` or `out` not [`len`](Self::len) long.
    pub fn normalize_channels_last_into(&self, image: &RgbImage, out: &mut [f32]) {
        let (pixels, [r, g, b]) = (self.checked(image, out), self.tables());
        for (pixel, out) in pixels.iter().zip(out.as_chunks_mut::<3>().0) {
            *out = [r[usize::from(pixel[0])], g[usize::from(pixel[1])], b[usize::from(pixel[2])]];
        }
    }

    /// The pixels of a square image, if it and `out` have the lengths that they should.
    fn checked<'a>(&self, image: &'a RgbImage, out: &[f32]) -> &'a [[u8; 3]] {
        assert_eq!(
            (image.width() as usize, image.height() as usize),
            (self.size, self.size),
            "normalize_into: sides of the image"
        );
        assert_eq!(out.len(), self.len(), "normalize_into: length of `out`");
        image.pixels().as_chunks().0
    }

    /// What each byte becomes, by channel.
    fn tables(&self) -> [[f32; 256]; 3] {
        let value = |c: usize, v: usize| (v as f32 / 255.0 - self.mean[c]) / self.std[c];
        std::array::from_fn(|c| std::array::from_fn(|v| value(c, v)))
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
struct Region {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Region {
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

/// Which sides are resized first. Values are rounded and clipped in between, so it shows at hard
/// edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Rows,
    Columns,
}

impl Order {
    /// PIL's rule: rows, but columns where the height shrinks by more than twice as many pixels as
    /// the width does (so from Pillow 13 on; before, always rows).
    fn of(from: (u32, u32), to: (u64, u64)) -> Self {
        let shrinks = |from: u32, to: u64| i128::from(from) - i128::from(to);
        let (width, height) = (shrinks(from.0, to.0), shrinks(from.1, to.1));
        if height > 0 && height > 2 * width { Self::Columns } else { Self::Rows }
    }
}

/// A whole image, resized.
pub(crate) fn resize(
    image: &RgbImage,
    width: u32,
    height: u32,
    interpolation: Interpolation,
) -> RgbImage {
    crop_and_resize(image, [0, 0, image.width(), image.height()], (width, height), interpolation)
}

/// A rectangle (left, top, width, height) that lies inside, in pixels and parts of pixels, resized.
pub(crate) fn resize_part(
    image: &RgbImage,
    [left, top, width, height]: [f64; 4],
    to: (u32, u32),
    interpolation: Interpolation,
) -> RgbImage {
    resize_region(image, Region { left, top, width, height }, to, interpolation, Order::Columns)
}

/// A rectangle (left, top, width, height) of whole pixels, cut out and then resized: pixels next to
/// it take no part.
///
/// # Panics
/// If the rectangle lies outside.
pub(crate) fn crop_and_resize(
    image: &RgbImage,
    [left, top, width, height]: [u32; 4],
    to: (u32, u32),
    interpolation: Interpolation,
) -> RgbImage {
    let all = Region { left: 0.0, top: 0.0, width: width.into(), height: height.into() };
    let order = Order::of((width, height), (to.0.into(), to.1.into()));
    let resized = view(image).and_then(|source| {
        let source = TypedCroppedImage::new(source, left, top, width, height)?;
        in_two_passes(&source, all, to, interpolation, order)
    });
    resized.unwrap_or_else(|error| {
        panic!("resizing {width}x{height} at ({left}, {top}) of {image:?} to {to:?}: {error}")
    })
}

/// A region of an image, resized; pixels next to it take part, so the result is the same part of
/// the whole image resized.
///
/// # Panics
/// If the resizer refuses. Sides are never zero and regions lie inside, so only a bug comes here.
fn resize_region(
    image: &RgbImage,
    region: Region,
    to: (u32, u32),
    interpolation: Interpolation,
    order: Order,
) -> RgbImage {
    let resized = view(image)
        .and_then(|source| in_two_passes(&source, region.within(image), to, interpolation, order));
    resized.unwrap_or_else(|error| panic!("resizing {region:?} of {image:?} to {to:?}: {error}"))
}

fn view(image: &RgbImage) -> Result<TypedImageRef<'_, U8x3>, ResizeError> {
    Ok(TypedImageRef::from_buffer(image.width(), image.height(), image.pixels())?)
}

type ResizeError = Box<dyn std::error::Error>;

fn in_two_passes(
    source: &impl ImageView<Pixel = U8x3>,
    region: Region,
    (width, height): (u32, u32),
    interpolation: Interpolation,
    order: Order,
) -> Result<RgbImage, ResizeError> {
    thread_local! {
        /// Scratch space kept from one image to the next: the resizer's and the first pass's result.
        static SCRATCH: RefCell<(fir::Resizer, Vec<u8>)> = RefCell::new((fir::Resizer::new(), Vec::new()));
    }
    let (filter, radius) = match interpolation {
        Interpolation::Bicubic => (fir::FilterType::CatmullRom, 2.0),
        Interpolation::Bilinear => (fir::FilterType::Bilinear, 1.0),
    };
    let options =
        fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut pixels = vec![0; width as usize * height as usize * 3];
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels)?;
    SCRATCH.with_borrow_mut(|(resizer, between)| -> Result<(), ResizeError> {
        if order == Order::Columns {
            // As the resizer does by itself on eight-bit values.
            return Ok(resizer.resize_typed(
                source,
                &mut target,
                &options.crop(region.left, region.top, region.width, region.height),
            )?);
        }
        // The rows that the second pass will look at.
        let reach = radius * (region.height / f64::from(height)).max(1.0) + 1.0;
        let first = (region.top - reach).floor().max(0.0);
        let last = (region.top + region.height + reach).ceil().min(source.height().into());
        let rows = (last - first) as u32;
        between.resize(width as usize * rows as usize * 3, 0);
        let mut wide = TypedImage::<U8x3>::from_buffer(width, rows, between)?;
        resizer.resize_typed(
            source,
            &mut wide,
            &options.crop(region.left, first, region.width, rows.into()),
        )?;
        Ok(resizer.resize_typed(
            &wide,
            &mut target,
            &options.crop(0.0, region.top - first, width.into(), region.height),
        )?)
    })?;
    Ok(RgbImage::new(width, height, pixels))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{mean_difference, synthetic};
    use crate::{DecodeOptions, Hint};

    const BASE: Preprocess = Preprocess {
        size: 4,
        resize: Resize::ShorterSide { to: 4 },
        interpolation: Interpolation::Bicubic,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };

    #[test]
    fn normalizes_channel_by_channel() {
        let image = RgbImage::filled(9, 7, [0, 128, 255]);
        let values = BASE.apply(&image);
        assert_eq!(values.len(), BASE.len());
        for (c, v) in [(0, 0.0f32), (1, 128.0), (2, 255.0)] {
            let expected = (v / 255.0 - BASE.mean[c]) / BASE.std[c];
            assert!(values[c * 16..][..16].iter().all(|&value| value == expected), "{c}");
        }
    }

    #[test]
    fn detail_is_twice_what_the_resize_gives() {
        let kept = |resize, width, height| {
            Preprocess { size: 224, resize, ..BASE }.detail().of_eight(width, height)
        };
        let shorter = Resize::ShorterSide { to: 256 };
        assert_eq!(
            [4096, 4088, 2048, 2040, 1024, 1016].map(|s| kept(shorter, s, 8000)),
            [1, 2, 2, 4, 4, 8]
        );
        assert_eq!([896, 888].map(|side| kept(Resize::Squash, 8000, side)), [4, 8]);
        let letterbox = Resize::Letterbox { fill: [0; 3] };
        assert_eq!([3584, 3576].map(|side| kept(letterbox, side, 16)), [1, 2]);
        // Sides that do not divide keep more, or all.
        assert_eq!([4100, 4098, 4097].map(|side| kept(shorter, side, 8000)), [2, 4, 8]);
        assert_eq!((Detail::Full.of_eight(64000, 64000), Detail::Least.of_eight(3, 5)), (8, 1));
    }

    #[test]
    fn channels_last_are_the_same_values() {
        let image = synthetic(19, 23, 1);
        let planes = BASE.apply(&image);
        let mut pixels = vec![0.0; BASE.len()];
        BASE.apply_channels_last_into(&image, &mut pixels);
        for (at, value) in pixels.iter().enumerate() {
            assert_eq!(*value, planes[at % 3 * 16 + at / 3]);
        }
    }

    #[test]
    fn letterbox_shows_all_and_fills_the_rest() {
        let letterbox = Preprocess { resize: Resize::Letterbox { fill: [9, 8, 7] }, ..BASE };
        let square = letterbox.square(&RgbImage::filled(40, 20, [200, 100, 50]));
        let rows: Vec<[u8; 3]> = (0..4).map(|y| square.pixel(2, y)).collect();
        assert_eq!(rows, [[9, 8, 7], [200, 100, 50], [200, 100, 50], [9, 8, 7]]);
        // The longest and thinnest still leave a line.
        let square = letterbox.square(&RgbImage::filled(1, 5000, [1, 2, 3]));
        assert_eq!((square.pixel(1, 0), square.pixel(0, 0)), ([1, 2, 3], [9, 8, 7]));
    }

    #[test]
    fn smaller_than_the_crop_is_padded_with_black() {
        let padded = Preprocess { size: 7, resize: Resize::ShorterSide { to: 4 }, ..BASE };
        let square = padded.square(&RgbImage::filled(4, 4, [50; 3]));
        let row: Vec<u8> = (0..7).map(|x| square.pixel(x, 3)[0]).collect();
        assert_eq!(row, [0, 50, 50, 50, 50, 0, 0]);
    }

    #[test]
    fn crop_offsets_round_halves_to_even() {
        let starts: Vec<u64> = (4..12).map(|side| Window::centre(side, 4).start).collect();
        assert_eq!(starts, [0, 0, 1, 2, 2, 2, 3, 4]);
        assert_eq!(shorter_side_to(500, 375, 256), (341, 256));
        assert_eq!(shorter_side_to(375, 500, 256), (256, 341));
    }

    #[test]
    fn extreme_shapes_cost_no_more_than_others() {
        let long = RgbImage::filled(1, 2_000_000, [10, 20, 30]);
        for resize in [
            Resize::ShorterSide { to: 256 },
            Resize::Squash,
            Resize::Letterbox { fill: [10, 20, 30] },
        ] {
            let square = Preprocess { size: 224, resize, ..BASE }.square(&long);
            assert!(
                square.pixels().as_chunks::<3>().0.iter().all(|pixel| *pixel == [10, 20, 30]),
                "{resize:?}"
            );
        }
    }

    #[test]
    fn cropping_first_equals_resizing_all() {
        let image = synthetic(173, 311, 5);
        for interpolation in [Interpolation::Bicubic, Interpolation::Bilinear] {
            let cropped = Preprocess {
                size: 50,
                resize: Resize::ShorterSide { to: 90 },
                interpolation,
                ..BASE
            }
            .square(&image);
            let whole = resize(&image, 90, 161, interpolation);
            let (left, top) = (20, 56);
            let part: Vec<u8> = (0..50)
                .flat_map(|y| (0..50).flat_map(move |x| [x + left, y + top]))
                .collect::<Vec<u32>>()
                .as_chunks::<2>()
                .0
                .iter()
                .flat_map(|&[x, y]| whole.pixel(x, y))
                .collect();
            let difference = mean_difference(cropped.pixels(), &part);
            assert!(difference < 0.01, "{interpolation:?}: {difference}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let message = |preprocess: Preprocess| preprocess.validate().unwrap_err().to_string();
        assert!(BASE.validate().is_ok());
        assert_eq!(
            message(Preprocess { size: 0, ..BASE }),
            "the preprocessing's size is 0, not from 1 to 16384"
        );
        assert_eq!(
            message(Preprocess { resize: Resize::ShorterSide { to: 20000 }, ..BASE }),
            "the preprocessing's shorter side is 20000, not from 1 to 16384"
        );
        assert_eq!(
            message(Preprocess { mean: [0.0, f32::NAN, 0.0], ..BASE }),
            "the preprocessing's mean is [0.0, NaN, 0.0], not three finite numbers"
        );
        assert_eq!(
            message(Preprocess { std: [1.0, 0.0, 1.0], ..BASE }),
            "the preprocessing's std is [1.0, 0.0, 1.0], not three positive numbers"
        );
        assert!(Preprocess { size: 0, ..BASE }.validate().unwrap_err().hint().is_some());
    }

    #[test]
    fn every_setting_enters_the_digest() {
        let decode = DecodeOptions::default();
        let mut digests = vec![
            BASE.digest(&decode),
            BASE.digest(&DecodeOptions { background: [0; 3], ..decode }),
            Preprocess { size: 5, ..BASE }.digest(&decode),
            Preprocess { resize: Resize::ShorterSide { to: 5 }, ..BASE }.digest(&decode),
            Preprocess { resize: Resize::Squash, ..BASE }.digest(&decode),
            Preprocess { resize: Resize::Letterbox { fill: [0; 3] }, ..BASE }.digest(&decode),
            Preprocess { resize: Resize::Letterbox { fill: [1; 3] }, ..BASE }.digest(&decode),
            Preprocess { interpolation: Interpolation::Bilinear, ..BASE }.digest(&decode),
            Preprocess { mean: [0.5; 3], ..BASE }.digest(&decode),
            Preprocess { std: [0.5; 3], ..BASE }.digest(&decode),
        ];
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
        assert_eq!(
            BASE.digest(&decode),
            BASE.digest(&DecodeOptions { max_pixels: 5, ..decode }),
            "a limit changes no pixels"
        );
    }

    #[test]
    fn serializes_with_kebab_case_names() {
        let text =
            serde_json::to_string(&Preprocess { mean: [0.5; 3], std: [0.5; 3], ..BASE }).unwrap();
        assert_eq!(
            text,
            r#"{"size":4,"resize":{"shorter-side":{"to":4}},"interpolation":"bicubic","mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5]}"#
        );
        assert_eq!(serde_json::to_string(&Resize::Squash).unwrap(), r#""squash""#);
        assert_eq!(serde_json::from_str::<Preprocess>(&text).unwrap().resize, BASE.resize);
    }
}
