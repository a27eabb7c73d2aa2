//! `refit run`: an array through a network, without any image.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use clap::Args;
use npyz::{DType, NpyFile, NpyHeader, Order, TypeChar, WriterBuilder};
use refit::net::{Compiled, Shape, atomic_file};
use refit::{Device, LearnError, Watch};

use crate::arguments::PrecisionArg;
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::AnyModelArg;
use crate::progress::Progress;

/// Run a NumPy array through a network
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
The array is [n, 3, h, w] in C order, float32 (or float64, which is converted), and goes in as \
it is: nothing is resized or normalized. What comes out is not pooled: [n, c, h, w] for a \
feature map, [n, features] for a vector.",
    after_help = "Examples:
  refit run efficientnet_lite0 --input x.npy --output logits.npy
  refit run model.safetensors --input x.npy --output maps.npy --at blocks.3
  refit run resnet50 --weights resnet50.pth --input x.npy --output logits.npy
  refit run resnet18 --random 0 --input x.npy --output y.npy
  refit run resnet18 --random 0 --input x.npy --output y.npy --precision bf16

What is written is float32 in either precision."
)]
pub struct Run {
    #[command(flatten)]
    model: AnyModelArg,

    /// The array to read
    #[arg(long, value_name = "X.npy")]
    input: PathBuf,

    /// The array to write
    #[arg(long, value_name = "Y.npy")]
    output: PathBuf,

    /// The layer or block whose values are wanted [default: the network's output]
    #[arg(long, value_name = "LAYER")]
    at: Option<String>,

    #[command(flatten)]
    precision: PrecisionArg,
}

/// Images that run at a time.
const BATCH: usize = 32;

impl Run {
    /// Runs.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let input = Input::open(&self.input)?;
        let network = self.model.open(&machine.device())?.network;
        let graph = network.graph();
        let node = match &self.at {
            Some(layer) => graph.find(layer)?,
            None => graph.output(),
        };
        let [n, channels, height, width] = input.shape;
        let takes = graph.input_shape().channels();
        if channels != takes {
            return Err(input.wrong_shape(takes));
        }
        let shape = output_shape(n, graph.shapes_at(height, width)?[node]);
        let compiled =
            network.compile_in(&[&graph.nodes()[node].name], self.precision.precision)?;
        let device = network.device();
        let progress = Progress::new();
        let mut failure = None;
        let written = progress.stage("run", n, || {
            atomic_file::write(&self.output, |file| {
                input.run(&compiled, device, &shape, file, &progress).map_err(|error| match error {
                    Ended::Write(error) => error,
                    Ended::Other(error) => {
                        failure = Some(error);
                        io::Error::other("nothing to write")
                    }
                })
            })
        });
        match failure {
            Some(failure) => Err(failure),
            None => Ok(written?),
        }
    }
}

fn output_shape(n: usize, shape: Shape) -> Vec<u64> {
    let extents = match shape {
        Shape::Map { channels, height, width } => vec![n, channels, height, width],
        Shape::Vector { features } => vec![n, features],
    };
    extents.into_iter().map(|extent| extent as u64).collect()
}

/// Why a run ended early.
enum Ended {
    Write(io::Error),
    Other(Failure),
}

/// An array that was checked as far as its header tells.
struct Input {
    path: PathBuf,
    file: NpyFile<BufReader<File>>,
    shape: [usize; 4],
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let file = File::open(path).map_err(|error| {
            Failure::mistake(format!("cannot read {shown}: {error}"), "see whether it is there")
        })?;
        let length = file.metadata().map(|m| m.len()).unwrap_or(u64::MAX);
        let mut reader = BufReader::new(file);
        let header = NpyHeader::from_reader(&mut reader).map_err(|error| {
            Failure::mistake(
                format!("{shown} is no .npy file: {error}"),
                "write it with numpy.save(\"x.npy\", x)",
            )
        })?;
        let refuse =
            |what: String, hint: &str| Err(Failure::mistake(format!("{shown} {what}"), hint));
        let DType::Plain(kind) = header.dtype() else {
            return refuse("holds records, not numbers".into(), "save a plain array");
        };
        if kind.type_char() != TypeChar::Float || !matches!(kind.size_field(), 4 | 8) {
            return refuse(
                format!("holds numbers of type {kind}, not float32"),
                "convert it: numpy.save(\"x.npy\", x.astype(\"float32\"))",
            );
        }
        if header.order() != Order::C {
            return refuse(
                "is in Fortran order".into(),
                "save it in C order: numpy.save(\"x.npy\", numpy.ascontiguousarray(x))",
            );
        }
        let extents: Option<Vec<usize>> =
            header.shape().iter().map(|&extent| usize::try_from(extent).ok()).collect();
        let shape = extents.and_then(|extents| <[usize; 4]>::try_from(extents).ok());
        let Some(shape) = shape.filter(|shape| shape.iter().all(|&extent| extent > 0)) else {
            return refuse(
                format!("has the shape {:?}, not [n, 3, height, width]", header.shape()),
                "one image is [1, 3, height, width]",
            );
        };
        let bytes = shape.iter().try_fold(kind.size_field(), |b, &e| b.checked_mul(e as u64));
        if bytes.is_none_or(|bytes| bytes > length) {
            return refuse(
                format!("is cut short: it says {shape:?}, but has {length} bytes"),
                "copy or save it again",
            );
        }
        let file = NpyFile::with_header(header, reader);
        Ok(Self { path: path.to_owned(), file, shape })
    }

    fn wrong_shape(&self, channels: usize) -> Failure {
        let [_, found, _, width] = self.shape;
        let last = match width == channels {
            true => ": for [n, h, w, c], x.transpose(0, 3, 1, 2)",
            false => "",
        };
        Failure::mistake(
            format!(
                "{} has the shape {:?}: {found} channels, not {channels}",
                self.path.display(),
                self.shape
            ),
            format!("the network takes [n, {channels}, height, width]{last}"),
        )
    }

    /// Runs all images in batches and writes what comes out.
    fn run(
        self,
        compiled: &Compiled,
        device: &Device,
        shape: &[u64],
        file: &mut dyn Write,
        progress: &Progress,
    ) -> Result<(), Ended> {
        let [n, c, h, w] = self.shape;
        let (path, eight) = (self.path, self.file.dtype().num_bytes() == Some(8));
        let unreadable = |error: String| {
            Ended::Other(Failure::mistake(
                format!("cannot read {}: {error}", path.display()),
                "save it again with numpy.save",
            ))
        };
        let mut values: Box<dyn Iterator<Item = io::Result<f32>>> = match eight {
            true => {
                let doubles = self.file.data::<f64>().map_err(|e| unreadable(e.to_string()))?;
                Box::new(doubles.map(|x| x.map(|x| x as f32)))
            }
            false => Box::new(self.file.data::<f32>().map_err(|e| unreadable(e.to_string()))?),
        };
        let options = npyz::WriteOptions::<f32>::new().default_dtype().shape(shape).writer(file);
        let mut out = options.begin_nd().map_err(Ended::Write)?;
        for first in (0..n).step_by(BATCH) {
            let images = BATCH.min(n - first);
            let batch: io::Result<Vec<f32>> = values.by_ref().take(images * c * h * w).collect();
            let batch = batch.map_err(|error| unreadable(error.to_string()))?;
            let batch = TensorData::new(batch, [images, c, h, w]);
            let result = compiled.run(Tensor::from_data(batch, device)).remove(0);
            out.extend(result.to_vec()).map_err(Ended::Write)?;
            progress.event(refit::Event::Advance { items: images });
            if progress.stops() {
                return Err(Ended::Other(LearnError::Stopped.into()));
            }
        }
        out.finish().map_err(Ended::Write)
    }
}
