//! How a tensor's axes are made of a layer's: transposes and reshapes change the view of a value,
//! not the value.

use super::constant::places;
use crate::shape::Shape;

/// An axis of a layer's value; of a vector, its features are channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    Images,
    Channels,
    Rows,
    Columns,
}

impl Axis {
    /// Whether it is a side of the map.
    pub fn is_spatial(self) -> bool {
        matches!(self, Self::Rows | Self::Columns)
    }
}

/// A part of an axis: every `stride`-th of its places, `size` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub axis: Axis,
    pub size: usize,
    pub stride: usize,
}

/// One axis of a tensor: parts of a layer's axes, the outermost first; none where its size is 1.
pub(super) type Dim = Vec<Part>;

/// A tensor that holds a layer's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// The layer.
    pub node: usize,
    /// The tensor's axes.
    pub dims: Vec<Dim>,
}

const IMAGES: Part = Part { axis: Axis::Images, size: 1, stride: 1 };

fn whole(axis: Axis, size: usize) -> Dim {
    if size == 1 { Vec::new() } else { vec![Part { axis, size, stride: 1 }] }
}

impl View {
    /// As PyTorch keeps it: `[n, c, h, w]` or `[n, features]`.
    pub fn new(node: usize, shape: Shape) -> Self {
        let mut dims = vec![vec![IMAGES], whole(Axis::Channels, shape.channels())];
        if let Shape::Map { height, width, .. } = shape {
            dims.extend([whole(Axis::Rows, height), whole(Axis::Columns, width)]);
        }
        Self { node, dims }
    }

    /// With axes in another order.
    pub fn transposed(&self, order: &[usize]) -> Self {
        Self { node: self.node, dims: order.iter().map(|&axis| self.dims[axis].clone()).collect() }
    }

    /// The same axes of another layer's value.
    pub fn of(&self, node: usize) -> Self {
        Self { node, dims: self.dims.clone() }
    }

    /// Values an image.
    pub fn elements(&self) -> usize {
        self.dims.iter().map(size_of).product()
    }

    /// In axes of these sizes, the one of the images being given as 0; `None` where they do not
    /// divide the axes.
    pub fn reshaped(&self, sizes: &[usize]) -> Option<Self> {
        let mut parts = self.dims.iter().flatten().copied().collect::<Vec<_>>().into_iter();
        let mut left: Option<Part> = None;
        let mut dims = Vec::with_capacity(sizes.len());
        for &size in sizes {
            let mut dim = Dim::new();
            if size == 0 {
                let images = left.take().or_else(|| parts.next())?;
                if images.axis != Axis::Images {
                    return None;
                }
                dims.push(vec![images]);
                continue;
            }
            let mut wanted = size;
            while wanted > 1 {
                let part = left.take().or_else(|| parts.next())?;
                if part.axis == Axis::Images {
                    return None;
                }
                if part.size <= wanted && wanted.is_multiple_of(part.size) {
                    wanted /= part.size;
                    dim.push(part);
                } else if part.size.is_multiple_of(wanted) {
                    let inner = part.size / wanted;
                    dim.push(Part { size: wanted, stride: part.stride * inner, ..part });
                    left = Some(Part { size: inner, ..part });
                    wanted = 1;
                } else {
                    return None;
                }
            }
            dims.push(joined(dim));
        }
        (left.is_none() && parts.next().is_none()).then_some(Self { node: self.node, dims })
    }

    /// The axis that holds the channels and nothing else, all of them in order.
    pub fn channel_axis(&self, channels: usize) -> Option<usize> {
        let dim = whole(Axis::Channels, channels);
        match channels {
            1 => self.dims.iter().position(Vec::is_empty),
            _ => self.dims.iter().position(|d| *d == dim),
        }
    }
}

/// An axis's size; that of the images counts as 1.
pub(super) fn size_of(dim: &Dim) -> usize {
    dim.iter().map(|part| part.size).product()
}

/// Neighbouring parts of one axis that lie next to each other are one.
fn joined(dim: Dim) -> Dim {
    let mut joined = Dim::new();
    for part in dim {
        match joined.last_mut() {
            Some(last) if last.axis == part.axis && last.stride == part.size * part.stride => {
                *last = Part { size: last.size * part.size, ..part };
            }
            _ => joined.push(part),
        }
    }
    joined
}

/// Whether an axis of a tensor is that of the images.
pub(super) fn is_images(dim: &Dim) -> bool {
    dim.iter().any(|part| part.axis == Axis::Images)
}

/// Whether an axis holds places of an image only, or nothing.
pub(super) fn is_spatial(dim: &Dim) -> bool {
    dim.iter().all(|part| part.axis.is_spatial())
}

/// Where each place of a tensor's axis stands among a vector's features: the map's values channel
/// by channel.
pub(super) fn feature_order(dim: &Dim, shape: Shape) -> Vec<usize> {
    let (rows, columns) = match shape {
        Shape::Map { height, width, .. } => (height, width),
        Shape::Vector { .. } => (1, 1),
    };
    let sizes: Vec<usize> = dim.iter().map(|part| part.size).collect();
    let stride = |part: &Part| match part.axis {
        Axis::Channels => part.stride * rows * columns,
        Axis::Rows => part.stride * columns,
        _ => part.stride,
    };
    let strides: Vec<usize> = dim.iter().map(stride).collect();
    places(&sizes, &strides).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: Shape = Shape::map(6, 2, 3);

    #[test]
    fn reshapes_split_and_join_axes() {
        let x = View::new(0, MAP);
        let split = x.reshaped(&[0, 2, 3, 2, 3]).unwrap();
        assert_eq!(split.dims[1], [Part { axis: Axis::Channels, size: 2, stride: 3 }]);
        assert_eq!(split.reshaped(&[0, 6, 2, 3]).unwrap(), x);
        let dealt = split.transposed(&[0, 2, 1, 3, 4]).reshaped(&[0, 6, 2, 3]).unwrap();
        assert_eq!(dealt.dims[1].iter().map(|p| p.stride).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(feature_order(&dealt.dims[1], Shape::map(6, 1, 1)), [0, 3, 1, 4, 2, 5]);
        assert!(x.reshaped(&[0, 4, 9]).is_none());
        assert!(x.reshaped(&[0, 6, 2]).is_none());
    }

    #[test]
    fn features_flattened_channels_last_know_their_places() {
        let last = View::new(0, Shape::map(2, 1, 3)).transposed(&[0, 2, 3, 1]);
        let flat = last.reshaped(&[0, 6]).unwrap();
        assert_eq!(feature_order(&flat.dims[1], Shape::map(2, 1, 3)), [0, 3, 1, 4, 2, 5]);
        assert_eq!(last.channel_axis(2), Some(3));
    }
}
