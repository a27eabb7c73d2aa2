//! Layers: what each is configured with, which shapes it takes and gives, which parameters it has.

mod activation;
mod batch_norm;
mod conv2d;
mod dropout;
mod linear;
mod pool;

use serde::{Deserialize, Serialize};

pub use activation::Activation;
pub use batch_norm::BatchNorm;
pub use conv2d::{Conv, Padding};
pub use dropout::Dropout;
pub use linear::Linear;
pub use pool::MaxPool;

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
    /// Maximum over windows.
    MaxPool(MaxPool),
    /// The mean of each channel: `[n, c, h, w] -> [n, c]`.
    GlobalAvgPool,
    /// Dropout.
    Dropout(Dropout),
    /// A fully connected layer.
    Linear(Linear),
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
    /// A running mean: follows the batches, never a gradient; starts at 0.
    RunningMean,
    /// A running variance: follows the batches, never a gradient; starts at 1.
    RunningVariance,
}

impl Role {
    /// Whether an optimizer moves it.
    pub const fn is_trained(self) -> bool {
        !self.is_statistic()
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
    /// The last part of its name: `weight`, `running_mean`.
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
            Self::Activation { .. } | Self::Dropout(_) => one(),
            Self::Add => match inputs {
                [a, b] if a == b => Ok(*a),
                [a, b] => Err(Misfit(format!("adds {a} to {b}"))),
                _ => Err(Misfit(format!("takes two inputs, not {}", inputs.len()))),
            },
            Self::MaxPool(pool) => pool.output_shape(one()?),
            Self::GlobalAvgPool => match one()? {
                Shape::Map { channels, .. } => Ok(Shape::vector(channels)),
                x => Err(Misfit(format!("takes a feature map, not {x}"))),
            },
            Self::Linear(linear) => linear.output_shape(one()?),
        }
    }

    /// The parameters it has for an input of shape `input`.
    pub fn parameters(&self, input: Shape) -> Vec<ParameterSpec> {
        match self {
            Self::Conv(conv) => conv.parameters(input.channels()),
            Self::BatchNorm(_) => BatchNorm::parameters(input.channels()),
            Self::Linear(linear) => linear.parameters(input.channels()),
            _ => Vec::new(),
        }
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
            Self::MaxPool(_) => "max_pool",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Dropout(_) => "dropout",
            Self::Linear(_) => "linear",
        }
    }
}
