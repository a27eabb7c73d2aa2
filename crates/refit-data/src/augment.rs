//! Random changes of training images that leave their meaning alone.
//!
//! Semantics, ranges and the order of work are torchvision's on PIL images
//! (`RandomResizedCrop`, `RandomHorizontalFlip`, `ColorJitter`), down to PIL's eight-bit rounding.

use serde::{Deserialize, Serialize};

use crate::preprocess::{PIPELINE_VERSION, crop_and_resize};
use crate::{DataError, Preprocess, RgbImage, Stream};

/// A crop of random area and shape, resized to the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RandomCrop {
    /// Least and greatest share of the image's area, each in `(0, 1]`.
    pub scale: [f64; 2],
    /// Least and greatest width over height; drawn evenly in its logarithm.
    pub ratio: [f64; 2],
}

/// Random changes of colour, in random order.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
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

/// What may happen to a training image, drawn anew each time it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Augment {
    /// A random crop instead of the preprocessing's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<RandomCrop>,
    /// Probability of mirroring left and right.
    pub flip: f64,
    /// Changes of colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<ColourJitter>,
}

impl Augment {
    /// Nothing: every time the same pixels, those of the preprocessing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Mirroring, and crops that keep at least 70% of the area.
    pub fn light() -> Self {
        Self {
            crop: Some(RandomCrop { scale: [0.7, 1.0], ratio: [0.85, 1.0 / 0.85] }),
            flip: 0.5,
            jitter: None,
        }
    }

    /// Mirroring, crops that keep at least 35% of the area, and mild changes of colour.
    pub fn standard() -> Self {
        let jitter = ColourJitter { brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0.02 };
        Self {
            crop: Some(RandomCrop { scale: [0.35, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }),
            flip: 0.5,
            jitter: Some(jitter),
        }
    }

    /// Whether images pass unchanged.
    pub fn is_none(&self) -> bool {
        *self == Self::none()
    }

    /// Checks that every range makes sense.
    ///
    /// # Errors
    /// If a probability, share, ratio or strength lies outside its range.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |field, problem: String| Err(DataError::Preprocess { field, problem });
        if !(0.0..=1.0).contains(&self.flip) {
            return refuse("flip", format!("is {}, not a probability", self.flip));
        }
        if let Some(RandomCrop { scale: [low, high], ratio: [narrow, wide] }) = self.crop {
            if !(0.0 < low && low <= high && high <= 1.0) {
                return refuse("crop scale", format!("is {low} to {high}, not a range in (0, 1]"));
            }
            if !(0.0 < narrow && narrow <= wide && wide.is_finite()) {
                return refuse("crop ratio", format!("is {narrow} to {wide}, not a range above 0"));
            }
        }
        if let Some(ColourJitter { brightness, contrast, saturation, hue }) = self.jitter {
            if ![brightness, contrast, saturation].iter().all(|x| x.is_finite() && *x >= 0.0) {
                return refuse(
                    "jitter",
                    format!(
                        "is {brightness}, {contrast}, {saturation}, not three numbers of at least 0"
                    ),
                );
            }
            if !(0.0..=0.5).contains(&hue) {
                return refuse("jitter hue", format!("is {hue}, not from 0 to 0.5"));
            }
        }
        Ok(())
    }

    /// The network's input for a changed image, `[3, size, size]`. The same stream gives the same
    /// values.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate).
    pub fn apply(
        &self,
        image: &RgbImage,
        preprocess: &Preprocess,
        stream: &mut Stream,
    ) -> Vec<f32> {
        let mut values = vec![0.0; preprocess.len()];
        self.apply_into(image, preprocess, stream, &mut values);
        values
    }

    /// Writes the network's input for a changed image into `out`, `[3, size, size]`.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate), or `out` is not `preprocess.len()` long.
    pub fn apply_into(
        &self,
        image: &RgbImage,
        preprocess: &Preprocess,
        stream: &mut Stream,
        out: &mut [f32],
    ) {
        preprocess.normalize_into(&self.square(image, preprocess, stream), out);
    }

    /// The changed image, `size` by `size`, before its values are normalized.
    ///
    /// # Panics
    /// If the settings are not [valid](Self::validate).
    pub fn square(
        &self,
        image: &RgbImage,
        preprocess: &Preprocess,
        stream: &mut Stream,
    ) -> RgbImage {
        let size = preprocess.size as u32;
        let mut square = match &self.crop {
            Some(crop) => crop_and_resize(
                image,
                crop.draw(image.width(), image.height(), stream),
                (size, size),
                preprocess.interpolation,
            ),
            None => preprocess.square(image),
        };
        if stream.chance(self.flip) {
            square.flip_horizontal();
        }
        if let Some(jitter) = &self.jitter {
            jitter.apply(&mut square, stream);
        }
        square
    }

    /// A hash of the settings: a part of the key of cached features of augmented views.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("refit augment v1");
        hasher.update(&PIPELINE_VERSION.to_le_bytes());
        let mut numbers = |numbers: &[f64]| {
            hasher.update(&(numbers.len() as u64).to_le_bytes());
            numbers.iter().for_each(|x| _ = hasher.update(&x.to_le_bytes()));
        };
        numbers(&[self.flip]);
        numbers(&self.crop.map_or(vec![], |crop| [crop.scale, crop.ratio].concat()));
        numbers(
            &self.jitter.map_or(vec![], |j| vec![j.brightness, j.contrast, j.saturation, j.hue]),
        );
        *hasher.finalize().as_bytes()
    }
}

impl RandomCrop {
    /// torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest centre crop of an
    /// allowed shape. Left, top, width, height.
    fn draw(&self, width: u32, height: u32, stream: &mut Stream) -> [u32; 4] {
        let (w, h) = (f64::from(width), f64::from(height));
        let [narrow, wide] = self.ratio;
        for _ in 0..10 {
            let area = w * h * stream.range(self.scale[0], self.scale[1]);
            let ratio = libm::exp(stream.range(libm::log(narrow), libm::log(wide)));
            let crop_w = libm::sqrt(area * ratio).round_ties_even();
            let crop_h = libm::sqrt(area / ratio).round_ties_even();
            if 0.0 < crop_w && crop_w <= w && 0.0 < crop_h && crop_h <= h {
                let top = stream.below((h - crop_h) as usize + 1) as u32;
                let left = stream.below((w - crop_w) as usize + 1) as u32;
                return [left, top, crop_w as u32, crop_h as u32];
            }
        }
        let (crop_w, crop_h) = match w / h {
            ratio if ratio < narrow => (w, (w / narrow).round_ties_even().clamp(1.0, h)),
            ratio if ratio > wide => ((h * wide).round_ties_even().clamp(1.0, w), h),
            _ => (w, h),
        };
        let (crop_w, crop_h) = (crop_w as u32, crop_h as u32);
        [(width - crop_w) / 2, (height - crop_h) / 2, crop_w, crop_h]
    }
}

impl ColourJitter {
    fn apply(&self, image: &mut RgbImage, stream: &mut Stream) {
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
fn blend(from: u8, to: u8, factor: f32) -> u8 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::synthetic;
    use crate::{Interpolation, Resize};

    const PREPROCESS: Preprocess = Preprocess {
        size: 32,
        resize: Resize::ShorterSide { to: 36 },
        interpolation: Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.5; 3],
    };

    #[test]
    fn nothing_is_the_preprocessing_itself() {
        let image = synthetic(61, 47, 1);
        assert_eq!(
            Augment::none().apply(&image, &PREPROCESS, &mut Stream::new(1, "augment", &[])),
            PREPROCESS.apply(&image)
        );
        assert!(Augment::none().is_none() && !Augment::light().is_none());
    }

    #[test]
    fn same_stream_same_pixels_other_stream_others() {
        let image = synthetic(61, 47, 1);
        for augment in [Augment::light(), Augment::standard()] {
            let draw = |sample| {
                augment.apply(&image, &PREPROCESS, &mut Stream::new(1, "augment", &[0, sample]))
            };
            assert_eq!(draw(3), draw(3));
            assert_ne!(draw(3), draw(4));
            assert!(draw(5).iter().all(|v| (-1.0..=1.0).contains(v)));
            augment.validate().unwrap();
        }
    }

    #[test]
    fn pixels_are_pinned() {
        // A change here changes every seeded training run: it must be meant, and told in the change log.
        let square = Augment::standard().square(
            &synthetic(61, 47, 1),
            &PREPROCESS,
            &mut Stream::new(1, "augment", &[0, 3]),
        );
        let digest = blake3::hash(square.pixels()).to_hex();
        assert_eq!(&digest[..16], PINNED);
    }

    const PINNED: &str = "274c92afffaaea19";

    #[test]
    fn crops_lie_inside_and_keep_to_their_ranges() {
        let crop = RandomCrop { scale: [0.35, 1.0], ratio: [0.75, 4.0 / 3.0] };
        let mut stream = Stream::new(5, "crop", &[]);
        for (width, height) in [(640, 480), (31, 47), (1, 1), (1, 400), (400, 1), (3000, 20)] {
            for _ in 0..200 {
                let [left, top, w, h] = crop.draw(width, height, &mut stream);
                assert!(
                    w >= 1 && h >= 1 && left + w <= width && top + h <= height,
                    "{left} {top} {w} {h} of {width}x{height}"
                );
                if (width, height) == (640, 480) {
                    let share = f64::from(w * h) / (640.0 * 480.0);
                    let ratio = f64::from(w) / f64::from(h);
                    assert!(
                        (0.34..=1.0).contains(&share) && (0.74..=1.35).contains(&ratio),
                        "{share} {ratio}"
                    );
                }
            }
        }
    }

    #[test]
    fn flips_half_of_the_time() {
        let augment = Augment { flip: 0.5, ..Augment::none() };
        let image = synthetic(40, 40, 2);
        let plain = PREPROCESS.square(&image);
        let flipped = (0..400)
            .filter(|&n| {
                augment.square(&image, &PREPROCESS, &mut Stream::new(1, "flip", &[n])) != plain
            })
            .count();
        assert!((150..250).contains(&flipped), "{flipped}");
    }

    #[test]
    fn settings_are_checked() {
        let message = |augment: Augment| augment.validate().unwrap_err().to_string();
        let none = Augment::none();
        assert_eq!(
            message(Augment { flip: 1.5, ..none }),
            "the preprocessing's flip is 1.5, not a probability"
        );
        let crop = |scale, ratio| Augment { crop: Some(RandomCrop { scale, ratio }), ..none };
        assert_eq!(
            message(crop([0.0, 1.0], [1.0, 1.0])),
            "the preprocessing's crop scale is 0 to 1, not a range in (0, 1]"
        );
        assert_eq!(
            message(crop([0.5, 1.0], [2.0, 1.0])),
            "the preprocessing's crop ratio is 2 to 1, not a range above 0"
        );
        let jitter = |jitter| Augment { jitter: Some(jitter), ..none };
        let still = ColourJitter::default();
        assert_eq!(
            message(jitter(ColourJitter { contrast: -1.0, ..still })),
            "the preprocessing's jitter is 0, -1, 0, not three numbers of at least 0"
        );
        assert_eq!(
            message(jitter(ColourJitter { hue: 0.6, ..still })),
            "the preprocessing's jitter hue is 0.6, not from 0 to 0.5"
        );
    }

    #[test]
    fn serializes_and_differs_by_digest() {
        let text = serde_json::to_string(&Augment::standard()).unwrap();
        assert_eq!(serde_json::from_str::<Augment>(&text).unwrap(), Augment::standard());
        assert_eq!(serde_json::from_str::<Augment>("{}").unwrap(), Augment::none());
        let digests = [Augment::none(), Augment::light(), Augment::standard()]
            .map(|augment| augment.digest());
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
    }
}
