//! A small JSON body.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::ApiState;

/// The longest body, in bytes: `observe` bounds bodies by what uploads need.
const MAX_BYTES: usize = 16 * 1024;

/// The body, as `T`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &ApiState) -> Result<Self, ApiError> {
        let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let detail = "send a JSON object as `application/json`";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "json_expected", detail));
        }
        let body = to_bytes(request.into_body(), MAX_BYTES).await.map_err(|_| {
            let detail = format!("the body could not be read; it has at most {MAX_BYTES} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
        })?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not valid: {error}"))
        })
    }
}
