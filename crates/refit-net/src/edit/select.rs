//! Which layers an edit is about.

use std::collections::BTreeSet;

use globset::Glob;

use super::EditError;
use crate::error::nearest;
use crate::graph::{Graph, GraphError, NodeId, is_under};
use crate::layer::Layer;

/// The nodes that a pattern names: a layer, a block (`layer4`), a glob (`blocks.*.bn1`), all up to
/// the end of a block (`upto:layer2`) or from its beginning on (`from:layer3`), in the order of
/// [`Graph::nodes`].
pub(super) fn select(graph: &Graph, pattern: &str) -> Result<BTreeSet<NodeId>, EditError> {
    if let Some(name) = pattern.strip_prefix("upto:") {
        return Ok((0..=graph.find(name)?).collect());
    }
    if let Some(name) = pattern.strip_prefix("from:") {
        return Ok((graph.find_first(name)?..graph.nodes().len()).collect());
    }
    let glob = Glob::new(pattern).map_err(|error| EditError::Pattern {
        pattern: pattern.to_owned(),
        reason: error.kind().to_string(),
    })?;
    let glob = glob.compile_matcher();
    let fits = |name: &str| is_under(name, pattern) || glob.is_match(name);
    let nodes = graph.nodes().iter().enumerate();
    let found: BTreeSet<NodeId> = nodes.filter(|(_, n)| fits(&n.name)).map(|(id, _)| id).collect();
    if found.is_empty() {
        let GraphError::UnknownLayer { net, nearest, .. } = graph.unknown(pattern) else {
            unreachable!("unknown() names an unknown layer")
        };
        return Err(EditError::NoSuchLayers { net, pattern: pattern.to_owned(), nearest });
    }
    Ok(found)
}

/// The nodes of one kind that a pattern names; there has to be one.
pub(super) fn select_kind(
    graph: &Graph,
    pattern: &str,
    kind: &'static str,
    is_kind: impl Fn(&Layer) -> bool,
) -> Result<Vec<NodeId>, EditError> {
    let mut found = Vec::from_iter(select(graph, pattern)?);
    found.retain(|&id| is_kind(&graph.nodes()[id].layer));
    if found.is_empty() {
        let all = graph.nodes().iter().filter(|n| is_kind(&n.layer)).map(|n| n.name.as_str());
        return Err(EditError::NoneOfKind {
            net: graph.name().to_owned(),
            kind,
            pattern: pattern.to_owned(),
            nearest: nearest(pattern, all).map(str::to_owned),
        });
    }
    Ok(found)
}
