//! The request limits: who has asked for too much work of late is told so before its body is read. Only routes that make
//! work are counted; polling and reading are not. And the headers with which every refusal for now comes.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use verbatim_core::ports::limiter::{Admission, LimitScope};

use crate::error::{ApiError, chain};
use crate::extract::Caller;
use crate::problem::whole_seconds;
use crate::state::ApiState;

/// The limits must not make a request wait that they would let pass.
const PATIENCE: Duration = Duration::from_secs(1);

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Counts a request against the limits of its tenant and of all, behind [`crate::auth::guard`].
pub(crate) async fn count(
    State(state): State<ApiState>,
    caller: Caller,
    request: Request,
    next: Next,
) -> Response {
    let Some(admission) = admit(&state, &caller).await else { return next.run(request).await };
    let mut response =
        if admission.allowed { next.run(request).await } else { refusal(&admission).into_response() };
    let figures = [(LIMIT, admission.limit), (REMAINING, admission.remaining)];
    for (name, figure) in figures {
        response.headers_mut().insert(name, HeaderValue::from(figure));
    }
    response.headers_mut().insert(RESET, HeaderValue::from(whole_seconds(admission.reset_after)));
    response
}

/// Whether the request may pass; `None` without limits, and where they cannot be asked: they protect the service, and
/// must not be what stops it. Where the store is down, no job can be submitted anyway.
async fn admit(state: &ApiState, caller: &Caller) -> Option<Admission> {
    let (limiter, limits) = state.limiter.as_ref()?;
    match tokio::time::timeout(PATIENCE, limiter.admit(&caller.principal.tenant, limits)).await {
        Ok(Ok(admission)) => {
            if let Some(admission) = &admission {
                state.metrics.limits.count_request(admission.scope, admission.allowed);
            }
            admission
        }
        failed => {
            state.metrics.store_errors.with_label_values(&["admit"]).inc();
            let error = match &failed {
                Ok(Err(error)) => chain(error),
                _ => "they did not answer in time".to_owned(),
            };
            tracing::warn!(error, "the request limits could not be asked; the request passes");
            None
        }
    }
}

fn refusal(admission: &Admission) -> ApiError {
    let detail = match admission.scope {
        LimitScope::Tenant => {
            "you have sent too many requests within a minute; `Retry-After` says when to go on"
        }
        LimitScope::Project => {
            "the service gets too many requests at present; `Retry-After` says when to go on"
        }
    };
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
    // "At once" would make clients that obey it knock in a loop.
    error.retry_after = Some(admission.retry_after.max(Duration::from_millis(1)));
    error
}

/// Adds the figures to an answer of 429 or 503 that has none: `limit`, where something is bounded, of which nothing is
/// left until it makes sense to try again. Where nothing is bounded but something is down, there is nothing to be had: 0.
pub(crate) fn complete(status: StatusCode, limit: Option<u64>, headers: &mut HeaderMap) {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return;
    }
    if limit.is_none() && headers.contains_key(LIMIT) {
        return;
    }
    let reset = headers.get(header::RETRY_AFTER).cloned().unwrap_or(HeaderValue::from_static("1"));
    headers.insert(LIMIT, HeaderValue::from(limit.unwrap_or(0)));
    headers.insert(REMAINING, HeaderValue::from(0));
    headers.insert(RESET, reset);
}
