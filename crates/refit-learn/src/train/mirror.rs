//! A look at what mirroring and turning do to the classes, before training does it.

use refit_data::{Augment, Sample};

use super::Run;
use super::advise::spread;
use super::images::SplitFeatures;
use super::start::{Start, starting_point};
use crate::advice::mirroring::{Confusion, Views, confusions, in_words};
use crate::error::LearnError;
use crate::extract::{Change, ExtractOptions, Features, extract};
use crate::settings::{Mirror, Settings, Strategy};
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
        features: Option<&SplitFeatures>,
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
        if !turns && !self.looks_at_mirroring() {
            return Ok(settings);
        }
        let own;
        let learned = match features {
            Some(features) => &features.learned,
            None => {
                own = self.plain_and_mirrored(start)?;
                &own
            }
        };
        if self.looks_at_mirroring() && self.warns(&self.mirroring(learned)?, "mirroring") {
            settings = settings.unmirrored();
        }
        if turns {
            let augment = self.without_confusing_turns(start, learned, augment)?;
            settings.training.augment = Some(match settings.mirror {
                Mirror::Never => augment.without_flip(),
                _ => augment,
            });
        }
        Ok(settings)
    }

    /// The classes that mirroring turns into others, from views 0 and 1 of the training images.
    pub(super) fn mirroring(&self, learned: &Features) -> Result<Vec<Confusion>, LearnError> {
        let (truth, used) = self.looked_at(learned);
        let [plain, mirrored] = [0, 1].map(|view| rows_of(learned, &used, view));
        let views = Views { plain: &plain, there: &mirrored, back: &mirrored };
        stage(self.watch, "mirroring", 0, || self.confusions(&views, &truth))
    }

    fn confusions(&self, views: &Views, truth: &[usize]) -> Result<Vec<Confusion>, LearnError> {
        Ok(confusions(views, truth, self.dataset.classes.len(), self.settings.seed)?)
    }

    /// Classes and positions of the readable training images that are looked at.
    fn looked_at(&self, learned: &Features) -> (Vec<usize>, Vec<usize>) {
        let truth: Vec<usize> =
            learned.readable.iter().map(|i| self.dataset.train[*i].label).collect();
        let used = spread(&truth, MOST);
        (used.iter().map(|i| truth[*i]).collect(), used)
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

    /// Features for the look, where the run itself takes none: by the network that training starts
    /// from, or by the embedded one where that knows nothing yet.
    fn plain_and_mirrored(&self, start: &Start) -> Result<Features, LearnError> {
        let embedded;
        let start = match self.settings.strategy {
            Strategy::Scratch => {
                let settings = Settings::new(self.settings.data.clone(), Strategy::Features);
                embedded = starting_point(&settings, start.network.device(), &())?;
                &embedded
            }
            _ => start,
        };
        self.changed(start, &self.dataset.train, 2, Change::Nothing)
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
            cache: self.context.cache.clone(),
        };
        extract(&start.network, &start.preprocess, samples, &options, self.watch)
    }

    /// The augmentation without turns that make one class another.
    fn without_confusing_turns(
        &self,
        start: &Start,
        learned: &Features,
        mut augment: Augment,
    ) -> Result<Augment, LearnError> {
        let (truth, used) = self.looked_at(learned);
        let samples: Vec<Sample> =
            used.iter().map(|i| self.dataset.train[learned.readable[*i]].clone()).collect();
        let plain = rows_of(learned, &used, 0);
        let rows = |change| Ok(self.changed(start, &samples, 1, change)?.rows);
        let find = |there: &[f32], back: &[f32]| {
            self.confusions(&Views { plain: &plain, there, back }, &truth)
        };
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

fn rows_of(features: &Features, images: &[usize], view: usize) -> Vec<f32> {
    images.iter().flat_map(|&i| features.row(i, view)).copied().collect()
}
