//! Work spread over threads, results in order.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Progress;

/// `f(index, item)` for every item on `workers` threads; results in the items' order whatever the
/// number of threads.
///
/// # Panics
/// If `f` panics.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    progress: Option<Progress>,
    f: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut results = Vec::new();
        while let Some((index, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, items.get(i)?)))
        {
            results.push((index, f(index, item)));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(progress) = progress {
                progress(done, items.len());
            }
        }
        results
    };
    let workers = workers.clamp(1, items.len().max(1));
    let mut results = std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut results = work();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|&(index, _)| index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn keeps_the_order_and_tells_progress() {
        for workers in [0, 1, 3, 50] {
            let items: Vec<usize> = (0..20).collect();
            let told = Mutex::new(Vec::new());
            let squares = map(
                &items,
                workers,
                Some(&|done, total| told.lock().unwrap().push((done, total))),
                |_, x| x * x,
            );
            assert_eq!(squares, items.iter().map(|x| x * x).collect::<Vec<_>>());
            let mut told = told.into_inner().unwrap();
            told.sort_unstable();
            assert_eq!(told, (1..=20).map(|n| (n, 20)).collect::<Vec<_>>());
        }
        assert!(map(&[] as &[u8], 4, None, |_, x| *x).is_empty());
    }
}
