//! Networks as graphs of named layers: built, edited, loaded with weights, frozen and run.
//!
//! A [`Graph`] holds layers and shapes, a [`Network`] adds parameters and says which layers are
//! frozen. An [`Edit`] is a value that is checked and then applied whole. What is frozen is
//! compiled ([`Network::compile`]: batch norm folded, activation and residual fused); what is
//! trained runs through [`Training`]. Both reach the device through [`ops`].

pub mod atomic_file;
mod branches;
mod checkpoint;
mod cpu;
mod edit;
mod error;
mod frozen;
mod graph;
mod layer;
mod learner;
mod load;
pub mod model_file;
mod network;
pub mod onnx;
pub mod ops;
mod plan;
mod rebuild;
mod receptive_field;
mod recognize;
mod sensitivity;
mod shape;
pub mod state_dict;
mod training;
pub mod zoo;

pub use branches::Branch;
pub use checkpoint::save_checkpoint;
pub use cpu::clock::{Phase, StepTime, profile};
pub use cpu::{Precision, UnsupportedPrecision};
pub use edit::{Change, Edit, EditError, HeadKind, LayerState, NewLayer, Pooling, Weights};
pub use error::Hint;
pub use frozen::{Compiled, Value};
pub use graph::{Auxiliary, Builder, Graph, GraphError, GraphRecord, Node, NodeId, Wire};
pub use layer::{
    Activation, BatchNorm, ColourHistogram, Conv, Divisor, Dropout, Hog, Layer, LayerNorm,
    LayerScale, Linear, LocalResponseNorm, Neighbours, Orientations, Padding, ParameterSpec, Role,
    TreeEnsemble, TreeOutput, Windows, direction, dot,
};
pub use load::{HeadWeights, LoadError, LoadReport};
pub use network::{Network, Parameter};
pub use receptive_field::ReceptiveField;
pub use recognize::{Classes, RecognizeError, Recognized, recognize};
pub use refit_kernels::measure_peak;
pub use sensitivity::{Sensed, Sensitivity};
pub use shape::Shape;
pub use training::{NormStatistics, Pass, Training, TrainingOptions};
