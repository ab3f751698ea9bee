//! What can go wrong inside the store, and how callers see it.

use rusqlite::ErrorCode;
use rusqlite::ffi;
use verbatim_core::{BadJson, ErrorKind, PortError};

use crate::newer::{corrupt, unreadable};

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// An answer that the port documents.
    #[error(transparent)]
    Port(#[from] PortError),
    /// SQLite refused.
    #[error("SQLite: {0}")]
    Sql(#[source] rusqlite::Error),
    /// A row holds what no version can read.
    #[error("a stored value cannot be read: {0}")]
    Corrupt(String),
    /// A row holds words that only another version knows.
    #[error("a stored value of another version cannot be read: {0}")]
    OtherVersion(String),
}

pub(super) type StoreResult<T> = Result<T, StoreError>;

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        let newer = error.is_data();
        let what = BadJson::from(error).to_string();
        if newer { Self::OtherVersion(what) } else { Self::Corrupt(what) }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as Sql;
        match error {
            // The disk gave the row, and it holds what none of ours does.
            Sql::InvalidColumnType(..)
            | Sql::IntegralValueOutOfRange(..)
            | Sql::FromSqlConversionFailure(..)
            | Sql::Utf8Error(..) => Self::Corrupt(error.to_string()),
            error => Self::Sql(error),
        }
    }
}

/// What was loaded; or why it cannot be read, which concerns this record alone. What the disk refuses is no such reason.
pub(super) fn readable<T>(loaded: StoreResult<T>) -> StoreResult<Result<T, String>> {
    match loaded {
        Ok(record) => Ok(Ok(record)),
        Err(StoreError::Corrupt(why) | StoreError::OtherVersion(why)) => Ok(Err(why)),
        Err(error) => Err(error),
    }
}

impl StoreError {
    /// Kind and message for callers.
    pub(super) fn summary(&self) -> (ErrorKind, String) {
        match self {
            Self::Port(error) => (error.kind(), error.to_string()),
            Self::Corrupt(detail) => {
                let error = corrupt(detail);
                (error.kind(), error.to_string())
            }
            Self::OtherVersion(detail) => {
                let error = unreadable(detail);
                (error.kind(), error.to_string())
            }
            Self::Sql(error) => match sql_kind(error) {
                ErrorKind::OutOfSpace => {
                    (ErrorKind::OutOfSpace, "the job store's disk is full: nothing was written".to_owned())
                }
                kind => (kind, format!("the job store failed: {error}")),
            },
        }
    }
}

impl From<StoreError> for PortError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Port(error) => error,
            StoreError::Corrupt(detail) => corrupt(detail),
            StoreError::OtherVersion(detail) => unreadable(detail),
            other => {
                let (kind, message) = other.summary();
                PortError::new(kind, message).with_source(other)
            }
        }
    }
}

fn sql_kind(error: &rusqlite::Error) -> ErrorKind {
    match error.sqlite_error() {
        // The index of the write-ahead log could not grow.
        Some(ffi::Error { extended_code: ffi::SQLITE_IOERR_SHMSIZE, .. }) => ErrorKind::OutOfSpace,
        Some(ffi::Error { code: ErrorCode::DiskFull, .. }) => ErrorKind::OutOfSpace,
        Some(ffi::Error {
            code:
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen,
            ..
        }) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}
