//! `refit models`: the networks that refit knows.

use std::io::{self, Write};

use clap::Args;
use refit::net::Graph;
use refit::net::zoo::{self, Architecture, EmbeddedWeights, InputSpec};
use serde::Serialize;

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::output::{Side, short, table};

/// List the networks that refit knows
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    after_help = "Examples:
  refit models
  refit models --json

Multiply-adds are those of one image at the network's own size. Weights that are not embedded \
are fetched with `refit pull NAME` where the table says so, or given with --weights FILE under the \
names of the column `names as in`. The last rows are no networks but features by a formula, for \
`refit train --backbone hog --learner trees` and the like."
)]
pub struct Models {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    parameters: u64,
    multiply_adds: u64,
    /// Of the images it takes.
    channels: usize,
    /// Whether it has any weights; else it describes images by a formula.
    has_weights: bool,
    input: InputSpec,
    weights: Option<EmbeddedWeights>,
    /// Where `refit pull` finds weights.
    published: Option<&'static str>,
    names_as: &'static str,
    /// Of the published checkpoints.
    licence: &'static str,
    paper: &'static str,
}

impl Models {
    /// Lists.
    pub fn run(self) -> Result<(), Failure> {
        let rows: Vec<Row> = zoo::all().chain(zoo::inputs()).map(row).collect();
        let text = match self.json {
            true => serde_json::to_string(&rows).expect("names and numbers serialize") + "\n",
            false => in_words(&rows),
        };
        Ok(write!(io::stdout(), "{text}")?)
    }
}

/// Values that training could move.
pub fn parameter_count(graph: &Graph, node: usize) -> u64 {
    let trained = graph.parameters(node).into_iter().filter(|p| p.role.is_trained());
    trained.map(|p| p.shape.iter().product::<usize>() as u64).sum()
}

fn row(architecture: &Architecture) -> Row {
    let graph = architecture.graph();
    let nodes = 0..graph.nodes().len();
    Row {
        name: architecture.name,
        parameters: nodes.map(|id| parameter_count(&graph, id)).sum(),
        multiply_adds: graph.total_multiply_adds(),
        channels: graph.input_shape().channels(),
        has_weights: architecture.has_parameters(),
        input: architecture.input,
        weights: architecture.embedded(),
        published: architecture.published().map(|published| published.repository),
        names_as: architecture.names_as,
        licence: architecture.licence,
        paper: architecture.paper,
    }
}

fn where_weights_are(row: &Row) -> &'static str {
    match (&row.weights, row.published) {
        _ if !row.has_weights => "none",
        (Some(_), _) => "embedded",
        (None, Some(_)) => "pull",
        (None, None) => "--weights",
    }
}

fn in_words(rows: &[Row]) -> String {
    let header = ["name", "parameters", "multiply-adds", "size", "weights", "names as in", "paper"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        vec![
            row.name.to_owned(),
            short(row.parameters),
            short(row.multiply_adds),
            row.input.size.to_string(),
            where_weights_are(row).to_owned(),
            row.names_as.to_owned(),
            row.paper.to_owned(),
        ]
    }));
    let (l, r) = (Side::Left, Side::Right);
    table(&[l, r, r, r, l, l, l], &cells)
}
