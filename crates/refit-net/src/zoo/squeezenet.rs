//! SqueezeNet: Iandola et al. 2016, <https://arxiv.org/abs/1602.07360>; names follow torchvision.

use super::{Architecture, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Conv, Padding, Windows};
use crate::shape::Shape;

const fn row(name: &'static str) -> Architecture {
    Architecture {
        name,
        paper: "Iandola et al. 2016, https://arxiv.org/abs/1602.07360",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[row("squeezenet1_0"), row("squeezenet1_1")];

/// What follows the first convolution and its activation.
enum Step {
    Pool,
    /// Squeezed channels, and expanded ones of each of both kinds.
    Fire(usize, usize),
}

use Step::{Fire, Pool};

/// Table 1.
#[rustfmt::skip]
const V1_0: &[Step] = &[
    Pool, Fire(16, 64), Fire(16, 64), Fire(32, 128), Pool, Fire(32, 128), Fire(48, 192),
    Fire(48, 192), Fire(64, 256), Pool, Fire(64, 256),
];

/// The same pooled earlier (the authors' release 1.1).
#[rustfmt::skip]
const V1_1: &[Step] = &[
    Pool, Fire(16, 64), Fire(16, 64), Pool, Fire(32, 128), Fire(32, 128), Pool, Fire(48, 192),
    Fire(48, 192), Fire(64, 256), Fire(64, 256),
];

fn build(name: &str) -> Result<Graph, GraphError> {
    let (first, steps) = match name {
        "squeezenet1_0" => (Conv::square(96, 7), V1_0),
        _ => (Conv::k3(64), V1_1),
    };
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.scope("features", |g| {
        let whole = Padding::Symmetric([0; 2]);
        let y = g.conv("0", x, first.stride(2).padding(whole).biased());
        let mut y = g.relu("1", y);
        for (i, step) in steps.iter().enumerate() {
            let name = (i + 2).to_string();
            y = match *step {
                Pool => g.max_pool(&name, y, Windows::new(3, 2).ceil()),
                Fire(squeezed, expanded) => g.scope(&name, |g| fire(g, y, squeezed, expanded)),
            };
        }
        y
    });
    let y = g.scope("classifier", |g| {
        let y = g.dropout("0", y, 0.5);
        let y = g.conv("1", y, Conv::k1(1000).biased());
        let y = g.relu("2", y);
        g.global_avg_pool("3", y)
    });
    g.finish(y, "classifier")
}

/// A 1x1 convolution to few channels, then 1x1 and 3x3 ones side by side.
fn fire(g: &mut Builder, x: Wire, squeezed: usize, expanded: usize) -> Wire {
    let y = g.conv("squeeze", x, Conv::k1(squeezed).biased());
    let y = g.relu("squeeze_activation", y);
    let a = g.conv("expand1x1", y, Conv::k1(expanded).biased());
    let a = g.relu("expand1x1_activation", a);
    let b = g.conv("expand3x3", y, Conv::k3(expanded).biased());
    let b = g.relu("expand3x3_activation", b);
    g.concat("cat", &[a, b])
}
