//! Optimizers over parameters by name, with a rate and a decay for each.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use refit_kernels::{AdamW, Direction, Sgd, adamw, sgd};
use refit_net::Network;

use crate::schedule::Pace;
use crate::settings::{OptimizerKind, TrainingSettings};

/// Moves parameters along their gradients.
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f32,
    learning_rate: f64,
    /// By parameter, from its first step on.
    memories: BTreeMap<String, Memory>,
    /// For each parameter, its share of the learning rate.
    shares: BTreeMap<String, f64>,
}

/// What an optimizer remembers of one parameter's gradients.
#[derive(Default)]
struct Memory {
    /// Steps so far.
    steps: u64,
    /// SGD's momentum, or AdamW's mean gradient.
    first: Vec<f32>,
    /// AdamW's mean of squares.
    second: Vec<f32>,
}

/// An optimizer's state as plain values.
#[derive(Debug, Default)]
pub struct OptimizerState {
    /// Values by parameter and kind: `conv1.weight.first`, `conv1.weight.second`.
    pub tensors: BTreeMap<String, Vec<f32>>,
    /// Steps by parameter.
    pub counters: BTreeMap<String, u64>,
}

impl Optimizer {
    /// An optimizer for the trainable parameters of `net`. Rates fall geometrically from the last
    /// layer to the first, where they are `settings.lowest_rate` of the full one (layer-wise decay:
    /// Howard and Ruder 2018, <https://arxiv.org/abs/1801.06146>).
    pub fn new(net: &Network, settings: &TrainingSettings) -> Self {
        Self {
            kind: settings.optimizer,
            weight_decay: settings.weight_decay as f32,
            learning_rate: settings.learning_rate,
            memories: BTreeMap::new(),
            shares: rate_shares(net, settings.lowest_rate),
        }
    }

    /// Moves every parameter that has a gradient, at its share of the rate.
    pub fn step(&mut self, net: &mut Network, gradients: BTreeMap<String, Tensor<1>>, pace: Pace) {
        let rate = self.learning_rate * pace.rate;
        for (name, gradient) in gradients {
            let gradient = gradient.into_data();
            let gradient = gradient.as_slice::<f32>().expect("networks compute in f32");
            let rate = (rate * self.shares.get(&name).copied().unwrap_or(1.0)) as f32;
            let decays = net.parameters()[&name].role.decays();
            let decay = if decays { self.weight_decay } else { 0.0 };
            let (kind, momentum) = (self.kind, pace.momentum as f32);
            let memory = self.memories.entry(name.clone()).or_default();
            net.update(&name, |values| {
                memory.step(kind, values, gradient, [rate, momentum, decay])
            });
        }
    }

    /// The state, to be kept in a checkpoint.
    pub fn state(&self) -> OptimizerState {
        let mut state = OptimizerState::default();
        for (name, memory) in &self.memories {
            state.counters.insert(name.clone(), memory.steps);
            state.tensors.insert(format!("{name}.first"), memory.first.clone());
            if !memory.second.is_empty() {
                state.tensors.insert(format!("{name}.second"), memory.second.clone());
            }
        }
        state
    }

    /// Takes up a kept state.
    pub fn restore(&mut self, mut state: OptimizerState) {
        for (name, steps) in state.counters {
            let mut values =
                |kind| state.tensors.remove(&format!("{name}.{kind}")).unwrap_or_default();
            let memory = Memory { steps, first: values("first"), second: values("second") };
            self.memories.insert(name, memory);
        }
    }
}

impl Memory {
    /// One step of SGD with momentum or of AdamW, as PyTorch defines them; momentum is how much of the
    /// last direction SGD keeps, and of the mean gradient AdamW.
    fn step(
        &mut self,
        kind: OptimizerKind,
        values: &mut [f32],
        gradient: &[f32],
        [rate, momentum, weight_decay]: [f32; 3],
    ) {
        let step = self.steps + 1;
        self.steps = step;
        self.first.resize(values.len(), 0.0);
        match kind {
            OptimizerKind::Sgd => {
                let settings = Sgd {
                    rate,
                    momentum,
                    dampening: 0.0,
                    weight_decay,
                    direction: Direction::Momentum,
                    step,
                };
                sgd(values, gradient, &mut self.first, &settings);
            }
            OptimizerKind::AdamW => {
                self.second.resize(values.len(), 0.0);
                let settings = AdamW {
                    rate,
                    beta1: momentum,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay,
                    step,
                };
                adamw(values, gradient, &mut self.first, &mut self.second, &settings);
            }
        }
    }
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

/// Scales all gradients together so that their norm is at most `limit`; gives the norm it was
/// (Pascanu et al. 2013, <https://arxiv.org/abs/1211.5063>).
pub fn clip_norm(gradients: &mut BTreeMap<String, Tensor<1>>, limit: f64) -> f64 {
    // In f64 and in one order: f32 squares overflow, and a parallel sum's order is not fixed.
    let square = |g: &Tensor<1>| sum_of_squares(g.to_data().as_slice().expect("gradients are f32"));
    let norm = gradients.values().map(square).sum::<f64>().sqrt();
    if norm > limit {
        let scale = limit / norm;
        gradients.values_mut().for_each(|g| *g = g.clone() * scale);
    }
    norm
}

/// Eight sums side by side, so that one need not wait for another.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    for values in values.chunks(8) {
        for (sum, v) in sums.iter_mut().zip(values) {
            *sum += f64::from(*v).powi(2);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use burn::optim::decay::WeightDecayConfig;
    use burn::optim::momentum::MomentumConfig;
    use burn::optim::{AdamWConfig, Optimizer as _, SgdConfig};
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Steps over values of all sizes; rates change, as schedules have it.
    #[test]
    fn steps_equal_burns() {
        const LEN: usize = 1003;
        const RATES: [f64; 4] = [0.1, 0.05, 0.02, 0.3];
        let device = Device::default();
        let gradient = |step: usize| -> Vec<f32> {
            (0..LEN).map(|i| ((i * 37 + step * 11) % 101) as f32 / 50.0 - 1.0).collect()
        };
        let start: Vec<f32> = (0..LEN).map(|i| (i as f32 * 0.7).sin()).collect();
        let tensor = |v: &[f32]| -> Tensor<1> {
            Tensor::from_data(TensorData::new(v.to_vec(), [v.len()]), &device)
        };
        let own = |kind, decay| {
            let (mut values, mut memory) = (start.clone(), Memory::default());
            for (step, rate) in RATES.iter().enumerate() {
                memory.step(kind, &mut values, &gradient(step), [*rate as f32, 0.9, decay]);
            }
            values
        };
        let check = |own: Vec<f32>, burns: Tensor<1>| {
            let burns: Vec<f32> = burns.into_data().try_to_vec().unwrap();
            for (a, b) in own.iter().zip(&burns) {
                assert!((a - b).abs() <= 2e-6 * b.abs().max(1.0), "{a}, not {b}");
            }
        };
        for decay in [0.0, 0.01] {
            let rule = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay).build();
            let (mut values, mut state) = (tensor(&start), None);
            for (step, rate) in RATES.iter().enumerate() {
                (values, state) = rule.step(*rate, values, tensor(&gradient(step)), state);
            }
            check(own(OptimizerKind::AdamW, decay), values);

            let momentum = MomentumConfig::new().with_dampening(0.0);
            let penalty = (decay > 0.0).then(|| WeightDecayConfig::new(decay));
            let config = SgdConfig::new().with_momentum(Some(momentum));
            let rule = config.with_weight_decay(penalty).build();
            let (mut values, mut state) = (tensor(&start), None);
            for (step, rate) in RATES.iter().enumerate() {
                (values, state) = rule.step(*rate, values, tensor(&gradient(step)), state);
            }
            check(own(OptimizerKind::Sgd, decay), values);
        }
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
