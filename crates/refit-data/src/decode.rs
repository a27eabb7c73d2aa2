//! Bytes to pixels: any image a user may have, to eight-bit RGB, or a reason why not.
//!
//! The content decides the format, never the extension. Grey is repeated over the channels,
//! palettes are looked up, of 16-bit values the high byte counts, CMYK is multiplied out
//! (`c * k / 255` on Adobe's inverted values, as in PIL), transparency is laid over a background,
//! and the EXIF orientation is applied. Colour profiles are not: values are taken as sRGB, as PIL
//! and torchvision take them.
//!
//! An image that is cut short or damaged is refused, never filled up with grey.

use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::{DataError, DecodeError, RgbImage, jpeg};

/// How images are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DecodeOptions {
    /// What shows through transparent pixels; white unless told.
    pub background: [u8; 3],
    /// The most pixels an image may have, by its header, before anything is allocated for it;
    /// 178 956 970 unless told, which is where PIL begins to warn of decompression bombs.
    pub max_pixels: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { background: [255; 3], max_pixels: 178_956_970 }
    }
}

/// How much of an image's detail is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Every pixel.
    Full,
    /// A far larger JPEG may be decoded at a half, a quarter or an eighth of its sides, if these are
    /// whole pixels and at least as long as here: it is the same picture, then, without its finest
    /// detail.
    AtLeast {
        /// Pixels of the shorter side.
        shorter: u32,
        /// Pixels of the longer side.
        longer: u32,
    },
    /// As little as tells whether the image is whole. Its sides mean nothing.
    Least,
}

impl Detail {
    /// How many of 8 pixels suffice on each side of an image: 1, 2, 4 or 8.
    pub(crate) fn of_eight(self, width: u32, height: u32) -> u32 {
        match self {
            Self::Full => 8,
            Self::AtLeast { shorter, longer } => {
                let (least, most) = (width.min(height), width.max(height));
                let suffices = |&kept: &u32| {
                    // Half a pixel at the edge would be stretched to a whole one.
                    (width * kept).is_multiple_of(8)
                        && (height * kept).is_multiple_of(8)
                        && least * kept / 8 >= shorter
                        && most * kept / 8 >= longer
                };
                [1, 2, 4].into_iter().find(suffices).unwrap_or(8)
            }
            Self::Least => 1,
        }
    }
}

/// Decodes a file's content.
///
/// # Errors
/// If the file cannot be read or is not a whole image of a known format. Names the path.
pub fn decode_file(path: &Path, options: &DecodeOptions) -> Result<RgbImage, DataError> {
    decode_file_in(path, options, Detail::Full)
}

/// Decodes a file's content in the detail wanted, or in more.
///
/// # Errors
/// As [`decode_file`].
pub fn decode_file_in(
    path: &Path,
    options: &DecodeOptions,
    detail: Detail,
) -> Result<RgbImage, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::read(path, source))?;
    let decoded = decode_in(&bytes, options, detail);
    decoded.map_err(|source| DataError::Unreadable { path: path.into(), source })
}

/// Decodes an image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF (first page).
///
/// # Errors
/// If the bytes are not a whole image of a known format, or have too many pixels.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, DecodeError> {
    decode_in(bytes, options, Detail::Full)
}

/// Decodes an image in the detail wanted, or in more.
///
/// # Errors
/// As [`decode`].
pub fn decode_in(
    bytes: &[u8],
    options: &DecodeOptions,
    detail: Detail,
) -> Result<RgbImage, DecodeError> {
    let (format, bytes) = sniff(bytes)?;
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => jpeg::decode(bytes, options, detail),
        Format::Other(name, format) => other(bytes, name, format, options),
    }));
    decoded.unwrap_or_else(|_| {
        Err(DecodeError::Damaged { format: format.name(), detail: "its decoder gave up".into() })
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Jpeg,
    Other(&'static str, ImageFormat),
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Other(name, _) => name,
        }
    }
}

/// The format by the first bytes, and the bytes from where the image begins.
fn sniff(bytes: &[u8]) -> Result<(Format, &[u8]), DecodeError> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let holds =
        |at: usize, magic: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let format = match () {
        () if starts(b"\xff\xd8") => Format::Jpeg,
        () if starts(b"\x89PNG\r\n\x1a\n") => Format::Other("PNG", ImageFormat::Png),
        () if starts(b"RIFF") && holds(8, b"WEBP") => Format::Other("WebP", ImageFormat::WebP),
        () if starts(b"GIF87a") || starts(b"GIF89a") => Format::Other("GIF", ImageFormat::Gif),
        () if starts(b"BM") => Format::Other("BMP", ImageFormat::Bmp),
        () if starts(b"II*\0") || starts(b"MM\0*") || starts(b"II+\0") || starts(b"MM\0+") => {
            Format::Other("TIFF", ImageFormat::Tiff)
        }
        () => {
            return jpeg_after_junk(bytes)
                .map(|jpeg| (Format::Jpeg, jpeg))
                .ok_or_else(|| unknown(bytes));
        }
    };
    Ok((format, bytes))
}

/// Some cameras and servers put bytes before the start of a JPEG.
fn jpeg_after_junk(bytes: &[u8]) -> Option<&[u8]> {
    let head = &bytes[..bytes.len().min(4096)];
    head.windows(4)
        .position(|w| w[..3] == [0xff, 0xd8, 0xff] && matches!(w[3], 0xc0..=0xfe))
        .map(|at| &bytes[at..])
}

/// The refusal that names what the content looks like.
fn unknown(bytes: &[u8]) -> DecodeError {
    let brand = bytes.get(4..12).unwrap_or_default();
    let format = match () {
        () if brand.starts_with(b"ftypavi") => "AVIF",
        () if brand.starts_with(b"ftyphei")
            || brand.starts_with(b"ftypmif")
            || brand.starts_with(b"ftyphev") =>
        {
            "HEIC"
        }
        () if bytes.starts_with(b"\xff\x0a") || brand.starts_with(b"JXL ") => "JPEG XL",
        () if brand.starts_with(b"jP  ") || bytes.starts_with(b"\xff\x4f\xff\x51") => "JPEG 2000",
        () if bytes.starts_with(b"8BPS") => "a Photoshop document",
        () if bytes.starts_with(b"%PDF") => "a PDF",
        () if bytes.starts_with(b"v/1\x01") => "OpenEXR",
        () if bytes.starts_with(b"\0\0\x01\0") => "an icon (ICO)",
        () if bytes.starts_with(b"PK\x03\x04") => "a ZIP archive",
        () if bytes.trim_ascii_start().starts_with(b"<svg") => "SVG",
        () if brand.starts_with(b"ftyp") => "a video",
        () => {
            return DecodeError::UnknownFormat { starts: printable(&bytes[..bytes.len().min(12)]) };
        }
    };
    DecodeError::OtherFormat { format }
}

fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("`{text}`"),
        _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
}

pub(crate) fn check_size(
    format: &'static str,
    width: u64,
    height: u64,
    options: &DecodeOptions,
) -> Result<(), DecodeError> {
    match width.checked_mul(height) {
        Some(0) => Err(DecodeError::Damaged {
            format,
            detail: format!("its header says {width}x{height} pixels"),
        }),
        Some(pixels) if pixels <= options.max_pixels => Ok(()),
        _ => Err(DecodeError::TooLarge { format, width, height, max_pixels: options.max_pixels }),
    }
}

/// A decoder's message on one line, without quotes around it or a full stop behind.
pub(crate) fn said(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    text.trim_matches('"').trim_end_matches('.').to_string()
}

// ---- the other formats ----

fn other(
    bytes: &[u8],
    name: &'static str,
    format: ImageFormat,
    options: &DecodeOptions,
) -> Result<RgbImage, DecodeError> {
    if let Some((width, height)) = size_in_header(bytes, format) {
        check_size(name, width, height, options)?;
    }
    let refuse = |error| image_error(error, name);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Eight bytes a pixel are what the widest kind (RGBA of 16 bits) takes.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_pixels.saturating_mul(8).saturating_add(64 << 20));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(refuse)?;
    let (width, height) = decoder.dimensions();
    check_size(name, width.into(), height.into(), options)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(refuse)?;
    Ok(oriented(to_rgb(image, options.background), orientation))
}

/// Columns and rows of the pixels as they are stored, and how they are to be turned; nothing where the
/// header does not tell.
pub(crate) fn stored(bytes: &[u8]) -> Option<(u32, u32, Orientation)> {
    let (format, bytes) = sniff(bytes).ok()?;
    let read = || match format {
        Format::Jpeg => jpeg::stored(bytes),
        Format::Other(_, format) => {
            let reader = ImageReader::with_format(Cursor::new(bytes), format);
            let mut decoder = reader.into_decoder().ok()?;
            let (width, height) = decoder.dimensions();
            Some((width, height, decoder.orientation().unwrap_or(Orientation::NoTransforms)))
        }
    };
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

/// Sizes that stand at a fixed place, so that a lying header is named as such even when the file
/// is broken in other ways.
fn size_in_header(bytes: &[u8], format: ImageFormat) -> Option<(u64, u64)> {
    let four = |at: usize| bytes.get(at..at + 4)?.try_into().ok();
    let two = |at: usize| bytes.get(at..at + 2)?.try_into().ok();
    match format {
        ImageFormat::Png if bytes.get(12..16)? == b"IHDR" => {
            Some((u32::from_be_bytes(four(16)?).into(), u32::from_be_bytes(four(20)?).into()))
        }
        ImageFormat::Gif => {
            Some((u16::from_le_bytes(two(6)?).into(), u16::from_le_bytes(two(8)?).into()))
        }
        ImageFormat::Bmp if u32::from_le_bytes(four(14)?) >= 40 => {
            let side = |at| Some(u64::from(i32::from_le_bytes(four(at)?).unsigned_abs()));
            Some((side(18)?, side(22)?))
        }
        _ => None,
    }
}

fn image_error(error: ImageError, format: &'static str) -> DecodeError {
    let ended = |error: &ImageError| {
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = cause {
            let eof = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|io| io.kind() == ErrorKind::UnexpectedEof);
            if eof || error.to_string().to_lowercase().contains("unexpected end of file") {
                return true;
            }
            cause = error.source();
        }
        false
    };
    match &error {
        ImageError::Unsupported(_) | ImageError::Limits(_) => {
            DecodeError::Unsupported { format, detail: said(&error) }
        }
        _ if ended(&error) => {
            DecodeError::Truncated { format, detail: "its data end before the picture does".into() }
        }
        _ => DecodeError::Damaged { format, detail: said(&error) },
    }
}

/// Any pixels to eight-bit RGB.
fn to_rgb(image: DynamicImage, background: [u8; 3]) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let from_16 =
        |values: Vec<u16>| values.into_iter().map(|v| (v >> 8) as u8).collect::<Vec<u8>>();
    let from_f32 = |values: Vec<f32>| {
        values.into_iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect::<Vec<u8>>()
    };
    let pixels = match image {
        DynamicImage::ImageLuma8(image) => from_grey(&image.into_raw()),
        DynamicImage::ImageLumaA8(image) => from_grey_alpha(&image.into_raw(), background),
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => from_rgba(&image.into_raw(), background),
        DynamicImage::ImageLuma16(image) => from_grey(&from_16(image.into_raw())),
        DynamicImage::ImageLumaA16(image) => {
            from_grey_alpha(&from_16(image.into_raw()), background)
        }
        DynamicImage::ImageRgb16(image) => from_16(image.into_raw()),
        DynamicImage::ImageRgba16(image) => from_rgba(&from_16(image.into_raw()), background),
        DynamicImage::ImageRgb32F(image) => from_f32(image.into_raw()),
        DynamicImage::ImageRgba32F(image) => from_rgba(&from_f32(image.into_raw()), background),
        image => image.into_rgb8().into_raw(),
    };
    RgbImage::new(width, height, pixels)
}

fn from_grey(values: &[u8]) -> Vec<u8> {
    values.iter().flat_map(|&v| [v; 3]).collect()
}

fn from_grey_alpha(values: &[u8], background: [u8; 3]) -> Vec<u8> {
    values
        .as_chunks::<2>()
        .0
        .iter()
        .flat_map(|&[v, alpha]| background.map(|behind| over(v, alpha, behind)))
        .collect()
}

fn from_rgba(values: &[u8], [r0, g0, b0]: [u8; 3]) -> Vec<u8> {
    values
        .as_chunks::<4>()
        .0
        .iter()
        .flat_map(|&[r, g, b, alpha]| [over(r, alpha, r0), over(g, alpha, g0), over(b, alpha, b0)])
        .collect()
}

/// `value` of opacity `alpha` over `behind`, rounded.
fn over(value: u8, alpha: u8, behind: u8) -> u8 {
    let (value, alpha, behind) = (u32::from(value), u32::from(alpha), u32::from(behind));
    ((value * alpha + behind * (255 - alpha) + 127) / 255) as u8
}

// ---- orientation ----

/// The image as it is meant to be seen.
pub(crate) fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
    let (w, h) = (image.width() as usize, image.height() as usize);
    // The source of the target's pixel (x, y).
    match orientation {
        Orientation::NoTransforms => image,
        Orientation::FlipHorizontal => {
            let mut image = image;
            image.flip_horizontal();
            image
        }
        Orientation::Rotate180 => moved(&image, w, h, |x, y| (w - 1 - x, h - 1 - y)),
        Orientation::FlipVertical => moved(&image, w, h, |x, y| (x, h - 1 - y)),
        Orientation::Rotate90FlipH => moved(&image, h, w, |x, y| (y, x)),
        Orientation::Rotate90 => moved(&image, h, w, |x, y| (y, h - 1 - x)),
        Orientation::Rotate270FlipH => moved(&image, h, w, |x, y| (w - 1 - y, h - 1 - x)),
        Orientation::Rotate270 => moved(&image, h, w, |x, y| (w - 1 - y, x)),
    }
}

fn moved(
    image: &RgbImage,
    width: usize,
    height: usize,
    source: impl Fn(usize, usize) -> (usize, usize),
) -> RgbImage {
    let (pixels, _) = image.pixels().as_chunks::<3>();
    let stride = image.width() as usize;
    let mut target = Vec::with_capacity(image.pixels().len());
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = source(x, y);
            target.extend_from_slice(&pixels[from_y * stride + from_x]);
        }
    }
    RgbImage::new(width as u32, height as u32, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{encoded, mean_difference, real, rgb8, synthetic};
    use crate::{Hint, Stream};
    use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    fn read(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
        decode(bytes, &DecodeOptions::default())
    }

    fn refusal(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    const FORMATS: [ImageFormat; 6] = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ];

    /// A smooth picture, which JPEG and GIF keep well.
    fn smooth(width: u32, height: u32) -> RgbImage {
        let pixels = (0..height).flat_map(|y| {
            (0..width).flat_map(move |x| [(x * 255 / width) as u8, (y * 255 / height) as u8, 128])
        });
        RgbImage::new(width, height, pixels.collect())
    }

    #[test]
    fn reads_every_format_by_content() {
        let image = smooth(61, 47);
        for format in FORMATS {
            let decoded = read(&encoded(rgb8(&image), format)).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (61, 47), "{format:?}");
            let lossless = !matches!(format, ImageFormat::Jpeg | ImageFormat::Gif);
            let difference = mean_difference(decoded.pixels(), image.pixels());
            assert!(difference <= if lossless { 0.0 } else { 8.0 }, "{format:?}: {difference}");
        }
    }

    #[test]
    fn brings_grey_alpha_and_sixteen_bits_to_rgb() {
        let grey16 = ImageBuffer::<Luma<u16>, _>::from_raw(3, 1, vec![0u16, 32768, 65535]).unwrap();
        assert_eq!(
            read(&encoded(grey16, ImageFormat::Png)).unwrap().pixels(),
            [0, 0, 0, 128, 128, 128, 255, 255, 255]
        );
        let rgb16 =
            ImageBuffer::<Rgb<u16>, _>::from_raw(1, 1, vec![0x01ff_u16, 0x0200, 0x0300]).unwrap();
        assert_eq!(read(&encoded(rgb16, ImageFormat::Png)).unwrap().pixels(), [1, 2, 3]);
        let grey_alpha =
            ImageBuffer::<LumaA<u8>, _>::from_raw(3, 1, vec![10u8, 255, 10, 0, 10, 51]).unwrap();
        assert_eq!(
            read(&encoded(grey_alpha, ImageFormat::Png)).unwrap().pixels(),
            [10, 10, 10, 255, 255, 255, 206, 206, 206]
        );
        let rgba =
            ImageBuffer::<Rgba<u8>, _>::from_raw(2, 1, vec![10u8, 20, 30, 255, 10, 20, 30, 0])
                .unwrap();
        let options = DecodeOptions { background: [1, 2, 3], ..DecodeOptions::default() };
        for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Tiff] {
            assert_eq!(
                decode(&encoded(rgba.clone(), format), &options).unwrap().pixels(),
                [10, 20, 30, 1, 2, 3],
                "{format:?}"
            );
        }
        let float = ImageBuffer::<Rgb<f32>, _>::from_raw(1, 1, vec![-1.0f32, 0.5, 7.0]).unwrap();
        assert_eq!(read(&encoded(float, ImageFormat::Tiff)).unwrap().pixels(), [0, 128, 255]);
        let grey = ImageBuffer::<Luma<u8>, _>::from_raw(8, 8, vec![77u8; 64]).unwrap();
        assert_eq!(read(&encoded(grey, ImageFormat::Jpeg)).unwrap().pixels(), [77; 192]);
    }

    /// An EXIF block that holds nothing but an orientation.
    fn exif(orientation: u8) -> Vec<u8> {
        let mut exif = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        exif
    }

    fn jpeg_with_exif(jpeg: &[u8], exif: &[u8]) -> Vec<u8> {
        let length = (exif.len() as u16 + 8).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, b"Exif\0\0", exif, &jpeg[2..]].concat()
    }

    #[test]
    fn applies_all_eight_orientations() {
        // Corners clockwise from the top left, as stored.
        let (a, b, c, d) = ([0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]);
        let mut image = RgbImage::filled(32, 16, [128; 3]);
        for (corner, (x0, y0)) in [(a, (0, 0)), (b, (16, 0)), (c, (16, 8)), (d, (0, 8))] {
            for (x, y) in (0..16).flat_map(|x| (0..8).map(move |y| (x, y))) {
                let at = ((y0 + y) * 32 + x0 + x) * 3;
                image.pixels_mut()[at..at + 3].copy_from_slice(&corner);
            }
        }
        let expected = [
            [a, b, c, d],
            [b, a, d, c],
            [c, d, a, b],
            [d, c, b, a],
            [a, d, c, b],
            [d, a, b, c],
            [c, b, a, d],
            [b, c, d, a],
        ];
        let jpeg = encoded(rgb8(&image), ImageFormat::Jpeg);
        for (orientation, corners) in (1..).zip(expected) {
            let decoded = read(&jpeg_with_exif(&jpeg, &exif(orientation))).unwrap();
            assert_eq!(decoded.width() == 16, orientation > 4);
            let (x, y) = (decoded.width() - 1, decoded.height() - 1);
            for (found, corner) in [(0, 0), (x, 0), (x, y), (0, y)]
                .map(|(x, y)| decoded.pixel(x, y))
                .iter()
                .zip(corners)
            {
                assert!(
                    mean_difference(found, &corner) < 12.0,
                    "orientation {orientation}: {found:?} is not {corner:?}"
                );
            }
        }
    }

    #[test]
    fn orientation_is_read_from_png_webp_and_tiff() {
        use image::ImageEncoder;
        let image = smooth(20, 10);
        let mut png = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
        encoder.set_exif_metadata(exif(6)).unwrap();
        encoder.write_image(image.pixels(), 20, 10, image::ExtendedColorType::Rgb8).unwrap();
        let mut webp = Vec::new();
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif(6)).unwrap();
        encoder.write_image(image.pixels(), 20, 10, image::ExtendedColorType::Rgb8).unwrap();
        for bytes in [png, webp] {
            let decoded = read(&bytes).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (10, 20));
            assert_eq!(
                (decoded.pixel(0, 0), decoded.pixel(9, 19)),
                (image.pixel(0, 9), image.pixel(19, 0))
            );
        }
    }

    #[test]
    fn senseless_exif_is_ignored() {
        let image = smooth(32, 16);
        let jpeg = encoded(rgb8(&image), ImageFormat::Jpeg);
        let plain = read(&jpeg).unwrap();
        for block in [
            &b"MZ\x90\0nonsense"[..],
            &exif(0),
            &exif(9),
            &exif(255),
            b"",
            b"MM\0\x2a\xff\xff\xff\xff",
        ] {
            assert_eq!(read(&jpeg_with_exif(&jpeg, block)).unwrap(), plain);
        }
    }

    #[test]
    fn cut_images_are_refused_at_every_length() {
        let image = synthetic(40, 40, 3);
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp] {
            let whole = encoded(rgb8(&image), format);
            for length in 0..whole.len() - 16 {
                assert!(
                    read(&whole[..length]).is_err(),
                    "{format:?} cut to {length} of {} bytes",
                    whole.len()
                );
            }
        }
    }

    #[test]
    fn junk_around_and_inside_a_jpeg_is_passed_over() {
        let jpeg = encoded(rgb8(&smooth(32, 16)), ImageFormat::Jpeg);
        let plain = read(&jpeg).unwrap();
        assert_eq!(read(&[b"HTTP header\r\n\r\n", &jpeg[..]].concat()).unwrap(), plain);
        assert_eq!(read(&[&jpeg[..], b"trailing bytes"].concat()).unwrap(), plain);
        assert_eq!(read(&[&jpeg[..2], b"junk between", &jpeg[2..]].concat()).unwrap(), plain);
    }

    #[test]
    fn lying_headers_are_refused_before_anything_is_allocated() {
        let mut png =
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xc3\x50\0\0\xc3\x50\x08\x02\0\0\0".to_vec();
        assert_eq!(
            refusal(&png),
            "its PNG header says 50000x50000 pixels, more than the limit of 178956970"
        );
        png[16..24].fill(0xff);
        assert_eq!(
            refusal(&png),
            "its PNG header says 4294967295x4294967295 pixels, more than the limit of 178956970"
        );
        let mut jpeg = encoded(rgb8(&smooth(32, 16)), ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        assert_eq!(
            refusal(&jpeg),
            "its JPEG header says 65535x65535 pixels, more than the limit of 178956970"
        );
        assert_eq!(
            refusal(b"GIF89a\xff\xff\xff\xff\0\0\0"),
            "its GIF header says 65535x65535 pixels, more than the limit of 178956970"
        );
        let small = DecodeOptions { max_pixels: 100, ..DecodeOptions::default() };
        for format in FORMATS {
            let refused = decode(&encoded(rgb8(&smooth(11, 10)), format), &small).unwrap_err();
            assert!(
                matches!(
                    refused,
                    DecodeError::TooLarge { width: 11, height: 10, max_pixels: 100, .. }
                ),
                "{format:?}: {refused}"
            );
            assert!(decode(&encoded(rgb8(&smooth(10, 10)), format), &small).is_ok(), "{format:?}");
        }
    }

    #[test]
    fn what_is_no_image_is_said_plainly() {
        assert_eq!(refusal(b""), "the file is empty (0 bytes)");
        assert_eq!(
            refusal(b"just some text\n"),
            "not an image of a known format: it starts with `just some te`"
        );
        assert_eq!(refusal(&[0, 1, 2]), "not an image of a known format: it starts with 00 01 02");
        assert_eq!(
            refusal(b"<html><body>404</body></html>"),
            "not an image of a known format: it starts with `<html><body>`"
        );
        let others: [(&[u8], &str); 9] = [
            (b"\0\0\0\x18ftypheic\0\0", "HEIC"),
            (b"\0\0\0\x18ftypavif\0\0", "AVIF"),
            (b"\xff\x0a\0\0", "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"8BPS\0\x01", "a Photoshop document"),
            (b"%PDF-1.7", "a PDF"),
            (b"  <svg xmlns='x'>", "SVG"),
            (b"PK\x03\x04", "a ZIP archive"),
            (b"\0\0\0\x18ftypmp42\0\0", "a video"),
        ];
        for (bytes, format) in others {
            assert_eq!(refusal(bytes), format!("it is {format}, which refit does not read"));
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let image = synthetic(24, 24, 9);
        let mut refused = 0;
        for (which, format) in FORMATS.into_iter().enumerate() {
            let whole = encoded(rgb8(&image), format);
            for round in 0..400 {
                let mut stream = Stream::new(7, "damage", &[which as u64, round]);
                let mut bytes = whole.clone();
                for _ in 0..=stream.below(8) {
                    let at = stream.below(bytes.len());
                    bytes[at] = stream.next_u32() as u8;
                }
                if stream.chance(0.3) {
                    bytes.truncate(stream.below(bytes.len() + 1));
                }
                // A lying header must not make the test eat memory.
                match decode(
                    &bytes,
                    &DecodeOptions { max_pixels: 1 << 20, ..DecodeOptions::default() },
                ) {
                    Ok(image) => assert!(image.width() > 0),
                    Err(error) => {
                        refused += 1;
                        assert!(
                            !error.to_string().contains("gave up"),
                            "{format:?}, round {round}: its decoder panicked"
                        );
                        assert!(error.hint().is_some());
                    }
                }
            }
        }
        assert!(refused > 500, "{refused}");
    }

    #[test]
    fn troublesome_files_come_out_as_expected() {
        let Some(folder) = real("trouble") else { return };
        // Width, height and mean colour as PIL has them, or the refusal.
        type Expected = Result<(u32, u32, [f64; 3]), &'static str>;
        let cases: [(&str, Expected); 14] = [
            ("broken.png", Err("the PNG is damaged")),
            ("broken_data_stream.png", Err("the PNG is damaged")),
            ("hopper.webp", Ok((128, 128, [89.78, 80.08, 95.53]))),
            ("hopper_gray.jpg", Ok((128, 128, [84.69; 3]))),
            ("hopper_orientation_6.jpg", Ok((128, 128, [89.67, 80.08, 95.34]))),
            // PIL cannot convert 16-bit grey (it clips to white).
            ("i_trns.png", Ok((64, 64, [35.0; 3]))),
            ("invalid-exif.jpg", Ok((200, 200, [92.09; 3]))),
            ("junk_jpeg_header.jpg", Ok((1024, 768, [117.1, 115.83, 116.81]))),
            ("mode_16bit.png", Ok((128, 64, [255.0, 0.0, 0.0]))),
            ("pil_sample_cmyk.jpg", Ok((100, 100, [30.23, 5.44, 7.39]))),
            (
                "reallybig.bmp",
                Err("its BMP header says 3000000x2000000 pixels, more than the limit of 178956970"),
            ),
            (
                "truncated_image.png",
                Err("the PNG is cut short: its data end before the picture does"),
            ),
            (
                "truncated_jpeg.jpg",
                Err("the JPEG is cut short: it ends before its end-of-image marker"),
            ),
            ("uncompressed_la.png", Ok((128, 128, [241.4; 3]))),
        ];
        assert_eq!(
            std::fs::read_dir(&folder).unwrap().count(),
            cases.len(),
            "every file has a case"
        );
        let mut wrong = Vec::new();
        for (name, expected) in cases {
            let found = decode_file(&folder.join(name), &DecodeOptions::default());
            let as_expected = match (&found, &expected) {
                (Ok(image), Ok((width, height, colour))) => {
                    let mean = mean_colour(image);
                    (image.width(), image.height()) == (*width, *height)
                        && mean.iter().zip(colour).all(|(a, b)| (a - b).abs() < 0.5)
                }
                (Err(error), Err(message)) => error.to_string().starts_with(&format!(
                    "`{}` cannot be used: {message}",
                    folder.join(name).display()
                )),
                _ => false,
            };
            if !as_expected {
                wrong.push(format!(
                    "{name}: {found:?} {:?}, expected {expected:?}",
                    found.as_ref().ok().map(mean_colour)
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn mean_colour(image: &RgbImage) -> [f64; 3] {
        let pixels = image.pixels().as_chunks::<3>().0;
        [0, 1, 2].map(|c| {
            pixels.iter().map(|pixel| f64::from(pixel[c])).sum::<f64>() / pixels.len() as f64
        })
    }

    #[test]
    fn eight_orientations_of_a_photo_show_the_same() {
        let Some(folder) = real("exif") else { return };
        let photos: Vec<RgbImage> = (1..=8)
            .map(|n| {
                decode_file(&folder.join(format!("Landscape_{n}.jpg")), &DecodeOptions::default())
                    .unwrap()
            })
            .collect();
        for photo in &photos {
            assert_eq!((photo.width(), photo.height()), (1800, 1200));
            let difference = mean_difference(photo.pixels(), photos[0].pixels());
            assert!(difference < 4.0, "{difference}");
        }
    }

    #[test]
    fn half_a_photo_is_refused_and_whole_ones_are_read() {
        let Some(folder) = real("ants_bees/train") else { return };
        let mut photos = 0;
        for path in crate::list_images(&[folder]).unwrap() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(read(&bytes).is_ok(), "{}: {:?}", path.display(), read(&bytes));
            assert!(read(&bytes[..bytes.len() / 2]).is_err(), "half of {}", path.display());
            photos += 1;
        }
        assert_eq!(photos, 245);
    }
}
