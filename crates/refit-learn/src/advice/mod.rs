//! Advice: what to do with these images and this network, from how many images there are and how much
//! they look like what the network was trained on.

pub mod curve;
pub mod mirroring;
pub mod ranking;
pub mod similarity;
pub mod transfer;

use refit_data::Level;
use serde::{Deserialize, Serialize};

use self::curve::{CurvePoint, LearningCurve};
use self::mirroring::Confusion;
use self::ranking::Ranked;
use self::similarity::{Similarity, Verdict};
use self::transfer::Transferability;
use crate::settings::{Strategy, level_for};

/// Images a class from which there are many. With fewer, training all layers has not done better
/// than training some in our measurements.
const MANY: usize = 300;

/// How many images there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// Training images of each class.
    pub by_class: Vec<usize>,
    /// The median of them.
    pub median: usize,
    /// Whether these are many.
    pub many: bool,
    /// Parameters of a new head, and of the whole network.
    pub parameters: [usize; 2],
}

impl Amount {
    pub(crate) fn new(by_class: Vec<usize>, parameters: [usize; 2]) -> Self {
        let mut sorted = by_class.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
        Self { by_class, median, many: median >= MANY, parameters }
    }
}

/// A strategy, and the first layer that it trains where it needs one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The strategy.
    pub strategy: Strategy,
    /// Of `partial`, the first layer that is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_from: Option<String>,
    /// Seconds that it takes on this machine, about.
    pub seconds: f64,
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// The procedure that textbooks have for this amount and similarity.
    pub rule: String,
    /// The advised strategy, then the next best.
    pub candidates: Vec<Candidate>,
    /// How the advised strategy varies images by default; none where it takes no steps, but learns from
    /// plain and mirrored views.
    #[serde(default)]
    pub augment: Option<Level>,
    /// What a head on frozen features is to be expected to get right; by `auto`, whatever is trained ends
    /// no lower on the validation images. None with too few images.
    #[serde(default)]
    pub expected: Option<CurvePoint>,
    /// What each statement rests on, a sentence each.
    pub evidence: Vec<String>,
}

/// Everything measured before anything is trained, and what it comes to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// The network.
    pub backbone: String,
    /// Where several were to choose from, all of them, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranking: Vec<Ranked>,
    /// Class names.
    pub classes: Vec<String>,
    /// How many images there are.
    pub amount: Amount,
    /// How much they look like the pretraining's; none for a network without batch norms.
    pub similarity: Option<Similarity>,
    /// The mean of `ln sum exp` of the old classes' logits: the more sure the old classifier, the
    /// larger. None where the network has no old classes.
    pub energy: Option<f64>,
    /// How well the old classes tell the new ones apart ([`transfer::leep`]).
    pub leep: Option<f64>,
    /// Features at depths from the bottom up, the head's own last.
    pub transfer: Vec<Transferability>,
    /// Accuracy of a head on frozen features by number of images.
    pub curve: LearningCurve,
    /// Classes that mirroring left and right turns into others: training does not mirror then.
    #[serde(default)]
    pub mirroring: Vec<Confusion>,
    /// What to do.
    pub conclusion: Conclusion,
}

/// What conclusions are drawn from, beside what [`Advice`] says.
pub(crate) struct Facts<'a> {
    pub amount: &'a Amount,
    pub similarity: Option<&'a Similarity>,
    pub transfer: &'a [Transferability],
    pub curve: &'a LearningCurve,
    pub classes: &'a [String],
    pub mirroring: &'a [Confusion],
    /// The blocks that groups of layers begin with.
    pub starts: &'a [String],
    /// Seconds of a strategy that trains from a layer on.
    pub seconds: &'a dyn Fn(Strategy, Option<&str>) -> f64,
}

impl Facts<'_> {
    pub(crate) fn conclude(&self) -> Conclusion {
        let verdict = self.similarity.map(|s| s.verdict);
        let top = self.starts.len().saturating_sub(1);
        // Where the images depart from the pretraining, but not below the first third: what lies
        // there serves any image.
        let departs = self.similarity.and_then(|s| s.departs);
        let from = |group: usize| self.starts.get(group.clamp(2.min(top), top)).cloned();
        let partial = |group: usize| self.candidate(Strategy::Partial, from(group));
        let whole = |strategy| self.candidate(strategy, None);
        let (features, tuned) = (whole(Strategy::Features), whole(Strategy::FineTune));
        let (rule, candidates) = match (self.amount.many, verdict) {
            (false, Some(Verdict::Near)) => (
                "few images, like the pretraining's: unfreeze few layers",
                [features, partial(top)],
            ),
            (false, Some(Verdict::Middling)) => (
                "few images that depart from the pretraining's: unfreeze the upper layers",
                [partial(departs.unwrap_or(top.saturating_sub(1))), features],
            ),
            (false, Some(Verdict::Far)) => (
                "few images, unlike the pretraining's: unfreeze more layers",
                [partial(departs.unwrap_or(2)), tuned],
            ),
            (true, Some(Verdict::Near | Verdict::Middling)) => (
                "many images, like the pretraining's: fine-tune the whole network",
                [tuned, partial(top / 2)],
            ),
            (true, Some(Verdict::Far)) => (
                "many images, unlike the pretraining's: start from its weights, train completely",
                [whole(Strategy::PretrainedInit), tuned],
            ),
            (false, None) => (
                "few images; how much they look like the pretraining's is not known",
                [partial(top.saturating_sub(1)), features],
            ),
            (true, None) => (
                "many images; how much they look like the pretraining's is not known",
                [tuned, partial(top / 2)],
            ),
        };
        let candidates = distinct(candidates);
        let advised = &candidates[0];
        let augment = advised.strategy.trains_body().then(|| level_for(advised.strategy));
        let mut evidence = self.evidence();
        evidence.extend(self.of_the_advised(advised, augment));
        let expected = self.curve.expected().copied();
        Conclusion { rule: rule.to_owned(), candidates, augment, expected, evidence }
    }

    /// What the layer to train from, augmentation and time of the advised strategy rest on.
    fn of_the_advised(&self, advised: &Candidate, augment: Option<Level>) -> Vec<String> {
        let mut evidence = Vec::new();
        if let Some(layer) = &advised.unfreeze_from {
            let at = self.starts.iter().position(|start| start == layer);
            let share = at.map_or_else(String::new, |at| {
                format!(", the {} of {} groups of layers", ordinal(at + 1), self.starts.len())
            });
            let departs = self.similarity.and_then(|s| s.departs);
            let why = match (departs, at) {
                (Some(departs), Some(at)) if departs == at => "where the images depart",
                (Some(_), _) => "no lower, since what lies below serves any image",
                (None, _) => "the upper ones, since nothing says where the images depart",
            };
            evidence.push(format!("training begins at `{layer}`{share}: {why}"));
        }
        evidence.push(match augment {
            None => "augmentation: none beside mirrored views, since no steps are taken that could \
                     see new variations"
                .to_owned(),
            Some(level) => format!(
                "augmentation `{level}` goes by the strategy: {}; we have not measured that the number \
                 of images should change it",
                match level {
                    Level::None | Level::Light => "weights that are to be kept are disturbed little",
                    Level::Medium | Level::Strong => "long training by high rates bears variety",
                }
            ),
        });
        evidence.push(format!(
            "it takes about {} on this machine, from the measured time of an image",
            in_words(advised.seconds)
        ));
        evidence
    }

    fn candidate(&self, strategy: Strategy, unfreeze_from: Option<String>) -> Candidate {
        let strategy = match (strategy, &unfreeze_from) {
            (Strategy::Partial, None) => Strategy::FineTune,
            (strategy, _) => strategy,
        };
        let seconds = (self.seconds)(strategy, unfreeze_from.as_deref());
        Candidate { strategy, unfreeze_from, seconds }
    }

    fn evidence(&self) -> Vec<String> {
        let Amount { by_class, median, many, parameters: [head, all] } = self.amount;
        let total: usize = by_class.iter().sum();
        let mut evidence = vec![format!(
            "{total} training images, {median} in the middle class, are {}: a new head has {head} \
             parameters, the network {all}",
            if *many { "many" } else { "few" }
        )];
        if let Some(s) = self.similarity {
            let scale = if s.own_reference { "" } else { " (in the embedded network)" };
            evidence.push(match s.verdict {
                Verdict::Near => format!(
                    "channel statistics stand {:.1} times as far from the pretraining's as ordinary \
                     photographs'{scale}: near",
                    s.distance
                ),
                verdict => {
                    let layer = s.departs.and_then(|group| s.layers.get(group));
                    let since = layer.map_or(String::new(), |l| format!(", departing from `{l}` on"));
                    let word = if verdict == Verdict::Far { "far" } else { "between near and far" };
                    format!(
                        "channel statistics stand {:.1} times as far from the pretraining's as \
                         ordinary photographs'{scale}{since}: {word}",
                        s.distance
                    )
                }
            });
        }
        if let Some(best) = self.transfer.iter().max_by(|a, b| a.log_me.total_cmp(&b.log_me)) {
            evidence.push(format!(
                "features carry over best at `{}`: LogME {:.2}, {:.0}% by the five nearest neighbours",
                best.layer,
                best.log_me,
                100.0 * best.neighbours
            ));
        }
        if let Some(point) = self.curve.expected() {
            let [low, high] = point.interval95.map(|v| 100.0 * v);
            evidence.push(format!(
                "a head on frozen features gets {:.1}% right of images held out (95% interval {low:.1} \
                 to {high:.1}%)",
                100.0 * point.accuracy
            ));
        }
        if !self.mirroring.is_empty() {
            evidence.push(mirroring::in_words(self.mirroring, self.classes, "mirroring"));
        }
        if let Some(doubled) = self.curve.doubled {
            const FELT: f64 = 0.005;
            let gain = doubled.gain;
            let [low, high] = doubled.gain95.map(|v| 100.0 * v);
            let weakest = self.curve.weakest().into_iter().find(|class| class.recall.is_some());
            let class = weakest
                .filter(|_| gain > FELT)
                .and_then(|weakest| self.classes.get(weakest.class))
                .map_or_else(String::new, |class| format!("; class `{class}` needs them most"));
            evidence.push(format!(
                "twice as many images would add about {:.1} points (95% interval {low:.1} to \
                 {high:.1}), by a power law through the learning curve{class}",
                100.0 * gain
            ));
        }
        evidence
    }
}

/// `45 seconds`, `12 minutes`, `3.5 hours`.
pub(crate) fn in_words(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} seconds"),
        s if s < 6000.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}

fn ordinal(n: usize) -> String {
    const WORDS: [&str; 7] = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"];
    WORDS.get(n.wrapping_sub(1)).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

/// Both, or one if they are the same.
fn distinct([first, second]: [Candidate; 2]) -> Vec<Candidate> {
    let same = first.strategy == second.strategy && first.unfreeze_from == second.unfreeze_from;
    if same { vec![first] } else { vec![first, second] }
}

#[cfg(test)]
mod tests {
    use super::similarity::{DEPTHS, Reference, groups};
    use super::*;

    fn conclude(per_class: usize, factor: Option<f64>) -> Conclusion {
        let starts: Vec<String> = (0..DEPTHS).map(|i| format!("blocks.{i}")).collect();
        let reference = Reference::embedded();
        let similarity = factor.map(|factor| {
            let divergence = groups(&reference.divergence).iter().map(|r| r * factor).collect();
            Similarity::new(128, starts.clone(), divergence, &reference, true)
        });
        let facts = Facts {
            amount: &Amount::new(vec![per_class; 3], [300, 4_000_000]),
            similarity: similarity.as_ref(),
            transfer: &[],
            curve: &LearningCurve {
                images: 0,
                points: vec![],
                fit: None,
                doubled: None,
                classes: vec![],
            },
            classes: &[],
            mirroring: &[],
            starts: &starts,
            seconds: &|_, _| 1.0,
        };
        facts.conclude()
    }

    /// The rows of the table that every course on transfer learning has.
    #[test]
    fn few_or_many_near_or_far() {
        let first = |per_class, factor| {
            let Conclusion { candidates, .. } = conclude(per_class, factor);
            assert_eq!(candidates.len(), 2);
            (candidates[0].strategy, candidates[0].unfreeze_from.clone())
        };
        assert_eq!(first(20, Some(1.2)), (Strategy::Features, None));
        assert_eq!(first(20, Some(5.5)), (Strategy::Partial, Some("blocks.2".into())));
        assert_eq!(first(20, Some(14.0)), (Strategy::Partial, Some("blocks.2".into())));
        assert_eq!(first(900, Some(1.2)), (Strategy::FineTune, None));
        assert_eq!(first(900, Some(14.0)), (Strategy::PretrainedInit, None));
        assert_eq!(first(20, None), (Strategy::Partial, Some("blocks.5".into())));
        let evidence = conclude(20, Some(14.0)).evidence.join("\n");
        assert!(
            evidence.contains("60 training images, 20 in the middle class, are few"),
            "{evidence}"
        );
        assert!(evidence.contains("14.0 times as far"), "{evidence}");
    }
}
