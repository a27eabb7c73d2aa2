//! A graph with its parameters, and which of its layers are frozen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Normal};

use crate::graph::{Graph, GraphError, NodeId};
use crate::layer::{Layer, ParameterSpec, Role};
use crate::load::{HeadWeights, LoadError, LoadReport};
use crate::state_dict::StateDict;

/// A parameter's value.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// PyTorch's shape of it.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Its values in row-major order, flat, f32.
    pub value: Tensor<1>,
}

impl Parameter {
    pub(crate) fn new(spec: &ParameterSpec, values: Vec<f32>, device: &Device) -> Self {
        let value = Tensor::from_data(
            TensorData::new(values, [spec.shape.iter().product::<usize>()]),
            device,
        );
        Self { shape: spec.shape.clone(), role: spec.role, value }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its values, copied out.
    pub fn to_vec(&self) -> Vec<f32> {
        self.value.to_data().iter::<f32>().collect()
    }

    /// Its values as files keep them.
    pub(crate) fn to_le_bytes(&self) -> Vec<u8> {
        self.to_vec().iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

/// A graph with its parameters by name. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct Network {
    pub(crate) graph: Arc<Graph>,
    pub(crate) parameters: BTreeMap<String, Parameter>,
    pub(crate) frozen: BTreeSet<NodeId>,
    device: Device,
}

impl Network {
    /// A network with freshly initialized parameters; nothing is frozen.
    ///
    /// Convolutions start as He et al. 2015 (<https://arxiv.org/abs/1502.01852>) by fan-out, linear
    /// layers from a normal distribution of deviation 0.01, scales at 1, the rest at 0. Each
    /// parameter's values depend on `seed` and its name alone.
    pub fn initialize(graph: Graph, seed: u64, device: &Device) -> Self {
        let mut net = Self {
            graph: Arc::new(graph),
            parameters: BTreeMap::new(),
            frozen: BTreeSet::new(),
            device: device.clone(),
        };
        net.reinitialize(seed, |_| true);
        net
    }

    /// A network with the parameters of a state dict; where the head may differ
    /// ([`HeadWeights::Optional`]) and does, it is initialized from `seed`, as are classifiers
    /// half-way that are not there.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn with_weights(
        graph: Graph,
        state: &StateDict,
        head: HeadWeights,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LoadError> {
        Self::with_weights_reported(graph, state, head, seed, device).map(|(net, _)| net)
    }

    /// As [`Network::with_weights`], with the account of what became of every name.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn with_weights_reported(
        graph: Graph,
        state: &StateDict,
        head: HeadWeights,
        seed: u64,
        device: &Device,
    ) -> Result<(Self, LoadReport), LoadError> {
        let mut net = Self {
            graph: Arc::new(graph),
            parameters: BTreeMap::new(),
            frozen: BTreeSet::new(),
            device: device.clone(),
        };
        let report = net.load(state, head)?;
        let graph = Arc::clone(&net.graph);
        let unfilled: BTreeSet<NodeId> = (0..graph.nodes().len())
            .filter(|&id| net.node_parameters(id).count() < graph.parameters(id).len())
            .collect();
        net.reinitialize(seed, |id| unfilled.contains(&id));
        Ok((net, report))
    }

    /// A network with the values that `values` gives for each parameter's name.
    ///
    /// # Panics
    /// If they are not as many as the parameter has.
    pub(crate) fn with_values(
        graph: Graph,
        values: impl Fn(&str) -> Vec<f32>,
        device: &Device,
    ) -> Self {
        let mut net = Self {
            graph: Arc::new(graph),
            parameters: BTreeMap::new(),
            frozen: BTreeSet::new(),
            device: device.clone(),
        };
        for (name, spec) in net.specs() {
            let parameter = Parameter::new(&spec, values(&name), device);
            net.parameters.insert(name, parameter);
        }
        net
    }

    /// What every parameter should be, by name.
    pub(crate) fn specs(&self) -> BTreeMap<String, ParameterSpec> {
        let graph = &self.graph;
        (0..graph.nodes().len())
            .flat_map(|id| {
                let name = move |spec: &ParameterSpec| graph.parameter_name(id, spec.suffix);
                graph.parameters(id).into_iter().map(move |spec| (name(&spec), spec))
            })
            .collect()
    }

    /// Gives the parameters of every node that `which` picks their initial values.
    pub(crate) fn reinitialize(&mut self, seed: u64, which: impl Fn(NodeId) -> bool) {
        for id in (0..self.graph.nodes().len()).filter(|&id| which(id)) {
            let node = &self.graph.nodes()[id];
            for spec in self.graph.parameters(id) {
                let name = self.graph.parameter_name(id, spec.suffix);
                let values = initial_values(&node.layer, &spec, &name, seed);
                let parameter = Parameter::new(&spec, values, &self.device);
                self.parameters.insert(name, parameter);
            }
        }
    }

    /// The layers.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All parameters by name.
    pub fn parameters(&self) -> &BTreeMap<String, Parameter> {
        &self.parameters
    }

    /// The parameters that training moves: those of layers that are not frozen, statistics apart.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        let nodes = (0..self.graph.nodes().len()).filter(|id| !self.frozen.contains(id));
        nodes.flat_map(|id| self.node_parameters(id)).filter(|(_, p)| p.role.is_trained())
    }

    /// The names and values of one node's parameters.
    pub fn node_parameters(&self, id: NodeId) -> impl Iterator<Item = (&str, &Parameter)> {
        self.graph.parameters(id).into_iter().filter_map(move |spec| {
            let name = self.graph.parameter_name(id, spec.suffix);
            self.parameters.get_key_value(&name).map(|(name, p)| (name.as_str(), p))
        })
    }

    /// Whether a node is frozen.
    pub fn is_frozen(&self, id: NodeId) -> bool {
        self.frozen.contains(&id)
    }

    /// Replaces the values of a parameter.
    ///
    /// # Panics
    /// If there is no such parameter or the number of values differs: a bug of the caller's.
    pub fn set(&mut self, name: &str, value: Tensor<1>) {
        let parameter = self.parameters.get_mut(name).expect("a parameter of this network");
        assert_eq!(value.dims(), [parameter.len()], "values of `{name}`");
        parameter.value = value;
    }

    /// Changes the values of a parameter where they lie, if nobody else holds them.
    ///
    /// # Panics
    /// If there is no such parameter: a bug of the caller's.
    pub fn update(&mut self, name: &str, change: impl FnOnce(&mut [f32])) {
        let parameter = self.parameters.get_mut(name).expect("a parameter of this network");
        let empty = Tensor::empty([0], &self.device);
        let mut data = std::mem::replace(&mut parameter.value, empty).into_data();
        change(data.as_mut_slice().expect("networks hold f32"));
        parameter.value = Tensor::from_data(data, &self.device);
    }

    /// Number of values that training could move or a learner found, all layers counted.
    pub fn parameter_count(&self) -> usize {
        self.parameters.values().filter(|p| !p.role.is_statistic()).map(Parameter::len).sum()
    }

    /// Multiply-adds an image at the nominal input size, of all that the output needs.
    pub fn multiply_adds(&self) -> u64 {
        self.graph.total_multiply_adds()
    }

    /// A parameter of `node` by its suffix.
    pub(crate) fn parameter(&self, node: NodeId, suffix: &str) -> &Parameter {
        &self.parameters[&self.graph.parameter_name(node, suffix)]
    }

    pub(crate) fn has_bias(&self, node: NodeId) -> bool {
        match self.graph.nodes()[node].layer {
            Layer::Conv(conv) => conv.bias,
            Layer::Linear(linear) => linear.bias,
            _ => false,
        }
    }

    /// A fingerprint of the parameters and layers that the value of `node` depends on: BLAKE3 over
    /// the layers' descriptions and the parameters' names and bits.
    ///
    /// # Errors
    /// If there is no layer `node`.
    pub fn fingerprint(&self, node: &str) -> Result<[u8; 32], GraphError> {
        let node = self.graph.find(node)?;
        let mut hasher = blake3::Hasher::new();
        for id in self.graph.ancestors(&[node]) {
            let Some(n) = self.graph.nodes().get(id) else { continue };
            hasher.update(format!("{} {:?} {:?}\n", n.name, n.layer, n.inputs).as_bytes());
            for (name, parameter) in self.node_parameters(id) {
                hasher.update(name.as_bytes());
                hasher.update(&parameter.to_le_bytes());
            }
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

/// What a parameter starts at; depends on nothing but these.
pub(crate) fn initial_values(
    layer: &Layer,
    spec: &ParameterSpec,
    name: &str,
    seed: u64,
) -> Vec<f32> {
    let len = spec.shape.iter().product();
    let deviation = match (spec.role, layer) {
        (Role::NormScale | Role::RunningVariance, _) => return vec![1.0; len],
        (Role::BranchScale, Layer::LayerScale(scale)) => return vec![scale.initial; len],
        (Role::Weight, Layer::Conv(conv)) => {
            let fan_out = conv.channels / conv.groups * conv.kernel[0] * conv.kernel[1];
            (2.0 / fan_out as f64).sqrt()
        }
        (Role::Weight, _) => 0.01,
        _ => return vec![0.0; len],
    };
    let mut key = blake3::Hasher::new();
    key.update(b"refit initialize").update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut rng = StdRng::from_seed(*key.finalize().as_bytes());
    let normal = Normal::new(0.0, deviation).expect("a finite deviation");
    (0..len).map(|_| normal.sample(&mut rng) as f32).collect()
}
