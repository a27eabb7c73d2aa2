//! DenseNet: Huang et al. 2016, <https://arxiv.org/abs/1608.06993>; names follow torchvision.

use super::{Architecture, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv, Divisor, Windows};
use crate::shape::Shape;

const fn row(name: &'static str) -> Architecture {
    Architecture {
        name,
        paper: "Huang et al. 2016, https://arxiv.org/abs/1608.06993",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[row("densenet121"), row("densenet161"), row("densenet169"), row("densenet201")];

/// Table 1: growth, channels of the stem, layers of each block.
fn variant(name: &str) -> (usize, usize, [usize; 4]) {
    match name {
        "densenet121" => (32, 64, [6, 12, 24, 16]),
        "densenet161" => (48, 96, [6, 12, 36, 24]),
        "densenet169" => (32, 64, [6, 12, 32, 32]),
        _ => (32, 64, [6, 12, 48, 32]),
    }
}

fn build(name: &str) -> Result<Graph, GraphError> {
    let (growth, stem, blocks) = variant(name);
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("features", |g| {
        let y = g.conv("conv0", x, Conv::square(stem, 7).stride(2));
        let y = norm_relu(g, "0", y);
        let mut y = g.max_pool("pool0", y, Windows::new(3, 2).padded(1));
        for (i, &layers) in blocks.iter().enumerate() {
            let name = format!("denseblock{}", i + 1);
            y = g.scope(&name, |g| dense_block(g, y, layers, growth));
            if i + 1 < blocks.len() {
                y = g.scope(&format!("transition{}", i + 1), |g| transition(g, y));
            }
        }
        norm_relu(g, "5", y)
    });
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("classifier", y, 1000);
    g.finish(y, "classifier")
}

fn norm_relu(g: &mut Builder, number: &str, x: Wire) -> Wire {
    let y = g.batch_norm(&format!("norm{number}"), x, BatchNorm::default());
    g.relu(&format!("relu{number}"), y)
}

/// Layers that each see everything before them.
fn dense_block(g: &mut Builder, x: Wire, layers: usize, growth: usize) -> Wire {
    let mut all = x;
    for i in 1..=layers {
        all = g.scope(&format!("denselayer{i}"), |g| {
            let y = norm_relu(g, "1", all);
            let y = g.conv("conv1", y, Conv::k1(4 * growth));
            let y = norm_relu(g, "2", y);
            let y = g.conv("conv2", y, Conv::k3(growth));
            g.concat("cat", &[all, y])
        });
    }
    all
}

/// Half the channels and half the size.
fn transition(g: &mut Builder, x: Wire) -> Wire {
    let y = norm_relu(g, "", x);
    let half = g.shape(y).channels() / 2;
    let y = g.conv("conv", y, Conv::k1(half));
    g.avg_pool("pool", y, Windows::new(2, 2), Divisor::Inside)
}
