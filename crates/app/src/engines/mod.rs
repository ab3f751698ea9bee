//! From configuration to engines. The local engine is handed in by the binary, because this crate must not link C++.

mod alone;
mod remote;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use verbatim_core::ids::IdSource;
use verbatim_core::money::Money;
use verbatim_core::ports::local_engine::{LoadLocalEngine, LocalEngineSettings};
use verbatim_core::ports::{BlobStore, Ledger, SharedState, SpeechEngine};
use verbatim_core::provider::{Rate, SlotLimits};
use verbatim_core::time::Clock;
use verbatim_engines::azure::tokens::{TokenPorts, TokenService};
use verbatim_engines::{FakeEngine, PoolConfig, PoolPorts, Provider, ProviderPool};
use verbatim_telemetry::Metrics;

use crate::commands::models::ensure;
use crate::config::{Config, EngineKind, ProviderConfig};
use crate::system::{SystemClock, SystemIds};

pub use alone::Alone;

/// Calls to a remote provider that all nodes may have under way when the configuration does not say.
const MAX_CONCURRENCY: u32 = 100;

/// What engines reach the outside through.
#[derive(Clone)]
pub struct EnginePorts {
    /// What nodes share about providers.
    pub shared: Arc<dyn SharedState>,
    /// The books; `None` where there are no jobs.
    pub ledger: Option<Arc<dyn Ledger>>,
    /// Where uploads lie; `None` where there are none.
    pub blobs: Option<Arc<dyn BlobStore>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names and jitter.
    pub ids: Arc<dyn IdSource>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl EnginePorts {
    /// For a process that shares nothing with others and has no jobs.
    ///
    /// # Errors
    /// When two metrics share a name: a bug.
    pub fn alone() -> anyhow::Result<Self> {
        let clock = Arc::new(SystemClock);
        Ok(Self {
            shared: Arc::new(Alone::new(clock.clone())),
            ledger: None,
            blobs: None,
            clock,
            ids: Arc::new(SystemIds::default()),
            metrics: Arc::new(Metrics::new()?),
        })
    }
}

/// The providers of the configuration as one engine. Fetches models that are missing.
///
/// # Errors
/// When a model cannot be had or loaded, a provider cannot work as it is configured, or the binary has no local engine.
pub async fn load(
    config: &Config,
    whisper: Option<LoadLocalEngine>,
    ports: EnginePorts,
) -> anyhow::Result<ProviderPool> {
    let tokens = Arc::new(TokenService::new(TokenPorts {
        shared: ports.shared.clone(),
        clock: ports.clock.clone(),
        ids: ports.ids.clone(),
        metrics: ports.metrics.clone(),
    })?);
    let mut providers = Vec::new();
    for provider in config.providers_in_effect() {
        let engine: Arc<dyn SpeechEngine> = match provider.kind {
            EngineKind::Whisper => load_whisper(config, whisper).await?,
            EngineKind::Fake => Arc::new(FakeEngine::new(config.fake.real_time_factor)),
            EngineKind::Azure => remote::azure(&provider, Arc::clone(&tokens), ports.blobs.clone())?,
            EngineKind::OpenAi => remote::openai(&provider)?,
        };
        providers.push(placed(config, provider, engine)?);
    }
    let pool = PoolConfig {
        wait_timeout: Duration::from_secs(config.pool.patience_secs),
        tenant_daily_budget: config.costs.tenant_daily_budget.map(amount).transpose()?,
        ..PoolConfig::default()
    };
    let ports = PoolPorts {
        shared: ports.shared,
        ledger: ports.ledger,
        clock: ports.clock,
        ids: ports.ids,
        metrics: ports.metrics,
    };
    ProviderPool::new(providers, ports, pool).context("worker.engines names no engine")
}

/// An engine with what the configuration says about it.
fn placed(
    config: &Config,
    provider: ProviderConfig,
    engine: Arc<dyn SpeechEngine>,
) -> anyhow::Result<Provider> {
    let local = matches!(provider.kind, EngineKind::Whisper | EngineKind::Fake);
    let time_limit = match local {
        // Those of the worker, which gives an engine that ends by itself some seconds more.
        true => (Duration::from_secs(config.worker.time_limit_secs), config.worker.time_limit_per_audio),
        false => remote::time_limit(&provider),
    };
    let own = (provider.timeout_secs.map(Duration::from_secs), provider.timeout_per_audio);
    Ok(Provider {
        kind: provider.kind.as_str().to_owned(),
        engine,
        priority: provider.priority,
        weight: provider.weight,
        local,
        limits: SlotLimits {
            max_concurrency: provider.max_concurrency.unwrap_or(MAX_CONCURRENCY),
            rate: provider.requests_per_minute.map(Rate::per_minute),
        },
        price_per_hour: provider.price_per_hour.map(amount).transpose()?,
        daily_budget: provider.daily_budget.map(amount).transpose()?,
        timeout_base: if local { own.0.unwrap_or(time_limit.0) } else { time_limit.0 },
        timeout_per_audio: if local { own.1.unwrap_or(time_limit.1) } else { time_limit.1 },
        name: provider.name,
    })
}

fn amount(value: f64) -> anyhow::Result<Money> {
    Money::parse(value).with_context(|| format!("{value} is no amount of money"))
}

async fn load_whisper(
    config: &Config,
    whisper: Option<LoadLocalEngine>,
) -> anyhow::Result<Arc<dyn SpeechEngine>> {
    let Some(load) = whisper else {
        bail!(
            "this binary has no local Whisper engine; use `verbatim` or `verbatim-worker`, or name other engines in worker.engines"
        );
    };
    let mut models = Vec::new();
    for name in std::iter::once(&config.whisper.model).chain(&config.whisper.additional_models) {
        let folder = ensure(&config.models, name, false).await?;
        models.push((model_name(name), folder));
    }
    let settings = LocalEngineSettings {
        models,
        replicas: config.whisper.replicas,
        threads_per_replica: config.whisper.threads_per_replica,
        compute_type: config.whisper.compute_type,
    };
    let loaded = tokio::task::spawn_blocking(move || load(settings)).await;
    loaded.context("loading the model panicked")?.map_err(anyhow::Error::from_boxed)
}

/// The name under which clients know a model: that of its folder when it is given by path.
fn model_name(name_or_path: &str) -> String {
    let path = std::path::Path::new(name_or_path);
    path.file_name().map_or_else(|| name_or_path.to_owned(), |name| name.to_string_lossy().into_owned())
}
