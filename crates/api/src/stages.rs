//! Permits for what is scarce at a node that takes requests in: requests worked on, uploads and their bytes, and waits for
//! jobs. Each kind is a pool of its own, shared between tenants (see `verbatim_admission`).
//!
//! A request holds a permit from its first byte to the head of its answer; one that only waits for a job (long polls,
//! OpenAI's routes, event streams) gives it back and holds one of the watchers' instead, which cost next to nothing but last.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use verbatim_admission::{Headroom, Holder, Permit, Pool, PoolConfig, Refused, Reserve, Sizing};
use verbatim_core::ids::IdSource;
use verbatim_telemetry::Metrics;
use verbatim_telemetry::limits::free_memory;

use crate::edge::holder_by_address;
use crate::error::ApiError;
use crate::observe::is_probe;
use crate::state::{ApiLimits, ApiState};

/// How long a request waits for a permit.
const PATIENCE: Duration = Duration::from_secs(2);
/// The times between which a client that was refused is told to come back. They are spread, so that clients that were
/// refused together do not return together.
const COME_BACK: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(7)];
/// Memory that a request takes: its buffers and its answer.
const REQUEST_BYTES: u64 = 256 * 1024;
/// Memory that an upload takes on its way into a bucket: the part that is being filled, and the one being sent.
const UPLOAD_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of uploads that have arrived are reserved in steps of so many.
const BYTES_UNIT: u64 = 1024 * 1024;

/// The pools of a node that takes requests in.
pub(crate) struct Stages {
    requests: Pool,
    uploads: Pool,
    /// Bytes of uploads under way that have arrived, in units.
    bytes: Pool,
    watchers: Pool,
    ids: Arc<dyn IdSource>,
}

impl Stages {
    pub(crate) fn new(limits: &ApiLimits, metrics: &Metrics, ids: Arc<dyn IdSource>) -> Self {
        let limit = limits.memory_bytes;
        let growing = |name, max: usize, bytes: u64| {
            let sizing = Sizing::between(max.div_ceil(4), max);
            let config = PoolConfig { sizing, max_waiting: max, reserve: Reserve::Eighth };
            let memory = Headroom::bytes(move || free_memory(limit), bytes);
            Pool::new(config, vec![memory], metrics.limits.stage(name))
        };
        let fixed = |name, permits: usize, max_waiting| {
            let config = PoolConfig { sizing: Sizing::fixed(permits), max_waiting, reserve: Reserve::Eighth };
            Pool::new(config, Vec::new(), metrics.limits.stage(name))
        };
        let units = usize::try_from(limits.max_bytes_in_flight / BYTES_UNIT).unwrap_or(usize::MAX).max(1);
        Self {
            requests: growing("connections", limits.max_requests_in_flight, REQUEST_BYTES),
            uploads: growing("uploads", limits.max_uploads_in_flight, UPLOAD_BYTES),
            bytes: fixed("upload_bytes", units, limits.max_uploads_in_flight),
            watchers: fixed("watchers", limits.max_watchers, 0),
            ids,
        }
    }

    /// Makes the changes that time alone brings.
    pub(crate) fn look(&self) {
        for pool in [&self.requests, &self.uploads, &self.bytes, &self.watchers] {
            pool.usage();
        }
    }

    /// A permit for an upload of `holder`.
    ///
    /// # Errors
    /// 503 when all are in use, 429 when the holder's share is.
    pub(crate) async fn upload(&self, holder: &Holder) -> Result<UploadPermit<'_>, ApiError> {
        let permit = self.uploads.acquire(holder, PATIENCE).await;
        let permit = permit.map_err(|why| self.refusal(why, "uploads", &self.uploads, 1))?;
        Ok(UploadPermit { stages: self, permit, bytes: None, arrived: 0 })
    }

    /// What a client is told that got no permit of `pool`; `unit` of what is bounded is one permit.
    fn refusal(&self, why: Refused, what: &str, pool: &Pool, unit: u64) -> ApiError {
        let (status, code, detail) = match why {
            Refused::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                format!("there are too many {what} at once; try again in a moment"),
            ),
            Refused::Share => (
                StatusCode::TOO_MANY_REQUESTS,
                "share_exceeded",
                format!("your share of the {what} of this node is in use; let some of yours end first"),
            ),
        };
        let mut error = ApiError::new(status, code, detail);
        let [soon, later] = COME_BACK;
        error.retry_after = Some(soon + (later - soon).mul_f64(self.ids.fraction()));
        error.limit = u64::try_from(pool.usage().max).ok().map(|permits| permits.saturating_mul(unit));
        error
    }
}

impl std::fmt::Debug for Stages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { requests, uploads, bytes, watchers, ids: _ } = self;
        f.debug_list().entries([requests, uploads, bytes, watchers]).finish()
    }
}

/// An upload under way. What has arrived of it is reserved as it arrives: a length that a head declares costs nothing.
#[derive(Debug)]
pub(crate) struct UploadPermit<'a> {
    stages: &'a Stages,
    permit: Permit,
    bytes: Option<Permit>,
    arrived: u64,
}

impl UploadPermit<'_> {
    /// Counts so many bytes more.
    ///
    /// # Errors
    /// 503 when too many bytes are under way, 429 when too many of this holder are.
    pub(crate) async fn arrived(&mut self, bytes: u64) -> Result<(), ApiError> {
        self.arrived = self.arrived.saturating_add(bytes);
        let units = usize::try_from(self.arrived.div_ceil(BYTES_UNIT)).unwrap_or(usize::MAX);
        let reserved = self.bytes.as_ref().map_or(0, Permit::amount);
        let Some(more) = units.checked_sub(reserved).filter(|more| *more > 0) else { return Ok(()) };
        let pool = &self.stages.bytes;
        let outcome = match &mut self.bytes {
            Some(permit) => permit.grow(more, PATIENCE).await,
            none => match pool.acquire_many(self.permit.holder(), more, PATIENCE).await {
                Ok(permit) => {
                    *none = Some(permit);
                    Ok(())
                }
                Err(why) => Err(why),
            },
        };
        outcome.map_err(|why| self.stages.refusal(why, "bytes of uploads", pool, BYTES_UNIT))
    }
}

/// Lets a request in when there is a permit for it. Whoever asks for health or metrics always is: that is when they
/// matter most. Nobody is known yet, so that it counts for the client's address.
pub(crate) async fn enter(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if request.extensions().get::<MatchedPath>().is_some_and(|route| is_probe(route.as_str())) {
        return Ok(next.run(request).await);
    }
    let (stages, holder) = (state.stages(), holder_by_address(request.extensions()));
    let permit = stages.requests.acquire(&holder, PATIENCE).await;
    let permit = permit.map_err(|why| stages.refusal(why, "requests", &stages.requests, 1))?;
    let permit = RequestPermit(Arc::new(Mutex::new(Some(permit))));
    request.extensions_mut().insert(permit.clone());
    let response = next.run(request).await;
    permit.give_back();
    Ok(response)
}

/// The permit of a request, in its handler's hands.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestPermit(Arc<Mutex<Option<Permit>>>);

impl RequestPermit {
    /// Gives the permit back for one of those who wait for a job.
    ///
    /// # Errors
    /// 503 when too many wait, 429 when too many of this holder do.
    pub(crate) async fn watch(&self, state: &ApiState, holder: &Holder) -> Result<Permit, ApiError> {
        let stages = state.stages();
        let permit = stages.watchers.try_acquire(holder);
        let permit = permit.map_err(|why| stages.refusal(why, "waits for jobs", &stages.watchers, 1))?;
        self.give_back();
        Ok(permit)
    }

    fn give_back(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl FromRequestParts<ApiState> for RequestPermit {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
