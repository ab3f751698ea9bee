//! The rules that every job store follows, whatever it is built on.

use std::time::Duration;

use crate::retry::RetryPolicy;

const HOUR: Duration = Duration::from_secs(3600);

/// A job runs alone once so many workers died while they held it: what two had in common is nearly always the job, while
/// an ordinary crash, a deployment or an outage isolates nothing.
pub const ISOLATED_AFTER: u32 = 2;

/// Of the workers that are there, one in so many may be reserved for isolated jobs at a time, and always one: a reserved worker
/// gets nothing until it is idle.
pub const RESERVED_ONE_IN: u64 = 8;

/// How long things live and how often they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorePolicy {
    /// How often and how fast a job is tried again.
    pub retry: RetryPolicy,
    /// How long a finished result answers a new upload of the same work.
    pub dedupe_ttl: Duration,
    /// How long an ended job and its result can be fetched; `Duration::MAX` is for ever.
    pub result_retention: Duration,
    /// How long an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// A job that is older than this ends, whatever happens.
    pub max_age: Duration,
    /// The most jobs that wait (queued and delayed) before submissions are throttled; `None` for no limit.
    pub max_waiting: Option<u64>,
    /// The most submissions of one tenant that are remembered, cached and attached ones too, before its submissions are
    /// throttled; `None` for no limit.
    pub max_remembered: Option<u64>,
    /// The most submissions of all tenants that are remembered, which tenants share (ADR 78); `None` for no limit.
    pub max_remembered_of_all: Option<u64>,
}

impl Default for StorePolicy {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            dedupe_ttl: HOUR,
            result_retention: 24 * HOUR,
            idempotency_ttl: 24 * HOUR,
            max_age: 24 * HOUR,
            max_waiting: None,
            max_remembered: None,
            max_remembered_of_all: None,
        }
    }
}
