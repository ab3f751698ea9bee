//! Uploads through the whole router: what is kept, what is refused, and that nothing stays behind.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{BOUNDARY, World, bytes, form, post, wav, wav_of};
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use futures::stream;
use sha2::Digest;
use verbatim_api_lib::ApiLimits;
use verbatim_core::ErrorKind;
use verbatim_core::options::Priority;

#[tokio::test]
async fn fields_count_before_and_after_the_file() {
    let world = World::new();
    let body = form(&[("model", b"base"), ("file", &wav()), ("language", b"de"), ("priority", b"low")]);
    let response = world.call(post("/v1/jobs", body)).await;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let job: serde_json::Value = serde_json::from_slice(&bytes(response).await).unwrap();

    assert_eq!(location, job["links"]["self"].as_str().unwrap());
    assert_eq!(job["audio"]["format"], "wav");
    assert_eq!(job["audio"]["duration_secs"], 0.5);
    assert_eq!(job["audio"]["sha256"], hex::encode(sha2::Sha256::digest(wav())));
    let submission = world.jobs.only();
    assert_eq!((submission.options.model.as_str(), submission.priority), ("base", Priority::Low));
    assert_eq!(submission.options.language.unwrap().code(), "de");
    assert_eq!(world.blobs.uploads(), [wav()]);
}

#[tokio::test]
async fn an_upload_that_nobody_adopts_is_deleted() {
    let world = World::new();
    world.jobs.attach.store(true, Ordering::Relaxed);
    let (status, job) = world.json(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!((status, &job["deduplicated"]), (202, &true.into()));
    assert!(world.blobs.uploads().is_empty());
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let limits = ApiLimits { max_upload_bytes: 20_000, ..ApiLimits::default() };
    let text = b"this is a text, whatever its name says".repeat(500);
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        ("too long", form(&[("file", &wav_of(20_000))]), 413, "too_large"),
        ("no audio", form(&[("file", &text)]), 415, "unsupported_media"),
        ("empty", form(&[("file", b"")]), 422, "empty_audio"),
        ("no file", form(&[("model", b"base")]), 400, "missing_file"),
        ("two files", form(&[("file", &wav()), ("file", &wav())]), 400, "repeated_file"),
        ("bad option", form(&[("file", &wav()), ("vad", b"perhaps")]), 400, "invalid_option"),
        ("unknown field", form(&[("colour", b"red"), ("file", &wav())]), 400, "unknown_field"),
        ("not yet", form(&[("webhook_url", b"http://a"), ("file", &wav())]), 400, "unsupported_option"),
        ("broken off", form(&[("file", &wav())])[..9_000].to_vec(), 400, "invalid_multipart"),
    ];
    for (name, body, status, code) in cases {
        let world = World::with_limits(limits);
        let (answered, problem) = world.json(post("/v1/jobs", body)).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{name}: {problem}");
        assert!(world.blobs.uploads().is_empty(), "{name}");
        assert!(world.jobs.entries.lock().unwrap().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_is_read() {
    let world = World::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let endless = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Infallible>(Bytes::from_static(&[0; 1024]))
    });
    let mut request = post("/v1/jobs", Body::from_stream(endless));
    request.headers_mut().insert("content-length", "200000000".parse().unwrap());
    let response = world.call(request).await;
    assert_eq!(response.status(), 413);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn json_is_told_that_urls_are_not_supported_yet() {
    let world = World::new();
    let request = Request::post("/v1/jobs").header("content-type", "application/json");
    let (status, problem) = world.json(request.body(r#"{"audio_url":"http://a"}"#.into()).unwrap()).await;
    assert_eq!((status, problem["code"].as_str()), (400, Some("unsupported_option")));
    assert_eq!(problem["param"], "audio_url");
}

#[tokio::test]
async fn a_fast_upload_is_not_gathered_in_memory() {
    let limits = ApiLimits { max_upload_bytes: u64::MAX / 2, ..ApiLimits::default() };
    let world = World::with_limits(limits);
    let head = [
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n").into_bytes(),
        wav_of(8_000_000)[..64 * 1024].to_vec(),
    ]
    .concat();
    // Every piece is there at once; what was sent but not yet stored must stay small.
    let (blobs, worst) = (world.blobs.clone(), Arc::new(AtomicUsize::new(0)));
    let (seen, mut sent) = (worst.clone(), 0);
    let pieces = std::iter::once(head)
        .chain(std::iter::repeat_n(vec![0; 64 * 1024], 250))
        .chain([format!("\r\n--{BOUNDARY}--\r\n").into_bytes()])
        .map(move |piece| {
            seen.fetch_max(sent - blobs.written.load(Ordering::Relaxed).min(sent), Ordering::Relaxed);
            sent += piece.len();
            Ok::<_, Infallible>(Bytes::from(piece))
        });
    let (status, job) = world.json(post("/v1/jobs", Body::from_stream(stream::iter(pieces)))).await;
    assert_eq!(status, 202, "{job}");
    assert_eq!(job["audio"]["bytes"], 251 * 64 * 1024);
    let worst = worst.load(Ordering::Relaxed);
    assert!(worst < 256 * 1024, "{worst} bytes were waiting in memory");
}

#[tokio::test]
async fn a_full_disk_is_507() {
    let world = World::new();
    *world.blobs.room.lock().unwrap() = Some(100);
    let (status, problem) = world.json(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!((status, problem["code"].as_str()), (507, Some("out_of_space")));
    assert!(world.blobs.uploads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_deleted_only_when_the_store_surely_did_not_take_it() {
    for (kind, status, left) in [
        (ErrorKind::Throttled, 429, 0),
        (ErrorKind::OutOfSpace, 507, 0),
        (ErrorKind::Conflict, 409, 0),
        (ErrorKind::Unavailable, 503, 1),
    ] {
        let world = World::new();
        *world.jobs.refuse.lock().unwrap() = Some(kind);
        let response = world.call(post("/v1/jobs", form(&[("file", &wav())]))).await;
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers().contains_key("retry-after"), matches!(status, 429 | 503 | 507));
        assert!(!String::from_utf8(bytes(response).await.to_vec()).unwrap().contains("secret"));
        assert_eq!(world.blobs.uploads().len(), left, "{kind:?}");
    }
}

#[tokio::test]
async fn uploads_over_the_limit_in_number_are_told_to_come_back() {
    let world = World::with_limits(ApiLimits { max_uploads_in_flight: 0, ..ApiLimits::default() });
    let response = world.call(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_nobody_and_loses_nothing() {
    let world = World::new();
    world.jobs.hang.store(true, Ordering::Relaxed);
    let began = tokio::time::Instant::now();
    let response = world.call(post("/v1/jobs", form(&[("file", &wav())]))).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert!(began.elapsed() <= std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(world.blobs.uploads(), [wav()], "nobody knows whether a job owns it by now");
}
