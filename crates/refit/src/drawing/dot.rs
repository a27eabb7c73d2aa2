//! Graphviz's language: <https://graphviz.org/doc/info/lang.html>.

use std::fmt::Write;

use super::Picture;

/// The network for `dot`, blocks as clusters; frozen layers are dashed.
pub fn dot(picture: &Picture) -> String {
    let mut text = format!(
        "digraph {} {{\n  label={}; labelloc=t;\n  \
         node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\", fontsize=10];\n",
        quoted(picture.graph.name()),
        quoted(picture.title)
    );
    let nodes = picture.graph.nodes();
    let block = |id: usize| nodes[id].name.split_once('.').map(|(block, _)| block);
    let mut ids = 0..nodes.len();
    while let Some(first) = ids.next() {
        let Some(name) = block(first) else {
            text += &node(picture, first, "  ");
            continue;
        };
        // A block's layers stand together; where others come between, it has several clusters.
        let last = (first..nodes.len()).take_while(|&id| block(id) == Some(name)).count() + first;
        let _ = write!(text, "  subgraph cluster_{first} {{\n    label={};\n", quoted(name));
        (first..last).for_each(|id| text += &node(picture, id, "    "));
        text += "  }\n";
        ids = last..nodes.len();
    }
    for (id, node) in nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| text += &format!("  n{input} -> n{id};\n"));
    }
    text + "}\n"
}

fn node(picture: &Picture, id: usize, indent: &str) -> String {
    let dashed = if picture.frozen[id] { ", style=\"rounded,filled,dashed\"" } else { "" };
    let label = quoted(&picture.lines(id).join("\n"));
    format!("{indent}n{id} [label={label}, fillcolor=\"{}\"{dashed}];\n", picture.colour(id))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit::zoo;

    #[test]
    fn every_layer_and_every_wire_is_there() {
        let graph = zoo::find("googlenet").unwrap().graph();
        let frozen = vec![true; graph.nodes().len()];
        let text = dot(&Picture { graph: &graph, frozen: &frozen, title: "a \"title\"" });
        assert!(text.starts_with("digraph \"googlenet\" {\n  label=\"a \\\"title\\\"\";"));
        assert_eq!(text.matches("fillcolor").count(), graph.nodes().len());
        let wires: usize = graph.nodes().iter().map(|n| n.inputs.len()).sum();
        assert_eq!(text.matches(" -> ").count(), wires);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(text.contains("label=\"inception3a\";"));
    }
}
