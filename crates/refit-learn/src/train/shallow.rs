//! A head that is no network, or that learns from distributions over classes.

use refit_net::Network;

use super::images::{Images, SplitFeatures};
use super::{Learned, Run, labels};
use crate::error::LearnError;
use crate::loss::balanced_weights;
use crate::settings::ClassBalance;
use crate::shallow::{Examples, Fitted, fit};
use crate::watch::{Event, stage};

impl Run<'_> {
    /// Puts what the settings' learner finds in the head's place.
    ///
    /// `soft` are what training images are to be taken for, `[images, classes]`: distributions that
    /// hold for all views of an image. Without them, images are of their labels' classes.
    pub(super) fn learned_head(
        &self,
        network: &Network,
        features: &SplitFeatures,
        images: &Images,
        soft: Option<&[f32]>,
    ) -> Result<Learned, LearnError> {
        let (classes, views) = (self.dataset.classes.len(), features.learned.views);
        let labels = labels(&images.train);
        let one_hot =
            |label: usize| (0..classes).map(move |class| if class == label { 1.0 } else { 0.0 });
        let hard = || labels.iter().flat_map(|&label| one_hot(label)).collect::<Vec<f32>>();
        let of_images = soft.map_or_else(hard, <[f32]>::to_vec);
        let each = of_images.chunks(classes).flat_map(|row| std::iter::repeat_n(row, views));
        let targets: Vec<f32> = each.flatten().copied().collect();
        let groups: Vec<usize> = (0..labels.len() * views).map(|row| row / views).collect();
        let weights = self.row_weights(&labels, views);
        let examples = Examples {
            features: &features.learned.rows,
            targets: &targets,
            classes,
            groups: &groups,
            weights: &weights,
        };
        let learner = self.settings.learner;
        let Fitted { layer, values, chosen } =
            stage(self.watch, "head", 0, || fit(learner, &examples, self.settings.seed))?;
        self.watch.event(Event::Note(format!("{learner} fitted: {chosen}")));
        Ok(Learned::at_once(network.with_learner(layer, values)?))
    }

    /// How much each row counts. Every way of making classes count alike weighs them here.
    fn row_weights(&self, labels: &[usize], views: usize) -> Vec<f32> {
        let classes = self.dataset.classes.len();
        let by_class = match self.settings.balance {
            ClassBalance::Images => vec![1.0; classes],
            _ => balanced_weights(labels, classes),
        };
        labels.iter().flat_map(|&label| std::iter::repeat_n(by_class[label], views)).collect()
    }
}
