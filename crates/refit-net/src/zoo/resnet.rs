//! ResNet (He et al. 2015, <https://arxiv.org/abs/1512.03385>), ResNeXt (Xie et al. 2016,
//! <https://arxiv.org/abs/1611.05431>) and wide ResNet (Zagoruyko and Komodakis 2016,
//! <https://arxiv.org/abs/1605.07146>); names follow torchvision, which puts the stride of a
//! bottleneck into its 3x3 convolution.

use super::{Architecture, TORCHVISION_224};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv, Windows};
use crate::shape::Shape;

struct Variant {
    name: &'static str,
    block: Block,
    repeats: [usize; 4],
}

#[derive(Clone, Copy)]
enum Block {
    Basic,
    /// Groups of the 3x3 convolution, and its channels for 64 planes.
    Bottleneck {
        groups: usize,
        width: usize,
    },
}

const PLAIN: Block = Block::Bottleneck { groups: 1, width: 64 };

const fn variant(name: &'static str, block: Block, repeats: [usize; 4]) -> Variant {
    Variant { name, block, repeats }
}

/// Table 1 of each paper: block, and repeats per stage.
const VARIANTS: [Variant; 9] = [
    variant("resnet18", Block::Basic, [2, 2, 2, 2]),
    variant("resnet34", Block::Basic, [3, 4, 6, 3]),
    variant("resnet50", PLAIN, [3, 4, 6, 3]),
    variant("resnet101", PLAIN, [3, 4, 23, 3]),
    variant("resnet152", PLAIN, [3, 8, 36, 3]),
    variant("resnext50_32x4d", Block::Bottleneck { groups: 32, width: 128 }, [3, 4, 6, 3]),
    variant("resnext101_32x8d", Block::Bottleneck { groups: 32, width: 256 }, [3, 4, 23, 3]),
    variant("wide_resnet50_2", Block::Bottleneck { groups: 1, width: 128 }, [3, 4, 6, 3]),
    variant("wide_resnet101_2", Block::Bottleneck { groups: 1, width: 128 }, [3, 4, 23, 3]),
];

const fn row(at: usize) -> Architecture {
    Architecture {
        name: VARIANTS[at].name,
        paper: match at {
            0..5 => "He et al. 2015, https://arxiv.org/abs/1512.03385",
            5 | 6 => "Xie et al. 2016, https://arxiv.org/abs/1611.05431",
            _ => "Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146",
        },
        names_as: "torchvision",
        licence: "BSD-3-Clause",
        input: TORCHVISION_224,
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] =
    &[row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7), row(8)];

fn build(name: &str) -> Result<Graph, GraphError> {
    let variant = VARIANTS.iter().find(|v| v.name == name).expect("a row of the table");
    let (mut g, x) = Builder::new(name, Shape::map(3, 224, 224));
    let y = g.conv("conv1", x, Conv::square(64, 7).stride(2));
    let y = g.batch_norm("bn1", y, BatchNorm::default());
    let y = g.relu("relu", y);
    let mut y = g.max_pool("maxpool", y, Windows::new(3, 2).padded(1));
    for (stage, &repeats) in variant.repeats.iter().enumerate() {
        let planes = 64 << stage;
        for block in 0..repeats {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            y = g.scope(&name, |g| match variant.block {
                Block::Basic => basic_block(g, y, planes, stride),
                Block::Bottleneck { groups, width } => {
                    let inner = Conv::k3(planes * width / 64).stride(stride).groups(groups);
                    bottleneck(g, y, inner, 4 * planes)
                }
            });
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

/// A 1x1 convolution, `inner` of 3x3 pixels, a 1x1 one to `channels`, and a shortcut.
fn bottleneck(g: &mut Builder, x: Wire, inner: Conv, channels: usize) -> Wire {
    let y = conv_norm(g, 1, x, Conv::k1(inner.channels));
    let y = g.relu("relu1", y);
    let y = conv_norm(g, 2, y, inner);
    let y = g.relu("relu2", y);
    let y = conv_norm(g, 3, y, Conv::k1(channels));
    let skip = downsample(g, x, channels, inner.stride[0]);
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
