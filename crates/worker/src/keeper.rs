//! Renews every lease that the worker holds, in a task of its own, so that neither a busy pipeline nor a slow finish
//! lets one lapse.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use verbatim_core::PortError;
use verbatim_core::job::LeaseToken;
use verbatim_core::ports::jobs::{MAX_JOBS_PER_CALL, Renewal};

use crate::backoff::Backoff;
use crate::held::{StopReason, StopSwitch};
use crate::worker::WorkerPorts;

type Renewed = Mutex<HashMap<LeaseToken, Arc<StopSwitch>>>;

/// The leases to renew.
#[derive(Clone)]
pub(crate) struct LeaseKeeper {
    ports: WorkerPorts,
    lease: Duration,
    every: Duration,
    held: Arc<Renewed>,
    /// Whether the store did not answer when it was last asked for something.
    behind: Arc<AtomicBool>,
}

/// Keeps a lease among the renewals until it is dropped.
pub(crate) struct Registration {
    token: LeaseToken,
    held: Arc<Renewed>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

impl LeaseKeeper {
    /// Renews for `lease` each, as often as `every` says and at least at a third of the lease.
    pub(crate) fn new(ports: WorkerPorts, lease: Duration, every: Duration) -> Self {
        Self { ports, lease, every: every.min(lease / 3), held: Arc::default(), behind: Arc::default() }
    }

    /// Renews this lease from now on; `stop` is told when it is lost or the job is to be cancelled.
    pub(crate) fn register(&self, token: &LeaseToken, stop: &Arc<StopSwitch>) -> Registration {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(token.clone(), Arc::clone(stop));
        Registration { token: token.clone(), held: Arc::clone(&self.held) }
    }

    /// Renews until the handle is dropped. A store that does not answer is asked until it does: the work goes on meanwhile,
    /// since its finish is fenced, and most outages end before anybody else gets the job.
    pub(crate) fn start(&self) -> AbortOnDropHandle<()> {
        let keeper = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(keeper.every).await;
                let mut backoff = Backoff::new(&keeper.ports.ids, keeper.every / 8, keeper.every);
                while let Err(error) = keeper.renew_all().await {
                    keeper.ports.metrics.store_errors.with_label_values(&["renew"]).inc();
                    tracing::warn!(%error, "leases could not be renewed; trying again");
                    backoff.wait().await;
                }
            }
        }))
    }

    /// The store did not answer: before anything else is claimed from it, what is held is renewed.
    pub(crate) fn fell_behind(&self) {
        self.behind.store(true, Ordering::Relaxed);
    }

    /// Renews what is held if the store did not answer before. A worker that was cut off longer than its leases last has
    /// them back that way, as long as no other worker has its jobs; claimed first, they would be new jobs to itself.
    ///
    /// # Errors
    /// As the store answers.
    pub(crate) async fn catch_up(&self) -> Result<(), PortError> {
        if self.behind.load(Ordering::Relaxed) { self.renew_all().await } else { Ok(()) }
    }

    async fn renew_all(&self) -> Result<(), PortError> {
        let renewed = self.try_to_renew().await;
        self.behind.store(renewed.is_err(), Ordering::Relaxed);
        renewed
    }

    async fn try_to_renew(&self) -> Result<(), PortError> {
        let all: Vec<(LeaseToken, Arc<StopSwitch>)> = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.iter().map(|(token, stop)| (token.clone(), Arc::clone(stop))).collect()
        };
        for some in all.chunks(MAX_JOBS_PER_CALL) {
            let tokens: Vec<LeaseToken> = some.iter().map(|(token, _)| token.clone()).collect();
            let renewals = self.ports.leases.renew(&tokens, self.lease).await?;
            for ((token, stop), renewal) in some.iter().zip(renewals) {
                match renewal {
                    Renewal::Held { .. } => {}
                    Renewal::CancelRequested => stop.stop(StopReason::Cancelled),
                    Renewal::Lost => {
                        tracing::warn!(job.id = %token.job_id, "the lease is lost");
                        stop.stop(StopReason::LeaseLost);
                    }
                }
            }
        }
        Ok(())
    }
}
