//! A cluster of the harness's own: Redis behind the proxy, API nodes and workers under supervision, blobs on a small disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::engine::{CHAOS, MODEL, NOTES};
use crate::node::{Exit, MakeCommand, Node, Signal};
use crate::proxy::Proxy;
use crate::redis_server::{RedisServer, look};
use crate::room::Room;
use crate::sentinel::Sentinel;

/// The variable that tells a process of the harness what it is: `api` or `worker`.
pub const ROLE: &str = "CHAOS_ROLE";
/// What all keys in Redis begin with.
pub const PREFIX: &str = "chaos";
/// How long a cluster may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The harness's own program, which the nodes run.
    pub program: PathBuf,
    /// API nodes.
    pub apis: usize,
    /// Workers.
    pub workers: usize,
    /// Jobs that a worker works on at once.
    pub concurrency: usize,
    /// Room for blobs.
    pub blobs_mb: u64,
    /// Options of Redis.
    pub redis: Vec<String>,
    /// Who may submit; everybody, without a key, where nobody is named.
    pub tenants: Vec<Tenant>,
    /// The models that the workers have, in turn: none does another's jobs.
    pub models: Vec<&'static str>,
    /// Jobs after which a worker restarts itself.
    pub max_jobs: u32,
    /// How long blobs stay that no job needs any more.
    pub grace_secs: u32,
    /// Whether Redis has a copy and a sentinel. Nodes talk to it past the proxy then.
    pub sentinel: bool,
}

/// A tenant and its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: &'static str,
    /// How many of its jobs may run at once.
    pub max_running: Option<u64>,
}

impl Settings {
    /// Two API nodes and four workers.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let (apis, workers, concurrency, blobs_mb) = (2, 4, 4, 128);
        let (redis, tenants, models) = (Vec::new(), Vec::new(), vec![CHAOS]);
        let program = program.into();
        Self {
            program,
            apis,
            workers,
            concurrency,
            blobs_mb,
            redis,
            tenants,
            models,
            max_jobs: 500,
            // A run looks at what is left when it is over.
            grace_secs: 1,
            sentinel: false,
        }
    }

    /// As [`Self::new`], as mixed as a cluster may be: tenants, one of them with a cap, workers that cannot do each other's
    /// jobs, and restarts of workers all the time.
    pub fn mixed(program: impl Into<PathBuf>) -> Self {
        let tenants = vec![
            Tenant { name: "free", max_running: None },
            Tenant { name: "capped", max_running: Some(3) },
            Tenant { name: "other", max_running: None },
        ];
        Self { tenants, models: vec![CHAOS, "chaos-b"], max_jobs: 12, ..Self::new(program) }
    }
}

/// The lease of every job.
pub const LEASE: Duration = Duration::from_secs(3);

/// The cluster. Its processes end when it is dropped.
pub struct Cluster {
    /// API nodes.
    pub apis: Vec<Node>,
    /// Workers.
    pub workers: Vec<Node>,
    /// The line to Redis.
    pub proxy: Proxy,
    /// Redis itself.
    pub redis: Mutex<RedisServer>,
    /// The port of the master.
    redis_port: AtomicU16,
    sentinel: Option<Sentinel>,
    frozen: std::sync::Mutex<BTreeSet<usize>>,
    /// The disks.
    pub room: Room,
    /// What it was made of.
    pub settings: Settings,
    /// A key for each tenant.
    keys: Vec<String>,
    /// How the processes of nodes that were stopped since have ended, by their log.
    pub ends: BTreeMap<PathBuf, Exit>,
    /// Logs of the processes that were frozen beyond their lease.
    pub zombies: std::sync::Mutex<BTreeSet<PathBuf>>,
    folder: PathBuf,
}

impl Cluster {
    /// Starts one with its data and logs in this folder, and waits until it takes jobs.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub async fn start(folder: &Path, settings: Settings) -> Result<Self> {
        let logs = folder.join("logs");
        let model = folder.join("chaos");
        for new in [&logs, &model, &folder.join("notes")] {
            std::fs::create_dir_all(new)?;
        }
        // What a folder needs to pass for a model.
        for file in ["config.json", "model.bin", "vocabulary.txt"] {
            std::fs::write(model.join(file), "")?;
        }
        let room = Room::open(folder, settings.blobs_mb).await?;
        let redis = RedisServer::start(&room, &logs, &settings.redis).await?;
        let proxy = Proxy::start(redis.port()).await?;
        let redis_port = AtomicU16::new(redis.port());
        let sentinel = match settings.sentinel {
            true => Some(Sentinel::start(redis.port(), folder).await?),
            false => None,
        };
        let (apis, workers) = (Vec::new(), Vec::new());
        let redis = Mutex::new(redis);
        let folder = folder.to_owned();
        let mut cluster = Self {
            apis,
            workers,
            proxy,
            redis,
            redis_port,
            sentinel,
            frozen: Default::default(),
            room,
            settings,
            keys: Vec::new(),
            ends: BTreeMap::new(),
            zombies: Default::default(),
            folder,
        };
        for tenant in cluster.settings.tenants.clone() {
            let key = cluster.make_key(tenant).await?;
            cluster.keys.push(key);
        }
        for number in 0..cluster.settings.workers {
            let models = &cluster.settings.models;
            let model = models.get(number % models.len().max(1)).copied().unwrap_or(CHAOS);
            let node = cluster.node("worker", number, &[(MODEL, model)]);
            cluster.workers.push(node);
        }
        for number in 0..cluster.settings.apis {
            let node = cluster.node("api", number, &[]);
            cluster.apis.push(node);
        }
        cluster.until_ready().await?;
        Ok(cluster)
    }

    /// Makes a key, as an operator does.
    async fn make_key(&self, tenant: Tenant) -> Result<String> {
        let mut command = self.room.inside().command(&self.settings.program);
        command.envs(self.environment("api", &[])).args(["keys", "create", "--tenant", tenant.name]);
        if let Some(most) = tenant.max_running {
            command.args(["--max-running", &most.to_string()]);
        }
        let made = command.output().await?;
        ensure!(made.status.success(), "no key: {}", String::from_utf8_lossy(&made.stderr));
        Ok(String::from_utf8(made.stdout)?.trim().to_owned())
    }

    /// The key of this tenant, where callers need one.
    pub fn key(&self, tenant: usize) -> Option<&str> {
        self.keys.get(tenant).map(String::as_str)
    }

    fn node(&self, role: &'static str, number: usize, more: &[(&'static str, &'static str)]) -> Node {
        let settings = self.environment(role, more);
        let (program, id) = (self.settings.program.clone(), self.room.inside());
        let make: MakeCommand = Box::new(move || {
            let mut command = id.command(&program);
            command.envs(settings.iter().map(|(name, value)| (name, value)));
            command
        });
        Node::start(&format!("{role}-{number}"), &self.logs(), make)
    }

    fn environment(&self, role: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let redis = match &self.sentinel {
            Some(sentinel) => sentinel.url(),
            None => format!("redis://127.0.0.1:{}", self.proxy.port()),
        };
        let (concurrency, max_jobs) =
            (self.settings.concurrency.to_string(), self.settings.max_jobs.to_string());
        let grace = self.settings.grace_secs.to_string();
        let keys = (!self.settings.tenants.is_empty()).to_string();
        let (data, model, notes, lease) =
            (path("data"), path("chaos"), path("notes"), LEASE.as_secs().to_string());
        let mut all = vec![
            (ROLE, role),
            (NOTES, &notes),
            ("VERBATIM__REDIS__URL", &redis),
            ("VERBATIM__REDIS__PREFIX", PREFIX),
            ("VERBATIM__STORAGE__DATA_DIR", &data),
            // A node that is started to sweep is to get its turn soon.
            ("VERBATIM__UPKEEP__SWEEP_INTERVAL_SECS", "1"),
            // The disk is to be full at times, and not only nearly.
            ("VERBATIM__STORAGE__MIN_FREE_DISK_MB", "0"),
            ("VERBATIM__SERVER__LISTEN", "127.0.0.1:0"),
            ("VERBATIM__AUTH__REQUIRED", &keys),
            // With keys there would be limits on requests, and a run would wait for them.
            ("VERBATIM__LIMITS__PER_TENANT_PER_MINUTE", "0"),
            ("VERBATIM__LIMITS__PROJECT_PER_MINUTE", "0"),
            ("VERBATIM__LIMITS__PER_IP_PER_MINUTE", "0"),
            ("VERBATIM__LOG__FORMAT", "json"),
            ("VERBATIM__LOG__FILTER", "info"),
            // The harness's engine comes in where a local one would.
            ("VERBATIM__WORKER__ENGINES", "whisper"),
            ("VERBATIM__WHISPER__MODEL", &model),
            ("VERBATIM__WORKER__CONCURRENCY", &concurrency),
            ("VERBATIM__WORKER__LEASE_SECS", &lease),
            ("VERBATIM__WORKER__RENEW_SECS", "1"),
            ("VERBATIM__WORKER__POLL_MS", "200"),
            ("VERBATIM__UPKEEP__DELETE_GRACE_SECS", &grace),
            ("VERBATIM__WORKER__DRAIN_SECS", "5"),
            ("VERBATIM__WORKER__STORAGE_PATIENCE_SECS", "1"),
            ("VERBATIM__WORKER__MAX_JOBS_PER_WORKER", &max_jobs),
        ];
        all.extend(more);
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Where the logs are.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Asks Redis something, past the proxy.
    ///
    /// # Errors
    /// As [`look`].
    pub async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut redis::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        look(self.redis_port.load(Ordering::Relaxed), ask).await
    }

    /// Waits until Redis's copy is the master.
    ///
    /// # Errors
    /// When there is no sentinel, or it does not see to that in time.
    pub async fn until_replaced(&self) -> Result<()> {
        let sentinel = self.sentinel.as_ref().context("there is a sentinel")?;
        sentinel.until_replaced().await?;
        self.redis_port.store(sentinel.replica_port(), Ordering::Relaxed);
        Ok(())
    }

    async fn until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for api in &self.apis {
            loop {
                if let Some(url) = api.url()
                    && let Ok(answer) = reqwest::get(format!("{url}/readyz")).await
                    && answer.status().is_success()
                    && self.knows_every_model(&url).await
                {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "{} is not ready; look at {}",
                    api.name(),
                    api.log().display()
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Whether this node has heard of the workers of each kind.
    async fn knows_every_model(&self, url: &str) -> bool {
        let mut request = reqwest::Client::new().get(format!("{url}/v1/models"));
        if let Some(key) = self.key(0) {
            request = request.bearer_auth(key);
        }
        let Ok(answer) = request.send().await else { return false };
        let known = answer.text().await.unwrap_or_default();
        self.settings.models.iter().all(|model| known.contains(&format!("\"{model}\"")))
    }

    /// SIGKILL of Redis, and its start after this time.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart_redis(&self, down: Duration) -> Result<()> {
        let mut redis = self.redis.lock().await;
        redis.kill().await?;
        tokio::time::sleep(down).await;
        redis.launch(&self.room).await
    }

    /// Lets Redis keep what it has written until now.
    ///
    /// # Errors
    /// As [`RedisServer::remember`].
    pub async fn remember_redis(&self) -> Result<()> {
        self.redis.lock().await.remember(&self.room).await
    }

    /// SIGKILL of Redis, and its start without what it has written since it was told to remember: as after a power failure,
    /// or on a copy that was behind.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn turn_redis_back(&self) -> Result<()> {
        let mut redis = self.redis.lock().await;
        redis.kill().await?;
        redis.turn_back(&self.room).await?;
        redis.launch(&self.room).await
    }

    /// SIGSTOP of Redis for this time.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn freeze_redis(&self, time: Duration) -> Result<()> {
        let redis = self.redis.lock().await;
        redis.signal(Signal::Stop).await?;
        tokio::time::sleep(time).await;
        redis.signal(Signal::Cont).await
    }

    /// The id of the worker in this node, once its log tells.
    pub fn worker_id(&self, number: usize) -> Option<String> {
        let log = std::fs::read_to_string(self.workers.get(number)?.log()).ok()?;
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        // It restarts itself in the same process, and each image has an id of its own.
        let started = lines.rfind(|line| line["message"] == "worker started")?;
        let id = started["worker.id"].as_str()?.to_owned();
        id.strip_prefix("worker_").map(str::to_owned)
    }

    /// How many jobs this worker holds.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn held_by(&self, number: usize) -> Result<usize> {
        let id = self.worker_id(number).context("the worker has not told its id yet")?;
        let key = format!("{{{PREFIX}}}:r:{id}");
        self.look(move |redis| Ok(redis::cmd("SCARD").arg(key).query(redis)?)).await
    }

    /// SIGTERM of every node, and the wait for their ends. How they ended, by name.
    ///
    /// # Errors
    /// When one could not be supervised.
    pub async fn stop_nodes(&mut self) -> Result<Vec<(String, Option<Exit>)>> {
        for node in self.workers.iter().chain(&self.apis) {
            self.ends.extend(node.ends());
        }
        let nodes = self.workers.drain(..).chain(self.apis.drain(..));
        let stops = nodes.map(|node| async move {
            let name = node.name().to_owned();
            node.stop().await.map(|exit| (name, exit))
        });
        futures::future::join_all(stops).await.into_iter().collect()
    }

    /// One API node more, which looks for orphaned blobs every second and spares none for its youth.
    pub fn start_sweeper(&mut self) {
        let eager = [("VERBATIM__UPKEEP__ORPHAN_AGE_SECS", "1")];
        let sweeper = self.node("api", 100, &eager);
        self.apis.push(sweeper);
    }

    /// The workers that are frozen now: a zombie that is killed in its sleep would prove nothing.
    pub fn frozen<T>(&self, look: impl FnOnce(&mut BTreeSet<usize>) -> T) -> T {
        look(&mut self.frozen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This worker, or the next one that is not frozen.
    pub fn awake(&self, number: usize) -> usize {
        let all = self.workers.len();
        self.frozen(|frozen| {
            (number..number + all).map(|node| node % all).find(|node| !frozen.contains(node))
        })
        .unwrap_or(number % all)
    }

    /// Sends a signal to a node when it runs.
    pub async fn signal(nodes: &[Node], number: usize, signal: Signal) -> bool {
        match nodes.get(number) {
            Some(node) => node.signal(signal).await,
            None => false,
        }
    }
}
