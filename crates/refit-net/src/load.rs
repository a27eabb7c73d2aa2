//! Weights applied by name, with a full account.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Hint;
use crate::graph::is_under;
use crate::layer::ParameterSpec;
use crate::network::{Network, Parameter};
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
}

/// Why weights are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
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
            Self::Other { net, report, .. } if report.looks_like_another_architecture() => format!(
                "weights do not transfer between architectures, but knowledge does: name the \
                 architecture of the file with --backbone, or train {net} by distillation from a \
                 model of that architecture"
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

impl LoadReport {
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

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} applied", self.applied.len())?;
        let list = |f: &mut fmt::Formatter<'_>, what: &str, names: &[String]| match names.len() {
            0 => Ok(()),
            n => write!(
                f,
                ", {n} {what} ({}{})",
                names[..n.min(3)].join(", "),
                if n > 3 { ", ..." } else { "" }
            ),
        };
        list(f, "missing", &self.missing)?;
        list(f, "unused", &self.unused)?;
        let shapes: Vec<String> = self
            .mismatched
            .iter()
            .map(|(name, ours, theirs)| format!("{name}: {theirs:?} instead of {ours:?}"))
            .collect();
        list(f, "of another shape", &shapes)
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
        let report = compare(&specs, state);
        if !report.fits(head, self.graph.head()) {
            return Err(LoadError::Other {
                net: self.graph.name().to_owned(),
                source_name: state.source().to_owned(),
                report: Box::new(report),
            });
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

fn compare(specs: &BTreeMap<String, ParameterSpec>, state: &StateDict) -> LoadReport {
    let mut report = LoadReport::default();
    for (name, spec) in specs {
        match state.get(name) {
            None => report.missing.push(name.clone()),
            Some(entry) if entry.shape() == spec.shape.as_slice() => {
                report.applied.push(name.clone());
            }
            Some(entry) => {
                let theirs = entry.shape().to_vec();
                report.mismatched.push((name.clone(), spec.shape.clone(), theirs));
            }
        }
    }
    let known = |name: &str| specs.contains_key(name) || StateDict::is_counter(name);
    report.unused = state.names().filter(|n| !known(n)).map(str::to_owned).collect();
    report
}
