//! Answers requests before the service is ready: a port that is open while models load, and says so.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tower::ServiceExt;

/// Lets requests through once [`Gate::open`] was called.
#[derive(Clone, Default)]
pub struct Gate {
    service: Arc<OnceLock<Router>>,
}

impl Gate {
    /// From now on `router` answers.
    pub fn open(&self, router: Router) {
        // A second router would mean a second start of one service: keep the first.
        let _ = self.service.set(router);
    }

    /// The router to serve from the beginning.
    pub fn router(&self) -> Router {
        Router::new().fallback(pass).with_state(self.clone())
    }
}

async fn pass(State(gate): State<Gate>, request: Request<Body>) -> Response {
    match gate.service.get() {
        Some(router) => router.clone().oneshot(request).await.into_response(),
        None if request.uri().path() == "/healthz" => axum::Json(json!({ "status": "ok" })).into_response(),
        None => starting(),
    }
}

fn starting() -> Response {
    let body = json!({
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "the service is starting: models are being loaded",
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
}
