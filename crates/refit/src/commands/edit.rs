//! `refit edit`: a network with some layers changed.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::Card;
use refit::net::{Change, LayerState, Weights};
use refit::{Edit, Model, Network};

use crate::cli::TEMPLATE;
use crate::edit_flags::EditFlags;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::AnyModelArg;
use crate::output::{Side, count, short, table};
use crate::recipe;

/// Change the layers of a network
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Prints what changes, layer by layer, and writes the edited model. Edits are made in their order, \
those of a recipe first; all are made, or none. Parameters keep their values as long as they keep \
their shapes; others start anew, and are trained.",
    after_help = "Examples:
  refit edit model.safetensors --recipe edits.toml --out new.safetensors
  refit edit efficientnet_lite0 --cut-at blocks.4 --out trunk.safetensors
  refit edit resnet18 --random 0 --remove layer4.1 --insert layer3=dropout:0.2
  refit edit efficientnet_lite0 --replace-head 5 --freeze upto:blocks.2
  refit edit resnet18 --random 0 --replace maxpool=avg_pool:2 --activation silu

LAYERS is a layer, a block (layer4), a glob ('blocks.*.bn1'), upto:NAME or from:NAME: all layers \
up to the end of NAME, or from its beginning on, as `refit layers` lists them.

NEW is a kind of layer with its fields; the first needs no name:
  conv:CHANNELS[,kernel=3][,stride=1][,groups=1][,dilation=1][,bias=true]
  linear:FEATURES[,bias=true]
  max_pool:WINDOW[,stride=WINDOW][,padding=0], and avg_pool alike
  adaptive_avg_pool:SIZE, global_avg_pool, flatten
  batch_norm, layer_norm, layer_scale:INITIAL
  dropout:SHARE, relu, silu, gelu, ...
--insert takes ,name=NAME too; else the layer is named after its place: layer3_dropout.

A recipe is TOML, a table for each edit; docs/surgery.md shows them all:
  [[edit]]
  insert = { after = \"layer3\", layer = { dropout = { share = 0.2 } } }
  [[edit]]
  freeze = { layers = \"upto:layer2\" }"
)]
pub struct EditCommand {
    #[command(flatten)]
    model: AnyModelArg,

    /// File of edits, made before those of flags
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Model file to write [default: none, only tell what would change]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Seed of what starts anew
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    edits: EditFlags,
}

impl EditCommand {
    /// Edits.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let mut steps = self.recipe.as_deref().map_or(Ok(Vec::new()), recipe::read)?;
        steps.extend(self.edits.0);
        if steps.is_empty() {
            return Err(Failure::mistake(
                "there is nothing to edit",
                "give --recipe FILE, or edits as flags; see `refit edit --help`",
            ));
        }
        let model = match self.out {
            Some(_) => self.model.open(&machine.device())?,
            None => self.model.open_untrained(&machine.device())?,
        };
        let edits = recipe::check(&steps, model.network.graph())?;
        let changes = model.network.changes(&edits)?;
        write!(io::stdout(), "{}", in_words(&changes))?;
        let network = model.network.edit(&edits, self.seed)?;
        let _ = writeln!(io::stderr(), "{}", summary(&changes, &network));
        if let Some(out) = &self.out {
            if changes_values(&edits) {
                tell_dropped(&model.card);
            }
            edited(model, network, &edits).save(out)?;
            let _ = writeln!(io::stderr(), "wrote {}", out.display());
        }
        Ok(())
    }
}

/// The model with its network edited; what the card says of classes and accuracy goes with what it
/// was about.
fn edited(model: Model, network: Network, edits: &[Edit]) -> Model {
    let mut card = model.card;
    if changes_values(edits) {
        card.metrics = None;
        card.temperature = 1.0;
        card.unknown = None;
    }
    let is_new_head = edits.iter().any(|edit| matches!(edit, Edit::ReplaceHead { .. }));
    let graph = network.graph();
    let outputs = graph.nodes()[graph.output()].shape.elements();
    if is_new_head && graph.is_head(graph.output()) {
        card.classes = (0..outputs).map(|class| class.to_string()).collect();
    } else if outputs != card.classes.len() || graph.head().is_empty() {
        card.classes.clear();
    }
    Model { network, card }
}

/// Whether edits change what the network computes.
fn changes_values(edits: &[Edit]) -> bool {
    let freezes = |edit: &Edit| {
        matches!(
            edit,
            Edit::Freeze { .. }
                | Edit::Unfreeze { .. }
                | Edit::FreezeBody
                | Edit::UnfreezeFrom { .. }
                | Edit::Rename { .. }
        )
    };
    !edits.iter().all(freezes)
}

/// Says what was known of the network as it was.
fn tell_dropped(card: &Card) {
    let known = [
        (card.metrics.is_some(), "metrics"),
        (card.temperature != 1.0, "temperature"),
        (card.unknown.is_some(), "distance of unknown images"),
    ];
    let known: Vec<&str> = known.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
    if !known.is_empty() {
        let _ = writeln!(
            io::stderr(),
            "note: left out, as of the network before the edit: {}",
            known.join(", ")
        );
    }
}

/// A line for each layer that is another one now. That a layer without parameters is frozen or
/// trained too goes without saying.
fn in_words(changes: &[Change]) -> String {
    let header = ["layer", "before", "after", "shape", "parameters", "state"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(changes.iter().filter(|c| !is_silent(c)).map(row));
    match rows.len() {
        1 => String::new(),
        _ => table(&[Side::Left; 6], &rows),
    }
}

fn is_silent(change: &Change) -> bool {
    let (Some(before), Some(after)) = (&change.before, &change.after) else { return false };
    after.parameters == 0 && LayerState { frozen: after.frozen, ..before.clone() } == *after
}

fn row(change: &Change) -> Vec<String> {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let both = |say: &dyn Fn(&LayerState) -> String| match (before.map(say), after.map(say)) {
        (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
        (before, after) => after.or(before).unwrap_or_default(),
    };
    let kind = |state: Option<&LayerState>| state.map_or("-".into(), |s| s.layer.to_string());
    let parameters = |s: &LayerState| match s.parameters {
        0 => "-".to_owned(),
        n => n.to_string(),
    };
    let state = match change.weights {
        Weights::None => "-".into(),
        Weights::Kept => both(&state),
        Weights::Fresh => format!("{}, starts anew", after.map(state).unwrap_or_default()),
        Weights::Rows(n) => {
            let state = after.map(state).unwrap_or_default();
            format!("{state}, starts anew but for {}", count(n, "row"))
        }
    };
    vec![
        both(&|s| s.name.clone()),
        kind(before),
        kind(after),
        both(&|s| s.shape.to_string()),
        both(&parameters),
        state,
    ]
}

fn state(state: &LayerState) -> String {
    if state.frozen { "frozen" } else { "trained" }.to_owned()
}

fn summary(changes: &[Change], network: &Network) -> String {
    let is = |test: &dyn Fn(&Change) -> bool| changes.iter().filter(|c| test(c)).count();
    let new = is(&|c| c.before.is_none());
    let gone = is(&|c| c.after.is_none());
    let fresh = is(&|c| c.weights == Weights::Fresh);
    let trained: usize = network.trainable().map(|(_, p)| p.len()).sum();
    format!(
        "{}: {new} new, {gone} removed, {} with values that start anew; {} parameters, {} of them \
         trained",
        network.graph().name(),
        count(fresh, "layer"),
        short(network.parameter_count() as u64),
        short(trained as u64),
    )
}
