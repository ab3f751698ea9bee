//! The door: addresses, browsers, bytes.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Method, Request};
use verbatim_api_lib::{AddressLimit, Edge, Keyless};

use crate::support::{World, bytes, form, get, post, wav};

fn from(peer: &str, forwarded_for: Option<&str>, path: &str) -> Request<Body> {
    let mut request = get(path);
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    if let Some(forwarded_for) = forwarded_for {
        let value = HeaderValue::from_str(forwarded_for).unwrap();
        request.headers_mut().insert("x-forwarded-for", value);
    }
    request
}

/// Three requests at once, and then one a minute.
fn guarded() -> World {
    let edge = Edge {
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        per_address: Some(AddressLimit { per_minute: 1, burst: 3 }),
        ..Edge::default()
    };
    World::with(|parts| parts.edge = edge)
}

async fn statuses(world: &World, requests: impl IntoIterator<Item = Request<Body>>) -> Vec<u16> {
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(world.call(request).await.status().as_u16());
    }
    statuses
}

#[tokio::test]
async fn one_address_that_asks_too_often_is_told_when_to_go_on_and_no_other_is() {
    let world = guarded();
    let of_one = || from("203.0.113.9:1", None, "/v1/jobs");
    assert_eq!(statuses(&world, (0..3).map(|_| of_one())).await, [200; 3]);
    let refused = world.call(of_one()).await;
    assert_eq!(refused.status(), 429);
    let figure = |name: &str| refused.headers()[name].to_str().unwrap().parse::<u64>().unwrap();
    assert!((1..=60).contains(&figure("retry-after")), "{refused:?}");
    assert_eq!((figure("ratelimit-limit"), figure("ratelimit-remaining")), (3, 0));

    assert_eq!(world.call(from("203.0.113.10:1", None, "/v1/jobs")).await.status(), 200);
    // Who asks for health is let in always.
    for probe in ["/healthz", "/readyz"] {
        assert_eq!(world.call(from("203.0.113.9:1", None, probe)).await.status(), 200);
    }
}

#[tokio::test]
async fn documents_and_figures_count_against_the_rate_of_an_address() {
    for path in ["/openapi.json", "/docs/", "/docs/swagger-ui-bundle.js", "/metrics"] {
        let world = guarded();
        let asked = (0..4).map(|_| from("203.0.113.9:1", None, path));
        assert_eq!(statuses(&world, asked).await, [200, 200, 200, 429], "{path}");
        assert_eq!(world.call(from("203.0.113.10:1", None, path)).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn the_document_is_made_once_and_who_has_it_gets_it_no_second_time() {
    let world = World::new();
    let first = world.call(get("/openapi.json")).await;
    assert_eq!(first.headers()["content-type"], "application/json");
    let tag = first.headers()["etag"].clone();
    let (one, two) = (bytes(first).await, bytes(world.call(get("/openapi.json")).await).await);
    assert_eq!(one.as_ptr(), two.as_ptr(), "the bytes are shared");
    let document: serde_json::Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(document, serde_json::to_value(verbatim_api_lib::openapi()).unwrap());
    let mut again = get("/openapi.json");
    again.headers_mut().insert("if-none-match", tag);
    let again = world.call(again).await;
    assert_eq!((again.status().as_u16(), bytes(again).await.len()), (304, 0));
}

#[tokio::test]
async fn a_transfer_coding_that_nobody_undoes_is_refused() {
    let world = World::new();
    let coded = |codings: &[&'static str]| {
        let mut request = post("/v1/jobs", form(&[("file", &wav())]));
        for coding in codings {
            request.headers_mut().append("transfer-encoding", HeaderValue::from_static(coding));
        }
        request
    };
    for codings in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked, chunked"], &["identity"]] {
        let answer = world.call(coded(codings)).await;
        assert_eq!(answer.status(), 501, "{codings:?}");
        assert_eq!(answer.headers()["connection"], "close");
        assert!(String::from_utf8_lossy(&bytes(answer).await).contains("transfer_coding_unsupported"));
    }
    assert_eq!(world.call(coded(&["Chunked"])).await.status(), 202);
}

#[tokio::test]
async fn an_address_cannot_be_made_up_but_a_trusted_proxy_is_believed() {
    let world = guarded();
    let made_up = (0..4).map(|n| from("203.0.113.9:1", Some(&format!("198.51.100.{n}")), "/v1/jobs"));
    assert_eq!(statuses(&world, made_up).await, [200, 200, 200, 429]);
    let clients = (0..4).map(|n| from("10.0.0.2:1", Some(&format!("198.51.100.{n}")), "/v1/jobs"));
    assert_eq!(statuses(&world, clients).await, [200; 4]);
    let one = (0..4).map(|n| from("10.0.0.2:1", Some(&format!("192.0.2.{n}, 198.51.100.9")), "/v1/jobs"));
    assert_eq!(statuses(&world, one).await, [200, 200, 200, 429]);
}

#[tokio::test]
async fn a_limit_is_not_escaped_by_a_body_or_another_route() {
    let world = guarded();
    let mut upload = post("/v1/jobs", form(&[("file", &wav())]));
    upload.extensions_mut().insert(ConnectInfo::<SocketAddr>("203.0.113.9:1".parse().unwrap()));
    assert_eq!(world.call(upload).await.status(), 202);
    let others = ["/v1/models", "/v1/stats", "/v1/jobs"].map(|path| from("203.0.113.9:2", None, path));
    assert_eq!(statuses(&world, others).await, [200, 200, 429]);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_no_others() {
    let origin = HeaderValue::from_static("https://app.example");
    let world = World::with(|parts| parts.edge.allowed_origins = vec![origin.clone()]);
    let preflight = |origin: &'static str| {
        Request::builder()
            .method(Method::OPTIONS)
            .uri("/v1/jobs")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,idempotency-key,x-stainless-os")
            .body(Body::empty())
            .unwrap()
    };
    let allowed = world.call(preflight("https://app.example")).await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], origin);
    let named = allowed.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(named.contains("authorization") && named.contains("x-stainless-os"), "{named}");
    let stranger = world.call(preflight("https://evil.example")).await;
    assert!(!stranger.headers().contains_key("access-control-allow-origin"));

    // A page can read why it was refused, too.
    let mut missing = get("/v1/jobs/job_01JD8N3W0S5Y6T7E8Z9QK4M2VX");
    missing.headers_mut().insert("origin", origin.clone());
    let missing = world.call(missing).await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.headers()["access-control-allow-origin"], origin);
    assert!(missing.headers()["access-control-expose-headers"].to_str().unwrap().contains("retry-after"));
}

#[tokio::test]
async fn answers_are_data_and_nobody_keeps_them() {
    let world = World::new();
    for path in ["/v1/jobs", "/v1/nowhere", "/healthz"] {
        let response = world.call(get(path)).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("cache-control"), "no-store");
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
    }
    // The documentation is pages, which may run their own scripts.
    let pages = world.call(get("/docs/")).await;
    assert_eq!(pages.status(), 200);
    let policy = pages.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
}

/// A service without keys on this machine.
fn keyless() -> World {
    World::with(|parts| {
        let allowed_origins = vec![HeaderValue::from_static("app://verbatim")];
        parts.edge.allowed_origins.clone_from(&allowed_origins);
        let listen = "127.0.0.1:8080".parse().unwrap();
        parts.edge.keyless = Some(Keyless { listen, allowed_hosts: Vec::new(), allowed_origins });
    })
}

#[tokio::test]
async fn without_keys_no_page_of_another_origin_gets_anything() {
    let world = keyless();
    let with = |mut request: Request<Body>, headers: &[(&'static str, &'static str)]| {
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    };
    let (own, rebound) = (("host", "localhost:8080"), ("host", "rebind.evil.example:8080"));
    // What a page may send without being asked: a form, and a body of plain text.
    let upload = || post("/v1/jobs", form(&[("file", &wav())]));
    let pause = || Request::post("/v1/admin/providers/fake/pause").body(Body::empty()).unwrap();
    let preflight = || Request::builder().method("OPTIONS").uri("/v1/jobs").body(Body::empty()).unwrap();
    let foreign = [own, ("origin", "https://evil.example")];
    let cross_site = [own, ("sec-fetch-site", "cross-site")];
    for make in [&upload as &dyn Fn() -> Request<Body>, &pause, &preflight, &|| get("/v1/jobs")] {
        let (status, answer) = world.json(with(make(), &foreign)).await;
        assert_eq!((status, &answer["code"]), (403, &"origin_not_allowed".into()), "{:?}", make());
        assert_eq!(world.call(with(make(), &cross_site)).await.status(), 403);
    }
    let reading = [
        "/v1/jobs",
        "/v1/admin/dead-letters",
        "/metrics",
        "/v1/stats",
        "/docs/",
        "/openapi.json",
        "/nowhere",
    ];
    for path in reading {
        let (status, answer) = world.json(with(get(path), &[rebound])).await;
        assert_eq!((status, &answer["code"]), (403, &"host_not_allowed".into()), "{path}");
        assert!(answer["detail"].as_str().unwrap().contains("VERBATIM__SERVER__ALLOWED_HOSTS"));
    }
    for host in ["evil@localhost:8080", "localhost:99999", "localhost:8o80", "localhost:"] {
        assert_eq!(world.call(with(get("/v1/jobs"), &[("host", host)])).await.status(), 403, "{host}");
    }
    assert!(world.jobs.is_empty());

    for path in ["/healthz", "/readyz"] {
        assert_eq!(world.call(with(get(path), &[rebound])).await.status(), 200, "{path}");
    }
    // Programs, the service's own pages, and an allowed one.
    assert_eq!(world.call(with(upload(), &[own])).await.status(), 202);
    let same = [own, ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")];
    assert_eq!(world.call(with(upload(), &same)).await.status(), 202);
    let allowed = [own, ("origin", "app://verbatim"), ("sec-fetch-site", "cross-site")];
    let answer = world.call(with(upload(), &allowed)).await;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["access-control-allow-origin"], "app://verbatim");
}
