//! Request limits that all nodes share.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::PortError;
use crate::ids::TenantId;

/// Whether a request may pass, and the figures for the `RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Whether it may.
    pub allowed: bool,
    /// Requests allowed per window.
    pub limit: u64,
    /// Requests left in this window.
    pub remaining: u64,
    /// When the window has room again.
    pub reset_after: Duration,
}

/// Counts requests: a sliding window per tenant, a token bucket per project.
#[async_trait]
pub trait Limiter: Send + Sync {
    /// Counts one request of this tenant.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn admit(&self, tenant: &TenantId) -> Result<Admission, PortError>;
}
