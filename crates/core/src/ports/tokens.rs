//! Short-lived credentials that all nodes share.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::PortError;

/// Issues a fresh credential and says how long it is good for.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// A fresh credential.
    ///
    /// # Errors
    /// `Invalid` when the provider refuses the key for good; `Throttled` or `Unavailable` else.
    async fn issue(&self) -> Result<(String, Duration), PortError>;
}

/// Keeps credentials; of all nodes, one renews.
#[async_trait]
pub trait TokenCache: Send + Sync {
    /// The credential called `name`, from the cache or freshly issued. Never logged.
    ///
    /// # Errors
    /// Those of the issuer, and `Unavailable`.
    async fn get(&self, name: &str, issuer: &dyn TokenIssuer) -> Result<String, PortError>;

    /// Forgets a credential that the provider refused, so that the next `get` issues another.
    ///
    /// # Errors
    /// Only `Unavailable`.
    async fn invalidate(&self, name: &str, refused: &str) -> Result<(), PortError>;
}
