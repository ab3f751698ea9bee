//! The job store of a cluster: one Redis (a server, a master behind sentinels, or a cluster) that every node reaches.
//! Each operation is one Lua script, and so one atomic step; `lua/common.lua` lists the keys.

mod address;
mod admin;
mod client;
mod directory;
mod error;
mod events;
mod finishes;
mod health;
mod leases;
mod ledger;
mod limiter;
mod link;
mod news;
mod record;
mod registry;
mod scripts;
mod shared_state;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use redis::{Script, ScriptInvocation};
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::Clock;

use address::Address;
use finishes::Finishes;
use link::Link;
use news::News;

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
    news: News,
    finishes: Finishes,
    policy: StorePolicy,
    ids: Arc<dyn IdSource>,
}

/// What every call goes through.
struct Wire {
    link: Link,
    /// `{prefix}:`. The braces keep all keys in one slot of a Redis Cluster.
    prefix: String,
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
        let link = Link::new(&address)?;
        health::check(&link, &prefix).await?;
        let news = News::start(address, &prefix);
        let wire = Arc::new(Wire { link, prefix, clock });
        let finishes = Finishes::start(&wire, policy.result_retention);
        Ok(Self(Arc::new(Inner { wire, news, finishes, policy, ids })))
    }
}

impl Wire {
    /// A call of this script with the arguments that every script has.
    fn call<'s>(&self, script: &'s Script) -> ScriptInvocation<'s> {
        let mut call = script.key(self.prefix.as_str());
        match &self.clock {
            Some(clock) => call.arg(clock.now().as_millis()),
            None => call.arg(""),
        };
        call
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
