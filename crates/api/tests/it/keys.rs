//! Keys: whose jobs a request sees, what it may do, and that nothing of a stranger's body is read.

use std::sync::atomic::Ordering;

use crate::support::keys::{Locked, with};
use crate::support::{form, get, post, wav};
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use futures::{StreamExt, stream};
use serde_json::json;
use verbatim_core::api_key::Scope;
use verbatim_core::event::EventKind;
use verbatim_core::ids::SubmissionId;
use verbatim_core::job::TenantCaps;
use verbatim_core::options::Priority;
use verbatim_core::ports::Directory;

fn upload(fields: &[(&str, &[u8])]) -> Request<Body> {
    let file = wav();
    post("/v1/jobs", form(&[fields, &[("file", &file)]].concat()))
}

#[tokio::test]
async fn another_tenants_job_is_not_there() {
    let api = Locked::new();
    let (ours, theirs) = (api.key("acme", Scope::Jobs).await, api.key("other", Scope::Jobs).await);
    let (status, job) = api.world.json(with(upload(&[]), &ours)).await;
    assert_eq!(status, 202, "{job}");
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!(api.world.json(with(get(&path), &ours)).await.0, 200);
    for path in [path.clone(), format!("{path}/transcript"), format!("{path}/events")] {
        assert_eq!(api.world.json(with(get(&path), &theirs)).await.0, 404, "{path}");
    }
    let delete = Request::delete(&path).body(Body::empty()).unwrap();
    assert_eq!(api.world.json(with(delete, &theirs)).await.0, 404);
    let list = api.world.json(with(get("/v1/jobs"), &theirs)).await.1;
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn a_scope_opens_its_routes_and_no_others() {
    let api = Locked::new();
    for (scope, read, submit, admin) in
        [(Scope::Read, 200, 403, 403), (Scope::Jobs, 200, 202, 403), (Scope::Admin, 200, 202, 200)]
    {
        let key = api.key("acme", scope).await;
        let status = async |request| api.world.json(with(request, &key)).await.0;
        assert_eq!(status(get("/v1/jobs")).await, read, "{scope:?}");
        assert_eq!(status(get("/v1/models")).await, read, "{scope:?}");
        assert_eq!(status(upload(&[])).await, submit, "{scope:?}");
        assert_eq!(status(get("/v1/admin/dead-letters")).await, admin, "{scope:?}");
    }
    for open in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(api.world.call(get(open)).await.status(), 200, "{open}");
    }
}

#[tokio::test]
async fn a_key_caps_priority_and_carries_the_tenants_caps() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    assert_eq!(api.world.json(with(upload(&[("priority", b"high")]), &key)).await.0, 202);
    let submission = api.world.jobs.only();
    assert_eq!((submission.priority, submission.tenant.as_str()), (Priority::Normal, "acme"));
    let caps = TenantCaps { max_running: Some(2), max_queued: Some(7) };
    assert_eq!(*api.world.jobs.caps.lock().unwrap(), caps);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Admin).await;
    let mut request = get("/v1/jobs");
    request.headers_mut().insert("x-api-key", HeaderValue::from_str(&key).unwrap());
    assert_eq!(api.world.json(request).await.0, 200);
    let id = api.keys.list(None).await.unwrap()[0].key.id.clone();
    assert!(api.keys.revoke(&id).await.unwrap());
    assert_eq!(api.world.json(with(get("/v1/jobs"), &key)).await.0, 401);
}

#[tokio::test]
async fn a_stranger_is_told_so_before_its_body_is_read() {
    let api = Locked::new();
    for path in ["/v1/jobs", "/v1/audio/transcriptions"] {
        let endless = Body::from_stream(stream::pending::<Result<&'static [u8], std::io::Error>>());
        let response = api.world.call(post(path, endless)).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["www-authenticate"]),
            (401, &HeaderValue::from_static("Bearer"))
        );
    }
    assert!(api.world.blobs.uploads().is_empty());
    let error = api.world.json(get("/v1/models")).await.1;
    assert_eq!(error["error"]["type"], "authentication_error");
    assert_eq!(api.world.json(get("/v1/jobs")).await.1["code"], "unauthenticated");
}

#[tokio::test]
async fn while_the_directory_is_down_nobody_comes_in() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    api.keys.down.store(true, Ordering::Relaxed);
    let response = api.world.call(with(get("/v1/jobs"), &key)).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_key_is_revoked() {
    let api = Locked::new();
    let key = api.key("acme", Scope::Jobs).await;
    let job = api.world.json(with(upload(&[]), &key)).await.1;
    let id = SubmissionId::parse(job["id"].as_str().unwrap()).unwrap();
    api.world.jobs.tell(&id, EventKind::Started { attempt: 1 });
    let answer = api.world.call(with(get(&format!("/v1/jobs/{id}/events")), &key)).await;
    let mut told = answer.into_body().into_data_stream();
    assert!(told.next().await.is_some());
    let record = api.keys.list(None).await.unwrap().remove(0);
    assert!(api.keys.revoke(&record.key.id).await.unwrap());
    // What has not been told yet is told to nobody.
    let mut rest = Vec::new();
    while let Some(Ok(piece)) = told.next().await {
        rest.extend(piece);
    }
    api.world.jobs.tell(&id, EventKind::Cancelled);
    assert!(!String::from_utf8_lossy(&rest).contains("cancelled"));
}
