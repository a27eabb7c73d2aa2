//! The same graph with other layers in the same places.

use crate::graph::{Builder, Graph, GraphError, NodeId};
use crate::layer::Layer;
use crate::shape::Shape;

impl Graph {
    /// The graph with `change`d layers, every shape inferred anew.
    ///
    /// # Errors
    /// If a layer does not take what it is given then.
    pub(crate) fn with_layers(
        &self,
        change: impl Fn(NodeId, Layer) -> Layer,
    ) -> Result<Self, GraphError> {
        let input = match change(0, self.nodes()[0].layer) {
            Layer::Input { shape } => shape,
            _ => self.input_shape(),
        };
        let (mut builder, input) = Builder::new(self.name(), input);
        let mut wires = vec![input];
        for (id, node) in self.nodes().iter().enumerate().skip(1) {
            let inputs: Vec<_> = node.inputs.iter().map(|&i| wires[i]).collect();
            wires.push(builder.layer(&node.name, change(id, node.layer), &inputs));
        }
        self.auxiliary().iter().for_each(|a| builder.auxiliary(wires[a.output], a.share));
        // A decoder makes images of the size and the channels that it was made for.
        let same = |id: &NodeId| builder.shape(wires[*id]) == builder.shape(input);
        if let Some(images) = self.reconstruction().filter(same) {
            builder.reconstruction(wires[images]);
        }
        builder.finish(wires[self.output()], self.head())
    }

    /// The graph for images of so many channels.
    ///
    /// # Errors
    /// If a layer does not take them, such as a grouped convolution.
    pub fn with_channels(&self, channels: usize) -> Result<Self, GraphError> {
        self.with_layers(|_, layer| match layer {
            Layer::Input { shape: Shape::Map { height, width, .. } } => {
                Layer::Input { shape: Shape::map(channels, height, width) }
            }
            layer => layer,
        })
    }

    /// The graph whose head tells so many classes apart, made of the same layers.
    ///
    /// # Errors
    /// If there are none.
    pub fn with_classes(&self, classes: usize) -> Result<Self, GraphError> {
        let last = self.classifier();
        self.with_layers(|id, layer| match layer {
            Layer::Linear(mut linear) if Some(id) == last => {
                linear.features = classes;
                Layer::Linear(linear)
            }
            Layer::Conv(mut conv) if Some(id) == last => {
                conv.channels = classes;
                Layer::Conv(conv)
            }
            layer => layer,
        })
    }

    /// The last layer of the head that has parameters: its weight has a row a class.
    pub(crate) fn classifier(&self) -> Option<NodeId> {
        let is_last = |&id: &NodeId| {
            self.is_head(id) && matches!(self.nodes()[id].layer, Layer::Linear(_) | Layer::Conv(_))
        };
        (0..self.nodes().len()).rev().find(|id| !self.head().is_empty() && is_last(id))
    }

    /// The layers that the images reach first, padding apart.
    pub(crate) fn stem(&self) -> Vec<NodeId> {
        let mut images = vec![0];
        let mut stem = Vec::new();
        for (id, node) in self.nodes().iter().enumerate().skip(1) {
            match node.layer {
                _ if !node.inputs.iter().any(|i| images.contains(i)) => {}
                Layer::Pad { .. } => images.push(id),
                _ => stem.push(id),
            }
        }
        stem
    }
}

#[cfg(test)]
mod tests {
    use crate::zoo;

    #[test]
    fn heads_of_either_kind_take_other_classes() {
        for name in ["resnet18", "squeezenet1_1", "mobilenet_v3_small"] {
            let graph = zoo::find(name).unwrap().graph().with_classes(7).unwrap();
            assert_eq!(graph.nodes()[graph.output()].shape.elements(), 7, "{name}");
        }
        let none = zoo::find("resnet18").unwrap().graph().with_classes(0).unwrap_err();
        assert!(none.to_string().contains("`fc`"), "{none}");
    }

    #[test]
    fn every_architecture_has_a_convolution_for_a_stem() {
        for architecture in zoo::all() {
            let graph = architecture.graph();
            let stem = graph.stem();
            let names: Vec<_> = stem.iter().map(|&id| &graph.nodes()[id].name).collect();
            let is_conv = |&id: &usize| matches!(graph.nodes()[id].layer, crate::Layer::Conv(_));
            assert!(!stem.is_empty() && stem.iter().all(is_conv), "{}: {names:?}", graph.name());
            assert_eq!(graph.with_channels(5).unwrap().input_shape().channels(), 5);
        }
    }
}
