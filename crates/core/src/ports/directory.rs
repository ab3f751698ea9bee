//! Who may come in: API keys, tenants and their caps.

use async_trait::async_trait;

use crate::error::PortError;
use crate::ids::TenantId;
use crate::options::Priority;

/// What a key lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Submit, cancel and read jobs.
    Jobs,
    /// Read jobs only.
    Read,
    /// Everything, and the admin routes.
    Admin,
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Whose work it is.
    pub tenant: TenantId,
    /// What the key allows.
    pub scopes: Vec<Scope>,
    /// The strongest tier the key may ask for.
    pub max_priority: Priority,
    /// Jobs of the tenant that may run at once; `None` for no cap.
    pub max_running: Option<u64>,
    /// Jobs of the tenant that may wait; `None` for no cap.
    pub max_queued: Option<u64>,
}

/// Knows keys and tenants.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Who holds this key, compared in constant time with what is kept hashed; `None` for an unknown or revoked key.
    ///
    /// # Errors
    /// Only `Unavailable` and `Internal`.
    async fn authenticate(&self, key: &str) -> Result<Option<Principal>, PortError>;
}
