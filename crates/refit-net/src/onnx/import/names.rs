//! Names of layers, from what exporters write: weights' names, paths of modules, scopes.

use crate::onnx::proto::Node;

/// Operators that are written as functions, not as modules: their layer is named after the module
/// they are in, and the operator.
const FUNCTIONS: [&str; 12] = [
    "Add",
    "Sum",
    "Mul",
    "Div",
    "Sub",
    "Concat",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Pad",
    "Transpose",
];

/// The layer's name that a node suggests; `weight` is the name of its weights, if it has any.
pub(super) fn layer_name(node: &Node, weight: Option<&str>, prefix: &str) -> String {
    let of_weight = weight
        .and_then(|w| w.strip_suffix(".weight"))
        .filter(|name| !name.is_empty() && !name.contains(':'));
    if let Some(name) = of_weight {
        return name.to_owned();
    }
    let function = FUNCTIONS.contains(&node.op_type.as_str());
    let op = snake(&node.op_type);
    let module = scopes(node).or_else(|| path(&node.name, prefix));
    let name = match module {
        Some(module) if module.is_empty() => op,
        Some(module) if function => format!("{module}.{op}"),
        Some(module) => module,
        None if node.name.is_empty() => node.output.first().cloned().unwrap_or(op),
        None => node.name.clone(),
    };
    name.replace(['/', ':'], ".").trim_matches('.').to_owned()
}

/// The first parts that all paths of a file have, as TensorFlow's do:
/// `StatefulPartitionedCall/model/`.
pub(super) fn common_prefix<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let paths = names.filter(|n| n.contains('/') && !n.starts_with('/'));
    let mut common: Option<Vec<&str>> = None;
    for name in paths {
        let parts: Vec<&str> = name.split('/').collect();
        let parts = &parts[..parts.len().saturating_sub(2)];
        common = Some(match common {
            None => parts.to_vec(),
            Some(common) => {
                common.iter().zip(parts).take_while(|(a, b)| a == b).map(|(a, _)| *a).collect()
            }
        });
    }
    common.unwrap_or_default().iter().map(|part| format!("{part}/")).collect()
}

/// The module in a path that ends in an operator: `/layer1/layer1.0/conv1/Conv` is
/// `layer1.0.conv1`, `/layer1/layer1.0/relu_1/Relu` is `layer1.0.relu_1`.
fn path(name: &str, prefix: &str) -> Option<String> {
    let rest = name.strip_prefix('/').or_else(|| {
        let rest = name.strip_prefix(prefix)?;
        rest.contains('/').then_some(rest)
    })?;
    let mut parts: Vec<&str> = rest.split('/').collect();
    parts.pop();
    Some(nested(parts.into_iter()))
}

/// The innermost module of the scopes that PyTorch's newer exporter keeps:
/// `['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']`.
fn scopes(node: &Node) -> Option<String> {
    let scopes = node.metadata_props.iter().find(|e| e.key == "pkg.torch.onnx.name_scopes")?;
    let list = scopes.value.trim_matches(['[', ']']);
    let mut scopes: Vec<&str> =
        list.split(", ").map(|scope| scope.trim_matches(['\'', '"'])).collect();
    scopes.pop();
    Some(scopes.pop()?.to_owned())
}

/// Joins parts of which one may repeat the one before it.
fn nested<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for part in parts {
        let repeats =
            |last: &&str| part.strip_prefix(*last).is_some_and(|rest| rest.starts_with('.'));
        if kept.last().is_some_and(repeats) {
            kept.pop();
        }
        kept.push(part);
    }
    kept.join(".")
}

fn snake(op: &str) -> String {
    let mut name = String::new();
    for (i, c) in op.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::Entry;

    fn name(op: &str, name: &str, weight: Option<&str>) -> String {
        let node = Node { name: name.into(), op_type: op.into(), ..Node::default() };
        layer_name(&node, weight, "model/net/")
    }

    #[test]
    fn names_are_those_of_modules() {
        let conv = "/layer1/layer1.0/conv1/Conv";
        assert_eq!(name("Conv", conv, Some("layer1.0.conv1.weight")), "layer1.0.conv1");
        assert_eq!(name("Conv", conv, Some("onnx::Conv_193")), "layer1.0.conv1");
        assert_eq!(name("Relu", "/layer1/layer1.0/relu_1/Relu", None), "layer1.0.relu_1");
        assert_eq!(name("Add", "/layer1/layer1.0/Add", None), "layer1.0.add");
        assert_eq!(name("Flatten", "/Flatten", None), "flatten");
        assert_eq!(name("Conv", "model/net/conv1/Conv2D", None), "conv1");
        assert_eq!(name("Conv", "conv_17", Some("w")), "conv_17");
    }

    #[test]
    fn scopes_name_the_innermost_module() {
        let entry = Entry {
            key: "pkg.torch.onnx.name_scopes".into(),
            value: "['', 'layer1', 'layer1.0', 'add']".into(),
        };
        let node = Node { op_type: "Add".into(), metadata_props: vec![entry], ..Node::default() };
        assert_eq!(layer_name(&node, None, ""), "layer1.0.add");
    }

    #[test]
    fn what_all_paths_share_is_left_out() {
        let names = ["a/b/conv/Conv2D", "a/b/bn/Norm", "/x/Conv", "plain"];
        assert_eq!(common_prefix(names.into_iter()), "a/b/");
    }
}
