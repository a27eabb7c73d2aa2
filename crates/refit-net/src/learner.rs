//! Learners that are no networks, in the place of a network's head.

use std::sync::Arc;

use crate::graph::{Graph, GraphError, NodeId};
use crate::layer::Layer;
use crate::network::{Network, Parameter};

impl Network {
    /// The network with another layer in the place, and under the name, of its head's last one:
    /// a [`TreeEnsemble`](crate::TreeEnsemble) or [`Neighbours`](crate::Neighbours), fitted to the
    /// features that the head takes. It is frozen.
    ///
    /// # Errors
    /// If there is no head, or the layer does not take what the head takes.
    ///
    /// # Panics
    /// If `values` are not those of the layer's parameters, in their order.
    pub fn with_learner(&self, layer: Layer, values: Vec<Vec<f32>>) -> Result<Self, GraphError> {
        let head = self.graph.find(self.graph.head())?;
        let change = |id, old| if id == head { layer } else { old };
        let mut next = self.clone();
        next.graph = Arc::new(self.graph.with_layers(change)?);
        for spec in self.graph.parameters(head) {
            next.parameters.remove(&self.graph.parameter_name(head, spec.suffix));
        }
        let specs = next.graph.parameters(head);
        assert_eq!(specs.len(), values.len(), "with_learner: a value for each parameter");
        for (spec, values) in specs.iter().zip(values) {
            let name = next.graph.parameter_name(head, spec.suffix);
            let parameter = Parameter::new(spec, values, self.device());
            next.parameters.insert(name, parameter);
        }
        next.frozen.insert(head);
        Ok(next)
    }
}

impl Graph {
    /// A layer of the body below which nothing can be trained, if there is one: no gradient goes
    /// through it, or it gives the features and no layer of the body has parameters.
    pub fn opaque_body(&self) -> Option<&str> {
        let body = self.ancestors(&[self.features()]);
        let opaque = body.iter().find(|&&id| !self.nodes()[id].layer.is_differentiable()).copied();
        let bare = || body.iter().all(|&id| self.parameters(id).is_empty());
        let layer = opaque.or_else(|| bare().then_some(self.features()));
        layer.map(|id| self.nodes()[id].name.as_str())
    }

    /// The refusal of a gradient through a layer that has none.
    pub(crate) fn no_gradient(&self, id: NodeId) -> GraphError {
        let node = &self.nodes()[id];
        GraphError::NoGradient {
            net: self.name().to_owned(),
            layer: node.name.clone(),
            kind: node.layer.kind(),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;
    use crate::edit::{Edit, HeadKind};
    use crate::error::Hint;
    use crate::frozen::Compiled;
    use crate::layer::{Neighbours, TreeEnsemble, TreeOutput};
    use crate::onnx::{self, ExportOptions};
    use crate::sensitivity::Sensitivity;
    use crate::{Shape, model_file, zoo};

    fn with_head(name: &str) -> Network {
        let net = zoo::find(name).unwrap().random(0, &Device::flex());
        let head = Edit::ReplaceHead { classes: 2, kind: HeadKind::Linear, keep: vec![] };
        net.edit(&[head, Edit::FreezeBody], 0).unwrap()
    }

    /// One tree that asks feature 0, on top of an input.
    fn stump(name: &str) -> Network {
        let layer = TreeEnsemble { trees: 1, nodes: 3, classes: 2, output: TreeOutput::Logits };
        let values = vec![
            vec![0.0],
            vec![0.0; 3],
            vec![0.5, 0.0, 0.0],
            vec![1.0, 0.0, 0.0],
            vec![2.0, 0.0, 0.0],
            vec![0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
            vec![0.0, 0.25],
        ];
        with_head(name).with_learner(Layer::TreeEnsemble(layer), values).unwrap()
    }

    fn images(device: &Device) -> Tensor<4> {
        let value = |i: usize| if i < 3 * 128 * 128 { 0.1 } else { (i % 97) as f32 / 97.0 };
        let values: Vec<f32> = (0..2 * 3 * 128 * 128).map(value).collect();
        Tensor::from_data(TensorData::new(values, [2, 3, 128, 128]), device)
    }

    fn logits(net: &Network) -> Vec<f32> {
        let output = vec![net.graph().output()];
        let run = Compiled::new(net, vec![0], output.clone()).run(images(net.device()));
        let tensors = Compiled::on_tensors(net, vec![0], output).run(images(net.device()));
        assert_eq!(run[0].to_vec(), tensors[0].to_vec(), "the same operations on either way");
        run[0].to_vec()
    }

    #[test]
    fn a_tree_takes_the_heads_place_and_comes_back_from_a_file() {
        let net = stump("pixels");
        assert_eq!(net.graph().nodes()[net.graph().output()].shape, Shape::vector(2));
        assert_eq!(net.trainable().count(), 0);
        assert_eq!(net.parameter_count(), 1 + 4 * 3 + 6 + 2);
        // The first image is dark all over: left; the second's first square is of mean 0.5.
        let found = logits(&net);
        assert_eq!(found[..2], [1.0, 0.25]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        model_file::save(&path, &net, &serde_json::Value::Null).unwrap();
        let (back, _) = model_file::load(&path, net.device()).unwrap();
        assert_eq!(back.graph(), net.graph());
        assert_eq!(logits(&back), found);
        assert!(back.is_frozen(back.graph().output()));
        // Another head takes its place again.
        let head = Edit::ReplaceHead { classes: 5, kind: HeadKind::Linear, keep: vec![] };
        let linear = back.edit(&[head], 0).unwrap();
        assert_eq!(linear.parameters()["head.weight"].shape, [5, 768]);
        assert_eq!(linear.parameters().len(), 2);
    }

    #[test]
    fn neighbours_of_every_input_vote() {
        for input in zoo::inputs() {
            let net = with_head(input.name);
            let dim = net.graph().nodes()[net.graph().features()].shape.elements();
            let layer = Neighbours { rows: 2, k: 1, classes: 2 };
            let features = Compiled::new(&net, vec![0], vec![net.graph().features()])
                .run(images(net.device()));
            let features = features[0].to_vec();
            assert!(features.iter().all(|v| v.is_finite()), "{}", input.name);
            let (mean, scale) = (vec![0.0; dim], vec![1.0; dim]);
            let rows: Vec<f32> =
                features.chunks(dim).flat_map(|row| crate::direction(row, &mean, &scale)).collect();
            let values = vec![mean, scale, rows, vec![1.0, 0.0, 0.0, 1.0], vec![0.5; 2]];
            let net = net.with_learner(Layer::Neighbours(layer), values).unwrap();
            let found = logits(&net);
            assert!(found[2] < found[3], "{}: {found:?}", input.name);
        }
    }

    #[test]
    fn gradients_and_exports_are_refused_by_name() {
        let net = stump("pixels");
        let error = Sensitivity::new(&net, "pool").unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer `head` of `pixels` is a tree_ensemble, through which no gradient goes"
        );
        assert_eq!(net.graph().opaque_body(), Some("pixels"));
        assert_eq!(stump("handmade").graph().opaque_body(), Some("colours"));
        assert_eq!(with_head("resnet18").graph().opaque_body(), None);
        let error = onnx::export(&net, &ExportOptions::default()).unwrap_err();
        assert!(error.to_string().contains("`head` is a tree_ensemble"), "{error}");
        assert!(error.hint().unwrap().contains("--learner linear"));
        let layer = Layer::Neighbours(Neighbours { rows: 1, k: 2, classes: 2 });
        let error = with_head("hog").with_learner(layer, vec![]).unwrap_err();
        assert!(error.to_string().contains("2 of 1 vectors"), "{error}");
    }
}
