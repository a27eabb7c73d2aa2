//! Inception v4 and Inception-ResNet v2: Szegedy et al. 2016, <https://arxiv.org/abs/1602.07261>;
//! names follow timm.

use super::parts::{flat, valid};
use super::{Architecture, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv, Divisor, Layer, Windows};
use crate::shape::Shape;

const fn row(
    name: &'static str,
    resize: usize,
    build: fn(&str) -> Result<Graph, GraphError>,
) -> Architecture {
    Architecture {
        name,
        paper: "Szegedy et al. 2016, https://arxiv.org/abs/1602.07261",
        names_as: "timm",
        licence: "Apache-2.0",
        input: InputSpec {
            size: 299,
            resize,
            interpolation: Interpolation::Bicubic,
            mean: [0.5; 3],
            std: [0.5; 3],
        },
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[row("inception_v4", 341, build_v4), row("inception_resnet_v2", 333, build_resnet_v2)];

const HALVE: Windows = Windows::new(3, 2);

fn conv(g: &mut Builder, name: &str, x: Wire, conv: Conv) -> Wire {
    g.scope(name, |g| {
        let y = g.conv("conv", x, conv);
        let y = g.batch_norm("bn", y, BatchNorm::epsilon(1e-3));
        g.relu("bn.act", y)
    })
}

/// Convolutions one after the other, named `branch.0`, `branch.1`, ...
fn chain(g: &mut Builder, branch: &str, x: Wire, convs: &[Conv]) -> Wire {
    let each = convs.iter().enumerate();
    each.fold(x, |y, (i, c)| conv(g, &format!("{branch}.{i}"), y, *c))
}

/// Means of 3x3 pixels, then a 1x1 convolution.
fn pooled(g: &mut Builder, x: Wire, channels: usize) -> Wire {
    let windows = Windows::new(3, 1).padded(1);
    let y = g.avg_pool("branch3.0", x, windows, Divisor::Inside);
    conv(g, "branch3.1", y, Conv::k1(channels))
}

fn build_v4(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, 299, 299));
    let y = g.scope("features", |g| {
        let y = conv(g, "0", x, valid(32, 3, 2));
        let y = conv(g, "1", y, valid(32, 3, 1));
        let y = conv(g, "2", y, Conv::k3(64));
        let y = g.scope("3", |g| {
            let a = g.max_pool("maxpool", y, HALVE);
            let b = conv(g, "conv", y, valid(96, 3, 2));
            g.concat("cat", &[a, b])
        });
        let y = g.scope("4", |g| {
            let a = chain(g, "branch0", y, &[Conv::k1(64), valid(96, 3, 1)]);
            let wide = [Conv::k1(64), flat(64, 1, 7), flat(64, 7, 1), valid(96, 3, 1)];
            let b = chain(g, "branch1", y, &wide);
            g.concat("cat", &[a, b])
        });
        let mut y = g.scope("5", |g| {
            let a = conv(g, "conv", y, valid(192, 3, 2));
            let b = g.max_pool("maxpool", y, HALVE);
            g.concat("cat", &[a, b])
        });
        for number in 6..22 {
            let block = match number {
                6..10 => v4_35,
                10 => v4_halving_35,
                11..18 => v4_17,
                18 => v4_halving_17,
                _ => v4_8,
            };
            y = g.scope(&number.to_string(), |g| block(g, y));
        }
        y
    });
    let y = g.global_avg_pool("global_pool", y);
    let y = g.dropout("head_drop", y, 0.0);
    let y = g.linear("last_linear", y, 1000);
    g.finish(y, "last_linear")
}

/// Figure 4, at 35 px.
fn v4_35(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch0", x, Conv::k1(96));
    let b = chain(g, "branch1", x, &[Conv::k1(64), Conv::k3(96)]);
    let c = chain(g, "branch2", x, &[Conv::k1(64), Conv::k3(96), Conv::k3(96)]);
    let d = pooled(g, x, 96);
    g.concat("cat", &[a, b, c, d])
}

/// Figure 7, from 35 px to 17.
fn v4_halving_35(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch0", x, valid(384, 3, 2));
    let b = chain(g, "branch1", x, &[Conv::k1(192), Conv::k3(224), valid(256, 3, 2)]);
    let c = g.max_pool("branch2", x, HALVE);
    g.concat("cat", &[a, b, c])
}

/// Figure 5, at 17 px.
fn v4_17(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch0", x, Conv::k1(384));
    let b = chain(g, "branch1", x, &[Conv::k1(192), flat(224, 1, 7), flat(256, 7, 1)]);
    let twice = [Conv::k1(192), flat(192, 7, 1), flat(224, 1, 7), flat(224, 7, 1), flat(256, 1, 7)];
    let c = chain(g, "branch2", x, &twice);
    let d = pooled(g, x, 128);
    g.concat("cat", &[a, b, c, d])
}

/// Figure 8, from 17 px to 8.
fn v4_halving_17(g: &mut Builder, x: Wire) -> Wire {
    let a = chain(g, "branch0", x, &[Conv::k1(192), valid(192, 3, 2)]);
    let wide = [Conv::k1(256), flat(256, 1, 7), flat(320, 7, 1), valid(320, 3, 2)];
    let b = chain(g, "branch1", x, &wide);
    let c = g.max_pool("branch2", x, HALVE);
    g.concat("cat", &[a, b, c])
}

/// Figure 6, at 8 px.
fn v4_8(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch0", x, Conv::k1(256));
    let b = conv(g, "branch1_0", x, Conv::k1(384));
    let b1 = conv(g, "branch1_1a", b, flat(256, 1, 3));
    let b2 = conv(g, "branch1_1b", b, flat(256, 3, 1));
    let c = conv(g, "branch2_0", x, Conv::k1(384));
    let c = conv(g, "branch2_1", c, flat(448, 3, 1));
    let c = conv(g, "branch2_2", c, flat(512, 1, 3));
    let c1 = conv(g, "branch2_3a", c, flat(256, 1, 3));
    let c2 = conv(g, "branch2_3b", c, flat(256, 3, 1));
    let d = pooled(g, x, 256);
    g.concat("cat", &[a, b1, b2, c1, c2, d])
}

fn build_resnet_v2(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, 299, 299));
    let y = conv(&mut g, "conv2d_1a", x, valid(32, 3, 2));
    let y = conv(&mut g, "conv2d_2a", y, valid(32, 3, 1));
    let y = conv(&mut g, "conv2d_2b", y, Conv::k3(64));
    let y = g.max_pool("maxpool_3a", y, HALVE);
    let y = conv(&mut g, "conv2d_3b", y, Conv::k1(80));
    let y = conv(&mut g, "conv2d_4a", y, valid(192, 3, 1));
    let y = g.max_pool("maxpool_5a", y, HALVE);
    let mut y = g.scope("mixed_5b", |g| mixed_5b(g, y));
    for i in 0..10 {
        y = g.scope(&format!("repeat.{i}"), |g| RESIDUAL_35.build(g, y, true));
    }
    y = g.scope("mixed_6a", |g| mixed_6a(g, y));
    for i in 0..20 {
        y = g.scope(&format!("repeat_1.{i}"), |g| RESIDUAL_17.build(g, y, true));
    }
    y = g.scope("mixed_7a", |g| mixed_7a(g, y));
    for i in 0..9 {
        y = g.scope(&format!("repeat_2.{i}"), |g| RESIDUAL_8.build(g, y, true));
    }
    // The last one is neither scaled nor activated.
    y = g.scope("block8", |g| Residual { scale: 1.0, ..RESIDUAL_8 }.build(g, y, false));
    let y = conv(&mut g, "conv2d_7b", y, Conv::k1(1536));
    let y = g.global_avg_pool("global_pool", y);
    let y = g.dropout("head_drop", y, 0.0);
    let y = g.linear("classif", y, 1000);
    g.finish(y, "classif")
}

fn mixed_5b(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch0", x, Conv::k1(96));
    let b = chain(g, "branch1", x, &[Conv::k1(48), Conv::square(64, 5)]);
    let c = chain(g, "branch2", x, &[Conv::k1(64), Conv::k3(96), Conv::k3(96)]);
    let d = pooled(g, x, 64);
    g.concat("cat", &[a, b, c, d])
}

/// Figure 7, from 35 px to 17.
fn mixed_6a(g: &mut Builder, x: Wire) -> Wire {
    let a = conv(g, "branch0", x, valid(384, 3, 2));
    let b = chain(g, "branch1", x, &[Conv::k1(256), Conv::k3(256), valid(384, 3, 2)]);
    let c = g.max_pool("branch2", x, HALVE);
    g.concat("cat", &[a, b, c])
}

/// Figure 18, from 17 px to 8.
fn mixed_7a(g: &mut Builder, x: Wire) -> Wire {
    let a = chain(g, "branch0", x, &[Conv::k1(256), valid(384, 3, 2)]);
    let b = chain(g, "branch1", x, &[Conv::k1(256), valid(288, 3, 2)]);
    let c = chain(g, "branch2", x, &[Conv::k1(256), Conv::k3(288), valid(320, 3, 2)]);
    let d = g.max_pool("branch3", x, HALVE);
    g.concat("cat", &[a, b, c, d])
}

/// Branches, joined, brought back to the input's channels, scaled and added to it.
struct Residual {
    branches: &'static [&'static [Conv]],
    scale: f32,
}

/// Figure 16, at 35 px.
const RESIDUAL_35: Residual = Residual {
    branches: &[
        &[Conv::k1(32)],
        &[Conv::k1(32), Conv::k3(32)],
        &[Conv::k1(32), Conv::k3(48), Conv::k3(64)],
    ],
    scale: 0.17,
};

/// Figure 17, at 17 px.
const RESIDUAL_17: Residual = Residual {
    branches: &[&[Conv::k1(192)], &[Conv::k1(128), flat(160, 1, 7), flat(192, 7, 1)]],
    scale: 0.1,
};

/// Figure 19, at 8 px.
const RESIDUAL_8: Residual = Residual {
    branches: &[&[Conv::k1(192)], &[Conv::k1(192), flat(224, 1, 3), flat(256, 3, 1)]],
    scale: 0.2,
};

impl Residual {
    fn build(&self, g: &mut Builder, x: Wire, activated: bool) -> Wire {
        let branch = |g: &mut Builder, (i, convs): (usize, &&[Conv])| match convs {
            [only] => conv(g, &format!("branch{i}"), x, *only),
            several => chain(g, &format!("branch{i}"), x, several),
        };
        let each = self.branches.iter().enumerate();
        let branches: Vec<Wire> = each.map(|b| branch(g, b)).collect();
        let y = g.concat("cat", &branches);
        let channels = g.shape(x).channels();
        let mut y = g.conv("conv2d", y, Conv::k1(channels).biased());
        if self.scale != 1.0 {
            y = g.layer("scale", Layer::Scale { factor: self.scale }, &[y]);
        }
        let y = g.add("add", y, x);
        if activated { g.relu("act", y) } else { y }
    }
}
