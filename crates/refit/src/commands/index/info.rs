//! `refit index info`.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::retrieval::Index;
use serde_json::json;

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::output::{Side, count, short, table};

/// Say what an index holds, and whether it is whole
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    after_help = "Examples:
  refit index info photos.index
  refit index info photos.index --json"
)]
pub struct Info {
    /// The index
    index: PathBuf,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Info {
    /// Tells.
    pub fn run(self) -> Result<(), Failure> {
        let index = Index::open(&self.index)?;
        index.verify()?;
        let source = index.source();
        let search = if index.has_graph() { "graph" } else { "exact" };
        let missing = index.rows().filter(|row| !index.entry(*row).path.exists()).count();
        let [bytes, vectors] = index.bytes();
        if self.json {
            let text = json!({
                "images": index.len(),
                "removed": index.removed(),
                "missing": missing,
                "labels": index.labels(),
                "model": source.model,
                "layer": source.layer,
                "fingerprint": source.fingerprint,
                "precision": source.precision,
                "features": source.dim,
                "dim": index.dim(),
                "whitened": index.is_whitened(),
                "type": index.element(),
                "search": search,
                "bytes": bytes,
                "vector_bytes": vectors,
            });
            return Ok(writeln!(io::stdout(), "{text}")?);
        }
        let whitened = if index.is_whitened() { ", whitened" } else { "" };
        let mut images = count(index.len(), "image");
        if missing > 0 {
            images += &format!(", the files of {missing} gone (`refit index remove --missing`)");
        }
        let mut room = format!("{}B, vectors {}B", short(bytes), short(vectors));
        if index.removed() > 0 {
            room += &format!(", {} removed", count(index.removed(), "vector"));
        }
        let lines = [
            ("images", images),
            ("labels", index.labels().len().to_string()),
            ("model", format!("{} at {}", source.model, source.layer)),
            ("vectors", format!("{} {} numbers{whitened}", index.dim(), index.element())),
            ("search", search.to_owned()),
            ("file", room),
            ("checksums", "agree".to_owned()),
        ];
        let lines: Vec<Vec<String>> =
            lines.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect();
        Ok(write!(io::stdout(), "{}", table(&[Side::Left, Side::Left], &lines))?)
    }
}
