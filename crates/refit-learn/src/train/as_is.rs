//! `as-is`: the pretrained network judged on classes that it knows.

use std::time::Instant;

use refit_data::Sample;
use refit_net::zoo;

use super::start::Start;
use super::{Outcome, Report, Run, Seconds};
use crate::error::LearnError;
use crate::model::{Model, compile};
use crate::settings::Strategy;

impl Run<'_> {
    /// The pretrained network judged on classes that it knows.
    pub(super) fn as_is(&self, start: Start) -> Result<Outcome, LearnError> {
        let known: Vec<(&str, &str)> = zoo::imagenet_classes().collect();
        let find = |class: &String| imagenet_position(class);
        let mapped: Vec<Option<usize>> = self.dataset.classes.iter().map(find).collect();
        let foreign: Vec<String> = self
            .dataset
            .classes
            .iter()
            .zip(&mapped)
            .filter(|(_, m)| m.is_none())
            .map(|(c, _)| c.clone())
            .collect();
        let labels: Option<Vec<usize>> = mapped.into_iter().collect();
        let Some(labels) = labels else {
            let backbone = self.settings.backbone.clone();
            return Err(LearnError::ForeignClasses { backbone, classes: foreign });
        };
        let mut images = self.checked_images()?;
        if !self.dataset.has_given_val {
            // Nothing is trained, so no image need be kept from it: all of them judge.
            images.val.append(&mut images.train);
        }
        self.folder.begin(self.settings, &images, self.context.resume)?;
        for sample in images.train.iter_mut().chain(&mut images.val).chain(&mut images.test) {
            sample.label = labels[sample.label];
        }
        let classes: Vec<String> = known.iter().map(|&(_, name)| name.to_owned()).collect();
        let began = Instant::now();
        let graph = start.network.graph();
        let output = &graph.nodes()[graph.output()].name;
        let judge = |samples: &[Sample], what| {
            let compiled = || compile(&start.network, output, self.settings.precision);
            self.run_judged(compiled, 0, &start.network, &start.preprocess, samples, what)
        };
        let (val, test) = (judge(&images.val, "validation")?, judge(&images.test, "test")?);
        // Nothing was trained on these images, so none of them is what unknown ones are far from.
        let trust = self.trust(&classes, &val, &test, None);
        let mut card = self.card(self.settings, start.preprocess, start.weights, &images, &trust);
        card.classes.clone_from(&classes);
        let report = Report {
            strategy: Strategy::AsIs,
            backbone: self.settings.backbone.clone(),
            precision: self.settings.precision,
            classes,
            val: trust.val,
            test: trust.test,
            folds: None,
            calibration: trust.calibration,
            unknown: None,
            images: images.count(),
            skipped: images.skipped,
            leaks: images.leaks,
            seconds: Seconds {
                total: self.started.elapsed().as_secs_f64(),
                evaluation: began.elapsed().as_secs_f64(),
                ..Seconds::default()
            },
            parameters: [0, start.network.parameter_count()],
            strength: None,
            best_epoch: None,
            averaged_epochs: vec![],
        };
        let model = Model { network: start.network, card };
        let (predictions, tested) = (trust.predictions, trust.tested);
        Ok(Outcome { model, report, history: vec![], predictions, tested })
    }
}

/// The number of the ImageNet class that a folder's name means, if it means one.
pub(super) fn imagenet_position(folder: &str) -> Option<usize> {
    zoo::imagenet_classes().position(|(id, name)| same_class(folder, id, name))
}

/// Whether a folder's name means a class of the network: its WordNet id, alone or before its name,
/// or its name, in any case and with `_` for spaces.
fn same_class(folder: &str, id: &str, name: &str) -> bool {
    let plain = |s: &str| s.to_lowercase().replace(['_', '-'], " ");
    folder == id || folder.starts_with(&format!("{id}_")) || plain(folder) == plain(name)
}
