//! Edits as users write them: in a recipe, or as flags in their order.

use std::fs;
use std::path::Path;

use refit::net::{EditError, Graph};
use refit::{Edit, Hint};
use serde::Deserialize;

use crate::failure::Failure;

/// An edit, and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The edit.
    pub edit: Edit,
    /// `edits.toml, line 4`, or the flag.
    pub place: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    edit: Vec<toml::Spanned<Edit>>,
}

/// Reads a recipe: a table `[[edit]]` for each edit.
pub fn read(path: &Path) -> Result<Vec<Step>, Failure> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::mistake(format!("cannot read `{name}`: {error}"), "give a file of edits, in TOML")
    })?;
    let place = |at: usize| {
        let before = text.get(..at).unwrap_or(&text);
        format!("{name}, line {}", before.matches('\n').count() + 1)
    };
    let File { edit: edits } = toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Failure::mistake(
            format!("{}: {}", place(at), error.message().replace('\n', ", ")),
            "a table [[edit]] holds one edit; `refit edit --help` shows a recipe, docs/surgery.md \
             every edit",
        )
    })?;
    if edits.is_empty() {
        return Err(Failure::mistake(
            format!("`{name}` holds no edits"),
            "write a table [[edit]] for each; `refit edit --help` shows a recipe",
        ));
    }
    let step = |edit: toml::Spanned<Edit>| {
        let place = place(edit.span().start);
        Step { edit: edit.into_inner(), place }
    };
    Ok(edits.into_iter().map(step).collect())
}

/// The edits alone, if they all fit.
pub fn check(steps: &[Step], graph: &Graph) -> Result<Vec<Edit>, Failure> {
    let edits: Vec<Edit> = steps.iter().map(|step| step.edit.clone()).collect();
    match graph.edit(&edits) {
        Ok(_) => Ok(edits),
        Err(error) => Err(refusal(steps, &edits, graph, &error)),
    }
}

/// What is refused, and which edit it is: the first whose predecessors fit without it.
fn refusal(steps: &[Step], edits: &[Edit], graph: &Graph, error: &EditError) -> Failure {
    let first = (0..edits.len()).find(|&i| graph.edit(&edits[..=i]).is_err()).unwrap_or(0);
    let message = format!("{}: {error}", steps[first].place);
    Failure::mistake(message, error.hint().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit::zoo;

    #[test]
    fn the_recipe_of_the_guide_fits() {
        let guide = include_str!("../../../docs/surgery.md");
        let recipe = guide.split("```toml\n").nth(1).and_then(|text| text.split("```").next());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edits.toml");
        fs::write(&path, recipe.unwrap()).unwrap();
        let steps = read(&path).unwrap();
        assert!(steps[1].place.ends_with("edits.toml, line 5"), "{}", steps[1].place);
        let graph = zoo::find("resnet18").unwrap().graph();
        assert_eq!(check(&steps, &graph).unwrap().len(), 6);
    }
}
