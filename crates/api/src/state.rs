//! What the handlers share: ports, limits, and the tasks that outlive a request.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use verbatim_core::CancellationToken;
use verbatim_core::ids::IdSource;
use verbatim_core::model::ModelCatalog;
use verbatim_core::ports::{BlobStore, Directory, JobAdmin, JobClient, JobUpkeep};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_telemetry::Metrics;

use crate::error::ApiError;

/// The limits of the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Largest file accepted, in bytes.
    pub max_upload_bytes: u64,
    /// Longest `?wait=`.
    pub max_wait: Duration,
    /// Uploads received at the same time; more are answered with 503.
    pub max_uploads_in_flight: usize,
    /// An upload from which no byte comes for so long is given up.
    pub upload_idle: Duration,
    /// How long after its client has gone a submission of the OpenAI routes is cancelled.
    pub abandoned_after: Duration,
    /// Between two heartbeats of an event stream.
    pub heartbeat: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            max_wait: Duration::from_secs(60),
            max_uploads_in_flight: 256,
            upload_idle: Duration::from_secs(30),
            abandoned_after: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// What the engines behind the service can do: those of this process, or those of the workers that announced themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offering {
    /// The models on offer.
    pub models: ModelCatalog,
    /// Whether any engine tells speakers apart.
    pub diarization: bool,
}

/// What the composition root provides.
pub struct ApiParts {
    /// The job store, as clients see it.
    pub jobs: Arc<dyn JobClient>,
    /// The job store, as operators see it.
    pub admin: Arc<dyn JobAdmin>,
    /// Knows the keys; `None` where everybody may come in. It is asked with every request, so that a revoked key opens
    /// nothing from one moment to the next.
    pub auth: Option<Arc<dyn Directory>>,
    /// The job store's figures and health.
    pub upkeep: Arc<dyn JobUpkeep>,
    /// Uploads go in, results come out.
    pub blobs: Arc<dyn BlobStore>,
    /// What is on offer; `None` while no worker has announced itself yet.
    pub offering: watch::Receiver<Option<Arc<Offering>>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Fresh identifiers.
    pub ids: Arc<dyn IdSource>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// The limits of the door.
    pub limits: ApiLimits,
    /// Fires when the process is to stop: `/readyz` says so, event streams and long polls end.
    pub shutdown: CancellationToken,
}

/// The state of the API; clones share it.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

/// Behind every [`ApiState`].
pub(crate) struct Shared {
    pub(crate) parts: ApiParts,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) started_at: Timestamp,
    tasks: TaskTracker,
}

impl Deref for ApiState {
    type Target = ApiParts;
    fn deref(&self) -> &ApiParts {
        &self.0.parts
    }
}

impl ApiState {
    /// The state made of these parts.
    pub fn new(parts: ApiParts) -> Self {
        let uploads = Arc::new(Semaphore::new(parts.limits.max_uploads_in_flight));
        let started_at = parts.clock.now();
        Self(Arc::new(Shared { parts, uploads, started_at, tasks: TaskTracker::new() }))
    }

    /// Waits for the work that outlived its requests; call it after `shutdown` has fired and the server has ended.
    pub async fn finish_tasks(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// What is on offer now.
    ///
    /// # Errors
    /// 503 while no worker has announced itself yet.
    pub(crate) fn offered(&self) -> Result<Arc<Offering>, ApiError> {
        self.offering.borrow().clone().ok_or_else(ApiError::no_workers)
    }

    /// Permits for uploads.
    pub(crate) fn uploads(&self) -> &Arc<Semaphore> {
        &self.0.uploads
    }

    /// When this process began to serve.
    pub(crate) fn started_at(&self) -> Timestamp {
        self.0.started_at
    }

    /// Runs `work` to its end even when the request that wants it is dropped.
    ///
    /// # Errors
    /// What `work` says; an internal error when it panicked.
    pub(crate) async fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        match self.0.tasks.spawn(work.in_current_span()).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%error, "a task of the API panicked");
                Err(ApiError::internal())
            }
        }
    }

    /// Runs `work` after its request has gone.
    pub(crate) fn afterwards(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(work.in_current_span());
    }
}
