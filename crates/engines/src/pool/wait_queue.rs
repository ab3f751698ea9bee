//! The wait queue of one process for one provider: its head asks the store for a slot, the others wait behind it in order of arrival.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

#[derive(Default)]
pub(super) struct WaitQueue {
    /// Held while the store is asked, so that one process never competes with itself.
    asking: Mutex<()>,
    /// Held by the head of the queue. Tokio's mutex is fair: waiters get it in the order in which they came.
    head: Mutex<()>,
    waiting: AtomicUsize,
    freed: Notify,
}

impl WaitQueue {
    /// Whether a job waits: one that comes now has to queue behind it.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits to become the head, which the caller stays until the guard is dropped.
    pub(super) async fn join(&self) -> Head<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // Counted from here on, also when this future is dropped while it waits.
        let counted = Counted(&self.waiting);
        let guard = self.head.lock().await;
        Head { _guard: guard, _counted: counted }
    }

    pub(super) async fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    /// A slot was given back by this process.
    pub(super) fn slot_freed(&self) {
        self.freed.notify_one();
    }

    /// Ends when this process gave a slot back, also if that was since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

pub(super) struct Head<'a> {
    _guard: MutexGuard<'a, ()>,
    _counted: Counted<'a>,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
