//! Keys and short-lived tokens.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use verbatim_core::time::Timestamp;

use super::Azure;
use crate::desk::{Call, Refusal, SUBSCRIPTION_KEY, lock};

/// A token that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token itself.
    pub value: String,
    /// When, by the stand-in's clock.
    pub issued: Timestamp,
    /// Until when it is good.
    pub expires: Timestamp,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// `POST /sts/v1.0/issueToken`.
pub(super) async fn issue(
    State(azure): State<Arc<Azure>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        return call.refuse(&Refusal::violation(
            411,
            "LengthRequired",
            "the empty body needs `Content-Length: 0`",
        ));
    }
    if !body.is_empty() {
        return call.refuse(&Refusal::violation(400, "InvalidRequest", "the body is not empty"));
    }
    if headers.contains_key(header::AUTHORIZATION) {
        return call.refuse(&Refusal::violation(401, "Unauthorized", "a token is issued for a key"));
    }
    if let Err(refusal) = azure.check_key(&headers) {
        return call.refuse(&refusal);
    }
    ([(header::CONTENT_TYPE, "application/jwt; charset=us-ascii")], azure.issue()).into_response()
}

impl Azure {
    fn issue(&self) -> String {
        let issued = self.settings.clock.now();
        let expires = issued.plus(self.settings.token_lifetime);
        let mut tokens = lock(&self.tokens);
        let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
        let head = encode(json!({ "alg": "none", "typ": "JWT" }).to_string());
        let claims = json!({ "iss": "stand-in", "exp": expires.as_millis() / 1000, "jti": tokens.len() });
        let value = format!(
            "{head}.{}.{}",
            encode(claims.to_string()),
            encode(format!("signature-{}", tokens.len()))
        );
        tokens.push(IssuedToken { value: value.clone(), issued, expires, revoked: false });
        value
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match headers.get(SUBSCRIPTION_KEY).map(HeaderValue::as_bytes) {
            Some(key) if key == self.settings.key.as_bytes() => Ok(()),
            _ => Err(Refusal::fair(401, "Unauthorized", "the subscription key is wrong or missing")),
        }
    }

    /// Whether the request comes with a good key or a good token, and not with both.
    pub(super) fn authorised(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(header) = headers.get(header::AUTHORIZATION) else { return self.check_key(headers) };
        if headers.contains_key(SUBSCRIPTION_KEY) {
            return Err(Refusal::violation(401, "Unauthorized", "both a key and a token"));
        }
        let Some(value) = header.to_str().ok().and_then(|header| header.strip_prefix("Bearer ")) else {
            return Err(Refusal::violation(401, "Unauthorized", "`Authorization` is no bearer token"));
        };
        let now = self.settings.clock.now();
        let tokens = lock(&self.tokens);
        match tokens.iter().find(|token| token.value == value) {
            None => Err(Refusal::violation(401, "Unauthorized", "this token was never issued")),
            Some(token) if token.revoked || now >= token.expires => {
                Err(Refusal::fair(401, "Unauthorized", "the token has expired"))
            }
            Some(_) => Ok(()),
        }
    }
}
