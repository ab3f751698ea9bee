//! A provider as it is given to the pool, the pool's settings and the ports that it uses.

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
    /// Its kind: `azure`, `openai`, `whisper` or `fake`; clients ask for it with `engine`.
    pub kind: String,
    /// The engine that does the work.
    pub engine: Arc<dyn SpeechEngine>,
    /// Its rank: the lowest is tried first.
    pub priority: u32,
    /// Its share among equals.
    pub weight: u32,
    /// Whether it computes on this machine: it is not shared with other nodes, and has no limits but its own.
    pub local: bool,
    /// The limits of all nodes together; without meaning for a local engine.
    pub limits: SlotLimits,
    /// The price of an hour of audio, in units of the account's currency; `None` where none is configured.
    pub price_per_hour: Option<Money>,
    /// The most that may be spent on it in a day (UTC).
    pub daily_budget: Option<Money>,
    /// The time that a call may take, whatever the audio.
    pub timeout_base: Duration,
    /// The time that it may take on top of that, as a multiple of the audio's length.
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

    /// The time that a call with this audio may take.
    pub(super) fn timeout(&self, audio: Duration) -> Duration {
        let extra = Duration::try_from_secs_f64(audio.as_secs_f64() * self.timeout_per_audio.max(0.0));
        self.timeout_base.saturating_add(extra.unwrap_or(Duration::MAX))
    }

    /// The cost of a job of this length.
    pub(super) fn cost(&self, audio: Duration) -> Option<Money> {
        self.price_per_hour.map(|price| price.per_hour(audio))
    }

    /// The number of jobs that this process can usefully give it at once.
    pub(super) fn concurrency(&self) -> usize {
        match self.local {
            true => self.engine.capabilities().concurrency,
            false => self.limits.max_concurrency.clamp(1, REMOTE_CONCURRENCY) as usize,
        }
    }
}

/// The settings of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    /// The time that a job waits for capacity at a provider before it goes back to the queue.
    pub wait_timeout: Duration,
    /// The time for which a slot is held after its holder's last renewal.
    pub slot_lease: Duration,
    /// The most that may be spent for each tenant in a day (UTC), on all providers.
    pub tenant_daily_budget: Option<Money>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            wait_timeout: Duration::from_secs(30),
            slot_lease: Duration::from_secs(30),
            tenant_daily_budget: None,
        }
    }
}

/// The ports that the pool uses.
#[derive(Clone)]
pub struct PoolPorts {
    /// The store of the providers' shared states.
    pub shared: Arc<dyn SharedState>,
    /// The ledger of costs; `None` where there are no jobs, as on the command line.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// The clock, for the day of a charge.
    pub clock: Arc<dyn Clock>,
    /// The source of slot names and jitter.
    pub ids: Arc<dyn IdSource>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}
