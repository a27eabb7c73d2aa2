//! Images to judge by that are training images too.

use std::collections::HashMap;
use std::path::PathBuf;

use refit_data::{ContentHash, Sample};
use serde::{Deserialize, Serialize, Serializer};

use super::images::Images;

/// How many images to judge by are, byte by byte, also learned from: they are easier than others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leaks {
    /// Validation images.
    pub val: usize,
    /// Test images.
    pub test: usize,
    /// The first of them, and the training image that it is; written with replacement characters where
    /// they are not Unicode.
    #[serde(serialize_with = "lossy")]
    pub example: Option<[PathBuf; 2]>,
}

fn lossy<S: Serializer>(paths: &Option<[PathBuf; 2]>, serializer: S) -> Result<S::Ok, S::Error> {
    let names = paths.as_ref().map(|p| p.each_ref().map(|p| p.to_string_lossy().into_owned()));
    names.serialize(serializer)
}

impl Leaks {
    /// From the contents of the training images, and of those to judge by: validation, then test.
    pub(super) fn of(images: &Images, train: &[ContentHash], judged: &[ContentHash]) -> Self {
        let learned: HashMap<&ContentHash, &Sample> = train.iter().zip(&images.train).collect();
        let mut leaks = Self::default();
        for (i, (hash, sample)) in
            judged.iter().zip(images.val.iter().chain(&images.test)).enumerate()
        {
            let Some(original) = learned.get(hash) else { continue };
            match i < images.val.len() {
                true => leaks.val += 1,
                false => leaks.test += 1,
            }
            leaks.example.get_or_insert_with(|| [sample.path.clone(), original.path.clone()]);
        }
        leaks
    }

    /// What a user should know, if there are any.
    pub(super) fn warning(&self) -> Option<String> {
        let [leaked, original] = self.example.as_ref()?;
        let part = |n: usize, name: &str| match n {
            0 => None,
            1 => Some(format!("1 {name} image")),
            n => Some(format!("{n} {name} images")),
        };
        let parts: Vec<String> =
            [part(self.val, "validation"), part(self.test, "test")].into_iter().flatten().collect();
        let is =
            if self.val + self.test == 1 { "is a training image" } else { "are training images" };
        Some(format!(
            "{} {is} too, which makes results look better than they are: {} is {} \
             (`refit doctor` finds altered copies as well)",
            parts.join(" and "),
            leaked.display(),
            original.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(train: &[&str], val: &[&str], test: &[&str]) -> Images {
        let samples = |names: &[&str]| {
            names.iter().map(|name| Sample { path: name.into(), label: 0 }).collect()
        };
        Images {
            train: samples(train),
            val: samples(val),
            test: samples(test),
            hashes: Default::default(),
            skipped: vec![],
            leaks: Leaks::default(),
            fingerprint: String::new(),
        }
    }

    #[test]
    fn the_same_bytes_on_both_sides_are_told_once() {
        let images = images(&["a", "b"], &["c", "d"], &["e"]);
        let [one, two, three] = [[1; 32], [2; 32], [3; 32]];
        let leaks = Leaks::of(&images, &[one, two], &[three, two, one]);
        assert_eq!((leaks.val, leaks.test), (1, 1));
        assert_eq!(leaks.example, Some(["d".into(), "b".into()]));
        let said = leaks.warning().unwrap();
        assert!(said.starts_with("1 validation image and 1 test image are training images too"));
        assert!(said.contains("d is b"), "{said}");
        let none = Leaks::of(&images, &[one, two], &[three, [4; 32], [5; 32]]);
        assert_eq!((none.warning(), none), (None, Leaks::default()));
    }
}
