//! What Redis's errors mean to the house.

use std::error::Error;
use std::time::Duration;

use redis::RedisError;
use verbatim_core::{ErrorKind, PortError, Refusal};

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
        Some(code::SLOT_MOVES) => {
            "the queue is being moved between nodes of the Redis cluster; nothing is done until it has arrived"
        }
        Some(code::NO_SCRIPT) => {
            "the node of the Redis cluster to which the queue is being moved does not know our scripts"
        }
        Some(code::STORE_GONE) => "this Redis came back without the queue",
        Some(code::UNREADABLE) => {
            let what = failure.detail().and_then(|detail| detail.split(" script: ").next());
            return corrupt(what.unwrap_or("a record")).refused();
        }
        Some("ERR") if failure.detail().is_some_and(|why| why.starts_with("max number of clients")) => {
            "Redis has as many connections as its maxclients allows"
        }
        _ if is_forbidden(&failure) => return forbidden(failure),
        _ if is_login(&failure) => return login_refused(failure),
        _ if failure.is_connection_refusal() => return not_connected(failure),
        // A cluster without slots, or none of whose nodes can be reached.
        _ if failure.kind() == redis::ErrorKind::ClusterConnectionNotFound => return not_connected(failure),
        _ if failure.is_timeout() || failure.is_io_error() || failure.is_connection_dropped() => {
            return PortError::new(ErrorKind::Unavailable, "Redis did not answer")
                .with_retry_after(AGAIN)
                .with_source(failure);
        }
        _ => {
            return PortError::new(ErrorKind::Internal, "Redis did not understand us").with_source(failure);
        }
    };
    let full = failure.code() == Some("OOM");
    let error = PortError::new(ErrorKind::Unavailable, refused).refused().with_retry_after(AGAIN);
    if full { error.because(Refusal::StoreFull).with_source(failure) } else { error.with_source(failure) }
}

/// What `lua/guard.lua` and `lua/common.lua` answer.
pub(super) mod code {
    /// The queue's slot is on its way to another node.
    pub(in crate::redis) const SLOT_MOVES: &str = "SLOTMOVES";
    /// What a node answers that has no slot yet, so that scripts are not loaded there: the slot is on its way to it.
    pub(in crate::redis) const NO_SCRIPT: &str = "NOSCRIPT";
    /// The record that the call is about cannot be read; nothing was written.
    pub(in crate::redis) const UNREADABLE: &str = "UNREADABLE";
    /// The queue is not there.
    pub(in crate::redis) const STORE_GONE: &str = "STOREGONE";
}

/// The code that the server sent, if this error comes from one.
pub(super) fn code_of(error: &PortError) -> Option<&str> {
    redis_error(error).and_then(RedisError::code)
}

fn redis_error(error: &PortError) -> Option<&RedisError> {
    error.source().and_then(|source| source.downcast_ref())
}

/// Whether our login was refused. Who is not logged in may not even send a call of many words: Redis calls that an error of
/// the protocol.
fn is_login(failure: &RedisError) -> bool {
    failure.kind() == redis::ErrorKind::AuthenticationFailed
        || match failure.code() {
            Some("NOAUTH" | "WRONGPASS") => true,
            Some("ERR") => failure.detail().is_some_and(|why| why.contains("unauthenticated")),
            Some(_) => false,
            // The client of a cluster only says in words what its nodes said.
            None => failure.detail().is_some_and(|why| {
                ["AuthenticationFailed", "NOAUTH", "WRONGPASS"].iter().any(|said| why.contains(said))
            }),
        }
}

/// Whether the access rules (ACL) of our user forbid what was asked. Of what a script calls Redis 7 says so in words only.
fn is_forbidden(failure: &RedisError) -> bool {
    failure.code() == Some("NOPERM")
        || failure.detail().is_some_and(|why| {
            ["NOPERM", "ACL failure in script", "The user executing the script can't"]
                .iter()
                .any(|said| why.contains(said))
        })
}

/// Whether this error says that the access rules of our user forbid what was asked.
pub(super) fn says_forbidden(error: &PortError) -> bool {
    redis_error(error).is_some_and(is_forbidden)
}

/// Rules are changed while nodes run, so that what is forbidden now may be allowed in a moment. A command that was refused was
/// not done; a script that was refused one of its commands had maybe written something before.
fn forbidden(failure: RedisError) -> PortError {
    let whole = failure.code() == Some("NOPERM");
    let why =
        "the access rules (ACL) of our user in Redis forbid what Verbatim needs; DEPLOYMENT.md lists it";
    let error = PortError::new(ErrorKind::Unavailable, why).with_retry_after(AGAIN).with_source(failure);
    if whole { error.refused() } else { error }
}

/// Passwords are changed one place after the other, so that a login that worked may work again in a moment: whoever runs
/// already goes on trying.
fn login_refused(failure: RedisError) -> PortError {
    PortError::new(ErrorKind::Unavailable, "Redis refuses our login; look at redis.url")
        .refused()
        .with_retry_after(AGAIN)
        .with_source(failure)
}

/// The same error where a process starts: a login that never worked, or a certificate that nobody vouches for, is no reason
/// to wait.
pub(super) fn at_start(error: PortError) -> PortError {
    let untrusted = redis_error(&error).is_some_and(|failure| failure.to_string().contains("certificate"));
    if untrusted {
        let why = "Redis's certificate is not trusted here; SSL_CERT_FILE names an authority of your own";
        return PortError::new(ErrorKind::Invalid, why).with_source(error);
    }
    let wrong = match redis_error(&error) {
        Some(failure) if is_forbidden(failure) => "the login may not do what is needed",
        Some(failure) if is_login(failure) => "the login does not work",
        _ => return error,
    };
    PortError::new(ErrorKind::Internal, format!("{wrong}, so there is nothing to wait for"))
        .with_source(error)
}

/// No connection could be made: certainly nothing was done.
pub(super) fn not_connected(failure: RedisError) -> PortError {
    match failure.code() {
        Some(_) => from_redis(failure),
        None if is_forbidden(&failure) => forbidden(failure),
        None if is_login(&failure) => login_refused(failure),
        None => unreachable().with_source(failure),
    }
}

/// No connection could be made in time.
pub(super) fn unreachable() -> PortError {
    PortError::new(ErrorKind::Unavailable, "Redis cannot be reached").refused().with_retry_after(AGAIN)
}

/// What was stored cannot be read.
pub(super) use crate::newer::corrupt;

/// The same error for another caller, with what caused it in words.
pub(super) fn again(error: &PortError) -> PortError {
    let mut same = PortError::new(error.kind(), error.to_string());
    if let Some(cause) = error.source() {
        same = same.with_source(cause.to_string());
    }
    if let Some(after) = error.retry_after() {
        same = same.with_retry_after(after);
    }
    if let Some(refusal) = error.refusal() {
        same = same.because(refusal);
    }
    if error.is_definite() { same.refused() } else { same }
}
