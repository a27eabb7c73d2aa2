//! MODEL on the command line: a model file, or a network by name.

use std::path::{Path, PathBuf};

use clap::Args;
use refit::learn::has_weights;
use refit::net::zoo::{self, Architecture};
use refit::net::{Graph, RecognizeError};
use refit::{Device, LearnError, Model};

use crate::failure::Failure;

/// Which model.
#[derive(Debug, Clone, Args)]
pub struct ModelArg {
    /// Model file, bare checkpoint (.safetensors, .pth) of a network that refit knows, or name of a
    /// network: efficientnet_lite0 comes with weights
    #[arg(value_name = "MODEL")]
    pub name: String,

    /// Weights for a network given by name: .safetensors or PyTorch's .pth
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
}

/// Which model, where it is not the first thing that is told.
#[derive(Debug, Clone, Args)]
pub struct ModelFlag {
    /// Model whose features are compared: a model file, a bare checkpoint, or the name of a network
    #[arg(long, value_name = "MODEL", default_value = "efficientnet_lite0")]
    pub model: String,

    /// Weights for a network given by name: .safetensors or PyTorch's .pth
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
}

impl ModelFlag {
    /// Opens the model, for images in colour.
    pub fn open(&self, device: &Device) -> Result<Model, Failure> {
        ModelArg { name: self.model.clone(), weights: self.weights.clone() }.open(device)
    }
}

/// Which model, where weights that learned nothing serve as well.
#[derive(Debug, Clone, Args)]
pub struct AnyModelArg {
    #[command(flatten)]
    pub model: ModelArg,

    /// Random weights that depend on SEED, for a network given by name
    #[arg(long, value_name = "SEED", conflicts_with = "weights")]
    pub random: Option<u64>,
}

impl ModelArg {
    /// The network of that name, unless it is a file's.
    pub fn architecture(&self) -> Result<Option<&'static Architecture>, Failure> {
        let path = Path::new(&self.name);
        match zoo::find(&self.name) {
            Ok(architecture) if !path.is_file() => Ok(Some(architecture)),
            Err(error) if !path.exists() && !self.name.contains(['/', '.', '\\']) => {
                Err(error.into())
            }
            _ => Ok(None),
        }
    }

    /// Opens the model, for images in colour.
    pub fn open(&self, device: &Device) -> Result<Model, Failure> {
        Ok(self.open_exact(device)?.for_rgb()?)
    }

    /// Opens the model, for the channels that its weights were made for.
    fn open_exact(&self, device: &Device) -> Result<Model, Failure> {
        match (self.architecture()?, &self.weights) {
            (Some(architecture), weights) => {
                Ok(Model::pretrained(architecture, weights.as_deref(), device)?)
            }
            (None, Some(_)) => Err(self.carries_weights("--weights")),
            (None, None) => {
                let path = Path::new(&self.name);
                match Model::load(path, device) {
                    Err(error) if is_bare_checkpoint(&error) => {
                        Model::from_checkpoint(path, device).map_err(|error| self.not_named(error))
                    }
                    model => Ok(model?),
                }
            }
        }
    }

    /// Tells how a network's name goes with a checkpoint here.
    fn not_named(&self, error: LearnError) -> Failure {
        match &error {
            LearnError::Recognize(RecognizeError::Ambiguous { candidates, .. }) => {
                let name = candidates.first().unwrap_or(&"NAME");
                let hint = format!("say which: give `{name} --weights {}`", self.name);
                Failure::mistake(error.to_string(), hint)
            }
            _ => error.into(),
        }
    }

    fn carries_weights(&self, flag: &str) -> Failure {
        Failure::mistake(
            format!("`{}` is a file, and {flag} goes with the name of a network", self.name),
            "leave it out to use the file's own weights; `refit models` lists networks",
        )
    }
}

impl AnyModelArg {
    /// Opens the model.
    pub fn open(&self, device: &Device) -> Result<Model, Failure> {
        match (self.random, self.model.architecture()?) {
            (Some(seed), Some(architecture)) => Ok(Model::random(architecture, seed, device)),
            (Some(_), None) => Err(self.model.carries_weights("--random")),
            (None, _) => self.model.open_exact(device).map_err(|failure| failure.or_random(self)),
        }
    }

    /// Opens the model; a network that comes without weights gets random ones.
    pub fn open_untrained(&self, device: &Device) -> Result<Model, Failure> {
        match self.model.architecture()? {
            Some(known) if self.model.weights.is_none() && !has_weights(known) => {
                Ok(Model::random(known, self.random.unwrap_or(0), device))
            }
            _ => self.open(device),
        }
    }

    /// The layers, and which of them are frozen; weights are read only where they were named.
    pub fn layers(&self, device: &Device) -> Result<(Graph, Vec<bool>), Failure> {
        if let (Some(architecture), None) = (self.model.architecture()?, &self.model.weights) {
            let graph = architecture.graph();
            let frozen = vec![false; graph.nodes().len()];
            return Ok((graph, frozen));
        }
        let Model { network, .. } = self.open(device)?;
        let frozen = (0..network.graph().nodes().len()).map(|id| network.is_frozen(id));
        Ok((network.graph().clone(), frozen.collect()))
    }
}

impl Failure {
    /// Names `--random` too, to whoever has no weights.
    fn or_random(self, arg: &AnyModelArg) -> Self {
        match (arg.model.architecture(), &arg.model.weights) {
            (Ok(Some(known)), None) if !has_weights(known) => {
                let pull = match known.published() {
                    Some(_) => format!("fetch them with `refit pull {}`, ", known.name),
                    None => String::new(),
                };
                Self::mistake(
                    format!("`{}` comes without weights", known.name),
                    format!(
                        "{pull}give a checkpoint with --weights FILE, or --random SEED where any \
                         weights do"
                    ),
                )
            }
            _ => self,
        }
    }
}

/// What [`Model::load`] says of a file of tensors that refit did not write.
pub fn is_bare_checkpoint(error: &LearnError) -> bool {
    use refit::net::model_file::ModelFileError::NotAModel;
    matches!(error, LearnError::ModelFile(NotAModel { .. }))
}
