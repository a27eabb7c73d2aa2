//! Views of an image that a network may judge by beside the plain one: its mirror image, and corners.

use crate::preprocess::crop_and_resize;
use crate::{Preprocess, Resize, RgbImage};

/// The share of a side that a corner has where the preprocessing crops no less: that of the usual
/// 224 of 256 pixels.
const CORNER: f64 = 0.875;

/// A view of an image, `size` by `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Which of the four corners (top left, top right, bottom left, bottom right); none for the
    /// preprocessing's own crop.
    pub corner: Option<usize>,
    /// Whether left and right are mirrored.
    pub mirrored: bool,
}

impl View {
    /// The preprocessing's own.
    pub const PLAIN: Self = Self { corner: None, mirrored: false };

    /// The views in the order in which more of them are taken: the plain one and its mirror image, then
    /// each corner and its mirror image (the ten crops of Krizhevsky et al. 2012); without mirroring
    /// five.
    pub fn all(mirrored: bool) -> Vec<Self> {
        let corners = std::iter::once(None).chain((0..4).map(Some));
        let sides: &[bool] = if mirrored { &[false, true] } else { &[false] };
        corners
            .flat_map(|corner| sides.iter().map(move |&mirrored| Self { corner, mirrored }))
            .collect()
    }

    /// The view of an image, before its values are normalized.
    ///
    /// # Panics
    /// If the preprocessing is not [valid](Preprocess::validate).
    pub fn of(self, image: &RgbImage, preprocess: &Preprocess) -> RgbImage {
        // Mirrored before, so that a mirrored view is the view of the mirror image.
        let flipped;
        let image = match self.mirrored {
            true => {
                flipped = image.flipped_horizontal();
                &flipped
            }
            false => image,
        };
        match self.corner {
            Some(corner) => at_corner(image, preprocess, corner),
            None => preprocess.square(image),
        }
    }
}

fn at_corner(image: &RgbImage, preprocess: &Preprocess, corner: usize) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let part = |side: u32, share: f64| ((f64::from(side) * share).round() as u32).clamp(1, side);
    let [w, h] = match preprocess.resize {
        Resize::ShorterSide { to } => {
            let share = (preprocess.size as f64 / to as f64).min(CORNER);
            [part(width.min(height), share); 2]
        }
        Resize::Squash | Resize::Letterbox { .. } => [part(width, CORNER), part(height, CORNER)],
    };
    let left = if corner % 2 == 1 { width - w } else { 0 };
    let top = if corner / 2 == 1 { height - h } else { 0 };
    let size = preprocess.size as u32;
    let cut = |to| crop_and_resize(image, [left, top, w, h], to, preprocess.interpolation);
    match preprocess.resize {
        Resize::ShorterSide { .. } | Resize::Squash => cut((size, size)),
        Resize::Letterbox { .. } => preprocess.square(&cut((w, h))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interpolation;
    use crate::test_data::synthetic;

    fn preprocess(resize: Resize) -> Preprocess {
        let (mean, std) = ([0.5; 3], [0.5; 3]);
        Preprocess { size: 28, resize, interpolation: Interpolation::Bilinear, mean, std }
    }

    #[test]
    fn mirrored_views_are_views_of_the_mirror_image() {
        let image = synthetic(90, 61, 1);
        let mirror = image.flipped_horizontal();
        for resize in [
            Resize::ShorterSide { to: 32 },
            Resize::ShorterSide { to: 28 },
            Resize::Squash,
            Resize::Letterbox { fill: [0; 3] },
        ] {
            let preprocess = preprocess(resize);
            let views = View::all(true);
            assert_eq!((views.len(), views[0]), (10, View::PLAIN));
            assert_eq!(views[0].of(&image, &preprocess), preprocess.square(&image));
            for view in &views {
                let square = view.of(&image, &preprocess);
                assert_eq!((square.width(), square.height()), (28, 28));
                let other = View { mirrored: !view.mirrored, ..*view };
                assert_eq!(square, other.of(&mirror, &preprocess));
            }
        }
        assert!(View::all(false).iter().all(|v| !v.mirrored));
        assert_eq!(View::all(false).len(), 5);
    }

    #[test]
    fn corners_are_where_they_should_be() {
        // Four colours by quarter.
        let mut image = RgbImage::filled(64, 64, [0; 3]);
        for (at, pixel) in image.pixels_mut().as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let (x, y) = (at % 64, at / 64);
            *pixel = [(x / 32 * 200) as u8, (y / 32 * 200) as u8, 9];
        }
        let small = Preprocess { size: 8, ..preprocess(Resize::ShorterSide { to: 20 }) };
        for corner in 0..4 {
            let view = View { corner: Some(corner), mirrored: false };
            let square = view.of(&image, &small);
            let colour = [(corner % 2 * 200) as u8, (corner / 2 * 200) as u8, 9];
            assert!(square.pixels().as_chunks::<3>().0.iter().all(|p| *p == colour), "{corner}");
        }
        let one = RgbImage::filled(1, 1, [7; 3]);
        assert_eq!(View { corner: Some(3), mirrored: true }.of(&one, &small).pixel(3, 3), [7; 3]);
    }
}
