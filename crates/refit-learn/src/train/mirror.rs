//! A look at what mirroring and turning do to the classes, before training does it.

use refit_data::{Augment, Sample};

use super::images::Images;
use super::start::{Start, starting_point};
use super::{Run, labels};
use crate::advice::mirroring::{Confusion, Views, confusions, in_words};
use crate::error::LearnError;
use crate::extract::{Change, ExtractOptions, Features, extract};
use crate::settings::{Mirror, Settings, Strategy};
use crate::subsets::over_classes;
use crate::watch::{Event, stage};

/// Training images that are looked at, at most.
const MOST: usize = 1000;

impl Run<'_> {
    /// Whether this run is to find out what mirroring does.
    pub(super) fn looks_at_mirroring(&self) -> bool {
        let views = self.last_head() && self.settings.views > 1;
        let steps = self.settings.strategy.trains_body();
        self.settings.mirror == Mirror::Auto
            && (views || steps && self.settings.training.augment().flip > 0.0)
    }

    /// Whether the head on features may be the result.
    pub(super) fn last_head(&self) -> bool {
        self.settings.strategy == Strategy::Features || self.settings.floor
    }

    /// The settings with what mirroring and turning do to the classes settled.
    pub(super) fn settle_changes(
        &self,
        start: &Start,
        images: &Images,
    ) -> Result<Settings, LearnError> {
        let mut settings = self.settings.clone();
        if settings.mirror == Mirror::Always {
            return Ok(settings);
        }
        if settings.mirror == Mirror::Auto {
            settings.mirror = Mirror::Always;
        }
        let augment = settings.training.augment();
        let turns = settings.strategy.trains_body()
            && (augment.vertical_flip > 0.0 || augment.quarter_turn > 0.0);
        // Of a class that no image shows nothing can be told.
        if !turns && !self.looks_at_mirroring() || self.lost_class(images).is_some() {
            return Ok(settings);
        }
        let (chosen, truth) = self.looked_at(images);
        let embedded;
        // Random weights know nothing yet: the embedded ones look instead.
        let start = match settings.strategy {
            Strategy::Scratch => {
                let settings = Settings::new(settings.data.clone(), Strategy::Features);
                embedded = starting_point(&settings, start.network.device(), &())?;
                &embedded
            }
            _ => start,
        };
        if self.looks_at_mirroring() {
            let both = self.changed(start, &chosen, 2, Change::Nothing)?;
            let found = self.mirrored(&both, &truth)?;
            if self.warns(&found, "mirroring") {
                settings = settings.unmirrored();
            }
        }
        if turns {
            let augment = self.without_confusing_turns(start, &chosen, &truth, augment)?;
            settings.training.augment = Some(match settings.mirror {
                Mirror::Never => augment.without_flip(),
                _ => augment,
            });
        }
        Ok(settings)
    }

    /// The classes that mirroring turns into others, from views 0 and 1 of the training images.
    pub(super) fn mirroring(
        &self,
        start: &Start,
        images: &Images,
    ) -> Result<Vec<Confusion>, LearnError> {
        let (chosen, truth) = self.looked_at(images);
        self.mirrored(&self.changed(start, &chosen, 2, Change::Nothing)?, &truth)
    }

    /// The same, from both views of the images that are looked at.
    fn mirrored(&self, both: &Features, truth: &[usize]) -> Result<Vec<Confusion>, LearnError> {
        let rows = |view| -> Vec<f32> {
            (0..truth.len()).flat_map(|i| both.row(i, view)).copied().collect()
        };
        let (plain, mirrored) = (rows(0), rows(1));
        let views = Views { plain: &plain, there: &mirrored, back: &mirrored };
        stage(self.watch, "mirroring", 0, || self.confusions(&views, truth))
    }

    fn confusions(&self, views: &Views, truth: &[usize]) -> Result<Vec<Confusion>, LearnError> {
        Ok(confusions(views, truth, self.dataset.classes.len(), self.settings.seed)?)
    }

    /// The training images that are looked at, and their classes.
    fn looked_at(&self, images: &Images) -> (Vec<Sample>, Vec<usize>) {
        let truth = labels(&images.train);
        let used = over_classes(&truth, MOST);
        (
            used.iter().map(|i| images.train[*i].clone()).collect(),
            used.iter().map(|i| truth[*i]).collect(),
        )
    }

    /// Tells what was found, if anything.
    fn warns(&self, found: &[Confusion], change: &str) -> bool {
        if found.is_empty() {
            return false;
        }
        let found = in_words(found, &self.dataset.classes, change);
        let how = match change {
            "mirroring" => "; --mirror always does it nevertheless",
            _ => "",
        };
        self.watch.event(Event::Warning(format!("{found}: training leaves it out{how}")));
        true
    }

    fn changed(
        &self,
        start: &Start,
        samples: &[Sample],
        views: usize,
        change: Change,
    ) -> Result<Features, LearnError> {
        let options = ExtractOptions {
            run: self.run_options(),
            views,
            mirrored: true,
            change,
            augment: Augment::none(),
            seed: self.settings.seed,
            cache: self.context.features_folder(),
        };
        extract(&start.network, &start.preprocess, samples, &options, self.watch)
    }

    /// The augmentation without turns that make one class another.
    fn without_confusing_turns(
        &self,
        start: &Start,
        samples: &[Sample],
        truth: &[usize],
        mut augment: Augment,
    ) -> Result<Augment, LearnError> {
        let rows = |change| -> Result<Vec<f32>, LearnError> {
            Ok(self.changed(start, samples, 1, change)?.rows)
        };
        let plain = &rows(Change::Nothing)?;
        let find =
            |there: &[f32], back: &[f32]| self.confusions(&Views { plain, there, back }, truth);
        if augment.vertical_flip > 0.0 {
            let flipped: Vec<f32> = rows(Change::UpsideDown)?;
            if self.warns(&find(&flipped, &flipped)?, "mirroring top and bottom") {
                augment.vertical_flip = 0.0;
            }
        }
        if augment.quarter_turn > 0.0 {
            let turns: Vec<Vec<f32>> =
                (1..4).map(|n| rows(Change::Turned(n))).collect::<Result<_, LearnError>>()?;
            let mut found = find(&turns[1], &turns[1])?;
            found.extend(find(&turns[0], &turns[2])?);
            found.extend(find(&turns[2], &turns[0])?);
            if self.warns(&found, "turning by quarters") {
                augment.quarter_turn = 0.0;
            }
        }
        Ok(augment)
    }
}
