//! Burn's optimizers over parameters by name, with a rate and a decay for each.

use std::collections::BTreeMap;

use burn::optim::decay::WeightDecayConfig;
use burn::optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::lr_scheduler::sequential::SequentialLrSchedulerConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdamW, AdamWConfig, AdamWState, Optimizer as _, RecordState, Sgd, SgdConfig, SgdState,
    StateSink, StateSource,
};
use burn::tensor::{Device, Tensor, TensorData};
use burn_pack::Scalar;
use refit_net::Network;

use crate::settings::{OptimizerKind, TrainingSettings};

/// Moves parameters along their gradients.
pub struct Optimizer {
    rule: Rule,
    /// For each parameter, its share of the learning rate.
    shares: BTreeMap<String, f64>,
}

enum Rule {
    AdamW { decaying: AdamW, plain: AdamW, states: BTreeMap<String, AdamWState<1>> },
    Sgd { decaying: Sgd, plain: Sgd, states: BTreeMap<String, SgdState<1>> },
}

/// An optimizer's state as plain values.
#[derive(Debug, Default)]
pub struct OptimizerState {
    /// Values by parameter and kind: `conv1.weight.momentum.moment_1`.
    pub tensors: BTreeMap<String, Vec<f32>>,
    /// Counters by the same names.
    pub counters: BTreeMap<String, u64>,
}

impl Optimizer {
    /// An optimizer for the trainable parameters of `net`. Rates fall geometrically from the last
    /// layer to the first, where they are `settings.lowest_rate` of the full one (layer-wise decay:
    /// Howard and Ruder 2018, <https://arxiv.org/abs/1801.06146>).
    pub fn new(net: &Network, settings: &TrainingSettings) -> Self {
        let decay = settings.weight_decay;
        let rule = match settings.optimizer {
            OptimizerKind::AdamW => {
                let config = |decay: f64| {
                    AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay as f32).build()
                };
                Rule::AdamW { decaying: config(decay), plain: config(0.0), states: BTreeMap::new() }
            }
            OptimizerKind::Sgd => {
                let momentum = MomentumConfig::new().with_dampening(0.0);
                let config = SgdConfig::new().with_momentum(Some(momentum));
                let plain = config.clone().build();
                let penalty = (decay > 0.0).then(|| WeightDecayConfig::new(decay as f32));
                let decaying = config.with_weight_decay(penalty).build();
                Rule::Sgd { decaying, plain, states: BTreeMap::new() }
            }
        };
        Self { rule, shares: rate_shares(net, settings.lowest_rate) }
    }

    /// Moves every parameter that has a gradient, at `rate` times its share.
    pub fn step(&mut self, net: &mut Network, gradients: BTreeMap<String, Tensor<1>>, rate: f64) {
        for (name, gradient) in gradients {
            let parameter = &net.parameters()[&name];
            let (value, decays) = (parameter.value.clone(), parameter.role.decays());
            let rate = rate * self.shares.get(&name).copied().unwrap_or(1.0);
            let moved = match &mut self.rule {
                Rule::AdamW { decaying, plain, states } => {
                    let rule = if decays { decaying } else { plain };
                    let (moved, state) = rule.step(rate, value, gradient, states.remove(&name));
                    states.extend(state.map(|s| (name.clone(), s)));
                    moved
                }
                Rule::Sgd { decaying, plain, states } => {
                    let rule = if decays { decaying } else { plain };
                    let (moved, state) = rule.step(rate, value, gradient, states.remove(&name));
                    states.extend(state.map(|s| (name.clone(), s)));
                    moved
                }
            };
            net.set(&name, moved);
        }
    }

    /// The state, to be kept in a checkpoint.
    pub fn state(&self) -> OptimizerState {
        let mut sink = StateSink::default();
        match &self.rule {
            Rule::AdamW { states, .. } => flatten(states, &mut sink),
            Rule::Sgd { states, .. } => flatten(states, &mut sink),
        }
        let values = |data: TensorData| data.iter::<f32>().collect();
        let counter = |scalar| match scalar {
            Scalar::UInt(n) => n,
            Scalar::Int(n) => n as u64,
            Scalar::Float(x) => x.to_bits(),
            Scalar::Bool(b) => u64::from(b),
        };
        OptimizerState {
            tensors: sink.tensors.into_iter().map(|(n, data)| (n, values(data))).collect(),
            counters: sink.scalars.into_iter().map(|(n, s)| (n, counter(s))).collect(),
        }
    }

    /// Takes up a kept state.
    pub fn restore(&mut self, state: OptimizerState, device: &Device) {
        let scalars = state.counters.into_iter().map(|(n, v)| (n, Scalar::UInt(v))).collect();
        let mut source = StateSource::new(scalars);
        for (name, values) in state.tensors {
            let len = values.len();
            source.insert_tensor(name, TensorData::new(values, [len]));
        }
        let names: Vec<String> = self.shares.keys().cloned().collect();
        match &mut self.rule {
            Rule::AdamW { states, .. } => *states = unflatten(&names, &mut source, device),
            Rule::Sgd { states, .. } => *states = unflatten(&names, &mut source, device),
        }
    }
}

fn flatten<S: RecordState>(states: &BTreeMap<String, S>, sink: &mut StateSink) {
    states.iter().for_each(|(name, state)| state.state_flatten(name, sink));
}

fn unflatten<S: RecordState>(
    names: &[String],
    source: &mut StateSource,
    device: &Device,
) -> BTreeMap<String, S> {
    let state = |name: &String| {
        let known = source.has_under(name);
        let state = known.then(|| S::state_unflatten(name, source, device)).flatten();
        state.map(|s| (name.clone(), s))
    };
    names.iter().filter_map(state).collect()
}

/// `lowest^(1 - depth)`, depth from 0 at the first trained layer to 1 at the last.
fn rate_shares(net: &Network, lowest: f64) -> BTreeMap<String, f64> {
    let names: Vec<&str> = net.trainable().map(|(name, _)| name).collect();
    let layer = |name: &str| name.rsplit_once('.').map_or(name, |(layer, _)| layer).to_owned();
    let mut layers: Vec<String> = names.iter().map(|name| layer(name)).collect();
    layers.dedup();
    let count = layers.len();
    let depth_at = |i: usize| if count > 1 { i as f64 / (count - 1) as f64 } else { 1.0 };
    let depth: BTreeMap<String, f64> =
        layers.into_iter().enumerate().map(|(i, l)| (l, depth_at(i))).collect();
    let share = |name: &str| lowest.powf(1.0 - depth[&layer(name)]);
    names.into_iter().map(|name| (name.to_owned(), share(name))).collect()
}

/// The learning rate's share of its highest value over a run: up linearly, down as half a cosine
/// (Loshchilov and Hutter 2017, <https://arxiv.org/abs/1608.03983>).
pub struct Schedule {
    inner: ModuleLrScheduler,
}

impl Schedule {
    /// The schedule of `steps` steps of which a share of `warmup` rises, from step `done` on.
    pub fn new(steps: usize, warmup: f64, done: usize) -> Self {
        let rise = ((steps as f64 * warmup).round() as usize).min(steps.saturating_sub(1));
        let fall = CosineAnnealingLrSchedulerConfig::new(1.0, (steps - rise).max(1));
        let scheduler = match rise {
            0 => fall.init(),
            _ => {
                let start = 1.0 / (rise + 1) as f64;
                let rising = LinearLrSchedulerConfig::new(start, 1.0, rise);
                SequentialLrSchedulerConfig::new(vec![rising.into(), fall.into()], vec![rise])
                    .init()
            }
        };
        let inner = scheduler.expect("shares between 0 and 1, and at least one step");
        let mut schedule = Self { inner };
        (0..done).for_each(|_| {
            schedule.next_share();
        });
        schedule
    }

    /// The share at the next step, in `[0, 1]`.
    pub fn next_share(&mut self) -> f64 {
        self.inner.step().base()
    }
}

/// Scales all gradients together so that their norm is at most `limit`; gives the norm it was
/// (Pascanu et al. 2013, <https://arxiv.org/abs/1211.5063>).
pub fn clip_norm(gradients: &mut BTreeMap<String, Tensor<1>>, limit: f64) -> f64 {
    // In f64 and in one order: f32 squares overflow, and a parallel sum's order is not fixed.
    let square =
        |g: &Tensor<1>| g.to_data().iter::<f32>().map(|v| f64::from(v).powi(2)).sum::<f64>();
    let norm = gradients.values().map(square).sum::<f64>().sqrt();
    if norm > limit {
        let scale = limit / norm;
        gradients.values_mut().for_each(|g| *g = g.clone() * scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_and_falls_and_can_be_taken_up_anywhere() {
        let mut schedule = Schedule::new(20, 0.2, 0);
        let shares: Vec<f64> = (0..20).map(|_| schedule.next_share()).collect();
        assert!(shares[..4].windows(2).all(|w| w[0] < w[1]), "{shares:?}");
        assert!((shares[4] - 1.0).abs() < 1e-9, "{shares:?}");
        assert!(shares[4..].windows(2).all(|w| w[0] > w[1]), "{shares:?}");
        assert!(shares[19] < 0.02);
        let mut later = Schedule::new(20, 0.2, 7);
        assert_eq!(later.next_share(), shares[7]);
        assert!((Schedule::new(1, 0.5, 0).next_share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn rates_fall_towards_the_input_and_the_last_layer_has_the_full_one() {
        let net = refit_net::zoo::find("resnet18").unwrap().random(0, &Device::default());
        let shares = rate_shares(&net, 0.1);
        assert!((shares["conv1.weight"] - 0.1).abs() < 1e-9);
        assert!(
            (shares["fc.weight"] - 1.0).abs() < 1e-9 && shares["fc.bias"] == shares["fc.weight"]
        );
        assert!(shares["layer1.0.conv1.weight"] < shares["layer4.0.conv1.weight"]);
        let head = net.edit(&[refit_net::Edit::FreezeBody], 0).unwrap();
        assert!((rate_shares(&head, 0.1)["fc.weight"] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let device = Device::default();
        let mut gradients = BTreeMap::from([
            ("a".to_owned(), Tensor::<1>::from_data([3.0, 0.0], &device)),
            ("b".to_owned(), Tensor::<1>::from_data([4.0], &device)),
        ]);
        assert!((clip_norm(&mut gradients, 1.0) - 5.0).abs() < 1e-6);
        let a: Vec<f32> = gradients["a"].to_data().iter::<f32>().collect();
        assert!((a[0] - 0.6).abs() < 1e-6);
        assert!((clip_norm(&mut gradients, 10.0) - 1.0).abs() < 1e-6);
    }
}
