//! The replicas, shared by all jobs. A job's thread brings a window and waits; when a replica is free, one of the waiting
//! threads takes the oldest window and those that go with it through the network, for everybody.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use verbatim_core::failure::FailureKind;
use verbatim_core::ports::EngineError;

use crate::hear::{self, Heard, Unheard};

/// How long a batch that is not full waits for a job that is between two windows. Short against the second or so that a
/// window takes; jobs whose windows were heard together come back together.
const GATHER: Duration = Duration::from_millis(20);

/// Lets as many batches run as there are replicas.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
    replicas: usize,
    max_batch: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(u64, Unheard)>,
    done: HashMap<u64, Result<Heard, EngineError>>,
    next_id: u64,
    /// Batches that run.
    batches: usize,
    /// Windows in them.
    running: usize,
    /// Jobs under way, whatever they do.
    jobs: usize,
}

/// A job that may bring windows.
pub(crate) struct Member<'a> {
    pool: &'a Pool,
}

impl Pool {
    /// Batches of up to `max_batch` windows on `replicas` replicas.
    pub(crate) fn new(replicas: usize, max_batch: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), replicas, max_batch }
    }

    /// Announces a job, whose windows batches will wait a moment for.
    pub(crate) fn join(&self) -> Member<'_> {
        self.lock().jobs += 1;
        Member { pool: self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.pool.lock().jobs -= 1;
        self.pool.changed.notify_all();
    }
}

impl Member<'_> {
    /// Hears a window. Blocks until it is done.
    ///
    /// # Errors
    /// `EngineFailed`, `Cancelled` and `Panicked`.
    pub(crate) fn hear(&self, window: Unheard) -> Result<Heard, EngineError> {
        let Pool { changed, replicas, max_batch, .. } = self.pool;
        let deadline = Instant::now() + GATHER;
        let mut state = self.pool.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.push_back((id, window));
        changed.notify_all();
        loop {
            if let Some(result) = state.done.remove(&id) {
                return result;
            }
            if state.batches == *replicas || state.waiting.is_empty() {
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let limit = state.limit(*replicas, *max_batch);
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() && state.may_grow(limit) {
                (state, _) = changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (ids, batch) = state.take(limit);
            drop(state);
            let results = hear_all(&batch);
            state = self.pool.lock();
            state.batches -= 1;
            state.running -= batch.len();
            state.done.extend(ids.into_iter().zip(results));
            changed.notify_all();
        }
    }
}

impl State {
    /// How large the next batch may be: windows are spread over free replicas before they share one.
    fn limit(&self, replicas: usize, max_batch: usize) -> usize {
        let free = replicas - self.batches;
        if free > 1 { self.waiting.len().div_ceil(free).min(max_batch) } else { max_batch }
    }

    /// Whether the next batch has room, and a job that neither waits nor is being heard may soon bring a window.
    fn may_grow(&self, max_batch: usize) -> bool {
        let Some((_, oldest)) = self.waiting.front() else { return false };
        let matching = self.waiting.iter().filter(|(_, window)| window.goes_with(oldest)).count();
        matching < max_batch && self.jobs > self.waiting.len() + self.running
    }

    /// Takes the oldest window and those that go with it.
    fn take(&mut self, max_batch: usize) -> (Vec<u64>, Vec<Unheard>) {
        let mut taken: Vec<(u64, Unheard)> = self.waiting.pop_front().into_iter().collect();
        let mut index = 0;
        while taken.len() < max_batch && index < self.waiting.len() {
            if self.waiting[index].1.goes_with(&taken[0].1) {
                taken.extend(self.waiting.remove(index));
            } else {
                index += 1;
            }
        }
        self.batches += 1;
        self.running += taken.len();
        taken.into_iter().unzip()
    }
}

/// A panic is the failure of all windows in the batch; the threads go on.
fn hear_all(batch: &[Unheard]) -> Vec<Result<Heard, EngineError>> {
    catch_unwind(AssertUnwindSafe(|| hear::hear(batch)))
        .unwrap_or_else(|panic| batch.iter().map(|_| Err(panicked(panic.as_ref()))).collect())
}

/// The failure that a panic is.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> EngineError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    EngineError::new(FailureKind::Panicked, "the engine hit a bug on this audio").with_source(message)
}
