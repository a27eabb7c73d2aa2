//! Edits of a graph's structure: remove, insert, replace, rename.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::draft::Draft;
use super::select::select;
use super::{EditError, NewLayer};
use crate::graph::{Graph, GraphRecord, LayerRecord, NodeId, is_under};

/// A layer or block of one input and one output, so that something else can stand in its place.
struct Region {
    nodes: BTreeSet<NodeId>,
    input: String,
    /// The layer whose value is used outside; the last one if none is.
    output: String,
}

impl Draft {
    pub(super) fn remove(&self, pattern: &str) -> Result<Self, EditError> {
        if self.graph.find(pattern).is_ok() {
            return self.remove_one(pattern);
        }
        let nodes = select(&self.graph, pattern)?;
        let mut next = self.clone();
        for name in self.names(&nodes) {
            next = next.remove_one(&name)?;
        }
        Ok(next)
    }

    fn remove_one(&self, name: &str) -> Result<Self, EditError> {
        let doing = format!("removing `{name}`");
        let region = self.region(name, &doing)?;
        let mut record = GraphRecord::from(&self.graph);
        // A classifier half-way that ends there is gone with it.
        record.auxiliary.retain(|(name, _)| *name != region.output);
        use_instead(&mut record, &region.output, &region.input);
        self.drop_layers(&mut record, &region.nodes);
        record.head = self.head_after(&record, "");
        self.changed(&doing, &record)
    }

    pub(super) fn replace(&self, name: &str, with: NewLayer) -> Result<Self, EditError> {
        let layer = with.layer()?;
        let doing = format!("replacing `{name}`");
        let region = self.region(name, &doing)?;
        let mut record = GraphRecord::from(&self.graph);
        use_instead(&mut record, &region.output, name);
        self.drop_layers(&mut record, &region.nodes);
        let place = (0..self.graph.find(&region.output)?).filter(|id| !region.nodes.contains(id));
        let new = LayerRecord { name: name.to_owned(), inputs: vec![region.input], layer };
        record.layers.insert(place.count(), new);
        record.head = self.head_after(&record, "");
        self.changed(&doing, &record)
    }

    pub(super) fn insert(
        &self,
        after: &str,
        layer: NewLayer,
        name: Option<&str>,
    ) -> Result<Self, EditError> {
        let layer = layer.layer()?;
        let place = self.graph.find(after)?;
        let name = match name {
            Some(name) => layer_name(name)?.to_owned(),
            None => self.free_name(&format!("{after}_{}", layer.kind())),
        };
        let doing = format!("inserting `{name}` after `{after}`");
        let mut record = GraphRecord::from(&self.graph);
        let input = self.graph.nodes()[place].name.clone();
        use_instead(&mut record, &input, &name);
        let fresh = LayerRecord { name: name.clone(), inputs: vec![input], layer };
        record.layers.insert(place + 1, fresh);
        self.with_graph(&record, |old| (old != name).then(|| old.to_owned()))
            .map_err(|error| self.breaks(&doing, error))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<Self, EditError> {
        let to = layer_name(to)?;
        let doing = format!("renaming `{from}` to `{to}`");
        self.graph.find_first(from)?;
        let new = |name: &str| match is_under(name, from) {
            true => format!("{to}{}", &name[from.len()..]),
            false => name.to_owned(),
        };
        let mut record = GraphRecord::from(&self.graph);
        let names: Vec<String> = record.layers.iter().map(|l| new(&l.name)).collect();
        if names[0] != record.layers[0].name {
            return Err(self.breaks(&doing, "it stands for the images"));
        }
        for layer in &mut record.layers {
            layer.name = new(&layer.name);
            layer.inputs.iter_mut().for_each(|input| *input = new(input));
        }
        record.output = new(&record.output);
        record.auxiliary.iter_mut().for_each(|(name, _)| *name = new(name));
        record.reconstruction.iter_mut().for_each(|name| *name = new(name));
        record.head = match is_under(&record.head, from) {
            true => new(&record.head),
            false => self.head_after(&record, to),
        };
        let old: Vec<String> = self.graph.nodes().iter().map(|n| n.name.clone()).collect();
        let was = |name: &str| names.iter().position(|n| n == name).map(|id| old[id].clone());
        self.with_graph(&record, was).map_err(|error| self.breaks(&doing, error))
    }

    /// The layers and blocks at which `edit` is possible, the most similar name to `name` alone.
    pub(super) fn nearest_at(
        &self,
        name: &str,
        edit: impl Fn(&Self, &str) -> bool,
    ) -> Option<String> {
        const MOST: usize = 200;
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for node in &self.graph.nodes()[1..] {
            names.extend(node.name.match_indices('.').map(|(at, _)| &node.name[..at]));
            names.insert(&node.name);
        }
        let mut names: Vec<&str> = names.into_iter().filter(|n| *n != name).collect();
        // Of two that are as similar, the one that begins alike.
        let likeness = |other: &str| {
            let same = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            (strsim::jaro_winkler(name, other), same as f64)
        };
        names.sort_by(|a, b| likeness(b).partial_cmp(&likeness(a)).unwrap_or(Ordering::Equal));
        names.into_iter().take(MOST).find(|n| edit(self, n)).map(str::to_owned)
    }

    /// The head's name, or another where no layer bears it any more.
    fn head_after(&self, record: &GraphRecord, otherwise: &str) -> String {
        let head = self.graph.head();
        let is_there = head.is_empty() || record.layers.iter().any(|l| is_under(&l.name, head));
        if is_there { head.to_owned() } else { otherwise.to_owned() }
    }

    fn drop_layers(&self, record: &mut GraphRecord, nodes: &BTreeSet<NodeId>) {
        let gone: BTreeSet<String> = self.names(nodes).collect();
        record.layers.retain(|l| !gone.contains(&l.name));
    }

    fn region(&self, name: &str, doing: &str) -> Result<Region, EditError> {
        let graph = &self.graph;
        let last = graph.find(name)?;
        let under = |id: &NodeId| is_under(&graph.nodes()[*id].name, name);
        let nodes: BTreeSet<NodeId> = match graph.nodes()[last].name == name {
            true => [last].into(),
            false => (0..graph.nodes().len()).filter(under).collect(),
        };
        if nodes.contains(&0) {
            return Err(self.breaks(doing, "it stands for the images"));
        }
        let inputs = |id: &NodeId| graph.nodes()[*id].inputs.clone();
        let inputs: BTreeSet<NodeId> =
            nodes.iter().flat_map(inputs).filter(|id| !nodes.contains(id)).collect();
        let used = used_outside(graph, &nodes);
        match (&*Vec::from_iter(inputs), &*Vec::from_iter(used)) {
            (&[input], used @ ([] | [_])) => Ok(Region {
                input: graph.nodes()[input].name.clone(),
                output: graph.nodes()[*used.first().unwrap_or(&last)].name.clone(),
                nodes,
            }),
            (&[_], used) => {
                let reason =
                    format!("others take {}, so nothing can stand for it", list(graph, used));
                Err(self.breaks(doing, reason))
            }
            (inputs, _) => {
                let reason =
                    format!("it joins {}, and none of them can stand for it", list(graph, inputs));
                Err(self.breaks(doing, reason))
            }
        }
    }

    /// The draft under a changed graph, if that can be.
    pub(super) fn changed(&self, doing: &str, record: &GraphRecord) -> Result<Self, EditError> {
        self.with_same_names(record).map_err(|error| self.breaks(doing, error))
    }

    /// `name`, or with the first number at its end that makes it new.
    pub(super) fn free_name(&self, name: &str) -> String {
        let taken = |name: &String| self.graph.nodes().iter().any(|n| n.name == *name);
        let numbered = (2..).map(|i| format!("{name}_{i}"));
        std::iter::once(name.to_owned())
            .chain(numbered)
            .find(|name| !taken(name))
            .expect("names do not end")
    }
}

/// The nodes among `nodes` that others take, or that are a result of the network's.
fn used_outside(graph: &Graph, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let others = graph.nodes().iter().enumerate().filter(|(id, _)| !nodes.contains(id));
    let taken = others.flat_map(|(_, n)| n.inputs.iter().copied());
    let results = graph.auxiliary().iter().map(|a| a.output).chain([graph.output()]);
    let results = results.chain(graph.reconstruction());
    taken.chain(results).filter(|id| nodes.contains(id)).collect()
}

fn list(graph: &Graph, nodes: &[NodeId]) -> String {
    let names: Vec<String> =
        nodes.iter().map(|&id| format!("`{}`", graph.nodes()[id].name)).collect();
    names.join(" and ")
}

/// Puts `new` wherever the value of `old` is used.
pub(super) fn use_instead(record: &mut GraphRecord, old: &str, new: &str) {
    let inputs = record.layers.iter_mut().flat_map(|l| &mut l.inputs);
    let outputs = record.auxiliary.iter_mut().map(|(name, _)| name);
    let results = record.reconstruction.iter_mut().chain([&mut record.output]);
    for name in inputs.chain(outputs).chain(results) {
        if name == old {
            new.clone_into(name);
        }
    }
}

/// Refuses names that a pattern or a file could not hold.
fn layer_name(name: &str) -> Result<&str, EditError> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match name.split('.').all(|part| !part.is_empty() && part.chars().all(is_fine)) {
        true => Ok(name),
        false => Err(EditError::Name { name: name.to_owned() }),
    }
}
