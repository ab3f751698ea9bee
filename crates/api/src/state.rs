//! What the handlers share: ports, limits, and the tasks that outlive a request.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use verbatim_core::CancellationToken;
use verbatim_core::audio::AudioLimits;
use verbatim_core::ids::IdSource;
use verbatim_core::model::ModelCatalog;
use verbatim_core::money::Money;
use verbatim_core::ports::limiter::RequestLimits;
use verbatim_core::ports::{
    BlobStore, Directory, EngineRegistry, JobAdmin, JobClient, JobUpkeep, Ledger, Limiter, SharedState,
};
use verbatim_core::time::{Clock, Timestamp};
use verbatim_telemetry::audit::AuditLog;
use verbatim_telemetry::{Metrics, traces};

use crate::caps::CapsKeeper;
use crate::disk_guard::{DiskGuard, DiskParts};
use crate::edge::{AddressRate, Edge};
use crate::error::ApiError;
use crate::routes::ops::Readiness;
use crate::stages::Stages;

/// How often addresses that have not asked for a while are forgotten.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// The limits of the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Largest file accepted, in bytes.
    pub max_upload_bytes: u64,
    /// What the audio has to stay within, as far as its header tells.
    pub audio: AudioLimits,
    /// Longest `?wait=`.
    pub max_wait: Duration,
    /// Requests worked on at the same time, at most; more wait for a moment and are then answered with 503. Begins with
    /// a quarter of it and follows the load. Who only waits for a job does not count.
    pub max_requests_in_flight: usize,
    /// Uploads received at the same time; the same holds.
    pub max_uploads_in_flight: usize,
    /// Bytes that have arrived of uploads under way, at the same time; more are answered with 503.
    pub max_bytes_in_flight: u64,
    /// Event streams and requests that wait for a job, at the same time; more are answered with 503.
    pub max_watchers: usize,
    /// Resident memory in bytes up to which more is let in; `None` for what the machine has.
    pub memory_bytes: Option<u64>,
    /// An upload from which no byte comes for so long is given up.
    pub upload_idle: Duration,
    /// So is one that, once it has taken as long, has kept the node waiting with fewer bytes a second than these.
    pub min_upload_rate: u64,
    /// Time that an upload of the largest size may keep the node waiting; smaller ones in proportion, and a minute more.
    pub upload_time: Duration,
    /// How long after its client has gone a submission of the OpenAI routes is cancelled.
    pub abandoned_after: Duration,
    /// Age up to which `/readyz` tells what it knows without asking again.
    pub readiness_age: Duration,
    /// Between two heartbeats of an event stream.
    pub heartbeat: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            audio: AudioLimits::default(),
            max_wait: Duration::from_secs(60),
            max_requests_in_flight: 1024,
            max_uploads_in_flight: 256,
            max_bytes_in_flight: 16 * 1024 * 1024 * 1024,
            max_watchers: 4096,
            memory_bytes: None,
            upload_idle: Duration::from_secs(30),
            min_upload_rate: 1024,
            upload_time: Duration::from_secs(1800),
            abandoned_after: Duration::from_secs(60),
            readiness_age: Duration::from_secs(1),
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// What the nodes share about the providers behind the engines.
#[derive(Clone)]
pub struct ProviderParts {
    /// Their health and limits.
    pub shared: Arc<dyn SharedState>,
    /// What they cost.
    pub ledger: Arc<dyn Ledger>,
    /// In which terms.
    pub terms: CostTerms,
}

/// What the configuration says about money beside each provider's own price and budget.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CostTerms {
    /// The currency of all amounts, for display; `None` where there are no prices.
    pub currency: Option<String>,
    /// What one tenant may spend in a day.
    pub tenant_daily_budget: Option<Money>,
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
    /// The request limits and who keeps count; `None` for no limits.
    pub limiter: Option<(Arc<dyn Limiter>, RequestLimits)>,
    /// Where providers meet; `None` where nothing is known of them.
    pub providers: Option<ProviderParts>,
    /// Where workers announce themselves; only in a cluster.
    pub registry: Option<Arc<dyn EngineRegistry>>,
    /// Uploads go in, results come out.
    pub blobs: Arc<dyn BlobStore>,
    /// The disk that uploads go to; `None` where they go elsewhere.
    pub disk: Option<DiskParts>,
    /// What is on offer; `None` while no worker has announced itself yet.
    pub offering: watch::Receiver<Option<Arc<ModelCatalog>>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Fresh identifiers.
    pub ids: Arc<dyn IdSource>,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Where it is written down who did what.
    pub audit: Arc<AuditLog>,
    /// The limits of the door.
    pub limits: ApiLimits,
    /// Who stands between clients and this node, and what is theirs to ask.
    pub edge: Edge,
    /// Fires when the process is to stop: `/readyz` says so, event streams and long polls end.
    pub shutdown: CancellationToken,
}

/// The state of the API; clones share it.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

/// Behind every [`ApiState`].
pub(crate) struct Shared {
    pub(crate) parts: ApiParts,
    pub(crate) stages: Stages,
    pub(crate) disk_guard: DiskGuard,
    address_rate: Option<AddressRate>,
    readiness: Readiness,
    caps: CapsKeeper,
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
        let stages = Stages::new(&parts.limits, &parts.metrics, parts.ids.clone());
        let address_rate = parts.edge.per_address.and_then(AddressRate::new);
        let disk_guard = DiskGuard::new(parts.disk.clone(), parts.metrics.clone());
        let started_at = parts.clock.now();
        let tasks = TaskTracker::new();
        Self(Arc::new(Shared {
            parts,
            stages,
            disk_guard,
            address_rate,
            readiness: Readiness::default(),
            caps: CapsKeeper::default(),
            started_at,
            tasks,
        }))
    }

    /// Keeps house until `shutdown` fires, then waits for the work that outlives its requests.
    ///
    /// Without it, a limit of addresses remembers every one that it has ever seen, a disk that fills up goes unnoticed
    /// while nobody asks, and no caps of tenants are in force but those that submissions bring.
    pub async fn run(&self) {
        tokio::join!(self.keep_house(), self.0.caps.run(self));
        self.finish_tasks().await;
    }

    async fn keep_house(&self) {
        let mut rounds = tokio::time::interval(HOUSEKEEPING);
        while self.shutdown.run_until_cancelled(rounds.tick()).await.is_some() {
            if let Some(rate) = self.address_rate() {
                rate.forget();
            }
            self.disk_guard().look().await;
        }
    }

    /// Waits for the work that outlived its requests.
    pub async fn finish_tasks(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// What is on offer now.
    ///
    /// # Errors
    /// 503 while no worker has announced itself yet.
    pub(crate) fn offered(&self) -> Result<Arc<ModelCatalog>, ApiError> {
        self.offering.borrow().clone().ok_or_else(ApiError::no_workers)
    }

    /// How many are at which stage.
    pub(crate) fn stages(&self) -> &Stages {
        &self.0.stages
    }

    /// How much room the disk has.
    pub(crate) fn disk_guard(&self) -> &DiskGuard {
        &self.0.disk_guard
    }

    /// How often one address may ask.
    pub(crate) fn address_rate(&self) -> Option<&AddressRate> {
        self.0.address_rate.as_ref()
    }

    /// Who keeps the caps of tenants in force.
    pub(crate) fn caps(&self) -> &CapsKeeper {
        &self.0.caps
    }

    /// What was last found out about the dependencies.
    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
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
        match self.0.tasks.spawn(traces::carried(work).in_current_span()).await {
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
