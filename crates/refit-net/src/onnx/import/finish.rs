//! The end of an import: what the output needs, in layers, named, and built.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;

use super::draft::{Drafted, Op, Origin, Weights};
use super::view::{View, is_images};
use super::{Imported, Importer, Value, printable};
use crate::graph::{Builder, GraphError, Wire};
use crate::layer::{Layer, Role};
use crate::network::Network;
use crate::onnx::OnnxError;
use crate::onnx::names::{Names, full_name};
use crate::shape::Shape;

impl Importer<'_> {
    /// Makes a network of the draft.
    pub(super) fn finish(mut self, device: &Device) -> Result<Imported, OnnxError> {
        let output = self.output()?;
        self.draft.settle();
        let mut plan = Plan::new(self.draft.nodes, output);
        plan.flatten_pixels();
        plan.check()?;
        let name = self.graph.name.as_str();
        let name = if name.is_empty() { "imported" } else { name };
        let (network, folded) = plan
            .build(&printable(name), device)
            .map_err(|source| OnnxError::Graph { file: self.source.file.clone(), source })?;
        if network.parameters().is_empty() {
            let problem = "has no weights, so that there is nothing to keep or to train".into();
            return Err(OnnxError::Signature { file: self.source.file.clone(), problem });
        }
        if folded {
            let note = "no batch norms: if the network had any, the exporter folded them, and it \
                        trains without";
            self.notes.push(note.into());
        }
        Ok(Imported { network, metadata: BTreeMap::new(), notes: self.notes })
    }

    /// The node that gives the logits.
    fn output(&mut self) -> Result<usize, OnnxError> {
        let graph = self.graph;
        let file = self.source.file.clone();
        let refuse = |problem: &str| OnnxError::Signature {
            file: file.clone(),
            problem: problem.to_owned(),
        };
        let [output, others @ ..] = &graph.output[..] else {
            return Err(refuse("has no output"));
        };
        if !others.is_empty() {
            let others: Vec<_> = others.iter().map(|o| printable(&o.name)).collect();
            self.notes.push(format!("left out, being further outputs: {}", others.join(", ")));
        }
        let Some(Value::Layer(view)) = self.values.get(output.name.as_str()).cloned() else {
            return Err(refuse("has an output that does not depend on images"));
        };
        let mut id = view.node;
        let mut ended = false;
        while let Op::Softmax = self.draft.nodes[id].op {
            ended = true;
            id = self.draft.nodes[id].inputs[0];
        }
        if ended {
            let note =
                "left out: the softmax at the end, as training and prediction have their own";
            self.notes.push(note.into());
        }
        let shape = self.draft.shape(id);
        let row = View::new(id, shape).dims[1..].concat();
        let dims = view.dims.iter().filter(|d| !d.is_empty());
        let is_row = match dims.collect::<Vec<_>>()[..] {
            [images] => is_images(images) && row.is_empty(),
            [images, values] => is_images(images) && *values == row,
            _ => false,
        };
        match (is_row, shape.elements() == shape.channels()) {
            (true, true) => Ok(id),
            (true, false) => {
                let origin =
                    Origin { layer: "flatten".into(), ..self.draft.nodes[id].origin.clone() };
                let flat = Shape::vector(shape.elements());
                Ok(self.draft.push(Op::Layer(Layer::Flatten, Vec::new()), &[id], flat, &origin))
            }
            (false, _) => Err(refuse("gives no row of logits an image")),
        }
    }
}

/// Nodes that the output needs, and the layers that they are.
struct Plan {
    nodes: Vec<Drafted>,
    output: usize,
    needed: BTreeSet<usize>,
}

impl Plan {
    fn new(nodes: Vec<Drafted>, output: usize) -> Self {
        let mut plan = Self { nodes, output, needed: BTreeSet::new() };
        plan.find_needed();
        plan
    }

    fn find_needed(&mut self) {
        let mut open = vec![self.output];
        self.needed.clear();
        while let Some(id) = open.pop() {
            if self.needed.insert(id) {
                open.extend(&self.nodes[id].inputs);
            }
        }
    }

    /// For each node, those of the needed ones that take it.
    fn takers(&self) -> Vec<Vec<usize>> {
        let mut takers = vec![Vec::new(); self.nodes.len()];
        for &id in &self.needed {
            self.nodes[id].inputs.iter().for_each(|&x| takers[x].push(id));
        }
        takers
    }

    /// Refuses what is a part of a layer and no layer.
    fn check(&self) -> Result<(), OnnxError> {
        for id in &self.needed {
            let Drafted { op, origin, .. } = &self.nodes[*id];
            let problem = match op {
                Op::Layer(..) => continue,
                Op::Softmax => "it makes probabilities of what is not the output",
                Op::Product => "it multiplies two maps, of which none is one number a channel",
                Op::Affine(..) | Op::Shift(_) => "it adds to a vector, or scales one, by itself",
                _ => "it is a part of no layer that refit knows",
            };
            return Err(OnnxError::Unsupported {
                node: origin.node.clone(),
                op: origin.op.clone(),
                problem: problem.into(),
                needs: "a layer that docs/onnx.md lists; export with a newer opset_version, in \
                        which such layers are operators of their own"
                    .into(),
            });
        }
        Ok(())
    }

    /// Layers behind the last pooling work on vectors: a map of one pixel is flattened before the
    /// first layer after which only such layers follow.
    fn flatten_pixels(&mut self) {
        let takers = self.takers();
        let vectors = self.on_vectors(&takers);
        let pooled = |id: usize, nodes: &[Drafted]| {
            let flattens = |n: usize| matches!(nodes[n].op, Op::Layer(Layer::Flatten, _));
            matches!(nodes[id].op, Op::Layer(Layer::AdaptiveAvgPool { size: [1, 1] }, _))
                && takers[id].iter().all(|&n| vectors.contains(&n) || flattens(n))
        };
        let mut flattened: BTreeMap<usize, usize> = BTreeMap::new();
        let ids: Vec<usize> = self.needed.iter().copied().collect();
        for id in ids {
            if pooled(id, &self.nodes) {
                self.nodes[id].op = Op::Layer(Layer::GlobalAvgPool, Vec::new());
            } else if !vectors.contains(&id) {
                continue;
            }
            self.nodes[id].shape = Shape::vector(self.nodes[id].shape.channels());
            if vectors.contains(&id) {
                for at in 0..self.nodes[id].inputs.len() {
                    let x = self.nodes[id].inputs[at];
                    if let Shape::Map { .. } = self.nodes[x].shape {
                        self.nodes[id].inputs[at] = self.flattened(x, &mut flattened);
                    }
                }
            }
        }
        if let Shape::Map { .. } = self.nodes[self.output].shape {
            self.output = self.flattened(self.output, &mut flattened);
        }
        self.skip_flat();
        self.find_needed();
    }

    /// Takes away what flattens vectors.
    fn skip_flat(&mut self) {
        for id in 0..self.nodes.len() {
            for at in 0..self.nodes[id].inputs.len() {
                let x = self.nodes[id].inputs[at];
                if let Op::Layer(Layer::Flatten, _) = self.nodes[x].op
                    && let before = self.nodes[x].inputs[0]
                    && let Shape::Vector { .. } = self.nodes[before].shape
                {
                    self.nodes[id].inputs[at] = before;
                }
            }
        }
    }

    /// The node that flattens `x`.
    fn flattened(&mut self, x: usize, known: &mut BTreeMap<usize, usize>) -> usize {
        *known.entry(x).or_insert_with(|| {
            let Drafted { shape, mut origin, .. } = self.nodes[x].clone();
            origin.layer = "flatten".into();
            self.nodes.push(Drafted {
                op: Op::Layer(Layer::Flatten, Vec::new()),
                inputs: vec![x],
                shape: Shape::vector(shape.channels()),
                origin,
            });
            self.nodes.len() - 1
        })
    }

    /// Layers on maps of one pixel that may as well be on vectors, as all that take them may.
    fn on_vectors(&self, takers: &[Vec<usize>]) -> BTreeSet<usize> {
        let pixel =
            |id: usize| matches!(self.nodes[id].shape, Shape::Map { height: 1, width: 1, .. });
        let either = |id: usize| {
            matches!(
                self.nodes[id].op,
                Op::Layer(
                    Layer::Activation { .. }
                        | Layer::Add
                        | Layer::Concat
                        | Layer::Slice { .. }
                        | Layer::Scale { .. }
                        | Layer::Dropout(_)
                        | Layer::LayerNorm(_)
                        | Layer::Linear(_),
                    _
                )
            )
        };
        let takes_pixels = |id: usize| self.nodes[id].inputs.iter().all(|&x| pixel(x));
        let mut chosen: BTreeSet<usize> = BTreeSet::new();
        for &id in self.needed.iter().rev() {
            let followed = takers[id].iter().all(|n| {
                chosen.contains(n) || matches!(self.nodes[*n].shape, Shape::Vector { .. })
            });
            if pixel(id) && takes_pixels(id) && either(id) && followed {
                chosen.insert(id);
            }
        }
        // What stands directly behind a convolution runs with it.
        for id in self.needed.iter().copied() {
            let linear = matches!(self.nodes[id].op, Op::Layer(Layer::Linear(_), _));
            let behind_map = |&x: &usize| {
                !chosen.contains(&x)
                    && !matches!(self.nodes[x].op, Op::Layer(Layer::AdaptiveAvgPool { .. }, _))
            };
            if !linear && self.nodes[id].inputs.iter().all(behind_map) {
                chosen.remove(&id);
            }
        }
        chosen
    }

    /// Builds the network; says whether convolutions have no norms.
    fn build(self, name: &str, device: &Device) -> Result<(Network, bool), GraphError> {
        let order = self.order();
        let input = &self.nodes[order[0]];
        let (mut builder, wire) = Builder::new(name, input.shape);
        let mut wires: BTreeMap<usize, Wire> = BTreeMap::from([(order[0], wire)]);
        let mut names = Names::default();
        names.reserve("input");
        let mut values: BTreeMap<String, Weights> = BTreeMap::new();
        let mut head = String::new();
        for &id in &order[1..] {
            let Drafted { op: Op::Layer(layer, parameters), inputs, origin, .. } = &self.nodes[id]
            else {
                unreachable!("all are layers")
            };
            let suggested =
                if origin.layer.is_empty() { layer.kind() } else { origin.layer.as_str() };
            let inputs: Vec<Wire> = inputs.iter().map(|i| wires[i]).collect();
            let specs = layer.parameters(builder.shape(inputs[0]));
            let suffixes: Vec<&str> = specs.iter().map(|spec| spec.suffix).collect();
            let name = names.free(&printable(suggested), &suffixes);
            for (spec, weights) in specs.iter().zip(parameters) {
                values.insert(full_name(&name, spec.suffix), weights.clone());
            }
            if specs.first().is_some_and(|spec| spec.role == Role::Weight) {
                head.clone_from(&name);
            }
            wires.insert(id, builder.layer(&name, *layer, &inputs));
        }
        let graph = builder.finish(wires[&self.output], &head)?;
        let has = |kind: fn(&Layer) -> bool| graph.nodes().iter().any(|n| kind(&n.layer));
        let folded = has(|l| matches!(l, Layer::Conv(_)))
            && !has(|l| matches!(l, Layer::BatchNorm(_) | Layer::LayerNorm(_)));
        Ok((Network::with_values(graph, |name| values[name].to_vec(), device), folded))
    }

    /// The nodes that are needed, inputs before what takes them.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.needed.len());
        let mut placed = BTreeSet::new();
        let mut open = vec![(self.output, false)];
        while let Some((id, entered)) = open.pop() {
            if entered {
                order.push(id);
            } else if placed.insert(id) {
                open.push((id, true));
                open.extend(self.nodes[id].inputs.iter().rev().map(|&x| (x, false)));
            }
        }
        order
    }
}
