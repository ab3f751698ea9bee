//! Request limits that all nodes share.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::PortError;
use crate::ids::TenantId;

/// Requests that all tenants may make together: a token bucket with a limit on bursts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectLimit {
    /// The bucket's size: requests that may have been saved up.
    pub capacity: u64,
    /// What is refilled in a minute.
    pub refill_per_minute: u64,
    /// Requests within one second beyond which the rest of them is refused, however full the bucket is.
    pub burst: u64,
    /// Once the bucket is empty, everything is refused for so long, so that it can fill.
    pub cooldown: Duration,
}

/// How many requests may be made; `None` for as many as one likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestLimits {
    /// Requests of one tenant within any 60 seconds.
    pub tenant_per_minute: Option<u64>,
    /// Requests of all.
    pub project: Option<ProjectLimit>,
}

/// Which limit spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitScope {
    /// The tenant's own.
    Tenant,
    /// That of all together.
    Project,
}

/// Whether a request may pass, and the figures for the `RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Whether it may. What is refused is not counted.
    pub allowed: bool,
    /// The limit that refused; of those that let it pass, the one with the least room.
    pub scope: LimitScope,
    /// Requests allowed: per minute for a tenant, the bucket's capacity for the project.
    pub limit: u64,
    /// Requests left.
    pub remaining: u64,
    /// When there is room for another request; zero when there is now.
    pub retry_after: Duration,
    /// When all of it is there again.
    pub reset_after: Duration,
}

/// How much of the limits is used.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LimitUse {
    /// Requests of each tenant in the last minute, those of the busiest 100.
    pub tenants: Vec<(TenantId, u64)>,
    /// Requests left in the project's bucket; `None` without such a limit.
    pub project_remaining: Option<u64>,
}

/// Counts requests: a sliding window per tenant, a token bucket for the project.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Counts one request of this tenant, if both limits let it pass; `None` when there is no limit.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn admit(&self, tenant: &TenantId, limits: &RequestLimits) -> Result<Option<Admission>, PortError>;

    /// How much is used now.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn usage(&self, limits: &RequestLimits) -> Result<LimitUse, PortError>;
}
