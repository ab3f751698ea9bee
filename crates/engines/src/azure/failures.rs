//! What Azure's refusals mean for a job: one table for statuses and codes, whichever interface they come from.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::EngineError;

/// An error as Azure writes it, `{"code","message","innerError"}`; its gateway wraps that into `{"error":…}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ServiceError {
    pub(super) code: String,
    pub(super) message: String,
    #[serde(rename = "innerError", alias = "innererror")]
    pub(super) inner: Option<Box<ServiceError>>,
}

#[derive(Deserialize)]
struct Wrapped {
    error: ServiceError,
}

impl ServiceError {
    /// The error in the body of an answer; an empty one when there is none.
    pub(super) fn parse(body: &[u8]) -> Self {
        serde_json::from_slice::<Wrapped>(body)
            .map(|wrapped| wrapped.error)
            .or_else(|_| serde_json::from_slice(body))
            .unwrap_or_default()
    }

    /// The most precise code.
    fn precise(&self) -> &str {
        match &self.inner {
            Some(inner) if !inner.precise().is_empty() => inner.precise(),
            _ => &self.code,
        }
    }
}

/// A refusal for the log. What Azure writes may quote addresses, which may be credentials: they are left out.
#[derive(Debug)]
struct Refusal {
    status: Option<u16>,
    code: String,
    message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Azure answered")?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        write!(f, " `{}`: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

/// Short plain text without addresses.
fn harmless(text: &str) -> String {
    let words = text
        .split_whitespace()
        .map(|word| if word.contains("://") || word.contains("sig=") { "[address]" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().filter(|letter| !letter.is_control()).take(300).collect()
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The request, in a way that its precise code tells.
    Request,
    Credentials,
    NotFound,
    Timeout,
    Audio,
    Format,
    TooMany,
    Fault,
    Down,
}

/// By status; `None` for those that say nothing.
fn by_status(status: u16) -> Option<Cause> {
    Some(match status {
        400 => Cause::Request,
        401 | 403 => Cause::Credentials,
        // A redirect leads somewhere our key must not go: the endpoint is not that of the service.
        300..=399 | 404 => Cause::NotFound,
        408 => Cause::Timeout,
        422 => Cause::Audio,
        // Too large for this service says nothing about another one.
        413 | 415 => Cause::Format,
        429 => Cause::TooMany,
        500 => Cause::Fault,
        502..=504 => Cause::Down,
        _ => return None,
    })
}

/// By code, for failures that come without a status.
fn by_code(code: &str) -> Option<Cause> {
    Some(match code {
        "InvalidRequest" | "InvalidArgument" => Cause::Request,
        "Unauthorized" | "Forbidden" => Cause::Credentials,
        "NotFound" => Cause::NotFound,
        "UnprocessableEntity" => Cause::Audio,
        "UnsupportedMediaType" => Cause::Format,
        "TooManyRequests" => Cause::TooMany,
        "InternalServerError" => Cause::Fault,
        "ServiceUnavailable" => Cause::Down,
        _ => return None,
    })
}

/// Whether a request was refused for its audio: its precise code names the audio, or no code does and the message does.
fn is_about_audio(error: &ServiceError) -> bool {
    let code = error.precise().to_ascii_lowercase();
    if matches!(code.as_str(), "" | "invalidrequest" | "invalidargument") {
        return error.message.to_ascii_lowercase().contains("audio");
    }
    ["audio", "media", "content", "file", "data"].iter().any(|part| code.contains(part))
}

/// The failure that an answer with this status and error means.
pub(super) fn refusal(status: u16, error: &ServiceError, retry_after: Option<Duration>) -> EngineError {
    let cause = by_status(status).or_else(|| by_code(&error.code)).unwrap_or(Cause::Fault);
    failure(cause, Some(status), error, retry_after)
}

/// The failure of a batch transcription, which has a code but no status.
pub(super) fn batch_failure(error: &ServiceError) -> EngineError {
    let cause = by_code(&error.code).unwrap_or_else(|| match error.precise().to_ascii_lowercase() {
        // It could not fetch the audio, or the URL ran out: another submission gets a new one.
        code if code.contains("url") || code.contains("uri") => Cause::Fault,
        code if code.contains("locale") => Cause::Request,
        _ if is_about_audio(error) => Cause::Audio,
        _ => Cause::Fault,
    });
    failure(cause, None, error, None)
}

fn failure(
    cause: Cause,
    status: Option<u16>,
    error: &ServiceError,
    retry_after: Option<Duration>,
) -> EngineError {
    let code = harmless(error.precise());
    let said = if code.is_empty() { String::new() } else { format!(" ({code})") };
    let (kind, message) = match cause {
        Cause::Request if is_about_audio(error) => {
            (FailureKind::BadAudio, format!("the speech service cannot use this audio{said}"))
        }
        Cause::Request => (
            FailureKind::UnsupportedOption,
            format!("the speech service cannot do what the options ask{said}"),
        ),
        Cause::Credentials => (
            FailureKind::EngineUnavailable,
            "the speech service does not accept this server's credentials; the operator has to renew them"
                .to_owned(),
        ),
        Cause::NotFound => (
            FailureKind::EngineUnavailable,
            "the speech service was not found at its address; the operator has to check region and endpoint"
                .to_owned(),
        ),
        Cause::Timeout => (FailureKind::TimedOut, "the speech service gave up waiting".to_owned()),
        Cause::Audio => (
            FailureKind::BadAudio,
            format!("the speech service cannot use this audio: too large or damaged{said}"),
        ),
        Cause::Format => (
            FailureKind::UnsupportedMedia,
            format!("the speech service does not take this audio format{said}"),
        ),
        Cause::TooMany => (FailureKind::Throttled, "the speech service asks to slow down".to_owned()),
        Cause::Fault => (FailureKind::EngineFailed, format!("the speech service failed{said}")),
        Cause::Down => (FailureKind::EngineUnavailable, "the speech service is not available".to_owned()),
    };
    let waits = matches!(cause, Cause::TooMany | Cause::Fault | Cause::Down);
    let refusal = Refusal { status, code, message: harmless(&error.message) };
    EngineError { retry_after: retry_after.filter(|_| waits), ..EngineError::new(kind, message) }
        .with_source(refusal)
}

/// The work was stopped.
pub(super) fn cancelled() -> EngineError {
    EngineError::new(FailureKind::Cancelled, "the work was stopped")
}

/// An answer that is not what it should be.
pub(super) fn nonsense(what: &str) -> EngineError {
    EngineError::new(
        FailureKind::EngineFailed,
        "the speech service answered something that cannot be understood",
    )
    .with_source(what.to_owned())
}

/// What the client asks and Azure cannot do.
pub(super) fn unsupported(message: impl Into<String>) -> EngineError {
    EngineError::new(FailureKind::UnsupportedOption, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, inner: Option<&str>) -> ServiceError {
        let inner =
            inner.map(|code| Box::new(ServiceError { code: code.to_owned(), ..ServiceError::default() }));
        ServiceError { code: code.to_owned(), message: String::new(), inner }
    }

    #[test]
    fn both_spellings_of_an_error_are_read() {
        let plain = br#"{"code":"InvalidRequest","message":"m","innerError":{"code":"InvalidAudioFormat","message":"n"}}"#;
        assert_eq!(ServiceError::parse(plain).precise(), "InvalidAudioFormat");
        let wrapped = br#"{"error":{"code":"401","message":"Access denied"}}"#;
        assert_eq!(ServiceError::parse(wrapped).precise(), "401");
        assert_eq!(ServiceError::parse(b"<html>"), ServiceError::default());
    }

    #[test]
    fn a_refused_request_is_told_apart_by_its_inner_code() {
        let kind = |code, inner| refusal(400, &error(code, inner), None).kind;
        assert_eq!(kind("InvalidArgument", Some("InvalidAudioFormat")), FailureKind::BadAudio);
        assert_eq!(kind("InvalidRequest", Some("EmptyAudioFile")), FailureKind::BadAudio);
        assert_eq!(kind("InvalidArgument", Some("InvalidLocale")), FailureKind::UnsupportedOption);
        assert_eq!(kind("InvalidRequest", None), FailureKind::UnsupportedOption);
    }

    #[test]
    fn a_batch_that_failed_is_told_by_its_code() {
        let kind = |code| batch_failure(&error(code, None)).kind;
        assert_eq!(kind("InvalidData"), FailureKind::BadAudio);
        assert_eq!(kind("InvalidUri"), FailureKind::EngineFailed);
        assert_eq!(kind("InvalidLocale"), FailureKind::UnsupportedOption);
        assert_eq!(kind("InternalServerError"), FailureKind::EngineFailed);
        assert_eq!(kind("Surprise"), FailureKind::EngineFailed);
    }

    #[test]
    fn addresses_that_azure_quotes_are_left_out() {
        let error = ServiceError {
            message: "cannot fetch https://bucket/audio?X-Amz-Signature=abc today".to_owned(),
            ..error("InvalidData", None)
        };
        let failure = batch_failure(&error);
        let logged = format!("{failure:?}");
        assert!(logged.contains("cannot fetch [address] today") && !logged.contains("abc"), "{logged}");
    }
}
