//! GoogLeNet: Szegedy et al. 2014, <https://arxiv.org/abs/1409.4842>, with batch normalization; names
//! follow torchvision, whose branches of 5x5 convolutions are of 3x3 ones.

use super::parts::basic_conv as conv;
use super::{Architecture, InputSpec, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Conv, Windows};
use crate::shape::Shape;

/// torchvision's published weights take pixels in `[-1, 1]` within.
pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "googlenet",
    paper: "Szegedy et al. 2014, https://arxiv.org/abs/1409.4842",
    names_as: "torchvision",
    licence: "BSD-3-Clause",
    input: InputSpec { mean: [0.5; 3], std: [0.5; 3], ..TORCHVISION_224 },
    build,
}];

/// Table 1: channels of the 1x1 branch, of the second and third branches' 1x1 and wider
/// convolutions, and of the pooled branch.
type Channels = [usize; 6];

fn build(name: &str) -> Result<Graph, GraphError> {
    let pool = Windows::new(3, 2).ceil();
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = conv(&mut g, "conv1", x, Conv::square(64, 7).stride(2));
    let y = g.max_pool("maxpool1", y, pool);
    let y = conv(&mut g, "conv2", y, Conv::k1(64));
    let y = conv(&mut g, "conv3", y, Conv::k3(192));
    let y = g.max_pool("maxpool2", y, pool);
    let y = inception(&mut g, "inception3a", y, [64, 96, 128, 16, 32, 32]);
    let y = inception(&mut g, "inception3b", y, [128, 128, 192, 32, 96, 64]);
    let y = g.max_pool("maxpool3", y, pool);
    let y = inception(&mut g, "inception4a", y, [192, 96, 208, 16, 48, 64]);
    auxiliary(&mut g, "aux1", y);
    let y = inception(&mut g, "inception4b", y, [160, 112, 224, 24, 64, 64]);
    let y = inception(&mut g, "inception4c", y, [128, 128, 256, 24, 64, 64]);
    let y = inception(&mut g, "inception4d", y, [112, 144, 288, 32, 64, 64]);
    auxiliary(&mut g, "aux2", y);
    let y = inception(&mut g, "inception4e", y, [256, 160, 320, 32, 128, 128]);
    let y = g.max_pool("maxpool4", y, Windows::new(2, 2).ceil());
    let y = inception(&mut g, "inception5a", y, [256, 160, 320, 32, 128, 128]);
    let y = inception(&mut g, "inception5b", y, [384, 192, 384, 48, 128, 128]);
    let y = g.global_avg_pool("avgpool", y);
    let y = g.dropout("dropout", y, 0.2);
    let y = g.linear("fc", y, 1000);
    g.finish(y, "fc")
}

/// Convolutions of several sizes side by side.
fn inception(g: &mut Builder, name: &str, x: Wire, channels: Channels) -> Wire {
    let [one, three_before, three, five_before, five, pooled] = channels;
    g.scope(name, |g| {
        let a = conv(g, "branch1", x, Conv::k1(one));
        let b = conv(g, "branch2.0", x, Conv::k1(three_before));
        let b = conv(g, "branch2.1", b, Conv::k3(three));
        let c = conv(g, "branch3.0", x, Conv::k1(five_before));
        let c = conv(g, "branch3.1", c, Conv::k3(five));
        let d = g.max_pool("branch4.0", x, Windows::new(3, 1).padded(1).ceil());
        let d = conv(g, "branch4.1", d, Conv::k1(pooled));
        g.concat("cat", &[a, b, c, d])
    })
}

/// A classifier half-way, which training hears with a share of its loss.
fn auxiliary(g: &mut Builder, name: &str, x: Wire) {
    let y = g.scope(name, |g| {
        let y = g.adaptive_avg_pool("pool", x, 4);
        let y = conv(g, "conv", y, Conv::k1(128));
        let y = g.flatten("flatten", y);
        let y = g.linear("fc1", y, 1024);
        let y = g.relu("relu", y);
        let y = g.dropout("dropout", y, 0.7);
        g.linear("fc2", y, 1000)
    });
    g.auxiliary(y, 0.3);
}
