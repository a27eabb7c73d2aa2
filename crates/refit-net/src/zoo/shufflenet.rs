//! ShuffleNet V2: Ma et al. 2018, <https://arxiv.org/abs/1807.11164>; names follow torchvision.

use super::{Architecture, InputSpec, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv, Layer, Windows};
use crate::shape::Shape;

const fn row(name: &'static str, resize: usize) -> Architecture {
    Architecture {
        name,
        paper: "Ma et al. 2018, https://arxiv.org/abs/1807.11164",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: InputSpec { resize, ..TORCHVISION_224 },
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("shufflenet_v2_x0_5", 256),
    row("shufflenet_v2_x1_0", 256),
    row("shufflenet_v2_x1_5", 232),
    row("shufflenet_v2_x2_0", 232),
];

/// Table 5: channels of the three stages, and of the last convolution.
fn channels(name: &str) -> ([usize; 3], usize) {
    match name {
        "shufflenet_v2_x0_5" => ([48, 96, 192], 1024),
        "shufflenet_v2_x1_0" => ([116, 232, 464], 1024),
        "shufflenet_v2_x1_5" => ([176, 352, 704], 1024),
        _ => ([244, 488, 976], 2048),
    }
}

fn build(name: &str) -> Result<Graph, GraphError> {
    let (stages, last) = channels(name);
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("conv1", |g| conv_norm_relu(g, 0, x, Conv::k3(24).stride(2)));
    let mut y = g.max_pool("maxpool", y, Windows::new(3, 2).padded(1));
    for (i, (channels, repeats)) in stages.into_iter().zip([4, 8, 4]).enumerate() {
        for repeat in 0..repeats {
            let block = if repeat == 0 { halving } else { keeping };
            let name = format!("stage{}.{repeat}", i + 2);
            y = g.scope(&name, |g| block(g, y, channels));
        }
    }
    let y = g.scope("conv5", |g| conv_norm_relu(g, 0, y, Conv::k1(last)));
    let y = g.global_avg_pool("mean", y);
    let y = g.linear("fc", y, 1000);
    g.finish(y, "fc")
}

/// Both branches convolve, at half the size; figure 3 (d).
fn halving(g: &mut Builder, x: Wire, channels: usize) -> Wire {
    let half = channels / 2;
    let a = g.scope("branch1", |g| {
        let y = depthwise(g, 0, x, 2);
        conv_norm_relu(g, 2, y, Conv::k1(half))
    });
    let b = branch2(g, x, half, 2);
    join(g, a, b)
}

/// One half of the channels is passed on, the other convolves; figure 3 (c).
fn keeping(g: &mut Builder, x: Wire, channels: usize) -> Wire {
    let half = channels / 2;
    let a = g.slice("left", x, 0, half);
    let b = g.slice("right", x, half, half);
    let b = branch2(g, b, half, 1);
    join(g, a, b)
}

fn branch2(g: &mut Builder, x: Wire, channels: usize, stride: usize) -> Wire {
    g.scope("branch2", |g| {
        let y = conv_norm_relu(g, 0, x, Conv::k1(channels));
        let y = depthwise(g, 3, y, stride);
        conv_norm_relu(g, 5, y, Conv::k1(channels))
    })
}

fn join(g: &mut Builder, a: Wire, b: Wire) -> Wire {
    let y = g.concat("cat", &[a, b]);
    g.layer("shuffle", Layer::Shuffle { groups: 2 }, &[y])
}

fn depthwise(g: &mut Builder, number: usize, x: Wire, stride: usize) -> Wire {
    let channels = g.shape(x).channels();
    let conv = Conv::k3(channels).stride(stride).groups(channels);
    let y = g.conv(&number.to_string(), x, conv);
    g.batch_norm(&(number + 1).to_string(), y, BatchNorm::default())
}

fn conv_norm_relu(g: &mut Builder, number: usize, x: Wire, conv: Conv) -> Wire {
    let y = g.conv(&number.to_string(), x, conv);
    let y = g.batch_norm(&(number + 1).to_string(), y, BatchNorm::default());
    g.relu(&(number + 2).to_string(), y)
}
