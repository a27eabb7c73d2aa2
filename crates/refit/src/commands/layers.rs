//! `refit layers`: what a network is made of.

mod tree;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::net::{Graph, ReceptiveField, Shape, atomic_file};
use serde::Serialize;

use crate::arguments;
use crate::cli::TEMPLATE;
use crate::commands::models::parameter_count;
use crate::drawing::{Picture, dot, svg};
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
  refit layers resnet18 --tree=2
  refit layers googlenet --graph googlenet.svg
  refit layers resnet18 --json

These are the names that --at, --unfreeze-from and `refit edit` take; the first part of a name \
means the whole block: `layer4` in `layer4.0.conv1`. Shapes are those at the network's own input \
size, n being the images in a batch; in JSON, n is left out.

The receptive field is the pixels that a value depends on and, behind /, those from one value to \
the next (Araujo et al. 2019); a factor that squeezes the whole image into a gate does not count."
)]
pub struct Layers {
    #[command(flatten)]
    model: AnyModelArg,

    /// With parameters, multiply-adds, what is frozen, and the receptive field
    #[arg(long, group = "how")]
    long: bool,

    /// As a tree by the parts of names, with sums; down to DEPTH parts
    #[arg(long, value_name = "DEPTH", num_args = 0..=1, require_equals = true,
          default_missing_value = "99", value_parser = arguments::at_least_one, group = "how")]
    tree: Option<usize>,

    /// Draw the network into a file: .svg, or .dot for Graphviz
    #[arg(long, value_name = "FILE", group = "how")]
    graph: Option<PathBuf>,

    /// Print everything as JSON
    #[arg(long, group = "how")]
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
    receptive_field: Option<Field>,
}

#[derive(Serialize)]
struct Field {
    size: [usize; 2],
    stride: [usize; 2],
}

impl From<ReceptiveField> for Field {
    fn from(ReceptiveField { size, stride }: ReceptiveField) -> Self {
        Self { size, stride }
    }
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
        let text = match (&self.graph, self.tree) {
            (Some(file), _) => {
                draw(file, &Picture { graph: &graph, frozen: &frozen, title: &listing.totals() })?;
                String::new()
            }
            (None, Some(depth)) => tree::tree(&listing, &graph, depth),
            _ if self.json => {
                serde_json::to_string(&listing).expect("names and numbers serialize") + "\n"
            }
            _ => listing.in_words(self.long),
        };
        write!(io::stdout(), "{text}")?;
        if !self.json {
            let _ = writeln!(io::stderr(), "{}", listing.totals());
        }
        Ok(())
    }
}

fn draw(file: &Path, picture: &Picture) -> Result<(), Failure> {
    let text = match file.extension().and_then(|ending| ending.to_str()) {
        Some("svg") => svg(picture),
        Some("dot" | "gv") => dot(picture),
        _ => {
            return Err(Failure::mistake(
                format!("{} names no format that networks are drawn in", file.display()),
                "end the name in .svg, or in .dot for Graphviz",
            ));
        }
    };
    Ok(atomic_file::write(file, |out| out.write_all(text.as_bytes()))?)
}

impl<'a> Listing<'a> {
    fn new(graph: &'a Graph, frozen: &[bool]) -> Self {
        let fields = graph.receptive_fields();
        let row = |(id, node): (usize, &'a refit::net::Node)| Row {
            name: &node.name,
            kind: node.layer.kind(),
            shape: node.shape,
            parameters: parameter_count(graph, id),
            multiply_adds: graph.multiply_adds(id),
            frozen: frozen[id],
            receptive_field: fields[id].map(Field::from),
        };
        let layers: Vec<Row> = graph.nodes().iter().enumerate().map(row).collect();
        Self {
            network: graph.name(),
            head: graph.head(),
            features: &graph.nodes()[graph.features()].name,
            parameters: layers.iter().map(|l| l.parameters).sum(),
            multiply_adds: graph.total_multiply_adds(),
            layers,
        }
    }

    fn in_words(&self, long: bool) -> String {
        let columns = if long { 7 } else { 3 };
        let header =
            ["name", "kind", "shape", "parameters", "multiply-adds", "state", "receptive field"];
        let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
        rows.extend(self.layers.iter().map(Row::cells));
        rows.iter_mut().for_each(|row| row.truncate(columns));
        let (l, r) = (Side::Left, Side::Right);
        table(&[l, l, l, r, r, l, l][..columns], &rows)
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

impl Row<'_> {
    fn cells(&self) -> Vec<String> {
        let state = match self.frozen {
            true => "frozen",
            false if self.parameters > 0 => "trained",
            false => "",
        };
        let pair = |[h, w]: [usize; 2]| if h == w { h.to_string() } else { format!("{h}x{w}") };
        let field = |f: &Field| format!("{} / {}", pair(f.size), pair(f.stride));
        vec![
            self.name.to_owned(),
            self.kind.to_owned(),
            self.shape.to_string(),
            number(self.parameters),
            number(self.multiply_adds),
            state.to_owned(),
            self.receptive_field.as_ref().map_or("all".into(), field),
        ]
    }
}

/// A number, or nothing.
fn number(n: u64) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}
