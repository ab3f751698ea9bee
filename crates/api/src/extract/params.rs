//! Path, query and header parameters.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use verbatim_core::event::EventSeq;
use verbatim_core::ids::{SubmissionId, TenantId};

use crate::error::ApiError;
use crate::state::ApiState;

/// The job id of the path. What is no job id names no job: 404.
pub(crate) struct JobPath(pub(crate) SubmissionId);

impl FromRequestParts<ApiState> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(id)| SubmissionId::parse(&id).ok());
        id.map(Self).ok_or_else(ApiError::no_such_job)
    }
}

/// The query, as `T`.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &ApiState) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri).map(|Query(params)| Self(params)).map_err(|rejection| {
            let reason = std::error::Error::source(&rejection).map_or_else(String::new, ToString::to_string);
            let param = reason.split_once(": ").map(|(param, _)| param.to_owned());
            let error = ApiError::new(
                rejection.status(),
                "invalid_parameter",
                format!("the query is not valid: {reason}"),
            );
            ApiError { param, ..error }
        })
    }
}

/// `?wait=`: how long to hold the answer.
///
/// # Errors
/// 400 when it is longer than allowed.
pub(crate) fn wait(secs: Option<u64>, max: Duration) -> Result<Option<Duration>, ApiError> {
    match secs {
        None | Some(0) => Ok(None),
        Some(secs) if secs <= max.as_secs() => Ok(Some(Duration::from_secs(secs))),
        Some(_) => Err(ApiError::invalid(
            "invalid_parameter",
            "wait",
            format!("`wait` is at most {} seconds", max.as_secs()),
        )),
    }
}

/// Things per page unless asked otherwise, and at most.
const PAGE: (usize, usize) = (20, 100);

/// `?limit=`: things per page.
///
/// # Errors
/// 400 when it is none or too many.
pub(crate) fn limit(asked: Option<usize>) -> Result<usize, ApiError> {
    let (default, max) = PAGE;
    let limit = asked.unwrap_or(default);
    if !(1..=max).contains(&limit) {
        return Err(ApiError::invalid("invalid_parameter", "limit", format!("`limit` is from 1 to {max}")));
    }
    Ok(limit)
}

/// `?tenant=`: whose things.
///
/// # Errors
/// 400 when it cannot be a tenant's name.
pub(crate) fn tenant(name: &str) -> Result<TenantId, ApiError> {
    TenantId::parse(name)
        .map_err(|error| ApiError::invalid("invalid_parameter", "tenant", format!("`tenant`: {error}")))
}

/// The longest `Idempotency-Key`.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The `Idempotency-Key` header.
///
/// # Errors
/// 400 when it is empty, too long, or not printable ASCII.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key)
            if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
                && key.bytes().all(|b| (0x20..0x7f).contains(&b)) =>
        {
            Ok(Some(key.to_owned()))
        }
        _ => Err(ApiError::invalid(
            "invalid_idempotency_key",
            "Idempotency-Key",
            format!("`Idempotency-Key` is 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters"),
        )),
    }
}

/// The `Last-Event-ID` header.
///
/// # Errors
/// 400 when it is not an id that we gave.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<EventSeq>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    seq.map(|seq| Some(EventSeq(seq))).ok_or_else(|| {
        ApiError::invalid(
            "invalid_parameter",
            "Last-Event-ID",
            "`Last-Event-ID` is the id of an event that was received",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn wait_is_bounded() {
        let max = Duration::from_secs(60);
        assert_eq!(wait(Some(60), max).unwrap(), Some(max));
        assert_eq!(wait(Some(0), max).unwrap(), None);
        assert_eq!(wait(Some(61), max).unwrap_err().param.as_deref(), Some("wait"));
    }

    #[test]
    fn idempotency_keys_are_bounded_and_printable() {
        let with = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            idempotency_key(&HeaderMap::from_iter([("idempotency-key".parse().unwrap(), value)]))
        };
        assert_eq!(with(b"a b-1").unwrap().as_deref(), Some("a b-1"));
        assert!(with(b"").is_err());
        assert!(with(&[b'k'; 256]).is_err());
        assert!(with("ü".as_bytes()).is_err());
    }
}
