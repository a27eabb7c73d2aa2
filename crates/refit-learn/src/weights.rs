//! A network of the zoo with weights, and where those are from.

use std::path::Path;

use burn::tensor::Device;
use refit_net::model_file::ModelFileError;
use refit_net::state_dict::StateDict;
use refit_net::zoo::{self, Architecture};
use refit_net::{Classes, Edit, Graph, HeadWeights, Network, model_file, recognize};

use crate::error::LearnError;
use crate::model::{Model, Provenance};
use crate::pulled::{self, PulledFolder};
use crate::settings::{Settings, Strategy};

/// Images come as red, green and blue.
const RGB: usize = 3;

/// A network with weights, and where those are from.
pub(crate) struct Weighted {
    pub network: Network,
    pub weights: Provenance,
    /// Whether the head has weights too, so that it knows its classes.
    pub knows_classes: bool,
    /// What a user should know of how they were made to fit.
    pub notes: Vec<String>,
}

/// A network with the weights of a file; what the file's head shows decides the number of classes
/// where `classes` says so.
pub(crate) fn from_file(
    architecture: &Architecture,
    path: &Path,
    classes: Classes,
    head: HeadWeights,
    seed: u64,
    device: &Device,
) -> Result<Weighted, LearnError> {
    let state = StateDict::read(path)?;
    let graph = architecture.graph_for(&state, classes)?;
    let (network, report) = Network::with_weights_reported(graph, &state, head, seed, device)?;
    let source = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let weights = Provenance { source, ..Provenance::default() };
    let knows_classes = report.missing.is_empty() && report.mismatched.is_empty();
    Ok(Weighted { network, weights, knows_classes, notes: report.notes() })
}

/// A network with the weights that come with refit, or that were pulled.
pub(crate) fn published(
    architecture: &Architecture,
    device: &Device,
) -> Result<Weighted, LearnError> {
    if let (None, Some(folder)) = (architecture.embedded(), pulled(architecture)) {
        return from_pulled(architecture, &folder, device);
    }
    let network = architecture.pretrained(device)?;
    if !architecture.has_parameters() {
        let source = "none: features by a formula".into();
        let weights = Provenance { source, ..Provenance::default() };
        return Ok(Weighted { network, weights, knows_classes: false, notes: Vec::new() });
    }
    let said = architecture.embedded().unwrap_or(zoo::LITE0_WEIGHTS);
    let weights = Provenance {
        source: said.source.into(),
        licence: Some(said.licence.into()),
        trained_on: Some(said.trained_on.into()),
        sha256: None,
    };
    Ok(Weighted { network, weights, knows_classes: true, notes: Vec::new() })
}

/// The folder of an architecture's pulled weights, if they are there.
fn pulled(architecture: &Architecture) -> Option<PulledFolder> {
    PulledFolder::of(architecture).filter(|folder| folder.weights().is_file())
}

/// Whether an architecture's own weights are at hand, or it has none.
pub fn has_weights(architecture: &Architecture) -> bool {
    let needs_none = !architecture.has_parameters();
    needs_none || architecture.embedded().is_some() || pulled(architecture).is_some()
}

fn from_pulled(
    architecture: &Architecture,
    folder: &PulledFolder,
    device: &Device,
) -> Result<Weighted, LearnError> {
    let path = folder.weights();
    let state = match architecture.published() {
        Some(published) => published.read(&path)?,
        None => StateDict::read(&path)?,
    };
    let (required, graph) = (HeadWeights::Required, architecture.graph());
    let (network, report) = Network::with_weights_reported(graph, &state, required, 0, device)?;
    let (weights, notes) = (pulled::provenance(folder), report.notes());
    Ok(Weighted { network, weights, knows_classes: true, notes })
}

/// The architecture whose weights a file holds.
///
/// # Errors
/// If the file cannot be read, or its names and shapes fit no architecture, or several.
pub fn architecture_of(path: &Path) -> Result<&'static Architecture, LearnError> {
    Ok(recognize(&StateDict::read(path)?)?.only()?)
}

/// The model that a run starts from, if its weights are a model file of the network that it names.
/// `as-is` is about the classes of published weights, and `scratch` has none.
pub(crate) fn saved_model(
    settings: &Settings,
    device: &Device,
) -> Result<Option<Model>, LearnError> {
    let learns = !matches!(settings.strategy, Strategy::AsIs | Strategy::Scratch);
    match settings.weights.as_deref().filter(|_| learns) {
        Some(path) => model_of(path, &settings.backbone, device),
        None => Ok(None),
    }
}

/// The model that a file holds, if it is a model file of the network of that name.
pub(crate) fn model_of(
    path: &Path,
    name: &str,
    device: &Device,
) -> Result<Option<Model>, LearnError> {
    if saved_graph(path)?.is_none_or(|graph| graph.name() != name) {
        return Ok(None);
    }
    match Model::load(path, device) {
        // A network that was saved without a card: weights like any others.
        Err(LearnError::ModelFile(ModelFileError::Damaged { .. })) if zoo::find(name).is_ok() => {
            Ok(None)
        }
        model => model.map(Some),
    }
}

/// The layers that a file holds, if it is a model file.
fn saved_graph(path: &Path) -> Result<Option<Graph>, LearnError> {
    match model_file::read_graph(path) {
        Err(ModelFileError::NotAModel { .. }) => Ok(None),
        graph => Ok(Some(graph?)),
    }
}

/// The layers of the network whose weights a file holds: a model's own, or those of the zoo's.
///
/// # Errors
/// If the file cannot be read, or is no model and its names and shapes fit no architecture of the
/// zoo, or several.
pub fn network_of(path: &Path) -> Result<Graph, LearnError> {
    match saved_graph(path)? {
        Some(graph) => Ok(graph),
        None => Ok(architecture_of(path)?.graph()),
    }
}

/// The network for images in colour, and what was done to make it one, if anything.
pub(crate) fn for_rgb(network: Network) -> Result<(Network, Option<String>), LearnError> {
    let channels = network.graph().input_shape().channels();
    if channels == RGB {
        return Ok((network, None));
    }
    let network = network.edit(&[Edit::AdaptInput { channels: RGB }], 0)?;
    let note = format!(
        "images are in colour: the first convolution, made for {channels}, takes {RGB} channels, \
         its weights repeated and scaled by {channels}/{RGB}"
    );
    Ok((network, Some(note)))
}
