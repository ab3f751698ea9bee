//! What runs until it is told to stop: API, worker, or both in one process, over the stores that the configuration names.

mod announce;
mod api;
mod stores;
mod worker;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use verbatim_api_lib::ServeOptions;
use verbatim_core::ids::IdSource;
use verbatim_core::model::ModelCatalog;
use verbatim_core::ports::SpeechEngine;
use verbatim_core::ports::local_engine::LoadLocalEngine;
use verbatim_engines::ProviderPool;
use verbatim_telemetry::logs;
use verbatim_telemetry::traces::{Collector, Traces};

use crate::config::{Config, LogFormat, Role};
use crate::engines;
use crate::gate::Gate;
use crate::shutdown::{Shutdown, listen_for_signals};
use crate::system::SystemIds;

use stores::Stores;

/// The parts that run side by side; each ends by itself once the shutdown has begun.
type Parts = JoinSet<anyhow::Result<()>>;

/// How long the end of the process waits for what calls to providers left behind.
const SETTLE: Duration = Duration::from_secs(5);

/// What is on offer, as far as this process knows.
type Offered = watch::Receiver<Option<Arc<ModelCatalog>>>;

/// Runs the service until it is told to stop.
///
/// # Errors
/// When it cannot start, with what to do about it; when a part of it breaks down.
pub async fn run(role: Role, config: Config, whisper: Option<LoadLocalEngine>) -> anyhow::Result<()> {
    let format = match config.log.format {
        LogFormat::Pretty => logs::LogFormat::Pretty,
        LogFormat::Json => logs::LogFormat::Json,
    };
    let traces = traces(role, &config)?;
    logs::init(&config.log.filter, format, traces.as_ref())?;
    let outcome = run_parts(role, config, whisper).await;
    if let Some(traces) = traces {
        traces.end().await;
    }
    outcome
}

/// The way of spans to the collector that the configuration names, if it names one.
fn traces(role: Role, config: &Config) -> anyhow::Result<Option<Traces>> {
    let collector = config.tracing.otlp_endpoint.traces().map(|endpoint| Collector {
        endpoint,
        sample_ratio: config.tracing.sample_ratio,
        version: env!("CARGO_PKG_VERSION"),
        role: role.as_str(),
        instance: SystemIds::default().ulid(),
    });
    Ok(collector.map(Traces::to).transpose()?)
}

async fn run_parts(role: Role, config: Config, whisper: Option<LoadLocalEngine>) -> anyhow::Result<()> {
    let stores = Stores::open(role, &config).await?;
    let listener = TcpListener::bind(config.server.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is another server running? --listen takes another port",
            config.server.listen
        )
    })?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let mut process = Process::default();
    let shutdown = process.shutdown.clone();
    let listening = tokio::spawn(listen_for_signals(shutdown.clone()));
    let (router, soft) = (process.gate.router(), shutdown.soft.clone());
    let serving = async move {
        verbatim_api_lib::serve(listener, router, soft, ServeOptions::default()).await;
        Ok(())
    };
    // Who loads models answers while it does, and says so. An API node is there at once: connections wait a moment instead
    // of being told by a node that has just come back that it is starting.
    let serving = if role == Role::Api {
        Some(serving)
    } else {
        process.parts.spawn(serving);
        None
    };
    let outcome = tokio::select! {
        () = shutdown.soft.cancelled() => Ok(()),
        started = process.start(role, &stores, &config, whisper) => started,
    };
    if let Some(serving) = serving {
        process.parts.spawn(serving);
    }
    if outcome.is_err() {
        shutdown.soft.cancel();
    }
    let ended = join(process.parts, &shutdown).await;
    if let Some(pool) = process.pool
        && tokio::time::timeout(SETTLE, pool.settled()).await.is_err()
    {
        tracing::warn!("places at providers that were not given back lapse by themselves");
    }
    stores.settle().await;
    listening.abort();
    outcome.and(ended)
}

/// A process on its way: closed until everything in it runs.
#[derive(Default)]
struct Process {
    gate: Gate,
    shutdown: Shutdown,
    parts: Parts,
    pool: Option<Arc<ProviderPool>>,
}

impl Process {
    /// Starts what the role has, and lets requests in.
    async fn start(
        &mut self,
        role: Role,
        stores: &Stores,
        config: &Config,
        whisper: Option<LoadLocalEngine>,
    ) -> anyhow::Result<()> {
        let Self { gate, shutdown, parts, pool } = self;
        if role != Role::Api {
            *pool = Some(Arc::new(engines::load(config, whisper, stores.engine_ports()).await?));
        }
        let engine = pool.clone().map(|pool| pool as Arc<dyn SpeechEngine>);
        let router = match role {
            Role::Worker => worker::operations(stores),
            Role::Serve | Role::Api => {
                let offered = offered(engine.as_deref(), stores, shutdown, parts).await?;
                api::start(stores, config, offered, shutdown, parts)
            }
        };
        worker::start_maintenance(role, stores, config, shutdown, parts);
        if let Some(engine) = engine.filter(|_| config.worker.enabled) {
            worker::start(stores, config, engine, shutdown, parts)?;
        }
        gate.open(router);
        tracing::info!("ready");
        Ok(())
    }
}

/// What the process's own engine offers; where it has none, what the workers of the cluster announce.
async fn offered(
    engine: Option<&dyn SpeechEngine>,
    stores: &Stores,
    shutdown: &Shutdown,
    parts: &mut Parts,
) -> anyhow::Result<Offered> {
    match (engine, &stores.registry) {
        (Some(engine), _) => {
            let models = ModelCatalog::new(engine.capabilities().models);
            Ok(watch::channel(Some(Arc::new(models.context("no engine offers a model")?))).1)
        }
        (None, Some(registry)) => {
            Ok(announce::listen(Arc::clone(registry), shutdown.soft.clone(), parts).await)
        }
        (None, None) => anyhow::bail!("there is neither an engine nor a cluster to learn models from"),
    }
}

/// Waits for every part. When one ends before it was asked to, the others are asked too.
async fn join(mut parts: Parts, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        shutdown.soft.cancel();
        let ended = ended.context("a part of the service panicked").and_then(|ended| ended);
        outcome = outcome.and(ended);
    }
    outcome
}
