//! Layers that no gradient goes through: descriptors of images, and learners that are no networks.

use rayon::prelude::*;
use refit_kernels::Buffer;

use super::map::Map;
use crate::layer::Layer;

/// What a layer gives, if it is one of these; `parameters` in the layer's order. Every image is
/// computed by itself.
pub(crate) fn forward(layer: &Layer, x: &Map, parameters: &[Vec<f32>]) -> Option<Map> {
    let [n, h, w, c] = x.shape;
    let features = match layer {
        Layer::Hog(hog) => hog.features([h, w]),
        Layer::ColourHistogram(colours) => colours.features(),
        Layer::TreeEnsemble(trees) => trees.classes,
        Layer::Neighbours(neighbours) => neighbours.classes,
        _ => return None,
    };
    let mut y = vec![0.0; n * features];
    let images = x.values.par_chunks((h * w * c).max(1));
    images.zip(y.par_chunks_mut(features.max(1))).for_each(|(x, y)| match layer {
        Layer::Hog(hog) => hog.describe(x, [h, w, c], y),
        Layer::ColourHistogram(colours) => colours.describe(x, [h, w, c], y),
        Layer::TreeEnsemble(trees) => trees.judge(x, parameters, y),
        Layer::Neighbours(neighbours) => neighbours.judge(x, parameters, y),
        _ => {}
    });
    Some(Map::new([n, 1, 1, features], Buffer::from_slice(&y)))
}
