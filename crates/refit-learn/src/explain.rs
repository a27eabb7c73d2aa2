//! Where in an image a network sees what it says: class-activation maps.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use refit_data::{DecodeOptions, RgbImage, decode_file_in};
use refit_net::{Compiled, Graph, Layer, Sensed, Sensitivity, Shape, Value};
use serde::Serialize;

use crate::error::LearnError;
use crate::metrics::arg_max;
use crate::model::Model;

/// How a map of a layer becomes a heat map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The channels' sum, each weighted by the mean gradient of the class's logit, as far as it is
    /// positive: what speaks for the class (Selvaraju et al. 2017,
    /// <https://arxiv.org/abs/1610.02391>).
    #[default]
    GradCam,
    /// The first principal component of the map, whatever the class: what stands out (Muhammad and
    /// Yeasin 2020, <https://arxiv.org/abs/2008.00299>).
    EigenCam,
}

/// A map of how much each part of an image matters.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// Pixels in a row.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
    /// Row by row from the top, `[0, 1]`; the largest is 1 unless all are 0.
    pub values: Vec<f32>,
}

impl HeatMap {
    /// A heat map of values of any size: negative ones are 0, the largest is 1.
    ///
    /// # Panics
    /// If there are not `width * height` values.
    pub fn new(width: usize, height: usize, mut values: Vec<f32>) -> Self {
        assert_eq!(values.len(), width * height, "HeatMap: values of {width}x{height}");
        // What is no number shows nothing.
        values.iter_mut().filter(|v| !v.is_finite()).for_each(|v| *v = 0.0);
        let top = values.iter().copied().fold(0.0_f32, f32::max);
        let scale = if top > 0.0 { top.recip() } else { 0.0 };
        values.iter_mut().for_each(|v| *v = (*v * scale).clamp(0.0, 1.0));
        Self { width, height, values }
    }

    /// The value at a point of the image, bilinear between the centres of pixels; `x` and `y` are
    /// shares of the sides, `[0, 1]`.
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let place = |share: f32, side: usize| {
            let at = (share * side as f32 - 0.5).clamp(0.0, (side - 1) as f32);
            (at as usize, (at as usize + 1).min(side - 1), at.fract())
        };
        let ((left, right, dx), (top, low, dy)) = (place(x, self.width), place(y, self.height));
        let row = |y: usize| {
            let (a, b) = (self.values[y * self.width + left], self.values[y * self.width + right]);
            a + dx * (b - a)
        };
        let (a, b) = (row(top), row(low));
        a + dy * (b - a)
    }
}

/// What a network says of an image, and where it sees that.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The number of the class that is explained.
    pub class: usize,
    /// Its probability, `[0, 1]`.
    pub probability: f32,
    /// The map over what the network sees of the image: the square that its preprocessing cuts.
    pub map: HeatMap,
}

/// A model made ready to explain images one by one, in f32.
#[derive(Debug)]
pub struct Explainer<'a> {
    model: &'a Model,
    layer: String,
    way: Way,
}

/// How the layer's map is had.
#[derive(Debug)]
enum Way {
    Gradient(Box<Sensitivity>),
    Forward(Compiled),
}

impl<'a> Explainer<'a> {
    /// Prepares the maps of a layer, or of the last layer of a block; without one, of
    /// [`last_map`].
    ///
    /// # Errors
    /// If the model knows no classes, or there is no such layer, or it gives no map of several
    /// pixels, or the output does not depend on it.
    pub fn new(model: &'a Model, layer: Option<&str>, method: Method) -> Result<Self, LearnError> {
        model.check_classes()?;
        let (graph, size) = (model.network.graph(), model.card.preprocess.size);
        let shapes = graph.shapes_at(size, size)?;
        let net = graph.name().to_owned();
        let node = match layer {
            Some(name) => graph.find(name)?,
            None => last_map(graph, &shapes).ok_or(LearnError::NoMaps { net: net.clone() })?,
        };
        let layer = graph.nodes()[node].name.clone();
        if !is_map(shapes[node]) {
            return Err(LearnError::NoMap { net, layer, shape: shapes[node] });
        }
        let way = match method {
            Method::GradCam => Way::Gradient(Box::new(Sensitivity::new(&model.network, &layer)?)),
            Method::EigenCam => {
                let output = &graph.nodes()[graph.output()].name;
                Way::Forward(model.network.compile(&[layer.as_str(), output.as_str()])?)
            }
        };
        Ok(Self { model, layer, way })
    }

    /// The layer whose map it is.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// Explains a class of an image file; the likeliest if none is given.
    ///
    /// # Errors
    /// If the image cannot be read.
    ///
    /// # Panics
    /// If the class is past the model's last.
    pub fn explain_file(
        &self,
        path: &Path,
        class: Option<usize>,
    ) -> Result<Explanation, LearnError> {
        let preprocess = &self.model.card.preprocess;
        let image = decode_file_in(path, &DecodeOptions::default(), preprocess.detail())?;
        Ok(self.explain_square(&preprocess.square(&image), class))
    }

    /// Explains a class of what the network sees of an image ([`refit_data::Preprocess::square`]); the likeliest
    /// if none is given.
    ///
    /// # Panics
    /// If the square is not of the network's size, or the class is past the model's last.
    pub fn explain_square(&self, square: &RgbImage, class: Option<usize>) -> Explanation {
        let preprocess = &self.model.card.preprocess;
        let mut values = vec![0.0; preprocess.len()];
        preprocess.normalize_into(square, &mut values);
        let data = TensorData::new(values, [1, 3, preprocess.size, preprocess.size]);
        let images = Tensor::<4>::from_data(data, self.model.network.device());
        let chosen = |logits: &[f32]| class.unwrap_or_else(|| arg_max(logits));
        let (output, map) = match &self.way {
            Way::Gradient(sensitivity) => {
                let sensed = sensitivity.run(images, |logits| {
                    let mut weights = vec![0.0; logits.len()];
                    weights[chosen(logits)] = 1.0;
                    weights
                });
                let map = grad_cam(&sensed);
                (sensed.output, map)
            }
            Way::Forward(compiled) => {
                let mut values = compiled.run(images).into_iter();
                let (map, output) = (values.next(), values.next());
                let map = eigen_cam(&map.expect("the layer's map"));
                (output.expect("the network's output").to_vec(), map)
            }
        };
        let class = chosen(&output);
        Explanation { class, probability: self.model.probabilities(&output)[class], map }
    }
}

/// The last layer that gives a map of several pixels, poolings, dropouts and paddings left out,
/// which show nothing new; `shapes` are those of all nodes at the size that the network runs at.
pub fn last_map(graph: &Graph, shapes: &[Shape]) -> Option<usize> {
    let shows = |layer: &Layer| {
        !matches!(
            layer,
            Layer::Input { .. }
                | Layer::MaxPool(_)
                | Layer::AvgPool { .. }
                | Layer::AdaptiveAvgPool { .. }
                | Layer::Dropout(_)
                | Layer::Pad { .. }
        )
    };
    let mut needed = graph.needed().into_iter().rev();
    needed.find(|&id| is_map(shapes[id]) && shows(&graph.nodes()[id].layer))
}

fn is_map(shape: Shape) -> bool {
    matches!(shape, Shape::Map { height, width, .. } if height * width > 1)
}

/// A map `[1, c, h, w]` as its sides and the values of its channels.
fn channels(value: &Value) -> (usize, usize, Vec<f32>) {
    let dims = value.dims();
    (dims[3], dims[2], value.to_vec())
}

fn grad_cam(sensed: &Sensed) -> HeatMap {
    let (width, height, maps) = channels(&sensed.values);
    let gradients = sensed.gradient.to_vec();
    let pixels = width * height;
    let mut sum = vec![0.0; pixels];
    for (map, gradient) in maps.chunks_exact(pixels).zip(gradients.chunks_exact(pixels)) {
        let weight = gradient.iter().sum::<f32>() / pixels as f32;
        sum.iter_mut().zip(map).for_each(|(sum, v)| *sum += weight * v);
    }
    HeatMap::new(width, height, sum)
}

fn eigen_cam(map: &Value) -> HeatMap {
    let (width, height, maps) = channels(map);
    HeatMap::new(width, height, first_component(&maps, width * height))
}

/// The rows of `maps`, `[channels, pixels]`, projected on their first right singular vector, scaled
/// by its singular value: by power iteration. Of its two signs, the one whose sum is positive.
fn first_component(maps: &[f32], pixels: usize) -> Vec<f32> {
    const ROUNDS: usize = 100;
    let energy = |map: &&[f32]| map.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    // The strongest channel is hardly ever orthogonal to what all have in common.
    let strongest = maps.chunks_exact(pixels).max_by(|a, b| energy(a).total_cmp(&energy(b)));
    let mut at: Vec<f64> = strongest.unwrap_or(&[]).iter().map(|v| f64::from(*v)).collect();
    for _ in 0..ROUNDS {
        let norm = at.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm == 0.0 || !norm.is_finite() {
            return vec![0.0; pixels];
        }
        let mut next = vec![0.0; pixels];
        for map in maps.chunks_exact(pixels) {
            let along: f64 = map.iter().zip(&at).map(|(v, a)| f64::from(*v) * a).sum();
            next.iter_mut().zip(map).for_each(|(n, v)| *n += along / norm * f64::from(*v));
        }
        at = next;
    }
    let sign = if at.iter().sum::<f64>() < 0.0 { -1.0 } else { 1.0 };
    at.into_iter().map(|v| (sign * v) as f32).collect()
}

#[cfg(test)]
mod tests {
    use refit_data::{Preprocess, Resize};
    use refit_net::{Builder, Conv, Network, zoo};

    use super::*;
    use crate::model::Card;

    /// Tells images that are red from those that are blue, by the mean of the channels.
    fn red_or_blue() -> Model {
        let (mut g, x) = Builder::new("rgb", Shape::map(3, 8, 8));
        let y = g.conv("mix", x, Conv::k1(3));
        let y = g.relu("relu", y);
        let y = g.global_avg_pool("pool", y);
        let y = g.linear("fc", y, 2);
        let mut network = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Default::default());
        network.update("mix.weight", |w| {
            w.copy_from_slice(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        });
        network.update("fc.weight", |w| w.copy_from_slice(&[1.0, 0.0, -1.0, -1.0, 0.0, 1.0]));
        let lite = zoo::find("efficientnet_lite0").unwrap();
        let card = Model::random(lite, 0, &Default::default()).card;
        let preprocess = Preprocess {
            size: 8,
            resize: Resize::Squash,
            mean: [0.0; 3],
            std: [1.0; 3],
            ..card.preprocess
        };
        let classes = vec!["red".to_owned(), "blue".to_owned()];
        Model { network, card: Card { preprocess, classes, ..card } }
    }

    #[test]
    fn a_class_is_seen_where_it_is() {
        let model = red_or_blue();
        let half = |i: u32| if i % 8 < 4 { [200, 0, 0] } else { [0, 0, 100] };
        let image = RgbImage::new(8, 8, (0..64).flat_map(half).collect());
        let explainer = Explainer::new(&model, None, Method::GradCam).unwrap();
        assert_eq!(explainer.layer(), "relu");
        let red = explainer.explain_square(&image, None);
        assert_eq!(red.class, 0);
        assert_eq!((red.map.at(0.2, 0.5), red.map.at(0.8, 0.5)), (1.0, 0.0));
        let blue = explainer.explain_square(&image, model.class("blue").ok());
        assert_eq!((blue.map.at(0.2, 0.5), blue.map.at(0.8, 0.5)), (0.0, 1.0));
        assert!((red.probability + blue.probability - 1.0).abs() < 1e-6);
        // What stands out is the stronger half, whatever the class.
        let eigen = Explainer::new(&model, Some("relu"), Method::EigenCam).unwrap();
        let map = eigen.explain_square(&image, Some(1)).map;
        assert!(map.at(0.2, 0.5) > 0.99 && map.at(0.8, 0.5) < 0.01, "{map:?}");
        let pool = Explainer::new(&model, Some("pool"), Method::GradCam).unwrap_err();
        assert!(pool.to_string().starts_with("layer `pool` of `rgb` gives [n, 3], and"), "{pool}");
        assert!(model.class("green").unwrap_err().to_string().contains("`green`"));
    }

    /// Without batch norms, with classifiers half-way, with gates, on one channel.
    #[test]
    fn networks_of_every_kind_are_explained() {
        for name in ["lenet5", "squeezenet1_1", "googlenet", "mobilenet_v3_small"] {
            let architecture = zoo::find(name).unwrap();
            let model = Model::random(architecture, 1, &Default::default()).for_rgb().unwrap();
            let side = model.card.preprocess.size as u32;
            let noise = (0..3 * side * side).map(|i| (i * 7919 % 251) as u8);
            let image = RgbImage::new(side, side, noise.collect());
            for method in [Method::GradCam, Method::EigenCam] {
                let explainer = Explainer::new(&model, None, method).unwrap();
                let found = explainer.explain_square(&image, Some(3));
                assert!((0.0..=1.0).contains(&found.probability), "{name}");
                assert!(found.map.width >= 5 && found.map.height >= 5, "{name}");
            }
        }
    }

    #[test]
    fn heat_maps_are_scaled_and_smooth() {
        let map = HeatMap::new(2, 2, vec![-1.0, 2.0, 0.0, 4.0]);
        assert_eq!(map.values, [0.0, 0.5, 0.0, 1.0]);
        assert_eq!((map.at(0.0, 0.0), map.at(1.0, 1.0), map.at(0.75, 0.75)), (0.0, 1.0, 1.0));
        assert_eq!((map.at(0.5, 0.0), map.at(0.5, 0.5)), (0.25, 0.375));
        assert_eq!(HeatMap::new(1, 2, vec![2.0, f32::NAN]).values, [1.0, 0.0]);
        assert_eq!(HeatMap::new(1, 1, vec![0.0]).values, [0.0]);
    }

    #[test]
    fn the_first_component_is_what_channels_have_in_common() {
        // Three channels: twice and thrice one pattern, and noise of less energy.
        let pattern = [0.0, 3.0, 1.0, 0.0];
        let mut maps: Vec<f32> = [2.0, 3.0].iter().flat_map(|f| pattern.map(|p| f * p)).collect();
        maps.extend([0.1, 0.0, 0.0, -0.1]);
        let found = HeatMap::new(2, 2, first_component(&maps, 4)).values;
        for (found, wanted) in found.iter().zip([0.0, 1.0, 1.0 / 3.0, 0.0]) {
            assert!((found - wanted).abs() < 1e-3, "{found}, not {wanted}");
        }
        // The sign of the values does not matter.
        let turned: Vec<f32> = maps.iter().map(|v| -v).collect();
        let turned = HeatMap::new(2, 2, first_component(&turned, 4)).values;
        assert!((turned[1] - 1.0).abs() < 1e-6);
        assert_eq!(first_component(&[0.0; 8], 4), [0.0; 4]);
    }

    #[test]
    fn every_network_has_a_last_map() {
        for network in zoo::all() {
            let graph = network.graph();
            let shapes: Vec<Shape> = graph.nodes().iter().map(|n| n.shape).collect();
            let node = &graph.nodes()[last_map(&graph, &shapes).expect(network.name)];
            let Shape::Map { height, width, .. } = node.shape else { panic!("{}", network.name) };
            assert!((4..=20).contains(&height) && width == height, "{}: {node:?}", network.name);
        }
    }
}
