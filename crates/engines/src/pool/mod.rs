//! The provider pool: for each job a provider that supports it, has capacity, is healthy and within budget; the next one when that
//! fails. Limits hold for the whole cluster and are kept in the shared state; see `verbatim_core::provider`.

mod budget;
mod candidates;
mod checkpoint;
mod dispatch;
mod lease;
mod provider;
mod slot;
mod wait_queue;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use verbatim_core::CancellationToken;
use verbatim_core::class::{Abilities, JobClass};
use verbatim_core::options::{ENGINE_AUTO, TranscribeOptions};
use verbatim_core::ports::engine::{Capabilities, EngineError, EngineObserver, EngineRequest, SpeechEngine};
use verbatim_core::provider::{BreakerState, ProviderView, announce, look};
use verbatim_core::transcript::Transcript;

pub use provider::{PoolConfig, PoolPorts, Provider};

use budget::BudgetGuard;
use candidates::ClassSupport;
use slot::{BackgroundTasks, SlotClient};
use wait_queue::WaitQueue;

/// The time for which a provider's state, once read, is used to rank it.
const VIEW_TTL: Duration = Duration::from_millis(500);
/// Time between two announcements of the providers, which refresh the gauges, too.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(15);
/// The time for which abilities, once computed, are used for claims: a provider may be paused or resumed meanwhile.
const ABILITIES_TTL: Duration = Duration::from_secs(5);
/// Weight of the last call in a local engine's average latency.
const LATENCY_WEIGHT: f64 = 0.2;

/// A set of providers that makes no pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// There is nothing to choose from.
    #[error("there is no provider")]
    Empty,
    /// Names tell providers apart.
    #[error("there are two providers called `{0}`")]
    SameName(String),
}

/// Several providers behind one engine, `auto`.
pub struct ProviderPool {
    inner: Arc<Inner>,
    _announcements: AbortOnDropHandle<()>,
}

/// The state that this process keeps for one provider.
struct ProviderRuntime {
    client: SlotClient,
    /// Permits of a local engine, one for each job that it takes at once.
    local_permits: Arc<Semaphore>,
    seen: Mutex<Option<(Instant, ProviderView)>>,
    latency: Mutex<Option<f64>>,
}

struct Inner {
    /// By priority.
    providers: Vec<Provider>,
    /// One for each of `providers`, at the same index.
    runtimes: Vec<ProviderRuntime>,
    config: PoolConfig,
    ports: PoolPorts,
    budgets: BudgetGuard,
    background: BackgroundTasks,
    /// The support for each class of jobs that is not left to other workers.
    classes: Vec<(JobClass, ClassSupport)>,
    able: Mutex<Option<Able>>,
}

/// The abilities that were computed last, and which providers were paused then.
#[derive(Clone)]
struct Able {
    seen: Instant,
    paused: Vec<bool>,
    abilities: Abilities,
}

impl ProviderPool {
    /// A pool of these providers. To be called within a Tokio runtime: the pool announces its providers from time to time.
    ///
    /// # Errors
    /// When there is none, or two have one name.
    pub fn new(
        mut providers: Vec<Provider>,
        ports: PoolPorts,
        config: PoolConfig,
    ) -> Result<Self, PoolError> {
        let mut names = HashSet::new();
        if let Some(twice) = providers.iter().find(|provider| !names.insert(provider.name.clone())) {
            return Err(PoolError::SameName(twice.name.clone()));
        }
        if providers.is_empty() {
            return Err(PoolError::Empty);
        }
        providers.sort_by_key(|provider| provider.priority);
        let background = BackgroundTasks::here();
        let runtime = |provider: &Provider| ProviderRuntime {
            client: SlotClient {
                shared: Arc::clone(&ports.shared),
                provider: Arc::from(provider.name.as_str()),
                wait_queue: Arc::new(WaitQueue::default()),
                background: background.clone(),
                lease: config.slot_lease,
            },
            local_permits: Arc::new(Semaphore::new(provider.concurrency().clamp(1, Semaphore::MAX_PERMITS))),
            seen: Mutex::default(),
            latency: Mutex::default(),
        };
        let runtimes = providers.iter().map(runtime).collect();
        let budgets = BudgetGuard::new(ports.clone(), &config, background.clone());
        let (classes, able) = (candidates::classes(&providers), Mutex::default());
        let inner =
            Arc::new(Inner { providers, runtimes, config, ports, budgets, background, classes, able });
        let announcing = Arc::clone(&inner);
        let announcements = tokio::spawn(async move {
            loop {
                announcing.announce_all().await;
                tokio::time::sleep(ANNOUNCE_INTERVAL).await;
            }
        });
        Ok(Self { inner, _announcements: AbortOnDropHandle::new(announcements) })
    }

    /// Announces the providers and refreshes the gauges now; it happens by itself every 15 seconds.
    pub async fn announce(&self) {
        self.inner.announce_all().await;
    }

    /// Ends when all background tasks are done: slots released, costs charged. For the end of a process.
    pub async fn settled(&self) {
        self.inner.background.done().await;
    }
}

impl Inner {
    async fn announce_all(&self) {
        let views = self.providers.iter().map(|provider| async move {
            let view = announce(self.ports.shared.as_ref(), &provider.name, &provider.facts()).await;
            match view {
                Ok(view) => self.export(&view),
                Err(error) => {
                    tracing::warn!(provider = provider.name, %error, "a provider could not be announced");
                }
            }
        });
        join_all(views).await;
        self.budgets.refresh_gauges(&self.providers).await;
    }

    fn export(&self, view: &ProviderView) {
        let (metrics, name) = (&self.ports.metrics.providers, [view.name.as_str()]);
        let breaker = match view.breaker {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        let gauge = metrics.breaker.with_label_values(&name);
        if gauge.get() != breaker {
            tracing::warn!(provider = view.name, state = ?view.breaker, "the circuit breaker of a provider has moved");
        }
        gauge.set(breaker);
        metrics.paused.with_label_values(&name).set(i64::from(view.paused));
        if !view.facts.local {
            metrics.concurrency_limit.with_label_values(&name).set(f64::from(view.concurrency_limit));
        }
    }

    /// The classes of jobs that can be done or refused here, while some providers may be paused.
    async fn abilities(&self) -> Abilities {
        let lock = || self.able.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some(able) = known.as_ref().filter(|able| able.seen.elapsed() < ABILITIES_TTL) {
            return able.abilities.clone();
        }
        let views = join_all((0..self.providers.len()).map(|index| self.cached_view(index))).await;
        // A provider whose state cannot be read is asked in time.
        let paused: Vec<bool> =
            views.iter().map(|view| view.as_ref().is_some_and(|view| view.paused)).collect();
        let abilities = match known {
            Some(able) if able.paused == paused => able.abilities,
            _ => {
                let can = |support: &ClassSupport| match support {
                    ClassSupport::By(indexes) => indexes.iter().any(|index| !paused[*index]),
                    ClassSupport::Refused => true,
                };
                let classes = self.classes.iter().filter(|(_, support)| can(support));
                Abilities::of(classes.map(|(class, _)| class.clone()))
            }
        };
        *lock() = Some(Able { seen: Instant::now(), paused, abilities: abilities.clone() });
        abilities
    }

    /// A provider's state, at most [`VIEW_TTL`] old; `None` when the store does not answer.
    async fn cached_view(&self, index: usize) -> Option<ProviderView> {
        let (provider, runtime) = (&self.providers[index], &self.runtimes[index]);
        let lock = || runtime.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, view)) = lock().as_ref()
            && at.elapsed() < VIEW_TTL
        {
            return Some(view.clone());
        }
        match look(self.ports.shared.as_ref(), &provider.name).await {
            Ok((state, now)) => {
                let view = state.view_as(&provider.name, now, &provider.facts());
                self.export(&view);
                *lock() = Some((Instant::now(), view.clone()));
                Some(view)
            }
            Err(error) => {
                tracing::warn!(provider = provider.name, %error, "the state of a provider cannot be read");
                None
            }
        }
    }

    /// Local engines are as fast as this machine: their latency is not shared.
    fn local_latency(&self, index: usize) -> Option<f64> {
        let latency = *self.runtimes[index].latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.filter(|_| self.providers[index].local)
    }

    fn note_latency(&self, index: usize, took: Duration, audio: Duration) {
        if audio.is_zero() {
            return;
        }
        let now = took.as_secs_f64() / audio.as_secs_f64();
        let mut latency = self.runtimes[index].latency.lock().unwrap_or_else(PoisonError::into_inner);
        *latency = Some(latency.map_or(now, |then| then + LATENCY_WEIGHT * (now - then)));
    }
}

#[async_trait]
impl SpeechEngine for ProviderPool {
    fn name(&self) -> &str {
        ENGINE_AUTO
    }

    fn capabilities(&self) -> Capabilities {
        let each: Vec<Capabilities> =
            self.inner.providers.iter().map(|provider| provider.engine.capabilities()).collect();
        let mut names = HashSet::new();
        Capabilities {
            // Two regions of one service run the same models.
            models: each
                .iter()
                .flat_map(|one| one.models.clone())
                .filter(|model| names.insert(model.name.clone()))
                .collect(),
            concurrency: self.inner.providers.iter().map(Provider::concurrency).sum(),
            // Unlimited as soon as one engine is.
            max_duration: each
                .iter()
                .map(|one| one.max_duration)
                .collect::<Option<Vec<_>>>()
                .and_then(|limits| limits.into_iter().max()),
        }
    }

    fn check(&self, options: &TranscribeOptions) -> Result<(), EngineError> {
        candidates::find_candidates(&self.inner.providers, options, 0).map(drop)
    }

    async fn abilities(&self) -> Abilities {
        self.inner.abilities().await
    }

    async fn transcribe(
        &self,
        request: EngineRequest,
        observer: Arc<dyn EngineObserver>,
        cancel: CancellationToken,
    ) -> Result<Transcript, EngineError> {
        self.inner.run(request, observer, cancel).await
    }
}
