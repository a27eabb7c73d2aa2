//! An image in memory: eight-bit RGB, rows from the top.

/// An RGB image: `height` rows of `width` pixels of three bytes, no padding, top row first.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// An image from its bytes, `[height, width, 3]`.
    ///
    /// # Panics
    /// If a side is zero or `pixels` is not `width * height * 3` bytes long.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "RgbImage: sides must not be zero, got {width}x{height}");
        assert_eq!(
            pixels.len(),
            width as usize * height as usize * 3,
            "RgbImage: bytes for {width}x{height}"
        );
        Self { width, height, pixels }
    }

    /// An image of one colour.
    ///
    /// # Panics
    /// If a side is zero.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        Self::new(width, height, colour.repeat(width as usize * height as usize))
    }

    /// Pixels in a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, `[height, width, 3]`, to be changed in place.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// The bytes, `[height, width, 3]`, without the image.
    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// The colour at column `x` of row `y`.
    ///
    /// # Panics
    /// If the point lies outside.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        assert!(
            x < self.width && y < self.height,
            "RgbImage: ({x}, {y}) outside {}x{}",
            self.width,
            self.height
        );
        let at = (y as usize * self.width as usize + x as usize) * 3;
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    /// Mirrors left and right, in place.
    pub fn flip_horizontal(&mut self) {
        let (pixels, _) = self.pixels.as_chunks_mut::<3>();
        pixels.chunks_exact_mut(self.width as usize).for_each(<[[u8; 3]]>::reverse);
    }

    /// Mirrors top and bottom, in place.
    pub fn flip_vertical(&mut self) {
        let stride = 3 * self.width as usize;
        let (above, below) = self.pixels.split_at_mut(self.height as usize / 2 * stride);
        let rows = above.chunks_exact_mut(stride).zip(below.rchunks_exact_mut(stride));
        rows.for_each(|(upper, lower)| upper.swap_with_slice(lower));
    }

    /// The image turned counterclockwise by so many quarters of a circle.
    pub fn turned(&self, quarters: usize) -> Self {
        let (width, height) = (self.width as usize, self.height as usize);
        let (columns, rows) = if quarters % 2 == 1 { (height, width) } else { (width, height) };
        let source = self.pixels.as_chunks::<3>().0;
        let from = |x: usize, y: usize| match quarters % 4 {
            0 => y * width + x,
            1 => x * width + width - 1 - y,
            2 => (height - 1 - y) * width + width - 1 - x,
            _ => (height - 1 - x) * width + y,
        };
        let places = (0..rows).flat_map(|y| (0..columns).map(move |x| (x, y)));
        let pixels = places.flat_map(|(x, y)| source[from(x, y)]).collect();
        Self { width: columns as u32, height: rows as u32, pixels }
    }

    /// Left and right mirrored: what [`flip_horizontal`](Self::flip_horizontal) would leave.
    pub fn flipped_horizontal(&self) -> Self {
        let rows = self.pixels.chunks_exact(self.width as usize * 3);
        let pixels = rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev()).flatten();
        Self { pixels: pixels.copied().collect(), ..*self }
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_each_row() {
        let mut image = RgbImage::new(2, 2, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let flipped = image.flipped_horizontal();
        image.flip_horizontal();
        assert_eq!(image, flipped);
        assert_eq!(image.pixels(), [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
        assert_eq!(image.pixel(1, 0), [1, 2, 3]);
        assert_eq!(format!("{image:?}"), "RgbImage(2x2)");
    }

    #[test]
    fn turns_and_flips_agree() {
        let image = RgbImage::new(3, 2, (0..18).collect());
        let quarter = image.turned(1);
        assert_eq!((quarter.width(), quarter.height()), (2, 3));
        assert_eq!(
            (quarter.pixel(0, 0), quarter.pixel(0, 2)),
            (image.pixel(2, 0), image.pixel(0, 0))
        );
        assert_eq!(quarter.turned(1), image.turned(2));
        assert_eq!(quarter.turned(2), image.turned(3));
        assert_eq!(quarter.turned(3), image.turned(4));
        assert_eq!(image.turned(0), image);
        for mut flipped in [image, RgbImage::new(1, 3, (0..9).collect())] {
            let half = flipped.turned(2).flipped_horizontal();
            flipped.flip_vertical();
            assert_eq!(flipped, half);
        }
    }

    #[test]
    #[should_panic(expected = "RgbImage: bytes for 2x2")]
    fn wrong_length_is_a_bug() {
        RgbImage::new(2, 2, vec![0; 11]);
    }
}
