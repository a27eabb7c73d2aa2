//! `refit embed`: features of images, for other programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::net::{Graph, NodeId};

use crate::arguments::PrecisionArg;
use crate::cli::TEMPLATE;
use crate::commands::predict::{name_skipped, samples};
use crate::failure::Failure;
use crate::features_file::{Format, Group, Rows};
use crate::machine::Machine;
use crate::model_arg::ModelArg;
use crate::output::count;
use crate::progress::Progress;

/// Write the features of images to a file
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Features are what the network's head takes, or what any layers give; of a feature map, each \
channel's mean over the image.",
    after_help = "Examples:
  refit embed efficientnet_lite0 photos/ --out features.npy
  refit embed model.safetensors photos/ --out features.parquet
  refit embed efficientnet_lite0 photos/ --at blocks.4 --out features.csv
  refit embed resnet18 --weights resnet18.pth photos/ --at layer3 --at layer4 --out f.npz
  refit embed efficientnet_lite0 photos/ --precision bf16 --out features.npy

Formats, by the name's ending:
  .npy       float32 [n, dim]; the paths, a line each, in FILE.paths.txt
  .npz       such an array for each layer, under its name
  .csv       path,f0,f1,...
  .parquet   a column `path` and a float column for each feature: f0, f1, ...

With several layers, columns bear their names: layer3.f0, layer3.f1, ...

An unreadable image is named on stderr and left out."
)]
pub struct Embed {
    #[command(flatten)]
    model: ModelArg,

    /// Images, folders of them, or - for a list on stdin, a path a line
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// File to write: .npy, .npz, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Layer or block whose values are the features; may be given several times [default: what
    /// the head takes]
    #[arg(long, value_name = "LAYER")]
    at: Vec<String>,

    #[command(flatten)]
    precision: PrecisionArg,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,
}

impl Embed {
    /// Embeds.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let Some(format) = Format::of(&self.out) else {
            return Err(Failure::mistake(
                format!("{} names no format that refit writes", self.out.display()),
                "end the name in .npy, .npz, .csv or .parquet",
            ));
        };
        if format == Format::Npy && self.at.len() > 1 {
            return Err(Failure::mistake(
                format!("{} holds one array, not one of each layer", self.out.display()),
                "end the name in .npz, .csv or .parquet",
            ));
        }
        let model = self.model.open(&machine.device())?;
        let groups = groups(model.network.graph(), &self.at)?;
        let dims: Vec<String> = groups.iter().map(|group| group.dim.to_string()).collect();
        let layers: Vec<String> = groups.iter().map(|group| group.layer.clone()).collect();
        let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
        let samples = samples(&self.paths)?;
        let mut rows = Rows::for_file(&self.out, groups)?;
        let progress = Progress::new();
        let options = machine.run_options(self.strict, self.precision.precision);
        let mut broken = None;
        let done = progress.stage("embed", samples.len(), || {
            model.run(&samples, &layers, &options, &progress, &mut |output| {
                if let Err(error) = rows.push(&samples[output.index].path, &output.values) {
                    broken.get_or_insert(error);
                    progress.end();
                }
            })
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        name_skipped(&done?, samples.len(), &progress)?;
        let images = count(rows.len(), "image");
        let files = rows.finish(format)?;
        let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        let dims = dims.join(" + ");
        let text = format!("{images}, {dims} features each: {}", files.join(" and "));
        let _ = writeln!(io::stderr(), "{text}");
        Ok(())
    }
}

/// The layers that `at` names, each once; what the head takes if it names none.
fn groups(graph: &Graph, at: &[String]) -> Result<Vec<Group>, Failure> {
    let mut groups: BTreeMap<NodeId, String> = BTreeMap::new();
    for layer in at {
        if let Some(other) = groups.insert(graph.find(layer)?, layer.clone()) {
            return Err(Failure::mistake(
                format!("--at {other} and --at {layer} are one layer"),
                "leave one of them out",
            ));
        }
    }
    if groups.is_empty() {
        groups.insert(graph.features(), graph.nodes()[graph.features()].name.clone());
    }
    let group = |(id, layer): (NodeId, String)| {
        let dim = graph.nodes()[id].shape.channels();
        Group { layer, dim }
    };
    Ok(groups.into_iter().map(group).collect())
}
