//! Every strategy on the same images.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use refit_data::Sample;
use serde::Serialize;

use super::auto::Behind;
use super::start::{open_dataset, starting_point};
use super::{Beginning, RunContext, run_options, train_on};
use crate::advice::similarity::Depths;
use crate::error::LearnError;
use crate::metrics::{Metrics, arg_max};
use crate::model::Model;
use crate::settings::{Settings, Strategy};
use crate::watch::{Event, Watch, stage};

/// What became of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contestant {
    /// The strategy, and where `partial` begins.
    pub strategy: Strategy,
    /// The first layer that `partial` trains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfreeze_from: Option<String>,
    /// On the test images where there are any, else on the validation images, which have chosen the
    /// epoch.
    pub metrics: Metrics,
    /// Seconds of the run.
    pub seconds: f64,
    /// Parameters that were trained, and all.
    pub parameters: [usize; 2],
    /// Milliseconds that the model takes for one image, decoding left out.
    pub latency: f64,
    /// How likely as many differences from the most accurate one would be by chance ([`mcnemar`]);
    /// none for that one.
    pub p_value: Option<f64>,
}

/// Strategies on the same split with the same budget, the most accurate first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The network.
    pub backbone: String,
    /// What they were judged by: `test` or `validation`.
    pub judged_on: String,
    /// Those that ended.
    pub contestants: Vec<Contestant>,
    /// Those that could not run, and why.
    pub left_out: Vec<(Strategy, String)>,
}

/// Trains by each of `strategies` on one split, and compares the results image by image.
///
/// `settings` gives those of a strategy and the first layer that it trains; where `partial` is not
/// told one, the upper two sevenths of the network are trained. A strategy that cannot run (`as-is`
/// with classes of one's own) is left out, with the reason.
///
/// # Errors
/// If images or weights cannot be read, there is nothing to judge by, or `watch` stops.
pub fn compare(
    settings: &dyn Fn(Strategy, Option<&str>) -> Settings,
    strategies: &[Strategy],
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Comparison, LearnError> {
    let plain = settings(Strategy::Features, None);
    plain.validate()?;
    let dataset = open_dataset(&plain, watch)?;
    let (samples, judged_on) = match dataset.test.is_empty() {
        true => (&dataset.val, "validation"),
        false => (&dataset.test, "test"),
    };
    if samples.is_empty() {
        return Err(LearnError::NothingToJudgeBy { path: plain.data.clone() });
    }
    let context = RunContext { folder: None, resume: false, ..context.clone() };
    let (mut ended, mut left_out) = (Vec::new(), Vec::new());
    for &strategy in strategies {
        let from = match strategy {
            Strategy::Partial => Some(first_trained(&plain, watch)?),
            _ => None,
        };
        let settings = settings(strategy, from.as_deref());
        let began = Instant::now();
        let run = stage(watch, strategy.name(), 0, || {
            let (behind, beginning) =
                (Behind(watch), Beginning { is_trial: true, ..Beginning::now() });
            let outcome = train_on(dataset.clone(), &settings, &context, &behind, &beginning)?;
            let seconds = began.elapsed().as_secs_f64();
            let (metrics, right) =
                judge(&outcome.model, samples, &dataset.classes, &settings, &context)?;
            Ok::<_, LearnError>((outcome, seconds, metrics, right))
        });
        match run {
            Ok((outcome, seconds, metrics, right)) => {
                let contestant = Contestant {
                    strategy,
                    unfreeze_from: from,
                    metrics,
                    seconds,
                    parameters: outcome.report.parameters,
                    latency: latency(&outcome.model),
                    p_value: None,
                };
                ended.push((contestant, right));
            }
            Err(error @ (LearnError::ForeignClasses { .. } | LearnError::Diverged { .. })) => {
                watch.event(Event::Warning(format!("{strategy} is left out: {error}")));
                left_out.push((strategy, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    ended.sort_by(|(a, _), (b, _)| {
        b.metrics.top1.total_cmp(&a.metrics.top1).then(a.metrics.loss.total_cmp(&b.metrics.loss))
    });
    let best = ended.first().map(|(_, right)| right.clone()).unwrap_or_default();
    for (contestant, right) in ended.iter_mut().skip(1) {
        contestant.p_value = Some(mcnemar(&best, right));
    }
    Ok(Comparison {
        backbone: plain.backbone,
        judged_on: judged_on.to_owned(),
        contestants: ended.into_iter().map(|(contestant, _)| contestant).collect(),
        left_out,
    })
}

/// The block that the upper two sevenths of a network begin with.
fn first_trained(settings: &Settings, watch: &dyn Watch) -> Result<String, LearnError> {
    if let Some(layer) = &settings.unfreeze_from {
        return Ok(layer.clone());
    }
    let start = starting_point(settings, &Device::flex(), watch)?;
    let starts = Depths::of(&start.network).starts;
    let at = starts.len().saturating_sub(2);
    starts.get(at).cloned().ok_or(LearnError::Setting {
        name: "--unfreeze-from",
        value: "not given".into(),
        range: "a layer, for a network without convolutions",
    })
}

/// Metrics of a model, and which images it got right.
fn judge(
    model: &Model,
    samples: &[Sample],
    classes: &[String],
    settings: &Settings,
    context: &RunContext,
) -> Result<(Metrics, Vec<bool>), LearnError> {
    let options = run_options(settings, context);
    // A network as it is has classes of its own.
    let place = |class: &String| model.card.classes.iter().position(|own| own == class);
    let places: Option<Vec<usize>> = classes.iter().map(place).collect();
    let places = places.unwrap_or_else(|| (0..classes.len()).collect());
    let (mut logits, mut labels, mut right) = (Vec::new(), Vec::new(), vec![false; samples.len()]);
    model.run(samples, &[], &options, &(), &mut |output| {
        let label = samples[output.index].label;
        let own: Vec<f32> = places.iter().map(|&i| output.values[i]).collect();
        right[output.index] = arg_max(&own) == label;
        logits.extend(own);
        labels.push(label);
    })?;
    let metrics = Metrics::from_logits(&logits, &labels, classes);
    let metrics = metrics.ok_or(LearnError::NothingToJudgeBy { path: settings.data.clone() })?;
    Ok((metrics, right))
}

/// Milliseconds for an image: the median of some.
fn latency(model: &Model) -> f64 {
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
