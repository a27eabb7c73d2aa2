//! What a command may use of the machine; none of it changes a result.

use std::num::NonZeroUsize;

use clap::Args;
use refit::data::Strictness;
use refit::net::Precision;
use refit::{Device, RunOptions};

use crate::arguments;

/// Options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Machine")]
pub struct Machine {
    /// Threads to use [default: all processors]
    #[arg(long, global = true, value_name = "N", display_order = 900,
          value_parser = arguments::at_least_one)]
    threads: Option<usize>,

    /// Where to compute; `cpu` is all there is for now
    #[arg(long, global = true, value_name = "DEVICE", default_value = "cpu",
          hide_default_value = true, value_parser = device, display_order = 901)]
    device: Place,
}

/// Where networks run.
#[derive(Debug, Clone, Copy)]
enum Place {
    Cpu,
}

fn device(name: &str) -> Result<Place, String> {
    match name {
        "cpu" => Ok(Place::Cpu),
        _ => Err("this refit computes on `cpu` only".into()),
    }
}

impl Machine {
    /// Number of threads.
    pub fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.threads.unwrap_or_else(all)
    }

    /// Sizes the thread pool that the networks run on; to be called once, before any work.
    pub fn apply(&self) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads());
        // Fails only where a pool is there already; then that one serves.
        let _ = pool.build_global();
    }

    /// Where networks run.
    pub fn device(&self) -> Device {
        match self.device {
            Place::Cpu => Device::flex(),
        }
    }

    /// How images run through a network.
    pub fn run_options(&self, strict: bool, precision: Precision) -> RunOptions {
        let strictness = if strict { Strictness::Strict } else { Strictness::Skip };
        RunOptions { workers: self.threads(), strictness, precision, ..RunOptions::default() }
    }
}
