//! A network as a graph of named layers, without parameters.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Hint, nearest};
use crate::layer::{Conv, Layer, Misfit, ParameterSpec};
use crate::shape::Shape;

/// A position in [`Graph::nodes`]; inputs always stand before what takes them.
pub type NodeId = usize;

/// One layer in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name; with a parameter's suffix, the published checkpoint's key.
    pub name: String,
    /// What it does.
    pub layer: Layer,
    /// Where its inputs come from.
    pub inputs: Vec<NodeId>,
    /// What it gives at the nominal input size.
    pub shape: Shape,
}

impl Node {
    /// The convolution that this layer is, if it is one: a linear layer over a map's pixels is one
    /// of 1x1.
    pub(crate) fn convolution(&self) -> Option<Conv> {
        match (self.layer, self.shape) {
            (Layer::Conv(conv), _) => Some(conv),
            (Layer::Linear(linear), Shape::Map { .. }) => {
                Some(Conv { bias: linear.bias, ..Conv::k1(linear.features) })
            }
            _ => None,
        }
    }
}

/// A directed acyclic graph of named layers with one input and one output.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    name: String,
    nodes: Vec<Node>,
    output: NodeId,
    head: String,
    auxiliary: Vec<Auxiliary>,
    reconstruction: Option<NodeId>,
}

/// A classifier half-way through a network, whose loss training hears too (Szegedy et al. 2014,
/// <https://arxiv.org/abs/1409.4842>); nobody else runs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Auxiliary {
    /// Its last layer.
    pub output: NodeId,
    /// The share of its loss that is added.
    pub share: f32,
}

/// Why a graph cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A layer does not take what it is given.
    #[error("layer `{layer}` of `{net}` {misfit}")]
    Misfit {
        /// The network.
        net: String,
        /// The layer.
        layer: String,
        /// What does not fit.
        misfit: Misfit,
    },
    /// Two layers of one name.
    #[error("`{net}` names two layers `{layer}`")]
    Duplicate {
        /// The network.
        net: String,
        /// The name.
        layer: String,
    },
    /// A gradient that was asked for through a layer that has none.
    #[error("layer `{layer}` of `{net}` is a {kind}, through which no gradient goes")]
    NoGradient {
        /// The network.
        net: String,
        /// The layer.
        layer: String,
        /// What it is.
        kind: &'static str,
    },
    /// A layer that is not there.
    #[error("`{net}` has no layer `{layer}`")]
    UnknownLayer {
        /// The network.
        net: String,
        /// The name asked for.
        layer: String,
        /// The closest name there is.
        nearest: String,
    },
}

impl Hint for GraphError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownLayer { net, nearest, .. } => {
                Some(format!("try `{nearest}`; `refit layers {net}` lists all"))
            }
            Self::Misfit { .. } => Some("give the layer an input of the shape it takes".into()),
            Self::NoGradient { .. } => Some(
                "use --method eigen-cam, which needs none, or a model with a linear head (`--learner linear`)"
                    .into(),
            ),
            Self::Duplicate { .. } => Some("give one of the two another name".into()),
        }
    }
}

impl Graph {
    /// The architecture's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All layers, inputs before what takes them.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node whose value is the network's result.
    pub fn output(&self) -> NodeId {
        self.output
    }

    /// Classifiers half-way through.
    pub fn auxiliary(&self) -> &[Auxiliary] {
        &self.auxiliary
    }

    /// The node whose value is the images again, as a decoder makes them of the output: `[3, h, w]`
    /// like the input, which it is to resemble. Nobody runs it who does not ask for it.
    pub fn reconstruction(&self) -> Option<NodeId> {
        self.reconstruction
    }

    /// The name (of a layer or of several under it) that classifies: what a new task replaces.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// The nominal shape of the images.
    pub fn input_shape(&self) -> Shape {
        self.nodes[0].shape
    }

    /// Whether `node` belongs to the head.
    pub fn is_head(&self, node: NodeId) -> bool {
        is_under(&self.nodes[node].name, &self.head)
    }

    /// The node that gives the features which the head classifies, before any dropout; the output
    /// where there is no head.
    pub fn features(&self) -> NodeId {
        let mut node = (0..self.nodes.len())
            .find(|&id| self.is_head(id))
            .map_or(self.output, |head| self.nodes[head].inputs[0]);
        while let Layer::Dropout(_) = self.nodes[node].layer {
            node = self.nodes[node].inputs[0];
        }
        node
    }

    /// The node of a layer, or of the last layer under a block's name (`layer4` is what
    /// `layer4`'s last block gives).
    ///
    /// # Errors
    /// If there is no such layer, naming the nearest.
    pub fn find(&self, name: &str) -> Result<NodeId, GraphError> {
        let exact = self.nodes.iter().position(|n| n.name == name);
        exact
            .or_else(|| self.nodes.iter().rposition(|n| is_under(&n.name, name)))
            .ok_or_else(|| self.unknown(name))
    }

    /// The first node of a layer or block.
    ///
    /// # Errors
    /// If there is no such layer, naming the nearest.
    pub fn find_first(&self, name: &str) -> Result<NodeId, GraphError> {
        let first = self.nodes.iter().position(|n| is_under(&n.name, name));
        first.ok_or_else(|| self.unknown(name))
    }

    pub(crate) fn unknown(&self, name: &str) -> GraphError {
        // A layer's name and every block's above it.
        let names = self.nodes.iter().flat_map(|n| {
            let dots = n.name.match_indices('.').map(|(at, _)| &n.name[..at]);
            dots.chain([n.name.as_str()])
        });
        let nearest = nearest(name, names).unwrap_or_default().to_owned();
        GraphError::UnknownLayer { net: self.name.clone(), layer: name.to_owned(), nearest }
    }

    /// The name of a node's parameter: the layer's, and the suffix if there is one.
    pub fn parameter_name(&self, node: NodeId, suffix: &str) -> String {
        let name = &self.nodes[node].name;
        if suffix.is_empty() { name.clone() } else { format!("{name}.{suffix}") }
    }

    /// The parameters of one node, in the order its layer lists them.
    pub fn parameters(&self, node: NodeId) -> Vec<ParameterSpec> {
        let Node { layer, inputs, .. } = &self.nodes[node];
        inputs.first().map_or_else(Vec::new, |&x| layer.parameters(self.nodes[x].shape))
    }

    /// Multiply-adds an image of one node at the nominal input size.
    pub fn multiply_adds(&self, node: NodeId) -> u64 {
        let Node { layer, inputs, shape, .. } = &self.nodes[node];
        inputs.first().map_or(0, |&x| layer.multiply_adds(self.nodes[x].shape, *shape))
    }

    /// Multiply-adds an image at the nominal input size, of all that the output needs.
    pub fn total_multiply_adds(&self) -> u64 {
        self.needed().into_iter().map(|id| self.multiply_adds(id)).sum()
    }

    /// The shapes of all nodes for images of `height` by `width`.
    ///
    /// # Errors
    /// If a layer that the output needs does not take an image of that size. Others, of classifiers
    /// half-way and decoders, give nothing then.
    pub fn shapes_at(&self, height: usize, width: usize) -> Result<Vec<Shape>, GraphError> {
        let needed = self.needed();
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for (id, node) in self.nodes.iter().enumerate() {
            let shape = match node.layer {
                Layer::Input { shape } => Ok(Shape::map(shape.channels(), height, width)),
                layer => {
                    let inputs: Vec<Shape> = node.inputs.iter().map(|&i| shapes[i]).collect();
                    layer.output_shape(&inputs)
                }
            };
            shapes.push(match shape {
                Ok(shape) => shape,
                Err(_) if !needed.contains(&id) => Shape::vector(0),
                Err(misfit) => {
                    let (net, layer) = (self.name.clone(), node.name.clone());
                    return Err(GraphError::Misfit { net, layer, misfit });
                }
            });
        }
        Ok(shapes)
    }

    /// The nodes that the output depends on, itself included: all but classifiers half-way and
    /// decoders.
    pub fn needed(&self) -> BTreeSet<NodeId> {
        self.ancestors(&[self.output])
    }

    /// All nodes that `targets` need, themselves included.
    pub(crate) fn ancestors(&self, targets: &[NodeId]) -> BTreeSet<NodeId> {
        let mut needed = BTreeSet::new();
        let mut open = targets.to_vec();
        while let Some(id) = open.pop() {
            if needed.insert(id) {
                open.extend(&self.nodes[id].inputs);
            }
        }
        needed
    }
}

/// Whether `name` is `prefix` or stands under it.
pub(crate) fn is_under(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A value in a graph under construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire(NodeId);

/// Builds a graph layer by layer; the first error is kept and returned by [`Builder::finish`], so
/// that definitions read without `?`.
#[derive(Debug)]
pub struct Builder {
    name: String,
    nodes: Vec<Node>,
    names: BTreeMap<String, NodeId>,
    scope: String,
    auxiliary: Vec<Auxiliary>,
    reconstruction: Option<Wire>,
    error: Option<GraphError>,
}

impl Builder {
    /// Starts a network for images of shape `input`; the wire carries them.
    pub fn new(name: &str, input: Shape) -> (Self, Wire) {
        let mut builder = Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            scope: String::new(),
            auxiliary: Vec::new(),
            reconstruction: None,
            error: None,
        };
        let wire = builder.layer("input", Layer::Input { shape: input }, &[]);
        (builder, wire)
    }

    /// Names every layer that `build` adds under `name.`.
    pub fn scope<T>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.scope.len();
        self.scope.push_str(name);
        self.scope.push('.');
        let result = build(self);
        self.scope.truncate(outer);
        result
    }

    /// The shape that a wire carries at the nominal input size.
    pub fn shape(&self, wire: Wire) -> Shape {
        self.nodes[wire.0].shape
    }

    /// Adds any layer.
    pub fn layer(&mut self, name: &str, layer: Layer, inputs: &[Wire]) -> Wire {
        let name = format!("{}{name}", self.scope);
        let shapes: Vec<Shape> = inputs.iter().map(|w| self.nodes[w.0].shape).collect();
        let shape = layer.output_shape(&shapes).unwrap_or_else(|misfit| {
            let (net, layer) = (self.name.clone(), name.clone());
            self.error.get_or_insert(GraphError::Misfit { net, layer, misfit });
            shapes.first().copied().unwrap_or(Shape::vector(0))
        });
        let id = self.nodes.len();
        if self.names.insert(name.clone(), id).is_some() {
            let (net, layer) = (self.name.clone(), name.clone());
            self.error.get_or_insert(GraphError::Duplicate { net, layer });
        }
        let inputs = inputs.iter().map(|w| w.0).collect();
        self.nodes.push(Node { name, layer, inputs, shape });
        Wire(id)
    }

    /// Adds a convolution.
    pub fn conv(&mut self, name: &str, x: Wire, conv: Conv) -> Wire {
        self.layer(name, Layer::Conv(conv), &[x])
    }

    /// Adds a batch normalization.
    pub fn batch_norm(&mut self, name: &str, x: Wire, norm: crate::layer::BatchNorm) -> Wire {
        self.layer(name, Layer::BatchNorm(norm), &[x])
    }

    /// Adds an activation function.
    pub fn activation(&mut self, name: &str, x: Wire, function: crate::layer::Activation) -> Wire {
        self.layer(name, Layer::Activation { function }, &[x])
    }

    /// Adds a ReLU.
    pub fn relu(&mut self, name: &str, x: Wire) -> Wire {
        self.activation(name, x, crate::layer::Activation::Relu)
    }

    /// Adds the sum of two wires.
    pub fn add(&mut self, name: &str, a: Wire, b: Wire) -> Wire {
        self.layer(name, Layer::Add, &[a, b])
    }

    /// Adds the product of a map and a gate `[c, 1, 1]`.
    pub fn gate(&mut self, name: &str, x: Wire, gate: Wire) -> Wire {
        self.layer(name, Layer::Gate, &[x, gate])
    }

    /// Adds what lies behind each other along the channels.
    pub fn concat(&mut self, name: &str, parts: &[Wire]) -> Wire {
        self.layer(name, Layer::Concat, parts)
    }

    /// Adds `channels` channels from `first` on.
    pub fn slice(&mut self, name: &str, x: Wire, first: usize, channels: usize) -> Wire {
        self.layer(name, Layer::Slice { first, channels }, &[x])
    }

    /// Adds a maximum pooling.
    pub fn max_pool(&mut self, name: &str, x: Wire, windows: crate::layer::Windows) -> Wire {
        self.layer(name, Layer::MaxPool(windows), &[x])
    }

    /// Adds a mean over windows.
    pub fn avg_pool(
        &mut self,
        name: &str,
        x: Wire,
        windows: crate::layer::Windows,
        divisor: crate::layer::Divisor,
    ) -> Wire {
        self.layer(name, Layer::AvgPool { windows, divisor }, &[x])
    }

    /// Adds the means of windows that make a map of `size` by `size` pixels.
    pub fn adaptive_avg_pool(&mut self, name: &str, x: Wire, size: usize) -> Wire {
        self.layer(name, Layer::AdaptiveAvgPool { size: [size; 2] }, &[x])
    }

    /// Adds the values of a map, channel by channel.
    pub fn flatten(&mut self, name: &str, x: Wire) -> Wire {
        self.layer(name, Layer::Flatten, &[x])
    }

    /// Adds a map of `size` made of a vector's values, channel by channel.
    pub fn unflatten(&mut self, name: &str, x: Wire, size: [usize; 2]) -> Wire {
        self.layer(name, Layer::Unflatten { size }, &[x])
    }

    /// Adds a map whose pixels are squares of `factor` by `factor`.
    pub fn upsample(&mut self, name: &str, x: Wire, factor: usize) -> Wire {
        self.layer(name, Layer::Upsample { factor }, &[x])
    }

    /// Adds a layer normalization over channels.
    pub fn layer_norm(&mut self, name: &str, x: Wire, epsilon: f64) -> Wire {
        self.layer(name, Layer::LayerNorm(crate::layer::LayerNorm { epsilon }), &[x])
    }

    /// Adds the mean of each channel.
    pub fn global_avg_pool(&mut self, name: &str, x: Wire) -> Wire {
        self.layer(name, Layer::GlobalAvgPool, &[x])
    }

    /// Adds a dropout.
    pub fn dropout(&mut self, name: &str, x: Wire, share: f32) -> Wire {
        self.layer(name, Layer::Dropout(crate::layer::Dropout::new(share)), &[x])
    }

    /// Adds stochastic depth: a residual branch that is left out of a share of the images.
    pub fn stochastic_depth(&mut self, name: &str, x: Wire, share: f32) -> Wire {
        self.layer(name, Layer::Dropout(crate::layer::Dropout::of_images(share)), &[x])
    }

    /// Adds a fully connected layer with a bias.
    pub fn linear(&mut self, name: &str, x: Wire, features: usize) -> Wire {
        self.layer(name, Layer::Linear(crate::layer::Linear::new(features)), &[x])
    }

    /// Makes a wire the result of a classifier half-way, of whose loss training adds a share.
    pub fn auxiliary(&mut self, output: Wire, share: f32) {
        self.auxiliary.push(Auxiliary { output: output.0, share });
    }

    /// Makes a wire the images as a decoder makes them again.
    pub fn reconstruction(&mut self, images: Wire) {
        let (given, made) = (self.nodes[0].shape, self.shape(images));
        if given != made {
            let misfit = Misfit(format!("makes {made} of images of {given}"));
            let (net, layer) = (self.name.clone(), self.nodes[images.0].name.clone());
            self.error.get_or_insert(GraphError::Misfit { net, layer, misfit });
        }
        self.reconstruction = Some(images);
    }

    /// Ends the network: `output` is its result, `head` the name of what classifies.
    ///
    /// # Errors
    /// The first that any layer met: shapes that do not fit, a name given twice, no such head.
    pub fn finish(self, output: Wire, head: &str) -> Result<Graph, GraphError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let graph = Graph {
            name: self.name,
            nodes: self.nodes,
            output: output.0,
            head: head.to_owned(),
            auxiliary: self.auxiliary,
            reconstruction: self.reconstruction.map(|wire| wire.0),
        };
        if !head.is_empty() {
            graph.find(head)?;
        }
        if graph.is_head(0) {
            let (net, layer) = (graph.name, graph.nodes[0].name.clone());
            let misfit = Misfit("is the images, but also the head".into());
            return Err(GraphError::Misfit { net, layer, misfit });
        }
        Ok(graph)
    }
}

/// A graph as model files hold it: inputs by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphRecord {
    pub(crate) name: String,
    pub(crate) output: String,
    pub(crate) head: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) auxiliary: Vec<(String, f32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reconstruction: Option<String>,
    pub(crate) layers: Vec<LayerRecord>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    #[serde(flatten)]
    pub layer: Layer,
}

impl GraphRecord {
    /// The same without layers that neither the output, a classifier half-way nor the images made
    /// again need.
    pub(crate) fn pruned(&self) -> Self {
        let mut needed: BTreeSet<&str> = self.auxiliary.iter().map(|(name, _)| &**name).collect();
        needed.insert(&self.output);
        needed.extend(self.reconstruction.as_deref());
        for layer in self.layers.iter().rev() {
            if needed.contains(&*layer.name) {
                needed.extend(layer.inputs.iter().map(String::as_str));
            }
        }
        let is_needed =
            |l: &LayerRecord| needed.contains(&*l.name) || matches!(l.layer, Layer::Input { .. });
        let layers = self.layers.iter().filter(|l| is_needed(l)).cloned().collect();
        Self { layers, ..self.clone() }
    }
}

impl From<&Graph> for GraphRecord {
    fn from(graph: &Graph) -> Self {
        let name_of = |&id: &NodeId| graph.nodes[id].name.clone();
        let record = |n: &Node| LayerRecord {
            name: n.name.clone(),
            inputs: n.inputs.iter().map(name_of).collect(),
            layer: n.layer,
        };
        Self {
            name: graph.name.clone(),
            output: name_of(&graph.output),
            head: graph.head.clone(),
            auxiliary: graph.auxiliary.iter().map(|a| (name_of(&a.output), a.share)).collect(),
            reconstruction: graph.reconstruction.as_ref().map(name_of),
            layers: graph.nodes.iter().map(record).collect(),
        }
    }
}

impl TryFrom<&GraphRecord> for Graph {
    type Error = GraphError;

    /// Builds the graph again, every shape checked: a file is not trusted.
    fn try_from(record: &GraphRecord) -> Result<Self, GraphError> {
        let refuse = |layer: &str, what: &str| GraphError::Misfit {
            net: record.name.clone(),
            layer: layer.to_owned(),
            misfit: Misfit(what.to_owned()),
        };
        let Some(LayerRecord { name, layer: Layer::Input { shape }, .. }) = record.layers.first()
        else {
            return Err(refuse("input", "is not the first layer"));
        };
        if !matches!(shape, Shape::Map { channels, height, width }
            if (1..=1 << 12).contains(channels) && (1..=1 << 16).contains(height) && (1..=1 << 16).contains(width))
        {
            return Err(refuse(name, "has no sensible shape"));
        }
        let (mut builder, _) = Builder::new(&record.name, *shape);
        builder.nodes[0].name.clone_from(name);
        builder.names = BTreeMap::from([(name.clone(), 0)]);
        for LayerRecord { name, inputs, layer } in &record.layers[1..] {
            if inputs.is_empty() || matches!(layer, Layer::Input { .. }) {
                return Err(refuse(name, "has no input"));
            }
            let wire = |input: &String| builder.names.get(input).map(|&id| Wire(id));
            let inputs: Option<Vec<Wire>> = inputs.iter().map(wire).collect();
            let inputs =
                inputs.ok_or_else(|| refuse(name, "takes a layer that is not before it"))?;
            builder.layer(name, *layer, &inputs);
        }
        let named = |builder: &Builder, name: &str| {
            let wire = builder.names.get(name).map(|&id| Wire(id));
            wire.ok_or_else(|| refuse(name, "is not there, but is the output"))
        };
        let output = named(&builder, &record.output)?;
        for (name, share) in &record.auxiliary {
            let output = named(&builder, name)?;
            if !matches!(builder.shape(output), Shape::Vector { .. })
                || !(0.0..=1.0).contains(share)
            {
                return Err(refuse(name, "is no classifier whose loss could be added"));
            }
            builder.auxiliary(output, *share);
        }
        if let Some(name) = &record.reconstruction {
            let images = named(&builder, name)?;
            builder.reconstruction(images);
        }
        builder.finish(output, &record.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::BatchNorm;

    fn small() -> Graph {
        let (mut g, x) = Builder::new("small", Shape::map(3, 8, 8));
        let y = g.scope("block", |g| {
            let y = g.conv("conv", x, Conv::k3(4));
            let y = g.batch_norm("bn", y, BatchNorm::default());
            g.relu("relu", y)
        });
        let y = g.global_avg_pool("pool", y);
        let y = g.dropout("drop", y, 0.2);
        let y = g.linear("fc", y, 5);
        g.finish(y, "fc").unwrap()
    }

    #[test]
    fn names_shapes_and_features() {
        let g = small();
        assert_eq!(g.nodes()[g.find("block").unwrap()].name, "block.relu");
        assert_eq!(g.nodes()[g.find_first("block").unwrap()].name, "block.conv");
        assert_eq!(g.nodes()[g.features()].name, "pool");
        assert_eq!(g.nodes()[g.output()].shape, Shape::vector(5));
        assert_eq!(g.shapes_at(20, 12).unwrap()[1], Shape::map(4, 20, 12));
    }

    #[test]
    fn the_first_error_is_returned_and_says_where() {
        let (mut g, x) = Builder::new("bad", Shape::map(3, 8, 8));
        let y = g.conv("conv", x, Conv::k3(4));
        let z = g.add("add", x, y);
        let z = g.linear("fc", z, 2);
        let error = g.finish(z, "fc").unwrap_err();
        assert_eq!(error.to_string(), "layer `add` of `bad` adds [n, 3, 8, 8] to [n, 4, 8, 8]");
        assert!(error.hint().unwrap().contains("shape"));
    }

    #[test]
    fn two_layers_of_one_name_and_unknown_names_are_refused() {
        let (mut g, x) = Builder::new("twice", Shape::map(3, 8, 8));
        let y = g.relu("relu", x);
        let y = g.relu("relu", y);
        let error = g.finish(y, "").unwrap_err();
        assert_eq!(error.to_string(), "`twice` names two layers `relu`");
        assert!(error.hint().unwrap().contains("another name"));
        let error = small().find("block.cnov").unwrap_err();
        assert_eq!(error.to_string(), "`small` has no layer `block.cnov`");
        assert_eq!(error.hint().unwrap(), "try `block.conv`; `refit layers small` lists all");
    }

    #[test]
    fn records_come_back_equal_and_hostile_ones_are_refused() {
        let graph = small();
        let record = GraphRecord::from(&graph);
        let json = serde_json::to_string(&record).unwrap();
        let back: GraphRecord = serde_json::from_str(&json).unwrap();
        assert_eq!(Graph::try_from(&back).unwrap(), graph);

        let refused = |edit: &dyn Fn(&mut GraphRecord)| {
            let mut record = record.clone();
            edit(&mut record);
            Graph::try_from(&record).unwrap_err().to_string()
        };
        assert!(refused(&|r| r.layers.clear()).contains("first layer"));
        assert!(refused(&|r| r.layers[1].inputs.clear()).contains("no input"));
        assert!(refused(&|r| r.layers[1].inputs[0] = "fc".into()).contains("not before it"));
        assert!(refused(&|r| r.output = "nowhere".into()).contains("output"));
        assert!(refused(&|r| r.head = "nowhere".into()).contains("no layer `nowhere`"));
    }
}
