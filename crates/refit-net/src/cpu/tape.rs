//! Training on the CPU: one pass forward that records what the way back needs, then the way back.
//!
//! A convolution's raw output is written once and kept; batch norm and activation are an *entry* of
//! whoever reads it, applied anew each time. Only where a map is read more than once is the entered
//! map stored as well; the end of a residual block is forgotten when its last reader is through, and
//! made anew on the way back. So a network of convolution, norm and activation keeps one map a
//! convolution, where a framework keeps two or three.
//!
//! Going back, a map's gradient comes from its reader already taken through the entry's activation
//! and summed up; the norm's share then is a linear pass in place (Ioffe and Szegedy 2015,
//! <https://arxiv.org/abs/1502.03167>), or nothing at all with stored statistics, whose scale moves
//! into the weights.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use refit_kernels::{
    self as kernels, Buffer, ConvShape, Entering, Entry, Filter, GradientSums, Moments, PoolShape,
    Through, activation_gradient, affine_gradient, convolve_once, convolve_with_moments, depthwise,
    enter, gradient_through, input_gradient, input_gradient_through, max_pool_gradient,
    mean_pool_gradient, moments, weight_gradient,
};

use super::clock::{Phase, timed};
use super::map::{Floats, Map};
use super::program::{pool_shape, run_max_pool, run_mean_pool};
use super::{conv_shape, parted, single};
use crate::frozen::Value;
use crate::graph::NodeId;
use crate::layer::{BatchNorm, Conv, Dropout, Layer, Windows};
use crate::network::Network;
use crate::plan::{Plan, Step};
use crate::shape::Shape;
use crate::training::{NormStatistics, TrainingOptions, dropout_mask};

/// What a map passes when it is read: a norm, a bias, an activation.
#[derive(Debug)]
struct Passage {
    scale: Vec<f32>,
    shift: Vec<f32>,
    activation: kernels::Activation,
    /// `[c]`: what a norm takes away, zero without one; products of gradients are taken around it.
    mean: Vec<f32>,
    /// `[c]`: one over a norm's deviation, 1 without one.
    inverse_deviation: Vec<f32>,
    /// Whether these are the batch's own, so that the gradient runs through them.
    by_batch: bool,
    /// The parameters that learn from it, by name.
    learns: Vec<(Learner, String)>,
}

/// A parameter of a passage.
#[derive(Debug, Clone, Copy)]
enum Learner {
    NormScale,
    NormShift,
    Bias,
}

impl Passage {
    /// An activation alone.
    fn plain(channels: usize, activation: kernels::Activation) -> Self {
        Self {
            scale: vec![1.0; channels],
            shift: vec![0.0; channels],
            activation,
            mean: vec![0.0; channels],
            inverse_deviation: vec![1.0; channels],
            by_batch: false,
            learns: Vec::new(),
        }
    }

    fn entry(&self) -> Entry<'_> {
        Entry { scale: &self.scale, shift: &self.shift, activation: self.activation }
    }

    /// Whether anything has to be summed over its gradient.
    fn needs_sums(&self) -> bool {
        self.by_batch || !self.learns.is_empty()
    }

    /// The gradient of one of its parameters.
    fn learned(&self, learner: Learner, sums: &GradientSums) -> Vec<f32> {
        let scaled = |values: &[f32], by: &[f32]| -> Vec<f32> {
            values.iter().zip(by).map(|(v, b)| v * b).collect()
        };
        match learner {
            Learner::NormShift => sums.sum.clone(),
            Learner::NormScale => scaled(&sums.product, &self.inverse_deviation),
            // The batch's mean takes a bias away again.
            Learner::Bias if self.by_batch => vec![0.0; self.scale.len()],
            Learner::Bias => scaled(&sums.sum, &self.scale),
        }
    }

    /// The gradient before a norm by the batch's statistics of `count` pixels, in place of the one
    /// behind it: `scale * (g - mean(g) - (x - mean) / variance * mean(g * (x - mean)))`.
    fn take_back(&self, g: &mut [f32], x: &[f32], sums: &GradientSums, count: usize) {
        let share = 1.0 / count as f32;
        let channels = self.scale.len();
        let (mut b, mut d) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for c in 0..channels {
            let scale = self.scale[c] * share;
            let slope = -scale * self.inverse_deviation[c].powi(2) * sums.product[c];
            b.push(slope);
            d.push(-scale * sums.sum[c] - slope * self.mean[c]);
        }
        affine_gradient(g, x, &self.scale, &b, &d);
    }
}

/// A map as it is read: the values and what they pass.
#[derive(Debug, Clone)]
struct Source {
    values: Values,
    passage: Option<Arc<Passage>>,
}

#[derive(Debug, Clone)]
enum Values {
    Stored(Map),
    Sum(Arc<Sum>),
}

/// The end of a residual block, `activation(entry(raw) + entry(other))`: a map that can be made
/// again, of maps that are kept or can be made again themselves. On the way back the first to be
/// asked for makes those before it too, as far as shortcuts are maps as they are: a stage at a time.
#[derive(Debug)]
struct Sum {
    raw: Source,
    other: Source,
    activation: kernels::Activation,
    map: Mutex<Option<Map>>,
}

impl Sum {
    fn map(&self) -> Map {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.get_or_insert_with(|| enter_source(&self.raw, Some(&self.other), self.activation))
            .clone()
    }

    /// Frees its memory until it is asked for again.
    fn forget(&self) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Source {
    fn plain(map: Map) -> Self {
        Self { values: Values::Stored(map), passage: None }
    }

    fn shape(&self) -> [usize; 4] {
        match &self.values {
            Values::Stored(map) => map.shape,
            Values::Sum(sum) => sum.raw.shape(),
        }
    }

    /// The values before the passage.
    fn map(&self) -> Map {
        match &self.values {
            Values::Stored(map) => map.clone(),
            Values::Sum(sum) => sum.map(),
        }
    }

    fn entry(&self) -> Option<Entry<'_>> {
        self.passage.as_ref().map(|p| p.entry())
    }

    fn through<'a>(&'a self, map: &'a Map) -> Option<Through<'a>> {
        let passage = self.passage.as_deref()?;
        Some(Through { x: &map.values, entry: passage.entry(), center: &passage.mean })
    }
}

/// A gradient with respect to what a node gives; with sums, it has been taken through the
/// activation of the node's passage.
#[derive(Debug)]
struct Gradient {
    values: Buffer,
    sums: Option<GradientSums>,
}

/// One step as recorded.
#[derive(Debug)]
struct Record {
    /// Its layers.
    layers: Vec<NodeId>,
    /// The node that it gives.
    output: NodeId,
    /// The node that it reads, and how.
    x: NodeId,
    source: Source,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A convolution or linear layer, then its passage.
    Conv {
        shape: ConvShape,
        weight: Box<Floats>,
        learns: Option<String>,
        end: End,
    },
    /// A norm or activation on its own: a passage over its input.
    Passage(Source),
    /// The sum of two maps.
    Add {
        other: NodeId,
        output: Map,
        activation: kernels::Activation,
    },
    MaxPool {
        shape: PoolShape,
        indices: Vec<u8>,
    },
    MeanPool,
    Dropout {
        mask: Buffer,
    },
    Pass,
    /// An activation that does more than clamp.
    Bend(kernels::Curve),
    /// Any other layer: what it read, as far as its gradients need it, and its parameters, by name
    /// where they learn.
    Single {
        layer: Layer,
        inputs: Vec<(NodeId, Map)>,
        parameters: Vec<Vec<f32>>,
        learns: Vec<Option<String>>,
    },
}

/// What happens behind a convolution.
#[derive(Debug)]
struct End {
    /// Its raw output and what that passes.
    raw: Source,
    /// The node that is added then, and the result.
    residual: Option<(NodeId, Arc<Sum>)>,
}

/// The statistics of a norm's batch: mean and unbiased variance.
pub(crate) type Statistics = (NodeId, Tensor<1>, Tensor<1>);

/// A pass that can be gone back.
#[derive(Debug)]
pub(crate) struct Tape {
    records: Vec<Record>,
    /// The network's output, then those half-way.
    outputs: Vec<NodeId>,
    /// Nodes whose gradients are of use.
    tracked: BTreeMap<NodeId, bool>,
}

/// What a pass forward gives.
pub(crate) struct Recorded {
    pub tape: Tape,
    /// The network's, then those half-way.
    pub outputs: Vec<Value>,
    pub statistics: Vec<Statistics>,
}

/// Runs `plan` from the boundary's values to the network's output and those of `halfway`, which are
/// nodes of the plan or of the boundary.
pub(crate) fn record(
    net: &Network,
    plan: &Plan,
    boundary: impl IntoIterator<Item = (NodeId, Value)>,
    halfway: &[NodeId],
    options: TrainingOptions,
) -> Recorded {
    record_as(net, plan, boundary, halfway, None, options)
}

/// The same to the network's output alone, recording what the gradient of `watched`, a layer of the
/// boundary, needs.
pub(crate) fn record_watching(
    net: &Network,
    plan: &Plan,
    boundary: impl IntoIterator<Item = (NodeId, Value)>,
    watched: NodeId,
    options: TrainingOptions,
) -> Recorded {
    record_as(net, plan, boundary, &[], Some(watched), options)
}

fn record_as(
    net: &Network,
    plan: &Plan,
    boundary: impl IntoIterator<Item = (NodeId, Value)>,
    halfway: &[NodeId],
    watched: Option<NodeId>,
    options: TrainingOptions,
) -> Recorded {
    let given = boundary.into_iter().map(|(id, value)| (id, Source::plain(Map::from(value))));
    let sources: BTreeMap<NodeId, Source> = given.collect();
    let tracked = sources.keys().map(|&id| (id, watched == Some(id))).collect();
    let outputs: Vec<NodeId> =
        std::iter::once(net.graph.output()).chain(halfway.iter().copied()).collect();
    let mut recorder = Recorder {
        net,
        options,
        uses: uses(net, plan, &outputs),
        sources,
        tracked,
        records: Vec::new(),
        statistics: Vec::new(),
    };
    kernels::together(|| {
        for step in &plan.steps {
            timed(&step.layers, Phase::Forward, || recorder.run(step));
            for id in &step.last_uses {
                if let Some(Source { values: Values::Sum(sum), .. }) = recorder.sources.remove(id) {
                    sum.forget();
                }
            }
        }
    });
    let value = |&id: &NodeId| {
        let is_vector = matches!(net.graph.nodes()[id].shape, Shape::Vector { .. });
        recorder.entered(id).to_value(is_vector, net.device())
    };
    let values = outputs.iter().map(value).collect();
    let Recorder { records, tracked, statistics, .. } = recorder;
    Recorded { tape: Tape { records, outputs, tracked }, outputs: values, statistics }
}

/// How many steps read each node; whoever asks for its value is one more.
fn uses(net: &Network, plan: &Plan, outputs: &[NodeId]) -> BTreeMap<NodeId, usize> {
    let mut uses = BTreeMap::new();
    let read = plan.steps.iter().flat_map(|step| step.inputs(&net.graph));
    for id in read.chain(outputs.iter().copied()) {
        *uses.entry(id).or_insert(0) += 1;
    }
    uses
}

struct Recorder<'a> {
    net: &'a Network,
    options: TrainingOptions,
    uses: BTreeMap<NodeId, usize>,
    sources: BTreeMap<NodeId, Source>,
    tracked: BTreeMap<NodeId, bool>,
    records: Vec<Record>,
    statistics: Vec<Statistics>,
}

impl Recorder<'_> {
    fn run(&mut self, step: &Step) {
        let node = &self.net.graph.nodes()[step.main];
        let x = node.inputs[0];
        let (activation, curve) = parted(step.activation);
        match node.layer {
            Layer::Conv(conv) => self.conv(step, x, conv),
            Layer::Linear(_) => self.linear(step, x),
            Layer::BatchNorm(_) => self.norm(step, x, activation),
            Layer::Activation { .. } => match curve {
                Some(curve) => self.bend(step, x, curve),
                None => self.activation(step, x, activation),
            },
            Layer::Add => self.add(step, x, node.inputs[1], activation),
            Layer::MaxPool(pool) => self.max_pool(step, x, pool),
            Layer::GlobalAvgPool => {
                let source = self.source(x);
                let map = run_mean_pool(&source.map(), source.entry());
                self.finish(step, x, source, Source::plain(map), What::MeanPool);
            }
            Layer::Dropout(dropout) if !self.net.is_frozen(step.main) => {
                self.dropout(step, x, dropout);
            }
            Layer::LayerScale(_) => {
                let name = self.learned(step.main, "");
                self.scale(step, x, self.values(step.main, ""), name);
            }
            Layer::Scale { factor } => {
                self.scale(step, x, vec![factor; node.shape.channels()], None);
            }
            Layer::Dropout(_) | Layer::Input { .. } => {
                let map = self.entered(x);
                let plain = Source::plain(map);
                self.finish(step, x, plain.clone(), plain, What::Pass);
            }
            layer => self.single(step, layer),
        }
    }

    /// How a node is read. What several steps read is entered once and kept.
    fn source(&mut self, id: NodeId) -> Source {
        if self.uses.get(&id).is_some_and(|uses| *uses > 1) {
            self.entered(id);
        }
        self.sources[&id].clone()
    }

    /// A node's values behind its passage.
    fn entered(&mut self, id: NodeId) -> Map {
        let source = &self.sources[&id];
        if source.passage.is_none() {
            return source.map();
        }
        let map = enter_source(source, None, kernels::Activation::Identity);
        self.sources.insert(id, Source::plain(map.clone()));
        map
    }

    fn is_tracked(&self, id: NodeId) -> bool {
        self.tracked[&id]
    }

    /// Keeps what a step gives, and the step itself where a gradient passes it.
    fn finish(&mut self, step: &Step, x: NodeId, source: Source, output: Source, what: What) {
        let learns = self.learns(step);
        let tracked = learns || step.inputs(&self.net.graph).iter().any(|&id| self.is_tracked(id));
        self.tracked.insert(step.output, tracked);
        self.sources.insert(step.output, output);
        if tracked {
            let layers = step.layers.clone();
            self.records.push(Record { layers, output: step.output, x, source, what });
        }
    }

    /// Whether a step has parameters that learn.
    fn learns(&self, step: &Step) -> bool {
        let learns =
            |id: NodeId| !self.net.is_frozen(id) && self.net.node_parameters(id).next().is_some();
        learns(step.main) || step.norm.is_some_and(learns)
    }

    /// A parameter's name where it learns.
    fn learned(&self, id: NodeId, suffix: &str) -> Option<String> {
        (!self.net.is_frozen(id)).then(|| self.net.graph.parameter_name(id, suffix))
    }

    fn values(&self, id: NodeId, suffix: &str) -> Vec<f32> {
        self.net.parameter(id, suffix).to_vec()
    }

    fn conv(&mut self, step: &Step, x: NodeId, conv: Conv) {
        let source = self.source(x);
        let shape = conv_shape(&conv, source.shape());
        self.product(step, x, source, shape);
    }

    fn linear(&mut self, step: &Step, x: NodeId) {
        let source = self.source(x);
        let outputs = self.net.parameter(step.main, "weight").shape[0];
        let shape = conv_shape(&Conv::k1(outputs), source.shape());
        self.product(step, x, source, shape);
    }

    /// A convolution or linear layer and what is fused behind it.
    fn product(&mut self, step: &Step, x: NodeId, source: Source, shape: ConvShape) {
        let weight = Floats::of(self.net.parameter(step.main, "weight").value.clone());
        let [h, w] = shape.out_size();
        let dims = [shape.batch, h, w, shape.out_channels];
        let mut y = Buffer::stale(shape.output_len());
        let inner = match step.residual {
            Some(_) => kernels::Activation::Identity,
            None => parted(step.activation).0,
        };
        let count = dims[0] * h * w;
        let (map, entry) = (source.map(), source.entry());
        let x_values = &map.values;
        let passage = match step.norm.filter(|&id| self.by_batch(id, count)) {
            Some(norm) => {
                let filter = Filter::new(&shape, &weight);
                let found = convolve_with_moments(&shape, x_values, entry, &filter, &mut y);
                Some(self.batch_passage(norm, Some(step.main), &found, count, inner))
            }
            None => {
                convolve_once(&shape, x_values, entry, &weight, &mut y);
                self.stored_passage(step, inner, dims[3])
            }
        };
        let values = Values::Stored(Map::new(dims, y));
        let raw = Source { values, passage: passage.map(Arc::new) };
        let learns = self.learned(step.main, "weight");
        let (end, output) = self.end(step, raw);
        self.finish(
            step,
            x,
            source,
            output,
            What::Conv { shape, weight: Box::new(weight), learns, end },
        );
    }

    /// The residual behind a raw output, if there is one, and how the result is read.
    fn end(&mut self, step: &Step, raw: Source) -> (End, Source) {
        let Some(id) = step.residual else {
            return (End { raw: raw.clone(), residual: None }, raw);
        };
        let other = self.source(id);
        let (activation, _) = parted(step.activation);
        let map = enter_source(&raw, Some(&other), activation);
        let sum = Arc::new(Sum { raw: raw.clone(), other, activation, map: Mutex::new(Some(map)) });
        let output = Source { values: Values::Sum(sum.clone()), passage: None };
        (End { raw, residual: Some((id, sum)) }, output)
    }

    /// Whether a norm uses the batch's statistics. One value has no variance: it is normalized by
    /// what is stored.
    fn by_batch(&self, norm: NodeId, count: usize) -> bool {
        !self.net.is_frozen(norm) && self.options.norms == NormStatistics::Batch && count > 1
    }

    /// A norm by the batch's statistics, behind a convolution or on its own.
    fn batch_passage(
        &mut self,
        norm: NodeId,
        conv: Option<NodeId>,
        found: &Moments,
        count: usize,
        activation: kernels::Activation,
    ) -> Passage {
        let bias = conv.filter(|&id| self.net.has_bias(id));
        let mut mean = found.mean.clone();
        if let Some(id) = bias {
            mean.iter_mut().zip(self.values(id, "bias")).for_each(|(m, b)| *m += b);
        }
        let unbiased = count as f64 / (count - 1) as f64;
        let variance = found.variance.iter().map(|v| (f64::from(*v) * unbiased) as f32).collect();
        self.statistics.push((norm, self.tensor(mean), self.tensor(variance)));
        let mut passage = self.norm_passage(norm, found, activation);
        passage.by_batch = true;
        passage
            .learns
            .extend(bias.and_then(|id| self.learned(id, "bias")).map(|name| (Learner::Bias, name)));
        passage
    }

    /// What follows a convolution without the batch's statistics: a bias, a norm by the stored
    /// ones, an activation; nothing if there is none of them.
    fn stored_passage(
        &self,
        step: &Step,
        activation: kernels::Activation,
        channels: usize,
    ) -> Option<Passage> {
        let has_bias = self.net.has_bias(step.main);
        let mut passage = match step.norm {
            Some(norm) => self.norm_passage(norm, &self.stored(norm), activation),
            None if !has_bias && activation == kernels::Activation::Identity => return None,
            None => Passage::plain(channels, activation),
        };
        if has_bias {
            for (c, bias) in self.values(step.main, "bias").into_iter().enumerate() {
                passage.shift[c] += passage.scale[c] * bias;
                passage.mean[c] -= bias;
            }
            let name = self.learned(step.main, "bias");
            passage.learns.extend(name.map(|name| (Learner::Bias, name)));
        }
        Some(passage)
    }

    /// A norm's stored statistics.
    fn stored(&self, norm: NodeId) -> Moments {
        Moments {
            mean: self.values(norm, "running_mean"),
            variance: self.values(norm, "running_var"),
        }
    }

    /// A norm by given statistics.
    fn norm_passage(
        &self,
        norm: NodeId,
        statistics: &Moments,
        activation: kernels::Activation,
    ) -> Passage {
        let Layer::BatchNorm(BatchNorm { epsilon, .. }) = self.net.graph.nodes()[norm].layer else {
            unreachable!("a batch norm")
        };
        let inverse = |v: &f32| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32;
        let inverse_deviation: Vec<f32> = statistics.variance.iter().map(inverse).collect();
        let mut scale = self.values(norm, "weight");
        scale.iter_mut().zip(&inverse_deviation).for_each(|(s, i)| *s *= i);
        let mut shift = self.values(norm, "bias");
        for (c, shift) in shift.iter_mut().enumerate() {
            *shift -= statistics.mean[c] * scale[c];
        }
        let learner = |kind, suffix| Some((kind, self.learned(norm, suffix)?));
        let learns = [(Learner::NormScale, "weight"), (Learner::NormShift, "bias")];
        Passage {
            scale,
            shift,
            activation,
            mean: statistics.mean.clone(),
            inverse_deviation,
            by_batch: false,
            learns: learns.into_iter().filter_map(|(kind, suffix)| learner(kind, suffix)).collect(),
        }
    }

    fn tensor(&self, values: Vec<f32>) -> Tensor<1> {
        tensor(values, self.net.device())
    }

    /// A batch norm that follows no convolution.
    fn norm(&mut self, step: &Step, x: NodeId, activation: kernels::Activation) {
        let map = self.entered(x);
        let [n, h, w, c] = map.shape;
        let count = n * h * w;
        let passage = if self.by_batch(step.main, count) {
            let found = moments(&map.values, c);
            self.batch_passage(step.main, None, &found, count, activation)
        } else {
            self.norm_passage(step.main, &self.stored(step.main), activation)
        };
        self.passage(step, x, map, passage);
    }

    /// A passage over an entered map.
    fn passage(&mut self, step: &Step, x: NodeId, map: Map, passage: Passage) {
        let plain = Source::plain(map.clone());
        let raw = Source { values: Values::Stored(map), passage: Some(Arc::new(passage)) };
        self.finish(step, x, plain, raw.clone(), What::Passage(raw));
    }

    fn activation(&mut self, step: &Step, x: NodeId, activation: kernels::Activation) {
        let map = self.entered(x);
        let passage = Passage::plain(map.channels(), activation);
        self.passage(step, x, map, passage);
    }

    fn add(&mut self, step: &Step, x: NodeId, other: NodeId, activation: kernels::Activation) {
        let (source, added) = (self.source(x), self.source(other));
        let output = enter_source(&source, Some(&added), activation);
        let what = What::Add { other, output: output.clone(), activation };
        self.finish(step, x, source, Source::plain(output), what);
    }

    fn max_pool(&mut self, step: &Step, x: NodeId, pool: Windows) {
        let source = self.source(x);
        let mut indices = Vec::new();
        let from = source.map();
        let map = run_max_pool(&pool, &from, source.entry(), Some(&mut indices));
        let shape = pool_shape(&pool, from.shape);
        let what = What::MaxPool { shape, indices };
        self.finish(step, x, source, Source::plain(map), what);
    }

    fn bend(&mut self, step: &Step, x: NodeId, curve: kernels::Curve) {
        let source = self.source(x);
        let map = source.map();
        let mut values = Buffer::stale(map.values.len());
        let entering = Entering { x: &map.values, entry: source.entry() };
        enter(entering, None, kernels::Activation::Identity, &mut values);
        kernels::bend(&mut values, curve);
        let output = Source::plain(Map::new(map.shape, values));
        self.finish(step, x, source, output, What::Bend(curve));
    }

    /// A factor for each channel is a passage that adds nothing.
    fn scale(&mut self, step: &Step, x: NodeId, factors: Vec<f32>, name: Option<String>) {
        let map = self.entered(x);
        let mut passage = Passage::plain(map.channels(), kernels::Activation::Identity);
        passage.scale = factors;
        passage.learns.extend(name.map(|name| (Learner::NormScale, name)));
        self.passage(step, x, map, passage);
    }

    fn single(&mut self, step: &Step, layer: Layer) {
        let graph = &self.net.graph;
        let ids = graph.nodes()[step.main].inputs.clone();
        let suffixes = graph.parameters(step.main).into_iter().map(|p| p.suffix);
        let (parameters, learns): (Vec<_>, Vec<_>) =
            suffixes.map(|s| (self.values(step.main, s), self.learned(step.main, s))).unzip();
        let maps: Vec<Map> = ids.iter().map(|&id| self.entered(id)).collect();
        let y = single::forward(&layer, &maps, &parameters);
        let kept = |map: Map| if single::needs_inputs(&layer) { map } else { map.emptied() };
        let inputs: Vec<(NodeId, Map)> = ids.into_iter().zip(maps.into_iter().map(kept)).collect();
        let (x, source) = (inputs[0].0, Source::plain(inputs[0].1.clone()));
        let what = What::Single { layer, inputs, parameters, learns };
        self.finish(step, x, source, Source::plain(y), what);
    }

    fn dropout(&mut self, step: &Step, x: NodeId, dropout: Dropout) {
        let map = self.entered(x);
        let [n, h, w, c] = map.shape;
        let name = &self.net.graph.nodes()[step.main].name;
        // Drawn in the order of `[n, c, h, w]`, as on every other device.
        let drawn = dropout_mask(self.options.dropout_key, name, dropout, [n, h * w * c]);
        let mut mask = Buffer::stale(drawn.len());
        kernels::to_channels_last(&drawn, [n, c, h * w], &mut mask);
        let mut values = Buffer::from_slice(&map.values);
        values.iter_mut().zip(mask.iter()).for_each(|(v, m)| *v *= m);
        let output = Source::plain(Map::new(map.shape, values));
        self.finish(step, x, Source::plain(map), output, What::Dropout { mask });
    }
}

fn tensor(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

/// `activation(entry(x) + entry(other))`.
fn enter_source(x: &Source, other: Option<&Source>, activation: kernels::Activation) -> Map {
    let map = x.map();
    let other_map = other.map(Source::map);
    let entering = other.zip(other_map.as_ref());
    let entering = entering.map(|(o, map)| Entering { x: &map.values, entry: o.entry() });
    let mut y = Buffer::stale(map.values.len());
    enter(Entering { x: &map.values, entry: x.entry() }, entering, activation, &mut y);
    Map::new(map.shape, y)
}

impl Tape {
    /// Gradients by parameter, from those of the outputs where the loss has any.
    pub(crate) fn gradients(
        self,
        given: Vec<Option<Value>>,
        device: &Device,
    ) -> BTreeMap<String, Tensor<1>> {
        let buffer =
            |value| Arc::try_unwrap(Map::from(value).values).expect("made here, and not shared");
        let given = given.into_iter().map(|g| g.map(buffer));
        let learned = self.back(given).learned;
        learned.into_iter().map(|(name, values)| (name, tensor(values, device))).collect()
    }

    /// The gradient of a watched layer's `len` values, from that of the network's output.
    pub(crate) fn gradient_at(self, watched: NodeId, given: &[f32], len: usize) -> Buffer {
        let mut back = self.back([Some(Buffer::from_slice(given))]);
        let found = back.gradients.remove(&watched);
        found.map_or_else(|| Buffer::zeros(len), |gradient| gradient.values)
    }

    /// All the way back, from the gradients of the outputs.
    fn back(self, given: impl IntoIterator<Item = Option<Buffer>>) -> WayBack {
        let Self { records, outputs, tracked } = self;
        let (gradients, learned) = (BTreeMap::new(), BTreeMap::new());
        let mut back = WayBack { gradients, learned, tracked, owed: 0 };
        for (id, gradient) in outputs.into_iter().zip(given) {
            if let Some(gradient) = gradient {
                back.give(id, gradient);
            }
        }
        kernels::together(|| {
            for record in records.into_iter().rev() {
                let layers = record.layers.clone();
                timed(&layers, Phase::Backward, || back.step(record));
            }
        });
        back
    }
}

/// The way back: gradients by node until they are used, and what parameters learned.
struct WayBack {
    gradients: BTreeMap<NodeId, Gradient>,
    learned: BTreeMap<String, Vec<f32>>,
    tracked: BTreeMap<NodeId, bool>,
    /// Bytes of `learned` for which no memory of maps was given back yet.
    owed: usize,
}

impl WayBack {
    fn step(&mut self, record: Record) {
        let Record { output, x, source, what, .. } = record;
        let Some(gradient) = self.gradients.remove(&output) else { return };
        match what {
            What::Conv { shape, weight, learns, end } => {
                let (g, stored) = self.end(end, gradient);
                // A bias alone scales nothing: that spares a copy of the weights.
                let stored = stored.filter(|passage| passage.scale.iter().any(|s| *s != 1.0));
                let needed = stored.as_ref().filter(|_| self.tracked[&x]);
                let scaled = needed.map(|passage| {
                    let mut scaled = Buffer::from_slice(&weight);
                    scale_rows(&mut scaled, &passage.scale);
                    scaled
                });
                let weight = scaled.as_deref().unwrap_or(&weight);
                let mut dw = learns.is_some().then(|| self.room(shape.weight_len()));
                self.product(&shape, x, &source, weight, &g, dw.as_deref_mut());
                if let (Some(name), Some(mut dw)) = (learns, dw) {
                    if let Some(passage) = &stored {
                        scale_rows(&mut dw, &passage.scale);
                    }
                    self.learn(&name, dw);
                }
            }
            What::Passage(raw) => {
                let values = raw.map();
                let (mut g, stored) = self.end(End { raw, residual: None }, gradient);
                if let Some(passage) = stored {
                    let zeros = vec![0.0; passage.scale.len()];
                    affine_gradient(&mut g, &values.values, &passage.scale, &zeros, &zeros);
                }
                self.give(x, g);
            }
            What::Add { other, output, activation } => {
                let mut g = gradient.values;
                activation_gradient(&mut g, &output.values, activation);
                self.give(other, copy(&g));
                self.give_through(x, &source, g);
            }
            What::MaxPool { shape, indices } => {
                let mut dx = Buffer::stale(source.shape().iter().product());
                max_pool_gradient(&shape, &indices, &gradient.values, &mut dx);
                self.give_through(x, &source, dx);
            }
            What::MeanPool => {
                let [n, h, w, c] = source.shape();
                let mut dx = Buffer::stale(n * h * w * c);
                mean_pool_gradient(n, c, &gradient.values, &mut dx);
                self.give_through(x, &source, dx);
            }
            What::Dropout { mask } => {
                let mut g = gradient.values;
                g.iter_mut().zip(mask.iter()).for_each(|(g, m)| *g *= m);
                self.give(x, g);
            }
            What::Pass => self.give(x, gradient.values),
            What::Bend(curve) => {
                let mut g = gradient.values;
                let entered = enter_source(&source, None, kernels::Activation::Identity);
                kernels::bend_gradient(&mut g, &entered.values, curve);
                self.give_through(x, &source, g);
            }
            What::Single { layer, inputs, parameters, learns } => {
                let (ids, maps): (Vec<NodeId>, Vec<Map>) = inputs.into_iter().unzip();
                let (gradients, learned) =
                    single::backward(&layer, &maps, &parameters, gradient.values);
                for (name, values) in learns.into_iter().zip(learned) {
                    if let Some(name) = name {
                        self.learn(&name, values);
                    }
                }
                for (id, g) in ids.into_iter().zip(gradients) {
                    self.give(id, g);
                }
            }
        }
    }

    /// From the gradient of a step's output to that of its raw output. With stored statistics the
    /// norm's scale is left to whoever uses it: the passage comes along.
    fn end(&mut self, end: End, gradient: Gradient) -> (Buffer, Option<Arc<Passage>>) {
        let Gradient { values: mut g, mut sums } = gradient;
        if let Some((other, sum)) = end.residual {
            if sum.activation != kernels::Activation::Identity {
                activation_gradient(&mut g, &sum.map().values, sum.activation);
            }
            sums = None;
            if self.tracked[&other] {
                self.give(other, copy(&g));
            }
        }
        let raw = end.raw.map();
        let (Some(through), Some(passage)) = (end.raw.through(&raw), end.raw.passage.clone())
        else {
            return (g, None);
        };
        let idle = passage.activation == kernels::Activation::Identity && !passage.needs_sums();
        let sums = match sums {
            Some(sums) => sums,
            None if idle => return (g, Some(passage)),
            None => gradient_through(&mut g, through),
        };
        for (learner, name) in &passage.learns {
            self.learn(name, passage.learned(*learner, &sums));
        }
        if passage.by_batch {
            let [n, h, w, _] = raw.shape;
            passage.take_back(&mut g, &raw.values, &sums, n * h * w);
            return (g, None);
        }
        (g, Some(passage))
    }

    /// The gradients of a convolution: towards its weights where they are asked for, towards its
    /// input where that is of use.
    fn product(
        &mut self,
        shape: &ConvShape,
        x: NodeId,
        source: &Source,
        weight: &[f32],
        g: &[f32],
        mut dw: Option<&mut [f32]>,
    ) {
        let map = (dw.is_some() || source.passage.is_some()).then(|| source.map());
        let through = map.as_ref().and_then(|map| source.through(map));
        let at_once = shape.is_depthwise() && self.tracked[&x];
        if let (true, Some(dw), Some(through)) = (at_once, dw.as_deref_mut(), through) {
            let mut dx = Buffer::stale(shape.input_len());
            let sums = Some(depthwise::gradients(shape, weight, g, through, &mut dx, dw));
            self.gradients.insert(x, Gradient { values: dx, sums });
            return;
        }
        if let (Some(dw), Some(map)) = (dw, &map) {
            weight_gradient(shape, &map.values, source.entry(), g, dw);
        }
        if !self.tracked[&x] {
            return;
        }
        let mut dx = Buffer::stale(shape.input_len());
        match through {
            Some(through) => {
                let sums = Some(input_gradient_through(shape, weight, g, through, &mut dx));
                self.gradients.insert(x, Gradient { values: dx, sums });
            }
            None => {
                input_gradient(shape, weight, g, &mut dx);
                self.give(x, dx);
            }
        }
    }

    /// Gives a gradient to a node that was read through its passage.
    fn give_through(&mut self, id: NodeId, source: &Source, mut g: Buffer) {
        if !self.tracked[&id] {
            return;
        }
        let map = source.passage.is_some().then(|| source.map());
        match map.as_ref().and_then(|map| source.through(map)) {
            Some(through) => {
                let sums = Some(gradient_through(&mut g, through));
                self.gradients.insert(id, Gradient { values: g, sums });
            }
            None => self.give(id, g),
        }
    }

    /// Adds to a node's gradient.
    fn give(&mut self, id: NodeId, g: Buffer) {
        if !self.tracked[&id] {
            return;
        }
        match self.gradients.get_mut(&id) {
            Some(there) => kernels::accumulate(&mut there.values, &g),
            None => {
                self.gradients.insert(id, Gradient { values: g, sums: None });
            }
        }
    }

    /// Zeros for what a parameter learns, which outlast the way back. Maps go on the way: their
    /// memory is given back as large gradients take theirs; small ones cost less than fresh pages.
    fn room(&mut self, len: usize) -> Vec<f32> {
        const LARGE: usize = 1 << 21;
        let bytes = len * size_of::<f32>();
        if bytes >= LARGE {
            self.owed += bytes;
            self.owed -= kernels::release(self.owed);
        }
        vec![0.0; len]
    }

    fn learn(&mut self, name: &str, gradient: Vec<f32>) {
        match self.learned.get_mut(name) {
            Some(there) => there.iter_mut().zip(gradient).for_each(|(t, g)| *t += g),
            None => {
                self.learned.insert(name.to_owned(), gradient);
            }
        }
    }
}

fn copy(g: &Buffer) -> Buffer {
    Buffer::from_slice(g)
}

/// Multiplies each output channel's weights by its norm's scale.
fn scale_rows(weight: &mut [f32], scale: &[f32]) {
    let row = weight.len() / scale.len();
    for (row, scale) in weight.chunks_exact_mut(row).zip(scale) {
        row.iter_mut().for_each(|v| *v *= scale);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cpu::Precision;
    use crate::layer::{Activation, Divisor, LayerScale, LocalResponseNorm, Padding};
    use crate::training::Training;
    use crate::{Builder, Graph};

    /// Every layer there is, with maps read once and more often, norms behind convolutions and on
    /// their own, biases, residuals from plain maps and from norms.
    pub(crate) fn everything() -> Graph {
        let (mut g, x) = Builder::new("everything", Shape::map(3, 13, 11));
        let a = g.conv("a", x, Conv::k3(5).stride(2));
        let a = g.batch_norm("a_norm", a, BatchNorm::default());
        let a = g.activation("a_relu6", a, Activation::Relu6);
        let b = g.conv("b", a, Conv { bias: true, groups: 5, ..Conv::k3(5) });
        let b = g.batch_norm("b_norm", b, BatchNorm::default());
        let b = g.relu("b_relu", b);
        let c = g.conv("c", b, Conv { bias: true, ..Conv::k1(5) });
        let c = g.batch_norm("c_norm", c, BatchNorm::default());
        let skip = g.conv("skip", a, Conv::k1(5));
        let skip = g.batch_norm("skip_norm", skip, BatchNorm::default());
        let d = g.add("add", c, skip);
        let d = g.relu("d_relu", d);
        let e = g.batch_norm("e_norm", d, BatchNorm::default());
        let e = g.relu("e_relu", e);
        let e = g.max_pool("pool", e, Windows::new(3, 2).padded(1));
        let f = g.conv("f", e, Conv { bias: true, padding: Padding::Same, ..Conv::k3(4) });
        let f = g.activation("f_relu6", f, Activation::Relu6);
        let h = g.conv("h", e, Conv::k1(4));
        let s = g.add("sum", f, h);
        let s = g.dropout("drop_map", s, 0.3);
        let v = g.global_avg_pool("mean", s);
        let v = g.dropout("drop", v, 0.3);
        let v = g.linear("fc", v, 3);
        g.finish(v, "fc").unwrap()
    }

    /// Layers that run by themselves, of maps read once and more often, and activations that do more
    /// than clamp, behind norms, sums and nothing.
    pub(crate) fn everything_else() -> Graph {
        let (mut g, x) = Builder::new("everything else", Shape::map(3, 13, 11));
        let a = g.conv("a", x, Conv::k3(6).stride(2).biased());
        let a = g.batch_norm("a_norm", a, BatchNorm::default());
        let a = g.activation("a_silu", a, Activation::Silu);
        let response = LocalResponseNorm { size: 3, alpha: 0.2, beta: 0.75, k: 1.5 };
        let b = g.layer("response", Layer::LocalResponseNorm(response), &[a]);
        let b = g.layer("pad", Layer::Pad { rows: [-1, 2], columns: [1, 0] }, &[b]);
        let b = g.avg_pool("avg", b, Windows::new(3, 2).padded(1).ceil(), Divisor::Padded);
        let c = g.avg_pool("avg_same", a, Windows::new(3, 2).same(), Divisor::Inside);
        let c = g.conv("c", c, Conv::k1(6).biased());
        let c = g.activation("c_swish", c, Activation::HardSwish);
        let c = g.adaptive_avg_pool("c_size", c, 5);
        let b = g.adaptive_avg_pool("b_size", b, 5);
        let d = g.add("add", b, c);
        let d = g.activation("d_gelu", d, Activation::Gelu);
        let d = g.max_pool("pool", d, Windows::new(3, 2).same());
        let gate = g.adaptive_avg_pool("squeeze", d, 1);
        let gate = g.conv("gate_conv", gate, Conv::k1(6).biased());
        let gate = g.activation("gate_sigmoid", gate, Activation::Sigmoid);
        let e = g.gate("gated", d, gate);
        let left = g.slice("left", e, 0, 2);
        let right = g.slice("right", e, 2, 4);
        let right = g.conv("e", right, Conv::k3(4));
        let right = g.layer_norm("e_norm", right, 1e-6);
        let right = g.linear("e_linear", right, 5);
        let right = g.activation("e_tanh", right, Activation::Tanh);
        let right = g.linear("e_back", right, 4);
        let right = g.layer("e_scale", Layer::LayerScale(LayerScale { initial: 0.5 }), &[right]);
        let right = g.stochastic_depth("e_depth", right, 0.4);
        let e = g.concat("cat", &[right, left, e]);
        let e = g.layer("shuffle", Layer::Shuffle { groups: 3 }, &[e]);
        let e = g.layer("scale", Layer::Scale { factor: 0.7 }, &[e]);
        let e = g.max_pool("pool_ceil", e, Windows::new(2, 2).ceil());
        let v = g.flatten("flatten", e);
        let w = g.global_avg_pool("mean", a);
        let v = g.concat("vectors", &[v, w]);
        let v = g.layer_norm("v_norm", v, 1e-5);
        let v = g.activation("v_hard", v, Activation::HardSigmoid);
        let v = g.linear("fc", v, 3);
        let v = g.activation("v_gelu", v, Activation::GeluTanh);
        g.finish(v, "fc").unwrap()
    }

    /// A code and the way back from it, in a network whose output depends on both.
    pub(crate) fn decoder() -> Graph {
        let (mut g, x) = Builder::new("decoder", Shape::map(3, 13, 11));
        let a = g.conv("a", x, Conv::k3(5).stride(2).biased());
        let a = g.relu("a_relu", a);
        let v = g.flatten("flatten", a);
        let v = g.linear("code", v, 24);
        let b = g.unflatten("map", v, [3, 2]);
        let b = g.batch_norm("b_norm", b, BatchNorm::default());
        let b = g.relu("b_relu", b);
        let b = g.upsample("double", b, 2);
        let c = g.conv("c", b, Conv::k3(5).biased());
        let b = g.upsample("triple", c, 3);
        let b = g.layer("crop", Layer::Pad { rows: [-2, -1], columns: [-1, 0] }, &[b]);
        let b = g.conv("d", b, Conv::k3(2).biased());
        let c = g.global_avg_pool("c_mean", c);
        let b = g.flatten("pixels", b);
        let y = g.concat("cat", &[b, c, v]);
        let y = g.linear("fc", y, 3);
        g.finish(y, "fc").unwrap()
    }

    pub(crate) fn images(n: usize, device: &Device) -> Value {
        let value = |i: usize| ((i * 7919 % 1013) as f32 / 506.5 - 1.0) * 2.0;
        let values: Vec<f32> = (0..n * 3 * 13 * 11).map(value).collect();
        Value::Map(Tensor::from_data(TensorData::new(values, [n, 3, 13, 11]), device))
    }

    /// Norms and biases away from the ones and zeros they start with.
    pub(crate) fn shake(net: &mut Network) {
        let names: Vec<String> = net.parameters().keys().cloned().collect();
        for name in names.iter().filter(|n| !n.ends_with(".weight") || n.contains("norm")) {
            let mut values = net.parameters()[name].to_vec();
            for (i, v) in values.iter_mut().enumerate() {
                *v += 0.3 * ((i * 5 + name.len()) % 7) as f32 / 7.0;
            }
            net.set(name, tensor(values, &net.device().clone()));
        }
    }

    fn values(x: &Tensor<1>) -> Vec<f32> {
        x.to_data().iter::<f32>().collect()
    }

    fn assert_close(a: &[f32], b: &[f32], within: f32, what: &str) {
        assert_eq!(a.len(), b.len(), "{what}");
        let top = b.iter().fold(1e-3_f32, |top, v| top.max(v.abs()));
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= within * top, "{what}: {a} against {b}, of {top}");
        }
    }

    /// Logits, gradients and statistics equal those of Burn's operations and their derivatives.
    #[test]
    fn a_pass_equals_the_operations_on_tensors() {
        for graph in [everything(), everything_else(), decoder()] {
            compare_a_pass(graph, &[]);
        }
    }

    /// The same where a loss hears of other layers too: of each by itself, whatever reads it, and of
    /// the images, of which nothing is learned.
    #[test]
    fn a_tapped_pass_equals_the_operations_on_tensors() {
        for graph in [everything(), everything_else(), decoder()] {
            for id in graph.needed() {
                compare_a_pass(graph.clone(), &[id]);
            }
            compare_a_pass(graph.clone(), &Vec::from_iter(graph.needed()));
        }
    }

    /// Cubes: the squares of what a norm gives sum up to the same whatever came before it.
    fn cubed(value: &Value) -> Tensor<1> {
        match value {
            Value::Map(x) => x.clone().powi_scalar(3).sum(),
            Value::Vector(x) => x.clone().powi_scalar(3).sum(),
        }
    }

    fn compare_a_pass(graph: Graph, taps: &[NodeId]) {
        let device = Device::flex();
        // Gradients of several outputs cancel in part, which leaves fewer of their digits.
        let within = if taps.is_empty() { 1e-4 } else { 5e-4 };
        let mut net = Network::initialize(graph, 3, &device);
        shake(&mut net);
        for norms in [NormStatistics::Batch, NormStatistics::Stored] {
            let training = Training::tapped(&net, Precision::F32, taps);
            let options = TrainingOptions { norms, dropout_key: 5 };
            let run = |on_tensors: bool| {
                let boundary = training.run_frozen(images(3, &device).map());
                let mut pass = match on_tensors {
                    true => training.pass_on_tensors(&net, boundary, options),
                    false => training.pass(&net, boundary, options),
                };
                let mut loss = pass.logits.clone().powi_scalar(2).sum();
                for tap in &pass.taps {
                    loss = loss + cubed(tap) * 0.1;
                }
                let gradients = pass.gradients(&loss);
                let mut net = net.clone();
                pass.update_statistics(&mut net);
                let outputs = std::iter::once(Value::Vector(pass.logits)).chain(pass.taps);
                (outputs.map(|y| y.to_vec()).collect::<Vec<_>>(), gradients, net)
            };
            let (kernels, tensors) = (run(false), run(true));
            for (kernels, tensors) in kernels.0.iter().zip(&tensors.0) {
                assert_close(kernels, tensors, within, "outputs");
            }
            assert_eq!(kernels.1.len(), tensors.1.len());
            for (name, gradient) in &tensors.1 {
                // A bias before a batch's mean has no gradient but what rounding leaves.
                let batch = norms == NormStatistics::Batch;
                let before_norm = ["a.bias", "b.bias", "c.bias"].contains(&name.as_str());
                let is_rounding =
                    |gradient: &Tensor<1>| values(gradient).iter().all(|g| g.abs() < 1e-3);
                let has_norm = net.graph.find(&name.replace(".bias", "_norm")).is_ok();
                if batch && before_norm && has_norm && (taps.is_empty() || is_rounding(gradient)) {
                    assert!(is_rounding(gradient) && is_rounding(&kernels.1[name]), "{name}");
                    continue;
                }
                assert_close(&values(&kernels.1[name]), &values(gradient), within, name);
            }
            for (name, parameter) in kernels.2.parameters() {
                assert_close(
                    &parameter.to_vec(),
                    &tensors.2.parameters()[name].to_vec(),
                    within,
                    name,
                );
            }
        }
    }
}
