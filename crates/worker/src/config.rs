//! How workers work, with defaults that suit one machine.

use std::time::Duration;

use crate::stages::StageLimits;

/// How a worker works.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerConfig {
    /// Jobs worked on at once, at least 1.
    pub concurrency: usize,
    /// Of these, how many may wait for their engine to have room, at least 1.
    pub claim_ahead: usize,
    /// How long a lease lasts unless renewed.
    pub lease: Duration,
    /// How often leases are renewed, which is also when cancellations are noticed; at least at a third of the lease. One call
    /// renews all leases of a worker.
    pub renew: Duration,
    /// How often the store is asked for work when nothing hints that there is some.
    pub poll: Duration,
    /// How long a stopping worker goes on with what it holds.
    pub grace: Duration,
    /// How long an engine may take to notice that it has to stop; after that it is abandoned.
    pub stop_patience: Duration,
    /// How long blobs that cannot be read or written are tried again with the work in hand, before the attempt fails.
    pub storage_patience: Duration,
    /// How long an attempt may take.
    pub time_limit: TimeLimit,
    /// How many jobs may be at each stage at once.
    pub stages: StageLimits,
    /// Jobs that an engine worked on, after which the worker stops as soon as it holds nothing, to be started afresh; after
    /// twice as many it claims no more. 0 for never.
    pub max_jobs: u64,
    /// Resident memory in bytes beyond which the worker claims no more, to be started afresh; 0 for never. Looked at when an
    /// attempt ends.
    pub max_rss_bytes: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 1,
            claim_ahead: usize::MAX,
            lease: Duration::from_secs(30),
            renew: Duration::from_secs(2),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            stop_patience: Duration::from_secs(30),
            storage_patience: Duration::from_secs(120),
            time_limit: TimeLimit::default(),
            stages: StageLimits::default(),
            max_jobs: 0,
            max_rss_bytes: 0,
        }
    }
}

/// How long an attempt may take: long enough that only what hangs is ended by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeLimit {
    /// For fetching and decoding, and again for what follows. The engine's part begins anew when it has room for the job.
    pub base: Duration,
    /// Times the length of the audio, on top of it.
    pub per_audio: f64,
}

impl Default for TimeLimit {
    fn default() -> Self {
        Self { base: Duration::from_secs(30 * 60), per_audio: 20.0 }
    }
}

impl TimeLimit {
    /// The time for what follows decoding.
    pub(crate) fn for_audio(&self, duration_ms: u64) -> Duration {
        let audio = Duration::from_millis(duration_ms).as_secs_f64();
        let extra = Duration::try_from_secs_f64(audio * self.per_audio).unwrap_or(Duration::MAX);
        self.base.saturating_add(extra)
    }
}

/// How the store and the blobs are kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintenanceConfig {
    /// Time between rounds, on average: nodes that were started together spread out.
    pub interval: Duration,
    /// How long blobs are kept that no job needs any more, where no client deleted them: a store that comes back without its
    /// last moments still finds them.
    pub delete_grace: Duration,
}

/// How blobs that nothing refers to are searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Time between searches, on average, whichever node makes them.
    pub interval: Duration,
    /// Age at which such a blob is no longer one that is about to be referred to.
    pub orphan_age: Duration,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), delete_grace: Duration::from_secs(600) }
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self { interval: Duration::from_secs(3600), orphan_age: Duration::from_secs(24 * 3600) }
    }
}
