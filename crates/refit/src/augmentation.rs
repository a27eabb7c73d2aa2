//! `--augment`: a level, or a file of single settings.

use std::path::Path;

use refit::data::{Augment, Hint, Level};

/// How training images are varied; none leaves it to the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Augmentation(pub Option<Augment>);

/// `auto`, a level, or the name of a TOML file.
pub fn parse(text: &str) -> Result<Augmentation, String> {
    if text == "auto" {
        return Ok(Augmentation(None));
    }
    if let Ok(level) = text.parse::<Level>() {
        return Ok(Augmentation(Some(level.augment())));
    }
    match Path::new(text).extension().is_some_and(|ending| ending == "toml") {
        true => read(text).map(|augment| Augmentation(Some(augment))),
        false => Err("write auto, none, light, medium, strong, or the name of a .toml file".into()),
    }
}

/// A file that holds what the table `[training.augment]` of a run's `settings.toml` does.
fn read(name: &str) -> Result<Augment, String> {
    let text =
        std::fs::read_to_string(name).map_err(|error| format!("it cannot be read: {error}"))?;
    let augment: Augment = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or(&text).matches('\n').count() + 1;
        let problem = error.message().replace('\n', ", ");
        format!("line {line}: {problem}; docs/augmentation.md lists the settings")
    })?;
    augment.validate().map_err(|error| match error.hint() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    })?;
    Ok(augment)
}
