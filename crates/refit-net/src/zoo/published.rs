//! Where weights of the zoo's networks are published on the Hugging Face hub: by timm, many of them
//! torchvision's under timm's names.

use std::path::Path;

use super::Architecture;
use crate::state_dict::{StateDict, StateDictError};

/// Published weights of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The architecture.
    pub architecture: &'static str,
    /// The repository on the hub: `timm/resnet18.tv_in1k`.
    pub repository: &'static str,
    /// Their licence, as an SPDX expression.
    pub licence: &'static str,
    names: Names,
}

/// How the published names differ from the zoo's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Same,
    Vgg,
    ConvNext,
    MobileNetV2,
    MnasNet,
    EfficientNet,
    RegNet,
}

/// The file in every repository.
pub const PUBLISHED_FILE: &str = "model.safetensors";

const BSD: &str = "BSD-3-Clause";
const APACHE: &str = "Apache-2.0";

const fn row(
    architecture: &'static str,
    repository: &'static str,
    licence: &'static str,
    names: Names,
) -> Published {
    Published { architecture, repository, licence, names }
}

#[rustfmt::skip]
const PUBLISHED: [Published; 51] = [
    row("vgg11", "timm/vgg11.tv_in1k", BSD, Names::Vgg),
    row("vgg11_bn", "timm/vgg11_bn.tv_in1k", BSD, Names::Vgg),
    row("vgg13", "timm/vgg13.tv_in1k", BSD, Names::Vgg),
    row("vgg13_bn", "timm/vgg13_bn.tv_in1k", BSD, Names::Vgg),
    row("vgg16", "timm/vgg16.tv_in1k", BSD, Names::Vgg),
    row("vgg16_bn", "timm/vgg16_bn.tv_in1k", BSD, Names::Vgg),
    row("vgg19", "timm/vgg19.tv_in1k", BSD, Names::Vgg),
    row("vgg19_bn", "timm/vgg19_bn.tv_in1k", BSD, Names::Vgg),
    row("inception_v3", "timm/inception_v3.tv_in1k", APACHE, Names::Same),
    row("inception_v4", "timm/inception_v4.tf_in1k", APACHE, Names::Same),
    row("inception_resnet_v2", "timm/inception_resnet_v2.tf_in1k", APACHE, Names::Same),
    row("resnet18", "timm/resnet18.tv_in1k", BSD, Names::Same),
    row("resnet34", "timm/resnet34.tv_in1k", BSD, Names::Same),
    row("resnet50", "timm/resnet50.tv_in1k", BSD, Names::Same),
    row("resnet101", "timm/resnet101.tv_in1k", BSD, Names::Same),
    row("resnet152", "timm/resnet152.tv_in1k", BSD, Names::Same),
    row("resnext50_32x4d", "timm/resnext50_32x4d.tv_in1k", BSD, Names::Same),
    row("resnext101_32x8d", "timm/resnext101_32x8d.tv_in1k", BSD, Names::Same),
    row("wide_resnet50_2", "timm/wide_resnet50_2.tv_in1k", BSD, Names::Same),
    row("wide_resnet101_2", "timm/wide_resnet101_2.tv_in1k", BSD, Names::Same),
    row("nasnetalarge", "timm/nasnetalarge.tf_in1k", APACHE, Names::Same),
    row("pnasnet5large", "timm/pnasnet5large.tf_in1k", APACHE, Names::Same),
    row("densenet121", "timm/densenet121.tv_in1k", APACHE, Names::Same),
    row("densenet161", "timm/densenet161.tv_in1k", APACHE, Names::Same),
    row("densenet169", "timm/densenet169.tv_in1k", APACHE, Names::Same),
    row("densenet201", "timm/densenet201.tv_in1k", APACHE, Names::Same),
    row("mobilenet_v2", "timm/mobilenetv2_100.ra_in1k", APACHE, Names::MobileNetV2),
    row("mnasnet1_0", "timm/mnasnet_100.rmsp_in1k", APACHE, Names::MnasNet),
    row("efficientnet_lite1", "timm/tf_efficientnet_lite1.in1k", APACHE, Names::Same),
    row("efficientnet_lite2", "timm/tf_efficientnet_lite2.in1k", APACHE, Names::Same),
    row("efficientnet_lite3", "timm/tf_efficientnet_lite3.in1k", APACHE, Names::Same),
    row("efficientnet_lite4", "timm/tf_efficientnet_lite4.in1k", APACHE, Names::Same),
    row("efficientnet_b0", "timm/efficientnet_b0.ra_in1k", APACHE, Names::EfficientNet),
    row("efficientnet_b1", "timm/efficientnet_b1.ft_in1k", APACHE, Names::EfficientNet),
    row("efficientnet_b2", "timm/efficientnet_b2.ra_in1k", APACHE, Names::EfficientNet),
    row("efficientnet_b3", "timm/efficientnet_b3.ra2_in1k", APACHE, Names::EfficientNet),
    row("efficientnet_b4", "timm/efficientnet_b4.ra2_in1k", APACHE, Names::EfficientNet),
    row("regnet_y_400mf", "timm/regnety_004.tv2_in1k", BSD, Names::RegNet),
    row("regnet_y_800mf", "timm/regnety_008_tv.tv2_in1k", BSD, Names::RegNet),
    row("regnet_y_1_6gf", "timm/regnety_016.tv2_in1k", BSD, Names::RegNet),
    row("regnet_y_3_2gf", "timm/regnety_032.tv2_in1k", BSD, Names::RegNet),
    row("regnet_y_8gf", "timm/regnety_080_tv.tv2_in1k", BSD, Names::RegNet),
    row("regnet_x_400mf", "timm/regnetx_004_tv.tv2_in1k", BSD, Names::RegNet),
    row("regnet_x_800mf", "timm/regnetx_008.tv2_in1k", BSD, Names::RegNet),
    row("regnet_x_1_6gf", "timm/regnetx_016.tv2_in1k", BSD, Names::RegNet),
    row("regnet_x_3_2gf", "timm/regnetx_032.tv2_in1k", BSD, Names::RegNet),
    row("regnet_x_8gf", "timm/regnetx_080.tv2_in1k", BSD, Names::RegNet),
    row("convnext_tiny", "timm/convnext_tiny.fb_in1k", APACHE, Names::ConvNext),
    row("convnext_small", "timm/convnext_small.fb_in1k", APACHE, Names::ConvNext),
    row("convnext_base", "timm/convnext_base.fb_in1k", APACHE, Names::ConvNext),
    row("convnext_large", "timm/convnext_large.fb_in1k", APACHE, Names::ConvNext),
];

impl Architecture {
    /// Where its weights are published, if that is known.
    pub fn published(&self) -> Option<&'static Published> {
        PUBLISHED.iter().find(|row| row.architecture == self.name)
    }
}

impl Published {
    /// Reads the file under the zoo's names and shapes.
    ///
    /// # Errors
    /// As [`StateDict::read`].
    pub fn read(&self, path: &Path) -> Result<StateDict, StateDictError> {
        let state = StateDict::read(path)?;
        self.adapt(state)
    }

    fn adapt(&self, state: StateDict) -> Result<StateDict, StateDictError> {
        if self.names == Names::Same {
            return Ok(state);
        }
        let graph = super::find(self.architecture).expect("rows of the table are known").graph();
        let nodes = 0..graph.nodes().len();
        let specs = nodes.flat_map(|id| graph.parameters(id).into_iter().map(move |p| (id, p)));
        let shapes: Vec<(String, Vec<usize>)> =
            specs.map(|(id, p)| (graph.parameter_name(id, p.suffix), p.shape)).collect();
        Ok(state.renamed(|name| self.names.of_zoo(name))?.viewed_as(&shapes))
    }
}

impl Names {
    /// The zoo's name of a published tensor.
    fn of_zoo(self, name: &str) -> String {
        match self {
            Self::Same => name.to_owned(),
            Self::Vgg => vgg(name),
            Self::ConvNext => convnext(name),
            Self::MobileNetV2 => mobilenet_v2(name),
            Self::MnasNet => mnasnet(name),
            Self::EfficientNet => efficientnet(name),
            Self::RegNet => regnet(name),
        }
    }
}

/// A name whose start stands in a table of (published, the zoo's) starts.
fn restarted(name: &str, starts: &[(&str, &str)]) -> String {
    let found = starts.iter().find_map(|(theirs, ours)| Some((ours, name.strip_prefix(theirs)?)));
    found.map_or_else(|| name.to_owned(), |(ours, rest)| format!("{ours}{rest}"))
}

/// timm's classifier is made of convolutions.
fn vgg(name: &str) -> String {
    let starts = [
        ("pre_logits.fc1.", "classifier.0."),
        ("pre_logits.fc2.", "classifier.3."),
        ("head.fc.", "classifier.6."),
    ];
    restarted(name, &starts)
}

/// The number that a part of a name ends with: 2 of `s2`.
fn number(part: &str, letter: &str) -> Option<usize> {
    part.strip_prefix(letter)?.parse().ok()
}

fn convnext(name: &str) -> String {
    let stage = |name: &str| {
        let (stage, rest) = name.strip_prefix("stages.")?.split_once('.')?;
        let stage = 2 * number(stage, "")?;
        if let Some(rest) = rest.strip_prefix("downsample.") {
            return Some(format!("features.{stage}.{rest}"));
        }
        let (block, rest) = rest.strip_prefix("blocks.")?.split_once('.')?;
        let layers = [
            ("conv_dw.", "block.0."),
            ("norm.", "block.2."),
            ("mlp.fc1.", "block.3."),
            ("mlp.fc2.", "block.5."),
            ("gamma", "layer_scale"),
        ];
        Some(format!("features.{}.{block}.{}", stage + 1, restarted(rest, &layers)))
    };
    let others =
        [("stem.", "features.0."), ("head.norm.", "classifier.0."), ("head.fc.", "classifier.2.")];
    stage(name).unwrap_or_else(|| restarted(name, &others))
}

/// Stage, block and the rest of `blocks.1.0.conv_pw.weight`.
fn block_of(name: &str) -> Option<(usize, usize, &str)> {
    let (stage, rest) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (block, layer) = rest.split_once('.')?;
    Some((number(stage, "")?, number(block, "")?, layer))
}

/// torchvision counts blocks through all stages.
fn mobilenet_v2(name: &str) -> String {
    const FIRST: [usize; 7] = [1, 2, 4, 7, 11, 14, 17];
    let block = |name: &str| {
        let (stage, block, layer) = block_of(name)?;
        let layers: &[(&str, &str)] = match stage {
            // Nothing widens in the first stage.
            0 => &[("conv_dw.", "0.0."), ("bn1.", "0.1."), ("conv_pw.", "1."), ("bn2.", "2.")],
            _ => &[
                ("conv_pw.", "0.0."),
                ("bn1.", "0.1."),
                ("conv_dw.", "1.0."),
                ("bn2.", "1.1."),
                ("conv_pwl.", "2."),
                ("bn3.", "3."),
            ],
        };
        let number = FIRST.get(stage)? + block;
        Some(format!("features.{number}.conv.{}", restarted(layer, layers)))
    };
    let others = [
        ("conv_stem.", "features.0.0."),
        ("bn1.", "features.0.1."),
        ("conv_head.", "features.18.0."),
        ("bn2.", "features.18.1."),
        ("classifier.", "classifier.1."),
    ];
    block(name).unwrap_or_else(|| restarted(name, &others))
}

fn mnasnet(name: &str) -> String {
    let block = |name: &str| {
        let (stage, block, layer) = block_of(name)?;
        if stage == 0 {
            let layers = [("conv_dw.", "3."), ("bn1.", "4."), ("conv_pw.", "6."), ("bn2.", "7.")];
            return Some(format!("layers.{}", restarted(layer, &layers)));
        }
        let layers = [
            ("conv_pw.", "0."),
            ("bn1.", "1."),
            ("conv_dw.", "3."),
            ("bn2.", "4."),
            ("conv_pwl.", "6."),
            ("bn3.", "7."),
        ];
        Some(format!("layers.{}.{block}.layers.{}", stage + 7, restarted(layer, &layers)))
    };
    let others = [
        ("conv_stem.", "layers.0."),
        ("bn1.", "layers.1."),
        ("conv_head.", "layers.14."),
        ("bn2.", "layers.15."),
        ("classifier.", "classifier.1."),
    ];
    block(name).unwrap_or_else(|| restarted(name, &others))
}

fn efficientnet(name: &str) -> String {
    let block = |name: &str| {
        let (stage, block, layer) = block_of(name)?;
        let layers: &[(&str, &str)] = match stage {
            // Nothing widens in the first stage.
            0 => &[
                ("conv_dw.", "0.0."),
                ("bn1.", "0.1."),
                ("se.conv_reduce.", "1.fc1."),
                ("se.conv_expand.", "1.fc2."),
                ("conv_pw.", "2.0."),
                ("bn2.", "2.1."),
            ],
            _ => &[
                ("conv_pw.", "0.0."),
                ("bn1.", "0.1."),
                ("conv_dw.", "1.0."),
                ("bn2.", "1.1."),
                ("se.conv_reduce.", "2.fc1."),
                ("se.conv_expand.", "2.fc2."),
                ("conv_pwl.", "3.0."),
                ("bn3.", "3.1."),
            ],
        };
        Some(format!("features.{}.{block}.block.{}", stage + 1, restarted(layer, layers)))
    };
    let others = [
        ("conv_stem.", "features.0.0."),
        ("bn1.", "features.0.1."),
        ("conv_head.", "features.8.0."),
        ("bn2.", "features.8.1."),
        ("classifier.", "classifier.1."),
    ];
    block(name).unwrap_or_else(|| restarted(name, &others))
}

fn regnet(name: &str) -> String {
    let block = |name: &str| {
        let (stage, rest) = name.split_once('.')?;
        let (block, layer) = rest.split_once('.')?;
        let (stage, block) = (number(stage, "s")?, number(block, "b")?.checked_sub(1)?);
        let layers = [
            ("conv1.conv.", "f.a.0."),
            ("conv1.bn.", "f.a.1."),
            ("conv2.conv.", "f.b.0."),
            ("conv2.bn.", "f.b.1."),
            ("se.", "f.se."),
            ("conv3.conv.", "f.c.0."),
            ("conv3.bn.", "f.c.1."),
            ("downsample.conv.", "proj.0."),
            ("downsample.bn.", "proj.1."),
        ];
        let layer = restarted(layer, &layers);
        Some(format!("trunk_output.block{stage}.block{stage}-{block}.{layer}"))
    };
    let others = [("stem.conv.", "stem.0."), ("stem.bn.", "stem.1."), ("head.fc.", "fc.")];
    block(name).unwrap_or_else(|| restarted(name, &others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn every_row_is_of_an_architecture_and_stands_once() {
        for row in &PUBLISHED {
            let architecture = zoo::find(row.architecture).unwrap();
            assert_eq!(architecture.published(), Some(row));
            assert!(row.repository.starts_with("timm/"), "{row:?}");
        }
        assert_eq!(zoo::find("lenet5").unwrap().published(), None);
    }

    #[test]
    fn published_names_become_the_zoo_s() {
        for (names, theirs, ours) in [
            (Names::Same, "layer1.0.conv1.weight", "layer1.0.conv1.weight"),
            (Names::Vgg, "features.0.bias", "features.0.bias"),
            (Names::Vgg, "pre_logits.fc2.bias", "classifier.3.bias"),
            (Names::ConvNext, "stem.1.bias", "features.0.1.bias"),
            (Names::ConvNext, "stages.1.downsample.1.weight", "features.2.1.weight"),
            (Names::ConvNext, "stages.3.blocks.2.gamma", "features.7.2.layer_scale"),
            (Names::ConvNext, "stages.0.blocks.1.mlp.fc2.bias", "features.1.1.block.5.bias"),
            (Names::ConvNext, "head.fc.weight", "classifier.2.weight"),
            (Names::MobileNetV2, "blocks.0.0.bn2.bias", "features.1.conv.2.bias"),
            (Names::MobileNetV2, "blocks.5.2.conv_dw.weight", "features.16.conv.1.0.weight"),
            (Names::MnasNet, "blocks.0.0.conv_pw.weight", "layers.6.weight"),
            (Names::MnasNet, "blocks.5.3.bn2.bias", "layers.12.3.layers.4.bias"),
            (Names::EfficientNet, "bn1.running_mean", "features.0.1.running_mean"),
            (Names::EfficientNet, "blocks.0.0.conv_pw.weight", "features.1.0.block.2.0.weight"),
            (Names::EfficientNet, "blocks.6.0.bn3.bias", "features.7.0.block.3.1.bias"),
            (Names::RegNet, "s3.b12.se.fc1.bias", "trunk_output.block3.block3-11.f.se.fc1.bias"),
            (Names::RegNet, "s1.b1.downsample.bn.bias", "trunk_output.block1.block1-0.proj.1.bias"),
            (Names::RegNet, "head.fc.bias", "fc.bias"),
        ] {
            assert_eq!(names.of_zoo(theirs), ours);
        }
    }

    /// timm's inverted residuals: the layers with weights of a network with so many blocks a stage.
    fn inverted_residuals(blocks: [usize; 7]) -> Vec<String> {
        let layers = |stage| match stage {
            0 => &["conv_dw", "bn1", "conv_pw", "bn2"][..],
            _ => &["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"],
        };
        let ends = ["conv_stem", "bn1", "conv_head", "bn2", "classifier"].map(str::to_owned);
        let mut names = Vec::from(ends);
        for (stage, blocks) in blocks.into_iter().enumerate() {
            let block = |block| layers(stage).iter().map(move |l| format!("{block}.{l}"));
            names.extend((0..blocks).flat_map(block).map(|name| format!("blocks.{stage}.{name}")));
        }
        names
    }

    #[test]
    fn every_layer_of_inverted_residuals_is_named() {
        use std::collections::BTreeSet;
        for (network, blocks) in
            [("mobilenet_v2", [1, 2, 3, 4, 3, 3, 1]), ("mnasnet1_0", [1, 3, 3, 3, 2, 4, 1])]
        {
            let architecture = zoo::find(network).unwrap();
            let names = architecture.published().unwrap().names;
            let theirs = inverted_residuals(blocks).into_iter().map(|n| format!("{n}.weight"));
            let named: BTreeSet<String> = theirs.map(|name| names.of_zoo(&name)).collect();
            let tensors = crate::recognize::tests::tensors_of(&architecture.graph());
            let ours = tensors.into_iter().map(|(name, _)| name);
            let ours: BTreeSet<String> = ours.filter(|name| name.ends_with(".weight")).collect();
            assert_eq!(named, ours);
        }
    }

    #[test]
    fn convolutions_become_linear_layers() {
        use crate::recognize::tests::{tensors_of, zeros};
        let architecture = zoo::find("vgg11").unwrap();
        let mut tensors = tensors_of(&architecture.graph());
        for (name, shape) in &mut tensors {
            for (ours, theirs, convolution) in [
                ("classifier.0.", "pre_logits.fc1.", [4096, 512, 7, 7]),
                ("classifier.3.", "pre_logits.fc2.", [4096, 4096, 1, 1]),
            ] {
                if let Some(rest) = name.strip_prefix(ours) {
                    *name = format!("{theirs}{rest}");
                    if shape.len() == 2 {
                        *shape = convolution.to_vec();
                    }
                }
            }
        }
        let state = architecture.published().unwrap().adapt(zeros(&tensors)).unwrap();
        assert_eq!(state.get("classifier.0.weight").unwrap().shape(), [4096, 25088]);
        assert_eq!(crate::recognize(&state).unwrap().only().unwrap().name, "vgg11");
    }
}
