//! Decision trees whose leaves hold vectors (Breiman et al. 1984), as gradient boosting (Friedman
//! 2001, <https://doi.org/10.1214/aos/1013203451>) and random forests (Breiman 2001,
//! <https://doi.org/10.1023/A:1010933404324>) make them.

use serde::{Deserialize, Serialize};

use super::conv2d::MOST_CHANNELS;
use super::{Misfit, ParameterSpec, Role};
use crate::shape::Shape;

/// The most nodes, whose numbers a tensor of f32 holds exactly.
const MOST_NODES: usize = 1 << 24;

/// What the leaves' sum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TreeOutput {
    /// Logits: boosted trees.
    Logits,
    /// Probabilities, of which the layer gives the logarithms: a forest.
    Probabilities,
}

/// The sum of what trees say of a vector, and of what is said of all: `[n, features] -> [n, classes]`.
///
/// Node `i` of a tree sends a vector whose value `feature[i]` is at most `threshold[i]` to node
/// `left[i]`, others to `right[i]`. Both have higher numbers: a node without such two is a leaf. What
/// a damaged file points at elsewhere ends a vector's way where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEnsemble {
    /// How many trees.
    pub trees: usize,
    /// Nodes of all trees together, leaves too.
    pub nodes: usize,
    /// Values of a leaf.
    pub classes: usize,
    /// What the sum is.
    pub output: TreeOutput,
}

impl TreeEnsemble {
    pub(super) fn output_shape(&self, input: Shape) -> Result<Shape, Misfit> {
        let Self { trees, nodes, classes, .. } = *self;
        let sane = nodes <= MOST_NODES && trees <= nodes;
        match input {
            Shape::Vector { features }
                if sane && features <= MOST_NODES && (1..=MOST_CHANNELS).contains(&classes) =>
            {
                Ok(Shape::vector(classes))
            }
            x => Err(Misfit(format!(
                "is of {trees} trees of {nodes} nodes for vectors and {classes} classes, given {x}"
            ))),
        }
    }

    pub(super) fn parameters(&self) -> Vec<ParameterSpec> {
        let fitted = |suffix, shape| ParameterSpec::new(suffix, shape, Role::Fitted);
        vec![
            fitted("root", vec![self.trees]),
            fitted("feature", vec![self.nodes]),
            fitted("threshold", vec![self.nodes]),
            fitted("left", vec![self.nodes]),
            fitted("right", vec![self.nodes]),
            fitted("value", vec![self.nodes, self.classes]),
            fitted("base", vec![self.classes]),
        ]
    }

    /// What is said of one vector `x`; `parameters` in the layer's order.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub(crate) fn judge(&self, x: &[f32], parameters: &[Vec<f32>], y: &mut [f32]) {
        let [roots, .., values, base] = parameters else { unreachable!("seven parameters") };
        y.copy_from_slice(base);
        for &root in roots {
            let leaf = self.leaf(x, parameters, root as usize);
            let value = values.chunks_exact(self.classes).nth(leaf).unwrap_or_default();
            y.iter_mut().zip(value).for_each(|(y, v)| *y += v);
        }
        if self.output == TreeOutput::Probabilities {
            y.iter_mut().for_each(|v| *v = v.max(f32::MIN_POSITIVE).ln());
        }
    }

    fn leaf(&self, x: &[f32], parameters: &[Vec<f32>], root: usize) -> usize {
        let [_, feature, threshold, left, right, ..] = parameters else {
            unreachable!("seven parameters")
        };
        let mut node = root;
        while node < self.nodes {
            let value = x.get(feature[node] as usize).copied().unwrap_or(0.0);
            let side = if value <= threshold[node] { left } else { right };
            let next = side[node] as usize;
            if next <= node || next >= self.nodes {
                break;
            }
            node = next;
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two trees: one splits feature 1 at 0.5, then feature 0 at 2; the other is a leaf.
    fn small(output: TreeOutput) -> (TreeEnsemble, Vec<Vec<f32>>) {
        let layer = TreeEnsemble { trees: 2, nodes: 6, classes: 2, output };
        let parameters = vec![
            vec![0.0, 5.0],
            vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            vec![0.5, 0.0, 2.0, 0.0, 0.0, 0.0],
            vec![1.0, 0.0, 3.0, 0.0, 0.0, 0.0],
            vec![2.0, 0.0, 4.0, 0.0, 0.0, 0.0],
            vec![0.0, 0.0, 0.1, 0.2, 0.0, 0.0, 0.3, 0.4, 0.5, 0.6, 0.01, 0.02],
            vec![0.1, 0.0],
        ];
        (layer, parameters)
    }

    fn judged(layer: &TreeEnsemble, parameters: &[Vec<f32>], x: [f32; 2]) -> [f32; 2] {
        let mut y = [9.0; 2];
        layer.judge(&x, parameters, &mut y);
        y
    }

    #[test]
    fn vectors_fall_to_their_leaves() {
        let (layer, parameters) = small(TreeOutput::Logits);
        let close = |x, expected: [f32; 2]| {
            let y = judged(&layer, &parameters, x);
            assert!(y.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{x:?}: {y:?}");
        };
        close([0.0, 0.5], [0.21, 0.22]);
        close([2.0, 0.6], [0.41, 0.42]);
        close([2.1, 0.6], [0.61, 0.62]);
        close([f32::NAN, f32::NAN], [0.61, 0.62]);
        let (forest, parameters) = small(TreeOutput::Probabilities);
        let [a, _] = judged(&forest, &parameters, [2.1, 0.6]);
        assert!((a - 0.61_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn damaged_trees_end() {
        let (layer, parameters) = small(TreeOutput::Logits);
        for (tensor, node, value) in
            [(3, 0, 0.0), (3, 0, 99.0), (4, 2, 2.0), (4, 2, f32::NAN), (1, 0, 1e9), (0, 0, 1e9)]
        {
            let mut damaged = parameters.clone();
            damaged[tensor][node] = value;
            let y = judged(&layer, &damaged, [9.0, 0.1]);
            assert!(y.iter().all(|v| v.is_finite()), "{tensor} {node} {value}");
        }
    }

    #[test]
    fn only_vectors_are_judged() {
        let (layer, _) = small(TreeOutput::Logits);
        assert_eq!(layer.output_shape(Shape::vector(2)), Ok(Shape::vector(2)));
        let error = layer.output_shape(Shape::map(2, 4, 4)).unwrap_err().to_string();
        assert!(error.contains("2 trees of 6 nodes for vectors"), "{error}");
        let none = TreeEnsemble { classes: 0, ..layer };
        assert!(none.output_shape(Shape::vector(2)).is_err());
    }
}
