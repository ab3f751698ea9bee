//! Takes leases: a slot first, then a claim that is repeated under its nonce until the store has answered.

use std::sync::Arc;
use std::time::Duration;

use verbatim_core::ids::{ClaimNonce, WorkerId};
use verbatim_core::job::Lease;
use verbatim_core::ports::jobs::ClaimRequest;
use verbatim_core::{CancellationToken, PortError};

use crate::backoff::Backoff;
use crate::finish::{Ending, LAST_TRIES, finish, may_pass};
use crate::held::{Counted, Held, StopSwitch};
use crate::keeper::LeaseKeeper;
use crate::pipeline::Pipeline;
use crate::session::Session;
use crate::slots::{Slot, Slots};
use crate::worker::WorkerPorts;

/// The shortest range of waits after a hint of work that came to nothing.
const AFTER_HINT: Duration = Duration::from_millis(4);

/// Claims jobs for one worker.
#[derive(Clone)]
pub(crate) struct Claimer {
    pub(crate) ports: WorkerPorts,
    pub(crate) worker: WorkerId,
    pub(crate) lease: Duration,
    pub(crate) poll: Duration,
    pub(crate) slots: Slots,
    pub(crate) keeper: LeaseKeeper,
    pub(crate) pipeline: Pipeline,
}

impl Claimer {
    /// The next job, however long it takes; also one that a claim under way gave after the session had ended. `None` when
    /// the session ends first; no lease is left behind then.
    pub(crate) async fn next(&self, session: &Session) -> Option<Held> {
        let mut idle = Backoff::new(&self.ports.ids, AFTER_HINT, self.poll);
        loop {
            // What is claimed where no audio can be found only goes back again.
            unless(&session.soft, self.ports.blobs.found()).await?;
            let slot = unless(&session.soft, self.slots.take()).await?;
            // Nothing is held and nothing asked for: the moment at which a restart costs nobody anything.
            if slot.is_only_one() && session.end_if_due() {
                return None;
            }
            // What the engine can do may depend on a store that hangs, and nothing was asked for yet.
            let request = unless(&session.soft, self.request(&slot)).await?;
            match self.ask(request, &session.hard).await? {
                Some(lease) => return Some(self.hold(lease, slot).await),
                None => drop(slot),
            }
            unless(&session.soft, self.pause(&mut idle)).await?;
        }
    }

    /// The next job if there is one now.
    pub(crate) async fn try_next(&self) -> Result<Option<Held>, PortError> {
        if self.ports.blobs.is_lost() {
            return Ok(None);
        }
        let slot = self.slots.take().await;
        match self.claim(self.request(&slot).await).await? {
            Some(lease) => Ok(Some(self.hold(lease, slot).await)),
            None => Ok(None),
        }
    }

    /// Gives a job back that nobody began to work on.
    pub(crate) async fn release(&self, held: Held, session: &Session) {
        finish(&self.ports, &held.lease.token, Ending::Release, &session.hard).await;
    }

    async fn request(&self, slot: &Slot) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker.clone(),
            nonce: ClaimNonce::generate(self.ports.ids.as_ref()),
            idle: slot.is_only_one(),
            lease: self.lease,
            abilities: self.pipeline.abilities().await,
        }
    }

    /// Repeats one claim until the store has answered: a claim whose answer was lost may have given a lease. One that is refused
    /// for a reason that repeating does not mend gets nothing after a few tries; the next one may. `None` when `hard` fires first.
    async fn ask(&self, request: ClaimRequest, hard: &CancellationToken) -> Option<Option<Lease>> {
        let mut backoff = Backoff::for_store(&self.ports.ids);
        let mut tries_left = LAST_TRIES;
        loop {
            match self.claim(request.clone()).await {
                Ok(lease) => return Some(lease),
                Err(error) if !may_pass(&error) && tries_left <= 1 => {
                    tracing::error!(%error, "no job could be claimed, and repeating the claim would not help");
                    return Some(None);
                }
                Err(error) if !may_pass(&error) => {
                    tries_left -= 1;
                    tracing::warn!(%error, "no job could be claimed; trying again");
                }
                Err(error) => tracing::warn!(%error, "no job could be claimed; trying again"),
            }
            unless(hard, backoff.wait()).await?;
        }
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Option<Lease>, PortError> {
        self.keeper.catch_up().await?;
        let claimed = self.ports.leases.claim(request).await;
        claimed.inspect_err(|_| {
            self.keeper.fell_behind();
            self.ports.metrics.store_errors.with_label_values(&["claim"]).inc();
        })
    }

    async fn hold(&self, lease: Lease, slot: Slot) -> Held {
        let stop = Arc::new(StopSwitch::default());
        let mut held = Held {
            _registration: self.keeper.register(&lease.token, &stop),
            _counted: Counted::new(&self.ports.metrics),
            lease,
            stop,
            slot,
        };
        // Its lease is being renewed by now, so that waiting for the others costs nothing.
        if held.lease.alone {
            held.slot.take_all().await;
        }
        held
    }

    /// Waits until asking again makes sense. A hint may be wrong and come again at once, so that waits after hints grow
    /// while nothing is found; their jitter also spreads the workers that one hint wakes.
    async fn pause(&self, idle: &mut Backoff) {
        let hinted = async {
            self.ports.leases.work_may_be_there().await;
            idle.wait().await;
        };
        // Whichever comes first; an answer that never comes is what the polling is for.
        let _ = tokio::time::timeout(self.poll, hinted).await;
    }
}

/// The outcome of `work`, unless `token` fires first.
async fn unless<T>(token: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = token.cancelled() => None,
        done = work => Some(done),
    }
}
