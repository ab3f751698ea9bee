//! Answers requests before the service is ready: a port that is open while stores are waited for and models load, and says so.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::Notify;
use tower::ServiceExt;

/// What there is to say while models load.
const LOADING: &str = "models are being loaded";

/// Lets requests through once [`Gate::open`] was called.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    service: OnceLock<Router>,
    opened: Notify,
    /// Why it is still closed, in words that any client may read.
    reason: Mutex<&'static str>,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Inner { service: OnceLock::new(), opened: Notify::new(), reason: Mutex::new(LOADING) }))
    }
}

impl Gate {
    /// From now on `router` answers.
    pub fn open(&self, router: Router) {
        // A second router would mean a second start of one service: keep the first.
        let _ = self.0.service.set(router);
        self.0.opened.notify_one();
    }

    /// Waits until the gate is open; for one caller.
    pub async fn opened(&self) {
        self.0.opened.notified().await;
    }

    /// What the service waits for, as any client may read it; `None` when it is there.
    pub fn waits_for(&self, what: Option<&'static str>) {
        *self.0.reason.lock().unwrap_or_else(PoisonError::into_inner) = what.unwrap_or(LOADING);
    }

    fn reason(&self) -> &'static str {
        *self.0.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The router to serve from the beginning.
    pub fn router(&self) -> Router {
        Router::new().fallback(pass).with_state(self.clone())
    }
}

async fn pass(State(gate): State<Gate>, request: Request<Body>) -> Response {
    match (gate.0.service.get(), request.uri().path()) {
        (Some(router), _) => router.clone().oneshot(request).await.into_response(),
        (None, "/healthz") => axum::Json(json!({ "status": "ok" })).into_response(),
        (None, "/readyz") => not_ready(gate.reason()),
        (None, _) => starting(gate.reason()),
    }
}

fn not_ready(reason: &str) -> Response {
    let body = axum::Json(json!({ "status": "not_ready", "reason": reason }));
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], body).into_response()
}

fn starting(reason: &str) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": format!("the service is starting: {reason}"),
        "code": "starting",
        "request_id": null,
    });
    let headers = [(header::CONTENT_TYPE, "application/problem+json"), (header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn status(gate: &Gate, path: &str) -> StatusCode {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        gate.router().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn requests_pass_only_when_the_gate_is_open() {
        let gate = Gate::default();
        assert_eq!(status(&gate, "/healthz").await, StatusCode::OK);
        assert_eq!(status(&gate, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        gate.open(Router::new().route("/readyz", axum::routing::get(|| async { "ready" })));
        assert_eq!(status(&gate, "/readyz").await, StatusCode::OK);
    }

    #[tokio::test]
    async fn who_asks_meanwhile_is_told_why_and_when_to_ask_again() {
        let gate = Gate::default();
        gate.waits_for(Some("the job store cannot be reached yet"));
        for path in ["/readyz", "/v1/jobs"] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let answer = gate.router().oneshot(request).await.unwrap();
            assert!(answer.headers().contains_key(header::RETRY_AFTER), "{path}");
            let body = axum::body::to_bytes(answer.into_body(), 1024).await.unwrap();
            assert!(String::from_utf8_lossy(&body).contains("job store"), "{path}: {body:?}");
        }
    }
}
