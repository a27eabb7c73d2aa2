//! `refit augment`: a picture of what training makes of images.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use refit::data::{RgbImage, contact_sheet, to_png};
use refit::learn::preview;
use refit::net::atomic_file;
use refit::{RunContext, Settings, Strategy};

use crate::arguments;
use crate::augmentation::{self, Augmentation};
use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::output::{Side, table};
use crate::progress::Progress;

/// Pixels of an image's side in the sheet, at most.
const CELL: usize = 160;

/// Rows of the sheet at most, and columns beside the first: cells of 10,000 images are 770 MB.
const MOST: usize = 100;

/// Show what training makes of images
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
DATA is what `refit train` takes. The result is a PNG with a row for each image: first as the network \
sees it plainly, then as the first epochs of training see it, one after the other, mixed with other \
images where training does that. `partial` keeps a few fixed views, the plain one among them, which its \
epochs see in turn: so does the picture. stdout lists the rows. docs/augmentation.md tells what each level does.",
    after_help = "Examples:
  refit augment photos/ --out sheet.png
  refit augment photos/ --out sheet.png --augment strong --images 10 --views 12
  refit augment photos/ --out sheet.png --augment mine.toml --seed 3"
)]
pub struct AugmentCommand {
    /// Folder of class folders, or CSV
    data: PathBuf,

    /// Where the picture goes
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// How images are varied: auto (for --strategy), none, light, medium, strong, or a TOML file of
    /// single settings
    #[arg(long, value_name = "LEVEL", default_value = "auto", value_parser = augmentation::parse)]
    augment: Augmentation,

    /// Strategy of the run that is shown, where the level is `auto`
    #[arg(long, value_name = "S", default_value = "fine-tune")]
    strategy: Strategy,

    /// Rows, up to 100: training images, spread over the classes
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = arguments::up_to(MOST))]
    images: usize,

    /// Columns beside the first, up to 100: epochs
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = arguments::up_to(MOST))]
    views: usize,

    /// Seed of the run that is shown
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Network whose preprocessing is used; `refit models` lists them
    #[arg(long, value_name = "NAME", default_value = "efficientnet_lite0")]
    backbone: String,
}

impl AugmentCommand {
    /// Draws.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        if self.out.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("png")) {
            return Err(Failure::mistake(
                format!("`{}` is not the name of a PNG", self.out.display()),
                "name it something.png: that is what is written",
            ));
        }
        let Augmentation(augment) = self.augment;
        let mut settings = Settings::new(self.data, self.strategy);
        settings.training.augment = augment;
        // What is new every time cannot be kept: as `refit train` has it.
        if settings.training.augment().mix.is_some() {
            settings.training.fixed_views = 0;
        }
        (settings.seed, settings.backbone) = (self.seed, self.backbone);
        let context = RunContext { workers: machine.threads(), ..RunContext::default() };
        let shown = preview(&settings, self.images, self.views, &context, &Progress::new())?;
        let row = |p: &refit::learn::Preview| -> Vec<RgbImage> {
            std::iter::once(&p.plain).chain(&p.views).cloned().collect()
        };
        let rows: Vec<Vec<RgbImage>> = shown.iter().map(row).collect();
        let size = rows.first().map_or(CELL, |row| row[0].width() as usize);
        let png = to_png(&contact_sheet(&rows, size.min(CELL) as u32));
        atomic_file::write(&self.out, |file| file.write_all(&png))?;
        let line = |(n, p): (usize, &refit::learn::Preview)| {
            vec![(n + 1).to_string(), p.class.clone(), p.sample.path.display().to_string()]
        };
        let mut lines = vec![["row", "class", "image"].map(str::to_owned).to_vec()];
        lines.extend(shown.iter().enumerate().map(line));
        write!(io::stdout(), "{}", table(&[Side::Right, Side::Left, Side::Left], &lines))?;
        Ok(())
    }
}
