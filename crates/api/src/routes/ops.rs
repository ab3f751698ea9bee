//! For operators: is it alive, is it ready, what do its figures say.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;
use verbatim_core::PortError;

use crate::error::{ApiError, chain};
use crate::problem::Problem;
use crate::served;
use crate::state::ApiState;

/// A dependency that takes longer to answer counts as down.
const PATIENCE: Duration = Duration::from_secs(2);

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether the process can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    /// `ready` or `not_ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// Every dependency.
    checks: Vec<Check>,
}

/// One dependency.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Check {
    /// `store`, `blobs`, `engine` or `process`.
    #[schema(example = "store")]
    name: &'static str,
    /// Whether it is up.
    ok: bool,
}

/// Whether the process is alive
///
/// Always 200 while it can answer at all. No side effects.
#[utoipa::path(get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = 200, description = "Alive", body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the process can take work
///
/// 503 while a dependency is down, the model is still loading, no worker is known yet, every engine is paused, or the
/// process is stopping.
#[utoipa::path(get, path = "/readyz", tag = "operations", operation_id = "readyz", responses(
    (status = 200, description = "Ready", body = Ready),
    (status = 503, description = "Not ready: `checks` says why", body = Ready),
))]
pub(crate) async fn readyz(State(state): State<ApiState>) -> Response {
    let mut checks = dependencies(&state).await;
    checks.push(Check { name: "process", ok: !state.shutdown.is_cancelled() });
    if checks.iter().all(|check| check.ok) {
        Json(Ready { status: "ready", checks }).into_response()
    } else {
        let retry = [(header::RETRY_AFTER, "1")];
        (StatusCode::SERVICE_UNAVAILABLE, retry, Json(Ready { status: "not_ready", checks })).into_response()
    }
}

/// What the dependencies said, not long ago: however often and by however many it is asked, they are asked once a second.
async fn dependencies(state: &ApiState) -> Vec<Check> {
    let mut known = state.readiness().0.lock().await;
    let now = Instant::now();
    if let Some((at, checks)) = known.as_ref()
        && now.duration_since(*at) < state.limits.readiness_age
    {
        return checks.clone();
    }
    let (store, blobs, engine) = tokio::join!(
        answers("store", state.upkeep.ping()),
        answers("blobs", state.blobs.ping()),
        answers("engine", served::anything(state)),
    );
    let checks = vec![store, blobs, engine];
    *known = Some((now, checks.clone()));
    checks
}

/// What was last found out about the dependencies.
#[derive(Default)]
pub(crate) struct Readiness(Mutex<Option<(Instant, Vec<Check>)>>);

/// Asks one dependency.
async fn answers(name: &'static str, ping: impl Future<Output = Result<(), PortError>>) -> Check {
    let ok = match tokio::time::timeout(PATIENCE, ping).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), dependency = name, "a dependency is down");
            false
        }
        Err(_) => {
            tracing::warn!(dependency = name, "a dependency does not answer");
            false
        }
    };
    Check { name, ok }
}

/// Metrics for Prometheus
///
/// Figures of the queue are asked of the store once per scrape; when it does not answer, the rest is still there.
#[utoipa::path(get, path = "/metrics", tag = "operations", operation_id = "metrics", responses(
    (status = 200, description = "Prometheus's text format", body = String, content_type = "text/plain"),
    (status = 500, description = "The figures cannot be written", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn metrics(State(state): State<ApiState>) -> Result<Response, ApiError> {
    match tokio::time::timeout(PATIENCE, state.upkeep.stats()).await {
        Ok(Ok(stats)) => state.metrics.set_queue(&stats),
        Ok(Err(error)) => {
            state.metrics.store_errors.with_label_values(&["stats"]).inc();
            tracing::warn!(error = %chain(&error), "the queue's figures are missing from this scrape");
        }
        Err(_) => {
            state.metrics.store_errors.with_label_values(&["stats"]).inc();
            tracing::warn!("the queue's figures took too long and are missing from this scrape");
        }
    }
    state.metrics.set_blob_store_lost(state.blobs.is_lost());
    state.stages().look();
    state.disk_guard().look().await;
    let text = state.metrics.render().map_err(|error| {
        tracing::error!(%error, "metrics cannot be written");
        ApiError::internal()
    })?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
