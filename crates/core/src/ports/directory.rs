//! Who may come in: API keys and what their holders may do, and what their tenants may take up.

use async_trait::async_trait;

use crate::api_key::{KeyRecord, NewKey};
use crate::error::PortError;
use crate::ids::{KeyId, TenantId};
use crate::job::TenantCaps;

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

    /// The tenant has these caps of its own from now on, in the place of those that it had. Setting them again changes nothing.
    ///
    /// # Errors
    /// Only `Unavailable`, `OutOfSpace` and `Internal`.
    async fn cap(&self, tenant: &TenantId, caps: TenantCaps) -> Result<(), PortError>;

    /// Every tenant that ever had caps of its own, in order of their names, with those that it has.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn caps(&self) -> Result<Vec<(TenantId, TenantCaps)>, PortError>;

    /// A number that rises whenever a key is made or revoked or a tenant's caps change, also where a node of an earlier version
    /// does it.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn revision(&self) -> Result<u64, PortError>;
}
