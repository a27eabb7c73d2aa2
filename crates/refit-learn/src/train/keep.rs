//! The rows of the old head for classes that the new task shares with it.

use refit_net::zoo;

use super::Run;
use super::as_is::imagenet_position;
use super::start::Start;
use crate::error::{LearnError, list};
use crate::watch::Event;

impl Run<'_> {
    /// Pairs of a shared class's number before and now; none where nobody asked.
    pub(super) fn kept_classes(&self, start: &Start) -> Result<Vec<[usize; 2]>, LearnError> {
        if !self.settings.keep_classes {
            return Ok(Vec::new());
        }
        start.check_rows()?;
        let now = &self.dataset.classes;
        let pairs: Vec<[usize; 2]> = (0..now.len())
            .filter_map(|class| Some([position(&start.classes, &now[class])?, class]))
            .collect();
        if pairs.is_empty() {
            let (before, now) = (start.classes.clone(), now.clone());
            return Err(LearnError::NoSharedClasses { before, now });
        }
        self.watch.event(Event::Note(in_words(&pairs, now)));
        Ok(pairs)
    }
}

impl Start {
    /// Refuses a network whose outputs are not, or no longer, the classes that it came with.
    fn check_rows(&self) -> Result<(), LearnError> {
        let refused = |with: &str, why| Err(LearnError::NothingKept { with: with.to_owned(), why });
        if self.classes.is_empty() {
            return refused("this network", "which gives features, not classes");
        }
        let graph = self.network.graph();
        let is_head = |name: &String| graph.find(name).is_ok_and(|id| graph.is_head(id));
        let outputs = graph.nodes()[graph.output()].shape.elements();
        if outputs != self.classes.len() || self.fresh.iter().any(is_head) {
            return refused("this --recipe", "which changes the head");
        }
        Ok(())
    }
}

fn in_words(pairs: &[[usize; 2]], now: &[String]) -> String {
    let (kept, all) = (pairs.len(), now.len());
    let names: Vec<String> = pairs.iter().map(|&[_, class]| now[class].clone()).collect();
    let others = if kept == all { "" } else { "; the others are new" };
    format!("head: kept the rows of {kept} of {all} classes: {}{others}", list(&names))
}

/// The number of the class of that name, in any case; ImageNet's are known by their WordNet ids
/// too.
fn position(classes: &[String], name: &str) -> Option<usize> {
    let plain = |name: &str| name.trim().to_lowercase();
    let exact = classes.iter().position(|class| class == name);
    let same = || classes.iter().position(|class| plain(class) == plain(name));
    let are_imagenet = || zoo::imagenet_classes().map(|(_, name)| name).eq(classes);
    let known = || imagenet_position(name).filter(|_| are_imagenet());
    exact.or_else(same).or_else(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_found_by_name() {
        let classes = ["Cat", "cat", "Hot dog"].map(str::to_owned);
        assert_eq!(position(&classes, "cat"), Some(1));
        assert_eq!(position(&classes, " CAT "), Some(0));
        assert_eq!(position(&classes, "hot dog"), Some(2));
        assert_eq!(position(&classes, "hot"), None);
        assert_eq!(position(&classes, "n01440764"), None);
    }

    #[test]
    fn imagenet_classes_are_found_by_id_too() {
        let classes: Vec<String> = zoo::imagenet_classes().map(|(_, name)| name.into()).collect();
        for name in ["great white shark", "Great_White_Shark", "n01484850", "n01484850_shark"] {
            assert_eq!(position(&classes, name), Some(2), "{name}");
        }
        assert_eq!(position(&classes, "ants"), None);
    }
}
