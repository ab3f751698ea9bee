//! Who is asking.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
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
}

impl Caller {
    /// Everybody, where keys are off: the one default tenant.
    pub(crate) fn anybody() -> Self {
        Self { key: None, principal: Principal::default() }
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
