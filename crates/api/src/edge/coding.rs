//! Transfer codings: a body that comes compressed and then chunked would be read as if it were only chunked.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;

const DETAIL: &str = "`chunked` is the only transfer coding that this service knows; send the body as it is";

/// Refuses a request whose body has a transfer coding other than `chunked` (RFC 9112, 6.1), and ends its connection: where
/// that body ends is not known for sure.
pub(crate) async fn only_chunked(request: Request, next: Next) -> Response {
    if is_known(request.headers()) {
        return next.run(request).await;
    }
    let refusal = ApiError::new(StatusCode::NOT_IMPLEMENTED, "transfer_coding_unsupported", DETAIL);
    let mut answer = refusal.into_response();
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Whether there is no transfer coding, or `chunked` once.
fn is_known(headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (named.next(), named.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}
