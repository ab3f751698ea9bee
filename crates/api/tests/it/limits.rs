//! Request limits: who is refused, before what, and what every answer tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::keys::{Locked, with};
use crate::support::shared::Doorman;
use crate::support::{World, bytes, form, get, post, wav};
use axum::body::Body;
use axum::http::Response;
use futures::stream;
use verbatim_core::ErrorKind;
use verbatim_core::api_key::Scope;
use verbatim_core::ports::Directory;
use verbatim_core::ports::limiter::{Admission, LimitScope, RequestLimits};

const WORK: [&str; 3] = ["/v1/jobs", "/v1/audio/transcriptions", "/v1/audio/translations"];

fn admission(allowed: bool) -> Admission {
    Admission {
        allowed,
        scope: LimitScope::Tenant,
        limit: 60,
        remaining: if allowed { 12 } else { 0 },
        retry_after: if allowed { Duration::ZERO } else { Duration::from_millis(2_500) },
        reset_after: Duration::from_millis(41_200),
    }
}

fn guarded() -> (World, Arc<Doorman>) {
    let doorman = Arc::new(Doorman::default());
    let limiter = (doorman.clone() as _, RequestLimits::default());
    (World::with(|parts| parts.limiter = Some(limiter)), doorman)
}

fn upload(path: &str) -> axum::http::Request<Body> {
    post(path, form(&[("file", &wav())]))
}

/// `RateLimit-Limit`, `-Remaining`, `-Reset` and `Retry-After`.
fn figures(response: &Response<Body>) -> [Option<&str>; 4] {
    let of = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
    ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"].map(of)
}

#[tokio::test]
async fn who_asks_too_much_is_told_so_before_the_body_is_read() {
    let (world, doorman) = guarded();
    *doorman.answer.lock().unwrap() = Some(admission(false));
    for path in WORK {
        let endless = Body::from_stream(stream::pending::<Result<&'static [u8], std::io::Error>>());
        let response = world.call(post(path, endless)).await;
        assert_eq!(response.status(), 429, "{path}");
        assert_eq!(figures(&response), [Some("60"), Some("0"), Some("42"), Some("3")], "{path}");
    }
    assert!(world.blobs.uploads().is_empty());
    let problem = world.json(upload("/v1/jobs")).await.1;
    assert_eq!((&problem["code"], &problem["status"]), (&"rate_limited".into(), &429.into()));
    let error = world.json(upload(WORK[1])).await.1["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&"rate_limit_error".into(), &"rate_limited".into()));
    let metrics = String::from_utf8(bytes(world.call(get("/metrics")).await).await.to_vec()).unwrap();
    let counted = r#"verbatim_limited_requests_total{decision="refused",scope="tenant"} 5"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn every_answer_of_these_routes_tells_what_is_left() {
    let (world, doorman) = guarded();
    *doorman.answer.lock().unwrap() = Some(admission(true));
    let left = [Some("60"), Some("12"), Some("42"), None];
    let accepted = world.call(upload("/v1/jobs")).await;
    assert_eq!((accepted.status().as_u16(), figures(&accepted)), (202, left));
    let wrong = world.call(post("/v1/jobs", form(&[("file", &wav()), ("vad", b"perhaps")]))).await;
    assert_eq!((wrong.status().as_u16(), figures(&wrong)), (400, left));
}

#[tokio::test]
async fn looking_is_not_counted() {
    let (world, doorman) = guarded();
    *doorman.answer.lock().unwrap() = Some(admission(true));
    let path = format!("/v1/jobs/{}", world.submit().await);
    assert_eq!(doorman.asked.lock().unwrap().len(), 1);
    *doorman.answer.lock().unwrap() = Some(admission(false));
    for looked in [&path, "/v1/jobs", "/v1/models", "/v1/stats", "/healthz", "/metrics"] {
        let response = world.call(get(looked)).await;
        assert_eq!((response.status().as_u16(), figures(&response)[0]), (200, None), "{looked}");
    }
    let cancelled = axum::http::Request::delete(&path).body(Body::empty()).unwrap();
    assert_eq!(world.call(cancelled).await.status(), 202);
    assert_eq!(doorman.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_request_counts_for_the_tenant_of_its_key_and_a_strangers_for_nobody() {
    let keys = Locked::new();
    let doorman = Arc::new(Doorman::default());
    let (auth, limiter) = (keys.keys.clone() as Arc<dyn Directory>, doorman.clone());
    let world = World::with(|parts| {
        parts.auth = Some(auth);
        parts.limiter = Some((limiter, RequestLimits::default()));
    });
    let acme = keys.key("acme", Scope::Jobs).await;
    assert_eq!(world.call(with(upload("/v1/jobs"), &acme)).await.status(), 202);
    assert_eq!(world.call(upload("/v1/jobs")).await.status(), 401);
    let reader = keys.key("acme", Scope::Read).await;
    assert_eq!(world.call(with(upload("/v1/jobs"), &reader)).await.status(), 403);
    assert_eq!(*doorman.asked.lock().unwrap(), ["acme"]);
}

#[tokio::test(start_paused = true)]
async fn limits_that_cannot_be_asked_stop_nobody() {
    let (world, doorman) = guarded();
    doorman.down.store(true, Ordering::Relaxed);
    world.submit().await;
    doorman.hangs.store(true, Ordering::Relaxed);
    world.submit().await;
    let metrics = String::from_utf8(bytes(world.call(get("/metrics")).await).await.to_vec()).unwrap();
    assert!(metrics.contains(r#"verbatim_store_errors_total{operation="admit"} 2"#), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn whoever_is_to_come_back_is_told_the_figures() {
    // Nothing is limited, but something is down.
    let world = World::new();
    *world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    let down = world.call(upload("/v1/jobs")).await;
    assert_eq!((down.status().as_u16(), figures(&down)), (503, [Some("0"), Some("0"), Some("5"), Some("5")]));
    let unready = world.call(get("/readyz")).await;
    assert_eq!((unready.status().as_u16(), figures(&unready)[2]), (503, Some("1")));

    // The tenant's queue is full: that is the limit, whatever the request limits say.
    let keys = Locked::new();
    let key = keys.key("acme", Scope::Jobs).await;
    *keys.world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Throttled);
    let full = keys.world.call(with(upload("/v1/jobs"), &key)).await;
    assert_eq!((full.status().as_u16(), figures(&full)), (429, [Some("7"), Some("0"), Some("5"), Some("5")]));
}
