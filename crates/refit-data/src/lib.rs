//! Images to batches: sources, decoding, preprocessing, augmentation, splits, batches, and the
//! cache of frozen features.
//!
//! ```text
//! folder/CSV ─ Dataset ─ Samples ─ decode ─ orient ─ augment ─ preprocess ─ Batch [n, 3, h, w] f32
//! ```
//!
//! This crate knows no networks and no tensors: pixels leave it as plain `f32` slices. Nothing
//! prints; progress goes to a callback, what was left out comes back as values. All randomness
//! comes from [`Stream`]s keyed by purpose and position, so results do not depend on the number
//! of threads.
//!
//! ```no_run
//! use refit_data::*;
//!
//! # fn main() -> Result<(), DataError> {
//! let data = Dataset::open("photos".as_ref(), &SourceOptions::default())?;
//! let preprocess = Preprocess {
//!     size: 224,
//!     resize: Resize::ShorterSide { to: 256 },
//!     interpolation: Interpolation::Bicubic,
//!     mean: [0.5; 3],
//!     std: [0.5; 3],
//! };
//! let order = Stream::new(1, "order", &[0]).permutation(data.train.len());
//! let options = LoaderOptions { batch_size: 32, size: 224, workers: 2, ahead: 2, strictness: Strictness::Skip };
//! let loader = Loader::new(data.train, order, options, move |sample, index, out| {
//!     let image = decode_file_in(&sample.path, &DecodeOptions::default(), preprocess.detail())?;
//!     Augment::light().apply_into(&image, &preprocess, &mut Stream::new(1, "augment", &[0, index as u64]), out);
//!     Ok(())
//! });
//! for batch in loader {
//!     let Batch { images, labels, .. } = batch?; // [n, 3, 224, 224] and [n]
//! }
//! # Ok(())
//! # }
//! ```

pub mod augment;
pub mod batch;
pub mod cache;
pub mod check;
pub mod decode;
mod error;
#[cfg(test)]
mod golden_tests;
mod image;
mod jpeg;
mod parallel;
pub mod parts;
pub mod preprocess;
pub mod quality;
pub mod resemblance;
mod rng;
mod scaled_jpeg;
mod sheet;
pub mod source;
#[cfg(test)]
mod test_data;
mod views;

pub use crate::augment::{Augment, ColourJitter, Erasing, Level, Mix, Mixture, Policy, RandomCrop};
pub use crate::batch::{Batch, ImageCache, Loader, LoaderOptions};
pub use crate::cache::{CacheKey, CacheOptions, FeatureCache};
pub use crate::check::{CheckOptions, Checked, ContentHash, Skipped, Strictness, check_readable};
pub use crate::decode::{DecodeOptions, Detail, decode, decode_file, decode_file_in, decode_in};
pub use crate::error::{DataError, DecodeError, Hint};
pub use crate::image::RgbImage;
pub use crate::preprocess::{Interpolation, Preprocess, Resize};
pub use crate::rng::Stream;
pub use crate::sheet::{contact_sheet, to_png};
pub use crate::source::{
    DEFAULT_VAL_FRACTION, Dataset, Sample, SourceOptions, list_images, stratified_split,
};
pub use crate::views::View;

/// A callback told how many of how many items are done; called from worker threads.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);
