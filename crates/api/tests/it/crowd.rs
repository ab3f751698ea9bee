//! More requests than a node works on at once.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::support::{World, bytes, form, get, post, wav};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use futures::{StreamExt, stream};
use tokio::task::JoinHandle;
use tower::ServiceExt;
use verbatim_api_lib::ApiLimits;
use verbatim_core::event::EventKind;

fn narrow() -> World {
    let limits = ApiLimits { max_requests_in_flight: 1, max_watchers: 1, ..ApiLimits::default() };
    World::with_limits(limits)
}

fn stuck_upload() -> Request<Body> {
    let body = stream::pending::<Result<&'static [u8], std::io::Error>>();
    post("/v1/jobs", Body::from_stream(body))
}

pub(crate) fn in_background(world: &World, request: Request<Body>) -> JoinHandle<Response<Body>> {
    let router = world.router.clone();
    tokio::spawn(async move { router.oneshot(request).await.unwrap() })
}

pub(crate) async fn until_held(world: &World, stage: &str, held: i64) {
    let stages = || world.state.metrics.limits.stages();
    while stages().iter().find(|figures| figures.stage == stage).unwrap().held != held {
        // On the virtual clock.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_too_many_waits_for_a_moment_and_is_told_to_come_back() {
    let world = narrow();
    let stuck = in_background(&world, stuck_upload());
    until_held(&world, "connections", 1).await;
    let response = world.call(get("/v1/jobs")).await;
    assert_eq!(response.status(), 503);
    for name in ["retry-after", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"] {
        assert!(response.headers().contains_key(name), "{name}");
    }
    assert!(String::from_utf8_lossy(&bytes(response).await).contains("overloaded"));
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(world.call(get(open)).await.status(), 200, "{open}");
    }
    let metrics = String::from_utf8(bytes(world.call(get("/metrics")).await).await.to_vec()).unwrap();
    assert!(metrics.contains(r#"verbatim_stage_turned_away_total{stage="connections"} 1"#), "{metrics}");

    // One that waits gets in as soon as the other has gone.
    let waiting = in_background(&world, get("/v1/jobs"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    stuck.abort();
    assert_eq!(waiting.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_job_stands_in_nobodys_way() {
    let world = narrow();
    let id = world.submit().await;
    let waiting = in_background(&world, get(&format!("/v1/jobs/{id}?wait=60")));
    until_held(&world, "watchers", 1).await;
    assert_eq!(world.call(get("/v1/jobs")).await.status(), 200);
    let refused = world.call(get(&format!("/v1/jobs/{id}?wait=60"))).await;
    assert_eq!(refused.status(), 503, "too many wait");
    world.jobs.tell(&id, EventKind::Cancelled);
    assert_eq!(waiting.await.unwrap().status(), 200);
    until_held(&world, "watchers", 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_openai_request_waits_among_the_watchers() {
    let world = narrow();
    let request = post("/v1/audio/transcriptions", form(&[("file", &wav())]));
    let waiting = in_background(&world, request);
    let id = world.jobs.watched().await;
    until_held(&world, "connections", 0).await;
    assert_eq!(world.call(get("/v1/jobs")).await.status(), 200);
    world.jobs.complete(&world.blobs, &id, &[" Hi."]);
    assert_eq!(waiting.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_holds_its_permit_until_it_ends() {
    let world = narrow();
    let id = world.submit().await;
    world.jobs.tell(&id, EventKind::Started { attempt: 1 });
    let path = format!("/v1/jobs/{id}/events");
    let mut first = world.call(get(&path)).await.into_body().into_data_stream();
    assert!(first.next().await.is_some());
    assert_eq!(world.call(get(&path)).await.status(), 503);
    drop(first);
    assert_eq!(world.call(get(&path)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_requests_makes_room_for_itself() {
    let limits = ApiLimits { max_uploads_in_flight: 8, ..ApiLimits::default() };
    let world = World::with_limits(limits);
    let mut stuck: Vec<_> = (0..7).map(|_| in_background(&world, stuck_multipart())).collect();
    until_held(&world, "uploads", 7).await;
    assert_eq!(world.call(stuck_multipart()).await.status(), 429, "an eighth is for others");
    stuck.push(in_background(&world, from("203.0.113.9", stuck_multipart())));
    until_held(&world, "uploads", 8).await;
    assert_eq!(world.call(from("203.0.113.10", stuck_multipart())).await.status(), 503);
    for upload in stuck {
        upload.abort();
    }
    world.submit().await;
}

/// A request as it comes from this address.
pub(crate) fn from(address: &str, mut request: Request<Body>) -> Request<Body> {
    let address: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from((address, 1))));
    request
}

/// A form whose end never comes.
fn stuck_multipart() -> Request<Body> {
    let whole = form(&[("file", &wav())]);
    let begun = stream::iter([Ok::<_, std::io::Error>(whole[..5_000].to_vec())]);
    post("/v1/jobs", Body::from_stream(begun.chain(stream::pending())))
}
