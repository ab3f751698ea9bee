//! A provider as the pool is given it, and the few things it needs around it.

use std::sync::Arc;
use std::time::Duration;

use verbatim_core::ids::IdSource;
use verbatim_core::money::Money;
use verbatim_core::ports::{Ledger, SharedState, SpeechEngine};
use verbatim_core::provider::{ProviderFacts, SlotLimits};
use verbatim_core::time::Clock;
use verbatim_telemetry::metrics::Metrics;

/// Calls that one process makes at once to a remote provider, whatever it allows all of them together.
const REMOTE_CONCURRENCY: u32 = 32;

/// An engine, with what the configuration says about it.
#[derive(Clone)]
pub struct Provider {
    /// Its name in the configuration, in metrics, costs and admin routes.
    pub name: String,
    /// What it is: `azure`, `openai`, `whisper`, `fake`; what clients ask for with `engine`.
    pub kind: String,
    /// Does the work.
    pub engine: Arc<dyn SpeechEngine>,
    /// Lower is asked first.
    pub priority: u32,
    /// Its share among equals.
    pub weight: u32,
    /// Whether it computes here: it is not shared with other nodes, and has no limits but its own.
    pub local: bool,
    /// What all nodes together may ask of it; without meaning for a local one.
    pub limits: SlotLimits,
    /// What an hour of audio costs; `None` when nobody said.
    pub price_per_hour: Option<Money>,
    /// What may be spent on it in a day (UTC).
    pub daily_budget: Option<Money>,
    /// How long a call may take, whatever the audio.
    pub timeout_base: Duration,
    /// Times the length of the audio that it may take on top of that.
    pub timeout_per_audio: f64,
}

impl Provider {
    pub(super) fn facts(&self) -> ProviderFacts {
        let per_minute = |rate: verbatim_core::provider::Rate| {
            let per = rate.per.as_secs_f64().max(0.001);
            (f64::from(rate.requests) * 60.0 / per) as u32
        };
        ProviderFacts {
            kind: self.kind.clone(),
            local: self.local,
            priority: self.priority,
            weight: self.weight,
            max_concurrency: self.limits.max_concurrency,
            requests_per_minute: self.limits.rate.map(per_minute),
            price_per_hour: self.price_per_hour,
            daily_budget: self.daily_budget,
        }
    }

    /// How long a call with this audio may take.
    pub(super) fn timeout(&self, audio: Duration) -> Duration {
        let extra = Duration::try_from_secs_f64(audio.as_secs_f64() * self.timeout_per_audio.max(0.0));
        self.timeout_base.saturating_add(extra.unwrap_or(Duration::MAX))
    }

    /// What a job of this length costs.
    pub(super) fn cost(&self, audio: Duration) -> Option<Money> {
        self.price_per_hour.map(|price| price.per_hour(audio))
    }

    /// Jobs that this process can usefully give it at once.
    pub(super) fn concurrency(&self) -> usize {
        match self.local {
            true => self.engine.capabilities().concurrency,
            false => self.limits.max_concurrency.clamp(1, REMOTE_CONCURRENCY) as usize,
        }
    }
}

/// How the pool behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// How long a job waits for room at a provider before it goes back to the queue.
    pub patience: Duration,
    /// How long a slot is held after the last sign of life of whoever holds it.
    pub slot_lease: Duration,
    /// What may be spent for each tenant in a day (UTC), on all providers.
    pub tenant_daily_budget: Option<Money>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            slot_lease: Duration::from_secs(30),
            tenant_daily_budget: None,
        }
    }
}

/// What the pool needs from the house.
#[derive(Clone)]
pub struct PoolPorts {
    /// Where providers' states are shared.
    pub shared: Arc<dyn SharedState>,
    /// Where costs are kept; `None` where there are no jobs, as on the command line.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Names of slots, and jitter.
    pub ids: Arc<dyn IdSource>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}
