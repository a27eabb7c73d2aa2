//! ConvNeXt: Liu et al. 2022, <https://arxiv.org/abs/2201.03545>; names follow torchvision.

use super::{Architecture, InputSpec, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Activation, Conv, Layer, LayerScale, Padding};
use crate::shape::Shape;

const fn row(name: &'static str, resize: usize) -> Architecture {
    Architecture {
        name,
        paper: "Liu et al. 2022, https://arxiv.org/abs/2201.03545",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: InputSpec { resize, ..TORCHVISION_224 },
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("convnext_tiny", 236),
    row("convnext_small", 230),
    row("convnext_base", 232),
    row("convnext_large", 232),
];

const EPSILON: f64 = 1e-6;

/// Section 3: channels of the first stage, which double, blocks of each, and the share of images
/// that the last block's branch is left out of.
fn variant(name: &str) -> (usize, [usize; 4], f32) {
    match name {
        "convnext_tiny" => (96, [3, 3, 9, 3], 0.1),
        "convnext_small" => (96, [3, 3, 27, 3], 0.4),
        "convnext_base" => (128, [3, 3, 27, 3], 0.5),
        _ => (192, [3, 3, 27, 3], 0.5),
    }
}

fn build(name: &str) -> Result<Graph, GraphError> {
    let (first, blocks, left_out) = variant(name);
    let all: usize = blocks.iter().sum();
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let mut y = g.scope("features", |g| {
        let y = g.conv("0.0", x, patches(first, 4));
        let mut y = g.layer_norm("0.1", y, EPSILON);
        let mut number = 0;
        for (stage, &repeats) in blocks.iter().enumerate() {
            if stage > 0 {
                let at = 2 * stage;
                y = g.layer_norm(&format!("{at}.0"), y, EPSILON);
                y = g.conv(&format!("{at}.1"), y, patches(first << stage, 2));
            }
            for repeat in 0..repeats {
                let share = left_out * number as f32 / (all - 1) as f32;
                let name = format!("{}.{repeat}", 2 * stage + 1);
                y = g.scope(&name, |g| block(g, y, share));
                number += 1;
            }
        }
        y
    });
    y = g.global_avg_pool("avgpool", y);
    y = g.layer_norm("classifier.0", y, EPSILON);
    let y = g.linear("classifier.2", y, 1000);
    g.finish(y, "classifier.2")
}

/// Patches of `size` by `size` pixels, side by side.
fn patches(channels: usize, size: usize) -> Conv {
    Conv::square(channels, size).stride(size).padding(Padding::Symmetric([0; 2])).biased()
}

/// A depthwise 7x7 convolution, then four times the channels and back.
fn block(g: &mut Builder, x: Wire, left_out: f32) -> Wire {
    let channels = g.shape(x).channels();
    let y = g.scope("block", |g| {
        let y = g.conv("0", x, Conv::square(channels, 7).groups(channels).biased());
        let y = g.layer_norm("2", y, EPSILON);
        let y = g.linear("3", y, 4 * channels);
        let y = g.activation("4", y, Activation::Gelu);
        g.linear("5", y, channels)
    });
    let scale = Layer::LayerScale(LayerScale { initial: 1e-6 });
    let y = g.layer("layer_scale", scale, &[y]);
    let y = g.stochastic_depth("stochastic_depth", y, left_out);
    g.add("add", y, x)
}
