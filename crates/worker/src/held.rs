//! A lease in hand: its slot, its place among the renewals, and the switch that stops the work on it.

use std::sync::{Arc, OnceLock};

use verbatim_core::CancellationToken;
use verbatim_core::job::Lease;
use verbatim_telemetry::Metrics;

use crate::keeper::Registration;
use crate::slots::Slot;

/// Why work stops before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Nobody wants the job any more.
    Cancelled,
    /// Another worker may have it: nothing may be published.
    LeaseLost,
    /// This worker ends.
    Released,
    /// The attempt took too long.
    TimedOut,
}

/// Stops the work on one lease. The first reason stands.
#[derive(Debug, Default)]
pub(crate) struct StopSwitch {
    reason: OnceLock<StopReason>,
    token: CancellationToken,
}

impl StopSwitch {
    /// Stops the work.
    pub(crate) fn stop(&self, reason: StopReason) {
        if self.reason.set(reason).is_ok() {
            self.token.cancel();
        }
    }

    /// What the pipeline and the engine watch.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Why the work has to stop, when it has to.
    pub(crate) fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Waits until the work has to stop.
    pub(crate) async fn stopped(&self) -> StopReason {
        self.token.cancelled().await;
        self.reason().expect("the reason is set before the token fires")
    }
}

/// A lease that this worker holds. Dropping it ends the renewals and gives the slot back; the lease itself ends by a
/// finish, or lapses.
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) stop: Arc<StopSwitch>,
    pub(crate) slot: Slot,
    pub(crate) _registration: Registration,
    pub(crate) _counted: Counted,
}

/// A lease in the metrics for as long as it is held.
pub(crate) struct Counted(Arc<Metrics>);

impl Counted {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.leases_held.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.leases_held.dec();
    }
}
