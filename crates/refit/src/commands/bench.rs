//! `refit bench`: how fast a network runs here.

mod job;
mod layers;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};
use clap::{Args, ValueEnum};
use refit::data::Stream;
use refit::learn::{Optimizer, OptimizerKind, Pace, Targets};
use refit::net::{
    Edit, HeadKind, NormStatistics, Precision, StepTime, Training, TrainingOptions, profile,
};
use refit::{Device, LearnError, Network, RunOptions, Strategy, TrainingSettings};
use serde::Serialize;

use self::job::JobTimes;
use self::layers::LayerTimes;
use crate::arguments;
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::interrupt;
use crate::machine::Machine;
use crate::model_arg::AnyModelArg;

/// Measure how fast a network runs on this machine
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Runs random images through the network until --seconds have passed, at least three times after \
two that do not count, and prints a JSON object: images a second (of the median step), seconds \
a step, and the highest memory use of the process.",
    after_help = "Examples:
  refit bench efficientnet_lite0
  refit bench resnet50 --batch 1 --threads 1
  refit bench resnet18 --mode train --batch 16 --seconds 20
  refit bench resnet50 --layers
  refit bench efficientnet_lite0 --job photos/

`infer` compiles the network first, as `predict` does. `train` trains all layers on two \
classes: batch statistics, cross-entropy, SGD with momentum. Speed does not depend on the \
weights: a network that comes without any gets random ones."
)]
pub struct Bench {
    #[command(flatten)]
    model: AnyModelArg,

    /// What to measure
    #[arg(long, value_name = "MODE", default_value = "infer")]
    mode: Mode,

    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = arguments::at_least_one)]
    batch: usize,

    /// Height and width of the images in pixels [default: the network's own]
    #[arg(long, value_name = "N", value_parser = arguments::at_least_one)]
    size: Option<usize>,

    /// Type of the numbers: f32, or bf16 on a CPU with AMX or AVX512-BF16; `train` is in f32
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = arguments::precision)]
    precision: Precision,

    /// How long to measure
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    seconds: f64,

    /// Show the time of each layer
    #[arg(long)]
    layers: bool,

    /// Show where the time of a job over these images goes: decoding, preprocessing, the network
    /// up to its head, fitting a head
    #[arg(long, value_name = "DATA", conflicts_with_all = ["layers", "mode", "size", "seconds"])]
    job: Option<PathBuf>,

    /// Print JSON, which it does in any case but for --layers and --job
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Infer,
    Train,
}

/// A number of seconds, with or without a unit.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => arguments::duration(text),
    }
}

#[derive(Serialize)]
struct Measured<'a> {
    refit: &'static str,
    model: &'a str,
    mode: Mode,
    batch: usize,
    size: usize,
    precision: Precision,
    threads: usize,
    steps: usize,
    images_per_second: f64,
    step_seconds: Spread,
    peak_rss_mib: Option<f64>,
    #[serde(flatten)]
    layers: Option<LayerTimes>,
}

#[derive(Serialize)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Bench {
    /// Measures.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        interrupt::ask_first();
        let device = machine.device();
        let model = self.model.open_untrained(&device)?;
        let size = self.size.unwrap_or(model.card.preprocess.size);
        model.network.graph().shapes_at(size, size)?;
        let batch = self.batch;
        if size > 16_384 || batch.saturating_mul(3 * size * size) > 1 << 31 {
            return Err(Failure::mistake(
                format!("{batch} images of {size}x{size} pixels are too much for one step"),
                "choose a smaller --batch or --size",
            ));
        }
        if let Some(data) = &self.job {
            let options = RunOptions { batch, ..machine.run_options(false, self.precision) };
            let times = JobTimes::measure(&model.for_rgb()?, data, &options)?;
            return self.print(&times, || times.in_words());
        }
        let channels = model.network.graph().input_shape().channels();
        let images = random_images([batch, channels, size, size], &device);
        let (times, runs, network) = match self.mode {
            Mode::Infer => {
                let output = &model.network.graph().nodes()[model.network.graph().output()].name;
                let compiled = model.network.compile_in(&[output], self.precision)?;
                let run = || drop(compiled.run(images.clone()).remove(0).to_vec());
                let (times, runs) = self.measure(run)?;
                (times, runs, model.network)
            }
            Mode::Train if self.precision != Precision::F32 => {
                return Err(Failure::mistake(
                    "networks are trained in f32",
                    "leave --precision out, or use --mode infer",
                ));
            }
            Mode::Train => {
                let mut step = TrainStep::new(model.network, batch)?;
                let (times, runs) = self.measure(|| step.run(images.clone()))?;
                (times, runs, step.network)
            }
        };
        let mut measured = self.measured(machine, size, times);
        if self.layers {
            let shapes = network.graph().shapes_at(size, size)?;
            let layers = LayerTimes::new(network.graph(), &shapes, batch, &runs);
            let words = layers.in_words();
            measured.layers = Some(layers);
            return self.print(&measured, || words);
        }
        let json = serde_json::to_string(&measured).expect("names and numbers serialize");
        writeln!(io::stdout(), "{json}")?;
        if io::stdout().is_terminal() && !self.json {
            let _ = writeln!(
                io::stderr(),
                "{:.1} images a second with {} threads",
                measured.images_per_second,
                measured.threads
            );
        }
        Ok(())
    }

    /// Prints as JSON where that was asked for, else in words.
    fn print(&self, value: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = match self.json {
            true => serde_json::to_string(value).expect("names and numbers serialize") + "\n",
            false => words(),
        };
        Ok(write!(io::stdout(), "{text}")?)
    }

    /// Seconds of each step that counts, ascending, and the times within it where they are wanted.
    fn measure(&self, mut step: impl FnMut()) -> Result<(Vec<f64>, Vec<Vec<StepTime>>), Failure> {
        const WARM_UP: usize = 2;
        const LEAST: usize = 3;
        let (mut times, mut runs) = (Vec::new(), Vec::new());
        let mut began = Instant::now();
        for n in 0.. {
            if n == WARM_UP {
                began = Instant::now();
            }
            let step_began = Instant::now();
            let within = match self.layers {
                true => profile(&mut step).1,
                false => {
                    step();
                    Vec::new()
                }
            };
            if n >= WARM_UP {
                times.push(step_began.elapsed().as_secs_f64());
                runs.push(within);
            }
            if interrupt::asked() {
                return Err(LearnError::Stopped.into());
            }
            let over = began.elapsed() >= Duration::from_secs_f64(self.seconds);
            if times.len() >= LEAST && over {
                break;
            }
        }
        times.sort_by(f64::total_cmp);
        Ok((times, runs))
    }

    fn measured(&self, machine: &Machine, size: usize, times: Vec<f64>) -> Measured<'_> {
        let half = times.len() / 2;
        let median = match times.len() % 2 {
            0 => (times[half - 1] + times[half]) / 2.0,
            _ => times[half],
        };
        Measured {
            refit: env!("CARGO_PKG_VERSION"),
            model: &self.model.model.name,
            mode: self.mode,
            batch: self.batch,
            size,
            precision: self.precision,
            threads: machine.threads(),
            steps: times.len(),
            images_per_second: self.batch as f64 / median,
            step_seconds: Spread { min: times[0], median, max: times[times.len() - 1] },
            peak_rss_mib: peak_rss_mib(),
            layers: None,
        }
    }
}

/// Values about as wide as preprocessed images', the same each time.
fn random_images(shape: [usize; 4], device: &Device) -> Tensor<4> {
    let mut stream = Stream::new(0, "bench", &[]);
    let value = |_| (stream.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// One step of training everything on two classes.
struct TrainStep {
    network: Network,
    training: Training,
    optimizer: Optimizer,
    targets: Targets,
    done: u64,
}

impl TrainStep {
    const RATE: f64 = 1e-3;

    fn new(network: Network, batch: usize) -> Result<Self, Failure> {
        let edits = [
            Edit::ReplaceHead { classes: 2, kind: HeadKind::Linear, keep: vec![] },
            Edit::Unfreeze { layers: "*".into() },
        ];
        let network = network.edit(&edits, 0)?;
        let settings = TrainingSettings {
            optimizer: OptimizerKind::Sgd,
            learning_rate: Self::RATE,
            lowest_rate: 1.0,
            weight_decay: 0.0,
            ..TrainingSettings::for_strategy(Strategy::PretrainedInit)
        };
        let labels: Vec<usize> = (0..batch).map(|i| i % 2).collect();
        Ok(Self {
            training: Training::new(&network),
            optimizer: Optimizer::new(&network, &settings),
            targets: Targets::new(&labels, &[1.0, 1.0], 0.0, network.device()),
            network,
            done: 0,
        })
    }

    fn run(&mut self, images: Tensor<4>) {
        let options = TrainingOptions { norms: NormStatistics::Batch, dropout_key: self.done };
        let boundary = self.training.run_frozen(images);
        let mut pass = self.training.pass(&self.network, boundary, options);
        let loss = self.targets.cross_entropy(pass.logits.clone());
        let gradients = pass.gradients(&loss);
        self.optimizer.step(&mut self.network, gradients, Pace { rate: 1.0, momentum: 0.9 });
        pass.update_statistics(&mut self.network);
        self.done += 1;
    }
}

/// The most memory that the process had, where the system tells (Linux).
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some((kib / 1024.0 * 10.0).round() / 10.0)
}
