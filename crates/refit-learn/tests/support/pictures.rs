//! Small pictures made here.

use std::fs;
use std::path::Path;

/// A 24-bit BMP of stripes: `hue` decides the colour, `variant` the stripes.
pub fn picture(path: &Path, hue: usize, variant: usize) {
    let (w, h) = (40_u32, 36_u32);
    let size = 54 + w * h * 3;
    let mut bytes = b"BM".to_vec();
    for value in [size, 0, 54, 40, w, h, 1 | 24 << 16, 0, w * h * 3, 2835, 2835, 0, 0] {
        bytes.extend(value.to_le_bytes());
    }
    for y in 0..h {
        for x in 0..w {
            let stripe = ((x as usize * (2 + variant) + y as usize * (variant % 3)) % 17) as u8;
            let mut pixel = [30 + stripe * 3; 3];
            pixel[hue] = 150 + stripe * 6;
            bytes.extend(pixel);
        }
    }
    fs::write(path, bytes).unwrap();
}

/// Classes of so many striped pictures, by colour.
pub fn pictures(folder: &Path, per_class: &[usize]) {
    for (class, &count) in per_class.iter().enumerate() {
        let class_folder = folder.join(["blue", "green", "red"][class]);
        fs::create_dir_all(&class_folder).unwrap();
        (0..count).for_each(|i| picture(&class_folder.join(format!("{i}.bmp")), class, i));
    }
}
