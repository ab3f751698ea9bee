//! Where every request to a stand-in passes: it is recorded, held to the limits, made to fail when that was asked for,
//! and answered as late as a real service would.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::Instant;

use crate::faults::{Fault, Faults, Times};
use crate::server::Connection;

/// The pause after each byte of [`Fault::SlowDrip`].
const DRIP: Duration = Duration::from_millis(100);
pub(crate) const SUBSCRIPTION_KEY: HeaderName = HeaderName::from_static("ocp-apim-subscription-key");

/// What a service lets through; the rest is answered with 429.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests at a time.
    pub concurrency: Option<usize>,
    /// Requests that are let through in any window of [`Self::minute`].
    pub per_minute: Option<usize>,
    /// How long a minute takes here: shorter in tests that may not last.
    pub minute: Duration,
    /// What `Retry-After` says; `None` sends no such header.
    pub retry_after: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: None, per_minute: None, minute: Duration::from_secs(60), retry_after: None }
    }
}

/// How long a request takes: `base`, and `per_audio` times the length of its audio.
#[derive(Debug, Clone, Copy, Default)]
pub struct Latency {
    /// Whatever the audio.
    pub base: Duration,
    /// Seconds for each second of audio.
    pub per_audio: f64,
}

/// How a request proved who it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// It did not.
    None,
    /// With a subscription key.
    Key,
    /// With a bearer token or key.
    Bearer,
}

/// A request as it was received.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenRequest {
    /// `POST`, `GET`…
    pub method: String,
    /// The path.
    pub path: String,
    /// What follows the `?`.
    pub query: String,
    /// When it came, from the stand-in's start.
    pub at: Duration,
    /// How it proved who it comes from.
    pub auth: Auth,
    /// Length of the body.
    pub bytes: usize,
    /// The `definition` of a transcription, the body of a batch or the fields of a form.
    pub definition: Option<Value>,
    /// Length of the audio in milliseconds, from its header.
    pub audio_ms: Option<u64>,
    /// Status of the answer; `None` while there is none, and for good when the connection broke.
    pub status: Option<u16>,
}

/// Why a handler refuses a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Whether the caller broke the contract, which no engine of ours may do.
    pub(crate) violation: bool,
}

impl Refusal {
    /// The caller broke the contract.
    pub(crate) fn violation(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), violation: true }
    }

    /// What can happen to a caller that keeps to the contract.
    pub(crate) fn fair(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), violation: false }
    }
}

/// How a service behaves; the same for all its requests.
#[derive(Debug)]
pub(crate) struct Manners {
    pub(crate) limits: Limits,
    pub(crate) latency: Latency,
    /// Whether the limits hold for a path.
    pub(crate) is_limited: fn(&str) -> bool,
    /// Whether faults for any path spare this one.
    pub(crate) is_spared: fn(&str) -> bool,
    /// The shape of its errors.
    pub(crate) error: fn(status: u16, code: &str, message: &str) -> Response,
}

#[derive(Debug, Default)]
struct Ledger {
    requests: Vec<SeenRequest>,
    violations: Vec<String>,
    faults: Faults,
    admitted: VecDeque<Instant>,
    in_flight: usize,
    peak: usize,
}

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk {
    manners: Manners,
    started: Instant,
    ledger: Mutex<Ledger>,
}

/// A request at a handler.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    desk: Arc<Desk>,
    number: usize,
    /// What the short audio is to say.
    pub(crate) recognition: Option<&'static str>,
}

impl Call {
    /// Adds what the handler learnt.
    pub(crate) fn note(&self, note: impl FnOnce(&mut SeenRequest)) {
        note(&mut lock(&self.desk.ledger).requests[self.number]);
    }

    /// The answer to a request that is refused.
    pub(crate) fn refuse(&self, refusal: &Refusal) -> Response {
        let Refusal { status, code, message, violation } = refusal;
        if *violation {
            self.violation(format!("{status} {code}: {message}"));
        }
        (self.desk.manners.error)(*status, code, message)
    }

    /// Records what breaks the contract.
    pub(crate) fn violation(&self, what: impl AsRef<str>) {
        let mut ledger = lock(&self.desk.ledger);
        let path = ledger.requests[self.number].path.clone();
        ledger.violations.push(format!("{path}: {}", what.as_ref()));
    }
}

/// A request that the limits let through; dropping it gives its place back.
struct Place<'a>(&'a Desk);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.0.ledger).in_flight -= 1;
    }
}

impl Desk {
    pub(crate) fn new(manners: Manners) -> Arc<Self> {
        Arc::new(Self { manners, started: Instant::now(), ledger: Mutex::default() })
    }

    pub(crate) fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.ledger).requests.clone()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.ledger).violations.clone()
    }

    pub(crate) fn in_flight_peak(&self) -> usize {
        lock(&self.ledger).peak
    }

    /// How many limited requests were answered well.
    pub(crate) fn served(&self) -> usize {
        let well = |seen: &&SeenRequest| matches!(seen.status, Some(200..300));
        let ledger = lock(&self.ledger);
        ledger.requests.iter().filter(well).filter(|seen| (self.manners.is_limited)(&seen.path)).count()
    }

    pub(crate) fn misbehave(&self, path: &str, fault: Fault, times: Times) {
        lock(&self.ledger).faults.arm(path, fault, times);
    }

    pub(crate) fn heal(&self) {
        lock(&self.ledger).faults.clear();
    }

    fn record(&self, request: &Request) -> usize {
        let mut ledger = lock(&self.ledger);
        ledger.requests.push(SeenRequest {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            at: self.started.elapsed(),
            auth: auth_of(request.headers()),
            bytes: 0,
            definition: None,
            audio_ms: None,
            status: None,
        });
        ledger.requests.len() - 1
    }

    /// A place, unless a limit is reached.
    fn admit(&self) -> Option<Place<'_>> {
        let Limits { concurrency, per_minute, minute, .. } = self.manners.limits;
        let mut ledger = lock(&self.ledger);
        let now = Instant::now();
        while ledger.admitted.front().is_some_and(|first| now.duration_since(*first) >= minute) {
            ledger.admitted.pop_front();
        }
        let full = concurrency.is_some_and(|most| ledger.in_flight >= most);
        if full || per_minute.is_some_and(|most| ledger.admitted.len() >= most) {
            return None;
        }
        if per_minute.is_some() {
            ledger.admitted.push_back(now);
        }
        ledger.in_flight += 1;
        ledger.peak = ledger.peak.max(ledger.in_flight);
        Some(Place(self))
    }

    fn throttle(&self, retry_after: Option<Duration>) -> Response {
        let response = (self.manners.error)(429, "TooManyRequests", "too many requests; slow down");
        match retry_after {
            Some(after) => with_retry_after(response, &after.as_secs().to_string()),
            None => response,
        }
    }

    async fn take_time(&self, number: usize) {
        let Latency { base, per_audio } = self.manners.latency;
        let audio_ms = lock(&self.ledger).requests[number].audio_ms.unwrap_or(0);
        let time = base + Duration::from_millis(audio_ms).mul_f64(per_audio);
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }

    /// The answer that takes the place of the right one.
    async fn instead(&self, fault: &Fault, connection: Option<&Connection>) -> Option<Response> {
        match fault {
            Fault::Throttle { retry_after } => Some(self.throttle(*retry_after)),
            Fault::Status(status, code) => Some((self.manners.error)(*status, code, "as the test asked")),
            Fault::StatusRetry(status, code, after) => {
                let response = (self.manners.error)(*status, code, "as the test asked");
                Some(with_retry_after(response, after))
            }
            Fault::ExpiredToken => Some((self.manners.error)(401, "Unauthorized", "the token has expired")),
            Fault::WrongContentType => {
                let page = "<html><body>Welcome to the guest network</body></html>";
                Some(([(header::CONTENT_TYPE, "text/html")], page).into_response())
            }
            Fault::Reset => {
                if let Some(Connection(reset)) = connection {
                    reset.cancel();
                }
                std::future::pending().await
            }
            Fault::Hang => std::future::pending().await,
            Fault::SlowDrip | Fault::TruncatedJson | Fault::BrokenOff | Fault::Recognition(_) => None,
        }
    }
}

/// The middleware in front of every route.
pub(crate) async fn pass(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let number = desk.record(&request);
    let response = answer(&desk, number, request, next).await;
    lock(&desk.ledger).requests[number].status = Some(response.status().as_u16());
    response
}

async fn answer(desk: &Arc<Desk>, number: usize, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let fault = lock(&desk.ledger).faults.take(&path, (desk.manners.is_spared)(&path));
    let connection = request.extensions().get::<Connection>().cloned();
    let limited = (desk.manners.is_limited)(&path);
    let place = if limited { desk.admit() } else { None };
    // The body is read whatever the answer: a client that is cut short while it sends sees a broken connection.
    let (mut parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    lock(&desk.ledger).requests[number].bytes = body.len();
    if let Some(fault) = &fault
        && let Some(response) = desk.instead(fault, connection.as_ref()).await
    {
        return response;
    }
    if limited && place.is_none() {
        return desk.throttle(desk.manners.limits.retry_after);
    }
    let recognition = match fault {
        Some(Fault::Recognition(status)) => Some(status),
        _ => None,
    };
    parts.extensions.insert(Call { desk: Arc::clone(desk), number, recognition });
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if response.status().is_success() {
        desk.take_time(number).await;
    }
    drop(place);
    match fault {
        Some(fault @ (Fault::SlowDrip | Fault::TruncatedJson | Fault::BrokenOff)) => {
            spoil(response, &fault).await
        }
        _ => response,
    }
}

/// The response as it leaves with a fault.
async fn spoil(response: Response, fault: &Fault) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let half = whole.slice(..whole.len() / 2);
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    let body = match fault {
        Fault::SlowDrip => Body::from_stream(futures::stream::iter(0..whole.len()).then(move |at| {
            let byte = whole.slice(at..=at);
            async move {
                tokio::time::sleep(DRIP).await;
                Ok::<Bytes, std::io::Error>(byte)
            }
        })),
        Fault::BrokenOff => {
            let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            Body::from_stream(futures::stream::iter([Ok(half), Err(broken)]))
        }
        _ => {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(half.len()));
            Body::from(half)
        }
    };
    Response::from_parts(parts, body)
}

fn with_retry_after(mut response: Response, after: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(after) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn auth_of(headers: &HeaderMap) -> Auth {
    if headers.contains_key(header::AUTHORIZATION) {
        Auth::Bearer
    } else if headers.contains_key(SUBSCRIPTION_KEY) {
        Auth::Key
    } else {
        Auth::None
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
