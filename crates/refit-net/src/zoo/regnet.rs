//! RegNet X and Y: Radosavovic et al. 2020, <https://arxiv.org/abs/2003.13678>; names follow
//! torchvision.

use super::{Architecture, TORCHVISION_224, parts};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::Activation::{Identity, Relu, Sigmoid};
use crate::layer::{BatchNorm, Conv};
use crate::shape::Shape;

struct Variant {
    name: &'static str,
    depth: usize,
    /// Channels of the first block, their slope, and the factor between stages (section 3.3).
    first: f64,
    slope: f64,
    factor: f64,
    /// Channels of a group.
    group: usize,
}

const fn variant(
    name: &'static str,
    depth: usize,
    first: f64,
    slope: f64,
    factor: f64,
    group: usize,
) -> Variant {
    Variant { name, depth, first, slope, factor, group }
}

/// Figures 15 and 16.
const VARIANTS: [Variant; 10] = [
    variant("regnet_y_400mf", 16, 48.0, 27.89, 2.09, 8),
    variant("regnet_y_800mf", 14, 56.0, 38.84, 2.4, 16),
    variant("regnet_y_1_6gf", 27, 48.0, 20.71, 2.65, 24),
    variant("regnet_y_3_2gf", 21, 80.0, 42.63, 2.66, 24),
    variant("regnet_y_8gf", 17, 192.0, 76.82, 2.19, 56),
    variant("regnet_x_400mf", 22, 24.0, 24.48, 2.54, 16),
    variant("regnet_x_800mf", 16, 56.0, 35.73, 2.28, 16),
    variant("regnet_x_1_6gf", 18, 80.0, 34.01, 2.25, 24),
    variant("regnet_x_3_2gf", 25, 88.0, 26.31, 2.25, 48),
    variant("regnet_x_8gf", 23, 80.0, 49.56, 2.88, 120),
];

const fn row(at: usize) -> Architecture {
    Architecture {
        name: VARIANTS[at].name,
        paper: "Radosavovic et al. 2020, https://arxiv.org/abs/2003.13678",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7), row(8), row(9)];

/// Channels and blocks of each stage: a straight line of widths, rounded to powers of the factor and
/// to multiples of 8, then to whole groups.
fn stages(variant: &Variant) -> Vec<(usize, usize)> {
    let width = |block: usize| {
        let straight = block as f64 * variant.slope + variant.first;
        let power = ((straight / variant.first).ln() / variant.factor.ln()).round_ties_even();
        let width = variant.first * variant.factor.powf(power);
        ((width / 8.0).round_ties_even() * 8.0) as usize
    };
    let mut stages: Vec<(usize, usize)> = Vec::new();
    for width in (0..variant.depth).map(width) {
        match stages.last_mut() {
            Some((last, blocks)) if *last == width => *blocks += 1,
            _ => stages.push((width, 1)),
        }
    }
    for (width, _) in &mut stages {
        let group = variant.group.min(*width);
        *width = parts::divisible(*width as f64, group);
    }
    stages
}

fn build(name: &str) -> Result<Graph, GraphError> {
    let variant = VARIANTS.iter().find(|v| v.name == name).expect("a row of the table");
    let squeezes = name.starts_with("regnet_y");
    let norm = BatchNorm::default();
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let stem = Conv::k3(32).stride(2);
    let mut y = g.scope("stem", |g| parts::conv_norm(g, x, stem, norm, Relu));
    for (i, (channels, blocks)) in stages(variant).into_iter().enumerate() {
        for number in 0..blocks {
            let group = variant.group.min(channels);
            let stride = if number == 0 { 2 } else { 1 };
            let block = Block { channels, stride, group, squeezes };
            let stage = i + 1;
            let name = format!("trunk_output.block{stage}.block{stage}-{number}");
            y = g.scope(&name, |g| block.build(g, y));
        }
    }
    let y = g.global_avg_pool("avgpool", y);
    let y = g.linear("fc", y, 1000);
    g.finish(y, "fc")
}

/// A bottleneck that is none: 1x1, grouped 3x3 and 1x1 convolutions of one width.
struct Block {
    channels: usize,
    stride: usize,
    /// Channels of a group.
    group: usize,
    /// Whether each channel is gated, by a quarter of the input's channels.
    squeezes: bool,
}

impl Block {
    fn build(&self, g: &mut Builder, x: Wire) -> Wire {
        let (norm, wide) = (BatchNorm::default(), self.channels);
        let channels = g.shape(x).channels();
        let skip = if channels != wide || self.stride != 1 {
            let conv = Conv::k1(wide).stride(self.stride);
            g.scope("proj", |g| parts::conv_norm(g, x, conv, norm, Identity))
        } else {
            x
        };
        let y = g.scope("f", |g| {
            let mut y = g.scope("a", |g| parts::conv_norm(g, x, Conv::k1(wide), norm, Relu));
            let conv = Conv::k3(wide).stride(self.stride).groups(wide / self.group);
            y = g.scope("b", |g| parts::conv_norm(g, y, conv, norm, Relu));
            if self.squeezes {
                let squeezed = (channels as f64 / 4.0).round_ties_even() as usize;
                y = g.scope("se", |g| parts::squeeze(g, y, squeezed, Relu, Sigmoid));
            }
            g.scope("c", |g| parts::conv_norm(g, y, Conv::k1(wide), norm, Identity))
        });
        let y = g.add("add", y, skip);
        g.relu("activation", y)
    }
}
