//! Networks to start from, ranked before any is trained.

use serde::{Deserialize, Serialize};

/// What the features of a network's head say of some images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// The network.
    pub backbone: String,
    /// [`log_me`](super::transfer::log_me) of the features, by which networks are ranked. It is the
    /// evidence for each image, with all weights of a head integrated out: longer features pay for
    /// their length themselves, so that You et al. 2021 compare networks of any width by it.
    pub log_me: f64,
    /// [`leep`](super::transfer::leep) of its old classes; none where it has none. It depends on how many
    /// these are, so that it compares networks that were trained on the same ones.
    pub leep: Option<f64>,
    /// [`neighbour_accuracy`](super::transfer::neighbour_accuracy) of five neighbours, `[0, 1]`.
    pub neighbours: f64,
    /// Training images that these are taken from.
    pub images: usize,
    /// Values in a feature vector.
    pub features: usize,
    /// Milliseconds forward for an image, on this machine.
    pub image_ms: f64,
    /// Parameters with a head for the images' classes.
    pub parameters: usize,
}

/// The highest LogME first; of equals, the fewest parameters.
pub(crate) fn sort(ranked: &mut [Ranked]) {
    ranked.sort_by(|a, b| b.log_me.total_cmp(&a.log_me).then(a.parameters.cmp(&b.parameters)));
}

/// Why the first is the first, where there are several.
pub(crate) fn in_words(ranked: &[Ranked]) -> Option<String> {
    let [first, second, ..] = ranked else { return None };
    Some(format!(
        "of {} networks, the features of `{}` say most of the classes: LogME {:.3} against {:.3} of `{}`",
        ranked.len(),
        first.backbone,
        first.log_me,
        second.log_me,
        second.backbone
    ))
}
