//! Who may come in: which key opens which route. Every guarded request is looked at before its body is read.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;
use verbatim_core::api_key::{KeyRefusal, Scope, authenticate};
use verbatim_core::ids::KeyId;
use verbatim_core::ports::Directory;
use verbatim_telemetry::access::AccessRefusal;

use crate::audit::{Act, Actions};
use crate::edge::holder_by_address;
use crate::error::{ApiError, chain};
use crate::extract::Caller;
use crate::extract::body::UploadBody;
use crate::state::ApiState;

/// The other header in which a key may come.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What guards a group of routes.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) state: ApiState,
    /// The scope that a key needs for them.
    pub(crate) needed: Scope,
    /// What the audit calls what is done by them.
    pub(crate) actions: Arc<Actions>,
}

/// Lets in who has the scope, as [`Caller`], and writes down what it did. Everybody has every scope where keys are off.
pub(crate) async fn guard(
    State(Guard { state, needed, actions }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = match &state.auth {
        None => Caller::anybody(holder_by_address(request.extensions())),
        Some(directory) => identify(&state, directory.as_ref(), request.headers()).await?,
    };
    let span = tracing::Span::current();
    span.record("tenant", caller.principal.tenant.as_str());
    if let Some(key) = &caller.key {
        span.record("key.id", key.as_str());
    }
    let route = request.extensions().get::<MatchedPath>();
    let action = route.and_then(|route| actions.find(request.method(), route.as_str()));
    let act = match action {
        Some(action) => Some(Act::begin(&state.audit, action, &caller, &mut request).await),
        None => None,
    };
    if !caller.principal.may(needed) {
        state.metrics.access.count_refusal(AccessRefusal::ScopeMissing);
        let refusal = ApiError::forbidden(needed);
        if let Some(act) = act {
            act.ended(refusal.code);
        }
        return Err(refusal);
    }
    if let Some(body) = request.extensions().get::<UploadBody>() {
        body.admitted();
    }
    // Nobody behind this point has any business with the secret.
    request.headers_mut().remove(header::AUTHORIZATION);
    request.headers_mut().remove(API_KEY);
    request.extensions_mut().insert(caller);
    let answer = next.run(request).await;
    if let Some(act) = act {
        act.answered(&answer);
    }
    Ok(answer)
}

/// Ends when the caller's key no longer opens anything: an answer that goes on for as long as a job must end then, too. The
/// key is looked at again with every heartbeat; while nobody can be asked, it counts as it last did.
pub(crate) async fn until_revoked(state: ApiState, key: Option<KeyId>) {
    let Some((key, directory)) = key.zip(state.auth.clone()) else { return std::future::pending().await };
    loop {
        tokio::time::sleep(state.limits.heartbeat).await;
        match directory.find(&key).await {
            Ok(Some(record)) if record.is_open(state.clock.now()) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the key of an event stream could not be looked at")
            }
        }
    }
}

/// The holder of the request's key.
async fn identify(
    state: &ApiState,
    directory: &dyn Directory,
    headers: &HeaderMap,
) -> Result<Caller, ApiError> {
    let count = |why| state.metrics.access.count_refusal(why);
    let Some(text) = presented(headers) else {
        count(AccessRefusal::NoKey);
        return Err(ApiError::unauthenticated(
            "this service asks for an API key: send it as `Authorization: Bearer <key>` or as `X-API-Key`",
        ));
    };
    match authenticate(directory, text, state.clock.now()).await? {
        Ok(record) => Ok(Caller::with_key(record.key.id, record.key.principal)),
        Err(refusal) => {
            count(match refusal {
                KeyRefusal::Unknown => AccessRefusal::UnknownKey,
                KeyRefusal::Closed => AccessRefusal::ClosedKey,
            });
            Err(ApiError::unauthenticated("the API key is unknown, revoked or expired"))
        }
    }
}

/// The key that a request brings. `X-API-Key` can be meant for nobody else, so it wins where a proxy on the way uses
/// `Authorization` for its own purposes.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = || {
        let (scheme, key) = text(header::AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    };
    text(API_KEY).or_else(bearer).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn of(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        presented(&headers.iter().map(pair).collect()).map(str::to_owned)
    }

    #[test]
    fn a_key_comes_in_either_header() {
        assert_eq!(of(&[("authorization", "Bearer k")]).as_deref(), Some("k"));
        assert_eq!(of(&[("authorization", "bearer  k ")]).as_deref(), Some("k"));
        assert_eq!(of(&[("x-api-key", "k")]).as_deref(), Some("k"));
        assert_eq!(of(&[("authorization", "Basic eDp5"), ("x-api-key", "k")]).as_deref(), Some("k"));
        for none in ["Basic eDp5", "Bearer", "Bearer ", "k"] {
            assert_eq!(of(&[("authorization", none)]), None, "{none}");
        }
        assert_eq!(of(&[("x-api-key", "")]), None);
        assert_eq!(of(&[]), None);
    }
}
