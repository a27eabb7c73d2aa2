//! A graph of neighbours, for search among more vectors than can be looked at one by one.
//!
//! Hierarchical navigable small worlds: Malkov and Yashunin 2018, <https://arxiv.org/abs/1603.09320>.
//! Every vector is a node on the ground, one in `m` also on the level above, and so on; a search goes
//! down from the top, on each level towards what is more similar, and spreads on the ground.
//!
//! Nodes come in batches: those of a batch look for neighbours at the same time, in the graph as it
//! was before and among each other, and are then linked in their order. So the graph depends on the
//! vectors, their order and the seed, and not on the number of threads.

use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use rayon::prelude::*;
use refit_data::Stream;
use refit_data::parts::Bytes;

use super::vectors::{Probe, Vectors};

/// Links of a node above the ground; on it, twice as many.
const LINKS: usize = 16;

/// Nodes that are looked at for a new node's links.
const BUILD_EFFORT: usize = 100;

/// Nodes of a batch at most, and of how many there are.
const BATCH: usize = 256;
const SHARE: usize = 8;

/// Levels at most; one more has a sixteenth of the nodes.
const LEVELS: usize = 12;

/// In `starts`: the node is on the ground only.
const GROUND: u32 = u32::MAX;

/// Decides levels.
const SEED: u64 = 0;

/// A vector, and how similar it is to what was asked for. The more similar is greater; of equal ones
/// the earlier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub similarity: f32,
    pub row: u32,
}

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.similarity.total_cmp(&other.similarity).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The graph.
#[derive(Debug, Clone)]
pub(crate) struct Graph {
    /// `[nodes, 1 + 2 * LINKS]`: how many links a node has on the ground, and the links.
    ground: Bytes,
    /// `[nodes]`: where a node's levels begin in `upper`.
    starts: Bytes,
    /// For a node its number of levels, and for each `[1 + LINKS]`, as on the ground.
    upper: Bytes,
    /// The node from which searches start, and its level.
    entry: u32,
    top: usize,
}

/// Nodes that a search has seen, without clearing a mark for each.
#[derive(Default)]
struct Seen {
    marks: Vec<u32>,
    round: u32,
}

impl Seen {
    fn begin(&mut self, nodes: usize) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 || self.marks.len() < nodes {
            self.marks = vec![0; nodes];
            self.round = 1;
        }
    }

    /// Whether it is seen for the first time.
    fn first(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.marks[node as usize], self.round) != self.round
    }
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Self {
        let empty = || Bytes::owned(Vec::new());
        Self { ground: empty(), starts: empty(), upper: empty(), entry: 0, top: 0 }
    }

    /// From what [`Graph::parts`] and [`Graph::entry`] gave.
    ///
    /// # Errors
    /// If they cannot be a graph of so many nodes.
    pub fn of(
        nodes: usize,
        [ground, starts, upper]: [Bytes; 3],
        [entry, top]: [u32; 2],
    ) -> Result<Self, String> {
        let width = 4 * Self::width(0);
        if ground.len() != nodes * width || starts.len() != 4 * nodes || upper.len() % 4 != 0 {
            return Err(format!("its graph is not one of {nodes} vectors"));
        }
        let graph = Self { ground, starts, upper, entry, top: top as usize };
        graph.check(nodes)?;
        Ok(graph)
    }

    /// Whether all links lead somewhere, so that a search need not ask.
    fn check(&self, nodes: usize) -> Result<(), String> {
        let upper = self.upper.words().len();
        let whole = (0..nodes).into_par_iter().all(|node| {
            let start = self.starts.words()[node];
            let fits = start == GROUND || {
                let levels = self.upper.words().get(start as usize).copied().unwrap_or(u32::MAX);
                (levels as usize) <= LEVELS
                    && start as usize + 1 + levels as usize * Self::width(1) <= upper
            };
            fits && (0..=self.level(node)).all(|level| {
                let list = self.list(node, level);
                (list[0] as usize) < list.len()
                    && self.links(node, level).iter().all(|link| {
                        (*link as usize) < nodes
                            && (level == 0 || self.level(*link as usize) >= level)
                    })
            })
        });
        let enters = nodes == 0
            || (self.entry as usize) < nodes && self.level(self.entry as usize) == self.top;
        if whole && enters { Ok(()) } else { Err("its graph has links that lead nowhere".into()) }
    }

    /// Its three arrays.
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.ground, &self.starts, &self.upper]
    }

    /// Where searches start, and on which level.
    pub fn entry(&self) -> [u32; 2] {
        [self.entry, self.top as u32]
    }

    pub fn nodes(&self) -> usize {
        self.starts.words().len()
    }

    const fn width(level: usize) -> usize {
        1 + if level == 0 { 2 * LINKS } else { LINKS }
    }

    fn level(&self, node: usize) -> usize {
        match self.starts.words()[node] {
            GROUND => 0,
            start => self.upper.words().get(start as usize).map_or(0, |levels| *levels as usize),
        }
    }

    /// Where a node's list lies in its array.
    fn place(&self, node: usize, level: usize) -> usize {
        match level {
            0 => node * Self::width(0),
            _ => self.starts.words()[node] as usize + 1 + (level - 1) * Self::width(1),
        }
    }

    fn list(&self, node: usize, level: usize) -> &[u32] {
        let array = if level == 0 { &self.ground } else { &self.upper };
        &array.words()[self.place(node, level)..][..Self::width(level)]
    }

    fn links(&self, node: usize, level: usize) -> &[u32] {
        let list = self.list(node, level);
        &list[1..=list[0] as usize]
    }

    fn set_links(&mut self, node: usize, level: usize, links: &[u32]) {
        let place = self.place(node, level);
        let array = if level == 0 { &mut self.ground } else { &mut self.upper };
        let list = &mut array.words_mut()[place..][..Self::width(level)];
        list[0] = links.len() as u32;
        list[1..=links.len()].copy_from_slice(links);
    }

    /// The `k` vectors most similar to `probe` of those that `counts`, most similar first, looking
    /// at `effort` or more on the ground.
    pub fn search(
        &self,
        vectors: &Vectors,
        probe: &Probe,
        k: usize,
        effort: usize,
        counts: &dyn Fn(u32) -> bool,
    ) -> Vec<Near> {
        if self.nodes() == 0 {
            return Vec::new();
        }
        let mut start = vec![self.near(vectors, probe, self.entry)];
        for level in (1..=self.top).rev() {
            start = self.search_level(vectors, probe, &start, 1, level, &|_| true);
        }
        let mut found = self.search_level(vectors, probe, &start, effort.max(k), 0, counts);
        found.truncate(k);
        found
    }

    fn near(&self, vectors: &Vectors, probe: &Probe, row: u32) -> Near {
        Near { similarity: vectors.similarity(probe, row as usize), row }
    }

    /// Up to `effort` nodes that count, most similar first (the paper's algorithm 2).
    fn search_level(
        &self,
        vectors: &Vectors,
        probe: &Probe,
        start: &[Near],
        effort: usize,
        level: usize,
        counts: &dyn Fn(u32) -> bool,
    ) -> Vec<Near> {
        SEEN.with_borrow_mut(|seen| {
            seen.begin(self.nodes());
            let mut ahead: BinaryHeap<Near> = BinaryHeap::new();
            let mut found: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
            let mut new = Vec::with_capacity(Self::width(0));
            for near in start {
                seen.first(near.row);
                ahead.push(*near);
                if counts(near.row) {
                    found.push(Reverse(*near));
                }
            }
            while let Some(nearest) = ahead.pop() {
                let worst = |found: &BinaryHeap<Reverse<Near>>| {
                    found.peek().filter(|_| found.len() >= effort).map(|Reverse(near)| *near)
                };
                if worst(&found).is_some_and(|worst| nearest < worst) {
                    break;
                }
                new.clear();
                let links = self.links(nearest.row as usize, level).iter();
                new.extend(links.filter(|link| seen.first(**link)));
                new.iter().for_each(|row| vectors.prefetch(*row as usize));
                for &row in &new {
                    let near = self.near(vectors, probe, row);
                    if worst(&found).is_some_and(|worst| near < worst) {
                        continue;
                    }
                    ahead.push(near);
                    if counts(row) {
                        found.push(Reverse(near));
                        if found.len() > effort {
                            found.pop();
                        }
                    }
                }
            }
            found.into_sorted_vec().into_iter().map(|Reverse(near)| near).collect()
        })
    }

    /// Makes nodes of all vectors that are none yet; `advance` is told how many, batch by batch, and
    /// says whether to go on.
    pub fn extend(&mut self, vectors: &Vectors, advance: &mut dyn FnMut(usize) -> bool) -> bool {
        while self.nodes() < vectors.rows() {
            let first = self.nodes();
            let size = (first / SHARE).clamp(1, BATCH).min(vectors.rows() - first);
            self.add_batch(vectors, first, size);
            if !advance(size) {
                return false;
            }
        }
        true
    }

    fn add_batch(&mut self, vectors: &Vectors, first: usize, size: usize) {
        let levels: Vec<usize> = (first..first + size).map(level_of).collect();
        let chosen: Vec<Vec<Vec<Near>>> = (0..size)
            .into_par_iter()
            .map(|i| self.choose_links(vectors, first, i, &levels))
            .collect();
        for level in &levels {
            self.push_node(*level);
        }
        for (i, by_level) in chosen.iter().enumerate() {
            for (level, links) in by_level.iter().enumerate() {
                let links: Vec<u32> = links.iter().map(|near| near.row).collect();
                self.set_links(first + i, level, &links);
            }
        }
        for level in 0..=levels.iter().copied().max().unwrap_or(0) {
            self.link_back(vectors, first, level, &chosen);
        }
        for (i, level) in levels.iter().enumerate() {
            if *level > self.top || first + i == 0 {
                (self.entry, self.top) = ((first + i) as u32, *level);
            }
        }
    }

    fn push_node(&mut self, level: usize) {
        let ground = self.ground.words_mut();
        ground.resize(ground.len() + Self::width(0), 0);
        let start = match level {
            0 => GROUND,
            _ => {
                let upper = self.upper.words_mut();
                let start = upper.len();
                upper.push(level as u32);
                upper.resize(upper.len() + level * Self::width(1), 0);
                start as u32
            }
        };
        self.starts.words_mut().push(start);
    }

    /// What the `i`th of a batch is to be linked with, level by level from the ground: of those that
    /// were there, and of its batch.
    fn choose_links(
        &self,
        vectors: &Vectors,
        first: usize,
        i: usize,
        levels: &[usize],
    ) -> Vec<Vec<Near>> {
        let probe = vectors.probe_of(first + i);
        let mates: Vec<(usize, Near)> = (0..levels.len())
            .filter(|mate| *mate != i)
            .map(|mate| (levels[mate], self.near(vectors, &probe, (first + mate) as u32)))
            .collect();
        let mut start = match first {
            0 => vec![],
            _ => vec![self.near(vectors, &probe, self.entry)],
        };
        let mut chosen = vec![Vec::new(); levels[i] + 1];
        for level in (0..=self.top.max(levels[i])).rev() {
            let effort = if level > levels[i] { 1 } else { BUILD_EFFORT };
            if first > 0 && level <= self.top {
                start = self.search_level(vectors, &probe, &start, effort, level, &|_| true);
            }
            if level <= levels[i] {
                let there = if level <= self.top { start.as_slice() } else { &[] };
                let mates = mates.iter().filter(|(top, _)| *top >= level).map(|(_, near)| near);
                let mut candidates: Vec<Near> = there.iter().chain(mates).copied().collect();
                candidates.sort_unstable_by(|a, b| b.cmp(a));
                candidates.truncate(BUILD_EFFORT);
                chosen[level] = select(vectors, &candidates, LINKS);
            }
        }
        chosen
    }

    /// Links those that new nodes chose with the new nodes.
    fn link_back(
        &mut self,
        vectors: &Vectors,
        first: usize,
        level: usize,
        chosen: &[Vec<Vec<Near>>],
    ) {
        let mut back: Vec<(u32, Near)> = Vec::new();
        for (i, by_level) in chosen.iter().enumerate() {
            for near in by_level.get(level).into_iter().flatten() {
                let row = (first + i) as u32;
                back.push((near.row, Near { similarity: near.similarity, row }));
            }
        }
        back.sort_unstable_by_key(|(to, near)| (*to, near.row));
        let groups: Vec<&[(u32, Near)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let lists: Vec<(u32, Vec<u32>)> =
            groups.par_iter().map(|group| self.list_with(vectors, level, group)).collect();
        for (node, links) in lists {
            self.set_links(node as usize, level, &links);
        }
    }

    /// A node's links with some more, the best of them if they are too many.
    fn list_with(&self, vectors: &Vectors, level: usize, more: &[(u32, Near)]) -> (u32, Vec<u32>) {
        let node = more[0].0;
        let mut links = self.links(node as usize, level).to_vec();
        let new: Vec<Near> =
            more.iter().map(|(_, near)| *near).filter(|n| !links.contains(&n.row)).collect();
        let most = Self::width(level) - 1;
        if links.len() + new.len() <= most {
            links.extend(new.iter().map(|near| near.row));
            return (node, links);
        }
        let probe = vectors.probe_of(node as usize);
        let there = links.iter().map(|link| self.near(vectors, &probe, *link));
        let mut candidates: Vec<Near> = there.chain(new).collect();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        (node, select(vectors, &candidates, most).iter().map(|near| near.row).collect())
    }
}

/// The highest level of a node: each is reached by one in `LINKS` of the one below.
fn level_of(node: usize) -> usize {
    let uniform = Stream::new(SEED, "level", &[node as u64]).uniform();
    let level = -libm::log(1.0 - uniform) / libm::log(LINKS as f64);
    (level as usize).min(LEVELS)
}

/// Up to `most` of the candidates, most similar first, none of which is more similar to one chosen
/// before than to what all are compared with (the paper's algorithm 4); where that leaves few, the
/// most similar of the others too, so that copies of one vector are not cut off.
fn select(vectors: &Vectors, candidates: &[Near], most: usize) -> Vec<Near> {
    let mut chosen: Vec<(Near, Probe)> = Vec::with_capacity(most);
    let mut others = Vec::new();
    for near in candidates {
        if chosen.len() == most {
            break;
        }
        let covered = chosen
            .iter()
            .any(|(_, probe)| vectors.similarity(probe, near.row as usize) >= near.similarity);
        match covered {
            true => others.push(*near),
            false => chosen.push((*near, vectors.probe_of(near.row as usize))),
        }
    }
    let mut chosen: Vec<Near> = chosen.into_iter().map(|(near, _)| near).collect();
    let few = (most / 2).saturating_sub(chosen.len());
    chosen.extend(others.into_iter().take(few));
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::exact;
    use super::super::vectors::{Element, normalize};
    use super::*;

    /// Vectors in a space of fewer dimensions than they have numbers, as features of images are.
    fn vectors(rows: usize, dim: usize, element: Element, seed: u64) -> Vectors {
        let mut stream = Stream::new(seed, "vectors", &[]);
        let inner = 6;
        let mut normal =
            |n: usize| -> Vec<f32> { (0..n).map(|_| stream.normal() as f32).collect() };
        let axes = normal(inner * dim);
        let mut all = Vec::new();
        for _ in 0..rows {
            let at = normal(inner);
            let mut row: Vec<f32> = (0..dim)
                .map(|j| (0..inner).map(|i| at[i] * axes[i * dim + j]).sum::<f32>())
                .collect();
            normalize(&mut row);
            all.extend(row);
        }
        let mut vectors = Vectors::new(element, dim);
        vectors.push(Bytes::owned(Vectors::encode(element, dim, &all)));
        vectors
    }

    fn built(vectors: &Vectors, threads: usize) -> Graph {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut graph = Graph::new();
        assert!(pool.install(|| graph.extend(vectors, &mut |_| true)));
        graph
    }

    /// The share of the true `k` nearest that a search finds, over some of the vectors.
    fn recall(graph: &Graph, vectors: &Vectors, k: usize, counts: &dyn Fn(u32) -> bool) -> f64 {
        let (mut hits, mut all) = (0, 0);
        for row in (0..vectors.rows()).step_by(17) {
            let probe = vectors.probe_of(row);
            let truth = exact::search(vectors, &probe, k, counts);
            let found = graph.search(vectors, &probe, k, 64, counts);
            assert!(found.is_sorted_by(|a, b| a >= b) && found.iter().all(|n| counts(n.row)));
            hits += truth.iter().filter(|near| found.contains(near)).count();
            all += truth.len();
        }
        hits as f64 / all as f64
    }

    #[test]
    fn nearly_all_neighbours_are_found_whatever_the_numbers() {
        for (element, least) in [(Element::F32, 0.98), (Element::F16, 0.98), (Element::I8, 0.95)] {
            let vectors = vectors(3000, 24, element, 1);
            let graph = built(&vectors, 2);
            let found = recall(&graph, &vectors, 10, &|_| true);
            assert!(found >= least, "{element}: {found}");
            let odd = recall(&graph, &vectors, 10, &|row| row % 2 == 1);
            assert!(odd >= least, "{element}, without the even ones: {odd}");
        }
    }

    #[test]
    fn threads_change_nothing() {
        let vectors = vectors(1200, 16, Element::F32, 2);
        let (one, three) = (built(&vectors, 1), built(&vectors, 3));
        assert_eq!(one.parts(), three.parts());
        assert_eq!(one.entry(), three.entry());
    }

    #[test]
    fn it_grows_and_is_read_as_it_was_written() {
        let all = vectors(1500, 16, Element::F32, 3);
        let mut some = Vectors::new(Element::F32, 16);
        let bytes: Vec<u32> = (0..1000).flat_map(|row| all.floats(row)).map(f32::to_bits).collect();
        some.push(Bytes::owned(bytes));
        let mut graph = built(&some, 2);
        let parts = graph.parts().map(|p| Bytes::owned(bytemuck::cast_slice(p).to_vec()));
        graph = Graph::of(1000, parts, graph.entry()).unwrap();
        graph.extend(&all, &mut |_| true);
        assert_eq!(graph.nodes(), 1500);
        assert!(recall(&graph, &all, 10, &|_| true) > 0.98);
    }

    #[test]
    fn links_that_lead_nowhere_are_refused() {
        let vectors = vectors(200, 8, Element::F32, 4);
        let graph = built(&vectors, 1);
        let parts = || graph.parts().map(|p| bytemuck::cast_slice(p).to_vec());
        let of = |parts: [Vec<u32>; 3], entry| Graph::of(200, parts.map(Bytes::owned), entry);
        assert!(of(parts(), graph.entry()).is_ok());
        for (array, at, value) in
            [(0, 0, 99), (0, 1, 200), (1, 3, 1 << 30), (2, 0, 50), (2, 2, 1 << 20)]
        {
            let mut parts = parts();
            parts[array][at] = value;
            assert!(of(parts, graph.entry()).is_err(), "{array} {at}");
        }
        assert!(of(parts(), [200, 0]).is_err());
        assert!(Graph::of(199, parts().map(Bytes::owned), graph.entry()).is_err());
    }

    #[test]
    fn copies_are_found() {
        let mut vectors = Vectors::new(Element::F32, 4);
        let row = |i: usize| if i < 30 { [1.0, 0.0, 0.0, 0.0] } else { [0.0, 1.0, 0.0, 0.0] };
        let all: Vec<f32> = (0..60).flat_map(row).collect();
        vectors.push(Bytes::owned(Vectors::encode(Element::F32, 4, &all)));
        let graph = built(&vectors, 1);
        let found =
            graph.search(&vectors, &vectors.probe(&[0.0, 1.0, 0.0, 0.0]), 20, 64, &|_| true);
        assert!(found.len() == 20 && found.iter().all(|near| near.similarity == 1.0));
        let nothing = Graph::new();
        assert!(nothing.search(&vectors, &vectors.probe_of(0), 3, 10, &|_| true).is_empty());
    }
}
