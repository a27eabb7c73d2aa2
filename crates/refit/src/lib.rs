//! Transfer learning with convolutional networks, offline, on an ordinary CPU.
//!
//! This crate is the library under one name, and the command line (`refit`) built on it.
//!
//! ```no_run
//! use refit::{RunContext, Settings, Strategy, train};
//!
//! let settings = Settings::new("photos", Strategy::Features);
//! let outcome = train(&settings, &RunContext::default(), &())?;
//! outcome.model.save("photos.safetensors".as_ref())?;
//!
//! let prediction = outcome.model.predict("new.jpg".as_ref())?;
//! for (class, p) in outcome.model.card.classes.iter().zip(prediction.probabilities) {
//!     println!("{class} {:.1}%", 100.0 * p);
//! }
//! if prediction.unknown {
//!     println!("but it looks like nothing that the model learned from");
//! }
//! # Ok::<(), refit::LearnError>(())
//! ```
//!
//! [`net`] has graphs, weights and edits, [`data`] goes from images to batches, [`learn`] from both
//! to a model.

pub use refit_data as data;
pub use refit_learn as learn;
pub use refit_net as net;

pub use burn::tensor::Device;
pub use refit_learn::{
    Evaluation, Event, Hint, LearnError, Model, Outcome, Prediction, Report, RunContext,
    RunOptions, Settings, Strategy, TrainingSettings, Watch, advise, advise_among, auto, compare,
    train,
};
pub use refit_net::{Edit, HeadKind, Network, zoo};
