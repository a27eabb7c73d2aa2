//! Where the time of a run goes, step by step.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::graph::NodeId;

/// The direction of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Towards the output.
    Forward,
    /// Gradients, back from it.
    Backward,
}

/// The time that one step of a plan took.
#[derive(Debug, Clone)]
pub struct StepTime {
    /// The layers that were fused into it, in order.
    pub layers: Vec<NodeId>,
    /// Its direction.
    pub phase: Phase,
    /// How long it took.
    pub time: Duration,
}

thread_local! {
    static TIMES: RefCell<Option<Vec<StepTime>>> = const { RefCell::new(None) };
}

/// Calls `run` and lists the steps that networks on the CPU took in it, on this thread, in order.
pub fn profile<R>(run: impl FnOnce() -> R) -> (R, Vec<StepTime>) {
    TIMES.with(|times| *times.borrow_mut() = Some(Vec::new()));
    let result = run();
    (result, TIMES.with(|times| times.borrow_mut().take()).unwrap_or_default())
}

/// Calls `step`, and takes note of its time while a profile is being made.
pub(crate) fn timed<R>(layers: &[NodeId], phase: Phase, step: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = step();
    TIMES.with(|times| {
        if let Some(times) = times.borrow_mut().as_mut() {
            times.push(StepTime { layers: layers.to_vec(), phase, time: began.elapsed() });
        }
    });
    result
}
