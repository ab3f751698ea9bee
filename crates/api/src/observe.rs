//! What surrounds every request: its id, its log line, its metrics, and the rendering of its error, if it has one.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument, Span};
use verbatim_core::ids::IdSource;
use verbatim_core::trace::TraceParent;
use verbatim_telemetry::traces;

use crate::edge::client_address;
use crate::error::ApiError;
use crate::extract::body::{Bounds, UploadBody};
use crate::limits;
use crate::problem::{self, ApiStyle};
use crate::state::ApiState;

/// The header in which a request's id comes and goes.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A request's id, as it is in the log and in the answer.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What every key begins with: somebody may put one where an id belongs.
const KEY_PREFIX: &str = "vbk_";

/// Whether a text that a client chose, and that would be written down, has a key in it.
pub(crate) fn holds_key(text: &str) -> bool {
    let prefix = KEY_PREFIX.as_bytes();
    text.as_bytes().windows(prefix.len()).any(|part| part.eq_ignore_ascii_case(prefix))
}

/// The longest request id taken from a client.
const MAX_REQUEST_ID: usize = 128;
/// The header in which a client names the span that its request is part of (W3C Trace Context).
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// The route of requests that match none.
const UNMATCHED: &str = "unmatched";

/// Surrounds a request. Must be the outermost layer that is inside the routing, so that the route is known.
pub(crate) async fn observe(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers(), state.ids.as_ref());
    let style = ApiStyle::of(request.uri().path());
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let matched = matched.as_ref().map(MatchedPath::as_str);
    let route = matched.unwrap_or(UNMATCHED);
    let traced = if is_probe(route) {
        Span::none()
    } else {
        traces::request(method, matched, trace_parent(request.headers()))
    };

    let client = client_address(&request, &state.edge.trusted_proxies);
    let (parts, body) = request.into_parts();
    let awaits_continue = parts.headers.contains_key(header::EXPECT);
    let body = UploadBody::new(body, Bounds::of(&state.limits), awaits_continue);
    let mut request = Request::from_parts(parts, Body::from_stream(body.clone()));
    request.extensions_mut().insert(body.clone());
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(RequestId(id.as_str().into()));

    let span = tracing::info_span!(
        "request",
        request.id = %id,
        method,
        route,
        client = %client.0,
        trace.id = traces::trace_id(&traced),
        // Known once the key has been looked at.
        tenant = tracing::field::Empty,
        key.id = tracing::field::Empty,
    );
    let response = next.run(request).instrument(span.clone()).instrument(traced.clone()).await;
    let error = response.extensions().get::<Arc<ApiError>>().cloned();
    let mut response = match &error {
        Some(error) => problem::render(response, error, style, &id, body),
        None => response,
    };
    let limit = error.as_ref().and_then(|error| error.limit);
    limits::complete(response.status(), limit, response.headers_mut());

    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    traces::answered(&traced, status, error.as_ref().map(|error| error.code));
    state.metrics.http_requests.with_label_values(&[route, method, &status.to_string()]).inc();
    state.metrics.http_seconds.with_label_values(&[route, method]).observe(elapsed.as_secs_f64());
    span.in_scope(|| {
        let (code, ms) = (error.map_or("", |error| error.code), elapsed.as_millis());
        if is_probe(route) {
            tracing::debug!(status, code, ms, "answered");
        } else {
            tracing::info!(status, code, ms, "answered");
        }
    });
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Routes that machines ask every few seconds.
pub(crate) fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/metrics")
}

/// The span that the client names, if it names one and only one.
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut named = headers.get_all(TRACE_PARENT).iter();
    let (parent, another) = (named.next()?, named.next());
    parent.to_str().ok().filter(|_| another.is_none())?.parse().ok()
}

/// The client's id for its request, if it is one that can stand in a log and holds no key; a fresh one else.
fn request_id(headers: &HeaderMap, ids: &dyn IdSource) -> String {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(allowed) && !holds_key(id))
        .map_or_else(|| format!("req_{}", ids.ulid()), str::to_owned)
}

/// A closed set: clients may invent methods.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The answer of a handler that panicked. The panic hook has logged where.
pub(crate) fn panicked(_payload: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl IdSource for Fixed {
        fn ulid(&self) -> String {
            "01JD8N3W0S5Y6T7E8Z9QK4M2VX".into()
        }
        fn fraction(&self) -> f64 {
            0.5
        }

        fn secret(&self) -> [u8; 32] {
            [7; 32]
        }
    }

    #[test]
    fn a_request_id_that_could_forge_log_lines_is_replaced() {
        let with = |value: &str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(value).unwrap())]);
        assert_eq!(request_id(&with("abc-1"), &Fixed), "abc-1");
        assert!(request_id(&with("a b"), &Fixed).starts_with("req_"));
        assert!(request_id(&with(&"x".repeat(129)), &Fixed).starts_with("req_"));
        assert!(request_id(&HeaderMap::new(), &Fixed).starts_with("req_"));
    }

    #[test]
    fn a_key_that_is_put_in_place_of_a_request_id_is_replaced() {
        let with = |value: &str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(value).unwrap())]);
        for id in ["vbk_01JD8N3W0S5Y6T7E8Z9QK4M2VX_secret", "r-1:vbk_x", "VBK_x"] {
            assert!(request_id(&with(id), &Fixed).starts_with("req_"), "{id}");
        }
    }

    #[test]
    fn a_request_has_one_parent_or_none() {
        let named = |texts: &[&str]| {
            let all = texts.iter().map(|text| (TRACE_PARENT, HeaderValue::from_str(text).unwrap()));
            let mut headers = HeaderMap::new();
            headers.extend(all);
            trace_parent(&headers).map(|parent| parent.to_string())
        };
        let one = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(named(&[one]).as_deref(), Some(one));
        assert_eq!(named(&[one, one]), None);
        assert_eq!(named(&["nonsense"]), None);
        assert_eq!(named(&[]), None);
    }
}
