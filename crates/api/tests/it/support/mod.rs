//! A router over ports that keep everything in memory, small enough to read at a glance.

pub(crate) mod blobs;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod lines;
pub(crate) mod shared;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;
use verbatim_api_lib::{ApiLimits, ApiParts, ApiState, Edge, router};
use verbatim_core::CancellationToken;
use verbatim_core::ids::{IdSource, SubmissionId};
use verbatim_core::model::{ModelCatalog, ModelInfo};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_core::transcript::Segment;
use verbatim_telemetry::Metrics;
use verbatim_telemetry::audit::AuditLog;

use self::blobs::Blobs;
use self::jobs::Jobs;

/// Half a second of silence as a WAV file.
pub(crate) fn wav() -> Vec<u8> {
    wav_of(8_000)
}

/// So many samples of silence at 16 kHz as a WAV file.
pub(crate) fn wav_of(samples: u32) -> Vec<u8> {
    let data = samples * 2;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + data).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(data.to_le_bytes());
    file.resize(file.len() + data as usize, 0);
    file
}

pub(crate) const BOUNDARY: &str = "a-boundary";

/// A form with these fields, in this order; `file` gets a file name.
pub(crate) fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let file = if *name == "file" { "; filename=\"a.wav\"" } else { "" };
        body.extend(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes(),
        );
        body.extend(*value);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    body
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
    Request::post(path).header("content-type", media_type).body(body.into()).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// The API and what lies behind it.
pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) state: ApiState,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) blobs: Blobs,
    pub(crate) offering: watch::Sender<Option<Arc<ModelCatalog>>>,
    pub(crate) shutdown: CancellationToken,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_limits(ApiLimits::default())
    }

    pub(crate) fn with_limits(limits: ApiLimits) -> Self {
        Self::with(|parts| parts.limits = ApiLimits { readiness_age: Duration::ZERO, ..limits })
    }

    /// The API with parts that were changed.
    pub(crate) fn with(change: impl FnOnce(&mut ApiParts)) -> Self {
        let (jobs, blobs) = (Arc::new(Jobs::default()), Blobs::default());
        let shutdown = CancellationToken::new();
        let model = |name: &str, multilingual| ModelInfo {
            name: name.into(),
            engine: "whisper".into(),
            multilingual,
            translates: multilingual,
            diarizes: false,
            revision: "r1".into(),
        };
        let models = ModelCatalog::new(vec![model("tiny.en", false), model("base", true)]).unwrap();
        let (offering, receiver) = watch::channel(Some(Arc::new(models)));
        let metrics = Arc::new(Metrics::new().unwrap());
        let mut parts = ApiParts {
            jobs: jobs.clone(),
            admin: jobs.clone(),
            auth: None,
            upkeep: jobs.clone(),
            limiter: None,
            providers: None,
            registry: None,
            blobs: Arc::new(blobs.clone()),
            disk: None,
            offering: receiver,
            clock: Arc::new(Noon),
            ids: Arc::new(Counting::default()),
            audit: Arc::new(AuditLog::open(None, 0, Arc::new(Noon), &metrics).unwrap()),
            metrics,
            limits: ApiLimits { readiness_age: Duration::ZERO, ..ApiLimits::default() },
            edge: Edge::default(),
            shutdown: shutdown.clone(),
        };
        change(&mut parts);
        let state = ApiState::new(parts);
        Self { router: router(state.clone()), state, jobs, blobs, offering, shutdown }
    }

    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Status and JSON body of the answer.
    pub(crate) async fn json(&self, request: Request<Body>) -> (u16, Value) {
        let response = self.call(request).await;
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&bytes(response).await).unwrap_or(Value::Null))
    }

    /// Submits half a second of silence and returns the job's id.
    pub(crate) async fn submit(&self) -> SubmissionId {
        let (status, job) = self.json(post("/v1/jobs", form(&[("file", &wav())]))).await;
        assert_eq!(status, 202, "{job}");
        SubmissionId::parse(job["id"].as_str().unwrap()).unwrap()
    }
}

pub(crate) async fn bytes(response: Response<Body>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

pub(crate) fn segment(index: u32, text: &str) -> Segment {
    Segment {
        index,
        start_ms: 0,
        end_ms: 500,
        text: text.into(),
        words: Vec::new(),
        speaker: None,
        decoding: None,
    }
}

/// Always the same noon.
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_767_268_800_000)
    }
}

#[derive(Default)]
struct Counting(AtomicU64);

impl IdSource for Counting {
    fn ulid(&self) -> String {
        format!("{:026}", self.0.fetch_add(1, Ordering::Relaxed))
    }
    fn fraction(&self) -> f64 {
        f64::from(u32::try_from(self.0.fetch_add(1, Ordering::Relaxed) % 10).unwrap_or_default()) / 10.0
    }

    fn secret(&self) -> [u8; 32] {
        [7; 32]
    }
}
