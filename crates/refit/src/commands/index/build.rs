//! `refit index build`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::retrieval::{Element, Index, IndexOptions, Search, Source};

use super::images;
use crate::arguments::{self, PrecisionArg};
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::ModelFlag;
use crate::output::{count, short};
use crate::progress::Progress;

/// Make an index of images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Images in class folders keep the folder's name as their label, for `refit index evaluate`. What a \
network made of an image is kept in the cache, so that a build that was stopped goes on where it was; \
the index itself is written whole or not at all.",
    after_help = "Examples:
  refit index build photos/ --out photos.index
  refit index build photos/ --model model.safetensors --out photos.index
  refit index build photos/ --at blocks.5 --whiten 128 --out photos.index
  refit index build many/ --type i8 --search graph --out many.index

Numbers of a vector, by --type: f32 as computed; f16 takes half the room and finds the same; i8 \
takes a quarter, and now and then swaps neighbours that are nearly as near."
)]
pub struct Build {
    /// Images, and folders of them
    #[arg(required = true, value_name = "IMAGES")]
    paths: Vec<PathBuf>,

    /// The index to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    model: ModelFlag,

    /// Layer or block whose values are compared [default: what the head takes]
    #[arg(long, value_name = "LAYER")]
    at: Option<String>,

    /// What vectors are kept as: f32, f16 or i8
    #[arg(long = "type", value_name = "TYPE", default_value = "f16")]
    element: Element,

    /// Whiten vectors to their first N principal directions
    #[arg(long, value_name = "N", value_parser = arguments::at_least_one)]
    whiten: Option<usize>,

    /// How it is searched: exact (everything is compared), graph, or auto: graph beyond 30,000 images
    #[arg(long, value_name = "HOW", default_value = "auto")]
    search: Search,

    #[command(flatten)]
    precision: PrecisionArg,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,
}

impl Build {
    /// Builds.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        self.check_out()?;
        let images = images::labelled(&self.paths)?;
        let model = self.model.open(&machine.device())?;
        let (layer, precision) = (self.at.as_deref(), self.precision.precision);
        let source = Source::of(&model, &self.model.model, layer, precision)?;
        let progress = Progress::new();
        let paths: Vec<PathBuf> = images.iter().map(|image| image.path.clone()).collect();
        let features = images::features(&source, &model, &paths, machine, self.strict, &progress)?;
        let entries = images::entries(&images, &features);
        let options =
            IndexOptions { element: self.element, search: self.search, whiten: self.whiten };
        let index =
            Index::create(&self.out, source, &options, &entries, &features.rows, &progress)?;
        let _ = writeln!(
            io::stderr(),
            "{}, {} {} numbers each: {} ({}B)",
            count(index.len(), "image"),
            index.dim(),
            index.element(),
            self.out.display(),
            short(index.bytes()[0])
        );
        Ok(())
    }

    /// An index may be written anew; nothing else is overwritten.
    fn check_out(&self) -> Result<(), Failure> {
        match Index::open(&self.out) {
            Err(error) if self.out.is_file() && !is_index(&error) => Err(Failure::mistake(
                format!("`{}` is there already, and is no index", self.out.display()),
                "choose another name with --out",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether it is one, though perhaps a damaged one.
fn is_index(error: &refit::learn::retrieval::RetrievalError) -> bool {
    use refit::data::parts::PartsError::Other;
    use refit::learn::retrieval::RetrievalError::File;
    !matches!(error, File(Other { .. }))
}
