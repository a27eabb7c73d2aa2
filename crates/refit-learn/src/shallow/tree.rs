//! One tree with vectors in its leaves (Breiman et al. 1984): each split takes most of what is left of
//! the squared error, all classes together.

use rayon::prelude::*;
use refit_net::{Layer, TreeEnsemble, TreeOutput};

use super::Fitted;
use super::bins::{BINS, Binned};

/// Values from which on features are looked at on several threads.
const WORTH_SHARING: usize = 1 << 15;

/// What a tree is grown from.
pub(super) struct Soil<'a> {
    pub binned: &'a Binned,
    /// What leaves are to tell, `[rows, classes]`.
    pub targets: &'a [f32],
    /// `[rows]`.
    pub weights: &'a [f32],
    pub classes: usize,
}

/// How far a tree grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Splits above each other.
    pub depth: usize,
    /// The weight of a leaf's rows, at least.
    pub leaf: f64,
}

#[derive(Debug, Clone, PartialEq)]
struct Node {
    /// Feature and bin: rows up to it go to `left`.
    split: Option<(usize, usize)>,
    threshold: f32,
    left: usize,
    right: usize,
    value: Vec<f32>,
}

/// A tree; node 0 is its root.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tree(Vec<Node>);

/// The best way to part some rows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Split {
    gain: f64,
    feature: usize,
    bin: usize,
}

impl Split {
    /// The better of two; of equal ones that of the lower feature, then bin.
    fn better(self, other: Self) -> Self {
        let order = self.gain.total_cmp(&other.gain);
        let order = order.then((other.feature, other.bin).cmp(&(self.feature, self.bin)));
        if order.is_lt() { other } else { self }
    }
}

/// Rows that become a node.
struct Bud {
    rows: Vec<usize>,
    depth: usize,
    /// The parent, and whether they are on its left.
    from: Option<(usize, bool)>,
}

impl Tree {
    /// Grows a tree on some rows, in rising order. `features` draws those that a split may ask,
    /// `value` says what a leaf with some rows tells.
    pub fn grow(
        soil: &Soil,
        rows: Vec<usize>,
        limits: Limits,
        features: &mut dyn FnMut() -> Vec<usize>,
        value: &dyn Fn(&[usize]) -> Vec<f32>,
    ) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        let mut open = vec![Bud { rows, depth: 0, from: None }];
        while let Some(Bud { rows, depth, from }) = open.pop() {
            let id = nodes.len();
            match from {
                Some((parent, true)) => nodes[parent].left = id,
                Some((parent, false)) => nodes[parent].right = id,
                None => {}
            }
            let found = match depth < limits.depth {
                true => soil.best_split(&rows, limits.leaf, &features()),
                false => None,
            };
            let mut node =
                Node { split: None, threshold: 0.0, left: 0, right: 0, value: Vec::new() };
            match found {
                Some(Split { feature, bin, .. }) => {
                    node.split = Some((feature, bin));
                    node.threshold = soil.binned.threshold(feature, bin);
                    let bins = soil.binned.of(feature);
                    let (left, right) =
                        rows.into_iter().partition(|&row| usize::from(bins[row]) <= bin);
                    let depth = depth + 1;
                    open.push(Bud { rows: right, depth, from: Some((id, false)) });
                    open.push(Bud { rows: left, depth, from: Some((id, true)) });
                }
                None => node.value = value(&rows),
            }
            nodes.push(node);
        }
        Self(nodes)
    }

    /// What the tree tells of a row.
    pub fn tell(&self, binned: &Binned, row: usize) -> &[f32] {
        let mut node = &self.0[0];
        while let Some((feature, bin)) = node.split {
            let left = usize::from(binned.of(feature)[row]) <= bin;
            node = &self.0[if left { node.left } else { node.right }];
        }
        &node.value
    }
}

/// Trees as one layer.
pub(super) fn ensemble(
    trees: &[Tree],
    base: Vec<f32>,
    output: TreeOutput,
    chosen: String,
) -> Fitted {
    let classes = base.len();
    let mut values = vec![Vec::new(); 6];
    let mut first = 0;
    for Tree(nodes) in trees {
        values[0].push(first as f32);
        for node in nodes {
            let to = |child: usize| if node.split.is_some() { (first + child) as f32 } else { 0.0 };
            values[1].push(node.split.map_or(0.0, |(feature, _)| feature as f32));
            values[2].push(node.threshold);
            values[3].push(to(node.left));
            values[4].push(to(node.right));
            match node.split {
                Some(_) => values[5].extend(std::iter::repeat_n(0.0, classes)),
                None => values[5].extend(&node.value),
            }
        }
        first += nodes.len();
    }
    values.push(base);
    let layer = TreeEnsemble { trees: trees.len(), nodes: first, classes, output };
    Fitted { layer: Layer::TreeEnsemble(layer), values, chosen }
}

impl Soil<'_> {
    /// What parts rows best; none if nothing does.
    fn best_split(&self, rows: &[usize], leaf: f64, features: &[usize]) -> Option<Split> {
        let mut all = vec![0.0; self.classes + 1];
        rows.iter().for_each(|&row| self.count(row, &mut all));
        if all[self.classes] < 2.0 * leaf {
            return None;
        }
        let look = |&feature: &usize| self.best_bin(rows, leaf, feature, &all);
        let best = match rows.len() * features.len() < WORTH_SHARING {
            true => features.iter().filter_map(look).reduce(Split::better),
            false => features.par_iter().filter_map(look).reduce_with(Split::better),
        };
        best.filter(|split| split.gain > 1e-9 * all[self.classes])
    }

    /// Adds a row to the sums of the classes, and behind them, of the weights.
    fn count(&self, row: usize, sums: &mut [f64]) {
        let weight = f64::from(self.weights[row]);
        let target = &self.targets[row * self.classes..][..self.classes];
        sums.iter_mut().zip(target).for_each(|(sum, t)| *sum += weight * f64::from(*t));
        sums[self.classes] += weight;
    }

    fn best_bin(&self, rows: &[usize], leaf: f64, feature: usize, all: &[f64]) -> Option<Split> {
        let (bins, width) = (self.binned.of(feature), self.classes + 1);
        let mut sums = vec![0.0; BINS * width];
        for &row in rows {
            self.count(row, &mut sums[usize::from(bins[row]) * width..][..width]);
        }
        let mut left = vec![0.0; width];
        let mut right = all.to_vec();
        let mut best: Option<Split> = None;
        let whole = explained(all);
        for bin in 0..self.binned.count(feature).saturating_sub(1) {
            let here = &sums[bin * width..][..width];
            if here[self.classes] == 0.0 {
                continue;
            }
            for ((left, right), here) in left.iter_mut().zip(&mut right).zip(here) {
                *left += here;
                *right -= here;
            }
            // What is left of a sum that was taken away is not quite zero.
            let least = leaf * (1.0 - 1e-9);
            if left[self.classes] < least || right[self.classes] < least {
                continue;
            }
            let gain = explained(&left) + explained(&right) - whole;
            if best.is_none_or(|best| gain > best.gain) {
                best = Some(Split { gain, feature, bin });
            }
        }
        best
    }
}

/// How much of the squares' sum the mean takes away.
fn explained(sums: &[f64]) -> f64 {
    let Some((weight, sums)) = sums.split_last() else { return 0.0 };
    sums.iter().map(|s| s * s).sum::<f64>() / weight.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use refit_data::Stream;

    use super::*;

    struct Small {
        x: Vec<f32>,
        y: Vec<f32>,
        w: Vec<f32>,
    }

    const N: usize = 40;
    const DIM: usize = 3;

    fn small(seed: u64) -> Small {
        let mut random = Stream::new(seed, "small", &[]);
        let mut values = |n: usize, steps: usize| -> Vec<f32> {
            (0..n).map(|_| random.below(steps) as f32 / 10.0).collect()
        };
        let (x, y) = (values(N * DIM, 12), values(N * 2, 10));
        Small { x, y, w: values(N, 5).iter().map(|w| w + 0.5).collect() }
    }

    /// The squared error that is left when rows are parted, by the definition.
    fn error(small: &Small, left: impl Fn(usize) -> bool) -> Option<f64> {
        let mut sum = 0.0;
        for side in [true, false] {
            let rows: Vec<usize> = (0..N).filter(|&row| left(row) == side).collect();
            if rows.is_empty() {
                return None;
            }
            let weight: f64 = rows.iter().map(|&r| f64::from(small.w[r])).sum();
            for class in 0..2 {
                let y = |r: usize| f64::from(small.y[r * 2 + class]);
                let mean = rows.iter().map(|&r| f64::from(small.w[r]) * y(r)).sum::<f64>() / weight;
                let squares = rows.iter().map(|&r| f64::from(small.w[r]) * (y(r) - mean).powi(2));
                sum += squares.sum::<f64>();
            }
        }
        Some(sum)
    }

    #[test]
    fn the_first_split_is_the_best_of_all() {
        for seed in 0..20 {
            let small = small(seed);
            let binned = Binned::new(&small.x, N);
            let soil = Soil { binned: &binned, targets: &small.y, weights: &small.w, classes: 2 };
            let rows: Vec<usize> = (0..N).collect();
            let split = soil.best_split(&rows, 0.1, &[0, 1, 2]).unwrap();
            let threshold = binned.threshold(split.feature, split.bin);
            let found = error(&small, |r| small.x[r * DIM + split.feature] <= threshold).unwrap();
            let mut best = f64::INFINITY;
            for feature in 0..DIM {
                for step in 0..12 {
                    let at = step as f32 / 10.0 + 0.05;
                    best = best
                        .min(error(&small, |r| small.x[r * DIM + feature] <= at).unwrap_or(best));
                }
            }
            assert!((found - best).abs() < 1e-9, "seed {seed}: {found}, not {best}");
        }
    }

    #[test]
    fn a_grown_tree_tells_the_same_as_its_layer_and_keeps_its_limits() {
        let small = small(3);
        let binned = Binned::new(&small.x, N);
        let soil = Soil { binned: &binned, targets: &small.y, weights: &small.w, classes: 2 };
        let mean = |rows: &[usize]| {
            let weight: f32 = rows.iter().map(|&r| small.w[r]).sum();
            assert!(weight >= 2.999, "a leaf of {weight}");
            let of = |c: usize| rows.iter().map(|&r| small.w[r] * small.y[r * 2 + c]).sum::<f32>();
            vec![of(0) / weight, of(1) / weight]
        };
        let limits = Limits { depth: 3, leaf: 3.0 };
        let tree = Tree::grow(&soil, (0..N).collect(), limits, &mut || vec![0, 1, 2], &mean);
        assert!((3..=15).contains(&tree.0.len()), "{} nodes", tree.0.len());
        let twice = [tree.clone(), tree.clone()];
        let fitted = ensemble(&twice, vec![0.5, 0.0], TreeOutput::Logits, String::new());
        let told = super::super::tests::logits(&fitted, &small.x, DIM);
        for (row, told) in told.chunks(2).enumerate() {
            let value = tree.tell(&binned, row);
            assert!((told[0] - 2.0 * value[0] - 0.5).abs() < 1e-5, "row {row}");
            assert!((told[1] - 2.0 * value[1]).abs() < 1e-5, "row {row}");
        }
    }
}
