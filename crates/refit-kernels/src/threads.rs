//! Tasks over threads, and memory of its own for each.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::Buffer;

/// Runs tasks `0..count` on all threads of the current pool; each takes the next one when free. What
/// a task computes must depend on its number alone.
pub(crate) fn parallel(count: usize, run: impl Fn(usize) + Sync) {
    if count <= 1 || rayon::current_num_threads() == 1 {
        return (0..count).for_each(run);
    }
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= count {
                break;
            }
            run(task);
        }
    };
    on_threads(rayon::current_num_threads().min(count), &work);
}

/// Offers `work` to so many threads, this one among them. A thread that comes too late is not waited
/// for, as it would be with `rayon::broadcast`.
fn on_threads(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    rayon::join(work, || on_threads(threads - 1, work));
}

thread_local! {
    static SCRATCH: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Calls `use_it` with `len` values of this thread's work space, whose contents are left over from
/// earlier uses. Calls may be nested.
pub(crate) fn with_scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    let kept = SCRATCH.with(|free| free.borrow_mut().pop());
    let mut buffer = match kept {
        Some(buffer) if buffer.len() >= len => buffer,
        _ => Buffer::zeros(len),
    };
    let result = use_it(&mut buffer[..len]);
    SCRATCH.with(|free| free.borrow_mut().push(buffer));
    result
}

/// A pointer that tasks share; each task touches values that no other does.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T = f32>(*mut T);

// SAFETY: the users of `Shared` touch disjoint values (said where they do).
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(values: &mut [T]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The first value.
    pub(crate) fn ptr(&self) -> *mut T {
        self.0
    }

    /// `len` values from `start` on.
    ///
    /// # Safety
    /// They lie within the values, which are still borrowed, and no one else touches them meanwhile.
    pub(crate) unsafe fn part<'a>(&self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 100] {
            let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            parallel(count, |task| {
                with_scratch(8, |outer| {
                    outer.fill(task as f32);
                    with_scratch(8, |inner| inner.fill(-1.0));
                    assert!(outer.iter().all(|v| *v == task as f32));
                });
                runs[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }
}
