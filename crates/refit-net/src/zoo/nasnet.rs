//! NASNet-A (Zoph et al. 2017, <https://arxiv.org/abs/1707.07012>) and PNASNet-5 (Liu et al. 2017,
//! <https://arxiv.org/abs/1712.00559>); names follow timm.

use super::{Architecture, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{BatchNorm, Conv, Divisor, Layer, Padding, Windows};
use crate::shape::Shape;

const NASNET: &str = "Zoph et al. 2017, https://arxiv.org/abs/1707.07012";
const PNASNET: &str = "Liu et al. 2017, https://arxiv.org/abs/1712.00559";

const fn row(
    name: &'static str,
    paper: &'static str,
    (size, resize): (usize, usize),
    build: fn(&str) -> Result<Graph, GraphError>,
) -> Architecture {
    Architecture {
        name,
        paper,
        names_as: "timm",
        licence: "Apache-2.0",
        input: InputSpec {
            size,
            resize,
            interpolation: Interpolation::Bicubic,
            mean: [0.5; 3],
            std: [0.5; 3],
        },
        build,
    }
}

pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("nasnetalarge", NASNET, (331, 363), build_nasnet),
    row("nasnetamobile", NASNET, (224, 256), build_nasnet),
    row("pnasnet5large", PNASNET, (331, 363), build_pnasnet),
];

const NORM: BatchNorm = BatchNorm { epsilon: 1e-3, momentum: 0.1 };

const fn same(conv: Conv) -> Conv {
    conv.padding(Padding::Same)
}

/// Activation, convolution, norm.
fn act_conv(g: &mut Builder, name: &str, x: Wire, conv: Conv) -> Wire {
    g.scope(name, |g| {
        let y = g.relu("act", x);
        let y = g.conv("conv", y, same(conv));
        g.batch_norm("bn", y, NORM)
    })
}

/// Twice activation, depthwise and 1x1 convolution, norm; from `x`'s channels to `channels`, at
/// once in a stem.
#[derive(Clone, Copy)]
struct Separable {
    channels: usize,
    kernel: usize,
    stride: usize,
}

const fn separable(channels: usize, kernel: usize, stride: usize) -> Separable {
    Separable { channels, kernel, stride }
}

impl Separable {
    fn build(self, g: &mut Builder, name: &str, x: Wire) -> Wire {
        let Self { channels, kernel, stride } = self;
        g.scope(name, |g| {
            let y = g.relu("act_1", x);
            let y = depthwise(g, "separable_1", y, (kernel, stride), channels);
            let y = g.batch_norm("bn_sep_1", y, NORM);
            let y = g.relu("act_2", y);
            let y = depthwise(g, "separable_2", y, (kernel, 1), channels);
            g.batch_norm("bn_sep_2", y, NORM)
        })
    }
}

fn depthwise(
    g: &mut Builder,
    name: &str,
    x: Wire,
    (kernel, stride): (usize, usize),
    channels: usize,
) -> Wire {
    let each = g.shape(x).channels();
    let conv = same(Conv::square(each, kernel).stride(stride).groups(each));
    let y = g.conv(&format!("{name}.depthwise_conv2d"), x, conv);
    g.conv(&format!("{name}.pointwise_conv2d"), y, Conv::k1(channels))
}

fn max_pool(g: &mut Builder, name: &str, x: Wire, stride: usize) -> Wire {
    g.max_pool(name, x, Windows::new(3, stride).same())
}

/// At stride 2, timm counts the zeros around the map.
fn avg_pool(g: &mut Builder, name: &str, x: Wire, stride: usize) -> Wire {
    let divisor = if stride == 1 { Divisor::Inside } else { Divisor::Padded };
    g.avg_pool(name, x, Windows::new(3, stride).same(), divisor)
}

/// Half the size: every second pixel, and every second from the next one on, side by side.
fn factorized(g: &mut Builder, scope: Option<&str>, x: Wire, channels: usize) -> Wire {
    let build = |g: &mut Builder| {
        let y = g.relu("act", x);
        let every_second = Windows::new(1, 2);
        let a = g.avg_pool("path_1.avgpool", y, every_second, Divisor::Inside);
        let a = g.conv("path_1.conv", a, Conv::k1(channels / 2));
        let shift = Layer::Pad { rows: [-1, 1], columns: [-1, 1] };
        let b = g.layer("path_2.pad", shift, &[y]);
        let b = g.avg_pool("path_2.avgpool", b, every_second, Divisor::Inside);
        let b = g.conv("path_2.conv", b, Conv::k1(channels / 2));
        let y = g.concat("paths", &[a, b]);
        g.batch_norm("final_path_bn", y, NORM)
    };
    match scope {
        Some(name) => g.scope(name, build),
        None => build(g),
    }
}

fn add(g: &mut Builder, number: usize, a: Wire, b: Wire) -> Wire {
    g.add(&format!("comb_iter_{number}"), a, b)
}

fn build_nasnet(name: &str) -> Result<Graph, GraphError> {
    // "6 @ 4032" and "4 @ 1056": cells between reductions, and features.
    let (cells, features, stem, size) = match name {
        "nasnetalarge" => (6, 4032, 96, 331),
        _ => (4, 1056, 32, 224),
    };
    let channels = features / 24;
    let (mut g, x) = Builder::new(name, Shape::map(3, size, size));
    let valid = Conv::k3(stem).stride(2).padding(Padding::Symmetric([0; 2]));
    let y = g.conv("conv0.conv", x, valid);
    let first = g.batch_norm("conv0.bn", y, NORM);
    let stem_0 = g.scope("cell_stem_0", |g| {
        let left = act_conv(g, "conv_1x1", first, Conv::k1(channels / 4));
        reduction(g, left, first, channels / 4)
    });
    let stem_1 = g.scope("cell_stem_1", |g| {
        let left = act_conv(g, "conv_1x1", stem_0, Conv::k1(channels / 2));
        let right = factorized(g, None, first, channels / 2);
        reduction(g, left, right, channels / 2)
    });
    let (mut before, mut y) = (stem_0, stem_1);
    for stage in 0..3 {
        let wide = channels << stage;
        if stage > 0 {
            // The cell behind it looks past it, at what it looked at too.
            y = g.scope(&format!("reduction_cell_{}", stage - 1), |g| {
                let left = act_conv(g, "conv_prev_1x1", before, Conv::k1(wide));
                let right = act_conv(g, "conv_1x1", y, Conv::k1(wide));
                reduction(g, right, left, wide)
            });
        }
        for cell in 0..cells {
            // The smaller network's cells are numbered as the larger one's.
            let next = g.scope(&format!("cell_{}", 6 * stage + cell), |g| {
                let left = match cell {
                    0 => factorized(g, None, before, wide),
                    _ => act_conv(g, "conv_prev_1x1", before, Conv::k1(wide)),
                };
                let right = act_conv(g, "conv_1x1", y, Conv::k1(wide));
                normal(g, left, right, wide)
            });
            (before, y) = (y, next);
        }
    }
    let y = g.relu("act", y);
    let y = g.global_avg_pool("global_pool", y);
    let y = g.dropout("head_drop", y, 0.0);
    let y = g.linear("last_linear", y, 1000);
    g.finish(y, "last_linear")
}

/// Figure 4, left.
fn normal(g: &mut Builder, left: Wire, right: Wire, channels: usize) -> Wire {
    let sep = |kernel| separable(channels, kernel, 1);
    let a = sep(5).build(g, "comb_iter_0_left", right);
    let b = sep(3).build(g, "comb_iter_0_right", left);
    let c0 = add(g, 0, a, b);
    let a = sep(5).build(g, "comb_iter_1_left", left);
    let b = sep(3).build(g, "comb_iter_1_right", left);
    let c1 = add(g, 1, a, b);
    let a = avg_pool(g, "comb_iter_2_left", right, 1);
    let c2 = add(g, 2, a, left);
    let a = avg_pool(g, "comb_iter_3_left", left, 1);
    let b = avg_pool(g, "comb_iter_3_right", left, 1);
    let c3 = add(g, 3, a, b);
    let a = sep(3).build(g, "comb_iter_4_left", right);
    let c4 = add(g, 4, a, right);
    g.concat("cat", &[left, c0, c1, c2, c3, c4])
}

/// Figure 4, right: `a` is the newer of the two inputs.
fn reduction(g: &mut Builder, a: Wire, b: Wire, channels: usize) -> Wire {
    let sep = |kernel, stride| separable(channels, kernel, stride);
    let left = sep(5, 2).build(g, "comb_iter_0_left", a);
    let right = sep(7, 2).build(g, "comb_iter_0_right", b);
    let c0 = add(g, 0, left, right);
    let left = max_pool(g, "comb_iter_1_left", a, 2);
    let right = sep(7, 2).build(g, "comb_iter_1_right", b);
    let c1 = add(g, 1, left, right);
    let left = avg_pool(g, "comb_iter_2_left", a, 2);
    let right = sep(5, 2).build(g, "comb_iter_2_right", b);
    let c2 = add(g, 2, left, right);
    let right = avg_pool(g, "comb_iter_3_right", c0, 1);
    let c3 = add(g, 3, right, c1);
    let left = sep(3, 1).build(g, "comb_iter_4_left", c0);
    let right = max_pool(g, "comb_iter_4_right", a, 2);
    let c4 = add(g, 4, left, right);
    g.concat("cat", &[c1, c2, c3, c4])
}

fn build_pnasnet(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, 331, 331));
    let valid = Conv::k3(96).stride(2).padding(Padding::Symmetric([0; 2]));
    let y = g.conv("conv_0.conv", x, valid);
    let first = g.batch_norm("conv_0.bn", y, NORM);
    let stem_0 = g.scope("cell_stem_0", |g| {
        let right = act_conv(g, "conv_1x1", first, Conv::k1(54));
        progressive(g, first, right, 54, Place::Stem)
    });
    let cell = |g: &mut Builder, name: &str, [before, y]: [Wire; 2], channels, place| {
        g.scope(name, |g| {
            // Where the older input is larger, it is brought to the newer one's size.
            let left = match g.shape(before).elements() / g.shape(before).channels()
                == g.shape(y).elements() / g.shape(y).channels()
            {
                true => act_conv(g, "conv_prev_1x1", before, Conv::k1(channels)),
                false => factorized(g, Some("conv_prev_1x1"), before, channels),
            };
            let right = act_conv(g, "conv_1x1", y, Conv::k1(channels));
            progressive(g, left, right, channels, place)
        })
    };
    let stem_1 = cell(&mut g, "cell_stem_1", [first, stem_0], 108, Place::Reduction);
    let (mut before, mut y) = (stem_0, stem_1);
    for number in 0..12 {
        let place = if matches!(number, 4 | 8) { Place::Reduction } else { Place::Normal };
        let next = cell(&mut g, &format!("cell_{number}"), [before, y], 216 << (number / 4), place);
        (before, y) = (y, next);
    }
    let y = g.relu("act", y);
    let y = g.global_avg_pool("global_pool", y);
    let y = g.dropout("head_drop", y, 0.0);
    let y = g.linear("last_linear", y, 1000);
    g.finish(y, "last_linear")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Stem,
    Normal,
    Reduction,
}

/// Figure 1 of the PNASNet paper.
fn progressive(g: &mut Builder, left: Wire, right: Wire, channels: usize, place: Place) -> Wire {
    let stride = if place == Place::Normal { 1 } else { 2 };
    let sep = |kernel| separable(channels, kernel, stride);
    let a = sep(5).build(g, "comb_iter_0_left", left);
    let b = match place {
        Place::Stem => g.scope("comb_iter_0_right", |g| {
            let y = max_pool(g, "max_pool", left, stride);
            let y = g.conv("conv", y, Conv::k1(channels));
            g.batch_norm("bn", y, NORM)
        }),
        _ => max_pool(g, "comb_iter_0_right", left, stride),
    };
    let c0 = add(g, 0, a, b);
    let a = sep(7).build(g, "comb_iter_1_left", right);
    let b = max_pool(g, "comb_iter_1_right", right, stride);
    let c1 = add(g, 1, a, b);
    let a = sep(5).build(g, "comb_iter_2_left", right);
    let b = sep(3).build(g, "comb_iter_2_right", right);
    let c2 = add(g, 2, a, b);
    let a = separable(channels, 3, 1).build(g, "comb_iter_3_left", c2);
    let b = max_pool(g, "comb_iter_3_right", right, stride);
    let c3 = add(g, 3, a, b);
    let a = sep(3).build(g, "comb_iter_4_left", left);
    let b = match place {
        Place::Normal => right,
        _ => act_conv(g, "comb_iter_4_right", right, Conv::k1(channels).stride(stride)),
    };
    let c4 = add(g, 4, a, b);
    g.concat("cat", &[c0, c1, c2, c3, c4])
}
