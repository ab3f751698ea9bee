//! The connections. Each of a few lanes holds one pooled connection that all callers share, so that calls of one moment
//! travel together; a connection that broke is given back to the pool, which drops it and opens another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::cluster::Pool as ClusterPool;
use deadpool_redis::sentinel::Pool as SentinelPool;
use deadpool_redis::{Pool as ServerPool, PoolError};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError, RedisFuture, ScriptInvocation, Value,
};
use verbatim_core::{ErrorKind, PortError};

use super::address::Address;
use super::error;

/// Connections of a process. More of them spread the work of one process over several of Redis's sockets; a few do.
const LANES: usize = 4;
/// How often a script is loaded anew for one call.
const MOST_LOADS: u32 = 10;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an answer may take. Redis stalls for seconds while a slow disk takes its log.
const ANSWER: Duration = Duration::from_secs(5);

enum Pool {
    Server(ServerPool),
    Sentinel(SentinelPool),
    Cluster(ClusterPool),
}

/// What keeps a connection's place in its pool.
enum Pooled {
    Server(#[expect(dead_code, reason = "held for its place in the pool")] deadpool_redis::Connection),
    Sentinel(
        #[expect(dead_code, reason = "held for its place in the pool")] deadpool_redis::sentinel::Connection,
    ),
    Cluster(
        #[expect(dead_code, reason = "held for its place in the pool")] deadpool_redis::cluster::Connection,
    ),
}

/// A connection; clones share it.
#[derive(Clone)]
pub(super) enum Shared {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Shared {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Node(conn) => conn.req_packed_command(cmd),
            Self::Cluster(conn) => conn.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Node(conn) => conn.req_packed_commands(cmd, offset, count),
            Self::Cluster(conn) => conn.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Node(conn) => conn.get_db(),
            Self::Cluster(conn) => conn.get_db(),
        }
    }
}

#[derive(Clone, Copy)]
enum Ask<'a> {
    Script(&'a ScriptInvocation<'a>),
    Command(&'a Cmd),
}

/// One lane's connection.
struct Lane {
    shared: Shared,
    /// Tells this connection from the one that took its place.
    number: usize,
    _pooled: Pooled,
}

/// The connections of a process to one Redis.
pub(super) struct Link {
    pool: Pool,
    lanes: [Mutex<Option<Lane>>; LANES],
    next: AtomicUsize,
    opened: AtomicUsize,
}

fn locked(lane: &Mutex<Option<Lane>>) -> MutexGuard<'_, Option<Lane>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long connecting and answering may take.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER))
}

impl Link {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the address makes no sense to the client.
    pub(super) fn new(address: &Address) -> Result<Self, PortError> {
        let pool = pool(address).map_err(|error| {
            PortError::new(ErrorKind::Invalid, "redis.url cannot be used").with_source(error)
        })?;
        let lanes = [const { Mutex::new(None) }; LANES];
        Ok(Self { pool, lanes, next: AtomicUsize::new(0), opened: AtomicUsize::new(0) })
    }

    /// Runs a script.
    ///
    /// # Errors
    /// As [`error::from_redis`] tells them apart.
    pub(super) async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, PortError> {
        self.ask(Ask::Script(script)).await
    }

    /// Runs one command that can be repeated.
    ///
    /// # Errors
    /// As [`error::from_redis`] tells them apart.
    pub(super) async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, PortError> {
        self.ask(Ask::Command(command)).await
    }

    /// All that is asked can be repeated, so that a connection that turns out to be broken costs no more than another try
    /// on a fresh one.
    async fn ask<T: FromRedisValue>(&self, what: Ask<'_>) -> Result<T, PortError> {
        // Whether a try broke off, and so may have taken effect: whatever the next one meets, that stays unknown.
        let mut broke_off = false;
        let mut loads = 0;
        let lane = self.next.fetch_add(1, Ordering::Relaxed) % LANES;
        loop {
            let open = self.connection(lane).await;
            let (mut shared, number) =
                open.map_err(|error| if broke_off { error.outcome_unknown() } else { error })?;
            let answer = match what {
                Ask::Script(script) => script.invoke_async(&mut shared).await,
                Ask::Command(command) => command.query_async(&mut shared).await,
            };
            let failure = match answer {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            // Forgotten again between the loading and the call: nothing was done.
            if failure.code() == Some("NOSCRIPT") && loads < MOST_LOADS {
                loads += 1;
                continue;
            }
            let broken = is_broken(&failure);
            if broken {
                self.drop_lane(lane, number);
            }
            if broken && !broke_off {
                broke_off = true;
                continue;
            }
            let error = error::from_redis(failure);
            return Err(if broke_off { error.outcome_unknown() } else { error });
        }
    }

    /// The connection of this lane and its number, opened where there is none.
    async fn connection(&self, lane: usize) -> Result<(Shared, usize), PortError> {
        if let Some(open) = locked(&self.lanes[lane]).as_ref() {
            return Ok((open.shared.clone(), open.number));
        }
        let opening = tokio::time::timeout(CONNECT, self.open());
        let (shared, pooled) = opening.await.map_err(|_| error::unreachable())??;
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let mut place = locked(&self.lanes[lane]);
        // Somebody else may have been quicker; the pool takes the surplus back.
        if place.is_none() {
            *place = Some(Lane { shared: shared.clone(), number, _pooled: pooled });
        }
        Ok((shared, number))
    }

    async fn open(&self) -> Result<(Shared, Pooled), PortError> {
        Ok(match &self.pool {
            Pool::Server(pool) => {
                let conn = pool.get().await.map_err(not_opened)?;
                (Shared::Node((*conn).clone()), Pooled::Server(conn))
            }
            Pool::Sentinel(pool) => {
                let conn = pool.get().await.map_err(not_opened)?;
                let mut shared = (*conn).clone();
                shared.set_response_timeout(ANSWER);
                (Shared::Node(shared), Pooled::Sentinel(conn))
            }
            Pool::Cluster(pool) => {
                let conn = pool.get().await.map_err(not_opened)?;
                (Shared::Cluster((*conn).clone()), Pooled::Cluster(conn))
            }
        })
    }

    fn drop_lane(&self, lane: usize, number: usize) {
        let mut place = locked(&self.lanes[lane]);
        if place.as_ref().is_some_and(|open| open.number == number) {
            *place = None;
        }
    }
}

/// Whether the connection is of no more use: it broke, or leads to a server that is no master any more. A slow answer does
/// not count, for the next one may be fast.
fn is_broken(failure: &RedisError) -> bool {
    let demoted = matches!(failure.code(), Some("READONLY" | "MASTERDOWN"));
    demoted || (failure.is_connection_dropped() || failure.is_unrecoverable_error()) && !failure.is_timeout()
}

fn not_opened(failure: PoolError) -> PortError {
    match failure {
        PoolError::Backend(failure) => error::not_connected(failure),
        other => error::unreachable().with_source(other),
    }
}

fn pool(address: &Address) -> Result<Pool, Box<dyn std::error::Error + Send + Sync>> {
    Ok(match address {
        Address::Server(info) => {
            let manager = deadpool_redis::Manager::new_with_config(info.clone(), connection_config())?;
            Pool::Server(ServerPool::builder(manager).max_size(2 * LANES).build()?)
        }
        Address::Cluster(nodes) => {
            let manager = deadpool_redis::cluster::Manager::new(nodes.clone(), false)?;
            Pool::Cluster(ClusterPool::builder(manager).max_size(2 * LANES).build()?)
        }
        Address::Sentinel(known) => {
            let login = deadpool_redis::RedisConnectionInfo {
                db: known.login.db(),
                username: known.login.username().map(str::to_owned),
                password: known.login.password().map(str::to_owned),
                ..deadpool_redis::RedisConnectionInfo::default()
            };
            let node = deadpool_redis::sentinel::SentinelNodeConnectionInfo {
                tls_mode: known.tls.then_some(deadpool_redis::sentinel::TlsMode::Secure),
                redis_connection_info: Some(login),
            };
            let manager = deadpool_redis::sentinel::Manager::new(
                known.sentinels.clone(),
                known.master.clone(),
                Some(node),
                deadpool_redis::sentinel::SentinelServerType::Master,
            )?;
            Pool::Sentinel(SentinelPool::builder(manager).max_size(2 * LANES).build()?)
        }
    })
}
