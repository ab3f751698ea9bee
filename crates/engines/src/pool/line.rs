//! The waiting line of one process for one provider: one of those who wait asks the store, the others stand behind it, in
//! the order in which they came.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

#[derive(Default)]
pub(super) struct Line {
    /// Whoever asks the store, so that one process never competes with itself.
    door: Mutex<()>,
    /// Whoever is first in line.
    turn: Mutex<()>,
    waiting: AtomicUsize,
    freed: Notify,
}

impl Line {
    /// Whether somebody waits: who comes now stands behind.
    pub(super) fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Stands in line, until it is one's turn. The turn ends when it is dropped.
    pub(super) async fn stand(&self) -> Turn<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        // Counted from here on, also when this future is dropped while it waits.
        let counted = Counted(&self.waiting);
        let turn = self.turn.lock().await;
        Turn { _turn: turn, _counted: counted }
    }

    pub(super) async fn door(&self) -> MutexGuard<'_, ()> {
        self.door.lock().await
    }

    /// A slot was given back by this process.
    pub(super) fn free(&self) {
        self.freed.notify_one();
    }

    /// Ends when this process gave a slot back, also if that was since the last time somebody waited here.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }
}

pub(super) struct Turn<'a> {
    _turn: MutexGuard<'a, ()>,
    _counted: Counted<'a>,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
