//! Rows of a head that the head in its place keeps: classes that two tasks share.

use super::EditError;
use super::draft::{Draft, Origin};
use super::head::HeadKind;
use crate::graph::NodeId;
use crate::layer::{Layer, ParameterSpec};
use crate::network::{Network, initial_values};

/// Values of a new head, some rows of which are an old head's.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    /// The old head's parameter, and where its values come from.
    old: (ParameterSpec, Origin),
    /// Pairs of an old row and the new row that it becomes.
    pub pairs: Vec<[usize; 2]>,
    /// The name and the layer by which other rows start.
    fresh: (String, Layer),
}

impl Rows {
    /// The values for a parameter of the shape that `spec` has.
    pub fn values(&self, spec: &ParameterSpec, net: &Network, seed: u64) -> Vec<f32> {
        let (was, origin) = &self.old;
        let old = origin.parameter(was, net, seed).to_vec();
        let (name, layer) = &self.fresh;
        let mut new = initial_values(layer, spec, name, seed);
        let width = new.len() / spec.shape[0];
        for &[from, to] in &self.pairs {
            new[to * width..][..width].copy_from_slice(&old[from * width..][..width]);
        }
        new
    }
}

impl Draft {
    /// Gives the head rows of the one that `before` has, by pairs of an old class and a new one.
    pub(super) fn keep_rows(
        &mut self,
        before: &Self,
        kind: HeadKind,
        pairs: &[[usize; 2]],
    ) -> Result<(), EditError> {
        let refuse = |reason| EditError::Rows { net: before.graph.name().to_owned(), reason };
        if let HeadKind::Mlp { .. } = kind {
            return Err(refuse(format!("a head `{kind}` hands its rows other values")));
        }
        let old = before.only_head_layer().map_err(refuse)?;
        let new = self.only_head_layer().expect("a new linear head is one layer");
        let layer = self.graph.nodes()[new].layer;
        let was = before.graph.parameters(old);
        for spec in self.graph.parameters(new) {
            // A head without bias has nothing to keep for one.
            let Some(was) = was.iter().find(|p| p.suffix == spec.suffix) else { continue };
            check(was.shape[0], spec.shape[0], pairs).map_err(refuse)?;
            let origin = before.origins[&before.graph.parameter_name(old, spec.suffix)].clone();
            let name = self.graph.parameter_name(new, spec.suffix);
            let rows = Rows {
                old: (was.clone(), origin),
                pairs: pairs.to_vec(),
                fresh: (name.clone(), layer),
            };
            self.origins.insert(name, Origin::Rows(Box::new(rows)));
        }
        Ok(())
    }

    /// The one layer with parameters in the head, if it has a row for each class.
    fn only_head_layer(&self) -> Result<NodeId, String> {
        let graph = &self.graph;
        let nodes = (0..graph.nodes().len()).filter(|&id| graph.is_head(id));
        let layers = Vec::from_iter(nodes.filter(|&id| !graph.parameters(id).is_empty()));
        let has_rows = |layer| match layer {
            Layer::Linear(_) => true,
            Layer::Conv(conv) => conv.kernel == [1, 1] && conv.groups == 1,
            _ => false,
        };
        match layers[..] {
            [] => Err("there is none".into()),
            [one] if has_rows(graph.nodes()[one].layer) => Ok(one),
            _ => Err(format!("`{}` is more than one linear layer", graph.head())),
        }
    }
}

fn check(old: usize, new: usize, pairs: &[[usize; 2]]) -> Result<(), String> {
    match pairs.iter().find(|[from, to]| *from >= old || *to >= new) {
        Some([from, to]) => {
            Err(format!("row {from} cannot become row {to}, of {old} old ones and {new} new ones"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::{Edit, Weights};
    use crate::error::Hint;
    use crate::zoo;

    fn network(name: &str) -> Network {
        zoo::find(name).unwrap().random(1, &Default::default())
    }

    fn head(classes: usize, keep: &[[usize; 2]]) -> Edit {
        Edit::ReplaceHead { classes, kind: HeadKind::Linear, keep: keep.to_vec() }
    }

    fn row(net: &Network, parameter: &str, row: usize) -> Vec<f32> {
        let parameter = &net.parameters()[parameter];
        let width = parameter.len() / parameter.shape[0];
        parameter.to_vec()[row * width..][..width].to_vec()
    }

    /// A bias of its own for each class; they start at zero.
    fn with_biases(mut net: Network, name: &str) -> Network {
        net.update(name, |values| {
            values.iter_mut().enumerate().for_each(|(i, value)| *value = i as f32);
        });
        net
    }

    #[test]
    fn rows_of_shared_classes_are_the_old_ones() {
        for (network_name, old, new) in [
            ("mobilenet_v3_small", "classifier.3", "classifier.3"),
            ("squeezenet1_1", "classifier.1", "classifier"),
        ] {
            let net = with_biases(network(network_name), &format!("{old}.bias"));
            let kept = net.edit(&[head(4, &[[7, 2], [900, 0]])], 5).unwrap();
            let fresh = net.edit(&[head(4, &[])], 5).unwrap();
            for suffix in ["weight", "bias"] {
                let (old, new) = (format!("{old}.{suffix}"), format!("{new}.{suffix}"));
                for (from, to) in [(7, 2), (900, 0)] {
                    assert_eq!(row(&kept, &new, to), row(&net, &old, from), "{new}");
                }
                for class in [1, 3] {
                    assert_eq!(row(&kept, &new, class), row(&fresh, &new, class), "{new}");
                }
                assert!(kept.trainable().any(|(name, _)| name == new));
            }
        }
    }

    #[test]
    fn rows_are_kept_from_head_to_head() {
        let net = with_biases(network("resnet18"), "fc.bias");
        let edits = [head(3, &[[20, 2], [30, 1]]), head(2, &[[2, 0], [0, 1]])];
        let once = net.edit(&edits, 5).unwrap();
        let by_one = net.edit(&edits[..1], 5).unwrap().edit(&edits[1..], 5).unwrap();
        for parameter in ["fc.weight", "fc.bias"] {
            assert_eq!(row(&once, parameter, 0), row(&net, parameter, 20));
            let whole = |net: &Network| net.parameters()[parameter].to_vec();
            assert_eq!(whole(&once), whole(&by_one));
        }
        let changes = net.changes(&edits).unwrap();
        assert_eq!(changes.last().map(|c| c.weights), Some(Weights::Rows(2)));
    }

    #[test]
    fn heads_without_such_rows_are_refused() {
        let refused = |net: Network, edit: Edit| {
            let error = net.edit(&[edit], 0).unwrap_err();
            assert!(error.hint().unwrap().contains("leave out --keep-classes"));
            error.to_string()
        };
        let said = "no rows of the head of `resnet18` can be kept: ";
        let mlp = |keep| Edit::ReplaceHead { classes: 3, kind: HeadKind::Mlp { hidden: 8 }, keep };
        assert_eq!(
            refused(network("resnet18"), mlp(vec![[0, 0]])),
            format!("{said}a head `mlp:8` hands its rows other values")
        );
        let deep = network("resnet18").edit(&[mlp(vec![])], 0).unwrap();
        assert_eq!(
            refused(deep, head(3, &[[0, 0]])),
            format!("{said}`fc` is more than one linear layer")
        );
        let cut = Edit::CutAt { layer: "layer2".into() };
        let cut = network("resnet18").edit(&[cut], 0).unwrap();
        assert_eq!(refused(cut, head(3, &[[0, 0]])), format!("{said}there is none"));
        for pair in [[1000, 0], [0, 3]] {
            let message = refused(network("resnet18"), head(3, &[pair]));
            assert!(message.ends_with("of 1000 old ones and 3 new ones"), "{message}");
        }
    }
}
