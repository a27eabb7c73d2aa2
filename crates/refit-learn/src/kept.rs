//! Rows of views that are computed once and kept, as far as there is room for them.

use std::path::Path;

use refit_data::cache::Element;
use refit_data::{CacheKey, CacheOptions, FeatureCache};

use crate::watch::{Event, Watch};

/// Images that go through a frozen network together.
pub(crate) const TOGETHER: usize = 32;

/// Bytes of rows that are kept where no file can be written.
const IN_MEMORY: u64 = 512 << 20;

/// Bytes of rows that are held in memory before they are written.
const WRITE_EVERY: usize = 16 << 20;

/// An image's position among those of its part, and the number of its view; the plain one is 0.
pub(crate) type View = (usize, usize);

/// The rows of a key in a folder, of at most `budget` bytes; in memory, of less, where there is no
/// folder or no file can be written in it.
pub(crate) fn open<T: Element>(
    folder: Option<&Path>,
    key: &CacheKey,
    dim: usize,
    budget: u64,
    watch: &dyn Watch,
) -> FeatureCache<T> {
    let options = |budget| CacheOptions { budget, write_every: WRITE_EVERY, within_budget: true };
    let in_memory = || FeatureCache::in_memory_with(dim, options(budget.min(IN_MEMORY)));
    let Some(folder) = folder else { return in_memory() };
    let mut cache = FeatureCache::open_with(folder, key, dim, options(budget));
    cache.take_warnings().into_iter().for_each(|w| watch.event(Event::Warning(w)));
    if cache.path().is_some() { cache } else { in_memory() }
}

/// The same jobs so that none is alone among those that go [together](TOGETHER), the last one twice if
/// need be: an image alone in its batch may round differently (`Filter::for_any_batch` of the kernels).
pub(crate) fn in_company(mut jobs: Vec<View>) -> Vec<View> {
    if jobs.len() % TOGETHER == 1 {
        jobs.push(jobs[jobs.len() - 1]);
    }
    jobs
}
