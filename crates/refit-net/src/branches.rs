//! Layers on the side: of use while a network learns, and no part of what it computes.

use crate::graph::{Graph, GraphError, GraphRecord, LayerRecord, NodeId};
use crate::layer::Layer;
use crate::network::Network;

/// A layer that takes another's value and that nothing takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    /// Its name, which no other layer has.
    pub name: String,
    /// The layer that it takes the value of.
    pub from: NodeId,
    /// What it does.
    pub layer: Layer,
}

impl Network {
    /// The same network with layers on the side, whose parameters start from `seed` and are not
    /// frozen. Nodes keep their numbers; the branches' follow in order.
    ///
    /// # Errors
    /// If a name is taken, or a layer does not take what it is given.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn with_branches(&self, branches: &[Branch], seed: u64) -> Result<Self, GraphError> {
        let mut record = GraphRecord::from(self.graph());
        record.layers.extend(branches.iter().map(|branch| LayerRecord {
            name: branch.name.clone(),
            inputs: vec![self.graph.nodes()[branch.from].name.clone()],
            layer: branch.layer,
        }));
        self.on_graph(&record, seed)
    }

    /// The same network without the layers of these names.
    ///
    /// # Errors
    /// If another layer takes what one of them gives.
    pub fn without_branches(&self, names: &[&str]) -> Result<Self, GraphError> {
        let mut record = GraphRecord::from(self.graph());
        record.layers.retain(|layer| !names.contains(&layer.name.as_str()));
        self.on_graph(&record, 0)
    }

    /// The graph that a record tells with this network's parameters, frozen where they are here.
    fn on_graph(&self, record: &GraphRecord, seed: u64) -> Result<Self, GraphError> {
        let is_frozen = |name: &str| self.graph.find(name).is_ok_and(|id| self.is_frozen(id));
        let mut net = self.lending(Graph::try_from(record)?, seed);
        let nodes = net.graph.nodes().iter().enumerate();
        net.frozen = nodes.filter(|(_, n)| is_frozen(&n.name)).map(|(id, _)| id).collect();
        Ok(net)
    }

    /// A network of a graph that shares layers with this one's: their parameters are this network's,
    /// the others start from `seed`, and nothing is frozen.
    pub(crate) fn lending(&self, graph: Graph, seed: u64) -> Self {
        let mut net = Self::initialize(graph, seed, self.device());
        for (name, parameter) in &self.parameters {
            if let Some(place) = net.parameters.get_mut(name) {
                *place = parameter.clone();
            }
        }
        net
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Conv;
    use crate::shape::Shape;
    use crate::{Builder, Edit, Training};
    use burn::tensor::{Device, Tensor};

    fn network() -> Network {
        let (mut g, x) = Builder::new("small", Shape::map(3, 6, 6));
        let y = g.conv("a", x, Conv::k3(4));
        let y = g.relu("relu", y);
        let y = g.global_avg_pool("pool", y);
        let y = g.linear("fc", y, 2);
        let net = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Device::flex());
        net.edit(&[Edit::Freeze { layers: "a".into() }], 0).unwrap()
    }

    #[test]
    fn branches_learn_and_leave_nothing_behind() {
        let net = network();
        let from = net.graph().find("relu").unwrap();
        let branch = Branch { name: "side".into(), from, layer: Layer::Conv(Conv::k1(7)) };
        let with = net.with_branches(std::slice::from_ref(&branch), 3).unwrap();
        let side = with.graph().find("side").unwrap();
        assert_eq!(side, net.graph().nodes().len());
        assert!(with.is_frozen(with.graph().find("a").unwrap()) && !with.is_frozen(side));
        let training = Training::tapped(&with, crate::Precision::F32, &[side]);
        let images = Tensor::<4>::ones([2, 3, 6, 6], &Device::flex());
        let boundary = training.run_frozen(images.clone());
        let mut pass = training.pass(&with, boundary, Default::default());
        let loss = pass.taps[0].clone().map().sum();
        assert_eq!(pass.taps[0].dims(), [2, 7, 6, 6]);
        assert_eq!(pass.gradients(&loss).keys().collect::<Vec<_>>(), ["side.weight"]);
        let without = with.without_branches(&["side"]).unwrap();
        assert_eq!(without.graph(), net.graph());
        let run = |net: &Network| net.compile_all().run(images.clone()).remove(0).to_vec();
        assert_eq!(run(&with), run(&net));
        assert_eq!(run(&without), run(&net));
        assert!(with.with_branches(&[branch], 3).is_err(), "the name is taken");
        assert!(with.without_branches(&["pool"]).is_err(), "the head takes it");
    }
}
