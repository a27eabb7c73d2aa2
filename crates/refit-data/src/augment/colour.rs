//! Changes of colour, with PIL's eight-bit rounding.

use serde::{Deserialize, Serialize};

use crate::{RgbImage, Stream};

/// Random changes of colour, in random order.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct ColourJitter {
    /// Brightness is multiplied by a factor from `1 - x` (at least 0) to `1 + x`.
    pub brightness: f64,
    /// Contrast likewise.
    pub contrast: f64,
    /// Saturation likewise.
    pub saturation: f64,
    /// Hue is turned by from `-x` to `x` of a full circle; at most 0.5.
    pub hue: f64,
}

impl ColourJitter {
    pub(super) fn apply(&self, image: &mut RgbImage, stream: &mut Stream) {
        let mut factor = |strength: f64| {
            (strength > 0.0).then(|| stream.range((1.0 - strength).max(0.0), 1.0 + strength) as f32)
        };
        let factors = [factor(self.brightness), factor(self.contrast), factor(self.saturation)];
        let hue = (self.hue > 0.0).then(|| stream.range(-self.hue, self.hue));
        for which in stream.permutation(4) {
            match (which, factors.get(which).copied().flatten(), hue) {
                (0, Some(factor), _) => brightness(image, factor),
                (1, Some(factor), _) => contrast(image, factor),
                (2, Some(factor), _) => saturation(image, factor),
                (3, _, Some(turn)) => turn_hue(image, turn),
                _ => {}
            }
        }
    }
}

/// PIL's `Image.blend(from, to, factor)` for one value.
pub(super) fn blend(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))).clamp(0.0, 255.0) as u8
}

/// PIL's conversion to `L` (ITU-R 601).
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

pub(crate) fn brightness(image: &mut RgbImage, factor: f32) {
    let table: [u8; 256] = std::array::from_fn(|v| blend(0, v as u8, factor));
    image.pixels_mut().iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

pub(crate) fn contrast(image: &mut RgbImage, factor: f32) {
    let (pixels, _) = image.pixels().as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    let table: [u8; 256] = std::array::from_fn(|v| blend(mean, v as u8, factor));
    image.pixels_mut().iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

pub(crate) fn saturation(image: &mut RgbImage, factor: f32) {
    for pixel in image.pixels_mut().as_chunks_mut::<3>().0 {
        let grey = luma(*pixel);
        *pixel = pixel.map(|v| blend(grey, v, factor));
    }
}

/// torchvision's `adjust_hue` on PIL images: the hue is a byte that wraps around.
pub(crate) fn turn_hue(image: &mut RgbImage, turn: f64) {
    let turn = (turn * 255.0) as i32 as u8;
    let sectors: [(u8, f32); 256] = std::array::from_fn(|h| sector((h as u8).wrapping_add(turn)));
    for pixel in image.pixels_mut().as_chunks_mut::<3>().0 {
        let [h, s, v] = hsv(*pixel);
        *pixel = rgb(sectors[usize::from(h)], s, v);
    }
}

/// PIL's `RGB` to `HSV`; single and double precision as PIL mixes them.
fn hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let from = |v: u8| f32::from(most - v) / range;
    let sixths = if r == most {
        from(b) - from(g)
    } else if g == most {
        (2.0 + f64::from(from(r)) - f64::from(from(b))) as f32
    } else {
        (4.0 + f64::from(from(g)) - f64::from(from(r))) as f32
    };
    // From 5/6 to 11/6: the remainder by 1, without a call.
    let turned = f64::from(sixths) / 6.0 + 1.0;
    let hue = (if turned >= 1.0 { turned - 1.0 } else { turned }) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(range / f32::from(most)) * 255.0) as u8, most]
}

/// Which sixth of the circle a hue is in, and how far.
fn sector(hue: u8) -> (u8, f32) {
    let sixths = f64::from(hue) * 6.0 / 255.0;
    (sixths as u8, (sixths - sixths.floor()) as f32)
}

/// PIL's `HSV` to `RGB`.
fn rgb((sector, f): (u8, f32), s: u8, v: u8) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let (s, value) = ((f64::from(s) / 255.0) as f32, f64::from(v));
    // Rounds halves up; values are never negative, and never above 255.
    let byte = |x: f64| x as u8 + u8::from(x - f64::from(x as u8) >= 0.5);
    let p = byte(value * (1.0 - f64::from(s)));
    let q = byte(value * (1.0 - f64::from(s * f)));
    let t = byte(value * (1.0 - f64::from(s) * (1.0 - f64::from(f))));
    match sector % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
