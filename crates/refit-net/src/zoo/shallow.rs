//! Inputs that need no network: what a learner may be given instead of a network's features. They
//! have no parameters, and no head until one is put on top.

use super::{Architecture, InputSpec, Interpolation};
use crate::graph::{Builder, Graph, GraphError, Wire};
use crate::layer::{ColourHistogram, Divisor, Hog, Layer, Windows};
use crate::shape::Shape;

/// Height and width of the images, in pixels.
const SIZE: usize = 128;

const fn row(name: &'static str, paper: &'static str) -> Architecture {
    Architecture {
        name,
        paper,
        names_as: "no parameters",
        licence: "none needed",
        input: InputSpec {
            size: SIZE,
            resize: SIZE,
            interpolation: Interpolation::Bilinear,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        build,
    }
}

/// All inputs.
pub(super) const ARCHITECTURES: &[Architecture] = &[
    row("pixels", "the image at 16x16 pixels"),
    row("colours", "Swain and Ballard 1991, https://doi.org/10.1007/BF00130487"),
    row("hog", "Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177"),
    row("handmade", "pixels, colours and hog together"),
];

fn build(name: &str) -> Result<Graph, GraphError> {
    let (mut g, x) = Builder::new(name, Shape::map(3, SIZE, SIZE));
    let y = match name {
        "pixels" => pixels(&mut g, x),
        "colours" => colours(&mut g, x),
        "hog" => hog(&mut g, x),
        _ => {
            let parts = [pixels(&mut g, x), colours(&mut g, x), hog(&mut g, x)];
            g.concat("features", &parts)
        }
    };
    g.finish(y, "")
}

/// Means of 8x8 pixels: 768 values.
fn pixels(g: &mut Builder, x: Wire) -> Wire {
    let y = g.avg_pool("pool", x, Windows::new(8, 8), Divisor::Inside);
    g.flatten("pixels", y)
}

/// Histograms of 72 colours in nine squares: 648 values.
fn colours(g: &mut Builder, x: Wire) -> Wire {
    g.layer("colours", Layer::ColourHistogram(ColourHistogram::new(3)), &[x])
}

/// Nine orientations in cells of 16 pixels: 1764 values.
fn hog(g: &mut Builder, x: Wire) -> Wire {
    g.layer("hog", Layer::Hog(Hog::new(16)), &[x])
}

#[cfg(test)]
mod tests {
    use crate::zoo;

    #[test]
    fn inputs_give_vectors_of_known_lengths_and_have_no_parameters() {
        let lengths = [("pixels", 768), ("colours", 648), ("hog", 1764), ("handmade", 3180)];
        for (name, length) in lengths {
            let architecture = zoo::find(name).unwrap();
            let graph = architecture.graph();
            assert_eq!(graph.nodes()[graph.features()].shape.elements(), length, "{name}");
            assert!(!architecture.has_parameters() && architecture.embedded().is_none());
            let net = architecture.pretrained(&Default::default()).unwrap();
            assert_eq!(net.parameter_count(), 0);
        }
        assert!(zoo::find("lenet5").unwrap().has_parameters());
    }
}
