//! Layers: what each is configured with, which shapes it takes and gives, which parameters it has.

mod activation;
mod batch_norm;
mod colours;
mod conv2d;
mod describe;
mod dropout;
mod hog;
mod linear;
mod neighbours;
mod norm;
mod pool;
mod trees;
mod upsample;

use serde::{Deserialize, Serialize};

pub use activation::Activation;
pub use batch_norm::BatchNorm;
pub use colours::ColourHistogram;
pub use conv2d::{Conv, Padding};
pub use dropout::Dropout;
pub use hog::{Hog, Orientations};
pub use linear::Linear;
pub use neighbours::{Neighbours, direction, dot};
pub use norm::{LayerNorm, LayerScale, LocalResponseNorm};
pub use pool::{Divisor, Windows};
pub use trees::{TreeEnsemble, TreeOutput};

use crate::shape::Shape;

/// One layer of a network, without its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Layer {
    /// The images; the one layer without an input.
    Input {
        /// The nominal shape; height and width may differ at run time.
        shape: Shape,
    },
    /// Convolution.
    Conv(Conv),
    /// Batch normalization.
    BatchNorm(BatchNorm),
    /// An elementwise function.
    Activation {
        /// Which one.
        function: Activation,
    },
    /// The sum of two activations of one shape.
    Add,
    /// A map times a gate, `[n, c, 1, 1]`: a factor for each channel of each image.
    Gate,
    /// Maps of one size, or vectors, one behind the other along the channels.
    Concat,
    /// Some neighbouring channels.
    Slice {
        /// The first of them.
        first: usize,
        /// How many.
        channels: usize,
    },
    /// Channels dealt out: the first of each group, then the second of each (Zhang et al. 2018,
    /// <https://arxiv.org/abs/1707.01083>).
    Shuffle {
        /// Groups of channels.
        groups: usize,
    },
    /// Zeros around a map, or pixels taken away where numbers are negative.
    Pad {
        /// Rows before and behind.
        rows: [isize; 2],
        /// Columns before and behind.
        columns: [isize; 2],
    },
    /// Maximum over windows; padding never wins.
    MaxPool(Windows),
    /// Mean over windows.
    AvgPool {
        /// The windows.
        #[serde(flatten)]
        windows: Windows,
        /// What sums are divided by.
        divisor: Divisor,
    },
    /// The means of as many windows as make a map of this size, whatever the input's
    /// (`torch.nn.AdaptiveAvgPool2d`).
    AdaptiveAvgPool {
        /// Height and width.
        size: [usize; 2],
    },
    /// The mean of each channel: `[n, c, h, w] -> [n, c]`.
    GlobalAvgPool,
    /// A map as a vector, channel by channel: `[n, c, h, w] -> [n, c h w]`.
    Flatten,
    /// A vector as a map, channel by channel: `[n, c h w] -> [n, c, h, w]`.
    Unflatten {
        /// Height and width.
        size: [usize; 2],
    },
    /// Each pixel as a square: `[n, c, h, w] -> [n, c, factor h, factor w]`.
    Upsample {
        /// Height and width of the square.
        factor: usize,
    },
    /// Local response normalization.
    LocalResponseNorm(LocalResponseNorm),
    /// Layer normalization over the channels of each pixel.
    LayerNorm(LayerNorm),
    /// A learned factor for each channel.
    LayerScale(LayerScale),
    /// The input times a factor that is never learned.
    Scale {
        /// The factor.
        factor: f32,
    },
    /// Dropout.
    Dropout(Dropout),
    /// A fully connected layer.
    Linear(Linear),
    /// Histograms of oriented gradients.
    Hog(Hog),
    /// Histograms of colours.
    ColourHistogram(ColourHistogram),
    /// Decision trees over a vector.
    TreeEnsemble(TreeEnsemble),
    /// The nearest of some vectors.
    Neighbours(Neighbours),
}

/// What a parameter is for: decides how it starts and how it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Weights of a convolution or linear layer: trained, with weight decay.
    Weight,
    /// A bias: trained, without weight decay.
    Bias,
    /// The scale of a normalization: trained, without weight decay, starts at 1.
    NormScale,
    /// The shift of a normalization: trained, without weight decay, starts at 0.
    NormShift,
    /// The scale of a residual branch: trained, without weight decay, starts at what the layer says.
    BranchScale,
    /// A running mean: follows the batches, never a gradient; starts at 0.
    RunningMean,
    /// A running variance: follows the batches, never a gradient; starts at 1.
    RunningVariance,
    /// What a learner found that is no network: never a gradient; starts at 0.
    Fitted,
}

impl Role {
    /// Whether an optimizer moves it.
    pub const fn is_trained(self) -> bool {
        !self.is_statistic() && !matches!(self, Self::Fitted)
    }

    /// Whether it is a running statistic of a normalization.
    pub const fn is_statistic(self) -> bool {
        matches!(self, Self::RunningMean | Self::RunningVariance)
    }

    /// Whether weight decay applies to it.
    pub const fn decays(self) -> bool {
        matches!(self, Self::Weight)
    }
}

/// A parameter that a layer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// The last part of its name: `weight`, `running_mean`; empty where it has its layer's name.
    pub suffix: &'static str,
    /// Its shape, PyTorch's order: `[out, in / groups, kh, kw]`, `[out, in]`, `[c]`.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl ParameterSpec {
    fn new(suffix: &'static str, shape: Vec<usize>, role: Role) -> Self {
        Self { suffix, shape, role }
    }
}

/// Why a layer does not take what it was given; the graph adds the layer's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(pub(crate) String);

impl Layer {
    /// The shape this layer gives for `inputs`.
    ///
    /// # Errors
    /// If it does not take them.
    pub fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, Misfit> {
        let one = || match inputs {
            [x] => Ok(*x),
            _ => Err(Misfit(format!("takes one input, not {}", inputs.len()))),
        };
        match self {
            Self::Input { shape } => Ok(*shape),
            Self::Conv(conv) => conv.output_shape(one()?),
            Self::BatchNorm(_) => match one()? {
                x @ Shape::Map { .. } => Ok(x),
                x => Err(Misfit(format!("normalizes a feature map, not {x}"))),
            },
            Self::Activation { .. } | Self::Dropout(_) | Self::Scale { .. } => one(),
            Self::Add => match inputs {
                [a, b] if a == b => Ok(*a),
                [a, b] => Err(Misfit(format!("adds {a} to {b}"))),
                _ => Err(Misfit(format!("takes two inputs, not {}", inputs.len()))),
            },
            Self::Gate => match inputs {
                [x, gate] if *gate == Shape::map(x.channels(), 1, 1) => Ok(*x),
                [x, gate] => Err(Misfit(format!("gates {x} by {gate}"))),
                _ => Err(Misfit(format!("takes two inputs, not {}", inputs.len()))),
            },
            Self::Concat => concat(inputs),
            Self::Slice { first, channels } => match one()? {
                x if *channels > 0 && first.saturating_add(*channels) <= x.channels() => {
                    Ok(x.with_channels(*channels))
                }
                x => Err(Misfit(format!("takes {channels} channels from {first} on, given {x}"))),
            },
            Self::Shuffle { groups } => match one()? {
                x if *groups > 0 && x.channels().is_multiple_of(*groups) => Ok(x),
                x => Err(Misfit(format!("deals out {groups} groups, given {x}"))),
            },
            Self::Pad { rows, columns } => pad(one()?, [*rows, *columns]),
            Self::MaxPool(windows) | Self::AvgPool { windows, .. } => windows.output_shape(one()?),
            Self::AdaptiveAvgPool { size: [height, width] } => match one()? {
                Shape::Map { channels, .. }
                    if [height, width].iter().all(|v| (1..=1024).contains(*v)) =>
                {
                    Ok(Shape::map(channels, *height, *width))
                }
                x => Err(Misfit(format!("makes maps of {height}x{width} pixels, given {x}"))),
            },
            Self::GlobalAvgPool => match one()? {
                Shape::Map { channels, .. } => Ok(Shape::vector(channels)),
                x => Err(Misfit(format!("takes a feature map, not {x}"))),
            },
            Self::Flatten => Ok(Shape::vector(one()?.elements())),
            Self::Unflatten { size } => upsample::unflattened(one()?, *size),
            Self::Upsample { factor } => upsample::upsampled(one()?, *factor),
            Self::LocalResponseNorm(norm) => match one()? {
                x @ Shape::Map { .. } if norm.size > 0 => Ok(x),
                x => Err(Misfit(format!("normalizes over {} channels, given {x}", norm.size))),
            },
            Self::LayerNorm(_) => one(),
            Self::LayerScale(_) => match one()? {
                x @ Shape::Map { .. } => Ok(x),
                x => Err(Misfit(format!("scales a feature map, not {x}"))),
            },
            Self::Linear(linear) => linear.output_shape(one()?),
            Self::Hog(hog) => hog.output_shape(one()?),
            Self::ColourHistogram(colours) => colours.output_shape(one()?),
            Self::TreeEnsemble(trees) => trees.output_shape(one()?),
            Self::Neighbours(neighbours) => neighbours.output_shape(one()?),
        }
    }

    /// The parameters it has for an input of shape `input`.
    pub fn parameters(&self, input: Shape) -> Vec<ParameterSpec> {
        match self {
            Self::Conv(conv) => conv.parameters(input.channels()),
            Self::BatchNorm(_) => BatchNorm::parameters(input.channels()),
            Self::Linear(linear) => linear.parameters(input.channels()),
            Self::LayerNorm(_) => LayerNorm::parameters(input.channels()),
            Self::LayerScale(_) => LayerScale::parameters(input.channels()),
            Self::TreeEnsemble(trees) => trees.parameters(),
            Self::Neighbours(neighbours) => neighbours.parameters(input.channels()),
            _ => Vec::new(),
        }
    }

    /// Whether gradients go through it: not through what counts, sorts or asks.
    pub const fn is_differentiable(&self) -> bool {
        !matches!(
            self,
            Self::Hog(_) | Self::ColourHistogram(_) | Self::TreeEnsemble(_) | Self::Neighbours(_)
        )
    }

    /// Multiply-adds an image, convolutions and linear layers counted, as papers do.
    pub fn multiply_adds(&self, input: Shape, output: Shape) -> u64 {
        let (inputs, outputs) = (input.channels() as u64, output.elements() as u64);
        match self {
            Self::Conv(c) => {
                outputs * (inputs / c.groups as u64) * (c.kernel[0] * c.kernel[1]) as u64
            }
            Self::Linear(_) => inputs * outputs,
            _ => 0,
        }
    }

    /// The layer's kind as tables print it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv(_) => "conv",
            Self::BatchNorm(_) => "batch_norm",
            Self::Activation { function } => function.name(),
            Self::Add => "add",
            Self::Gate => "gate",
            Self::Concat => "concat",
            Self::Slice { .. } => "slice",
            Self::Shuffle { .. } => "shuffle",
            Self::Pad { .. } => "pad",
            Self::MaxPool(_) => "max_pool",
            Self::AvgPool { .. } => "avg_pool",
            Self::AdaptiveAvgPool { .. } => "adaptive_avg_pool",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Flatten => "flatten",
            Self::Unflatten { .. } => "unflatten",
            Self::Upsample { .. } => "upsample",
            Self::LocalResponseNorm(_) => "local_response_norm",
            Self::LayerNorm(_) => "layer_norm",
            Self::LayerScale(_) => "layer_scale",
            Self::Scale { .. } => "scale",
            Self::Dropout(Dropout { whole: false, .. }) => "dropout",
            Self::Dropout(_) => "stochastic_depth",
            Self::Linear(_) => "linear",
            Self::Hog(_) => "hog",
            Self::ColourHistogram(_) => "colour_histogram",
            Self::TreeEnsemble(_) => "tree_ensemble",
            Self::Neighbours(_) => "neighbours",
        }
    }
}

/// The most channels, or features of flattened maps, that are joined.
const MOST_JOINED: usize = 1 << 24;

/// What lies behind each other: vectors, or maps of one size.
fn concat(inputs: &[Shape]) -> Result<Shape, Misfit> {
    let Some(first) = inputs.first() else {
        return Err(Misfit("takes at least one input".into()));
    };
    let channels = inputs.iter().try_fold(0_usize, |sum, x| sum.checked_add(x.channels()));
    let Some(channels) = channels.filter(|&sum| sum <= MOST_JOINED) else {
        return Err(Misfit("joins channels beyond reason".into()));
    };
    match inputs.iter().find(|x| x.with_channels(1) != first.with_channels(1)) {
        Some(other) => Err(Misfit(format!("joins {first} to {other}"))),
        None => Ok(first.with_channels(channels)),
    }
}

fn pad(x: Shape, [rows, columns]: [[isize; 2]; 2]) -> Result<Shape, Misfit> {
    let size = |size: usize, [before, behind]: [isize; 2]| {
        let size = size.checked_add_signed(before)?.checked_add_signed(behind)?;
        (size > 0).then_some(size)
    };
    let most = conv2d::MOST_PIXELS;
    let sane = rows.iter().chain(&columns).all(|v| v.unsigned_abs() <= most);
    if let (Shape::Map { channels, height, width }, true) = (x, sane)
        && let (Some(height), Some(width)) = (size(height, rows), size(width, columns))
    {
        return Ok(Shape::map(channels, height, width));
    }
    Err(Misfit(format!("adds rows {rows:?} and columns {columns:?}, given {x}")))
}
