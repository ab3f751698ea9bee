//! What keeps the store and the blobs in order, in three tasks that never wait for each other: ticks (due jobs, lapsed
//! leases, what has expired), deletions of blobs that no job needs any more, and the sweep for blobs that no job knows. Any
//! node may do it, and several at once.

mod deletions;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use verbatim_core::ids::IdSource;
use verbatim_core::ports::blobs::BlobStore;
use verbatim_core::ports::jobs::{JobUpkeep, TickReport};
use verbatim_core::time::Clock;
use verbatim_core::{CancellationToken, PortError};
use verbatim_telemetry::Metrics;

use crate::config::MaintenanceConfig;

pub use deletions::Deleted;
pub use sweep::Sweeper;

/// The longest time between ticks on average: a longer one would look like an outage of the store to the tick behind it.
const TICK_AT_LEAST: Duration = Duration::from_secs(1);
/// How long a process that ends waits for the store to hear that it ticks no more.
const HAND_OVER: Duration = Duration::from_secs(1);
/// The most ticks in one round.
const MAX_TICKS: usize = 64;

/// The maintenance of one store and its blobs.
pub struct Maintenance {
    /// The store.
    pub store: Arc<dyn JobUpkeep>,
    /// The blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub ids: Arc<dyn IdSource>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How often.
    pub config: MaintenanceConfig,
    /// The search for blobs that no job knows; `None` leaves it to others.
    pub sweeper: Option<Sweeper>,
}

impl Maintenance {
    /// Keeps order until `stop` fires. Errors are logged, and what failed is tried again in the next round.
    pub async fn run(&self, stop: CancellationToken) {
        let tasks = async { tokio::join!(self.keep_ticking(), self.keep_deleting(), self.keep_sweeping()) };
        tokio::select! {
            _ = tasks => {}
            () = stop.cancelled() => {}
        }
        match tokio::time::timeout(HAND_OVER, self.store.hand_over()).await {
            Ok(done) => self.note("hand_over", done),
            // Another node notices the silence.
            Err(_) => None,
        };
    }

    async fn keep_ticking(&self) {
        loop {
            self.note("tick", self.tick().await);
            tokio::time::sleep(self.about(self.config.interval.min(TICK_AT_LEAST))).await;
        }
    }

    /// A time drawn from half of `interval` to half as long again.
    fn about(&self, interval: Duration) -> Duration {
        interval.mul_f64(0.5 + self.ids.fraction())
    }

    /// One round: ticks until the store is in order. Returns what all of them did.
    ///
    /// # Errors
    /// What the store answered; what was done until then stays done.
    pub async fn tick(&self) -> Result<TickReport, PortError> {
        let mut sum = TickReport::default();
        for _ in 0..MAX_TICKS {
            let tick = self.store.tick().await?;
            self.metrics.outages.count_tick(&tick);
            self.metrics.store_errors.with_label_values(&["unreadable"]).inc_by(tick.unreadable);
            if let Some(away) = tick.away {
                tracing::warn!(
                    secs = away.as_secs(),
                    "the job store was away, or no node was there to look after it; leases go on for one more lease"
                );
            }
            sum.add(tick);
            if !tick.did_something() {
                break;
            }
        }
        Ok(sum)
    }

    /// Counts and logs an error; the value where there is none.
    fn note<T>(&self, operation: &str, done: Result<T, PortError>) -> Option<T> {
        done.inspect_err(|error| {
            self.metrics.store_errors.with_label_values(&[operation]).inc();
            tracing::warn!(
                operation,
                error = error as &dyn std::error::Error,
                "maintenance failed; trying again later"
            );
        })
        .ok()
    }
}
