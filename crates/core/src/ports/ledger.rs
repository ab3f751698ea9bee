//! What work costs, and how much may still be spent.

use async_trait::async_trait;

use crate::error::PortError;
use crate::ids::{JobId, TenantId};

/// Seconds billed for one job by one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Charge {
    /// The job; charging it twice for the same provider counts once.
    pub job_id: JobId,
    /// Whose job it is.
    pub tenant: TenantId,
    /// Who did the work.
    pub provider: String,
    /// Seconds of audio billed.
    pub billed_secs: f64,
    /// Price in the configured currency; `None` when no price is configured.
    pub cost: Option<f64>,
}

/// Keeps the books.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Records a charge.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn charge(&self, charge: Charge) -> Result<(), PortError>;

    /// What the provider has cost today (UTC).
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn spent_today(&self, provider: &str) -> Result<f64, PortError>;
}
