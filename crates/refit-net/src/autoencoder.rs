//! Autoencoders: a network's body, a bottleneck, and the way back to the images (Hinton and
//! Salakhutdinov 2006, <https://doi.org/10.1126/science.1127647>).

use std::collections::BTreeMap;

use crate::graph::{Builder, Graph, GraphError, GraphRecord, Wire};
use crate::layer::{BatchNorm, Conv, Layer, Linear, Misfit};
use crate::network::Network;
use crate::shape::Shape;

/// Values of the map that the bottleneck is made of, at most: more channels are joined to fewer.
const MOST_ENCODED: usize = 4096;
/// Channels of a decoder's first map, at most; each stage halves them.
const MOST_CHANNELS: usize = 256;
/// Channels of a decoder's map at least.
const LEAST_CHANNELS: usize = 16;
/// What the names of the layers between body and code begin with.
const NECK: &str = "neck";
/// The layer whose value is the code.
const BOTTLENECK: &str = "bottleneck";
/// What the names of a decoder's layers begin with.
const DECODER: &str = "decoder";
/// The layer that makes pixels.
const PIXELS: &str = "decoder.pixels";
/// The share of their usual deviation that its weights begin with.
const FIRST_SHARE: f32 = 0.1;

impl Graph {
    /// The autoencoder whose encoder is this graph up to its last map of several pixels: a linear
    /// layer makes `features` values of it, the output, and a decoder makes images of these again
    /// ([`reconstruction`](Self::reconstruction)). `size` is the height and width of the images.
    ///
    /// The decoder mirrors the encoder: from a small map, each stage doubles height and width by
    /// repeating pixels and convolves, so that no value is written more often than its neighbours
    /// (Odena et al. 2016, <https://doi.org/10.23915/distill.00003>), and has half the channels of
    /// the one before.
    ///
    /// # Errors
    /// If there is no such map, the body does not take images of that size, or names are taken.
    pub fn autoencoder(&self, features: usize, size: usize) -> Result<Self, GraphError> {
        let channels = self.input_shape().channels();
        let (mut g, x) = Builder::new(self.name(), Shape::map(channels, size, size));
        let mut wires = BTreeMap::from([(0, x)]);
        for id in self.ancestors(&[self.features()]).into_iter().skip(1) {
            let node = &self.nodes()[id];
            let inputs: Vec<Wire> = node.inputs.iter().map(|i| wires[i]).collect();
            wires.insert(id, g.layer(&node.name, node.layer, &inputs));
        }
        let is_map = |wire: Wire| match g.shape(wire) {
            Shape::Map { height, width, .. } => height * width > 1,
            Shape::Vector { .. } => false,
        };
        let last = wires.iter().skip(1).rev().map(|(_, &wire)| wire).find(|&wire| is_map(wire));
        let encoded = last.ok_or_else(|| GraphError::Misfit {
            net: self.name().to_owned(),
            layer: self.nodes()[self.features()].name.clone(),
            misfit: Misfit(format!(
                "has no map of several pixels before it, given images of {size}x{size}"
            )),
        })?;
        let code = encode(&mut g, encoded, features);
        let images = decode(&mut g, code, encoded, x);
        g.reconstruction(images);
        // What stood between the last map and the classifier is not needed any more.
        let whole = GraphRecord::from(&g.finish(code, "")?);
        Self::try_from(&whole.pruned())
    }
}

impl Network {
    /// The [autoencoder](Graph::autoencoder) that begins with this network's body and its values;
    /// all that is added has values that `seed` and names decide, and nothing is frozen.
    ///
    /// # Errors
    /// As [`Graph::autoencoder`].
    pub fn autoencoder(&self, features: usize, size: usize, seed: u64) -> Result<Self, GraphError> {
        let graph = self.graph().autoencoder(features, size)?;
        let mut net = self.lending(graph, seed);
        // The first images are nearly grey, not noise many times as strong as any image.
        net.update(&format!("{PIXELS}.weight"), |w| w.iter_mut().for_each(|v| *v *= FIRST_SHARE));
        Ok(net)
    }
}

/// From a map to the code.
fn encode(g: &mut Builder, x: Wire, features: usize) -> Wire {
    let Shape::Map { channels, height, width } = g.shape(x) else { unreachable!("a map") };
    let most = (MOST_ENCODED / (height * width)).max(LEAST_CHANNELS);
    let y = match channels > most {
        true => g.scope(NECK, |g| convolved(g, x, Conv::k1(most))),
        false => x,
    };
    let y = g.flatten(&format!("{NECK}.flatten"), y);
    g.linear(BOTTLENECK, y, features)
}

/// From the code to images like those of `input`, by way of maps with as many channels as `encoded`
/// or fewer.
fn decode(g: &mut Builder, code: Wire, encoded: Wire, input: Wire) -> Wire {
    let (
        Shape::Map { channels, height: from, .. },
        Shape::Map { channels: colours, height: to, .. },
    ) = (g.shape(encoded), g.shape(input))
    else {
        unreachable!("maps")
    };
    let stages = (to as f64 / from as f64).log2().round().max(1.0) as usize;
    let mut size = to.div_ceil(1 << stages);
    let mut channels = channels.clamp(LEAST_CHANNELS, MOST_CHANNELS);
    g.scope(DECODER, |g| {
        let linear = Linear { bias: false, ..Linear::new(channels * size * size) };
        let y = g.layer("linear", Layer::Linear(linear), &[code]);
        let y = g.unflatten("map", y, [size; 2]);
        let y = g.batch_norm("norm", y, BatchNorm::default());
        let mut y = g.relu("relu", y);
        for stage in 0..stages {
            (channels, size) = ((channels / 2).max(LEAST_CHANNELS), 2 * size);
            y = g.scope(&format!("stages.{stage}"), |g| {
                let y = g.upsample("upsample", y, 2);
                convolved(g, y, Conv::k3(channels))
            });
        }
        let y = g.conv("pixels", y, Conv::k3(colours).biased());
        match (size - to) as isize {
            0 => y,
            more => {
                let ends = [-(more / 2), more / 2 - more];
                g.layer("crop", Layer::Pad { rows: ends, columns: ends }, &[y])
            }
        }
    })
}

fn convolved(g: &mut Builder, x: Wire, conv: Conv) -> Wire {
    let y = g.conv("conv", x, conv);
    let y = g.batch_norm("norm", y, BatchNorm::default());
    g.relu("relu", y)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::edit::{Edit, HeadKind};
    use crate::zoo;

    fn autoencoder(name: &str, features: usize, size: usize) -> Graph {
        zoo::find(name).unwrap().graph().autoencoder(features, size).unwrap()
    }

    #[test]
    fn every_body_is_mirrored_at_its_own_size() {
        for architecture in zoo::all() {
            let graph = architecture.graph();
            let size = architecture.input.size;
            let coder = graph.autoencoder(24, size).unwrap();
            assert_eq!(coder.nodes()[coder.output()].shape, Shape::vector(24));
            let images = coder.reconstruction().unwrap();
            assert_eq!(coder.nodes()[images].shape, graph.input_shape(), "{}", graph.name());
            assert!(coder.auxiliary().is_empty() && coder.head().is_empty());
        }
    }

    #[test]
    fn sizes_need_not_be_the_body_s_own_nor_powers_of_two() {
        for (name, size) in [("small", 96), ("small", 50), ("resnet18", 64), ("alexnet", 100)] {
            let coder = autoencoder(name, 8, size);
            let images = coder.reconstruction().unwrap();
            assert_eq!(coder.nodes()[images].shape, Shape::map(3, size, size), "{name} at {size}");
        }
    }

    #[test]
    fn a_decoder_mirrors_the_stages_and_repeats_pixels() {
        let coder = autoencoder("small", 32, 64);
        let shapes = |under: &str| -> Vec<Shape> {
            let nodes = coder.nodes().iter().filter(|n| n.name.ends_with("relu"));
            nodes.filter(|n| n.name.starts_with(under)).map(|n| n.shape).collect()
        };
        let there = [(32, 32), (64, 16), (128, 8), (256, 4)];
        let back = [(256, 4), (128, 8), (64, 16), (32, 32), (16, 64)];
        let maps = |of: &[(usize, usize)]| -> Vec<Shape> {
            of.iter().map(|&(c, size)| Shape::map(c, size, size)).collect()
        };
        assert_eq!(shapes("stages"), maps(&there));
        assert_eq!(shapes("decoder"), maps(&back));
        let doubles = coder.nodes().iter().filter(|n| n.layer == Layer::Upsample { factor: 2 });
        assert_eq!(doubles.count(), 4);
    }

    #[test]
    fn the_body_keeps_its_values_and_a_new_head_drops_the_decoder() {
        let device = Device::flex();
        let net = zoo::find("small").unwrap().random(3, &device);
        let coder = net.autoencoder(16, 64, 4).unwrap();
        let name = "stages.2.conv.weight";
        assert_eq!(coder.parameters()[name].to_vec(), net.parameters()[name].to_vec());
        let head = Edit::ReplaceHead { classes: 5, kind: HeadKind::Linear, keep: vec![] };
        let classifier = coder.edit(&[head], 0).unwrap();
        assert_eq!(classifier.graph().reconstruction(), None);
        assert!(classifier.parameters().keys().all(|name| !name.starts_with(DECODER)));
        let features = classifier.graph().features();
        assert_eq!(classifier.graph().nodes()[features].name, BOTTLENECK);
        assert_eq!(classifier.graph().total_multiply_adds(), 16 * 5 + coder.multiply_adds());
    }

    #[test]
    fn a_record_tells_of_the_reconstruction() {
        let coder = autoencoder("small", 8, 64);
        let json = serde_json::to_string(&GraphRecord::from(&coder)).unwrap();
        let record: GraphRecord = serde_json::from_str(&json).unwrap();
        assert_eq!(Graph::try_from(&record).unwrap(), coder);
        let wrong = GraphRecord { reconstruction: Some(BOTTLENECK.into()), ..record };
        let error = Graph::try_from(&wrong).unwrap_err().to_string();
        assert!(error.contains("`bottleneck` of `small` makes [n, 8] of images of"), "{error}");
    }

    #[test]
    fn networks_without_maps_are_refused_in_words() {
        let (mut g, x) = Builder::new("flat", Shape::map(3, 4, 4));
        let y = g.flatten("flatten", x);
        let y = g.linear("fc", y, 5);
        let error = g.finish(y, "fc").unwrap().autoencoder(4, 4).unwrap_err();
        assert_eq!(
            error.to_string(),
            "layer `flatten` of `flat` has no map of several pixels before it, given images of 4x4"
        );
    }
}
