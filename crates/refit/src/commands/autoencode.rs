//! `refit autoencode`: what images without labels teach.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use refit::data::Augment;
use refit::learn::autoencode::{
    AutoencodeReport, AutoencodeSettings, Autoencoded, Corruption, Reconstruction,
    ReconstructionLoss, autoencode, read_autoencode_settings,
};
use refit::learn::network_of;
use refit::{LearnError, RunContext};

use crate::arguments;
use crate::augmentation::{self, Augmentation};
use crate::cli::TEMPLATE;
use crate::commands::report;
use crate::commands::train::{free_folder, shell, whole};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{count, duration};
use crate::progress::Progress;

/// Train an autoencoder on images without labels
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    override_usage = "refit autoencode [OPTIONS] <IMAGES>\n       refit autoencode --resume <DIR>",
    before_help = "\
IMAGES is a folder of images, with or without folders in it; labels are not used. A tenth of the \
images is held out to judge by.

A network's body makes a code of each image, a decoder makes the image again of the code, and both \
learn to come close. The result is a folder with the model, which gives codes, its numbers \
(metrics.json), a report to read (report.html), pictures and what became of them (sheet.png), the \
settings, a log and checkpoints.",
    after_help = "Examples:
  refit autoencode photos/
  refit autoencode photos/ --bottleneck 128 --time-budget 10m --out ae
  refit autoencode photos/ --loss l1-ssim --noise 0.1
  refit autoencode photos/ --mask 0.6 --count masked --size 96
  refit autoencode photos/ --encoder resnet18
  refit autoencode photos/ --encoder efficientnet_lite0 --pretrained
  refit autoencode --resume ae

What the model is good for:
  refit train labelled/ --weights ae/model.safetensors --strategy features
  refit train labelled/ --weights ae/model.safetensors --strategy fine-tune
  refit predict --anomaly ae/model.safetensors new/
  refit embed ae/model.safetensors photos/ --out codes.npy
  refit index build photos/ --model ae/model.safetensors --out photos.index

A run that was stopped goes on with `refit autoencode --resume DIR` and ends as if it had not been."
)]
pub struct Autoencode {
    /// Folder of images
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    images: Option<PathBuf>,

    #[command(flatten)]
    options: AutoencodeOptions,

    /// Folder for the result [default: refit-runs/<images>-autoencode]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,

    /// Go on with a run that was stopped, with the settings that it began with
    #[arg(long, value_name = "DIR", conflicts_with = "AutoencodeOptions")]
    resume: Option<PathBuf>,

    /// Write no report.html
    #[arg(long)]
    no_report: bool,

    /// Print the report as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What decides the result; `--resume` takes it from the folder.
#[derive(Debug, Args)]
struct AutoencodeOptions {
    /// Network whose body encodes, up to its last map; `refit models` lists them [default: the one
    /// whose weights are given, else small]
    #[arg(long, value_name = "NAME")]
    encoder: Option<String>,

    /// Weights that the encoder begins with: as for `refit train`, or an autoencoder that learns on
    /// [default: random ones]
    #[arg(long, value_name = "FILE", conflicts_with = "pretrained")]
    weights: Option<PathBuf>,

    /// Begin with the encoder's published weights: embedded ones, or those that `refit pull` fetched
    #[arg(long)]
    pretrained: bool,

    /// Values of the code [default: 64]
    #[arg(long, value_name = "N")]
    bottleneck: Option<usize>,

    /// Height and width of the images in pixels [default: the encoder's own]
    #[arg(long, value_name = "N")]
    size: Option<usize>,

    /// What is learned by: mse (squared differences of pixels), l1-ssim (absolute ones, and structural
    /// similarity)
    #[arg(long, value_name = "LOSS", default_value = "mse", value_parser = loss(),
          hide_possible_values = true)]
    loss: ReconstructionLoss,

    /// Denoise: add normal noise of this deviation to what is encoded, for pixels from 0 to 1
    #[arg(long, value_name = "SIGMA", default_value_t = 0.0, hide_default_value = true)]
    noise: f64,

    /// Fill in: cover this share of what is encoded with patches of the mean colour
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, hide_default_value = true)]
    mask: f64,

    /// Height and width of such a patch in pixels [default: an eighth of the image's]
    #[arg(long, value_name = "N", requires = "mask", value_parser = arguments::at_least_one)]
    patch: Option<usize>,

    /// Which pixels count in the loss: all, or those of masked patches only
    #[arg(long, value_name = "WHICH", default_value = "all", requires = "mask")]
    count: Counted,

    /// Share of the images held out to judge by
    #[arg(long, value_name = "F", default_value_t = 0.1)]
    held_out: f64,

    /// Times that every image is seen; 0 gives the network as it begins, to compare with
    #[arg(long, value_name = "N", default_value_t = 100)]
    epochs: usize,

    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,

    /// Highest learning rate
    #[arg(long, value_name = "X", default_value_t = 2e-3)]
    lr: f64,

    /// Decay of weights; norms and biases never decay
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    weight_decay: f64,

    /// Epochs without a better one after which to end; 0 never ends early
    #[arg(long, value_name = "N", default_value_t = 0)]
    patience: usize,

    /// How images are varied before they are encoded: auto, none, light, medium, or a TOML file of
    /// single settings
    #[arg(long, value_name = "LEVEL", default_value = "light", value_parser = augmentation::parse)]
    augment: Augmentation,

    /// Begin no epoch that would end later than this: 90s, 10m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    time_budget: Option<f64>,

    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Stop at an unreadable image instead of leaving it out
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Counted {
    All,
    Masked,
}

fn loss() -> impl TypedValueParser<Value = ReconstructionLoss> {
    let names = ReconstructionLoss::ALL.map(ReconstructionLoss::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<ReconstructionLoss>())
}

impl AutoencodeOptions {
    fn settings(self, images: &Path) -> Result<AutoencodeSettings, Failure> {
        let encoder = match (self.encoder, &self.weights) {
            (Some(name), _) => name,
            (None, Some(weights)) => network_of(weights)?.name().to_owned(),
            (None, None) => "small".to_owned(),
        };
        let Augmentation(augment) = self.augment;
        Ok(AutoencodeSettings {
            images: whole(images),
            encoder,
            weights: self.weights.as_deref().map(whole),
            pretrained: self.pretrained,
            bottleneck: self.bottleneck,
            size: self.size,
            held_out: self.held_out,
            loss: self.loss,
            corruption: Corruption {
                noise: self.noise,
                mask: self.mask,
                patch: self.patch.unwrap_or(0),
            },
            masked_only: self.count == Counted::Masked,
            seed: self.seed,
            strict: self.strict,
            time_budget: self.time_budget,
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.lr,
            weight_decay: self.weight_decay,
            patience: self.patience,
            augment: augment.unwrap_or_else(Augment::light),
        })
    }
}

impl Autoencode {
    /// Trains, or goes on training.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let progress = Progress::new();
        let images = self.images.unwrap_or_default();
        let free = || self.out.unwrap_or_else(|| free_folder(&images, "autoencode"));
        let folder = self.resume.clone().unwrap_or_else(free);
        let context = RunContext {
            folder: Some(folder.clone()),
            resume: self.resume.is_some(),
            workers: machine.threads(),
            ..RunContext::default()
        };
        let settings = match self.resume {
            Some(_) => read_autoencode_settings(&folder)?,
            None => self.options.settings(&images)?,
        };
        let outcome = autoencode(&settings, &context, &progress)
            .map_err(|error| stopped_or_failed(error, &folder))?;
        summarize(&outcome, &folder, &progress);
        if !self.no_report {
            match report::of_autoencoder(&folder) {
                Ok(file) => progress.say(&format!("report: {}", file.display())),
                Err(failure) => progress.say(&format!("warning: no report: {failure}")),
            }
        }
        if self.json {
            let json = serde_json::to_string(&outcome.report).expect("numbers serialize");
            writeln!(io::stdout(), "{json}")?;
        }
        Ok(())
    }
}

fn stopped_or_failed(error: LearnError, folder: &Path) -> Failure {
    match error {
        LearnError::Stopped if folder.join("settings.toml").exists() => Failure::Interrupted(Some(
            format!("continue with `refit autoencode --resume {}`", shell(folder)),
        )),
        error @ LearnError::Setting { .. } => {
            Failure::mistake(error.to_string(), "see `refit autoencode --help`")
        }
        error => error.into(),
    }
}

fn summarize(outcome: &Autoencoded, folder: &Path, progress: &Progress) {
    let report = &outcome.report;
    progress.say(&headline(report));
    progress.say(&format!("held out, at first: {}", told(&report.before)));
    progress.say(&format!("held out, now:      {}", told(&report.after)));
    if let Some(spoiled) = &report.spoiled {
        progress.say(&format!("held out, spoiled:  {}", told(spoiled)));
    }
    progress.say(&match report.threshold {
        Some(threshold) => format!("an anomaly is what has an error above {threshold:.4}"),
        None => "too few images were held out to say what an anomaly is: hold more out with \
                 --held-out"
            .to_owned(),
    });
    if !report.skipped.is_empty() {
        let n = count(report.skipped.len(), "unreadable image");
        progress.say(&format!("{n} left out, named above and in metrics.json"));
    }
    let model = folder.join("model.safetensors");
    progress.say(&format!("pictures: {}", folder.join("sheet.png").display()));
    progress.say(&format!("model: {}", model.display()));
    progress.say(&format!("use it: refit train DATA --weights {}", shell(&model)));
}

fn headline(report: &AutoencodeReport) -> String {
    let AutoencodeReport { encoder, train, held_out, bottleneck, size, seconds, .. } = report;
    format!(
        "\nautoencoder on {encoder}: {} and {held_out} held out, {size}x{size} pixels in \
         {bottleneck} values, {}",
        count(*train, "image"),
        duration(*seconds)
    )
}

/// `error 0.0123, PSNR 20.1 dB, SSIM 0.71`.
pub fn told(found: &Reconstruction) -> String {
    let Reconstruction { loss, psnr, ssim, .. } = found;
    format!("error {loss:.4}, PSNR {psnr:.1} dB, SSIM {ssim:.3}")
}
