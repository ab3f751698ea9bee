//! How many requests are worked on at once. A request holds a place from its first byte to the head of its answer; one
//! that only waits for a job (long polls, OpenAI's routes, event streams) gives it back and is counted among the
//! watchers instead, which cost next to nothing but last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use verbatim_core::places::{Cap, Place, Places, PlacesConfig, Sizing};
use verbatim_telemetry::Metrics;
use verbatim_telemetry::limits::free_memory;

use crate::error::ApiError;
use crate::observe::is_probe;
use crate::state::{ApiLimits, ApiState};

/// How long a request waits for a place.
const PATIENCE: Duration = Duration::from_secs(2);
/// What whoever is turned away is told to wait.
const COME_BACK: Duration = Duration::from_secs(2);
/// Memory that a request takes: its buffers and its answer.
const REQUEST_BYTES: u64 = 256 * 1024;
/// Memory that an upload takes on its way into a bucket: the part that is being filled, and the one being sent.
const UPLOAD_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of uploads are counted in pieces of so many.
const MASS_UNIT: u64 = 64 * 1024;

/// The stages of a node that takes requests in.
#[derive(Debug)]
pub(crate) struct Stages {
    connections: Places,
    uploads: Places,
    /// Bytes of uploads under way, in pieces, and how many there are in all.
    mass: Arc<Semaphore>,
    all_mass: usize,
    watchers: Places,
}

impl Stages {
    pub(crate) fn new(limits: &ApiLimits, metrics: &Metrics) -> Self {
        let limit = limits.memory_bytes;
        let stage = |name, max: usize, bytes: u64| {
            let config = PlacesConfig { sizing: Sizing::between(max.div_ceil(4), max), max_waiting: max };
            let memory = Cap { free: Box::new(move || free_memory(limit)), per_place: bytes };
            Places::new(config, vec![memory], metrics.limits.stage(name))
        };
        let mass = pieces(limits.max_bytes_in_flight).clamp(1, u32::MAX as usize);
        let watchers = PlacesConfig { sizing: Sizing::fixed(limits.max_watchers), max_waiting: 0 };
        Self {
            connections: stage("connections", limits.max_requests_in_flight, REQUEST_BYTES),
            uploads: stage("uploads", limits.max_uploads_in_flight, UPLOAD_BYTES),
            mass: Arc::new(Semaphore::new(mass)),
            all_mass: mass,
            watchers: Places::new(watchers, Vec::new(), metrics.limits.stage("watchers")),
        }
    }

    /// Makes the changes that time alone brings.
    pub(crate) fn look(&self) {
        for places in [&self.connections, &self.uploads, &self.watchers] {
            places.usage();
        }
    }

    /// A place for an upload of at most `bytes`.
    ///
    /// # Errors
    /// 503 when there is none within a moment.
    pub(crate) async fn upload(&self, bytes: u64) -> Result<UploadPlace, ApiError> {
        let place = self.uploads.take(PATIENCE).await;
        let place = place.map_err(|_| crowded("too many uploads at once", &self.uploads))?;
        // One that is larger than all there is may come alone.
        let pieces = u32::try_from(pieces(bytes).min(self.all_mass)).unwrap_or(u32::MAX);
        let mass = tokio::time::timeout(PATIENCE, self.mass.clone().acquire_many_owned(pieces)).await;
        let Ok(Ok(mass)) = mass else {
            let all = self.all_mass as u64 * MASS_UNIT;
            return Err(overloaded("too many bytes are being uploaded at once", Some(all)));
        };
        Ok(UploadPlace { _place: place, _mass: mass })
    }
}

/// What an upload takes up while it arrives.
#[derive(Debug)]
pub(crate) struct UploadPlace {
    _place: Place,
    _mass: OwnedSemaphorePermit,
}

fn pieces(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(MASS_UNIT)).unwrap_or(usize::MAX)
}

fn crowded(what: &str, places: &Places) -> ApiError {
    overloaded(what, u64::try_from(places.usage().max).ok())
}

/// 503 for what is bounded by `limit`.
fn overloaded(what: &str, limit: Option<u64>) -> ApiError {
    let detail = format!("{what}; try again in a moment");
    let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
    error.retry_after = Some(COME_BACK);
    error.limit = limit;
    error
}

/// Lets a request in when there is a place for it. Whoever asks for health or metrics always is: that is when they
/// matter most.
pub(crate) async fn enter(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if request.extensions().get::<MatchedPath>().is_some_and(|route| is_probe(route.as_str())) {
        return Ok(next.run(request).await);
    }
    let places = &state.stages().connections;
    let place = places.take(PATIENCE).await.map_err(|_| crowded("too many requests at once", places))?;
    let seat = Seat(Arc::new(Mutex::new(Some(place))));
    request.extensions_mut().insert(seat.clone());
    let response = next.run(request).await;
    seat.leave();
    Ok(response)
}

/// The place of a request, in its handler's hands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat(Arc<Mutex<Option<Place>>>);

impl Seat {
    /// Gives the place back and takes one among those who wait for a job.
    ///
    /// # Errors
    /// 503 when too many wait.
    pub(crate) async fn watch(&self, state: &ApiState) -> Result<Place, ApiError> {
        let watchers = &state.stages().watchers;
        let place = watchers.take(Duration::ZERO).await;
        let place = place.map_err(|_| crowded("too many wait for jobs at once", watchers))?;
        self.leave();
        Ok(place)
    }

    fn leave(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl FromRequestParts<ApiState> for Seat {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
