//! A small network that learns from a large one what it knows of your images.
//!
//! ```console
//! $ cargo run --release --example distill -- path/to/photos teacher.safetensors
//! ```

use refit::learn::{Distillation, distill_into};
use refit::{RunContext, Settings, Strategy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: distill FOLDER TEACHER";
    let (folder, teacher) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);

    let mut settings = Settings::new(folder, Strategy::Scratch);
    settings.backbone = "mobilenet_v2".into();
    settings.training.fixed_views = Distillation::views_for(Strategy::Scratch);
    settings.distillation =
        Some(Distillation { hints: 2.0, ..Distillation::of(vec![teacher.into()]) });

    let with_alone = true;
    let (outcome, distilled) = distill_into(&settings, &RunContext::default(), with_alone, &())?;
    let alone = distilled.alone.iter().map(|party| ("without a teacher", party));
    let teachers = distilled.teachers.iter().map(|party| ("teacher", party));
    for (who, party) in teachers.chain([("student", &distilled.student)]).chain(alone) {
        if let Some(metrics) = &party.metrics {
            eprintln!("{who}, {}: {:.1}%", party.network, 100.0 * metrics.top1);
        }
    }
    outcome.model.save("student.safetensors".as_ref())?;
    Ok(())
}
