//! What the store's refusals and silences mean to a caller of the port.

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use verbatim_core::{ErrorKind, PortError};

/// After how long to come back to a store that asked to be left alone without saying for how long.
const PAUSE: Duration = Duration::from_secs(2);

/// Codes of AWS, MinIO, Ceph and others for a store, bucket or account that is full.
const FULL: [&str; 7] = [
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
    "QuotaExceeded",
    "BucketQuotaExceeded",
    "InsufficientStorage",
    "StorageFull",
    "StorageQuotaExceeded",
];
const BUSY: [&str; 9] = [
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "BandwidthLimitExceeded",
];
const DENIED: [&str; 9] = [
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];
/// Passing, although some of their statuses say otherwise.
const PASSING: [&str; 6] = [
    "NoSuchBucket",
    "NoSuchUpload",
    "OperationAborted",
    "RequestTimeout",
    "InternalError",
    "ConditionalRequestConflict",
];

/// The SDK's error as a port error. `doing` begins the message: "cannot read blob audio/1".
pub(super) fn port_error<E>(doing: impl Into<String>, error: SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let mut message = doing.into();
    let (kind, hint) = match error.raw_response() {
        Some(response) => of_answer(response.status().as_u16(), error.code()),
        None if is_silence(&error) => (ErrorKind::Unavailable, "the store does not answer"),
        None => (ErrorKind::Internal, "the request could not be made; are there credentials for it?"),
    };
    message.push_str(": ");
    message.push_str(hint);
    if kind == ErrorKind::Internal
        && let Some(code) = error.code()
    {
        message.push_str(&format!(" ({code})"));
    }
    let pause = match error.raw_response() {
        Some(response) => pause(response, error.code()),
        None => None,
    };
    // A request that was turned away did nothing; after a server's own failure nobody knows.
    let refused = error.raw_response().is_some_and(|response| response.status().is_client_error());
    let mut mapped = PortError::new(kind, message).with_source(chain(&error));
    if let Some(pause) = pause {
        mapped = mapped.with_retry_after(pause);
    }
    if refused && kind == ErrorKind::Internal { mapped.refused() } else { mapped }
}

/// The kind of an answer, and what to say about it.
pub(super) fn of_answer(status: u16, code: Option<&str>) -> (ErrorKind, &'static str) {
    let is = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
    if is(&FULL) || status == 507 {
        (ErrorKind::OutOfSpace, "the store is full")
    } else if code == Some("NoSuchBucket") {
        (ErrorKind::Unavailable, "the bucket is gone")
    } else if is(&BUSY) || matches!(status, 429 | 503) {
        (ErrorKind::Unavailable, "the store is busy")
    } else if is(&PASSING) || status >= 500 {
        (ErrorKind::Unavailable, "the store failed")
    } else if code == Some("RequestTimeTooSkewed") {
        (ErrorKind::Internal, "the clocks of this machine and of the store differ too much")
    } else if is(&DENIED) || matches!(status, 401 | 403) {
        (ErrorKind::Internal, "the store denies access; check the credentials and what they may do")
    } else if status == 404 {
        (ErrorKind::NotFound, "there is none")
    } else if matches!(status, 412 | 416) {
        (ErrorKind::Conflict, "it is another one by now")
    } else {
        (ErrorKind::Internal, "the store does not accept the request")
    }
}

/// How long the store asks to be left alone.
fn pause(response: &HttpResponse, code: Option<&str>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after").and_then(|value| value.parse().ok());
    let busy =
        code.is_some_and(|code| BUSY.contains(&code)) || matches!(response.status().as_u16(), 429 | 503);
    seconds.map(Duration::from_secs).or(busy.then_some(PAUSE))
}

/// Whether there was no answer, or none that could be read, so that asking again may help.
fn is_silence<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout() || failure.is_other(),
        _ => false,
    }
}

/// The error and what caused it, in one line: the SDK's own text is only "service error".
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_code_and_then_by_status() {
        let kind = |status, code| of_answer(status, code).0;
        for code in FULL {
            assert_eq!(kind(403, Some(code)), ErrorKind::OutOfSpace, "{code}");
        }
        assert_eq!(kind(507, None), ErrorKind::OutOfSpace);
        assert_eq!(kind(404, Some("NoSuchKey")), ErrorKind::NotFound);
        assert_eq!(kind(404, None), ErrorKind::NotFound);
        assert_eq!(kind(404, Some("NoSuchBucket")), ErrorKind::Unavailable);
        assert_eq!(kind(404, Some("NoSuchUpload")), ErrorKind::Unavailable);
        assert_eq!(kind(429, None), ErrorKind::Unavailable);
        assert_eq!(kind(503, Some("SlowDown")), ErrorKind::Unavailable);
        assert_eq!(kind(500, Some("InternalError")), ErrorKind::Unavailable);
        assert_eq!(kind(400, Some("RequestTimeout")), ErrorKind::Unavailable);
        assert_eq!(kind(403, Some("AccessDenied")), ErrorKind::Internal);
        assert_eq!(kind(403, None), ErrorKind::Internal);
        assert_eq!(kind(412, Some("PreconditionFailed")), ErrorKind::Conflict);
        assert_eq!(kind(400, Some("MalformedXML")), ErrorKind::Internal);
    }
}
