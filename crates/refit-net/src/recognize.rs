//! Which of the zoo's architectures weights belong to, by the names and shapes of the parameters.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::error::Hint;
use crate::graph::{Graph, GraphError, is_under};
use crate::layer::Layer;
use crate::load::{LoadReport, classifies_halfway};
use crate::state_dict::StateDict;
use crate::zoo::{self, Architecture};

/// What weights show of the network they belong to.
#[derive(Debug, Clone)]
pub struct Recognized {
    /// The architectures that have these parameters; several where they differ in nothing that
    /// weights show, such as the size of the images.
    pub candidates: Vec<&'static Architecture>,
    /// How many classes the head tells apart; none where it is not among the weights.
    pub classes: Option<usize>,
    /// Channels of the images that the first convolution takes.
    pub channels: usize,
    source: String,
}

/// Why it is not known whose weights these are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecognizeError {
    /// No architecture has these parameters.
    #[error("the weights in `{file}` are of no network that refit knows{}", nearest_in_words(.nearest))]
    Unknown {
        /// The file.
        file: String,
        /// The architecture that shares most with them, and what fits and what does not.
        nearest: Option<(&'static str, Box<LoadReport>)>,
    },
    /// Several architectures have these parameters.
    #[error("the weights in `{file}` fit {}: what differs does not show in weights ({difference})",
            list(.candidates))]
    Ambiguous {
        /// The file.
        file: String,
        /// The architectures.
        candidates: Vec<&'static str>,
        /// What differs.
        difference: String,
    },
}

impl Hint for RecognizeError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown { .. } => {
                "give weights of a network that `refit models` lists, under the names of its \
                 column `names as in`, or a model that refit made"
                    .into()
            }
            Self::Ambiguous { candidates, .. } => {
                format!("say which: --backbone {}", candidates.first().unwrap_or(&"NAME"))
            }
        })
    }
}

fn nearest_in_words(nearest: &Option<(&'static str, Box<LoadReport>)>) -> String {
    match nearest {
        None => ": none shares a parameter's name with them".into(),
        Some((name, report)) => {
            let all = report.applied.len() + report.missing.len() + report.mismatched.len();
            let n = report.applied.len();
            let differences = report.differences();
            format!("; the nearest is `{name}`: {n} of its {all} parameters fit{differences}")
        }
    }
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".into(),
    }
}

/// The parameters by which an architecture is known: all but those of heads, which a task of its
/// own may have replaced.
struct Signature {
    architecture: &'static Architecture,
    body: BTreeMap<String, Vec<usize>>,
    head: String,
    /// The weight of the head's last layer.
    classifier: Option<String>,
    /// The weights that take the images.
    stem: Vec<String>,
    channels: usize,
}

static SIGNATURES: LazyLock<Vec<Signature>> =
    LazyLock::new(|| zoo::all().map(Signature::of).collect());

impl Signature {
    fn of(architecture: &'static Architecture) -> Self {
        let graph = architecture.graph();
        let needed = graph.needed();
        let body = needed.iter().filter(|&&id| !graph.is_head(id));
        let specs = body.flat_map(|&id| graph.parameters(id).into_iter().map(move |p| (id, p)));
        let weight = |id| graph.parameter_name(id, "weight");
        Self {
            architecture,
            body: specs.map(|(id, p)| (graph.parameter_name(id, p.suffix), p.shape)).collect(),
            head: graph.head().to_owned(),
            classifier: graph.classifier().map(weight),
            stem: graph.stem().into_iter().map(weight).collect(),
            channels: graph.input_shape().channels(),
        }
    }

    fn compare(&self, state: &StateDict) -> LoadReport {
        let mut report = LoadReport::default();
        for (name, shape) in &self.body {
            match state.get(name).map(|entry| entry.shape()) {
                None => report.missing.push(name.clone()),
                Some(theirs) if theirs == shape || self.is_adapted(name, shape, theirs) => {
                    report.applied.push(name.clone());
                }
                Some(theirs) => {
                    report.mismatched.push((name.clone(), shape.clone(), theirs.to_vec()));
                }
            }
        }
        let known = |name: &str| {
            self.body.contains_key(name)
                || is_under(name, &self.head)
                || StateDict::is_counter(name)
                || classifies_halfway(name)
        };
        report.unused = state.names().filter(|name| !known(name)).map(str::to_owned).collect();
        report
    }

    /// Whether a weight differs in the channels of the images alone.
    fn is_adapted(&self, name: &str, ours: &[usize], theirs: &[usize]) -> bool {
        self.stem.iter().any(|stem| stem == name)
            && matches!((ours, theirs), ([a, _, b @ ..], [c, n, d @ ..]) if a == c && b == d && *n > 0)
    }

    /// The rows of the head, where it is there.
    fn classes(&self, state: &StateDict) -> Option<usize> {
        let rows = |name: &str| match state.get(name)?.shape() {
            [rows, _, ..] => Some(*rows),
            _ => None,
        };
        let named = self.classifier.as_deref().and_then(rows);
        let under = state.names().filter(|name| is_under(name, &self.head));
        named.or_else(|| under.filter_map(rows).last())
    }

    fn channels(&self, state: &StateDict) -> usize {
        let theirs = self.stem.first().and_then(|stem| state.get(stem)?.shape().get(1).copied());
        theirs.unwrap_or(self.channels)
    }
}

/// Finds the architectures whose parameters these are, heads apart.
///
/// # Errors
/// If there is none, with the nearest and what differs.
pub fn recognize(state: &StateDict) -> Result<Recognized, RecognizeError> {
    let reports: Vec<_> = SIGNATURES.iter().map(|s| (s, s.compare(state))).collect();
    let fits =
        |r: &LoadReport| r.missing.is_empty() && r.mismatched.is_empty() && r.unused.is_empty();
    let fitting: Vec<&Signature> =
        reports.iter().filter(|(_, r)| fits(r)).map(|(s, _)| *s).collect();
    let file = state.source().to_owned();
    if let Some(first) = fitting.first() {
        return Ok(Recognized {
            candidates: fitting.iter().map(|s| s.architecture).collect(),
            classes: first.classes(state),
            channels: first.channels(state),
            source: file,
        });
    }
    // Jaccard's index: what both have, of what either has.
    let share = |r: &LoadReport| {
        let differ = r.missing.len() + 2 * r.mismatched.len() + r.unused.len();
        r.applied.len() as f64 / (r.applied.len() + differ).max(1) as f64
    };
    let nearest = reports
        .into_iter()
        .filter(|(_, r)| !r.applied.is_empty())
        .max_by(|(_, a), (_, b)| share(a).total_cmp(&share(b)));
    let nearest = nearest.map(|(s, report)| (s.architecture.name, Box::new(report)));
    Err(RecognizeError::Unknown { file, nearest })
}

impl Recognized {
    /// The architecture, if weights show which.
    ///
    /// # Errors
    /// If several have these parameters.
    pub fn only(&self) -> Result<&'static Architecture, RecognizeError> {
        match self.candidates.as_slice() {
            [only] => Ok(only),
            several => Err(RecognizeError::Ambiguous {
                file: self.source.clone(),
                candidates: several.iter().map(|a| a.name).collect(),
                difference: self.difference(),
            }),
        }
    }

    /// Where the first two candidates differ, in words; empty if there is one.
    pub fn difference(&self) -> String {
        match self.candidates.as_slice() {
            [a, b, ..] => difference(&a.graph(), &b.graph()),
            _ => String::new(),
        }
    }
}

/// The first layer in which two graphs differ.
fn difference(a: &Graph, b: &Graph) -> String {
    let differs = a.nodes().iter().zip(b.nodes()).find(|(x, y)| x.shape != y.shape || x != y);
    let Some((x, y)) = differs else { return "more layers without parameters".into() };
    let (of_a, of_b) = (a.name(), b.name());
    match &x.layer {
        _ if x.shape == y.shape || x.name != y.name => format!("from `{}` on", x.name),
        Layer::Input { .. } => {
            format!("images of {} in `{of_a}`, of {} in `{of_b}`", x.shape, y.shape)
        }
        _ => format!("`{}` gives {} in `{of_a}`, {} in `{of_b}`", x.name, x.shape, y.shape),
    }
}

impl Architecture {
    /// The graph for weights of this architecture: with the channels of the images and, where
    /// `classes` says so, the number of classes that they show.
    ///
    /// # Errors
    /// If no such graph can be, as with a head of no rows.
    pub fn graph_for(&self, state: &StateDict, classes: Classes) -> Result<Graph, GraphError> {
        let graph = self.graph();
        let Some(signature) = SIGNATURES.iter().find(|s| s.architecture.name == self.name) else {
            return Ok(graph);
        };
        let channels = signature.channels(state);
        let graph = match channels == signature.channels || channels == 0 {
            true => graph,
            false => graph.with_channels(channels)?,
        };
        match (classes, signature.classes(state)) {
            (Classes::AsStored, Some(n)) => graph.with_classes(n),
            _ => Ok(graph),
        }
    }
}

/// How many classes a graph for stored weights has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classes {
    /// As many as the architecture's published weights.
    AsPublished,
    /// As many as the head among the weights has rows.
    AsStored,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    /// Zeros of these names and shapes, in a file that takes no room on the disk.
    pub(crate) fn zeros(tensors: &[(String, Vec<usize>)]) -> StateDict {
        let mut end = 0;
        let entries = tensors.iter().map(|(name, shape)| {
            let begin = end;
            end += 4 * shape.iter().product::<usize>() as u64;
            let entry =
                serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
            (name.clone(), entry)
        });
        let header = serde_json::Value::Object(entries.collect()).to_string();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zeros.safetensors");
        let mut file = File::create(&path).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
        StateDict::read(&path).unwrap().with_source("x.pth")
    }

    pub(crate) fn tensors_of(graph: &Graph) -> Vec<(String, Vec<usize>)> {
        let nodes = 0..graph.nodes().len();
        let specs = nodes.flat_map(|id| graph.parameters(id).into_iter().map(move |p| (id, p)));
        specs.map(|(id, p)| (graph.parameter_name(id, p.suffix), p.shape)).collect()
    }

    fn graph(name: &str) -> Graph {
        zoo::find(name).unwrap().graph()
    }

    #[test]
    fn every_architecture_is_recognized_by_its_parameters() {
        let mut alike = Vec::new();
        for architecture in zoo::all() {
            let graph = architecture.graph();
            let found = recognize(&zeros(&tensors_of(&graph))).unwrap();
            let names: Vec<&str> = found.candidates.iter().map(|a| a.name).collect();
            assert!(names.contains(&architecture.name), "{}: {names:?}", architecture.name);
            assert_eq!(found.classes, Some(graph.nodes()[graph.output()].shape.elements()));
            assert_eq!(found.channels, graph.input_shape().channels());
            if names.len() > 1 && names[0] == architecture.name {
                alike.push(names.join(" "));
            }
        }
        assert_eq!(alike, ["lenet5 lenet5_28"]);
    }

    #[test]
    fn heads_and_grey_stems_do_not_hide_an_architecture() {
        let graph = graph("resnet18").with_classes(37).unwrap().with_channels(1).unwrap();
        let state = zeros(&tensors_of(&graph));
        let found = recognize(&state).unwrap();
        let architecture = found.only().unwrap();
        assert_eq!((architecture.name, found.classes, found.channels), ("resnet18", Some(37), 1));
        assert_eq!(architecture.graph_for(&state, Classes::AsStored).unwrap(), graph);
        let published = architecture.graph_for(&state, Classes::AsPublished).unwrap();
        assert_eq!(published.nodes()[published.output()].shape.elements(), 1000);

        let mut headless = tensors_of(&graph);
        headless.retain(|(name, _)| !name.starts_with("fc."));
        let found = recognize(&zeros(&headless)).unwrap();
        assert_eq!((found.only().unwrap().name, found.classes), ("resnet18", None));
        headless.push(("fc.1.weight".into(), vec![5, 512]));
        assert_eq!(recognize(&zeros(&headless)).unwrap().classes, Some(5));
    }

    #[test]
    fn what_weights_do_not_show_is_named() {
        let found = recognize(&zeros(&tensors_of(&graph("lenet5")))).unwrap();
        let error = found.only().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights in `x.pth` fit `lenet5` and `lenet5_28`: what differs does not show in \
             weights (images of [n, 1, 32, 32] in `lenet5`, of [n, 1, 28, 28] in `lenet5_28`)"
        );
        assert_eq!(error.hint().unwrap(), "say which: --backbone lenet5");
    }

    #[test]
    fn the_nearest_is_named_where_none_fits() {
        let mut tensors = tensors_of(&graph("squeezenet1_1"));
        tensors[0].1 = vec![64, 3, 5, 5];
        tensors[2].0 = "features.3.squeeze.wait".into();
        let error = recognize(&zeros(&tensors)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights in `x.pth` are of no network that refit knows; the nearest is \
             `squeezenet1_1`: 48 of its 50 parameters fit, 1 missing (features.3.squeeze.weight), \
             1 unused (features.3.squeeze.wait), 1 of another shape (features.0.weight: \
             [64, 3, 5, 5] instead of [64, 3, 3, 3])"
        );
        assert!(error.hint().unwrap().contains("refit models"));
        let error = recognize(&zeros(&[("encoder.w".into(), vec![2])])).unwrap_err();
        assert!(error.to_string().ends_with("knows: none shares a parameter's name with them"));
    }
}
