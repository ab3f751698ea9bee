//! One run of a worker, from its start to the end of its drain: what tells it to stop, and why it did.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use verbatim_core::CancellationToken;
use verbatim_telemetry::metrics::resident_bytes;

use crate::config::WorkerConfig;
use crate::worker::WorkerExit;

/// How the outside stops a worker.
#[derive(Debug, Clone, Default)]
pub struct ShutdownSignals {
    /// Take nothing new, finish what is held.
    pub drain: CancellationToken,
    /// Give back at once what is held.
    pub release: CancellationToken,
}

/// What the parts of one run share.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// No more claims.
    pub(crate) soft: CancellationToken,
    /// No more work: what is held is given back.
    pub(crate) hard: CancellationToken,
    ended_jobs: AtomicU64,
    recycled: OnceLock<WorkerExit>,
}

impl Session {
    /// Counts a job that was worked on, and stops the worker when it has done enough or grown too large.
    pub(crate) fn count_job(&self, config: &WorkerConfig) {
        let jobs = self.ended_jobs.fetch_add(1, Ordering::Relaxed) + 1;
        let exit = if config.max_jobs > 0 && jobs >= config.max_jobs {
            WorkerExit::JobLimit
        } else if config.max_rss_bytes > 0 && resident_bytes() > Some(config.max_rss_bytes) {
            WorkerExit::MemoryLimit
        } else {
            return;
        };
        // The first reason stands.
        let _ = self.recycled.set(exit);
        self.soft.cancel();
    }

    /// Why the run ended.
    pub(crate) fn exit(&self) -> WorkerExit {
        self.recycled.get().copied().unwrap_or(WorkerExit::Shutdown)
    }
}
