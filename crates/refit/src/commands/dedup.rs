//! `refit dedup`: images that are copies of others.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::retrieval::{Copies, Duplicates, Group, Pair, Source, duplicates};
use refit::net::Precision;
use serde_json::{Value, json};

use crate::cli::TEMPLATE;
use crate::commands::index::images::{self, folders, part};
use crate::failure::Failure;
use crate::gallery::{Gallery, Row, shown};
use crate::machine::Machine;
use crate::model_arg::ModelFlag;
use crate::output::count;
use crate::progress::Progress;

/// Find copies among images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Found are files that are the same, and images that show the same picture: resized, recompressed, \
cropped to no less than half of each side, mirrored, brightened. Images that merely look alike are \
not copies: features find candidates, and then pixels are compared. Nothing is deleted.",
    after_help = "Examples:
  refit dedup photos/
  refit dedup photos/ --across-splits
  refit dedup photos/ more/ --html copies.html
  refit dedup photos/ --json | jq -r '.groups[].images[1:][].path'

Each group is a paragraph: a path a line, and before it how it is a copy of another of the group: \
`same` (byte by byte) or the correlation of their fine structure, 0.93 to 1."
)]
pub struct Dedup {
    /// Images, and folders of them
    #[arg(required = true, value_name = "IMAGES")]
    paths: Vec<PathBuf>,

    /// Only copies that lie in different splits: train/, val/, test/
    #[arg(long)]
    across_splits: bool,

    #[command(flatten)]
    model: ModelFlag,

    #[command(flatten)]
    gallery: Gallery,

    /// Fail at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// An image, and the split that it lies in.
struct Image {
    path: PathBuf,
    split: Option<&'static str>,
    label: Option<String>,
}

impl Dedup {
    /// Looks for copies.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        self.gallery.check()?;
        let labelled = images::labelled(&self.paths)?;
        let model = self.model.open(&machine.device())?;
        let source = Source::of(&model, &self.model.model, None, Precision::F32)?;
        let progress = Progress::new();
        let paths: Vec<PathBuf> = labelled.iter().map(|image| image.path.clone()).collect();
        let features = images::features(&source, &model, &paths, machine, self.strict, &progress)?;
        let all: Vec<Image> = features
            .readable
            .iter()
            .map(|&i| Image {
                path: paths[i].clone(),
                split: self.split(&paths[i]),
                label: labelled[i].label.clone(),
            })
            .collect();
        let paths: Vec<PathBuf> = all.iter().map(|image| image.path.clone()).collect();
        let (rows, dim) = (&features.rows, features.dim);
        let mut found = duplicates(&paths, &features.hashes, rows, dim, &progress)?;
        if self.across_splits {
            found.groups.retain(|group| crosses(group, &all));
        }
        let text = match self.json {
            true => format!("{}\n", as_json(&found, &all)),
            false => in_words(&found, &all),
        };
        write!(io::stdout(), "{text}")?;
        let rows: Vec<Row> = found.groups.iter().map(|group| row(group, &found, &all)).collect();
        self.gallery.write("Copies", &rows)?;
        let across = found.groups.iter().filter(|group| crosses(group, &all)).count();
        let copies: usize = found.groups.iter().map(|group| group.images.len() - 1).sum();
        let _ = writeln!(
            io::stderr(),
            "{} among {}: {}, {across} of them across splits",
            count_copies(copies),
            count(all.len(), "image"),
            count(found.groups.len(), "group"),
        );
        Ok(())
    }

    fn split(&self, image: &std::path::Path) -> Option<&'static str> {
        let names = |root: &PathBuf| folders(root, image).iter().find_map(|folder| part(folder));
        // A split may also be what was given.
        let root = |root: &PathBuf| {
            image.starts_with(root).then(|| part(&root.file_name()?.to_string_lossy())).flatten()
        };
        self.paths.iter().find_map(names).or_else(|| self.paths.iter().find_map(root))
    }
}

fn count_copies(copies: usize) -> String {
    match copies {
        1 => "1 copy".into(),
        n => format!("{n} copies"),
    }
}

fn crosses(group: &Group, all: &[Image]) -> bool {
    group.images.iter().map(|i| all[*i].split).collect::<BTreeSet<_>>().len() > 1
}

/// How an image is a copy of another: of its pairs the surest.
fn how(image: usize, found: &Duplicates) -> Option<&Pair> {
    let own = found.pairs.iter().filter(|pair| pair.images.contains(&image));
    own.max_by(|a, b| sureness(a).total_cmp(&sureness(b)))
}

fn sureness(pair: &Pair) -> f32 {
    match pair.copies {
        Copies::Same => 2.0,
        Copies::Alike { agreement, .. } => agreement.correlation,
    }
}

fn word(pair: &Pair) -> String {
    match pair.copies {
        Copies::Same => "same".into(),
        Copies::Alike { agreement, .. } => format!("{:.2}", agreement.correlation),
    }
}

fn in_words(found: &Duplicates, all: &[Image]) -> String {
    let line = |i: &usize| {
        let how = how(*i, found).map(word).unwrap_or_default();
        format!("{how:>4}  {}\n", shown(&all[*i].path))
    };
    let groups = found.groups.iter().map(|group| group.images.iter().map(line).collect());
    groups.collect::<Vec<String>>().join("\n")
}

fn row(group: &Group, found: &Duplicates, all: &[Image]) -> Row {
    let title: Vec<String> = group.images.iter().map(|i| shown(&all[*i].path)).collect();
    let caption = |i: &usize| {
        let how = how(*i, found).map(word).unwrap_or_default();
        let place = [all[*i].split, all[*i].label.as_deref()];
        let place: Vec<&str> = place.into_iter().flatten().collect();
        (all[*i].path.clone(), format!("{how} {}", place.join(" ")))
    };
    Row { title: title.join(", "), images: group.images.iter().map(caption).collect() }
}

fn as_json(found: &Duplicates, all: &[Image]) -> Value {
    let image = |i: &usize| {
        let Image { path, split, label } = &all[*i];
        json!({ "path": path.to_string_lossy(), "split": split, "label": label })
    };
    let group = |group: &Group| {
        let images: Vec<Value> = group.images.iter().map(image).collect();
        json!({ "images": images, "across_splits": crosses(group, all) })
    };
    let pair = |pair: &Pair| {
        let [a, b] = pair.images.map(|i| all[i].path.to_string_lossy());
        match pair.copies {
            Copies::Same => json!({ "paths": [a, b], "same": true }),
            Copies::Alike { similarity, agreement } => json!({
                "paths": [a, b],
                "same": false,
                "similarity": similarity,
                "correlation": agreement.correlation,
                "mirrored": agreement.mirrored,
                "share": agreement.share,
            }),
        }
    };
    json!({
        "images": all.len(),
        "groups": found.groups.iter().map(group).collect::<Vec<Value>>(),
        "pairs": found.pairs.iter().map(pair).collect::<Vec<Value>>(),
    })
}
