//! Features from images without labels: an autoencoder, then a classifier on its codes.
//!
//! ```console
//! $ cargo run --release --example autoencode -- path/to/images path/to/class/folders
//! ```

use std::path::PathBuf;

use refit::data::{list_images, to_png};
use refit::learn::autoencode::{AutoencodeSettings, autoencode, sheet};
use refit::{RunContext, RunOptions, Settings, Strategy, train};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: autoencode IMAGES CLASS_FOLDERS";
    let (images, classes) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);

    let settings = AutoencodeSettings { epochs: 50, ..AutoencodeSettings::new(&images) };
    let learned = autoencode(&settings, &RunContext::default(), &())?;
    let [before, after] = [learned.report.before, learned.report.after].map(|found| found.psnr);
    eprintln!("images held out: {before:.1} dB at first, {after:.1} dB now");
    if let Some(sheet) = sheet(&learned.pictures) {
        std::fs::write("pictures.png", to_png(&sheet))?;
    }

    let samples: Vec<_> = list_images(&[PathBuf::from(&images)])?
        .into_iter()
        .map(|path| refit::data::Sample { path, label: 0 })
        .collect();
    learned.model.anomalies(&samples, 0.05, &RunOptions::default(), &(), &mut |index, found| {
        if found.exceeds {
            eprintln!("unlike the others: {}", samples[index].path.display());
        }
    })?;

    let file = PathBuf::from("autoencoder.safetensors");
    learned.model.save(&file)?;
    let settings = Settings {
        backbone: learned.model.network.graph().name().to_owned(),
        weights: Some(file),
        ..Settings::new(classes, Strategy::Features)
    };
    let outcome = train(&settings, &RunContext::default(), &())?;
    if let Some(found) = outcome.report.val {
        eprintln!("accuracy on its codes: {:.1}%", 100.0 * found.top1);
    }
    Ok(())
}
