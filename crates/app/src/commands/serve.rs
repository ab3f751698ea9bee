//! `verbatim serve`: API, worker and upkeep in one process, over SQLite and a folder.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use verbatim_api_lib::{ApiLimits, ApiParts, ApiState, Offering, ServeOptions};
use verbatim_blobs::FolderStore;
use verbatim_core::model::ModelCatalog;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::SpeechEngine;
use verbatim_core::ports::local_engine::LoadLocalEngine;
use verbatim_core::retry::RetryPolicy;
use verbatim_queue::sqlite::{SqliteConfig, SqliteStore};
use verbatim_telemetry::{Metrics, logs};
use verbatim_worker_lib::{
    Pipeline, ShutdownSignals, Sweep, TimeLimit, Upkeep, UpkeepConfig, Worker, WorkerConfig, WorkerExit,
    WorkerPorts,
};

use super::transcribe::pipeline_config;
use crate::config::{Config, LogFormat, QueueConfig};
use crate::engines;
use crate::gate::Gate;
use crate::shutdown::{Shutdown, listen_for_signals};
use crate::system::{SystemClock, SystemIds};

/// Runs the service until it is told to stop.
///
/// # Errors
/// When it cannot start, with what to do about it; when a part of it breaks down.
pub async fn run(config: Config, whisper: Option<LoadLocalEngine>) -> anyhow::Result<()> {
    let format = match config.log.format {
        LogFormat::Pretty => logs::LogFormat::Pretty,
        LogFormat::Json => logs::LogFormat::Json,
    };
    logs::init(&config.log.filter, format)?;
    let service = Service::open(&config)?;
    let listener = TcpListener::bind(config.server.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; is another server running? --listen takes another port",
            config.server.listen
        )
    })?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let shutdown = Shutdown::default();
    let gate = Gate::default();
    let mut parts = JoinSet::new();
    let signals = shutdown.clone();
    let listening = tokio::spawn(listen_for_signals(signals));
    let (router, soft) = (gate.router(), shutdown.soft.clone());
    parts.spawn(async move {
        verbatim_api_lib::serve(listener, router, soft, ServeOptions::default()).await;
        Ok(())
    });
    let loading = engines::load(&config, whisper);
    let outcome = tokio::select! {
        () = shutdown.soft.cancelled() => Ok(()),
        engine = loading => match engine {
            Ok(engine) => service.start(Arc::new(engine), &config, &gate, &shutdown, &mut parts),
            Err(error) => Err(error),
        },
    };
    if outcome.is_err() {
        shutdown.soft.cancel();
    }
    let ended = join(parts, &shutdown).await;
    listening.abort();
    outcome.and(ended)
}

/// Waits for every part. When one ends before it was asked to, the others are asked too.
async fn join(mut parts: JoinSet<anyhow::Result<()>>, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        shutdown.soft.cancel();
        let ended = ended.context("a part of the service panicked").and_then(|ended| ended);
        outcome = outcome.and(ended);
    }
    outcome
}

/// What the parts of the service share.
struct Service {
    store: Arc<SqliteStore>,
    blobs: Arc<FolderStore>,
    clock: Arc<SystemClock>,
    ids: Arc<SystemIds>,
    metrics: Arc<Metrics>,
}

impl Service {
    /// Opens the data folder.
    fn open(config: &Config) -> anyhow::Result<Self> {
        let clock = Arc::new(SystemClock);
        let ids = Arc::new(SystemIds::default());
        let folder = &config.storage.data_dir;
        let store = SqliteStore::open(SqliteConfig {
            folder: folder.clone(),
            policy: policy(&config.queue),
            clock: clock.clone(),
            ids: ids.clone(),
        })?;
        let blobs = FolderStore::open(folder.join("blobs"))?;
        let metrics = Arc::new(Metrics::new()?);
        Ok(Self { store: Arc::new(store), blobs: Arc::new(blobs), clock, ids, metrics })
    }

    /// Starts worker and upkeep, and lets requests in.
    fn start(
        &self,
        engine: Arc<dyn SpeechEngine>,
        config: &Config,
        gate: &Gate,
        shutdown: &Shutdown,
        parts: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let state = self.api(engine.as_ref(), config, shutdown)?;
        let worker = self.worker(engine, config)?;
        let upkeep = self.upkeep(config);

        let (router, soft) = (verbatim_api_lib::router(state.clone()), shutdown.soft.clone());
        let stop = soft.clone();
        parts.spawn(async move {
            upkeep.run(stop).await;
            Ok(())
        });
        parts.spawn(async move {
            soft.cancelled().await;
            state.finish_tasks().await;
            Ok(())
        });
        let signals = ShutdownSignals { drain: shutdown.soft.clone(), release: shutdown.hard.clone() };
        if config.worker.enabled {
            parts.spawn(async move {
                let exit = worker.run(signals).await?;
                if exit != WorkerExit::Shutdown {
                    tracing::info!(?exit, "stopping to be started afresh");
                }
                Ok(())
            });
        }
        gate.open(router);
        tracing::info!("ready");
        Ok(())
    }

    fn api(
        &self,
        engine: &dyn SpeechEngine,
        config: &Config,
        shutdown: &Shutdown,
    ) -> anyhow::Result<ApiState> {
        let capabilities = engine.capabilities();
        let models = ModelCatalog::new(capabilities.models).context("no engine offers a model")?;
        let diarization = capabilities.diarization;
        let (_, offering) = watch::channel(Some(Arc::new(Offering { models, diarization })));
        Ok(ApiState::new(ApiParts {
            jobs: self.store.clone(),
            admin: self.store.clone(),
            auth: None,
            upkeep: self.store.clone(),
            blobs: self.blobs.clone(),
            offering,
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
            limits: ApiLimits {
                max_upload_bytes: config.limits.max_upload_mb * 1024 * 1024,
                max_uploads_in_flight: config.limits.max_uploads_in_flight,
                upload_idle: Duration::from_secs(config.server.idle_timeout_secs),
                ..ApiLimits::default()
            },
            shutdown: shutdown.soft.clone(),
        }))
    }

    fn worker(&self, engine: Arc<dyn SpeechEngine>, config: &Config) -> anyhow::Result<Worker> {
        let concurrency = match config.worker.concurrency {
            0 => engine.capabilities().concurrency.max(1),
            chosen => chosen,
        };
        let scratch = config.storage.data_dir.join("scratch");
        let pipeline = Pipeline::new(engine, pipeline_config(config, &scratch))
            .with_context(|| format!("cannot make the folder {}", scratch.display()))?;
        let ports = WorkerPorts {
            leases: self.store.clone(),
            blobs: self.blobs.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
        };
        let worker = WorkerConfig {
            concurrency,
            lease: Duration::from_secs(config.worker.lease_secs),
            renew: Duration::from_secs(config.worker.renew_secs),
            poll: Duration::from_millis(config.worker.poll_ms),
            grace: Duration::from_secs(config.worker.drain_secs),
            stop_patience: Duration::from_secs(config.worker.stop_patience_secs),
            storage_patience: Duration::from_secs(config.worker.storage_patience_secs),
            time_limit: TimeLimit {
                base: Duration::from_secs(config.worker.time_limit_secs),
                per_audio: config.worker.time_limit_per_audio,
            },
            max_jobs: config.worker.max_jobs_per_worker,
            max_rss_bytes: config.worker.max_rss_mb * 1024 * 1024,
        };
        Ok(Worker::new(ports, pipeline, worker))
    }

    fn upkeep(&self, config: &Config) -> Upkeep {
        Upkeep {
            upkeep: self.store.clone(),
            blobs: self.blobs.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
            config: UpkeepConfig {
                interval: Duration::from_secs(config.upkeep.interval_secs),
                sweep: Some(Sweep {
                    interval: Duration::from_secs(config.upkeep.sweep_interval_secs),
                    orphan_age: Duration::from_secs(config.upkeep.orphan_age_secs),
                    ..Sweep::default()
                }),
            },
        }
    }
}

fn policy(queue: &QueueConfig) -> StorePolicy {
    let defaults = StorePolicy::default();
    StorePolicy {
        retry: RetryPolicy {
            max_attempts: queue.max_attempts,
            max_crashes: queue.max_crashes,
            ..RetryPolicy::default()
        },
        dedupe_ttl: Duration::from_secs(queue.dedupe_ttl_secs),
        result_retention: Duration::from_secs(queue.result_retention_secs),
        idempotency_ttl: Duration::from_secs(queue.idempotency_ttl_secs),
        max_age: Duration::from_secs(queue.max_age_secs),
        max_waiting: (queue.max_queued > 0).then_some(queue.max_queued),
        ..defaults
    }
}
