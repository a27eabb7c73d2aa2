//! What training sees of some images, before it is begun.

use refit_data::{
    Augment, DecodeOptions, Mix, Preprocess, RgbImage, Sample, Stream, decode_file_in,
};
use refit_net::zoo;

use super::activations::fixed_views;
use super::body::{augment_stream, image_cache};
use super::images::Images;
use super::start::open_dataset;
use super::{Run, RunContext, labels};
use crate::error::LearnError;
use crate::extract::view_stream;
use crate::model::preprocess_for;
use crate::settings::Settings;
use crate::subsets::over_classes;
use crate::watch::Watch;

/// A training image, and what training makes of it.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The file and its class.
    pub sample: Sample,
    /// The name of the class.
    pub class: String,
    /// As the network sees it plainly.
    pub plain: RgbImage,
    /// As the first epochs see it, mixed with others where training would do that; with fixed views, those
    /// in turn.
    pub views: Vec<RgbImage>,
}

/// What a run by `settings` makes of `rows` training images, spread over the classes, in its first
/// `views` epochs: the same pixels. Mirroring is shown where it would be left out for what a look at
/// the features finds.
///
/// # Errors
/// If images cannot be read, or settings make no sense.
pub fn preview(
    settings: &Settings,
    rows: usize,
    views: usize,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Vec<Preview>, LearnError> {
    settings.training.augment().validate()?;
    let dataset = open_dataset(settings, watch)?;
    let settings = &settings.settled();
    let preprocess = preprocess_for(&zoo::find(&settings.backbone)?.input);
    let run = Run::to_measure(settings, context, watch, dataset);
    let images = run.checked_images()?;
    let train = &images.train;
    let artist = Artist { settings, preprocess, images: &images, cache: image_cache(&preprocess) };
    let one = |&index: &usize| {
        let sample = train[index].clone();
        Ok(Preview {
            plain: preprocess.square(&*artist.cache.get(&sample.path)?),
            class: run.dataset.classes[sample.label].clone(),
            views: (0..views).map(|epoch| artist.view(epoch, index)).collect::<Result<_, _>>()?,
            sample,
        })
    };
    let mut chosen = over_classes(&labels(train), rows);
    chosen.truncate(rows);
    chosen.iter().map(one).collect()
}

struct Artist<'a> {
    settings: &'a Settings,
    preprocess: Preprocess,
    images: &'a Images,
    cache: refit_data::ImageCache,
}

impl Artist<'_> {
    fn augment(&self) -> Augment {
        self.settings.training.augment()
    }

    /// What an epoch sees of an image.
    fn view(&self, epoch: usize, index: usize) -> Result<RgbImage, LearnError> {
        let own = self.square(epoch, index)?;
        match self.augment().mix {
            Some(mix) => self.mixed(mix, epoch, index, own),
            None => Ok(own),
        }
    }

    fn square(&self, epoch: usize, index: usize) -> Result<RgbImage, LearnError> {
        match fixed_views(self.settings) {
            0 => self.new_view(epoch, index),
            views => self.fixed_view((epoch + index) % views, index),
        }
    }

    /// As `ActivationFeed` draws it.
    fn fixed_view(&self, view: usize, index: usize) -> Result<RgbImage, LearnError> {
        let path = &self.images.train[index].path;
        let image = decode_file_in(path, &DecodeOptions::default(), self.preprocess.detail())?;
        if view == 0 {
            return Ok(self.preprocess.square(&image));
        }
        let mut stream = view_stream(self.settings.seed, &self.images.hashes[0][index], view);
        Ok(self.augment().square(&image, &self.preprocess, &mut stream))
    }

    /// As `ImageFeed` draws it.
    fn new_view(&self, epoch: usize, index: usize) -> Result<RgbImage, LearnError> {
        let image = self.cache.get(&self.images.train[index].path)?;
        let mut stream = augment_stream(self.settings.seed, epoch, index);
        Ok(self.augment().square(&image, &self.preprocess, &mut stream))
    }

    /// With its partner of the batch that the epoch's order puts it in.
    fn mixed(
        &self,
        mix: Mix,
        epoch: usize,
        index: usize,
        own: RgbImage,
    ) -> Result<RgbImage, LearnError> {
        let seed = self.settings.seed;
        let order =
            Stream::new(seed, "order", &[epoch as u64]).permutation(self.images.train.len());
        let mut batches = order.chunks(self.settings.training.batch);
        let Some((batch, place)) =
            batches.find_map(|batch| Some((batch, batch.iter().position(|i| *i == index)?)))
        else {
            return Ok(own);
        };
        let mixtures = mix.draw(seed, epoch, batch, self.preprocess.size);
        let Some(mixture) = mixtures[place] else { return Ok(own) };
        let partner = self.square(epoch, batch[mixture.partner])?;
        let planes = |image: &RgbImage| {
            let pixels = image.pixels().as_chunks::<3>().0;
            (0..3).flat_map(|c| pixels.iter().map(move |p| f32::from(p[c]))).collect::<Vec<f32>>()
        };
        let (mut values, size) = (planes(&own), self.preprocess.size);
        mixture.apply(&mut values, &planes(&partner), size);
        let area = size * size;
        let byte = |at: usize| values[at % 3 * area + at / 3].round() as u8;
        Ok(RgbImage::new(size as u32, size as u32, (0..3 * area).map(byte).collect()))
    }
}
