//! Which stores a process works on: a folder of its own, or what a cluster shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use tokio::time::Instant;
use verbatim_blobs::{FolderDisk, FolderStore, MarkerMissing, OwnedBlobs, S3Config, S3Store};
use verbatim_core::PortError;
use verbatim_core::policy::StorePolicy;
use verbatim_core::ports::ownership::Identity;
use verbatim_core::ports::{
    BlobKey, BlobMarker, BlobOwner, BlobStore, Directory, Disk, EngineRegistry, JobAdmin, JobClient,
    JobLeases, JobUpkeep, Ledger, Limiter, SharedState,
};
use verbatim_core::retry::RetryPolicy;
use verbatim_queue::{RedisConfig, RedisStore, SqliteConfig, SqliteDirectory, SqliteStore};
use verbatim_telemetry::Metrics;

use crate::auth::keys_required;
use crate::config::{Config, QueueConfig, Role};
use crate::engines::EnginePorts;
use crate::gate::Gate;
use crate::system::{SystemClock, SystemIds};

use super::store_wait::StoreWait;

/// How long the end of the process waits for uploads that were given up to be out of the bucket.
const SETTLE: Duration = Duration::from_secs(5);

/// What clients are told while a store is waited for.
const NO_JOB_STORE: &str = "the job store is waited for";
const NO_BLOB_STORE: &str = "the store for audio and results is waited for";
const OTHER_BLOB_STORE: &str = "the audio and results of the job store are not in the place where this node looks for them: is the \
                                share mounted, the bucket the right one?";

/// What the parts of the service share. Some of these are one and the same store.
pub(super) struct Stores {
    pub(super) jobs: Arc<dyn JobClient>,
    pub(super) leases: Arc<dyn JobLeases>,
    pub(super) upkeep: Arc<dyn JobUpkeep>,
    pub(super) admin: Arc<dyn JobAdmin>,
    /// Who may come in; `None` where everybody may.
    pub(super) directory: Option<Arc<dyn Directory>>,
    /// Where workers announce themselves; only in a cluster.
    pub(super) registry: Option<Arc<dyn EngineRegistry>>,
    /// The job store of a cluster once more.
    pub(super) redis: Option<Arc<RedisStore>>,
    /// What nodes share about providers.
    pub(super) shared: Arc<dyn SharedState>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) limiter: Arc<dyn Limiter>,
    pub(super) blobs: Arc<dyn BlobStore>,
    /// The same, as what is marked.
    pub(super) own_blobs: Arc<OwnedBlobs>,
    /// Whose blobs they are: the job store.
    pub(super) owner: Arc<dyn BlobOwner>,
    /// The blobs once more, when they lie in a bucket.
    pub(super) bucket: Option<Arc<S3Store>>,
    /// The disk that fills up with the work; none where a cluster keeps it in a bucket.
    pub(super) disk: Option<Arc<dyn Disk>>,
    pub(super) clock: Arc<SystemClock>,
    pub(super) ids: Arc<SystemIds>,
    pub(super) metrics: Arc<Metrics>,
}

impl Stores {
    /// Opens what the configuration names. What another machine keeps may be away when this process starts: it is waited
    /// for, and `gate` says so.
    ///
    /// # Errors
    /// When something cannot be opened, with what to do about it.
    pub(super) async fn open(
        role: Role,
        config: &Config,
        metrics: Arc<Metrics>,
        gate: &Gate,
    ) -> anyhow::Result<Self> {
        let (clock, ids) = (Arc::new(SystemClock), Arc::new(SystemIds::default()));
        let asks_for_keys = role != Role::Worker && keys_required(config)?;
        let policy = policy(&config.queue);
        let until = Instant::now() + Duration::from_secs(config.server.start_patience_secs);
        let wait = StoreWait { until, gate };
        let disk = watched_folder(config).map(|folder| Arc::new(FolderDisk::under(folder)) as Arc<dyn Disk>);
        let Some(url) = &config.redis.url else {
            anyhow::ensure!(
                role == Role::Serve,
                "redis.url is not set: API nodes and workers meet in a Redis (VERBATIM__REDIS__URL=redis://host:6379); \
                 `verbatim serve` runs everything in one process without one"
            );
            let folder = config.storage.data_dir.clone();
            let store = SqliteStore::open(SqliteConfig {
                folder: folder.clone(),
                policy,
                clock: clock.clone(),
                ids: ids.clone(),
            })?;
            let store = Arc::new(store);
            let (own_blobs, bucket) = open_own_blobs(role, config, store.clone(), &wait).await?;
            return Ok(Self {
                jobs: store.clone(),
                leases: store.clone(),
                upkeep: store.clone(),
                admin: store.clone(),
                owner: store.clone(),
                shared: store.clone(),
                ledger: store.clone(),
                limiter: store,
                directory: if asks_for_keys {
                    Some(Arc::new(SqliteDirectory::open(&folder, clock.clone())?))
                } else {
                    None
                },
                registry: None,
                redis: None,
                blobs: own_blobs.clone(),
                own_blobs,
                bucket,
                disk,
                clock,
                ids,
                metrics,
            });
        };
        let connect = async || {
            let connecting = RedisStore::connect(RedisConfig {
                url: url.expose().to_owned(),
                prefix: config.redis.prefix.clone(),
                policy,
                ids: ids.clone(),
            });
            // Boxed: its futures are nested too deeply to lie within ours.
            connecting.boxed().await
        };
        let store = wait.open(|_| NO_JOB_STORE, connect).await;
        let store = store.with_context(|| format!("cannot work with {}", url.redacted()))?;
        let store = Arc::new(store);
        let (own_blobs, bucket) = open_own_blobs(role, config, store.clone(), &wait).await?;
        Ok(Self {
            jobs: store.clone(),
            leases: store.clone(),
            upkeep: store.clone(),
            admin: store.clone(),
            owner: store.clone(),
            directory: asks_for_keys.then(|| store.clone() as _),
            registry: Some(store.clone()),
            redis: Some(store.clone()),
            shared: store.clone(),
            ledger: store.clone(),
            limiter: store,
            blobs: own_blobs.clone(),
            own_blobs,
            bucket,
            disk,
            clock,
            ids,
            metrics,
        })
    }

    /// What engines reach the outside through.
    pub(super) fn engine_ports(&self) -> EnginePorts {
        EnginePorts {
            shared: self.shared.clone(),
            ledger: Some(self.ledger.clone()),
            blobs: Some(self.blobs.clone()),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Waits, at the end of the process, until nothing half-written is left in the bucket.
    pub(super) async fn settle(&self) {
        if let Some(bucket) = &self.bucket
            && tokio::time::timeout(SETTLE, bucket.settle()).await.is_err()
        {
            tracing::warn!("uploads that were given up are left to the maintenance");
        }
    }
}

/// The folder that grows with the work: that of the blobs, else that of the job store.
fn watched_folder(config: &Config) -> Option<PathBuf> {
    match (&config.s3.bucket, &config.redis.url) {
        (None, _) => Some(blob_folder(config)),
        (Some(_), None) => Some(config.storage.data_dir.clone()),
        (Some(_), Some(_)) => None,
    }
}

/// Where audio and results lie when they lie in a folder.
pub(crate) fn blob_folder(config: &Config) -> PathBuf {
    config.storage.data_dir.join("blobs")
}

/// The job store's own part of the blob store that the configuration names. Its first marker is made by a node that takes jobs
/// in: a worker may see the wrong place.
async fn open_own_blobs(
    role: Role,
    config: &Config,
    owner: Arc<dyn BlobOwner>,
    wait: &StoreWait<'_>,
) -> anyhow::Result<(Arc<OwnedBlobs>, Option<Arc<S3Store>>)> {
    let open = async || {
        let Identity { id, mark } = owner.identity().await?;
        let marker = (mark > 0).then(|| BlobKey::marker(&id));
        let (blobs, bucket) = open_blobs(config, marker.as_ref()).await?;
        let own = OwnedBlobs::open(blobs, owner.clone()).await?;
        if mark == 0 && role != Role::Worker {
            own.mark(Duration::from_secs(config.upkeep.orphan_age_secs)).await?;
        }
        Ok((Arc::new(own), bucket))
    };
    let reason =
        |error: &PortError| if MarkerMissing::is_source_of(error) { OTHER_BLOB_STORE } else { NO_BLOB_STORE };
    Ok(wait.open(reason, open).await?)
}

/// The blob store that the configuration names, where this marker must be, if there is one.
pub(crate) async fn open_blobs(
    config: &Config,
    marker: Option<&BlobKey>,
) -> Result<(Arc<dyn BlobStore>, Option<Arc<S3Store>>), PortError> {
    let Some(bucket) = config.s3.bucket.clone() else {
        let folder = blob_folder(config);
        if config.redis.url.is_some() {
            tracing::info!(folder = %folder.display(), "audio and results lie in a folder; all nodes must share it");
        }
        let store = match marker {
            Some(marker) => FolderStore::open_marked(folder, marker)?,
            None => FolderStore::open(folder)?,
        };
        return Ok((Arc::new(store), None));
    };
    let key = config.s3.access_key_id.as_ref().zip(config.s3.secret_access_key.as_ref());
    let s3 = S3Config {
        bucket,
        endpoint: config.s3.endpoint.clone(),
        region: config.s3.region.clone(),
        path_style: config.s3.path_style,
        prefix: config.s3.prefix.clone(),
        credentials: key.map(|(id, secret)| (id.expose().to_owned(), secret.expose().into())),
    };
    // Boxed: the SDK's futures are nested too deeply to lie within ours.
    let store = Arc::new(S3Store::open(s3).boxed().await?);
    Ok((store.clone(), Some(store)))
}

fn policy(queue: &QueueConfig) -> StorePolicy {
    StorePolicy {
        retry: RetryPolicy {
            max_attempts: queue.max_attempts,
            max_crashes: queue.max_crashes,
            ..RetryPolicy::default()
        },
        dedupe_ttl: Duration::from_secs(queue.dedupe_ttl_secs),
        result_retention: Duration::from_secs(queue.result_retention_secs),
        idempotency_ttl: Duration::from_secs(queue.idempotency_ttl_secs),
        max_age: Duration::from_secs(queue.max_age_secs),
        max_waiting: (queue.max_queued > 0).then_some(queue.max_queued),
        max_remembered: (queue.max_remembered_per_tenant > 0).then_some(queue.max_remembered_per_tenant),
        max_remembered_of_all: (queue.max_remembered > 0).then_some(queue.max_remembered),
    }
}
