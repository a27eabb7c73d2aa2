//! How a network's output would change with one layer's values.

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};

use crate::cpu::tape::record_watching;
use crate::cpu::{self, map::Map};
use crate::frozen::{Compiled, Value, Values};
use crate::graph::{GraphError, NodeId};
use crate::layer::Misfit;
use crate::network::Network;
use crate::plan::{Plan, Purpose};
use crate::training::{Recorder, TrainingOptions};

/// A network split at one layer: what lies before it, and all that depends on it, through which the
/// gradient of the output goes back. Everything computes as in [`Network::compile_all`]: stored
/// statistics, no dropout, nothing learns.
#[derive(Debug)]
pub struct Sensitivity {
    net: Network,
    layer: NodeId,
    /// What the layers behind take: the layer, and what goes around it.
    boundary: Vec<NodeId>,
    before: Compiled,
    behind: Plan,
}

/// A layer's values, what the network made of them, and the gradient.
#[derive(Debug, Clone)]
pub struct Sensed {
    /// The layer's values for the batch.
    pub values: Value,
    /// The network's output, `[n, outputs]`, row-major.
    pub output: Vec<f32>,
    /// The gradient of the weighted sum of the outputs with respect to the values, in their shape.
    pub gradient: Value,
}

impl Sensitivity {
    /// Splits `net` at a layer, or at the last layer of a block.
    ///
    /// # Errors
    /// If there is no such layer, the output does not depend on it, or a layer behind it has no
    /// gradient.
    pub fn new(net: &Network, layer: &str) -> Result<Self, GraphError> {
        let mut net = net.clone();
        let graph = net.graph.clone();
        net.frozen = (0..graph.nodes().len()).collect();
        let layer = graph.find(layer)?;
        let needed = graph.needed();
        if !needed.contains(&layer) {
            return Err(GraphError::Misfit {
                net: graph.name().to_owned(),
                layer: graph.nodes()[layer].name.clone(),
                misfit: Misfit("has no part in the output".into()),
            });
        }
        let inputs = |id: NodeId| graph.nodes()[id].inputs.iter().copied();
        let mut behind: BTreeSet<NodeId> = BTreeSet::new();
        for &id in needed.iter().filter(|&&id| id != layer) {
            if inputs(id).any(|i| i == layer || behind.contains(&i)) {
                behind.insert(id);
            }
        }
        if let Some(&id) = behind.iter().find(|&&id| !graph.nodes()[id].layer.is_differentiable()) {
            return Err(graph.no_gradient(id));
        }
        let around = behind.iter().flat_map(|&id| inputs(id)).filter(|i| !behind.contains(i));
        let boundary: BTreeSet<NodeId> = around.chain([layer]).collect();
        let behind = Plan::new(&graph, &boundary, &[graph.output()], Purpose::Training);
        let boundary: Vec<NodeId> = boundary.into_iter().collect();
        let before = Compiled::new(&net, vec![0], boundary.clone());
        Ok(Self { net, layer, boundary, before, behind })
    }

    /// Runs a batch of images `[n, 3, h, w]`. `weigh` is told the outputs, `[n, outputs]`
    /// row-major, and gives as many weights: 1 for an output whose gradient is wanted, else 0.
    ///
    /// # Panics
    /// If the number of weights differs.
    pub fn run(&self, images: Tensor<4>, weigh: impl FnOnce(&[f32]) -> Vec<f32>) -> Sensed {
        let given = self.before.run(images);
        match cpu::runs_on(self.net.device()) {
            true => self.on_cpu(given, weigh),
            false => self.on_tensors(given, weigh),
        }
    }

    fn on_cpu(&self, given: Vec<Value>, weigh: impl FnOnce(&[f32]) -> Vec<f32>) -> Sensed {
        let values = self.watched(&given);
        let boundary = self.boundary.iter().copied().zip(given);
        let options = TrainingOptions::default();
        let recorded = record_watching(&self.net, &self.behind, boundary, self.layer, options);
        let output = recorded.outputs[0].to_vec();
        let weights = checked(weigh(&output), &output);
        let map = Map::from(values.clone());
        let gradient = recorded.tape.gradient_at(self.layer, &weights, map.values.len());
        let is_vector = matches!(values, Value::Vector(_));
        let gradient = Map::new(map.shape, gradient).to_value(is_vector, self.net.device());
        Sensed { values, output, gradient }
    }

    /// The same by operations on tensors, which every device has.
    fn on_tensors(&self, given: Vec<Value>, weigh: impl FnOnce(&[f32]) -> Vec<f32>) -> Sensed {
        let values = self.watched(&given);
        let leaf = match values.clone() {
            Value::Map(x) => Value::Map(x.autodiff().require_grad()),
            Value::Vector(x) => Value::Vector(x.autodiff().require_grad()),
        };
        let lifted = self.boundary.iter().zip(given).map(|(&id, value)| match value {
            _ if id == self.layer => (id, leaf.clone()),
            Value::Map(x) => (id, Value::Map(x.autodiff())),
            Value::Vector(x) => (id, Value::Vector(x.autodiff())),
        });
        let mut reached = Values::new(lifted);
        let mut recorder = Recorder::new(&self.net, TrainingOptions::default());
        for step in &self.behind.steps {
            let value = recorder.run(step, &reached);
            reached.finish(step, value);
        }
        let logits = match reached.get(self.net.graph.output()) {
            Value::Vector(x) => x,
            Value::Map(x) => x.flatten(1, 3),
        };
        let output: Vec<f32> = logits.to_data().iter::<f32>().collect();
        let weights = TensorData::new(checked(weigh(&output), &output), logits.dims());
        let weights = Tensor::<2>::from_data(weights, self.net.device()).autodiff();
        let mut gradients = (logits * weights).sum().backward();
        let gradient = match leaf {
            Value::Map(x) => {
                let found = x.grad_remove(&mut gradients);
                Value::Map(found.unwrap_or_else(|| x.inner().zeros_like()))
            }
            Value::Vector(x) => {
                let found = x.grad_remove(&mut gradients);
                Value::Vector(found.unwrap_or_else(|| x.inner().zeros_like()))
            }
        };
        Sensed { values, output, gradient }
    }

    /// The layer's own of the boundary's values.
    fn watched(&self, given: &[Value]) -> Value {
        let at = self.boundary.iter().position(|&id| id == self.layer);
        given[at.expect("a layer of the boundary")].clone()
    }
}

fn checked(weights: Vec<f32>, output: &[f32]) -> Vec<f32> {
    assert_eq!(weights.len(), output.len(), "Sensitivity: a weight for each output");
    weights
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::Graph;
    use crate::cpu::tape::tests::{everything, everything_else, images, shake};

    const WEIGHTS: [f32; 6] = [1.0, 0.0, -0.5, 0.0, 2.0, 0.3];

    fn shaken(graph: Graph) -> Network {
        let mut net = Network::initialize(graph, 3, &Device::flex());
        shake(&mut net);
        net
    }

    /// Layers read once and more often, before and behind norms, with ways around them.
    #[test]
    fn gradients_equal_those_of_the_operations_on_tensors_and_differences() {
        let layers = ["input", "a_relu6", "b_norm", "d_relu", "pool", "h", "mean", "fc"];
        compare(everything(), &layers, &[]);
        let layers = ["a", "a_silu", "d_gelu", "gate_conv", "e_tanh", "v_gelu"];
        // Windows that overlap have the same maxima, of which a later window takes the first: its
        // slope is another to each side.
        compare(everything_else(), &layers, &["pool", "gated", "left", "cat"]);
    }

    fn compare(graph: Graph, layers: &[&str], tied: &[&str]) {
        let net = shaken(graph);
        for layer in layers.iter().chain(tied) {
            let sensitivity = Sensitivity::new(&net, layer).unwrap();
            let given = || sensitivity.before.run(images(2, net.device()).map());
            let kernels = sensitivity.on_cpu(given(), |_| WEIGHTS.to_vec());
            let tensors = sensitivity.on_tensors(given(), |_| WEIGHTS.to_vec());
            assert_eq!(kernels.gradient.dims(), kernels.values.dims(), "{layer}");
            let (ours, theirs) = (kernels.gradient.to_vec(), tensors.gradient.to_vec());
            let top = theirs.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
            assert!(top > 0.0, "{layer}");
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() <= 1e-4 * top, "{layer}: {a}, not {b}, of {top}");
            }
            if !tied.contains(layer) {
                differences(&sensitivity, given(), &ours, layer);
            }
        }
    }

    /// Along the gradient, the output rises by its square for each unit of the way.
    fn differences(sensitivity: &Sensitivity, given: Vec<Value>, gradient: &[f32], layer: &str) {
        let net = &sensitivity.net;
        let rest = Compiled::new(net, sensitivity.boundary.clone(), vec![net.graph.output()]);
        let square: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
        let moved = |by: f32| {
            let given = sensitivity.boundary.iter().zip(&given).map(|(&id, value)| {
                if id == sensitivity.layer { shifted(value, gradient, by) } else { value.clone() }
            });
            let output = rest.run_from(given.collect()).remove(0).to_vec();
            output.iter().zip(WEIGHTS).map(|(y, w)| f64::from(y * w)).sum::<f64>()
        };
        // Kinks ask for small steps, rounding for large ones.
        let miss = |length: f32| {
            let step = length / square.sqrt() as f32;
            let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            (slope / square - 1.0).abs()
        };
        let miss = [1e-2, 5e-3, 2e-3, 1e-3].map(miss).into_iter().fold(f64::INFINITY, f64::min);
        assert!(miss < 0.02, "{layer}: the slope misses {square} by a share of {miss}");
    }

    fn shifted(value: &Value, along: &[f32], by: f32) -> Value {
        let values: Vec<f32> = value.to_vec().iter().zip(along).map(|(v, g)| v + by * g).collect();
        let device = Device::flex();
        match value {
            Value::Map(x) => {
                Value::Map(Tensor::from_data(TensorData::new(values, x.dims()), &device))
            }
            Value::Vector(x) => {
                Value::Vector(Tensor::from_data(TensorData::new(values, x.dims()), &device))
            }
        }
    }

    #[test]
    fn layers_without_a_part_in_the_output_are_refused() {
        let net =
            Network::initialize(crate::zoo::find("googlenet").unwrap().graph(), 0, &Device::flex());
        let aside = Sensitivity::new(&net, "aux1.fc2").unwrap_err();
        assert_eq!(aside.to_string(), "layer `aux1.fc2` of `googlenet` has no part in the output");
        assert!(Sensitivity::new(&net, "inception9").is_err());
    }
}
