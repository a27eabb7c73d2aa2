//! Images for tests: synthetic ones by formula, encoded ones, and the real ones outside the project.

use std::io::Cursor;
use std::path::PathBuf;

use image::{DynamicImage, ImageFormat};

use crate::RgbImage;

/// Where real images lie: `$REFIT_DATA`, or `../shared/data` beside the workspace. None if they are
/// absent, which is said and fails the test under `REFIT_REQUIRE_DATA=1`.
pub(crate) fn real(name: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let path = std::env::var_os("REFIT_DATA").map_or_else(beside, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(
        std::env::var_os("REFIT_REQUIRE_DATA").is_none_or(|v| v != "1"),
        "REFIT_REQUIRE_DATA=1, but `{}` does not exist",
        path.display()
    );
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    {
        eprintln!(
            "SKIPPED: `{}` does not exist; set REFIT_DATA to the folder of test images",
            path.display()
        );
    }
    None
}

/// Gradients, hard edges and noise, as in tools/golden_pixels.py.
pub(crate) fn synthetic(width: u32, height: u32, seed: u64) -> RgbImage {
    let value = |x: u64, y: u64, c: u64| {
        let h = ((x * 73_856_093) ^ (y * 19_349_663) ^ (c * 83_492_791) ^ (seed * 2_654_435_761))
            & 0xFFFF_FFFF;
        let h = (h * 2_654_435_761) & 0xFFFF_FFFF;
        let noise = (((h ^ (h >> 15)) * 2_246_822_519) & 0xFFFF_FFFF) >> 24;
        let gradient = ((x * (c + 1) + y * (3 - c)) * 255) / (3 * u64::from(width + height));
        let edge = if (x / 7 + y / 5 + c).is_multiple_of(2) { 255 } else { 0 };
        if (x / 32 + y / 32).is_multiple_of(3) { edge } else { (gradient * 5 + noise * 3) / 8 }
    };
    let rows = (0..u64::from(height)).flat_map(|y| {
        (0..u64::from(width)).flat_map(move |x| [0, 1, 2].map(|c| value(x, y, c) as u8))
    });
    RgbImage::new(width, height, rows.collect())
}

/// Encodes an image.
pub(crate) fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// As the `image` crate's type.
pub(crate) fn rgb8(image: &RgbImage) -> DynamicImage {
    image::RgbImage::from_raw(image.width(), image.height(), image.pixels().to_vec())
        .unwrap()
        .into()
}

/// Mean absolute difference of two images of the same shape, in steps of an eight-bit value.
pub(crate) fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}
