//! What metrics tell apart: closed sets, so that no client can make new series.

use verbatim_core::{ErrorKind, PortError, Refusal};

/// Where a submission got its answer from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupeOutcome {
    /// New work.
    New,
    /// Attached to work under way.
    Attached,
    /// Answered by a finished result.
    Cached,
    /// A repeated request, recognised by its idempotency key or ticket.
    Replayed,
}

impl DedupeOutcome {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::New, Self::Attached, Self::Cached, Self::Replayed];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Attached => "attached",
            Self::Cached => "cached",
            Self::Replayed => "replayed",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    /// The result was published.
    Completed,
    /// It will be tried again.
    Retried,
    /// A dead letter.
    Failed,
    /// Nobody wanted it any more.
    Cancelled,
    /// Given back unfinished.
    Released,
    /// The lease had been lost; nothing was published.
    Stale,
}

impl JobOutcome {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retried => "retried",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Released => "released",
            Self::Stale => "stale",
        }
    }
}

/// Why a worker restarts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartReason {
    /// It has worked on as many jobs as it may.
    Jobs,
    /// It has more memory than it may.
    Memory,
}

impl RestartReason {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Jobs, Self::Memory];

    /// As a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Memory => "memory",
        }
    }
}

/// Why submissions are refused.
pub(crate) const REFUSALS: [&str; 8] = [
    "store_full",
    "store_limit",
    "store_share_exceeded",
    "queue_full",
    "too_many_jobs",
    "other_version",
    "unavailable",
    "other",
];

/// Which of these this refusal is.
pub(crate) fn refusal(error: &PortError) -> &'static str {
    match (error.refusal(), error.kind()) {
        (Some(Refusal::StoreFull), _) | (None, ErrorKind::OutOfSpace) => "store_full",
        (Some(Refusal::StoreLimit), _) => "store_limit",
        (Some(Refusal::StoreShare), _) => "store_share_exceeded",
        (Some(Refusal::QueueFull), _) | (None, ErrorKind::Throttled) => "queue_full",
        (Some(Refusal::TooManyRemembered), _) => "too_many_jobs",
        (Some(Refusal::OtherVersion), _) => "other_version",
        (None, ErrorKind::Unavailable) => "unavailable",
        (None, _) => "other",
    }
}
