//! What can go wrong while learning.

use std::path::{Path, PathBuf};

use refit_data::DataError;
use refit_net::model_file::ModelFileError;
use refit_net::state_dict::StateDictError;
use refit_net::zoo::ZooError;
use refit_net::{
    EditError, GraphError, LoadError, Precision, RecognizeError, Shape, UnsupportedPrecision,
};

use crate::logistic::LogisticError;
use crate::retrieval::RetrievalError;
use crate::settings::Strategy;
use crate::shallow::{Learner, ShallowError};

/// What a user can do about an error; the error's own message says what is wrong and where.
pub use refit_net::Hint;

/// Why training, evaluation or prediction stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network asked for.
    #[error(transparent)]
    Zoo(#[from] ZooError),
    /// A layer asked for.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An edit of the network.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// Weights that do not fit.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Weights of which it is not known whose they are.
    #[error(transparent)]
    Recognize(#[from] RecognizeError),
    /// A precision that this machine does not have.
    #[error(transparent)]
    Precision(#[from] UnsupportedPrecision),
    /// A precision of frozen layers, where there are none.
    #[error(
        "--precision {precision} does nothing with --strategy {strategy}, which trains all layers: what is trained computes in f32"
    )]
    NothingFrozen {
        /// The precision.
        precision: Precision,
        /// The strategy.
        strategy: Strategy,
    },
    /// A file of tensors.
    #[error(transparent)]
    StateDict(#[from] StateDictError),
    /// A model file.
    #[error(transparent)]
    ModelFile(#[from] ModelFileError),
    /// The linear head.
    #[error(transparent)]
    Logistic(#[from] LogisticError),
    /// A learner that is no network.
    #[error(transparent)]
    Shallow(#[from] ShallowError),
    /// A learner that is no network, where a network is trained.
    #[error("--learner {learner} does not go with {with}, {why}")]
    NoLearner {
        /// The learner.
        learner: Learner,
        /// The setting.
        with: String,
        /// Why not.
        why: &'static str,
    },
    /// A body to be trained that has nothing to train.
    #[error(
        "--strategy {strategy} trains layers below the head, and `{layer}` of `{net}` lets no gradient through to any"
    )]
    NothingToTrain {
        /// The strategy.
        strategy: Strategy,
        /// The network.
        net: String,
        /// The layer.
        layer: String,
    },
    /// An index of images, or a search in one.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    /// A file of the run that cannot be read or written.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `make`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A run folder that is in use.
    #[error("`{}` already holds a run", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder without a run.
    #[error("`{}` holds no run to resume: {reason}", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// What is missing or damaged.
        reason: String,
    },
    /// A file of a run that is damaged, or was changed by somebody.
    #[error("the run in `{}` is damaged: {file}: {reason}", path.display())]
    DamagedRun {
        /// The run's folder.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder without a search.
    #[error("`{}` holds no search to resume: {reason}", path.display())]
    NoSearch {
        /// The folder.
        path: PathBuf,
        /// What is missing or damaged.
        reason: String,
    },
    /// A search that has not ended, where a run was expected.
    #[error("the search in `{}` has not ended, and its run not begun", path.display())]
    SearchGoesOn {
        /// The folder.
        path: PathBuf,
    },
    /// A line of a search's trials that is not what it should be.
    #[error("line {line} of `{}` is damaged: {reason}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A run that has not ended.
    #[error("the run in `{}` has not ended", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
    },
    /// A class asked for that the model does not know.
    #[error("the model knows no class `{class}`")]
    NoSuchClass {
        /// The class.
        class: String,
        /// What it knows.
        known: Vec<String>,
    },
    /// A layer, whose map was asked for, that gives none.
    #[error(
        "layer `{layer}` of `{net}` gives {shape}, and a heat map takes a map of several pixels"
    )]
    NoMap {
        /// The network.
        net: String,
        /// The layer.
        layer: String,
        /// What it gives.
        shape: Shape,
    },
    /// A network without any such layer.
    #[error("`{net}` has no layer that gives a map of several pixels")]
    NoMaps {
        /// The network.
        net: String,
    },
    /// No images to judge by.
    #[error("`{}` has no validation or test images to judge by", path.display())]
    NothingToJudgeBy {
        /// The data.
        path: PathBuf,
    },
    /// A class of which some fold would have no image.
    #[error("class `{class}` has {images} readable images, too few for {folds} folds")]
    TooFewForFolds {
        /// The class.
        class: String,
        /// Its images.
        images: usize,
        /// Folds asked for.
        folds: usize,
    },
    /// A class whose every training image is unreadable.
    #[error("no training image of class `{class}` in `{}` can be read", path.display())]
    NoTrainingImages {
        /// The class.
        class: String,
        /// The data.
        path: PathBuf,
    },
    /// The images are not those that the run began with.
    #[error("the images in `{}` are not those that the run began with", path.display())]
    DataChanged {
        /// The data.
        path: PathBuf,
    },
    /// A folder of a comparison that holds something else.
    #[error("`{}` holds a run with other settings", path.display())]
    OtherContest {
        /// The folder.
        path: PathBuf,
    },
    /// A hint between layers of different kinds.
    #[error(
        "`{student}` cannot learn from the teacher's `{teacher}`: one is a map, the other a vector"
    )]
    UnlikeHint {
        /// The student's layer.
        student: String,
        /// The teacher's.
        teacher: String,
    },
    /// A setting out of its range.
    #[error("{name} is {value}, but must be {range}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        range: &'static str,
    },
    /// Classes that the pretrained network does not know.
    #[error("{backbone} does not know the classes {}", list(classes))]
    ForeignClasses {
        /// The network.
        backbone: String,
        /// The classes.
        classes: Vec<String>,
    },
    /// Rows of a head asked for where none can be kept.
    #[error("--keep-classes does nothing with {with}, {why}")]
    NothingKept {
        /// The setting or the network.
        with: String,
        /// Why not.
        why: &'static str,
    },
    /// Classes to keep, of which there are none.
    #[error(
        "--keep-classes finds none to keep: the classes were {} and are now {}",
        list(before),
        list(now)
    )]
    NoSharedClasses {
        /// The classes of the network that training starts from.
        before: Vec<String>,
        /// The classes of the images.
        now: Vec<String>,
    },
    /// A class that the model does not know.
    #[error("the model does not know the classes {}", list(classes))]
    UnknownClasses {
        /// The classes.
        classes: Vec<String>,
        /// What it knows.
        known: Vec<String>,
    },
    /// A network that gives features, asked for classes.
    #[error("this `{net}` gives features, not classes")]
    NoClasses {
        /// The network.
        net: String,
    },
    /// The loss is no number any more.
    #[error("the loss became {loss} in epoch {epoch}")]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The loss.
        loss: f32,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

pub(crate) fn list(names: &[String]) -> String {
    let shown = names.iter().take(5).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=5 => shown,
        n => format!("{shown} and {} more", n - 5),
    }
}

/// How a damaged file of a run is made anew.
fn mending(folder: &Path, file: &str) -> String {
    let folder = folder.display();
    match file {
        "settings.toml" => format!(
            "put `{file}` back as it was; `refit info {folder}/model.safetensors` tells the settings \
             of a run that has ended"
        ),
        _ => format!(
            "put it back as it was, or remove `{folder}/{file}` and make it anew: \
             `refit train --resume {folder}`"
        ),
    }
}

impl Hint for LearnError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Data(e) => return refit_data::Hint::hint(e),
            Self::Zoo(e) => return e.hint(),
            Self::Graph(e) => return e.hint(),
            Self::Edit(e) => return e.hint(),
            Self::Load(e) => return e.hint(),
            Self::Recognize(e) => return e.hint(),
            Self::Precision(e) => return e.hint(),
            Self::NothingFrozen { .. } => {
                "leave it out, or use --strategy features, partial, fine-tune or as-is".into()
            }
            Self::StateDict(e) => return e.hint(),
            Self::ModelFile(e) => return e.hint(),
            Self::Logistic(e) => return e.hint(),
            Self::Retrieval(e) => return e.hint(),
            Self::Shallow(e) => return e.hint(),
            Self::NoLearner { .. } => {
                "use --strategy features with a linear head's place, or leave --learner out".into()
            }
            Self::NothingToTrain { .. } => "use --strategy features, or a network".into(),
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => {
                    "the disk is full: free some space, then go on with --resume".into()
                }
                std::io::ErrorKind::PermissionDenied => {
                    "choose a folder that may be written, with --out DIR".into()
                }
                _ => "see that the folder exists and may be used".into(),
            },
            Self::RunExists { path } => format!(
                "continue it with `--resume {}`, or choose another folder with --out",
                path.display()
            ),
            Self::NoRun { .. } => "give the folder that `refit train` wrote".into(),
            Self::DamagedRun { path, file, .. } => mending(path, file),
            Self::TooFewForFolds { images: 0 | 1, .. } => {
                "add images of this class, or leave it out".into()
            }
            Self::TooFewForFolds { images, .. } => {
                format!("use --folds {images}, or add images of this class")
            }
            Self::NoSearch { .. } => "give the folder that `refit tune` wrote".into(),
            Self::SearchGoesOn { path } => {
                format!("go on with it: `refit tune --resume {}`", path.display())
            }
            Self::Journal { line, .. } => format!(
                "remove line {line} and all after it: `refit tune --resume` makes those trials again"
            ),
            Self::Unfinished { path } => {
                format!("go on with it: `refit train --resume {}`", path.display())
            }
            Self::NoSuchClass { known, .. } => format!("it knows {}", list(known)),
            Self::NoMap { net, .. } => format!(
                "name a layer before the last pooling, or leave the layer out; \
                 `refit layers {net}` lists all"
            ),
            Self::NoMaps { .. } => "use a convolutional network".into(),
            Self::NothingToJudgeBy { .. } => {
                "let some be kept apart with --val-fraction F, or give some with --val DIR".into()
            }
            Self::NoTrainingImages { .. } => {
                "mend the images named above, or remove the class's folder".into()
            }
            Self::DataChanged { .. } => {
                "put the images back as they were, or start anew in another folder, with --out"
                    .into()
            }
            Self::OtherContest { .. } => {
                "compare with the same flags as before, or in another folder, with --out".into()
            }
            Self::UnlikeHint { .. } => {
                "name two maps or two vectors; `refit layers` lists them with their shapes".into()
            }
            Self::Setting { .. } => "see `refit train --help`".into(),
            Self::ForeignClasses { .. } => {
                "use --strategy features, which learns classes of your own; `as-is` needs folders \
                 named by the network's own classes (WordNet ids or names)"
                    .into()
            }
            Self::NothingKept { .. } => {
                "leave it out, or start from a network with a linear head and train a linear one: \
                 --strategy features, partial, fine-tune or pretrained-init"
                    .into()
            }
            Self::NoSharedClasses { .. } => {
                "leave it out, so that the whole head starts anew; or name the folders as the \
                 network's classes are named, as `refit info MODEL` lists them"
                    .into()
            }
            Self::UnknownClasses { known, .. } => {
                format!("name the folders by the model's classes: {}", list(known))
            }
            Self::NoClasses { .. } => {
                "take its features with `refit embed`, or give it a head: `refit train`".into()
            }
            Self::Diverged { .. } => "try a lower --lr, such as a tenth".into(),
            Self::Stopped => "continue with --resume".into(),
        })
    }
}
