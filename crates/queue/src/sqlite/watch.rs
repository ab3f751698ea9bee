//! Who waits for news inside this process: watchers of jobs, workers without work, and which workers are there or turned
//! out to be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::ids::{JobId, WorkerId};
use verbatim_core::time::Timestamp;

/// Wakes those who wait. Carries no data: who is woken reads the store again.
#[derive(Debug, Default)]
pub(super) struct Signals {
    jobs: Mutex<HashMap<JobId, watch::Sender<()>>>,
    work: Notify,
    workers: Mutex<HashMap<WorkerId, Seen>>,
    /// When the reservation of each reserved worker lapses.
    reserved: Mutex<HashMap<WorkerId, Timestamp>>,
    /// Leases that turned out to have been taken from a worker that lives, and were not told yet.
    revived: AtomicU64,
}

/// A worker that was heard of.
#[derive(Debug)]
struct Seen {
    /// Until when it counts as there.
    until: Timestamp,
    abilities: Abilities,
}

/// The maps stay usable when a thread panicked while it held one: every change to them is a single call.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Signals {
    /// News of a job from now on.
    pub(super) fn watch(&self, job: &JobId) -> watch::Receiver<()> {
        let mut jobs = locked(&self.jobs);
        jobs.retain(|_, sender| sender.receiver_count() > 0);
        jobs.entry(job.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// There is news of these jobs.
    pub(super) fn wake_watchers(&self, touched: &[JobId]) {
        if touched.is_empty() {
            return;
        }
        let jobs = locked(&self.jobs);
        for job in touched {
            if let Some(sender) = jobs.get(job) {
                sender.send_replace(());
            }
        }
    }

    /// There may be work. One permit is kept when nobody waits, so that no wake-up falls between two looks.
    pub(super) fn wake_worker(&self) {
        self.work.notify_one();
    }

    /// Waits for [`Self::wake_worker`].
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// The worker asked for work that it can do, and counts as there until `until`.
    pub(super) fn worker_asked(
        &self,
        worker: &WorkerId,
        abilities: &Abilities,
        now: Timestamp,
        until: Timestamp,
    ) {
        let mut workers = locked(&self.workers);
        workers.retain(|_, seen| seen.until > now);
        workers.insert(worker.clone(), Seen { until, abilities: abilities.clone() });
    }

    /// The worker renewed its leases, and counts as there until `until`. One that has been silent for longer is known
    /// again when it asks.
    pub(super) fn worker_renewed(&self, worker: &WorkerId, until: Timestamp) {
        if let Some(seen) = locked(&self.workers).get_mut(worker) {
            seen.until = until;
        }
    }

    /// How many workers are there.
    pub(super) fn workers(&self, now: Timestamp) -> u64 {
        locked(&self.workers).values().filter(|seen| seen.until > now).count() as u64
    }

    /// The reservation of this worker lasts until then, unless it asks again before.
    pub(super) fn reserved(&self, worker: &WorkerId, now: Timestamp, until: Timestamp) {
        let mut reserved = locked(&self.reserved);
        reserved.retain(|_, end| *end > now);
        reserved.insert(worker.clone(), until);
    }

    /// Whether the reservation of this worker has not lapsed.
    pub(super) fn is_reserved(&self, worker: &str, now: Timestamp) -> bool {
        locked(&self.reserved).iter().any(|(id, end)| id.as_str() == worker && *end > now)
    }

    /// So many leases turned out to have been taken from workers that live.
    pub(super) fn leases_revived(&self, leases: u64) {
        self.revived.fetch_add(leases, Ordering::Relaxed);
    }

    /// How many did since this was asked last.
    pub(super) fn take_revived(&self) -> u64 {
        self.revived.swap(0, Ordering::Relaxed)
    }

    /// Whether a worker that is there can do jobs of this class.
    pub(super) fn is_served(&self, class: &JobClass, now: Timestamp) -> bool {
        locked(&self.workers).values().any(|seen| seen.until > now && seen.abilities.include(class))
    }
}
