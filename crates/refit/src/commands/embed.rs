//! `refit embed`: features of images, for other programs.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::arguments::PrecisionArg;
use crate::cli::TEMPLATE;
use crate::commands::predict::{name_skipped, samples};
use crate::failure::Failure;
use crate::features_file::{Format, Rows};
use crate::machine::Machine;
use crate::model_arg::ModelArg;
use crate::output::count;
use crate::progress::Progress;

/// Write the features of images to a file
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Features are what the network's head takes, or what any layer gives; of a feature map, each \
channel's mean over the image.",
    after_help = "Examples:
  refit embed efficientnet_lite0 photos/ --out features.npy
  refit embed model.safetensors photos/ --out features.parquet
  refit embed efficientnet_lite0 photos/ --at blocks.4 --out features.csv
  refit embed efficientnet_lite0 photos/ --precision bf16 --out features.npy

Formats, by the name's ending:
  .npy       float32 [n, dim]; the paths, a line each, in FILE.paths.txt
  .csv       path,f0,f1,...
  .parquet   a column `path` and a float column for each feature: f0, f1, ...

An unreadable image is named on stderr and left out."
)]
pub struct Embed {
    #[command(flatten)]
    model: ModelArg,

    /// Images, folders of them, or - for a list on stdin, a path a line
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// File to write: .npy, .csv or .parquet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Layer or block whose values are the features [default: what the head takes]
    #[arg(long, value_name = "LAYER")]
    at: Option<String>,

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
                "end the name in .npy, .csv or .parquet",
            ));
        };
        let model = self.model.open(&machine.device())?;
        let graph = model.network.graph();
        let node = match &self.at {
            Some(layer) => graph.find(layer)?,
            None => graph.features(),
        };
        let node = &graph.nodes()[node];
        let samples = samples(&self.paths)?;
        let mut rows = Rows::for_file(&self.out, node.shape.channels())?;
        let progress = Progress::new();
        let options = machine.run_options(self.strict, self.precision.precision);
        let mut broken = None;
        let done = progress.stage("embed", samples.len(), || {
            model.run(&samples, Some(&node.name), &options, &progress, &mut |output| {
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
        let dim = node.shape.channels();
        let text = format!("{images}, {dim} features each: {}", files.join(" and "));
        let _ = writeln!(io::stderr(), "{text}");
        Ok(())
    }
}
