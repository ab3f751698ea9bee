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

use super::lease::{JITTER, PAUSED_AGAIN, Refusal, STORE_AGAIN};
use super::wait_queue::WaitQueue;

/// Attempts to release a slot; when all fail, its lease expires in the store.
const RELEASE_TRIES: u32 = 3;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Tasks that outlive a call, such as releasing its slot and charging its cost; the pool waits for them when it ends.
#[derive(Clone)]
pub(super) struct BackgroundTasks {
    tasks: TaskTracker,
    runtime: Handle,
}

impl BackgroundTasks {
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

/// The client through which this process acquires slots at one provider.
#[derive(Clone)]
pub(super) struct SlotClient {
    pub(super) shared: Arc<dyn SharedState>,
    pub(super) provider: Arc<str>,
    pub(super) wait_queue: Arc<WaitQueue>,
    pub(super) background: BackgroundTasks,
    pub(super) lease: Duration,
}

pub(super) struct Slot {
    client: SlotClient,
    holder: String,
    outcome: Outcome,
    /// Whether the store may hold it, so that it has to be released.
    taken: bool,
    renewals: Option<AbortOnDropHandle<()>>,
}

impl Slot {
    /// Asks for a slot; the decision, where none was given.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn ask(
        client: &SlotClient,
        holder: String,
        limits: SlotLimits,
    ) -> Result<Result<Self, SlotDecision>, PortError> {
        let request = SlotRequest { holder: holder.clone(), lease: client.lease, limits };
        // Before the store is asked: this future may be dropped while the store gives the slot.
        let mut slot =
            Self { client: client.clone(), holder, outcome: Outcome::Neutral, taken: true, renewals: None };
        let decision = provider::acquire(client.shared.as_ref(), &client.provider, &request).await?;
        if !matches!(decision, SlotDecision::Granted { .. }) {
            slot.taken = false;
            return Ok(Err(decision));
        }
        slot.renewals = Some(AbortOnDropHandle::new(tokio::spawn(renew(client.clone(), request.holder))));
        Ok(Ok(slot))
    }

    /// The pacer that its engine asks before each further request.
    pub(super) fn pacer(
        &self,
        limits: SlotLimits,
        ids: Arc<dyn IdSource>,
        wait_timeout: Duration,
    ) -> Arc<Pacer> {
        Arc::new(Pacer { client: self.client.clone(), limits, ids, wait_timeout, waited: Mutex::default() })
    }

    /// Releases it and reports how the call ended. The handle ends when the store knows.
    pub(super) fn end(mut self, outcome: Outcome) -> Option<JoinHandle<()>> {
        self.outcome = outcome;
        self.release_once()
    }

    fn release_once(&mut self) -> Option<JoinHandle<()>> {
        if !std::mem::take(&mut self.taken) {
            return None;
        }
        let (client, outcome) = (self.client.clone(), self.outcome);
        let holder = std::mem::take(&mut self.holder);
        let renewals = self.renewals.take();
        Some(self.client.background.spawn(async move {
            drop(renewals);
            release(&client, &holder, outcome).await;
            client.wait_queue.slot_freed();
        }))
    }
}

/// Paces the further requests that an engine makes under one slot.
pub(super) struct Pacer {
    client: SlotClient,
    limits: SlotLimits,
    ids: Arc<dyn IdSource>,
    wait_timeout: Duration,
    waited: Mutex<Duration>,
}

impl Pacer {
    /// The time that the engine was kept waiting, which is not part of the provider's latency.
    pub(super) fn waited(&self) -> Duration {
        *self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(&self) -> Result<(), EngineError> {
        let SlotClient { shared, provider, .. } = &self.client;
        let deadline = Instant::now() + self.wait_timeout;
        loop {
            let wait = match provider::another_request(shared.as_ref(), provider, self.limits).await {
                Ok(SlotDecision::Granted { .. }) => return Ok(()),
                Ok(decision) => match Refusal::from(decision) {
                    Refusal::Busy(after) => after,
                    // A pause has no end that is known.
                    _ => return Err(throttled(PAUSED_AGAIN)),
                },
                // Requests that nobody counts would break the limit.
                Err(error) => {
                    tracing::warn!(%provider, %error, "a request cannot be counted; trying again");
                    STORE_AGAIN
                }
            };
            if Instant::now() + wait > deadline {
                return Err(throttled(wait));
            }
            tokio::time::sleep(wait.mul_f64(1.0 + JITTER * self.ids.fraction())).await;
        }
    }
}

/// The failure of a job whose further requests have to wait: its progress is in a checkpoint, and the provider has refused nothing.
fn throttled(retry_after: Duration) -> EngineError {
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
        self.release_once();
    }
}

async fn release(client: &SlotClient, holder: &str, outcome: Outcome) {
    let SlotClient { shared, provider, .. } = client;
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

async fn renew(client: SlotClient, holder: String) {
    let SlotClient { shared, provider, lease, .. } = client;
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
