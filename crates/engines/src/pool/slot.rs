//! One call's slot at a provider that all nodes share: renewed while it is held, given back on every path.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use verbatim_core::PortError;
use verbatim_core::failure::FailureKind;
use verbatim_core::ids::IdSource;
use verbatim_core::ports::SharedState;
use verbatim_core::ports::engine::{EngineError, Pace};
use verbatim_core::provider::{self, Outcome, SlotDecision, SlotLimits, SlotRequest};

use super::line::Line;
use super::seat::{JITTER, PAUSED_AGAIN, Refusal, STORE_AGAIN};

/// Tries to give a slot back; it lapses when all fail.
const RELEASE_TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Finishes what outlives a call: slots are given back and money is booked after it, by tasks that the pool waits for
/// when it ends.
#[derive(Clone)]
pub(super) struct Afterwards {
    tasks: TaskTracker,
    runtime: Handle,
}

impl Afterwards {
    /// For the runtime that this is called in.
    pub(super) fn here() -> Self {
        Self { tasks: TaskTracker::new(), runtime: Handle::current() }
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Ends when all that was spawned so far is done.
    pub(super) async fn done(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

/// Who a slot is for.
#[derive(Clone)]
pub(super) struct Applicant {
    pub(super) shared: Arc<dyn SharedState>,
    pub(super) provider: Arc<str>,
    pub(super) line: Arc<Line>,
    pub(super) afterwards: Afterwards,
    pub(super) lease: Duration,
}

pub(super) struct Slot {
    applicant: Applicant,
    holder: String,
    outcome: Outcome,
    /// Whether the store may hold it.
    taken: bool,
    renewals: Option<AbortOnDropHandle<()>>,
}

impl Slot {
    /// Asks for a slot; the decision, where none was given.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn ask(
        applicant: &Applicant,
        holder: String,
        limits: SlotLimits,
    ) -> Result<Result<Self, SlotDecision>, PortError> {
        let request = SlotRequest { holder: holder.clone(), lease: applicant.lease, limits };
        // Before the store is asked: this future may be dropped while the store gives the slot.
        let mut slot = Self {
            applicant: applicant.clone(),
            holder,
            outcome: Outcome::Neutral,
            taken: true,
            renewals: None,
        };
        let decision = provider::acquire(applicant.shared.as_ref(), &applicant.provider, &request).await?;
        if !matches!(decision, SlotDecision::Granted { .. }) {
            slot.taken = false;
            return Ok(Err(decision));
        }
        slot.renewals = Some(AbortOnDropHandle::new(tokio::spawn(renew(applicant.clone(), request.holder))));
        Ok(Ok(slot))
    }

    /// What its engine asks before further requests.
    pub(super) fn pacer(&self, limits: SlotLimits, ids: Arc<dyn IdSource>, patience: Duration) -> Arc<Pacer> {
        Arc::new(Pacer { applicant: self.applicant.clone(), limits, ids, patience, waited: Mutex::default() })
    }

    /// Gives it back, and says how the call ended. The answer ends when the store knows.
    pub(super) fn end(mut self, outcome: Outcome) -> Option<JoinHandle<()>> {
        self.outcome = outcome;
        self.give_back()
    }

    fn give_back(&mut self) -> Option<JoinHandle<()>> {
        if !std::mem::take(&mut self.taken) {
            return None;
        }
        let (applicant, outcome) = (self.applicant.clone(), self.outcome);
        let holder = std::mem::take(&mut self.holder);
        let renewals = self.renewals.take();
        Some(self.applicant.afterwards.spawn(async move {
            drop(renewals);
            release(&applicant, &holder, outcome).await;
            applicant.line.free();
        }))
    }
}

/// Further requests under a slot.
pub(super) struct Pacer {
    applicant: Applicant,
    limits: SlotLimits,
    ids: Arc<dyn IdSource>,
    patience: Duration,
    waited: Mutex<Duration>,
}

impl Pacer {
    /// How long the engine was kept waiting: not the provider's time.
    pub(super) fn waited(&self) -> Duration {
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(&self) -> Result<(), EngineError> {
        let Applicant { shared, provider, .. } = &self.applicant;
        let deadline = Instant::now() + self.patience;
        loop {
            let wait = match provider::another_request(shared.as_ref(), provider, self.limits).await {
                Ok(SlotDecision::Granted { .. }) => return Ok(()),
                Ok(decision) => match Refusal::from(decision) {
                    Refusal::Busy(after) => after,
                    // Nobody knows how long.
                    _ => return Err(held_back(PAUSED_AGAIN)),
                },
                // Requests that nobody counts would break the limit.
                Err(error) => {
                    tracing::warn!(%provider, %error, "a request cannot be counted; trying again");
                    STORE_AGAIN
                }
            };
            if Instant::now() + wait > deadline {
                return Err(held_back(wait));
            }
            tokio::time::sleep(wait.mul_f64(1.0 + JITTER * self.ids.fraction())).await;
        }
    }
}

/// What was done so far is in a checkpoint; the provider has not refused anything.
fn held_back(retry_after: Duration) -> EngineError {
    EngineError {
        retry_after: Some(retry_after),
        blameless: true,
        ..EngineError::new(FailureKind::Throttled, "the provider takes no more requests for now")
    }
}

#[async_trait]
impl Pace for Pacer {
    async fn another_request(&self) -> Result<(), EngineError> {
        let begun = Instant::now();
        let done = self.wait().await;
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner) += begun.elapsed();
        done
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back();
    }
}

async fn release(applicant: &Applicant, holder: &str, outcome: Outcome) {
    let Applicant { shared, provider, .. } = applicant;
    for left in (0..RELEASE_TRIES).rev() {
        match provider::release(shared.as_ref(), provider, holder, outcome).await {
            Ok(()) => return,
            Err(error) if left == 0 => {
                tracing::warn!(%provider, %error, "a slot could not be given back; it will lapse");
            }
            Err(_) => tokio::time::sleep(BETWEEN_TRIES).await,
        }
    }
}

async fn renew(applicant: Applicant, holder: String) {
    let Applicant { shared, provider, lease, .. } = applicant;
    loop {
        tokio::time::sleep(lease / 3).await;
        match provider::renew(shared.as_ref(), &provider, &holder, lease).await {
            Ok(true) => {}
            Ok(false) => {
                // The call is under way and paid for: it goes on.
                tracing::warn!(%provider, "a slot lapsed while it was used; there may be a call too many for a while");
                return;
            }
            Err(error) => tracing::warn!(%provider, %error, "a slot could not be renewed; trying again"),
        }
    }
}
