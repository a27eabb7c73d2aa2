//! Weights applied by name, with a full account.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::Hint;
use crate::graph::{Graph, is_under};
use crate::layer::ParameterSpec;
use crate::network::{Network, Parameter};
use crate::recognize::{list, recognize};
use crate::state_dict::StateDict;

/// Whether the head must fit too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWeights {
    /// Every parameter must be there in its shape.
    Required,
    /// The head will be replaced: it may be missing or of another shape.
    Optional,
}

/// What became of every name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Applied.
    pub applied: Vec<String>,
    /// In the network but not in the file.
    pub missing: Vec<String>,
    /// In the file but not in the network.
    pub unused: Vec<String>,
    /// In both, but of another shape: name, the network's, the file's.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Of classifiers half-way, and not in the file: they start fresh.
    pub fresh: Vec<String>,
    /// In the file, of classifiers half-way that the network does not have: left out.
    pub ignored: Vec<String>,
}

/// Why weights are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The weights are known to be another network's.
    #[error("the weights in {source_name} are those of {}, not of `{net}`", list(theirs))]
    Foreign {
        /// The network.
        net: String,
        /// Where the weights are from.
        source_name: String,
        /// The architectures whose weights they are.
        theirs: Vec<&'static str>,
    },
    /// The names or shapes are another network's.
    #[error("the weights in {source_name} are not {net}'s: {report}")]
    Other {
        /// The network.
        net: String,
        /// Where the weights are from.
        source_name: String,
        /// What fits and what does not.
        report: Box<LoadReport>,
    },
    /// A tensor that cannot be read as numbers.
    #[error("`{name}` in {source_name} cannot be read: {reason}")]
    Unreadable {
        /// The tensor.
        name: String,
        /// Where the weights are from.
        source_name: String,
        /// Why not.
        reason: String,
    },
    /// A tensor that holds NaN or infinity.
    #[error("`{name}` in {source_name} holds values that are not finite")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Where the weights are from.
        source_name: String,
    },
}

impl Hint for LoadError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Foreign { net, source_name, theirs } => {
                let theirs = theirs.first().unwrap_or(&"NAME");
                format!(
                    "weights belong to one architecture, but what a network learned can be taught \
                     to another: use these with `--backbone {theirs}`, or let {net} learn from \
                     them: `refit distill DATA --teacher {source_name} --student {net}`"
                )
            }
            Self::Other { net, report, .. } if report.looks_like_another_architecture() => format!(
                "weights belong to one architecture, but what a network learned can be taught to \
                 another: give weights of {net}, or let it learn from a model of refit's: \
                 `refit distill DATA --teacher MODEL --student {net}`"
            ),
            Self::Other { .. } => {
                "use the checkpoint of this very variant, or name its variant with --backbone"
                    .into()
            }
            Self::Unreadable { .. } => "save the checkpoint again as float32 safetensors".into(),
            Self::NotFinite { .. } => {
                "the training that wrote it diverged; use an earlier checkpoint".into()
            }
        })
    }
}

/// Classifiers half-way under their published names, which training adds and nobody else needs.
const HALFWAY: [&str; 3] = ["aux1", "aux2", "AuxLogits"];

/// Whether a tensor is of a classifier half-way, by its name.
pub(crate) fn classifies_halfway(name: &str) -> bool {
    HALFWAY.iter().any(|prefix| is_under(name, prefix))
}

impl LoadReport {
    /// What a user should know though the weights fit, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let blocks = |names: &[String]| {
            let first = |name: &String| name.split('.').next().unwrap_or_default().to_owned();
            let blocks: BTreeSet<String> = names.iter().map(first).collect();
            list(&blocks.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let mut notes = Vec::new();
        if !self.fresh.is_empty() {
            let fresh = blocks(&self.fresh);
            notes.push(format!("the weights hold no {fresh} (classifiers half-way): fresh ones"));
        }
        if !self.ignored.is_empty() {
            let ignored = blocks(&self.ignored);
            notes.push(format!("{ignored} of the weights (classifiers half-way) left out"));
        }
        notes
    }

    /// Whether fewer than half of the network's parameters were found.
    fn looks_like_another_architecture(&self) -> bool {
        self.applied.len() < self.missing.len() + self.mismatched.len()
    }

    fn fits(&self, head: HeadWeights, head_name: &str) -> bool {
        let forgiven = |name: &String| head == HeadWeights::Optional && is_under(name, head_name);
        self.missing.iter().all(forgiven)
            && self.unused.iter().all(forgiven)
            && self.mismatched.iter().all(|(name, ..)| forgiven(name))
    }
}

impl LoadReport {
    /// What does not fit, the first few names each: `, 2 missing (a, b)`.
    pub(crate) fn differences(&self) -> String {
        let list = |what: &str, names: &[String]| match names.len() {
            0 => String::new(),
            n => {
                let more = if n > 3 { ", ..." } else { "" };
                format!(", {n} {what} ({}{more})", names[..n.min(3)].join(", "))
            }
        };
        let shape = |(name, ours, theirs): &(String, Vec<usize>, Vec<usize>)| {
            format!("{name}: {theirs:?} instead of {ours:?}")
        };
        let shapes: Vec<String> = self.mismatched.iter().map(shape).collect();
        list("missing", &self.missing)
            + &list("unused", &self.unused)
            + &list("of another shape", &shapes)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} applied{}", self.applied.len(), self.differences())
    }
}

impl Network {
    /// Applies weights by name; a network without the head's weights keeps what its head has.
    ///
    /// # Errors
    /// If anything is missing, unused or of another shape (the head apart, where it is
    /// [`HeadWeights::Optional`]), or a value is not finite; `self` is as it was then.
    pub fn load(&mut self, state: &StateDict, head: HeadWeights) -> Result<LoadReport, LoadError> {
        let specs = self.specs();
        let report = compare(&self.graph, &specs, state);
        if !report.fits(head, self.graph.head()) {
            return Err(misfit(&self.graph, state, report));
        }
        let mut loaded = Vec::with_capacity(report.applied.len());
        for name in &report.applied {
            loaded.push((name.clone(), self.read(state, name, &specs[name])?));
        }
        for (name, parameter) in loaded {
            self.parameters.insert(name, parameter);
        }
        Ok(report)
    }

    fn read(
        &self,
        state: &StateDict,
        name: &str,
        spec: &ParameterSpec,
    ) -> Result<Parameter, LoadError> {
        let source_name = || state.source().to_owned();
        let values = state.get_f32(name).map_err(|e| LoadError::Unreadable {
            name: name.to_owned(),
            source_name: source_name(),
            reason: e.to_string(),
        })?;
        if !values.iter().all(|v| v.is_finite()) {
            return Err(LoadError::NotFinite { name: name.to_owned(), source_name: source_name() });
        }
        Ok(Parameter::new(spec, values, self.device()))
    }
}

/// Names the architecture whose weights these are instead, if it is known.
fn misfit(graph: &Graph, state: &StateDict, report: LoadReport) -> LoadError {
    let (net, source_name) = (graph.name().to_owned(), state.source().to_owned());
    let theirs = recognize(state).map_or_else(|_| Vec::new(), |found| found.candidates);
    let theirs: Vec<&str> = theirs.iter().map(|a| a.name).collect();
    match theirs.is_empty() || theirs.contains(&graph.name()) {
        true => LoadError::Other { net, source_name, report: Box::new(report) },
        false => LoadError::Foreign { net, source_name, theirs },
    }
}

fn compare(
    graph: &Graph,
    specs: &BTreeMap<String, ParameterSpec>,
    state: &StateDict,
) -> LoadReport {
    let mut report = LoadReport::default();
    let halfway = halfway(graph);
    for (name, spec) in specs {
        match state.get(name) {
            Some(entry) if entry.shape() == spec.shape.as_slice() => {
                report.applied.push(name.clone());
            }
            _ if halfway.contains(name) => report.fresh.push(name.clone()),
            None => report.missing.push(name.clone()),
            Some(entry) => {
                let theirs = entry.shape().to_vec();
                report.mismatched.push((name.clone(), spec.shape.clone(), theirs));
            }
        }
    }
    let known = |name: &str| specs.contains_key(name) || StateDict::is_counter(name);
    let left = state.names().filter(|n| !known(n)).map(str::to_owned);
    (report.ignored, report.unused) = left.partition(|name| classifies_halfway(name));
    report
}

/// The parameters that only classifiers half-way need.
fn halfway(graph: &Graph) -> BTreeSet<String> {
    let needed = graph.needed();
    let nodes = (0..graph.nodes().len()).filter(|id| !needed.contains(id));
    let specs = nodes.flat_map(|id| graph.parameters(id).into_iter().map(move |p| (id, p.suffix)));
    specs.map(|(id, suffix)| graph.parameter_name(id, suffix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recognize::tests::{tensors_of, zeros};
    use crate::zoo;

    fn load(name: &str, tensors: &[(String, Vec<usize>)]) -> Result<LoadReport, LoadError> {
        let graph = zoo::find(name).unwrap().graph();
        let device = Default::default();
        Network::with_weights_reported(graph, &zeros(tensors), HeadWeights::Required, 0, &device)
            .map(|(_, report)| report)
    }

    fn tensors(name: &str) -> Vec<(String, Vec<usize>)> {
        tensors_of(&zoo::find(name).unwrap().graph())
    }

    #[test]
    fn classifiers_half_way_may_be_missing() {
        let mut without = tensors("googlenet");
        let all = without.len();
        without.retain(|(name, _)| !classifies_halfway(name));
        let report = load("googlenet", &without).unwrap();
        assert_eq!(report.fresh.len(), all - without.len());
        assert_eq!(
            report.notes(),
            ["the weights hold no `aux1` and `aux2` (classifiers half-way): fresh ones"]
        );
    }

    #[test]
    fn classifiers_half_way_may_be_left_over() {
        let mut with = tensors("shufflenet_v2_x0_5");
        with.push(("AuxLogits.fc.weight".into(), vec![1000, 768]));
        let report = load("shufflenet_v2_x0_5", &with).unwrap();
        assert_eq!(report.ignored, ["AuxLogits.fc.weight"]);
        assert_eq!(report.notes(), ["`AuxLogits` of the weights (classifiers half-way) left out"]);
    }

    #[test]
    fn weights_of_another_architecture_are_named() {
        let error = load("resnet18", &tensors("vgg16")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights in x.pth are those of `vgg16`, not of `resnet18`"
        );
        let hint = error.hint().unwrap();
        assert!(hint.contains("`--backbone vgg16`"), "{hint}");
        assert!(hint.contains("`refit distill DATA --teacher x.pth --student resnet18`"), "{hint}");
    }

    #[test]
    fn weights_of_no_known_architecture_say_what_is_missing() {
        let error = load("resnet18", &[("encoder.w".into(), vec![2])]).unwrap_err();
        assert!(error.to_string().contains("0 applied, 102 missing"), "{error}");
        assert!(error.hint().unwrap().contains("refit distill"));
        let mut other_head = tensors("squeezenet1_1");
        other_head.last_mut().unwrap().1 = vec![7];
        let error = load("squeezenet1_1", &other_head).unwrap_err();
        assert!(error.to_string().contains("1 of another shape (classifier.1.bias"), "{error}");
        assert!(error.hint().unwrap().contains("this very variant"));
    }
}
