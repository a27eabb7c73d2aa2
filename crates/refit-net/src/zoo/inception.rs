//! Inception v3: Szegedy et al. 2015, <https://arxiv.org/abs/1512.00567>; names follow torchvision.

use super::parts::{basic_conv as conv, flat, valid};
use super::{Architecture, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Conv, Divisor, Windows};
use crate::shape::Shape;

/// torchvision's published weights take pixels in `[-1, 1]` within.
pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "inception_v3",
    paper: "Szegedy et al. 2015, https://arxiv.org/abs/1512.00567",
    names_as: "torchvision",
    licence: "BSD-3-Clause",
    input: InputSpec {
        size: 299,
        resize: 342,
        interpolation: Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.5; 3],
    },
    build,
}];

fn build(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, 299, 299));
    let y = conv(&mut g, "Conv2d_1a_3x3", x, valid(32, 3, 2));
    let y = conv(&mut g, "Conv2d_2a_3x3", y, valid(32, 3, 1));
    let y = conv(&mut g, "Conv2d_2b_3x3", y, Conv::k3(64));
    let y = g.max_pool("maxpool1", y, Windows::new(3, 2));
    let y = conv(&mut g, "Conv2d_3b_1x1", y, Conv::k1(80));
    let y = conv(&mut g, "Conv2d_4a_3x3", y, valid(192, 3, 1));
    let mut y = g.max_pool("maxpool2", y, Windows::new(3, 2));
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        y = g.scope(name, |g| block_35(g, y, pooled));
    }
    y = g.scope("Mixed_6a", |g| halving_35(g, y));
    for (name, inner) in
        [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)]
    {
        y = g.scope(name, |g| block_17(g, y, inner));
    }
    auxiliary(&mut g, y);
    y = g.scope("Mixed_7a", |g| halving_17(g, y));
    for name in ["Mixed_7b", "Mixed_7c"] {
        y = g.scope(name, |g| block_8(g, y));
    }
    let y = g.global_avg_pool("avgpool", y);
    let y = g.dropout("dropout", y, 0.5);
    let y = g.linear("fc", y, 1000);
    g.finish(y, "fc")
}

fn pooled(g: &mut Builder, x: Wire, channels: usize) -> Wire {
    let y = g.avg_pool("pool", x, Windows::new(3, 1).padded(1), Divisor::Padded);
    conv(g, "branch_pool", y, Conv::k1(channels))
}

/// Figure 5, at 35 px.
fn block_35(g: &mut Builder, x: Wire, channels: usize) -> Wire {
    let a = conv(g, "branch1x1", x, Conv::k1(64));
    let b = conv(g, "branch5x5_1", x, Conv::k1(48));
    let b = conv(g, "branch5x5_2", b, Conv::square(64, 5));
    let c = conv(g, "branch3x3dbl_1", x, Conv::k1(64));
    let c = conv(g, "branch3x3dbl_2", c, Conv::k3(96));
    let c = conv(g, "branch3x3dbl_3", c, Conv::k3(96));
    let d = pooled(g, x, channels);
    g.concat("cat", &[a, b, c, d])
}

/// Figure 10, from 35 px to 17.
fn halving_35(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch3x3", x, valid(384, 3, 2));
    let b = conv(g, "branch3x3dbl_1", x, Conv::k1(64));
    let b = conv(g, "branch3x3dbl_2", b, Conv::k3(96));
    let b = conv(g, "branch3x3dbl_3", b, valid(96, 3, 2));
    let c = g.max_pool("pool", x, Windows::new(3, 2));
    g.concat("cat", &[a, b, c])
}

/// Figure 6, at 17 px.
fn block_17(g: &mut Builder, x: Wire, inner: usize) -> Wire {
    let a = conv(g, "branch1x1", x, Conv::k1(192));
    let b = conv(g, "branch7x7_1", x, Conv::k1(inner));
    let b = conv(g, "branch7x7_2", b, flat(inner, 1, 7));
    let b = conv(g, "branch7x7_3", b, flat(192, 7, 1));
    let c = conv(g, "branch7x7dbl_1", x, Conv::k1(inner));
    let c = conv(g, "branch7x7dbl_2", c, flat(inner, 7, 1));
    let c = conv(g, "branch7x7dbl_3", c, flat(inner, 1, 7));
    let c = conv(g, "branch7x7dbl_4", c, flat(inner, 7, 1));
    let c = conv(g, "branch7x7dbl_5", c, flat(192, 1, 7));
    let d = pooled(g, x, 192);
    g.concat("cat", &[a, b, c, d])
}

/// From 17 px to 8.
fn halving_17(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch3x3_1", x, Conv::k1(192));
    let a = conv(g, "branch3x3_2", a, valid(320, 3, 2));
    let b = conv(g, "branch7x7x3_1", x, Conv::k1(192));
    let b = conv(g, "branch7x7x3_2", b, flat(192, 1, 7));
    let b = conv(g, "branch7x7x3_3", b, flat(192, 7, 1));
    let b = conv(g, "branch7x7x3_4", b, valid(192, 3, 2));
    let c = g.max_pool("pool", x, Windows::new(3, 2));
    g.concat("cat", &[a, b, c])
}

/// Figure 7, at 8 px.
fn block_8(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch1x1", x, Conv::k1(320));
    let b = conv(g, "branch3x3_1", x, Conv::k1(384));
    let b1 = conv(g, "branch3x3_2a", b, flat(384, 1, 3));
    let b2 = conv(g, "branch3x3_2b", b, flat(384, 3, 1));
    let c = conv(g, "branch3x3dbl_1", x, Conv::k1(448));
    let c = conv(g, "branch3x3dbl_2", c, Conv::k3(384));
    let c1 = conv(g, "branch3x3dbl_3a", c, flat(384, 1, 3));
    let c2 = conv(g, "branch3x3dbl_3b", c, flat(384, 3, 1));
    let d = pooled(g, x, 192);
    g.concat("cat", &[a, b1, b2, c1, c2, d])
}

/// A classifier half-way, which training hears with a share of its loss.
fn auxiliary(g: &mut Builder, x: Wire) {
    let y = g.scope("AuxLogits", |g| {
        let y = g.avg_pool("pool", x, Windows::new(5, 3), Divisor::Inside);
        let y = conv(g, "conv0", y, Conv::k1(128));
        let y = conv(g, "conv1", y, valid(768, 5, 1));
        let y = g.global_avg_pool("mean", y);
        g.linear("fc", y, 1000)
    });
    g.auxiliary(y, 0.4);
}
