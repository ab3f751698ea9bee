//! What one client leaves for the others, at the node and at its door.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use verbatim_api_lib::{ApiLimits, ServeGauges, ServeOptions, serve};
use verbatim_core::CancellationToken;
use verbatim_core::api_key::Scope;
use verbatim_core::event::EventKind;

use crate::crowd::{from, in_background, until_held};
use crate::support::keys::{Locked, with};
use crate::support::{BOUNDARY, World, bytes, form, get, post, wav};

const ONE: &str = "203.0.113.9";
const OTHER: &str = "203.0.113.10";

#[tokio::test(start_paused = true)]
async fn watchers_of_one_client_leave_some_for_the_next() {
    let world = World::with_limits(ApiLimits { max_watchers: 6, ..ApiLimits::default() });
    let id = world.submit().await;
    world.jobs.tell(&id, EventKind::Started { attempt: 1 });
    let (events, wait) = (format!("/v1/jobs/{id}/events"), format!("/v1/jobs/{id}?wait=60"));
    let mut streams = Vec::new();
    for _ in 0..5 {
        let answer = world.call(from(ONE, get(&events))).await;
        assert_eq!(answer.status(), 200);
        streams.push(answer.into_body().into_data_stream());
    }
    for path in [&events, &wait] {
        let refused = world.call(from(ONE, get(path))).await;
        assert_eq!(refused.status(), 429);
        let come_back: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((2..=7).contains(&come_back));
        assert!(String::from_utf8_lossy(&bytes(refused).await).contains("share_exceeded"));
    }
    let waiting = in_background(&world, from(OTHER, get(&wait)));
    until_held(&world, "watchers", 6).await;
    world.jobs.tell(&id, EventKind::Cancelled);
    assert_eq!(waiting.await.unwrap().status(), 200);
    let metrics = String::from_utf8(bytes(world.call(get("/metrics")).await).await.to_vec()).unwrap();
    let counted = r#"verbatim_stage_refused_total{reason="share",stage="watchers"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn those_that_are_refused_are_not_told_to_return_together() {
    let world = World::with_limits(ApiLimits { max_watchers: 1, ..ApiLimits::default() });
    let id = world.submit().await;
    world.jobs.tell(&id, EventKind::Started { attempt: 1 });
    let path = format!("/v1/jobs/{id}/events");
    let _held = world.call(get(&path)).await;
    let mut times = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let refused = world.call(get(&path)).await;
        times.insert(refused.headers()["retry-after"].to_str().unwrap().to_owned());
    }
    assert!(times.len() > 2, "{times:?}");
}

/// A form of which so many bytes arrive, and then nothing more.
fn stuck(declared: u64, arriving: usize) -> Request<Body> {
    let head =
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n");
    let mut begun = head.into_bytes();
    begun.extend(wav());
    begun.resize(begun.len().max(arriving), 0);
    let pieces: Vec<_> =
        begun.chunks(16 * 1024).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let mut request = post("/v1/jobs", Body::from_stream(stream::iter(pieces).chain(stream::pending())));
    request.headers_mut().insert("content-length", HeaderValue::from(declared));
    request
}

#[tokio::test(start_paused = true)]
async fn what_an_upload_declares_costs_nothing_and_what_has_arrived_counts() {
    const MIB: u64 = 1 << 20;
    let limits =
        ApiLimits { max_upload_bytes: 4 * MIB, max_bytes_in_flight: 4 * MIB, ..ApiLimits::default() };
    let world = World::with_limits(limits);
    // Ten that declare the most that there is stand in nobody's way.
    let declaring: Vec<_> = (0..10).map(|_| in_background(&world, from(ONE, stuck(4 * MIB, 0)))).collect();
    until_held(&world, "uploads", 10).await;
    let small = || post("/v1/jobs", form(&[("file", &wav())]));
    declaring.iter().for_each(tokio::task::JoinHandle::abort);
    until_held(&world, "uploads", 0).await;
    assert_eq!(world.call(from(ONE, small())).await.status(), 202);

    // Three megabytes of one client have arrived: that is its share.
    let arrived: Vec<_> = (0..3).map(|_| in_background(&world, from(ONE, stuck(4 * MIB, 900_000)))).collect();
    until_held(&world, "upload_bytes", 3).await;
    let refused = world.call(from(ONE, small())).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["ratelimit-limit"], (4 * MIB).to_string().as_str());
    assert_eq!(world.call(from(OTHER, small())).await.status(), 202);
    arrived.iter().for_each(tokio::task::JoinHandle::abort);
    until_held(&world, "upload_bytes", 0).await;
}

#[tokio::test(start_paused = true)]
async fn uploads_of_a_tenant_count_together_whatever_address_they_come_from() {
    let api = Locked::with_limits(ApiLimits { max_uploads_in_flight: 8, ..ApiLimits::default() });
    let (one, other) = (api.key("acme", Scope::Jobs).await, api.key("other", Scope::Jobs).await);
    let more = api.key("acme", Scope::Jobs).await;
    let uploads: Vec<_> = (0..7)
        .map(|last| {
            let key = if last % 2 == 0 { &one } else { &more };
            in_background(&api.world, from(&format!("203.0.113.{last}"), with(stuck(100_000, 0), key)))
        })
        .collect();
    until_held(&api.world, "uploads", 7).await;
    assert_eq!(api.world.call(from(OTHER, with(stuck(100_000, 0), &one))).await.status(), 429);
    let small = post("/v1/jobs", form(&[("file", &wav())]));
    // The same address, another tenant.
    assert_eq!(api.world.call(from("203.0.113.1", with(small, &other))).await.status(), 202);
    uploads.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A served node, with at most four connections at once.
async fn served(head_timeout: Duration, idle_timeout: Duration) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let options = ServeOptions { max_connections: 4, head_timeout, idle_timeout, ..ServeOptions::default() };
    let World { router, state, .. } = World::new();
    let gauges = ServeGauges { open: Box::new(()), closed: state.metrics.limits.connections_closed() };
    tokio::spawn(serve(listener, router, stop.clone(), options, gauges));
    (address, stop)
}

pub(crate) async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// All that comes until the other end closes.
pub(crate) async fn rest(mut connection: TcpStream) -> String {
    let mut told = Vec::new();
    // A reset is an end, too.
    let _ = connection.read_to_end(&mut told).await;
    String::from_utf8_lossy(&told).into_owned()
}

pub(crate) const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn connections_of_one_address_leave_one_for_a_health_check() {
    let (node, _stop) = served(MINUTE, MINUTE).await;
    let mut half_heads = Vec::new();
    for _ in 0..3 {
        let mut connection = connect("127.0.0.1", node).await;
        connection.write_all(&HEALTH[..10]).await.unwrap();
        half_heads.push(connection);
    }
    let refused = rest(connect("127.0.0.1", node).await).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("too_many_connections") && refused.contains("retry-after: "), "{refused}");
    let mut probe = connect("127.0.0.2", node).await;
    probe.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let answer = rest(probe).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn half_a_head_ends_a_connection_and_idling_between_requests_does_not() {
    let (node, _stop) = served(Duration::from_millis(300), MINUTE).await;
    // Neither a connection that says nothing, nor one with half a head, nor one with half a second head stays.
    let silent = connect("127.0.0.1", node).await;
    assert_eq!(rest(silent).await, "");
    let mut half = connect("127.0.0.1", node).await;
    half.write_all(&HEALTH[..20]).await.unwrap();
    rest(half).await;
    let mut second = connect("127.0.0.1", node).await;
    second.write_all(HEALTH).await.unwrap();
    let mut first_answer = [0; 12];
    second.read_exact(&mut first_answer).await.unwrap();
    // Idle for longer than a head may take, it is still served.
    tokio::time::sleep(Duration::from_millis(600)).await;
    second.write_all(HEALTH).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    second.write_all(&HEALTH[..20]).await.unwrap();
    let told = rest(second).await;
    assert_eq!(told.matches("HTTP/1.1 200 ").count(), 1, "the second answer, and an end: {told}");
}

#[tokio::test]
async fn a_body_may_take_longer_than_a_head() {
    let (node, _stop) = served(Duration::from_millis(300), MINUTE).await;
    let mut upload = connect("127.0.0.1", node).await;
    let body = form(&[("file", &wav())]);
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
        body.len()
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    for piece in body.chunks(body.len().div_ceil(3)) {
        tokio::time::sleep(Duration::from_millis(250)).await;
        upload.write_all(piece).await.unwrap();
    }
    let answer = rest(upload).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}
