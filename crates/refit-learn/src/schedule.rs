//! How fast training goes at each step.

use std::f64::consts::PI;

use crate::settings::{ScheduleKind, TrainingSettings};

/// How one step is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// The share of the highest learning rate, in `[0, 1]`.
    pub rate: f64,
    /// How much of the last direction SGD keeps, and of the mean gradient AdamW.
    pub momentum: f64,
}

/// The momentum of schedules that leave it alone.
pub(crate) const MOMENTUM: f64 = 0.9;

/// The pace of every step of a run.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    kind: ScheduleKind,
    /// Steps in which the rate rises.
    rise: usize,
    steps: usize,
}

impl Schedule {
    /// The schedule of a run of `steps` steps.
    pub fn new(settings: &TrainingSettings, steps: usize) -> Self {
        let rise = (steps as f64 * settings.warmup).round() as usize;
        Self { kind: settings.schedule, rise: rise.min(steps.saturating_sub(1)), steps }
    }

    /// The pace of a step, from 0.
    pub fn at(&self, step: usize) -> Pace {
        let rising = step < self.rise;
        let share = match rising {
            true => (step + 1) as f64 / (self.rise + 1) as f64,
            false => (step - self.rise) as f64 / (self.steps - self.rise).max(1) as f64,
        };
        match (self.kind, rising) {
            (ScheduleKind::OneCycle, true) => {
                Pace { rate: wave(0.04, 1.0, share), momentum: wave(0.95, 0.85, share) }
            }
            (ScheduleKind::OneCycle, false) => {
                Pace { rate: wave(1.0, 1e-5, share), momentum: wave(0.85, 0.95, share) }
            }
            (_, true) => Pace { rate: share, momentum: MOMENTUM },
            (ScheduleKind::Cosine, false) => {
                Pace { rate: wave(1.0, 0.0, share), momentum: MOMENTUM }
            }
            (ScheduleKind::Constant, false) => Pace { rate: 1.0, momentum: MOMENTUM },
        }
    }
}

/// Half a cosine from one value to another.
fn wave(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + libm::cos(PI * share))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Strategy;

    fn paces(kind: ScheduleKind, warmup: f64, steps: usize) -> Vec<Pace> {
        let base = TrainingSettings::for_strategy(Strategy::FineTune);
        let schedule = Schedule::new(&TrainingSettings { schedule: kind, warmup, ..base }, steps);
        (0..steps).map(|step| schedule.at(step)).collect()
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = paces(ScheduleKind::Cosine, 0.2, 20).iter().map(|p| p.rate).collect();
        assert!(rates[..4].windows(2).all(|w| w[0] < w[1]), "{rates:?}");
        assert_eq!(rates[4], 1.0);
        assert!(rates[4..].windows(2).all(|w| w[0] > w[1]), "{rates:?}");
        assert!(rates[19] < 0.02 && rates[0] > 0.1);
        assert_eq!(paces(ScheduleKind::Cosine, 0.5, 1)[0].rate, 1.0);
        let rates = paces(ScheduleKind::Constant, 0.0, 5);
        assert!(rates.iter().all(|p| *p == Pace { rate: 1.0, momentum: 0.9 }));
    }

    /// fastai's figures: from a 25th up and down to nearly nothing, momentum the other way.
    #[test]
    fn one_cycle_moves_momentum_against_the_rate() {
        let paces = paces(ScheduleKind::OneCycle, 0.25, 400);
        assert!(paces[0].rate < 0.05 && paces[0].momentum > 0.94);
        assert_eq!(paces[100], Pace { rate: 1.0, momentum: 0.85 });
        assert!(paces[399].rate < 1e-4 && paces[399].momentum > 0.949);
        assert!(
            paces
                .windows(2)
                .all(|w| (w[1].rate - w[0].rate) * (w[1].momentum - w[0].momentum) <= 0.0)
        );
    }
}
