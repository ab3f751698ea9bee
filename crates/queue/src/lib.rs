//! Job stores behind the ports of [`verbatim_core::ports::jobs`], and the suite of checks that each must pass.

pub mod conformance;
pub mod redis;
pub mod sqlite;
mod ticket;

use std::time::Duration;

use verbatim_core::{ErrorKind, PortError};

pub use self::redis::{RedisConfig, RedisStore};
pub use sqlite::{SqliteConfig, SqliteDirectory, SqliteStore};

/// What clients are told when too many jobs wait.
const BACKLOG_RETRY: Duration = Duration::from_secs(10);

/// A dead letter that cannot be queued again.
fn not_redriven(why: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, format!("the job is not queued again: {why}"))
}
