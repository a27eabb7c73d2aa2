//! What a run is asked to do: the same values from flags, a file or a program.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use refit_data::{Augment, Level};
use refit_net::{Edit, HeadKind, NormStatistics, Precision};
use serde::{Deserialize, Serialize};

use crate::distill::Distillation;
use crate::error::LearnError;
use crate::select::Select;
use crate::shallow::Learner;

/// How a pretrained network is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The pretrained network and its own classes; nothing is trained.
    AsIs,
    /// Everything frozen but a new head, trained on cached features.
    #[default]
    Features,
    /// The upper layers from a named one are trained, the lower frozen.
    Partial,
    /// A new head first, then all layers at rates that fall towards the input.
    FineTune,
    /// The weights are the starting point; all layers are trained at full rates.
    PretrainedInit,
    /// The architecture only, from He's initialization.
    Scratch,
}

impl Strategy {
    /// All, as DESIGN's table orders them.
    pub const ALL: [Self; 6] = [
        Self::AsIs,
        Self::Features,
        Self::Partial,
        Self::FineTune,
        Self::PretrainedInit,
        Self::Scratch,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsIs => "as-is",
            Self::Features => "features",
            Self::Partial => "partial",
            Self::FineTune => "fine-tune",
            Self::PretrainedInit => "pretrained-init",
            Self::Scratch => "scratch",
        }
    }

    /// Whether gradients run through more than the head.
    pub const fn trains_body(self) -> bool {
        !matches!(self, Self::AsIs | Self::Features)
    }

    /// Whether a frozen network runs: all of it, what lies below the trained layers, or what gives
    /// the features that a head starts from.
    pub const fn runs_frozen(self) -> bool {
        !matches!(self, Self::PretrainedInit | Self::Scratch)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no strategy `{name}`; there are {names}")
        })
    }
}

/// Which update rule moves the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Loshchilov and Hutter 2019, <https://arxiv.org/abs/1711.05101>.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Stochastic gradient descent with momentum 0.9.
    Sgd,
}

/// How the learning rate goes over a run; the share of steps in which it rises is `warmup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Up as a line, down as half a cosine (Loshchilov and Hutter 2017,
    /// <https://arxiv.org/abs/1608.03983>).
    #[default]
    Cosine,
    /// Up and down as halves of cosines, with momentum falling and rising against it (Smith 2018,
    /// <https://arxiv.org/abs/1803.09820>).
    OneCycle,
    /// Up as a line, then level.
    Constant,
}

/// How classes count in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassBalance {
    /// Every image alike.
    #[default]
    Images,
    /// Every class alike, however many images it has: rare ones weigh more in the loss.
    Classes,
    /// Every class alike: rare ones are shown more often.
    Sampling,
    /// Every class alike: what is learned is how far an image speaks for a class beyond the class's
    /// share of the training images (logit adjustment: Menon et al. 2021,
    /// <https://arxiv.org/abs/2007.07314>).
    Logits,
}

/// Everything that decides a run's result, but for the images themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The folder or CSV of images.
    pub data: PathBuf,
    /// A folder of validation images apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val: Option<PathBuf>,
    /// The share split off for validation where none is given, in `(0, 1)`; with `folds`, of the images
    /// outside a fold, where what is trained chooses its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_fraction: Option<f64>,
    /// Parts into which training and validation images are divided, each held out once from a model
    /// that is then judged by it; the run's own model learns from all. None keeps validation images
    /// apart instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// Times that the images are divided into `folds`, anew each time.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repeats: usize,
    /// The architecture.
    pub backbone: String,
    /// Its weights; the embedded ones where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// How the network is used.
    pub strategy: Strategy,
    /// The first layer or block that `partial` trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfreeze_from: Option<String>,
    /// What frozen layers compute with; what is trained computes in f32.
    #[serde(default)]
    pub precision: Precision,
    /// What classifies.
    pub head: HeadKind,
    /// What learns from features, with the strategy `features`.
    #[serde(default, skip_serializing_if = "Learner::is_linear")]
    pub learner: Learner,
    /// Whether a linear head keeps the rows of classes that the network that training starts from
    /// has too, by name; the head is then trained by steps from there, instead of being solved for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_classes: bool,
    /// Views of each training image that the head of `features` learns from: the plain one, the
    /// mirrored one, then augmented ones.
    pub views: usize,
    /// Whether training images are mirrored left and right at all.
    #[serde(default, skip_serializing_if = "Mirror::is_always")]
    pub mirror: Mirror,
    /// Decides every random choice.
    pub seed: u64,
    /// Whether an unreadable image stops the run.
    pub strict: bool,
    /// How classes count in the loss.
    pub balance: ClassBalance,
    /// Seconds after which no further epoch begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_budget: Option<f64>,
    /// Whom the network learns from beside the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
    /// Whether the network with a head solved for, with which training begins, competes with what the
    /// epochs make of it: none that is less accurate on the validation images is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub floor: bool,
    /// Edits of the network before anything is trained; what they freeze stays frozen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// How gradient descent is done, where it is.
    pub training: TrainingSettings,
}

const fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(n: &usize) -> bool {
    *n == 1
}

/// How gradient descent is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainingSettings {
    /// Times that every image is seen.
    pub epochs: usize,
    /// Images a step.
    pub batch: usize,
    /// Whether the run is to choose [`batch`](Self::batch), by the number of training images and the
    /// memory ([`RunContext::memory`](crate::RunContext::memory)); it writes down what it took.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub find_batch: bool,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Whether the run is to look for [`learning_rate`](Self::learning_rate) before it trains
    /// ([`RateSearch`](crate::RateSearch)); it writes down what it found.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub find_learning_rate: bool,
    /// The rate at the first layer as a share of the last one's; geometric between them.
    pub lowest_rate: f64,
    /// The update rule.
    pub optimizer: OptimizerKind,
    /// Decoupled weight decay (AdamW) or L2 (SGD) of weights; never of norms and biases.
    pub weight_decay: f64,
    /// How the rate goes from step to step.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// The share of steps in which the rate rises.
    pub warmup: f64,
    /// Label smoothing (Szegedy et al. 2015), in `[0, 1)`.
    pub smoothing: f64,
    /// How much less images count the surer the network is of them: the gamma of the focal loss (Lin
    /// et al. 2017, <https://arxiv.org/abs/1708.02002>), from 0, where all count alike, to 10.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub focal: f64,
    /// The largest norm of a step's gradient, all parameters together.
    pub clip: f64,
    /// What the best epoch is the best by.
    #[serde(default)]
    pub select: Select,
    /// The share of itself that an average of the weights keeps at a step, in `[0, 1)`: the average is
    /// what is judged and kept (Polyak and Juditsky 1992, <https://doi.org/10.1137/0330046>). Early on
    /// it keeps less. 0 takes the weights as they are.
    #[serde(default)]
    pub average: f64,
    /// Epochs after which one more quarter of the layers is trained, from the uppermost down
    /// (Howard and Ruder 2018, <https://arxiv.org/abs/1801.06146>); 0 trains all from the beginning.
    #[serde(default)]
    pub thaw_every: usize,
    /// How many of the best epochs are averaged at the end; the mean is kept if it is better than the
    /// best (Wortsman et al. 2022, <https://arxiv.org/abs/2203.05482>). 1 or 0 for none.
    #[serde(default)]
    pub average_best: usize,
    /// Epochs without a better one after which training ends; 0 never ends it early.
    pub patience: usize,
    /// What batch norms of trained layers normalize by.
    pub norms: Norms,
    /// How training images are varied; none leaves it to the run, which goes by the strategy and
    /// writes down the [`Level`] that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// Views of each training image, the plain one and augmented ones, that epochs learn from in turn:
    /// what frozen layers make of them is computed once and kept. 0 draws a new view every time.
    #[serde(default)]
    pub fixed_views: usize,
}

/// Whether training images are mirrored left and right where the augmentation and the views of
/// `features` say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mirror {
    /// Unless a look at the images finds that it turns one class into another.
    Auto,
    /// Yes, whatever the images show: what settings from before there was a choice mean.
    #[default]
    Always,
    /// No.
    Never,
}

impl Mirror {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    fn is_always(&self) -> bool {
        *self == Self::Always
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// [`NormStatistics`] as settings write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norms {
    /// The batch's own statistics, which the running ones follow.
    Batch,
    /// The stored statistics, which stay.
    Stored,
}

impl From<Norms> for NormStatistics {
    fn from(norms: Norms) -> Self {
        match norms {
            Norms::Batch => Self::Batch,
            Norms::Stored => Self::Stored,
        }
    }
}

impl TrainingSettings {
    /// What suits a strategy.
    pub fn for_strategy(strategy: Strategy) -> Self {
        let base = Self {
            epochs: 8,
            batch: 32,
            find_batch: false,
            learning_rate: 3e-4,
            find_learning_rate: false,
            lowest_rate: 1.0,
            optimizer: OptimizerKind::AdamW,
            weight_decay: 0.05,
            schedule: ScheduleKind::Cosine,
            warmup: 0.1,
            smoothing: 0.1,
            focal: 0.0,
            clip: 1.0,
            patience: 0,
            norms: Norms::Stored,
            augment: None,
            fixed_views: 0,
            select: Select::Loss,
            average: 0.0,
            thaw_every: 0,
            average_best: 1,
        };
        match strategy {
            // The head alone, on features: cheap epochs, nothing to keep from the pretraining.
            Strategy::AsIs | Strategy::Features => {
                Self { epochs: 100, learning_rate: 1e-3, patience: 20, ..base }
            }
            // Epochs above a boundary that is kept are cheap, so there are more of them.
            Strategy::Partial => {
                Self { epochs: 12, lowest_rate: 0.3, average: 0.95, fixed_views: 4, ..base }
            }
            // Three times the rate cost ants_bees 1.3 points: the solved head is lost again.
            Strategy::FineTune => {
                Self { epochs: 4, learning_rate: 1e-4, lowest_rate: 0.05, ..base }
            }
            Strategy::PretrainedInit => {
                Self { epochs: 20, learning_rate: 1e-3, norms: Norms::Batch, ..base }
            }
            Strategy::Scratch => {
                Self { epochs: 60, learning_rate: 2e-3, norms: Norms::Batch, ..base }
            }
        }
    }

    /// How training images are varied: nothing where that is not settled yet.
    pub fn augment(&self) -> Augment {
        self.augment.unwrap_or_default()
    }
}

/// The level that suits a strategy: what starts from weights for all layers is disturbed little, what
/// trains long by high rates is varied more (docs/augmentation.md).
pub(crate) fn level_for(strategy: Strategy) -> Level {
    match strategy {
        Strategy::AsIs | Strategy::Features | Strategy::Partial | Strategy::FineTune => {
            Level::Light
        }
        Strategy::PretrainedInit | Strategy::Scratch => Level::Medium,
    }
}

impl Settings {
    /// The settings for images in `data` with everything else as it is by default.
    pub fn new(data: impl Into<PathBuf>, strategy: Strategy) -> Self {
        Self {
            data: data.into(),
            val: None,
            val_fraction: None,
            folds: None,
            repeats: 1,
            backbone: "efficientnet_lite0".into(),
            weights: None,
            strategy,
            edits: Vec::new(),
            unfreeze_from: None,
            precision: Precision::F32,
            head: HeadKind::Linear,
            learner: Learner::Linear,
            keep_classes: false,
            floor: false,
            views: 2,
            mirror: Mirror::Auto,
            seed: 0,
            strict: false,
            balance: ClassBalance::Images,
            time_budget: None,
            distillation: None,
            training: TrainingSettings::for_strategy(strategy),
        }
    }

    /// The same with the augmentation settled, where it is left to the run.
    pub(crate) fn settled(&self) -> Self {
        let mut settings = self.clone();
        let by_level = || level_for(self.strategy).augment();
        let augment = settings.training.augment.unwrap_or_else(by_level);
        settings.training.augment = Some(match settings.mirror {
            Mirror::Never => augment.without_flip(),
            Mirror::Auto | Mirror::Always => augment,
        });
        settings
    }

    /// The same with a learning rate that was looked for, if it was.
    pub(crate) fn with_rate(&self, found: Option<f64>) -> Self {
        let mut settings = self.clone();
        if let Some(rate) = found {
            settings.training.learning_rate = rate;
            settings.training.find_learning_rate = false;
        }
        settings
    }

    /// The same without mirroring.
    pub(crate) fn unmirrored(&self) -> Self {
        let mut settings = Self { mirror: Mirror::Never, ..self.clone() };
        settings.training.augment = settings.training.augment.map(Augment::without_flip);
        settings
    }

    /// The same with the last part of every path only: a model that is given away does not tell
    /// where its maker keeps things.
    pub fn without_folders(&self) -> Self {
        let last = |path: &PathBuf| path.file_name().map_or_else(|| path.clone(), PathBuf::from);
        Self {
            data: last(&self.data),
            val: self.val.as_ref().map(last),
            weights: self.weights.as_ref().map(last),
            distillation: self.distillation.as_ref().map(|distillation| Distillation {
                teachers: distillation.teachers.iter().map(last).collect(),
                unlabelled: distillation.unlabelled.iter().map(last).collect(),
                ..distillation.clone()
            }),
            ..self.clone()
        }
    }

    /// Checks every range, and that this machine has the precision.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(), LearnError> {
        let t = &self.training;
        let check = |fine: bool, name, value: String, range| match fine {
            true => Ok(()),
            false => Err(LearnError::Setting { name, value, range }),
        };
        let share = |x: f64| (0.0..1.0).contains(&x);
        let fraction = self.val_fraction.unwrap_or(0.2);
        check(
            fraction > 0.0 && fraction < 1.0,
            "--val-fraction",
            fraction.to_string(),
            "between 0 and 1",
        )?;
        self.check_folds()?;
        check((1..=1000).contains(&self.views), "--views", self.views.to_string(), "1 to 1000")?;
        check(t.batch >= 1, "--batch", t.batch.to_string(), "at least 1")?;
        check(t.epochs >= 1, "--epochs", t.epochs.to_string(), "at least 1")?;
        let rate = t.learning_rate;
        check(rate > 0.0 && rate <= 1.0, "--lr", rate.to_string(), "above 0 and at most 1")?;
        check(
            !t.find_learning_rate || self.trains_by_steps(),
            "--lr",
            "auto".into(),
            "a number where nothing is trained by steps",
        )?;
        check(
            t.lowest_rate > 0.0 && t.lowest_rate <= 1.0,
            "--lowest-rate",
            t.lowest_rate.to_string(),
            "above 0 and at most 1",
        )?;
        check(t.weight_decay >= 0.0, "--weight-decay", t.weight_decay.to_string(), "at least 0")?;
        check(share(t.warmup), "--warmup", t.warmup.to_string(), "from 0 to below 1")?;
        check(
            share(t.smoothing),
            "--label-smoothing",
            t.smoothing.to_string(),
            "from 0 to below 1",
        )?;
        check((0.0..=10.0).contains(&t.focal), "--focal", t.focal.to_string(), "0 to 10")?;
        check(share(t.average), "--ema", t.average.to_string(), "from 0 to below 1")?;
        check(t.average_best <= 20, "--average-best", t.average_best.to_string(), "0 to 20")?;
        check(
            t.thaw_every == 0 || t.fixed_views == 0,
            "--thaw-every",
            t.thaw_every.to_string(),
            "0 with --fixed-views, since what is kept depends on which layers rest",
        )?;
        check(
            t.augment().mix.is_none() || t.fixed_views == 0,
            "--fixed-views",
            t.fixed_views.to_string(),
            "0 where images are mixed: mixtures are new every time",
        )?;
        let views = t.fixed_views;
        check(views <= 1000, "--fixed-views", views.to_string(), "0 to 1000")?;
        check(t.clip > 0.0, "--clip", t.clip.to_string(), "above 0")?;
        let budget = self.time_budget.unwrap_or(1.0);
        check(budget > 0.0, "--time-budget", budget.to_string(), "above 0")?;
        let paths = [Some(&self.data), self.val.as_ref(), self.weights.as_ref()];
        for path in paths.into_iter().flatten() {
            let shown = path.display().to_string();
            check(path.to_str().is_some(), "a path", shown, "valid Unicode, to be written down")?;
        }
        let named = self.strategy != Strategy::Partial || self.unfreeze_from.is_some();
        check(named, "--unfreeze-from", "not given".into(), "a layer, for --strategy partial")?;
        if self.precision != Precision::F32 && !self.strategy.runs_frozen() {
            let (precision, strategy) = (self.precision, self.strategy);
            return Err(LearnError::NothingFrozen { precision, strategy });
        }
        t.augment().validate()?;
        self.check_distillation()?;
        self.check_keep_classes()?;
        self.check_learner()?;
        Ok(self.precision.check()?)
    }

    fn check_distillation(&self) -> Result<(), LearnError> {
        let Some(distillation) = &self.distillation else { return Ok(()) };
        let refuse = |name, value: String, range| Err(LearnError::Setting { name, value, range });
        distillation.validate()?;
        let solves = self.strategy == Strategy::Features && self.solves_head();
        if !self.strategy.trains_body() && !solves {
            let strategy = self.strategy.to_string();
            return refuse(
                "--strategy",
                strategy,
                "one that trains, and features without --head mlp and --keep-classes, to learn from a teacher",
            );
        }
        if solves && (distillation.compares_layers() || distillation.decoupled > 0.0) {
            return refuse(
                "--hints, --attention, --relational or --decoupled",
                "above 0".into(),
                "0 where a head learns from features: it hears softened outputs alone",
            );
        }
        if self.training.fixed_views == 0 && !solves {
            return refuse(
                "--fixed-views",
                "0".into(),
                "at least 1, since teachers are asked of each view once",
            );
        }
        if self.folds.is_some()
            && (distillation.ignore_labels || !distillation.unlabelled.is_empty())
        {
            return refuse(
                "--folds",
                "given".into(),
                "left out where images are learned from without labels",
            );
        }
        Ok(())
    }

    fn check_folds(&self) -> Result<(), LearnError> {
        let refuse = |name, value: usize, range| {
            Err(LearnError::Setting { name, value: value.to_string(), range })
        };
        match (self.folds, self.repeats) {
            (Some(folds), _) if self.strategy == Strategy::AsIs => {
                refuse("--folds", folds, "left out with --strategy as-is, which trains nothing")
            }
            (Some(folds), _) if !(2..=100).contains(&folds) => refuse("--folds", folds, "2 to 100"),
            (Some(_), repeats) if !(1..=100).contains(&repeats) => {
                refuse("--repeats", repeats, "1 to 100")
            }
            (None, repeats) if repeats != 1 => {
                refuse("--repeats", repeats, "left out without --folds, which it repeats")
            }
            _ => Ok(()),
        }
    }

    /// Refuses to keep a head's rows where no head is replaced by a linear one.
    fn check_keep_classes(&self) -> Result<(), LearnError> {
        let with = |with: String, why| Err(LearnError::NothingKept { with, why });
        let strategy = || format!("--strategy {}", self.strategy);
        match (self.keep_classes, self.strategy, self.head) {
            (true, Strategy::AsIs, _) => with(strategy(), "which keeps the whole head"),
            (true, Strategy::Scratch, _) => with(strategy(), "which starts without any classes"),
            (true, _, HeadKind::Mlp { .. }) => {
                with(format!("--head {}", self.head), "whose rows take other values")
            }
            _ => Ok(()),
        }
    }

    /// Refuses a learner that is no network where a network is trained.
    fn check_learner(&self) -> Result<(), LearnError> {
        let learner = self.learner;
        let with = |with: String, why| Err(LearnError::NoLearner { learner, with, why });
        match (self.strategy, self.head) {
            _ if learner.is_linear() => Ok(()),
            (Strategy::Features, HeadKind::Linear) if self.keep_classes => {
                with("--keep-classes".into(), "which keeps a linear head's rows")
            }
            (Strategy::Features, HeadKind::Linear) => Ok(()),
            (Strategy::Features, head) => with(format!("--head {head}"), "which is a network"),
            (strategy, _) => {
                with(format!("--strategy {strategy}"), "which does not learn from features alone")
            }
        }
    }

    /// Whether a head is solved for at once, not trained by steps.
    pub(crate) fn solves_head(&self) -> bool {
        self.head == HeadKind::Linear && !self.keep_classes
    }

    /// Whether the run's own epochs train something.
    pub(crate) fn trains_by_steps(&self) -> bool {
        match self.strategy {
            Strategy::AsIs => false,
            Strategy::Features => !self.solves_head(),
            _ => true,
        }
    }
}
