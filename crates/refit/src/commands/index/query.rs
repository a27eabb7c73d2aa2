//! `refit index query`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::learn::retrieval::{Hit, Index};
use serde_json::{Value, json};

use super::images::{self, SameModel};
use crate::arguments::{self, Format};
use crate::cli::TEMPLATE;
use crate::commands::predict::samples;
use crate::failure::Failure;
use crate::gallery::{Gallery, Row, shown};
use crate::machine::Machine;
use crate::output::{Side, table};
use crate::progress::Progress;

/// Find the images most like others
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    after_help = "Examples:
  refit index query photos.index new.jpg
  refit index query photos.index new.jpg --top 20 --sheet found.png
  refit index query photos.index new/ --format jsonl > found.jsonl
  find . -name '*.jpg' | refit index query photos.index - --top 1

Formats:
  table   the images found, the most similar first
  csv     query,rank,similarity,label,path
  jsonl   a line a query: {\"path\": ..., \"found\": [...]}, each of these
          {\"path\": ..., \"label\": ..., \"similarity\": ...}

Similarity is the cosine of two images' vectors: 1 for the same image. What it is for images that \
show the same thing hangs on the model and the layer."
)]
pub struct Query {
    /// The index
    index: PathBuf,

    /// Images, folders of them, or - for a list on stdin, a path a line
    #[arg(required = true, value_name = "IMAGE")]
    paths: Vec<PathBuf>,

    /// Images to find for each
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = arguments::at_least_one)]
    top: usize,

    /// How to print [default: table on a terminal, jsonl elsewhere]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,

    #[command(flatten)]
    gallery: Gallery,

    /// Vectors that a search in a graph looks at, at least: more finds more, and takes longer
    #[arg(long, value_name = "N", default_value_t = refit::learn::retrieval::EFFORT,
          value_parser = arguments::at_least_one)]
    effort: usize,

    #[command(flatten)]
    model: SameModel,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,
}

/// An image that was found.
struct Found {
    path: PathBuf,
    label: Option<String>,
    similarity: f32,
}

impl Query {
    /// Searches.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        self.gallery.check()?;
        let index = Index::open(&self.index)?;
        let paths: Vec<PathBuf> = samples(&self.paths)?.into_iter().map(|s| s.path).collect();
        let model = self.model.open(&index, machine)?;
        let progress = Progress::beside_output();
        let source = index.source();
        let features = images::features(source, &model, &paths, machine, self.strict, &progress)?;
        let found = index.search_all(&features.rows, self.top, Some(self.effort));
        let found: Vec<(&Path, Vec<Found>)> = features
            .readable
            .iter()
            .zip(found)
            .map(|(&i, hits)| (paths[i].as_path(), hits.iter().map(|h| of(&index, h)).collect()))
            .collect();
        print(Format::of(self.format), &found)?;
        let rows: Vec<Row> = found.iter().map(row).collect();
        self.gallery.write("Images that look alike", &rows)
    }
}

fn of(index: &Index, hit: &Hit) -> Found {
    let entry = index.entry(hit.row);
    Found { path: entry.path, label: entry.label, similarity: hit.similarity }
}

fn row((path, found): &(&Path, Vec<Found>)) -> Row {
    let first = ((*path).to_owned(), "query".to_owned());
    let caption = |f: &Found| match &f.label {
        Some(label) => format!("{:.3} {label}", f.similarity),
        None => format!("{:.3}", f.similarity),
    };
    let others = found.iter().map(|f| (f.path.clone(), caption(f)));
    Row { title: shown(path), images: std::iter::once(first).chain(others).collect() }
}

fn print(format: Format, found: &[(&Path, Vec<Found>)]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match format {
        Format::Table => {
            for (path, found) in found {
                writeln!(stdout, "{}", shown(path))?;
                let line = |(i, f): (usize, &Found)| {
                    let label = f.label.as_deref().unwrap_or("-").to_owned();
                    vec![
                        format!("  {}", i + 1),
                        format!("{:.4}", f.similarity),
                        label,
                        shown(&f.path),
                    ]
                };
                let lines: Vec<Vec<String>> = found.iter().enumerate().map(line).collect();
                let sides = [Side::Right, Side::Right, Side::Left, Side::Left];
                write!(stdout, "{}", table(&sides, &lines))?;
            }
        }
        Format::Csv => {
            let mut rows = csv::Writer::from_writer(stdout);
            let written = (|| -> csv::Result<()> {
                rows.write_record(["query", "rank", "similarity", "label", "path"])?;
                for (path, found) in found {
                    for (i, f) in found.iter().enumerate() {
                        let query = path.to_string_lossy();
                        let (rank, similarity) = ((i + 1).to_string(), f.similarity.to_string());
                        let label = f.label.as_deref().unwrap_or_default();
                        let path = f.path.to_string_lossy();
                        rows.write_record([&*query, &rank, &similarity, label, &path])?;
                    }
                }
                Ok(rows.flush()?)
            })();
            written.map_err(io::Error::from)?;
        }
        Format::Jsonl => {
            for (path, found) in found {
                let one = |f: &Found| {
                    json!({
                        "path": f.path.to_string_lossy(),
                        "label": f.label,
                        "similarity": f.similarity,
                    })
                };
                let found: Vec<Value> = found.iter().map(one).collect();
                let line = json!({ "path": path.to_string_lossy(), "found": found });
                writeln!(stdout, "{line}")?;
            }
        }
    }
    Ok(())
}
