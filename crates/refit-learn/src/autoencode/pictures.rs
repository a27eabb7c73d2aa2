//! Images and what is made of them, to look at.

use std::path::PathBuf;

use refit_data::{RgbImage, contact_sheet};
use refit_net::Network;

use super::anomaly::{Reconstructor, tensor_of};
use super::corrupt::HELD_OUT;
use super::feed::PictureFeed;
use crate::error::LearnError;

/// Pixels of a picture's side on a sheet.
const CELL: u32 = 96;

/// An image held out, and what the network makes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The file.
    pub path: PathBuf,
    /// As the network is to make it.
    pub original: RgbImage,
    /// As the network sees it, where it is spoiled.
    pub seen: Option<RgbImage>,
    /// As the network makes it.
    pub made: RgbImage,
}

/// Pictures in columns: the originals, what the network saw where that is something else, and what it
/// made of them. None without pictures.
pub fn sheet(pictures: &[Picture]) -> Option<RgbImage> {
    let row = |of: &dyn Fn(&Picture) -> Option<RgbImage>| -> Option<Vec<RgbImage>> {
        pictures.iter().map(of).collect()
    };
    let rows = [
        row(&|p| Some(p.original.clone())),
        row(&|p| p.seen.clone()),
        row(&|p| Some(p.made.clone())),
    ];
    let rows: Vec<Vec<RgbImage>> = rows.into_iter().flatten().collect();
    (!pictures.is_empty()).then(|| contact_sheet(&rows, CELL))
}

impl PictureFeed<'_> {
    /// Some of the images held out, spread evenly, and what a network makes of them.
    pub fn pictures(&self, network: &Network, most: usize) -> Result<Vec<Picture>, LearnError> {
        let Some(reconstructor) = Reconstructor::new(network, &self.options)? else {
            return Ok(Vec::new());
        };
        let (all, count) = (self.held_out.len(), self.held_out.len().min(most));
        let mut pictures = Vec::with_capacity(count);
        for place in (0..count).map(|i| i * all / count) {
            let path = &self.held_out[place].path;
            let original = self.preprocess.square(&*self.cache.get(path)?);
            let mut values = vec![0.0; self.preprocess.len()];
            self.preprocess.normalize_into(&original, &mut values);
            let corruption = self.settings.corruption;
            let key = (self.settings.seed, HELD_OUT, place as u64);
            corruption.apply(&mut values, &self.preprocess, key);
            let seen = (!corruption.is_nothing()).then(|| self.visible(&values));
            let size = self.preprocess.size;
            let batch = refit_data::Batch {
                images: values,
                labels: vec![0],
                indices: vec![place],
                n: 1,
                size,
            };
            let made = reconstructor.run(tensor_of(&batch, &self.device));
            let made: Vec<f32> = made.to_data().iter::<f32>().collect();
            pictures.push(Picture {
                path: path.clone(),
                original,
                seen,
                made: self.visible(&made),
            });
        }
        Ok(pictures)
    }

    /// Values as a network takes or makes them, as pixels.
    fn visible(&self, values: &[f32]) -> RgbImage {
        let size = self.preprocess.size;
        let (mean, std) = (self.preprocess.mean, self.preprocess.std);
        let byte = |at: usize| {
            let channel = at % 3;
            let value = values[channel * size * size + at / 3] * std[channel] + mean[channel];
            (value * 255.0).round().clamp(0.0, 255.0) as u8
        };
        let pixels = (0..3 * size * size).map(byte).collect();
        RgbImage::new(size as u32, size as u32, pixels)
    }
}
