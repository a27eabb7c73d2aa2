//! `refit explain`: where in an image a model sees a class.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use refit::LearnError;
use refit::data::{DecodeOptions, RgbImage, decode_file_in};
use refit::learn::{Explainer, Method};
use refit::net::atomic_file;
use serde_json::json;

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::machine::Machine;
use crate::model_arg::ModelArg;
use crate::output::percent;
use crate::report::{encode_jpeg, encode_png, over};

/// Show where in an image a model sees a class
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Writes the image as the network sees it, under a heat map: the brighter, the more a place speaks \
for the class. The map is as fine as the layer's, often 7 by 7, and is smoothed.",
    after_help = "Examples:
  refit explain model.safetensors new.jpg --out heat.png
  refit explain model.safetensors new.jpg --out heat.png --class bees
  refit explain model.safetensors new.jpg --out heat.png --layer blocks.4
  refit explain efficientnet_lite0 dog.jpg --out heat.png --method eigen-cam

Methods:
  grad-cam   what speaks for the class: channels weighted by its gradient
             (Selvaraju et al. 2017)
  eigen-cam  what stands out in the layer, whatever the class
             (Muhammad and Yeasin 2020)"
)]
pub struct Explain {
    #[command(flatten)]
    model: ModelArg,

    /// The image
    image: PathBuf,

    /// The picture to write, .png or .jpg
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Class to explain [default: the likeliest]
    #[arg(long, value_name = "NAME")]
    class: Option<String>,

    /// Layer or block whose map is shown [default: the last with a map of several pixels]
    #[arg(long, value_name = "LAYER")]
    layer: Option<String>,

    /// How a layer's map becomes a heat map, see below
    #[arg(long, value_name = "HOW", default_value = "grad-cam", hide_possible_values = true)]
    method: How,

    /// Print what is told as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    GradCam,
    EigenCam,
}

impl Explain {
    /// Explains one image.
    pub fn run(self, machine: &Machine) -> Result<(), Failure> {
        let kind = Kind::of(&self.out)?;
        if self.class.is_some() && self.method == How::EigenCam {
            return Err(Failure::mistake(
                "--class does nothing with --method eigen-cam, which shows what stands out, whatever \
                 the class",
                "leave it out, or use --method grad-cam",
            ));
        }
        let model = self.model.open(&machine.device())?;
        model.check_classes()?;
        let class = self.class.as_deref().map(|name| model.class(name)).transpose()?;
        let method = match self.method {
            How::GradCam => Method::GradCam,
            How::EigenCam => Method::EigenCam,
        };
        let explainer = Explainer::new(&model, self.layer.as_deref(), method)?;
        let preprocess = &model.card.preprocess;
        let image = decode_file_in(&self.image, &DecodeOptions::default(), preprocess.detail())
            .map_err(LearnError::from)?;
        let square = preprocess.square(&image);
        let found = explainer.explain_square(&square, class);
        kind.save(&over(&square, &found.map), &self.out)?;
        let name = &model.card.classes[found.class];
        let text = match self.json {
            true => json!({
                "path": self.image.to_string_lossy(),
                "class": name,
                "index": found.class,
                "probability": found.probability,
                "method": method,
                "layer": explainer.layer(),
                "map": { "width": found.map.width, "height": found.map.height, "values": found.map.values },
                "out": self.out.to_string_lossy(),
            })
            .to_string(),
            false => format!("{name}  {}", percent(found.probability.into())),
        };
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

/// How the picture is written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Png,
    Jpeg,
}

impl Kind {
    fn of(path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("png") => Ok(Self::Png),
            Some("jpg" | "jpeg") => Ok(Self::Jpeg),
            _ => Err(Failure::mistake(
                format!("`{}` does not say what kind of picture to write", path.display()),
                "name a .png or a .jpg",
            )),
        }
    }

    fn save(self, image: &RgbImage, path: &Path) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let encoded = match self {
            Self::Png => encode_png(image, &mut bytes),
            Self::Jpeg => encode_jpeg(image, &mut bytes),
        };
        encoded.expect("an image of eight bits, into memory");
        Ok(atomic_file::write(path, |file| file.write_all(&bytes))?)
    }
}
