//! Where the boxes of a layered drawing go, top-down (Sugiyama et al. 1981,
//! <https://doi.org/10.1109/TSMC.1981.4308636>): ranks by longest path, wires that skip ranks bent
//! at points of their own, crossings reduced by barycentres, positions by least squares.

/// Space between neighbours in a rank.
const GAP: f64 = 18.0;
/// Width that a wire takes where it passes a rank.
const WIRE: f64 = 6.0;
/// Passes over all ranks, down and up.
const ROUNDS: usize = 12;

/// A drawing's geometry: ranks count from 0 at the top, the rest is in the unit of the widths.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The rank of each box, and the middle of it.
    pub boxes: Vec<(usize, f64)>,
    /// For each box and each of its inputs, where the wire passes: rank and position, ends included.
    pub wires: Vec<Vec<Vec<(usize, f64)>>>,
    /// The whole width.
    pub width: f64,
    /// The number of ranks.
    pub ranks: usize,
}

/// Boxes and the points at which wires pass a rank.
struct Places {
    width: Vec<f64>,
    rank: Vec<usize>,
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    x: Vec<f64>,
}

/// Lays out boxes of some `widths`, each below those that it takes; inputs come before.
pub fn layout(widths: &[f64], inputs: &[Vec<usize>]) -> Layout {
    let mut places = Places::new(widths, inputs);
    let chains = places.route(inputs);
    let mut ranks: Vec<Vec<usize>> = Vec::new();
    for (place, &rank) in places.rank.iter().enumerate() {
        ranks.resize_with(ranks.len().max(rank + 1), Vec::new);
        ranks[rank].push(place);
    }
    places.order(&mut ranks);
    places.spread(&ranks);
    let left = |p: usize| places.x[p] - places.width[p] / 2.0;
    let least = (0..places.x.len()).map(left).fold(f64::INFINITY, f64::min);
    places.x.iter_mut().for_each(|x| *x -= least);
    let right = |p: usize| places.x[p] + places.width[p] / 2.0;
    let at = |p: &usize| (places.rank[*p], places.x[*p]);
    Layout {
        boxes: (0..widths.len()).map(|p| at(&p)).collect(),
        wires: chains
            .iter()
            .map(|wires| wires.iter().map(|wire| wire.iter().map(at).collect()).collect())
            .collect(),
        width: (0..places.x.len()).map(right).fold(0.0, f64::max),
        ranks: ranks.len(),
    }
}

impl Places {
    fn new(widths: &[f64], inputs: &[Vec<usize>]) -> Self {
        let mut rank: Vec<usize> = Vec::with_capacity(widths.len());
        for inputs in inputs {
            rank.push(inputs.iter().map(|&i| rank[i] + 1).max().unwrap_or(0));
        }
        let none = vec![Vec::new(); widths.len()];
        Self { width: widths.to_vec(), rank, above: none.clone(), below: none, x: Vec::new() }
    }

    /// Adds the points at which wires pass ranks, and tells each wire's way.
    fn route(&mut self, inputs: &[Vec<usize>]) -> Vec<Vec<Vec<usize>>> {
        let mut wire = |from: usize, to: usize| {
            let mut way = vec![from];
            for rank in self.rank[from] + 1..self.rank[to] {
                way.push(self.rank.len());
                self.rank.push(rank);
                self.width.push(WIRE);
                self.above.push(Vec::new());
                self.below.push(Vec::new());
            }
            way.push(to);
            for pair in way.windows(2) {
                self.below[pair[0]].push(pair[1]);
                self.above[pair[1]].push(pair[0]);
            }
            way
        };
        let wires = inputs.iter().enumerate();
        wires.map(|(to, from)| from.iter().map(|&from| wire(from, to)).collect()).collect()
    }

    /// Orders each rank by the mean position of the neighbours above, then below, and so on.
    fn order(&mut self, ranks: &mut [Vec<usize>]) {
        self.x = vec![0.0; self.rank.len()];
        let number = |x: &mut [f64], rank: &[usize]| {
            rank.iter().enumerate().for_each(|(i, &p)| x[p] = i as f64 - rank.len() as f64 / 2.0);
        };
        ranks.iter().for_each(|rank| number(&mut self.x, rank));
        for round in 0..ROUNDS {
            for (i, down) in sweep(ranks.len(), round) {
                let mut keyed: Vec<(f64, usize)> =
                    ranks[i].iter().map(|&p| (self.wish(p, down), p)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                ranks[i] = keyed.into_iter().map(|(_, p)| p).collect();
                number(&mut self.x, &ranks[i]);
            }
        }
    }

    /// Moves everything as close to its neighbours as order and widths allow.
    fn spread(&mut self, ranks: &[Vec<usize>]) {
        for round in 0..ROUNDS {
            for (i, down) in sweep(ranks.len(), round) {
                let wishes = ranks[i].iter().map(|&p| self.wish(p, down)).collect::<Vec<f64>>();
                let widths = ranks[i].iter().map(|&p| self.width[p]).collect::<Vec<f64>>();
                // Long wires should be straight.
                let weights = widths.iter().map(|&w| if w == WIRE { 4.0 } else { 1.0 });
                let placed = place(&wishes, &widths, &weights.collect::<Vec<f64>>());
                ranks[i].iter().zip(placed).for_each(|(&p, x)| self.x[p] = x);
            }
        }
    }

    /// Where a place would best be: amidst its neighbours above, or below.
    fn wish(&self, place: usize, down: bool) -> f64 {
        let neighbours = if down { &self.above[place] } else { &self.below[place] };
        match neighbours.len() {
            0 => self.x[place],
            n => neighbours.iter().map(|&p| self.x[p]).sum::<f64>() / n as f64,
        }
    }
}

/// The ranks of one pass, and whether it goes down.
fn sweep(ranks: usize, round: usize) -> Vec<(usize, bool)> {
    match round.is_multiple_of(2) {
        true => (0..ranks).map(|i| (i, true)).collect(),
        false => (0..ranks).rev().map(|i| (i, false)).collect(),
    }
}

/// The positions closest to `wishes` (least weighted squares) at which neighbours keep their
/// distance: isotonic regression by pooling adjacent violators.
fn place(wishes: &[f64], widths: &[f64], weights: &[f64]) -> Vec<f64> {
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(wishes.len());
    for (i, width) in widths.iter().enumerate() {
        offset += if i == 0 { 0.0 } else { (widths[i - 1] + width) / 2.0 + GAP };
        offsets.push(offset);
    }
    // Blocks that move together: mean, weight, members.
    let mut blocks: Vec<(f64, f64, usize)> = Vec::new();
    for ((wish, offset), &weight) in wishes.iter().zip(&offsets).zip(weights) {
        let mut block = (wish - offset, weight, 1);
        while let Some(last) = blocks.pop_if(|last| last.0 > block.0) {
            let weight = last.1 + block.1;
            block = ((last.0 * last.1 + block.0 * block.1) / weight, weight, last.2 + block.2);
        }
        blocks.push(block);
    }
    let means = blocks.into_iter().flat_map(|(mean, _, n)| std::iter::repeat_n(mean, n));
    means.zip(offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit::zoo;

    #[test]
    fn neighbours_keep_their_distance_and_stay_near_their_wishes() {
        assert_eq!(place(&[0.0, 100.0], &[10.0, 10.0], &[1.0, 1.0]), [0.0, 100.0]);
        assert_eq!(place(&[50.0, 50.0], &[10.0, 10.0], &[1.0, 1.0]), [36.0, 64.0]);
        assert_eq!(place(&[50.0, 50.0], &[10.0, 10.0], &[1.0, 3.0]), [29.0, 57.0]);
    }

    #[test]
    fn a_chain_is_straight_and_a_skip_passes_it() {
        let layout = layout(&[40.0; 4], &[vec![], vec![0], vec![1], vec![2, 0]]);
        assert_eq!(layout.ranks, 4);
        let wire = &layout.wires[3][1];
        assert_eq!(wire.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [0, 1, 2, 3]);
        for rank in [1, 2] {
            let apart = (wire[rank].1 - layout.boxes[rank].1).abs();
            assert!(apart >= 20.0 + WIRE / 2.0 + GAP - 1e-9, "{apart}");
        }
    }

    #[test]
    fn no_boxes_overlap_in_a_wide_network() {
        let graph = zoo::find("googlenet").unwrap().graph();
        let inputs: Vec<Vec<usize>> = graph.nodes().iter().map(|n| n.inputs.clone()).collect();
        let layout = layout(&vec![100.0; inputs.len()], &inputs);
        for (i, a) in layout.boxes.iter().enumerate() {
            for b in &layout.boxes[i + 1..] {
                assert!(a.0 != b.0 || (a.1 - b.1).abs() >= 100.0, "{a:?} {b:?}");
            }
        }
        assert!(layout.width < 1500.0, "{}", layout.width);
    }
}
