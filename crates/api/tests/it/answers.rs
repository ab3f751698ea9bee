//! What clients are answered: jobs, waits, events, errors, operations.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{World, bytes, form, get, post, segment, wav};
use axum::http::Request;
use serde_json::json;
use verbatim_api_lib::ApiLimits;
use verbatim_core::ErrorKind;
use verbatim_core::event::EventKind;
use verbatim_core::failure::{FailureKind, JobFailure};

#[tokio::test]
async fn a_wait_ends_when_the_job_does() {
    let world = World::new();
    let id = world.submit().await;
    let path = format!("/v1/jobs/{id}?wait=60");
    let (answer, ()) = tokio::join!(world.json(get(&path)), async {
        world.jobs.watched().await;
        world.jobs.complete(&world.blobs, &id, &[" Hi."]);
    });
    assert_eq!((answer.0, &answer.1["status"]), (200, &json!("completed")));
    assert_eq!(world.json(get(&format!("/v1/jobs/{id}?wait=61"))).await.0, 400);
}

#[tokio::test]
async fn a_submission_that_waits_for_its_result_is_200() {
    let world = World::new();
    let (answer, ()) = tokio::join!(world.json(post("/v1/jobs?wait=60", form(&[("file", &wav())]))), async {
        let id = world.jobs.watched().await;
        world.jobs.complete(&world.blobs, &id, &[" Hi."]);
    });
    assert_eq!((answer.0, &answer.1["status"]), (200, &json!("completed")));
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_waits_and_event_streams() {
    let world = World::new();
    let id = world.submit().await;
    let (path, events) = (format!("/v1/jobs/{id}?wait=60"), format!("/v1/jobs/{id}/events"));
    let asked = tokio::time::Instant::now();
    let (answer, _, ()) =
        tokio::join!(world.json(get(&path)), async { bytes(world.call(get(&events)).await).await }, async {
            world.jobs.watched().await;
            world.shutdown.cancel();
        });
    assert_eq!((answer.0, &answer.1["status"]), (200, &json!("queued")));
    assert_eq!(asked.elapsed(), std::time::Duration::ZERO, "on the virtual clock, nobody waited");
    assert_eq!(world.json(get("/readyz")).await.0, 503);
    assert_eq!(world.json(get("/healthz")).await.0, 200);
}

#[tokio::test]
async fn a_transcript_is_there_when_the_job_is_completed_and_not_before() {
    let world = World::new();
    let id = world.submit().await;
    let path = format!("/v1/jobs/{id}/transcript");
    let (status, problem) = world.json(get(&path)).await;
    assert_eq!((status, &problem["code"]), (409, &json!("not_ready")));
    world.jobs.complete(&world.blobs, &id, &[" Hello", " there."]);
    assert_eq!(world.json(get(&path)).await.1["text"], "Hello there.");

    let srt = world.call(get(&format!("{path}?format=srt"))).await;
    assert_eq!(srt.headers()["content-type"], "application/x-subrip; charset=utf-8");
    assert!(bytes(srt).await.starts_with(b"1\n00:00:00,000 --> 00:00:00,500\nHello\n"));
    let (status, problem) = world.json(get(&format!("{path}?format=docx"))).await;
    assert_eq!((status, &problem["param"]), (400, &json!("format")));

    world.blobs.blobs.lock().unwrap().retain(|key, _| key.as_str().starts_with("audio/"));
    assert_eq!(world.json(get(&path)).await.0, 410);
    let result = world.jobs.only().result.unwrap();
    assert_eq!(*world.jobs.lost.lock().unwrap(), [(id, result)], "it answers no more submissions");
}

#[tokio::test]
async fn a_result_that_cannot_be_looked_for_is_not_said_to_be_gone() {
    let world = World::new();
    let id = world.submit().await;
    world.jobs.complete(&world.blobs, &id, &[" Hello."]);
    world.blobs.away.store(true, Ordering::Relaxed);
    let (status, problem) = world.json(get(&format!("/v1/jobs/{id}/transcript"))).await;
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")));
    assert!(world.jobs.lost.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_job_says_why() {
    let world = World::new();
    let id = world.submit().await;
    world.jobs.fail(&id, JobFailure::new(FailureKind::BadAudio, "the file ends too early"));
    let (status, problem) = world.json(get(&format!("/v1/jobs/{id}/transcript"))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("job_failed")));
    assert!(problem["detail"].as_str().unwrap().contains("the file ends too early"));
    let job = world.json(get(&format!("/v1/jobs/{id}"))).await.1;
    assert_eq!(job["error"], json!({"code": "bad_audio", "message": "the file ends too early"}));
}

#[tokio::test]
async fn events_come_in_order_and_resume() {
    let world = World::new();
    let id = world.submit().await;
    world.jobs.tell(&id, EventKind::Started { attempt: 1 });
    world.jobs.tell(&id, EventKind::Segment { attempt: 1, segment: segment(0, " Hi.") });
    world.jobs.complete(&world.blobs, &id, &[" Hi."]);
    let path = format!("/v1/jobs/{id}/events");
    let all = world.call(get(&path)).await;
    assert_eq!(all.headers()["content-type"], "text/event-stream");
    let at = r#""at":"2026-01-01T12:00:00.000Z""#;
    let expected = format!(
        "id: 1\nevent: started\ndata: {{{at},\"attempt\":1}}\n\n\
         id: 2\nevent: segment\ndata: {{{at},\"attempt\":1,\"segment\":{{\"end\":0.5,\"id\":0,\"start\":0.0,\"text\":\"Hi.\"}}}}\n\n\
         id: 3\nevent: completed\ndata: {{{at}}}\n\n"
    );
    assert_eq!(bytes(all).await, expected);

    let after = |seq: &str| Request::get(&path).header("last-event-id", seq).body("".into()).unwrap();
    let rest = bytes(world.call(after("2")).await).await;
    assert!(rest.starts_with(b"id: 3\nevent: completed"));
    assert_eq!(world.call(after("3")).await.status(), 204);
    assert_eq!(world.call(after("x")).await.status(), 400);
}

#[tokio::test]
async fn pages_go_from_new_to_old_and_end() {
    let world = World::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.submit().await.to_string());
    }
    let (_, first) = world.json(get("/v1/jobs?limit=2")).await;
    assert_eq!([&first["data"][0]["id"], &first["data"][1]["id"]], [&ids[2], &ids[1]]);
    assert_eq!((&first["has_more"], &first["next_cursor"]), (&json!(true), &json!(ids[1])));
    let (_, second) = world.json(get(&format!("/v1/jobs?limit=2&cursor={}", ids[1]))).await;
    assert_eq!((second["data"].as_array().unwrap().len(), &second["has_more"]), (1, &json!(false)));
    assert_eq!(second["next_cursor"], json!(null));
    for query in ["limit=0", "limit=101", "limit=x", "status=lost", "cursor=1"] {
        let (status, problem) = world.json(get(&format!("/v1/jobs?{query}"))).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_parameter")), "{query}");
        assert_eq!(problem["param"], query.split('=').next().unwrap());
    }
}

#[tokio::test]
async fn deleting_cancels_first_and_removes_then() {
    let world = World::new();
    let path = format!("/v1/jobs/{}", world.submit().await);
    let delete = || Request::delete(&path).body("".into()).unwrap();
    let (status, job) = world.json(delete()).await;
    assert_eq!((status, &job["status"]), (202, &json!("cancelled")));
    assert_eq!(world.call(delete()).await.status(), 204);
    assert_eq!(world.json(delete()).await.0, 404);
    assert_eq!(world.json(get("/v1/jobs/whatever")).await.0, 404);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_with_the_requests_id() {
    let world = World::new();
    let request = Request::get("/v2/jobs").header("x-request-id", "mine-1").body("".into()).unwrap();
    let response = world.call(request).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["x-request-id"].as_bytes()),
        (404, &b"mine-1"[..])
    );
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let problem: serde_json::Value = serde_json::from_slice(&bytes(response).await).unwrap();
    assert_eq!((&problem["code"], &problem["request_id"]), (&json!("not_found"), &json!("mine-1")));

    let response = world.call(Request::put("/v1/jobs").body("".into()).unwrap()).await;
    assert_eq!(response.status(), 405);
    let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
    assert!(allowed.contains("POST") && allowed.contains("GET"), "{allowed}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let world = World::new();
    world.jobs.panic.store(true, Ordering::Relaxed);
    let (status, problem) = world.json(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!((status, &problem["code"]), (500, &json!("internal")));
    assert!(!problem.to_string().contains("panic"));
}

#[tokio::test(start_paused = true)]
async fn readiness_asks_the_store_once_a_second_however_often_it_is_asked() {
    let world = World::with(|parts| parts.limits = ApiLimits::default());
    for _ in 0..300 {
        assert_eq!(world.call(get("/readyz")).await.status(), 200);
    }
    assert_eq!(world.jobs.asked_for_stats.load(Ordering::Relaxed), 1);
    *world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.call(get("/readyz")).await.status(), 503);
}

#[tokio::test]
async fn readiness_names_what_is_down_and_metrics_do_without_it() {
    let world = World::new();
    assert_eq!(world.json(get("/readyz")).await.0, 200);
    world.offering.send(None).unwrap();
    *world.jobs.refuse.lock().unwrap() = Some(ErrorKind::Unavailable);
    let (status, ready) = world.json(get("/readyz")).await;
    assert_eq!(status, 503);
    let down = json!([
        {"name": "store", "ok": false}, {"name": "blobs", "ok": true},
        {"name": "engine", "ok": false}, {"name": "process", "ok": true},
    ]);
    assert_eq!(ready["checks"], down);
    let metrics = String::from_utf8(bytes(world.call(get("/metrics")).await).await.to_vec()).unwrap();
    let counted = r#"verbatim_http_requests_total{method="GET",route="/readyz",status="503"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn documentation_is_served() {
    let world = World::new();
    assert_eq!(world.json(get("/openapi.json")).await.1["info"]["title"], "Verbatim");
    let page = bytes(world.call(get("/docs/")).await).await;
    assert!(String::from_utf8_lossy(&page).contains("swagger"));
}

#[tokio::test]
async fn while_no_worker_is_known_nothing_is_taken_in() {
    let world = World::new();
    let offering = world.offering.send_replace(None);
    for path in ["/v1/jobs", "/v1/audio/transcriptions"] {
        let response = world.call(post(path, form(&[("file", &wav())]))).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["retry-after"]),
            (503, &"5".parse().unwrap())
        );
        let problem = String::from_utf8(bytes(response).await.to_vec()).unwrap();
        assert!(problem.contains("no_workers") && problem.contains("no worker has joined"), "{problem}");
    }
    assert_eq!(world.json(get("/v1/models")).await.1["data"], json!([]));
    world.offering.send_replace(offering);
    world.submit().await;
}

#[tokio::test]
async fn what_no_worker_there_can_do_is_refused_where_a_client_waits_for_it() {
    let world = World::new();
    world.jobs.unserved.store(true, Ordering::Relaxed);
    let response = world.call(post("/v1/audio/transcriptions", form(&[("file", &wav())]))).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let problem = String::from_utf8(bytes(response).await.to_vec()).unwrap();
    assert!(problem.contains("no_workers") && problem.contains("this takes a worker"), "{problem}");
    assert_eq!(world.jobs.cancelled.load(Ordering::Relaxed), 1, "the work that nobody waits for any more");
    let (status, job) = world.json(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!(status, 202, "others may wait: {job}");
    assert!(job["waiting_for"].as_str().is_some_and(|needed| needed.starts_with("a worker")), "{job}");
    assert_eq!(world.json(get("/readyz")).await.0, 200, "jobs are taken in while workers restart");
}
