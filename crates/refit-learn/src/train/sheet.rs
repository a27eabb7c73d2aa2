//! What training sees of some images, before it is begun.

use std::time::Instant;

use refit_data::{Augment, Mix, Preprocess, RgbImage, Sample, Stream};
use refit_net::zoo;

use super::advise::spread;
use super::body::{augment_stream, image_cache};
use super::folder::RunFolder;
use super::start::open_dataset;
use super::{Run, RunContext, labels};
use crate::error::LearnError;
use crate::model::preprocess_for;
use crate::settings::Settings;
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
    /// As the first epochs see it, mixed with others where training would do that.
    pub views: Vec<RgbImage>,
}

/// What a run by `settings` makes of `images` training images, spread over the classes, in its first
/// `views` epochs: the same pixels. Mirroring is shown where it would be left out for what a look at
/// the features finds.
///
/// # Errors
/// If images cannot be read, or settings make no sense.
pub fn preview(
    settings: &Settings,
    images: usize,
    views: usize,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Vec<Preview>, LearnError> {
    settings.training.augment().validate()?;
    let dataset = open_dataset(settings, watch)?;
    let settings = &settings.settled();
    let preprocess = preprocess_for(&zoo::find(&settings.backbone)?.input);
    let (folder, started) = (RunFolder(None), Instant::now());
    let run =
        Run { settings, context, watch, dataset, folder, started, advice: None, is_trial: false };
    let train = run.checked_images()?.train;
    let artist = Artist { settings, preprocess, train: &train, cache: image_cache(&preprocess) };
    let one = |&index: &usize| {
        let sample = train[index].clone();
        Ok(Preview {
            plain: preprocess.square(&*artist.cache.get(&sample.path)?),
            class: run.dataset.classes[sample.label].clone(),
            views: (0..views).map(|epoch| artist.view(epoch, index)).collect::<Result<_, _>>()?,
            sample,
        })
    };
    let mut chosen = spread(&labels(&train), images);
    chosen.truncate(images);
    chosen.iter().map(one).collect()
}

struct Artist<'a> {
    settings: &'a Settings,
    preprocess: Preprocess,
    train: &'a [Sample],
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
        let image = self.cache.get(&self.train[index].path)?;
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
        let order = Stream::new(seed, "order", &[epoch as u64]).permutation(self.train.len());
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
