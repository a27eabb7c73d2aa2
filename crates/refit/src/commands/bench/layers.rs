//! `refit bench --layers`: where the time of a network goes.

use std::collections::BTreeMap;

use refit::net::{Graph, NodeId, Phase, Shape, StepTime, measure_peak};
use serde::Serialize;

use crate::output::{Side, percent, table};

/// The times of one step of the network's plan.
#[derive(Debug, Serialize)]
pub struct LayerTime {
    /// The first and the last of the layers that run as one.
    layers: String,
    /// `[channels, height, width]` of what it gives.
    output: String,
    forward: Speed,
    #[serde(skip_serializing_if = "Option::is_none")]
    backward: Option<Speed>,
}

/// How fast one direction of a step is.
#[derive(Debug, Clone, Copy, Serialize)]
struct Speed {
    milliseconds: f64,
    /// None for what multiplies nothing.
    gflop_per_second: Option<f64>,
    /// Of the f32 multiply-adds that this machine was measured to do at most, counted as in a direct
    /// convolution: bf16 and Winograd can exceed it.
    share_of_peak: Option<f64>,
}

/// Every step's times, and what the machine can do.
#[derive(Debug, Serialize)]
pub struct LayerTimes {
    peak_gflop_per_second: f64,
    layers: Vec<LayerTime>,
}

impl LayerTimes {
    /// Medians over `runs`, each the steps of one pass over `batch` images; `shapes` are the nodes'
    /// at the size that was run.
    pub fn new(graph: &Graph, shapes: &[Shape], batch: usize, runs: &[Vec<StepTime>]) -> Self {
        let peak = measure_peak();
        let mut times: BTreeMap<(NodeId, bool), (Vec<NodeId>, Vec<f64>)> = BTreeMap::new();
        for step in runs.iter().flatten() {
            let Some(&last) = step.layers.last() else { continue };
            let key = (last, step.phase == Phase::Backward);
            let row = times.entry(key).or_insert_with(|| (step.layers.clone(), Vec::new()));
            row.1.push(step.time.as_secs_f64());
        }
        let speed = |key: (NodeId, bool)| {
            let (layers, seconds) = times.get(&key)?;
            Some(Speed::new(operations(graph, shapes, layers, key.1) * batch as f64, seconds, peak))
        };
        let forward = times.keys().filter(|(_, backward)| !backward);
        let layers = forward.filter_map(|&(last, _)| {
            let fused = &times[&(last, false)].0;
            Some(LayerTime {
                layers: names(graph, fused),
                output: shapes[last].to_string(),
                forward: speed((last, false))?,
                backward: speed((last, true)),
            })
        });
        Self { peak_gflop_per_second: peak * 1e-9, layers: layers.collect() }
    }

    /// As a table.
    pub fn in_words(&self) -> String {
        let both = self.layers.iter().any(|l| l.backward.is_some());
        let mut header = vec!["layers", "output", "forward ms", "GFLOP/s", "of peak"];
        let mut sides = vec![Side::Left, Side::Left, Side::Right, Side::Right, Side::Right];
        if both {
            header.extend(["backward ms", "GFLOP/s", "of peak"]);
            sides.extend([Side::Right; 3]);
        }
        let mut rows: Vec<Vec<String>> = vec![header.into_iter().map(str::to_owned).collect()];
        for layer in &self.layers {
            let mut row = vec![layer.layers.clone(), layer.output.clone()];
            row.extend(layer.forward.cells());
            if let Some(backward) = layer.backward {
                row.extend(backward.cells());
            }
            rows.push(row);
        }
        let total = |of: fn(&LayerTime) -> f64| self.layers.iter().map(of).sum::<f64>();
        let forward = total(|l| l.forward.milliseconds);
        let backward = total(|l| l.backward.map_or(0.0, |b| b.milliseconds));
        let back = if both { format!(", backward {backward:.1} ms") } else { String::new() };
        format!(
            "{}\nforward {forward:.1} ms{back}; this machine's peak in f32: {:.0} GFLOP/s \
             (Winograd and bf16 can exceed it)\n",
            table(&sides, &rows),
            self.peak_gflop_per_second
        )
    }
}

impl Speed {
    fn new(operations: f64, seconds: &[f64], peak: f64) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = sorted[sorted.len() / 2];
        let rate = (operations > 0.0).then(|| operations / median);
        Self {
            milliseconds: 1e3 * median,
            gflop_per_second: rate.map(|r| r * 1e-9),
            share_of_peak: rate.map(|r| r / peak),
        }
    }

    fn cells(&self) -> [String; 3] {
        [
            format!("{:.2}", self.milliseconds),
            self.gflop_per_second.map_or_else(String::new, |r| format!("{r:.0}")),
            self.share_of_peak.map_or_else(String::new, percent),
        ]
    }
}

/// Floating-point operations an image. Going back, a layer's product is done twice, once towards
/// its weights and once towards its input, which the first layer does not need.
fn operations(graph: &Graph, shapes: &[Shape], layers: &[NodeId], backward: bool) -> f64 {
    let nodes = graph.nodes();
    let of = |&id: &NodeId| {
        let Some(&input) = nodes[id].inputs.first() else { return 0 };
        let products = match (backward, input) {
            (false, _) | (true, 0) => 1,
            (true, _) => 2,
        };
        2 * products * nodes[id].layer.multiply_adds(shapes[input], shapes[id])
    };
    layers.iter().map(of).sum::<u64>() as f64
}

fn names(graph: &Graph, layers: &[NodeId]) -> String {
    let name = |id: &NodeId| graph.nodes()[*id].name.as_str();
    match layers {
        [only] => name(only).to_owned(),
        [first, .., last] => format!("{} .. {}", name(first), name(last)),
        [] => String::new(),
    }
}
