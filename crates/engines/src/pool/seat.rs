//! Finding a job a seat: at the first provider that has room, else at the first that gets room in time.

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
use super::choice::Fit;
use super::money::Booking;
use super::run::Job;
use super::slot::Slot;

/// When a store that did not answer is asked again.
pub(super) const STORE_AGAIN: Duration = Duration::from_secs(2);
/// How long a job waits for a local engine at most. Those before it take long: other workers may be free sooner.
const LOCAL_PATIENCE: Duration = Duration::from_secs(600);
/// When a job that met only paused providers looks again.
pub(super) const PAUSED_AGAIN: Duration = Duration::from_secs(30);
/// The least that a job which found no seat waits in the queue.
const LEAST_AWAY: Duration = Duration::from_secs(1);
/// Waiters come back up to this part of their wait later, so that nodes do not all ask at once.
pub(super) const JITTER: f64 = 0.1;

/// What a job holds while a provider works on it. Dropped, all of it is given back.
pub(super) struct Seat {
    pub(super) slot: Option<Slot>,
    pub(super) booking: Option<Booking>,
    /// A place at a local engine.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// Why a provider cannot be used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no room: look again after this time.
    Busy(Duration),
    /// It, or what is needed to use it, is down: look again after this time.
    Down(Duration),
    /// An operator paused it.
    Paused,
    /// There is no money for it; the day ends after this time.
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

/// What all refused.
#[derive(Debug, Default)]
pub(super) struct NoSeat(BTreeMap<usize, Refusal>);

impl NoSeat {
    /// Whether one of them only has too much to do.
    pub(super) fn is_busy(&self) -> bool {
        self.0.values().any(|refusal| matches!(refusal, Refusal::Busy(_)))
    }

    /// As the failure of the attempt, which is refunded: what is nearest to being usable says when to come back.
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
                (FailureKind::EngineUnavailable, "no engine can do this job now", LEAST_AWAY)
            }
        };
        let mut error = EngineError::new(kind, message);
        error.retry_after = Some(after.max(LEAST_AWAY));
        error
    }
}

impl Inner {
    /// A seat at one of `fits`: at the first that has room now, else at the first that gets room within the patience. For
    /// a local engine a job waits longer: only few do, and coming back costs a worker all that was done so far.
    ///
    /// # Errors
    /// What all of them refused.
    pub(super) async fn seat(&self, fits: &[Fit], job: &Job) -> Result<(Fit, Seat), NoSeat> {
        let begun = Instant::now();
        let seated = self.find_seat(fits, job, begun + self.config.patience).await;
        if let Ok((fit, _)) = &seated {
            let name = [self.providers[fit.provider].name.as_str()];
            let waits = &self.ports.metrics.providers.wait_seconds;
            waits.with_label_values(&name).observe(begun.elapsed().as_secs_f64());
        }
        seated
    }

    async fn find_seat(&self, fits: &[Fit], job: &Job, deadline: Instant) -> Result<(Fit, Seat), NoSeat> {
        let mut refused = NoSeat::default();
        for fit in fits {
            match self.enter(fit, job).await {
                Ok(seat) => return Ok((fit.clone(), seat)),
                Err(refusal) => refused.0.insert(fit.provider, refusal),
            };
        }
        let mut waits: FuturesUnordered<_> = fits
            .iter()
            .filter(|fit| refused.0.get(&fit.provider).is_some_and(|refusal| refusal.wait().is_some()))
            .map(|fit| async move { (fit, self.wait(fit, job, deadline).await) })
            .collect();
        loop {
            match waits.next().await {
                None => return Err(refused),
                Some((fit, Ok(seat))) => return Ok((fit.clone(), seat)),
                Some((fit, Err(refusal))) => refused.0.insert(fit.provider, refusal),
            };
        }
    }

    /// Asks once, unless others of this process wait already.
    async fn enter(&self, fit: &Fit, job: &Job) -> Result<Seat, Refusal> {
        let (provider, desk) = (&self.providers[fit.provider], &self.desks[fit.provider]);
        if !provider.local {
            if desk.applicant.line.is_waited_in() {
                return Err(Refusal::Busy(STORE_AGAIN));
            }
            return self.enter_remote(fit, job).await;
        }
        match std::sync::Arc::clone(&desk.places).try_acquire_owned() {
            Ok(place) => self.enter_local(fit, job, place).await,
            Err(_) => Err(Refusal::Busy(STORE_AGAIN)),
        }
    }

    /// Stands in line and asks until there is room, or cannot be in time.
    async fn wait(&self, fit: &Fit, job: &Job, deadline: Instant) -> Result<Seat, Refusal> {
        let (provider, desk) = (&self.providers[fit.provider], &self.desks[fit.provider]);
        if provider.local {
            let place = std::sync::Arc::clone(&desk.places).acquire_owned();
            return match tokio::time::timeout(LOCAL_PATIENCE, place).await {
                Ok(Ok(place)) => self.enter_local(fit, job, place).await,
                // Nobody closes the semaphore.
                Ok(Err(_)) | Err(_) => Err(Refusal::Busy(STORE_AGAIN)),
            };
        }
        let line = &desk.applicant.line;
        let Ok(_turn) = tokio::time::timeout_at(deadline, line.stand()).await else {
            return Err(Refusal::Busy(STORE_AGAIN));
        };
        loop {
            let refusal = match self.enter_remote(fit, job).await {
                Ok(seat) => return Ok(seat),
                Err(refusal) => refusal,
            };
            let Some(wait) = refusal.wait() else { return Err(refusal) };
            let wait = wait.mul_f64(1.0 + JITTER * self.ports.ids.fraction());
            if Instant::now() + wait > deadline {
                return Err(refusal);
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = line.freed() => {}
            }
        }
    }

    async fn enter_remote(&self, fit: &Fit, job: &Job) -> Result<Seat, Refusal> {
        let (provider, desk) = (&self.providers[fit.provider], &self.desks[fit.provider]);
        if let Some(refusal) = self.purse.recall(provider, job.engine_job(), job.audio) {
            return Err(refusal);
        }
        let door = desk.applicant.line.door().await;
        let asked = Slot::ask(&desk.applicant, self.ports.ids.ulid(), provider.limits).await;
        drop(door);
        let slot = match asked {
            Ok(Ok(slot)) => slot,
            Ok(Err(decision)) => return Err(decision.into()),
            Err(error) => {
                // Without the others' calls counted, the subscription would not hold.
                tracing::warn!(provider = provider.name, %error, "the shared state of a provider cannot be had");
                return Err(Refusal::Down(STORE_AGAIN));
            }
        };
        let booking = self.purse.fund(provider, job.engine_job(), job.audio).await?;
        Ok(Seat { slot: Some(slot), booking, place: None })
    }

    async fn enter_local(&self, fit: &Fit, job: &Job, place: OwnedSemaphorePermit) -> Result<Seat, Refusal> {
        let provider = &self.providers[fit.provider];
        // A local engine goes on while the store is away.
        if self.glance(fit.provider).await.is_some_and(|view| view.paused) {
            return Err(Refusal::Paused);
        }
        if let Some(refusal) = self.purse.recall(provider, job.engine_job(), job.audio) {
            return Err(refusal);
        }
        let booking = self.purse.fund(provider, job.engine_job(), job.audio).await?;
        Ok(Seat { slot: None, booking, place: Some(place) })
    }
}
