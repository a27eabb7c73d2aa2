//! `refit doctor`: what is the matter with a set of labelled images.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use refit::data::quality::{Flaw, Inspected, Quality, inspect};
use refit::data::{ContentHash, Dataset, Sample, Skipped, SourceOptions};
use refit::learn::retrieval::{
    Copies, Duplicates, Group, Source, Suspect, Suspects, duplicates, suspects,
};
use refit::net::Precision;
use refit::{Event, LearnError, Watch};
use serde_json::{Value, json};

use crate::cli::TEMPLATE;
use crate::commands::index::images::features;
use crate::failure::Failure;
use crate::gallery::{Gallery, Row, shown};
use crate::machine::Machine;
use crate::model_arg::ModelFlag;
use crate::output::{Side, count, percent, table};
use crate::progress::Progress;

/// Images that are named of each finding; `--json` has them all.
const NAMED: usize = 10;

/// The flaws, as they are told.
const FLAWS: [(Flaw, &str); 5] = [
    (Flaw::Tiny, "tiny: a side under 64 pixels"),
    (Flaw::OddShape, "oddly shaped: one side more than 3 times the other"),
    (Flaw::Dark, "dark"),
    (Flaw::Flat, "without contrast"),
    (Flaw::Blurred, "blurred"),
];

/// Look for what is wrong with a set of images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is what `refit train` takes. Told are the images of each class and part; images that cannot be \
read, are stored turned, tiny, oddly shaped, dark, without contrast or blurred; copies, above all \
between training and validation or test images, and copies under different labels; and labels that \
their image speaks against. Findings are worth a look, not verdicts; nothing is changed.",
    after_help = "Examples:
  refit doctor photos/
  refit doctor photos/ --quick
  refit doctor photos/ --html findings.html
  refit doctor photos/ --csv suspects.csv
  refit doctor photos/ --json | jq '.suspects[0]'

A label is suspect if heads that learned from the other images, and the nearest images, speak for \
another class (confident learning: Northcutt et al. 2021). Pictures (--sheet, --html) show suspects, \
each beside images of the class it looks like, and then copies."
)]
pub struct Doctor {
    /// Folder of class folders, with or without train/, val/ and test/, or CSV
    data: PathBuf,

    /// Validation images elsewhere: class folders or a CSV
    #[arg(long, value_name = "DIR|CSV")]
    val: Option<PathBuf>,

    /// Leave out what needs a network: copies that are not the same file, and suspect labels
    #[arg(long)]
    quick: bool,

    #[command(flatten)]
    model: ModelFlag,

    /// Write suspect labels to this CSV: path,label,likely,doubt,probability,likely_probability
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    csv: Option<PathBuf>,

    #[command(flatten)]
    gallery: Gallery,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,

    /// Decides which images heads learn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Everything that was found.
struct Findings {
    classes: Vec<String>,
    notes: Vec<String>,
    /// Readable images.
    images: Vec<Image>,
    skipped: Vec<Skipped>,
    duplicates: Duplicates,
    /// None where they were not looked for.
    suspects: Option<Suspects>,
}

struct Image {
    sample: Sample,
    part: &'static str,
    hash: ContentHash,
    quality: Quality,
}

impl Doctor {
    /// Looks.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        self.gallery.check()?;
        // Nothing is split off: what was not given as validation images is for training.
        let options = SourceOptions { val: self.val.clone(), ..SourceOptions::default() };
        let dataset = match Dataset::open(&self.data, &options)? {
            given if given.has_given_val => given,
            _ => Dataset::open(&self.data, &SourceOptions { val_fraction: Some(0.0), ..options })?,
        };
        let progress = Progress::new();
        let mut findings = inspected(dataset, machine, &progress)?;
        if !self.quick && !findings.images.is_empty() {
            self.look_closer(&mut findings, machine, &progress)?;
        }
        if let (Some(file), Some(suspects)) = (&self.csv, &findings.suspects) {
            findings.write_csv(file, suspects)?;
        }
        let text = match self.json {
            true => format!("{}\n", findings.as_json()),
            false => findings.in_words(&self.data),
        };
        write!(io::stdout(), "{text}")?;
        self.gallery.write("What refit doctor found", &findings.rows())
    }

    /// With a network's eyes.
    fn look_closer(
        &self,
        findings: &mut Findings,
        machine: &Machine,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let model = self.model.open(&machine.device())?;
        let source = Source::of(&model, &self.model.model, None, Precision::F32)?;
        let paths = findings.paths();
        let taken = features(&source, &model, &paths, machine, false, progress)?;
        // Whoever deletes images while they are looked at has fewer of them.
        let mut readable = taken.readable.iter().peekable();
        let mut position = 0;
        findings.images.retain(|_| {
            position += 1;
            readable.next_if(|i| **i == position - 1).is_some()
        });
        let (paths, hashes) = (findings.paths(), findings.hashes());
        findings.duplicates = duplicates(&paths, &hashes, &taken.rows, taken.dim, progress)?;
        let distinct = findings.distinct();
        let row = |i: &usize| &taken.rows[i * taken.dim..][..taken.dim];
        let rows: Vec<f32> = distinct.iter().flat_map(row).copied().collect();
        let labels: Vec<usize> =
            distinct.iter().map(|i| findings.images[*i].sample.label).collect();
        if labels.iter().all(|label| *label == labels[0]) {
            // Only images of one class could be read: nothing speaks for another.
            return Ok(());
        }
        let mut found = progress
            .stage("labels", 0, || suspects(&rows, &labels, findings.classes.len(), self.seed))?;
        found.found.iter_mut().for_each(|suspect| suspect.image = distinct[suspect.image]);
        findings.suspects = Some(found);
        Ok(())
    }
}

/// What can be told without a network.
fn inspected(
    dataset: Dataset,
    machine: &Machine,
    progress: &Progress,
) -> Result<Findings, Failure> {
    let Dataset { classes, train, val, test, notes, .. } = dataset;
    let parts = [("train", train), ("val", val), ("test", test)];
    let all: Vec<(&'static str, Sample)> = parts
        .into_iter()
        .flat_map(|(part, samples)| samples.into_iter().map(move |sample| (part, sample)))
        .collect();
    let paths: Vec<&Path> = all.iter().map(|(_, sample)| sample.path.as_path()).collect();
    let seen: Vec<Inspected> = progress.stage("inspect", paths.len(), || {
        let advance = |_: usize, _: usize| progress.event(Event::Advance { items: 1 });
        inspect(&paths, machine.threads(), Some(&advance))
    });
    if progress.stops() {
        return Err(LearnError::Stopped.into());
    }
    let (mut images, mut skipped) = (Vec::new(), Vec::new());
    for ((part, sample), (hash, quality)) in all.into_iter().zip(seen) {
        match (hash, quality) {
            (Some(hash), Ok(quality)) => images.push(Image { sample, part, hash, quality }),
            (_, Err(error)) => skipped.push(Skipped::new(&sample.path, &error)),
            (None, Ok(_)) => unreachable!("what was decoded was read"),
        }
    }
    let mut findings = Findings {
        classes,
        notes,
        images,
        skipped,
        duplicates: Duplicates { pairs: vec![], groups: vec![], compared: 0 },
        suspects: None,
    };
    // Without features, files that are the same are found all the same.
    let (paths, hashes) = (findings.paths(), findings.hashes());
    findings.duplicates = duplicates(&paths, &hashes, &[], 0, progress)?;
    Ok(findings)
}

impl Findings {
    fn paths(&self) -> Vec<PathBuf> {
        self.images.iter().map(|image| image.sample.path.clone()).collect()
    }

    fn hashes(&self) -> Vec<ContentHash> {
        self.images.iter().map(|image| image.hash).collect()
    }

    /// One image of each group of copies, and all that have none.
    fn distinct(&self) -> Vec<usize> {
        let mut copies: Vec<usize> =
            self.duplicates.groups.iter().flat_map(|g| &g.images[1..]).copied().collect();
        copies.sort_unstable();
        (0..self.images.len()).filter(|i| copies.binary_search(i).is_err()).collect()
    }

    fn class(&self, label: usize) -> &str {
        &self.classes[label]
    }

    /// Whether images that are learned from are also judged by.
    fn leaks(&self, group: &Group) -> bool {
        let learned = |i: &usize| self.images[*i].part == "train";
        group.images.iter().any(learned) && !group.images.iter().all(learned)
    }

    /// Whether copies have different labels.
    fn contradicts(&self, group: &Group) -> bool {
        let label = |i: &usize| self.images[*i].sample.label;
        group.images.iter().any(|i| label(i) != label(&group.images[0]))
    }

    fn in_words(&self, data: &Path) -> String {
        let mut text = String::new();
        let (images, classes) = (self.images.len(), self.classes.len());
        let classes = if classes == 1 { "1 class".into() } else { format!("{classes} classes") };
        // A string takes everything that is written to it.
        let _ = writeln!(text, "{}: {}, {classes}\n", shown(data), count(images, "readable image"));
        text += &self.counts();
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        let line = |skip: &Skipped| format!("{}: {}", shown(&skip.path), skip.reason);
        told(&mut text, "cannot be read", &self.skipped, line);
        let turned: Vec<&Image> = self.images.iter().filter(|image| image.quality.turned).collect();
        let path = |image: &&Image| shown(&image.sample.path);
        told(&mut text, "stored turned, as EXIF tells; refit turns them back", &turned, path);
        for (flaw, what) in FLAWS {
            let has = |image: &&Image| image.quality.flaws().contains(&flaw);
            let flawed: Vec<&Image> = self.images.iter().filter(has).collect();
            told(&mut text, what, &flawed, |image| flawed_line(image, flaw));
        }
        self.tell_copies(&mut text);
        self.tell_suspects(&mut text);
        text
    }

    /// A row a class.
    fn counts(&self) -> String {
        let parts: Vec<&str> = ["train", "val", "test"]
            .into_iter()
            .filter(|part| self.images.iter().any(|image| image.part == *part))
            .collect();
        let number = |class: Option<usize>, part: &str| {
            let own = self.images.iter().filter(|image| {
                image.part == part && class.is_none_or(|class| image.sample.label == class)
            });
            own.count().to_string()
        };
        let row = |name: &str, class: Option<usize>| -> Vec<String> {
            let numbers = parts.iter().map(|part| number(class, part));
            std::iter::once(name.to_owned()).chain(numbers).collect()
        };
        let head = std::iter::once("class").chain(parts.iter().copied());
        let mut rows = vec![head.map(str::to_owned).collect()];
        rows.extend(self.classes.iter().enumerate().map(|(i, class)| row(class, Some(i))));
        rows.push(row("all", None));
        let sides: Vec<Side> =
            std::iter::once(Side::Left).chain(parts.iter().map(|_| Side::Right)).collect();
        table(&sides, &rows)
    }

    fn tell_copies(&self, text: &mut String) {
        let Duplicates { groups, pairs, .. } = &self.duplicates;
        let line = |group: &&Group| {
            let name = |i: &usize| {
                let Image { sample, part, .. } = &self.images[*i];
                format!("{} ({part}, {})", shown(&sample.path), self.class(sample.label))
            };
            group.images.iter().map(name).collect::<Vec<_>>().join(" = ")
        };
        let leaks: Vec<&Group> = groups.iter().filter(|group| self.leaks(group)).collect();
        told_of(text, "group", "of copies, in training and in what is judged by", &leaks, line);
        let odd: Vec<&Group> = groups.iter().filter(|group| self.contradicts(group)).collect();
        told_of(text, "group", "of copies under different labels", &odd, line);
        let others: Vec<&Group> =
            groups.iter().filter(|group| !self.leaks(group) && !self.contradicts(group)).collect();
        told_of(text, "other group", "of copies", &others, line);
        let same = pairs.iter().filter(|pair| pair.copies == Copies::Same).count();
        if !pairs.is_empty() {
            let _ = writeln!(text, "\nof {}, {same} byte by byte", count(pairs.len(), "copy pair"));
        }
    }

    fn tell_suspects(&self, text: &mut String) {
        let Some(suspects) = &self.suspects else {
            let _ = writeln!(text, "\nlabels and altered copies were not looked at (--quick)");
            return;
        };
        let found = &suspects.found;
        let of = percent(found.len() as f64 / suspects.judged.max(1) as f64);
        let title = format!("{} ({of} of those judged)", count(found.len(), "suspect label"));
        let _ = writeln!(text, "\n{title}");
        let row = |s: &Suspect| {
            vec![
                format!("  {:.2}", s.doubt()),
                self.class(s.label).to_owned(),
                format!("more like {}", self.class(s.likely)),
                shown(&self.images[s.image].sample.path),
            ]
        };
        let rows: Vec<Vec<String>> = found.iter().take(NAMED).map(row).collect();
        *text += &table(&[Side::Left; 4], &rows);
        more(text, found.len());
    }

    fn as_json(&self) -> Value {
        let path = |i: usize| self.images[i].sample.path.to_string_lossy();
        let place = |i: usize| {
            let Image { sample, part, .. } = &self.images[i];
            json!({ "path": path(i), "split": part, "label": self.class(sample.label) })
        };
        let flaws = |(i, image): (usize, &Image)| {
            let flaws = image.quality.flaws();
            let worth = !flaws.is_empty() || image.quality.turned;
            worth.then(|| json!({ "path": path(i), "flaws": flaws, "quality": image.quality }))
        };
        let group = |group: &Group| {
            json!({
                "images": group.images.iter().map(|i| place(*i)).collect::<Vec<Value>>(),
                "leak": self.leaks(group),
                "different_labels": self.contradicts(group),
            })
        };
        let suspect = |s: &Suspect| {
            json!({
                "path": path(s.image),
                "label": self.class(s.label),
                "likely": self.class(s.likely),
                "doubt": s.doubt(),
                "confident": s.confident,
                "probability": s.probability,
                "likely_probability": s.likely_probability,
                "neighbours": s.neighbours,
                "likely_neighbours": s.likely_neighbours,
            })
        };
        let mut counts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for image in &self.images {
            let of = counts.entry(image.part).or_insert_with(|| vec![0; self.classes.len()]);
            of[image.sample.label] += 1;
        }
        let groups = &self.duplicates.groups;
        json!({
            "images": self.images.len(),
            "classes": self.classes,
            "counts": counts,
            "notes": self.notes,
            "skipped": self.skipped,
            "flawed": self.images.iter().enumerate().filter_map(flaws).collect::<Vec<Value>>(),
            "copies": groups.iter().map(group).collect::<Vec<Value>>(),
            "suspects": self.suspects.as_ref().map(|s| s.found.iter().map(suspect).collect::<Vec<Value>>()),
            "confident_joint": self.suspects.as_ref().map(|s| &s.joint),
        })
    }

    fn write_csv(&self, file: &Path, suspects: &Suspects) -> Result<(), Failure> {
        let mut rows = csv::Writer::from_writer(Vec::new());
        let head = ["path", "label", "likely", "doubt", "probability", "likely_probability"];
        let mut write = || -> csv::Result<()> {
            rows.write_record(head)?;
            for s in &suspects.found {
                rows.write_record([
                    &*self.images[s.image].sample.path.to_string_lossy(),
                    self.class(s.label),
                    self.class(s.likely),
                    &s.doubt().to_string(),
                    &s.probability.to_string(),
                    &s.likely_probability.to_string(),
                ])?;
            }
            Ok(())
        };
        write().map_err(io::Error::from)?;
        let bytes = rows.into_inner().map_err(csv::IntoInnerError::into_error)?;
        Ok(refit::net::atomic_file::write(file, |out| out.write_all(&bytes))?)
    }

    /// Suspects beside an image of the class that they look like, then copies.
    fn rows(&self) -> Vec<Row> {
        let suspects = self.suspects.iter().flat_map(|suspects| &suspects.found);
        let doubtful: Vec<usize> = suspects.clone().map(|suspect| suspect.image).collect();
        let suspect = |s: &Suspect| {
            let (label, likely) = (self.class(s.label), self.class(s.likely));
            let typical = (0..self.images.len())
                .filter(|i| self.images[*i].sample.label == s.likely && !doubtful.contains(i));
            let beside =
                typical.take(4).map(|i| (self.images[i].sample.path.clone(), likely.to_owned()));
            let own = (self.images[s.image].sample.path.clone(), format!("{label}?"));
            Row {
                title: format!(
                    "{}: {label}, more like {likely} (doubt {:.2})",
                    shown(&own.0),
                    s.doubt()
                ),
                images: std::iter::once(own).chain(beside).collect(),
            }
        };
        let copies = |group: &Group| {
            let image = |i: &usize| {
                let Image { sample, part, .. } = &self.images[*i];
                (sample.path.clone(), format!("{part} {}", self.class(sample.label)))
            };
            Row { title: "copies".into(), images: group.images.iter().map(image).collect() }
        };
        suspects.map(suspect).chain(self.duplicates.groups.iter().map(copies)).collect()
    }
}

fn flawed_line(image: &Image, flaw: Flaw) -> String {
    let Quality { width, height, brightness, contrast, sharpness, .. } = image.quality;
    let measure = match flaw {
        Flaw::Tiny | Flaw::OddShape => format!("{width}x{height}"),
        Flaw::Dark => format!("mean grey {}", percent(brightness.into())),
        Flaw::Flat => format!("deviation of grey {}", percent(contrast.into())),
        Flaw::Blurred => format!("sharpness {sharpness:.4}"),
    };
    format!("{}: {measure}", shown(&image.sample.path))
}

/// How many images are such, and the first of them.
fn told<T>(text: &mut String, what: &str, found: &[T], line: impl Fn(&T) -> String) {
    told_of(text, "image", what, found, line);
}

fn told_of<T>(text: &mut String, of: &str, what: &str, found: &[T], line: impl Fn(&T) -> String) {
    if found.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{} {what}", count(found.len(), of));
    for item in found.iter().take(NAMED) {
        let _ = writeln!(text, "  {}", line(item));
    }
    more(text, found.len());
}

fn more(text: &mut String, found: usize) {
    if found > NAMED {
        let _ = writeln!(text, "  and {} more (--json has them all)", found - NAMED);
    }
}
