//! What can go wrong inside the store, and how callers see it.

use rusqlite::ErrorCode;
use rusqlite::ffi;
use verbatim_core::{BadJson, ErrorKind, PortError};

use crate::newer::unreadable;

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// An answer that the port documents.
    #[error(transparent)]
    Port(#[from] PortError),
    /// SQLite refused.
    #[error("SQLite: {0}")]
    Sql(#[from] rusqlite::Error),
    /// A row holds what this version cannot read.
    #[error("a stored value cannot be read: {0}")]
    Corrupt(String),
}

pub(super) type StoreResult<T> = Result<T, StoreError>;

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(BadJson::from(error).to_string())
    }
}

impl StoreError {
    /// Kind and message for callers.
    pub(super) fn summary(&self) -> (ErrorKind, String) {
        match self {
            Self::Port(error) => (error.kind(), error.to_string()),
            Self::Corrupt(detail) => {
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
            StoreError::Corrupt(detail) => unreadable(detail),
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
