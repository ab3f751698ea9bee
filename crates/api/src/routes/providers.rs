//! For operators: the providers behind the engines. Look at them, pause one, let it be used again.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use verbatim_core::money::Money;
use verbatim_core::provider::{self, BreakerState, OutcomeKind, ProviderView};

use crate::dto::rfc3339;
use crate::error::ApiError;
use crate::problem::Problem;
use crate::state::ApiState;

/// The longest name that is looked for.
const MAX_NAME: usize = 128;

/// A provider, at this moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Provider {
    /// Its name in the configuration.
    #[schema(example = "azure-west")]
    pub(crate) name: String,
    /// Always `provider`.
    #[schema(example = "provider")]
    object: &'static str,
    /// What it is.
    #[schema(example = "azure")]
    kind: String,
    /// Whether it computes on the nodes themselves. Each bounds its own work, so the shared limits are none of its.
    local: bool,
    /// Lower is asked first.
    #[schema(example = 1)]
    priority: u32,
    /// Its share among equals.
    #[schema(example = 1)]
    weight: u32,
    /// `available`, `paused` (by an operator), `down` (its circuit breaker is open), `probing` (half open) or
    /// `cooling_down` (it asked for that).
    #[schema(example = "available")]
    health: &'static str,
    /// Seconds until it is called again, where that is known.
    #[schema(example = 0.0)]
    resumes_in_secs: f64,
    /// Calls under way on all nodes; null for a local one.
    #[schema(example = 3)]
    in_use: Option<u32>,
    /// Calls that may be under way at once, as found; null for a local one.
    #[schema(example = 18)]
    concurrency_limit: Option<u32>,
    /// The most of them that the configuration allows; null for a local one.
    #[schema(example = 20)]
    max_concurrency: Option<u32>,
    /// Part of the present limit that is in use; null for a local one.
    #[schema(example = 0.1667)]
    utilisation: Option<f64>,
    /// Calls begun within the last minute.
    #[schema(example = 240)]
    requests_last_minute: u32,
    /// The most of them that the configuration allows; null for no limit.
    #[schema(example = 600)]
    requests_per_minute: Option<u32>,
    /// Seconds it takes for a second of audio, averaged over the last calls; null before the first.
    #[schema(example = 0.08)]
    secs_per_audio_sec: Option<f64>,
    /// How its calls ended since it is known.
    calls: Calls,
    /// How the last call ended; null before the first.
    last_call: Option<LastCall>,
    /// What an hour of audio costs; null when no price is configured, and for keys without the scope `admin`.
    #[schema(example = 0.36)]
    price_per_audio_hour: Option<f64>,
    /// When a node that runs it last said so (RFC 3339, UTC, milliseconds).
    #[schema(example = "2026-01-31T12:00:00.000Z")]
    announced_at: String,
    /// What may be spent on it in a day.
    #[serde(skip)]
    pub(crate) daily_budget: Option<Money>,
}

/// How calls ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Calls {
    /// With a transcript.
    succeeded: u64,
    /// Told to slow down.
    throttled: u64,
    /// By the provider's fault.
    failed: u64,
}

/// How the last call ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LastCall {
    /// When.
    at: String,
    /// `succeeded`, `throttled`, `failed`, or `neutral` when it says nothing about the provider.
    #[schema(example = "succeeded")]
    outcome: &'static str,
}

impl From<ProviderView> for Provider {
    fn from(view: ProviderView) -> Self {
        let (health, resumes_in_secs) = match view.breaker {
            _ if view.paused => ("paused", 0.0),
            BreakerState::Open => ("down", view.open_secs),
            _ if view.cool_down_secs > 0.0 => ("cooling_down", view.cool_down_secs),
            BreakerState::HalfOpen => ("probing", 0.0),
            BreakerState::Closed => ("available", 0.0),
        };
        let shared = !view.facts.local;
        let limit = f64::from(view.concurrency_limit.max(1));
        Self {
            name: view.name,
            object: "provider",
            kind: view.facts.kind,
            local: view.facts.local,
            priority: view.facts.priority,
            weight: view.facts.weight,
            health,
            resumes_in_secs: rounded(resumes_in_secs),
            in_use: shared.then_some(view.in_use),
            concurrency_limit: shared.then_some(view.concurrency_limit),
            max_concurrency: shared.then_some(view.facts.max_concurrency),
            utilisation: shared.then(|| rounded(f64::from(view.in_use) / limit)),
            requests_last_minute: view.requests_last_minute,
            requests_per_minute: view.facts.requests_per_minute,
            secs_per_audio_sec: view.secs_per_audio_sec.map(rounded),
            calls: Calls {
                succeeded: view.totals.succeeded,
                throttled: view.totals.throttled,
                failed: view.totals.failed,
            },
            last_call: view.last_outcome.map(|last| LastCall {
                at: rfc3339(last.at),
                outcome: match last.kind {
                    OutcomeKind::Succeeded => "succeeded",
                    OutcomeKind::Throttled => "throttled",
                    OutcomeKind::Failed => "failed",
                    OutcomeKind::Neutral => "neutral",
                },
            }),
            price_per_audio_hour: view.facts.price_per_hour.map(Money::as_f64),
            announced_at: rfc3339(view.announced_at),
            daily_budget: view.facts.daily_budget,
        }
    }
}

/// Four decimals are more than anybody reads.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}

/// Every provider.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProviderList {
    /// Always `list`.
    #[schema(example = "list")]
    object: &'static str,
    /// The providers that a node ran within the last day, in order of their names.
    data: Vec<Provider>,
}

/// List providers
///
/// The engines behind the service with their health, limits and use on all nodes together.
#[utoipa::path(get, path = "/v1/admin/providers", tag = "admin", operation_id = "list_providers",
    responses((status = 200, description = "The providers", body = ProviderList)))]
pub(crate) async fn list(State(state): State<ApiState>) -> Result<Json<ProviderList>, ApiError> {
    let views = match &state.providers {
        Some(providers) => provider::list(providers.shared.as_ref()).await?,
        None => Vec::new(),
    };
    Ok(Json(ProviderList { object: "list", data: views.into_iter().map(Provider::from).collect() }))
}

/// Pause a provider
///
/// No node gives it new work until it is resumed; what it is working on goes on. Jobs go to other providers or wait.
#[utoipa::path(post, path = "/v1/admin/providers/{name}/pause", tag = "admin", operation_id = "pause_provider",
    params(("name" = String, Path, description = "The provider's name", example = "azure-west")),
    responses(
        (status = 200, description = "Paused, now or before", body = Provider),
        (status = 404, description = "No node ever ran such a provider", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn pause(
    State(state): State<ApiState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Provider>, ApiError> {
    set_paused(&state, path, true).await
}

/// Resume a provider
///
/// It gets work again.
#[utoipa::path(post, path = "/v1/admin/providers/{name}/resume", tag = "admin", operation_id = "resume_provider",
    params(("name" = String, Path, description = "The provider's name", example = "azure-west")),
    responses(
        (status = 200, description = "In use, now or before", body = Provider),
        (status = 404, description = "No node ever ran such a provider", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn resume(
    State(state): State<ApiState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Provider>, ApiError> {
    set_paused(&state, path, false).await
}

async fn set_paused(
    state: &ApiState,
    path: Result<Path<String>, PathRejection>,
    paused: bool,
) -> Result<Json<Provider>, ApiError> {
    let name = path.ok().map(|Path(name)| name).filter(|name| name.len() <= MAX_NAME);
    let (Some(name), Some(providers)) = (name, &state.providers) else { return Err(no_such_provider()) };
    let view = provider::pause(providers.shared.as_ref(), &name, paused).await?;
    view.map(|view| Json(Provider::from(view))).ok_or_else(no_such_provider)
}

fn no_such_provider() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such provider")
}
