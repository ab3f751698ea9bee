//! What is not there.

use axum::extract::Request;
use axum::http::StatusCode;

use crate::error::ApiError;

/// No such path.
pub(crate) async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(128).collect();
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {path}; see /docs"))
}

/// No such method on this path.
pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    let detail = format!("{} is not possible here; the `Allow` header says what is", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
