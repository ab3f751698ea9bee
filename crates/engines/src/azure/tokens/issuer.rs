//! Where tokens come from.

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use secrecy::SecretString;
use verbatim_core::CancellationToken;

use super::failure::TokenFailure;
use super::{ISSUE_TIMEOUT, KEY_HEADER, SpeechAccount, key_header};
use crate::http::{Answer, Bounds, call};

/// A token is a JWT of a kilobyte or two.
const LARGEST_TOKEN: usize = 16 << 10;

/// Issues tokens. It logs what went wrong; whoever asks it only learns what follows from that.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// A fresh token for this account.
    ///
    /// # Errors
    /// Says whether and when asking again makes sense.
    async fn issue(&self, account: &SpeechAccount) -> Result<SecretString, TokenFailure>;
}

/// Azure's `issueToken`.
pub(super) struct HttpIssuer {
    client: reqwest::Client,
}

impl HttpIssuer {
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl TokenIssuer for HttpIssuer {
    async fn issue(&self, account: &SpeechAccount) -> Result<SecretString, TokenFailure> {
        let region = account.region();
        let Ok(key) = key_header(&account.key) else {
            tracing::error!(
                region,
                "the Azure key has characters that no key has: check `key` of this provider"
            );
            return Err(TokenFailure::key_refused());
        };
        let request = self
            .client
            .post(account.issuer.clone())
            .header(KEY_HEADER, key)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            // Azure answers 411 without it, and the client leaves it out for an empty body.
            .header(CONTENT_LENGTH, HeaderValue::from_static("0"))
            .body("");
        // Whoever waits is cancelled by being dropped.
        let cancel = CancellationToken::new();
        let bounds = Bounds { timeout: ISSUE_TIMEOUT, answer_bytes: LARGEST_TOKEN, cancel: &cancel };
        match call(request, bounds).await {
            Ok(answer) => read(&answer, region),
            Err(error) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(region, %error, cause, "the issuer of Azure tokens cannot be reached");
                Err(TokenFailure::unavailable(None))
            }
        }
    }
}

fn read(answer: &Answer, region: &str) -> Result<SecretString, TokenFailure> {
    let retry_after: Option<Duration> = answer.retry_after();
    let status = answer.status;
    match status {
        200 => token(&answer.body).ok_or_else(|| {
            tracing::warn!(region, "the issuer of Azure tokens answers something that is no token");
            TokenFailure::unavailable(None)
        }),
        401 | 403 => {
            tracing::error!(
                region,
                status,
                "Azure refuses the key: check that `key` of this provider is a Speech key of its region and was not \
                 revoked; until then its jobs go to other providers or wait"
            );
            Err(TokenFailure::key_refused())
        }
        429 => {
            tracing::warn!(region, ?retry_after, "the issuer of Azure tokens asks to slow down");
            Err(TokenFailure::throttled(retry_after))
        }
        _ => {
            tracing::warn!(region, status, "the issuer of Azure tokens fails");
            Err(TokenFailure::unavailable(retry_after))
        }
    }
}

fn token(body: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(body).ok()?.trim();
    // It becomes a header.
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| SecretString::from(text))
}
