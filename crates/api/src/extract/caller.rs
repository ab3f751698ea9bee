//! Who is asking.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use verbatim_admission::Holder;
use verbatim_core::api_key::Principal;
use verbatim_core::ids::KeyId;

use crate::error::ApiError;
use crate::state::ApiState;

/// Who is asking, as [`crate::auth`] found out.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The key that was presented; `None` where keys are off.
    pub(crate) key: Option<KeyId>,
    /// Whose jobs the request may see, and what it may do.
    pub(crate) principal: Principal,
    /// Whose share of the node's permits the request counts for: its tenant's or, where keys are off, its address's.
    pub(crate) holder: Holder,
}

impl Caller {
    /// Everybody, where keys are off: the one default tenant. `address` tells one from another.
    pub(crate) fn anybody(address: Holder) -> Self {
        Self { key: None, principal: Principal::default(), holder: address }
    }

    /// Whoever has the key.
    pub(crate) fn with_key(key: KeyId, principal: Principal) -> Self {
        let holder = Holder::tenant(principal.tenant.as_str());
        Self { key: Some(key), principal, holder }
    }

    /// How an audit names the caller.
    pub(crate) fn name(&self) -> &str {
        self.key.as_ref().map_or("anybody", KeyId::as_str)
    }
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    /// A route that nobody guards has no caller: it fails rather than let everybody in.
    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a route that wants to know its caller has no guard");
            ApiError::internal()
        })
    }
}
