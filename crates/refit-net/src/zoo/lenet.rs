//! LeNet-5: LeCun et al. 1998, <https://doi.org/10.1109/5.726791>. All layers are the paper's, names
//! too: trained subsampling, the scaled hyperbolic tangent, and third-layer maps that each see some
//! of the second layer's. Only the output differs: where the paper compares with fixed pictures of
//! the ten digits, a linear layer learns any classes.

use super::{Architecture, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Activation, Conv, Divisor, Layer, Padding, Windows};
use crate::shape::Shape;

const fn row(name: &'static str, size: usize) -> Architecture {
    Architecture {
        name,
        paper: "LeCun et al. 1998, https://doi.org/10.1109/5.726791",
        names_as: "the paper's C1 to F6",
        licence: "none published",
        input: InputSpec {
            size,
            resize: size,
            interpolation: Interpolation::Bilinear,
            mean: [0.5; 3],
            std: [0.5; 3],
        },
        build,
    }
}

/// For the paper's 32 pixels, and for MNIST's 28, with two around them.
pub(super) const ARCHITECTURES: &[Architecture] = &[row("lenet5", 32), row("lenet5_28", 28)];

/// Table I: the maps of S2 that each map of C3 sees.
const SEEN: [&[usize]; 16] = [
    &[0, 1, 2],
    &[1, 2, 3],
    &[2, 3, 4],
    &[3, 4, 5],
    &[0, 4, 5],
    &[0, 1, 5],
    &[0, 1, 2, 3],
    &[1, 2, 3, 4],
    &[2, 3, 4, 5],
    &[0, 3, 4, 5],
    &[0, 1, 4, 5],
    &[0, 1, 2, 5],
    &[0, 1, 3, 4],
    &[1, 2, 4, 5],
    &[0, 2, 3, 5],
    &[0, 1, 2, 3, 4, 5],
];

fn build(name: &str) -> Result<Graph, GraphError> {
    let (size, padding) = if name == "lenet5" { (32, 0) } else { (28, 2) };
    let five = |channels| Conv::square(channels, 5).padding(Padding::Symmetric([0; 2])).biased();
    let (mut g, x) = Builder::new(name, Shape::map(1, size, size));
    let y = g.conv("C1", x, five(6).padding(Padding::Symmetric([padding; 2])));
    let y = squash(&mut g, "C1", y);
    let y = subsample(&mut g, "S2", y);
    let maps: Vec<Wire> = (0..6).map(|i| g.slice(&format!("S2.map{i}"), y, i, 1)).collect();
    let y: Vec<Wire> = SEEN
        .iter()
        .enumerate()
        .map(|(i, seen)| {
            let seen: Vec<Wire> = seen.iter().map(|&map| maps[map]).collect();
            let y = g.concat(&format!("C3.{i}.maps"), &seen);
            g.conv(&format!("C3.{i}"), y, five(1))
        })
        .collect();
    let y = g.concat("C3", &y);
    let y = squash(&mut g, "C3", y);
    let y = subsample(&mut g, "S4", y);
    let y = g.conv("C5", y, five(120));
    let y = squash(&mut g, "C5", y);
    // One pixel, of 32 by 32; larger images are averaged.
    let y = g.global_avg_pool("C5.mean", y);
    let y = g.linear("F6", y, 84);
    let y = squash(&mut g, "F6", y);
    let y = g.linear("OUTPUT", y, 10);
    g.finish(y, "OUTPUT")
}

/// Means of 2x2 pixels, times a coefficient, plus a bias: trained, one of each for each map.
fn subsample(g: &mut Builder, name: &str, x: Wire) -> Wire {
    let maps = g.shape(x).channels();
    let y = g.avg_pool(&format!("{name}.mean"), x, Windows::new(2, 2), Divisor::Inside);
    let y = g.conv(name, y, Conv::k1(maps).groups(maps).biased());
    squash(g, name, y)
}

/// `1.7159 tanh(2 / 3 x)` (appendix A).
fn squash(g: &mut Builder, name: &str, x: Wire) -> Wire {
    let y = g.layer(&format!("{name}.slope"), Layer::Scale { factor: 2.0 / 3.0 }, &[x]);
    let y = g.activation(&format!("{name}.tanh"), y, Activation::Tanh);
    g.layer(&format!("{name}.range"), Layer::Scale { factor: 1.7159 }, &[y])
}
