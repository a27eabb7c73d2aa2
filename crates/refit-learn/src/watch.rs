//! Who is told what is going on: libraries print nothing.

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A stage began; `total` items are ahead, where it is known.
    Begin {
        /// What it does, for people: `features`, `epoch 3 of 8`.
        stage: String,
        /// Number of items, usually images.
        total: usize,
    },
    /// So many items of the stage are done.
    Advance {
        /// Since the last event.
        items: usize,
    },
    /// The stage is over.
    End,
    /// Something worth knowing.
    Note(String),
    /// Something that should be looked at.
    Warning(String),
}

/// Is told what is going on, and may stop it.
pub trait Watch: Sync {
    /// Something happened.
    fn event(&self, event: Event);

    /// Whether to stop at the next occasion.
    fn stops(&self) -> bool {
        false
    }
}

/// Nobody.
impl Watch for () {
    fn event(&self, _: Event) {}
}

/// Runs a stage between its two events.
pub(crate) fn stage<T>(
    watch: &dyn Watch,
    name: impl Into<String>,
    total: usize,
    work: impl FnOnce() -> T,
) -> T {
    watch.event(Event::Begin { stage: name.into(), total });
    let result = work();
    watch.event(Event::End);
    result
}
