//! Pictures in the page: small JPEGs, and heat maps over them.

use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageResult};
use refit::data::{
    DecodeOptions, Detail, Interpolation, Preprocess, Resize, RgbImage, decode_file_in,
};
use refit::learn::HeatMap;

/// Pixels of a thumbnail's side, for 72 on a fine screen, and of a picture beside its heat map.
const SMALL: usize = 112;
const LARGE: usize = 176;
const QUALITY: u8 = 78;

/// A file's centre as a data URI; nothing where it cannot be read.
pub fn thumbnail(path: &Path) -> Option<String> {
    let detail = Detail::AtLeast { shorter: 2 * SMALL as u32, longer: 0 };
    let image = decode_file_in(path, &DecodeOptions::default(), detail).ok()?;
    Some(uri(&resized(&image, SMALL, Resize::ShorterSide { to: SMALL })))
}

/// A square image as a data URI.
pub fn plain(square: &RgbImage) -> String {
    uri(&resized(square, LARGE, Resize::Squash))
}

/// The same under a heat map.
pub fn heated(square: &RgbImage, map: &HeatMap) -> String {
    uri(&over(&resized(square, LARGE, Resize::Squash), map))
}

/// The centre of an image, for those who know no network's preprocessing.
pub fn centre() -> Preprocess {
    preprocess(LARGE, Resize::ShorterSide { to: LARGE })
}

fn resized(image: &RgbImage, size: usize, resize: Resize) -> RgbImage {
    preprocess(size, resize).square(image)
}

fn preprocess(size: usize, resize: Resize) -> Preprocess {
    let interpolation = Interpolation::Bicubic;
    Preprocess { size, resize, interpolation, mean: [0.0; 3], std: [1.0; 3] }
}

/// A heat map over an image, in colours whose lightness rises evenly with the value (`inferno`: Smith
/// and van der Walt 2015). Where there is little, the image is seen in grey.
pub fn over(image: &RgbImage, map: &HeatMap) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let mut pixels = Vec::with_capacity(image.pixels().len());
    for (i, pixel) in image.pixels().as_chunks::<3>().0.iter().enumerate() {
        let (x, y) = (i as u32 % width, i as u32 / width);
        let value = map.at((x as f32 + 0.5) / width as f32, (y as f32 + 0.5) / height as f32);
        pixels.extend(blended(*pixel, value));
    }
    RgbImage::new(width, height, pixels)
}

fn blended(pixel: [u8; 3], value: f32) -> [u8; 3] {
    let [r, g, b] = pixel.map(f32::from);
    let grey = 0.299 * r + 0.587 * g + 0.114 * b;
    let colour = colorous::INFERNO.eval_continuous(f64::from(0.15 + 0.85 * value));
    let heat = [colour.r, colour.g, colour.b].map(f32::from);
    let strength = 0.35 + 0.3 * value;
    heat.map(|heat| (grey + strength * (heat - grey)).round() as u8)
}

/// The colours of the scale, as a CSS gradient's stops.
pub fn scale() -> String {
    let stop =
        |i: i32| format!("#{:x}", colorous::INFERNO.eval_continuous(0.15 + 0.085 * f64::from(i)));
    let stops: Vec<String> = (0..=10).map(stop).collect();
    format!("linear-gradient(to right, {})", stops.join(", "))
}

fn uri(image: &RgbImage) -> String {
    let mut bytes = Vec::new();
    encode_jpeg(image, &mut bytes).expect("a small image, into memory");
    format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes))
}

/// Writes a JPEG.
///
/// # Errors
/// If `out` cannot be written.
pub fn encode_jpeg(image: &RgbImage, out: impl Write) -> ImageResult<()> {
    let encoder = JpegEncoder::new_with_quality(out, QUALITY);
    encoder.write_image(image.pixels(), image.width(), image.height(), ExtendedColorType::Rgb8)
}

/// Writes a PNG.
///
/// # Errors
/// If `out` cannot be written.
pub fn encode_png(image: &RgbImage, out: impl Write) -> ImageResult<()> {
    let encoder = PngEncoder::new(out);
    encoder.write_image(image.pixels(), image.width(), image.height(), ExtendedColorType::Rgb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_lies_where_the_map_has_it() {
        let image = RgbImage::filled(8, 4, [100, 100, 100]);
        let hot = over(&image, &HeatMap::new(2, 1, vec![0.0, 1.0]));
        let (cold, hot) = (hot.pixel(0, 2), hot.pixel(7, 2));
        assert!(hot[0] > cold[0] + 50 && hot[1] > cold[1] + 50, "{cold:?} {hot:?}");
        assert!(scale().starts_with("linear-gradient(to right, #2"), "{}", scale());
    }

    #[test]
    fn thumbnails_of_nothing_are_none() {
        assert_eq!(thumbnail(Path::new("nowhere.jpg")), None);
    }
}
