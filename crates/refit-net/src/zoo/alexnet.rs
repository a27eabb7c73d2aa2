//! AlexNet: as torchvision has it (Krizhevsky 2014, <https://arxiv.org/abs/1404.5997>), and as it was
//! published (Krizhevsky, Sutskever and Hinton 2012, <https://doi.org/10.1145/3065386>): halves of
//! the channels apart, as they were on two GPUs, and local response normalization.

use super::{Architecture, InputSpec, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{Conv, Layer, LocalResponseNorm, Padding, Windows};
use crate::shape::Shape;

pub(super) const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "alexnet",
        paper: "Krizhevsky 2014, https://arxiv.org/abs/1404.5997",
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build: alexnet,
    },
    Architecture {
        name: "alexnet_2012",
        paper: "Krizhevsky, Sutskever and Hinton 2012, https://doi.org/10.1145/3065386",
        names_as: "Caffe bvlc_alexnet",
        licence: "none published",
        input: InputSpec { size: 227, ..TORCHVISION_224 },
        build: alexnet_2012,
    },
];

const POOL: Windows = Windows::new(3, 2);

fn alexnet(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let mut y = g.scope("features", |g| {
        let padded = Padding::Symmetric([2; 2]);
        let y = g.conv("0", x, Conv::square(64, 11).stride(4).padding(padded).biased());
        let y = g.relu("1", y);
        let y = g.max_pool("2", y, POOL);
        let y = conv_relu(g, ["3", "4"], y, Conv::square(192, 5));
        let y = g.max_pool("5", y, POOL);
        let y = conv_relu(g, ["6", "7"], y, Conv::k3(384));
        let y = conv_relu(g, ["8", "9"], y, Conv::k3(256));
        let y = conv_relu(g, ["10", "11"], y, Conv::k3(256));
        g.max_pool("12", y, POOL)
    });
    y = g.adaptive_avg_pool("avgpool", y, 6);
    y = g.flatten("flatten", y);
    let y = g.scope("classifier", |g| {
        let y = g.dropout("0", y, 0.5);
        let y = g.linear("1", y, 4096);
        let y = g.relu("2", y);
        let y = g.dropout("3", y, 0.5);
        let y = g.linear("4", y, 4096);
        let y = g.relu("5", y);
        g.linear("6", y, 1000)
    });
    g.finish(y, "classifier.6")
}

fn conv_relu(g: &mut Builder, names: [&str; 2], x: Wire, conv: Conv) -> Wire {
    let y = g.conv(names[0], x, conv.biased());
    g.relu(names[1], y)
}

fn alexnet_2012(name: &str) -> Result<Graph, GraphError> {
    // Section 3.3: k = 2, n = 5, alpha = 1e-4 of the sum, which is 5e-4 of the mean, beta = 0.75.
    let norm =
        Layer::LocalResponseNorm(LocalResponseNorm { size: 5, alpha: 5e-4, beta: 0.75, k: 2.0 });
    let (mut g, x) = Builder::new(name, Shape::map(3, 227, 227));
    let whole = Padding::Symmetric([0; 2]);
    let first = Conv::square(96, 11).stride(4).padding(whole);
    let y = conv_relu(&mut g, ["conv1", "relu1"], x, first);
    let y = g.layer("norm1", norm, &[y]);
    let y = g.max_pool("pool1", y, POOL);
    let y = conv_relu(&mut g, ["conv2", "relu2"], y, Conv::square(256, 5).groups(2));
    let y = g.layer("norm2", norm, &[y]);
    let y = g.max_pool("pool2", y, POOL);
    let y = conv_relu(&mut g, ["conv3", "relu3"], y, Conv::k3(384));
    let y = conv_relu(&mut g, ["conv4", "relu4"], y, Conv::k3(384).groups(2));
    let y = conv_relu(&mut g, ["conv5", "relu5"], y, Conv::k3(256).groups(2));
    let y = g.max_pool("pool5", y, POOL);
    // Other sizes of images than 227 give other maps; fc6 takes 6x6 pixels.
    let y = g.adaptive_avg_pool("pool5_6x6", y, 6);
    let y = g.flatten("flatten", y);
    let y = g.linear("fc6", y, 4096);
    let y = g.relu("relu6", y);
    let y = g.dropout("drop6", y, 0.5);
    let y = g.linear("fc7", y, 4096);
    let y = g.relu("relu7", y);
    let y = g.dropout("drop7", y, 0.5);
    let y = g.linear("fc8", y, 1000);
    g.finish(y, "fc8")
}
