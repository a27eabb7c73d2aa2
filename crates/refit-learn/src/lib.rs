//! Learning from few images with a pretrained network: strategies, the training loop, evaluation.
//!
//! [`train`] carries out [`Settings`] and gives an [`Outcome`]: a [`Model`], what it can do, and
//! what it cost. Nothing prints; a [`Watch`] is told what goes on.

pub mod advice;
pub mod calibrate;
mod error;
mod evaluate;
mod extract;
mod fit;
pub mod logistic;
mod loss;
pub mod metrics;
mod model;
mod optimizer;
mod pulled;
mod settings;
mod train;
mod tta;
mod watch;
mod weights;

pub use error::{Hint, LearnError};
pub use evaluate::Evaluation;
pub use extract::{ExtractOptions, Features, extract};
pub use fit::{Epoch, Feed, FitOptions, Fitted, Step, checkpoint_file, fit};
pub use loss::{Targets, balanced_weights};
pub use model::{Card, DataSummary, Model, Output, Provenance, RunOptions, preprocess_for};
pub use optimizer::{Optimizer, OptimizerState, Schedule, clip_norm};
pub use pulled::{PulledFolder, PulledFrom};
pub use settings::{
    ClassBalance, Mirror, Norms, OptimizerKind, Settings, Strategy, TrainingSettings,
};
pub use train::{
    Choice, Comparison, Contestant, Outcome, Preview, Report, RunContext, Seconds, Trial, advise,
    auto, compare, mcnemar, preview, read_settings, train,
};
pub use watch::{Event, Watch};
pub use weights::{architecture_of, has_weights, network_of};
