//! The one error type of every handler. It says what the client may know; [`crate::problem`] gives it the shape that
//! the route's style wants, and what only an operator may know is logged here, once.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use verbatim_core::api_key::Scope;
use verbatim_core::failure::{FailureKind, JobFailure};
use verbatim_core::model::ModelError;
use verbatim_core::{ErrorKind, PortError, Refusal};

/// What a client is told when `Unavailable` comes without a time.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The same where the disk is full: jobs have to end or expire before there is room.
const ROOM_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An answer that is not the one asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// Stable and in `snake_case`: what programs look at.
    pub(crate) code: &'static str,
    /// One or two sentences for people, nothing internal.
    pub(crate) detail: String,
    /// The field, parameter or header that is wrong.
    pub(crate) param: Option<String>,
    /// When trying again makes sense.
    pub(crate) retry_after: Option<Duration>,
    /// How many there may be of what there are too many of, where that is why.
    pub(crate) limit: Option<u64>,
}

impl ApiError {
    /// An error with all that every error has.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let retry_after = match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(DEFAULT_RETRY_AFTER),
            StatusCode::INSUFFICIENT_STORAGE => Some(ROOM_RETRY_AFTER),
            _ => None,
        };
        Self { status, code, detail: detail.into(), param: None, retry_after, limit: None }
    }

    /// 400 for the field or parameter `param`.
    pub(crate) fn invalid(code: &'static str, param: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail).about(param)
    }

    /// 404 for a job that does not exist, or not for this caller.
    pub(crate) fn no_such_job() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "there is no such job")
    }

    /// 401: nobody is known to be asking. The same words whatever is wrong with a key, so that nobody learns which exist.
    pub(crate) fn unauthenticated(detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// 403 for a key without the scope that the route needs.
    pub(crate) fn forbidden(needed: Scope) -> Self {
        let scope = needed.as_str();
        Self::new(StatusCode::FORBIDDEN, "forbidden", format!("this takes a key with the scope `{scope}`"))
    }

    /// 500 that tells nothing.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong here; the log knows what",
        )
    }

    /// 503 because this process is stopping.
    pub(crate) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the service is stopping; try again in a moment",
        )
    }

    /// 503 because nobody is known who could do the work.
    pub(crate) fn no_workers() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_workers",
            "no worker has joined the service yet, so nothing can be transcribed; try again in a moment",
        )
    }

    /// 503 because nobody can do now what was asked for, for this reason.
    pub(crate) fn unserved(why: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_workers", why)
    }

    /// The same error, about this field, parameter or header.
    #[must_use]
    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The same error as OpenAI's API gives it: an unknown model is a 404 there.
    #[must_use]
    pub(crate) fn into_openai(mut self) -> Self {
        if self.code == MODEL_NOT_FOUND {
            self.status = StatusCode::NOT_FOUND;
        }
        self
    }
}

/// The code of a model that is not in the catalogue.
const MODEL_NOT_FOUND: &str = "model_not_found";

/// The status, code and public text of each kind of port error.
fn table(kind: ErrorKind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found", "there is no such thing here"),
        ErrorKind::Conflict => {
            (StatusCode::CONFLICT, "conflict", "the request contradicts the present state")
        }
        ErrorKind::Throttled => {
            (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "too many requests; slow down")
        }
        ErrorKind::Unavailable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "a part of the service is not reachable; try again",
        ),
        ErrorKind::OutOfSpace => (
            StatusCode::INSUFFICIENT_STORAGE,
            "out_of_space",
            "the service has no room left; nothing was stored",
        ),
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid_request", "the request is not valid"),
        ErrorKind::Internal => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here; the log knows what")
        }
    }
}

/// The code and public text of what was refused, where more is known than the kind says.
fn refusal(refusal: Refusal) -> (&'static str, &'static str) {
    match refusal {
        Refusal::StoreFull => (
            "store_full",
            "the job store is full; there is room again when jobs have ended, so try again later",
        ),
        Refusal::StoreLimit => (
            "store_full",
            "as many jobs are kept here as may be; there is room again when some expire or are deleted, so try again later",
        ),
        Refusal::StoreShare => (
            "store_share_exceeded",
            "your share of the jobs that are kept here is in use; delete some that have ended, or wait until they expire",
        ),
        Refusal::QueueFull => ("too_many_requests", "too many jobs are waiting already; try again later"),
        Refusal::TooManyRemembered => (
            "too_many_jobs",
            "as many of your jobs are kept as may be; delete some that have ended, or wait until they expire",
        ),
        Refusal::OtherVersion => (
            "other_version",
            "this was written by another version of the service, and this node cannot read it; ask again, another node may",
        ),
    }
}

impl From<PortError> for ApiError {
    fn from(error: PortError) -> Self {
        let (status, code, detail) = table(error.kind());
        let (code, detail) = error.refusal().map_or((code, detail), refusal);
        if status.is_server_error() {
            tracing::error!(error = %chain(&error), code, "a port failed");
        }
        let mut answer = Self::new(status, code, detail);
        answer.retry_after = error.retry_after().or(answer.retry_after);
        answer
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let (code, param) = match &error {
            ModelError::Unknown { .. } => (MODEL_NOT_FOUND, "model"),
            ModelError::EnglishCannotTranslate(_) | ModelError::CannotTranslate(_) => {
                ("model_cannot_translate", "model")
            }
            ModelError::CannotDiarize(_) => ("unsupported_option", "diarize"),
            ModelError::CannotHear(..) => ("model_cannot_hear", "language"),
        };
        Self::invalid(code, param, error.to_string())
    }
}

/// A failed job as the answer to a request that waited for its result.
impl From<&JobFailure> for ApiError {
    fn from(failure: &JobFailure) -> Self {
        let status = match failure.kind {
            FailureKind::BadAudio | FailureKind::UnsupportedMedia | FailureKind::UnsupportedOption => {
                StatusCode::BAD_REQUEST
            }
            FailureKind::Cancelled => StatusCode::CONFLICT,
            FailureKind::Throttled | FailureKind::EngineUnavailable | FailureKind::StorageUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            FailureKind::TimedOut | FailureKind::Expired => StatusCode::GATEWAY_TIMEOUT,
            FailureKind::AudioMissing
            | FailureKind::EngineFailed
            | FailureKind::Panicked
            | FailureKind::WorkerLost
            | FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut answer = Self::new(status, failure.kind.code(), failure.message.clone());
        answer.retry_after = failure.retry_after.or(answer.retry_after);
        if status == StatusCode::BAD_REQUEST {
            answer.param = Some("file".to_owned());
        }
        answer
    }
}

/// Travels as an extension of a response without body, until [`crate::observe`] renders it with the request's id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_an_operator_may_know_does_not_reach_the_client() {
        let secret = std::io::Error::other("/var/lib/verbatim/jobs.db is locked");
        let error = PortError::new(ErrorKind::Internal, "insert into jobs failed").with_source(secret);
        assert_eq!(chain(&error), "insert into jobs failed: /var/lib/verbatim/jobs.db is locked");
        let answer = ApiError::from(error);
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!answer.detail.contains("jobs"));
    }

    #[test]
    fn the_stores_own_retry_after_wins_over_the_default() {
        let plain = ApiError::from(PortError::new(ErrorKind::Unavailable, "down"));
        assert_eq!(plain.retry_after, Some(DEFAULT_RETRY_AFTER));
        let known = PortError::new(ErrorKind::Throttled, "cap").with_retry_after(Duration::from_secs(42));
        assert_eq!(ApiError::from(known).retry_after, Some(Duration::from_secs(42)));
    }

    #[test]
    fn what_another_version_wrote_is_a_503_that_says_so() {
        let error = PortError::new(ErrorKind::Unavailable, "a field").because(Refusal::OtherVersion);
        let answer = ApiError::from(error);
        assert_eq!((answer.status, answer.code), (StatusCode::SERVICE_UNAVAILABLE, "other_version"));
        assert!(answer.detail.contains("another version of the service"), "{}", answer.detail);
        assert!(answer.retry_after.is_some());
    }

    #[test]
    fn a_store_that_remembers_all_it_may_is_told_from_a_share_of_it() {
        let told = |kind, why| {
            let answer = ApiError::from(PortError::new(kind, "no room").because(why));
            (answer.status.as_u16(), answer.code, answer.retry_after.is_some())
        };
        assert_eq!(told(ErrorKind::Unavailable, Refusal::StoreLimit), (503, "store_full", true));
        assert_eq!(told(ErrorKind::Throttled, Refusal::StoreShare), (429, "store_share_exceeded", true));
    }

    #[test]
    fn a_full_disk_is_507() {
        assert_eq!(table(ErrorKind::OutOfSpace).0, StatusCode::INSUFFICIENT_STORAGE);
    }
}
