//! `refit index evaluate`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::retrieval::{Index, Query, Retrieval, RetrievalError, evaluate};

use super::images::{self, SameModel};
use crate::arguments;
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, count, percent, table};
use crate::progress::Progress;

/// Measure how well an index finds images of the query's class
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Without IMAGES each image of the index is looked up among the others; with IMAGES, class folders too, \
these are looked up. All images are compared with each query, whatever the kind of search.",
    after_help = "Examples:
  refit index evaluate photos.index
  refit index evaluate photos.index test-photos/ --top 1,5,20 --json

Measures, over queries of which the index has the class:
  recall@k     share with an image of their class among the first k
  precision@k  share of the first k that are of the query's class
  mAP          mean over queries of the precision at each image of the class"
)]
pub struct Evaluate {
    /// The index
    index: PathBuf,

    /// Labelled images to ask with: folders of class folders
    #[arg(value_name = "IMAGES")]
    paths: Vec<PathBuf>,

    /// For which k
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_value = "1,5,10",
          value_parser = arguments::at_least_one)]
    top: Vec<usize>,

    #[command(flatten)]
    model: SameModel,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    /// Judges.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let index = Index::open(&self.index)?;
        let queries = match self.paths.is_empty() {
            true => index.rows().map(Query::Within).collect(),
            false => self.queries(&index, machine)?,
        };
        let found = evaluate(&index, &queries, &self.top);
        if found.queries == 0 {
            let what = match self.paths.is_empty() {
                true => format!("`{}` has no two images of one class", self.index.display()),
                false => format!("no class of theirs is in `{}`", self.index.display()),
            };
            return Err(RetrievalError::NoLabels { what }.into());
        }
        let text = match self.json {
            true => serde_json::to_string(&found).map_err(io::Error::from)? + "\n",
            false => in_words(&found),
        };
        Ok(write!(io::stdout(), "{text}")?)
    }

    fn queries(&self, index: &Index, machine: &Machine) -> Result<Vec<Query>, Failure> {
        let images = images::labelled(&self.paths)?;
        let model = self.model.open(index, machine)?;
        let paths: Vec<PathBuf> = images.iter().map(|image| image.path.clone()).collect();
        let progress = Progress::new();
        let source = index.source();
        let features = images::features(source, &model, &paths, machine, self.strict, &progress)?;
        // A label that the index does not know is past its labels: a query without images.
        let label = |name: &str| {
            let known = index.labels().iter().position(|label| label == name);
            known.unwrap_or(index.labels().len())
        };
        let rows = features.rows.chunks_exact(features.dim).zip(&features.readable);
        let query = |(row, &i): (&[f32], &usize)| {
            let label = label(images[i].label.as_deref()?);
            Some(Query::New { features: row.to_vec(), label })
        };
        Ok(rows.filter_map(query).collect())
    }
}

fn in_words(found: &Retrieval) -> String {
    let images = count(found.images, "image");
    let queries = if found.queries == 1 { "query" } else { "queries" };
    let mut text =
        format!("{} {queries} among {images}, mAP {}\n", found.queries, percent(found.map));
    if found.without_images > 0 {
        text += &format!("{} more have no class, or none in the index\n", found.without_images);
    }
    let mut lines = vec![["k", "recall@k", "precision@k"].map(str::to_owned).to_vec()];
    for ((k, recall), (_, precision)) in found.recall.iter().zip(&found.precision) {
        lines.push(vec![k.to_string(), percent(*recall), percent(*precision)]);
    }
    text += &format!("\n{}\n", table(&[Side::Right; 3], &lines));
    let mut lines = vec![["class", "queries", "recall@1", "mAP"].map(str::to_owned).to_vec()];
    for class in &found.classes {
        let (recall, map) = (percent(class.recall_at_1), percent(class.map));
        lines.push(vec![class.class.clone(), class.queries.to_string(), recall, map]);
    }
    text + &table(&[Side::Left, Side::Right, Side::Right, Side::Right], &lines)
}
