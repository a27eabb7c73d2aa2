//! Learning from few images with a pretrained network: strategies, the training loop, evaluation.
//!
//! [`train`] carries out [`Settings`] and gives an [`Outcome`]: a [`Model`], what it can do, and
//! what it cost. Nothing prints; a [`Watch`] is told what goes on.

pub mod advice;
mod auc;
pub mod autoencode;
pub mod calibrate;
pub mod distill;
mod error;
mod evaluate;
pub mod explain;
mod extract;
mod fit;
mod kept;
pub mod logistic;
mod loss;
mod memory;
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
pub mod shallow;
mod subsets;
mod thaw;
mod train;
mod tta;
pub mod unknown;
mod watch;
mod way;
mod weight_average;
mod weights;

pub use auc::macro_auc;
pub use autoencode::{Anomaly, AutoencodeSettings, Autoencoded, autoencode};
pub use distill::Distillation;
pub use error::{Hint, LearnError};
pub use evaluate::Evaluation;
pub use explain::{Explainer, Explanation, HeatMap, Method};
pub use extract::{Change, ExtractOptions, Features, extract, extract_at};
pub use fit::{
    Aim, Epoch, Feed, FitOptions, Fitted, OtherLoss, RatePoint, RateSearch, Step, Verdict,
    checkpoint_file, find_rate, fit,
};
pub use loss::{Targets, balanced_weights, log_shares};
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
    ALL_LAYERS, ALONE, Attempt, Calibration, Choice, Comparison, Contestant, Distilled, FittedOn,
    FoldReport, FoldsReport, Importance, Leaks, LeftOut, Outcome, Parameter, Party, Preview,
    Record, Report, RunContext, Rung, Search, Seconds, Setup, Trial, TuneOptions, Tuned,
    UnknownReport, Values, advise, advise_among, auto, compare, distill as distill_into, mcnemar,
    preview, read_search, read_settings, search, train, tune,
};
pub use watch::{Event, Watch};
pub use way::Way;
pub use weights::{architecture_of, has_weights, network_of};
