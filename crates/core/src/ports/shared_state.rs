//! Small values that all nodes share and change by compare-and-set: the health and limits of providers, short-lived
//! credentials. What a value means is written down once, in the code that changes it, whatever the store.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ErrorKind, PortError};
use crate::time::Timestamp;

/// How often a change is tried while others change the same value. Each failed try means that another one succeeded, but a
/// node that is always a little slower than the others can meet many of them in a row.
const MOST_TRIES: usize = 1000;

/// A value as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// Rises with every change, and never returns to a former number while the value lives.
    pub version: u64,
    /// The value; JSON.
    pub value: String,
}

/// The answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The value; `None` when it was never written or has expired.
    pub current: Option<Versioned>,
    /// The store's time, which is one for all nodes.
    pub now: Timestamp,
}

/// What to do with the value under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The version that was read; `None` when there was no value.
    pub expected: Option<u64>,
    /// The new value.
    pub value: String,
    /// How long it lives unless it is written again.
    pub ttl: Duration,
}

/// Keeps the values. May hold credentials: nobody logs them.
#[async_trait]
pub trait SharedState: Send + Sync {
    /// The value called `name`.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn read(&self, name: &str) -> Result<Reading, PortError>;

    /// Replaces the value, if it is still the one that was read. `false`, and nothing changed, when it is not.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn replace(&self, name: &str, replacement: Replacement) -> Result<bool, PortError>;

    /// Names and values of all whose name begins with `prefix`, in order of their names.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, String)>, PortError>;
}

/// Changes the value called `name`, a `T` or its default, in one atomic step, and gives the answer of `change`. `change`
/// sees the value and the store's time, and says whether the value is to be written; it runs again whenever somebody else
/// was quicker, and can take effect twice when the store's answer was lost: it must bear that.
///
/// # Errors
/// Those of the store; `Internal` for a value that is no `T`.
pub async fn update<T, A>(
    shared: &dyn SharedState,
    name: &str,
    ttl: Duration,
    mut change: impl FnMut(&mut T, Timestamp) -> (bool, A),
) -> Result<A, PortError>
where
    T: Default + Serialize + DeserializeOwned,
{
    for _ in 0..MOST_TRIES {
        let Reading { current, now } = shared.read(name).await?;
        let expected = current.as_ref().map(|current| current.version);
        let mut value = match &current {
            Some(current) => parse(name, &current.value)?,
            None => T::default(),
        };
        let (changed, answer) = change(&mut value, now);
        if !changed {
            return Ok(answer);
        }
        let value = serde_json::to_string(&value).map_err(|error| unreadable(name).with_source(error))?;
        if shared.replace(name, Replacement { expected, value, ttl }).await? {
            return Ok(answer);
        }
    }
    Err(PortError::new(ErrorKind::Unavailable, format!("too many nodes change `{name}` at once")))
}

/// A value as the `T` that it is.
///
/// # Errors
/// `Internal` when it is none.
pub fn parse<T: DeserializeOwned>(name: &str, value: &str) -> Result<T, PortError> {
    // The cause would quote the value, which may be a credential.
    serde_json::from_str(value).map_err(|_| unreadable(name))
}

fn unreadable(name: &str) -> PortError {
    PortError::new(ErrorKind::Internal, format!("the shared value `{name}` cannot be read or written"))
}
