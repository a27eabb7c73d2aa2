//! Random edits keep every network valid, or are refused whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use refit_net::{
    Activation, Edit, Graph, GraphRecord, HeadKind, Hint, Network, NewLayer, Pooling, model_file,
    zoo,
};

/// The name of a layer or block, seldom one that is not there.
fn name(graph: &Graph, rng: &mut StdRng) -> String {
    let name = &graph.nodes().choose(rng).unwrap().name;
    let dots: Vec<usize> = name.match_indices('.').map(|(at, _)| at).collect();
    match (rng.random_range(0..10), dots.choose(rng)) {
        (0, _) => format!("{name}x"),
        (1..=4, Some(&dot)) => name[..dot].to_owned(),
        _ => name.clone(),
    }
}

fn pattern(graph: &Graph, rng: &mut StdRng) -> String {
    let name = name(graph, rng);
    match rng.random_range(0..8) {
        0 => format!("upto:{name}"),
        1 => format!("from:{name}"),
        2 => format!("{name}*"),
        3 => "*".into(),
        _ => name,
    }
}

fn new_layer(rng: &mut StdRng) -> NewLayer {
    let size = rng.random_range(0..5);
    match rng.random_range(0..12) {
        0 => NewLayer::Conv {
            channels: [1, 2, 6, 16].choose(rng).copied().unwrap(),
            kernel: size,
            stride: rng.random_range(0..3),
            groups: rng.random_range(1..3),
            dilation: rng.random_range(1..3),
            bias: rng.random_bool(0.5),
        },
        1 => NewLayer::Linear { features: size * 3, bias: rng.random_bool(0.5) },
        2 => NewLayer::BatchNorm,
        3 => NewLayer::LayerNorm,
        4 => NewLayer::Activation(Activation::Gelu),
        5 => NewLayer::Dropout { share: rng.random_range(0.0..1.2) },
        6 => NewLayer::LayerScale { initial: rng.random_range(0.0..1.0) },
        7 => NewLayer::MaxPool { window: size, stride: Some(1), padding: size / 2 },
        8 => NewLayer::AvgPool { window: size, stride: None, padding: 0 },
        9 => NewLayer::GlobalAvgPool,
        10 => NewLayer::AdaptiveAvgPool { size },
        _ => NewLayer::Flatten,
    }
}

/// Some keep rows of the old head.
fn linear_head(classes: usize) -> Edit {
    let keep = if classes % 2 == 1 { vec![[0, classes - 1]] } else { vec![] };
    Edit::ReplaceHead { classes, kind: HeadKind::Linear, keep }
}

fn edit(graph: &Graph, rng: &mut StdRng) -> Edit {
    let layer = name(graph, rng);
    let layers = pattern(graph, rng);
    match rng.random_range(0..16) {
        0 => linear_head(rng.random_range(0..9)),
        1 => Edit::ReplaceHead { classes: 3, kind: HeadKind::Mlp { hidden: 5 }, keep: vec![] },
        2 if rng.random_bool(0.2) => Edit::CutAt { layer },
        3 | 4 => Edit::Remove { layers },
        5..=7 => {
            let name = rng.random_bool(0.3).then(|| name(graph, rng));
            Edit::Insert { after: layer, layer: new_layer(rng), name }
        }
        8 | 9 => Edit::Replace { layer, with: new_layer(rng) },
        10 => Edit::Rename { layer, to: format!("{}.y", name(graph, rng)) },
        11 => Edit::Reinitialize { layers },
        12 => Edit::Freeze { layers },
        13 => match rng.random_range(0..3) {
            0 => Edit::FreezeBody,
            1 => Edit::UnfreezeFrom { layer },
            _ => Edit::Unfreeze { layers },
        },
        14 => Edit::ChangeActivation { to: Activation::Silu, layers },
        _ => {
            let to = [Pooling::Max, Pooling::Avg].choose(rng).copied().unwrap();
            Edit::ChangePooling { to, layers }
        }
    }
}

/// Builds it again, every shape checked.
fn assert_valid(graph: &Graph, after: &[Edit]) {
    let again = Graph::try_from(&GraphRecord::from(graph));
    assert_eq!(again.as_ref(), Ok(graph), "{after:?}");
    let mut names = BTreeSet::new();
    for id in 0..graph.nodes().len() {
        for spec in graph.parameters(id) {
            let name = graph.parameter_name(id, spec.suffix);
            assert!(names.insert(name.clone()), "two parameters {name}: {after:?}");
        }
    }
    assert!(graph.features() < graph.nodes().len());
    assert_eq!(graph.receptive_fields().len(), graph.nodes().len());
}

#[test]
fn random_edits_keep_graphs_valid_or_are_refused() {
    let networks =
        ["resnet18", "googlenet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "convnext_tiny"];
    let (mut made, mut refused) = (0, 0);
    for (i, network) in networks.into_iter().enumerate() {
        let rng = &mut StdRng::seed_from_u64(i as u64);
        for _ in 0..4 {
            let (mut graph, mut edits) = (zoo::find(network).unwrap().graph(), Vec::new());
            for _ in 0..12 {
                edits.push(edit(&graph, rng));
                match graph.edit(&edits[edits.len() - 1..]) {
                    Ok(next) => {
                        assert_valid(&next, &edits);
                        (graph, made) = (next, made + 1);
                    }
                    Err(error) => {
                        assert!(!error.to_string().is_empty() && error.hint().is_some(), "{error}");
                        edits.pop();
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(made > 80 && refused > 40, "{made} made, {refused} refused");
}

fn assert_equal(a: &Network, b: &Network, after: &[Edit]) {
    assert_eq!(a.graph(), b.graph(), "{after:?}");
    let frozen = |net: &Network| {
        (0..net.graph().nodes().len()).map(|id| net.is_frozen(id)).collect::<Vec<_>>()
    };
    assert_eq!(frozen(a), frozen(b), "{after:?}");
    assert!(a.parameters().keys().eq(b.parameters().keys()), "{after:?}");
    for (name, parameter) in a.parameters() {
        let bits = |net: &Network| {
            net.parameters()[name].to_vec().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(a), bits(b), "{name}: {after:?}");
        assert_eq!(parameter.shape, b.parameters()[name].shape);
    }
}

#[test]
fn a_list_does_what_its_edits_do_one_by_one_and_is_saved_whole() {
    let device = Default::default();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edited.safetensors");
    let start = zoo::find("lenet5").unwrap().random(3, &device);
    for seed in 0..25 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (mut net, mut edits) = (start.clone(), Vec::new());
        while edits.len() < 5 {
            let edit = edit(net.graph(), rng);
            if let Ok(next) = net.edit(std::slice::from_ref(&edit), seed) {
                edits.push(edit);
                net = next;
            }
        }
        assert_equal(&start.edit(&edits, seed).unwrap(), &net, &edits);
        model_file::save(&path, &net, &serde_json::Value::Null).unwrap();
        assert_equal(&model_file::load(&path, &device).unwrap().0, &net, &edits);
        let json = serde_json::to_string(&edits).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Edit>>(&json).unwrap(), edits);
        edits.push(Edit::Remove { layers: "nowhere".into() });
        assert!(start.edit(&edits, seed).is_err());
    }
}
