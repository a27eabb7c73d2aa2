//! `refit layers`: what a network is made of.

use std::io::{self, Write};

use clap::Args;
use refit::net::{Graph, Shape};
use serde::Serialize;

use crate::cli::TEMPLATE;
use crate::commands::models::parameter_count;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::AnyModelArg;
use crate::output::{Side, short, table};

/// List the layers of a network
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    after_help = "Examples:
  refit layers efficientnet_lite0
  refit layers model.safetensors --long
  refit layers resnet18 --json

These are the names that --at and --unfreeze-from take; the first part of a name means the \
whole block: `layer4` in `layer4.0.conv1`. Shapes are those at the network's own input size, n \
being the images in a batch; in JSON, n is left out."
)]
pub struct Layers {
    #[command(flatten)]
    model: AnyModelArg,

    /// With parameters, multiply-adds, and what is frozen
    #[arg(long)]
    long: bool,

    /// Print everything as JSON
    #[arg(long, conflicts_with = "long")]
    json: bool,
}

#[derive(Serialize)]
struct Listing<'a> {
    network: &'a str,
    head: &'a str,
    features: &'a str,
    parameters: u64,
    multiply_adds: u64,
    layers: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'static str,
    #[serde(serialize_with = "extents")]
    shape: Shape,
    parameters: u64,
    multiply_adds: u64,
    frozen: bool,
}

fn extents<S: serde::Serializer>(shape: &Shape, serializer: S) -> Result<S::Ok, S::Error> {
    let extents = match *shape {
        Shape::Map { channels, height, width } => vec![channels, height, width],
        Shape::Vector { features } => vec![features],
    };
    extents.serialize(serializer)
}

impl Layers {
    /// Lists.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let (graph, frozen) = self.model.layers(&machine.device())?;
        let listing = Listing::new(&graph, &frozen);
        let mut stdout = io::stdout().lock();
        if self.json {
            let json = serde_json::to_string(&listing).expect("names and numbers serialize");
            return Ok(writeln!(stdout, "{json}")?);
        }
        write!(stdout, "{}", listing.in_words(self.long))?;
        let _ = writeln!(io::stderr(), "{}", listing.totals());
        Ok(())
    }
}

impl<'a> Listing<'a> {
    fn new(graph: &'a Graph, frozen: &[bool]) -> Self {
        let row = |(id, node): (usize, &'a refit::net::Node)| Row {
            name: &node.name,
            kind: node.layer.kind(),
            shape: node.shape,
            parameters: parameter_count(graph, id),
            multiply_adds: graph.multiply_adds(id),
            frozen: frozen[id],
        };
        let layers: Vec<Row> = graph.nodes().iter().enumerate().map(row).collect();
        Self {
            network: graph.name(),
            head: graph.head(),
            features: &graph.nodes()[graph.features()].name,
            parameters: layers.iter().map(|l| l.parameters).sum(),
            multiply_adds: layers.iter().map(|l| l.multiply_adds).sum(),
            layers,
        }
    }

    fn in_words(&self, long: bool) -> String {
        let columns = if long { 6 } else { 3 };
        let header = ["name", "kind", "shape", "parameters", "multiply-adds", "frozen"];
        let mut rows = vec![header[..columns].iter().map(|&h| h.to_owned()).collect()];
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        rows.extend(self.layers.iter().map(|layer| {
            let frozen = if layer.frozen { "yes" } else { "" };
            let mut cells = vec![
                layer.name.to_owned(),
                layer.kind.to_owned(),
                layer.shape.to_string(),
                number(layer.parameters),
                number(layer.multiply_adds),
                frozen.to_owned(),
            ];
            cells.truncate(columns);
            cells
        }));
        let (l, r) = (Side::Left, Side::Right);
        table(&[l, l, l, r, r, l][..columns], &rows)
    }

    fn totals(&self) -> String {
        let frozen = self.layers.iter().filter(|l| l.frozen).map(|l| l.parameters).sum::<u64>();
        let frozen = match frozen {
            0 => String::new(),
            n => format!(", {} of them frozen", short(n)),
        };
        format!(
            "{}: {} layers, {} parameters{frozen}, {} multiply-adds an image; the head is `{}`, \
             and takes what `{}` gives",
            self.network,
            self.layers.len(),
            short(self.parameters),
            short(self.multiply_adds),
            self.head,
            self.features,
        )
    }
}
