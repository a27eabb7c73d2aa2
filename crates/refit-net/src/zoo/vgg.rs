//! VGG: Simonyan and Zisserman 2014, <https://arxiv.org/abs/1409.1556>, with and without batch
//! normalization; names follow torchvision.

use super::{Architecture, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError};
use crate::layer::{BatchNorm, Conv, Windows};
use crate::shape::Shape;

const fn row(name: &'static str) -> Architecture {
    Architecture {
        name,
        paper: "Simonyan and Zisserman 2014, https://arxiv.org/abs/1409.1556",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("vgg11"),
    row("vgg11_bn"),
    row("vgg13"),
    row("vgg13_bn"),
    row("vgg16"),
    row("vgg16_bn"),
    row("vgg19"),
    row("vgg19_bn"),
];

/// Table 1: 3x3 convolutions of each stage, of 64 to 512 channels.
const fn stages(name: &str) -> [usize; 5] {
    match name.as_bytes() {
        [_, _, _, b'1', b'1', ..] => [1, 1, 2, 2, 2],
        [_, _, _, b'1', b'3', ..] => [2, 2, 2, 2, 2],
        [_, _, _, b'1', b'6', ..] => [2, 2, 3, 3, 3],
        _ => [2, 2, 4, 4, 4],
    }
}

fn build(name: &str) -> Result<Graph, GraphError> {
    let normed = name.ends_with("_bn");
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("features", |g| {
        let (mut y, mut number) = (x, 0);
        let mut next = || {
            number += 1;
            (number - 1).to_string()
        };
        for (repeats, channels) in stages(name).into_iter().zip([64, 128, 256, 512, 512]) {
            for _ in 0..repeats {
                y = g.conv(&next(), y, Conv::k3(channels).biased());
                if normed {
                    y = g.batch_norm(&next(), y, BatchNorm::default());
                }
                y = g.relu(&next(), y);
            }
            y = g.max_pool(&next(), y, Windows::new(2, 2));
        }
        y
    });
    let y = g.adaptive_avg_pool("avgpool", y, 7);
    let y = g.flatten("flatten", y);
    let y = g.scope("classifier", |g| {
        let y = g.linear("0", y, 4096);
        let y = g.relu("1", y);
        let y = g.dropout("2", y, 0.5);
        let y = g.linear("3", y, 4096);
        let y = g.relu("4", y);
        let y = g.dropout("5", y, 0.5);
        g.linear("6", y, 1000)
    });
    g.finish(y, "classifier.6")
}
