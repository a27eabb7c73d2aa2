//! Images side by side, as a PNG.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use crate::preprocess::resize;
use crate::{Interpolation, RgbImage};

/// Pixels between images, and between the first column and the others.
const GAPS: [u32; 2] = [4, 12];

/// Rows of images on white, each shrunk to `cell` by `cell` pixels; the first column stands apart.
///
/// # Panics
/// If there are no rows, or `cell` is 0.
pub fn contact_sheet(rows: &[Vec<RgbImage>], cell: u32) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let [gap, apart] = GAPS;
    let left = |column: u32| gap + column * (cell + gap) + if column > 0 { apart - gap } else { 0 };
    let width = left(columns);
    let height = gap + rows.len() as u32 * (cell + gap);
    let mut sheet = RgbImage::filled(width, height, [255; 3]);
    for (row, images) in rows.iter().enumerate() {
        let top = gap + row as u32 * (cell + gap);
        for (column, image) in images.iter().enumerate() {
            let image = resize(image, cell, cell, Interpolation::Bicubic);
            put(&mut sheet, &image, left(column as u32) as usize, top as usize);
        }
    }
    sheet
}

fn put(sheet: &mut RgbImage, image: &RgbImage, left: usize, top: usize) {
    let (stride, length) = (sheet.width() as usize * 3, image.width() as usize * 3);
    let rows = sheet.pixels_mut().chunks_exact_mut(stride).skip(top);
    for (to, from) in rows.zip(image.pixels().chunks_exact(length)) {
        to[left * 3..][..length].copy_from_slice(from);
    }
}

/// The image as the bytes of a PNG file.
///
/// # Panics
/// If the encoder refuses, which only a bug would make it do.
pub fn to_png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (width, height) = (image.width(), image.height());
    PngEncoder::new(&mut bytes)
        .write_image(image.pixels(), width, height, ExtendedColorType::Rgb8)
        .expect("eight-bit RGB of the right length");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodeOptions, decode};

    #[test]
    fn cells_stand_in_rows_and_png_reads_back() {
        let colour = |v| RgbImage::filled(20, 20, [v; 3]);
        let sheet = contact_sheet(&[vec![colour(1), colour(2)], vec![colour(3)]], 10);
        assert_eq!((sheet.width(), sheet.height()), (4 + 10 + 12 + 10 + 4, 4 + 14 + 14));
        assert_eq!(sheet.pixel(4, 4), [1; 3]);
        assert_eq!(sheet.pixel(26, 4), [2; 3]);
        assert_eq!(sheet.pixel(13, 27), [3; 3]);
        assert_eq!(sheet.pixel(20, 4), [255; 3]);
        let read = decode(&to_png(&sheet), &DecodeOptions::default()).unwrap();
        assert!(read == sheet);
    }
}
