//! `refit index`: images that look like others.

mod build;
mod change;
mod evaluate;
pub mod images;
mod info;
mod query;

use clap::Subcommand;

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;

/// Find images that look like others
#[derive(Debug, Subcommand)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
An index is one file with a vector for each image: what a model makes of it, at any layer. Images \
that look alike to the model have vectors that lie near each other.",
    after_help = "Examples:
  refit index build photos/ --out photos.index
  refit index query photos.index new.jpg --top 5 --sheet found.png
  refit index add photos.index more/
  refit index evaluate photos.index
  refit index query --help               everything about one of them"
)]
pub enum Index {
    Build(build::Build),
    Query(query::Query),
    Add(change::Add),
    Remove(change::Remove),
    Info(info::Info),
    Evaluate(evaluate::Evaluate),
}

impl Index {
    /// Does what was asked for.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        match self {
            Self::Build(build) => build.run(machine),
            Self::Query(query) => query.run(machine),
            Self::Add(add) => add.run(machine),
            Self::Remove(remove) => remove.run(),
            Self::Info(info) => info.run(),
            Self::Evaluate(evaluate) => evaluate.run(machine),
        }
    }
}
