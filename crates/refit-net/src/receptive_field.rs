//! Receptive fields: which pixels a value depends on (Araujo et al. 2019,
//! <https://distill.pub/2019/computing-receptive-fields/>).

use crate::graph::{Graph, Node};
use crate::layer::Layer;
use crate::shape::Shape;

/// The pixels that each value of a map depends on, vertically and horizontally, those beyond the
/// image's edges included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceptiveField {
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Pixels of the image from one value to the next.
    pub stride: [usize; 2],
}

/// The pixels along one axis that the first value depends on.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: isize,
    last: isize,
    stride: usize,
}

/// A window that slides over the input along one axis.
#[derive(Debug, Clone, Copy)]
struct Window {
    size: usize,
    stride: usize,
    /// Pixels before the input, negative where some are taken away.
    before: isize,
}

impl Span {
    fn through(self, window: Window) -> Self {
        let first = self.first - window.before * self.stride as isize;
        let reach = (window.size - 1) * self.stride;
        Self {
            first,
            last: self.last - window.before * self.stride as isize + reach as isize,
            stride: self.stride * window.stride,
        }
    }

    fn join(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            stride: self.stride.max(other.stride),
        }
    }
}

impl Graph {
    /// The receptive field of every node at the nominal input size; none where a value depends on
    /// the whole image, or several share one (behind an upsampling). Gates do not count: what squeeze-and-excitation multiplies by always sees
    /// the whole image.
    pub fn receptive_fields(&self) -> Vec<Option<ReceptiveField>> {
        let mut spans: Vec<Option<[Span; 2]>> = Vec::with_capacity(self.nodes().len());
        for node in self.nodes() {
            let inputs = match node.layer {
                Layer::Gate => &node.inputs[..1],
                _ => &node.inputs[..],
            };
            let shape = node.inputs.first().map_or(node.shape, |&x| self.nodes()[x].shape);
            let step = |axis| {
                let window = window(node, shape, axis)?;
                let joined = inputs.iter().map(|&id| Some(spans[id]?[axis]));
                let joined = joined.reduce(|a, b| Some(a?.join(b?)));
                Some(joined.unwrap_or(Some(Span { first: 0, last: 0, stride: 1 }))?.through(window))
            };
            spans.push(step(0).zip(step(1)).map(<[Span; 2]>::from));
        }
        let field = |spans: [Span; 2]| ReceptiveField {
            size: spans.map(|s| (s.last - s.first) as usize + 1),
            stride: spans.map(|s| s.stride),
        };
        spans.into_iter().map(|spans| spans.map(field)).collect()
    }
}

/// What a layer reads of its input, `x`, along an axis (0: vertical); none if all of it.
fn window(node: &Node, x: Shape, axis: usize) -> Option<Window> {
    let Shape::Map { height, width, .. } = x else { return None };
    let pixels = [height, width][axis];
    let point = Window { size: 1, stride: 1, before: 0 };
    Some(match node.layer {
        Layer::Conv(conv) => {
            let (size, stride) = (conv.window()[axis], conv.stride[axis]);
            let (before, _) = conv.padding.resolve(axis, pixels, size, stride);
            Window { size, stride, before: before as isize }
        }
        Layer::MaxPool(windows) | Layer::AvgPool { windows, .. } => {
            let before = windows.pads(axis, pixels).0 as isize;
            Window { size: windows.window, stride: windows.stride, before }
        }
        Layer::Pad { rows, columns } => Window { before: [rows, columns][axis][0], ..point },
        Layer::AdaptiveAvgPool { size } => {
            let (windows, stride) = (size[axis], (pixels / size[axis]).max(1));
            // Windows overlap by a pixel where sizes do not divide.
            let overlap = usize::from(pixels > windows && !pixels.is_multiple_of(windows));
            Window { size: pixels.div_ceil(windows) + overlap, stride, before: 0 }
        }
        Layer::GlobalAvgPool
        | Layer::Flatten
        | Layer::Upsample { .. }
        | Layer::Hog(_)
        | Layer::ColourHistogram(_) => return None,
        _ => point,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Builder;
    use crate::layer::Conv;
    use crate::zoo;

    fn field(net: &str, layer: &str) -> Option<ReceptiveField> {
        let graph = zoo::find(net).unwrap().graph();
        graph.receptive_fields()[graph.find(layer).unwrap()]
    }

    fn square(size: usize, stride: usize) -> Option<ReceptiveField> {
        Some(ReceptiveField { size: [size; 2], stride: [stride; 2] })
    }

    #[test]
    fn fields_are_those_that_papers_tell() {
        // Araujo et al., table 1, has 195 for AlexNet and 212 for VGG-16, and 483 for a ResNet-50
        // whose stages halve the map at their end; torchvision's do at their beginning.
        assert_eq!(field("alexnet", "features.12"), square(195, 32));
        assert_eq!(field("vgg16", "features.30"), square(212, 32));
        assert_eq!(field("resnet50", "layer4"), square(427, 32));
        assert_eq!(field("resnet18", "conv1"), square(7, 2));
        assert_eq!(field("resnet18", "avgpool"), None);
        assert_eq!(field("resnet18", "fc"), None);
    }

    #[test]
    fn branches_join_and_axes_differ() {
        let (mut g, x) = Builder::new("two", Shape::map(3, 16, 16));
        let tall = Conv { kernel: [5, 1], dilation: [2, 1], ..Conv::k3(4) };
        let tall = Conv { padding: crate::layer::Padding::Symmetric([4, 0]), ..tall };
        let a = g.conv("tall", x, tall);
        let b = g.conv("small", x, Conv::k3(4));
        let y = g.concat("join", &[a, b]);
        let graph = g.finish(y, "").unwrap();
        let fields = graph.receptive_fields();
        assert_eq!(fields[1], Some(ReceptiveField { size: [9, 1], stride: [1, 1] }));
        assert_eq!(fields[3], Some(ReceptiveField { size: [9, 3], stride: [1, 1] }));
    }
}
