//! How much new images look, layer by layer, like those a network was trained on.

use refit_net::{Layer, Network, Value};
use serde::{Deserialize, Serialize};

/// Groups that a network's layers are seen in, from the stem up.
pub const DEPTHS: usize = 7;

/// How far the images are from the pretraining's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Statistics of the layers are about those of the pretraining; only the top differs.
    Near,
    /// They depart from the middle up.
    Middling,
    /// They differ at most depths.
    Far,
}

/// Statistics of the images in a network's layers against those of its pretraining.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Images looked at.
    pub images: usize,
    /// The block that each group begins with.
    pub layers: Vec<String>,
    /// For each group the mean, over its batch norms and their channels, of the Kullback-Leibler
    /// divergence between a normal distribution with the images' mean and variance and one with the
    /// stored ones.
    pub divergence: Vec<f64>,
    /// The same for photographs like those of the pretraining.
    pub reference: Vec<f64>,
    /// Whether the reference was made with this very network.
    pub own_reference: bool,
    /// The mean over the inner groups, as a multiple of the reference's.
    pub distance: f64,
    /// The first inner group, from 0, that stands five times as far as the reference.
    pub departs: Option<usize>,
    /// What this says.
    pub verdict: Verdict,
}

/// Distances between the verdicts. Measured over 128 images each: ants and bees 2.5, clothing 2.9,
/// flowers 3.9, skin lesions 14.
const NEAR: f64 = 4.2;
const FAR: f64 = 6.0;

/// The multiple of the reference from which a group counts as different.
const DEPARTS: f64 = 5.0;

impl Similarity {
    /// Sums the groups up.
    pub(crate) fn new(
        images: usize,
        layers: Vec<String>,
        divergence: Vec<f64>,
        reference: &Reference,
        own_reference: bool,
    ) -> Self {
        let (all, count) = (groups(&reference.divergence), divergence.len());
        // A network of fewer layers has fewer groups.
        let reference: Vec<f64> = (0..count).map(|i| all[i * all.len() / count]).collect();
        let inner = if count > 2 { 1..count - 1 } else { 0..count };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let distance = mean(&divergence[inner.clone()]) / mean(&reference[inner.clone()]);
        let departs = inner.clone().find(|&i| divergence[i] > DEPARTS * reference[i]);
        let verdict = match distance {
            d if d < NEAR => Verdict::Near,
            d if d < FAR => Verdict::Middling,
            _ => Verdict::Far,
        };
        Self { images, layers, divergence, reference, own_reference, distance, departs, verdict }
    }
}

/// Divergences that photographs like those of the pretraining give.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Reference {
    /// The network that they were measured with.
    pub network: String,
    /// By group of batch norms, from the stem up.
    pub divergence: Vec<f64>,
}

impl Reference {
    /// The embedded network's.
    pub(crate) fn embedded() -> Self {
        let json = include_str!("../../../../assets/efficientnet_lite0.reference.json");
        serde_json::from_str(json).expect("a file of this project")
    }
}

/// Means over [`DEPTHS`] groups of nearly equal size.
pub(crate) fn groups(values: &[f64]) -> Vec<f64> {
    let bounds = bounds(values.len());
    let mean = |w: &[usize]| values[w[0]..w[1]].iter().sum::<f64>() / (w[1] - w[0]) as f64;
    bounds.windows(2).map(mean).collect()
}

/// Where groups of `count` things begin and the last ends.
fn bounds(count: usize) -> Vec<usize> {
    let groups = DEPTHS.min(count).max(1);
    (0..=groups).map(|i| i * count / groups).collect()
}

/// The layers of a network that are looked at.
pub(crate) struct Depths {
    /// What each batch norm of the body takes, and its name, from the stem up.
    pub norms: Vec<(String, String)>,
    /// The block that each group of them (of convolutions, where there are no norms) begins with.
    pub starts: Vec<String>,
    /// What these blocks take, but for those that take the images.
    pub cuts: Vec<String>,
}

impl Depths {
    pub(crate) fn of(net: &Network) -> Self {
        let graph = net.graph();
        let nodes = graph.nodes();
        let needed = graph.needed();
        let body = |id: &usize| needed.contains(id) && !graph.is_head(*id);
        let input = |id: usize| nodes[id].inputs[0];
        let is_norm = |id: &usize| matches!(nodes[*id].layer, Layer::BatchNorm(_));
        let norms: Vec<usize> = (0..nodes.len()).filter(body).filter(is_norm).collect();
        let convs: Vec<usize> = (0..nodes.len())
            .filter(body)
            .filter(|id| matches!(nodes[*id].layer, Layer::Conv(_)))
            .collect();
        // Groups are of norms, where there are any: a group begins with what its first one takes.
        let taken: Vec<usize> = norms.iter().map(|&id| input(id)).filter(|&id| id != 0).collect();
        let layers = if norms.is_empty() { convs } else { taken };
        let heads = if layers.is_empty() { vec![] } else { bounds(layers.len()) };
        // A group begins where a block does, if one does among its first convolutions.
        let start = |group: &[usize]| -> usize {
            let own = &layers[group[0]..group[1]];
            let begins = |id: &&usize| group[0] == 0 || block(net, **id) != nodes[**id].name;
            own.iter().find(begins).or(own.first()).copied().unwrap_or(0)
        };
        let starts: Vec<usize> = heads.windows(2).map(start).collect();
        let name = |id: usize| nodes[id].name.clone();
        Self {
            norms: norms.iter().map(|&id| (name(input(id)), name(id))).collect(),
            cuts: starts.iter().map(|&id| input(id)).filter(|&id| id != 0).map(name).collect(),
            starts: starts.iter().map(|&id| block(net, id)).collect(),
        }
    }
}

/// The largest block that begins with a layer, or the layer.
fn block(net: &Network, id: usize) -> String {
    let name = &net.graph().nodes()[id].name;
    let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
    let mut prefixes = ends.map(|end| &name[..end]);
    let begins = |prefix: &&str| net.graph().find_first(prefix).is_ok_and(|first| first == id);
    prefixes.find(begins).unwrap_or(name).to_owned()
}

/// Sums of a layer's channels.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChannelSums {
    count: f64,
    sums: Vec<[f64; 2]>,
}

impl ChannelSums {
    /// Adds a batch.
    pub(crate) fn add(&mut self, value: &Value) {
        let dims = value.dims();
        let (n, channels) = (dims[0], dims[1]);
        let pixels: usize = dims[2..].iter().product();
        self.sums.resize(channels, [0.0; 2]);
        self.count += (n * pixels) as f64;
        for (i, plane) in value.to_vec().chunks_exact(pixels.max(1)).enumerate() {
            let of_plane = sum_and_squares(plane);
            let all = &mut self.sums[i % channels];
            all.iter_mut().zip(of_plane).for_each(|(all, own)| *all += own);
        }
    }

    /// The mean over channels of the divergence from stored means and variances.
    pub(crate) fn divergence(&self, mean: &[f32], variance: &[f32], epsilon: f64) -> f64 {
        let channel = |([sum, square], (m0, v0)): (&[f64; 2], (&f32, &f32))| {
            let m = sum / self.count;
            let v = (square / self.count - m * m).max(0.0) + epsilon;
            let v0 = f64::from(*v0) + epsilon;
            0.5 * ((v + (m - f64::from(*m0)).powi(2)) / v0 - 1.0 - (v / v0).ln())
        };
        let channels = self.sums.iter().zip(mean.iter().zip(variance));
        channels.map(channel).sum::<f64>() / self.sums.len().max(1) as f64
    }
}

/// Eight sums side by side, so that one need not wait for another.
fn sum_and_squares(values: &[f32]) -> [f64; 2] {
    let (mut sums, mut squares) = ([0.0; 8], [0.0; 8]);
    for values in values.chunks(8) {
        for ((sum, square), v) in sums.iter_mut().zip(&mut squares).zip(values) {
            let v = f64::from(*v);
            *sum += v;
            *square += v * v;
        }
    }
    [sums.iter().sum(), squares.iter().sum()]
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use refit_net::zoo;

    use super::*;

    #[test]
    fn a_divergence_is_that_of_normal_distributions() {
        let device = Device::flex();
        let x = Tensor::<4>::from_data([[[[1.0, 3.0]], [[0.0, 0.0]]]], &device);
        let mut sums = ChannelSums::default();
        sums.add(&Value::Map(x));
        // Mean 2 and variance 1 against 0 and 4; then exactly as stored, but for epsilon.
        let first = 0.5 * ((1.0 + 4.0) / 4.0 - 1.0 - 0.25_f64.ln());
        let found = sums.divergence(&[0.0, 0.0], &[4.0, 0.0], 1e-12);
        assert!((found - first / 2.0).abs() < 1e-6, "{found}");
    }

    #[test]
    fn depths_begin_with_blocks() {
        let net = |name: &str| zoo::find(name).unwrap().random(0, &Device::flex());
        let lite0 = Depths::of(&net("efficientnet_lite0"));
        assert_eq!(lite0.norms.len(), 49);
        assert_eq!(lite0.norms[0], ("conv_stem".into(), "bn1".into()));
        assert_eq!(lite0.starts.len(), DEPTHS);
        assert!(lite0.starts[1..].iter().all(|s| s.starts_with("blocks.")), "{:?}", lite0.starts);
        // The first block takes the images.
        assert_eq!(lite0.cuts.len(), DEPTHS - 1);
        let vgg = Depths::of(&net("vgg11"));
        assert!(vgg.norms.is_empty() && vgg.starts.len() == DEPTHS, "{:?}", vgg.starts);
        let resnet = Depths::of(&net("resnet18"));
        assert!(resnet.starts[6].starts_with("layer4"), "{:?}", resnet.starts);
    }

    #[test]
    fn the_verdict_follows_the_inner_groups() {
        let reference = Reference::embedded();
        let flat = groups(&reference.divergence);
        let scaled = |factors: [f64; DEPTHS]| {
            let divergence = flat.iter().zip(factors).map(|(r, f)| r * f).collect();
            Similarity::new(128, vec![], divergence, &reference, true)
        };
        let near = scaled([1.0, 1.8, 2.0, 2.0, 3.0, 3.8, 6.0]);
        assert_eq!((near.verdict, near.departs), (Verdict::Near, None));
        let middle = scaled([1.0, 4.0, 4.0, 4.4, 5.5, 7.0, 9.0]);
        assert_eq!((middle.verdict, middle.departs), (Verdict::Middling, Some(4)));
        let far = scaled([3.0, 16.0, 12.0, 12.0, 18.0, 15.0, 9.0]);
        assert_eq!((far.verdict, far.departs), (Verdict::Far, Some(1)));
        let few = Similarity::new(128, vec![], vec![flat[0]], &reference, false);
        assert!((few.distance - 1.0).abs() < 1e-9 && few.verdict == Verdict::Near);
    }
}
