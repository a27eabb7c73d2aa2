//! What can go wrong with an index of images.

use std::path::PathBuf;

use refit_data::parts::PartsError;
use refit_net::Hint;
use refit_net::atomic_file::AtomicWriteError;

/// Why an index cannot be made, read or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetrievalError {
    /// Its file.
    #[error(transparent)]
    File(#[from] PartsError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
    /// A newer refit wrote it.
    #[error("`{}` is an index of format {found}; this refit reads {known}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one that is read here.
        known: u32,
    },
    /// Features of another model.
    #[error("`{}` was made with {made_with}, and {asked}", path.display())]
    OtherModel {
        /// The index.
        path: PathBuf,
        /// The model and layer that it was made with.
        made_with: String,
        /// How what was asked with differs.
        asked: String,
        /// The model to take instead.
        model: String,
    },
    /// More directions than there are.
    #[error("whitening keeps up to {most} directions here, not {asked}")]
    Whitening {
        /// How many were asked for.
        asked: usize,
        /// What the images and the layer allow.
        most: usize,
    },
    /// No labels where they are needed.
    #[error("the images have no labels to judge by: {what}")]
    NoLabels {
        /// Where they are missing.
        what: String,
    },
    /// Features that are no numbers.
    #[error("the features of `{}` are not finite", path.display())]
    NotFinite {
        /// The image.
        path: PathBuf,
    },
}

impl Hint for RetrievalError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File(error) => return refit_data::Hint::hint(error),
            Self::Write(error) => return error.hint(),
            Self::Format { .. } => "use the refit that wrote it, or build it anew".into(),
            Self::OtherModel { model, .. } => {
                format!("ask with the model that made it: --model {model}; or build an index anew")
            }
            Self::Whitening { most, .. } => {
                format!("give --whiten {most} or less, or leave it out")
            }
            Self::NoLabels { .. } => {
                "put the images of each class in a folder of its own, and give the folder above"
                    .into()
            }
            Self::NotFinite { .. } => "see whether the model's weights are whole".into(),
        })
    }
}
