//! The command line as users meet it: the built binary, its output and its exit codes.
//!
//! Texts are kept as snapshots, 80 columns wide: look at them when they change, they are read by
//! people.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod augment;
mod compare;
mod distill;
mod doctor;
mod explain;
mod failures;
mod help;
mod html;
mod images;
mod index;
mod learners;
mod model_files;
mod onnx;
mod precision;
mod predict;
mod pull;
mod report;
mod resume;
mod scene;
mod surgery;
mod train;
mod tune;
