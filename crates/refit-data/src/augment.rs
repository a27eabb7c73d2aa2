//! Random changes of training images that leave their meaning alone.
//!
//! Semantics, ranges and the order of work are torchvision's on PIL images
//! (`RandomResizedCrop`, `RandomHorizontalFlip`, `ColorJitter`, `TrivialAugmentWide`, `RandAugment`,
//! `RandomErasing`), down to PIL's eight-bit rounding.

pub(crate) mod colour;
mod erase;
mod level;
mod mix;
pub(crate) mod operations;
pub(crate) mod policy;

use serde::{Deserialize, Serialize};

pub use self::colour::ColourJitter;
pub use self::erase::Erasing;
pub use self::level::Level;
pub use self::mix::{Mix, Mixture};
pub use self::policy::Policy;

use self::operations::{Operation, rotate_smoothly};
use self::policy::STRENGTHS;
use crate::preprocess::{PIPELINE_VERSION, crop_and_resize};
use crate::{DataError, Preprocess, RgbImage, Stream};

/// A crop of random area and shape, resized to the network's input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RandomCrop {
    /// Least and greatest share of the image's area, each in `(0, 1]`.
    pub scale: [f64; 2],
    /// Least and greatest width over height; drawn evenly in its logarithm.
    pub ratio: [f64; 2],
}

/// What may happen to a training image, drawn anew each time it is seen.
///
/// The order is that of the fields; what is off draws nothing. [`mix`](Self::mix) is about batches and
/// leaves single images alone.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Augment {
    /// A random crop instead of the preprocessing's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<RandomCrop>,
    /// Probability of mirroring left and right.
    pub flip: f64,
    /// Probability of mirroring top and bottom: for images that have no up.
    #[serde(skip_serializing_if = "is_zero")]
    pub vertical_flip: f64,
    /// Probability of a turn by 90, 180 or 270 degrees: for images that have no up.
    #[serde(skip_serializing_if = "is_zero")]
    pub quarter_turn: f64,
    /// Turned by an angle from `-x` to `x` degrees, bilinear; the mean colour fills the corners.
    #[serde(skip_serializing_if = "is_zero")]
    pub rotation: f64,
    /// Operations drawn from a policy; the mean colour goes where the image was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Changes of colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<ColourJitter>,
    /// A rectangle covered with the mean colour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasing: Option<Erasing>,
    /// Images made of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl Augment {
    /// The same without mirroring left and right: for images whose meaning it changes.
    pub fn without_flip(self) -> Self {
        Self { flip: 0.0, ..self }
    }

    /// Checks that every range makes sense.
    ///
    /// # Errors
    /// If a probability, share, ratio or strength lies outside its range.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |field, problem: String| Err(DataError::Augment { field, problem });
        let odds = [
            ("flip", self.flip),
            ("vertical-flip", self.vertical_flip),
            ("quarter-turn", self.quarter_turn),
            ("erasing probability", self.erasing.map_or(0.0, |e| e.probability)),
            ("mix probability", self.mix.map_or(0.0, |m| m.probability)),
        ];
        if let Some((field, value)) = odds.into_iter().find(|(_, p)| !(0.0..=1.0).contains(p)) {
            return refuse(field, format!("is {value}, not a probability"));
        }
        if !(0.0..=180.0).contains(&self.rotation) {
            return refuse("rotation", format!("is {}, not from 0 to 180 degrees", self.rotation));
        }
        if let Some(RandomCrop { scale: [low, high], ratio: [narrow, wide] }) = self.crop {
            if !(0.0 < low && low <= high && high <= 1.0) {
                return refuse("crop scale", format!("is {low} to {high}, not a range in (0, 1]"));
            }
            if !(0.0 < narrow && narrow <= wide && wide.is_finite()) {
                return refuse("crop ratio", format!("is {narrow} to {wide}, not a range above 0"));
            }
        }
        if let Some(Policy::RandAugment { operations, magnitude }) = self.policy {
            if !(1..=Operation::ALL.len()).contains(&operations) {
                return refuse("policy", format!("has {operations} operations, not 1 to 14"));
            }
            if magnitude >= STRENGTHS {
                return refuse("policy", format!("has magnitude {magnitude}, not 0 to 30"));
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
        if let Some(Erasing { area: [low, high], ratio: [flat, tall], .. }) = self.erasing {
            if !(0.0 < low && low <= high && high < 1.0) {
                return refuse(
                    "erasing area",
                    format!("is {low} to {high}, not a range in (0, 1)"),
                );
            }
            if !(0.0 < flat && flat <= tall && tall.is_finite()) {
                return refuse(
                    "erasing ratio",
                    format!("is {flat} to {tall}, not a range above 0"),
                );
            }
        }
        if let Some(Mix { mixup, cutmix, .. }) = self.mix {
            let alphas = format!("{mixup} (mixup) and {cutmix} (cutmix)");
            if ![mixup, cutmix].iter().all(|alpha| (0.0..=100.0).contains(alpha)) {
                return refuse("mix", format!("has alphas {alphas}, not from 0 to 100"));
            }
            if mixup + cutmix == 0.0 {
                return refuse("mix", format!("has alphas {alphas}, of which one must be above 0"));
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
        let fill = preprocess.mean_colour();
        self.turn(&mut square, fill, stream);
        if let Some(policy) = self.policy {
            policy.apply(&mut square, fill, stream);
        }
        if let Some(jitter) = &self.jitter {
            jitter.apply(&mut square, stream);
        }
        if let Some(erasing) = &self.erasing {
            erasing.apply(&mut square, fill, stream);
        }
        square
    }

    /// What is for images that have no up. What is off draws nothing, so that settings from before
    /// there was such a thing give the pixels that they gave.
    fn turn(&self, square: &mut RgbImage, fill: [u8; 3], stream: &mut Stream) {
        if self.vertical_flip > 0.0 && stream.chance(self.vertical_flip) {
            square.flip_vertical();
        }
        if self.quarter_turn > 0.0 && stream.chance(self.quarter_turn) {
            *square = square.turned(1 + stream.below(3));
        }
        if self.rotation > 0.0 {
            rotate_smoothly(square, stream.range(-self.rotation, self.rotation), fill);
        }
    }

    /// A hash of the settings that decide an image's pixels: a part of the key of cached features of
    /// augmented views. What is off has no part in it.
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
        let old = Self { crop: self.crop, flip: self.flip, jitter: self.jitter, ..Self::none() };
        if (Self { mix: None, ..*self }) != old {
            numbers(&[self.vertical_flip, self.quarter_turn, self.rotation]);
            numbers(&match self.policy {
                None => vec![],
                Some(Policy::TrivialAugment) => vec![0.0],
                Some(Policy::RandAugment { operations, magnitude }) => {
                    vec![1.0, operations as f64, magnitude as f64]
                }
            });
            numbers(
                &self
                    .erasing
                    .map_or(vec![], |e| [&[e.probability][..], &e.area, &e.ratio].concat()),
            );
        }
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
        for augment in [Augment::light(), Augment::medium(), Augment::strong()] {
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
        let square = Augment::medium().square(
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
            "augmentation's flip is 1.5, not a probability"
        );
        let crop = |scale, ratio| Augment { crop: Some(RandomCrop { scale, ratio }), ..none };
        assert_eq!(
            message(crop([0.0, 1.0], [1.0, 1.0])),
            "augmentation's crop scale is 0 to 1, not a range in (0, 1]"
        );
        assert_eq!(
            message(crop([0.5, 1.0], [2.0, 1.0])),
            "augmentation's crop ratio is 2 to 1, not a range above 0"
        );
        let jitter = |jitter| Augment { jitter: Some(jitter), ..none };
        let still = ColourJitter::default();
        assert_eq!(
            message(jitter(ColourJitter { contrast: -1.0, ..still })),
            "augmentation's jitter is 0, -1, 0, not three numbers of at least 0"
        );
        assert_eq!(
            message(jitter(ColourJitter { hue: 0.6, ..still })),
            "augmentation's jitter hue is 0.6, not from 0 to 0.5"
        );
        let refused = |augment: Augment, problem: &str| {
            assert_eq!(message(augment), format!("augmentation's {problem}"));
        };
        refused(
            Augment { vertical_flip: -0.1, ..none },
            "vertical-flip is -0.1, not a probability",
        );
        refused(
            Augment { quarter_turn: f64::NAN, ..none },
            "quarter-turn is NaN, not a probability",
        );
        refused(Augment { rotation: 200.0, ..none }, "rotation is 200, not from 0 to 180 degrees");
        let policy = |operations, magnitude| Augment {
            policy: Some(Policy::RandAugment { operations, magnitude }),
            ..none
        };
        refused(policy(0, 9), "policy has 0 operations, not 1 to 14");
        refused(policy(2, 31), "policy has magnitude 31, not 0 to 30");
        let erasing = |area, ratio| Augment {
            erasing: Some(Erasing { probability: 1.0, area, ratio }),
            ..none
        };
        refused(erasing([0.0, 0.5], [1.0, 1.0]), "erasing area is 0 to 0.5, not a range in (0, 1)");
        refused(erasing([0.1, 0.5], [2.0, 1.0]), "erasing ratio is 2 to 1, not a range above 0");
        let mix =
            |mixup, cutmix| Augment { mix: Some(Mix { probability: 1.0, mixup, cutmix }), ..none };
        refused(
            mix(0.0, 0.0),
            "mix has alphas 0 (mixup) and 0 (cutmix), of which one must be above 0",
        );
        refused(mix(-1.0, 1.0), "mix has alphas -1 (mixup) and 1 (cutmix), not from 0 to 100");
    }

    #[test]
    fn what_is_strong_stays_within_bytes_and_repeats() {
        let image = synthetic(61, 47, 1);
        let everything = Augment {
            vertical_flip: 0.5,
            quarter_turn: 0.5,
            rotation: 20.0,
            jitter: Augment::medium().jitter,
            ..Augment::strong()
        };
        everything.validate().unwrap();
        let draw = |n| everything.square(&image, &PREPROCESS, &mut Stream::new(1, "augment", &[n]));
        let squares: Vec<RgbImage> = (0..50).map(draw).collect();
        assert_eq!(squares, (0..50).map(draw).collect::<Vec<_>>());
        assert!(squares.iter().all(|s| (s.width(), s.height()) == (32, 32)));
        let mut hasher = blake3::Hasher::new();
        squares.iter().for_each(|s| _ = hasher.update(s.pixels()));
        assert_eq!(&hasher.finalize().to_hex()[..16], PINNED_STRONG);
    }

    const PINNED_STRONG: &str = "c2b95cb20e0ce7a3";

    #[test]
    fn settings_are_strict() {
        let refused = serde_json::from_str::<Augment>(r#"{"flop": 0.5}"#).unwrap_err().to_string();
        assert!(refused.starts_with("unknown field `flop`"), "{refused}");
        let text = r#"{"policy": "trivial-augment", "mix": {"mixup": 0.4}}"#;
        let read: Augment = serde_json::from_str(text).unwrap();
        assert_eq!(read.mix, Some(Mix { mixup: 0.4, ..Mix::default() }));
        assert_eq!(read.policy, Some(Policy::TrivialAugment));
    }

    #[test]
    fn serializes_and_differs_by_digest() {
        let text = serde_json::to_string(&Augment::medium()).unwrap();
        assert_eq!(serde_json::from_str::<Augment>(&text).unwrap(), Augment::medium());
        assert_eq!(serde_json::from_str::<Augment>("{}").unwrap(), Augment::none());
        // Features of augmented views that are kept from before are found again.
        let known = [Augment::none(), Augment::light(), Augment::medium()]
            .map(|augment| blake3::Hash::from_bytes(augment.digest()).to_hex()[..16].to_owned());
        assert_eq!(known, DIGESTS);
        let others = [
            Augment::strong(),
            Augment { vertical_flip: 0.5, ..Augment::light() },
            Augment { quarter_turn: 0.5, ..Augment::light() },
            Augment { rotation: 0.5, ..Augment::light() },
            Augment { policy: Some(Policy::TrivialAugment), ..Augment::light() },
            Augment { erasing: Some(Erasing::default()), ..Augment::light() },
            Augment::light(),
        ]
        .map(|augment| augment.digest());
        let distinct: std::collections::BTreeSet<_> = others.into_iter().collect();
        assert_eq!(distinct.len(), others.len());
        let mixed = Augment { mix: Some(Mix::default()), ..Augment::light() };
        assert_eq!(mixed.digest(), Augment::light().digest());
    }

    const DIGESTS: [&str; 3] = ["7d9787abdd54d619", "3200efcf7fee26d9", "9c5d606e35e9ba8d"];
}
