//! One run of a worker, from its start to the end of its drain: what tells it to stop, and why it did.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use verbatim_core::CancellationToken;
use verbatim_telemetry::Metrics;
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

impl ShutdownSignals {
    /// Whether the worker was told to stop.
    pub(crate) fn fired(&self) -> bool {
        self.drain.is_cancelled() || self.release.is_cancelled()
    }

    /// Waits until the worker is told to stop.
    pub(crate) async fn any(&self) {
        tokio::select! {
            () = self.drain.cancelled() => {}
            () = self.release.cancelled() => {}
        }
    }
}

/// How far an attempt got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Reach {
    /// It was refused, or over, before its audio was touched.
    #[default]
    Nothing,
    /// Its audio was fetched, and perhaps decoded.
    Audio,
    /// An engine worked on it.
    Engine,
}

/// What the parts of one run share.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// No more claims.
    pub(crate) soft: CancellationToken,
    /// No more work: what is held is given back.
    pub(crate) hard: CancellationToken,
    /// Attempts that reached an engine.
    worked: AtomicU64,
    /// Which limit the worker has passed.
    passed: OnceLock<WorkerExit>,
}

impl Session {
    /// Looks, at the end of an attempt, whether the worker has passed a limit. Past `max_jobs` it goes on until it holds
    /// nothing; at twice as many, and with too much memory, it claims no more.
    pub(crate) fn attempt_ended(&self, reach: Reach, config: &WorkerConfig, metrics: &Metrics) {
        // What was sent back at once is no work, and says nothing of the worker.
        if reach == Reach::Nothing {
            return;
        }
        let worked = match reach {
            Reach::Engine => self.worked.fetch_add(1, Ordering::Relaxed) + 1,
            _ => self.worked.load(Ordering::Relaxed),
        };
        if config.max_rss_bytes > 0 && resident_bytes() > Some(config.max_rss_bytes) {
            self.pass(WorkerExit::MemoryLimit);
            self.retire(metrics);
        }
        if config.max_jobs > 0 && worked >= config.max_jobs {
            self.pass(WorkerExit::JobLimit);
            if worked >= config.max_jobs.saturating_mul(2) {
                self.retire(metrics);
            }
        }
    }

    /// No more claims, whatever is held.
    fn retire(&self, metrics: &Metrics) {
        metrics.worker_retiring.set(1);
        self.soft.cancel();
    }

    fn pass(&self, limit: WorkerExit) {
        // The first one stands.
        if self.passed.set(limit).is_ok() {
            tracing::info!(?limit, "the worker has passed a limit and will be started afresh");
        }
    }

    /// Ends the session of a worker that holds nothing, if it has passed a limit. Says whether it has.
    pub(crate) fn end_if_due(&self) -> bool {
        let due = self.passed.get().is_some();
        if due {
            self.soft.cancel();
        }
        due
    }

    /// Why the run ended. Whoever was told to stop is not started afresh, whatever limit it has passed.
    pub(crate) fn exit(&self, signals: &ShutdownSignals) -> WorkerExit {
        if signals.fired() {
            return WorkerExit::Shutdown;
        }
        self.passed.get().copied().unwrap_or(WorkerExit::Shutdown)
    }
}
