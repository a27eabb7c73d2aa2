//! The number of images a step, where it is left to the run.

use refit_net::Training;

use super::Run;
use super::images::Images;
use super::start::Start;
use crate::error::LearnError;
use crate::settings::{Settings, Strategy};
use crate::watch::Event;

/// What may be chosen, powers of two between these.
const LEAST: usize = 8;
const MOST: usize = 64;

/// Steps that an epoch has at least, where a batch of [`LEAST`] gives as many: small batches end no
/// worse (Masters and Luschi 2018, <https://arxiv.org/abs/1804.07612>), and few images give few steps.
const STEPS: usize = 16;

impl Run<'_> {
    /// The settings with the batch chosen, where it is left to the run.
    pub(super) fn settle_batch(
        &self,
        mut settings: Settings,
        start: &Start,
        images: &Images,
    ) -> Result<Settings, LearnError> {
        if !std::mem::take(&mut settings.training.find_batch) || !settings.trains_by_steps() {
            return Ok(settings);
        }
        let network = self.with_new_head(start)?;
        let each = match settings.strategy {
            // A head's few numbers.
            Strategy::Features => 0,
            _ => {
                let network = self.thawed(&network, start)?;
                let side = start.preprocess.size;
                Training::bytes_an_image(&network, side)?
            }
        };
        let (count, memory) = (images.train.len(), self.context.memory);
        let batch = batch_for(count, each, memory);
        settings.training.batch = batch;
        let steps = match count.div_ceil(batch) {
            1 => "1 step".to_owned(),
            steps => format!("{steps} steps"),
        };
        let takes = in_words(each.saturating_mul(batch as u64));
        let of = memory.map_or_else(
            || ", and how much memory there is is not known".to_owned(),
            |memory| format!(", of {} of memory", in_words(memory)),
        );
        self.watch.event(Event::Note(format!(
            "batch {batch}: {count} training images give {steps} an epoch; a step takes about \
             {takes}{of}"
        )));
        Ok(settings)
    }
}

/// The largest power of two with [`STEPS`] steps an epoch whose step takes half of the memory at most,
/// between [`LEAST`] and [`MOST`].
fn batch_for(images: usize, bytes_an_image: u64, memory: Option<u64>) -> usize {
    let fits = |batch: usize| {
        memory.is_none_or(|memory| bytes_an_image.saturating_mul(batch as u64) <= memory / 2)
    };
    let mut batch = MOST;
    while batch > LEAST && (images / batch < STEPS || !fits(batch)) {
        batch /= 2;
    }
    batch
}

fn in_words(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib < 1000.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_suit_images_and_memory() {
        let by_images =
            [(3, 8), (255, 8), (256, 16), (511, 16), (512, 32), (1024, 64), (1 << 20, 64)];
        for (images, batch) in by_images {
            assert_eq!(batch_for(images, 1 << 20, None), batch, "{images}");
            assert_eq!(batch_for(images, 1 << 20, Some(1 << 40)), batch, "{images}");
        }
        // 64 images of a MiB take half of 128 MiB; of 127, only 32 do.
        assert_eq!(batch_for(5000, 1 << 20, Some(128 << 20)), 64);
        assert_eq!(batch_for(5000, 1 << 20, Some(127 << 20)), 32);
        assert_eq!(batch_for(5000, 1 << 20, Some(1)), 8);
        assert_eq!(batch_for(5000, u64::MAX, Some(u64::MAX)), 8);
    }

    #[test]
    fn sizes_are_said_briefly() {
        assert_eq!([in_words(3 << 19), in_words(5 << 29)], ["2 MiB", "2.5 GiB"]);
    }
}
