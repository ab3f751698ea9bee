//! The master that sentinels name. All of them are asked at once, so that one that hangs costs nothing, and what most say
//! is tried first: one that was cut off from the others may go on naming a master that was replaced.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult, Value, cmd,
};

use super::address::Sentinels;
use super::dial::{connection_config, tcp_settings};

/// How long a sentinel may take to be reached and to answer.
const ASK: Duration = Duration::from_millis(1500);

/// The master and a connection to it.
///
/// # Errors
/// When no sentinel answers, none knows the master, or it cannot be reached or says itself that it is a replica.
pub(super) async fn master(known: &Sentinels) -> RedisResult<(Client, MultiplexedConnection)> {
    let mut failure = None;
    for (host, port) in named(known).await? {
        match connect(known, host, port).await {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| unknown(&known.master)))
}

async fn connect(known: &Sentinels, host: String, port: u16) -> RedisResult<(Client, MultiplexedConnection)> {
    let address = if known.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let info = address
        .into_connection_info()?
        .set_redis_settings(known.login.clone())
        .set_tcp_settings(tcp_settings());
    let client = Client::open(info)?;
    let mut conn = client.get_multiplexed_async_connection_with_config(&connection_config()).await?;
    // A login may not be allowed to ask; then a replica gives itself away by refusing the first write.
    let role: RedisResult<Vec<Value>> = cmd("ROLE").query_async(&mut conn).await;
    match role {
        Ok(role) if !is_master(&role) => {
            Err(RedisError::from((ErrorKind::Io, "the Redis that sentinels name is a replica still")))
        }
        Err(error) if error.is_io_error() => Err(error),
        _ => Ok((client, conn)),
    }
}

fn is_master(role: &[Value]) -> bool {
    matches!(role.first(), Some(Value::BulkString(name)) if name == b"master")
}

/// The addresses that sentinels give, those that most of them give first. As soon as more than half agree the others are
/// not waited for.
async fn named(known: &Sentinels) -> RedisResult<Vec<(String, u16)>> {
    let mut answers: FuturesUnordered<_> =
        known.sentinels.iter().map(|sentinel| ask(sentinel, &known.master)).collect();
    let mut failure = None;
    let mut votes: Vec<(usize, (String, u16))> = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(address)) => {
                let place = votes.iter().position(|(_, other)| *other == address).unwrap_or(votes.len());
                if place == votes.len() {
                    votes.push((0, address));
                }
                votes[place].0 += 1;
                if 2 * votes[place].0 > known.sentinels.len() {
                    break;
                }
            }
            Ok(None) => failure = Some(unknown(&known.master)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    votes.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    match failure {
        Some(failure) if votes.is_empty() => Err(failure),
        _ => Ok(votes.into_iter().map(|(_, address)| address).collect()),
    }
}

/// What one sentinel takes for the master; `None` where it knows no such name.
async fn ask(sentinel: &ConnectionInfo, name: &str) -> RedisResult<Option<(String, u16)>> {
    let bounds =
        AsyncConnectionConfig::new().set_connection_timeout(Some(ASK)).set_response_timeout(Some(ASK));
    let asking = async {
        let client = Client::open(sentinel.clone())?;
        let mut conn = client.get_multiplexed_async_connection_with_config(&bounds).await?;
        cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut conn).await
    };
    let silent = |_| RedisError::from((ErrorKind::Io, "a sentinel does not answer"));
    tokio::time::timeout(ASK, asking).await.map_err(silent)?
}

fn unknown(name: &str) -> RedisError {
    RedisError::from((ErrorKind::Io, "the sentinels know no master of this name", name.to_owned()))
}
