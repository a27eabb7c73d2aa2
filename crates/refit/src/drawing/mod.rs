//! Networks as drawings.

mod dot;
mod layout;
mod svg;

pub use dot::dot;
pub use svg::svg;

use refit::net::{Graph, Layer, Shape};

/// A network to draw.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Its layers.
    pub graph: &'a Graph,
    /// Which of them are frozen.
    pub frozen: &'a [bool],
    /// A line above it.
    pub title: &'a str,
}

impl Picture<'_> {
    /// What stands in a layer's box: its name, and what it does and gives.
    fn lines(&self, node: usize) -> [String; 2] {
        let node = &self.graph.nodes()[node];
        let shape = match node.shape {
            Shape::Map { channels, height, width } => format!("{channels}x{height}x{width}"),
            Shape::Vector { features } => features.to_string(),
        };
        [node.name.clone(), format!("{}: {shape}", node.layer)]
    }

    /// A light colour for each family of layers.
    fn colour(&self, node: usize) -> &'static str {
        match self.graph.nodes()[node].layer {
            Layer::Conv(_) | Layer::Linear(_) => "#cfe2ff",
            Layer::BatchNorm(_)
            | Layer::LayerNorm(_)
            | Layer::LocalResponseNorm(_)
            | Layer::LayerScale(_) => "#e2d9f3",
            Layer::Activation { .. } => "#d1e7dd",
            Layer::MaxPool(_)
            | Layer::AvgPool { .. }
            | Layer::AdaptiveAvgPool { .. }
            | Layer::GlobalAvgPool => "#ffe5d0",
            Layer::Add | Layer::Concat | Layer::Gate => "#fff3cd",
            Layer::TreeEnsemble(_) | Layer::Neighbours(_) => "#cfe2ff",
            Layer::Hog(_) | Layer::ColourHistogram(_) => "#ffe5d0",
            _ => "#f1f3f5",
        }
    }
}
