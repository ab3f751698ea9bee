//! What the service's refusals mean: one table.

use std::error::Error;
use std::fmt;

use serde::Deserialize;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::EngineError;

use crate::http::Answer;

/// Longest text of the service's that is logged.
const LOGGED_CHARS: usize = 300;

/// What the service said, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    code: String,
    param: String,
    message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        for (name, text) in [("code", &self.code), ("param", &self.param), ("message", &self.message)] {
            if !text.is_empty() {
                write!(f, ", {name} `{text}`")?;
            }
        }
        Ok(())
    }
}

impl Error for Refusal {}

/// `{"error":{…}}`; servers that are no OpenAI leave out parts of it or have numbers for codes.
#[derive(Deserialize)]
struct Body {
    error: Detail,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    message: serde_json::Value,
    #[serde(default, rename = "type")]
    kind: serde_json::Value,
    #[serde(default)]
    param: serde_json::Value,
    #[serde(default)]
    code: serde_json::Value,
}

impl Refusal {
    /// Whether it is the model that is unknown.
    fn is_of_the_model(&self) -> bool {
        self.code == "model_not_found" || self.param == "model"
    }

    fn read(answer: &Answer) -> Self {
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.chars().take(LOGGED_CHARS).collect(),
            serde_json::Value::Null => String::new(),
            other => other.to_string().chars().take(LOGGED_CHARS).collect(),
        };
        let status = answer.status;
        match serde_json::from_slice::<Body>(&answer.body) {
            Ok(Body { error: Detail { message, kind, param, code } }) => {
                let code = masked(&if code.is_null() { text(&kind) } else { text(&code) });
                // Whoever refuses a key may quote it.
                let message =
                    if matches!(status, 401 | 403) { String::new() } else { masked(&text(&message)) };
                Self { status, code, param: masked(&text(&param)), message }
            }
            Err(_) => Self { status, code: String::new(), param: String::new(), message: String::new() },
        }
    }
}

/// The text without anything that looks like a key: OpenAI quotes part of a wrong one.
fn masked(text: &str) -> String {
    let word = |word: &str| {
        // Keys are long, and have digits among their letters.
        let is_long = word.len() >= 20 && word.contains(|c: char| c.is_ascii_digit());
        let is_key = is_long || word.contains("sk-") || word.contains('*') || word.contains("Bearer");
        if is_key { "[hidden]".to_owned() } else { word.to_owned() }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The failure that an answer other than 2xx means.
pub(super) fn of(answer: &Answer, provider: &str) -> EngineError {
    use FailureKind::{
        EngineFailed, EngineUnavailable, Throttled, TimedOut, UnsupportedMedia, UnsupportedOption,
    };
    let refusal = Refusal::read(answer);
    let (code, param) = (refusal.code.as_str(), refusal.param.as_str());
    let (kind, message) = match answer.status {
        400 | 422 => of_request(provider, &refusal),
        401 | 403 => {
            log_key(provider, &refusal);
            (EngineUnavailable, "the provider refuses the service's credentials")
        }
        // A quota that is used up does not come back by waiting a little.
        402 => {
            log_quota(provider, &refusal);
            (EngineUnavailable, "the provider's quota is used up")
        }
        429 if code == "insufficient_quota" || code == "billing_hard_limit_reached" => {
            log_quota(provider, &refusal);
            (EngineUnavailable, "the provider's quota is used up")
        }
        404 if refusal.is_of_the_model() => of_model(provider, &refusal),
        404 | 405 => {
            tracing::error!(
                provider,
                refusal = %refusal,
                "the provider has nothing at this address: check `base_url` of this provider"
            );
            (EngineUnavailable, "the provider has nothing at the configured address")
        }
        408 => (TimedOut, "the provider took too long"),
        413 => (UnsupportedMedia, "the audio is too large for the provider"),
        415 => (UnsupportedMedia, "the provider does not take this kind of audio"),
        429 => (Throttled, "the provider asked to slow down"),
        // Cloudflare's 520 to 524, and a gateway whose service is away.
        502..=504 | 520..=524 | 529 => (EngineUnavailable, "the provider is unavailable"),
        500.. => (EngineFailed, "the provider failed"),
        300..400 => {
            tracing::error!(provider, refusal = %refusal, "the provider answers with a redirect: correct `base_url`");
            (EngineUnavailable, "the provider has moved")
        }
        _ if !param.is_empty() => (UnsupportedOption, "the provider refuses one of the options"),
        _ => (EngineFailed, "the provider refused the request"),
    };
    EngineError {
        retry_after: answer.retry_after(),
        // The other models may be right, and the provider is well.
        blameless: refusal.is_of_the_model(),
        ..EngineError::new(kind, message).with_source(refusal)
    }
}

/// 400 and 422: the audio, an option, or the request as a whole.
fn of_request(provider: &str, refusal: &Refusal) -> (FailureKind, &'static str) {
    let Refusal { code, param, message, .. } = refusal;
    let message = message.to_lowercase();
    let is_audio = param == "file"
        || code.starts_with("audio_")
        || ["invalid_file_format", "unsupported_format", "bad_audio"].contains(&code.as_str())
        || ["audio file", "invalid file format", "could not be decoded", "could not process file"]
            .iter()
            .any(|words| message.contains(words));
    if is_audio {
        return (FailureKind::BadAudio, "the provider could not read the audio");
    }
    if refusal.is_of_the_model() {
        return of_model(provider, refusal);
    }
    (FailureKind::UnsupportedOption, "the provider refuses one of the options")
}

fn of_model(provider: &str, refusal: &Refusal) -> (FailureKind, &'static str) {
    tracing::error!(provider, refusal = %refusal, "the provider knows no such model: check `models` of this provider");
    (FailureKind::EngineUnavailable, "the provider does not know the model")
}

fn log_key(provider: &str, refusal: &Refusal) {
    tracing::error!(
        provider,
        status = refusal.status,
        "the provider refuses our key: put a valid one into `key` or `key_env` of this provider and restart"
    );
}

fn log_quota(provider: &str, refusal: &Refusal) {
    tracing::error!(
        provider,
        refusal = %refusal,
        "the provider's quota is used up: raise it or pause this provider"
    );
}

fn refusal(error: &EngineError) -> Option<&Refusal> {
    error.source.as_deref()?.downcast_ref()
}

/// Whether the service refuses the format of the answer, as models without segments do.
pub(super) fn is_of_the_format(error: &EngineError) -> bool {
    refusal(error).is_some_and(|refusal| {
        matches!(refusal.status, 400 | 422)
            && (refusal.param == "response_format" || refusal.message.contains("response_format"))
    })
}

/// Whether the service says that the file is too large.
pub(super) fn is_too_large(error: &EngineError) -> bool {
    refusal(error).is_some_and(|refusal| refusal.status == 413)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::header::HeaderMap;

    use super::*;

    fn failure(status: u16, body: &'static str) -> EngineError {
        of(&Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }, "p")
    }

    /// What other servers than OpenAI say; the stand-in has the rest.
    #[test]
    fn servers_of_other_makes_are_understood() {
        for (status, body, kind) in [
            (
                400,
                r#"{"error":{"message":"could not process file - is it a valid media file?"}}"#,
                FailureKind::BadAudio,
            ),
            (
                422,
                r#"{"detail":[{"loc":["body","model"],"msg":"field required"}]}"#,
                FailureKind::UnsupportedOption,
            ),
            (400, r#"{"error":{"message":"x","code":1234,"param":"model"}}"#, FailureKind::EngineUnavailable),
            (404, r#"{"error":{"message":"x","code":"model_not_found"}}"#, FailureKind::EngineUnavailable),
            (404, "<html>", FailureKind::EngineUnavailable),
            (402, "", FailureKind::EngineUnavailable),
            (301, "", FailureKind::EngineUnavailable),
            (418, "", FailureKind::EngineFailed),
            (524, "<html>", FailureKind::EngineUnavailable),
            (599, "", FailureKind::EngineFailed),
        ] {
            assert_eq!(failure(status, body).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn a_key_that_is_quoted_is_not_passed_on() {
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-abc***xyz. Find yours.","type":"invalid_request_error"}}"#;
        let error = failure(400, body);
        let said = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(said.contains("Incorrect API key provided: [hidden] Find yours."), "{said}");
        assert!(!error.to_string().contains("sk-"));
    }
}
