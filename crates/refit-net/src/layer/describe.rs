//! Layers in a few words.

use std::fmt;

use super::{Layer, Windows};

impl fmt::Display for Layer {
    /// The kind and what tells it from others of its kind: `conv 3x3/2`, `dropout 0.2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Self::Conv(c) => {
                extents(f, c.kernel, c.stride)?;
                if c.dilation != [1; 2] {
                    write!(f, " dilation {}", c.dilation[0].max(c.dilation[1]))?;
                }
                if c.groups != 1 {
                    write!(f, " groups {}", c.groups)?;
                }
                Ok(())
            }
            Self::MaxPool(Windows { window, stride, .. })
            | Self::AvgPool { windows: Windows { window, stride, .. }, .. } => {
                extents(f, [*window; 2], [*stride; 2])
            }
            Self::Dropout(dropout) => write!(f, " {}", dropout.share),
            Self::Scale { factor } => write!(f, " {factor}"),
            Self::Upsample { factor } => write!(f, " {factor}x"),
            Self::Unflatten { size: [height, width] } => write!(f, " {height}x{width}"),
            Self::Shuffle { groups } => write!(f, " {groups}"),
            Self::Slice { first, channels } => write!(f, " {first}..{}", first + channels),
            Self::Hog(hog) => write!(f, " {0}x{0}, {1} bins", hog.cell, hog.bins),
            Self::ColourHistogram(colours) => {
                let (grid, bins) = (colours.grid, colours.bins());
                write!(f, " {grid}x{grid}, {bins} bins")
            }
            Self::TreeEnsemble(trees) => write!(f, " {} trees", trees.trees),
            Self::Neighbours(near) => write!(f, " {} of {}", near.k, near.rows),
            _ => Ok(()),
        }
    }
}

fn extents(f: &mut fmt::Formatter<'_>, size: [usize; 2], stride: [usize; 2]) -> fmt::Result {
    write!(f, " {}x{}", size[0], size[1])?;
    match stride {
        [1, 1] => Ok(()),
        [a, b] if a == b => write!(f, "/{a}"),
        [a, b] => write!(f, "/{a}x{b}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Conv, Dropout};

    #[test]
    fn a_layer_is_told_from_others_of_its_kind() {
        let said = |layer: Layer| layer.to_string();
        assert_eq!(said(Layer::Conv(Conv::square(64, 7).stride(2))), "conv 7x7/2");
        let conv = Conv { dilation: [2; 2], stride: [1, 2], ..Conv::k3(8).groups(8) };
        assert_eq!(said(Layer::Conv(conv)), "conv 3x3/1x2 dilation 2 groups 8");
        assert_eq!(said(Layer::MaxPool(Windows::new(3, 2))), "max_pool 3x3/2");
        assert_eq!(said(Layer::Dropout(Dropout::new(0.2))), "dropout 0.2");
        assert_eq!(said(Layer::Slice { first: 4, channels: 4 }), "slice 4..8");
        assert_eq!(said(Layer::Upsample { factor: 2 }), "upsample 2x");
        assert_eq!(said(Layer::Unflatten { size: [4, 3] }), "unflatten 4x3");
        assert_eq!(said(Layer::Add), "add");
    }
}
