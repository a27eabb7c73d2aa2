//! `refit advise`: what to do with these images, before anything is trained.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::learn::advice::Advice;
use refit::learn::advice::similarity::Similarity;
use refit::{RunContext, Settings, Strategy};

use crate::cli::TEMPLATE;
use crate::commands::train::network_to_start_from;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, duration, percent, table};
use crate::progress::Progress;

/// Say how to train on some images, and why
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is what `refit train` takes. Measured are the number of images, how much they look like what the \
network was trained on, layer by layer, how well its features carry over, and whether more images \
would help. Only linear heads are trained; `refit train` does the same first and then tries the \
advice out.",
    after_help = "Examples:
  refit advise photos/
  refit advise photos/ --backbone resnet50 --weights resnet50.pth
  refit advise photos/ --json"
)]
pub struct Advise {
    /// Folder of class folders, or CSV
    data: PathBuf,

    /// Network to start from; `refit models` lists them [default: efficientnet_lite0]
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,

    /// Its weights: a model or checkpoint [default: the embedded or pulled ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,

    /// Decides every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Advise {
    /// Measures and says what it comes to.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let network = network_to_start_from(self.backbone.as_deref(), self.weights.as_deref())?;
        let settings = Settings {
            backbone: network.name().to_owned(),
            weights: self.weights,
            seed: self.seed,
            ..Settings::new(self.data, Strategy::Features)
        };
        let context = RunContext { workers: machine.threads(), ..RunContext::default() };
        let advice = refit::advise(&settings, &context, &Progress::new())?;
        let text = match self.json {
            true => serde_json::to_string(&advice).expect("numbers serialize"),
            false => in_words(&advice),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

fn in_words(advice: &Advice) -> String {
    let mut parts = Vec::new();
    if let Some(similarity) = &advice.similarity {
        parts.push(format!("Similarity, from the stem up\n{}", profile(similarity)));
    }
    parts.push(format!("Features\n{}", features(advice)));
    if let (Some(energy), Some(leep)) = (advice.energy, advice.leep) {
        parts.push(format!("Old classes\n  mean energy {energy:.1}, LEEP {leep:.2}"));
    }
    if !advice.curve.points.is_empty() {
        parts.push(format!("A head on frozen features\n{}", curve(advice)));
    }
    let evidence = advice.conclusion.evidence.iter().map(|line| format!("  {line}"));
    parts.push(format!("What this says\n{}", evidence.collect::<Vec<_>>().join("\n")));
    let candidate = |c: &refit::learn::advice::Candidate| {
        let from = c.unfreeze_from.as_ref();
        let from = from.map_or_else(String::new, |layer| format!(" --unfreeze-from {layer}"));
        format!("  --strategy {}{from}  (about {})", c.strategy, duration(c.seconds))
    };
    let candidates: Vec<String> = advice.conclusion.candidates.iter().map(candidate).collect();
    parts.push(format!("Advice: {}\n{}", advice.conclusion.rule, candidates.join("\n")));
    let parts: Vec<&str> = parts.iter().map(|part| part.trim_end()).collect();
    parts.join("\n\n")
}

fn profile(s: &Similarity) -> String {
    let mut rows =
        vec![["  layers from", "divergence", "photographs", "times"].map(str::to_owned).to_vec()];
    for ((layer, own), usual) in s.layers.iter().zip(&s.divergence).zip(&s.reference) {
        let cells = [format!("{own:.3}"), format!("{usual:.3}"), format!("{:.1}", own / usual)];
        rows.push([vec![format!("  {layer}")], cells.to_vec()].concat());
    }
    let note = match s.own_reference {
        true => String::new(),
        false => "  (the photographs' figures are those of the embedded network)\n".to_owned(),
    };
    table(&[Side::Left, Side::Right, Side::Right, Side::Right], &rows) + &note
}

fn features(advice: &Advice) -> String {
    let mut rows = vec![["  layer", "LogME", "5 neighbours"].map(str::to_owned).to_vec()];
    let row = |t: &refit::learn::advice::transfer::Transferability| {
        vec![format!("  {}", t.layer), format!("{:.3}", t.log_me), percent(t.neighbours)]
    };
    rows.extend(advice.transfer.iter().map(row));
    table(&[Side::Left, Side::Right, Side::Right], &rows)
}

fn curve(advice: &Advice) -> String {
    let mut rows = vec![["  images", "accuracy", "95% interval"].map(str::to_owned).to_vec()];
    for point in &advice.curve.points {
        let [low, high] = point.interval95.map(percent);
        let images = format!("  {:>6}", point.images);
        rows.push(vec![images, percent(point.accuracy), format!("{low} to {high}")]);
    }
    table(&[Side::Left, Side::Right, Side::Right], &rows)
}
