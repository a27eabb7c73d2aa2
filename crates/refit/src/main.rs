//! The command line.

mod arguments;
mod augmentation;
mod backbones;
mod cli;
mod commands;
mod drawing;
mod edit_flags;
mod failure;
mod features_file;
mod gallery;
mod hub;
mod interrupt;
mod machine;
mod model_arg;
mod output;
mod progress;
mod recipe;
mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::failure::{Failure, guard};

/// Activations are large and live shortly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    guard(|| {
        let cli = Cli::try_parse().map_err(Failure::Usage)?;
        cli.machine.apply();
        commands::run(cli.command, &cli.machine)
    })
}
