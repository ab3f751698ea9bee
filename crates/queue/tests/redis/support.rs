//! What the tests of the Redis store share.

use std::sync::Arc;

use async_trait::async_trait;
use verbatim_core::PortError;
use verbatim_core::ids::IdSource;
use verbatim_core::policy::StorePolicy;
use verbatim_core::time::Clock;
use verbatim_queue::conformance::{Harness, Verdict, Violation};
use verbatim_queue::{RedisConfig, RedisStore};

use crate::access;
use crate::audit::audit;
use crate::server::RedisServer;

/// A Redis, shared or of the test's own, and a prefix that nobody else uses.
pub(crate) struct RedisHarness {
    url: String,
    /// Where a plain connection reaches the same keys.
    plain: String,
    prefix: String,
    own: Option<RedisServer>,
}

/// A name that no other test and no other run has.
pub(crate) fn unique_prefix() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux gives random names");
    format!("test-{}", uuid.trim())
}

impl RedisHarness {
    pub(crate) fn new() -> Self {
        match std::env::var("VERBATIM_TEST_REDIS_URL") {
            Ok(url) => Self::at(&url),
            Err(_) => {
                let own = RedisServer::start(&[]);
                let mut at = Self::at(&own.url());
                at.url = at.as_user(&access::node_rules(&at.prefix));
                at.owning(own)
            }
        }
    }

    /// On this Redis.
    pub(crate) fn at(url: &str) -> Self {
        Self::at_through(url, url)
    }

    /// On the Redis that `plain` reaches too.
    pub(crate) fn at_through(url: &str, plain: &str) -> Self {
        Self { url: url.to_owned(), plain: plain.to_owned(), prefix: unique_prefix(), own: None }
    }

    /// With the prefix of another harness: a second node of its service.
    pub(crate) fn named_as(mut self, other: &Self) -> Self {
        self.prefix.clone_from(&other.prefix);
        self
    }

    fn owning(mut self, server: RedisServer) -> Self {
        self.own = Some(server);
        self
    }

    /// Makes a user with these rules, and says by which URL it logs in.
    pub(crate) fn as_user(&self, rules: &str) -> String {
        let mut beside = self.beside();
        let mut made = redis::cmd("ACL");
        made.arg("SETUSER").arg("verbatim").arg("reset").arg("on").arg(">secret");
        made.arg(rules.split_whitespace().collect::<Vec<_>>());
        made.exec(&mut beside).expect("Redis takes the rules");
        self.plain.replacen("redis://", "redis://verbatim:secret@", 1)
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn config(&self, policy: StorePolicy, ids: Arc<dyn IdSource>) -> RedisConfig {
        RedisConfig { url: self.url.clone(), prefix: self.prefix.clone(), policy, ids }
    }

    /// A connection beside the store.
    pub(crate) fn beside(&self) -> redis::Connection {
        let client = redis::Client::open(self.plain.as_str()).expect("the URL is one");
        client.get_connection().expect("Redis answers")
    }

    /// Removes what the test left.
    fn sweep(&self) -> redis::RedisResult<()> {
        let mut beside = redis::Client::open(self.plain.as_str())?.get_connection()?;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(format!("{{{}}}:*", self.prefix)).query(&mut beside)?;
        for key in keys {
            redis::cmd("UNLINK").arg(key).exec(&mut beside)?;
        }
        Ok(())
    }
}

impl Drop for RedisHarness {
    fn drop(&mut self) {
        if self.own.is_none() {
            // Whoever shares the Redis can still tell our keys by their prefix.
            let _ = self.sweep();
        }
    }
}

/// So often Redis has done this, in scripts too.
pub(crate) fn calls(redis: &mut redis::Connection, command: &str) -> anyhow::Result<u64> {
    let info: String = redis::cmd("INFO").arg("commandstats").query(redis)?;
    let start = format!("cmdstat_{command}:calls=");
    let of = |line: &str| line.strip_prefix(&start)?.split(',').next()?.parse().ok();
    Ok(info.lines().find_map(of).unwrap_or(0))
}

#[async_trait]
impl Harness for RedisHarness {
    type Store = RedisStore;

    async fn fresh(
        &self,
        policy: StorePolicy,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
    ) -> Result<RedisStore, PortError> {
        RedisStore::connect_with_clock(self.config(policy, ids), clock).await
    }

    async fn audit(&self, _store: &RedisStore) -> Verdict {
        let mut beside = self.beside();
        let refused = access::refused(&mut beside).map_err(|error| Violation::new(error.to_string()))?;
        if self.own.is_some() && !refused.is_empty() {
            return Err(Violation::new(format!(
                "the rules of a node's user refused: {}",
                refused.join(", ")
            )));
        }
        audit(&mut beside, &self.prefix).map_err(|error| Violation::new(format!("{error:#}")))
    }
}
