//! Averages of weights: flatter places than where single steps end.

use burn::tensor::{Tensor, TensorData};
use refit_net::Network;

/// Moves `average` towards `net` after step `step` (from 0): it keeps a share `keeps` of itself, and
/// less early on, `(1 + step) / (10 + step)`, so that it soon forgets where it began.
pub(crate) fn follow(average: &mut Network, net: &Network, keeps: f64, step: u64) {
    let early = (1 + step) as f64 / (10 + step) as f64;
    let moves = (1.0 - keeps.min(early)) as f32;
    let names: Vec<String> = moving(net).map(str::to_owned).collect();
    for name in names {
        let values = net.parameters()[&name].value.to_data();
        let values = values.as_slice::<f32>().expect("networks hold f32");
        average.update(&name, |means| {
            means.iter_mut().zip(values).for_each(|(mean, value)| *mean += moves * (value - *mean));
        });
    }
}

/// The mean of networks that differ in their values only; of the first one's frozen parts, what they
/// are.
///
/// # Panics
/// If there are none.
pub(crate) fn mean(nets: &[&Network]) -> Network {
    let mut mean = nets[0].clone();
    let names: Vec<String> = moving(nets[0]).map(str::to_owned).collect();
    for name in names {
        let values: Vec<Vec<f32>> =
            nets.iter().map(|net| net.parameters()[&name].to_vec()).collect();
        let at = |i: usize| values.iter().map(|v| f64::from(v[i])).sum::<f64>() / nets.len() as f64;
        let means: Vec<f32> = (0..values[0].len()).map(|i| at(i) as f32).collect();
        let data = TensorData::new(means, [values[0].len()]);
        mean.set(&name, Tensor::from_data(data, nets[0].device()));
    }
    mean
}

/// The parameters that training moves, running statistics among them.
pub(crate) fn moving(net: &Network) -> impl Iterator<Item = &str> {
    let graph = net.graph();
    let layers = (0..graph.nodes().len()).filter(|id| !net.is_frozen(*id));
    layers.flat_map(|id| net.node_parameters(id)).map(|(name, _)| name)
}
