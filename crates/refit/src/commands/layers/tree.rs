//! Layers as a tree by the parts of their names, with sums.

use refit::net::{Graph, NodeId};

use super::{Listing, number};
use crate::output::{Side, table};

/// A part of names, and what is under it.
#[derive(Default)]
struct Branch<'a> {
    part: &'a str,
    layer: Option<NodeId>,
    below: Vec<Branch<'a>>,
}

impl<'a> Branch<'a> {
    fn add(&mut self, name: &'a str, layer: NodeId) {
        let (part, rest) =
            name.split_once('.').map_or((name, None), |(part, rest)| (part, Some(rest)));
        // Only the last branch may go on: a block that others interrupt is listed twice.
        let is_last = self.below.last().is_some_and(|last| last.part == part);
        if !is_last {
            self.below.push(Branch { part, ..Branch::default() });
        }
        let branch = self.below.last_mut().expect("just added, if there was none");
        match rest {
            Some(rest) => branch.add(rest, layer),
            None => branch.layer = Some(layer),
        }
    }

    fn layers(&self) -> Vec<NodeId> {
        let below = self.below.iter().flat_map(Branch::layers);
        self.layer.into_iter().chain(below).collect()
    }
}

/// The tree, down to `depth` parts of a name.
pub fn tree(listing: &Listing, graph: &Graph, depth: usize) -> String {
    let mut root = Branch::default();
    graph.nodes().iter().enumerate().for_each(|(id, node)| root.add(&node.name, id));
    let header = ["name", "kind", "shape", "parameters", "multiply-adds", "state"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.push(row(listing, &root, graph.name()));
    rows_below(listing, &root, "", depth, &mut rows);
    let (l, r) = (Side::Left, Side::Right);
    table(&[l, l, l, r, r, l], &rows)
}

fn rows_below(
    listing: &Listing,
    branch: &Branch,
    indent: &str,
    depth: usize,
    rows: &mut Vec<Vec<String>>,
) {
    if depth == 0 {
        return;
    }
    for (i, below) in branch.below.iter().enumerate() {
        let (fork, stem) = match i + 1 == branch.below.len() {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        rows.push(row(listing, below, &format!("{indent}{fork}{}", below.part)));
        rows_below(listing, below, &format!("{indent}{stem}"), depth - 1, rows);
    }
}

fn row(listing: &Listing, branch: &Branch, name: &str) -> Vec<String> {
    let layers: Vec<_> = branch.layers().into_iter().map(|id| &listing.layers[id]).collect();
    let last = layers.last().expect("branches end in layers");
    let kind = match (branch.layer, layers.len()) {
        (Some(_), 1) => last.kind.to_owned(),
        (_, n) => format!("{n} layers"),
    };
    let of = |frozen| layers.iter().any(|l| l.parameters > 0 && l.frozen == frozen);
    let state = match (of(true), of(false)) {
        (true, true) => "frozen in part",
        (true, false) => "frozen",
        (false, true) => "trained",
        (false, false) => "",
    };
    vec![
        name.to_owned(),
        kind,
        last.shape.to_string(),
        number(layers.iter().map(|l| l.parameters).sum()),
        number(layers.iter().map(|l| l.multiply_adds).sum()),
        state.to_owned(),
    ]
}
