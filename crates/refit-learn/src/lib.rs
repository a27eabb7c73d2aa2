//! Learning from few images with a pretrained network: strategies, the training loop, evaluation.
//!
//! [`train`] carries out [`Settings`] and gives an [`Outcome`]: a [`Model`], what it can do, and
//! what it cost. Nothing prints; a [`Watch`] is told what goes on.

pub mod advice;
mod auc;
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
pub mod retrieval;
mod sampling;
mod schedule;
mod select;
mod settings;
mod thaw;
mod train;
mod tta;
pub mod unknown;
mod watch;
mod weight_average;
mod weights;

pub use auc::macro_auc;
pub use error::{Hint, LearnError};
pub use evaluate::Evaluation;
pub use explain::{Explainer, Explanation, HeatMap, Method};
pub use extract::{Change, ExtractOptions, Features, extract, extract_at};
pub use fit::{Epoch, Feed, FitOptions, Fitted, Step, checkpoint_file, fit};
pub use loss::{Targets, balanced_weights};
pub use model::{
    Card, DataSummary, Model, Output, Prediction, Provenance, RunOptions, preprocess_for,
};
pub use optimizer::{Optimizer, OptimizerState, clip_norm};
pub use predictions::{Judgement, Split};
pub use pulled::{PulledFolder, PulledFrom};
pub use schedule::{Pace, Schedule};
pub use select::Select;
pub use settings::{
    ClassBalance, Mirror, Norms, OptimizerKind, ScheduleKind, Settings, Strategy, TrainingSettings,
};
pub use train::{
    Calibration, Choice, Comparison, Contestant, FittedOn, Leaks, Outcome, Preview, Record, Report,
    RunContext, Seconds, Trial, UnknownReport, advise, auto, compare, mcnemar, preview,
    read_settings, train,
};
pub use watch::{Event, Watch};
pub use weights::{architecture_of, has_weights, network_of};
