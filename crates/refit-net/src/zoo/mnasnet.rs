//! MNASNet: Tan et al. 2018, <https://arxiv.org/abs/1807.11626>; names follow torchvision.

use super::{Architecture, InputSpec, TORCHVISION_224, parts};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv};
use crate::shape::Shape;

const fn row(name: &'static str, resize: usize) -> Architecture {
    Architecture {
        name,
        paper: "Tan et al. 2018, https://arxiv.org/abs/1807.11626",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: InputSpec { resize, ..TORCHVISION_224 },
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("mnasnet0_5", 256),
    row("mnasnet0_75", 232),
    row("mnasnet1_0", 256),
    row("mnasnet1_3", 232),
];

const NORM: BatchNorm = BatchNorm { epsilon: 1e-5, momentum: 3e-4 };

/// Figure 7: kernel, stride of the first block, expansion, channels, blocks.
const STAGES: [(usize, usize, usize, usize, usize); 6] = [
    (3, 2, 3, 24, 3),
    (5, 2, 3, 40, 3),
    (5, 2, 6, 80, 3),
    (3, 1, 6, 96, 2),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
];

fn build(name: &str) -> Result<Graph, GraphError> {
    let width = match name {
        "mnasnet0_5" => 0.5,
        "mnasnet0_75" => 0.75,
        "mnasnet1_0" => 1.0,
        _ => 1.3,
    };
    let scaled = |channels: usize| parts::divisible(channels as f64 * width, 8);
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("layers", |g| {
        let y = conv_norm_relu(g, 0, x, Conv::k3(scaled(32)).stride(2));
        let y = conv_norm_relu(g, 3, y, Conv::k3(scaled(32)).groups(scaled(32)));
        let y = g.conv("6", y, Conv::k1(scaled(16)));
        let mut y = g.batch_norm("7", y, NORM);
        for (i, (kernel, stride, expansion, channels, blocks)) in STAGES.into_iter().enumerate() {
            for block in 0..blocks {
                let stride = if block == 0 { stride } else { 1 };
                let name = format!("{}.{block}", i + 8);
                let channels = scaled(channels);
                y = g.scope(&name, |g| inverted(g, y, kernel, stride, expansion, channels));
            }
        }
        conv_norm_relu(g, 14, y, Conv::k1(1280))
    });
    let y = g.global_avg_pool("mean", y);
    let y = g.dropout("classifier.0", y, 0.2);
    let y = g.linear("classifier.1", y, 1000);
    g.finish(y, "classifier.1")
}

/// Widen, convolve by channel, narrow.
fn inverted(
    g: &mut Builder,
    x: Wire,
    kernel: usize,
    stride: usize,
    expansion: usize,
    channels: usize,
) -> Wire {
    let y = g.scope("layers", |g| {
        let wide = g.shape(x).channels() * expansion;
        let y = conv_norm_relu(g, 0, x, Conv::k1(wide));
        let y = conv_norm_relu(g, 3, y, Conv::square(wide, kernel).stride(stride).groups(wide));
        let y = g.conv("6", y, Conv::k1(channels));
        g.batch_norm("7", y, NORM)
    });
    parts::shortcut(g, x, y)
}

fn conv_norm_relu(g: &mut Builder, number: usize, x: Wire, conv: Conv) -> Wire {
    let y = g.conv(&number.to_string(), x, conv);
    let y = g.batch_norm(&(number + 1).to_string(), y, NORM);
    g.relu(&(number + 2).to_string(), y)
}
