//! The job store of a cluster: one Redis (a server, a master behind sentinels, or a cluster) that every node reaches.
//! Each operation is one Lua script, and so one atomic step; `lua/common.lua` lists the keys.

mod address;
mod admin;
mod client;
mod dial;
mod directory;
mod error;
mod events;
mod finishes;
mod health;
mod identity;
mod layout;
mod leases;
mod ledger;
mod limiter;
mod link;
mod news;
mod owner;
mod record;
mod registry;
mod scripts;
mod sentinel;
mod shared_state;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use redis::{Script, ScriptInvocation};
use tokio::sync::watch;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::Clock;

use address::Address;
use finishes::Finishes;
use identity::Identity;
use link::Link;
use news::News;
use upkeep::{Turn, Walk};

use crate::checkpoints::Checkpoints;

pub use identity::StoreCondition;

/// "For ever" in milliseconds: times stay whole numbers in Lua, two centuries on.
const FOR_EVER: u128 = 9_000_000_000_000;

/// Where the store lies and by which rules it works.
pub struct RedisConfig {
    /// `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`; may hold a password.
    pub url: String,
    /// What all keys begin with: several services can share one Redis.
    pub prefix: String,
    /// The rules.
    pub policy: StorePolicy,
    /// Where jitter comes from.
    pub ids: Arc<dyn IdSource>,
}

/// The job store, and what else a cluster shares, on one Redis. Clones share it.
#[derive(Clone)]
pub struct RedisStore(Arc<Inner>);

/// Behind every [`RedisStore`].
struct Inner {
    wire: Arc<Wire>,
    identity: Identity,
    news: News,
    finishes: Finishes,
    checkpoints: Checkpoints,
    turn: Arc<Turn>,
    walk: tokio::sync::Mutex<Walk>,
    /// When this process connected.
    started: tokio::time::Instant,
    policy: StorePolicy,
    ids: Arc<dyn IdSource>,
}

/// What every call goes through.
struct Wire {
    link: Link,
    /// `{prefix}:`. The braces keep all keys in one slot of a Redis Cluster.
    prefix: String,
    /// The key that exists as long as the queue does.
    root: String,
    /// The server's own time when absent.
    clock: Option<Arc<dyn Clock>>,
}

impl RedisStore {
    /// Connects, and checks that this Redis may be trusted with jobs.
    ///
    /// # Errors
    /// With a sentence that says what to do: `Invalid` for a URL that makes no sense, a Redis that is too old or evicts,
    /// and data of another version; `Internal` for a wrong login; `Unavailable` when it cannot be reached.
    pub async fn connect(config: RedisConfig) -> Result<Self, PortError> {
        Self::open(config, None).await
    }

    /// The same on the time of `clock`: for tests that move it.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with_clock(config: RedisConfig, clock: Arc<dyn Clock>) -> Result<Self, PortError> {
        Self::open(config, Some(clock)).await
    }

    async fn open(config: RedisConfig, clock: Option<Arc<dyn Clock>>) -> Result<Self, PortError> {
        let RedisConfig { url, prefix, policy, ids } = config;
        let address = Address::parse(&url)?;
        let prefix = format!("{{{prefix}}}:");
        let wire =
            Arc::new(Wire { link: Link::new(&address)?, root: format!("{prefix}layout"), prefix, clock });
        let id = health::check(&wire, ids.as_ref()).await.map_err(error::at_start)?;
        let turn = Arc::new(Turn::of(ids.ulid()));
        let news = News::start(address, &wire.prefix, &turn);
        let identity = Identity::start(&wire, &ids, id);
        let finishes = Finishes::start(&wire, policy.result_retention);
        let inner = Inner {
            wire,
            identity,
            news,
            finishes,
            checkpoints: Checkpoints::default(),
            turn,
            walk: tokio::sync::Mutex::default(),
            started: tokio::time::Instant::now(),
            policy,
            ids,
        };
        Ok(Self(Arc::new(inner)))
    }
}

impl RedisStore {
    /// Which store this is: 26 characters, made with it. It changes when Redis comes back empty or with other data.
    #[must_use]
    pub fn store_id(&self) -> String {
        self.0.identity.condition().borrow().id.clone()
    }

    /// What is known of the store, kept up to date while the process runs.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<StoreCondition> {
        self.0.identity.condition()
    }

    /// How many connections this process has given up because nobody answered on them.
    #[must_use]
    pub fn connections_given_up(&self) -> u64 {
        self.0.wire.link.given_up()
    }
}

impl Wire {
    /// A call of this script with the arguments that every script has.
    fn call<'s>(&self, script: &'s Script) -> ScriptInvocation<'s> {
        let mut call = script.key(self.root());
        match &self.clock {
            Some(clock) => call.arg(clock.now().as_millis()),
            None => call.arg(""),
        };
        call
    }

    fn root(&self) -> &str {
        &self.root
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// A duration as scripts take it.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis().min(FOR_EVER)).unwrap_or(u64::MAX)
}

/// A failure as scripts keep it.
fn json<T: serde::Serialize>(value: &T) -> Result<String, PortError> {
    serde_json::to_string(value).map_err(|error| error::corrupt("what is to be written").with_source(error))
}
