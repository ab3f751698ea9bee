//! Leasing a provider for a job: the first candidate that has capacity, else the first that gets some within the time to wait.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::EngineError;
use verbatim_core::provider::SlotDecision;

use super::Inner;
use super::budget::BudgetReservation;
use super::candidates::Candidate;
use super::dispatch::Job;
use super::slot::Slot;

/// The time after which a store that did not answer is asked again.
pub(super) const STORE_AGAIN: Duration = Duration::from_secs(2);
/// The time that a job waits for a local engine at most: those before it take long, and other workers may be free sooner.
const LOCAL_WAIT_TIMEOUT: Duration = Duration::from_secs(600);
/// The time after which a job that met only paused providers tries again.
pub(super) const PAUSED_AGAIN: Duration = Duration::from_secs(30);
/// The least time that a job which got no lease waits in the queue.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The part of its wait by which a waiter comes back later at most, so that nodes do not all ask at once.
pub(super) const JITTER: f64 = 0.1;

/// The resources that a job holds while a provider works on it; dropping them releases them.
pub(super) struct ProviderLease {
    pub(super) slot: Option<Slot>,
    pub(super) reservation: Option<BudgetReservation>,
    /// The permit of a local engine.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// Why a provider cannot be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no capacity: try again after this time.
    Busy(Duration),
    /// It, or something needed to use it, is down: try again after this time.
    Down(Duration),
    /// An operator paused it.
    Paused,
    /// Its budget is spent: try again after this time.
    OverBudget(Duration),
}

impl From<SlotDecision> for Refusal {
    fn from(decision: SlotDecision) -> Self {
        match decision {
            SlotDecision::Full { retry_after }
            | SlotDecision::RateLimited { retry_after }
            | SlotDecision::CoolingDown { retry_after } => Self::Busy(retry_after),
            SlotDecision::Open { retry_after } => Self::Down(retry_after),
            SlotDecision::Paused => Self::Paused,
            // A grant is no refusal; whoever asks looks for it first.
            SlotDecision::Granted { .. } => Self::Busy(Duration::ZERO),
        }
    }
}

impl Refusal {
    /// How long to wait before asking again; `None` where waiting within a worker makes no sense.
    fn wait(self) -> Option<Duration> {
        match self {
            Self::Busy(after) | Self::Down(after) => Some(after),
            Self::Paused | Self::OverBudget(_) => None,
        }
    }
}

/// The refusals of all candidates.
#[derive(Debug, Default)]
pub(super) struct AllRefused(BTreeMap<usize, Refusal>);

impl AllRefused {
    /// Whether one of them only has too much to do.
    pub(super) fn is_busy(&self) -> bool {
        self.0.values().any(|refusal| matches!(refusal, Refusal::Busy(_)))
    }

    /// The failure of the attempt, which is refunded; the candidate that is usable soonest says when to come back.
    pub(super) fn into_error(self) -> EngineError {
        let soonest = |pick: fn(&Refusal) -> Option<Duration>| self.0.values().filter_map(pick).min();
        let busy = soonest(|refusal| match refusal {
            Refusal::Busy(after) => Some(*after),
            _ => None,
        });
        let down = soonest(|refusal| match refusal {
            Refusal::Down(after) => Some(*after),
            Refusal::Paused => Some(PAUSED_AGAIN),
            _ => None,
        });
        let spent = soonest(|refusal| match refusal {
            Refusal::OverBudget(after) => Some(*after),
            _ => None,
        });
        let (kind, message, after) = match (busy, down, spent) {
            (Some(after), ..) => (FailureKind::Throttled, "every engine that can do this job is busy", after),
            (None, Some(after), _) => {
                (FailureKind::EngineUnavailable, "no engine that can do this job is available now", after)
            }
            (None, None, Some(after)) => {
                (FailureKind::EngineUnavailable, "today's budget for this job is spent", after)
            }
            (None, None, None) => {
                (FailureKind::EngineUnavailable, "no engine can do this job now", MIN_RETRY_AFTER)
            }
        };
        let mut error = EngineError::new(kind, message);
        error.retry_after = Some(after.max(MIN_RETRY_AFTER));
        error
    }
}

impl Inner {
    /// A lease of one of `candidates`: of the first that has capacity now, else of the first that gets some within the time to
    /// wait. For a local engine a job waits longer: only few do, and requeueing costs a worker all that was done so far.
    ///
    /// # Errors
    /// The refusals of all of them.
    pub(super) async fn lease(
        &self,
        candidates: &[Candidate],
        job: &Job,
    ) -> Result<(Candidate, ProviderLease), AllRefused> {
        let begun = Instant::now();
        let leased = self.find_lease(candidates, job, begun + self.config.wait_timeout).await;
        if let Ok((candidate, _)) = &leased {
            let name = [self.providers[candidate.provider].name.as_str()];
            let waits = &self.ports.metrics.providers.wait_seconds;
            waits.with_label_values(&name).observe(begun.elapsed().as_secs_f64());
        }
        leased
    }

    async fn find_lease(
        &self,
        candidates: &[Candidate],
        job: &Job,
        deadline: Instant,
    ) -> Result<(Candidate, ProviderLease), AllRefused> {
        let mut refused = AllRefused::default();
        for candidate in candidates {
            match self.try_lease(candidate, job).await {
                Ok(lease) => return Ok((candidate.clone(), lease)),
                Err(refusal) => refused.0.insert(candidate.provider, refusal),
            };
        }
        let mut waits: FuturesUnordered<_> = candidates
            .iter()
            .filter(|candidate| {
                refused.0.get(&candidate.provider).is_some_and(|refusal| refusal.wait().is_some())
            })
            .map(|candidate| async move { (candidate, self.wait_for_lease(candidate, job, deadline).await) })
            .collect();
        loop {
            match waits.next().await {
                None => return Err(refused),
                Some((candidate, Ok(lease))) => return Ok((candidate.clone(), lease)),
                Some((candidate, Err(refusal))) => refused.0.insert(candidate.provider, refusal),
            };
        }
    }

    /// Tries once, unless others of this process wait already.
    async fn try_lease(&self, candidate: &Candidate, job: &Job) -> Result<ProviderLease, Refusal> {
        let (provider, runtime) = (&self.providers[candidate.provider], &self.runtimes[candidate.provider]);
        if !provider.local {
            if runtime.client.wait_queue.has_waiters() {
                return Err(Refusal::Busy(STORE_AGAIN));
            }
            return self.lease_remote(candidate, job).await;
        }
        match std::sync::Arc::clone(&runtime.local_permits).try_acquire_owned() {
            Ok(permit) => self.lease_local(candidate, job, permit).await,
            Err(_) => Err(Refusal::Busy(STORE_AGAIN)),
        }
    }

    /// Waits in the queue and tries until there is capacity, or cannot be in time.
    async fn wait_for_lease(
        &self,
        candidate: &Candidate,
        job: &Job,
        deadline: Instant,
    ) -> Result<ProviderLease, Refusal> {
        let (provider, runtime) = (&self.providers[candidate.provider], &self.runtimes[candidate.provider]);
        if provider.local {
            let permit = std::sync::Arc::clone(&runtime.local_permits).acquire_owned();
            return match tokio::time::timeout(LOCAL_WAIT_TIMEOUT, permit).await {
                Ok(Ok(permit)) => self.lease_local(candidate, job, permit).await,
                // Nobody closes the semaphore.
                Ok(Err(_)) | Err(_) => Err(Refusal::Busy(STORE_AGAIN)),
            };
        }
        let queue = &runtime.client.wait_queue;
        let Ok(_head) = tokio::time::timeout_at(deadline, queue.join()).await else {
            return Err(Refusal::Busy(STORE_AGAIN));
        };
        loop {
            let refusal = match self.lease_remote(candidate, job).await {
                Ok(lease) => return Ok(lease),
                Err(refusal) => refusal,
            };
            let Some(wait) = refusal.wait() else { return Err(refusal) };
            let wait = wait.mul_f64(1.0 + JITTER * self.ports.ids.fraction());
            if Instant::now() + wait > deadline {
                return Err(refusal);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = queue.freed() => {}
            }
        }
    }

    async fn lease_remote(&self, candidate: &Candidate, job: &Job) -> Result<ProviderLease, Refusal> {
        let (provider, runtime) = (&self.providers[candidate.provider], &self.runtimes[candidate.provider]);
        if let Some(refusal) = self.budgets.known_spent(provider, job.engine_job(), job.audio) {
            return Err(refusal);
        }
        let asking = runtime.client.wait_queue.asking().await;
        let asked = Slot::ask(&runtime.client, self.ports.ids.ulid(), provider.limits).await;
        drop(asking);
        let slot = match asked {
            Ok(Ok(slot)) => slot,
            Ok(Err(decision)) => return Err(decision.into()),
            Err(error) => {
                // Calls that the store does not count could exceed the subscription.
                tracing::warn!(provider = provider.name, %error, "the shared state of a provider cannot be had");
                return Err(Refusal::Down(STORE_AGAIN));
            }
        };
        let reservation = self.budgets.reserve(provider, job.engine_job(), job.audio).await?;
        Ok(ProviderLease { slot: Some(slot), reservation, permit: None })
    }

    async fn lease_local(
        &self,
        candidate: &Candidate,
        job: &Job,
        permit: OwnedSemaphorePermit,
    ) -> Result<ProviderLease, Refusal> {
        let provider = &self.providers[candidate.provider];
        // A local engine goes on while the store is away.
        if self.cached_view(candidate.provider).await.is_some_and(|view| view.paused) {
            return Err(Refusal::Paused);
        }
        if let Some(refusal) = self.budgets.known_spent(provider, job.engine_job(), job.audio) {
            return Err(refusal);
        }
        let reservation = self.budgets.reserve(provider, job.engine_job(), job.audio).await?;
        Ok(ProviderLease { slot: None, reservation, permit: Some(permit) })
    }
}
