//! The half that works on jobs, and the maintenance.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use verbatim_api_lib::{Keyless, Stranger};
use verbatim_blobs::s3::{S3Store, STALE_UPLOAD_AGE};
use verbatim_core::ids::{IdSource, WorkerId};
use verbatim_core::ports::{BlobStore, Disk, JobUpkeep, SpeechEngine};
use verbatim_core::time::Clock;
use verbatim_telemetry::Metrics;
use verbatim_telemetry::metrics::RestartReason;
use verbatim_worker_lib::{
    Maintenance, MaintenanceConfig, Pipeline, ShutdownSignals, StageLimits, Sweep, Sweeper, TimeLimit,
    Worker, WorkerConfig, WorkerExit, WorkerPorts,
};

use super::announce::Speaker;
use super::api::keyless;
use super::stores::Stores;
use super::{Parts, announce};
use crate::auth::keys_required;
use crate::commands::transcribe::pipeline_config;
use crate::config::{Config, Role};
use crate::process::Restart;
use crate::shutdown::Shutdown;

/// How long a scrape waits for a disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// What lies before and after a worker of this process.
pub(super) struct Life {
    /// The worker of the image before this one.
    pub(super) before: Option<WorkerId>,
    /// Set when the process is to go on as a fresh image.
    pub(super) restart: Arc<OnceLock<Restart>>,
}

/// Starts a worker with this engine. When it stops to be started afresh, everything else ends with it.
pub(super) fn start(
    stores: &Stores,
    config: &Config,
    engine: Arc<dyn SpeechEngine>,
    life: Life,
    shutdown: &Shutdown,
    parts: &mut Parts,
) -> anyhow::Result<()> {
    let capabilities = engine.capabilities();
    let worker = build(stores, config, engine)?;
    if let Some(redis) = stores.redis.clone() {
        let (clock, id, stop) = (stores.clock.clone(), worker.id().clone(), shutdown.soft.clone());
        let (condition, speaker) = (redis.condition(), Speaker { id, before: life.before });
        parts.spawn(async move {
            announce::speak(redis, clock, speaker, capabilities, condition, stop).await;
            Ok(())
        });
    }
    let registry = stores.registry.clone();
    let signals = ShutdownSignals { drain: shutdown.soft.clone(), release: shutdown.hard.clone() };
    parts.spawn(async move {
        let exit = worker.run(signals).await?;
        if let Some(registry) = registry {
            announce::leave(registry.as_ref(), worker.id()).await;
        }
        let reason = match exit {
            WorkerExit::Shutdown => return Ok(()),
            WorkerExit::JobLimit => RestartReason::Jobs,
            WorkerExit::MemoryLimit => RestartReason::Memory,
        };
        // There is one worker, which ends once.
        let _ = life.restart.set(Restart { reason, worker: worker.id().clone() });
        Ok(())
    });
    Ok(())
}

fn build(stores: &Stores, config: &Config, engine: Arc<dyn SpeechEngine>) -> anyhow::Result<Worker> {
    let concurrency = match config.worker.concurrency {
        0 => engine.capabilities().concurrency.max(1),
        chosen => chosen,
    };
    let scratch = config.storage.data_dir.join("scratch");
    let pipeline = Pipeline::new(engine, pipeline_config(config, &scratch))
        .with_context(|| format!("cannot make the folder {}", scratch.display()))?;
    let ports = WorkerPorts {
        leases: stores.leases.clone(),
        blobs: stores.blobs.clone(),
        clock: stores.clock.clone(),
        ids: stores.ids.clone(),
        metrics: stores.metrics.clone(),
    };
    let claim_ahead = match config.worker.claim_ahead {
        0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
        chosen => chosen,
    };
    let worker = WorkerConfig {
        concurrency,
        claim_ahead,
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
        stages: StageLimits {
            decode: config.worker.decode_concurrency,
            transcribe: config.worker.transcribe_concurrency,
            store: config.worker.store_concurrency,
        },
        max_jobs: config.worker.max_jobs_per_worker,
        max_rss_bytes: config.worker.max_rss_mb * 1024 * 1024,
    };
    Ok(Worker::new(ports, pipeline, worker))
}

/// Starts the maintenance. Every node ticks and deletes; workers, of which there can be many, leave searching the blobs to the others.
pub(super) fn start_maintenance(
    role: Role,
    stores: &Stores,
    config: &Config,
    shutdown: &Shutdown,
    parts: &mut Parts,
) {
    let interval = Duration::from_secs(config.upkeep.sweep_interval_secs);
    let sweeper = (role != Role::Worker).then(|| Sweeper {
        config: Sweep { interval, orphan_age: Duration::from_secs(config.upkeep.orphan_age_secs) },
        owner: stores.owner.clone(),
        marker: stores.own_blobs.clone(),
        node: stores.ids.ulid(),
    });
    let maintenance = Maintenance {
        store: stores.upkeep.clone(),
        blobs: stores.blobs.clone(),
        clock: stores.clock.clone(),
        ids: stores.ids.clone(),
        metrics: stores.metrics.clone(),
        config: MaintenanceConfig {
            interval: Duration::from_secs(config.upkeep.interval_secs),
            delete_grace: Duration::from_secs(config.upkeep.delete_grace_secs),
        },
        sweeper,
    };
    let stop = shutdown.soft.clone();
    parts.spawn(async move {
        maintenance.run(stop).await;
        Ok(())
    });
    if let Some(bucket) = stores.bucket.clone().filter(|_| role != Role::Worker) {
        let (clock, stop) = (stores.clock.clone(), shutdown.soft.clone());
        parts.spawn(async move {
            tokio::select! {
                () = abort_stale_uploads(&bucket, clock.as_ref(), interval) => {}
                () = stop.cancelled() => {}
            }
            Ok(())
        });
    }
}

/// Takes away what nodes that were killed had half uploaded.
async fn abort_stale_uploads(bucket: &S3Store, clock: &dyn Clock, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        match bucket.abort_stale_uploads(STALE_UPLOAD_AGE, clock.now()).await {
            Ok(0) => {}
            Ok(aborted) => tracing::info!(aborted, "uploads that nobody finished were taken away"),
            Err(error) => {
                tracing::warn!(%error, "unfinished uploads are still in the bucket; trying again later")
            }
        }
    }
}

/// What a worker serves: its health and its metrics.
pub(super) fn operations(stores: &Stores, config: &Config, listen: SocketAddr) -> anyhow::Result<Router> {
    let state = Operations {
        upkeep: stores.upkeep.clone(),
        blobs: stores.blobs.clone(),
        disk: stores.disk.clone(),
        metrics: stores.metrics.clone(),
    };
    let keyless = (!keys_required(config)?).then(|| keyless(config, listen));
    let figures = Router::new().route("/metrics", get(metrics)).with_state(state.clone());
    let figures = figures.layer(from_fn_with_state(keyless, only_own_pages));
    let health = Router::new()
        .route("/healthz", get(async || axum::Json(json!({ "status": "ok" }))))
        .route("/readyz", get(ready))
        .with_state(state);
    Ok(health.merge(figures))
}

/// Keeps web pages of others away, where nobody needs a key.
async fn only_own_pages(State(keyless): State<Option<Keyless>>, request: Request, next: Next) -> Response {
    match keyless.map_or(Ok(()), |keyless| keyless.check(request.uri(), request.headers())) {
        Ok(()) => next.run(request).await,
        Err(Stranger { code, detail }) => {
            let problem = json!({
                "type": "about:blank", "title": "Forbidden", "status": 403, "code": code, "detail": detail,
            });
            let kind = [(header::CONTENT_TYPE, "application/problem+json")];
            (StatusCode::FORBIDDEN, kind, axum::Json(problem)).into_response()
        }
    }
}

#[derive(Clone)]
struct Operations {
    upkeep: Arc<dyn JobUpkeep>,
    blobs: Arc<dyn BlobStore>,
    disk: Option<Arc<dyn Disk>>,
    metrics: Arc<Metrics>,
}

async fn ready(State(state): State<Operations>) -> Response {
    let (jobs, blobs) = tokio::join!(
        tokio::time::timeout(PATIENCE, state.upkeep.ping()),
        tokio::time::timeout(PATIENCE, state.blobs.ping()),
    );
    let reason = match (jobs, blobs) {
        (Ok(Ok(())), Ok(Ok(()))) => return axum::Json(json!({ "status": "ready" })).into_response(),
        (Ok(Ok(())), Ok(Err(error))) => {
            tracing::warn!(%error, "audio and results cannot be reached");
            if state.blobs.is_lost() {
                "the blob store is not that of the job store: is the share mounted, the bucket the right one?"
            } else {
                "the blob store does not answer"
            }
        }
        (Ok(Ok(())), Err(_)) => "the blob store does not answer",
        (Ok(Err(error)), _) => {
            tracing::warn!(%error, "the job store does not answer");
            "the job store does not answer"
        }
        (Err(_), _) => "the job store does not answer",
    };
    let headers = [(header::RETRY_AFTER, "1")];
    let body = axum::Json(json!({ "status": "not_ready", "reason": reason }));
    (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response()
}

async fn metrics(State(state): State<Operations>) -> Response {
    if let Some(disk) = &state.disk {
        match tokio::time::timeout(PATIENCE, disk.room()).await {
            Ok(Ok(room)) => state.metrics.set_disk(room),
            Ok(Err(error)) => tracing::warn!(%error, "the disk's figures are missing from this scrape"),
            Err(_) => tracing::warn!("the disk's figures took too long and are missing from this scrape"),
        }
    }
    state.metrics.set_blob_store_lost(state.blobs.is_lost());
    match state.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
