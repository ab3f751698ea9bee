//! The provider pool: for each job the provider that can do it, has room, is well and affordable; the next one when it
//! fails. Limits are those of the whole cluster, kept in the shared state; see `verbatim_core::provider`.

mod checkpoint;
mod choice;
mod line;
mod money;
mod provider;
mod run;
mod seat;
mod slot;

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

use choice::Fate;
use line::Line;
use money::Purse;
use slot::{Afterwards, Applicant};

/// How long a look at a provider's state is good for choosing.
const GLANCE: Duration = Duration::from_millis(500);
/// Time between two rounds in which the pool announces its providers and refreshes its gauges.
const ROUND: Duration = Duration::from_secs(15);
/// How long what the pool can do is good for claims: a provider may be paused or resumed meanwhile.
const ABILITIES_GOOD: Duration = Duration::from_secs(5);
/// Weight of the last call in a local engine's average latency.
const LATENCY_WEIGHT: f64 = 0.2;

/// Why there is no pool.
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
    _rounds: AbortOnDropHandle<()>,
}

/// What the pool keeps of one provider.
struct Desk {
    applicant: Applicant,
    /// Of a local engine.
    places: Arc<Semaphore>,
    seen: Mutex<Option<(Instant, ProviderView)>>,
    latency: Mutex<Option<f64>>,
}

struct Inner {
    /// By priority.
    providers: Vec<Provider>,
    /// One for each provider.
    desks: Vec<Desk>,
    config: PoolConfig,
    ports: PoolPorts,
    purse: Purse,
    afterwards: Afterwards,
    /// What becomes of the jobs of each class that is not for other workers.
    classes: Vec<(JobClass, Fate)>,
    able: Mutex<Option<Able>>,
}

/// What the pool can do while these of its providers are paused.
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
        let afterwards = Afterwards::here();
        let desk = |provider: &Provider| Desk {
            applicant: Applicant {
                shared: Arc::clone(&ports.shared),
                provider: Arc::from(provider.name.as_str()),
                line: Arc::new(Line::default()),
                afterwards: afterwards.clone(),
                lease: config.slot_lease,
            },
            places: Arc::new(Semaphore::new(provider.concurrency().clamp(1, Semaphore::MAX_PERMITS))),
            seen: Mutex::default(),
            latency: Mutex::default(),
        };
        let desks = providers.iter().map(desk).collect();
        let purse = Purse::new(ports.clone(), &config, afterwards.clone());
        let (classes, able) = (choice::classes(&providers), Mutex::default());
        let inner = Arc::new(Inner { providers, desks, config, ports, purse, afterwards, classes, able });
        let rounds = Arc::clone(&inner);
        let rounds = tokio::spawn(async move {
            loop {
                rounds.round().await;
                tokio::time::sleep(ROUND).await;
            }
        });
        Ok(Self { inner, _rounds: AbortOnDropHandle::new(rounds) })
    }

    /// Announces the providers and refreshes the gauges now; it happens by itself every 15 seconds.
    pub async fn announce(&self) {
        self.inner.round().await;
    }

    /// Ends when everything that outlived its call is done: slots given back, money booked. For the end of a process.
    pub async fn settled(&self) {
        self.inner.afterwards.done().await;
    }
}

impl Inner {
    async fn round(&self) {
        let views = self.providers.iter().map(|provider| async move {
            let view = announce(self.ports.shared.as_ref(), &provider.name, &provider.facts()).await;
            match view {
                Ok(view) => self.show(&view),
                Err(error) => {
                    tracing::warn!(provider = provider.name, %error, "a provider could not be announced");
                }
            }
        });
        join_all(views).await;
        self.purse.measure(&self.providers).await;
    }

    fn show(&self, view: &ProviderView) {
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

    /// The classes of jobs that can be done here, or refused, while some providers are paused.
    async fn abilities(&self) -> Abilities {
        let lock = || self.able.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        if let Some(able) = known.as_ref().filter(|able| able.seen.elapsed() < ABILITIES_GOOD) {
            return able.abilities.clone();
        }
        let views = join_all((0..self.providers.len()).map(|place| self.glance(place))).await;
        // A provider whose state cannot be read is asked in time.
        let paused: Vec<bool> =
            views.iter().map(|view| view.as_ref().is_some_and(|view| view.paused)).collect();
        let abilities = match known {
            Some(able) if able.paused == paused => able.abilities,
            _ => {
                let can = |fate: &Fate| match fate {
                    Fate::Done(places) => places.iter().any(|place| !paused[*place]),
                    Fate::Refused => true,
                };
                let classes = self.classes.iter().filter(|(_, fate)| can(fate));
                Abilities::of(classes.map(|(class, _)| class.clone()))
            }
        };
        *lock() = Some(Able { seen: Instant::now(), paused, abilities: abilities.clone() });
        abilities
    }

    /// A provider's state, as of a moment ago; `None` when the store does not answer.
    async fn glance(&self, place: usize) -> Option<ProviderView> {
        let (provider, desk) = (&self.providers[place], &self.desks[place]);
        let lock = || desk.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, view)) = lock().as_ref()
            && at.elapsed() < GLANCE
        {
            return Some(view.clone());
        }
        match look(self.ports.shared.as_ref(), &provider.name).await {
            Ok((state, now)) => {
                let view = state.view_as(&provider.name, now, &provider.facts());
                self.show(&view);
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
    fn local_latency(&self, place: usize) -> Option<f64> {
        let latency = *self.desks[place].latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.filter(|_| self.providers[place].local)
    }

    fn note_latency(&self, place: usize, took: Duration, audio: Duration) {
        if audio.is_zero() {
            return;
        }
        let now = took.as_secs_f64() / audio.as_secs_f64();
        let mut latency = self.desks[place].latency.lock().unwrap_or_else(PoisonError::into_inner);
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
        choice::fitting(&self.inner.providers, options, 0).map(drop)
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
