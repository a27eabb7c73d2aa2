//! What is searched, and what a point of it comes to as settings.

use std::fmt;
use std::str::FromStr;

use refit_data::Level;
use refit_net::Graph;
use serde::{Deserialize, Serialize};

use super::TuneOptions;
use crate::settings::{OptimizerKind, Settings, Strategy, TrainingSettings};

/// The depth at which every layer is trained.
pub const ALL: &str = "all";

/// How many times AdamW's rate suits SGD, and how many times SGD's decay suits AdamW: a step of AdamW
/// is as long as its rate, one of SGD as long as the gradient lets it be.
const SGD: f64 = 30.0;

/// The share of itself that an average of the weights keeps, where there is one.
const AVERAGE: f64 = 0.95;

/// Something that a search may vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parameter {
    /// The first layer that is trained, or all of them.
    Depth,
    /// The update rule.
    Optimizer,
    /// The highest learning rate.
    #[serde(rename = "lr")]
    LearningRate,
    /// The rate at the first trained layer as a share of the last one's.
    LowestRate,
    /// Decay of weights.
    WeightDecay,
    /// Label smoothing.
    #[serde(rename = "label-smoothing")]
    Smoothing,
    /// How training images are varied.
    Augment,
    /// Whether an average of the weights is judged and kept.
    #[serde(rename = "ema")]
    Average,
}

impl Parameter {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Depth,
        Self::Optimizer,
        Self::LearningRate,
        Self::LowestRate,
        Self::WeightDecay,
        Self::Smoothing,
        Self::Augment,
        Self::Average,
    ];

    /// Its name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Optimizer => "optimizer",
            Self::LearningRate => "lr",
            Self::LowestRate => "lowest-rate",
            Self::WeightDecay => "weight-decay",
            Self::Smoothing => "label-smoothing",
            Self::Augment => "augment",
            Self::Average => "ema",
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Parameter {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("nothing to search is called `{name}`; there are {names}")
        })
    }
}

/// Values of what a search may vary, but for the depth; what is not said is as the strategy has it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Values {
    /// The update rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerKind>,
    /// The highest learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The rate at the first trained layer as a share of the last one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowest_rate: Option<f64>,
    /// Decay of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Label smoothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<f64>,
    /// How training images are varied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment: Option<Level>,
    /// The share of itself that an average of the weights keeps at a step; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
}

impl Values {
    /// Whether a parameter has a value; depth never has one here.
    pub fn has(&self, parameter: Parameter) -> bool {
        match parameter {
            Parameter::Depth => false,
            Parameter::Optimizer => self.optimizer.is_some(),
            Parameter::LearningRate => self.learning_rate.is_some(),
            Parameter::LowestRate => self.lowest_rate.is_some(),
            Parameter::WeightDecay => self.weight_decay.is_some(),
            Parameter::Smoothing => self.smoothing.is_some(),
            Parameter::Augment => self.augment.is_some(),
            Parameter::Average => self.average.is_some(),
        }
    }
}

/// What a trial does: a strategy with its depth, and the values that go with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// `features`, `partial` or `fine-tune`.
    pub strategy: Strategy,
    /// The first layer that `partial` trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfreeze_from: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub values: Values,
}

impl Setup {
    /// A head on frozen features: what a search starts from.
    pub fn features() -> Self {
        Self { strategy: Strategy::Features, unfreeze_from: None, values: Values::default() }
    }

    /// Trains from a layer on, or [`ALL`].
    pub(super) fn at(depth: &str, values: Values) -> Self {
        match depth {
            ALL => Self { strategy: Strategy::FineTune, unfreeze_from: None, values },
            layer => {
                let unfreeze_from = Some(layer.to_owned());
                Self { strategy: Strategy::Partial, unfreeze_from, values }
            }
        }
    }

    fn depth(&self) -> &str {
        self.unfreeze_from.as_deref().unwrap_or(ALL)
    }

    /// The settings of a run: `base` with this strategy, its defaults and these values.
    pub fn settings(&self, base: &Settings, options: &TuneOptions) -> Settings {
        let mut training = TrainingSettings::for_strategy(self.strategy);
        let Values { optimizer, learning_rate, lowest_rate, .. } = self.values;
        let Values { weight_decay, smoothing, augment, average, .. } = self.values;
        training.optimizer = optimizer.unwrap_or(training.optimizer);
        let scale = scale_of(training.optimizer);
        training.learning_rate = learning_rate.unwrap_or(training.learning_rate * scale);
        training.weight_decay = weight_decay.unwrap_or(training.weight_decay / scale);
        training.lowest_rate = lowest_rate.unwrap_or(training.lowest_rate);
        training.smoothing = smoothing.unwrap_or(training.smoothing);
        training.average = average.unwrap_or(training.average);
        training.augment = augment.map(Level::augment);
        training.epochs = options.epochs.unwrap_or(training.epochs);
        training.batch = options.batch.unwrap_or(training.batch);
        // Mixtures are new every time, so that nothing of them can be kept.
        if training.augment().mix.is_some() {
            training.fixed_views = 0;
        }
        let unfreeze_from = self.unfreeze_from.clone();
        Settings { strategy: self.strategy, unfreeze_from, training, ..base.clone() }
    }
}

impl fmt::Display for Setup {
    /// `partial from blocks.4, adamw, lr 0.0003, ema 0.95`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.strategy.fmt(f)?;
        if let Some(layer) = &self.unfreeze_from {
            write!(f, " from {layer}")?;
        }
        let said = Parameter::ALL.into_iter().filter(|p| self.values.has(*p));
        said.into_iter().try_for_each(|p| match (p, self.value(p)) {
            (Parameter::Optimizer, value) => write!(f, ", {value}"),
            (p, value) => write!(f, ", {p} {value}"),
        })
    }
}

impl Setup {
    /// The value of a parameter for people; `-` where none is said.
    pub fn value(&self, parameter: Parameter) -> String {
        let Values { optimizer, learning_rate, lowest_rate, .. } = self.values;
        let Values { weight_decay, smoothing, augment, average, .. } = self.values;
        let number = |value: Option<f64>| value.map(|v| v.to_string());
        let text = match parameter {
            Parameter::Depth => match self.strategy {
                Strategy::Features => None,
                _ => Some(self.depth().to_owned()),
            },
            Parameter::Optimizer => optimizer.map(|rule| match rule {
                OptimizerKind::AdamW => "adamw".to_owned(),
                OptimizerKind::Sgd => "sgd".to_owned(),
            }),
            Parameter::LearningRate => number(learning_rate),
            Parameter::LowestRate => number(lowest_rate),
            Parameter::WeightDecay => number(weight_decay),
            Parameter::Smoothing => number(smoothing),
            Parameter::Augment => augment.map(|level| level.to_string()),
            Parameter::Average => number(average),
        };
        text.unwrap_or_else(|| "-".into())
    }
}

fn scale_of(optimizer: OptimizerKind) -> f64 {
    match optimizer {
        OptimizerKind::AdamW => 1.0,
        OptimizerKind::Sgd => SGD,
    }
}

/// The places that a parameter can take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Axis {
    /// So many values without an order, numbered from 0.
    Choices(usize),
    /// From the lowest to below the highest.
    Range(f64, f64),
}

/// What a search varies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Space {
    /// In the order of [`Parameter::ALL`].
    pub searched: Vec<Parameter>,
    /// Depths, from [`ALL`] up.
    pub depths: Vec<String>,
    /// Where training begins unless that is searched.
    pub depth: String,
    /// What is given.
    given: Values,
}

/// Where training of a network may begin: everywhere, or at one of its groups of layers.
pub(super) fn depths_of(graph: &Graph, starts: &[String]) -> Vec<String> {
    // From the first layer on is all.
    let above = starts.iter().filter(|start| graph.find_first(start).is_ok_and(|id| id > 1));
    let mut depths = vec![ALL.to_owned()];
    for start in above {
        if !depths.contains(start) {
            depths.push(start.clone());
        }
    }
    depths
}

impl Space {
    pub fn new(options: &TuneOptions, depths: &[String]) -> Self {
        let given = |p| match p {
            Parameter::Depth => options.depth.is_some() || depths.len() < 2,
            p => options.given.has(p),
        };
        let wanted = |p: &Parameter| options.search.contains(p) && !given(*p);
        // The upper two sevenths, as a comparison of strategies has it.
        let usual = depths.get(depths.len().saturating_sub(2)).or(depths.first());
        let depth = options.depth.as_ref().or(usual).cloned().unwrap_or_else(|| ALL.into());
        Self {
            searched: Parameter::ALL.into_iter().filter(wanted).collect(),
            depths: depths.to_vec(),
            depth,
            given: options.given,
        }
    }

    /// What a strategy does by default, at its own depth.
    pub fn usual(&self, strategy: Strategy) -> Setup {
        let depth = match strategy {
            Strategy::FineTune => ALL,
            _ => &self.depth,
        };
        let mut setup = Setup::at(depth, self.given);
        let usual = TrainingSettings::for_strategy(setup.strategy);
        let scale = scale_of(self.given.optimizer.unwrap_or(usual.optimizer));
        let values = &mut setup.values;
        for parameter in &self.searched {
            match parameter {
                Parameter::Depth => {}
                Parameter::Optimizer => values.optimizer = Some(usual.optimizer),
                Parameter::LearningRate => values.learning_rate = Some(usual.learning_rate * scale),
                Parameter::LowestRate => values.lowest_rate = Some(usual.lowest_rate),
                Parameter::WeightDecay => values.weight_decay = Some(usual.weight_decay / scale),
                Parameter::Smoothing => values.smoothing = Some(usual.smoothing),
                Parameter::Augment => values.augment = Some(Level::Light),
                Parameter::Average => values.average = Some(usual.average),
            }
        }
        let round = |value: &mut Option<f64>| *value = value.map(short);
        round(&mut values.learning_rate);
        round(&mut values.weight_decay);
        setup
    }

    pub fn axis(&self, parameter: Parameter) -> Axis {
        let logarithmic = |low: f64, high: f64| Axis::Range(low.ln(), high.ln());
        match parameter {
            Parameter::Depth => Axis::Choices(self.depths.len()),
            Parameter::Optimizer | Parameter::Average => Axis::Choices(2),
            Parameter::Augment => Axis::Choices(Level::ALL.len()),
            Parameter::LearningRate => logarithmic(2e-5, 3e-3),
            Parameter::LowestRate => logarithmic(0.01, 1.0),
            Parameter::WeightDecay => logarithmic(1e-4, 0.5),
            Parameter::Smoothing => Axis::Range(0.0, 0.3),
        }
    }

    /// A setup whose searched parameters stand at these places, in their order.
    pub fn setup(&self, places: &[f64]) -> Setup {
        let mut setup = Setup::at(&self.depth, self.given);
        for (&parameter, &place) in self.searched.iter().zip(places) {
            let choice = place as usize;
            let scale = scale_of(setup.values.optimizer.unwrap_or_default());
            let values = &mut setup.values;
            match parameter {
                Parameter::Depth => setup = Setup::at(&self.depths[choice], setup.values),
                Parameter::Optimizer => {
                    let rules = [OptimizerKind::AdamW, OptimizerKind::Sgd];
                    values.optimizer = Some(rules[choice]);
                }
                Parameter::LearningRate => values.learning_rate = Some(short(place.exp() * scale)),
                Parameter::LowestRate => values.lowest_rate = Some(short(place.exp())),
                Parameter::WeightDecay => values.weight_decay = Some(short(place.exp() / scale)),
                Parameter::Smoothing => values.smoothing = Some((place * 1e3).round() / 1e3),
                Parameter::Augment => values.augment = Some(Level::ALL[choice]),
                Parameter::Average => values.average = Some([0.0, AVERAGE][choice]),
            }
        }
        setup
    }

    /// Where a searched parameter of a setup stands; none where the setup does not say.
    pub fn place(&self, parameter: Parameter, setup: &Setup) -> Option<f64> {
        let values = &setup.values;
        let scale = scale_of(values.optimizer.unwrap_or_default());
        let place = match parameter {
            Parameter::Depth => self.depths.iter().position(|depth| depth == setup.depth())? as f64,
            Parameter::Optimizer => f64::from(u8::from(values.optimizer? == OptimizerKind::Sgd)),
            Parameter::LearningRate => (values.learning_rate? / scale).ln(),
            Parameter::LowestRate => values.lowest_rate?.ln(),
            Parameter::WeightDecay => (values.weight_decay? * scale).ln(),
            Parameter::Smoothing => values.smoothing?,
            Parameter::Augment => {
                let level = values.augment?;
                Level::ALL.into_iter().position(|other| other == level)? as f64
            }
            Parameter::Average => f64::from(u8::from(values.average? > 0.0)),
        };
        Some(match self.axis(parameter) {
            Axis::Choices(_) => place,
            // Values are rounded where they are written down.
            Axis::Range(low, high) => place.clamp(low, high.next_down()),
        })
    }
}

/// Four digits: enough for a rate, and the same after it was written and read.
fn short(value: f64) -> f64 {
    format!("{value:.3e}").parse().expect("a number that was just written")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(options: &TuneOptions) -> Space {
        Space::new(options, &[ALL, "low", "middle", "top"].map(str::to_owned))
    }

    #[test]
    fn setups_stand_where_they_were_put() {
        let space = space(&TuneOptions::default());
        assert_eq!(space.searched, Parameter::ALL);
        let places = [2.0, 1.0, 3e-4_f64.ln(), 0.2_f64.ln(), 0.01_f64.ln(), 0.125, 3.0, 1.0];
        let setup = space.setup(&places);
        assert_eq!(
            setup.to_string(),
            "partial from middle, sgd, lr 0.009, lowest-rate 0.2, weight-decay 0.0003333, \
             label-smoothing 0.125, augment strong, ema 0.95"
        );
        for (parameter, place) in Parameter::ALL.into_iter().zip(places) {
            let found = space.place(parameter, &setup).unwrap();
            assert!((found - place).abs() < 1e-3, "{parameter}: {found} {place}");
        }
        let line = serde_json::to_string(&setup).unwrap();
        assert_eq!(serde_json::from_str::<Setup>(&line).unwrap(), setup, "{line}");
    }

    #[test]
    fn ends_of_ranges_stay_inside() {
        let space = space(&TuneOptions::default());
        for parameter in Parameter::ALL {
            let ends = match space.axis(parameter) {
                Axis::Choices(n) => [0.0, (n - 1) as f64],
                Axis::Range(low, high) => [low, high.next_down()],
            };
            for end in ends {
                let mut places = [0.0; 8];
                places[parameter as usize] = end;
                let place = space.place(parameter, &space.setup(&places)).unwrap();
                if let Axis::Range(low, high) = space.axis(parameter) {
                    assert!((low..high).contains(&place), "{parameter}: {place}");
                }
            }
        }
    }

    #[test]
    fn what_is_given_is_not_searched() {
        let given = Values {
            optimizer: Some(OptimizerKind::Sgd),
            learning_rate: Some(0.5),
            ..Values::default()
        };
        let options = TuneOptions { given, depth: Some("top".into()), ..TuneOptions::default() };
        let space = space(&options);
        assert!(!space.searched.contains(&Parameter::Depth));
        assert!(!space.searched.contains(&Parameter::LearningRate));
        let setup = space.usual(Strategy::Partial);
        assert_eq!(setup.unfreeze_from.as_deref(), Some("top"));
        assert_eq!(setup.values.learning_rate, Some(0.5));
        // The usual decay, as SGD takes it.
        assert_eq!(setup.values.weight_decay, Some(0.001667));
        let settings = setup.settings(&Settings::new("data", Strategy::Features), &options);
        assert_eq!(settings.training.optimizer, OptimizerKind::Sgd);
        assert_eq!(settings.training.learning_rate, 0.5);
    }

    #[test]
    fn mixing_takes_no_fixed_views() {
        let space = space(&TuneOptions::default());
        let base = Settings::new("data", Strategy::Features);
        for (level, views) in [(2.0, 4), (3.0, 0)] {
            let setup = space.setup(&[1.0, 0.0, -7.0, -1.0, -3.0, 0.1, level, 0.0]);
            let settings = setup.settings(&base, &TuneOptions::default());
            assert_eq!(settings.training.fixed_views, views);
            settings.validate().unwrap();
        }
    }
}
