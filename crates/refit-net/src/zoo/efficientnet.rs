//! EfficientNet (Tan and Le 2019, <https://arxiv.org/abs/1905.11946>) and EfficientNet V2 (Tan and Le
//! 2021, <https://arxiv.org/abs/2104.00298>); names follow torchvision.

use super::Interpolation::{self, Bicubic, Bilinear};
use super::{Architecture, IMAGENET_MEAN, IMAGENET_STD, InputSpec, parts};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::Activation::{Identity, Sigmoid, Silu};
use crate::layer::{BatchNorm, Conv};
use crate::shape::Shape;

struct Variant {
    name: &'static str,
    stages: &'static [Stage],
    width: f64,
    depth: f64,
    dropout: f32,
    /// Channels of the last convolution, if they are not four times those before.
    last: Option<usize>,
    norm: BatchNorm,
    size: usize,
}

/// A stage of equal blocks; the first has the stride.
struct Stage {
    /// Whether expansion and depthwise convolution are one dense convolution.
    fused: bool,
    expansion: usize,
    kernel: usize,
    stride: usize,
    channels: usize,
    repeats: usize,
}

const fn mb(
    expansion: usize,
    kernel: usize,
    stride: usize,
    channels: usize,
    repeats: usize,
) -> Stage {
    Stage { fused: false, expansion, kernel, stride, channels, repeats }
}

const fn fused(expansion: usize, stride: usize, channels: usize, repeats: usize) -> Stage {
    Stage { fused: true, expansion, kernel: 3, stride, channels, repeats }
}

/// Table 1 of the first paper.
const V1: &[Stage] = &[
    mb(1, 3, 1, 16, 1),
    mb(6, 3, 2, 24, 2),
    mb(6, 5, 2, 40, 2),
    mb(6, 3, 2, 80, 3),
    mb(6, 5, 1, 112, 3),
    mb(6, 5, 2, 192, 4),
    mb(6, 3, 1, 320, 1),
];

/// Table 4 of the second paper.
const V2_S: &[Stage] = &[
    fused(1, 1, 24, 2),
    fused(4, 2, 48, 4),
    fused(4, 2, 64, 4),
    mb(4, 3, 2, 128, 6),
    mb(6, 3, 1, 160, 9),
    mb(6, 3, 2, 256, 15),
];

const V2_M: &[Stage] = &[
    fused(1, 1, 24, 3),
    fused(4, 2, 48, 5),
    fused(4, 2, 80, 5),
    mb(4, 3, 2, 160, 7),
    mb(6, 3, 1, 176, 14),
    mb(6, 3, 2, 304, 18),
    mb(6, 3, 1, 512, 5),
];

/// What torchvision trained B0 to B4 with, B5 to B7, and V2.
const NORM: BatchNorm = BatchNorm { epsilon: 1e-5, momentum: 0.1 };
const NORM_B5: BatchNorm = BatchNorm { epsilon: 1e-3, momentum: 0.01 };
const NORM_V2: BatchNorm = BatchNorm { epsilon: 1e-3, momentum: 0.1 };

const fn b(
    name: &'static str,
    width: f64,
    depth: f64,
    dropout: f32,
    norm: BatchNorm,
    size: usize,
) -> Variant {
    Variant { name, stages: V1, width, depth, dropout, last: None, norm, size }
}

const fn v2(name: &'static str, stages: &'static [Stage], dropout: f32, size: usize) -> Variant {
    let last = Some(1280);
    Variant { name, stages, width: 1.0, depth: 1.0, dropout, last, norm: NORM_V2, size }
}

const VARIANTS: [Variant; 10] = [
    b("efficientnet_b0", 1.0, 1.0, 0.2, NORM, 224),
    b("efficientnet_b1", 1.0, 1.1, 0.2, NORM, 240),
    b("efficientnet_b2", 1.1, 1.2, 0.3, NORM, 288),
    b("efficientnet_b3", 1.2, 1.4, 0.3, NORM, 300),
    b("efficientnet_b4", 1.4, 1.8, 0.4, NORM, 380),
    b("efficientnet_b5", 1.6, 2.2, 0.4, NORM_B5, 456),
    b("efficientnet_b6", 1.8, 2.6, 0.5, NORM_B5, 528),
    b("efficientnet_b7", 2.0, 3.1, 0.5, NORM_B5, 600),
    v2("efficientnet_v2_s", V2_S, 0.2, 384),
    v2("efficientnet_v2_m", V2_M, 0.3, 480),
];

const fn row(at: usize, resize: usize, interpolation: Interpolation) -> Architecture {
    let Variant { name, size, .. } = VARIANTS[at];
    Architecture {
        name,
        paper: match at {
            0..8 => "Tan and Le 2019, https://arxiv.org/abs/1905.11946",
            _ => "Tan and Le 2021, https://arxiv.org/abs/2104.00298",
        },
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: InputSpec { size, resize, interpolation, mean: IMAGENET_MEAN, std: IMAGENET_STD },
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row(0, 256, Bicubic),
    row(1, 256, Bicubic),
    row(2, 288, Bicubic),
    row(3, 320, Bicubic),
    row(4, 384, Bicubic),
    row(5, 456, Bicubic),
    row(6, 528, Bicubic),
    row(7, 600, Bicubic),
    row(8, 384, Bilinear),
    row(9, 480, Bilinear),
];

/// The share of images that the last block's branch is left out of; earlier blocks' less.
const STOCHASTIC_DEPTH: f32 = 0.2;

fn build(name: &str) -> Result<Graph, GraphError> {
    let variant = VARIANTS.iter().find(|v| v.name == name).expect("a row of the table");
    let &Variant { stages, width, depth, norm, size, .. } = variant;
    let (mut g, x) = Builder::new(name, Shape::map(3, size, size));
    let scaled = |channels: usize| parts::divisible(channels as f64 * width, 8);
    let repeats = |stage: &Stage| (stage.repeats as f64 * depth).ceil() as usize;
    let blocks: usize = stages.iter().map(repeats).sum();
    let y = g.scope("features", |g| {
        let stem = if variant.last.is_some() { stages[0].channels } else { scaled(32) };
        let stem = Conv::k3(stem).stride(2);
        let mut y = g.scope("0", |g| parts::conv_norm(g, x, stem, norm, Silu));
        let mut number = 0;
        for (i, stage) in stages.iter().enumerate() {
            for repeat in 0..repeats(stage) {
                let stride = if repeat == 0 { stage.stride } else { 1 };
                let block = Block {
                    stage,
                    stride,
                    channels: scaled(stage.channels),
                    norm,
                    left_out: STOCHASTIC_DEPTH * number as f32 / blocks as f32,
                };
                y = g.scope(&format!("{}.{repeat}", i + 1), |g| block.build(g, y));
                number += 1;
            }
        }
        let last = variant.last.unwrap_or(4 * g.shape(y).channels());
        let name = (stages.len() + 1).to_string();
        g.scope(&name, |g| parts::conv_norm(g, y, Conv::k1(last), norm, Silu))
    });
    let y = g.global_avg_pool("avgpool", y);
    let y = g.dropout("classifier.0", y, variant.dropout);
    let y = g.linear("classifier.1", y, 1000);
    g.finish(y, "classifier.1")
}

struct Block<'a> {
    stage: &'a Stage,
    stride: usize,
    channels: usize,
    norm: BatchNorm,
    left_out: f32,
}

impl Block<'_> {
    fn build(&self, g: &mut Builder, x: Wire) -> Wire {
        let y = g.scope("block", |g| match self.stage.fused {
            true => self.fused(g, x),
            false => self.inverted(g, x),
        });
        if g.shape(x) != g.shape(y) {
            return y;
        }
        let y = g.stochastic_depth("stochastic_depth", y, self.left_out);
        g.add("add", y, x)
    }

    /// Widen, convolve by channel, squeeze and excite, narrow.
    fn inverted(&self, g: &mut Builder, x: Wire) -> Wire {
        let channels = g.shape(x).channels();
        let wide = channels * self.stage.expansion;
        let (mut y, mut number) = (x, 0);
        let mut next = || {
            number += 1;
            (number - 1).to_string()
        };
        if wide != channels {
            y = g.scope(&next(), |g| parts::conv_norm(g, y, Conv::k1(wide), self.norm, Silu));
        }
        let conv = Conv::square(wide, self.stage.kernel).stride(self.stride).groups(wide);
        y = g.scope(&next(), |g| parts::conv_norm(g, y, conv, self.norm, Silu));
        y = g.scope(&next(), |g| parts::squeeze(g, y, (channels / 4).max(1), Silu, Sigmoid));
        g.scope(&next(), |g| parts::conv_norm(g, y, Conv::k1(self.channels), self.norm, Identity))
    }

    /// A dense convolution that widens, and one that narrows; one alone where nothing widens.
    fn fused(&self, g: &mut Builder, x: Wire) -> Wire {
        let wide = g.shape(x).channels() * self.stage.expansion;
        let dense = |channels| Conv::square(channels, self.stage.kernel).stride(self.stride);
        if self.stage.expansion == 1 {
            let conv = dense(self.channels);
            return g.scope("0", |g| parts::conv_norm(g, x, conv, self.norm, Silu));
        }
        let y = g.scope("0", |g| parts::conv_norm(g, x, dense(wide), self.norm, Silu));
        g.scope("1", |g| parts::conv_norm(g, y, Conv::k1(self.channels), self.norm, Identity))
    }
}
