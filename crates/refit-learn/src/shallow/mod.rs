//! Learners over feature vectors that are no networks: boosted trees, forests, nearest neighbours, and
//! the linear one; all from targets that are distributions over classes, as a teacher gives them.
//!
//! What is learned is a layer with its parameters, so that a model file keeps it and every command
//! runs it like any other head. The trees are our own: they fit vector-valued soft targets, can be read
//! out as tensors, and are the same bits with any number of threads, all of which we know of no crate
//! to do.

mod bins;
mod boosting;
mod forest;
mod held_out;
mod neighbours;
mod tree;

use std::fmt;
use std::str::FromStr;

use refit_net::{Layer, Linear};
use serde::{Deserialize, Serialize};

use crate::error::Hint;
use crate::logistic::{LogisticError, LogisticOptions, LogisticRegression};

/// What learns from features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learner {
    /// Logistic regression: one linear layer.
    #[default]
    Linear,
    /// Gradient boosting of small trees.
    Trees,
    /// A random forest.
    Forest,
    /// The k nearest neighbours.
    Knn,
}

impl Learner {
    /// All.
    pub const ALL: [Self; 4] = [Self::Linear, Self::Trees, Self::Forest, Self::Knn];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Trees => "trees",
            Self::Forest => "forest",
            Self::Knn => "knn",
        }
    }

    /// Whether it is the linear one.
    pub const fn is_linear(&self) -> bool {
        matches!(self, Self::Linear)
    }
}

impl fmt::Display for Learner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Learner {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|l| l.name() == name).ok_or_else(|| {
            format!("no learner `{name}`; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// What a learner learns from.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// `[n, dim]`, row-major.
    pub features: &'a [f32],
    /// `[n, classes]`: how probable each class is; rows sum to 1. Labels are rows with a single 1.
    pub targets: &'a [f32],
    /// How many classes there are, at least 2.
    pub classes: usize,
    /// `[n]`: the image that each row is a view of, from 0; its views are held out together.
    pub groups: &'a [usize],
    /// `[n]`: how much each row counts, positive.
    pub weights: &'a [f32],
}

impl Examples<'_> {
    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn dim(&self) -> usize {
        self.features.len() / self.len().max(1)
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        let dim = self.dim();
        &self.features[row * dim..][..dim]
    }

    pub(crate) fn target(&self, row: usize) -> &[f32] {
        &self.targets[row * self.classes..][..self.classes]
    }

    /// The weighted mean of the targets of some rows, `[classes]`.
    pub(crate) fn prior(&self, rows: &[usize]) -> Vec<f64> {
        let mut sums = vec![0.0; self.classes];
        let mut total = 0.0;
        for &row in rows {
            let weight = f64::from(self.weights[row]);
            total += weight;
            sums.iter_mut().zip(self.target(row)).for_each(|(s, t)| *s += weight * f64::from(*t));
        }
        sums.iter().map(|s| s / total.max(f64::MIN_POSITIVE)).collect()
    }

    fn check(&self) -> Result<(), ShallowError> {
        let n = self.len();
        let lengths = |what, given, expected| match given == expected {
            true => Ok(()),
            false => Err(ShallowError::Length { what, given, expected }),
        };
        if self.classes < 2 || n == 0 || self.dim() == 0 {
            return Err(ShallowError::Nothing { rows: n, dim: self.dim(), classes: self.classes });
        }
        lengths("features", self.features.len(), n * self.dim())?;
        lengths("targets", self.targets.len(), n * self.classes)?;
        lengths("weights", self.weights.len(), n)?;
        if let Some(at) = self.features.iter().position(|v| !v.is_finite()) {
            let (row, feature) = (at / self.dim(), at % self.dim());
            return Err(ShallowError::NotFinite { row, feature, value: self.features[at] });
        }
        let is_distribution = |row: &[f32]| {
            let sum: f32 = row.iter().sum();
            row.iter().all(|v| *v >= 0.0) && (sum - 1.0).abs() < 1e-3
        };
        if let Some(row) = self.targets.chunks(self.classes).position(|row| !is_distribution(row)) {
            return Err(ShallowError::Target { row, target: self.target(row).to_vec() });
        }
        match self.weights.iter().position(|w| !(*w > 0.0 && w.is_finite())) {
            Some(row) => Err(ShallowError::Weight { row, weight: self.weights[row] }),
            None => Ok(()),
        }
    }
}

/// Why nothing was learned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ShallowError {
    /// Too little of something.
    #[error("{rows} rows of {dim} features and {classes} classes are too few to learn from")]
    Nothing {
        /// Rows given.
        rows: usize,
        /// Their length.
        dim: usize,
        /// Classes given.
        classes: usize,
    },
    /// Lengths that do not go together.
    #[error("`{what}` has {given} values where {expected} are needed")]
    Length {
        /// Which input.
        what: &'static str,
        /// Its length.
        given: usize,
        /// The length that fits the others.
        expected: usize,
    },
    /// NaN or infinity among the features.
    #[error("feature {feature} of row {row} is {value}")]
    NotFinite {
        /// Which row.
        row: usize,
        /// Which feature.
        feature: usize,
        /// What it is.
        value: f32,
    },
    /// A target that is no distribution.
    #[error("target {row} is {target:?}, which is no distribution over the classes")]
    Target {
        /// Which row.
        row: usize,
        /// What it is.
        target: Vec<f32>,
    },
    /// A weight that is not positive.
    #[error("row {row} weighs {weight}, which is not above 0")]
    Weight {
        /// Which row.
        row: usize,
        /// What it is.
        weight: f32,
    },
    /// The linear learner.
    #[error(transparent)]
    Logistic(#[from] LogisticError),
}

impl Hint for ShallowError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Nothing { .. } => "give images of at least two classes".into(),
            Self::Length { what, expected, .. } => format!("give `{what}` {expected} values"),
            Self::NotFinite { row, .. } => {
                format!("leave row {row} out, or check the weights it was computed with")
            }
            Self::Target { .. } => {
                "give each row probabilities that sum to 1, such as a softmax of logits".into()
            }
            Self::Weight { .. } => "leave the row out, or give it a positive weight".into(),
            Self::Logistic(error) => return error.hint(),
        })
    }
}

/// What a learner found: a layer that takes the features and gives logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// The layer.
    pub layer: Layer,
    /// The values of its parameters, in its order.
    pub values: Vec<Vec<f32>>,
    /// What cross-validation chose, in words.
    pub chosen: String,
}

/// Fits a learner. Its size (rounds and depth, leaves, k, penalty) is chosen by the log loss of images
/// held out in three folds; with a single image of each class there are none, and it is the smallest.
/// The same examples and seed give the same bits, whatever the number of threads.
///
/// # Errors
/// If lengths do not go together, a feature is not finite, or a target is no distribution.
pub fn fit(learner: Learner, examples: &Examples, seed: u64) -> Result<Fitted, ShallowError> {
    examples.check()?;
    match learner {
        Learner::Linear => linear(examples, seed),
        Learner::Trees => Ok(boosting::fit(examples, seed)),
        Learner::Forest => Ok(forest::fit(examples, seed)),
        Learner::Knn => Ok(neighbours::fit(examples, seed)),
    }
}

/// Logistic regression. The cross-entropy with a distribution is that with each of its classes,
/// weighed by its probability: so a row comes once for each class that it may have.
fn linear(examples: &Examples, seed: u64) -> Result<Fitted, ShallowError> {
    let (mut rows, mut labels, mut groups, mut weights) = (vec![], vec![], vec![], vec![]);
    for row in 0..examples.len() {
        for (class, &share) in examples.target(row).iter().enumerate().filter(|(_, s)| **s > 0.0) {
            rows.extend_from_slice(examples.row(row));
            labels.push(class);
            groups.push(examples.groups[row]);
            weights.push(share * examples.weights[row]);
        }
    }
    let options = LogisticOptions {
        seed,
        groups: Some(&groups),
        sample_weights: Some(&weights),
        ..LogisticOptions::default()
    };
    let fit = LogisticRegression::fit(&rows, &labels, examples.classes, &options)?;
    Ok(Fitted {
        layer: Layer::Linear(Linear::new(examples.classes)),
        values: vec![fit.model.weights, fit.model.bias],
        chosen: format!("penalty {:.2e}", fit.strength),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use refit_data::Stream;

    use super::*;

    /// Rows around a centre for each class; two views of each image.
    pub(crate) struct Blobs {
        pub features: Vec<f32>,
        pub targets: Vec<f32>,
        pub groups: Vec<usize>,
        pub weights: Vec<f32>,
        pub classes: usize,
    }

    impl Blobs {
        pub fn new(images: usize, dim: usize, classes: usize, noise: f32) -> Self {
            let mut random = Stream::new(5, "blobs", &[]);
            let (mut features, mut targets, mut groups) = (vec![], vec![], vec![]);
            for row in 0..2 * images {
                let class = row / 2 % classes;
                for d in 0..dim {
                    let centre = if d % classes == class { 1.0 } else { 0.0 };
                    features.push(centre + noise * (random.uniform_f32() - 0.5));
                }
                targets.extend((0..classes).map(|c| if c == class { 1.0 } else { 0.0 }));
                groups.push(row / 2);
            }
            let weights = vec![1.0; 2 * images];
            Self { features, targets, groups, weights, classes }
        }

        pub fn examples(&self) -> Examples<'_> {
            Examples {
                features: &self.features,
                targets: &self.targets,
                classes: self.classes,
                groups: &self.groups,
                weights: &self.weights,
            }
        }

        pub fn labels(&self) -> Vec<usize> {
            self.targets.chunks(self.classes).map(crate::metrics::arg_max).collect()
        }
    }

    /// What a fitted layer says of rows, by a network that it is the head of.
    pub(crate) fn logits(fitted: &Fitted, features: &[f32], dim: usize) -> Vec<f32> {
        use burn::tensor::{Device, Tensor, TensorData};
        use refit_net::{Builder, Network, Shape};
        let classes = fitted.values.last().map_or(0, Vec::len);
        let (mut g, x) = Builder::new("rows", Shape::map(dim, 1, 1));
        let y = g.flatten("features", x);
        let y = g.linear("head", y, classes);
        let net = Network::initialize(g.finish(y, "head").unwrap(), 0, &Device::flex());
        let net = net.with_learner(fitted.layer, fitted.values.clone()).unwrap();
        let n = features.len() / dim;
        let images = TensorData::new(features.to_vec(), [n, dim, 1, 1]);
        let compiled = net.compile(&[net.graph().head()]).unwrap();
        compiled.run(Tensor::from_data(images, net.device()))[0].to_vec()
    }

    fn accuracy(fitted: &Fitted, blobs: &Blobs) -> f64 {
        let dim = blobs.features.len() / blobs.groups.len();
        let logits = logits(fitted, &blobs.features, dim);
        let rows = logits.chunks(blobs.classes).map(crate::metrics::arg_max);
        let right = rows.zip(blobs.labels()).filter(|(a, b)| a == b).count();
        right as f64 / blobs.groups.len() as f64
    }

    #[test]
    fn every_learner_tells_clouds_apart() {
        let blobs = Blobs::new(40, 6, 3, 1.2);
        for learner in Learner::ALL {
            let fitted = fit(learner, &blobs.examples(), 3).unwrap();
            assert!(accuracy(&fitted, &blobs) > 0.95, "{learner}: {}", fitted.chosen);
            assert_eq!(learner.name().parse(), Ok(learner));
        }
        assert!("tree".parse::<Learner>().unwrap_err().contains("trees"));
    }

    #[test]
    fn soft_targets_come_back_as_probabilities() {
        // One feature tells two kinds of rows apart; of one kind three of four are of class 0.
        let n = 120;
        let features: Vec<f32> = (0..n).map(|i| (i % 2) as f32).collect();
        let targets: Vec<f32> =
            (0..n).flat_map(|i| if i % 2 == 0 { [0.75, 0.25] } else { [0.1, 0.9] }).collect();
        let groups: Vec<usize> = (0..n).collect();
        let weights = vec![1.0; n];
        let (features, targets) = (&features[..], &targets[..]);
        let (groups, weights) = (&groups[..], &weights[..]);
        let examples = Examples { features, targets, classes: 2, groups, weights };
        for learner in Learner::ALL {
            if learner == Learner::Knn {
                // The cosine of a single feature knows its sign alone, which is enough here.
                assert_eq!(examples.dim(), 1);
            }
            let fitted = fit(learner, &examples, 1).unwrap();
            let found = logits(&fitted, &[0.0, 1.0], 1);
            for (row, expected) in found.chunks(2).zip([0.75, 0.1]) {
                let odds = (row[0] - row[1]).exp();
                let p = odds / (1.0 + odds);
                assert!((p - expected).abs() < 0.06, "{learner}: {p}, not {expected}");
            }
        }
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let blobs = Blobs::new(30, 8, 3, 2.0);
        let on = |threads: usize, learner| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(learner, &blobs.examples(), 9).unwrap())
        };
        for learner in Learner::ALL {
            assert_eq!(on(1, learner), on(2, learner), "{learner}");
        }
        let other = fit(Learner::Forest, &blobs.examples(), 10).unwrap();
        assert_ne!(on(1, Learner::Forest).values, other.values, "another seed, another forest");
    }

    #[test]
    fn one_image_a_class_is_enough() {
        let blobs = Blobs::new(3, 4, 3, 0.1);
        for learner in [Learner::Trees, Learner::Forest, Learner::Knn] {
            let fitted = fit(learner, &blobs.examples(), 0).unwrap();
            assert!(fitted.values.iter().flatten().all(|v| v.is_finite()), "{learner}");
        }
    }

    #[test]
    fn bad_examples_are_refused_with_a_hint() {
        let blobs = Blobs::new(4, 2, 2, 0.1);
        let refused = |examples: Examples| {
            let error = fit(Learner::Trees, &examples, 0).unwrap_err();
            assert!(error.hint().is_some(), "{error}");
            error.to_string()
        };
        let good = blobs.examples();
        assert!(refused(Examples { classes: 1, ..good }).contains("too few"));
        assert!(refused(Examples { targets: &[1.0], ..good }).contains("`targets` has 1"));
        assert!(refused(Examples { weights: &[0.0; 8], ..good }).contains("row 0 weighs 0"));
        let mut features = blobs.features.clone();
        features[3] = f32::NAN;
        let said = refused(Examples { features: &features, ..good });
        assert_eq!(said, "feature 1 of row 1 is NaN");
        let mut targets = blobs.targets.clone();
        targets[2] = 0.5;
        assert!(refused(Examples { targets: &targets, ..good }).contains("no distribution"));
    }
}
