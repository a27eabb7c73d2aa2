//! The commands and their help.

use clap::{Parser, Subcommand};

use crate::commands::{
    advise, augment, bench, compare, dedup, distill, doctor, edit, embed, evaluate, explain,
    export, import, index, info, layers, models, predict, pull, report, run, train, tune,
};
use crate::machine::Machine;

/// Help in which options take a line each, and what a command does stands before them.
pub const TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Adapts pretrained networks to your own images.
#[derive(Debug, Parser)]
#[command(
    name = "refit",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  refit train photos/                   learn from photos/cat, photos/dog, ...
  refit predict model.safetensors new/  classify the images in new/
  refit train --help                    everything about one command

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 something to mend (the \
message says what), 2 a bug in refit, 130 stopped by Ctrl-C."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    pub machine: Machine,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Train(Box<train::Train>),
    Advise(advise::Advise),
    Tune(Box<tune::Tune>),
    Distill(Box<distill::Distill>),
    Augment(augment::AugmentCommand),
    Compare(compare::Compare),
    Predict(predict::Predict),
    Evaluate(evaluate::Evaluate),
    Explain(explain::Explain),
    Report(report::Report),
    Embed(embed::Embed),
    #[command(subcommand)]
    Index(index::Index),
    Dedup(dedup::Dedup),
    Doctor(doctor::Doctor),
    Run(run::Run),
    Export(export::Export),
    Import(import::Import),
    Layers(layers::Layers),
    Edit(Box<edit::EditCommand>),
    Models(models::Models),
    Pull(pull::Pull),
    Info(info::Info),
    Bench(bench::Bench),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }
}
