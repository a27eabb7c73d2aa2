//! `refit index add` and `refit index remove`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::data::check::hash_files;
use refit::learn::retrieval::Index;

use super::images::{self, Labelled, SameModel};
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::count;
use crate::progress::Progress;

/// Add images to an index
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Images that are in the index already, as they are now, are passed over; changed ones take the place \
of what they were. Nothing is computed again for the others. If it is stopped, the index is as it was.",
    after_help = "Examples:
  refit index add photos.index photos/
  refit index add photos.index one.jpg two.jpg"
)]
pub struct Add {
    /// The index
    index: PathBuf,

    /// Images, and folders of them
    #[arg(required = true, value_name = "IMAGES")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    model: SameModel,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,
}

impl Add {
    /// Adds.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let index = Index::open(&self.index)?;
        let images = images::labelled(&self.paths)?;
        let all = images.len();
        let images = changed(&index, images, machine);
        let known = all - images.len();
        let model = self.model.open(&index, machine)?;
        let progress = Progress::new();
        let (index, added) = match images.is_empty() {
            true => (index, Default::default()),
            false => {
                let paths: Vec<PathBuf> = images.iter().map(|image| image.path.clone()).collect();
                let source = index.source().clone();
                let features =
                    images::features(&source, &model, &paths, machine, self.strict, &progress)?;
                let entries = images::entries(&images, &features);
                index.add(&entries, &features.rows, &progress)?
            }
        };
        let _ = writeln!(
            io::stderr(),
            "{} added, {} changed, {known} there already: {} in {}",
            count(added.new, "image"),
            added.replaced,
            count(index.len(), "image"),
            self.index.display()
        );
        Ok(())
    }
}

/// Images that are not in the index as they are now. What cannot be read is told later.
fn changed(index: &Index, images: Vec<Labelled>, machine: &Machine) -> Vec<Labelled> {
    let there = index.by_path();
    let paths: Vec<PathBuf> = images.iter().map(|image| image.path.clone()).collect();
    let hashes = hash_files(&paths, machine.threads(), None);
    let is_there = |path: &Path, hash: Option<[u8; 32]>| {
        let row = std::path::absolute(path).ok().and_then(|path| there.get(&path).copied());
        row.is_some_and(|row| Some(index.entry(row).content) == hash)
    };
    let pairs = images.into_iter().zip(hashes);
    pairs
        .filter(|(image, hash)| !is_there(&image.path, hash.as_ref().ok().copied()))
        .map(|(image, _)| image)
        .collect()
}

/// Remove images from an index
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
The images' files are left alone, and need not be there. The room that removed images took is given \
back once it is more than half of the index.",
    after_help = "Examples:
  refit index remove photos.index photos/old/
  refit index remove photos.index --missing"
)]
pub struct Remove {
    /// The index
    index: PathBuf,

    /// Images, and folders of which all images go
    #[arg(required_unless_present = "missing", value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Remove the images whose files are gone
    #[arg(long)]
    missing: bool,
}

impl Remove {
    /// Removes.
    pub fn run(self) -> Result<(), Failure> {
        let index = Index::open(&self.index)?;
        let mut rows: Vec<usize> = Vec::new();
        let there = index.by_path();
        for path in &self.paths {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let below = there.iter().filter(|(image, _)| image.starts_with(&absolute));
            let before = rows.len();
            rows.extend(below.map(|(_, row)| row));
            if rows.len() == before {
                return Err(Failure::mistake(
                    format!("`{}` has no image `{}`", self.index.display(), path.display()),
                    "give an image or a folder that was added; nothing was removed",
                ));
            }
        }
        if self.missing {
            rows.extend(there.iter().filter(|(image, _)| !image.exists()).map(|(_, row)| row));
        }
        let (index, gone) = index.remove(&rows, &Progress::new())?;
        let _ = writeln!(
            io::stderr(),
            "{} removed: {} in {}",
            count(gone, "image"),
            count(index.len(), "image"),
            self.index.display()
        );
        Ok(())
    }
}
