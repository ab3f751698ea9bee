//! What runs until it is told to stop: API, worker, or both in one process, over the stores that the configuration names.

mod announce;
mod api;
mod condition;
mod store_wait;
mod stores;
mod worker;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use verbatim_api_lib::{ServeGauges, ServeOptions};
use verbatim_core::CancellationToken;
use verbatim_core::ids::{IdSource, WorkerId};
use verbatim_core::model::ModelCatalog;
use verbatim_core::ports::SpeechEngine;
use verbatim_core::ports::local_engine::LoadLocalEngine;
use verbatim_core::time::Clock;
use verbatim_engines::ProviderPool;
use verbatim_telemetry::metrics::RestartReason;
use verbatim_telemetry::traces::{Collector, Traces};
use verbatim_telemetry::{Metrics, logs};

use crate::config::{Config, Role};
use crate::descriptors;
use crate::engines;
use crate::gate::Gate;
use crate::process::{Control, Ending, Restart};
use crate::shutdown::Shutdown;
use crate::system::SystemIds;

use stores::Stores;
pub(crate) use stores::{blob_folder, open_blobs};
use worker::Life;

/// The parts that run side by side; each ends by itself once the shutdown has begun.
type Parts = JoinSet<anyhow::Result<()>>;

/// How long the end of the process waits for what calls to providers left behind.
const SETTLE: Duration = Duration::from_secs(5);

/// How long connections to an API node wait for its start without an answer.
const QUICK_START: Duration = Duration::from_secs(1);

/// What is on offer, as far as this process knows.
type Offered = watch::Receiver<Option<Arc<ModelCatalog>>>;

/// Runs the service until it is told to stop, or until its worker has passed a limit.
///
/// # Errors
/// When it cannot start, with what to do about it; when a part of it breaks down.
pub async fn run(
    role: Role,
    config: Config,
    whisper: Option<LoadLocalEngine>,
    control: Control,
) -> anyhow::Result<Ending> {
    let traces = traces(role, &config)?;
    logs::init(&config.log.filter, config.log.format.into(), traces.as_ref())?;
    let outcome = run_parts(role, config, whisper, control).await;
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

async fn run_parts(
    role: Role,
    mut config: Config,
    whisper: Option<LoadLocalEngine>,
    Control { shutdown, lineage }: Control,
) -> anyhow::Result<Ending> {
    let listener = TcpListener::bind(config.server.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is another server running? --listen takes another port",
            config.server.listen
        )
    })?;
    let listen = listener.local_addr()?;
    say_where(listen);
    let metrics = Arc::new(Metrics::new()?);
    let mut process = Process::new(shutdown.clone(), lineage.worker, listen);
    let descriptors = descriptors::raise();
    let max_connections = descriptors::connections(config.limits.max_connections, descriptors);
    if max_connections < config.limits.max_connections {
        tracing::warn!(
            descriptors,
            max_connections,
            wanted = config.limits.max_connections,
            "fewer connections than limits.max_connections: raise the hard limit of open files (ulimit -Hn, LimitNOFILE)"
        );
        descriptors::scale(&mut config.limits, max_connections);
    }
    let options = ServeOptions {
        max_connections,
        trusted_proxies: config.server.trusted_proxies.clone(),
        ..ServeOptions::default()
    };
    let gauges = ServeGauges {
        open: metrics.limits.stage("open_connections"),
        closed: metrics.limits.connections_closed(),
    };
    process.parts.spawn(serve(role, listener, process.gate.clone(), shutdown.soft.clone(), options, gauges));
    let opened = tokio::select! {
        () = shutdown.soft.cancelled() => None,
        opened = Stores::open(role, &config, metrics, &process.gate) => Some(opened),
    };
    let stores = match opened {
        Some(Ok(stores)) => stores,
        nothing => {
            shutdown.soft.cancel();
            let ended = join(process.parts, &shutdown).await;
            nothing.map_or(Ok(()), |opened| opened.map(drop)).and(ended)?;
            return Ok(Ending::Done);
        }
    };
    let started = Duration::from_millis(stores.clock.now().as_millis().cast_unsigned());
    stores.metrics.start_seconds.set(started.as_secs_f64());
    for reason in RestartReason::ALL {
        stores.metrics.count_restarts(reason, lineage.restarts.get(reason.label()).copied().unwrap_or(0));
    }
    let outcome = tokio::select! {
        () = shutdown.soft.cancelled() => Ok(()),
        started = process.start(role, &stores, &config, whisper) => started,
    };
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
    outcome.and(ended)?;
    Ok(process.restart.get().cloned().map_or(Ending::Done, Ending::Restart))
}

/// Answers requests, also those that come before the service is ready. An API node is there at once, as a rule: connections
/// wait a moment instead of being told by a node that has just come back that it is starting.
async fn serve(
    role: Role,
    listener: TcpListener,
    gate: Gate,
    stop: CancellationToken,
    options: ServeOptions,
    gauges: ServeGauges,
) -> anyhow::Result<()> {
    if role == Role::Api {
        let _ = tokio::time::timeout(QUICK_START, gate.opened()).await;
    }
    verbatim_api_lib::serve(listener, gate.router(), stop, options, gauges).await;
    Ok(())
}

/// Prints the address for whoever started the process. Nobody may read it any more, after a restart for example.
fn say_where(address: SocketAddr) {
    let mut out = std::io::stdout();
    let said = writeln!(out, "listening on http://{address}").and_then(|()| out.flush());
    if let Err(error) = said {
        tracing::info!(%address, %error, "listening; standard output is closed");
    }
}

/// A process on its way: closed until everything in it runs.
struct Process {
    gate: Gate,
    shutdown: Shutdown,
    parts: Parts,
    pool: Option<Arc<ProviderPool>>,
    /// Where the process listens.
    listen: SocketAddr,
    /// The worker of the image before this one.
    before: Option<WorkerId>,
    /// Set by the worker when it has passed a limit.
    restart: Arc<OnceLock<Restart>>,
}

impl Process {
    fn new(shutdown: Shutdown, before: Option<WorkerId>, listen: SocketAddr) -> Self {
        let (gate, parts) = (Gate::default(), Parts::default());
        Self { gate, shutdown, parts, pool: None, listen, before, restart: Arc::default() }
    }

    /// Starts what the role has, and lets requests in.
    async fn start(
        &mut self,
        role: Role,
        stores: &Stores,
        config: &Config,
        whisper: Option<LoadLocalEngine>,
    ) -> anyhow::Result<()> {
        let Self { gate, shutdown, parts, pool, listen, before, restart } = self;
        if role != Role::Api {
            *pool = Some(Arc::new(engines::load(config, whisper, stores.engine_ports()).await?));
        }
        let engine = pool.clone().map(|pool| pool as Arc<dyn SpeechEngine>);
        let router = match role {
            Role::Worker => worker::operations(stores, config, *listen)?,
            Role::Serve | Role::Api => {
                let offered = offered(engine.as_deref(), stores, shutdown, parts).await?;
                api::start(stores, config, offered, *listen, shutdown, parts)?
            }
        };
        if let Some(redis) = stores.redis.clone() {
            let (metrics, stop) = (stores.metrics.clone(), shutdown.soft.clone());
            parts.spawn(async move {
                condition::follow(redis, metrics, stop).await;
                Ok(())
            });
        }
        worker::start_maintenance(role, stores, config, shutdown, parts);
        if let Some(engine) = engine.filter(|_| config.worker.enabled) {
            let life = Life { before: before.take(), restart: Arc::clone(restart) };
            worker::start(stores, config, engine, life, shutdown, parts)?;
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
