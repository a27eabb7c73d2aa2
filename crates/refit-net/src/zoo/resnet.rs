//! ResNet: He et al. 2015, <https://arxiv.org/abs/1512.03385>; names follow torchvision, which puts
//! the stride of a bottleneck into its 3x3 convolution.

use super::{Architecture, IMAGENET_MEAN, IMAGENET_STD, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv, MaxPool};
use crate::shape::Shape;

type Block = fn(&mut Builder, Wire, usize, usize) -> Wire;

struct Variant {
    name: &'static str,
    block: Block,
    repeats: [usize; 4],
}

/// Table 1: block, and repeats per stage.
const VARIANTS: [Variant; 5] = [
    Variant { name: "resnet18", block: basic_block, repeats: [2, 2, 2, 2] },
    Variant { name: "resnet34", block: basic_block, repeats: [3, 4, 6, 3] },
    Variant { name: "resnet50", block: bottleneck, repeats: [3, 4, 6, 3] },
    Variant { name: "resnet101", block: bottleneck, repeats: [3, 4, 23, 3] },
    Variant { name: "resnet152", block: bottleneck, repeats: [3, 8, 36, 3] },
];

const INPUT: InputSpec = InputSpec {
    size: 224,
    resize: 256,
    interpolation: Interpolation::Bilinear,
    mean: IMAGENET_MEAN,
    std: IMAGENET_STD,
};

pub(super) const ARCHITECTURES: [Architecture; 5] = {
    const fn row(variant: &Variant) -> Architecture {
        Architecture {
            name: variant.name,
            paper: "He et al. 2015, https://arxiv.org/abs/1512.03385",
            names_as: "torchvision",
            input: INPUT,
            build,
        }
    }
    [row(&VARIANTS[0]), row(&VARIANTS[1]), row(&VARIANTS[2]), row(&VARIANTS[3]), row(&VARIANTS[4])]
};

fn build(name: &str) -> Result<Graph, GraphError> {
    let variant = VARIANTS.iter().find(|v| v.name == name).expect("a row of the table");
    let (mut g, x) = Builder::new(name, Shape::map(3, INPUT.size, INPUT.size));
    let y = g.conv("conv1", x, Conv::square(64, 7).stride(2));
    let y = g.batch_norm("bn1", y, BatchNorm::default());
    let y = g.relu("relu", y);
    let mut y = g.max_pool("maxpool", y, MaxPool { window: 3, stride: 2, padding: 1 });
    for (stage, &repeats) in variant.repeats.iter().enumerate() {
        let planes = 64 << stage;
        for block in 0..repeats {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            y = g.scope(&name, |g| (variant.block)(g, y, planes, stride));
        }
    }
    let y = g.global_avg_pool("avgpool", y);
    let y = g.linear("fc", y, 1000);
    g.finish(y, "fc")
}

/// Two 3x3 convolutions and a shortcut: `[n, c, h, w] -> [n, planes, h/stride, w/stride]`.
fn basic_block(g: &mut Builder, x: Wire, planes: usize, stride: usize) -> Wire {
    let y = conv_norm(g, 1, x, Conv::k3(planes).stride(stride));
    let y = g.relu("relu1", y);
    let y = conv_norm(g, 2, y, Conv::k3(planes));
    let skip = downsample(g, x, planes, stride);
    let y = g.add("add", y, skip);
    g.relu("relu2", y)
}

/// 1x1, 3x3 and 1x1 convolutions and a shortcut: `[n, c, h, w] -> [n, 4 planes, h/stride, w/stride]`.
fn bottleneck(g: &mut Builder, x: Wire, planes: usize, stride: usize) -> Wire {
    let y = conv_norm(g, 1, x, Conv::k1(planes));
    let y = g.relu("relu1", y);
    let y = conv_norm(g, 2, y, Conv::k3(planes).stride(stride));
    let y = g.relu("relu2", y);
    let y = conv_norm(g, 3, y, Conv::k1(4 * planes));
    let skip = downsample(g, x, 4 * planes, stride);
    let y = g.add("add", y, skip);
    g.relu("relu3", y)
}

fn conv_norm(g: &mut Builder, number: usize, x: Wire, conv: Conv) -> Wire {
    let y = g.conv(&format!("conv{number}"), x, conv);
    g.batch_norm(&format!("bn{number}"), y, BatchNorm::default())
}

/// The shortcut: `x` itself where its shape fits, a strided 1x1 convolution where it does not.
fn downsample(g: &mut Builder, x: Wire, channels: usize, stride: usize) -> Wire {
    if stride == 1 && g.shape(x).channels() == channels {
        return x;
    }
    let y = g.conv("downsample.0", x, Conv::k1(channels).stride(stride));
    g.batch_norm("downsample.1", y, BatchNorm::default())
}
