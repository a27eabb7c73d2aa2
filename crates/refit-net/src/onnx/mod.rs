//! Networks to and from ONNX (<https://onnx.ai>), the format in which other programs run them.
//!
//! [`export`] writes a network's graph; [`import`] makes a trainable network of an image classifier
//! that PyTorch, TensorFlow or Keras exported. `docs/onnx.md` lists the operators.

mod emit;
mod error;
mod export;
mod import;
mod names;
mod preprocess;
mod proto;
#[cfg(test)]
mod tests;

pub use error::OnnxError;
pub use export::{BatchNorms, ExportOptions, export};
pub use import::{ImportOptions, Imported, import, import_bytes};
pub use preprocess::{Fit, Preprocessing};
pub use prost::bytes::Bytes;

/// Who wrote an exported file.
const PRODUCER: &str = "refit";
/// The name of an exported network's images.
const INPUT: &str = "images";
/// The name of an exported network's result.
const OUTPUT: &str = "logits";
/// The name of what exported preprocessing gives to the network.
const PREPROCESSED: &str = "preprocessed";
