//! refit as a library: train on a folder, keep the model, use it.
//!
//! ```console
//! $ cargo run --release --example library -- path/to/images path/to/one.jpg
//! ```

use std::path::Path;

use refit::{Model, RunContext, Settings, Strategy, train};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: library FOLDER IMAGE";
    let (folder, image) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);

    let settings = Settings::new(folder, Strategy::Features);
    let outcome = train(&settings, &RunContext::default(), &())?;
    let accuracy = outcome.report.val.as_ref().map(|val| val.top1);
    outcome.model.save(Path::new("model.safetensors"))?;

    let model = Model::open("model.safetensors", &refit::Device::flex())?;
    let prediction = model.predict(Path::new(&image))?;
    for (class, probability) in model.card.classes.iter().zip(&prediction.probabilities) {
        eprintln!("{class}: {probability:.3}");
    }
    if prediction.unknown {
        eprintln!("but the image looks like nothing that the model learned from");
    }
    eprintln!("validation accuracy: {accuracy:?}");
    Ok(())
}
