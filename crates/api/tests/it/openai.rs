//! OpenAI's face.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{World, bytes, form, get, post, segment, wav};
use futures::StreamExt;
use serde_json::{Value, json};
use verbatim_core::event::EventKind;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::options::Priority;

const TRANSCRIPTIONS: &str = "/v1/audio/transcriptions";

#[tokio::test]
async fn the_answer_comes_when_the_job_is_done() {
    let world = World::new();
    let body = form(&[("model", b"whisper-1"), ("file", &wav()), ("chunking_strategy", b"auto")]);
    let (answer, ()) = tokio::join!(world.json(post(TRANSCRIPTIONS, body)), async {
        let id = world.jobs.watched().await;
        world.jobs.complete(&world.blobs, &id, &[" Hello", " there."]);
    });
    assert_eq!(answer.0, 200, "{}", answer.1);
    assert_eq!(answer.1, json!({"text": "Hello there.", "usage": {"type": "duration", "seconds": 2}}));
    assert_eq!(world.jobs.only().priority, Priority::High);
}

#[tokio::test]
async fn errors_have_openais_shape() {
    let world = World::new();
    let error = async |path: &str, fields: &[(&str, &[u8])]| {
        let (status, body) = world.json(post(path, form(fields))).await;
        (status, body["error"].clone())
    };
    let (status, unknown) = error(TRANSCRIPTIONS, &[("file", &wav()), ("model", b"gpt-9")]).await;
    assert_eq!(
        (status, &unknown["code"], &unknown["param"]),
        (404, &json!("model_not_found"), &json!("model"))
    );
    assert_eq!(unknown["type"], "invalid_request_error");

    let (status, english) = error("/v1/audio/translations", &[("file", &wav()), ("model", b"tiny.en")]).await;
    assert_eq!(status, 400);
    assert!(english["message"].as_str().unwrap().contains("English-only"));

    let word = ("timestamp_granularities[]", b"word".as_slice());
    assert_eq!(error(TRANSCRIPTIONS, &[("file", &wav()), word]).await.0, 400);
    assert_eq!(world.json(get("/v1/models/none")).await.1["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn a_failed_job_is_the_clients_fault_only_when_it_is() {
    for (kind, status, error_type) in [
        (FailureKind::BadAudio, 400, "invalid_request_error"),
        (FailureKind::EngineFailed, 500, "server_error"),
        (FailureKind::EngineUnavailable, 503, "server_error"),
    ] {
        let world = World::new();
        let (answer, ()) = tokio::join!(world.json(post(TRANSCRIPTIONS, form(&[("file", &wav())]))), async {
            let id = world.jobs.watched().await;
            world.jobs.fail(&id, JobFailure::new(kind, "it went wrong"));
        });
        assert_eq!((answer.0, &answer.1["error"]["type"]), (status, &json!(error_type)));
        assert_eq!(answer.1["error"]["message"], "it went wrong");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_cancels_after_a_minute() {
    let world = World::new();
    let request = world.call(post(TRANSCRIPTIONS, form(&[("file", &wav())])));
    tokio::select! {
        _ = request => panic!("answered without a result"),
        _ = world.jobs.watched() => {}
    }
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(world.jobs.cancelled.load(Ordering::Relaxed), 0);
    world.state.finish_tasks().await;
    assert_eq!(world.jobs.cancelled.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_got_its_answer_cancels_nothing() {
    let world = World::new();
    tokio::join!(world.json(post(TRANSCRIPTIONS, form(&[("file", &wav())]))), async {
        let id = world.jobs.watched().await;
        world.jobs.complete(&world.blobs, &id, &[" Hi."]);
    });
    world.state.finish_tasks().await;
    assert_eq!(world.jobs.cancelled.load(Ordering::Relaxed), 0);
}

fn messages(body: &[u8]) -> Vec<Value> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).unwrap())
        .collect()
}

#[tokio::test]
async fn a_stream_tells_segments_before_the_job_is_done() {
    let world = World::new();
    let response = world.call(post(TRANSCRIPTIONS, form(&[("file", &wav()), ("stream", b"true")]))).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let id = world.jobs.only().id;
    let mut body = response.into_body().into_data_stream();

    world.jobs.tell(&id, EventKind::Segment { attempt: 1, segment: segment(0, " Hello") });
    let first = messages(&body.next().await.unwrap().unwrap());
    assert_eq!(first, [json!({"type": "transcript.text.delta", "delta": "Hello"})]);

    // A second attempt starts over.
    world.jobs.tell(&id, EventKind::Segment { attempt: 2, segment: segment(0, " Hello") });
    world.jobs.complete(&world.blobs, &id, &[" Hello", " there."]);
    let mut rest = Vec::new();
    while let Some(piece) = body.next().await {
        rest.extend(messages(&piece.unwrap()));
    }
    let usage = json!({"type": "duration", "seconds": 2});
    let expected = [
        json!({"type": "transcript.text.delta", "delta": " there."}),
        json!({"type": "transcript.text.done", "text": "Hello there.", "usage": usage}),
    ];
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn a_stream_ends_with_the_reason_of_a_failure() {
    let world = World::new();
    let response = world.call(post(TRANSCRIPTIONS, form(&[("file", &wav()), ("stream", b"true")]))).await;
    world.jobs.fail(&world.jobs.only().id, JobFailure::new(FailureKind::BadAudio, "no sound"));
    let told = messages(&bytes(response).await);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["error"]["message"], "no sound");
}

#[tokio::test]
async fn models_are_listed_with_the_default_first() {
    let world = World::new();
    let (_, list) = world.json(get("/v1/models")).await;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "tiny.en");
    assert_eq!(list["data"][0]["created"], 1_767_268_800);
    assert_eq!(world.json(get("/v1/models/whisper-1")).await.1["id"], "tiny.en");
}

#[tokio::test]
async fn unknown_fields_are_ignored_however_many_and_long_they_are() {
    let world = World::new();
    let (long, file) = (vec![b'x'; 300_000], wav());
    let names: Vec<String> = (0..100).map(|number| format!("unknown_{number}")).collect();
    let mut fields: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"1".as_slice())).collect();
    fields.extend([("input_audio_extra", long.as_slice()), ("file", &file), ("not_utf8", b"\xff\xfe")]);
    let request = post("/v1/audio/transcriptions", form(&fields));
    let (answer, ()) = tokio::join!(world.call(request), async {
        let id = world.jobs.watched().await;
        world.jobs.complete(&world.blobs, &id, &[" Hi."]);
    });
    assert_eq!(answer.status(), 200);
}
