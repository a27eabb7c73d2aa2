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
    #[should_panic(expected = "RgbImage: bytes for 2x2")]
    fn wrong_length_is_a_bug() {
        RgbImage::new(2, 2, vec![0; 11]);
    }
}
