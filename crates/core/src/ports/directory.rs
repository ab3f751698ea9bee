//! Who may come in: API keys and what their holders may do.

use async_trait::async_trait;

use crate::api_key::{KeyRecord, NewKey};
use crate::error::PortError;
use crate::ids::{KeyId, TenantId};

/// Knows keys. Never sees the secret half of one: [`crate::api_key::authenticate`] compares, the directory only finds.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Keeps a new key. Adding the same one again changes nothing.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn add(&self, key: NewKey) -> Result<(), PortError>;

    /// The key of this id, revoked or not.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, PortError>;

    /// Every key, or every key of one tenant, the oldest first; revoked ones too.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn list(&self, tenant: Option<&TenantId>) -> Result<Vec<KeyRecord>, PortError>;

    /// From now on the key opens nothing. `false` when there is no such key; revoking again changes nothing.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn revoke(&self, id: &KeyId) -> Result<bool, PortError>;
}
