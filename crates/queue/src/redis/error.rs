//! What Redis's errors mean to the house.

use std::time::Duration;

use redis::RedisError;
use verbatim_core::{ErrorKind, PortError};

/// When to ask again while Redis is away, restarting or full.
const AGAIN: Duration = Duration::from_secs(5);

/// The answer of a server, or the lack of one. After a lost answer the outcome is unknown; what the server itself refused
/// was not done, because scripts check before they write.
pub(super) fn from_redis(failure: RedisError) -> PortError {
    let refused = match failure.code() {
        Some("OOM") => "Redis is full: it has reached its maxmemory",
        Some("MISCONF") => "Redis cannot write its log or snapshot and takes no writes; look at its disk",
        Some("LOADING") => "Redis is starting: it loads its data",
        Some("READONLY") => "this Redis is a replica; its master is changing",
        Some("MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "NOREPLICAS") => {
            "Redis is not able to answer now"
        }
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => {
            return login_refused(failure);
        }
        _ if failure.is_connection_refusal() => return not_connected(failure),
        _ if failure.is_timeout() || failure.is_io_error() || failure.is_connection_dropped() => {
            return PortError::new(ErrorKind::Unavailable, "Redis did not answer")
                .with_retry_after(AGAIN)
                .with_source(failure);
        }
        _ => {
            return PortError::new(ErrorKind::Internal, "Redis did not understand us").with_source(failure);
        }
    };
    PortError::new(ErrorKind::Unavailable, refused).refused().with_retry_after(AGAIN).with_source(failure)
}

fn login_refused(failure: RedisError) -> PortError {
    PortError::new(ErrorKind::Internal, "Redis refuses our login; look at redis.url").with_source(failure)
}

/// No connection could be made: certainly nothing was done.
pub(super) fn not_connected(failure: RedisError) -> PortError {
    match failure.code() {
        Some(_) => from_redis(failure),
        None if failure.kind() == redis::ErrorKind::AuthenticationFailed => login_refused(failure),
        None => unreachable().with_source(failure),
    }
}

/// No connection could be made in time.
pub(super) fn unreachable() -> PortError {
    PortError::new(ErrorKind::Unavailable, "Redis cannot be reached").refused().with_retry_after(AGAIN)
}

/// What was stored cannot be read.
pub(super) fn corrupt(what: impl std::fmt::Display) -> PortError {
    PortError::new(ErrorKind::Internal, format!("the job store holds something unreadable: {what}"))
}

/// The same error for another caller, without what caused it.
pub(super) fn again(error: &PortError) -> PortError {
    let mut same = PortError::new(error.kind(), error.to_string());
    if let Some(after) = error.retry_after() {
        same = same.with_retry_after(after);
    }
    if error.is_definite() { same.refused() } else { same }
}
