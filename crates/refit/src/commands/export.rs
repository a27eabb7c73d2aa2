//! `refit export`: a model for other programs.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use clap::{Args, ValueEnum};
use refit::Model;
use refit::data::{Interpolation, Preprocess, Resize};
use refit::net::onnx::{self, BatchNorms, Bytes, ExportOptions, Fit, ImportOptions, Preprocessing};
use refit::net::{Network, Shape, atomic_file, save_checkpoint, zoo};

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::AnyModelArg;

/// Write a model in a format of other programs
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
onnx: the network's graph, opset 17, for batches of any length; class names and preprocessing \
stand in the metadata. What was written is read again and compared with the network.
safetensors: the parameters alone, under the names of torchvision or timm, as PyTorch's \
load_state_dict takes them strictly.",
    after_help = "Examples:
  refit export model.safetensors --to onnx --out model.onnx
  refit export model.safetensors --to onnx --with-preprocessing --out model.onnx
  refit export resnet50 --weights resnet50.pth --to onnx --keep-batch-norms --out r.onnx
  refit export model.safetensors --to safetensors --out weights.safetensors

Without preprocessing the graph takes `images`, float32 [n, 3, h, w], normalized; with it, uint8 \
[n, height, width, 3], RGB, of any one size a batch. It gives `logits`, [n, classes]."
)]
pub struct Export {
    #[command(flatten)]
    model: AnyModelArg,

    /// Format
    #[arg(long, value_name = "FORMAT")]
    to: Format,

    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// onnx: resize, crop and normalize in the graph, which takes images as they are decoded
    /// (opset 18, the first whose resize is antialiased)
    #[arg(long)]
    with_preprocessing: bool,

    /// onnx: leave batch norms as they are, instead of folding them into convolutions
    #[arg(long)]
    keep_batch_norms: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A graph with weights
    Onnx,
    /// Weights alone
    Safetensors,
}

/// The largest difference between the network and what was written, relative to the largest logit.
const TOLERANCE: f32 = 1e-4;

impl Export {
    /// Exports.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        if self.to == Format::Safetensors && (self.with_preprocessing || self.keep_batch_norms) {
            return Err(Failure::mistake(
                "--with-preprocessing and --keep-batch-norms are about graphs, and safetensors \
                 holds weights alone",
                "leave them out, or write --to onnx",
            ));
        }
        let model = self.model.open(&machine.device())?;
        let file = self.out.display();
        match self.to {
            Format::Safetensors => {
                let tensors = save_checkpoint(&self.out, &model.network)?;
                let _ = writeln!(io::stderr(), "{file}: {tensors} tensors");
            }
            Format::Onnx => {
                let difference = self.onnx(&model)?;
                let _ = writeln!(
                    io::stderr(),
                    "{file}: read again, its logits differ by {difference:.1e} of the largest"
                );
            }
        }
        Ok(())
    }

    /// Writes the graph, reads it again, and gives how far its logits are from the network's.
    fn onnx(&self, model: &Model) -> Result<f32, Failure> {
        let preprocess = &model.card.preprocess;
        let options = ExportOptions {
            batch_norms: match self.keep_batch_norms {
                true => BatchNorms::Kept,
                false => BatchNorms::Folded,
            },
            preprocessing: self.with_preprocessing.then(|| preprocessing(preprocess)),
            metadata: metadata(model),
        };
        let bytes = onnx::export(&model.network, &options)?;
        let difference = read_again(&model.network, bytes.clone()).map_err(|problem| {
            Failure::mistake(
                format!("what would be written {problem}"),
                "nothing was written; random weights may amplify rounding so far, with others report it \
                 as a bug",
            )
        })?;
        atomic_file::write_sized(&self.out, bytes.len() as u64, |file| file.write_all(&bytes))?;
        Ok(difference)
    }
}

/// How far the logits of an exported network are from the network's, or what is wrong with it.
fn read_again(network: &Network, bytes: Bytes) -> Result<f32, String> {
    let options = ImportOptions::default();
    let back = onnx::import_bytes(bytes, "it", &options, network.device());
    let back = back.map_err(|error| format!("cannot be read again: {error}"))?;
    match difference(network, &back.network) {
        difference if difference <= TOLERANCE => Ok(difference),
        difference => Err(format!("gives logits that differ by {difference:.1e} of the largest")),
    }
}

/// Preprocessing as nodes of a graph.
fn preprocessing(preprocess: &Preprocess) -> Preprocessing {
    Preprocessing {
        size: preprocess.size,
        fit: match preprocess.resize {
            Resize::ShorterSide { to } => Fit::ShorterSide(to),
            Resize::Squash => Fit::Squash,
            Resize::Letterbox { fill } => Fit::Letterbox(fill),
        },
        interpolation: match preprocess.interpolation {
            Interpolation::Bilinear => zoo::Interpolation::Bilinear,
            Interpolation::Bicubic => zoo::Interpolation::Bicubic,
        },
        mean: preprocess.mean,
        std: preprocess.std,
    }
}

/// What prediction needs beside the graph, as JSON by key.
fn metadata(model: &Model) -> BTreeMap<String, String> {
    let json = |value: serde_json::Result<String>| value.expect("names and numbers serialize");
    BTreeMap::from([
        ("classes".into(), json(serde_json::to_string(&model.card.classes))),
        ("preprocess".into(), json(serde_json::to_string(&model.card.preprocess))),
        ("temperature".into(), model.card.temperature.to_string()),
        ("weights".into(), json(serde_json::to_string(&model.card.weights))),
    ])
}

/// How far two networks' logits for the same images are apart, relative to the largest.
fn difference(a: &Network, b: &Network) -> f32 {
    let Shape::Map { channels, height, width } = a.graph().input_shape() else {
        unreachable!("images are maps")
    };
    let shape = [2, channels, height, width];
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    let logits = |net: &Network| {
        let images = Tensor::<4>::from_data(TensorData::new(values.clone(), shape), net.device());
        net.compile_all().run(images).remove(0).to_vec()
    };
    let (a, b) = (logits(a), logits(b));
    let top = a.iter().fold(0.0_f32, |top, v| top.max(v.abs())).max(f32::MIN_POSITIVE);
    let apart = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    let apart = apart.fold(0.0_f32, |most, v| if v >= most || v.is_nan() { v } else { most });
    if a.len() == b.len() { apart / top } else { f32::INFINITY }
}
