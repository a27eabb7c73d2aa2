//! Images that look like one: an index of a folder, and a search in it.
//!
//! ```console
//! $ cargo run --release --example retrieval -- path/to/images path/to/one.jpg
//! ```

use std::path::{Path, PathBuf};

use refit::data::{Sample, list_images};
use refit::learn::retrieval::{Entry, Index, IndexOptions, Source};
use refit::net::Precision;
use refit::{Device, Model, RunOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: retrieval FOLDER IMAGE";
    let (folder, image) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);

    let name = "efficientnet_lite0";
    let model = Model::open(name, &Device::flex())?;
    let source = Source::of(&model, name, None, Precision::F32)?;
    let samples = |paths: &[PathBuf]| -> Vec<Sample> {
        paths.iter().map(|path| Sample { path: path.clone(), label: 0 }).collect()
    };
    let take = |paths: &[PathBuf]| {
        source.features(&model, &samples(paths), &RunOptions::default(), None, &())
    };

    let paths = list_images(&[folder.into()])?;
    let features = take(&paths)?;
    let entry =
        |(&i, &content): (&usize, _)| Entry { path: paths[i].clone(), content, label: None };
    let entries: Vec<Entry> = features.readable.iter().zip(&features.hashes).map(entry).collect();
    let (file, options) = (Path::new("images.index"), IndexOptions::default());
    Index::create(file, source.clone(), &options, &entries, &features.rows, &())?;

    let index = Index::open(file)?;
    let query = take(&[image.into()])?;
    for hit in index.search(&query.rows, 5, None) {
        eprintln!("{:.4}  {}", hit.similarity, index.entry(hit.row).path.display());
    }
    Ok(())
}
