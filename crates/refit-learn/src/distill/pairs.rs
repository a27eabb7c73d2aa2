//! Which layers of a student learn from which of its teacher's.

use refit_net::{Branch, Conv, Graph, GraphError, Layer, Linear, Network, NodeId, Shape};

use super::Distillation;
use crate::error::LearnError;

/// What names of adapters begin with.
const ADAPTER: &str = "distillation.";

/// Stages are alike whose maps differ in their resolution by no more than this factor.
const ALIKE: f64 = 1.5;

/// Maps of a higher resolution than this share of the image's show edges, not things.
const FINEST: f64 = 0.3;

/// What is compared at a pair of layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum What {
    /// Where maps are strong, at this size.
    Attention([usize; 2]),
    /// Values at this size, brought to the teacher's channels by an adapter.
    MapHint([usize; 2]),
    /// Vectors, brought to the teacher's length by an adapter.
    VectorHint,
    /// How vectors of a batch lie to each other.
    Relations,
}

/// A pair of layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    pub what: What,
    pub student: NodeId,
    pub teacher: NodeId,
    /// Values of the teacher's that one image gives.
    pub len: usize,
}

/// A graph at its own size of images.
#[derive(Clone, Copy)]
pub(crate) struct Sized<'a> {
    pub graph: &'a Graph,
    pub size: usize,
}

/// The last map of a resolution.
struct Stage {
    node: NodeId,
    size: [usize; 2],
    /// Its height as a share of the image's.
    share: f64,
}

impl Sized<'_> {
    fn shapes(self) -> Result<Vec<Shape>, GraphError> {
        self.graph.shapes_at(self.size, self.size)
    }

    /// The last map of each resolution, the finest first.
    fn stages(self) -> Result<Vec<Stage>, GraphError> {
        let shapes = self.shapes()?;
        let mut stages: Vec<Stage> = Vec::new();
        for node in self.graph.needed() {
            let Shape::Map { height, width, .. } = shapes[node] else { continue };
            if height.min(width) < 2 {
                continue;
            }
            let share = height as f64 / self.size as f64;
            let stage = Stage { node, size: [height, width], share };
            match stages.iter_mut().find(|there| there.size == stage.size) {
                Some(there) => *there = stage,
                None => stages.push(stage),
            }
        }
        Ok(stages)
    }
}

/// All pairs of a student and a teacher.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pairs(pub Vec<Pair>);

impl Pairs {
    /// What the settings ask for.
    pub fn of(settings: &Distillation, student: Sized, teacher: Sized) -> Result<Self, LearnError> {
        let (shapes, theirs) = (student.shapes()?, teacher.shapes()?);
        let stages = stages_alike(student, teacher)?;
        let features = (student.graph.features(), teacher.graph.features());
        let mut pairs = Vec::new();
        if settings.attention > 0.0 {
            if stages.is_empty() {
                let (name, value) = ("--attention", settings.attention.to_string());
                let range = "0 for these two networks, whose maps have no resolution in common";
                return Err(LearnError::Setting { name, value, range });
            }
            pairs.extend(stages.iter().map(|(ours, other)| {
                let size = smaller(ours.size, other.size);
                let len = size[0] * size[1];
                let what = What::Attention(size);
                Pair { what, student: ours.node, teacher: other.node, len }
            }));
        }
        if settings.hints > 0.0 {
            let mut asked = Vec::new();
            for [ours, other] in &settings.hint_layers {
                asked.push((student.graph.find(ours)?, teacher.graph.find(other)?));
            }
            if asked.is_empty() {
                asked.extend(stages.last().map(|(ours, other)| (ours.node, other.node)));
                asked.push(features);
            }
            for (ours, other) in asked {
                let pair = hinted(ours, shapes[ours], other, theirs[other]);
                pairs.push(pair.ok_or_else(|| LearnError::UnlikeHint {
                    student: student.graph.nodes()[ours].name.clone(),
                    teacher: teacher.graph.nodes()[other].name.clone(),
                })?);
            }
        }
        if settings.relational > 0.0 {
            let (ours, other) = features;
            let len = theirs[other].channels();
            pairs.push(Pair { what: What::Relations, student: ours, teacher: other, len });
        }
        Ok(Self(pairs))
    }

    /// The student with an adapter for each hint.
    pub fn with_adapters(
        &self,
        student: &Network,
        teacher: &Graph,
        seed: u64,
    ) -> Result<Network, LearnError> {
        let adapter = |(number, pair): (usize, &Pair)| {
            let channels = teacher.nodes()[pair.teacher].shape.channels();
            let layer = match pair.what {
                What::MapHint(_) => Layer::Conv(Conv { bias: true, ..Conv::k1(channels) }),
                What::VectorHint => Layer::Linear(Linear::new(channels)),
                What::Attention(_) | What::Relations => return None,
            };
            Some(Branch { name: format!("{ADAPTER}{number}"), from: pair.student, layer })
        };
        let branches: Vec<Branch> = self.0.iter().enumerate().filter_map(adapter).collect();
        Ok(student.with_branches(&branches, seed)?)
    }

    /// The layers of a student with adapters that pairs compare, in their order.
    pub fn taps(&self, student: &Graph) -> Vec<NodeId> {
        let tap = |(number, pair): (usize, &Pair)| match pair.what {
            What::MapHint(_) | What::VectorHint => {
                student.find(&format!("{ADAPTER}{number}")).unwrap_or(pair.student)
            }
            What::Attention(_) | What::Relations => pair.student,
        };
        self.0.iter().enumerate().map(tap).collect()
    }
}

/// The student without its adapters.
pub(crate) fn without_adapters(student: &Network) -> Result<Network, LearnError> {
    let nodes = student.graph().nodes().iter().map(|node| node.name.as_str());
    let names: Vec<&str> = nodes.filter(|name| name.starts_with(ADAPTER)).collect();
    Ok(student.without_branches(&names)?)
}

/// Each stage of the student with the teacher's that is most like it, as far as there is one.
fn stages_alike(student: Sized, teacher: Sized) -> Result<Vec<(Stage, Stage)>, GraphError> {
    let mut others = teacher.stages()?;
    let mut pairs = Vec::new();
    for stage in student.stages()?.into_iter().filter(|stage| stage.share <= FINEST) {
        let ratio = |other: &Stage| (other.share / stage.share).ln().abs();
        let nearest = others.iter().enumerate().min_by(|a, b| ratio(a.1).total_cmp(&ratio(b.1)));
        if let Some((position, _)) = nearest.filter(|(_, other)| ratio(other) <= ALIKE.ln()) {
            pairs.push((stage, others.remove(position)));
        }
    }
    Ok(pairs)
}

fn smaller(a: [usize; 2], b: [usize; 2]) -> [usize; 2] {
    [a[0].min(b[0]), a[1].min(b[1])]
}

/// A hint between two maps or two vectors.
fn hinted(student: NodeId, ours: Shape, teacher: NodeId, other: Shape) -> Option<Pair> {
    let (what, len) = match (ours, other) {
        (Shape::Map { height, width, .. }, Shape::Map { height: h, width: w, channels }) => {
            let size = smaller([height, width], [h, w]);
            (What::MapHint(size), channels * size[0] * size[1])
        }
        (Shape::Vector { .. }, Shape::Vector { features }) => (What::VectorHint, features),
        _ => return None,
    };
    Some(Pair { what, student, teacher, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use refit_net::zoo;

    fn sized(name: &str) -> (Graph, usize) {
        let architecture = zoo::find(name).unwrap();
        (architecture.graph(), architecture.input.size)
    }

    #[test]
    fn stages_of_any_two_networks_find_each_other() {
        let (teacher, size) = sized("efficientnet_lite0");
        let teacher = Sized { graph: &teacher, size };
        for (name, stages) in [
            ("resnet18", 3),
            ("alexnet", 3),
            ("googlenet", 3),
            ("mobilenet_v2", 3),
            ("vgg11", 3),
            ("inception_v4", 3),
            ("lenet5", 0),
        ] {
            let (student, size) = sized(name);
            let student = Sized { graph: &student, size };
            let pairs = stages_alike(student, teacher).unwrap();
            assert!(pairs.len() >= stages, "{name}: {}", pairs.len());
            for (ours, other) in pairs {
                assert!((ours.share / other.share).ln().abs() <= ALIKE.ln(), "{name}");
            }
        }
    }

    #[test]
    fn adapters_come_and_go() {
        let (teacher, size) = sized("efficientnet_lite0");
        let architecture = zoo::find("resnet18").unwrap();
        let student = architecture.random(0, &Device::flex());
        let settings = Distillation {
            hints: 1.0,
            attention: 1.0,
            relational: 1.0,
            ..Distillation::of(vec![])
        };
        let ours = Sized { graph: student.graph(), size: 224 };
        let pairs = Pairs::of(&settings, ours, Sized { graph: &teacher, size }).unwrap();
        let hints =
            pairs.0.iter().filter(|p| matches!(p.what, What::MapHint(_) | What::VectorHint));
        assert_eq!(hints.count(), 2);
        let with = pairs.with_adapters(&student, &teacher, 1).unwrap();
        let taps = pairs.taps(with.graph());
        assert_eq!(taps.len(), pairs.0.len());
        let last = with.graph().nodes()[*taps.iter().max().unwrap()].shape;
        assert_eq!(last, Shape::vector(1280));
        assert_eq!(without_adapters(&with).unwrap().graph(), student.graph());
        let named = Distillation {
            hint_layers: vec![["layer3".into(), "blocks.5".into()]],
            attention: 0.0,
            relational: 0.0,
            ..settings.clone()
        };
        let pairs = Pairs::of(&named, ours, Sized { graph: &teacher, size }).unwrap();
        assert_eq!(pairs.0.len(), 1);
        let wrong = Distillation { hint_layers: vec![["fc".into(), "blocks.5".into()]], ..named };
        let error = Pairs::of(&wrong, ours, Sized { graph: &teacher, size }).unwrap_err();
        assert!(error.to_string().contains("`fc`"), "{error}");
    }
}
