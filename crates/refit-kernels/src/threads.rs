//! Tasks over threads, and memory of its own for each.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

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
    match TEAM.replace(ptr::null()) {
        // A task that makes tasks of its own does them itself: the others are busy with the team's.
        team if team.is_null() && IN_TEAM.get() => work(),
        team if team.is_null() => on_threads(rayon::current_num_threads().min(count), &work),
        team => {
            let _back = Back(team);
            // SAFETY: whoever set it keeps the team until it has been taken back.
            unsafe { (*team).share(&work) };
        }
    }
}

thread_local! {
    /// The team that this thread leads and that is free, or null.
    static TEAM: Cell<*const Team> = const { Cell::new(ptr::null()) };
    /// Whether this thread leads a team or helps one. Such a thread joins no other, whatever work of
    /// the pool comes its way: who waits for it would wait for that team's end.
    static IN_TEAM: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one of a team until dropped.
struct Member;

impl Member {
    /// Nothing if it is one already.
    fn enter() -> Option<Self> {
        (!IN_TEAM.replace(true)).then_some(Self)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        IN_TEAM.set(false);
    }
}

/// Sets this thread's team again at the end of a scope.
struct Back(*const Team);

impl Drop for Back {
    fn drop(&mut self) {
        TEAM.set(self.0);
    }
}

/// Runs `work` with the threads of the current pool at hand: what is computed in parallel within it
/// begins at once, where sleeping threads would have to be woken for each layer of a network. In
/// between they look for other work of the pool.
pub fn together<R>(work: impl FnOnce() -> R) -> R {
    let others = rayon::current_num_threads() - 1;
    if others == 0 {
        return work();
    }
    let Some(_member) = Member::enter() else { return work() };
    let team = Team {
        others,
        started: AtomicUsize::new(0),
        job: AtomicPtr::new(ptr::null_mut()),
        number: AtomicUsize::new(0),
        busy: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        panic: Mutex::new(None),
    };
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            scope.spawn(|_| team.help());
        }
        /// Lets the helpers go, also if `work` panics.
        struct Over<'a>(&'a Team);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                TEAM.set(ptr::null());
                self.0.over.store(true, Ordering::Release);
            }
        }
        let _over = Over(&team);
        TEAM.set(&raw const team);
        work()
    })
}

/// What a team works on.
type Job<'a> = &'a (dyn Fn() + Sync);

/// Threads that wait for jobs of one that leads them.
struct Team {
    /// Helpers that are asked, and those that have come.
    others: usize,
    started: AtomicUsize,
    /// A pointer to the `Job`, or null.
    job: AtomicPtr<Job<'static>>,
    /// Jobs so far.
    number: AtomicUsize,
    /// Helpers that may hold the job.
    busy: AtomicUsize,
    over: AtomicBool,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// How often a helper looks for a job, tens of nanoseconds apart, before it looks for other work.
const PATIENCE: usize = 1000;

impl Team {
    /// Does `job` on this thread and on all helpers that are free, until it returns on all of them.
    fn share(&self, job: Job) {
        /// Takes the job back, also if this thread's part of it panics.
        struct TakeBack<'a>(&'a Team);
        impl Drop for TakeBack<'_> {
            fn drop(&mut self) {
                // In one order with the helpers' steps: a helper either sees that the job is gone,
                // or is seen here.
                self.0.job.store(ptr::null_mut(), Ordering::SeqCst);
                while self.0.busy.load(Ordering::SeqCst) > 0 {
                    std::hint::spin_loop();
                }
            }
        }
        // SAFETY: only the lifetime changes; the job is taken back before it ends.
        let mut job = unsafe { std::mem::transmute::<Job, Job<'static>>(job) };
        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let taken_back = TakeBack(self);
        self.number.fetch_add(1, Ordering::SeqCst);
        self.job.store(&raw mut job, Ordering::SeqCst);
        job();
        drop(taken_back);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Helps with jobs until it is over.
    fn help(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
        let Some(_member) = Member::enter() else { return };
        let (mut last, mut idle) = (0, 0);
        while !self.over.load(Ordering::Acquire) {
            let number = self.number.load(Ordering::SeqCst);
            if number == last || self.job.load(Ordering::Relaxed).is_null() {
                std::hint::spin_loop();
                idle += 1;
                if idle == PATIENCE {
                    idle = 0;
                    // What waits in the pool may be a call for help that another thread is to hear.
                    let all = self.started.load(Ordering::Relaxed) == self.others;
                    if !all || rayon::yield_now() != Some(rayon::Yield::Executed) {
                        std::thread::yield_now();
                    }
                }
                continue;
            }
            self.busy.fetch_add(1, Ordering::SeqCst);
            let job = self.job.load(Ordering::SeqCst);
            if !job.is_null() {
                // SAFETY: the leader waits for this thread before it takes the job back.
                let job = unsafe { *job };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                    let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(panic);
                }
                (last, idle) = (number, 0);
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Offers `work` to so many threads, this one among them. A thread that comes too late is not waited
/// for, as it would be with `rayon::broadcast`.
fn on_threads(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    rayon::join(work, || on_threads(threads - 1, work));
}

/// Values of a task of [`over_chunks`], about.
const CHUNK: usize = 1 << 14;

/// Calls `run` with runs of whole units of `y`, such as pixels, and the number of the first of them.
///
/// # Panics
/// If `y` is not whole units.
pub(crate) fn over_chunks(y: &mut [f32], unit: usize, run: impl Fn(usize, &mut [f32]) + Sync) {
    let unit = unit.max(1);
    assert!(y.len().is_multiple_of(unit), "{} values are not whole units of {unit}", y.len());
    let units = (CHUNK / unit).max(1);
    let (len, y) = (y.len(), Shared::new(y));
    parallel(len.div_ceil(units * unit), |task| {
        let first = task * units * unit;
        // SAFETY: each task has its own values.
        run(task * units, unsafe { y.part(first, (units * unit).min(len - first)) });
    });
}

/// Calls `run` with the `i`th chunk of every slice, for every `i`.
///
/// # Panics
/// If a slice is not whole chunks, or numbers of chunks differ.
pub(crate) fn parallel_chunks<const N: usize>(
    slices: [(&mut [f32], usize); N],
    run: impl Fn(usize, [&mut [f32]; N]) + Sync,
) {
    let chunks = |(values, len): &(&mut [f32], usize)| values.len() / (*len).max(1);
    let count = slices.iter().map(chunks).min().unwrap_or(0);
    let whole = |(values, len): &(&mut [f32], usize)| values.len() == count * len;
    assert!(slices.iter().all(whole), "slices of unequal numbers of chunks");
    let parts = slices.map(|(values, len)| (Shared::new(values), len));
    // SAFETY: each task has its own chunk of each slice.
    parallel(count, |i| run(i, parts.map(|(all, len)| unsafe { all.part(i * len, len) })));
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
    use crate::testing::on_threads;

    #[test]
    fn a_team_runs_every_task_of_every_job_once() {
        for threads in [1, 2, 4] {
            on_threads(threads, || {
                together(|| {
                    for count in (0..200).chain([5000]) {
                        let runs: Vec<AtomicUsize> =
                            (0..count).map(|_| AtomicUsize::new(0)).collect();
                        parallel(count, |task| {
                            // Tasks may have tasks of their own, and teams within teams are none.
                            if task == 7 {
                                together(|| parallel(3, |_| ()));
                            }
                            runs[task].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
            });
        }
    }

    #[test]
    fn a_panic_in_a_team_reaches_its_leader() {
        for count in [2, 100] {
            let result = catch_unwind(|| {
                on_threads(3, || {
                    together(|| parallel(count, |task| assert!(task + 1 < count, "the last")));
                });
            });
            assert!(result.is_err());
        }
        // Nothing of it is left.
        together(|| parallel(10, |_| ()));
    }

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
