//! What can go wrong behind a port, told apart by what the caller should do next.

use std::time::Duration;

/// The kind of a port error. One table in the API maps kinds to HTTP statuses; [`crate::retry`] maps them to the
/// next step of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The thing asked for does not exist (or not for this tenant).
    NotFound,
    /// The request contradicts the present state.
    Conflict,
    /// Too much was asked in too short a time; try again later.
    Throttled,
    /// A dependency is down or slow; try again later.
    Unavailable,
    /// The disk or bucket is full: nothing was written, and an operator has to make room.
    OutOfSpace,
    /// The request itself is wrong; repeating it will not help.
    Invalid,
    /// A bug or corrupted state.
    Internal,
}

/// Why something was refused, where its kind alone leaves that open and clients should be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The job store has no room for more until jobs end or expire.
    StoreFull,
    /// As many jobs wait as may wait.
    QueueFull,
    /// As many submissions of this tenant are remembered as may be.
    TooManyRemembered,
    /// As many submissions of all tenants are remembered as may be.
    StoreLimit,
    /// The tenant has its share of the submissions that may be remembered.
    StoreShare,
    /// A record is written in words that this version of the service does not know; a node of another version reads it.
    OtherVersion,
}

/// What is wrong with a piece of JSON, without a word of it: it may hold what people said, or a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct BadJson {
    line: usize,
    column: usize,
    what: &'static str,
}

impl From<serde_json::Error> for BadJson {
    fn from(error: serde_json::Error) -> Self {
        use serde_json::error::Category;
        let what = match error.classify() {
            Category::Io => "cannot be read",
            Category::Syntax => "no JSON",
            Category::Data => "another shape than expected",
            Category::Eof => "ends too soon",
        };
        Self { line: error.line(), column: error.column(), what }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error of a port: kind, a message that reads alone, and where it came from.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    refused: bool,
    refusal: Option<Refusal>,
    #[source]
    source: Option<Source>,
}

impl PortError {
    /// An error of `kind` with a message that reads alone.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, refused: false, refusal: None, source: None }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with the time after which repeating it makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The same error, known to have been a refusal: nothing was done, although its kind alone would leave that open.
    #[must_use]
    pub fn refused(mut self) -> Self {
        self.refused = true;
        self
    }

    /// The same error with why it was refused, for the client.
    #[must_use]
    pub fn because(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(refusal);
        self
    }

    /// Why it was refused, where that was said.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// The same error, where an earlier try of the same call may have taken effect.
    #[must_use]
    pub fn outcome_unknown(mut self) -> Self {
        self.refused = false;
        self
    }

    /// Whether it is certain that nothing was done. After any other error the call may have taken effect.
    pub fn is_definite(&self) -> bool {
        self.refused || !matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Internal)
    }

    /// What the caller should make of it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// When repeating the call makes sense, where the port knows.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// A standard I/O error as a port error: `OutOfSpace` for a full disk, `NotFound` for a missing file,
    /// `Unavailable` for the rest.
    pub fn from_io(message: impl Into<String>, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::OutOfSpace,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, message).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_json_quotes_nothing() {
        let said = |text: &str| {
            let error = serde_json::from_str::<Vec<u64>>(text).expect_err("no list of numbers");
            BadJson::from(error).to_string()
        };
        assert_eq!(said("[1, \"a secret\"]"), "line 1, column 14: another shape than expected");
        assert_eq!(said("[1,\n\"a sec"), "line 2, column 6: ends too soon");
        assert_eq!(said("a secret"), "line 1, column 1: no JSON");
    }
}
