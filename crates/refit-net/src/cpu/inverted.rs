//! Inverted residuals as one step (Sandler et al. 2018, <https://arxiv.org/abs/1801.04381>).

use refit_kernels::{BlockStages, Buffer, InvertedResidual, InvertedShape, Stage, bf16};

use super::half::{HalfMap, Held};
use super::map::{Floats, Map};
use super::program::nominal;
use super::{Precision, conv_shape, parted};
use crate::frozen::folded_conv;
use crate::graph::NodeId;
use crate::layer::{Conv, Layer};
use crate::network::Network;
use crate::plan::{Plan, Step};

/// Convolutions that run as one.
#[derive(Debug)]
pub(super) struct Inverted {
    convs: Convs,
    block: Block,
}

#[derive(Debug)]
enum Block {
    Full(InvertedResidual),
    Half(bf16::InvertedResidual),
}

impl Inverted {
    /// `project(filter(expand(x))) + residual`, each that there is with its shift and activation.
    pub(super) fn run(&self, x: &Held, residual: Option<&Held>) -> Held {
        match &self.block {
            Block::Full(block) => {
                let (x, residual) = (x.full(), residual.map(Held::full));
                let shape = self.convs.shape(x.shape);
                let mut y = Buffer::stale(shape.output_len());
                block.run(&shape, &x.values, residual.as_ref().map(|r| &r.values[..]), &mut y);
                Held::Full(Map::new(out_shape(&shape), y))
            }
            Block::Half(block) => {
                let (x, residual) = (x.half(), residual.map(Held::half));
                let shape = self.convs.shape(x.shape);
                let mut y = bf16::Buffer::stale(shape.output_len());
                block.run(&shape, &x.values, residual.as_ref().map(|r| &r.values[..]), &mut y);
                Held::Half(HalfMap::new(out_shape(&shape), y))
            }
        }
    }
}

fn out_shape(shape: &InvertedShape) -> [usize; 4] {
    let [h, w] = shape.depthwise.out_size();
    [shape.depthwise.batch, h, w, shape.out_channels]
}

/// A convolution that expands, a depthwise one, and a 1x1 one that projects; one of the outer ones may
/// be missing.
#[derive(Debug, Clone, Copy)]
struct Convs {
    /// If there is none, the input is filtered as it is.
    expand: Option<Conv>,
    depthwise: Conv,
    /// If there is none, the filtered map is the output.
    project: Option<Conv>,
}

/// Input channels of an expansion that is not 1x1: colours. With more, other algorithms are faster.
const COLOURS: usize = 4;

impl Convs {
    fn new(convs: &[Conv]) -> Option<Self> {
        match *convs {
            [expand, depthwise] if depthwise.groups > 1 => {
                Some(Self { expand: Some(expand), depthwise, project: None })
            }
            [depthwise, project] => Some(Self { expand: None, depthwise, project: Some(project) }),
            [expand, depthwise, project] => {
                Some(Self { expand: Some(expand), depthwise, project: Some(project) })
            }
            _ => None,
        }
    }

    /// The block over maps `[n, h, w, c]`.
    fn shape(&self, maps: [usize; 4]) -> InvertedShape {
        let expand = self.expand.map(|conv| conv_shape(&conv, maps));
        let maps = expand.map_or(maps, |e| {
            let [h, w] = e.out_size();
            [e.batch, h, w, e.out_channels]
        });
        let depthwise = conv_shape(&self.depthwise, maps);
        let out_channels = self.project.map_or(depthwise.channels, |project| project.channels);
        InvertedShape { expand, depthwise, out_channels }
    }

    /// Whether they are such a block, and run faster as one.
    fn pay(&self, maps: [usize; 4]) -> bool {
        let shape = self.shape(maps);
        let [n, h, w, _] = out_shape(&shape);
        let maps = [n, h, w, shape.depthwise.channels];
        let projects = self.project.is_none_or(|project| conv_shape(&project, maps).is_pointwise());
        let expands = shape
            .expand
            .is_none_or(|e| e.is_pointwise() || (e.groups == 1 && e.channels <= COLOURS));
        expands && shape.depthwise.is_depthwise() && projects && shape.pays()
    }
}

/// A block at the beginning of some steps.
#[derive(Debug)]
pub(super) struct Found {
    pub inverted: Inverted,
    /// What replaces the steps, and how many they are.
    pub step: Step,
    pub steps: usize,
    /// The node it reads.
    pub input: NodeId,
}

/// Looks for blocks in a plan.
pub(super) struct Search<'a> {
    pub net: &'a Network,
    pub plan: &'a Plan,
    pub wanted: &'a [NodeId],
    pub precision: Precision,
}

impl Search<'_> {
    /// The block that `steps` begin with, if it is faster in one than layer by layer.
    pub(super) fn at(&self, steps: &[Step]) -> Option<Found> {
        [3, 2].into_iter().find_map(|count| self.block(steps.get(..count)?))
    }

    /// Two or three steps as one.
    fn block(&self, steps: &[Step]) -> Option<Found> {
        let (last, inner) = steps.split_last()?;
        let connected = steps.windows(2).all(|pair| self.follows(&pair[0], &pair[1]));
        if !connected || inner.iter().any(|step| step.residual.is_some()) {
            return None;
        }
        let convs: Option<Vec<Conv>> = steps.iter().map(|step| self.conv(step)).collect();
        let convs = Convs::new(&convs?)?;
        let clamps = steps.iter().all(|step| step.activation.clamps());
        let whole = convs.project.is_some();
        if self.precision == Precision::Bf16 && !(clamps && whole) {
            return None;
        }
        if last.residual.is_some() && !whole {
            return None;
        }
        let nodes = self.net.graph.nodes();
        let input = nodes[steps[0].main].inputs[0];
        let maps = nominal(Some(nodes[input].shape));
        if !convs.pay(maps) {
            return None;
        }
        let step = Step {
            main: steps[0].main,
            layers: steps.iter().flat_map(|s| s.layers.iter().copied()).collect(),
            last_uses: steps.iter().flat_map(|s| s.last_uses.iter().copied()).collect(),
            ..last.clone()
        };
        let block = self.pack(steps, &convs, &convs.shape(maps));
        let inverted = Inverted { convs, block };
        Some(Found { inverted, step, steps: steps.len(), input })
    }

    fn conv(&self, step: &Step) -> Option<Conv> {
        match self.net.graph.nodes()[step.main].layer {
            Layer::Conv(conv) => Some(conv),
            _ => None,
        }
    }

    /// Whether `b` reads `a`'s output, and nothing else does.
    fn follows(&self, a: &Step, b: &Step) -> bool {
        let inputs = self.plan.steps.iter().flat_map(|s| s.inputs(&self.net.graph));
        let reads = inputs.filter(|&i| i == a.output).count();
        self.net.graph.nodes()[b.main].inputs == [a.output]
            && reads == 1
            && !self.wanted.contains(&a.output)
    }

    fn pack(&self, steps: &[Step], convs: &Convs, shape: &InvertedShape) -> Block {
        let folded: Vec<(Floats, Floats)> = steps
            .iter()
            .map(|step| folded_conv(self.net, step.main, step.norm))
            .map(|(weight, shift)| (Floats::of(weight), Floats::of(shift)))
            .collect();
        let folded = steps.iter().zip(&folded);
        let stages = folded.map(|(step, fold)| (parted(step.activation), fold));
        let mut stages = stages.map(|((activation, curve), (weight, shift))| Stage {
            weight,
            shift: Some(shift),
            activation,
            curve,
        });
        let mut next = || stages.next().expect("a stage for each convolution");
        let stages = BlockStages {
            expand: convs.expand.map(|_| next()),
            depthwise: next(),
            project: convs.project.map(|_| next()),
        };
        match self.precision {
            Precision::F32 => Block::Full(InvertedResidual::new(shape, stages)),
            Precision::Bf16 => Block::Half(bf16::InvertedResidual::new(shape, stages)),
        }
    }
}
