//! `refit info`: what a model or checkpoint file says of itself.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::Model;
use refit::data::{Interpolation, Preprocess, Resize};
use refit::learn::Card;
use refit::learn::autoencode::{ANOMALOUS, Autoencoder};
use refit::learn::unknown::{SHARE, Unknown};
use refit::net::state_dict::StateDict;
use refit::net::{Precision, RecognizeError, Recognized, recognize};
use serde::Serialize;

use crate::cli::TEMPLATE;
use crate::commands::autoencode::told;
use crate::commands::train::accuracy;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::{ModelArg, is_bare_checkpoint};
use crate::output::{Side, count, percent, short, table};

/// Say what is in a model file or checkpoint
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Of a model: its classes, preprocessing, how it was trained and how well it does, and where its \
starting weights come from. Of a bare checkpoint (.safetensors, .pth): its tensors, and the \
network that they belong to, by their names and shapes.",
    after_help = "Examples:
  refit info model.safetensors
  refit info efficientnet_lite0
  refit info resnet18.pth --json"
)]
pub struct Info {
    #[command(flatten)]
    model: ModelArg,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// What a model file says.
#[derive(Serialize)]
struct ModelInfo<'a> {
    network: &'a str,
    parameters: usize,
    multiply_adds: u64,
    card: &'a Card,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<UnknownInfo>,
}

/// What a model says of images of another kind, as far as it tells people something.
#[derive(Serialize)]
struct UnknownInfo {
    share: f64,
    threshold: f32,
    held_out: usize,
    features: usize,
}

impl UnknownInfo {
    fn of(unknown: &Unknown) -> Self {
        Self {
            share: SHARE,
            threshold: unknown.threshold(SHARE),
            held_out: unknown.held_out(),
            features: unknown.distance.dim,
        }
    }
}

/// What a bare checkpoint holds.
#[derive(Serialize)]
struct CheckpointInfo {
    path: PathBuf,
    tensors: usize,
    values: u64,
    dtypes: BTreeMap<String, usize>,
    /// The networks whose weights these can be.
    networks: Vec<&'static str>,
    classes: Option<usize>,
    shapes: Vec<(String, Vec<usize>)>,
    metadata: BTreeMap<String, String>,
}

impl Info {
    /// Says it.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let path = Path::new(&self.model.name);
        if self.model.weights.is_none() && self.model.architecture()?.is_none() {
            return match Model::load(path, &machine.device()) {
                Ok(model) => self.tell_model(&model),
                Err(error) if is_bare_checkpoint(&error) => self.tell_checkpoint(path),
                Err(error) => Err(error.into()),
            };
        }
        self.tell_model(&self.model.open(&machine.device())?)
    }

    fn tell_model(&self, model: &Model) -> Result<(), Failure> {
        let text = match self.json {
            true => {
                let info = ModelInfo {
                    network: model.network.graph().name(),
                    parameters: model.network.parameter_count(),
                    multiply_adds: model.network.multiply_adds(),
                    card: &Card { unknown: None, ..model.card.clone() },
                    unknown: model.card.unknown.as_ref().map(UnknownInfo::of),
                };
                serde_json::to_string(&info).expect("names and numbers serialize") + "\n"
            }
            false => table(&[Side::Left, Side::Left], &model_rows(model)),
        };
        Ok(write!(io::stdout(), "{text}")?)
    }

    fn tell_checkpoint(&self, path: &Path) -> Result<(), Failure> {
        let state = StateDict::read(path)?;
        let recognized = recognize(&state);
        let info = CheckpointInfo::of(path, &state, recognized.as_ref().ok());
        let text = match self.json {
            true => serde_json::to_string(&info).expect("names and numbers serialize") + "\n",
            false => table(&[Side::Left, Side::Left], &info.rows(&recognized)),
        };
        Ok(write!(io::stdout(), "{text}")?)
    }
}

fn row(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}

fn model_rows(model: &Model) -> Vec<Vec<String>> {
    let Model { network, card } = model;
    let mut rows = vec![
        row("network", network.graph().name()),
        row(
            "size",
            format!(
                "{} parameters, {} multiply-adds an image",
                short(network.parameter_count() as u64),
                short(network.multiply_adds())
            ),
        ),
        row("classes", classes(model)),
        row("input", preprocessing(&card.preprocess)),
    ];
    if let Some(settings) = &card.settings {
        let head = settings.head;
        let mut strategy = format!("{}, {head} head, seed {}", settings.strategy, settings.seed);
        if settings.precision != Precision::F32 {
            strategy += &format!(", frozen layers in {}", settings.precision);
        }
        rows.push(row("strategy", strategy));
    }
    if let Some(data) = &card.data {
        let trained: usize = data.train.iter().sum();
        rows.push(row(
            "images",
            format!("{trained} training, {} validation, {} test", data.val, data.test),
        ));
    }
    let in_folds = card.settings.as_ref().is_some_and(|settings| settings.folds.is_some());
    let judged = if in_folds { "held-out" } else { "validation" };
    rows.extend(card.metrics.as_ref().map(|m| row("quality", accuracy(m, judged))));
    if card.temperature != 1.0 {
        let text = format!("logits divided by {:.3} before the softmax", card.temperature);
        rows.push(row("calibrated", text));
    }
    rows.extend(card.unknown.as_ref().map(|unknown| row("unknown", threshold(unknown))));
    rows.extend(card.autoencoder.as_ref().map(|found| row("makes again", reconstruction(found))));
    rows.push(row("weights", card.weights.source.as_str()));
    rows.extend(card.weights.trained_on.as_ref().map(|on| row("", format!("trained on {on}"))));
    rows.extend(card.weights.licence.as_ref().map(|l| row("licence", format!("{l} (weights)"))));
    rows.push(row("written by", format!("refit {}", card.refit)));
    rows
}

/// The classes, or what the output is instead.
fn classes(model: &Model) -> String {
    let (graph, classes) = (model.network.graph(), &model.card.classes);
    match (&model.card.autoencoder, classes.is_empty()) {
        (Some(_), true) => {
            let values = graph.nodes()[graph.output()].shape.elements();
            format!("none: a code of {values} values")
        }
        _ => format!("{}: {}", classes.len(), first_few(classes)),
    }
}

/// How an autoencoder does, and what it calls an anomaly.
fn reconstruction(autoencoder: &Autoencoder) -> String {
    let found = told(&autoencoder.held_out);
    let threshold = autoencoder.threshold(ANOMALOUS);
    let anomaly = match threshold.is_finite() {
        true => format!("; an anomaly has an error above {threshold:.4}"),
        false => String::new(),
    };
    format!("of images held out: {found}{anomaly}")
}

fn threshold(unknown: &Unknown) -> String {
    format!(
        "images beyond {:.2}, by {} images held out, of which at most {} are beyond",
        unknown.threshold(SHARE),
        unknown.held_out(),
        percent(SHARE)
    )
}

fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        n if n > SHOWN => format!("{shown}, and {} more", n - SHOWN),
        _ => shown,
    }
}

fn preprocessing(p: &Preprocess) -> String {
    let filter = match p.interpolation {
        Interpolation::Bicubic => "bicubic",
        Interpolation::Bilinear => "bilinear",
    };
    let size = p.size;
    let how = match p.resize {
        Resize::ShorterSide { to } => {
            format!("shorter side resized to {to} ({filter}), centre cut to {size}x{size}")
        }
        Resize::Squash => format!("squashed to {size}x{size} ({filter})"),
        Resize::Letterbox { .. } => format!("fitted into {size}x{size} with bars ({filter})"),
    };
    format!("{how}, then (x/255 - {}) / {}", channels(p.mean), channels(p.std))
}

/// One number where all channels have the same.
fn channels(values: [f32; 3]) -> String {
    match values {
        [r, g, b] if r == g && g == b => r.to_string(),
        _ => format!("{values:?}"),
    }
}

impl CheckpointInfo {
    fn of(path: &Path, state: &StateDict, recognized: Option<&Recognized>) -> Self {
        let mut dtypes = BTreeMap::new();
        state.iter().for_each(|(_, e)| *dtypes.entry(e.dtype().to_string()).or_default() += 1);
        Self {
            path: path.to_owned(),
            tensors: state.len(),
            values: state.iter().map(|(_, e)| e.num_elements() as u64).sum(),
            dtypes,
            networks: recognized.iter().flat_map(|r| &r.candidates).map(|a| a.name).collect(),
            classes: recognized.and_then(|r| r.classes),
            shapes: state.iter().map(|(n, e)| (n.to_owned(), e.shape().to_vec())).collect(),
            metadata: state.metadata().clone(),
        }
    }

    fn rows(&self, recognized: &Result<Recognized, RecognizeError>) -> Vec<Vec<String>> {
        const SHOWN: usize = 8;
        let dtypes: Vec<String> =
            self.dtypes.iter().map(|(dtype, n)| format!("{n} {dtype}")).collect();
        let mut rows = vec![
            row("kind", "bare checkpoint: tensors, and no description that refit wrote"),
            row(
                "size",
                format!("{}, {} values", count(self.tensors, "tensor"), short(self.values)),
            ),
            row("types", dtypes.join(", ")),
        ];
        rows.extend(self.network(recognized));
        for (i, (name, shape)) in self.shapes.iter().take(SHOWN).enumerate() {
            rows.push(row(if i == 0 { "tensors" } else { "" }, format!("{name} {shape:?}")));
        }
        if self.shapes.len() > SHOWN {
            rows.push(row("", format!("and {} more; --json lists all", self.tensors - SHOWN)));
        }
        let cut = |text: &str| text.chars().take(100).collect::<String>();
        for (i, (key, value)) in self.metadata.iter().enumerate() {
            let value = format!("{key}: {}", cut(value));
            rows.push(row(if i == 0 { "metadata" } else { "" }, value));
        }
        rows.extend(self.use_it(recognized));
        rows
    }

    fn network(&self, recognized: &Result<Recognized, RecognizeError>) -> Vec<Vec<String>> {
        let found = match recognized {
            Ok(found) => found,
            Err(RecognizeError::Unknown { nearest, .. }) => {
                let mut rows = vec![row("network", "none that refit knows")];
                rows.extend(
                    nearest
                        .as_ref()
                        .map(|(name, report)| row("nearest", format!("{name}: {report}"))),
                );
                return rows;
            }
            Err(error) => return vec![row("network", error.to_string())],
        };
        let mut rows = vec![row("network", self.networks.join(" or "))];
        if self.networks.len() > 1 {
            rows.push(row("", format!("weights do not show which: {}", found.difference())));
        }
        let classes = found.classes.map_or("no head".into(), |n| n.to_string());
        rows.push(row("classes", classes));
        rows
    }

    /// The command that starts from these weights, if there is one.
    fn use_it(&self, recognized: &Result<Recognized, RecognizeError>) -> Option<Vec<String>> {
        let backbone = match recognized.as_ref().ok()?.only() {
            Ok(_) => String::new(),
            Err(_) => format!("--backbone {} ", self.networks[0]),
        };
        let file = self.path.display();
        Some(row("use it", format!("refit train DATA {backbone}--weights {file}")))
    }
}
