//! What keeps the store and the blobs in order: due jobs, lapsed leases, expired jobs, blobs that nobody needs. Any node
//! may do it, and several at once.

use std::sync::Arc;
use std::time::Duration;

use verbatim_core::ids::IdSource;
use verbatim_core::ports::blobs::{AUDIO_PREFIX, BlobKey, BlobStore, RESULTS_PREFIX};
use verbatim_core::ports::jobs::{JobUpkeep, MAX_JOBS_PER_CALL, TickReport};
use verbatim_core::time::Clock;
use verbatim_core::{CancellationToken, PortError};
use verbatim_telemetry::Metrics;

use crate::config::UpkeepConfig;

/// The most ticks in one round, so that blobs get their turn while there is much to do.
const MAX_TICKS: usize = 64;

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpkeepReport {
    /// What the store did, in all ticks.
    pub ticks: TickReport,
    /// Blobs that were deleted.
    pub blobs_deleted: u64,
}

/// The upkeep of one store and its blobs.
pub struct Upkeep {
    /// The store.
    pub upkeep: Arc<dyn JobUpkeep>,
    /// The blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub ids: Arc<dyn IdSource>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How often.
    pub config: UpkeepConfig,
}

impl Upkeep {
    /// Keeps order until `stop` fires. Errors are logged, and what failed is tried again in the next round.
    pub async fn run(&self, stop: CancellationToken) {
        let work = async { tokio::join!(self.keep_ticking(), self.keep_sweeping()) };
        tokio::select! {
            _ = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn keep_ticking(&self) {
        loop {
            self.note("tick", self.run_once().await);
            tokio::time::sleep(self.about(self.config.interval)).await;
        }
    }

    /// Beside the ticks, so that a bucket of millions of objects delays no job.
    async fn keep_sweeping(&self) {
        let Some(sweep) = self.config.sweep else { return };
        tokio::time::sleep(sweep.first_within.mul_f64(self.ids.fraction())).await;
        loop {
            self.note("sweep", self.sweep_once(sweep.orphan_age).await);
            tokio::time::sleep(self.about(sweep.interval)).await;
        }
    }

    /// A time drawn from half of `interval` to half as long again.
    fn about(&self, interval: Duration) -> Duration {
        interval.mul_f64(0.5 + self.ids.fraction())
    }

    /// One round: ticks until the store is in order, then deletes the blobs that no job needs any more.
    ///
    /// # Errors
    /// What the store or the blobs answered; what was done until then stays done.
    pub async fn run_once(&self) -> Result<UpkeepReport, PortError> {
        let mut report = UpkeepReport::default();
        for _ in 0..MAX_TICKS {
            let tick = self.upkeep.tick().await?;
            if tick == TickReport::default() {
                break;
            }
            let TickReport { promoted, lapsed, failed, expired } = tick;
            let sum = &mut report.ticks;
            sum.promoted += promoted;
            sum.lapsed += lapsed;
            sum.failed += failed;
            sum.expired += expired;
        }
        loop {
            let orphans = self.upkeep.orphaned_blobs().await?;
            if orphans.is_empty() {
                return Ok(report);
            }
            for key in &orphans {
                self.blobs.delete(key).await?;
            }
            self.upkeep.blobs_deleted(&orphans).await?;
            report.blobs_deleted += orphans.len() as u64;
        }
    }

    /// Deletes blobs of at least this age that nothing refers to: uploads that were never submitted, and results whose worker
    /// could not delete them. Returns how many.
    ///
    /// # Errors
    /// As [`Self::run_once`].
    pub async fn sweep_once(&self, orphan_age: Duration) -> Result<u64, PortError> {
        let mut deleted = 0;
        for prefix in [AUDIO_PREFIX, RESULTS_PREFIX] {
            let mut after: Option<BlobKey> = None;
            loop {
                let page = self.blobs.list(prefix, after.as_ref(), MAX_JOBS_PER_CALL).await?;
                let now = self.clock.now();
                for blob in &page {
                    let old = now.since(blob.modified_at) >= orphan_age;
                    if old && !self.upkeep.is_referenced(&blob.key).await? {
                        self.blobs.delete(&blob.key).await?;
                        deleted += 1;
                    }
                }
                match page.last() {
                    Some(last) => after = Some(last.key.clone()),
                    None => break,
                }
            }
        }
        if deleted > 0 {
            tracing::info!(deleted, "blobs that nothing referred to were deleted");
        }
        Ok(deleted)
    }

    fn note<T>(&self, operation: &str, done: Result<T, PortError>) {
        if let Err(error) = done {
            self.metrics.store_errors.with_label_values(&[operation]).inc();
            tracing::warn!(
                operation,
                error = &error as &dyn std::error::Error,
                "upkeep failed; trying again later"
            );
        }
    }
}
