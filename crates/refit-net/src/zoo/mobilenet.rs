//! MobileNet V2 (Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>) and V3 (Howard et al. 2019,
//! <https://arxiv.org/abs/1905.02244>); names follow torchvision.

use super::{Architecture, TORCHVISION_224, parts};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::Activation::{self, HardSigmoid, HardSwish, Relu, Relu6};
use crate::layer::{BatchNorm, Conv};
use crate::shape::Shape;

const fn row(
    name: &'static str,
    paper: &'static str,
    build: fn(&str) -> Result<Graph, GraphError>,
) -> Architecture {
    Architecture {
        name,
        paper,
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build,
    }
}

const V2: &str = "Sandler et al. 2018, https://arxiv.org/abs/1801.04381";
const V3: &str = "Howard et al. 2019, https://arxiv.org/abs/1905.02244";

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("mobilenet_v2", V2, build_v2),
    row("mobilenet_v3_small", V3, build_v3),
    row("mobilenet_v3_large", V3, build_v3),
];

/// Table 2 of the V2 paper: expansion, channels, repeats, stride of the first.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

fn build_v2(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("features", |g| {
        let conv = |g: &mut Builder, name: &str, x, conv| {
            g.scope(name, |g| parts::conv_norm(g, x, conv, BatchNorm::default(), Relu6))
        };
        let mut y = conv(g, "0", x, Conv::k3(32).stride(2));
        let mut number = 1;
        for (expansion, channels, repeats, first) in STAGES {
            for repeat in 0..repeats {
                let stride = if repeat == 0 { first } else { 1 };
                let block = number.to_string();
                y = g.scope(&block, |g| inverted_v2(g, y, expansion, channels, stride));
                number += 1;
            }
        }
        conv(g, "18", y, Conv::k1(1280))
    });
    let y = g.global_avg_pool("avgpool", y);
    let y = g.dropout("classifier.0", y, 0.2);
    let y = g.linear("classifier.1", y, 1000);
    g.finish(y, "classifier.1")
}

/// Widen, convolve by channel, narrow.
fn inverted_v2(g: &mut Builder, x: Wire, expansion: usize, channels: usize, stride: usize) -> Wire {
    let y = g.scope("conv", |g| {
        let norm = BatchNorm::default();
        let (mut y, mut number) = (x, 0);
        let wide = g.shape(x).channels() * expansion;
        if expansion != 1 {
            y = g.scope("0", |g| parts::conv_norm(g, y, Conv::k1(wide), norm, Relu6));
            number += 1;
        }
        let depthwise = Conv::k3(wide).stride(stride).groups(wide);
        let name = number.to_string();
        y = g.scope(&name, |g| parts::conv_norm(g, y, depthwise, norm, Relu6));
        y = g.conv(&(number + 1).to_string(), y, Conv::k1(channels));
        g.batch_norm(&(number + 2).to_string(), y, norm)
    });
    parts::shortcut(g, x, y)
}

/// A row of the V3 paper's tables 1 and 2.
struct Bottleneck {
    kernel: usize,
    expanded: usize,
    channels: usize,
    squeezes: bool,
    activation: Activation,
    stride: usize,
}

const fn bneck(
    kernel: usize,
    expanded: usize,
    channels: usize,
    squeezes: bool,
    activation: Activation,
    stride: usize,
) -> Bottleneck {
    Bottleneck { kernel, expanded, channels, squeezes, activation, stride }
}

const LARGE: &[Bottleneck] = &[
    bneck(3, 16, 16, false, Relu, 1),
    bneck(3, 64, 24, false, Relu, 2),
    bneck(3, 72, 24, false, Relu, 1),
    bneck(5, 72, 40, true, Relu, 2),
    bneck(5, 120, 40, true, Relu, 1),
    bneck(5, 120, 40, true, Relu, 1),
    bneck(3, 240, 80, false, HardSwish, 2),
    bneck(3, 200, 80, false, HardSwish, 1),
    bneck(3, 184, 80, false, HardSwish, 1),
    bneck(3, 184, 80, false, HardSwish, 1),
    bneck(3, 480, 112, true, HardSwish, 1),
    bneck(3, 672, 112, true, HardSwish, 1),
    bneck(5, 672, 160, true, HardSwish, 2),
    bneck(5, 960, 160, true, HardSwish, 1),
    bneck(5, 960, 160, true, HardSwish, 1),
];

const SMALL: &[Bottleneck] = &[
    bneck(3, 16, 16, true, Relu, 2),
    bneck(3, 72, 24, false, Relu, 2),
    bneck(3, 88, 24, false, Relu, 1),
    bneck(5, 96, 40, true, HardSwish, 2),
    bneck(5, 240, 40, true, HardSwish, 1),
    bneck(5, 240, 40, true, HardSwish, 1),
    bneck(5, 120, 48, true, HardSwish, 1),
    bneck(5, 144, 48, true, HardSwish, 1),
    bneck(5, 288, 96, true, HardSwish, 2),
    bneck(5, 576, 96, true, HardSwish, 1),
    bneck(5, 576, 96, true, HardSwish, 1),
];

const V3_NORM: BatchNorm = BatchNorm { epsilon: 1e-3, momentum: 0.01 };

fn build_v3(name: &str) -> Result<Graph, GraphError> {
    let (rows, hidden) = if name.ends_with("large") { (LARGE, 1280) } else { (SMALL, 1024) };
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("features", |g| {
        let conv = |g: &mut Builder, name: &str, x, conv| {
            g.scope(name, |g| parts::conv_norm(g, x, conv, V3_NORM, HardSwish))
        };
        let mut y = conv(g, "0", x, Conv::k3(16).stride(2));
        for (i, row) in rows.iter().enumerate() {
            y = g.scope(&(i + 1).to_string(), |g| inverted_v3(g, y, row));
        }
        let last = 6 * g.shape(y).channels();
        conv(g, &(rows.len() + 1).to_string(), y, Conv::k1(last))
    });
    let y = g.global_avg_pool("avgpool", y);
    let y = g.linear("classifier.0", y, hidden);
    let y = g.activation("classifier.1", y, HardSwish);
    let y = g.dropout("classifier.2", y, 0.2);
    let y = g.linear("classifier.3", y, 1000);
    g.finish(y, "classifier.3")
}

/// The same with squeeze-and-excitation (Hu et al. 2017, <https://arxiv.org/abs/1709.01507>).
fn inverted_v3(g: &mut Builder, x: Wire, row: &Bottleneck) -> Wire {
    let y = g.scope("block", |g| {
        let (mut y, mut number) = (x, 0);
        let mut next = || {
            number += 1;
            (number - 1).to_string()
        };
        let wide = row.expanded;
        if wide != g.shape(x).channels() {
            y = g.scope(&next(), |g| {
                parts::conv_norm(g, y, Conv::k1(wide), V3_NORM, row.activation)
            });
        }
        let depthwise = Conv::square(wide, row.kernel).stride(row.stride).groups(wide);
        y = g.scope(&next(), |g| parts::conv_norm(g, y, depthwise, V3_NORM, row.activation));
        if row.squeezes {
            let squeezed = parts::divisible(wide as f64 / 4.0, 8);
            y = g.scope(&next(), |g| parts::squeeze(g, y, squeezed, Relu, HardSigmoid));
        }
        g.scope(&next(), |g| {
            parts::conv_norm(g, y, Conv::k1(row.channels), V3_NORM, Activation::Identity)
        })
    });
    parts::shortcut(g, x, y)
}
