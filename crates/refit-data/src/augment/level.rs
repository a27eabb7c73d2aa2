//! Augmentation by level, from nothing to what long training needs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Augment, ColourJitter, Erasing, Mix, Policy, RandomCrop};

/// How much training images are varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// [`Augment::none`].
    None,
    /// [`Augment::light`].
    Light,
    /// [`Augment::medium`].
    Medium,
    /// [`Augment::strong`].
    Strong,
}

impl Level {
    /// All, the mildest first.
    pub const ALL: [Self; 4] = [Self::None, Self::Light, Self::Medium, Self::Strong];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Light => "light",
            Self::Medium => "medium",
            Self::Strong => "strong",
        }
    }

    /// What it does.
    pub fn augment(self) -> Augment {
        match self {
            Self::None => Augment::none(),
            Self::Light => Augment::light(),
            Self::Medium => Augment::medium(),
            Self::Strong => Augment::strong(),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    /// By name; `standard` is what `medium` was called.
    fn from_str(name: &str) -> Result<Self, String> {
        let name = if name == "standard" { "medium" } else { name };
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no level `{name}`; there are {names}")
        })
    }
}

impl Augment {
    /// Nothing: every time the same pixels, those of the preprocessing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Mirroring, and crops that keep at least 70% of the area.
    pub fn light() -> Self {
        let crop = RandomCrop { scale: [0.7, 1.0], ratio: [0.85, 1.0 / 0.85] };
        Self { crop: Some(crop), flip: 0.5, ..Self::none() }
    }

    /// Mirroring, crops that keep at least 35% of the area, and mild changes of colour.
    pub fn medium() -> Self {
        let jitter = ColourJitter { brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0.02 };
        let crop = RandomCrop { scale: [0.35, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
        Self { crop: Some(crop), flip: 0.5, jitter: Some(jitter), ..Self::none() }
    }

    /// Mirroring, crops as in [`medium`](Self::medium), TrivialAugment, random erasing, and half of
    /// the images mixed with another: for many epochs.
    pub fn strong() -> Self {
        Self {
            policy: Some(Policy::TrivialAugment),
            jitter: None,
            erasing: Some(Erasing { probability: 0.25, ..Erasing::default() }),
            mix: Some(Mix::default()),
            ..Self::medium()
        }
    }

    /// Whether images pass unchanged.
    pub fn is_none(&self) -> bool {
        *self == Self::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_levels_and_levels_are_valid() {
        for level in Level::ALL {
            assert_eq!(level.name().parse::<Level>().unwrap(), level);
            level.augment().validate().unwrap();
        }
        assert_eq!("standard".parse::<Level>(), Ok(Level::Medium));
        let refused = "hard".parse::<Level>().unwrap_err();
        assert_eq!(refused, "no level `hard`; there are none, light, medium, strong");
    }
}
