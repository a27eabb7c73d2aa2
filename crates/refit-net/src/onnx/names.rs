//! Names, each given once.

use std::collections::{BTreeSet, HashMap};

/// Names that differ from one another: of layers and their parameters, of a graph's values.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: BTreeSet<String>,
    /// The next number for what has been asked for before.
    next: HashMap<String, usize>,
}

impl Names {
    /// Takes a name out of those that are given.
    pub fn reserve(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// `name`, numbered if it, or that of a parameter with one of the suffixes, is taken.
    pub fn free(&mut self, name: &str, suffixes: &[&str]) -> String {
        let next = self.next.entry(name.to_owned()).or_default();
        loop {
            let numbered = match *next {
                0 => name.to_owned(),
                i => format!("{name}_{i}"),
            };
            *next += 1;
            let names = suffixes.iter().map(|suffix| full_name(&numbered, suffix));
            let names: BTreeSet<String> = names.chain([numbered.clone()]).collect();
            if names.is_disjoint(&self.taken) {
                self.taken.extend(names);
                return numbered;
            }
        }
    }
}

/// The name of a layer's parameter.
pub(super) fn full_name(layer: &str, suffix: &str) -> String {
    if suffix.is_empty() { layer.to_owned() } else { format!("{layer}.{suffix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice() {
        let mut names = Names::default();
        assert_eq!(names.free("a", &["weight"]), "a");
        assert_eq!(names.free("a", &[]), "a_1");
        assert_eq!(names.free("a.weight", &[""]), "a.weight_1", "a parameter has that name");
        assert_eq!(names.free("b.bias", &[""]), "b.bias");
        assert_eq!(names.free("b", &["weight", "bias"]), "b_1");
    }
}
