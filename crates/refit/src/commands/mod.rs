//! A command a file.

pub mod advise;
pub mod augment;
pub mod bench;
pub mod compare;
pub mod dedup;
pub mod distill;
pub mod doctor;
pub mod edit;
pub mod embed;
pub mod evaluate;
pub mod explain;
pub mod export;
pub mod import;
pub mod index;
pub mod info;
pub mod layers;
pub mod models;
pub mod predict;
pub mod pull;
pub mod report;
pub mod run;
pub mod train;
pub mod tune;

use crate::cli::Command;
use crate::failure::Failure;
use crate::machine::Machine;

/// Carries out a command.
pub fn run(command: Command, machine: &Machine) -> Result<(), Failure> {
    match command {
        Command::Train(train) => train.run(machine),
        Command::Advise(advise) => advise.run(machine),
        Command::Tune(tune) => tune.run(machine),
        Command::Distill(distill) => distill.run(machine),
        Command::Augment(augment) => augment.run(machine),
        Command::Compare(compare) => compare.run(machine),
        Command::Predict(predict) => predict.run(machine),
        Command::Evaluate(evaluate) => evaluate.run(machine),
        Command::Explain(explain) => explain.run(machine),
        Command::Report(report) => report.run(machine),
        Command::Embed(embed) => embed.run(machine),
        Command::Index(index) => index.run(machine),
        Command::Dedup(dedup) => dedup.run(machine),
        Command::Doctor(doctor) => doctor.run(machine),
        Command::Run(run) => run.run(machine),
        Command::Export(export) => export.run(machine),
        Command::Import(import) => import.run(machine),
        Command::Layers(layers) => layers.run(machine),
        Command::Edit(edit) => edit.run(machine),
        Command::Models(models) => models.run(),
        Command::Pull(pull) => pull.run(),
        Command::Info(info) => info.run(machine),
        Command::Bench(bench) => bench.run(machine),
    }
}
