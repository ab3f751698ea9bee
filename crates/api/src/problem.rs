//! Errors as clients read them: RFC 9457 problems on the native routes, OpenAI's `error` object on the routes that
//! OpenAI's clients call.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::extract::body::UploadBody;

/// The conventions of a route: its paths, field names and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiStyle {
    /// Verbatim's own routes.
    Native,
    /// Routes that OpenAI's clients call.
    OpenAi,
}

impl ApiStyle {
    /// The style of the route under `path`.
    pub(crate) fn of(path: &str) -> Self {
        let openai =
            path.starts_with("/v1/audio/") || path == "/v1/models" || path.starts_with("/v1/models/");
        if openai { Self::OpenAi } else { Self::Native }
    }
}

/// An error of the native routes, as RFC 9457 has it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:verbatim:problem:not_ready")]
    kind: String,
    /// The kind of problem, for people.
    #[schema(example = "Not ready")]
    title: String,
    /// The HTTP status.
    #[schema(example = 409)]
    status: u16,
    /// What happened this time and what to do about it.
    #[schema(example = "the job is still processing; its transcript is not there yet")]
    detail: String,
    /// Stable: what programs look at.
    #[schema(example = "not_ready")]
    code: &'static str,
    /// The field, parameter or header that is wrong, where one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "language")]
    param: Option<String>,
    /// What to quote when you ask the operator; also in the `x-request-id` header.
    #[schema(example = "req_01JD8N3W0S5Y6T7E8Z9QK4M2VX")]
    request_id: String,
}

/// An error as OpenAI's API gives it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiError {
    /// The error.
    pub(crate) error: OpenAiErrorBody,
}

/// What is inside `error`; all four keys are always there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorBody {
    /// What happened and what to do about it.
    message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    kind: &'static str,
    /// The field that is wrong, or null.
    #[schema(example = "model")]
    param: Option<String>,
    /// Stable: what programs look at.
    #[schema(example = "model_not_found")]
    code: &'static str,
}

impl From<&ApiError> for OpenAiError {
    fn from(error: &ApiError) -> Self {
        let kind = match error.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let body = OpenAiErrorBody {
            message: error.detail.clone(),
            kind,
            param: error.param.clone(),
            code: error.code,
        };
        Self { error: body }
    }
}

/// `not_ready` as `Not ready`.
fn title(code: &str) -> String {
    let mut words = code.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}

/// The response that tells `error` in the manner of `style`. What earlier layers put into `head` stays; `request_body` is
/// what the client may still be sending.
pub(crate) fn render(
    head: Response,
    error: &ApiError,
    style: ApiStyle,
    request_id: &str,
    request_body: UploadBody,
) -> Response {
    let (media_type, body) = match style {
        ApiStyle::OpenAi => ("application/json", serde_json::to_vec(&OpenAiError::from(error))),
        ApiStyle::Native => {
            let problem = Problem {
                kind: format!("urn:verbatim:problem:{}", error.code),
                title: title(error.code),
                status: error.status.as_u16(),
                detail: error.detail.clone(),
                code: error.code,
                param: error.param.clone(),
                request_id: request_id.to_owned(),
            };
            ("application/problem+json", serde_json::to_vec(&problem))
        }
    };
    let body = Bytes::from(body.unwrap_or_default());
    let (mut parts, _) = head.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if error.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
    }
    let body =
        if request_body.is_worth_draining() { lingering(body, request_body) } else { Body::from(body) };
    Response::from_parts(parts, body)
}

/// `Retry-After` knows whole seconds only; never less than was asked for.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// The body is sent at once, but the response ends only when the client has stopped sending (within bounds): many
/// clients look for the answer only then, and closing a connection with unread data would destroy it on its way.
fn lingering(body: Bytes, unread: UploadBody) -> Body {
    let rest = stream::once(unread.drain()).filter_map(async |()| None);
    Body::from_stream(stream::iter([Ok::<_, std::convert::Infallible>(body)]).chain(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::body::Bounds;
    use crate::state::ApiLimits;
    use axum::response::IntoResponse;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    async fn rendered(error: ApiError, style: ApiStyle) -> (Response<()>, Value) {
        let sent = UploadBody::new(Body::empty(), Bounds::of(&ApiLimits::default()), false);
        let response = render(StatusCode::OK.into_response(), &error, style, "req_1", sent);
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_native_error_is_a_problem() {
        let (head, body) =
            rendered(ApiError::invalid("invalid_option", "temperature", "too hot"), ApiStyle::Native).await;
        assert_eq!(head.headers()["content-type"], "application/problem+json");
        assert_eq!(
            body,
            json!({
                "type": "urn:verbatim:problem:invalid_option", "title": "Invalid option", "status": 400,
                "detail": "too hot", "code": "invalid_option", "param": "temperature", "request_id": "req_1",
            })
        );
    }

    #[tokio::test]
    async fn an_openai_error_has_all_four_keys() {
        let (head, body) = rendered(ApiError::stopping(), ApiStyle::OpenAi).await;
        assert_eq!(head.headers()["content-type"], "application/json");
        assert!(head.headers().contains_key("retry-after"));
        let error = body["error"].as_object().unwrap();
        assert_eq!(error["type"], "server_error");
        assert_eq!(error["param"], Value::Null);
        assert_eq!(error.len(), 4);
    }

    #[test]
    fn retry_after_never_says_less_than_was_asked_for() {
        assert_eq!(whole_seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(3)), 3);
    }

    #[test]
    fn only_openai_routes_have_openai_errors() {
        assert_eq!(ApiStyle::of("/v1/audio/transcriptions"), ApiStyle::OpenAi);
        assert_eq!(ApiStyle::of("/v1/models/base"), ApiStyle::OpenAi);
        assert_eq!(ApiStyle::of("/v1/jobs"), ApiStyle::Native);
        assert_eq!(ApiStyle::of("/v1/modelsish"), ApiStyle::Native);
    }
}
