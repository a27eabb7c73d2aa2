//! A small network for small pictures, which encodes as well as classifies: strided convolutions
//! instead of pooling (Springenberg et al. 2014, <https://arxiv.org/abs/1412.6806>), each with a
//! batch norm.

use super::{Architecture, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError};
use crate::layer::{BatchNorm, Conv};
use crate::shape::Shape;

/// Height and width of its pictures.
const SIZE: usize = 64;

pub(super) const ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "small",
    paper: "Springenberg et al. 2014, https://arxiv.org/abs/1412.6806",
    names_as: "stages.0 to stages.3",
    licence: "none published",
    input: InputSpec {
        size: SIZE,
        resize: SIZE,
        interpolation: Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.5; 3],
    },
    build,
}];

/// Filters by stage; each halves the map.
const STAGES: [usize; 4] = [32, 64, 128, 256];

fn build(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, SIZE, SIZE));
    let mut y = x;
    for (stage, filters) in STAGES.into_iter().enumerate() {
        y = g.scope(&format!("stages.{stage}"), |g| {
            let y = g.conv("conv", y, Conv::k3(filters).stride(2));
            let y = g.batch_norm("norm", y, BatchNorm::default());
            g.relu("relu", y)
        });
    }
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("fc", y, 1000);
    g.finish(y, "fc")
}
