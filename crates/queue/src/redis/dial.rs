//! How a connection to Redis is made: to one server, to the master that sentinels name, or to a cluster. None of them waits
//! for the other side without a bound, and the kernel gives up a peer that is gone in seconds instead of a quarter of an hour.

use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value, cmd};

use super::address::{Address, Sentinels};
use super::sentinel;

/// How long one connection may take to be made, its login included.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// How long a lane may take to be opened: sentinels are asked first, and may name a master that is gone; a cluster is asked
/// for its nodes.
pub(super) const OPEN: Duration = Duration::from_secs(4);
/// How long an answer may take. Redis stalls for seconds while a slow disk takes its log.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long the kernel waits for a peer to acknowledge what was sent.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// How long a connection may be idle before the kernel asks the peer whether it is there, and how often it asks again.
const PROBE: Duration = Duration::from_secs(5);
/// How often one command is sent within a cluster while its nodes answer that another one has the slot.
const CLUSTER_RETRIES: u32 = 4;

/// What every socket to Redis is set to. A host that lost power, or a router that forgot the connection, sends no reset.
pub(super) fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(2);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(UNACKNOWLEDGED)
}

/// How long connecting to one server and waiting for its answers may take.
pub(super) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER))
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

/// Makes the connections of a pool. One server's are made by `deadpool-redis`; its managers for Sentinel and Cluster take
/// neither time-outs nor settings of sockets.
pub(super) enum Dialer {
    Server(Box<deadpool_redis::Manager>),
    Sentinel(Sentinels),
    Cluster(Box<ClusterClient>),
}

impl Dialer {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the address makes no sense to the client.
    pub(super) fn new(address: &Address) -> RedisResult<Self> {
        Ok(match address {
            Address::Server(info) => {
                let manager = deadpool_redis::Manager::new_with_config(info.clone(), connection_config())?;
                Self::Server(Box::new(manager))
            }
            Address::Sentinel(known) => Self::Sentinel(known.clone()),
            Address::Cluster(nodes) => {
                let client = ClusterClientBuilder::new(nodes.clone())
                    .connection_timeout(CONNECT)
                    .response_timeout(ANSWER)
                    .overall_response_timeout(Some(ANSWER))
                    .retries(CLUSTER_RETRIES)
                    .tcp_settings(tcp_settings());
                Self::Cluster(Box::new(client.build()?))
            }
        })
    }
}

impl Manager for Dialer {
    type Type = Shared;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<Shared> {
        Ok(match self {
            Self::Server(manager) => Shared::Node(manager.create().await?),
            Self::Sentinel(known) => Shared::Node(sentinel::master(known).await?.1),
            Self::Cluster(client) => Shared::Cluster(client.get_async_connection().await?),
        })
    }

    /// Only a connection that answers is handed out again.
    async fn recycle(&self, conn: &mut Shared, _: &Metrics) -> RecycleResult<RedisError> {
        let answer = tokio::time::timeout(CONNECT, cmd("PING").query_async::<Value>(conn)).await;
        answer.map_err(|_| RecycleError::message("no answer to PING"))?.map_err(RecycleError::Backend)?;
        Ok(())
    }
}
