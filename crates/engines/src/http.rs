//! Calls of providers over HTTP: one client with patience and caps, and transport errors as the failures they mean.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::fmt::rfc2822;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, redirect};
use verbatim_core::failure::FailureKind;
use verbatim_core::ports::engine::EngineError;
use verbatim_core::{CancellationToken, PortError};

/// Time to reach a provider at all.
const CONNECT: Duration = Duration::from_secs(10);
/// Longer wishes of a provider are not believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A client for one provider: it connects in ten seconds or not at all, and follows no redirects, because the key must not
/// go where an answer points.
///
/// # Errors
/// When TLS cannot be set up.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .connect_timeout(CONNECT)
        .redirect(redirect::Policy::none())
        .tcp_keepalive(Duration::from_secs(30))
        .user_agent(concat!("verbatim/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What bounds a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// Longest time from the first byte sent to the last byte received.
    pub(crate) timeout: Duration,
    /// Longest body of an answer, in bytes.
    pub(crate) answer_bytes: usize,
    /// Ends the call at once.
    pub(crate) cancel: &'a CancellationToken,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The whole body.
    pub(crate) body: Bytes,
}

impl Answer {
    /// Whether the status is 2xx.
    pub(crate) fn is_success(&self) -> bool {
        matches!(self.status, 200..300)
    }

    /// Whether it says that it is JSON.
    pub(crate) fn is_json(&self) -> bool {
        let kind = self.header(&CONTENT_TYPE).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_lowercase();
        kind == "application/json" || kind.ends_with("+json")
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the provider asks us to wait: `Retry-After` in seconds, or as a date from the answer's own `Date` on, so
    /// that our clock does not matter.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let wish = self.header(&RETRY_AFTER)?.trim();
        let wait = match wish.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
            Err(_) => {
                let until = rfc2822::parse(wish).ok()?.timestamp();
                let now = rfc2822::parse(self.header(&DATE)?).ok()?.timestamp();
                Duration::try_from(until.duration_since(now)).unwrap_or_default()
            }
        };
        Some(wait.min(LONGEST_RETRY_AFTER))
    }
}

/// Sends a request and reads its answer, whatever its status.
///
/// # Errors
/// - [`FailureKind::Cancelled`] when told to stop.
/// - [`FailureKind::TimedOut`] when the time is up.
/// - [`FailureKind::EngineUnavailable`] when the provider cannot be reached or the connection breaks.
/// - [`FailureKind::EngineFailed`] for an answer that is too long.
/// - [`FailureKind::StorageUnavailable`] when the request's own body could not be read ([`AudioUnread`]).
pub(crate) async fn call(request: RequestBuilder, bounds: Bounds<'_>) -> Result<Answer, EngineError> {
    let exchange = async {
        let response = request.send().await.map_err(broken)?;
        read(response, bounds.answer_bytes).await
    };
    tokio::select! {
        biased;
        () = bounds.cancel.cancelled() => Err(EngineError::new(FailureKind::Cancelled, "the work was stopped")),
        done = tokio::time::timeout(bounds.timeout, exchange) => done.unwrap_or_else(|elapsed| {
            let message = format!("the provider did not answer within {} s", bounds.timeout.as_secs());
            Err(EngineError::new(FailureKind::TimedOut, message).with_source(elapsed))
        }),
    }
}

async fn read(mut response: Response, most: usize) -> Result<Answer, EngineError> {
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(broken)? {
        if body.len() + piece.len() > most {
            let message = "the provider's answer is longer than any transcript";
            return Err(EngineError::new(FailureKind::EngineFailed, message));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, headers, body: body.freeze() })
}

/// The audio that was to be sent could not be read: the body of a request ends with this error.
#[derive(Debug, thiserror::Error)]
#[error("the decoded audio cannot be read")]
pub(crate) struct AudioUnread(#[source] pub(crate) PortError);

/// What an error of the transport means. Its text names no address: URLs may be signed.
fn broken(error: reqwest::Error) -> EngineError {
    let error = error.without_url();
    if is_caused_by::<AudioUnread>(&error) {
        let message = "the decoded audio cannot be read";
        return EngineError::new(FailureKind::StorageUnavailable, message).with_source(error);
    }
    let (kind, message) = if error.is_timeout() && !error.is_connect() {
        (FailureKind::TimedOut, "the provider did not answer in time")
    } else if error.is_connect() {
        (FailureKind::EngineUnavailable, "the provider cannot be reached")
    } else {
        (FailureKind::EngineUnavailable, "the connection to the provider broke")
    };
    EngineError::new(kind, message).with_source(error)
}

fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn answer(headers: &[(HeaderName, &'static str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        Answer { status: 429, headers: headers.collect(), body: Bytes::new() }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |headers: &[_]| answer(headers).retry_after();
        assert_eq!(wait(&[(RETRY_AFTER, "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[(RETRY_AFTER, "999999")]), Some(LONGEST_RETRY_AFTER));
        let date = (DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(
            wait(&[(RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT"), date.clone()]),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait(&[(RETRY_AFTER, "Sun, 06 Nov 1994 08:49:00 GMT"), date]), Some(Duration::ZERO));
        for wish in ["soon", "-1", "Sun, 06 Nov 1994 08:50:07 GMT"] {
            assert_eq!(wait(&[(RETRY_AFTER, wish)]), None, "{wish}");
        }
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn json_is_told_by_the_header() {
        for (kind, is_json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/html", false),
        ] {
            assert_eq!(answer(&[(CONTENT_TYPE, kind)]).is_json(), is_json, "{kind}");
        }
        assert!(!answer(&[]).is_json());
    }
}
