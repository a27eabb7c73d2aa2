//! Learning from few images with a pretrained network: strategies, the training loop, evaluation.
//!
//! [`train`] carries out [`Settings`] and gives an [`Outcome`]: a [`Model`], what it can do, and
//! what it cost. Nothing prints; a [`Watch`] is told what goes on.

pub mod advice;
pub mod calibrate;
mod error;
mod evaluate;
pub mod explain;
mod extract;
mod fit;
pub mod logistic;
mod loss;
pub mod metrics;
mod model;
mod optimizer;
mod predictions;
mod pulled;
mod settings;
mod train;
mod watch;
mod weights;

pub use error::{Hint, LearnError};
pub use evaluate::Evaluation;
pub use explain::{Explainer, Explanation, HeatMap, Method};
pub use extract::{ExtractOptions, Features, extract};
pub use fit::{Epoch, Feed, FitOptions, Fitted, Step, checkpoint_file, fit};
pub use loss::{Targets, balanced_weights};
pub use model::{Card, DataSummary, Model, Output, Provenance, RunOptions, preprocess_for};
pub use optimizer::{Optimizer, OptimizerState, Schedule, clip_norm};
pub use predictions::{Prediction, Split};
pub use pulled::{PulledFolder, PulledFrom};
pub use settings::{ClassBalance, Norms, OptimizerKind, Settings, Strategy, TrainingSettings};
pub use train::{
    Choice, Comparison, Contestant, Outcome, Record, Report, RunContext, Seconds, Trial, advise,
    auto, compare, mcnemar, read_settings, train,
};
pub use watch::{Event, Watch};
pub use weights::{architecture_of, has_weights, network_of};
