//! Every strategy, and every network, on the same images.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use refit_data::{Dataset, Sample};
use serde::{Deserialize, Serialize};

use super::as_is::imagenet_position;
use super::auto::{Behind, auto};
use super::contest::{Finished, Kept};
use super::folder::{read_settings, write};
use super::peak::Peak;
use super::start::{open_dataset, starting_point};
use super::{Beginning, Outcome, Run, RunContext, run_options, train_on};
use crate::advice::similarity::Depths;
use crate::error::LearnError;
use crate::metrics::{Metrics, arg_max};
use crate::model::Model;
use crate::predictions::{Judgement, Split};
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch, stage};
use crate::way::Way;

/// The file that a comparison is written to.
const FOUND: &str = "compare.json";

/// What became of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contestant {
    /// The network.
    pub backbone: String,
    /// The strategy, or `auto`.
    pub strategy: Way,
    /// What `auto` chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Strategy>,
    /// The first layer that `partial` trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfreeze_from: Option<String>,
    /// On the test images where there are any, else on the validation images, which have chosen the
    /// epoch.
    pub metrics: Metrics,
    /// Seconds of the run; features and activations that an earlier one kept cost it nothing.
    pub seconds: f64,
    /// Parameters that were trained, and all.
    pub parameters: [usize; 2],
    /// Bytes of the model's file.
    pub model_bytes: u64,
    /// Bytes of the whole process that were in RAM together, at the most, while it ran: what was there
    /// before counts, and mapped files. None where the system does not tell. Of a run that was stopped,
    /// those since it went on.
    pub peak_memory: Option<u64>,
    /// Milliseconds that the model takes for one image, decoding left out.
    pub latency: f64,
    /// How likely as many differences from the most accurate one would be by chance ([`mcnemar`]);
    /// none for that one.
    pub p_value: Option<f64>,
    /// Where its run is kept, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

/// What could not run, or has not yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The network.
    pub backbone: String,
    /// The strategy, or `auto`.
    pub strategy: Way,
    /// Why.
    pub reason: String,
}

/// Strategies on the same split with the same budget, the most accurate first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The networks.
    pub backbones: Vec<String>,
    /// What they were judged by: `test` or `validation`.
    pub judged_on: String,
    /// Those that ended.
    pub contestants: Vec<Contestant>,
    /// Those that could not run, and why.
    pub left_out: Vec<LeftOut>,
    /// Those that had not ended when somebody asked to stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unfinished: Vec<LeftOut>,
}

/// Trains each of `backbones` by each of `ways` on one split, and compares the results image by image.
///
/// `settings` gives those of a network, a strategy, and the first layer that it trains; where `partial`
/// is not told one, the upper two sevenths of the network are trained. A strategy that cannot run
/// (`as-is` with classes of one's own) is left out, with the reason.
///
/// Where the context has a folder, each contestant's run is kept in it as `<backbone>-<strategy>`, and
/// the comparison as `compare.json`. Contestants that have ended there with the same settings on the same
/// images are not trained again, and one that was stopped goes on. When `watch` stops, those that have
/// ended are compared, and the others named as unfinished.
///
/// # Errors
/// If images or weights cannot be read, there is nothing to judge by, or a folder holds other runs.
pub fn compare(
    settings: &dyn Fn(&str, Strategy, Option<&str>) -> Settings,
    backbones: &[&str],
    ways: &[Way],
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Comparison, LearnError> {
    let Some(first) = backbones.first() else {
        return Err(LearnError::Setting {
            name: "--backbone",
            value: "not given".into(),
            range: "at least one network",
        });
    };
    let plain = settings(first, Strategy::Features, None);
    plain.validate()?;
    let (mut entrants, mut left_out) = (Vec::new(), Vec::new());
    for &backbone in backbones {
        let (able, unable) = entrants_of(settings, backbone, ways, watch)?;
        entrants.extend(able);
        left_out.extend(unable);
    }
    let dataset = open_dataset(&plain, watch)?;
    let split = if dataset.test.is_empty() { Split::Val } else { Split::Test };
    let contest = Contest {
        settings,
        plain: &plain,
        dataset,
        split,
        context,
        watch,
        images: OnceCell::new(),
    };
    if contest.samples().is_empty() {
        return Err(LearnError::NothingToJudgeBy { path: plain.data.clone() });
    }
    let (mut ended, mut unfinished) = (Vec::new(), Vec::new());
    for entrant in entrants {
        if watch.stops() {
            unfinished.push(entrant.left_out("stopped before it began".into()));
            continue;
        }
        match contest.outcome_of(&entrant) {
            Ok(finished) => ended.push(finished),
            Err(LearnError::Stopped) => unfinished.push(entrant.left_out("stopped".into())),
            Err(error) if entrant.is_left_out_by(&error) => {
                left_out.push(entrant.left_out(error.to_string()));
                watch.event(Event::Warning(format!("{} is left out: {error}", entrant.way)));
            }
            Err(error) => return Err(error),
        }
    }
    let found = Comparison {
        backbones: backbones.iter().map(|&name| name.to_owned()).collect(),
        judged_on: split.to_string(),
        contestants: ranked(ended),
        left_out,
        unfinished,
    };
    if let Some(folder) = context.folder.as_ref().filter(|_| !found.contestants.is_empty()) {
        let json = serde_json::to_string_pretty(&found).expect("numbers serialize");
        write(&folder.join(FOUND), format!("{json}\n").as_bytes())?;
    }
    Ok(found)
}

/// The most accurate first, the others with their paired test against it.
fn ranked(mut ended: Vec<Finished>) -> Vec<Contestant> {
    ended.sort_by(|a, b| {
        let (a, b) = (&a.contestant.metrics, &b.contestant.metrics);
        b.top1.total_cmp(&a.top1).then(a.loss.total_cmp(&b.loss))
    });
    let best = ended.first().map(|first| first.right.clone()).unwrap_or_default();
    for Finished { contestant, right } in ended.iter_mut().skip(1) {
        contestant.p_value = Some(mcnemar(&best, right));
    }
    ended.into_iter().map(|finished| finished.contestant).collect()
}

/// A network and a strategy.
struct Entrant {
    backbone: String,
    way: Way,
    /// The first layer that `partial` trains.
    from: Option<String>,
}

impl Entrant {
    fn left_out(&self, reason: String) -> LeftOut {
        LeftOut { backbone: self.backbone.clone(), strategy: self.way, reason }
    }

    /// Whether others go on after this error.
    fn is_left_out_by(&self, error: &LearnError) -> bool {
        match error {
            LearnError::ForeignClasses { .. } | LearnError::Diverged { .. } => true,
            // Weights without a head, or of a network of one's own, know no classes.
            LearnError::Load(_) | LearnError::Zoo(_) => self.way == Way::Named(Strategy::AsIs),
            _ => false,
        }
    }

    /// All settings that its run may have.
    fn settings(
        &self,
        settings: &dyn Fn(&str, Strategy, Option<&str>) -> Settings,
    ) -> Vec<Settings> {
        match self.way {
            Way::Named(strategy) => vec![settings(&self.backbone, strategy, self.from.as_deref())],
            Way::Auto => Strategy::ALL.map(|s| settings(&self.backbone, s, None)).into(),
        }
    }
}

/// The contestants of a network, once it is known that it has weights; and those that cannot be.
fn entrants_of(
    settings: &dyn Fn(&str, Strategy, Option<&str>) -> Settings,
    backbone: &str,
    ways: &[Way],
    watch: &dyn Watch,
) -> Result<(Vec<Entrant>, Vec<LeftOut>), LearnError> {
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    let strategy = match ways.iter().all(|way| *way == Way::Named(Strategy::Scratch)) {
        true => Strategy::Scratch,
        false => Strategy::Features,
    };
    let plain = settings(backbone, strategy, None);
    let start = starting_point(&plain, &Device::flex(), &Behind(watch))?;
    for &way in ways {
        let mut entrant = Entrant { backbone: backbone.to_owned(), way, from: None };
        if way == Way::Named(Strategy::Partial) {
            let starts = Depths::of(&start.network).starts;
            let upper = starts.len().checked_sub(2).map(|at| starts[at].clone());
            entrant.from = plain.unfreeze_from.clone().or(upper);
            if entrant.from.is_none() {
                let why = "there are too few convolutions to train the upper ones of".to_owned();
                watch.event(Event::Warning(format!("{way} is left out: {why}")));
                unable.push(entrant.left_out(why));
                continue;
            }
        }
        able.push(entrant);
    }
    Ok((able, unable))
}

/// What all contestants share.
struct Contest<'a> {
    settings: &'a dyn Fn(&str, Strategy, Option<&str>) -> Settings,
    /// Settings of any contestant, for what they share.
    plain: &'a Settings,
    dataset: Dataset,
    /// What they are judged by.
    split: Split,
    context: &'a RunContext,
    watch: &'a dyn Watch,
    /// The fingerprint of the images, once it was asked for.
    images: OnceCell<String>,
}

impl Contest<'_> {
    fn samples(&self) -> &[Sample] {
        match self.split {
            Split::Test => &self.dataset.test,
            // Contestants have no folds.
            Split::Val | Split::HeldOut => &self.dataset.val,
        }
    }

    /// What a contestant ends with, or has ended with before.
    fn outcome_of(&self, entrant: &Entrant) -> Result<Finished, LearnError> {
        let name = match self.context.folder {
            Some(_) => format!("{}-{}", entrant.backbone, entrant.way),
            None => entrant.way.to_string(),
        };
        let Some(folder) = &self.context.folder else {
            return Ok(stage(self.watch, &name, 0, || self.run(entrant, None))?.as_read());
        };
        let settings = entrant.settings(self.settings);
        let kept = Kept::open(folder.join(&name), &settings)?;
        let mut finished = match kept.finished(&self.plain.data, || self.fingerprint())? {
            Some(finished) => {
                let from = format!("{name}: taken from `{}`", kept.folder.display());
                self.watch.event(Event::Note(from));
                finished
            }
            None => {
                kept.begin()?;
                let finished = stage(self.watch, &name, 0, || self.run(entrant, Some(&kept)))?;
                kept.finish(&finished)?;
                finished.as_read()
            }
        };
        finished.contestant.folder = Some(kept.folder);
        Ok(finished)
    }

    /// Of the images as they are now.
    fn fingerprint(&self) -> Result<String, LearnError> {
        if let Some(known) = self.images.get() {
            return Ok(known.clone());
        }
        let behind = Behind(self.watch);
        let run = Run::to_measure(self.plain, self.context, &behind, self.dataset.clone());
        let found = stage(self.watch, "images as before?", 0, || run.checked_images())?.fingerprint;
        Ok(self.images.get_or_init(|| found).clone())
    }

    fn run(&self, entrant: &Entrant, kept: Option<&Kept>) -> Result<Finished, LearnError> {
        let resumed = kept.filter(|kept| kept.has_begun());
        let folder = kept.map(|kept| kept.folder.clone());
        let context = RunContext {
            folder: folder.clone(),
            resume: resumed.is_some(),
            ..self.context.clone()
        };
        let (behind, peak) = (Behind(self.watch), Peak::begin());
        let with = |settings: &Settings| {
            let beginning = Beginning::now();
            train_on(self.dataset.clone(), settings, &context, &behind, &beginning)
        };
        let backbone = entrant.backbone.as_str();
        let settings = |strategy, from: Option<&str>| (self.settings)(backbone, strategy, from);
        let outcome = match (resumed, entrant.way) {
            (Some(kept), _) => with(&read_settings(&kept.folder)?)?,
            (None, Way::Named(strategy)) => with(&settings(strategy, entrant.from.as_deref()))?,
            (None, Way::Auto) => auto(&settings, &context, &behind)?.1,
        };
        let peak_memory = peak.and_then(|peak| peak.bytes());
        let (metrics, right) = self.judged(&outcome, entrant.way)?;
        let from = outcome.model.card.settings.as_ref().and_then(|s| s.unfreeze_from.clone());
        let contestant = Contestant {
            backbone: entrant.backbone.clone(),
            strategy: entrant.way,
            chosen: (entrant.way == Way::Auto).then_some(outcome.report.strategy),
            unfreeze_from: from.filter(|_| outcome.report.strategy == Strategy::Partial),
            metrics,
            seconds: outcome.report.seconds.total,
            parameters: outcome.report.parameters,
            model_bytes: outcome.model.saved_bytes()?,
            peak_memory,
            latency: latency(&outcome.model),
            p_value: None,
            folder,
        };
        Ok(Finished { contestant, right })
    }

    /// Metrics on the images that all are judged by, and which of them are right.
    fn judged(&self, outcome: &Outcome, way: Way) -> Result<(Metrics, Vec<bool>), LearnError> {
        if way == Way::Named(Strategy::AsIs) {
            return self.judged_again(&outcome.model);
        }
        let metrics = match self.split {
            Split::Test => &outcome.report.test,
            Split::Val | Split::HeldOut => &outcome.report.val,
        };
        let metrics = metrics.clone().ok_or_else(|| self.nothing())?;
        let own = outcome.predictions.iter().filter(|p| p.split == self.split);
        Ok((metrics, own.map(Judgement::is_right).collect()))
    }

    fn nothing(&self) -> LearnError {
        LearnError::NothingToJudgeBy { path: self.plain.data.clone() }
    }

    /// The same of a network as it is, which judges more images and has more classes: by these images
    /// and classes alone.
    fn judged_again(&self, model: &Model) -> Result<(Metrics, Vec<bool>), LearnError> {
        let options = run_options(self.plain, self.context);
        let classes = &self.dataset.classes;
        let places: Option<Vec<usize>> = classes.iter().map(|c| imagenet_position(c)).collect();
        let places = places.ok_or_else(|| self.nothing())?;
        let (mut logits, mut labels, mut right) = (Vec::new(), Vec::new(), Vec::new());
        model.run(self.samples(), &[], &options, &(), &mut |output| {
            let label = self.samples()[output.index].label;
            let own: Vec<f32> = places.iter().map(|&i| output.values[i]).collect();
            right.push(arg_max(&own) == label);
            logits.extend(own);
            labels.push(label);
        })?;
        let metrics = Metrics::from_logits(&logits, &labels, classes);
        Ok((metrics.ok_or_else(|| self.nothing())?, right))
    }
}

/// Milliseconds for an image: the median of some.
pub(super) fn latency(model: &Model) -> f64 {
    let size = model.card.preprocess.size;
    let compiled = model.network.compile_all();
    let run = || {
        let began = Instant::now();
        compiled.run(Tensor::zeros([1, 3, size, size], model.network.device()));
        began.elapsed().as_secs_f64() * 1e3
    };
    run();
    let mut times: Vec<f64> = (0..9).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The two-sided exact test of McNemar (1947, <https://doi.org/10.1007/BF02295996>): of the images that
/// only one of two models gets right, how likely is a division as uneven as this one by chance?
///
/// # Panics
/// If the models were not judged on as many images.
pub fn mcnemar(a: &[bool], b: &[bool]) -> f64 {
    assert_eq!(a.len(), b.len(), "mcnemar: the same images");
    let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| **a && !**b).count();
    let (first, second) = (only(a, b), only(b, a));
    let (n, k) = (first + second, first.min(second));
    // Binomials by their logarithms, one from the other.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for i in 0..=k {
        sum += log.exp();
        log += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::mcnemar;

    #[test]
    fn the_paired_test_is_a_binomial_one() {
        let model = |right: &str| right.chars().map(|c| c == '1').collect::<Vec<_>>();
        // Five differences, all one way: 2 / 32.
        assert!((mcnemar(&model("11111110"), &model("00000110")) - 0.0625).abs() < 1e-12);
        // Four to one: 2 * (1 + 5) / 32.
        assert!((mcnemar(&model("1111001"), &model("0000101")) - 0.375).abs() < 1e-12);
        assert_eq!(mcnemar(&model("1100"), &model("0011")), 1.0);
        assert_eq!(mcnemar(&model("101"), &model("101")), 1.0);
        let many = mcnemar(&[true; 4000], &[false; 4000]);
        assert!((0.0..1e-300).contains(&many));
    }
}
