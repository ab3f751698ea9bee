//! Who is asking.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use verbatim_core::ids::TenantId;

use crate::state::ApiState;

/// Who is asking. Without keys, everybody is the one default tenant.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whose jobs the request may see.
    pub(crate) tenant: TenantId,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(_parts: &mut Parts, _state: &ApiState) -> Result<Self, Infallible> {
        Ok(Self { tenant: TenantId::default() })
    }
}
