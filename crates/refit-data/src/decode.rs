//! Bytes to pixels: any image a user may have, to eight-bit RGB, or a reason why not.
//!
//! The content decides the format, never the extension. Grey is repeated over the channels,
//! palettes are looked up, 16-bit values become `round(v / 257)`, CMYK is multiplied out
//! (`c * k / 255` on Adobe's inverted values, as in PIL), transparency is laid over a background,
//! and the EXIF orientation is applied. Colour profiles are not: values are taken as sRGB, as PIL
//! and torchvision take them.
//!
//! An image that is cut short or damaged is refused, never filled up with grey.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, errors::DecodeErrors as JpegError};

use crate::{DataError, DecodeError, RgbImage};

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

/// Decodes a file's content.
///
/// # Errors
/// If the file cannot be read or is not a whole image of a known format. Names the path.
pub fn decode_file(path: &Path, options: &DecodeOptions) -> Result<RgbImage, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::read(path, source))?;
    decode(&bytes, options).map_err(|source| DataError::Unreadable { path: path.into(), source })
}

/// Decodes an image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF (first page).
///
/// # Errors
/// If the bytes are not a whole image of a known format, or have too many pixels.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, DecodeError> {
    let (format, bytes) = sniff(bytes)?;
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => jpeg(bytes, options),
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

fn check_size(
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

// ---- JPEG ----

/// JPEG goes to its decoder directly: through `image` it would be lenient and fill missing rows
/// with grey. Strict mode refuses that, but also junk between segments, which is harmless and
/// therefore cut out first.
fn jpeg(bytes: &[u8], options: &DecodeOptions) -> Result<RgbImage, DecodeError> {
    let layout = jpeg_layout(bytes)?;
    if let Some((width, height)) = layout.size {
        check_size("JPEG", width.into(), height.into(), options)?;
    }
    if !layout.ended {
        return Err(DecodeError::Truncated {
            format: "JPEG",
            detail: "it ends before its end-of-image marker".into(),
        });
    }
    let settings = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into())
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(layout.data.as_ref()), settings);
    decoder.decode_headers().map_err(jpeg_error)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    check_size("JPEG", width as u64, height as u64, options)?;
    let pixels = decoder.decode().map_err(jpeg_error)?;
    if pixels.len() != width * height * 3 {
        return Err(DecodeError::Unsupported {
            format: "JPEG",
            detail: format!("{} bytes for {width}x{height} pixels", pixels.len()),
        });
    }
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    Ok(oriented(RgbImage::new(width as u32, height as u32, pixels), orientation))
}

/// What a walk over the markers of a JPEG finds.
struct JpegLayout<'a> {
    /// From the first byte to the end marker, without junk between segments.
    data: Cow<'a, [u8]>,
    /// Columns and rows, by the frame header.
    size: Option<(u16, u16)>,
    /// Whether the end marker was met.
    ended: bool,
}

fn jpeg_layout(bytes: &[u8]) -> Result<JpegLayout<'_>, DecodeError> {
    let u16_at = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let start_of_image = 0..2;
    let mut kept = vec![start_of_image];
    let (mut at, mut size, mut ended) = (2, None, false);
    while let Some((start, marker)) = next_marker(bytes, at) {
        at = match marker {
            0x01 | 0xd0..=0xd9 => start + 2,
            _ => match u16_at(start + 2) {
                Some(length) if length >= 2 => start + 2 + usize::from(length),
                Some(_) => {
                    return Err(DecodeError::Damaged {
                        format: "JPEG",
                        detail: format!("segment {marker:02x} has no length"),
                    });
                }
                None => break,
            },
        };
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            size = u16_at(start + 7).zip(u16_at(start + 5)).or(size);
        }
        if marker == 0xda {
            at = end_of_scan(bytes, at);
        }
        if at > bytes.len() {
            break;
        }
        kept.push(start..at);
        ended = marker == 0xd9;
        if ended {
            break;
        }
    }
    let whole = kept.windows(2).all(|pair| pair[0].end == pair[1].start);
    let data = if whole {
        Cow::Borrowed(&bytes[..at.min(bytes.len())])
    } else {
        kept.into_iter().flat_map(|range| &bytes[range]).copied().collect()
    };
    Ok(JpegLayout { data, size, ended })
}

/// Where the next marker begins, and its code. Fill bytes before it count as its own.
fn next_marker(bytes: &[u8], from: usize) -> Option<(usize, u8)> {
    let mut pairs = bytes.get(from..)?.windows(2).zip(from..);
    pairs
        .find(|(pair, _)| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff))
        .map(|(pair, at)| (at, pair[1]))
}

/// Where the entropy-coded data that begin at `from` end: at the next marker that is no restart.
fn end_of_scan(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(found) =
        bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff))
    {
        at += found;
        match bytes.get(at + 1) {
            Some(0x00 | 0xd0..=0xd7) => at += 2,
            Some(0xff) => at += 1,
            Some(_) => return at,
            None => break,
        }
    }
    bytes.len()
}

fn jpeg_error(error: JpegError) -> DecodeError {
    let (format, detail) = ("JPEG", said(&error));
    match error {
        JpegError::ExhaustedData
        | JpegError::IoErrors(_)
        | JpegError::FormatStatic("Premature end of buffer") => {
            DecodeError::Truncated { format, detail: "its data end before the picture does".into() }
        }
        JpegError::Unsupported(_) => DecodeError::Unsupported { format, detail },
        _ => DecodeError::Damaged { format, detail },
    }
}

/// A decoder's message on one line, without quotes around it or a full stop behind.
fn said(error: &dyn std::fmt::Display) -> String {
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
    let from_16 = |values: Vec<u16>| {
        values.into_iter().map(|v| ((u32::from(v) + 128) / 257) as u8).collect::<Vec<u8>>()
    };
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
fn oriented(image: RgbImage, orientation: Orientation) -> RgbImage {
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
