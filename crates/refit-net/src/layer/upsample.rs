//! Layers of decoders: from a vector to a map, and from a map to a larger one.

use super::Misfit;
use super::conv2d::MOST_PIXELS;
use crate::shape::Shape;

/// A map whose pixels become squares of `factor` by `factor`.
pub(super) fn upsampled(input: Shape, factor: usize) -> Result<Shape, Misfit> {
    let size = |size: usize| size.checked_mul(factor).filter(|&s| (1..=MOST_PIXELS).contains(&s));
    if let Shape::Map { channels, height, width } = input
        && let (Some(height), Some(width)) = (size(height), size(width))
    {
        return Ok(Shape::map(channels, height, width));
    }
    Err(Misfit(format!("makes maps {factor} times as large, given {input}")))
}

/// A vector as a map of `size`, channel by channel.
pub(super) fn unflattened(input: Shape, size: [usize; 2]) -> Result<Shape, Misfit> {
    let [height, width] = size;
    let sane = size.iter().all(|v| (1..=1024).contains(v));
    match input {
        Shape::Vector { features } if sane && features > 0 => {
            match features.is_multiple_of(height * width) {
                true => Ok(Shape::map(features / (height * width), height, width)),
                false => Err(Misfit(format!("deals {features} values out to {height}x{width}"))),
            }
        }
        _ => {
            Err(Misfit(format!("makes maps of {height}x{width} pixels of a vector, given {input}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_grow_and_vectors_become_maps() {
        assert_eq!(upsampled(Shape::map(5, 3, 4), 2).unwrap(), Shape::map(5, 6, 8));
        assert_eq!(unflattened(Shape::vector(24), [2, 3]).unwrap(), Shape::map(4, 2, 3));
    }

    #[test]
    fn what_cannot_grow_is_refused_in_words() {
        let said = |r: Result<Shape, Misfit>| r.unwrap_err().to_string();
        assert_eq!(
            said(upsampled(Shape::vector(5), 2)),
            "makes maps 2 times as large, given [n, 5]"
        );
        for factor in [0, usize::MAX, 1 << 40] {
            assert!(upsampled(Shape::map(1, 2, 2), factor).is_err());
        }
        assert_eq!(said(unflattened(Shape::vector(7), [2, 2])), "deals 7 values out to 2x2");
        for (input, size) in [(Shape::map(4, 2, 2), [2, 2]), (Shape::vector(0), [1, 1])] {
            assert!(said(unflattened(input, size)).contains("of a vector"));
        }
        assert!(unflattened(Shape::vector(7), [0, 2]).is_err());
    }
}
