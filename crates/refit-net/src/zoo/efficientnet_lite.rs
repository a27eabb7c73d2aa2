//! EfficientNet-Lite: Tan and Le 2019, <https://arxiv.org/abs/1905.11946>, in the variants for edge
//! devices of 2020 (<https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite>):
//! no squeeze-and-excitation, ReLU6, stem and head not scaled. Names follow timm's
//! `tf_efficientnet_lite*`.

use super::Interpolation::{self, Bicubic, Bilinear};
use super::{Architecture, InputSpec, parts};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Activation, BatchNorm, Conv, Padding};
use crate::shape::Shape;

struct Variant {
    name: &'static str,
    width: f64,
    depth: f64,
    dropout: f32,
    input: InputSpec,
}

const fn input(size: usize, resize: usize, interpolation: Interpolation) -> InputSpec {
    InputSpec { size, resize, interpolation, mean: [0.5; 3], std: [0.5; 3] }
}

/// Width, depth, dropout, image size and shorter side before the crop; sizes as timm trained them.
#[rustfmt::skip]
const VARIANTS: [Variant; 5] = [
    Variant { name: "efficientnet_lite0", width: 1.0, depth: 1.0, dropout: 0.2, input: input(224, 256, Bicubic) },
    Variant { name: "efficientnet_lite1", width: 1.0, depth: 1.1, dropout: 0.2, input: input(240, 272, Bicubic) },
    Variant { name: "efficientnet_lite2", width: 1.1, depth: 1.2, dropout: 0.3, input: input(260, 292, Bicubic) },
    Variant { name: "efficientnet_lite3", width: 1.2, depth: 1.4, dropout: 0.3, input: input(300, 331, Bilinear) },
    Variant { name: "efficientnet_lite4", width: 1.4, depth: 1.8, dropout: 0.4, input: input(380, 413, Bilinear) },
];

/// A stage of equal blocks; the first has the stride.
struct Stage {
    repeats: usize,
    kernel: usize,
    stride: usize,
    expansion: usize,
    channels: usize,
}

/// Table 1 of the paper, without the stem and the head.
#[rustfmt::skip]
const STAGES: [Stage; 7] = [
    Stage { repeats: 1, kernel: 3, stride: 1, expansion: 1, channels: 16 },
    Stage { repeats: 2, kernel: 3, stride: 2, expansion: 6, channels: 24 },
    Stage { repeats: 2, kernel: 5, stride: 2, expansion: 6, channels: 40 },
    Stage { repeats: 3, kernel: 3, stride: 2, expansion: 6, channels: 80 },
    Stage { repeats: 3, kernel: 5, stride: 1, expansion: 6, channels: 112 },
    Stage { repeats: 4, kernel: 5, stride: 2, expansion: 6, channels: 192 },
    Stage { repeats: 1, kernel: 3, stride: 1, expansion: 6, channels: 320 },
];

const STEM: usize = 32;
const HEAD: usize = 1280;

const fn row(at: usize) -> Architecture {
    let Variant { name, input, .. } = VARIANTS[at];
    Architecture {
        name,
        paper: "Tan and Le 2019, https://arxiv.org/abs/1905.11946",
        names_as: "timm tf_efficientnet_lite*",
        licence: "Apache-2.0",
        input,
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[row(0), row(1), row(2), row(3), row(4)];

fn build(name: &str) -> Result<Graph, GraphError> {
    let variant = VARIANTS.iter().find(|v| v.name == name).expect("a row of the table");
    let size = variant.input.size;
    let (mut g, x) = Builder::new(name, Shape::map(3, size, size));
    let y = g.conv("conv_stem", x, same(Conv::k3(STEM).stride(2)));
    let mut y = norm_relu6(&mut g, "bn1", y);
    for (number, stage) in STAGES.iter().enumerate() {
        let fixed = number == 0 || number == STAGES.len() - 1;
        let repeats = if fixed { stage.repeats } else { scaled(stage.repeats, variant.depth) };
        let channels = parts::divisible(stage.channels as f64 * variant.width, 8);
        for repeat in 0..repeats {
            let stride = if repeat == 0 { stage.stride } else { 1 };
            let block = if stage.expansion == 1 { separable } else { inverted_residual };
            let block_name = format!("blocks.{number}.{repeat}");
            y = g.scope(&block_name, |g| block(g, y, stage, channels, stride));
        }
    }
    let y = g.conv("conv_head", y, Conv::k1(HEAD));
    let y = norm_relu6(&mut g, "bn2", y);
    let y = g.global_avg_pool("global_pool", y);
    let y = g.dropout("dropout", y, variant.dropout);
    let y = g.linear("classifier", y, 1000);
    g.finish(y, "classifier")
}

/// A depthwise and a linear 1x1 convolution.
fn separable(g: &mut Builder, x: Wire, stage: &Stage, channels: usize, stride: usize) -> Wire {
    let y = depthwise(g, x, stage.kernel, stride);
    let y = norm_relu6(g, "bn1", y);
    let y = g.conv("conv_pw", y, Conv::k1(channels));
    let y = norm(g, "bn2", y);
    parts::shortcut(g, x, y)
}

/// Widen by a 1x1 convolution, convolve by channel, narrow by a linear 1x1 convolution (Sandler et
/// al. 2018, <https://arxiv.org/abs/1801.04381>).
fn inverted_residual(
    g: &mut Builder,
    x: Wire,
    stage: &Stage,
    channels: usize,
    stride: usize,
) -> Wire {
    let wide = g.shape(x).channels() * stage.expansion;
    let y = g.conv("conv_pw", x, Conv::k1(wide));
    let y = norm_relu6(g, "bn1", y);
    let y = depthwise(g, y, stage.kernel, stride);
    let y = norm_relu6(g, "bn2", y);
    let y = g.conv("conv_pwl", y, Conv::k1(channels));
    let y = norm(g, "bn3", y);
    parts::shortcut(g, x, y)
}

fn depthwise(g: &mut Builder, x: Wire, kernel: usize, stride: usize) -> Wire {
    let channels = g.shape(x).channels();
    g.conv("conv_dw", x, same(Conv::square(channels, kernel).stride(stride).groups(channels)))
}

fn norm(g: &mut Builder, name: &str, x: Wire) -> Wire {
    g.batch_norm(name, x, BatchNorm::epsilon(1e-3))
}

fn norm_relu6(g: &mut Builder, name: &str, x: Wire) -> Wire {
    let y = norm(g, name, x);
    g.activation(&format!("{name}.act"), y, Activation::Relu6)
}

fn same(conv: Conv) -> Conv {
    conv.padding(Padding::Same)
}

fn scaled(repeats: usize, depth: f64) -> usize {
    (repeats as f64 * depth).ceil() as usize
}
